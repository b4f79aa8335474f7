"""A clock runs from its gate to the empty sandbox, its limits are exact, and what nobody saw counts from launch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.clock import PhaseClock
from harness.errors import Reason, Violation

LAUNCH = 1000.0


def clock(*, seen: bool = True, prepare: float = 8, limit: float = 16, drain: float = 2) -> PhaseClock:
    made = PhaseClock(prepare_limit=prepare, clock_limit=limit, drain_seconds=drain, gate_is_seen=seen)
    made.launch(LAUNCH)
    return made


def reason_at(made: PhaseClock, now: float) -> Reason | None:
    try:
        made.check(now)
    except Violation as violation:
        return violation.reason
    return None


def test_preparation_may_take_exactly_its_limit() -> None:
    made = clock()
    assert made.next_deadline() == LAUNCH + 8
    assert reason_at(made, LAUNCH + 8) is None
    assert reason_at(made, LAUNCH + 8.001) is Reason.PREPARE_OVER_LIMIT
    assert made.clock_seconds(LAUNCH + 8) == 0


def test_the_clock_may_run_exactly_its_limit() -> None:
    made = clock()
    made.open_gate(LAUNCH + 3)
    assert made.next_deadline() == LAUNCH + 3 + 16
    assert reason_at(made, LAUNCH + 19) is None
    assert reason_at(made, LAUNCH + 19.001) is Reason.CLOCK_OVER_LIMIT
    assert (made.prepare_seconds(LAUNCH + 10), made.clock_seconds(LAUNCH + 10)) == (3, 7)


def test_other_processes_may_outlive_the_command_exactly_so_long() -> None:
    made = clock()
    made.open_gate(LAUNCH + 1)
    made.exited = LAUNCH + 5
    assert made.next_deadline() == LAUNCH + 7
    assert reason_at(made, LAUNCH + 7) is None
    assert reason_at(made, LAUNCH + 7.001) is Reason.PROCESS_LEFT_BEHIND
    made.empty = LAUNCH + 6.9
    assert reason_at(made, LAUNCH + 100) is None, "after the end the time of the end counts"


def test_the_drain_is_on_the_clock() -> None:
    made = clock()
    made.open_gate(LAUNCH)
    made.exited = LAUNCH + 15.5
    assert made.next_deadline() == LAUNCH + 16
    assert reason_at(made, LAUNCH + 16.5) is Reason.CLOCK_OVER_LIMIT


def test_later_opens_do_not_restart_the_clock() -> None:
    made = clock()
    made.open_gate(LAUNCH + 1)
    made.open_gate(LAUNCH + 15)
    assert made.clock_seconds(LAUNCH + 16) == 15


def test_after_the_end_both_stand_still() -> None:
    made = clock()
    made.open_gate(LAUNCH + 1)
    made.empty = LAUNCH + 4
    assert made.clock_seconds(LAUNCH + 1000) == 3
    assert reason_at(made, LAUNCH + 1000) is None


def test_a_gate_that_was_never_opened_leaves_the_clock_at_zero() -> None:
    made = clock()
    made.empty = LAUNCH + 5
    assert (made.prepare_seconds(LAUNCH + 50), made.clock_seconds(LAUNCH + 50)) == (5, 0)
    assert reason_at(made, LAUNCH + 50) is None


def test_a_gate_opened_too_late_is_preparation_over_its_limit() -> None:
    made = clock()
    made.open_gate(LAUNCH + 9)
    made.empty = LAUNCH + 9.5
    assert reason_at(made, LAUNCH + 9.5) is Reason.PREPARE_OVER_LIMIT


def test_where_nobody_sees_the_gate_the_clock_runs_from_launch() -> None:
    made = clock(seen=False)
    assert made.gate == LAUNCH
    made.open_gate(LAUNCH + 5)
    assert (made.prepare_seconds(LAUNCH + 6), made.clock_seconds(LAUNCH + 6)) == (0, 6)
    assert reason_at(made, LAUNCH + 16) is None
    assert reason_at(made, LAUNCH + 16.001) is Reason.CLOCK_OVER_LIMIT


def test_before_launch_nothing_has_been_spent() -> None:
    made = PhaseClock(prepare_limit=1, clock_limit=1, drain_seconds=1, gate_is_seen=True)
    assert (made.prepare_seconds(5), made.clock_seconds(5)) == (0, 0)
    made.check(10**9)


times = st.integers(0, 4000).map(lambda eighths: LAUNCH + eighths / 8)  # exact in binary


@given(
    gate=st.none() | times,
    exited=st.none() | times,
    empty=st.none() | times,
    now=times,
    seen=st.booleans(),
    prepare=st.integers(1, 100),
    limit=st.integers(0, 100),
    drain=st.integers(1, 50),
)
def test_whatever_the_order_of_events(gate, exited, empty, now, seen, prepare, limit, drain) -> None:
    """Against the definition: spans of time between events, each compared with its limit."""
    made = clock(seen=seen, prepare=prepare, limit=limit, drain=drain)
    known = sorted((time, kind) for time, kind in ((gate, "gate"), (exited, "exited"), (empty, "empty")) if time)
    for time, kind in known:  # the sandbox is empty last, and nothing is known of the future
        if time > now or (empty is not None and time > empty):
            continue
        if kind == "gate":
            made.open_gate(time)
        else:
            setattr(made, kind, time)
    end = now if made.empty is None else made.empty
    begin = made.gate
    prepared = (end if begin is None else begin) - LAUNCH
    ran = 0 if begin is None else end - begin
    assert made.prepare_seconds(now) == prepared
    assert made.clock_seconds(now) == ran
    expected = None
    if prepared > prepare:
        expected = Reason.PREPARE_OVER_LIMIT
    elif ran > limit:
        expected = Reason.CLOCK_OVER_LIMIT
    elif made.exited is not None and end > made.exited + drain:
        expected = Reason.PROCESS_LEFT_BEHIND
    assert reason_at(made, now) is expected
    if expected is None and made.empty is None:
        deadline = made.next_deadline()
        assert deadline >= now
        assert reason_at(made, deadline) is None
        assert reason_at(made, deadline + 0.125) is not None, "the deadline is when a violation becomes due"
