"""Training prepares without data, keeps to its schedule and its clock, and leaves the averaged weights."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from submission.config import TrainConfig
from submission.data import write_shard
from submission.model import Transformer
from submission.phase import Phase
from submission.train import Trainer, lr_scale, muon_momentum, prepare, run, train

CPU = torch.device("cpu")
seconds = st.floats(0.001, 1000)


@given(elapsed=seconds, budget=seconds, step_seconds=seconds, warmdown_steps=st.integers(1, 5000))
def test_lr_scale_stays_in_range_and_ends_at_zero(elapsed, budget, step_seconds, warmdown_steps):
    assert 0 <= lr_scale(elapsed, budget, step_seconds, warmdown_steps) <= 1
    assert lr_scale(0, budget, step_seconds, warmdown_steps) == 1
    assert lr_scale(budget, budget, step_seconds, warmdown_steps) == 0


@given(first=seconds, second=seconds, budget=seconds, step_seconds=seconds)
def test_lr_scale_never_rises(first, second, budget, step_seconds):
    early, late = sorted((first, second))
    assert lr_scale(early, budget, step_seconds, 100) >= lr_scale(late, budget, step_seconds, 100)


def test_lr_scale_of_the_record():
    """600 s at 86.7 ms a step: 4,000 steps of descent are the last 346.8 s."""
    assert lr_scale(253.0, 600, 0.0867, 4000) == 1
    assert lr_scale(600 - 173.4, 600, 0.0867, 4000) == pytest.approx(0.5)


def test_lr_scale_before_the_first_step_is_measured():
    assert lr_scale(0.0, 600, 0.0, 4000) == 1


def test_muon_momentum_warms_up():
    config = TrainConfig()
    assert muon_momentum(0, config) == 0.92
    assert muon_momentum(750, config) == pytest.approx(0.955)
    assert muon_momentum(1500, config) == muon_momentum(9999, config) == pytest.approx(0.99)


def test_preparation_rolls_its_warm_up_back(tiny):
    trainer = prepare(tiny, seed=3, device=CPU)
    fresh = Transformer(tiny.model)
    fresh.initialise(3)
    for (name, weight), average in zip(fresh.named_parameters(), trainer.average, strict=True):
        assert torch.equal(trainer.model.get_parameter(name), weight)
        assert torch.equal(average, weight)
    assert not trainer.muon.state and not trainer.adamw.state


def batch_of(configuration, seed=0):
    shape = (configuration.train.batch_sequences, configuration.train.sequence_length + 1)
    return np.random.default_rng(seed).integers(configuration.model.vocab_size, size=shape)


def test_micro_batches_add_up_to_the_batch(tiny):
    whole = replace(tiny, train=replace(tiny.train, micro_batch_sequences=tiny.train.batch_sequences))
    weights, losses = [], []
    for configuration in (tiny, whole):
        trainer = prepare(configuration, seed=0, device=CPU)
        losses.append(trainer.step(batch_of(tiny), 1.0, 0.9).item())
        weights.append(torch.cat([param.detach().flatten() for param in trainer.parameters]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # AdamW's first step is the sign of the gradient, which rounding may turn where the gradient is nothing.
    assert ((weights[0] - weights[1]).abs() > 1e-4).float().mean() < 0.01


def test_the_average_is_exponential(tiny):
    trainer = prepare(tiny, seed=0, device=CPU)
    expected = [param.detach().clone() for param in trainer.parameters]
    for seed in range(3):
        trainer.step(batch_of(tiny, seed), 1.0, 0.9)
        expected = [0.9 * a + 0.1 * p.detach() for a, p in zip(expected, trainer.parameters, strict=True)]
    for average, value in zip(trainer.averaged_weights().values(), expected, strict=True):
        torch.testing.assert_close(average, value)


def test_a_scale_of_zero_changes_no_weight(tiny):
    trainer = prepare(tiny, seed=0, device=CPU)
    before = [param.detach().clone() for param in trainer.parameters]
    trainer.step(batch_of(tiny), 0.0, 0.9)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))


class SlowTrainer(Trainer):
    """By its own clock, every step takes 20 ms, the fifth 60 ms; what it was called with is noted."""

    now = 0.0

    def step(self, batch, scale, momentum):
        if not hasattr(self, "calls"):
            self.calls = []
        self.calls.append(scale)
        self.now += 0.06 if len(self.calls) == 5 else 0.02
        return torch.tensor(1.0)


def test_training_ends_inside_its_budget_with_a_rate_near_zero(tiny, capsys, monkeypatch):
    trainer = SlowTrainer(Transformer(tiny.model), None, replace(tiny.train, warmdown_steps=10))
    monkeypatch.setattr("submission.train.time", SimpleNamespace(monotonic=lambda: trainer.now))
    train(trainer, iter(lambda: None, 0), 0.8)
    assert 0.75 < trainer.now <= 0.8
    assert trainer.calls[0] == 1 and trainer.calls[-1] < 0.3
    steps = len(trainer.calls)
    assert f"step:{steps}/~{steps} train_loss:1.0000 elapsed:0." in capsys.readouterr().out


@pytest.mark.alone  # it trains by the clock
def test_the_phase_learns_and_leaves_one_file(tiny, tmp_path, capsys):
    """Text that repeats is learned in a second; a busy machine may take some more."""
    (tmp_path / "train").mkdir()
    (tmp_path / "out").mkdir()
    write_shard(tmp_path / "train" / "shard.bin", np.tile(np.arange(40), 200))
    run(tiny, Phase(seed=0, threads=1, clock_seconds=8.0, vocab_size=48), tmp_path / "train", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint.safetensors"]
    weights = load_file(tmp_path / "out" / "checkpoint.safetensors")
    model = Transformer(tiny.model)
    model.load_state_dict(weights)
    text = torch.arange(17).repeat(2, 1)
    assert model(text[:, :-1], text[:, 1:]).item() < 1.5  # uniform guessing: 3.87
    assert "train_loss:" in capsys.readouterr().out


def test_another_vocabulary_is_refused_before_any_work(tiny, tmp_path):
    with pytest.raises(ValueError, match="48 tokens"):
        run(tiny, Phase(seed=0, threads=2, clock_seconds=3.0, vocab_size=50), tmp_path, tmp_path)


def test_preparation_opens_no_shard(tiny, tmp_path, monkeypatch):
    """The first open starts the clock, so it comes after the last warm-up step."""
    events = []
    real_step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, *a: events.append("step") or real_step(self, *a))
    monkeypatch.setattr("submission.data.read_shard", lambda path: events.append("open") or np.arange(4000) % 48)
    (tmp_path / "a.bin").touch()
    run(tiny, Phase(seed=0, threads=2, clock_seconds=1.05, vocab_size=48), tmp_path, tmp_path)
    assert events[: tiny.train.warmup_steps + 2] == ["step"] * tiny.train.warmup_steps + ["open", "step"]
