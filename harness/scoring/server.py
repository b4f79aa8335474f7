"""The harness's end of the scoring protocol: windows out, losses in, in whatever order its caller wants.

The model is on the other end of a Unix socket (see `wire.py`). Everything that it can do wrong is a Violation; a window
is never dropped."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.errors import Reason, Violation
from harness.processes import go_first
from harness.scoring import nats, wire
from harness.scoring.probes import Probe
from harness.scoring.windows import Window
from harness.scoring.workers import Answer, Workers, worth_starting

MAX_SLOT_BYTES = 512_000_000  # of logits in one request
MAX_SLOTS, MAX_RANKS = 16, 64
POLL_SECONDS = 0.1
F_SEAL_FUTURE_WRITE = 0x10  # not in the fcntl module before Python 3.13

Item = Window | Probe
Take = Callable[[int, int], Sequence[Item]]  # rank, slot -> what to ask next, all of one shape; nothing: no more
Fix = Callable[[Item, np.ndarray], None]  # an item and its losses in nats, float64 [scored]


class _Rank:
    """One connection: its shared memory and the requests in flight."""

    def __init__(self, connection: socket.socket, hello: wire.Hello) -> None:
        self.connection = connection
        self.hello = hello
        self.in_flight: dict[int, tuple[int, Sequence[Item]]] = {}  # slot -> (sequence number, items)
        token_descriptor, self.tokens = _sealed_memory("tokens", hello.token_bytes, client_writes=False)
        self.logit_descriptor, self.logits = _sealed_memory("logits", hello.logit_bytes, client_writes=True)
        try:
            descriptors = [token_descriptor, self.logit_descriptor]
            socket.send_fds(connection, [wire.encode({"type": "welcome"})], descriptors)
        except OSError as error:
            raise Violation(
                Reason.SCORE_INCOMPLETE, f"the model server said hello and left ({error.strerror})"
            ) from None
        finally:
            os.close(token_descriptor)

    def close(self) -> None:
        self.connection.close()
        os.close(self.logit_descriptor)


@dataclass(frozen=True)
class _Reply:
    """A request that has been answered."""

    rank: _Rank
    slot: int
    items: Sequence[Item]

    def answer(self, tokens: np.ndarray) -> Answer:
        """What is needed for its losses, with the targets from `tokens`, the val stream."""
        targets = np.concatenate([tokens[item.targets] for item in self.items])
        return Answer(self.rank.hello.rank, self.slot, len(self.items), self.items[0].scored, targets)


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


class ModelServer:
    """The model server as the harness sees it. The methods are called in this order: accept, wait_until_ready, then
    ask and observe as often as needed, end, close. Each raises Violation for whatever the server does wrong.

    tokens: uint16 [N], the val stream. listener: a listening SEQPACKET Unix socket. progress: says how far the work is,
    for messages. workers: how many processes share the arithmetic; None: as many as are worth it. `open_gate` and
    `stop` may be called from another thread: nothing is sent before the gate is open, and after `stop` (the sandbox is
    gone) nothing is waited for."""

    def __init__(
        self,
        tokens: np.ndarray,
        vocab_size: int,
        listener: socket.socket,
        progress: Callable[[], str],
        workers: int | None = None,
    ) -> None:
        self._tokens = tokens
        self._vocab_size = vocab_size
        self._listener = listener
        self._progress = progress
        self._gate = threading.Event()
        self._stopped = threading.Event()
        self._ranks: dict[int, _Rank] = {}
        self._sequence = 0
        self._worker_count = worth_starting(len(tokens), vocab_size) if workers is None else workers
        self._workers: Workers | None = None
        self._computing: dict[tuple[int, int], _Reply] = {}  # (rank, slot) -> what the workers have
        self._own = nats.own_memory(vocab_size)

    def open_gate(self) -> None:
        self._gate.set()

    def stop(self) -> None:
        self._stopped.set()

    def accept(self) -> wire.Hello:
        """Accept one connection per rank; returns what they agree on, as rank 0 would say it."""
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
        if self._worker_count:
            descriptors = [self._ranks[number].logit_descriptor for number in range(common.world_size)]
            self._workers = Workers(common, descriptors, self._worker_count)
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

    def wait_until_ready(self) -> None:
        """Wait for every rank to say that it has loaded the artifact, and for the gate, which the kernel has seen."""
        go_first()
        for rank in self._ranks.values():
            self._await_reply([rank])
            if self._receive(rank.connection).get("type") != "ready":
                raise Violation(Reason.SCORE_PROTOCOL, "the model server's second message must be ready")
        while not self._gate.wait(POLL_SECONDS):
            self._check_stopped()

    def ask(self, take: Take, fix: Fix) -> None:
        """Keep every slot of every rank busy with what `take` gives for it, until it gives nothing more and everything
        is answered. `fix` gets each item's losses before that slot is asked again.
        """
        for number, rank in self._ranks.items():
            for slot in range(rank.hello.slots):
                self._request(rank, slot, take(number, slot))
        while self._computing or any(rank.in_flight for rank in self._ranks.values()):
            for reply, losses in self._next_losses():
                if not (losses <= np.finfo(np.float32).max).all():
                    raise Violation(Reason.SCORE_NOT_FINITE, "a loss is too large to be a number")
                for item, row in zip(reply.items, losses.reshape(len(reply.items), -1), strict=True):
                    fix(item, row)
                self._request(reply.rank, reply.slot, take(reply.rank.hello.rank, reply.slot))

    def ask_alone(self, items: Sequence[Item], fix: Fix) -> None:
        """Ask for the items one after the other, each in a request of its own, of rank 0."""
        queue = list(reversed(items))
        self.ask(lambda rank, slot: [queue.pop()] if queue and (rank, slot) == (0, 0) else [], fix)

    def observe(self, first: int, last: int, chunk: int, chunks: int) -> None:
        """Let every rank of an adaptive server observe targets `first` to `last` - 1 of the stream, all of them scored,
        and wait until it has.
        """
        self._sequence += 1
        message = {"sequence": self._sequence, "tokens": last - first + 1, "chunk": chunk, "chunks": chunks}
        for rank in self._ranks.values():
            rank.hello.observation_view(rank.tokens, last - first + 1)[:] = self._tokens[first - 1 : last]
            self._send(rank, {"type": "observe", **message})
        waiting = dict(self._ranks)
        while waiting:
            for rank in self._await_reply(list(self._ranks.values())):
                reply = self._receive(rank.connection)
                if reply != {"type": "observed", "sequence": self._sequence} or rank.hello.rank not in waiting:
                    raise Violation(Reason.SCORE_PROTOCOL, f"unexpected message {str(reply)[:200]}")
                del waiting[rank.hello.rank]

    def end(self) -> None:
        """Tell every rank that everything is scored."""
        for rank in self._ranks.values():
            self._send(rank, {"type": "end"})

    def close(self) -> None:
        """Hang up."""
        self._listener.close()
        for rank in self._ranks.values():
            rank.close()
        if self._workers:
            self._workers.close()

    def _request(self, rank: _Rank, slot: int, items: Sequence[Item]) -> None:
        """Put `items`, all of one shape, into `slot` and ask for their logits."""
        if not items:
            return
        length, scored = items[0].length, items[0].scored
        view = rank.hello.token_view(rank.tokens, slot, len(items), length)
        for row, item in enumerate(items):
            view[row] = item.inputs(self._tokens)
        self._sequence += 1
        rank.in_flight[slot] = (self._sequence, items)
        message = {"slot": slot, "sequence": self._sequence, "rows": len(items), "length": length, "scored": scored}
        self._send(rank, {"type": "windows", **message})

    def _next_losses(self) -> Iterator[tuple[_Reply, np.ndarray]]:
        """Wait until something comes; yields the replies whose losses, float64 [rows * scored], are known by it."""
        busy = {channel.fileno(): channel for channel in self._workers.busy} if self._workers else {}
        replied, computed = self._await(list(self._ranks.values()), busy)
        for channel in computed:
            for answer, losses in self._workers.receive(busy[channel]):
                yield self._computing.pop((answer.rank, answer.slot)), losses
        if self._workers:
            self._workers.check_patience()  # of one, while others go on
        for rank in replied:
            reply = self._take_reply(rank)
            answer = reply.answer(self._tokens)
            if self._workers:
                self._computing[rank.hello.rank, reply.slot] = reply
                self._workers.submit(answer)
            else:
                yield reply, nats.commit(answer.logits(rank.hello, rank.logits), answer.targets, self._own)

    def _take_reply(self, rank: _Rank) -> _Reply:
        message = self._receive(rank.connection)
        slot, sequence = message.get("slot"), message.get("sequence")
        if message.get("type") != "logits" or type(slot) is not int or slot not in rank.in_flight:
            raise Violation(Reason.SCORE_PROTOCOL, f"unexpected message {str(message)[:200]}")
        expected, items = rank.in_flight.pop(slot)
        if sequence != expected:
            raise Violation(Reason.SCORE_PROTOCOL, f"reply to request {sequence!r} where {expected} was due")
        return _Reply(rank, slot, items)

    def _await_reply(self, ranks: list[_Rank]) -> list[_Rank]:
        """The ranks of which something can be read."""
        return self._await(ranks, ())[0]

    def _await(self, ranks: list[_Rank], others: Collection[int]) -> tuple[list[_Rank], list[int]]:
        """The ranks and the other descriptors of which something can be read. A connection more than there are ranks
        ends everything.
        """
        by_descriptor = {rank.connection.fileno(): rank for rank in ranks}
        ready = self._await_readable([self._listener.fileno(), *by_descriptor, *others])
        if self._listener.fileno() in ready:
            raise Violation(Reason.SCORE_PROTOCOL, "a connection too many: each rank has one")
        return (
            [rank for descriptor, rank in by_descriptor.items() if descriptor in ready],
            [descriptor for descriptor in others if descriptor in ready],
        )

    def _await_readable(self, descriptors: list[int]) -> list[int]:
        while True:
            ready = select.select(descriptors, [], [], POLL_SECONDS)[0]
            if ready:
                return ready
            self._check_stopped()
            if self._workers:
                self._workers.check_patience()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise self._incomplete("the model server ended")

    def _incomplete(self, what: str) -> Violation:
        return Violation(Reason.SCORE_INCOMPLETE, f"{what} after {self._progress()}")

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
