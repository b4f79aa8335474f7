"""The window plan scores every token but the first exactly once, with the context that was declared, in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.scoring.windows import Window, lanes, plan_windows


@st.composite
def shapes(draw) -> tuple[int, int, int]:
    window = draw(st.integers(1, 40))
    return draw(st.integers(2, 300)), window, draw(st.integers(1, window))


@given(shapes())
def test_every_target_is_scored_exactly_once_and_in_order(shape) -> None:
    tokens, window, stride = shape
    targets = [
        target
        for planned in plan_windows(tokens, window, stride).windows()
        for target in range(planned.targets.start, planned.targets.stop)
    ]
    assert targets == list(range(1, tokens))


@given(shapes())
def test_a_window_is_never_sent_the_target_of_its_last_position(shape) -> None:
    tokens, window, stride = shape
    for planned in plan_windows(tokens, window, stride).windows():
        assert planned.start >= 0
        assert planned.start + planned.length <= tokens - 1
        assert planned.targets.stop - 1 == planned.start + planned.length
        assert 1 <= planned.scored <= planned.length


@given(shapes())
def test_shapes_are_those_declared(shape) -> None:
    tokens, window, stride = shape
    plan = plan_windows(tokens, window, stride)
    inputs = tokens - 1
    assert plan.first == Window(0, min(window, inputs), min(window, inputs))
    assert all((planned.length, planned.scored) == (window, stride) for planned in plan.middle)
    assert [planned.start for planned in plan.middle] == [stride * (number + 1) for number in range(len(plan.middle))]
    if plan.last:
        assert plan.last.length == window
        assert 0 < plan.last.scored < stride
        assert plan.last.start + window == inputs
    else:
        assert (inputs - plan.first.length) % stride == 0


@given(shapes())
def test_beyond_the_first_window_every_target_has_the_declared_context(shape) -> None:
    tokens, window, stride = shape
    plan = plan_windows(tokens, window, stride)
    for planned in plan.windows()[1:]:
        context_of_first_target = planned.first_target - planned.start
        assert context_of_first_target >= window - stride + 1
        assert planned.targets.stop - 1 - planned.start == window


def test_a_small_plan_by_hand() -> None:
    plan = plan_windows(tokens=14, window=6, stride=3)
    assert plan.windows() == (Window(0, 6, 6), Window(3, 6, 3), Window(6, 6, 3), Window(7, 6, 1))
    assert [planned.targets for planned in plan.windows()] == [slice(1, 7), slice(7, 10), slice(10, 13), slice(13, 14)]


@pytest.mark.parametrize("tokens", [-1, 0, 1])
def test_a_stream_without_a_target_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError):
        plan_windows(tokens, 8, 4)


def test_the_record_s_plan_is_made_without_a_target_too_many() -> None:
    plan = plan_windows(62_021_846 // 16, 2048, 64)
    assert sum(planned.scored for planned in plan.windows()) == 62_021_846 // 16 - 1


@given(count=st.integers(1, 60), windows=st.integers(0, 200))
def test_lanes_cut_the_windows_in_order_and_evenly(count: int, windows: int) -> None:
    planned = tuple(Window(number, 8, 4) for number in range(windows))
    cut = lanes(planned, count)
    assert tuple(window for lane in cut for window in lane) == planned
    assert len(cut) == min(count, windows)
    sizes = [len(lane) for lane in cut]
    assert all(sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
