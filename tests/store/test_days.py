"""Messages and active users of past days: counted at the upgrade, kept by triggers, recounted, forgotten in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exporter.core.records import DayTotals
from exporter.store import Store, totals
from exporter.store.days import IMPOSSIBLE, KEPT, NOT_RECORDED
from exporter.store.lanes import Lane
from exporter.store.schema.migrate import revisions
from exporter.store.verify import verify
from tests.databases import Clock, Place, Postgresql, Sqlite, assert_exact, make_as_of, opened, send

TODAY = date(2026, 3, 10)
BEFORE = revisions()[revisions().index("0004") - 1]
INSERT = "INSERT INTO messages (conversation_id, seq, sender_id, client_id, body, sent_at) VALUES "
HISTORY = f"""
INSERT INTO users (id, created_at) VALUES
    ('ann', '2026-01-01T00:00:00Z'), ('bob', '2026-01-01T00:00:00Z'), ('eve', '2026-03-01T00:00:00Z');
INSERT INTO conversations (id, created_at) VALUES ('a', '2026-01-01T00:00:00Z');
{INSERT} ('a', 1, 'ann', '1', 'x', '2026-03-08T00:00:00Z'), ('a', 2, 'ann', '2', 'x', '2026-03-08T23:59:59Z'),
    ('a', 3, 'bob', '1', 'x', '2026-03-08T12:00:00Z'), ('a', 4, 'eve', '1', 'x', '2026-03-10T01:00:00Z');
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgres"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Sqlite(tmp_path / "messaging.db")
    server = request.getfixturevalue("postgres")
    return Postgresql(server.url(server.create_database()))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    async with opened(place, clock=Clock()) as store:
        await place.execute(HISTORY)
        yield store


async def shown(store: Store, count: int = 4) -> list[tuple[int | None, int | None]]:
    """Messages and active users of the last days, up to today."""
    return [(day.messages, day.active_users) for day in await store.days(count)]


async def test_each_day_has_its_messages_and_the_people_who_sent_one(place: Place, store: Store) -> None:
    assert await store.days(4) == [
        DayTotals(TODAY - timedelta(days=3), 0, 0),
        DayTotals(TODAY - timedelta(days=2), 3, 2),
        DayTotals(TODAY - timedelta(days=1), 0, 0),
        DayTotals(TODAY, 1, 1),
    ]
    await send(store, "a", "ann", "now")
    await send(store, "a", "ann", "again")
    await send(store, "a", "bob", "now")
    assert (await shown(store))[-1] == (4, 3)
    await assert_exact(place, store, TODAY)


async def test_a_day_begins_and_ends_at_midnight_utc(place: Place, store: Store) -> None:
    await place.execute(f"{INSERT} ('a', 9, 'bob', '9', 'x', '2026-03-10T02:00:00+03:00')")
    assert await shown(store, 2) == [(1, 1), (1, 1)]


async def test_deleted_messages_and_deleted_users_leave_the_days(place: Place, store: Store) -> None:
    await place.execute("DELETE FROM messages WHERE seq < 4")
    assert await shown(store) == [(0, 0), (0, 2), (0, 0), (1, 1)]
    await place.execute("DELETE FROM users WHERE id IN ('bob', 'nobody')")
    assert await shown(store) == [(0, 0), (0, 2), (0, 0), (1, 1)]
    await place.execute("DELETE FROM users")
    assert await shown(store) == [(0, 0), (0, 2), (0, 0), (1, 1)]
    await assert_exact(place, store, TODAY)
    assert (await verify(store)).agrees


async def test_a_user_who_is_erased_and_comes_back_on_the_same_day_counts_once(place: Place, store: Store) -> None:
    await send(store, "a", "bob", "before")
    assert await shown(store) == [(0, 0), (3, 2), (0, 0), (2, 2)]
    await place.execute("DELETE FROM users WHERE id = 'bob'")
    assert (await verify(store)).agrees
    await place.execute("INSERT INTO users (id, created_at) VALUES ('bob', '2026-03-10T11:00:00Z')")
    assert (await verify(store)).agrees, "bob's messages are there, and so is their record"
    await send(store, "a", "bob", "after")
    assert await shown(store) == [(0, 0), (3, 2), (0, 0), (3, 2)]
    await assert_exact(place, store, TODAY)
    assert (await verify(store)).agrees


@pytest.mark.needs("postgres")
async def test_users_who_are_truncated_leave_the_days(postgres: Any) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place, clock=Clock()) as store:
        members = "INSERT INTO conversation_members (conversation_id, user_id) VALUES ('a', 'ann'), ('a', 'stranger')"
        await place.execute(HISTORY, members, "TRUNCATE users CASCADE")
        assert await place.fetch("SELECT user_id FROM conversation_members") == [("stranger",)]
        assert await shown(store) == [(0, 0), (3, 2), (0, 0), (1, 1)]
        await assert_exact(place, store, TODAY)
        assert (await verify(store)).agrees


async def test_whoever_wrote_without_being_registered_counts_on_the_day(place: Place, store: Store) -> None:
    await place.execute(f"{INSERT} ('a', 9, 'robot', '9', 'x', '2026-03-09T12:00:00Z')")
    assert await shown(store) == [(0, 0), (3, 2), (1, 1), (1, 1)]
    await place.execute("DELETE FROM user_days WHERE user_id = 'robot'")
    assert await shown(store) == [(0, 0), (3, 2), (1, 0), (1, 1)]
    found: list[str] = []
    assert not (await verify(store, repair=True, out=found.append)).agrees
    assert "day 2026-03-09: 1 of its senders are not in the record of active users" in found
    assert await shown(store) == [(0, 0), (3, 2), (1, 1), (1, 1)]
    assert (await verify(store)).agrees


async def test_a_message_that_is_redated_makes_its_sender_active_on_the_new_day_too(place: Place, store: Store) -> None:
    await place.execute("UPDATE messages SET sent_at = '2026-03-09T12:00:00Z' WHERE seq = 4")
    assert await shown(store) == [(0, 0), (3, 2), (1, 1), (0, 1)]
    await place.execute("UPDATE messages SET sender_id = 'bob', client_id = '4' WHERE seq = 4")
    assert (await shown(store))[2] == (1, 2)
    await assert_exact(place, store, TODAY)


async def test_the_upgrade_counts_the_days_of_the_messages_that_are_there(place: Place) -> None:
    await make_as_of(place, BEFORE)
    await place.execute(HISTORY, "DELETE FROM users WHERE id = 'eve'")
    async with opened(place, clock=Clock()) as store:
        assert await shown(store) == [(0, 0), (3, 2), (0, 0), (1, 1)]
        await assert_exact(place, store, TODAY)
        assert (await verify(store)).agrees


async def test_the_upgrade_knows_people_s_latest_days_numbers_that_were_given_and_the_oldest_day_that_is_kept(
    place: Place,
) -> None:
    first = Store(place.url)
    await first.migrate(revisions()[0])
    await first.close()
    today = datetime.now(UTC).date()  # as the database reckons what is kept
    old = [today - timedelta(days=ago) for ago in (KEPT - 2, KEPT - 1)]
    await place.execute(
        HISTORY,
        f"{INSERT} ('a', 5, 'bob', '2', 'x', '2026-03-01T00:00:00Z')",
        *(f"{INSERT} ('a', {6 + i}, 'old', '{i}', 'x', '{day}T00:00:00Z')" for i, day in enumerate(old)),
        "UPDATE conversations SET last_seq = 20",
    )
    async with opened(place, clock=Clock()) as store:
        assert (await store.totals(5)).active_users == {1: 1, 7: 3, 30: 3}
        assert (await send(store, "a", "ann", "new")).seq == 21
        await assert_exact(place, store, TODAY)
        kept = {str(day) for (day,) in await place.fetch("SELECT day FROM user_days WHERE user_id = 'old'")}
        assert kept >= {str(day) for day in old if (datetime.now(UTC).date() - day).days < KEPT}


async def test_where_messages_had_been_deleted_before_the_days_before_the_oldest_are_not_known(place: Place) -> None:
    await make_as_of(place, BEFORE)
    await place.execute(HISTORY, "DELETE FROM messages WHERE seq < 4")
    async with opened(place, clock=Clock()) as store:
        assert await shown(store) == [(0, None), (0, None), (0, None), (1, 1)]
        assert [day.error for day in await store.days(2)] == [NOT_RECORDED, None]


async def test_rows_loaded_past_the_triggers_are_found_and_mended(place: Place, store: Store) -> None:
    await place.execute("DELETE FROM user_days WHERE user_id = 'bob'")
    found: list[str] = []
    report = await verify(store, out=found.append)
    assert (report.agrees, report.inaccurate_days) == (False, 1)
    assert found == ["day 2026-03-08: 1 of its senders are not in the record of active users"]
    await place.execute("UPDATE daily_totals SET active_users = active_users + 5 WHERE day = '2026-03-10'")
    report = await verify(store, repair=True)
    assert (report.agrees, report.repaired) == (False, True)
    assert await shown(store) == [(0, 0), (3, 2), (0, 0), (1, 1)]
    assert (await verify(store)).agrees


async def test_a_total_that_cannot_be_is_not_known(place: Place, store: Store) -> None:
    await place.execute("UPDATE daily_totals SET active_users = -7, messages = -9 WHERE day = '2026-03-08'")
    assert (await shown(store))[1] == (None, None)
    await place.execute("UPDATE daily_totals SET messages = 3 WHERE day = '2026-03-08'")
    assert (await store.days(3))[0] == DayTotals(TODAY - timedelta(days=2), 3, None, IMPOSSIBLE)


async def test_days_are_kept_for_as_long_as_can_be_asked_and_no_longer(place: Place) -> None:
    clock = Clock()
    async with opened(place, clock=clock) as store:
        await place.execute(HISTORY)
        clock.pass_(days=KEPT - 3)  # 8 March is the oldest day that is kept

        async def tidy() -> None:
            dialect = store._dialect
            await store._database.run(Lane.READ, lambda session: totals.compact(session, dialect, store.now()))

        await tidy()
        assert (await shown(store, KEPT))[0] == (3, 2)
        await place.execute("DELETE FROM user_days WHERE user_id = 'bob'")
        assert (await verify(store, repair=True)).repaired, "what is kept is missed"
        assert (await shown(store, KEPT))[0] == (3, 2)
        clock.pass_(days=1)
        await tidy()
        assert await place.fetch("SELECT count(*) FROM user_days WHERE day <= '2026-03-08'") == [(0,)]
        assert await place.fetch("SELECT count(*) FROM user_days") == [(1,)]
        assert (await verify(store)).agrees, "what is forgotten is not missed"
