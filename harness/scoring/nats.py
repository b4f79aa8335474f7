"""Logits into nats: the trusted arithmetic.

Logits are read out of shared memory once, block by block, into memory that the model cannot reach, as their distances
to the row's largest one; everything is computed from those. A block fits a core's cache, and no step allocates it anew:
fresh pages cost as much as the exponentials."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.errors import Reason, RefereeError, Violation
from harness.scoring.wire import LOGIT_DTYPE

BLOCK_BYTES = 1 << 19  # of logits
NORMALISATION_TOLERANCE = 1e-6
WRITTEN = "logits were written to after the reply that called them complete"


def token_nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats, float64 [n], of `targets` (integers [n]) under `logits` (float32 [n,
    vocab_size] in one piece).

    The maximum is subtracted from every logit first, so a common offset of any size changes nothing. Exponentials are
    taken in float32 (each within a few units in the last place, 6e-8 of its value) and summed in float64. Raises
    Violation if a logit is not finite, RefereeError if the arithmetic itself went wrong."""
    return commit(np.ascontiguousarray(logits), targets)


class Reply:
    """The logits of one reply, float32 [n, vocab_size] in one piece, and what has been read of them.

    `read` is called for every block, then `nats`."""

    def __init__(self, logits: np.ndarray, targets: np.ndarray) -> None:
        self._logits = logits
        self._targets = targets
        self._largest = np.empty(len(targets), np.float32)
        self._sums = np.empty(len(targets), np.float32)  # of the distances: finite only where all of them are
        self._chosen = np.empty(len(targets), np.float32)
        self._totals = np.empty(len(targets), np.float64)
        self._finite = True
        self._uncertain: list[tuple[float, int, np.ndarray]] = []

    @property
    def vocab_size(self) -> int:
        return self._logits.shape[1]

    def blocks(self) -> Iterator[slice]:
        """The rows in pieces, each for one call of `read`."""
        step = block_rows(self.vocab_size)
        return (slice(first, min(first + step, len(self._logits))) for first in range(0, len(self._logits), step))

    def checksum(self, rows: slice) -> int:
        """Of the bits of the logits of `rows`, as they are now: not to prove anything, only to see most changes."""
        bits = self._logits[rows].reshape(-1).view(np.uint32)
        return int(np.bitwise_xor.reduce(bits if len(bits) % 2 else bits.view(np.uint64)))

    def read(self, rows: slice, own: np.ndarray) -> int:
        """Read the logits of `rows` into `own` (float32, of their shape), less the largest of their row; returns their
        checksum.
        """
        logits = self._logits[rows]
        checksum = self.checksum(rows)
        np.maximum.reduce(logits, axis=1, out=self._largest[rows])
        with np.errstate(all="ignore"):  # what is not finite, and what is so far below that it counts as nothing
            np.subtract(logits, self._largest[rows, None], out=own)
            self.take(rows, own)
        return checksum

    def take(self, rows: slice, distances: np.ndarray) -> None:
        """Compute from the distances of `rows` to their largest logit, which is overwritten."""
        sums = self._sums[rows]
        np.einsum("ij->i", distances, out=sums)
        if not np.isfinite(sums).all():  # finite ones may also be too large to be added
            self._finite &= bool(np.isfinite(distances).all())
        uncertain = int(sums.argmax())
        self._uncertain.append((float(sums[uncertain]), rows.start + uncertain, distances[uncertain].copy()))
        self._chosen[rows] = distances[np.arange(len(distances)), self._targets[rows]]
        np.exp(distances, out=distances)
        np.einsum("ij->i", distances, dtype=np.float64, out=self._totals[rows])

    def nats(self) -> np.ndarray:
        """The losses, float64 [n]."""
        if not self._finite:
            text = "a logit is NaN or infinite, or further from the largest than float32 can tell"
            raise Violation(Reason.SCORE_NOT_FINITE, text)
        # The largest one, whose distance is 0, adds 1. Otherwise it was replaced between two reads; far below 0 the
        # exponentials are too coarse for a distribution.
        if not (self._totals.min() >= 1 and self._totals.max() <= self._logits.shape[1]):
            raise Violation(Reason.SCORE_PROTOCOL, WRITTEN)
        log_totals = np.log(self._totals)
        nats = log_totals - self._chosen
        # What cannot happen, whatever the logits: a distribution that does not sum to one (the least certain row is
        # looked at in float64), a certainty beyond one.
        _, row, distances = max(self._uncertain, key=lambda one: one[0])
        total = np.exp(distances.astype(np.float64) - log_totals[row]).sum()
        if not abs(total - 1) <= NORMALISATION_TOLERANCE or nats.min() < -1e-9:
            raise RefereeError(f"the scorer's arithmetic failed: probabilities sum to {total}, least loss {nats.min()}")
        return nats


def commit(logits: np.ndarray, targets: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """The losses, float64 [n], of targets [n] under logits in shared memory, float32 [n, vocab_size] in one piece, as
    they are now. own: float32, memory for one block (see `own_memory`) that can be overwritten.

    Raises Violation as `token_nats` does, and if the logits are written to in the meantime, which has no honest use:
    the model has said that they are complete. What is written counts for nothing, seen or not."""
    reply = Reply(logits, targets)
    own = own_memory(reply.vocab_size) if own is None else own
    checksums = [(rows, reply.read(rows, own[: rows.stop - rows.start])) for rows in reply.blocks()]
    nats = reply.nats()
    if not all(reply.checksum(rows) == checksum for rows, checksum in checksums):
        raise Violation(Reason.SCORE_PROTOCOL, WRITTEN)
    return nats


def own_memory(vocab_size: int) -> np.ndarray:
    """Memory for one block, float32 [block_rows, vocab_size]; kept by who commits many times."""
    return np.empty((block_rows(vocab_size), vocab_size), np.float32)


def block_rows(vocab_size: int) -> int:
    return max(1, BLOCK_BYTES // (vocab_size * LOGIT_DTYPE.itemsize))
