"""Logits become the nats of the definition, on any number of threads, and only as they were when the model replied."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import HELLO, stream

from harness.errors import Reason, RefereeError, Violation
from harness.referee import _SeedRun
from harness.scoring import wire
from harness.scoring.nats import block_nats, block_rows, commit, token_nats
from harness.scoring.scorer import Score


def plain(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Float64 [n], from the definition: the logarithm of the softmax's denominator, less the target's logit."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=1)
    return np.log(np.exp(wide - largest[:, None]).sum(axis=1)) + (largest - wide[np.arange(len(targets)), targets])


def drawn(rows: int, vocab: int, scale: float = 4.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(0, scale, (rows, vocab)).astype(np.float32), random.integers(0, vocab, rows)


VOCAB = 20
BLOCK_ROWS = block_rows(VOCAB)


@given(
    rows=st.integers(1, 70),
    vocab=st.integers(1, 2000),
    scale=st.sampled_from([0.0, 1e-6, 0.1, 1, 10, 100, 1e4, 1e9, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_the_definition(rows: int, vocab: int, scale: float, seed: int) -> None:
    logits, targets = drawn(rows, vocab, scale, seed)
    np.testing.assert_allclose(token_nats(logits, targets), plain(logits, targets), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocab", [2, 1024, 65536])
def test_every_row_sums_to_one(vocab: int) -> None:
    """The losses of all tokens under one row of logits are those of a distribution."""
    logits, _ = drawn(1, vocab)
    targets = np.arange(min(vocab, 256))
    shares = np.exp(-token_nats(np.broadcast_to(logits, (len(targets), vocab)), targets))
    wide = np.exp(logits[0].astype(np.float64))
    assert shares.sum() == pytest.approx(wide[: len(targets)].sum() / wide.sum(), rel=2e-7)


@given(offset=st.integers(-(2**20), 2**20), seed=st.integers(0, 1000))
def test_an_offset_that_float32_adds_exactly_changes_no_bit(offset: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = (random.integers(-64, 64, (5, 33)) / 8).astype(np.float32)  # with the offset within 24 bits
    targets = random.integers(0, 33, 5)
    assert (token_nats(logits + np.float32(offset), targets) == token_nats(logits, targets)).all()


LARGEST, LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0, 0], math.log(2)),
        ([LEAST, 0], math.log(2)),
        ([-LEAST, LEAST], math.log(2)),
        ([100, 0], 0),  # e^-100 is below what float64 adds to 1
        ([0, 100], 100),
        ([0, 1000], 1000),
        ([0, 10_000], 10_000),  # the exponential underflows, the loss does not
        ([LARGEST, 0], 0),
        ([0, LARGEST], LARGEST),
        ([-LARGEST, -LARGEST], math.log(2)),
        ([LARGEST, LARGEST], math.log(2)),
        ([20, 0], math.log1p(math.exp(-20))),
    ],
    ids=str,
)
def test_extreme_logits_by_hand(logits: list[float], expected: float) -> None:
    nats = token_nats(np.array([logits], np.float32), np.array([0]))
    assert nats[0] == pytest.approx(expected, rel=1e-7, abs=1e-15)


@pytest.mark.parametrize("gap", [1, 5, 8, 9, 10, 11, 13, 17, 40, 88])
@pytest.mark.parametrize("top", [0.1, 1000.1, 123_456.7])
def test_rounding_never_looks_like_broken_arithmetic(gap: float, top: float) -> None:
    """The worst rows: the rounding of every difference goes the same way, and all of them together matter."""
    logits = np.full((1, 65536), np.float32(top) - np.float32(gap), np.float32)
    logits[0, 0] = top
    assert token_nats(logits, np.array([1])) == pytest.approx(plain(logits, np.array([1])), rel=1e-7, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, BLOCK_ROWS, 3 * BLOCK_ROWS + 6])
def test_one_logit_that_is_not_finite_is_found_in_any_block(value: float, row: int) -> None:
    logits, targets = drawn(3 * BLOCK_ROWS + 7, VOCAB)
    logits[row, 11] = value
    with pytest.raises(Violation) as caught:
        commit(logits, targets)
    assert caught.value.reason is Reason.SCORE_NOT_FINITE


def test_what_float32_cannot_tell_from_infinity_is_not_finite() -> None:
    with pytest.raises(Violation) as caught:
        token_nats(np.array([[-LARGEST, LARGEST]], np.float32), np.array([0]))
    assert caught.value.reason is Reason.SCORE_NOT_FINITE


def test_finite_logits_that_are_too_large_to_be_added_are_finite() -> None:
    logits = np.full((2, 64), -LARGEST / 2, np.float32)
    logits[:, 3] = 0
    assert token_nats(logits, np.array([3, 4])) == pytest.approx([0, LARGEST / 2], rel=1e-6)


@pytest.mark.parametrize("rows", [1, 2, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 17])
def test_blocks_do_not_show(rows: int) -> None:
    """Each row is computed alone, whatever lies in the memory that blocks are read into."""
    logits, targets = drawn(rows, VOCAB, seed=rows)
    alone = np.concatenate([token_nats(logits[row : row + 1], targets[row : row + 1]) for row in (0, rows - 1)])
    assert (commit(logits, targets)[[0, rows - 1]] == alone).all()
    np.testing.assert_allclose(commit(logits, targets), plain(logits, targets), rtol=1e-6, atol=1e-6)


def test_many_losses_add_up_in_float64() -> None:
    """Attack E12: 47,851,520 losses added up in float32 lose a fifth; even added in pairs they lose the ninth digit."""
    one, count = np.float32(math.log(7.5)), 200_000
    nats = np.full(count, one)
    assert abs(float(nats.sum(dtype=np.float32)) / (float(one) * count) - 1) > 1e-9, "float32 would be seen"
    text = np.ones(count + 1, np.uint16)
    dataset = SimpleNamespace(val=text, val_bytes=np.full(count, 3), text_bytes=3 * count, begin_token=0)
    told: list[str] = []
    seed_run = SimpleNamespace(
        dataset=dataset,
        seed=1,
        numbers={},
        run=SimpleNamespace(ledger=SimpleNamespace(append=lambda name, **_: told.append(name))),
    )
    _SeedRun._count(seed_run, Score(nats, wire.Hello(**HELLO), ()))
    assert seed_run.numbers["val_loss"] == pytest.approx(float(one), rel=1e-12)
    assert seed_run.numbers["val_bpb"] == pytest.approx(float(one) / math.log(2) / 3, rel=1e-12)
    assert told == ["score"]


def test_a_scorer_adds_no_bias(stage) -> None:
    """Every loss is ln V to the last bit of float32."""
    tokens, vocab = stream(20_001), HELLO["vocab_size"]
    at_work = stage(tokens)

    def serve_zeros(path: str, hello: wire.Hello) -> None:
        for request in wire.Session(hello, path).requests():
            request.reply()

    at_work.serve(serve_zeros, [wire.Hello(**{**HELLO, "window": 512, "stride": 256, "batch": 8})])
    nats = at_work.score().nats
    assert (nats == np.float32(math.log(vocab))).all()
    assert nats.sum(dtype=np.float64) == pytest.approx(20_000 * math.log(vocab), rel=1e-7)


@pytest.fixture
def write_while_computing(monkeypatch):
    """Be a model that writes to its logits when block `number` of them has been copied; gives what was computed."""

    def arrange(write: Callable[[], object], number: int = 0) -> list[np.ndarray]:
        computed: list[np.ndarray] = []

        def write_and_compute(block: np.ndarray, targets: np.ndarray) -> np.ndarray:
            if len(computed) == number:
                write()
            computed.append(block_nats(block, targets))
            return computed[-1]

        monkeypatch.setattr("harness.scoring.nats.block_nats", write_and_compute)
        return computed

    return arrange


@pytest.mark.parametrize("row", [0, BLOCK_ROWS + 3, 4 * BLOCK_ROWS - 1])
@pytest.mark.parametrize("column", [0, 7, VOCAB - 1])
def test_one_bit_written_after_the_reply_is_seen(write_while_computing, row: int, column: int) -> None:
    shared, targets = drawn(4 * BLOCK_ROWS, VOCAB)

    def flip_one_bit() -> None:
        shared.view(np.int32)[row, column] ^= 1

    write_while_computing(flip_one_bit, row // BLOCK_ROWS)
    with pytest.raises(Violation) as caught:
        commit(shared, targets)
    assert caught.value.reason is Reason.SCORE_PROTOCOL
    assert "after the reply" in caught.value.text


@pytest.mark.parametrize("shift", [-60, -104, 1000, np.nan], ids=str)
@pytest.mark.parametrize("number", [0, 2])
def test_what_is_written_after_the_reply_counts_for_nothing(write_while_computing, shift: float, number: int) -> None:
    """The largest logit, the chosen one and the sum are all of one copy."""
    shared, targets = drawn(3 * BLOCK_ROWS, VOCAB)
    expected = token_nats(shared, targets)
    computed = write_while_computing(lambda: shared.__iadd__(np.float32(shift)), number)
    with pytest.raises(Violation, match="after the reply"):
        commit(shared, targets)
    assert (np.concatenate(computed) == expected[: (number + 1) * BLOCK_ROWS]).all()


@pytest.mark.parametrize("vocab", [1, 3, 4])
def test_a_zero_that_changes_its_sign_counts_as_written(write_while_computing, vocab: int) -> None:
    """Bits are compared, not numbers: the two zeros are equal as numbers."""
    shared, targets = np.zeros((3, vocab), np.float32), np.zeros(3, np.int64)
    write_while_computing(lambda: shared.__setitem__((1, 0), -0.0))
    with pytest.raises(Violation):
        commit(shared, targets)


def test_broken_arithmetic_is_the_referee_s_error(monkeypatch) -> None:
    """Not the submission's fault, and never a score."""
    logits, targets = drawn(3 * BLOCK_ROWS, VOCAB)
    exact = np.einsum

    def inexact(*arguments, **options) -> np.ndarray:
        return 1.00001 * exact(*arguments, **options)

    monkeypatch.setattr(np, "einsum", inexact)
    with pytest.raises(RefereeError, match="arithmetic failed"):
        commit(logits, targets)


def test_a_loss_below_zero_is_the_referee_s_error(monkeypatch) -> None:
    exact = np.log
    monkeypatch.setattr(np, "log", lambda values: exact(values) - 1e-7)
    with pytest.raises(RefereeError, match="least loss -"):
        token_nats(np.array([[50, 0]], np.float32), np.array([0]))
