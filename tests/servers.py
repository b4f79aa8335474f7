"""Model servers in threads, and scorers that listen to them: what the tests of harness/scoring share."""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from harness.errors import Violation
from harness.scoring import wire
from harness.scoring.probes import Comparison, Prober
from harness.scoring.scorer import ProbeScorer, Score, Scorer

PATIENCE = 20.0  # seconds; only a broken scorer ever waits so long
VOCAB = 13
HELLO = {"vocab_size": VOCAB, "window": 8, "stride": 4, "batch": 2, "slots": 2, "rank": 0, "world_size": 1}

Model = Callable[[np.ndarray], np.ndarray]


def random_model(context: np.ndarray) -> np.ndarray:
    """Logits float32 [VOCAB], multiples of 1/4 in [-8, 8), from the last three tokens, the first one and the length."""
    key = len(context) * 31 + int(context[0]) * 7
    for token in context[-3:]:
        key = key * 1009 + int(token)
    places = np.arange(VOCAB, dtype=np.int64) + 1
    return (((key % 100003 + 1) * places * places % 1013) % 64 / 4 - 8).astype(np.float32)


def stream(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, length).astype(np.uint16)


def serve(path: str, hello: wire.Hello, model: Model) -> int:
    """An honest model server; returns how many requests it answered."""
    session = wire.Session(hello, path)
    answered = 0
    for request in session.requests():
        rows, length = request.tokens.shape
        for row in range(rows):
            for place in range(request.scored):
                context = request.tokens[row, : length - request.scored + place + 1]
                request.logits[row, place] = model(context)
        request.reply()
        answered += 1
    return answered


class Client:
    """A model server that says whatever a test wants."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.descriptors: list[int] = []

    def say(self, message: dict | bytes) -> None:
        self.socket.send(message if isinstance(message, bytes) else json.dumps(message).encode())

    def hello(self, **changes) -> None:
        self.say({"type": "hello", "version": wire.VERSION, **HELLO, **changes})

    def hear(self) -> dict:
        data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 4)
        self.descriptors += descriptors
        return json.loads(data) if data else {}

    def begin(self, **changes) -> None:
        """Hello, welcome, ready."""
        self.hello(**changes)
        assert self.hear()["type"] == "welcome"
        self.say({"type": "ready"})

    def answer(self, request: dict, **changes) -> None:
        self.say({"type": "logits", "slot": request["slot"], "sequence": request["sequence"], **changes})

    def is_told_nothing(self, seconds: float) -> bool:
        return not select.select([self.socket], [], [], seconds)[0]

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


class Stage:
    """A scorer at work in a thread, on a real socket; given a `score`, one that asks again, with the probes of `key`.

    tolerances: of one loss and of the mean, in nats.
    """

    def __init__(
        self,
        folder: Path,
        tokens,
        vocab_size: int = VOCAB,
        gate: bool = True,
        probe_share: float = 0.0,
        tolerances: tuple[float, float] = (1e-6, 1e-6),
        other: np.ndarray | None = None,
        score: Score | None = None,
        key: bytes = b"sixteen bytes at least",
        count: int = 1000,
        workers: int | None = None,
    ) -> None:
        self.path = str(folder / f"{len(list(folder.iterdir()))}.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.path)
        listener.listen()
        self.progress: list[tuple[int, int]] = []
        self.comparison = Comparison(*tolerances)
        other = stream(1000, seed=99) if other is None else other
        arguments = np.asarray(tokens, np.uint16), vocab_size, listener, lambda *counts: self.progress.append(counts)
        if score is None:
            self.scorer = Scorer(
                *arguments, comparison=self.comparison, probe_share=probe_share, other=other, workers=workers
            )
        else:
            prober = Prober(key, other, tokens)
            self.scorer = ProbeScorer(
                *arguments, score=score, comparison=self.comparison, prober=prober, count=count, workers=workers
            )
        if gate:
            self.scorer.open_gate()
        self.pool = ThreadPoolExecutor(8)
        self.run: Future[Score | None] = self.pool.submit(self.scorer.run)
        self.clients: list[Client] = []

    def client(self) -> Client:
        self.clients.append(Client(self.path))
        return self.clients[-1]

    def serve(self, server: Callable, hellos: Sequence[wire.Hello]) -> list:
        """Run `server(path, hello)` once per hello, beside the scorer, and return what they return."""
        servers = [self.pool.submit(server, self.path, hello) for hello in hellos]
        return [server.result(PATIENCE) for server in servers]

    def score(self) -> Score:
        return self.run.result(PATIENCE)

    def violation(self) -> Violation:
        with pytest.raises(Violation) as caught:
            self.score()
        return caught.value

    def close(self) -> None:
        self.scorer.stop()
        for client in self.clients:
            client.close()
        self.pool.shutdown()
