"""Logits into nats: the trusted arithmetic.

Logits are copied out of shared memory, block by block, into memory that the model cannot reach; everything is computed
from that one copy, in place. A block fits a core's cache, and no step allocates it anew: fresh pages cost as much as
the exponentials."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

from harness.errors import Reason, RefereeError, Violation
from harness.scoring.wire import LOGIT_DTYPE

BLOCK_BYTES = 1 << 19  # of logits: with those that they are copied from, a megabyte of a core's cache
NORMALISATION_TOLERANCE = 1e-6


def token_nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats, float64 [n], of `targets` (integers [n]) under `logits` (float32 [n,
    vocab_size]).

    The maximum is subtracted from every logit first, so a common offset of any size changes nothing. Exponentials are
    taken in float32 (each within a few units in the last place, 6e-8 of its value) and summed in float64. Raises
    Violation if a logit is not finite, RefereeError if the arithmetic itself went wrong."""
    return commit(np.ascontiguousarray(logits), targets)


def commit(logits: np.ndarray, targets: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """The losses, float64 [n], of targets [n] under logits in shared memory, float32 [n, vocab_size] in one piece, as
    they are now. own: float32, memory for one block (see `own_memory`) that can be overwritten.

    Raises Violation as `token_nats` does, and if a block of the logits is written to while its losses are computed,
    which has no honest use: the model has said that they are complete. What is written counts for nothing, seen or
    not."""
    own = own_memory(logits.shape[1]) if own is None else own
    nats = np.empty(len(logits))
    for rows in _blocks(len(logits), len(own)):
        block = own[: rows.stop - rows.start]
        np.copyto(block, logits[rows])
        checksum = _checksum(block)
        nats[rows] = block_nats(block, targets[rows])
        if _checksum(logits[rows]) != checksum:
            raise Violation(Reason.SCORE_PROTOCOL, "logits were written to after the reply that called them complete")
    return nats


def block_nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The losses, float64 [n], of targets [n] under logits, float32 [n, vocab_size], which are overwritten."""
    with np.errstate(all="ignore"):  # what is not finite, and what is so far below that it counts as nothing
        distances = np.subtract(logits, logits.max(axis=1, keepdims=True), out=logits)
        sums = np.einsum("ij->i", distances)
        if not np.isfinite(sums).all() and not np.isfinite(distances).all():  # finite ones may be too large to be added
            text = "a logit is NaN or infinite, or further from the largest than float32 can tell"
            raise Violation(Reason.SCORE_NOT_FINITE, text)
        least_certain = int(sums.argmax())
        witness = distances[least_certain].astype(np.float64)
        chosen = distances[np.arange(len(targets)), targets]
        np.exp(distances, out=distances)
    totals = np.einsum("ij->i", distances, dtype=np.float64)
    log_totals = np.log(totals)
    nats = log_totals - chosen
    # What cannot happen, whatever the logits: a distribution that does not sum to one (the least certain row is looked
    # at in float64), a certainty beyond one.
    total = np.exp(witness - log_totals[least_certain]).sum()
    if not abs(total - 1) <= NORMALISATION_TOLERANCE or not nats.min() >= -1e-9:
        raise RefereeError(f"the scorer's arithmetic failed: probabilities sum to {total}, least loss {nats.min()}")
    return nats


def own_memory(vocab_size: int) -> np.ndarray:
    """Memory for one block, float32 [block_rows, vocab_size]; kept by who commits many times. It begins with a page,
    as shared memory does: vector instructions are slower across lines of the cache.
    """
    shape = block_rows(vocab_size), vocab_size
    return np.frombuffer(mmap.mmap(-1, shape[0] * shape[1] * LOGIT_DTYPE.itemsize), LOGIT_DTYPE).reshape(shape)


def block_rows(vocab_size: int) -> int:
    return max(1, BLOCK_BYTES // (vocab_size * LOGIT_DTYPE.itemsize))


def _blocks(count: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def _checksum(logits: np.ndarray) -> int:
    """Of the bits of the logits: not to prove anything, only to see most changes."""
    bits = logits.reshape(-1).view(np.uint32)
    return int(np.bitwise_xor.reduce(bits if len(bits) % 2 else bits.view(np.uint64)))
