"""The submission's server under the real referee: two ranks that learn from what was scored.

Training and quantization under the referee are the demo's test (tests/test_demo.py); here they hand over a model that
was made before, in which every part matters however slow the machine is.
"""

from dataclasses import replace
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import torch

import submission
from submission.checkpoint import declaration, save_checkpoint
from submission.config import (
    AdaptConfig,
    CalibrationConfig,
    Configuration,
    ModelConfig,
    QuantizeConfig,
    ServeConfig,
)
from submission.model import Transformer
from submission.phase import Phase
from submission.quantize import run as quantize

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
def folder(tmp_path) -> Path:
    """The submission with a configuration added at the end of config.py, and a quantized model of noisy weights."""
    folder = tmp_path / "submission"
    copytree(Path(submission.__file__).parent, folder, ignore=ignore_patterns("__pycache__"))
    with (folder / "config.py").open("a") as config:
        config.write(f"\nCONFIGURATIONS['toy'] = {TOY!r}\n")
    (folder / "checkpoints" / "toy.json").write_text(declaration(TOY.model))
    (folder / "submission.toml").write_text(MANIFEST)
    (folder / "train_stand_in.py").write_text(TRAIN)
    (folder / "quantize_stand_in.py").write_text(QUANTIZE)
    model = Transformer(TOY.model)
    model.initialise(0)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: weight + 0.2 * torch.randn(weight.shape, generator=generator)
        for name, weight in model.state_dict().items()
    }
    save_checkpoint(folder / "checkpoint.safetensors", weights)
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
    assert seed.val_loss < 6.0  # 5.53; without learning 6.45
    for probes in (seed.probes_blind, seed.probes_after):
        assert probes.looking_ahead > 0
        assert probes.largest_deviation_nats <= probes.tolerance_nats
