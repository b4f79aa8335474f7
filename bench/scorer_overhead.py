"""What the harness's scoring costs: forward passes with the scorer and its protocol around them, against the same
forward passes alone; and how many tokens a second the scorer takes when the model costs nothing.

    .venv/bin/python bench/scorer_overhead.py [--rounds 16]

Model: the submission's, with random weights, on the CPU, serving sliding windows as its configuration says (at record
size with fewer windows per request, so that a request takes a second). One process does both: it answers some
requests, and then passes the same windows through the same model alone, in turns, because a machine's speed changes
from minute to minute more than what is measured. A turn that is scored ends when its last loss is known. The ratio is
the median over pairs of turns. Once the model computes with a thread for every processor, the scorer among them
("shared"); once it leaves one processor to the harness ("apart"), with and without the scorer."""

from __future__ import annotations

import argparse
import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from harness import doctor  # noqa: E402
from harness.scoring import nats, wire  # noqa: E402
from harness.scoring.probes import Comparison  # noqa: E402
from harness.scoring.scorer import Scorer  # noqa: E402
from harness.scoring.workers import Answer, Workers  # noqa: E402

RESULT = REPOSITORY / "bench" / "results" / "scorer_overhead.json"
THIS = [sys.executable, str(Path(__file__).resolve())]
VOCAB, SLOTS = 1024, 2


@dataclass(frozen=True)
class Size:
    """batch: windows per request; turn: requests answered, or passed through the model alone, in one go."""

    batch: int
    turn: int


SIZES = {"demo": Size(32, 24), "record": Size(2, 2)}  # by configuration


def model_process(configuration: str, threads: int, rounds: int, path: str) -> None:
    """In a process of its own: print the seconds of each turn, with the scorer and alone."""
    import torch

    from submission.config import CONFIGURATIONS
    from submission.model import Transformer
    from submission.serve import window_logits

    torch.set_num_threads(threads)
    config, size = CONFIGURATIONS[configuration], SIZES[configuration]
    window, stride = config.serve.window, config.serve.stride
    model = Transformer(config.model)
    model.initialise(0)

    def logits(tokens: np.ndarray, scored: int) -> np.ndarray:
        return window_logits(model, torch.from_numpy(tokens.astype("int64")), scored).numpy()

    hello = wire.Hello(vocab_size=VOCAB, window=window, stride=stride, batch=size.batch, slots=SLOTS)
    session = wire.Session(hello, path)
    for _ in range(2):
        logits(np.zeros((size.batch, window)), stride)
    requests = session.requests()
    first = next(requests)
    first.logits[:] = logits(first.tokens, first.scored)
    first.reply()
    lying_there = [next(requests) for _ in range(SLOTS)]
    own = np.empty((SLOTS, size.batch, stride, VOCAB), np.float32)
    seconds: dict[str, list[float]] = {"scored": [], "alone": []}
    windows: list[np.ndarray] = []

    def scored() -> None:
        windows.clear()
        for _ in range(size.turn):
            request = lying_there.pop(0) if lying_there else next(requests)
            windows.append(request.tokens.copy())
            request.logits[:] = logits(request.tokens, stride)
            request.reply()
        lying_there.extend(next(requests) for _ in range(SLOTS))  # which come when everything is scored

    def alone() -> None:
        for number in range(size.turn):
            own[number % SLOTS] = logits(windows[number], stride)

    scored()
    alone()
    for turn in range(rounds):
        order = [(scored, "scored"), (alone, "alone")]
        for work, name in order if turn % 2 else reversed(order):
            begin = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begin)
    print(json.dumps(seconds), flush=True)
    for request in chain(lying_there, requests):
        request.logits[:] = 0
        request.reply()


def idle_process(path: str) -> None:
    """A model server that costs nothing: the logits are whatever lies in memory."""
    session = wire.Session(wire.Hello(vocab_size=VOCAB, window=2048, stride=64, batch=32, slots=4), path)
    for request in session.requests():
        request.reply()


def token_count(window: int, stride: int, windows: int) -> int:
    """Tokens of a stream that takes a first window and `windows` more."""
    return window + stride * windows + 1


def score(command: list[str], tokens: np.ndarray) -> tuple[float, str]:
    """Seconds from the gate to the last loss, and what the model process printed."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        path = f"{folder}/scorer.sock"
        listener.bind(path)
        listener.listen()
        started: list[float] = []
        scorer = Scorer(
            tokens,
            VOCAB,
            listener,
            lambda done, total: started.append(time.perf_counter()) if not started else None,
            comparison=Comparison(1.0, 1.0),
            probe_share=0.0,
            other=tokens,
        )
        scorer.open_gate()
        thread = threading.Thread(target=scorer.run)
        with subprocess.Popen([*command, path], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
            thread.start()
            said = process.stdout.read()
        scorer.stop()
        thread.join()
        if np.isnan(scorer.nats).any():
            raise SystemExit("the scorer did not finish: this measures nothing")
        return time.perf_counter() - started[0], said


def overhead(configuration: str, threads: int, rounds: int) -> dict[str, object]:
    """Seconds of each turn, and their ratio."""
    from submission.config import CONFIGURATIONS

    serve, size = CONFIGURATIONS[configuration].serve, SIZES[configuration]
    windows = size.batch * (size.turn * (rounds + 1) + 2 * SLOTS)
    count = token_count(serve.window, serve.stride, windows)
    tokens = np.random.default_rng(0).integers(0, VOCAB, count, dtype=np.uint16)
    command = [*THIS, "--config", configuration, "--threads", str(threads), "--rounds", str(rounds)]
    seconds = json.loads(score(command, tokens)[1])
    ratios = [with_it / alone for with_it, alone in zip(seconds["scored"], seconds["alone"], strict=True)]
    quartiles = statistics.quantiles(ratios)
    return {
        "threads": threads,
        **seconds,
        "ratio": statistics.median(ratios),
        "quartiles": [quartiles[0], quartiles[2]],
    }


def arithmetic_rate(workers: int, seconds: float = 3.0) -> float:
    """Tokens a second that the arithmetic alone takes, on that many workers, from two record requests for each of them
    at any time; without a worker in this process.
    """
    ranks = max(1, workers)
    hello = wire.Hello(vocab_size=VOCAB, window=2048, stride=64, batch=32, slots=SLOTS, world_size=ranks)
    descriptors = [os.memfd_create("logits") for _ in range(ranks)]
    segments = []
    for descriptor in descriptors:
        os.ftruncate(descriptor, hello.logit_bytes)
        segments.append(mmap.mmap(descriptor, hello.logit_bytes))
        for slot in range(SLOTS):
            logits = hello.logit_view(segments[-1], slot, hello.batch, hello.stride)
            logits[:] = np.random.default_rng(0).normal(size=logits.shape)
    targets = np.zeros(hello.batch * hello.stride, np.uint16)
    answers = [Answer(rank, slot, hello.batch, hello.stride, targets) for slot in range(SLOTS) for rank in range(ranks)]
    pool = Workers(hello, descriptors, workers) if workers else None
    own = nats.own_memory(VOCAB)

    def finish() -> int:
        """Compute some more, and keep everybody at work; returns how many tokens that were."""
        if not pool:
            nats.commit(answers[0].logits(hello, segments[0]), targets, own)
            return len(targets)
        done = [answer for channel in wait(pool.busy) for answer, _ in pool.receive(channel)]
        for answer in done:
            pool.submit(answer)
        return len(done) * len(targets)

    if pool:
        for answer in answers:
            pool.submit(answer)
    warm = 0
    while warm < 4 * len(answers) * len(targets):
        warm += finish()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        count += finish()
    rate = count / (time.perf_counter() - begin)
    if pool:
        pool.close()
    for descriptor in descriptors:
        os.close(descriptor)
    return rate


def worker_cost(rounds: int = 5) -> tuple[float, int]:
    """Seconds until a new worker has computed its first token (the median), and bytes of memory that are its alone."""
    hello = wire.Hello(vocab_size=VOCAB, window=2048, stride=64, batch=1, slots=1)
    descriptor = os.memfd_create("logits")
    os.ftruncate(descriptor, hello.logit_bytes)
    seconds, private = [], 0
    for _ in range(rounds):
        begin = time.perf_counter()
        pool = Workers(hello, [descriptor], 1)
        pool.submit(Answer(0, 0, 1, 1, np.zeros(1, np.uint16)))
        pool.receive(wait(pool.busy)[0])
        seconds.append(time.perf_counter() - begin)
        (child,) = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
        lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))
        pool.close()
    os.close(descriptor)
    return statistics.median(seconds), private


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24, help="pairs of turns at demo size; half as many at record's")
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--config", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.idle:
        return idle_process(arguments.path)
    if arguments.config:
        return model_process(arguments.config, arguments.threads, arguments.rounds, arguments.path)

    cores = len(os.sched_getaffinity(0))
    result: dict[str, object] = {"cores": cores, "load_before": round(os.getloadavg()[0], 2)}
    for name, size in SIZES.items():
        rounds = arguments.rounds if name == "demo" else max(2, arguments.rounds // 2)
        result[name] = {}
        for how, threads in (("shared", cores), ("apart", cores - 1)):
            if not threads:
                continue
            found = result[name][how] = overhead(name, threads, rounds)
            print(
                f"{name}, {how}: {threads} threads, {1e3 * statistics.median(found['alone']) / size.turn:.1f} ms a "
                f"request alone, with the scorer {found['ratio']:.4f} times that (quartiles "
                f"{found['quartiles'][0]:.3f} and {found['quartiles'][1]:.3f})",
                flush=True,
            )
    rates = {workers: arithmetic_rate(workers) for workers in (0, 1, 2, 3, 4, 8, 16) if workers <= cores}
    result["arithmetic_tokens_per_second"] = rates
    print("arithmetic alone: " + ", ".join(f"{rate:,.0f} tokens/s by {count} workers" for count, rate in rates.items()))
    seconds, private = worker_cost()
    result["worker"] = {"start_seconds": seconds, "private_bytes": private}
    print(f"a worker: {seconds:.3f} s to its first token, {private / 1e6:.0f} MB of its own")
    tokens = np.random.default_rng(0).integers(0, VOCAB, 4_000_000, dtype=np.uint16)
    seconds, _ = score([*THIS, "--idle"], tokens)
    result["scorer_tokens_per_second"] = len(tokens) / seconds
    print(f"scorer and protocol, model for free: {len(tokens) / seconds:,.0f} tokens/s on {cores} cores")
    RESULT.write_text(json.dumps({**result, "machine": doctor.environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
