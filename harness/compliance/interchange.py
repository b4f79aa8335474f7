"""What programs read of a check: JSON (docs/check.schema.json is its schema), and SARIF 2.1.0, which code hosts show on
the lines of a pull request."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from harness.compliance.catalogue import CHECKS
from harness.compliance.findings import Finding, Place, Report, Severity, Status
from harness.compliance.output import excerpt, overall, visible

FORMAT = 1
SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
ROOT = "%SRCROOT%"  # by convention the top of the working tree


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlaceEntry(Part):
    """A line with what happens there. path: of the file, from the target's root; layers: how the text was unpacked from
    it, outermost first; line and column count from 1 in that text; code: the line, cut where it is long.
    """

    path: str
    layers: tuple[str, ...]
    line: int
    column: int
    note: str
    code: str


class FindingEntry(Part):
    """status: CLEAN for what was recognised as allowed. severity: of a FLAG of this check. fingerprint: stays the same
    while the line that matters does, wherever it moves in its file. flow: from the cause to the place that matters.
    """

    check: str
    status: Status
    severity: Severity
    message: str
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    flow: tuple[PlaceEntry, ...]


class SourceEntry(Part):
    """A text that was looked at; sha256 of it in UTF-8."""

    path: str
    layers: tuple[str, ...]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TargetEntry(Part):
    """One target with a verdict for every check. target: as it was named; root: the folder that paths start from."""

    target: str
    root: str
    status: Status
    checks: dict[str, Status]
    findings: tuple[FindingEntry, ...]
    sources: tuple[SourceEntry, ...]


class CheckReport(Part):
    """What `harness check --format json` writes. Characters that are not printable are escaped in every text."""

    format: int = FORMAT
    harness: str
    status: Status
    targets: tuple[TargetEntry, ...]


def json_schema() -> str:
    """The JSON schema of `--format json`, as committed in docs/check.schema.json."""
    return json.dumps(CheckReport.model_json_schema(), indent=2) + "\n"


def as_json(reports: Sequence[Report]) -> str:
    """All reports as one JSON text, in ASCII."""
    report = CheckReport(
        harness=_version(), status=overall(reports), targets=tuple(_target_entry(report) for report in reports)
    )
    return json.dumps(report.model_dump(mode="json"), indent=2) + "\n"


def as_sarif(reports: Sequence[Report]) -> str:
    """All findings but what was recognised as allowed, as one SARIF 2.1.0 log, in ASCII."""
    names = list(CHECKS)
    rules = [
        {
            "id": check.id,
            "name": "".join(word.capitalize() for word in check.id.split("-")),
            "shortDescription": {"text": check.title},
            "fullDescription": {"text": check.rationale},
            "help": {"text": f"{check.rationale}\n\nRule: {check.rule}."},
            "defaultConfiguration": {"level": str(check.severity)},
        }
        for check in CHECKS.values()
    ]
    results = []
    for report in reports:
        for finding, fingerprint in fingerprints(report):
            if finding.status is Status.CLEAN:
                continue  # a viewer would show it as something to be done
            check = CHECKS[finding.check]
            hold = finding.status is Status.HOLD
            result: dict[str, Any] = {
                "ruleId": check.id,
                "ruleIndex": names.index(check.id),
                "level": str(Severity.WARNING if hold else check.severity),
                "message": {"text": visible(f"{finding.status}: {finding.message}")},
                "locations": [_location(report, finding.flow[-1] if finding.flow else None)],
                "partialFingerprints": {"primaryLocationLineHash": fingerprint, "harnessCheck/v1": fingerprint},
            }
            if finding.flow:
                flow = [{"location": _location(report, place, place.note)} for place in finding.flow]
                result["codeFlows"] = [{"threadFlows": [{"locations": flow}]}]
            results.append(result)
    driver = {"name": "harness check", "semanticVersion": _version(), "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def fingerprints(report: Report) -> list[tuple[Finding, str]]:
    """Each finding with a hash of its check, file and line of code, and of how many like it precede it: neither the
    line's number nor the words of the message are in it."""
    seen: dict[tuple[str, ...], int] = {}
    found = []
    for finding in report.findings:
        place = finding.flow[-1] if finding.flow else None
        key = (report.target, finding.check) + ((place.source.name, place.text.strip()) if place else ())
        seen[key] = seen.get(key, 0) + 1
        text = "\0".join((*key, str(seen[key])))
        found.append((finding, hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()))
    return found


def _version() -> str:
    return importlib.metadata.version("parameter-golf-harness")


def _target_entry(report: Report) -> TargetEntry:
    return TargetEntry(
        target=visible(report.target),
        root=visible(report.root),
        status=report.status,
        checks={name: report.status_of(name) for name in CHECKS},
        findings=tuple(
            FindingEntry(
                check=finding.check,
                status=finding.status,
                severity=CHECKS[finding.check].severity,
                message=visible(finding.message),
                fingerprint=fingerprint,
                flow=tuple(_place_entry(place) for place in finding.flow),
            )
            for finding, fingerprint in fingerprints(report)
        ),
        sources=tuple(
            SourceEntry(
                path=visible(source.path),
                layers=tuple(visible(layer) for layer in source.layers),
                sha256=hashlib.sha256(source.text.encode(errors="surrogatepass")).hexdigest(),
            )
            for source in report.sources
        ),
    )


def _place_entry(place: Place) -> PlaceEntry:
    return PlaceEntry(
        path=visible(place.source.path),
        layers=tuple(visible(layer) for layer in place.source.layers),
        line=place.line,
        column=place.column,
        note=visible(place.note),
        code=excerpt(place.text, place.column)[0],
    )


def _location(report: Report, place: Place | None, note: str = "") -> dict[str, Any]:
    """A SARIF location; of a finding without a place, the file that stands for the folder. A place in packed code is
    the packed file's first line, and says in words where it is: that file has no such line."""
    path = os.path.join(report.root, place.source.path) if place else _representative(report)
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": _artifact(path)}}
    region: dict[str, Any] = {"startLine": 1}
    if place is not None and place.source.layers:
        inside = f"in {'!'.join(place.source.layers)}, line {place.line}: {excerpt(place.text.strip(), 1)[0]}"
        note = f"{note} ({inside})" if note else inside
        location["logicalLocations"] = [{"fullyQualifiedName": visible(f"{place.source.name}:{place.line}")}]
    elif place is not None:
        region = {
            "startLine": max(1, place.line),
            "startColumn": max(1, place.column),
            "snippet": {"text": excerpt(place.text, place.column)[0]},
        }
    location["physicalLocation"]["region"] = region
    if note:
        location["message"] = {"text": visible(note)}
    return location


def _representative(report: Report) -> str:
    """A file of the target: viewers show nothing at a folder."""
    names = ["submission.json", "submission.toml", "README.md", *(source.path for source in report.sources)]
    paths = [os.path.join(report.root, name) for name in names]
    return next((path for path in paths if os.path.isdir(report.target) and os.path.isfile(path)), report.target)


def _artifact(path: str) -> dict[str, str]:
    """A SARIF artifactLocation: relative to the current directory, where the file is below it."""
    full = Path(os.path.abspath(path))
    try:
        relative = full.relative_to(Path.cwd())
    except ValueError:
        return {"uri": "file://" + quote(os.fsencode(full))}
    return {"uri": quote(os.fsencode(relative)), "uriBaseId": ROOT}
