"""Logits into nats: the trusted arithmetic, on all the cores that numpy can be given.

Logits are read out of shared memory once, block by block, into memory that the model cannot reach; everything is
computed from that copy. A block fits a core's cache, which is worth a factor of three."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from harness.errors import Reason, RefereeError, Violation

BLOCK_ROWS = 64
MOST_THREADS = 32
NORMALISATION_TOLERANCE = 1e-6


def token_nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats, float64 [n], of `targets` (integers [n]) under `logits` (float32 [n,
    vocab_size], not shared memory).

    The maximum is subtracted from every logit first, so a common offset of any size changes nothing. Exponentials are
    taken in float32 (each within a few units in the last place, 6e-8 of its value) and summed in float64. Raises
    Violation if a logit is not finite, RefereeError if the arithmetic itself went wrong."""
    largest = logits.max(axis=1)
    if not (np.isfinite(largest).all() and np.isfinite(logits.min())):
        raise Violation(Reason.SCORE_NOT_FINITE, "a logit is NaN or infinite")
    with np.errstate(over="ignore", under="ignore"):  # far below the maximum counts as nothing
        shifted = np.subtract(logits, largest[:, None])
        np.exp(shifted, out=shifted)
    log_total = np.log(np.einsum("ij->i", shifted, dtype=np.float64))
    chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
    nats = log_total + (largest.astype(np.float64) - chosen)
    # What cannot happen, checked on each block's first row: a distribution that does not sum to one, a certainty
    # beyond one.
    total = np.exp(logits[0].astype(np.float64) - float(largest[0]) - log_total[0]).sum()
    if abs(total - 1) > NORMALISATION_TOLERANCE or nats.min() < -1e-9:
        raise RefereeError(f"the scorer's arithmetic failed: probabilities sum to {total}, least loss {nats.min()}")
    return nats


class Arithmetic:
    """`token_nats` over many threads; numpy lets go of the interpreter's lock while it computes."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = min(MOST_THREADS, threads or len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(self.threads, "nats")
        self._copy = np.empty(0, np.float32)

    def commit(self, shared: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The losses, float64 [n], of `targets` under the logits in `shared`, float32 [n, vocab_size], as they are now.

        Raises Violation also if they are written to in the meantime, which has no honest use: the model has said that
        they are complete."""
        if self._copy.size < shared.size:
            self._copy = np.empty(shared.size, np.float32)
        copy = self._copy[: shared.size].reshape(shared.shape)
        nats = np.empty(len(shared), np.float64)

        def score(rows: slice) -> None:
            for first in range(rows.start, rows.stop, BLOCK_ROWS):
                block = slice(first, min(first + BLOCK_ROWS, rows.stop))
                copy[block] = shared[block]
                nats[block] = token_nats(copy[block], targets[block])

        self._for_all_rows(score, len(shared))
        changed = []

        def compare(rows: slice) -> None:
            if not np.array_equal(copy[rows].view(np.int32), shared[rows].view(np.int32)):
                changed.append(rows)

        self._for_all_rows(compare, len(shared))
        if changed:
            raise Violation(
                Reason.SCORE_PROTOCOL, "logits were written to after the reply that said they were complete"
            )
        return nats

    def _for_all_rows(self, work, count: int) -> None:
        each = -(-count // self.threads)
        each = -(-each // BLOCK_ROWS) * BLOCK_ROWS
        parts = [slice(first, min(first + each, count)) for first in range(0, count, each)]
        futures = [self._pool.submit(work, part) for part in parts[1:]]
        try:
            work(parts[0])  # the calling thread would only wait
        finally:
            errors = [future.exception() for future in futures]
        for error in filter(None, errors):
            raise error

    def close(self) -> None:
        self._pool.shutdown()
