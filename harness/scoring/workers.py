"""The scorer's workers: processes that turn large replies into nats, each a part.

Processes and not threads: numpy takes the interpreter's lock back after every call, and waking a thread for that costs
as much as the call (docs/decisions/0005-scoring-workers.md). A worker maps the ranks' logits, gets
targets over a socket, and returns losses or what was wrong. It ends when the harness hangs up, or ends itself. Nobody
waits for all of them: the scorer hands in answers as they come and takes back what is finished.

`python -m harness.scoring.workers CHANNEL SEGMENT...` (descriptors)."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np

from harness.errors import Reason, RefereeError, Violation
from harness.processes import HARNESS_PRIORITY, become_undumpable, favour
from harness.scoring import nats, wire

MOST_WORKERS = 16
WORTH_LOGITS = 100_000_000  # of a whole stream: half a second of one core; a worker takes a quarter to start
PART_BLOCKS = 4  # of `nats`, at least in a part: its arithmetic should take much longer than handing it over
MOST_GIVEN = 2  # parts that a worker is given: the next one lies there when it is done with one
PATIENCE_SECONDS = 60.0  # a part takes milliseconds
END_SECONDS = 5.0
LOST = "a worker of the scorer was lost"


@dataclass(frozen=True)
class Answer:
    """A request that a rank has answered: `rows` windows of `scored` positions in `slot`. targets: integers [rows *
    scored].
    """

    rank: int
    slot: int
    rows: int
    scored: int
    targets: np.ndarray

    def logits(self, hello: wire.Hello, segment: mmap.mmap) -> np.ndarray:
        """Float32 [rows * scored, vocab_size], in `segment`, the rank's shared memory."""
        return hello.logit_view(segment, self.slot, self.rows, self.scored).reshape(-1, hello.vocab_size)


@dataclass
class _Job:
    """An answer in work: its losses, and how many parts of it are still missing."""

    answer: Answer
    losses: np.ndarray
    missing: int


@dataclass(frozen=True)
class _Part:
    """Some rows of an answer, for one worker."""

    job: _Job
    rows: slice

    def message(self) -> tuple[Answer, slice]:
        """What the worker is told: the answer with the targets of these rows only."""
        return replace(self.job.answer, targets=self.job.answer.targets[self.rows]), self.rows


class Workers:
    """`count` workers over the shared memory of the ranks of one model server (`descriptors`, in their order).

    `submit` answers; whenever something can be read from one of the `busy` channels, `receive` it. As many workers as
    there are processors stay each on its own: a model with a thread on every processor waits for the thread that is
    pushed aside longest, and workers that come together on one processor push its thread aside for all of them."""

    def __init__(self, hello: wire.Hello, descriptors: Sequence[int], count: int) -> None:
        self._hello = hello
        self._given: dict[Connection, deque[_Part]] = {}  # in the order in which a worker answers
        self._since: dict[Connection, float] = {}  # when a worker began with the first part that it was given
        self._waiting: deque[_Part] = deque()
        self._processes: list[subprocess.Popen] = []
        processors = sorted(os.sched_getaffinity(0))
        places = [{processor} for processor in processors] if count == len(processors) else count * [set(processors)]
        try:
            for place in places:
                self._start(descriptors, place)
        except BaseException:
            self.close()
            raise

    def _start(self, descriptors: Sequence[int], processors: set[int]) -> None:
        ours, theirs = Pipe()
        inherited = [theirs.fileno(), *descriptors]
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.scoring.workers", *map(str, inherited)],
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C is the harness's to handle
            cwd=Path(__file__).parents[2],
        )
        theirs.close()
        self._given[ours] = deque()
        self._processes.append(process)
        with contextlib.suppress(ProcessLookupError):  # one that is gone is found out when it is to answer
            os.sched_setaffinity(process.pid, processors)
        ours.send(asdict(self._hello))

    @property
    def busy(self) -> list[Connection]:
        """The channels from which something will come."""
        return [channel for channel, given in self._given.items() if given]

    def submit(self, answer: Answer) -> None:
        """Let the workers compute, as `nats.commit`, the losses of an answer. Raises RefereeError if one is lost."""
        parts = self._cut(len(answer.targets))
        job = _Job(answer, np.empty(len(answer.targets)), len(parts))
        self._waiting.extend(_Part(job, rows) for rows in parts)
        self._feed()

    def _cut(self, count: int) -> list[slice]:
        """Rows for each part, nearly equal: one for each worker, or fewer, of at least `PART_BLOCKS` blocks."""
        least = PART_BLOCKS * nats.block_rows(self._hello.vocab_size)
        parts = max(1, min(len(self._given), count // least))
        ends = [count * number // parts for number in range(parts + 1)]
        return [slice(first, last) for first, last in pairwise(ends)]

    def _feed(self) -> None:
        """Give what waits to the workers with the least to do."""
        while self._waiting:
            channel, given = min(self._given.items(), key=lambda one: len(one[1]))
            if len(given) == MOST_GIVEN:
                return
            part = self._waiting.popleft()
            if not given:
                self._since[channel] = time.monotonic()
            given.append(part)
            try:
                channel.send(part.message())
            except OSError:
                raise RefereeError(LOST) from None

    def receive(self, channel: Connection) -> list[tuple[Answer, np.ndarray]]:
        """Take what a worker has computed: the answers that are complete by it, with their losses, float64 [rows *
        scored]. Raises Violation as `nats.commit` does, RefereeError if a worker is lost.
        """
        try:
            said = channel.recv()
        except (OSError, EOFError):
            raise RefereeError(LOST) from None
        if not isinstance(said, np.ndarray):
            kind, *arguments = said
            raise {"violation": Violation, "error": RefereeError}[kind](*arguments)
        part = self._given[channel].popleft()
        self._since[channel] = time.monotonic()
        self._feed()
        part.job.losses[part.rows] = said
        part.job.missing -= 1
        return [] if part.job.missing else [(part.job.answer, part.job.losses)]

    def check_patience(self) -> None:
        """Raises RefereeError if a worker has been busy with one part for longer than `PATIENCE_SECONDS`."""
        latest = time.monotonic() - PATIENCE_SECONDS
        if any(self._since[channel] < latest for channel in self.busy):
            raise RefereeError("a worker of the scorer does not answer")

    def close(self) -> None:
        """Let them end."""
        for channel in self._given:
            channel.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            process.kill()
            process.wait()


def work(channel: Connection, descriptors: Sequence[int]) -> None:
    """A worker's life."""
    hello = wire.Hello(**channel.recv())
    segments = [mmap.mmap(descriptor, hello.logit_bytes, prot=mmap.PROT_READ) for descriptor in descriptors]
    own = nats.own_memory(hello.vocab_size)
    while True:
        answer, rows = channel.recv()
        try:
            logits = answer.logits(hello, segments[answer.rank])[rows]
            channel.send(nats.commit(logits, answer.targets, own))
        except Violation as violation:
            channel.send(("violation", Reason(violation.reason), violation.text))
        except RefereeError as error:
            channel.send(("error", str(error)))


def main() -> None:
    become_undumpable()
    favour("self", HARNESS_PRIORITY)
    channel, *descriptors = map(int, sys.argv[1:])
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):  # the harness is done, or gone
        work(Connection(channel), descriptors)


def worth_starting(tokens: int, vocab_size: int) -> int:
    """How many workers a stream of that many tokens is worth on this machine; 0: the caller's own thread is enough."""
    cores = len(os.sched_getaffinity(0))
    return min(MOST_WORKERS, cores) if cores > 1 and tokens * vocab_size >= WORTH_LOGITS else 0


if __name__ == "__main__":
    main()
