"""The organisation: everything follows from the seed, and looks like one."""

from __future__ import annotations

import collections
import itertools

import pytest

from exporter.simulate.latency import Percentiles
from exporter.simulate.people.organisation import Organisation, hour_of
from exporter.simulate.people.picker import Picker


def test_the_same_seed_makes_the_same_people_and_plans_and_another_seed_others() -> None:
    one, same, other = Organisation(40, 12, 7), Organisation(40, 12, 7), Organisation(40, 12, 8)
    assert one.people == same.people
    assert one.members == same.members
    assert [one.plan(n) for n in range(200)] == [same.plan(n) for n in range(200)]
    assert [one.body(n) for n in range(200)] == [same.body(n) for n in range(200)]
    assert [one.plan(n) for n in range(200)] != [other.plan(n) for n in range(200)]
    assert not {person.name for person in one.people} & {person.name for person in other.people}


def test_nobody_is_without_a_conversation_and_no_conversation_floods_thousands() -> None:
    organisation = Organisation(1000, 20, 1)
    assert all(organisation.memberships)
    assert max(len(members) for members in organisation.members) < 260
    assert all(len(members) == 2 for members in Organisation(2, 3, 1).members)


def test_a_plan_does_not_depend_on_the_plans_before_it() -> None:
    assert Organisation(40, 12, 7).plan(150) == [Organisation(40, 12, 7).plan(n) for n in range(151)][150]


def test_messages_are_due_one_per_unit_and_never_bunched() -> None:
    organisation = Organisation(40, 12, 7)
    assert all(n <= organisation.plan(n).due < n + 1 for n in range(500))


def test_few_conversations_are_busy_and_many_are_quiet() -> None:
    organisation = Organisation(100, 20, 3)
    counts = collections.Counter(organisation.plan(n).conversation for n in range(4000))
    assert counts[0] > 4 * counts[9] > 0
    assert set(counts) == set(range(20))
    sizes = [len(members) for members in organisation.members]
    assert sizes[0] > 80
    assert min(sizes) >= 2


def test_most_people_are_there_in_the_morning_few_at_night_and_somebody_always() -> None:
    people = Organisation(200, 10, 1).people
    present = {hour: sum(person.present(hour) for person in people) for hour in (3.0, 10.5, 12.5, 15.0, 22.0)}
    assert present[10.5] > 140
    assert present[12.5] < present[10.5]
    assert present[15.0] > 140
    assert 0 < present[3.0] < 80
    assert all(sum(person.present(hour / 4) for person in people) >= 10 for hour in range(96))


def test_a_day_begins_in_the_morning_and_its_night_is_short() -> None:
    hours = [hour_of(n / 1000) for n in range(2000)]
    assert hours[0] == pytest.approx(9.5)
    assert hours[:1000] == pytest.approx(hours[1000:])
    steps = [(later - earlier) % 24 for earlier, later in itertools.pairwise(hours)]
    assert all(0 < step < 0.1 for step in steps)
    assert sum(8 <= hour < 19 for hour in hours[:1000]) > 700


def test_there_are_tabs_flaky_phones_and_a_few_slow_readers() -> None:
    people = Organisation(300, 10, 1).people
    assert {person.tabs for person in people} == {1, 2, 3}
    assert 30 < sum(person.abort_every > 0 for person in people) < 90
    assert 5 < sum(person.pause_every > 0 for person in people) < 40
    assert len({person.name for person in people}) == 300


def test_every_body_is_its_own_and_survives_every_encoding() -> None:
    bodies = [Organisation(5, 2, 1).body(n) for n in range(1000)]
    assert len(set(bodies)) == 1000
    assert all("\x00" not in body and len(body.encode()) < 2000 for body in bodies)


def test_percentiles_are_right_to_one_percent_and_the_maximum_exactly() -> None:
    percentiles = Percentiles()
    assert percentiles.summary() == {"p50": None, "p90": None, "p99": None, "max": None}
    for number in range(1, 1001):
        percentiles.add(number / 1000)
    for share in (0.01, 0.5, 0.9, 0.99):
        found = percentiles.at(share)
        assert found is not None
        assert abs(found - share) <= 0.0101 * share
    assert percentiles.at(1.0) == percentiles.max == 1.0
    percentiles.add(0.0)
    assert percentiles.at(0.0) == pytest.approx(1e-6, rel=0.01)


def test_a_picker_draws_each_of_those_in_it_and_forgets_those_that_went() -> None:
    picker: Picker[str] = Picker()
    for name in ("a", "b", "c", "b"):
        picker.add(name)
    assert len(picker) == 3
    assert {picker.at(draw / 100) for draw in range(100)} == {"a", "b", "c"}
    picker.discard("a")
    picker.discard("a")
    assert {picker.at(0.1, steps) for steps in range(4)} == {"b", "c"}
