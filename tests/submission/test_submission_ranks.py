"""Several processes serve as one: they wait for each other, end together, and learn the same thing, bit for bit."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from harness.scoring import wire
from harness.scoring.wire import Observation
from submission import serve
from submission.adapt import Adapter
from submission.config import AdaptConfig, ModelConfig
from submission.model import Transformer
from submission.phase import Phase, use_device
from submission.ranks import Rank, count_ranks, run_ranks

CPU = torch.device("cpu")
# The last of three sequences, and the last batch, are short: one rank has nothing to do there.
CONFIG = AdaptConfig(parameters="all", lr=0.05, chunk_tokens=40, sequence_length=16, batch_sequences=2)


def adapt(config: ModelConfig, folder: Path, rank: Rank) -> None:
    """Wait for the others, observe two chunks, and leave the weights after each."""
    torch.set_num_threads(1)
    time.sleep(0.5 * rank.number)
    (folder / f"{rank.count}-{rank.number}").touch()
    rank.wait_for_all()
    assert all((folder / f"{rank.count}-{number}").exists() for number in range(rank.count))
    rank.join_group(CPU)
    model = Transformer(config)
    model.initialise(0)
    adapter = Adapter(model, CONFIG, rank.number, rank.count)
    random = np.random.default_rng(0)
    for chunk in range(2):
        adapter.observe(Observation(random.integers(0, 48, 41, dtype=np.int32), chunk, 3))
        torch.save(model.state_dict(), folder / f"{rank.count}-{rank.number}-{chunk}.pt")


def test_ranks_learn_the_same_as_one_process(tiny, tmp_path):
    for count in (1, 2):
        run_ranks(count, partial(adapt, tiny.model, tmp_path))
    for chunk in range(2):
        alone, first, second = (torch.load(tmp_path / f"{name}-{chunk}.pt") for name in ("1-0", "2-0", "2-1"))
        assert all(torch.equal(weight, second[name]) for name, weight in first.items())
        for name, weight in first.items():
            torch.testing.assert_close(weight, alone[name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(first["blocks.0.mlp.up.weight"], torch.load(tmp_path / "2-0-0.pt")["blocks.0.mlp.up.weight"])


def wait_in_vain(folder: Path, rank: Rank) -> None:
    """Rank 0 is killed; the others wait, one of them for it."""
    if rank.number == 1:
        (folder / "waiting").touch()
        rank.wait_for_all()
    elif rank.number == 2:
        time.sleep(600)
    while not (folder / "waiting").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def reduce_in_vain(folder: Path, rank: Rank) -> None:
    """Rank 1 fails while rank 0 waits for its part of a sum."""
    rank.join_group(CPU)
    if rank.number == 1:
        raise RuntimeError("meant to fail")
    dist.all_reduce(torch.ones(1000))


@pytest.mark.parametrize(
    ("count", "work", "message"),
    [
        (3, wait_in_vain, "rank 0 ended with exit code -9"),
        (2, reduce_in_vain, "rank . ended with exit code 1"),
    ],
)
def test_when_one_rank_fails_all_end(tmp_path, count, work, message):
    started = time.monotonic()
    with pytest.raises(SystemExit, match=message):
        run_ranks(count, partial(work, tmp_path))
    assert time.monotonic() - started < 60  # they would wait for 600 s
    assert not multiprocessing.active_children()


def runs(pid: int) -> bool:
    """Whether there is such a process, and no mere zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_orders(folder: Path, rank: Rank) -> None:
    new = folder / f"new {rank.number}"  # whole where it is found under its own name
    new.write_text(str(os.getpid()))
    new.rename(folder / str(rank.number))
    time.sleep(600)


def test_ranks_do_not_outlive_their_parent(tmp_path):
    code = (
        "from functools import partial; from pathlib import Path; from submission.ranks import run_ranks\n"
        "from test_submission_ranks import wait_for_orders\n"
        f"run_ranks(2, partial(wait_for_orders, Path({str(tmp_path)!r})))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    try:
        deadline = time.monotonic() + 60
        while len(pids := [int((tmp_path / name).read_text()) for name in "01" if (tmp_path / name).exists()]) < 2:
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_artifact_is_opened_when_all_have_prepared(monkeypatch, tiny):
    """Opening it starts the clock: whatever can be done before is done, by every rank."""
    order = []
    for name in ("use_device", "prepare", "rehearse", "load_artifact", "Adapter", "answer"):
        monkeypatch.setattr(serve, name, lambda *_, name=name: order.append(name))
    monkeypatch.setattr(wire, "Session", lambda hello: order.append((hello.rank, hello.world_size, hello.chunk)))
    monkeypatch.setattr(Rank, "join_group", lambda *_: order.append("join_group"))
    monkeypatch.setattr(Rank, "wait_for_all", lambda _: order.append("wait_for_all"))
    phase = Phase(seed=0, threads=1, clock_seconds=1.0, vocab_size=48)
    serve.serve(tiny, phase, CONFIG, None, Rank(number=1, count=2, barrier=threading.Barrier(2), meeting_point=Path()))
    before = [(1, 2, 40), "use_device", "prepare", "join_group", "rehearse", "wait_for_all"]
    assert order == [*before, "load_artifact", "Adapter", "answer"]


def test_one_rank_runs_here():
    seen = []
    run_ranks(1, lambda rank: seen.append((os.getpid(), rank.number, rank.count, rank.wait_for_all())))
    assert seen == [(os.getpid(), 0, 1, None)]


@pytest.mark.parametrize(("asked", "gpus", "count"), [(0, 0, 1), (0, 8, 8), (2, 0, 2), (1, 8, 1)])
def test_one_rank_per_gpu_unless_asked(monkeypatch, asked, gpus, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert count_ranks(asked) == count


@pytest.mark.parametrize(("threads", "ranks", "share"), [(4, 1, 4), (4, 2, 2), (3, 2, 1), (1, 2, 1)])
def test_ranks_divide_the_threads(threads, ranks, share):
    use_device(threads, 0, ranks)
    assert torch.get_num_threads() == share
    torch.set_num_threads(2)
