"""The history: what is kept of an hour, and what is said of what was not seen."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core.events import ClosedReason
from exporter.node.history import FIGURES, RATES, History, Sample

T = 1_795_352_400.0  # an hour's start, hence the start of a slot


def sample(n: int | None, **others: object) -> Sample:
    return Sample(active_connections=n, **others)


def test_before_the_first_sample_everything_is_empty_and_the_times_are_null() -> None:
    answer = History().answer()
    assert answer["length"] == 0
    assert answer["start"] is answer["since"] is answer["as_of"] is None
    assert answer["figures"] == {name: [] for name in FIGURES}
    assert answer["rates"] == {name: [] for name in RATES}
    assert answer["closed"] == {reason: {"last_minute": None, "last_hour": None} for reason in ClosedReason}


def test_one_sample_has_figures_but_no_rate() -> None:
    history = History()
    history.record(T + 3.25, sample(7, messages_accepted=100))
    answer = history.answer()
    assert (answer["length"], answer["start"], answer["step"]) == (1, T, 10.0)
    assert answer["as_of"] == "2026-11-22T13:00:03.250Z"
    assert answer["figures"]["active_connections"] == [7]
    assert answer["rates"]["messages"] == [None]


def test_what_nobody_knew_is_null_and_never_nought() -> None:
    history = History()
    history.record(T, sample(None, total_messages=None, joins=3))
    history.record(T + 10, sample(0, total_messages=5))
    history.record(T + 20, sample(2, joins=4))
    answer = history.answer()
    assert answer["figures"]["active_connections"] == [None, 0, 2]
    assert answer["figures"]["total_messages"] == [None, 5, None]
    assert answer["rates"]["joins"] == [None, None, 0.05]  # 1 in the 20 seconds between the samples that know it
    assert answer["rates"]["messages"] == [None, None, None]


def test_rates_use_the_time_that_really_passed() -> None:
    history = History()
    history.record(T + 1, sample(1, messages_accepted=0, connections_opened=10, deliveries=0))
    history.record(T + 17, sample(1, messages_accepted=8, connections_opened=10, deliveries=80))
    rates = history.answer()["rates"]
    assert (rates["messages"], rates["connects"], rates["deliveries"]) == ([None, 0.5], [None, 0.0], [None, 5.0])


def test_a_counter_that_fell_back_gives_no_rate_for_that_interval() -> None:
    history = History()
    for i, count in enumerate((1_000_000, 1_000_010, 5, 25)):
        history.record(T + 10 * i, sample(1, joins=count, connections_closed={"client": count}))
    answer = history.answer()
    assert answer["rates"]["joins"] == [None, 1.0, None, 2.0]
    assert answer["closed"]["client"] == {"last_minute": 30, "last_hour": 30}


def test_slots_in_which_nobody_sampled_are_null() -> None:
    history = History()
    history.record(T, sample(1, joins=0))
    history.record(T + 30, sample(2, joins=6))
    answer = history.answer()
    assert answer["figures"]["active_connections"] == [1, None, None, 2]
    assert answer["rates"]["joins"] == [None, None, None, 0.2]


def test_an_average_over_a_long_gap_is_not_shown_as_the_rate_of_one_moment() -> None:
    history = History()
    history.record(T, sample(1, joins=0))
    history.record(T + 40, sample(1, joins=40))
    assert history.answer()["rates"]["joins"] == [None] * 5


def test_of_two_samples_in_one_slot_the_later_one_stays() -> None:
    history = History()
    history.record(T + 1, sample(1, joins=0))
    history.record(T + 11, sample(2, joins=1))
    history.record(T + 19, sample(3, joins=9))
    answer = history.answer()
    assert answer["figures"]["active_connections"] == [1, 3]
    assert answer["rates"]["joins"] == [None, 0.5]


def test_an_hour_is_held_and_no_more() -> None:
    history = History()
    for i in range(1000):
        history.record(T + 10 * i, sample(i, joins=i, connections_closed={"heartbeat": i}))
    answer = history.answer()
    assert answer["length"] == 360
    assert answer["figures"]["active_connections"] == list(range(640, 1000))
    assert answer["start"] == T + 6400
    assert answer["since"] == "2026-11-22T13:00:00.000Z"
    assert answer["closed"]["heartbeat"] == {"last_minute": 6, "last_hour": 360}
    assert answer["rates"]["joins"] == [0.1] * 360


@pytest.mark.parametrize("pause", [3600, 36_000_000])
def test_after_a_pause_of_an_hour_or_a_year_only_the_new_sample_is_held(pause: float) -> None:
    history = History()
    history.record(T, sample(1, joins=0))
    history.record(T + pause, sample(2, joins=9))
    answer = history.answer()
    assert answer["figures"]["active_connections"] == [2]
    assert answer["rates"]["joins"] == [None]


def test_when_the_clock_is_set_back_its_future_is_forgotten() -> None:
    history = History()
    for i in range(10):
        history.record(T + 10 * i, sample(i, joins=i))
    history.record(T + 35, sample(77, joins=10))
    answer = history.answer()
    assert answer["figures"]["active_connections"] == [0, 1, 2, 77]
    history.record(T + 40, sample(78, joins=11))
    assert history.answer()["figures"]["active_connections"] == [0, 1, 2, 77, 78]


def test_when_the_clock_is_set_back_by_a_day_the_history_begins_anew() -> None:
    history = History()
    history.record(T, sample(1))
    history.record(T - 86_400, sample(2))
    answer = history.answer()
    assert (answer["length"], answer["figures"]["active_connections"]) == (1, [2])
    assert answer["since"] == answer["as_of"]


def test_the_next_sample_is_due_in_the_middle_of_the_next_slot() -> None:
    history = History()
    assert history.until_next(T) == 15.0
    assert history.until_next(T + 5) == 10.0
    assert history.until_next(T + 9.5) == 5.5


def test_the_answer_is_encoded_once_per_sample() -> None:
    history = History()
    history.record(T, sample(1))
    body = history.body()
    assert history.body() is body
    history.record(T + 10, sample(2))
    assert msgspec.json.decode(history.body()) == msgspec.json.decode(msgspec.json.encode(history.answer()))
    assert history.body() != body


def test_memory_is_the_same_after_an_hour_and_after_a_day() -> None:
    history = History()

    def run(first: int, last: int) -> None:
        for i in range(first, last):
            closed = dict.fromkeys(ClosedReason, i)
            history.record(T + 10 * i, sample(20_000, joins=i * 4000, connections_closed=closed))

    run(0, 400)
    history.body()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run(400, 400 + 8640)
        history.body()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000, "one encoded answer may be new, nothing else"


@given(steps=st.lists(st.tuples(st.floats(-5000, 5000), st.none() | st.integers(0, 2**40)), min_size=1, max_size=60))
def test_whatever_the_clock_and_the_counters_do_no_rate_is_negative_and_all_arrays_agree(
    steps: list[tuple[float, int | None]],
) -> None:
    history = History()
    at = T
    for step, count in steps:
        at += step
        history.record(at, sample(count, joins=count, connections_closed={} if count is None else {"client": count}))
        answer = history.answer()
        arrays = [*answer["figures"].values(), *answer["rates"].values()]
        assert 1 <= answer["length"] <= 360
        assert {len(values) for values in arrays} == {answer["length"]}
        assert answer["figures"]["active_connections"][-1] == count
        assert all(rate is None or rate >= 0 for rates in answer["rates"].values() for rate in rates)
        assert answer["start"] <= at < answer["start"] + 10 * answer["length"] + 1e-3


# --- refusals, failures, the share in time, peaks ---------------------------------------------------------


def test_refusals_are_told_by_reason_and_as_rates() -> None:
    history = History()
    for i in range(8):
        counts = {"origin": 10 * i, "capacity": 0}
        history.record(T + 10 * i, sample(1, connections_refused=counts, commands_refused={"internal": i}))
    answer = history.answer()
    assert answer["rates"]["connections_refused"] == [None, *[1.0] * 7]
    assert answer["rates"]["commands_refused"] == [None, *[0.1] * 7]
    assert answer["refused"]["connections"]["origin"] == {"last_minute": 60, "last_hour": 70}
    assert answer["refused"]["connections"]["capacity"] == {"last_minute": 0, "last_hour": 0}
    assert answer["refused"]["connections"]["draining"] == {"last_minute": None, "last_hour": None}
    assert answer["refused"]["commands"]["internal"] == {"last_minute": 6, "last_hour": 7}


def test_the_share_in_time_is_of_the_messages_since_the_sample_before_and_unknown_without_any() -> None:
    history = History()
    for i, (delivered, in_time) in enumerate(((0, 0), (100, 100), (300, 250), (300, 250), (5, 5))):
        history.record(T + 10 * i, sample(1, delivered=delivered, delivered_in_time=in_time))
    assert history.answer()["delivered_in_time"] == [None, 1.0, 0.75, None, None]


def test_the_peak_is_the_highest_sample_of_the_utc_day_with_its_time() -> None:
    history = History()
    midnight = T - T % 86_400
    for seconds, count in ((-10, 99), (0, 4), (10, 9), (20, 9), (30, 3)):
        history.record(midnight + 86_400 + seconds, sample(count))
    peaks = history.answer()["peaks"]
    assert peaks["since"] == "2026-11-23T00:00:00.000Z"
    assert peaks["figures"]["active_connections"] == {"value": 9, "at": "2026-11-23T00:00:10.000Z"}
    assert peaks["figures"]["typing_users"] is None
