"""The score is the model's logits turned into nats by the harness, each target once, whatever the server does."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import math
import mmap
import os
import socket
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import HELLO, PATIENCE, VOCAB, Model, Stage, random_model, serve, stream

from harness.errors import Reason, Violation
from harness.scoring import wire
from harness.scoring.nats import block_nats, token_nats


def plain_nats(tokens: np.ndarray, window: int, stride: int, model: Model) -> np.ndarray:
    """Float64 [N - 1]: every target's loss, from the definition, one target at a time."""
    losses = []
    inputs = len(tokens) - 1
    for target in range(1, len(tokens)):
        start = 0
        if target > window:
            start = min(math.ceil((target - window) / stride) * stride, inputs - window)
        logits = model(tokens[start:target]).astype(np.float64)
        losses.append(math.log(math.fsum(math.exp(value) for value in logits)) - logits[tokens[target]])
    return np.array(losses)


def score_honestly(stage: Stage, model: Model, world_size: int = 1, **hello) -> np.ndarray:
    servers = [
        stage.pool.submit(
            serve, stage.path, wire.Hello(**{**HELLO, **hello, "rank": rank, "world_size": world_size}), model
        )
        for rank in range(world_size)
    ]
    score = stage.score()
    for server in servers:
        server.result(PATIENCE)
    return score.nats


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(
    ("length", "window", "stride", "batch", "slots"),
    [
        (2, 8, 4, 2, 2),  # one target
        (3, 8, 8, 1, 1),
        (9, 8, 4, 2, 2),  # one window exactly
        (10, 8, 4, 2, 2),  # one token is left over
        (13, 8, 4, 2, 2),
        (200, 8, 4, 3, 2),
        (201, 16, 16, 2, 1),  # windows side by side
        (150, 16, 1, 5, 3),  # one target per window
        (170, 32, 5, 64, 4),  # more room than windows
        (120, 1, 1, 4, 2),  # a bigram model
    ],
)
def test_agrees_with_the_definition(stage, world_size, length, window, stride, batch, slots) -> None:
    tokens = stream(length, seed=length)
    at_work = stage(tokens)
    nats = score_honestly(at_work, random_model, world_size, window=window, stride=stride, batch=batch, slots=slots)
    expected = plain_nats(tokens, window, stride, random_model)
    np.testing.assert_allclose(nats, expected, rtol=1e-6, atol=1e-6)
    assert abs(nats.sum(dtype=np.float64) / expected.sum() - 1) < 1e-6
    assert at_work.progress[-1] == (length - 1, length - 1)
    assert nats.dtype == np.float32


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(2, 80),
    window=st.integers(1, 20),
    stride_part=st.integers(1, 20),
    batch=st.integers(1, 5),
    slots=st.integers(1, 4),
    world_size=st.integers(1, 3),
)
def test_agrees_with_the_definition_whatever_the_shape(
    tmp_path, length, window, stride_part, batch, slots, world_size
) -> None:
    stride = min(stride_part, window)
    tokens = stream(length, seed=window)
    at_work = Stage(tmp_path, tokens)
    try:
        nats = score_honestly(at_work, random_model, world_size, window=window, stride=stride, batch=batch, slots=slots)
    finally:
        at_work.close()
    np.testing.assert_allclose(nats, plain_nats(tokens, window, stride, random_model), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("offset", [2.0**20, -(2.0**20), 2.0**21])
def test_a_common_offset_changes_nothing(stage, offset: float) -> None:
    """An offset that float32 adds exactly gives the same bits: attack X40 pays nothing."""
    tokens = stream(100)
    plain = score_honestly(stage(tokens), random_model)
    moved = score_honestly(stage(tokens), lambda context: random_model(context) + np.float32(offset))
    assert (moved == plain).all()


@pytest.mark.parametrize("level", [0.0, 1e5, 1e8, 1e9, 1e30, 3.4e38, -3.4e38])
def test_equal_logits_cost_the_logarithm_of_the_vocabulary(level: float) -> None:
    logits = np.full((3, 8192), level, np.float32)
    assert token_nats(logits, np.array([0, 5, 8191])) == pytest.approx(math.log(8192), abs=1e-12)


def test_nats_are_never_negative_and_the_arguments_stay_as_they_are() -> None:
    logits = np.array([[1e30, 0, 0], [0, 1e-30, 0]], np.float32)
    before = logits.copy()
    nats = token_nats(logits, np.array([0, 1]))
    assert (nats >= 0).all()
    assert nats[0] == 0
    assert (logits == before).all()
    assert nats.dtype == np.float64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, VOCAB - 1])
def test_one_logit_that_is_not_finite_fails(stage, value: float, place: int) -> None:
    def model(context: np.ndarray) -> np.ndarray:
        logits = random_model(context)
        logits[place] = value if len(context) == 5 else logits[place]
        return logits

    at_work = stage(stream(30))
    at_work.pool.submit(serve, at_work.path, wire.Hello(**HELLO), model)
    assert at_work.violation().reason is Reason.SCORE_NOT_FINITE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_all_not_finite_fail(value: float) -> None:
    with pytest.raises(Violation) as caught:
        token_nats(np.full((1, 4), value, np.float32), np.array([0]))
    assert caught.value.reason is Reason.SCORE_NOT_FINITE


# --- what the model server is told, and when


def test_nothing_is_sent_before_the_gate_opens(stage) -> None:
    at_work = stage(gate=False)
    client = at_work.client()
    client.hello()
    assert client.hear() == {"type": "welcome"}
    assert client.is_told_nothing(0.15), "not ready yet"
    client.say({"type": "ready"})
    assert client.is_told_nothing(0.3), "the gate is closed"
    assert not any(mmap.mmap(client.descriptors[0], wire.Hello(**HELLO).token_bytes, prot=mmap.PROT_READ)[:]), (
        "no token lies in the shared memory either"
    )
    at_work.scorer.open_gate()
    assert client.hear()["type"] == "windows"


def test_nothing_is_sent_before_every_rank_is_ready(stage) -> None:
    at_work = stage(stream(60))
    first, second = at_work.client(), at_work.client()
    first.begin(world_size=2)
    second.hello(world_size=2, rank=1)
    assert second.hear() == {"type": "welcome"}
    assert first.is_told_nothing(0.2)
    second.say({"type": "ready"})
    assert first.hear()["type"] == "windows"


def test_a_target_is_not_in_shared_memory_before_its_loss_is_fixed(stage) -> None:
    """With one lane the shared memory never holds a token beyond the window that is asked for (attack E19)."""
    tokens = np.arange(100, dtype=np.uint16)  # ever larger, so that a later token is recognised
    at_work = stage(tokens, vocab_size=100)
    client = at_work.client()
    client.begin(vocab_size=100, window=8, stride=4, batch=1, slots=1)
    shape = wire.Hello(**{**HELLO, "vocab_size": 100, "window": 8, "stride": 4, "batch": 1, "slots": 1})
    segment = np.frombuffer(mmap.mmap(client.descriptors[0], shape.token_bytes, prot=mmap.PROT_READ), wire.TOKEN_DTYPE)
    seen = 0
    while (request := client.hear())["type"] == "windows":
        begin = int(segment[0])
        assert segment[: request["length"]].tolist() == list(range(begin, begin + request["length"]))
        assert int(segment.max()) == begin + request["length"] - 1
        seen += request["scored"]
        client.answer(request)
    assert seen == 99
    np.testing.assert_allclose(at_work.score().nats, math.log(100), rtol=1e-6)


def test_the_end_is_announced_to_every_rank(stage) -> None:
    at_work = stage([1, 2])
    clients = [at_work.client() for _ in range(2)]
    for rank, client in enumerate(clients):
        client.hello(rank=rank, world_size=2)
    for client in clients:
        assert client.hear() == {"type": "welcome"}
        client.say({"type": "ready"})
    request = clients[0].hear()
    assert (request["rows"], request["length"], request["scored"]) == (1, 1, 1)
    clients[0].answer(request)
    assert clients[0].hear() == {"type": "end"}
    assert clients[1].hear() == {"type": "end"}


# --- the shared memory


@pytest.fixture
def welcomed(stage):
    """A client that holds both descriptors, and the shape it declared."""
    at_work = stage(gate=False)
    client = at_work.client()
    client.begin()
    return client, wire.Hello(**HELLO)


def test_the_token_segment_cannot_be_written(welcomed) -> None:
    client, shape = welcomed
    tokens = client.descriptors[0]
    with pytest.raises(PermissionError):
        mmap.mmap(tokens, shape.token_bytes, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.pwrite(tokens, b"x", 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(tokens, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    reopened = os.open(f"/proc/self/fd/{tokens}", os.O_RDWR)
    with pytest.raises(PermissionError):
        mmap.mmap(reopened, shape.token_bytes, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(reopened)


def test_a_map_of_the_token_segment_cannot_be_made_writable(welcomed) -> None:
    client, _ = welcomed
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    page = mmap.PAGESIZE
    address = libc.mmap(None, page, mmap.PROT_READ, mmap.MAP_SHARED, client.descriptors[0], 0)
    assert address not in (None, ctypes.c_void_p(-1).value)
    try:
        answer = libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE)
        assert (answer, ctypes.get_errno()) == (-1, errno.EACCES)
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(page))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_neither_segment_can_be_resized(welcomed, which: int, size: int) -> None:
    client, shape = welcomed
    with pytest.raises(PermissionError):
        os.ftruncate(client.descriptors[which], size)
    assert os.fstat(client.descriptors[which]).st_size == (shape.token_bytes, shape.logit_bytes)[which]


def test_the_logit_segment_can_be_written_but_not_sealed(welcomed) -> None:
    client, shape = welcomed
    mmap.mmap(client.descriptors[1], shape.logit_bytes)[0] = 1
    with pytest.raises(PermissionError):
        fcntl.fcntl(client.descriptors[1], fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_writing_after_the_reply_fails_and_changes_no_loss(stage, monkeypatch) -> None:
    """The harness computes on its own copy (attack X39), and sees that it was overwritten after the reply."""
    tokens = stream(60)
    at_work = stage(tokens, gate=False)
    client = at_work.client()
    client.begin()
    shape = wire.Hello(**HELLO)
    logits = mmap.mmap(client.descriptors[1], shape.logit_bytes)
    tokens_shared = mmap.mmap(client.descriptors[0], shape.token_bytes, prot=mmap.PROT_READ)
    computed: list[np.ndarray] = []

    def overwrite_and_compute(*arguments) -> np.ndarray:
        logits[: shape.positions * VOCAB * 4] = b"\xff" * (shape.positions * VOCAB * 4)
        computed.append(block_nats(*arguments))
        return computed[-1]

    monkeypatch.setattr("harness.scoring.nats.block_nats", overwrite_and_compute)
    at_work.scorer.open_gate()
    request = client.hear()
    context = shape.token_view(tokens_shared, request["slot"], request["rows"], request["length"])
    answer = shape.logit_view(logits, request["slot"], request["rows"], request["scored"])
    for place in range(request["scored"]):
        answer[0, place] = random_model(context[0, : place + 1])
    client.answer(request)
    violation = at_work.violation()
    assert violation.reason is Reason.SCORE_PROTOCOL
    assert "written to after the reply" in violation.text
    expected = plain_nats(tokens, 8, 4, random_model)[: request["scored"]]
    np.testing.assert_allclose(computed[0], expected, rtol=1e-6, atol=1e-6)


# --- what the model server may not say


@pytest.mark.parametrize(
    "first",
    [
        b"garbage",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"null",
        b"[" * 3000,
        b"9" * 4000,
        b'{"type":"hello"}' + b" " * wire.MESSAGE_BYTES,  # one byte more than a message may have, and far more
        b"x" * 60000,
        {"type": "ready"},
        {"type": "hello"},
        {"type": "hello", **HELLO},
        {"type": "hello", "version": 1, **HELLO},
        {"type": "hello", "version": "2", **HELLO},
        {"type": "hello", "version": wire.VERSION, **HELLO, "extra": 1},
        {"type": "hello", "version": wire.VERSION, **{key: HELLO[key] for key in HELLO if key != "stride"}},
        *({"type": "hello", "version": wire.VERSION, **HELLO, key: 0} for key in HELLO if key != "rank"),
        *({"type": "hello", "version": wire.VERSION, **HELLO, key: -1} for key in HELLO),
        *({"type": "hello", "version": wire.VERSION, **HELLO, key: 2**24} for key in HELLO),
        *({"type": "hello", "version": wire.VERSION, **HELLO, key: True} for key in HELLO),
        *({"type": "hello", "version": wire.VERSION, **HELLO, key: 4.0} for key in HELLO),
        {"type": "hello", "version": wire.VERSION, **HELLO, "window": None},
        {"type": "hello", "version": wire.VERSION, **HELLO, "stride": 9},
        {"type": "hello", "version": wire.VERSION, **HELLO, "rank": 1},
        {"type": "hello", "version": wire.VERSION, **HELLO, "vocab_size": VOCAB + 1},
        {"type": "hello", "version": wire.VERSION, **HELLO, "vocab_size": VOCAB - 1},
        {"type": "hello", "version": wire.VERSION, **HELLO, "slots": 2**23, "batch": 2**23},
        {"type": "hello", "version": wire.VERSION, **HELLO, "world_size": 65},
    ],
    ids=lambda first: (first if isinstance(first, bytes) else json.dumps(first).encode())[-60:].decode("latin1"),
)
def test_a_wrong_first_message_fails(stage, first) -> None:
    at_work = stage()
    at_work.client().say(first)
    assert at_work.violation().reason is Reason.SCORE_PROTOCOL


def test_an_empty_packet_counts_as_a_closed_connection(stage) -> None:
    at_work = stage()
    at_work.client().say(b"")
    assert at_work.violation().reason is Reason.SCORE_INCOMPLETE


@pytest.mark.parametrize("second", [b"garbage", {"type": "logits"}, {"type": "hello"}, {}])
def test_a_second_message_other_than_ready_fails(stage, second) -> None:
    at_work = stage()
    client = at_work.client()
    client.hello()
    client.say(second)
    assert at_work.violation().reason is Reason.SCORE_PROTOCOL


def test_a_rank_that_says_hello_twice_fails(stage) -> None:
    at_work = stage()
    for _ in range(2):
        client = at_work.client()
        client.hello(world_size=3, rank=1)
    violation = at_work.violation()
    assert violation.reason is Reason.SCORE_PROTOCOL
    assert "twice" in violation.text


@pytest.mark.parametrize("change", [{"window": 16}, {"stride": 2}, {"batch": 1}, {"slots": 1}, {"world_size": 3}])
def test_ranks_that_disagree_fail(stage, change: dict) -> None:
    at_work = stage()
    at_work.client().hello(world_size=2, rank=0)
    at_work.client().hello(**{"world_size": 2, "rank": 1, **change})
    assert at_work.violation().reason is Reason.SCORE_PROTOCOL


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage",
        b"x" * (wire.MESSAGE_BYTES + 1),
        {},
        {"type": "windows"},
        {"type": "ready"},
        {"type": "logits"},
        {"type": "logits", "slot": 0},
        {"type": "logits", "slot": 1, "sequence": 1},
        {"type": "logits", "slot": -1, "sequence": 1},
        {"type": "logits", "slot": 2**70, "sequence": 1},
        {"type": "logits", "slot": "0", "sequence": 1},
        {"type": "logits", "slot": False, "sequence": 1},
        {"type": "logits", "slot": [0], "sequence": 1},
        {"type": "logits", "slot": {"0": 0}, "sequence": 1},
        {"type": "logits", "slot": 0, "sequence": 0},
        {"type": "logits", "slot": 0, "sequence": 2},
        {"type": "logits", "slot": 0, "sequence": None},
        {"type": "logits", "slot": 0, "sequence": "1"},
    ],
    ids=str,
)
def test_a_wrong_reply_fails(stage, reply) -> None:
    at_work = stage(stream(60))
    client = at_work.client()
    client.begin()
    assert client.hear()["sequence"] == 1
    client.say(reply)
    assert at_work.violation().reason is Reason.SCORE_PROTOCOL


def test_a_second_reply_to_one_request_fails(stage) -> None:
    at_work = stage(stream(60))
    client = at_work.client()
    client.begin()
    request = client.hear()
    client.answer(request)
    client.answer(request)
    assert at_work.violation().reason is Reason.SCORE_PROTOCOL


@pytest.mark.parametrize("answers", [0, 1, 3])
def test_leaving_early_is_an_incomplete_score(stage, answers: int) -> None:
    at_work = stage(stream(100))
    client = at_work.client()
    client.begin(slots=1)
    for _ in range(answers):
        client.answer(client.hear())
    client.hear()
    client.close()
    violation = at_work.violation()
    assert violation.reason is Reason.SCORE_INCOMPLETE
    scored = np.isfinite(at_work.scorer.nats)
    assert scored.any() == (answers > 0)
    assert not scored.all()
    assert f"{int(scored.sum()):,} of 99 tokens" in violation.text


@pytest.mark.parametrize("stage_reached", ["nobody", "connected", "welcomed", "ready", "asked"])
def test_a_run_that_is_stopped_ends_as_incomplete(stage, stage_reached: str) -> None:
    at_work = stage(stream(40), gate=stage_reached == "asked")
    if stage_reached != "nobody":
        client = at_work.client()
        if stage_reached == "welcomed":
            client.hello()
            client.hear()
        elif stage_reached in ("ready", "asked"):
            client.begin()
        if stage_reached == "asked":
            client.hear()
    at_work.scorer.stop()
    assert at_work.violation().reason is Reason.SCORE_INCOMPLETE
    assert np.isnan(at_work.scorer.nats).all()


@pytest.mark.parametrize("instant", ["before ready", "while it is asked"])
def test_a_connection_too_many_fails(stage, instant: str) -> None:
    at_work = stage(stream(60))
    client = at_work.client()
    client.hello()
    client.hear()
    if instant == "while it is asked":
        client.say({"type": "ready"})
        client.answer(client.hear())
    at_work.client()
    violation = at_work.violation()
    assert violation.reason is Reason.SCORE_PROTOCOL
    assert "a connection too many" in violation.text


def test_descriptors_sent_by_the_model_are_not_taken(stage) -> None:
    """A flood of descriptors over the socket stays with the kernel (attack E22)."""
    at_work = stage(stream(60))
    client = at_work.client()
    client.begin()
    before = len(os.listdir("/proc/self/fd"))
    with open("/dev/null", "rb") as null:
        while (request := client.hear())["type"] == "windows":
            reply = {"type": "logits", "slot": request["slot"], "sequence": request["sequence"]}
            socket.send_fds(client.socket, [json.dumps(reply).encode()], [null.fileno()] * 50)
    at_work.score()
    assert len(os.listdir("/proc/self/fd")) < before + 50


def test_the_scorer_leaves_no_thread_behind(stage) -> None:
    before = threading.active_count()
    at_work = stage([1, 2, 3])
    score_honestly(at_work, random_model)
    at_work.close()
    assert threading.active_count() <= before


def test_a_server_that_leaves_right_after_its_hello_is_at_fault(stage) -> None:
    """Whatever the model server does is a Violation, never an error of the referee."""
    for _ in range(20):
        at_work = stage(gate=False)
        client = at_work.client()
        client.hello()
        client.close()
        assert at_work.violation().reason in (Reason.SCORE_INCOMPLETE, Reason.SCORE_PROTOCOL)


def test_a_loss_too_large_for_float32_fails(stage) -> None:
    """Finite logits can make infinite nats."""

    def model(context: np.ndarray) -> np.ndarray:
        logits = np.full(VOCAB, -3.4e38, np.float32)
        logits[0] = 3.4e38
        return logits

    at_work = stage([1, 2, 3, 4])
    at_work.pool.submit(serve, at_work.path, wire.Hello(**HELLO), model)
    assert at_work.violation().reason is Reason.SCORE_NOT_FINITE


def test_a_server_that_leaves_right_after_a_reply_is_incomplete(stage) -> None:
    """Not score_protocol: a crash should read the same wherever it strikes."""
    for _ in range(20):
        at_work = stage(stream(100))
        client = at_work.client()
        client.begin(slots=1)
        client.answer(client.hear())
        client.close()
        assert at_work.violation().reason is Reason.SCORE_INCOMPLETE
