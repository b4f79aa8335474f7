"""A probe changes only what may not matter, shows nothing that was not going to be shown, and what differs is found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import HELLO, PATIENCE, VOCAB, Stage, random_model, serve, stream

from harness.errors import Reason, Violation
from harness.scoring import wire
from harness.scoring.probes import MISSED_PROBABILITY, Ahead, Comparison, Kind, Probe, Prober
from harness.scoring.scorer import Score
from harness.scoring.windows import Window, chunks, exposed, lanes, plan_windows

KEY = bytes(range(16))
FOREIGN = 10_000  # tokens from here on are other text; those of the stream say where they are
OTHER = np.arange(FOREIGN, FOREIGN + 300, dtype=np.uint16)
STREAM = np.arange(FOREIGN, dtype=np.uint16)


def numbered(length: int) -> np.ndarray:
    """A stream in which every token is its own place."""
    return np.arange(length, dtype=np.uint16)


@st.composite
def windows(draw) -> Window:
    length = draw(st.integers(1, 40))
    return Window(draw(st.integers(0, 100)), length, draw(st.integers(1, length)))


# --- single probes


@given(key=st.binary(min_size=16, max_size=16))
def test_the_token_behind_the_cut_is_another_whenever_there_is_one(key: bytes) -> None:
    """Or the nearest thing to look at would be as it was."""
    alike = np.tile(np.arange(3, dtype=np.uint16), 100)
    prober = Prober(key, alike, alike)
    for start in range(20):
        probe = prober.draw(Window(start, 12, 6), Kind.REPLACED)
        assert probe.kind is Kind.WHOLE or probe.suffix[0] != alike[probe.cut]
    same = np.zeros(300, np.uint16)
    assert len(Prober(key, same, same).draw(Window(0, 12, 12), Kind.REPLACED).inputs(same)) == 12


@given(window=windows(), kind=st.sampled_from(Kind), key=st.binary(min_size=16, max_size=16))
def test_a_probe_holds_its_window_up_to_the_cut_and_then_other_text(window: Window, kind: Kind, key: bytes) -> None:
    text = numbered(200)
    probe = Prober(key, OTHER, STREAM).draw(window, kind)
    inputs = probe.inputs(text)
    assert 1 <= probe.compared <= window.scored
    assert probe.kept == window.length - window.scored + probe.compared
    assert inputs[: probe.kept].tolist() == window.inputs(text)[: probe.kept].tolist()
    assert len(inputs) == probe.length
    assert probe.cut == inputs[probe.kept - 1] + 1
    suffix = inputs[probe.kept :]
    assert suffix.tolist() == list(range(suffix[0], suffix[0] + len(suffix))) if len(suffix) else True
    assert (suffix >= FOREIGN).all()
    assert len(suffix) == (window.length - probe.kept if probe.kind is Kind.REPLACED else 0)
    assert probe.looks_ahead == (probe.kind is not Kind.WHOLE)


@given(window=windows(), kind=st.sampled_from(Kind), key=st.binary(min_size=16, max_size=16))
def test_the_losses_compared_are_those_of_the_same_targets(window: Window, kind: Kind, key: bytes) -> None:
    probe = Prober(key, OTHER, STREAM).draw(window, kind)
    assert probe.targets.start == window.targets.start
    assert probe.targets.stop - probe.targets.start == probe.scored
    assert probe.places == slice(window.first_target - 1, window.first_target - 1 + probe.compared)
    assert probe.places.stop + 1 == probe.cut + 1, "the last target compared is the first token that has changed"


@given(window=windows(), key=st.binary(min_size=16, max_size=16))
def test_a_blind_probe_looks_like_its_window(window: Window, key: bytes) -> None:
    """As many tokens, as many logits, and none of the stream's text that the window does not hold."""
    text = numbered(200)
    probe = Prober(key, OTHER, STREAM).draw(window, Kind.REPLACED)
    assert (probe.length, probe.scored) == (window.length, window.scored)
    inputs = probe.inputs(text)
    assert set(inputs[inputs < FOREIGN].tolist()) <= set(window.inputs(text).tolist())


def test_cuts_are_drawn_evenly() -> None:
    prober, window = Prober(KEY, OTHER, STREAM), Window(0, 20, 8)
    counts = Counter(prober.draw(window, Kind.TRUNCATED).compared for _ in range(8000))
    assert sorted(counts) == list(range(1, 9))
    assert max(abs(count - 1000) for count in counts.values()) < 5 * math.sqrt(1000)


# --- many probes


@given(count=st.integers(1, 30), share=st.sampled_from([0.0, 0.3, 1.0]), key=st.binary(min_size=16, max_size=16))
def test_hidden_probes_leave_the_windows_in_order(count: int, share: float, key: bytes) -> None:
    lane = [Window(4 * number, 8, 4) for number in range(count)]
    items = Prober(key, OTHER, STREAM).hide(lane, share)
    assert [item for item in items if isinstance(item, Window)] == lane
    probed = [item.window for item in items if isinstance(item, Probe)]
    assert len(set(probed)) == len(probed)
    if share in (0.0, 1.0):
        assert len(probed) == share * count
    for place, item in enumerate(items):
        if isinstance(item, Probe) and item.window in items[place:]:
            following = next(entry for entry in items[place:] if isinstance(entry, Window))
            assert following == item.window, "a probe before its window stands right before it"


def test_hidden_probes_stand_before_and_after_their_windows() -> None:
    lane = [Window(4 * number, 8, 4) for number in range(2000)]
    items = Prober(KEY, OTHER, STREAM).hide(lane, 0.5)
    places = {item: place for place, item in enumerate(items) if isinstance(item, Window)}
    before = [place < places[item.window] for place, item in enumerate(items) if isinstance(item, Probe)]
    assert 900 < len(before) < 1100
    assert 0.4 < np.mean(before) < 0.6


def test_probes_after_the_fact_are_of_different_windows() -> None:
    planned = plan_windows(500, 16, 4).windows()
    suspects = exposed(lanes(planned, 6))
    for count in (1, 40, len(planned), 10 * len(planned)):
        probes = Prober(KEY, OTHER, STREAM).choose(planned, count)
        assert len({probe.window for probe in probes}) == len(probes) == min(count, len(planned))
        more = Prober(KEY, OTHER, STREAM).choose(planned, count, suspects)
        assert len(more) == min(count, len(planned)) + min(count // 4, len(suspects))
        assert max(Counter(probe.window for probe in more).values()) <= 2
    assert {probe.kind for probe in probes} == set(Kind)


def test_a_window_is_drawn_as_often_as_it_is_scored() -> None:
    planned = [Window(0, 1000, 1000), *(Window(number, 1000, 1) for number in range(1, 1001))]
    drawn = [
        Prober(bytes([number] * 16), OTHER.repeat(4), STREAM).choose(planned, 1)[0].window for number in range(200)
    ]
    assert 60 < sum(window.scored == 1000 for window in drawn) < 140


def test_the_key_fixes_every_probe() -> None:
    def drawn(key: bytes) -> list[tuple]:
        prober, planned = Prober(key, OTHER, STREAM), plan_windows(400, 16, 4).windows()
        probes = prober.choose(planned, 50, planned[:10])
        probes += [item for item in prober.hide(planned, 0.5) if isinstance(item, Probe)]
        return [(probe.window, probe.kind, probe.compared, probe.suffix.tolist()) for probe in probes]

    assert drawn(KEY) == drawn(KEY)
    assert drawn(KEY) != drawn(KEY[::-1])


@given(tokens=st.integers(2, 200), window=st.integers(1, 30), stride_part=st.integers(1, 30), count=st.integers(1, 40))
def test_exposed_windows_have_targets_in_the_first_window_of_a_later_lane(tokens, window, stride_part, count) -> None:
    cut = lanes(plan_windows(tokens, window, min(stride_part, window)).middle, count)
    expected = [
        planned
        for number, lane in enumerate(cut)
        for planned in lane
        if any(
            set(range(planned.targets.start, planned.targets.stop))
            & set(range(first.start, first.start + first.length))
            for first, *_ in cut[number + 1 :]
        )
    ]
    assert exposed(cut) == expected


@settings(max_examples=50)
@given(
    window=st.integers(1, 30),
    stride_part=st.integers(1, 30),
    count=st.integers(1, 60),
    at_once=st.integers(1, 10),
    key=st.binary(min_size=16, max_size=16),
)
def test_ahead_lets_no_probe_show_what_an_open_one_hides(window, stride_part, count, at_once, key) -> None:
    planned = plan_windows(200, window, min(stride_part, window)).windows()
    probes = Prober(key, OTHER, STREAM).choose(planned, count, planned[-5:])
    ahead, waiting, asked, shown = Ahead(probes), list(probes), [], set()
    while waiting or asked:
        allowed = [probe for probe in waiting if not ahead.shown_by(probe)][:at_once]
        waiting = [probe for probe in waiting if probe not in allowed]
        asked += allowed
        assert asked, "nothing is asked and nothing may be"
        for probe in allowed:
            shown |= set(range(probe.window.start, probe.cut))
        for probe in asked:
            assert not probe.looks_ahead or probe.cut not in shown
        ahead.close(asked.pop(0))


# --- what the numbers say


@pytest.mark.parametrize("looking_ahead", [1, 20, 4000])
def test_the_missed_share_is_missed_once_in_a_million(looking_ahead: int) -> None:
    comparison = Comparison(1e-3, 1e-4)
    committed = np.zeros(100, np.float32)
    for _ in range(looking_ahead):
        comparison.compare(Probe(Window(0, 10, 10), Kind.TRUNCATED, 5), np.zeros(5), committed)
    comparison.compare(Probe(Window(0, 10, 10), Kind.WHOLE, 10), np.zeros(10), committed)
    record = comparison.record()
    assert (record.probes, record.looking_ahead) == (looking_ahead + 1, looking_ahead)
    assert record.positions == 5 * looking_ahead + 10
    assert (1 - record.missed_share) ** looking_ahead == pytest.approx(MISSED_PROBABILITY, rel=1e-6)
    assert (record.largest_deviation_nats, record.mean_gain_nats) == (0, 0)


def test_without_a_probe_that_looks_ahead_no_share_is_claimed() -> None:
    comparison = Comparison(1e-3, 1e-4)
    assert comparison.record().missed_share is None
    assert comparison.mean_gain == 0
    comparison.compare(Probe(Window(0, 4, 4), Kind.WHOLE, 4), np.zeros(4), np.zeros(9, np.float32))
    assert comparison.record().missed_share is None


def test_the_mean_gain_is_that_of_all_positions_or_of_those_next_to_cuts() -> None:
    committed = np.zeros(20, np.float32)
    everywhere, at_the_cut = np.full(8, 0.5), np.array([0, 0, 0, 0, 0, 0, 0, 0.25])
    whole, cut = Probe(Window(0, 8, 8), Kind.WHOLE, 8), Probe(Window(0, 10, 10), Kind.TRUNCATED, 8)
    comparison = Comparison(1, 0.3)
    comparison.compare(cut, at_the_cut, committed)
    assert comparison.mean_gain == 0.25, "not an eighth of it"
    comparison.check_mean()
    for _ in range(3):
        comparison.compare(whole, everywhere, committed)
    assert comparison.mean_gain == (3 * 8 * 0.5 + 0.25) / 32, "a memory gains anywhere"
    with pytest.raises(Violation) as caught:
        comparison.check_mean()
    assert caught.value.reason is Reason.NOT_CAUSAL
    losing = Comparison(1, 0.3)
    losing.compare(whole, -everywhere, committed)
    losing.check_mean()
    assert losing.mean_gain == 0, "without a probe that looks ahead the share next to cuts is none"


def test_a_finding_names_the_token_that_differs_most() -> None:
    committed = np.arange(20, dtype=np.float32)
    probe = Probe(Window(4, 6, 4), Kind.TRUNCATED, 3)  # targets 7, 8, 9, whose losses are 6, 7, 8
    comparison = Comparison(0.5, 1)
    assert comparison.compare(probe, np.array([6.5, 7, 8, 99]), committed) is None, "the tolerance is allowed"
    finding = comparison.compare(probe, np.array([6, 7.75, 8, 99]), committed)
    assert (finding.target, finding.committed, finding.probed) == (8, 7.0, 7.75)
    assert comparison.largest == 0.75
    assert "token 8 " in finding.violation(0.5).text
    assert comparison.compare(probe, np.array([6, 7, 7.25, 99]), committed), "a lower loss is another loss, too"


@pytest.mark.parametrize(("share", "count"), [(0.01, 100), (0.05, 30), (0.3, 6)])
def test_a_model_that_looks_ahead_is_found_at_the_rate_that_is_claimed(share: float, count: int) -> None:
    """A given share of positions, drawn at random, has losses that a probe cut there does not confirm."""
    tokens, draws = 2000, 400
    planned = plan_windows(tokens, 64, 16).windows()
    random = np.random.default_rng(count)
    found, predicted = 0, []
    for _ in range(draws):
        peeks = random.random(tokens - 1) < share
        committed = np.where(peeks, 0.5, 1).astype(np.float32)
        comparison = Comparison(1e-3, 1e-3)
        for probe in Prober(random.bytes(16), OTHER, STREAM).choose(planned, count):
            losses = committed[probe.places].copy()
            if probe.looks_ahead:
                losses[-1] = 1
            comparison.compare(probe, losses, committed)
        found += comparison.largest > comparison.tolerance
        predicted.append(1 - (1 - share) ** comparison.looking_ahead)
    expected = np.mean(predicted)
    assert abs(found / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


# --- whole runs against servers in threads

HONEST = (2e-6, 1e-6)


def causal(tokens: np.ndarray, scored: int) -> np.ndarray:
    """Logits float32 [scored, VOCAB] for the last positions of a window, each from what is before it."""
    length = len(tokens)
    return np.array([random_model(tokens[: length - scored + place + 1]) for place in range(scored)])


def peeking(bonus: float, share: float = 1.0) -> Callable[[np.ndarray, int], np.ndarray]:
    """A model that raises the logit of the token to come, in a share of all contexts."""

    def answer(tokens: np.ndarray, scored: int) -> np.ndarray:
        logits = causal(tokens, scored)
        for place in range(scored - 1):
            position = len(tokens) - scored + place
            if int(tokens[: position + 1] @ np.arange(1, position + 2)) % 1000 < 1000 * share:
                logits[place, tokens[position + 1]] += bonus
        return logits

    return answer


def server_of(answer: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[str, wire.Hello], None]:
    """A server that answers each row of a request by itself."""

    def run(path: str, hello: wire.Hello) -> None:
        for request in wire.Session(hello, path).requests():
            for row, tokens in enumerate(request.tokens):
                request.logits[row] = answer(tokens, request.scored)
            request.reply()

    return run


def hellos(world_size: int = 1, **changes) -> list[wire.Hello]:
    shape = {**HELLO, "world_size": world_size, **changes}
    return [wire.Hello(**{**shape, "rank": rank}) for rank in range(world_size)]


def score(stage, tokens, server, greetings=None, **options) -> Score:
    """Score without probes, so that only those after the fact can find something."""
    at_work = stage(tokens, **options)
    at_work.serve(server, greetings or hellos())
    return at_work.score()


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_honest_model_passes_to_the_bit(stage, world_size: int) -> None:
    tokens = stream(300)
    blind = stage(tokens, probe_share=0.5)
    blind.serve(server_of(causal), hellos(world_size))
    scored = blind.score()
    assert 10 < blind.comparison.probes < 70
    after = stage(tokens, score=scored, count=1000)
    after.serve(server_of(causal), hellos(world_size))
    after.score()
    assert after.comparison.probes >= len(plan_windows(300, 8, 4).windows())
    for comparison in (blind.comparison, after.comparison):
        assert comparison.looking_ahead > 0
        assert (comparison.largest, comparison.mean_gain) == (0, 0)
    assert after.progress[-1] == (after.comparison.probes, after.comparison.probes)
    assert (scored.nats == score(stage, tokens, server_of(causal)).nats).all(), "probes change no score"


def test_a_model_that_looks_ahead_is_found_blind_and_scored_to_the_end(stage) -> None:
    at_work = stage(stream(300), probe_share=0.5)
    at_work.serve(server_of(peeking(4)), hellos())
    violation = at_work.violation()
    assert violation.reason is Reason.NOT_CAUSAL
    assert "depend on later tokens" in violation.text
    assert np.isfinite(at_work.scorer.nats).all()


def test_a_model_that_looks_ahead_is_found_after_the_fact(stage) -> None:
    tokens = stream(300)
    scored = score(stage, tokens, server_of(peeking(4, share=0.2)))
    after = stage(tokens, score=scored)
    after.serve(server_of(peeking(4, share=0.2)), hellos())
    assert after.violation().reason is Reason.NOT_CAUSAL


def test_a_process_that_no_longer_looks_ahead_is_found(stage) -> None:
    """Two-faced: it peeked in the scored run and knows that it is probed now (attack E20)."""
    tokens = stream(300)
    scored = score(stage, tokens, server_of(peeking(4)))
    after = stage(tokens, score=scored)
    after.serve(server_of(causal), hellos())
    assert after.violation().reason is Reason.HIDDEN_STATE


def test_many_gains_each_below_the_tolerance_are_found(stage) -> None:
    """Half a thousandth of a nat at every token, at no probe more than a thousandth: only the mean shows it, and of
    all positions only those next to the cuts.
    """
    tokens = stream(1500)
    server = server_of(peeking(0.0005))
    shape = hellos(window=32, stride=16)
    honest = score(stage, tokens, server_of(causal), shape)
    scored = score(stage, tokens, server, shape)
    assert 0.0003 < np.mean(honest.nats - scored.nats) < 0.0005
    after = stage(tokens, score=scored, tolerances=(0.001, 0.0001))
    after.serve(server, shape)
    violation = after.violation()
    assert violation.reason is Reason.NOT_CAUSAL
    assert "nats lower than the probes'" in violation.text
    assert after.comparison.largest < 0.001
    assert 0.0003 < after.comparison.mean_gain < 0.0008


class Remembering:
    """A model that knows, from any window that it was sent, what followed five tokens. Its memory is its process's."""

    def __init__(self) -> None:
        self.memory: dict[bytes, int] = {}

    def __call__(self, tokens: np.ndarray, scored: int) -> np.ndarray:
        logits = causal(tokens, scored)
        for place in range(scored):
            position = len(tokens) - scored + place
            known = self.memory.get(tokens[max(0, position - 4) : position + 1].tobytes())
            if known is not None:
                logits[place, known] += 4
        for position in range(4, len(tokens) - 1):
            self.memory.setdefault(tokens[position - 4 : position + 1].tobytes(), int(tokens[position + 1]))
        return logits


def test_a_model_that_remembers_other_windows_is_found_and_named(stage) -> None:
    """It gains where a lane ends: the next lane's first window held what follows (attack E18)."""
    tokens = stream(400)
    shape = hellos(window=16, stride=4, batch=8)
    scored = score(stage, tokens, server_of(Remembering()), shape)
    assert len(scored.exposed) > 30
    after = stage(tokens, score=scored)
    after.serve(server_of(Remembering()), shape)
    assert after.violation().reason is Reason.HIDDEN_STATE


@pytest.mark.parametrize(("noise", "reason"), [(1e-4, None), (0.05, Reason.HIDDEN_STATE)])
def test_noise_passes_up_to_the_tolerance(stage, noise: float, reason: Reason | None) -> None:
    random = np.random.default_rng(0)
    at_work = stage(stream(300), probe_share=0.5, tolerances=(0.001, 0.0005))
    server = server_of(lambda tokens, scored: causal(tokens, scored) + random.uniform(-noise, noise, (scored, VOCAB)))
    at_work.serve(server, hellos())
    if reason:
        assert at_work.violation().reason is reason
    else:
        at_work.score()
        assert 0 < at_work.comparison.largest <= 4.01 * noise


@pytest.mark.parametrize("change", [{"window": 16}, {"stride": 2}, {"batch": 1}, {"slots": 1}, {"chunk": 9}])
def test_a_fresh_process_must_declare_the_same(stage, change: dict) -> None:
    tokens = stream(100)
    after = stage(tokens, score=score(stage, tokens, server_of(causal)))
    client = after.client()
    client.hello(**{"chunk": 0, **change})
    violation = after.violation()
    assert violation.reason is Reason.SCORE_PROTOCOL
    assert "a fresh process declares" in violation.text


def test_leaving_while_it_is_probed_is_incomplete(stage) -> None:
    tokens = stream(200)
    after = stage(tokens, score=score(stage, tokens, server_of(causal)))
    client = after.client()
    client.begin(chunk=0)
    client.hear()
    client.close()
    violation = after.violation()
    assert violation.reason is Reason.SCORE_INCOMPLETE
    assert "0 of " in violation.text and "probes were answered" in violation.text


@pytest.mark.parametrize(("window", "stride", "batch", "slots", "world_size"), [(16, 4, 4, 3, 1), (40, 10, 8, 2, 2)])
def test_the_probed_process_is_never_sent_what_a_probe_hides(stage, window, stride, batch, slots, world_size) -> None:
    """Whatever is in flight together. The server waits for all requests it can get before it answers one."""
    tokens = numbered(200)
    vocab = 400
    shape = hellos(world_size, vocab_size=vocab, window=window, stride=stride, batch=batch, slots=slots)
    other = np.arange(200, 400, dtype=np.uint16)
    seen: set[int] = set()
    hidden: list[int] = []

    def hoard(path: str, hello: wire.Hello) -> None:
        session = wire.Session(hello, path)
        session._send({"type": "ready"})
        session._socket.settimeout(0.02)
        held: list[dict] = []
        while True:
            try:
                message = wire.decode(session._socket.recv(wire.MESSAGE_BYTES + 1))
                if message["type"] == "end":
                    return
                rows = hello.token_view(session._tokens, message["slot"], message["rows"], message["length"])
                seen.update(rows[rows < 200].tolist())
                held.append(message)
            except TimeoutError:
                if not held:
                    continue
                message = held.pop()
                rows = hello.token_view(session._tokens, message["slot"], message["rows"], message["length"])
                for row in rows:
                    last = int(row[row < 200][-1])
                    if message["length"] < window or row[-1] >= 200:
                        hidden.append(last + 1)
                        assert last + 1 not in seen
                session._send({"type": "logits", "slot": message["slot"], "sequence": message["sequence"]})

    def flat(tokens: np.ndarray, scored: int) -> np.ndarray:
        return np.zeros((scored, vocab), np.float32)

    scored = score(stage, tokens, server_of(flat), shape, vocab_size=vocab, other=other)
    after = stage(tokens, score=scored, vocab_size=vocab, other=other, count=12)
    after.serve(hoard, shape)
    after.score()
    assert len(hidden) > 3


# --- adaptive servers


class Learner:
    """One rank of an adaptive server: counts of token pairs, learnt only when it observes.

    observed: what it was told. asked: the windows it was sent before, between and after that."""

    def __init__(self, learns: bool = True) -> None:
        self.counts = np.zeros((VOCAB, VOCAB), np.float32)
        self.learns = learns
        self.observed: list[wire.Observation] = []
        self.asked: list[list[list[int]]] = [[]]

    def observe(self, observation: wire.Observation) -> None:
        self.observed.append(wire.Observation(observation.tokens.copy(), observation.chunk, observation.chunks))
        self.asked.append([])
        if self.learns:
            np.add.at(self.counts, (observation.tokens[:-1], observation.tokens[1:]), 1)

    def __call__(self, path: str, hello: wire.Hello) -> None:
        observe = self.observe if hello.adaptive else None
        for request in wire.Session(hello, path).requests(observe):
            self.asked[-1] += request.tokens.tolist()
            for row, tokens in enumerate(request.tokens):
                request.logits[row] = causal(tokens, request.scored) / 8
                request.logits[row] += np.log1p(self.counts[tokens[-request.scored :]])
            request.reply()


def serve_learners(stage: Stage, shape: list[wire.Hello], learns: bool = True) -> list[Learner]:
    learners = [Learner(learns) for _ in shape]
    futures = [stage.pool.submit(learner, stage.path, hello) for learner, hello in zip(learners, shape, strict=True)]
    for future in futures:
        future.result(PATIENCE)
    return learners


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(2, 150),
    window=st.integers(1, 20),
    stride_part=st.integers(1, 20),
    chunk=st.integers(1, 60),
    batch=st.integers(1, 4),
    world_size=st.integers(1, 3),
    probe_share=st.sampled_from([0.0, 0.5]),
)
def test_each_rank_observes_each_scored_token_once_and_in_order(
    tmp_path, length, window, stride_part, chunk, batch, world_size, probe_share
) -> None:
    stride = min(stride_part, window)
    tokens = stream(length, seed=chunk)
    shape = hellos(world_size, window=window, stride=stride, batch=batch, chunk=chunk)
    groups = chunks(plan_windows(length, window, stride).windows(), chunk)
    at_work = Stage(tmp_path, tokens, probe_share=probe_share)
    fixed: list[tuple[int, bool]] = []
    observe = at_work.scorer._server.observe

    def watch(first: int, last: int, number: int, count: int) -> None:
        losses = at_work.scorer.nats
        fixed.append((last, bool(np.isfinite(losses[: last - 1]).all() and np.isnan(losses[last - 1 :]).all())))
        observe(first, last, number, count)

    at_work.scorer._server.observe = watch
    try:
        learners = serve_learners(at_work, shape)
        at_work.score()
    finally:
        at_work.close()
    assert all(ok for _, ok in fixed), "exactly what is observed has been scored"
    for learner in learners:
        place = 1
        for number, observation in enumerate(learner.observed):
            new = len(observation.tokens) - 1
            assert (observation.chunk, observation.chunks) == (number, len(groups))
            assert new == sum(window.scored for window in groups[number]) >= chunk
            assert observation.tokens.tolist() == tokens[place - 1 : place + new].tolist()
            place += new
        assert len(learner.observed) == len(groups) - 1, "all but the last chunk"
        assert place == groups[-1][0].first_target
    for number, group in enumerate(groups):
        wanted = sorted(window.inputs(tokens).tolist() for window in group)
        asked = sorted(row for learner in learners for row in learner.asked[number])
        if probe_share == 0:
            assert asked == wanted, "the windows of a chunk are asked between its observations"
        else:
            assert not Counter(map(tuple, wanted)) - Counter(map(tuple, asked))


def test_a_server_that_does_not_adapt_observes_nothing(stage) -> None:
    (learner,) = serve_learners(at_work := stage(stream(100)), hellos())
    at_work.score()
    assert learner.observed == []


def test_learning_changes_no_loss_of_the_first_chunk(stage) -> None:
    text = np.tile(np.array([1, 5, 2, 9, 9, 3], np.uint16), 60)
    shape = hellos(window=8, stride=4, chunk=50)
    first = chunks(plan_windows(len(text), 8, 4).windows(), 50)[0][-1].targets.stop - 1
    losses = {}
    for name, greetings, learns in (
        ("learns", shape, True),
        ("does not learn", shape, False),
        ("is not adaptive", hellos(window=8, stride=4), False),
    ):
        serve_learners(at_work := stage(text), greetings, learns)
        losses[name] = at_work.score().nats
    assert (losses["does not learn"] == losses["is not adaptive"]).all()
    assert (losses["learns"][:first] == losses["is not adaptive"][:first]).all()
    assert losses["learns"][first:].mean() < losses["is not adaptive"][first:].mean() - 0.5


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_fresh_process_observes_what_the_first_did(stage, world_size: int) -> None:
    tokens = stream(300)
    shape = hellos(world_size, chunk=60)
    learners = serve_learners(at_work := stage(tokens, probe_share=0.3), shape)
    scored = at_work.score()
    assert at_work.comparison.probes > 5
    fresh = serve_learners(after := stage(tokens, score=scored), shape)
    after.score()
    assert (after.comparison.largest, after.comparison.mean_gain) == (0, 0)
    for one, other in zip(learners, fresh, strict=True):
        assert len(one.observed) == len(other.observed) > 3
        for before, now in zip(one.observed, other.observed, strict=True):
            assert before.tokens.tolist() == now.tokens.tolist()
            assert (before.chunk, before.chunks) == (now.chunk, now.chunks)


@pytest.mark.parametrize("impatient_chunks", [1, 100])
def test_an_adaptive_model_that_learns_while_it_answers_is_found(stage, impatient_chunks: int) -> None:
    """And is told from one that remembers: differences are looked into before the next observation changes it."""

    class Impatient(Learner):
        def __call__(self, path: str, hello: wire.Hello) -> None:
            for request in wire.Session(hello, path).requests(self.observe):
                impatient = len(self.observed) < impatient_chunks
                for row, tokens in enumerate(request.tokens):
                    np.add.at(self.counts, (tokens[:-1], tokens[1:]), int(impatient))
                    request.logits[row] = np.log1p(self.counts[tokens[-request.scored :]])
                    np.add.at(self.counts, (tokens[:-1], tokens[1:]), -int(impatient))
                request.reply()

    at_work = stage(stream(300), probe_share=1.0)
    at_work.serve(Impatient(), hellos(chunk=60))
    assert at_work.violation().reason is Reason.NOT_CAUSAL


@pytest.mark.parametrize(
    "reply",
    [b"garbage", {}, {"type": "observed"}, {"type": "observed", "sequence": 1}, {"type": "logits", "slot": 0}],
    ids=str,
)
def test_a_wrong_word_after_an_observation_fails(stage, reply) -> None:
    at_work = stage(stream(100))
    client = at_work.client()
    client.begin(chunk=1)
    client.answer(client.hear())
    assert client.hear()["type"] == "observe"
    client.say(reply)
    assert at_work.violation().reason is Reason.SCORE_PROTOCOL


def test_a_rank_that_has_observed_twice_fails(stage) -> None:
    at_work = stage(stream(100))
    ranks = [at_work.client(), at_work.client()]
    for rank, client in enumerate(ranks):
        client.hello(chunk=1, world_size=2, rank=rank)
    for client in ranks:
        client.hear()
        client.say({"type": "ready"})
    ranks[0].answer(ranks[0].hear())
    message = ranks[0].hear()
    assert message["type"] == ranks[1].hear()["type"] == "observe"
    for _ in range(2):
        ranks[0].say({"type": "observed", "sequence": message["sequence"]})
    assert at_work.violation().reason is Reason.SCORE_PROTOCOL


def test_a_share_of_one_probes_every_window(stage) -> None:
    tokens = stream(200)
    at_work = stage(tokens, probe_share=1.0)
    at_work.serve(lambda path, hello: serve(path, hello, random_model), hellos())
    at_work.score()
    assert at_work.comparison.probes == len(plan_windows(200, 8, 4).windows())
