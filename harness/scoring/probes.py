"""Causality probes: windows that are asked again, with something changed that may not matter.

A loss that has been committed must come out the same when every token behind it is replaced by other real text, when
the window ends there, or when the window is asked alone, in another order, by a process that has seen nothing else.
Blind probes are asked among the real windows; those after the fact are chosen when every loss has been committed, and
asked of a fresh process. A server that recognises a probe gains nothing: to answer as it did before it must not need
what the probe took away.

What a probe can see: one position after which the text changes. It exposes a model that looks from at or before that
position to behind it. Positions are drawn evenly from those that are scored, so the share of positions that look at
the token they predict, and that all of n probes would miss with a probability of 1e-6, is 1 - 1e-6 ** (1 / n)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from harness.errors import Reason, Violation
from harness.evidence.record import ProbeRecord
from harness.scoring.windows import Window

MISSED_PROBABILITY = 1e-6
SUFFIX_TRIES = 100
MOST_FINDINGS = 8  # of one stage are looked into; one is enough to fail


class Kind(StrEnum):
    REPLACED = "replaced"  # every token after a position is another
    TRUNCATED = "truncated"  # the window ends at that position
    WHOLE = "whole"  # the window as it was


@dataclass(frozen=True, eq=False)
class Probe:
    """A scored window, asked again. Only its first `compared` scored positions say anything; with Kind.REPLACED the
    tokens behind the last of them are `suffix` (integers), with Kind.TRUNCATED they are not there.
    """

    window: Window
    kind: Kind
    compared: int
    suffix: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint16))

    @property
    def kept(self) -> int:
        """Tokens of the window that are as they were."""
        return self.window.length - self.window.scored + self.compared

    @property
    def cut(self) -> int:
        """Place in the val stream of the first token that is not as it was."""
        return self.window.start + self.kept

    @property
    def length(self) -> int:
        return self.kept if self.kind is Kind.TRUNCATED else self.window.length

    @property
    def scored(self) -> int:
        return self.compared if self.kind is Kind.TRUNCATED else self.window.scored

    @property
    def targets(self) -> slice:
        """As of the window that is asked for: what the scorer takes losses of."""
        return slice(self.window.first_target, self.window.first_target + self.scored)

    @property
    def places(self) -> slice:
        """Of the compared positions, among the losses of the stream."""
        return slice(self.window.first_target - 1, self.window.first_target - 1 + self.compared)

    @property
    def looks_ahead(self) -> bool:
        """Whether a model that looks ahead would be exposed."""
        return self.compared < self.window.scored

    def inputs(self, stream: np.ndarray) -> np.ndarray:
        """The tokens that are sent, [length], of the val stream."""
        return np.concatenate([stream[self.window.start : self.window.start + self.kept], self.suffix])


class Prober:
    """Draws probes. `key`: 128 bits; who knows them knows every draw. `other`: real text, integers [n], none of it yet
    to be scored, at least as long as any window. `stream`: the val stream, integers [N].
    """

    def __init__(self, key: bytes, other: np.ndarray, stream: np.ndarray) -> None:
        self._random = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
        self._other = other
        self._stream = stream

    def draw(self, window: Window, kind: Kind) -> Probe:
        """A probe of the window, cut at a position drawn evenly from the scored ones. After the last nothing changes,
        so that the probe then only shows whether the same window gives the same losses.
        """
        compared = int(self._random.integers(1, window.scored + 1))
        if kind is Kind.WHOLE or compared == window.scored:
            return Probe(window, Kind.WHOLE, window.scored)
        probe = Probe(window, kind, compared)
        if kind is Kind.TRUNCATED:
            return probe
        missing = window.length - probe.kept
        for _ in range(SUFFIX_TRIES):
            begin = int(self._random.integers(0, len(self._other) - missing + 1))
            if self._other[begin] != self._stream[probe.cut]:  # or the nearest token ahead would be as it was
                break
        return Probe(window, kind, compared, self._other[begin : begin + missing])

    def hide(self, lane: Sequence[Window], share: float) -> list[Window | Probe]:
        """The windows of a lane in order, with blind probes of a share of them: each either just before its window or
        anywhere after it.
        """
        probed = self._random.random(len(lane)) < share
        before: dict[int, list[Probe]] = {}  # place in the lane, or its end -> what is asked just before it
        for place in np.flatnonzero(probed).tolist():
            at_once = self._random.random() < 0.5
            where = place if at_once else int(self._random.integers(place, len(lane))) + 1
            before.setdefault(where, []).append(self.draw(lane[place], Kind.REPLACED))
        items: list[Window | Probe] = []
        begin = 0
        for where in sorted(before):
            items += [*lane[begin:where], *before[where]]
            begin = where
        return [*items, *lane[begin:]]

    def choose(self, windows: Sequence[Window], count: int, suspects: Sequence[Window] = ()) -> list[Probe]:
        """Probes of `count` windows (or all), and of up to a quarter as many of the `suspects`, in random order; half
        with other text, half truncated.
        """
        picked = self._pick(windows, count) + self._pick(suspects, count // 4)
        probes = [
            self.draw(window, (Kind.REPLACED, Kind.TRUNCATED)[number])
            for window, number in zip(picked, self._random.integers(0, 2, len(picked)), strict=True)
        ]
        return [probes[place] for place in self._random.permutation(len(probes))]

    def _pick(self, windows: Sequence[Window], count: int) -> list[Window]:
        """No window twice, and each as likely as it is scored: the first may score many times what the others do."""
        if not windows:
            return []
        scored = np.array([window.scored for window in windows], np.float64)
        count = min(count, len(windows))
        chosen = self._random.choice(len(windows), count, replace=False, p=scored / scored.sum())
        return [windows[place] for place in chosen]


class Ahead:
    """Which probes may be asked now, in one process: none that shows the text behind the cut of another that is not
    answered yet, which a server with a memory could use instead of looking ahead.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._cuts = sorted(probe.cut for probe in probes if probe.looks_ahead)

    def shown_by(self, probe: Probe) -> bool:
        """Whether the probe shows what follows an open cut (its own is behind all that it shows)."""
        return bisect_left(self._cuts, probe.window.start) < bisect_left(self._cuts, probe.cut)

    def close(self, probe: Probe) -> None:
        """The probe is answered."""
        if probe.looks_ahead:
            del self._cuts[bisect_left(self._cuts, probe.cut)]


@dataclass(frozen=True)
class Finding:
    """A probe whose losses are not those that were committed.

    losses: the probe's, float64 [compared]. target: place in the val stream of the token where they differ most;
    committed, probed: its nats."""

    probe: Probe
    losses: np.ndarray
    target: int
    committed: float
    probed: float
    depends_on_suffix: bool = True

    def violation(self, tolerance: float) -> Violation:
        """The broken rule."""
        change = (
            f"the loss of token {self.target:,} was {self.committed:.6g} nats in the window at token "
            f"{self.probe.window.start:,} and is {self.probed:.6g}"
        )
        limit = f"(tolerance {tolerance:g})"
        if self.depends_on_suffix:
            how = "with other text behind it" if self.probe.kind is Kind.REPLACED else "with nothing behind it"
            text = f"{change} {how} {limit}: logits depend on later tokens"
            return Violation(Reason.NOT_CAUSAL, text)
        text = f"{change} when the same window is asked again {limit}: logits depend on other windows, or on chance"
        return Violation(Reason.HIDDEN_STATE, text)


class Comparison:
    """What the probes said, against the committed losses. Tolerances in nats: of any single loss, and of the mean by
    which committed losses are lower, which is what looking ahead would gain.
    """

    def __init__(self, tolerance: float, mean_tolerance: float) -> None:
        self.tolerance, self.mean_tolerance = tolerance, mean_tolerance
        self.probes = 0
        self.looking_ahead = 0
        self.positions = 0
        self.largest = 0.0
        self._gained = 0.0
        self._gained_at_cuts = 0.0

    def compare(self, probe: Probe, probed: np.ndarray, committed: np.ndarray) -> Finding | None:
        """Take one probe's losses, float [compared] or longer, against the stream's, float [N - 1]."""
        before = committed[probe.places].astype(np.float64)
        losses = probed[: probe.compared].astype(np.float32).astype(np.float64)
        difference = losses - before
        self.probes += 1
        self.looking_ahead += probe.looks_ahead
        self.positions += probe.compared
        self._gained += float(difference.sum())
        self._gained_at_cuts += float(difference[-1]) if probe.looks_ahead else 0.0
        worst = int(np.abs(difference).argmax())
        self.largest = max(self.largest, float(abs(difference[worst])))
        if abs(difference[worst]) <= self.tolerance:
            return None
        return Finding(probe, losses, probe.window.first_target + worst, before[worst], losses[worst])

    @property
    def mean_gain(self) -> float:
        """Nats by which the committed losses are lower than the probes': on average over the compared positions, or
        over those next to a cut if that is more. Next to a cut everything ahead has changed; a model that looks but one
        token ahead gains at no other.
        """
        overall = self._gained / self.positions if self.positions else 0.0
        at_cuts = self._gained_at_cuts / self.looking_ahead if self.looking_ahead else 0.0
        return max(overall, at_cuts)

    def record(self) -> ProbeRecord:
        """For the evidence."""
        return ProbeRecord(
            probes=self.probes,
            looking_ahead=self.looking_ahead,
            positions=self.positions,
            largest_deviation_nats=self.largest,
            tolerance_nats=self.tolerance,
            mean_gain_nats=self.mean_gain,
            mean_tolerance_nats=self.mean_tolerance,
            missed_share=1 - MISSED_PROBABILITY ** (1 / self.looking_ahead) if self.looking_ahead else None,
        )

    def check_mean(self) -> None:
        """Raise the Violation if committed losses are too low on the whole, each by less than the tolerance."""
        if self.mean_gain > self.mean_tolerance:
            text = (
                f"over {self.positions:,} probed positions the committed losses are {self.mean_gain:.3g} nats lower "
                f"than the probes' (tolerance {self.mean_tolerance:g})"
            )
            raise Violation(Reason.NOT_CAUSAL, text)
