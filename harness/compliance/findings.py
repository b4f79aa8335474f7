"""What checks say. Data only: the catalogue of checks is in `catalogue.py`, what people read in `output.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from harness.compliance.memory import keep

LINE_END = re.compile(r"\r\n|\r|\n")


class Status(StrEnum):
    """How a check, or all of them together, ends. The worst of its findings decides."""

    CLEAN = "CLEAN"
    HOLD = "HOLD"  # a person must look, and is told at what
    FLAG = "FLAG"  # a violation, shown


ORDER = (Status.CLEAN, Status.HOLD, Status.FLAG)


class Severity(StrEnum):
    """SARIF's levels."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Check:
    """One rule. `id`: lower case words with hyphens. rationale: one paragraph for people. rule: the contest's rule that
    it comes from. severity: of a FLAG."""

    id: str
    title: str
    rationale: str
    rule: str
    severity: Severity


@dataclass(frozen=True)
class Source:
    """Python text with a name. path: of the file, relative to what was checked, with forward slashes. layers: how the
    text was unpacked from that file ("lzma", "base85", ...), outermost first, and the paths of the files that it is
    written to when that runs; line numbers are those of the text.
    """

    path: str
    text: str
    layers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people: the path, and the layers behind exclamation marks."""
        return "!".join((self.path, *self.layers))

    @property
    def file(self) -> str:
        """The path of the file that it is when it runs: one that was written, or that it comes from."""
        return next((layer for layer in reversed(self.layers) if layer.endswith((".py", ".pyw"))), self.path)


@dataclass(frozen=True)
class Place:
    """A line of a source, with what happens there. Lines and columns count from 1."""

    source: Source
    line: int
    column: int
    note: str

    @property
    def text(self) -> str:
        """The line itself, or nothing if there is no such line."""
        lines = lines_of(self.source.text)
        return lines[self.line - 1] if 0 < self.line <= len(lines) else ""


@dataclass(frozen=True)
class Finding:
    """status: FLAG for a violation, HOLD for what a person must decide, CLEAN for something recognised as allowed
    (legal test-time training, self-generated calibration). flow: from the cause to the place that matters, which comes
    last; empty for what concerns a whole folder."""

    check: str
    status: Status
    message: str
    flow: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything about one target, `target` as the user named it. sources: all that was looked at. root: the folder
    that their paths start from, named the same way."""

    target: str
    findings: tuple[Finding, ...] = ()
    sources: tuple[Source, ...] = field(default=(), repr=False)
    root: str = ""

    def status_of(self, check: str) -> Status:
        return worst(finding.status for finding in self.findings if finding.check == check)

    @property
    def status(self) -> Status:
        return worst(finding.status for finding in self.findings)


@keep(at_most=16)
def lines_of(text: str) -> tuple[str, ...]:
    """The lines of a text as Python counts them; str.splitlines() knows more line ends, such as form feeds."""
    return tuple(LINE_END.split(text))


def worst(statuses) -> Status:
    """The worst of some statuses; CLEAN of none."""
    return max(statuses, key=ORDER.index, default=Status.CLEAN)
