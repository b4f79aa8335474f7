"""Worker processes give the same bits as one thread, say what the model did wrong, and end with the harness."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait

import numpy as np
import pytest
from servers import HELLO, random_model, serve, stream

from harness.errors import Reason, RefereeError, Violation
from harness.scoring import nats, wire
from harness.scoring.workers import MOST_GIVEN, MOST_WORKERS, Answer, Workers, worth_starting

SHAPE = wire.Hello(vocab_size=512, window=64, stride=32, batch=128, slots=2, world_size=2)


class Crew:
    """Two ranks' logits in shared memory, and workers for them."""

    def __init__(self, count: int, shape: wire.Hello = SHAPE) -> None:
        self.shape = shape
        self.descriptors = [os.memfd_create("logits") for _ in range(shape.world_size)]
        self.segments = []
        for descriptor in self.descriptors:
            os.ftruncate(descriptor, shape.logit_bytes)
            self.segments.append(mmap.mmap(descriptor, shape.logit_bytes))
        self.workers = Workers(shape, self.descriptors, count)

    def answer(self, rank: int, slot: int, rows: int, scored: int = 32) -> Answer:
        random = np.random.default_rng([rank, slot, rows])
        targets = random.integers(0, self.shape.vocab_size, rows * scored).astype(np.uint16)
        answer = Answer(rank, slot, rows, scored, targets)
        logits = self.logits(answer)
        logits[:] = random.normal(0, 4, logits.shape)
        return answer

    def commit(self, answers: Sequence[Answer]) -> list[np.ndarray]:
        """The losses of the answers, all handed in at once, in whatever order they are ready."""
        for answer in answers:
            self.workers.submit(answer)
        found: dict[tuple[int, int], np.ndarray] = {}
        while busy := self.workers.busy:
            for channel in wait(busy, 0.1):
                found.update({(answer.rank, answer.slot): losses for answer, losses in self.workers.receive(channel)})
            self.workers.check_patience()
        return [found[answer.rank, answer.slot] for answer in answers]

    def logits(self, answer: Answer) -> np.ndarray:
        return answer.logits(self.shape, self.segments[answer.rank])

    def close(self) -> None:
        self.workers.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


@pytest.fixture
def crew() -> Iterator[type[Crew]]:
    made: list[Crew] = []

    def make(count: int) -> Crew:
        made.append(Crew(count))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_losses_are_those_of_one_thread(crew, count: int) -> None:
    at_work = crew(count)
    for sizes in ([(0, 0, 128)], [(0, 0, 1)], [(0, 0, 128), (1, 1, 77), (1, 0, 3)], [(0, 1, 2), (1, 1, 128)]):
        answers = [at_work.answer(*size) for size in sizes]
        found = at_work.commit(answers)
        for answer, losses in zip(answers, found, strict=True):
            assert (losses == nats.token_nats(at_work.logits(answer), answer.targets)).all()


def test_parts_are_nearly_equal_and_cover_everything(crew) -> None:
    at_work = crew(3)
    for count in (3_072, 3_073, 4_096, 10_007):
        parts = at_work.workers._cut(count)
        sizes = [part.stop - part.start for part in parts]
        assert len(parts) == 3
        assert max(sizes) - min(sizes) <= 1
        assert [place for part in parts for place in range(count)[part]] == list(range(count))
    assert at_work.workers._cut(2_047) == [slice(0, 2_047)], "waking a second one would take longer"


def test_no_worker_is_given_more_than_the_next_part(crew) -> None:
    at_work = crew(2)
    answers = [at_work.answer(rank, slot, 128) for rank in (0, 1) for slot in (0, 1)]
    for answer in answers:
        at_work.workers.submit(answer)
    given = [len(parts) for parts in at_work.workers._given.values()]
    assert given == [MOST_GIVEN, MOST_GIVEN]
    finished = 0
    while busy := at_work.workers.busy:
        finished += len(at_work.workers.receive(wait(busy)[0]))
        assert all(len(parts) <= MOST_GIVEN for parts in at_work.workers._given.values())
    assert finished == len(answers)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_violation_in_any_worker_is_the_violation(crew, rank: int) -> None:
    at_work = crew(2)
    answers = [at_work.answer(0, 0, 128), at_work.answer(1, 0, 128)]
    at_work.logits(answers[rank])[-1, -1] = np.nan
    with pytest.raises(Violation) as caught:
        at_work.commit(answers)
    assert caught.value.reason is Reason.SCORE_NOT_FINITE
    assert "NaN" in caught.value.text


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_lost_worker_is_the_referee_s_error(crew, how: signal.Signals) -> None:
    at_work = crew(2)
    at_work.commit([at_work.answer(0, 0, 128)])
    at_work.workers._processes[1].send_signal(how)
    at_work.workers._processes[1].wait()
    with pytest.raises(RefereeError, match="worker of the scorer was lost"):
        at_work.commit([at_work.answer(0, 0, 128)])


def test_a_stopped_worker_is_the_referee_s_error(crew, monkeypatch) -> None:
    monkeypatch.setattr("harness.scoring.workers.PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr("harness.scoring.workers.END_SECONDS", 0.1)
    at_work = crew(1)
    at_work.workers._processes[0].send_signal(signal.SIGSTOP)
    with pytest.raises(RefereeError, match="does not answer"):
        at_work.commit([at_work.answer(0, 0, 1)])
    at_work.workers.close()
    assert at_work.workers._processes[0].returncode is not None


def test_a_stopped_worker_is_seen_while_another_goes_on(crew, monkeypatch) -> None:
    monkeypatch.setattr("harness.scoring.workers.PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr("harness.scoring.workers.END_SECONDS", 0.1)
    at_work = crew(2)
    at_work.commit([at_work.answer(rank, 0, 128) for rank in (0, 1)])  # both have started
    at_work.workers._processes[0].send_signal(signal.SIGSTOP)
    answer, done = at_work.answer(0, 0, 1), 0
    for _ in range(4):
        at_work.workers.submit(answer)
    begin = time.monotonic()
    with pytest.raises(RefereeError, match="does not answer"):
        while time.monotonic() - begin < 20:
            for channel in wait(at_work.workers.busy, 0.1):
                for finished, _ in at_work.workers.receive(channel):
                    done += 1
                    at_work.workers.submit(finished)
            at_work.workers.check_patience()
    assert done > 10, "the other one worked all the time"


def test_workers_end_with_a_harness_that_is_killed() -> None:
    """They sit in another session, and hear of it only because the channel closes."""
    program = (
        "import os, sys, time\n"
        "from harness.scoring import wire\n"
        "from harness.scoring.workers import Workers\n"
        "shape = wire.Hello(vocab_size=16, window=4, stride=2, batch=1, slots=1)\n"
        "descriptor = os.memfd_create('logits')\n"
        "os.ftruncate(descriptor, shape.logit_bytes)\n"
        "workers = Workers(shape, [descriptor], 2)\n"
        "print(*[process.pid for process in workers._processes], flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        descriptors = [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(descriptors) == 2
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], 20)[0], "a worker outlives its harness"
        os.close(descriptor)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_whole_stream_is_scored_the_same_with_workers(stage, ranks: int) -> None:
    tokens, found = stream(1_001), []
    for workers in (0, 2):
        at_work = stage(tokens, workers=workers)
        hellos = [
            wire.Hello(**{**HELLO, "window": 16, "stride": 8, "batch": 4, "rank": rank, "world_size": ranks})
            for rank in range(ranks)
        ]
        at_work.serve(lambda path, hello: serve(path, hello, random_model), hellos)
        found.append(at_work.score().nats)
    assert np.isfinite(found[0]).all()
    assert (found[0] == found[1]).all()


def test_a_stopped_worker_ends_the_scoring_while_another_goes_on(stage, monkeypatch) -> None:
    """And not only when the rest of the stream is scored and nothing else is left to wait for."""
    monkeypatch.setattr("harness.scoring.workers.PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr("harness.scoring.workers.END_SECONDS", 0.1)
    at_work = stage(stream(100_001), workers=2)
    shape = wire.Hello(**{**HELLO, "window": 16, "stride": 8, "batch": 4, "slots": 8})  # more than one worker is given

    def serve_slowly(path: str, hello: wire.Hello) -> None:
        session = wire.Session(hello, path)
        with contextlib.suppress(OSError, wire.ProtocolError):  # the scorer hangs up
            for number, request in enumerate(session.requests()):
                if number == 100:
                    at_work.scorer._server._workers._processes[0].send_signal(signal.SIGSTOP)
                time.sleep(0.005)
                request.reply()

    at_work.serve(serve_slowly, [shape])
    with pytest.raises(RefereeError, match="worker of the scorer does not answer"):
        at_work.score()
    assert 0.02 < np.isfinite(at_work.scorer.nats).mean() < 0.5, "three quarters, if nobody had looked"


def test_small_streams_need_no_worker() -> None:
    assert worth_starting(20_000, 1024) == 0
    cores = len(os.sched_getaffinity(0))
    for tokens in (139_095, 62_021_846):  # the demo's, the contest's
        assert worth_starting(tokens, 1024) == (min(MOST_WORKERS, cores) if cores > 1 else 0)


@pytest.mark.parametrize("more", [0, 1])
def test_as_many_workers_as_processors_stay_each_on_its_own(crew, more: int) -> None:
    processors = os.sched_getaffinity(0)
    at_work = crew(len(processors) + more)
    places = [os.sched_getaffinity(process.pid) for process in at_work.workers._processes]
    if more:
        assert all(place == processors for place in places)
    else:
        assert sorted(map(list, places)) == [[processor] for processor in sorted(processors)]
    answer = at_work.answer(0, 0, 128)
    assert (at_work.commit([answer])[0] == nats.token_nats(at_work.logits(answer), answer.targets)).all()
