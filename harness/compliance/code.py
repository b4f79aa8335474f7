"""Every check of what code does, on the program that one entry point starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from harness.compliance.evidence import (
    LogLines,
    contradicted,
    listed_settings,
    off_by_default,
    origins_of,
    switched_off,
    switched_on,
)
from harness.compliance.findings import Finding, Place, Source, Status
from harness.compliance.flow import check_flow
from harness.compliance.inputs import Run
from harness.compliance.parsing import Unreadable
from harness.compliance.program import GPU_ENVIRONMENT, Program, load_program
from harness.compliance.record_folder import Claims
from harness.compliance.rules_conduct import check_claims, check_seeds
from harness.compliance.rules_data import check_data
from harness.compliance.rules_limits import check_clock, check_size
from harness.compliance.rules_readme import check_admitted, check_readme, check_thrown_away, titled_switches
from harness.compliance.rules_score import check_bytes, check_score
from harness.compliance.rules_system import check_hidden_code, check_network

SWITCHES_DEEP = 3
NOTHING_SCORED = "what is started neither trains nor scores, as far as it can be followed: see how the score came about"


class Clock(Enum):
    """Who ends the training of a program."""

    OWN = "the code itself, within 600 s"
    REFEREE = "something else, which ends it whatever the code looks at"
    FREE = "nobody has to: the track has no limit on time"
    DISPUTED = "nobody has to by its own word, but it stands where there is a limit"


# What is run, and the checks that are undecided where it fails.
RULES: dict[Callable[[Program], Iterable[Finding]], tuple[str, ...]] = {
    check_flow: (
        "target-keyed-cache",
        "target-gate",
        "unnormalised-mixture",
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


@dataclass(frozen=True)
class About:
    """What is known of a run beside its code and its command. clock: who ends its training. readme: what says what the
    code does, if something does. logs: the texts of the run's own logs; what they show of how it was started beats what
    is documented. reported: the scores that the submission names; of logs that disagree, those that print one of them
    count. claims: what it says of its score. scores: whether it is expected to score, or may leave that to others.
    whole: whether all code that it executes is among the sources."""

    clock: Clock = Clock.OWN
    readme: Source | None = None
    logs: Sequence[str] = ()
    reported: Collection[str] = ()
    claims: Claims | None = None
    scores: bool = False
    whole: bool = True


def check_code(sources: Sequence[Source], run: Run, about: About = About()) -> list[Finding]:
    """The findings on the code that a run starts, of which `sources` are the files."""
    try:
        program = load_program(sources, run.entry, run.environment, run.arguments, run.unknown)
        if about.logs:
            program = _as_logged(program, LogLines(about.logs, about.reported), sources, run)
            program.log_texts = tuple(about.logs)
            program.claims = about.claims
    except Unreadable as error:
        return [_unreadable(run.entry, str(error))]
    program.whole = about.whole and not program.unreadable
    program.expanded = run.expanded
    findings = [_unreadable(source, error) for source, error in program.unreadable]
    for rule, checks in RULES.items():
        if rule is not check_clock:
            findings += _guarded(rule, checks, program)
        elif about.clock is not Clock.REFEREE:
            findings += (
                _as_bound(one, about.clock)
                for one in _guarded(rule, checks, program)
                if about.clock is not Clock.FREE or one.status is Status.FLAG
            )
    readme = about.readme
    settled = bool(about.logs or run.arguments or run.unknown or run.environment.keys() - GPU_ENVIRONMENT.keys())
    if readme is not None and not settled:
        findings += _if_title_holds(program, sources, run, readme, findings)
    if about.scores and program.idle:
        findings.append(_idle(program))
    findings += _guarded(partial(check_thrown_away, readme=readme), ("dead-claim",), program)
    if readme is not None:
        findings += _guarded(partial(check_readme, readme=readme), ("dead-claim",), program)
        findings += _guarded(partial(check_admitted, readme=readme), ("val-in-training",), program)
    return list(dict.fromkeys(findings))


def _idle(program: Program) -> Finding:
    """For a program that does nothing a contestant's does: an empty one, one that never calls what it defines, one that
    ends in an error, one that prints a story."""
    first = program.entry.tree.body[0] if program.entry.tree.body else program.entry.tree
    place = program.place(first, program.entry.source, "what is started")
    return Finding("constant-score", Status.HOLD, NOTHING_SCORED, (place,))


def _as_bound(finding: Finding, clock: Clock) -> Finding:
    """A finding about the clock, as what it means where the clock does not bind for certain."""
    if clock is Clock.FREE:
        more = "That is allowed in the track without a limit on time, where this is."
        return replace(finding, status=Status.CLEAN, message=f"{finding.message} {more}")
    if clock is Clock.DISPUTED:
        more = (
            "By its submission.json it is for the track without a limit on time, but it lies in the one with 600 s: "
            "see which it is for."
        )
        return replace(finding, status=Status.HOLD, message=f"{finding.message} {more}")
    return finding


def _as_logged(program: Program, lines: LogLines, sources: Sequence[Source], run: Run) -> Program:
    """The program as the logs say that it was started."""
    environment, unknown = run.environment, run.unknown
    documented = program
    origins = origins_of(program)
    listed, known = listed_settings(program, lines, origins)
    if listed:
        environment = {**environment, **listed}
        program = load_program(sources, run.entry, environment, run.arguments, unknown - listed.keys())
    denied: frozenset[str] = frozenset()
    turned_on: frozenset[str] = frozenset()
    turned_off: frozenset[str] = frozenset()
    for _ in range(SWITCHES_DEEP):  # behind one switch there may be another
        more = contradicted(program, lines, origins) - known - denied
        on = switched_on(program, lines, origins) - known - denied - turned_on
        off = switched_off(program, lines, origins) - known - denied - turned_on - on
        if not more and not on and not off:
            break
        denied |= more - on
        turned_on = (turned_on | on) - denied
        turned_off = (turned_off | off) - denied - turned_on
        environment = {name: value for name, value in environment.items() if name not in denied}
        environment |= dict.fromkeys(sorted(turned_on), "1") | dict.fromkeys(sorted(turned_off), "0")
        program = load_program(sources, run.entry, environment, run.arguments, denied.union(unknown) - turned_on)
    program.logged = frozenset(listed)
    program.documented = documented if documented is not program else None
    return program


def _if_title_holds(
    program: Program, sources: Sequence[Source], run: Run, readme: Source, found: Sequence[Finding]
) -> list[Finding]:
    """What the token checks say beyond what was found if the switches were on that are off by default and that the
    README's title names, where nothing says how the code was run."""
    switches = titled_switches(program, readme, off_by_default(program, origins_of(program)))
    if not switches:
        return []
    program = load_program(sources, run.entry, {**run.environment, **dict.fromkeys(switches, "1")}, ())
    known = {finding.check for finding in found}
    names = ", ".join(switches)
    return [
        Finding(
            finding.check,
            Status.HOLD,
            f"off by default and in no command or log, but named in the README's title: {names}. See whether it was "
            f"on; with it: {finding.message}",
            finding.flow,
        )
        for finding in _guarded(check_flow, (), program)
        if finding.check not in known and finding.status is not Status.HOLD
    ]


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
