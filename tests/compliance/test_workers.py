"""An item can take its own process down, and nothing else."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path

import pytest

from harness.compliance.workers import Fault, run_all

LIMITS = {"seconds": 30.0, "memory_bytes": 2**29}


def answers(function, items, **limits) -> dict[int, object]:
    return dict(run_all(function, items, **{**LIMITS, **limits}))


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def doubled(item: int) -> int:
    return 2 * item


def test_every_item_gets_its_answer_in_other_processes() -> None:
    assert answers(doubled, range(20), processes=2) == {index: 2 * index for index in range(20)}
    pids = set(answers(lambda _: os.getpid(), range(20), processes=2).values())
    assert os.getpid() not in pids and 1 <= len(pids) <= 2
    assert answers(doubled, []) == {}


class Ring:
    def __init__(self) -> None:
        self.ring, self.body = self, [{} for _ in range(100)]


def rings(_: int) -> int:
    """Leaves garbage that only a search finds; how much of it there is."""
    Ring()
    return sum(type(one) is Ring for one in gc.get_objects())


def test_garbage_does_not_pile_up_from_item_to_item() -> None:
    assert set(answers(rings, range(6), processes=1).values()) == {1}


def hostile(item: str) -> str:
    if item == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif item == "raise":
        raise RecursionError("too deep")
    elif item == "exit":
        os._exit(3)
    elif item == "memory":
        return str(len(bytearray(2**31)))
    elif item == "sleep":
        time.sleep(60)
    return item


@pytest.mark.parametrize(
    ("item", "said"),
    [("crash", "-9"), ("raise", "RecursionError: too"), ("exit", "3"), ("memory", "MemoryError"), ("sleep", "1 s")],
)
def test_what_one_item_does_costs_no_other_its_answer(item: str, said: str) -> None:
    found = answers(hostile, ["a", item, "b", item, "c"], processes=1, seconds=1.0)
    assert {found[0], found[2], found[4]} == {"a", "b", "c"}
    for index in (1, 3):
        assert isinstance(found[index], Fault) and said in found[index].text
    assert children() == []


def test_large_answers_come_whole() -> None:
    assert [len(answer) for answer in answers(lambda item: b"x" * item, [10**7] * 3).values()] == [10**7] * 3


def test_no_process_is_left_when_the_caller_stops_early() -> None:
    results = run_all(hostile, ["a", "sleep", "sleep"], processes=3, **LIMITS)
    assert next(results) == (0, "a")
    assert children()
    results.close()
    assert children() == []
