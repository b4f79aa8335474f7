"""Logits into nats: the trusted arithmetic, on all the cores that numpy can be given.

Logits are read out of shared memory once, block by block, into memory that the model cannot reach; everything is
computed from that copy. A block and its workspace fit a core's cache, and no step allocates them anew: fresh pages cost
as much as the exponentials, and threads queue for them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from ctypes import CDLL, c_size_t, c_void_p
from dataclasses import dataclass

import numpy as np

from harness.errors import Reason, RefereeError, Violation

BLOCK_ROWS = 256
MOST_THREADS = 32
PRIORITY = -10  # nice value
NORMALISATION_TOLERANCE = 1e-6
_libc = CDLL(None)  # its calls let go of the interpreter's lock


def token_nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats, float64 [n], of `targets` (integers [n]) under `logits` (float32 [n,
    vocab_size], not shared memory).

    The maximum is subtracted from every logit first, so a common offset of any size changes nothing. Exponentials are
    taken in float32 (each within a few units in the last place, 6e-8 of its value) and summed in float64. Raises
    Violation if a logit is not finite, RefereeError if the arithmetic itself went wrong."""
    rows = Rows(len(logits))
    rows.take(logits, slice(0, len(logits)), np.empty_like(logits))
    return rows.nats(logits, targets)


class Rows:
    """What is known of each row [n] of logits: its largest and smallest one, and the sum of exponentials of their
    distance to the largest.
    """

    def __init__(self, count: int) -> None:
        self.largest = np.empty(count, np.float32)
        self.smallest = np.empty(count, np.float32)
        self.total = np.empty(count, np.float64)

    def take(self, logits: np.ndarray, rows: slice, workspace: np.ndarray) -> None:
        """Look at `logits` [rows, vocab_size], which are those of `rows`; as few calls as can be, as each waits for the
        interpreter's lock. workspace: of the same shape and type, overwritten.
        """
        np.maximum.reduce(logits, axis=1, out=self.largest[rows])
        np.minimum.reduce(logits, axis=1, out=self.smallest[rows])
        with np.errstate(all="ignore"):  # far below the maximum counts as nothing; what is not finite is seen below
            np.subtract(logits, self.largest[rows, None], out=workspace)
            np.exp(workspace, out=workspace)
            np.einsum("ij->i", workspace, dtype=np.float64, out=self.total[rows])

    def nats(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The losses, float64 [n]."""
        if not (np.isfinite(self.largest).all() and np.isfinite(self.smallest).all()):
            raise Violation(Reason.SCORE_NOT_FINITE, "a logit is NaN or infinite")
        largest = self.largest.astype(np.float64)
        chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
        log_total = np.log(self.total)
        nats = log_total + (largest - chosen)
        # What cannot happen, whatever the logits: a distribution that does not sum to one (the least certain row is
        # looked at in float64), a certainty beyond one.
        row = int(self.total.argmax())
        total = np.exp(logits[row].astype(np.float64) - largest[row] - log_total[row]).sum()
        if not abs(total - 1) <= NORMALISATION_TOLERANCE or nats.min() < -1e-9:
            raise RefereeError(f"the scorer's arithmetic failed: probabilities sum to {total}, least loss {nats.min()}")
        return nats


@dataclass
class _Job:
    """The logits of one reply, float32 [n, vocab_size] in one piece, where they are shared and as they were copied."""

    shared: np.ndarray
    copy: np.ndarray
    rows: Rows


class Arithmetic:
    """The same over many threads, for all replies that are there; numpy lets go of the interpreter's lock while it
    computes.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = min(MOST_THREADS, threads or len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(self.threads, "nats", _go_first)
        self._copies: list[np.ndarray] = []  # kept, because fresh memory costs as much as the arithmetic
        self._own = threading.local()

    def commit(self, replies: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """The losses, float64 [n] for each reply, of its targets [n] under its logits in shared memory, float32 [n,
        vocab_size] in one piece, as they are now.

        Raises Violation also if they are written to in the meantime, which has no honest use: the model has said that
        they are complete."""
        jobs = [
            _Job(shared, self._copy(number, shared), Rows(len(shared))) for number, (shared, _) in enumerate(replies)
        ]
        blocks = deque(
            (job, slice(first, min(first + BLOCK_ROWS, len(job.shared))))
            for job in jobs
            for first in range(0, len(job.shared), BLOCK_ROWS)
        )
        threads = min(self.threads, len(blocks))
        if threads == 1:  # so little that waking another thread would take longer
            unchanged = [self._work(blocks)]
        else:
            work = [self._pool.submit(self._work, blocks) for _ in range(threads)]
            wait(work)
            unchanged = [part.result() for part in work]
        nats = [job.rows.nats(job.copy, targets) for job, (_, targets) in zip(jobs, replies, strict=True)]
        if not all(unchanged):
            raise Violation(Reason.SCORE_PROTOCOL, "logits were written to after the reply that called them complete")
        return nats

    def _work(self, blocks: deque[tuple[_Job, slice]]) -> bool:
        """Take blocks until none is left; whether all that were taken still are as they were copied."""
        taken: list[tuple[_Job, slice]] = []
        with contextlib.suppress(IndexError):
            while True:
                job, rows = blocks.popleft()
                taken.append((job, rows))
                np.copyto(job.copy[rows], job.shared[rows])
                job.rows.take(job.copy[rows], rows, self._workspace(job.shared.shape[1])[: rows.stop - rows.start])
        return all(_same(job.copy[rows], job.shared[rows]) for job, rows in taken)

    def _copy(self, number: int, shared: np.ndarray) -> np.ndarray:
        """Memory for the copy of one reply's logits."""
        while len(self._copies) <= number:
            self._copies.append(np.empty(0, np.float32))
        if self._copies[number].size < shared.size:
            self._copies[number] = np.empty(shared.size, np.float32)
        return self._copies[number][: shared.size].reshape(shared.shape)

    def _workspace(self, vocab_size: int) -> np.ndarray:
        """Of this thread, float32 [BLOCK_ROWS, vocab_size]."""
        kept = getattr(self._own, "workspace", None)
        if kept is None or kept.shape[1] != vocab_size:
            kept = self._own.workspace = np.empty((BLOCK_ROWS, vocab_size), np.float32)
        return kept

    def close(self) -> None:
        self._pool.shutdown()


def _go_first() -> None:
    """Let this thread go before a model's on the same processors, where that is permitted: its work is short, and the
    model's threads, who wait for each other, all wait for one that has been pushed aside.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays in one piece, of one shape, hold the same bits."""
    return _libc.memcmp(c_void_p(one.ctypes.data), c_void_p(other.ctypes.data), c_size_t(one.nbytes)) == 0
