"""Three months that never were: plausible, told once, and counted right by the database's own triggers."""

from __future__ import annotations

import collections
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exporter.demo.sample_data import DAYS, backfill, invent
from exporter.simulate.people.organisation import Organisation
from tests.databases import Clock, Place, Postgresql, Sqlite, assert_exact, opened

NOW = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgres"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Sqlite(tmp_path / "messaging.db")
    server = request.getfixturevalue("postgres")
    return Postgresql(server.url(server.create_database()))


async def test_the_past_is_written_once_and_every_total_equals_a_recount(place: Place) -> None:
    organisation = Organisation(30, 10, 5)
    async with opened(place, clock=Clock(NOW)) as store:
        written = await backfill(place.url, organisation, NOW)
        assert written > 5_000
        assert await backfill(place.url, organisation, NOW) == 0
        totals = await store.totals(10)
        assert totals.stored_messages == written
        assert totals.registered_users == 120
        assert totals.messages_today > 0
        assert 0 < totals.active_users[1] < totals.active_users[7] < totals.active_users[30] < 120
        await assert_exact(place, store, NOW.date())


@pytest.mark.parametrize(
    "foreign",
    [
        "INSERT INTO users (id) VALUES ('somebody')",
        "INSERT INTO conversations (id) VALUES ('somewhere')",
        "INSERT INTO users (id) VALUES ('a'); INSERT INTO conversations (id) VALUES ('c');"
        "INSERT INTO messages (conversation_id, seq, sender_id) VALUES ('c', 1, 'a')",
    ],
    ids=["a user", "a conversation", "a message"],
)
async def test_a_database_where_somebody_has_written_anything_is_left_alone(place: Place, foreign: str) -> None:
    async with opened(place) as store:
        await place.execute(foreign)
        before = await store.totals(10)
        assert await backfill(place.url, Organisation(4, 2, 1)) == 0
        after = await store.totals(10)
        assert (after.stored_messages, after.registered_users, after.stored_conversations) == (
            before.stored_messages,
            before.registered_users,
            before.stored_conversations,
        )


def test_history_looks_like_an_office() -> None:
    past = invent(Organisation(60, 20, 1), NOW)
    days = collections.Counter(message[4].date() for message in past.messages)
    weekend = [count for day, count in days.items() if day.weekday() >= 5]
    weekdays = [count for day, count in days.items() if day.weekday() < 5]
    assert len(days) >= DAYS - 3
    assert sum(weekend) / len(weekend) < sum(weekdays) / len(weekdays) / 3
    hours = collections.Counter(message[4].hour for message in past.messages)
    assert hours[10] > 10 * hours[3]
    early, late = sorted(days)[:30], sorted(days)[-31:-1]
    assert sum(days[day] for day in late) > sum(days[day] for day in early)
    assert all(NOW - timedelta(days=DAYS) < message[4] < NOW for message in past.messages)


def test_history_keeps_the_rules_of_the_tables() -> None:
    past = invent(Organisation(60, 20, 1), NOW)
    created = dict(past.conversations)
    seqs: dict[str, int] = collections.defaultdict(int)
    members = {(conversation, user) for conversation, user, _ in past.conversation_members}
    latest = NOW - timedelta(days=2 * DAYS)
    registered = {user for user, _ in past.users}
    for conversation, seq, sender, _, sent_at in past.messages:
        seqs[conversation] += 1
        assert seq == seqs[conversation]
        assert created[conversation] < sent_at
        assert (conversation, sender) in members
        assert sender in registered
        assert sent_at >= latest
        latest = sent_at
    assert all(0 <= read <= seqs[conversation] for conversation, _, read in past.conversation_members)
    assert len(registered) == len(past.users)


def test_the_same_seed_tells_the_same_story() -> None:
    assert invent(Organisation(10, 4, 1), NOW) == invent(Organisation(10, 4, 1), NOW)
    assert invent(Organisation(10, 4, 1), NOW) != invent(Organisation(10, 4, 2), NOW)


@pytest.mark.parametrize(("users", "conversations"), [(2, 1), (3, 30), (400, 3)])
def test_organisations_of_any_size_have_a_past(users: int, conversations: int) -> None:
    past = invent(Organisation(users, conversations, 1), NOW.replace(hour=0, minute=0))
    assert past.messages
    assert all(message[4].date() < NOW.date() for message in past.messages)
