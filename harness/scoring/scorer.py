"""The scorer: sends windows to the model server, turns its logits into nats per token, and never believes anything
else.

It runs in a thread of the harness. The model is on the other end of a Unix socket (see `wire.py`); a target is only
sent, as context of a later window, after its own loss is fixed. Everything the model can do wrong is a Violation; a
window is never dropped."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from harness.errors import Reason, Violation
from harness.scoring import wire
from harness.scoring.windows import Window, lanes, plan_windows

MAX_SLOT_BYTES = 512_000_000  # of logits in one request; the scorer works on a copy in float64, three times as large
MAX_SLOTS, MAX_RANKS = 16, 64
POLL_SECONDS = 0.1
F_SEAL_FUTURE_WRITE = 0x10  # not in the fcntl module before Python 3.13


@dataclass(frozen=True)
class Score:
    """nats: float32 [N - 1], the loss of each scored token in stream order. `hello` is what the server declared (rank
    0's).
    """

    nats: np.ndarray
    hello: wire.Hello


def token_nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats, float64 [n], of `targets` (integers [n]) under `logits` (float32 [n,
    vocab_size], not shared memory).

    The maximum is subtracted from every logit first, so a common offset of any size changes nothing; exponentials are
    summed in float64. Raises Violation if a logit is not finite."""
    largest = logits.max(axis=1, keepdims=True)
    if not (np.isfinite(largest).all() and np.isfinite(logits.min())):
        raise Violation(Reason.SCORE_NOT_FINITE, "a logit is NaN or infinite")
    shifted = logits.astype(np.float64) - largest
    chosen = np.take_along_axis(shifted, targets[:, None].astype(np.int64), axis=1)[:, 0]
    return np.log(np.exp(shifted, out=shifted).sum(axis=1)) - chosen


class _Rank:
    """One connection: its shared memory and the requests in flight."""

    def __init__(self, connection: socket.socket, hello: wire.Hello) -> None:
        self.connection = connection
        self.hello = hello
        self.ready = False
        self.in_flight: dict[int, tuple[int, list[Window]]] = {}  # slot -> (sequence number, windows)
        self.lanes: list[list[deque[Window]]] = []  # per slot
        token_descriptor, self.tokens = _sealed_memory("tokens", hello.token_bytes, client_writes=False)
        logit_descriptor, self.logits = _sealed_memory("logits", hello.logit_bytes, client_writes=True)
        try:
            socket.send_fds(connection, [wire.encode({"type": "welcome"})], [token_descriptor, logit_descriptor])
        except OSError as error:
            raise Violation(
                Reason.SCORE_INCOMPLETE, f"the model server said hello and left ({error.strerror})"
            ) from None
        finally:
            os.close(token_descriptor)
            os.close(logit_descriptor)


def _sealed_memory(name: str, size: int, *, client_writes: bool) -> tuple[int, mmap.mmap]:
    """A memfd of fixed size and the harness's writable map of it. Without `client_writes` nobody can make another
    writable map.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    view = mmap.mmap(descriptor, size)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | (0 if client_writes else F_SEAL_FUTURE_WRITE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
    return descriptor, view


class Scorer:
    """Scores one val stream with one model.

    tokens: uint16 [N], the val stream. listener: a listening SEQPACKET Unix socket. `open_gate()` must be called
    before anything is sent, `stop()` ends a run that cannot finish (the sandbox is gone). `progress(done, total)` is
    called with counts of scored tokens."""

    def __init__(
        self, tokens: np.ndarray, vocab_size: int, listener: socket.socket, progress: Callable[[int, int], None]
    ) -> None:
        self._tokens = tokens
        self._vocab_size = vocab_size
        self._listener = listener
        self._progress = progress
        self._gate = threading.Event()
        self._stopped = threading.Event()
        self._ranks: dict[int, _Rank] = {}
        self._sequence = 0
        self._scored = 0
        self.nats = np.full(len(tokens) - 1, np.nan, np.float32)  # partial results are kept

    def open_gate(self) -> None:
        self._gate.set()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> Score:
        """Score the whole stream. Raises Violation for whatever the model server does wrong, and if it leaves before
        the end.
        """
        try:
            hello = self._welcome_ranks()
            self._wait_until_ready()
            self._score(hello)
            for rank in self._ranks.values():
                self._send(rank, {"type": "end"})
            return Score(self.nats, hello)
        finally:
            for rank in self._ranks.values():
                rank.connection.close()

    def _welcome_ranks(self) -> wire.Hello:
        """Accept one connection per rank; returns what they agree on."""
        common: wire.Hello | None = None
        while common is None or len(self._ranks) < common.world_size:
            self._await_readable([self._listener.fileno()])
            connection, _ = self._listener.accept()
            self._await_readable([connection.fileno()])
            message = self._receive(connection)
            if message.pop("type", None) != "hello" or message.pop("version", None) != wire.VERSION:
                raise Violation(
                    Reason.SCORE_PROTOCOL, f"the model server's first message must be a hello of version {wire.VERSION}"
                )
            try:
                hello = wire.Hello(**message)
            except (TypeError, wire.ProtocolError) as error:
                raise Violation(Reason.SCORE_PROTOCOL, str(error)) from None
            self._check_hello(hello, common)
            common = common or replace(hello, rank=0)
            self._ranks[hello.rank] = _Rank(connection, hello)
        self._listener.close()  # nobody else has business here
        return common

    def _check_hello(self, hello: wire.Hello, common: wire.Hello | None) -> None:
        if hello.vocab_size != self._vocab_size:
            raise Violation(
                Reason.SCORE_PROTOCOL, f"hello: vocab_size is {hello.vocab_size}, the tokenizer's is {self._vocab_size}"
            )
        if hello.slots > MAX_SLOTS or hello.world_size > MAX_RANKS:
            raise Violation(
                Reason.SCORE_PROTOCOL, f"hello: more than {MAX_SLOTS} slots or {MAX_RANKS} ranks are not served"
            )
        if max(hello.logit_bytes, hello.token_bytes) > MAX_SLOT_BYTES * hello.slots:
            raise Violation(
                Reason.SCORE_PROTOCOL,
                f"hello: a request would take more than {MAX_SLOT_BYTES:,} bytes of shared memory",
            )
        if common is not None and replace(hello, rank=0) != common:
            raise Violation(Reason.SCORE_PROTOCOL, "hello: the ranks do not declare the same things")
        if hello.rank in self._ranks:
            raise Violation(Reason.SCORE_PROTOCOL, f"hello: rank {hello.rank} connected twice")

    def _wait_until_ready(self) -> None:
        for rank in self._ranks.values():
            self._await_readable([rank.connection.fileno()])
            if self._receive(rank.connection).get("type") != "ready":
                raise Violation(Reason.SCORE_PROTOCOL, "the model server's second message must be ready")
        while not self._gate.wait(POLL_SECONDS):
            self._check_stopped()

    def _score(self, hello: wire.Hello) -> None:
        plan = plan_windows(len(self._tokens), hello.window, hello.stride)
        ranks = [self._ranks[number] for number in range(hello.world_size)]
        self._dispatch_alone(ranks[0], plan.first)
        queues = [deque(lane) for lane in lanes(plan.middle, hello.world_size * hello.slots * hello.batch)]
        for number, rank in enumerate(ranks):
            rank.lanes = [[] for _ in range(hello.slots)]
            for place, lane in enumerate(queues[number :: len(ranks)]):
                rank.lanes[place % hello.slots].append(lane)
            for slot in range(hello.slots):
                self._send_next(rank, slot)
        by_descriptor = {rank.connection.fileno(): rank for rank in ranks}
        while any(rank.in_flight for rank in ranks):
            for descriptor in self._await_readable(list(by_descriptor)):
                rank = by_descriptor[descriptor]
                self._send_next(rank, self._commit(rank))
        if plan.last:
            self._dispatch_alone(ranks[0], plan.last)
        if np.isnan(self.nats).any():
            raise AssertionError("the window plan left a token unscored")

    def _dispatch_alone(self, rank: _Rank, window: Window) -> None:
        self._request(rank, 0, [window])
        self._await_readable([rank.connection.fileno()])
        self._commit(rank)

    def _send_next(self, rank: _Rank, slot: int) -> None:
        windows = [lane.popleft() for lane in rank.lanes[slot] if lane]
        if windows:
            self._request(rank, slot, windows)

    def _request(self, rank: _Rank, slot: int, windows: list[Window]) -> None:
        """Put `windows`, all of one shape, into `slot` and ask for their logits."""
        length, scored = windows[0].length, windows[0].scored
        view = rank.hello.token_view(rank.tokens, slot, len(windows), length)
        for row, window in enumerate(windows):
            view[row] = self._tokens[window.start : window.start + length]
        self._sequence += 1
        rank.in_flight[slot] = (self._sequence, windows)
        message = {"slot": slot, "sequence": self._sequence, "rows": len(windows), "length": length, "scored": scored}
        self._send(rank, {"type": "windows", **message})

    def _commit(self, rank: _Rank) -> int:
        """Take one reply, fix the losses of its windows, and return the slot that is free now."""
        message = self._receive(rank.connection)
        slot, sequence = message.get("slot"), message.get("sequence")
        if message.get("type") != "logits" or type(slot) is not int or slot not in rank.in_flight:
            raise Violation(Reason.SCORE_PROTOCOL, f"unexpected message {str(message)[:200]}")
        expected, windows = rank.in_flight.pop(slot)
        if sequence != expected:
            raise Violation(Reason.SCORE_PROTOCOL, f"reply to request {sequence!r} where {expected} was due")
        scored = windows[0].scored
        shared = rank.hello.logit_view(rank.logits, slot, len(windows), scored)
        logits = np.array(shared).reshape(
            -1, self._vocab_size
        )  # a copy: the model could go on writing to the shared one
        targets = np.concatenate([self._tokens[window.targets] for window in windows])
        with np.errstate(over="ignore"):
            nats = token_nats(logits, targets).astype(np.float32).reshape(len(windows), scored)
        if not np.isfinite(nats).all():
            raise Violation(Reason.SCORE_NOT_FINITE, "a loss is too large to be a number")
        for row, window in enumerate(windows):
            place = slice(window.first_target - 1, window.first_target - 1 + scored)
            if not np.isnan(self.nats[place]).all():
                raise AssertionError("the window plan scores a token twice")
            self.nats[place] = nats[row]
            self._scored += scored
        self._progress(self._scored, len(self.nats))
        return slot

    def _await_readable(self, descriptors: list[int]) -> list[int]:
        while True:
            ready, _, _ = select.select(descriptors, [], [], POLL_SECONDS)
            if ready:
                return ready
            self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise self._incomplete("the model server ended")

    def _incomplete(self, what: str) -> Violation:
        return Violation(
            Reason.SCORE_INCOMPLETE, f"{what} after {self._scored:,} of {len(self.nats):,} tokens were scored"
        )

    def _receive(self, connection: socket.socket) -> dict:
        try:
            data = connection.recv(wire.MESSAGE_BYTES + 1, socket.MSG_DONTWAIT)
        except OSError as error:
            raise self._incomplete(f"the model server's connection failed ({error.strerror})") from None
        if not data:
            raise self._incomplete("the model server closed its connection")
        try:
            return wire.decode(data)
        except wire.ProtocolError as error:
            raise Violation(Reason.SCORE_PROTOCOL, str(error)) from None

    def _send(self, rank: _Rank, message: dict) -> None:
        try:
            rank.connection.send(wire.encode(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise self._incomplete("the model server closed its connection") from None
        except OSError as error:
            raise Violation(Reason.SCORE_PROTOCOL, f"the model server does not take messages: {error}") from None
