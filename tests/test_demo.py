"""The demo, as a user runs it: PASS, clearly better than any unigram model, the score that a direct computation gives,
and quantization that costs next to nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from direct import direct_bits_per_byte
from support import TESTS

from bench.quantization_gap import measure
from harness.data.shards import read_shard
from submission.codec import decode, load_weights
from submission.config import CONFIGURATIONS
from submission.model import Transformer

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
    data = REPOSITORY / "data" / "demo"
    config, weights = decode((run / f"seed-{seed['seed']}" / "artifact.bin").read_bytes())
    model, serve = Transformer(config), CONFIGURATIONS["demo"].serve
    load_weights(model, weights)
    val = read_shard(data / "demo_val_000000.bin")
    assert len(val) - 1 == seed["tokens"]
    direct = direct_bits_per_byte(model, val, seed["bytes"], serve.window, serve.stride)
    assert seed["val_bpb"] == pytest.approx(direct, abs=1e-6)
    (gap,) = measure(run, data, "demo")
    assert abs(gap.bpb) < 0.02
