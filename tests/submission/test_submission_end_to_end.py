"""The three phases in one process, tiny: text is learned, quantized, and served with the same score."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import submission
from submission.calibration import replay
from submission.checkpoint import load_checkpoint
from submission.codec import ArtifactError
from submission.config import CONFIGURATIONS
from submission.data import read_shard, write_shard
from submission.model import Transformer
from submission.phase import Phase, read_phase
from submission.quantize import quantize_rows
from submission.quantize import run as quantize
from submission.serve import answer, hello, load_artifact, prepare
from submission.train import run as train

pytestmark = pytest.mark.alone  # it trains for a few seconds by the clock, and must learn in them
KEY = "5a" * 32
FOLDER = Path(submission.__file__).parent


class FakeRequest:
    def __init__(self, tokens: np.ndarray, scored: int, vocab_size: int) -> None:
        self.tokens, self.scored = tokens.astype(np.int32), scored
        self.tokens.flags.writeable = False  # as the wire's are
        self.logits = np.full((len(tokens), scored, vocab_size), np.nan, np.float32)
        self.replied = False

    def reply(self) -> None:
        assert np.isfinite(self.logits).all()
        self.replied = True


class FakeSession:
    def __init__(self, requests: list[FakeRequest]) -> None:
        self._requests = requests

    def requests(self, observe=None):
        return iter(self._requests)


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    """A walk through 48 tokens: each is followed by one of two."""
    random = np.random.default_rng(0)
    steps = np.where(random.random(6000) < 0.8, 1, 7)
    return np.cumsum(steps) % 48


@pytest.fixture(scope="module")
def out(tiny, text, tmp_path_factory) -> Path:
    """The outputs of train and quantize."""
    out = tmp_path_factory.mktemp("out")
    data = tmp_path_factory.mktemp("train")
    write_shard(data / "shard.bin", text[:5000])
    train(tiny, Phase(seed=0, threads=2, clock_seconds=6.0, vocab_size=48), data, out)
    phase = Phase(seed=0, threads=2, clock_seconds=10.0, vocab_size=48, calibration_key=KEY, size_limit=1_000_000)
    quantize(tiny, phase, out / "checkpoint.safetensors", out)
    return out


def nats(model: Transformer, configuration, text: np.ndarray) -> float:
    """Mean nats per token of sliding windows, through the server."""
    window, stride = configuration.serve.window, configuration.serve.stride
    starts = range(0, len(text) - window - 1, stride)
    rows = np.stack([text[start : start + window + 1] for start in starts])
    requests = [FakeRequest(part[:, :-1], stride, 48) for part in np.array_split(rows, 40)]
    answer(FakeSession(requests), model)
    assert all(request.replied for request in requests)
    log_probabilities = torch.from_numpy(np.concatenate([request.logits for request in requests])).log_softmax(-1)
    return -log_probabilities.gather(-1, torch.from_numpy(rows[:, -stride:, None])).mean().item()


def test_quantization_costs_little_and_the_model_has_learned(tiny, out, text):
    model = prepare(tiny, torch.device("cpu"))
    load_artifact(out / "artifact.bin", model)
    quantized = nats(model, tiny, text[5000:])
    load_checkpoint(out / "checkpoint.safetensors", model)
    full = nats(model, tiny, text[5000:])
    assert full < 1.0  # entropy of the walk: 0.50; uniform guessing: 3.87
    assert abs(quantized - full) < 0.02


def test_calibration_is_the_checkpoints_own_text(tiny, out):
    model = Transformer(tiny.model)
    load_checkpoint(out / "checkpoint.safetensors", model)
    tokens = torch.from_numpy(read_shard(out / "calibration.bin").astype(np.int64)).view(16, 16)
    assert replay(model, tokens, tiny.calibration.temperature, KEY, margin=1e-3).foreign == 0


def test_quantize_leaves_its_two_files(out):
    assert {path.name for path in out.iterdir()} == {"checkpoint.safetensors", "artifact.bin", "calibration.bin"}


def test_quantization_is_reproducible(tiny, out, tmp_path):
    phase = Phase(seed=9, threads=2, clock_seconds=10.0, vocab_size=48, calibration_key=KEY, size_limit=1_000_000)
    quantize(tiny, phase, out / "checkpoint.safetensors", tmp_path)
    assert (tmp_path / "artifact.bin").read_bytes() == (out / "artifact.bin").read_bytes()


def test_the_size_limit_is_kept(tiny, out, tmp_path):
    limit = (out / "artifact.bin").stat().st_size - 100
    phase = Phase(seed=0, threads=2, clock_seconds=10.0, vocab_size=48, calibration_key=KEY, size_limit=limit)
    quantize(tiny, phase, out / "checkpoint.safetensors", tmp_path)
    assert (tmp_path / "artifact.bin").stat().st_size <= limit


def test_quantize_needs_its_key(tiny, tmp_path):
    with pytest.raises(ValueError, match="calibration_key"):
        quantize(tiny, Phase(seed=0, threads=2, clock_seconds=1.0, vocab_size=48), tmp_path / "none", tmp_path)


def test_an_artifact_of_another_configuration_is_refused(tiny, out):
    other = Transformer(replace(tiny.model, logit_softcap=20.0))
    with pytest.raises(ArtifactError, match="expects"):
        load_artifact(out / "artifact.bin", other)


def test_hello_is_the_configuration(tiny):
    declared = hello(tiny)
    assert (declared.vocab_size, declared.window, declared.stride, declared.batch) == (48, 16, 4, 3)


def test_int8_rows_are_within_half_a_step():
    W = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    quantized = quantize_rows(W)
    step = W.abs().amax(1, keepdim=True) / 127
    assert ((W - quantized.dequantize()).abs() <= 0.6 * step).all()  # 0.1 for the float16 scale
    assert quantized.codes.abs().amax() == 127


def test_phase_json_is_read_and_other_keys_left_aside(tmp_path):
    path = tmp_path / "phase.json"
    values = {"phase": "train", "rules": "demo", "seed": 314, "threads": 2, "clock_seconds": 90.0, "vocab_size": 1024}
    path.write_text(json.dumps(values))
    assert read_phase(path) == Phase(seed=314, threads=2, clock_seconds=90.0, vocab_size=1024)
    path.write_text(json.dumps({"seed": 314}))
    with pytest.raises(TypeError):
        read_phase(path)


def test_the_manifest_names_files_that_exist_and_all_that_serving_needs():
    """Whatever serve imports of the submission is among the files that count as code, and nothing else is."""
    manifest = tomllib.loads((FOLDER / "submission.toml").read_text())
    assert set(manifest["rules"]) == set(CONFIGURATIONS)
    needed, pending = {"__init__.py"}, ["serve"]
    while pending:
        module = pending.pop()
        if f"{module}.py" not in needed:
            needed.add(f"{module}.py")
            lines = (FOLDER / f"{module}.py").read_text().splitlines()
            pending += [line.split()[1].split(".")[1] for line in lines if line.startswith("from submission.")]
    for name, rules in manifest["rules"].items():
        assert (FOLDER / rules["checkpoint"]).is_file()
        assert set(rules["eval_files"]) == needed
        for phase, module in (("train", "train"), ("quantize", "quantize"), ("eval", "serve")):
            assert rules[phase] == ["python", "-m", f"submission.{module}", "--config", name]
