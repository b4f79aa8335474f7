"""The scoring protocol, version 2: the one harness module that a submission may import.

The harness listens on a Unix socket (type SEQPACKET: one message per packet, so there is no length prefix to lie
about). Control messages are small JSON objects; tokens and logits lie in two shared memory segments whose size is
sealed. The harness makes both and hands over their file descriptors; the token segment cannot be written by the model.

    model -> harness   {"type": "hello", "version", "vocab_size", "window", "stride", "batch", "slots",
                        "rank", "world_size", "chunk"}
    harness -> model   {"type": "welcome"}                      + the two file descriptors
    model -> harness   {"type": "ready"}                        the artifact is loaded
    harness -> model   {"type": "windows", "slot", "sequence", "rows", "length", "scored"}
    model -> harness   {"type": "logits", "slot", "sequence"}   the logits of that slot are complete
    harness -> model   {"type": "observe", "sequence", "tokens", "chunk", "chunks"}   only if hello said chunk > 0
    model -> harness   {"type": "observed", "sequence"}
    harness -> model   {"type": "end"}                          everything is scored; the server should exit

A request is rectangular: `rows` windows of `length` tokens each, of which the last `scored` positions want logits. The
token that follows the last position is not sent. Every slot holds at most one request at a time; a model that wants to
keep its GPU busy answers one slot while the harness scores the other.

The logits of a position may depend on the artifact, on the tokens of its window up to that position and on what has
been observed; not on later tokens, other windows, their order, or on the length or company of the request. The harness
asks again, with other text behind a position, and compares.

This module needs numpy and nothing else.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

VERSION = 2
SOCKET_PATH = "/in/scorer.sock"
MESSAGE_BYTES = 4096  # no control message is longer
TOKEN_DTYPE = np.dtype("<i4")
LOGIT_DTYPE = np.dtype("<f4")


class ProtocolError(Exception):
    """The other side broke the protocol; the text says how."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a model server declares about itself before it is sent a token.

    vocab_size: logits per position; must be the tokenizer's. window: tokens of context per request, stride: positions
    scored in each window but the first (`stride == window` means windows that do not overlap). batch: windows per
    request, slots: requests in flight. rank, world_size: one connection per rank, ranks counted from 0. chunk: 0 for a
    model that does not change while it is scored; for an adaptive one, how many tokens at least are scored before it
    may observe them."""

    vocab_size: int
    window: int
    stride: int
    batch: int
    slots: int = 2
    rank: int = 0
    world_size: int = 1
    chunk: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or not 0 <= value < 2**24:
                raise ProtocolError(f"hello: {name} must be a whole number from 0 to {2**24 - 1}, not {value!r}")
        for name in ("vocab_size", "window", "stride", "batch", "slots", "world_size"):
            if getattr(self, name) < 1:
                raise ProtocolError(f"hello: {name} must be at least 1")
        if self.stride > self.window:
            raise ProtocolError(
                f"hello: stride {self.stride} is longer than the window {self.window}: tokens would be skipped"
            )
        if self.rank >= self.world_size:
            raise ProtocolError(f"hello: rank {self.rank} is not below world_size {self.world_size}")

    @property
    def adaptive(self) -> bool:
        """Whether the model changes by what it observes."""
        return self.chunk > 0

    @property
    def positions(self) -> int:
        """Most scored positions in one request: a full batch of strides, or one window that is scored whole."""
        return max(self.window, self.batch * self.stride)

    @property
    def token_bytes(self) -> int:
        """Size of the token segment: int32 [slots, batch, window], then int32 [observation_tokens]."""
        return (self.slots * self.batch * self.window + self.observation_tokens) * TOKEN_DTYPE.itemsize

    @property
    def observation_tokens(self) -> int:
        """Most tokens in one observation: a chunk ends with the window that fills it."""
        return self.chunk + self.window + 1 if self.adaptive else 0

    @property
    def logit_bytes(self) -> int:
        """Size of the logit segment: float32 [slots, positions, vocab_size]."""
        return self.slots * self.positions * self.vocab_size * LOGIT_DTYPE.itemsize

    def token_view(self, buffer, slot: int, rows: int, length: int) -> np.ndarray:
        """int32 [rows, length]: the tokens of `slot`, packed from the start of its part of the segment."""
        offset = slot * self.batch * self.window * TOKEN_DTYPE.itemsize
        return np.frombuffer(buffer, TOKEN_DTYPE, rows * length, offset).reshape(rows, length)

    def observation_view(self, buffer, count: int) -> np.ndarray:
        """int32 [count]: the tokens to observe, behind the slots."""
        offset = self.slots * self.batch * self.window * TOKEN_DTYPE.itemsize
        return np.frombuffer(buffer, TOKEN_DTYPE, count, offset)

    def logit_view(self, buffer, slot: int, rows: int, scored: int) -> np.ndarray:
        """float32 [rows, scored, vocab_size]: the logits of `slot`, packed from the start of its part."""
        offset = slot * self.positions * self.vocab_size * LOGIT_DTYPE.itemsize
        return np.frombuffer(buffer, LOGIT_DTYPE, rows * scored * self.vocab_size, offset).reshape(
            rows, scored, self.vocab_size
        )


def encode(message: dict) -> bytes:
    """A control message as bytes; raises ProtocolError when it is too long for one packet."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MESSAGE_BYTES:
        raise ProtocolError(f"message of {len(data)} bytes; at most {MESSAGE_BYTES} are allowed")
    return data


def decode(data: bytes) -> dict:
    """A control message from bytes; raises ProtocolError when it is empty (connection closed), too long, or no JSON
    object.
    """
    if not data:
        raise ProtocolError("the connection was closed")
    if len(data) > MESSAGE_BYTES:
        raise ProtocolError(f"message longer than {MESSAGE_BYTES} bytes")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"message is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError("message is not a JSON object")
    return message


@dataclass(frozen=True)
class Request:
    """Windows to answer. Write float32 logits into `logits`, then call `reply()`.

    tokens: int32 [rows, length], read-only, the whole context of each window. logits: float32 [rows, scored,
    vocab_size], writable. logits[r, i] predicts the token after position length - scored + i."""

    tokens: np.ndarray
    logits: np.ndarray
    slot: int
    sequence: int
    _session: Session

    @property
    def scored(self) -> int:
        return self.logits.shape[1]

    def reply(self) -> None:
        """Tell the harness that the logits are complete. Writing to them afterwards has no honest use."""
        self._session._send({"type": "logits", "slot": self.slot, "sequence": self.sequence})


@dataclass(frozen=True)
class Observation:
    """Tokens whose losses are fixed, for an adaptive model to learn from.

    tokens: int32 [N + 1], read-only: the token before them, then the N that were scored since the last observation.
    chunk: its number, from 0; chunks: how many there are in the whole stream (the last one is never observed)."""

    tokens: np.ndarray
    chunk: int
    chunks: int


class Session:
    """A model server's connection to the scorer. Iterate over `requests()` and reply to each."""

    def __init__(self, hello: Hello, path: str = SOCKET_PATH) -> None:
        self.hello = hello
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(path)
        self._send({"type": "hello", "version": VERSION, **asdict(hello)})
        data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES + 1, 2)
        welcome = decode(data)
        if welcome.get("type") != "welcome" or len(descriptors) != 2:
            raise ProtocolError(f"expected a welcome with two file descriptors, got {welcome}")
        token_descriptor, logit_descriptor = descriptors
        self._tokens = mmap.mmap(token_descriptor, hello.token_bytes, prot=mmap.PROT_READ)
        self._logits = mmap.mmap(logit_descriptor, hello.logit_bytes)
        os.close(token_descriptor)
        os.close(logit_descriptor)

    def requests(self, observe: Callable[[Observation], None] | None = None) -> Iterator[Request]:
        """Say that the artifact is loaded, then yield requests until the harness says that everything is scored.

        An adaptive model gives `observe`; it is called between requests, when all windows so far have been answered.
        """
        self._send({"type": "ready"})
        while True:
            message = decode(self._socket.recv(MESSAGE_BYTES + 1))
            if message["type"] == "end":
                return
            if message["type"] == "observe":
                tokens = self.hello.observation_view(self._tokens, message["tokens"])
                observe(Observation(tokens, message["chunk"], message["chunks"]))
                self._send({"type": "observed", "sequence": message["sequence"]})
                continue
            slot, rows = message["slot"], message["rows"]
            yield Request(
                tokens=self.hello.token_view(self._tokens, slot, rows, message["length"]),
                logits=self.hello.logit_view(self._logits, slot, rows, message["scored"]),
                slot=slot,
                sequence=message["sequence"],
                _session=self,
            )

    def _send(self, message: dict) -> None:
        self._socket.send(encode(message))
