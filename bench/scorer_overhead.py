"""What the harness's scoring costs: forward passes with the scorer and its protocol around them, against the same
forward passes alone; and how many tokens a second the scorer takes when the model costs nothing.

    .venv/bin/python bench/scorer_overhead.py [--rounds 12]

Model: the submission's, with random weights, on the CPU, serving sliding windows as its configuration says (at record
size with fewer windows per request, so that a request takes seconds). Both ways run in a process of their own with the
same threads; the scorer shares the machine with it, as it does in a run. Rounds alternate; the ratio is of medians."""

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
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from harness.scoring import nats, wire  # noqa: E402
from harness.scoring.probes import Comparison  # noqa: E402
from harness.scoring.scorer import Scorer  # noqa: E402
from harness.scoring.windows import plan_windows  # noqa: E402
from harness.scoring.workers import Answer, Workers  # noqa: E402

RESULT = REPOSITORY / "bench" / "results" / "scorer_overhead.json"
SIZES = {"demo": (32, 68), "record": (4, 4)}  # configuration -> windows per request, requests
VOCAB, SLOTS = 1024, 2


def model_process(mode: str, configuration: str, path: str) -> None:
    """In a process of its own: print the seconds from the first request's tokens to the last one's logits."""
    import torch

    from submission.config import CONFIGURATIONS
    from submission.model import Transformer
    from submission.serve import window_logits

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = CONFIGURATIONS[configuration]
    batch, requests = SIZES[configuration]
    window, stride = config.serve.window, config.serve.stride
    model = Transformer(config.model)
    model.initialise(0)
    warm = torch.zeros((batch, window), dtype=torch.int64)
    window_logits(model, warm[:1], window)
    window_logits(model, warm, stride)
    if mode == "plain":
        plan = plan_windows(token_count(window, stride, batch * requests), window, stride)
        tokens = np.random.default_rng(0).integers(0, VOCAB, plan.middle[-1].start + window + 1, dtype=np.int64)
        logits = np.empty((batch * stride, VOCAB), np.float32)
        begin = time.perf_counter()
        window_logits(model, torch.from_numpy(tokens[None, :window]), window).cpu().numpy()
        for first in range(0, len(plan.middle), batch):
            rows = [tokens[planned.start : planned.start + window] for planned in plan.middle[first : first + batch]]
            answer = window_logits(model, torch.from_numpy(np.stack(rows)), stride)
            logits[: len(rows) * stride] = answer.cpu().numpy().reshape(-1, VOCAB)
    else:
        hello = wire.Hello(vocab_size=VOCAB, window=window, stride=stride, batch=batch, slots=SLOTS)
        session = wire.Session(hello, path)
        begin = None
        for request in session.requests():
            begin = begin or time.perf_counter()
            tokens = torch.from_numpy(request.tokens.astype("int64"))
            request.logits[:] = window_logits(model, tokens, request.scored).cpu().numpy()
            request.reply()
    print(time.perf_counter() - begin)


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


def arithmetic_rate(workers: int, seconds: float = 2.0) -> float:
    """Tokens a second that the arithmetic alone takes, on that many workers, from a record request for each of them;
    without a worker in this process.
    """
    ranks = max(1, workers)
    hello = wire.Hello(vocab_size=VOCAB, window=2048, stride=64, batch=32, slots=1, world_size=ranks)
    descriptors = [os.memfd_create("logits") for _ in range(ranks)]
    segments = []
    for descriptor in descriptors:
        os.ftruncate(descriptor, hello.logit_bytes)
        segments.append(mmap.mmap(descriptor, hello.logit_bytes))
        logits = hello.logit_view(segments[-1], 0, hello.batch, hello.stride)
        logits[:] = np.random.default_rng(0).normal(size=logits.shape)
    targets = np.zeros(hello.batch * hello.stride, np.uint16)
    answers = [Answer(rank, 0, hello.batch, hello.stride, targets) for rank in range(ranks)]
    pool = Workers(hello, descriptors, workers) if workers else None
    own = nats.own_memory(VOCAB)

    def commit() -> None:
        if pool:
            pool.commit(answers)
        else:
            nats.commit(answers[0].logits(hello, segments[0]), targets, own)

    commit()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        commit()
        count += len(targets) * ranks
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
        pool.commit([Answer(0, 0, 1, 1, np.zeros(1, np.uint16))])
        seconds.append(time.perf_counter() - begin)
        (child,) = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
        lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))
        pool.close()
    os.close(descriptor)
    return statistics.median(seconds), private


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="at demo size; a quarter of it at record size")
    parser.add_argument("--mode", choices=("plain", "serve", "idle"), help=argparse.SUPPRESS)
    parser.add_argument("--config", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.mode == "idle":
        return idle_process(arguments.path)
    if arguments.mode:
        return model_process(arguments.mode, arguments.config, arguments.path)

    from submission.config import CONFIGURATIONS

    this = [sys.executable, str(Path(__file__).resolve())]
    cores = len(os.sched_getaffinity(0))
    result: dict[str, object] = {"cores": cores, "rounds": arguments.rounds}
    for name, (batch, requests) in SIZES.items():
        serve = CONFIGURATIONS[name].serve
        tokens = np.random.default_rng(0).integers(
            0, VOCAB, token_count(serve.window, serve.stride, batch * requests), dtype=np.uint16
        )
        plain, scored = [], []
        for _ in range(arguments.rounds if name == "demo" else max(3, arguments.rounds // 4)):
            command = [*this, "--config", name, "--mode"]
            said = subprocess.run([*command, "plain"], capture_output=True, text=True, check=True, cwd=REPOSITORY)
            plain.append(float(said.stdout))
            scored.append(float(score([*command, "serve"], tokens)[1]))
        ratio = statistics.median(scored) / statistics.median(plain)
        result[name] = {"plain_seconds": plain, "scored_seconds": scored, "ratio": ratio}
        print(
            f"{name}: {statistics.median(plain):.3f} s alone, {statistics.median(scored):.3f} s with the scorer, "
            f"ratio {ratio:.4f}"
        )
    rates = {workers: arithmetic_rate(workers) for workers in (0, 1, 2, 3, 4, 8, 16) if workers <= cores}
    result["arithmetic_tokens_per_second"] = rates
    print("arithmetic alone: " + ", ".join(f"{rate:,.0f} tokens/s by {count} workers" for count, rate in rates.items()))
    seconds, private = worker_cost()
    result["worker"] = {"start_seconds": seconds, "private_bytes": private}
    print(f"a worker: {seconds:.3f} s to its first token, {private / 1e6:.0f} MB of its own")
    tokens = np.random.default_rng(0).integers(0, VOCAB, 1_000_000, dtype=np.uint16)
    seconds, _ = score([*this, "--mode", "idle"], tokens)
    result["scorer_tokens_per_second"] = len(tokens) / seconds
    print(f"scorer and protocol, model for free: {len(tokens) / seconds:,.0f} tokens/s on {cores} cores")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
