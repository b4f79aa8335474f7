"""Every rule has a cheat that it catches, and honest twins that it lets through: each folder is run for real, in a
real sandbox of either back-end.

Keys of expect.toml: verdict; for a FAIL its reason and phase (several, if chance decides which comes first). May be
given: `within_seconds`, the most on the clock of the failing phase; `gains`, whether the losses are lower than those of
the best unigram model, which is more than a submission made of tests/honest/minimal could have without looking at the
text."""

from __future__ import annotations

import gzip
import tomllib
from pathlib import Path

import numpy as np
import pytest
from support import TESTS, assemble

from harness.data.shards import read_shard
from harness.evidence.ledger import read_ledger
from harness.sandbox.backends import find_backend
from harness.scoring.bpb import unigram_nats

FOLDERS = sorted([*(TESTS / "cheats").iterdir(), *(TESTS / "honest").iterdir()])


BACKENDS = [
    pytest.param("bubblewrap", marks=pytest.mark.sandbox),
    pytest.param("docker", marks=pytest.mark.docker),
]


@pytest.fixture
def only_what_submissions_meet(monkeypatch) -> None:
    """Leave out what costs half of a small run and finds the same each time: to look through the whole machine for
    copies of shards, and to make it forget its page cache, for every other test as well. test_referee.py does both.
    """
    monkeypatch.setattr("harness.referee.copies", lambda visible, shards: [])
    monkeypatch.setattr("harness.supervisor.drop_page_cache", lambda: True)


@pytest.mark.privileged
@pytest.mark.usefixtures("only_what_submissions_meet")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_ends_as_expected(folder: Path, backend: str, referee, toy_data, tmp_path):
    expected = tomllib.loads((folder / "expect.toml").read_text())
    submission = assemble(folder, tmp_path / "submission")
    record, directory = referee.run(submission, sandbox=find_backend(backend).make())
    assert {phase.sandbox.backend for phase in record.seeds[0].phases.values()} == {backend}
    reasons = [(reason.code, reason.phase) for reason in record.reasons]
    assert record.verdict == expected["verdict"], record.reasons
    if expected["verdict"] == "PASS":
        assert reasons == []
        assert record.seeds[0].val_bpb is not None
    else:
        phase = list(record.seeds[0].phases)[-1]
        assert phase in np.atleast_1d(expected["phase"]), "no phase runs after one that broke a rule"
        assert (expected["reason"], phase) in reasons
    if expected.get("reason") == "forbidden_open":
        assert record.seeds[0].phases[expected["phase"]].opens_denied
    if "within_seconds" in expected:
        assert record.seeds[0].phases[phase].clock_seconds < expected["within_seconds"]
    if "gains" in expected:
        nats = np.frombuffer(gzip.decompress((directory / "seed-1" / "nats.f32.gz").read_bytes()), "<f4")
        assert (nats.sum() < unigram_nats(read_shard(toy_data / "toy_val_000000.bin"))) is np.bool(expected["gains"])
    _, head = read_ledger(directory / "ledger.jsonl")
    assert head == record.ledger_head
