"""The demo, as a user runs it: PASS, clearly better than any unigram model, and quantization costs next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support import TESTS

from bench.quantization_gap import measure

REPOSITORY = TESTS.parent


@pytest.mark.sandbox
@pytest.mark.privileged
@pytest.mark.alone
def test_demo_passes(tmp_path):
    command = [sys.executable, "-m", "harness.cli", "demo", "--out", str(tmp_path / "runs")]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "claimed: step:" in result.stdout
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "record.json").read_text())
    (seed,) = record["seeds"]
    assert record["verdict"] == "PASS"
    assert record["reasons"] == []
    assert seed["val_bpb"] < 0.75 * seed["unigram_bpb"]
    train, quantize = seed["phases"]["train"], seed["phases"]["quantize"]
    assert train["clock_seconds"] + quantize["clock_seconds"] <= train["limit_seconds"]
    assert all(phase["opens_denied"] == [] and phase["opens_allowed"] > 0 for phase in seed["phases"].values())
    (gap,) = measure(run, REPOSITORY / "data" / "demo", "demo")
    assert abs(gap.bpb) < 0.02
