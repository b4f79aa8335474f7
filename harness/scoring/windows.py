"""Which window scores which token: pure arithmetic over positions.

The val stream has N tokens; every token but the first is scored once. Target t (1 <= t < N) is predicted from tokens
before it. A window (start, length, scored) is sent tokens [start, start + length) and scores the targets that follow
its last `scored` positions: start + length - scored + 1 ... start + length."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A named tuple, because the record's stream has a million of them."""

    start: int
    length: int
    scored: int

    @property
    def first_target(self) -> int:
        return self.start + self.length - self.scored + 1

    @property
    def targets(self) -> slice:
        """The stretch of the val stream whose tokens this window scores."""
        return slice(self.first_target, self.first_target + self.scored)

    def inputs(self, stream: np.ndarray) -> np.ndarray:
        """The tokens that are sent, [length], of the val stream."""
        return stream[self.start : self.start + self.length]


@dataclass(frozen=True)
class Plan:
    """All windows of a stream, in order. The first and the last may differ in shape from the others, which are all
    alike.

    first: scores every position it holds. middle: full windows, each scoring `stride` positions. last: what is left
    over, with as much context as any other; None if nothing is left."""

    first: Window
    middle: tuple[Window, ...]
    last: Window | None

    def windows(self) -> tuple[Window, ...]:
        return (self.first, *self.middle, *([self.last] if self.last else []))


def plan_windows(tokens: int, window: int, stride: int) -> Plan:
    """The sliding windows over a stream of `tokens` tokens (at least 2); `stride == window` gives windows that do not
    overlap.

    Every target 1..tokens-1 is scored exactly once, with at least window - stride tokens of context beyond the first
    window."""
    if tokens < 2:
        raise ValueError(f"a stream of {tokens} tokens has nothing to score")
    inputs = tokens - 1  # the last token is only ever a target
    first = Window(0, min(window, inputs), min(window, inputs))
    steps, left = divmod(inputs - first.length, stride)
    middle = tuple(Window(stride * step, window, stride) for step in range(1, steps + 1))
    last = Window(inputs - window, window, left) if left else None
    return Plan(first, middle, last)


def lanes(windows: tuple[Window, ...], count: int) -> list[tuple[Window, ...]]:
    """Cut `windows` into at most `count` contiguous lanes whose lengths differ by at most one; no lane is empty.

    Each lane is answered strictly from left to right, so a window is sent only when its predecessor's losses are
    fixed. The first windows of a lane do hold, as context, targets that the lane before it has yet to score: a model
    that remembered them would be one with hidden state, which sending windows cannot prevent and probes find
    (`exposed`)."""
    count = min(count, len(windows))
    if count == 0:
        return []
    quotient, remainder = divmod(len(windows), count)
    sizes = [quotient + (number < remainder) for number in range(count)]
    result, begin = [], 0
    for size in sizes:
        result.append(windows[begin : begin + size])
        begin += size
    return result


def exposed(cut: list[tuple[Window, ...]]) -> list[Window]:
    """The windows whose targets were sent as context of a later lane before they were scored: the last ones of each
    lane but the last.
    """
    return [
        window
        for lane, following in pairwise(cut)
        for window in lane
        if window.first_target + window.scored > following[0].start
    ]


def chunks(windows: tuple[Window, ...], tokens: int) -> list[tuple[Window, ...]]:
    """Cut `windows` into groups that score at least `tokens` tokens each, but for the last; 0 gives one group.

    An adaptive model observes the targets of a group when all of it is scored, and before the next is sent."""
    groups: list[list[Window]] = [[]]
    scored = 0
    for window in windows:
        if tokens and scored >= tokens:
            groups.append([])
            scored = 0
        groups[-1].append(window)
        scored += window.scored
    return [tuple(group) for group in groups]
