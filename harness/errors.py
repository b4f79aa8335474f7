"""Who is at fault: the closed set of ways in which a command can end, and the exit code of each.

The contestant's faults (`Violation`) and the referee's (`RefereeError`) never share a type.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of `harness`; the first four are verdicts, 64 and up follow sysexits.h. `harness check` gives no
    verdict on a run; its answers of the same kind have the same numbers, under names of their own.
    """

    PASS = 0
    FAIL = 1
    UNPROVEN = 2
    ERROR = 3
    CLEAN = 0
    FLAG = 1
    HOLD = 2
    USAGE = 64  # unknown command, option or value
    BAD_INPUT = 65  # a file the user named is missing or wrong
    ENVIRONMENT = 69  # this machine lacks something the command needs


class Reason(StrEnum):
    """Why a submission failed. The text after the colon in a record's `reasons` is for people; these codes are for
    programs.
    """

    PREPARE_OVER_LIMIT = "prepare_over_limit"
    CLOCK_OVER_LIMIT = "clock_over_limit"
    GATE_NEVER_OPENED = "gate_never_opened"
    PROCESS_LEFT_BEHIND = "process_left_behind"
    EXIT_CODE = "exit_code"
    FORBIDDEN_OPEN = "forbidden_open"
    UNATTRIBUTED_OPEN = "unattributed_open"
    NETWORK_ATTEMPT = "network_attempt"
    OUTPUT_MISSING = "output_missing"
    OUTPUT_UNDECLARED = "output_undeclared"
    OUTPUT_NOT_REGULAR = "output_not_regular"
    OUTPUT_TOO_LARGE = "output_too_large"
    CHECKPOINT_MISMATCH = "checkpoint_mismatch"
    CALIBRATION_INVALID = "calibration_invalid"
    SIZE_OVER_LIMIT = "size_over_limit"
    SCORE_INCOMPLETE = "score_incomplete"
    SCORE_PROTOCOL = "score_protocol"
    SCORE_NOT_FINITE = "score_not_finite"
    NOT_CAUSAL = "not_causal"
    HIDDEN_STATE = "hidden_state"
    SHARD_COPY = "shard_copy"
    SEEDS_MISSING = "seeds_missing"
    BASELINE_NOT_BEATEN = "baseline_not_beaten"


class Violation(Exception):
    """The submission broke a rule; the verdict is FAIL."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason
        self.text = text


class RefereeError(Exception):
    """The referee itself failed; the verdict is ERROR, whatever the submission did."""


class InputError(Exception):
    """Bad input from the user (rules, submission folder, data): exit code 65. One line: what is wrong, where, what to
    do.
    """


class EnvironmentMissing(Exception):
    """This machine lacks something that the command needs: exit code 69. One line: what, and how to get it."""
