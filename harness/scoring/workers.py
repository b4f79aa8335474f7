"""The scorer's workers: processes that turn large replies into nats, each a part.

Processes and not threads: numpy takes the interpreter's lock back after every call, and waking a thread for that costs
as much as the call (docs/decisions/0005-scoring-workers.md). A worker maps the ranks' logits, gets
targets over a socket, and returns losses or what was wrong. It ends when the harness hangs up, or ends itself.

`python -m harness.scoring.workers CHANNEL SEGMENT...` (descriptors)."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np

from harness.errors import Reason, RefereeError, Violation
from harness.processes import HARNESS_PRIORITY, become_undumpable, favour
from harness.scoring import nats, wire

MOST_WORKERS = 16
WORTH_LOGITS = 1_000_000_000  # of a whole stream: some four seconds of one core; a worker takes a quarter to start
PATIENCE_SECONDS = 60.0  # a part takes milliseconds
END_SECONDS = 5.0


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


class Workers:
    """`count` workers over the shared memory of the ranks of one model server (`descriptors`, in their order)."""

    def __init__(self, hello: wire.Hello, descriptors: Sequence[int], count: int) -> None:
        self._hello = hello
        self._channels: list[Connection] = []
        self._processes: list[subprocess.Popen] = []
        try:
            for _ in range(count):
                self._start(descriptors)
        except BaseException:
            self.close()
            raise

    def _start(self, descriptors: Sequence[int]) -> None:
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
        self._channels.append(ours)
        self._processes.append(process)
        ours.send(asdict(self._hello))

    def commit(self, answers: Sequence[Answer]) -> list[np.ndarray]:
        """As `nats.commit`, for each answer. Raises RefereeError if a worker is lost."""
        shares = self._cut(answers)
        found: list[list[np.ndarray]] = [[] for _ in answers]
        try:
            for channel, share in zip(self._channels, shares, strict=False):
                channel.send([(answers[number], rows) for number, rows in share])
            heard = [self._hear(channel) for channel, _ in zip(self._channels, shares, strict=False)]
        except (OSError, EOFError):
            raise RefereeError("a worker of the scorer was lost") from None
        for share, parts in zip(shares, heard, strict=True):
            for (number, _), part in zip(share, parts, strict=True):
                found[number].append(part)
        return [np.concatenate(parts) for parts in found]

    def _cut(self, answers: Sequence[Answer]) -> list[list[tuple[int, slice]]]:
        """Parts (answer, rows) for each worker, nearly equal, but none smaller than a block but for the last."""
        total = sum(len(answer.targets) for answer in answers)
        size = max(math.ceil(total / len(self._channels)), nats.block_rows(self._hello.vocab_size))
        shares: list[list[tuple[int, slice]]] = [[]]
        room = size
        for number, answer in enumerate(answers):
            first = 0
            while first < len(answer.targets):
                if not room:
                    shares.append([])
                    room = size
                last = min(first + room, len(answer.targets))
                shares[-1].append((number, slice(first, last)))
                room -= last - first
                first = last
        return shares

    def _hear(self, channel: Connection) -> list[np.ndarray]:
        if not channel.poll(PATIENCE_SECONDS):
            raise RefereeError("a worker of the scorer does not answer")
        said = channel.recv()
        if isinstance(said, list):
            return said
        kind, *arguments = said
        raise {"violation": Violation, "error": RefereeError}[kind](*arguments)

    def close(self) -> None:
        """Let them end."""
        for channel in self._channels:
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
        parts: list[tuple[Answer, slice]] = channel.recv()
        try:
            channel.send(
                [
                    nats.commit(answer.logits(hello, segments[answer.rank])[rows], answer.targets[rows], own)
                    for answer, rows in parts
                ]
            )
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
