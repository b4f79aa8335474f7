"""The ranks of a phase: processes of one machine that start together, prepare together and end together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

# In a sandbox the loopback is the only interface, there are no names to resolve, and looking for another network is an
# attempt to leave. The ring and the workspace make sums of gradients come out the same every time.
ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_IB_DISABLE": "1",
    "NCCL_ALGO": "Ring",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


class Barrier(Protocol):
    """Of multiprocessing or threading."""

    def wait(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One of `count` processes, numbered from 0. barrier: of them all. meeting_point: a file that does not exist yet,
    by which they find each other.
    """

    number: int
    count: int
    barrier: Barrier
    meeting_point: Path

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        self.barrier.wait()

    def join_group(self, device: torch.device) -> None:
        """Make the ranks one process group of torch.distributed: NCCL between GPUs, Gloo between CPU processes. One
        rank alone needs none.
        """
        if self.count > 1:
            store = dist.FileStore(str(self.meeting_point), self.count)
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=self.number, world_size=self.count)

    def leave_group(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def count_ranks(asked: int) -> int:
    """How many processes: as asked, or for 0 one per GPU and at least one."""
    return asked or max(1, torch.cuda.device_count())


def run_ranks(count: int, work: Callable[[Rank], None]) -> None:
    """Run `work` once per rank, each in a process of its own; a single rank runs here. `work` must be picklable.

    When one fails, the others are killed at once. Raises SystemExit with a line that says which one it was.
    """
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="ranks-") as directory:
        meeting_point = Path(directory) / "store"
        if count == 1:
            work(Rank(number=0, count=1, barrier=threading.Barrier(1), meeting_point=meeting_point))
            return
        context = multiprocessing.get_context("spawn")  # a fork would inherit CUDA and the threads' locks
        barrier = context.Barrier(count)
        processes = [
            context.Process(
                target=_run,
                args=(work, Rank(number=number, count=count, barrier=barrier, meeting_point=meeting_point)),
            )
            for number in range(count)
        ]
        try:
            for process in processes:
                process.start()
            running = {process.sentinel: number for number, process in enumerate(processes)}
            while running:
                for sentinel in connection.wait(list(running)):
                    number = running.pop(sentinel)
                    processes[number].join()
                    if processes[number].exitcode != 0:
                        raise SystemExit(f"rank {number} ended with exit code {processes[number].exitcode}")
        finally:
            started = [process for process in processes if process.pid is not None]
            for process in started:
                process.kill()
            for process in started:
                process.join()


def _run(work: Callable[[Rank], None], rank: Rank) -> None:
    """A rank's process. It ends without tidying up when it fails, because tidying up may wait for the others."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(rank)
        rank.leave_group()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
