"""Calibration text follows from checkpoint and key alone, has the right distribution, and cannot be forged."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from submission.calibration import generate, gumbel_noise, philox, philox_key, replay
from submission.model import Transformer

KEY = "0123456789abcdef" * 4


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    """Random123's known-answer vectors for philox4x32-10."""
    assert philox(torch.tensor(words(counter)), tuple(words(key))).tolist() == words(expected)


def test_philox_works_on_many_counters_at_once():
    counters = torch.randint(2**32, (5, 3, 4), generator=torch.Generator().manual_seed(0))
    together = philox(counters, (1, 2))
    for index in np.ndindex(5, 3):
        assert torch.equal(together[index], philox(counters[index], (1, 2)))


def test_key_is_folded_with_its_domain():
    key = philox_key(KEY)
    assert all(0 <= word < 2**32 for word in key)
    assert philox_key(KEY.upper()) == key
    assert philox_key(KEY[:-1] + "e") != key


@pytest.mark.parametrize("key", ["", "00" * 31, "zz" * 32])
def test_wrong_keys_are_refused(key):
    with pytest.raises(ValueError):
        philox_key(key)


def test_noise_is_gumbel_and_its_places_are_independent():
    noise = gumbel_noise((1, 2), torch.arange(20), torch.arange(30), 50)
    assert noise.shape == (20, 30, 50) and noise.isfinite().all()
    assert stats.kstest(noise.flatten().numpy(), stats.gumbel_r.cdf).pvalue > 0.001
    assert len(noise.unique()) > 29_990  # 30,000 draws of 32 bits: 0.1 collisions expected


def test_noise_depends_on_the_place_only():
    everything = gumbel_noise((1, 2), torch.arange(6), torch.arange(7), 10)
    part = gumbel_noise((1, 2), torch.tensor([4]), torch.tensor([3, 5]), 9)
    torch.testing.assert_close(part[0], everything[4, [3, 5], :9], rtol=1e-14, atol=0)


def test_gumbel_max_samples_the_softmax():
    """20,000 tokens from one distribution at temperature 0.8 against the expected counts."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, 1.5])
    scores = logits.double() / 0.8 + gumbel_noise(philox_key(KEY), torch.arange(200), torch.arange(100), 6)
    counts = torch.bincount(scores.argmax(-1).flatten(), minlength=6).numpy()
    expected = (logits.double() / 0.8).softmax(0).numpy() * 20_000
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_generation_samples_from_the_model(model, tiny):
    """Second tokens, over many sequences, have the distribution that the model states for them."""
    config = replace(tiny.calibration, sequences=4000, length=2)
    text = generate(model, config, KEY)
    assert stats.chisquare(torch.bincount(text[:, 0], minlength=48).numpy()).pvalue > 0.001  # the first: uniform
    expected = (model.logits(text[:, :1], 1)[:, 0].double() / config.temperature).softmax(-1).sum(0)
    counts = torch.bincount(text[:, 1], minlength=48)
    likely = expected >= 5
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum().item()
    assert stats.chi2.sf(statistic, int(likely.sum()) - 1) > 0.001


def test_text_follows_from_checkpoint_and_key(model, tiny):
    text = generate(model, tiny.calibration, KEY)
    assert text.shape == (16, 16)
    assert torch.equal(text, generate(model, tiny.calibration, KEY))
    assert not torch.equal(text, generate(model, tiny.calibration, "00" * 32))
    fewer = generate(model, replace(tiny.calibration, sequences=4), KEY)
    assert torch.equal(fewer, text[:4])


def test_replay_accepts_what_the_model_wrote(model, tiny):
    text = generate(model, tiny.calibration, KEY)
    found = replay(model, text, tiny.calibration.temperature, KEY, margin=1e-3)
    assert found.foreign == 0 and found.exact + found.close == text.numel()
    assert found.largest_margin <= 1e-3


def test_replay_finds_one_changed_token(model, tiny):
    text = generate(model, tiny.calibration, KEY)
    text[5, 15] = (text[5, 15] + 1) % 48
    found = replay(model, text, tiny.calibration.temperature, KEY, margin=1e-3)
    assert found.foreign == 1 and found.largest_margin > 1e-3


@pytest.mark.parametrize("change", ["random text", "key", "temperature", "checkpoint"])
def test_replay_rejects_foreign_text(model, tiny, change):
    text, key, temperature = generate(model, tiny.calibration, KEY), KEY, tiny.calibration.temperature
    if change == "random text":
        text = torch.randint(48, text.shape, generator=torch.Generator().manual_seed(0))
    elif change == "key":
        key = "ff" * 32
    elif change == "temperature":
        temperature = 0.4
    else:
        with torch.no_grad():
            model.blocks[0].mlp.up.weight.mul_(1.2)
    assert replay(model, text, temperature, key, margin=1e-3).foreign > 5


def test_replay_counts_close_misses_apart(model, tiny):
    """Logits off by rounding noise: some tokens may miss the maximum, none by more than twice the noise over T."""
    text = generate(model, tiny.calibration, KEY)
    noise = 0.05

    class Noisy(Transformer):
        def logits(self, tokens, scored):
            logits = super().logits(tokens, scored)
            return logits + noise * torch.rand(logits.shape, generator=torch.Generator().manual_seed(0))

    noisy = Noisy(tiny.model)
    noisy.load_state_dict(model.state_dict())
    found = replay(noisy, text, tiny.calibration.temperature, KEY, margin=noise / tiny.calibration.temperature)
    assert found.foreign == 0 and found.close > 0
    assert 0 < found.largest_margin <= noise / tiny.calibration.temperature
    assert math.isfinite(found.largest_margin)
