"""The submission's server under the real referee: two ranks that learn from what was scored.

Training and quantization under the referee are the demo's test (tests/test_demo.py); here they hand over files that
were made before, because starting torch in two more sandboxes would take longer than all the rest.
"""

from dataclasses import replace
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

import submission
from submission.checkpoint import declaration
from submission.config import (
    AdaptConfig,
    CalibrationConfig,
    Configuration,
    ModelConfig,
    QuantizeConfig,
    ServeConfig,
    TrainConfig,
)
from submission.phase import Phase
from submission.quantize import run as quantize
from submission.train import run as train

pytestmark = [pytest.mark.sandbox, pytest.mark.privileged, pytest.mark.slow]

TOY = Configuration(
    model=ModelConfig(
        vocab_size=320,
        layers=3,
        dim=32,
        query_heads=2,
        key_value_heads=1,
        mlp_dim=48,
        rotary_dims=4,
        rotary_base_length=16,
        rotary_length=32,
        bigram_rows=64,
        bigram_dim=8,
        value_embedding_dim=8,
    ),
    train=TrainConfig(
        sequence_length=32,
        batch_sequences=8,
        micro_batch_sequences=8,
        warmup_steps=1,
        muon_momentum_steps=50,
        gradient_clip=1.0,
        ema_decay=0.9,
        warmdown_steps=40,
        reserve_seconds=1.0,
    ),
    calibration=CalibrationConfig(sequences=4, length=32),
    quantize=QuantizeConfig(block_columns=16),
    serve=ServeConfig(window=32, stride=8, batch=8, ranks=2),
    adapt=AdaptConfig(lr=0.02, chunk_tokens=512, sequence_length=32),
)
MANIFEST = """
name = "adaptive"
[rules.toy]
train = ["python", "train_stand_in.py"]
quantize = ["python", "quantize_stand_in.py"]
eval = ["python", "-m", "submission.serve", "--config", "toy", "--adapt", "mlp"]
checkpoint = "checkpoints/toy.json"
eval_files = ["__init__.py", "adapt.py", "codec.py", "config.py", "model.py", "phase.py", "ranks.py", "serve.py"]
"""
TRAIN = """
from pathlib import Path
from shutil import copy
[path.read_bytes() for path in Path("/in/train").iterdir()]
copy("/in/submission/checkpoint.safetensors", "/out/checkpoint.safetensors")
"""
QUANTIZE = """
from pathlib import Path
from shutil import copy
Path("/in/checkpoint/checkpoint.safetensors").read_bytes()
copy("/in/submission/artifact.bin", "/out/artifact.bin")
copy("/in/submission/calibration.bin", "/out/calibration.bin")
"""


@pytest.fixture
def folder(tmp_path, toy_data) -> Path:
    """The submission with a configuration of its own added at the end of config.py, trained and quantized."""
    folder = tmp_path / "submission"
    copytree(Path(submission.__file__).parent, folder, ignore=ignore_patterns("__pycache__"))
    with (folder / "config.py").open("a") as config:
        config.write(f"\nCONFIGURATIONS['toy'] = {TOY!r}\n")
    (folder / "checkpoints" / "toy.json").write_text(declaration(TOY.model))
    (folder / "submission.toml").write_text(MANIFEST)
    (folder / "train_stand_in.py").write_text(TRAIN)
    (folder / "quantize_stand_in.py").write_text(QUANTIZE)
    shards = tmp_path / "shards"
    shards.mkdir()
    for shard in toy_data.glob("*_train_*.bin"):
        copy(shard, shards)
    train(TOY, Phase(seed=0, threads=2, clock_seconds=3.0, vocab_size=320), shards, folder)
    phase = Phase(seed=0, threads=2, clock_seconds=9.0, vocab_size=320, calibration_key="5a" * 32, size_limit=100_000)
    quantize(TOY, phase, folder / "checkpoint.safetensors", folder)
    return folder


@pytest.fixture
def patient(referee):
    """The toy rules with limits that a busy machine can keep: torch alone takes seconds to import."""
    rules = referee.rules.rules
    changed = rules.model_copy(
        update={
            "clock": rules.clock.model_copy(update={"eval_seconds": 60.0}),
            "prepare": rules.prepare.model_copy(update={"eval_seconds": 60.0}),
        }
    )
    return replace(referee, rules=replace(referee.rules, rules=changed))


def test_two_adaptive_ranks_pass(patient, folder):
    """Every probe of a fresh process, which observes what the first one did, gives the losses that were committed."""
    record, directory = patient.run(folder)
    assert record.verdict == "PASS", (record.reasons, [log.read_text() for log in directory.rglob("*.log")])
    (seed,) = record.seeds
    assert seed.adaptive
    for probes in (seed.probes_blind, seed.probes_after):
        assert probes.looking_ahead > 0
        assert probes.largest_deviation_nats <= probes.tolerance_nats
