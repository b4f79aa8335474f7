"""One function on many items in processes of their own, each with a limit on time and memory: whatever an item does to
the process that looks at it, the others get their answer, and so does this one.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Forked: nothing is imported again. The caller has no threads of its own at that time.
CONTEXT = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Fault:
    """An item got no answer; `text` says why in a few words."""

    text: str


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    index: int
    deadline: float


def run_all(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    processes: int | None = None,
    seconds: float,
    memory_bytes: int,
) -> Iterator[tuple[int, Any]]:
    """Yield (index of the item, answer) as answers come; a `Fault` instead of an answer where the process ended, ran
    longer than `seconds` on this item, or the function raised something. What it returns must be picklable.

    processes: how many side by side; all cores this process may use if None. memory_bytes: of address space, that each
    may take beyond what it starts with. However this generator ends, no process is left.
    """
    pending = iter(range(len(items)))
    busy: list[_Worker] = []
    try:
        for index in pending:
            busy.append(_start(function, items, index, seconds, memory_bytes, busy))
            if len(busy) == min(processes or len(os.sched_getaffinity(0)), len(items)):
                break
        while busy:
            soonest = min(worker.deadline for worker in busy)
            ready = wait([worker.connection for worker in busy], max(0.0, soonest - time.monotonic()))
            for worker in list(busy):
                if worker.connection in ready:
                    answer = _receive(worker)
                elif time.monotonic() >= worker.deadline:
                    answer = Fault(f"it took more than {seconds:g} s")
                    _end(worker)
                else:
                    continue
                index = worker.index
                following = next(pending, None)
                if following is None or isinstance(answer, Fault) or not _ask(worker, following, seconds):
                    _end(worker)
                    busy.remove(worker)
                    if following is not None:
                        busy.append(_start(function, items, following, seconds, memory_bytes, busy))
                yield index, answer
    finally:
        for worker in busy:
            _end(worker)


def _start(
    function: Callable, items: Sequence, index: int, seconds: float, memory_bytes: int, busy: Sequence[_Worker]
) -> _Worker:
    ours, theirs = CONTEXT.Pipe()
    inherited = [ours, *(worker.connection for worker in busy)]
    process = CONTEXT.Process(target=_work, args=(function, items, theirs, memory_bytes, inherited), daemon=True)
    process.start()
    theirs.close()
    worker = _Worker(process, ours, index, 0.0)
    _ask(worker, index, seconds)
    return worker


def _ask(worker: _Worker, index: int, seconds: float) -> bool:
    """Give it an item; False if it is not there any more."""
    worker.index, worker.deadline = index, time.monotonic() + seconds
    try:
        worker.connection.send(index)
    except OSError:
        return False
    return True


def _receive(worker: _Worker) -> Any:
    try:
        return worker.connection.recv()
    except (EOFError, ConnectionError):
        worker.process.join()
        return Fault(f"the process that looked at it ended with {worker.process.exitcode}")


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _work(
    function: Callable, items: Sequence, connection: Connection, memory_bytes: int, inherited: Sequence[Connection]
) -> None:
    """In the new process: answer until nobody asks any more. inherited: the parent's ends, which must close with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in inherited:
        end.close()
    limit = memory_bytes + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Syntax trees and what is known of them are many objects that live as long as their item does: garbage is looked
    # for between items, while there is little else to look through, and within one only where it makes very many.
    gc.freeze()
    gc.set_threshold(2_000_000, 10, 100)
    try:
        while True:
            index = connection.recv()
            try:
                answer = function(items[index])
            except Exception as error:
                answer = Fault(f"{type(error).__name__}: {error}")
            connection.send(answer)
            gc.collect()
    except (EOFError, ConnectionError):
        return
