"""Every check of what code does, on the program that one entry point starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from harness.compliance.evidence import LogLines, contradicted, listed_settings, origins_of
from harness.compliance.findings import Finding, Place, Source, Status
from harness.compliance.flow import check_flow
from harness.compliance.parsing import Unreadable
from harness.compliance.program import Program, load_program
from harness.compliance.rules_conduct import check_claims, check_seeds
from harness.compliance.rules_limits import check_clock, check_size
from harness.compliance.rules_readme import check_readme
from harness.compliance.rules_score import check_bytes, check_data, check_score
from harness.compliance.rules_system import check_hidden_code, check_network

SWITCHES_DEEP = 3
# What is run, and the checks that are undecided where it fails.
RULES: dict[Callable[[Program], Iterable[Finding]], tuple[str, ...]] = {
    check_flow: (
        "target-keyed-cache",
        "two-pass-rescoring",
        "trains-on-val",
        "slot",
        "calibration-data",
        "val-in-training",
    ),
    check_network: ("network-at-eval",),
    check_hidden_code: ("hidden-code",),
    check_size: ("size-cap",),
    check_clock: ("wallclock-cap",),
    check_score: ("constant-score",),
    check_bytes: ("byte-count",),
    check_data: ("other-data",),
    check_seeds: ("seed-search",),
    check_claims: ("dead-claim",),
}


def check_code(
    sources: Sequence[Source],
    entry: Source,
    environment: Mapping[str, str],
    arguments: Sequence[str],
    unknown: Collection[str] = (),
    keeps_clock: bool = True,
    readme: Source | None = None,
    logs: Sequence[str] = (),
) -> list[Finding]:
    """The findings on the code that `entry` starts, with the variables and arguments of the documented run command.
    unknown: variables that it sets to something that cannot be read from it. keeps_clock: whether the code has to end
    its training itself after 600 s: not where the referee does, and not in the contest's track without a clock. readme:
    what says what the code does, if something does. logs: the texts of the run's own logs; what they show of how it was
    started beats what is documented."""
    try:
        program = load_program(sources, entry, environment, arguments, unknown)
        if logs:
            program = _as_logged(program, LogLines(logs), sources, entry, environment, arguments, unknown)
    except Unreadable as error:
        return [_unreadable(entry, str(error))]
    findings = [_unreadable(source, error) for source, error in program.unreadable]
    for rule, checks in RULES.items():
        if keeps_clock or rule is not check_clock:
            findings += _guarded(rule, checks, program)
    if readme is not None:
        findings += _guarded(partial(check_readme, readme=readme), ("dead-claim",), program)
    return list(dict.fromkeys(findings))


def _as_logged(program: Program, lines: LogLines, sources, entry, environment, arguments, unknown) -> Program:
    """The program as the logs say that it was started."""
    origins = origins_of(program)
    listed, known = listed_settings(program, lines, origins)
    if listed:
        environment = {**environment, **listed}
        program = load_program(sources, entry, environment, arguments, frozenset(unknown) - listed.keys())
    denied: frozenset[str] = frozenset()
    for _ in range(SWITCHES_DEEP):  # behind one switch there may be another
        more = contradicted(program, lines, origins) - known - denied
        if not more:
            break
        denied |= more
        environment = {name: value for name, value in environment.items() if name not in denied}
        program = load_program(sources, entry, environment, arguments, denied.union(unknown))
    program.logged = frozenset(listed)
    return program


def _guarded(
    rule: Callable[[Program], Iterable[Finding]], checks: Sequence[str], program: Program
) -> Iterator[Finding]:
    """What a rule finds. If it fails, what it found until then, and that its checks are undecided: no rule costs what
    the others have to say."""
    try:
        yield from rule(program)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"[:200]
        place = program.place(program.entry.tree, program.entry.source, "a person must read this program")
        for check in checks:
            message = f"{check} could not be decided ({why}): a person must read the code"
            yield Finding(check, Status.HOLD, message, (place,))


def _unreadable(source: Source, message: str) -> Finding:
    return Finding("unreadable", Status.HOLD, message, (Place(source, 1, 1, "this file could not be analysed"),))
