"""How `harness check` does on submissions of the contest that were labelled by reading: for each check, what it flags
of what the labels say is done in the submitted run, and what it flags of the rest.

    git clone https://github.com/openai/parameter-golf contest
    git -C contest fetch origin '+refs/pull/*/head:refs/pull/*/head'
    .venv/bin/python bench/check_labels.py contest [--disagreements]

check_labels.jsonl: one record folder of a pull request per line. labels: check -> "yes", "off" (there, but not in the
submitted run), "reserved" (calibration: time is kept for it, or said to be), "?"; what is missing is "no". Sample 1 has
served to correct the checks; samples 2 to 5 were labelled and counted afterwards (docs/compliance-study.md).
Undecided is a folder with a HOLD of a check that follows tokens, or of `unreadable`. findings_sha256 is of every
finding with its places: the same code must give the same in every process, whatever PYTHONHASHSEED is."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from harness.compliance.check import check_all
from harness.compliance.code import RULES
from harness.compliance.findings import Report, Status
from harness.compliance.flow import check_flow
from harness.compliance.inputs import read_target

LABELS = Path(__file__).with_name("check_labels.jsonl")
RESULT = Path(__file__).parent / "results" / "check_labels.json"
RECOGNISED = ("score-first-ttt", "self-generated-calibration")  # what a CLEAN tells of
UNCOUNTED = ("?", "reserved")
UNDECIDED = {*RULES[check_flow], "unreadable"}  # a HOLD of these leaves the question open
OUTCOMES = ("yes, flagged", "no, flagged", "yes, missed", "yes, held", "no, held", "no, silent", "not counted")


def extract(contest: Path, pull: int, folder: str, destination: Path) -> Path:
    """The folder as the head of a pull request has it, without files whose contents the clone lacks (of a partial
    one, large ones). Raises SystemExit if it is not there.
    """
    git = ["git", "-C", str(contest)]
    listing = subprocess.run(
        [*git, "ls-tree", "-r", "-z", f"refs/pull/{pull}/head", "--", folder], capture_output=True, text=True
    )
    entries = [entry.partition("\t") for entry in listing.stdout.split("\0") if entry.startswith("100")]
    if listing.returncode or not entries:
        raise SystemExit(f"{contest} does not have {folder} of pull request {pull} {listing.stderr.strip()}")
    names = "".join(f"{facts.split()[2]}\n" for facts, _, _ in entries)
    blobs = subprocess.run([*git, "cat-file", "--batch"], input=names.encode(), capture_output=True, check=True).stdout
    for _, _, path in entries:
        head, _, blobs = blobs.partition(b"\n")
        if head.endswith(b" missing"):
            continue
        size = int(head.split()[2])
        (destination / path).parent.mkdir(parents=True, exist_ok=True)
        (destination / path).write_bytes(blobs[:size])
        blobs = blobs[size + 1 :]
    return destination / folder


def outcome(check: str, label: str, said: set[Status]) -> str:
    if label in UNCOUNTED:
        return "not counted"
    label = "yes" if label == "yes" else "no"
    if Status.FLAG in said or (check in RECOGNISED and said):
        return f"{label}, flagged"
    if Status.HOLD in said:
        return f"{label}, held"
    return "yes, missed" if label == "yes" else "no, silent"


def digest(reports: list[Report]) -> str:
    """A hash of all findings with their places, in the order of the reports."""
    found = [
        [one.check, one.status, one.message, [[place.source.name, place.line, place.note] for place in one.flow]]
        for report in reports
        for one in report.findings
    ]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contest", type=Path, help="a clone of the contest's repository with refs/pull/*/head")
    parser.add_argument("--disagreements", action="store_true", help="list the pull requests behind the numbers")
    arguments = parser.parse_args()
    items = [json.loads(line) for line in LABELS.read_text().splitlines()]
    console = Console()
    checks = sorted({check for item in items for check in item["labels"]})
    counts: dict[int, dict[str, Counter]] = {}
    disagreements: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as work:
        folders = [
            extract(arguments.contest, item["pull"], item["folder"], Path(work) / str(number))
            for number, item in enumerate(track(items, "extracting", console=console))
        ]
        reports = check_all([read_target(folder) for folder in folders])
    undecided = Counter()
    for item, report in zip(items, reports, strict=True):
        undecided[item["sample"]] += any(report.status_of(check) is Status.HOLD for check in UNDECIDED)
        for check in checks:
            said = {finding.status for finding in report.findings if finding.check == check}
            found = outcome(check, item["labels"].get(check, "no"), said)
            counts.setdefault(item["sample"], {}).setdefault(check, Counter())[found] += 1
            if found in ("no, flagged", "yes, missed"):
                disagreements.setdefault(f"sample {item['sample']}, {check}, {found}", []).append(f"#{item['pull']}")
    for sample, found in sorted(counts.items()):
        table = Table(
            Column("check", no_wrap=True),
            *OUTCOMES,
            title=f"sample {sample}: {sum(one['sample'] == sample for one in items)}",
        )
        for check in checks:
            table.add_row(check, *(str(found[check][name]) for name in OUTCOMES))
        console.print(table, f"undecided: {undecided[sample]}")
    findings_sha256 = digest(reports)
    console.print(f"findings_sha256: {findings_sha256}")
    if arguments.disagreements:
        for name, pulls in sorted(disagreements.items()):
            console.print(f"{name}: {', '.join(pulls)}")
    result = {
        "counts": counts,
        "disagreements": disagreements,
        "undecided": undecided,
        "findings_sha256": findings_sha256,
    }
    RESULT.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
