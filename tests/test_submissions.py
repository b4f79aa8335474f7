"""Every rule has a cheat that it catches, and honest twins that it lets through: each folder is run for real, in a
real sandbox.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from support import TESTS, assemble

from harness.evidence.ledger import read_ledger

FOLDERS = sorted([*(TESTS / "cheats").iterdir(), *(TESTS / "honest").iterdir()])


@pytest.mark.sandbox
@pytest.mark.privileged
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_ends_as_expected(folder: Path, referee, tmp_path):
    expected = tomllib.loads((folder / "expect.toml").read_text())
    record, directory = referee.run(assemble(folder, tmp_path / "submission"))
    reasons = [(reason.code, reason.phase) for reason in record.reasons]
    assert record.verdict == expected["verdict"], record.reasons
    if expected["verdict"] == "PASS":
        assert reasons == []
        assert record.seeds[0].val_bpb is not None
    else:
        assert (expected["reason"], expected["phase"]) in reasons
        assert list(record.seeds[0].phases)[-1] == expected["phase"], "no phase runs after one that broke a rule"
    if expected.get("reason") == "forbidden_open":
        assert record.seeds[0].phases[expected["phase"]].opens_denied
    _, head = read_ledger(directory / "ledger.jsonl")
    assert head == record.ledger_head
