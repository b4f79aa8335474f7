"""Findings for the tests of what is done with them, made by hand."""

from __future__ import annotations

import pytest

from harness.compliance.findings import Finding, Place, Report, Source, Status

CODE = """import torch

def score(history, targets):
\tkeys = [hash((a, b)) for a, b in zip(history, targets)]
    return table[keys]
"""


@pytest.fixture
def report() -> Report:
    """A FLAG with a flow, a HOLD inside packed code, something allowed, and a finding about the folder."""
    source = Source("train_gpt.py", CODE)
    packed = Source("packed.py", "a = 1\nb = open(a)\n", layers=("lzma", "base85"))
    return Report(
        target="records/mine",
        root="records/mine",
        sources=(source, packed),
        findings=(
            Finding("record-logs", Status.FLAG, "seed 42 has no log"),
            Finding("hidden-code", Status.HOLD, "it opens a file", (Place(packed, 2, 5, "opened here"),)),
            Finding("score-first-ttt", Status.CLEAN, "each chunk is scored first", (Place(source, 3, 1, "here"),)),
            Finding(
                "target-keyed-cache",
                Status.FLAG,
                "the key holds the target",
                (Place(source, 3, 20, "targets come in"), Place(source, 4, 10, "and go into the key")),
            ),
        ),
    )
