"""`harness check`: everything that is said about a target, and about many of them over all cores."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from harness.compliance.catalogue import CHECKS
from harness.compliance.code import NOTHING_SCORED, About, Clock, check_code
from harness.compliance.findings import Finding, Report, Source, Status
from harness.compliance.inputs import METADATA, Kind, Target, read_targets
from harness.compliance.memory import forget
from harness.compliance.parsing import Unreadable
from harness.compliance.program import load_program
from harness.compliance.record_folder import check_record_folder, claims_of
from harness.compliance.unpack import Unpacked, unpack_target
from harness.compliance.workers import Fault, run_all

TARGET_SECONDS = 120.0
WORKER_MEMORY_BYTES = 4 * 2**30
LOG_BYTES = 8_000_000  # of all logs of a folder together
SCORE = re.compile(r"(?<![\w.])([0-3]\.\d{4,12})(?![\d.])")
UNLIMITED_PLACE = re.compile(r"/track_non_record_")
LIMITED_PLACE = re.compile(r"/track_10min_")
UNLIMITED_TRACK = re.compile(r'"(track|submission_type)"\s*:\s*"[^"]*(non[-_ ]?record|unlimited)', re.IGNORECASE)


def find_targets(paths: Sequence[Path], base: str | None = None) -> list[Target]:
    """Every target at or below the paths, once. With `base` a git revision: those that differ from it. Raises
    InputError."""
    found: dict[str, Target] = {}
    for path in paths:
        for target in read_targets(path, base):
            found.setdefault(name_of(target), target)
    return list(found.values())


def check_all(targets: Sequence[Target], done: Callable[[Report], None] = lambda _: None) -> list[Report]:
    """A report on each target, in their order; `done` is told of each as it comes. Each is looked at in a process that
    may take `TARGET_SECONDS` and `WORKER_MEMORY_BYTES`: what ends that process is a finding on its target."""
    reports: dict[int, Report] = {}
    # The longest first, so that no core waits for a long one at last.
    order = sorted(range(len(targets)), key=lambda index: _size(targets[index]), reverse=True)
    ordered = [targets[index] for index in order]
    for place, answer in run_all(check_target, ordered, seconds=TARGET_SECONDS, memory_bytes=WORKER_MEMORY_BYTES):
        if isinstance(answer, Fault):
            target = ordered[place]
            answer = _report(target, target.sources, [*target.findings, _undecided("the analysis", answer.text)])
        reports[order[place]] = answer
        done(answer)
    return [reports[index] for index in range(len(targets))]


def _size(target: Target) -> int:
    return sum(len(source.text) for source in target.sources)


def check_target(target: Target) -> Report:
    """Everything that is said about one target. A step that fails is a finding; the others still have their say."""
    try:
        return _checked(target)
    finally:
        forget()


def _checked(target: Target) -> Report:
    findings = list(target.findings)
    as_it_is = Unpacked(target.sources, target.runs, (), frozenset())
    unpacked = _attempt("what its files carry", lambda: unpack_target(target), as_it_is, findings)
    findings += unpacked.findings
    clock = clock_of(target)
    logs = _attempt("its logs", lambda: _log_texts(target), [], findings)
    reported = _reported(target)
    claims = _attempt("what its submission.json claims", lambda: claims_of(target), None, findings)
    followed = _attempt("what its code imports by a path", lambda: _followed(unpacked), set(), findings)
    runs = [run for run in unpacked.runs if not (run.imported and run.entry.path in followed)]
    readme = _readme(target) if len(runs) == 1 else None  # with several, each does a part of what it says
    about = About(
        clock,
        readme,
        logs,
        reported,
        claims,
        scores=target.kind is Kind.RECORD,  # it reports a score; of a submission of ours the harness does
        whole=not unpacked.findings,  # each is about code that is not here
    )
    found_by_run: list[list[Finding]] = []
    for run in runs:
        step = f"the code from {run.entry.name} on"
        check = partial(check_code, unpacked.sources, run, about)
        found_by_run.append([one for one in _attempt(step, check, [], findings) if not _explained(one, unpacked)])
    findings += _of_all(found_by_run)
    if target.kind is not Kind.SCRIPT:
        findings += _attempt("the folder", lambda: check_record_folder(target, unpacked.sources), [], findings)
    return _report(target, unpacked.sources, findings)


def _of_all(found_by_run: Sequence[Sequence[Finding]]) -> list[Finding]:
    """The findings on all runs. That nothing is scored is said where none of them does: the others may prepare data or
    plot."""
    none_scores = all(any(one.message == NOTHING_SCORED for one in found) for found in found_by_run)
    return [one for found in found_by_run for one in found if none_scores or one.message != NOTHING_SCORED]


def _followed(unpacked: Unpacked) -> set[str]:
    """The paths of what a program imports by a path, where that is checked as a part of this program."""
    imported = {run.entry.path for run in unpacked.runs if run.imported}
    found = set()
    for run in unpacked.runs if imported else ():
        if not run.imported:
            with contextlib.suppress(Unreadable):  # which is said where it is checked
                program = load_program(unpacked.sources, run.entry, run.environment, run.arguments, run.unknown)
                found |= {module.source.path for module in program.reached_modules}
    return found & imported


def _log_texts(target: Target) -> list[str]:
    """The logs of a record folder, as far as they are read for what they show of its code."""
    if target.kind is not Kind.RECORD:
        return []
    found, left = [], LOG_BYTES
    for file in target.files:
        if file.suffix in (".log", ".txt") and file.bytes <= left:
            found.append(file.text())
            left -= file.bytes
    return found


def _reported(target: Target) -> tuple[str, ...]:
    """The scores that the metadata of a record folder name, as they are written."""
    return tuple(dict.fromkeys(score for text in _metadata(target) for score in SCORE.findall(text)))


def _metadata(target: Target) -> Iterator[str]:
    """The text of a record folder's metadata; of what cannot be read it is said where the folder is checked."""
    for file in target.files if target.kind is Kind.RECORD else ():
        if METADATA.fullmatch(file.path):
            with contextlib.suppress(OSError):
                yield file.text()


def _readme(target: Target) -> Source | None:
    """The README of a folder; one that cannot be read is said to be so where the folder is checked."""
    file = next((file for file in target.files if re.fullmatch(r"(?i)readme(\.(md|txt|rst))?", file.path)), None)
    if file is None or target.kind is Kind.SCRIPT:
        return None
    try:
        return Source(file.path, file.text())
    except OSError:
        return None


def _explained(finding: Finding, unpacked: Unpacked) -> bool:
    """Whether it says that code is hidden which was unpacked, and is checked."""
    if finding.check != "hidden-code" or not finding.flow:
        return False
    place = finding.flow[-1]
    return (place.source.name, place.line) in unpacked.explained


def clock_of(target: Target) -> Clock:
    """Who ends the training of a target. A folder of the contest is for the track without a limit on time by where it
    lies, or by its own word where the place says nothing."""
    if target.kind is Kind.SUBMISSION:  # the referee ends each phase
        return Clock.REFEREE
    if target.kind is not Kind.RECORD:
        return Clock.OWN
    place = str(target.root.absolute())
    if UNLIMITED_PLACE.search(place):
        return Clock.FREE
    if not any(map(UNLIMITED_TRACK.search, _metadata(target))):
        return Clock.OWN
    return Clock.DISPUTED if LIMITED_PLACE.search(place) else Clock.FREE


def name_of(target: Target) -> str:
    """What a report calls a target: the way to it from where the user stands."""
    return str(target.root / target.files[0].path if target.kind is Kind.SCRIPT else target.root)


def _attempt(step: str, work: Callable, otherwise, findings: list[Finding]):
    """What `work` returns; if it fails, `otherwise`, and one more finding."""
    try:
        return work()
    except (Exception, MemoryError, RecursionError) as error:
        findings.append(_undecided(step, f"{type(error).__name__}: {str(error)[:200]}"))
        return otherwise


def _undecided(step: str, why: str) -> Finding:
    return Finding("unreadable", Status.HOLD, f"{step} could not be analysed to the end ({why}); a person must read it")


def _report(target: Target, sources: Sequence[Source], findings: Sequence[Finding]) -> Report:
    """In an order of its own: that in which things are found is not always the same."""
    known = list(CHECKS)

    def order(one: Finding) -> tuple:
        return known.index(one.check), [(place.source.name, place.line) for place in one.flow[-1:]], one.message

    findings = tuple(sorted(dict.fromkeys(findings), key=order))
    return Report(name_of(target), findings, tuple(sources), root=str(target.root))
