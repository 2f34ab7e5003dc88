"""Requests handed to an engine some at a time, and their results in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.decoding.backends.window import Window


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 20), st.randoms(use_true_random=False))
def test_every_result_comes_once_and_in_order(total, in_flight, ahead, random) -> None:
    window = Window[str](total, in_flight, ahead)
    running: list[int] = []
    taken: list[str] = []
    while not window.finished:
        running += window.due()
        assert len(running) <= in_flight
        assert running, "nothing runs and not all is done"
        assert max(running) < len(taken) + ahead
        place = running.pop(random.randrange(len(running)))
        window.put(place, f"result {place}")
        taken += window.ready()
    assert taken == [f"result {place}" for place in range(total)]
    assert not list(window.due())


def test_a_slow_first_one_holds_back_no_more_than_ahead() -> None:
    window = Window[int](100, 4, 10)
    first, *others = window.due()
    while others:
        window.put(others[0], 0)
        others = [*others[1:], *window.due()]
        assert window.ready() == []
    window.put(first, 0)
    assert len(window.ready()) == 10


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_engine_is_given_another_as_soon_as_one_is_done(in_flight) -> None:
    window = Window[int](10, in_flight, 20)
    running = list(window.due())
    assert len(running) == in_flight
    window.put(running[-1], 0)
    assert list(window.due()) == [in_flight]
