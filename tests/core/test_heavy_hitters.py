"""The most frequent keys: exact while there is room, never too high, too low by no more than is told."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from exporter.core.heavy_hitters import HeavyHitters


def test_with_room_for_all_counts_are_exact_and_the_most_frequent_come_first() -> None:
    hitters: HeavyHitters[str] = HeavyHitters()
    for key, number in (("a", 3), ("b", 7), ("c", 1)):
        for _ in range(number):
            hitters.count(key, 10.0)
    assert hitters.top(2, 20.0) == ([("b", 7), ("a", 3)], 0)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    hitters: HeavyHitters[str] = HeavyHitters(window=60.0, parts=6)
    hitters.count("old", 0.0)
    hitters.count("new", 65.0)
    assert hitters.top(5, 66.0) == ([("old", 1), ("new", 1)], 0)
    assert hitters.top(5, 75.0) == ([("new", 1)], 0)
    assert hitters.top(5, 1000.0) == ([], 0), "also when nothing has come since"


@given(st.lists(st.integers(0, 12), max_size=300), st.integers(1, 5))
def test_a_count_is_never_too_high_and_too_low_by_at_most_what_is_told(keys: list[int], capacity: int) -> None:
    hitters: HeavyHitters[int] = HeavyHitters(capacity=capacity)
    for key in keys:
        hitters.count(key, 1.0)
    found, missed = hitters.top(100, 1.0)
    true = Counter(keys)
    assert len(found) <= capacity
    assert missed <= len(keys) / (capacity + 1), "each decrement takes one from as many keys, and the new one"
    for key, number in found:
        assert true[key] - missed <= number <= true[key]
    for key, number in true.items():
        assert number <= missed or key in dict(found), "whoever comes more often than that is never missed"
