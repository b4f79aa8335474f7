"""Which window scores which token: pure arithmetic over positions.

The val stream has N tokens; every token but the first is scored once. Target t (1 <= t < N) is predicted from tokens
before it. A window (start, length, scored) is sent tokens [start, start + length) and scores the targets that follow
its last `scored` positions: start + length - scored + 1 ... start + length."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
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
    that remembered them would be a model with hidden state, which sending windows cannot prevent
    (docs/threat-model.md)."""
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
