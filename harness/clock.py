"""A phase's two clocks, as arithmetic over the monotonic times of its events. Nobody but the harness supplies a time.

    launched -- preparation --> gate -- the clock --> empty

launched   the sandbox's command is about to be executed (stamped by the guard)
gate       the first allowed open of a gated input (stamped by a listener before it lets the open go on)
empty      the last process of the sandbox is gone (stamped by the guard)

Where no listener can be had (not root) the gate is not seen; then the clock runs from launch, which can only be
longer, and the verdict cannot be PASS."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import Reason, Violation


@dataclass
class PhaseClock:
    """Limits in seconds; times in monotonic seconds. `drain_seconds`: how long other processes may outlive the
    command.
    """

    prepare_limit: float
    clock_limit: float
    drain_seconds: float
    gate_is_seen: bool
    launched: float | None = None
    gate: float | None = None
    exited: float | None = None
    empty: float | None = None

    def launch(self, at: float) -> None:
        self.launched = at
        if not self.gate_is_seen:
            self.gate = at

    def open_gate(self, at: float) -> None:
        """The first call starts the clock; later opens change nothing."""
        if self.gate is None:
            self.gate = at

    def prepare_seconds(self, now: float) -> float:
        """Seconds of preparation until the gate, or until `now` (or the end) if the gate was never opened."""
        if self.launched is None:
            return 0.0
        return self._until(self.gate, now) - self.launched

    def clock_seconds(self, now: float) -> float:
        """Seconds on the clock; 0 if the gate was never opened."""
        return 0.0 if self.gate is None else self._until(None, now) - self.gate

    def _until(self, end: float | None, now: float) -> float:
        return next(time for time in (end, self.empty, now) if time is not None)

    def next_deadline(self) -> float:
        """The monotonic time at which `check` may fail next."""
        deadline = self.launched + self.prepare_limit if self.gate is None else self.gate + self.clock_limit
        return deadline if self.exited is None else min(deadline, self.exited + self.drain_seconds)

    def check(self, now: float) -> None:
        """Raise the Violation that is due at `now`; after the end, judge by the time of the end."""
        prepared = self.prepare_seconds(now)
        if prepared > self.prepare_limit:
            state = "before its gate was opened" if self.gate is not None else "and its gate is still closed"
            raise Violation(
                Reason.PREPARE_OVER_LIMIT,
                f"preparation took {prepared:.2f} s {state}; the limit is {self.prepare_limit:g} s",
            )
        if self.clock_seconds(now) > self.clock_limit:
            raise Violation(
                Reason.CLOCK_OVER_LIMIT,
                f"the clock ran {self.clock_seconds(now):.2f} s; the limit is {self.clock_limit:g} s",
            )
        if self.exited is not None and self._until(None, now) > self.exited + self.drain_seconds:
            raise Violation(
                Reason.PROCESS_LEFT_BEHIND,
                f"processes were still running {self.drain_seconds:g} s after the command had exited",
            )
