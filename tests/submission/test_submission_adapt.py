"""A server that adapts learns from what was scored, and from nothing else: what it trains, on what, and how much."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.scoring.wire import Observation
from submission.adapt import Adapter, adapted_parameters, cosine_lr, cut_sequences, rehearse
from submission.config import CONFIGURATIONS, AdaptConfig
from submission.model import meta_model
from submission.serve import answer, hello

CONFIG = AdaptConfig(parameters="all", lr=0.05, epochs=2, chunk_tokens=64, sequence_length=16, batch_sequences=2)


@pytest.fixture
def text() -> np.ndarray:
    """int32 [65]: a phrase of 13 tokens, again and again."""
    return np.resize(np.random.default_rng(0).permutation(48)[:13], 65).astype(np.int32)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def mean_nats(model, tokens: np.ndarray) -> float:
    row = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.no_grad():
        return model(row[:, :-1], row[:, 1:]).item()


@pytest.mark.parametrize(("which", "count"), [("mlp_down", 8_650_752), ("mlp", 17_301_504), ("all", 27_067_484)])
def test_groups_of_the_record_have_the_published_sizes(which, count):
    """8.7M, 17.3M and 27.1M parameters."""
    params = adapted_parameters(meta_model(CONFIGURATIONS["record"].model), which)
    assert sum(param.numel() for param in params.values()) == count


def test_the_record_is_configured_as_published():
    config = CONFIGURATIONS["record"].adapt
    assert (config.lr, config.momentum, config.epochs, config.gradient_clip) == (0.002, 0.9, 3, 1.0)
    assert config.chunk_tokens == 32_768 == config.batch_sequences * config.sequence_length
    assert config.sequence_length == CONFIGURATIONS["record"].serve.window


@pytest.mark.parametrize("which", ["all", "mlp", "mlp_down"])
def test_only_what_is_named_changes_and_all_of_it_does(model, text, which):
    before = weights_of(model)
    Adapter(model, replace(CONFIG, parameters=which)).observe(Observation(text, 0, 5))
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    endings = {"all": "", "mlp": ("mlp.up.weight", "mlp.down.weight"), "mlp_down": "mlp.down.weight"}
    assert changed == {name for name in before if name.endswith(endings[which])}
    assert len(changed) == {"all": len(before), "mlp": 10, "mlp_down": 5}[which]


@pytest.mark.parametrize("which", ["all", "mlp", "mlp_down"])
def test_text_like_the_observed_gets_cheaper(model, text, which):
    adapter = Adapter(model, replace(CONFIG, parameters=which))
    before = mean_nats(model, text[20:50])
    for chunk in range(5):
        adapter.observe(Observation(text, chunk, 10))
    assert mean_nats(model, text[20:50]) < before - 0.3


class FakeRequest:
    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens, self.scored = tokens, 4
        self.logits = np.empty((len(tokens), 4, 48), np.float32)

    def reply(self) -> None:
        pass


class FakeSession:
    """Two requests, an observation between them."""

    def __init__(self, tokens: np.ndarray, observation: Observation) -> None:
        self.first, self.second, self.observation = FakeRequest(tokens), FakeRequest(tokens), observation

    def requests(self, observe=None):
        yield self.first
        if observe:
            observe(self.observation)
        yield self.second


def test_nothing_changes_before_the_first_observation(model, text):
    """The first chunk's logits are those of a server that does not adapt, bit for bit; the next chunk's are not."""
    windows = text[:48].reshape(3, 16)
    fixed, adaptive = (FakeSession(windows, Observation(text, 0, 5)) for _ in range(2))
    answer(fixed, model)
    answer(adaptive, model, Adapter(model, CONFIG))
    assert np.array_equal(adaptive.first.logits, fixed.first.logits)
    assert not np.allclose(adaptive.second.logits, fixed.second.logits)


def test_rehearsing_leaves_no_trace_once_the_weights_are_loaded(model, text):
    """Not in the weights, and not in the momentum."""
    loaded = weights_of(model)
    Adapter(model, CONFIG).observe(Observation(text, 0, 5))
    expected = weights_of(model)
    rehearse(model, CONFIG)
    model.load_state_dict(loaded)
    Adapter(model, CONFIG).observe(Observation(text, 0, 5))
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())


def test_the_server_declares_its_chunk(tiny):
    assert hello(tiny, CONFIG).chunk == 64
    assert hello(tiny).chunk == 0


def reference(model, config: AdaptConfig, chunks: list[np.ndarray], count: int) -> None:
    """The protocol written plainly: one sequence at a time, torch's own clipping, nothing padded."""
    params = list(adapted_parameters(model, config.parameters).values())
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(params, lr=1.0, momentum=config.momentum)
    for chunk, tokens in enumerate(chunks):
        optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * chunk / count)) / 2
        ends = range(0, len(tokens) - 1, config.sequence_length)
        sequences = [torch.from_numpy(tokens[start : start + config.sequence_length + 1]).long() for start in ends]
        for _ in range(config.epochs):
            for first in range(0, len(sequences), config.batch_sequences):
                batch = sequences[first : first + config.batch_sequences]
                optimizer.zero_grad()
                total = sum(
                    F.cross_entropy(model.logits(part[None, :-1], len(part) - 1)[0], part[1:], reduction="sum")
                    for part in batch
                )
                (total / sum(len(part) - 1 for part in batch)).backward()
                torch.nn.utils.clip_grad_norm_(params, config.gradient_clip)
                optimizer.step()


@pytest.mark.parametrize("which", ["all", "mlp_down"])
@pytest.mark.parametrize("count", [65, 60, 12])  # tokens: whole sequences, a last one of 11 targets, less than one
@pytest.mark.parametrize("clip", [0.1, 100.0])
def test_steps_are_those_of_the_protocol(model, text, which, count, clip):
    config = replace(CONFIG, parameters=which, gradient_clip=clip)
    chunks = [text[:count], text[65 - count :]]
    start = weights_of(model)
    reference(model, config, chunks, 4)
    expected = weights_of(model)
    model.load_state_dict(start)
    adapter = Adapter(model, config)
    for chunk, tokens in enumerate(chunks):
        adapter.observe(Observation(tokens, chunk, 4))
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_a_large_gradient_moves_the_weights_by_lr_times_the_clip(model, text):
    config = replace(CONFIG, epochs=1, batch_sequences=4, gradient_clip=0.01)
    before = weights_of(model)
    Adapter(model, config).observe(Observation(text, 0, 5))
    moved = math.sqrt(sum((w - before[name]).double().square().sum().item() for name, w in model.state_dict().items()))
    assert moved == pytest.approx(config.lr * config.gradient_clip, rel=1e-2)


def test_the_learning_rate_is_half_a_cosine():
    rates = [cosine_lr(AdaptConfig(lr=0.002), chunk, 4) for chunk in range(4)]
    assert rates == pytest.approx([0.002, 0.001 * (1 + math.sqrt(0.5)), 0.001, 0.001 * (1 - math.sqrt(0.5))])


@pytest.mark.parametrize(
    ("count", "rows", "length"), [(65, 4, 16), (66, 5, 16), (18, 2, 16), (17, 1, 16), (6, 1, 5), (2, 1, 1)]
)
def test_every_token_but_the_first_is_a_target_once(count, rows, length):
    """Each of them behind the tokens before it, and what fills up the last sequence is no target."""
    tokens = torch.arange(100, 100 + count)
    inputs, targets = cut_sequences(tokens, 16)
    assert inputs.shape == targets.shape == (rows, length)
    real = targets >= 0
    assert targets[real].tolist() == tokens[1:].tolist()
    assert inputs[real].tolist() == tokens[:-1].tolist()


def test_the_same_observations_give_the_same_weights(model, text):
    """Bit for bit; with another number of threads up to rounding."""
    start, outcomes = weights_of(model), []
    for threads in (2, 2, 1):
        torch.set_num_threads(threads)
        model.load_state_dict(start)
        adapter = Adapter(model, CONFIG)
        for chunk in range(3):
            adapter.observe(Observation(text, chunk, 5))
        outcomes.append(weights_of(model))
    torch.set_num_threads(2)
    first, again, other = outcomes
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    for name, weight in first.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-5)
