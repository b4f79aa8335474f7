"""What people read of a check: text for a terminal, Markdown for the page of a CI job. For programs: `interchange.py`.

Names, messages and code come from what was checked, so every piece of them passes `visible` on its way out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from harness.compliance.catalogue import CHECKS
from harness.compliance.findings import ORDER, Check, Finding, Place, Report, Severity, Status, lines_of, worst

STYLES = {Status.CLEAN: "bold green", Status.HOLD: "bold yellow", Status.FLAG: "bold red"}
FRAME_LINES = 2  # of code, before and after the line that matters
WIDTH = 120  # characters of a line of code that are shown
BEFORE_COLUMN = 60  # of them before the column that matters, where a line is longer
MARKDOWN_LIMIT_BYTES = 900_000  # GitHub takes 1 MiB for the page of a job
MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&@])")


def visible(text: str) -> str:
    """`text` with an escape in place of each character that a terminal obeys or a reader cannot see: control and
    formatting characters (right-to-left marks too), unusual blanks, lone surrogates. Tabs become four spaces."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text.replace("\t", "    ")
    )


def excerpt(line: str, column: int) -> tuple[str, int]:
    """What is shown of a line of code, with its column (from 1); and how many characters of it precede that column."""
    column = min(max(column, 1), len(line) + 1)
    start = column - 1 - BEFORE_COLUMN if len(line) > WIDTH and column - 1 > BEFORE_COLUMN else 0
    before = ("…" if start else "") + visible(line[start : column - 1])
    after = visible(line[column - 1 : start + WIDTH]) + ("…" if start + WIDTH < len(line) else "")
    return before + after, len(before)


def where(report: Report, place: Place) -> str:
    """File, layers, line and column, as editors understand them."""
    return visible(f"{report.root}/{place.source.name}" if report.root else place.source.name) + (
        f":{place.line}:{place.column}"
    )


def frame(place: Place) -> list[tuple[str, str]]:
    """The lines around a place and a mark below it: pairs of a margin and what stands beside it."""
    lines = lines_of(place.source.text)
    if not 0 < place.line <= len(lines):
        return []
    rows = []
    for number in range(max(1, place.line - FRAME_LINES), min(len(lines), place.line + FRAME_LINES) + 1):
        here = number == place.line
        text, offset = excerpt(lines[number - 1], place.column if here else 1)
        rows.append((f"{'>' if here else ' '} {number:>6} | ", text))
        if here:
            rows.append((" " * 9 + "| ", " " * offset + "^"))
    return rows


def by_check(report: Report) -> list[tuple[Check, list[Finding]]]:
    """The checks that have something to say, worst first, else in the order of the catalogue; each with its findings,
    worst first."""
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.check, []).append(finding)
    said = [
        (CHECKS[name], sorted(found[name], key=lambda finding: -ORDER.index(finding.status)))
        for name in CHECKS
        if name in found
    ]
    return sorted(said, key=lambda item: -ORDER.index(item[1][0].status))


def silent_checks(report: Report) -> list[str]:
    """Ids of the checks that found nothing to say."""
    named = {finding.check for finding in report.findings}
    return [name for name in CHECKS if name not in named]


def counts(reports: Iterable[Report]) -> str:
    """How many targets ended how: "3 targets: 1 FLAG, 2 CLEAN"."""
    statuses = [report.status for report in reports]
    parts = [f"{statuses.count(status)} {status}" for status in reversed(ORDER) if status in statuses]
    total = f"{len(statuses)} {'target' if len(statuses) == 1 else 'targets'}"
    return f"{total}: {', '.join(parts)}" if parts else total


def overall(reports: Iterable[Report]) -> Status:
    """The worst verdict of all targets."""
    return worst(report.status for report in reports)


# --- text


def print_text(reports: Sequence[Report], console: Console) -> None:
    """Every target with every finding, the path of its flow, and a code frame at its end."""
    for report in reports:
        _print_report(report, console)
    if len(reports) != 1:
        _line(console, (f"{overall(reports)}", STYLES[overall(reports)]), (f"  {counts(reports)}", ""))


def print_verdicts(reports: Sequence[Report], console: Console) -> None:
    """One line for each target, and which checks are behind its verdict."""
    for report in reports:
        reasons = [
            check.id for check, findings in by_check(report) if findings[0].status is report.status is not Status.CLEAN
        ]
        _line(
            console,
            (f"{report.status:<5}", STYLES[report.status]),
            (f"  {visible(report.target)}" + (f": {', '.join(reasons)}" if reasons else ""), ""),
        )


def print_explanation(check: Check, console: Console) -> None:
    """What `--explain` says."""
    _line(console, (check.id, "bold"), (f"  {check.title}", ""))
    console.print(Text(check.rationale))
    _line(console, ("rule: ", "dim"), (check.rule, ""))
    _line(console, ("severity of a violation: ", "dim"), (str(check.severity), ""))


def catalogue_markdown() -> str:
    """The last section of docs/check.md."""
    return "".join(
        f"\n### `{check.id}`: {check.title}\n\n{check.rationale}\n\nRule: {check.rule}. A violation is "
        f"{'an error' if check.severity is Severity.ERROR else f'a {check.severity}'}.\n"
        for check in CHECKS.values()
    )


def _line(console: Console, *parts: tuple[str, str]) -> None:
    console.print(Text.assemble(*parts), soft_wrap=True)


def _print_report(report: Report, console: Console) -> None:
    _line(console, (f"{report.status:<5}", STYLES[report.status]), (f"  {visible(report.target)}", "bold"))
    for check, findings in by_check(report):
        status = findings[0].status
        _line(console, (f"  {status:<5}", STYLES[status]), (f"  {check.id}", "bold"), (f"  {check.title}", "dim"))
        for finding in findings:
            mixed = f"{finding.status}: " if finding.status is not status else ""
            _line(console, (f"         {mixed}{visible(finding.message)}", ""))
            for number, place in enumerate(finding.flow, start=1):
                step = f"{number}. " if len(finding.flow) > 1 else ""
                _line(console, (f"           {step}{where(report, place)}", "cyan"), (f"  {visible(place.note)}", ""))
                if place is not finding.flow[-1]:
                    _line(console, (f"              {excerpt(place.text.strip(), 1)[0]}", "dim"))
            for margin, text in frame(finding.flow[-1]) if finding.flow else []:
                _line(console, (f"            {margin}", "dim"), (text, ""))
    silent = silent_checks(report)
    if silent:
        _line(console, (f"  {Status.CLEAN:<5}", STYLES[Status.CLEAN]), (f"  {', '.join(silent)}", "dim"))


# --- Markdown


def markdown(reports: Sequence[Report]) -> str:
    """The same for the page of a CI job: a table of all targets, then each finding; cut, and it says so, where GitHub
    would refuse the page."""
    status = overall(reports)
    head = [f"# Compliance: {status}", "", counts(reports) + ".", ""]
    if reports:
        head += ["| target | verdict | checks behind it |", "|---|---|---|"]
        head += [
            f"| {_escape(report.target)} | {report.status} | "
            + ", ".join(check.id for check, findings in by_check(report) if findings[0].status is not Status.CLEAN)
            + " |"
            for report in reports
        ]
    parts = ["\n".join(head) + "\n"]
    size = len(parts[0].encode())
    for report in reports:
        for check, findings in by_check(report):
            for finding in findings:
                part = _markdown_finding(report, check, finding)
                size += len(part.encode())
                if size > MARKDOWN_LIMIT_BYTES:
                    return "".join(parts) + "\nThere is more than this page can hold; the other formats have it all.\n"
                parts.append(part)
    return "".join(parts)


def _escape(text: str) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\1", visible(text))


def _markdown_finding(report: Report, check: Check, finding: Finding) -> str:
    lines = ["", f"## {finding.status}: {check.title} (`{check.id}`)", ""]
    lines += [f"{_escape(report.target)}: {_escape(finding.message)}", ""]
    lines += [
        f"{number}. {_escape(where(report, place))}: {_escape(place.note)}"
        for number, place in enumerate(finding.flow, start=1)
    ]
    rows = frame(finding.flow[-1]) if finding.flow else []
    if rows:
        code = "\n".join(margin + text for margin, text in rows)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
        lines += ["", f"{fence}text", code, fence]
    if finding.status is not Status.CLEAN:
        lines += ["", f"Rule: {_escape(check.rule)}."]
    return "\n".join(lines) + "\n"
