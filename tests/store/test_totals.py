"""Totals are exact after whatever plain SQL does, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from exporter.core.errors import BadFrame
from exporter.node.totals_collector import Collector
from exporter.store import Store
from exporter.store.dialects.base import Session
from exporter.store.lanes import Lane
from exporter.store.totals import STATEMENT
from tests.databases import Clock, Place, Postgresql, Sqlite, assert_exact, opened, read, recount, send

TODAY = date(2026, 3, 10)

INSERT = "INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES "

FURNISH = """
INSERT INTO users (id, created_at) VALUES
    ('ann', '2026-01-01T00:00:00Z'), ('bob', '2026-03-10T09:00:00Z'), ('eve', '2026-03-01T00:00:00Z');
INSERT INTO conversations (id, created_at) VALUES ('a', '2026-01-01T00:00:00Z'), ('b', '2026-03-10T00:00:00Z');
INSERT INTO conversation_members (conversation_id, user_id) VALUES ('a', 'ann'), ('a', 'bob'), ('b', 'ann');
INSERT INTO messages (conversation_id, seq, sender_id, client_id, body, sent_at) VALUES
    ('a', 1, 'ann', '1', 'x', '2026-02-01T12:00:00Z'),
    ('a', 2, 'bob', '1', 'x', '2026-03-05T12:00:00Z'),
    ('a', 5, 'ann', '2', 'x', '2026-03-10T00:00:00Z'),
    ('b', 1, 'zoe', '1', 'x', '2026-03-09T23:59:59.999Z');
"""


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    async with opened(place, clock=Clock()) as store:
        await place.execute(FURNISH)
        yield store


async def conversations(place: Place) -> dict[str, tuple[int, int]]:
    rows = await place.fetch("SELECT id, total_messages, last_seq FROM conversations")
    return {name: (total, last) for name, total, last in rows}


async def days(place: Place) -> dict[str, str | None]:
    rows = await place.fetch("SELECT id, last_active_on FROM users")
    return {name: None if day is None else str(day) for name, day in rows}


async def test_figures_of_rows_that_plain_sql_wrote(place: Place, store: Store) -> None:
    found = await store.totals(5)
    assert (found.stored_messages, found.stored_conversations, found.registered_users) == (4, 2, 3)
    assert found.messages_today == 1
    assert found.active_users == {1: 1, 7: 2, 30: 2}  # ann today, bob five days ago; zoe has no row
    assert found.as_of == Clock().now.timestamp()
    assert await conversations(place) == {"a": (3, 5), "b": (1, 1)}
    assert await days(place) == {"ann": "2026-03-10", "bob": "2026-03-05", "eve": None}
    await assert_exact(place, store, TODAY)


CHANGES = {
    "a message is deleted": "DELETE FROM messages WHERE conversation_id = 'a' AND seq = 5",
    "all messages are deleted": "DELETE FROM messages",
    "nothing is deleted": "DELETE FROM messages WHERE seq = 99",
    "a conversation is deleted": "DELETE FROM conversations WHERE id = 'a'",
    "all conversations are deleted": "DELETE FROM conversations",
    "a user is deleted": "DELETE FROM users WHERE id = 'ann'",
    "all users are deleted": "DELETE FROM users",
    "messages move to another conversation": """
        UPDATE messages SET conversation_id = 'b', seq = seq + 10 WHERE conversation_id = 'a'""",
    "messages trade places between conversations": """
        INSERT INTO conversations (id) VALUES ('c');
        UPDATE messages SET conversation_id = 'c', seq = 1 WHERE conversation_id = 'b';
        UPDATE messages SET conversation_id = 'b' WHERE conversation_id = 'a'""",
    "messages move to another day": "UPDATE messages SET sent_at = '2026-03-10T01:00:00Z' WHERE seq = 1",
    "a message moves by conversation, number, day and sender at once": """
        UPDATE messages SET conversation_id = 'b', seq = 77, sent_at = '2026-03-10T01:00:00Z', sender_id = 'bob'
        WHERE conversation_id = 'a' AND seq = 1""",
    "a message gets a higher number": "UPDATE messages SET seq = 100 WHERE conversation_id = 'a' AND seq = 1",
    "messages are edited": "UPDATE messages SET body = 'edited'",
    "an update touches no row": "UPDATE messages SET seq = 3 WHERE seq = 99",
    "a conversation's day is corrected": "UPDATE conversations SET created_at = '2026-03-10T00:00:00Z' WHERE id = 'a'",
    "a user's day is corrected": "UPDATE users SET created_at = '2020-02-29T00:00:00Z'",
    "somebody else sets last_active_on": "UPDATE users SET last_active_on = '2026-03-04' WHERE id = 'eve'",
    "somebody else clears last_active_on": "UPDATE users SET last_active_on = NULL",
    "a user comes with last_active_on": "INSERT INTO users (id, last_active_on) VALUES ('new', '2026-03-08')",
    "a user is renamed": "UPDATE users SET id = 'anna' WHERE id = 'ann'",
    "a conversation comes with a total of its own": "INSERT INTO conversations (id, total_messages) VALUES ('n', 9)",
    "a message comes with nothing but its place": """
        INSERT INTO messages (conversation_id, seq, sender_id) VALUES ('a', 9, 'ann')""",
    "an insert is ignored": """
        INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES
            ('a', 1, 'eve', '2026-03-10T00:00:00Z'), ('a', 6, 'eve', '2026-03-10T00:00:00Z') ON CONFLICT DO NOTHING""",
    "an insert becomes an update": """
        INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES
            ('a', 1, 'eve', '2026-03-10T00:00:00Z'), ('a', 6, 'eve', '2026-03-10T00:00:00Z')
        ON CONFLICT (conversation_id, seq) DO UPDATE SET sent_at = excluded.sent_at, seq = 20""",
    "a conversation is upserted": """
        INSERT INTO conversations (id, created_at) VALUES ('a', '2026-03-10T00:00:00Z'), ('z', '2026-03-10T00:00:00Z')
        ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at""",
    "a user is upserted": """
        INSERT INTO users (id, last_active_on) VALUES ('ann', '2026-03-01'), ('zed', '2026-03-02')
        ON CONFLICT (id) DO UPDATE SET last_active_on = excluded.last_active_on""",
    "messages are copied": """
        INSERT INTO messages (conversation_id, seq, sender_id, body, sent_at)
        SELECT 'b', seq + 50, sender_id, body, sent_at FROM messages WHERE conversation_id = 'a'""",
    "a transaction is rolled back": "BEGIN; DELETE FROM conversations; DELETE FROM users; ROLLBACK",
    "savepoints are rolled back, nested": """
        BEGIN;
        DELETE FROM messages WHERE seq = 5;
        SAVEPOINT one;
        DELETE FROM users;
        SAVEPOINT two;
        DELETE FROM conversations;
        ROLLBACK TO SAVEPOINT two;
        INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES ('b', 2, 'ann', '2026-03-10T00:00:00Z');
        ROLLBACK TO SAVEPOINT one;
        INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES ('b', 3, 'eve', '2026-03-10T00:00:00Z');
        COMMIT""",
    "a conversation is deleted and made again": """
        DELETE FROM conversations WHERE id = 'a'; INSERT INTO conversations (id) VALUES ('a')""",
    "a message of the far future and one of the far past": """
        INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES
            ('a', 8, 'ann', '2999-12-31T23:59:59Z'), ('a', 9, 'bob', '1970-01-01T00:00:00Z')""",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_every_figure_equals_a_recount_after(place: Place, store: Store, change: str) -> None:
    await place.execute(change)
    await assert_exact(place, store, TODAY)


async def test_last_active_is_the_day_of_the_latest_message_inserted(place: Place, store: Store) -> None:
    await place.execute(
        "DELETE FROM messages WHERE sender_id = 'ann'",
        "UPDATE messages SET sent_at = '2026-01-01T00:00:00Z' WHERE sender_id = 'bob'",
        INSERT + "('a', 9, 'bob', '2025-12-31T00:00:00Z')",
        "UPDATE messages SET sender_id = 'eve' WHERE conversation_id = 'b'",
    )
    assert await days(place) == {"ann": "2026-03-10", "bob": "2026-03-05", "eve": None}
    await place.execute(INSERT + "('a', 10, 'bob', '2026-03-11T00:00:00Z')")
    assert (await days(place))["bob"] == "2026-03-11"
    assert (await store.totals(5)).active_users == {1: 1, 7: 1, 30: 1}, "a day in the future is in no window"
    await place.execute(INSERT + "('a', 11, 'bob', '2026-03-01T00:00:00Z'), ('a', 12, 'ann', '2026-03-11T00:00:00Z')")
    assert await days(place) == {"ann": "2026-03-11", "bob": "2026-03-11", "eve": None}, "of two in one statement"


async def test_last_seq_never_goes_back(place: Place, store: Store) -> None:
    await place.execute("DELETE FROM messages WHERE conversation_id = 'a'")
    assert (await conversations(place))["a"] == (0, 5)
    stored = await send(store, "a", "ann", "new")
    assert stored.seq == 6
    await place.execute("UPDATE messages SET seq = 40 WHERE conversation_id = 'a'")
    stored = await send(store, "a", "ann", "newer")
    assert stored.seq == 41
    await place.execute(
        "UPDATE messages SET conversation_id = 'a', seq = 3 WHERE conversation_id = 'b'",
        INSERT + "('a', 7, 'ann', '2026-03-10T00:00:00Z'), ('a', 8, 'ann', '2026-03-10T00:00:00Z')",
    )
    assert (await conversations(place))["a"] == (5, 41)


async def test_windows_end_today_and_include_it(place: Place, store: Store) -> None:
    await place.execute("DELETE FROM users")
    for back in (0, 1, 6, 7, 29, 30):
        day = TODAY - timedelta(days=back)
        await place.execute(f"INSERT INTO users (id, last_active_on) VALUES ('u{back}', '{day}')")
    assert (await store.totals(5)).active_users == {1: 1, 7: 3, 30: 5}


async def test_at_midnight_utc_today_begins_anew(place: Place) -> None:
    clock = Clock(datetime(2026, 3, 10, 23, 59, 59, 998_000, tzinfo=UTC))
    async with opened(place, clock=clock) as store:
        await store.create_conversation("c", "ann", [])
        for i in range(4):
            await send(store, "c", f"u{i % 2}", f"m{i}")
            clock.pass_(milliseconds=1)
            await assert_exact(place, store, clock().date())
        found = await store.totals(5)
        assert (found.messages_today, found.stored_messages) == (2, 4)
        clock.pass_(days=6)
        assert (await store.totals(5)).active_users == {1: 0, 7: 2, 30: 2}
        clock.pass_(days=1)
        assert (await store.totals(5)).active_users == {1: 0, 7: 0, 30: 2}
        await assert_exact(place, store, clock().date())


async def test_a_conversation_with_messages_or_members_cannot_be_renamed(place: Place, store: Store) -> None:
    await place.execute(
        "INSERT INTO conversations (id) VALUES ('read');"
        " UPDATE conversation_members SET conversation_id = 'read' WHERE conversation_id = 'b'"
    )
    for name in ("a", "b", "read"):  # with members and messages, with messages alone, with members alone
        with pytest.raises(Exception, match="refer"):
            await place.execute(f"UPDATE conversations SET id = 'other' WHERE id = '{name}'")
    await place.execute(
        "INSERT INTO conversations (id) VALUES ('lone'); UPDATE conversations SET id = 'l' WHERE id = 'lone'"
    )
    await assert_exact(place, store, TODAY)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO messages (conversation_id, seq, sender_id) VALUES ('gone', 1, 'ann')",
        "INSERT INTO conversation_members (conversation_id, user_id) VALUES ('gone', 'ann')",
        "UPDATE messages SET conversation_id = 'gone' WHERE seq = 5",
        "UPDATE conversation_members SET conversation_id = 'gone' WHERE user_id = 'bob'",
    ],
)
async def test_a_row_of_a_conversation_that_is_not_there_is_refused(place: Place, store: Store, statement: str) -> None:
    with pytest.raises(Exception, match=r"no such conversation|foreign key"):
        await place.execute(statement)
    await assert_exact(place, store, TODAY)


async def test_deleting_takes_along_what_belongs_to_it(place: Place, store: Store) -> None:
    await place.execute("DELETE FROM users WHERE id = 'ann'")
    assert await place.fetch("SELECT conversation_id, user_id FROM conversation_members") == [("a", "bob")]
    assert await place.fetch("SELECT count(*) FROM messages WHERE sender_id = 'ann'") == [(2,)]
    await place.execute("DELETE FROM conversations WHERE id = 'a'")
    assert await place.fetch("SELECT count(*) FROM conversation_members") == [(0,)]
    assert await place.fetch("SELECT conversation_id FROM messages") == [("b",)]


async def test_the_collectors_statement_does_not_look_at_messages(place: Place, store: Store) -> None:
    if isinstance(place, Sqlite):
        plan = await place.fetch(
            "EXPLAIN QUERY PLAN " + STATEMENT.replace("$1", "'2026-03-10'").replace("$2", "'x'").replace("$3", "'x'")
        )
    else:
        day = "DATE '2026-03-10'"
        plan = await place.fetch("EXPLAIN " + STATEMENT.replace("$1", day).replace("$2", day).replace("$3", day))
    text = str(plan)
    assert "daily_totals" in text
    assert "messages" not in text.replace("stored_messages", "").replace("messages_today", "").replace("(messages", "")


FAR = {
    "sqlite": ["'-0044-03-15'", "'0000-05-05'", "'9999-12-31T23:59:59.999Z'"],
    "postgresql": ["'0044-03-15 BC'", "'29999-03-15'", "'infinity'", "'-infinity'"],
}


async def test_a_time_that_the_driver_does_not_know_is_counted_and_fails_nobody(place: Place, store: Store) -> None:
    for seq, time in enumerate(FAR[place.name], start=10):
        await place.execute(INSERT + f"('a', {seq}, 'eve', {time})")
    await assert_exact(place, store, TODAY)
    found, _ = await store.messages_after("a", "ann", 9, 100)
    assert [message.seq for message in found] == list(range(10, 10 + len(FAR[place.name])))
    assert {message.sent_at.year for message in found} <= {1, 9999}
    for message in found:
        mark = await read(store, "ann", "a", message.seq)
        assert (mark.moved, mark.sent_at) == (True, message.sent_at)
    assert store.up


async def test_no_number_is_given_beyond_the_last(place: Place, store: Store) -> None:
    await place.execute(INSERT + f"('a', {2**63 - 2}, 'eve', '2026-03-10T00:00:00Z')")
    assert (await send(store, "a", "ann", "last")).seq == 2**63 - 1
    answers = await asyncio.gather(send(store, "a", "ann", "more"), send(store, "b", "ann", "other"))
    assert isinstance(answers[0], BadFrame)
    assert answers[1].seq == 2
    await assert_exact(place, store, TODAY)


# --- what only one of the two can do --------------------------------------------------------------------------


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[tuple[Sqlite, Store]]:
    place = Sqlite(tmp_path / "messaging.db")
    async with opened(place, clock=Clock()) as store:
        await place.execute(FURNISH)
        yield place, store


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-03-10T23:30:00Z", "2026-03-10"),
        ("2026-03-10 23:30:00", "2026-03-10"),
        ("2026-03-10 23:30", "2026-03-10"),
        ("2026-03-10", "2026-03-10"),
        ("2026-03-11T01:30:00+02:00", "2026-03-10"),
        ("2026-03-10T23:30:00.123456-01:00", "2026-03-11"),
        ("2461110.4", "2026-03-10"),
    ],
)
async def test_sqlite_takes_a_time_in_every_form_that_date_understands(
    sqlite: tuple[Sqlite, Store], text: str, day: str
) -> None:
    place, store = sqlite
    await place.execute(
        f"INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES ('b', 9, 'eve', '{text}')"
    )
    assert (await days(place))["eve"] == day
    await assert_exact(place, store, TODAY)
    found, _ = await store.messages_after("b", "ann", 8, 1)
    assert found[0].sent_at.date().isoformat() == day
    await place.execute("DELETE FROM messages WHERE seq = 9")
    await assert_exact(place, store, TODAY)


@pytest.mark.parametrize("text", ["now", "", "yesterday", "2026-13-01", "10.03.2026"])
async def test_sqlite_refuses_a_time_that_could_not_be_counted_twice_alike(
    sqlite: tuple[Sqlite, Store], text: str
) -> None:
    place, store = sqlite
    for statement in (
        f"INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES ('b', 9, 'eve', '{text}')",
        f"UPDATE messages SET sent_at = '{text}'",
        f"INSERT INTO users (id, created_at) VALUES ('new', '{text}')",
        f"UPDATE users SET created_at = '{text}'",
        f"UPDATE conversations SET created_at = '{text}'",
        f"INSERT INTO conversations (id, created_at) VALUES ('new', '{text}')",
    ):
        with pytest.raises(Exception, match="not a time"):
            await place.execute(statement)
    await assert_exact(place, store, TODAY)


@pytest.mark.parametrize("text", ["now", "", "yesterday", "2026-13-01", "2026-03-10T00:00:00Z", "2026-3-9"])
async def test_sqlite_refuses_a_last_day_that_no_window_would_find(sqlite: tuple[Sqlite, Store], text: str) -> None:
    place, store = sqlite
    for statement in (
        f"INSERT INTO users (id, last_active_on) VALUES ('new', '{text}')",
        f"UPDATE users SET last_active_on = '{text}' WHERE id = 'eve'",
    ):
        with pytest.raises(Exception, match="not a day"):
            await place.execute(statement)
    await assert_exact(place, store, TODAY)


@pytest.mark.parametrize("clause", ["OR IGNORE", "OR FAIL", "OR ROLLBACK", "OR ABORT"])
async def test_sqlite_conflict_clauses_of_others_do_not_reach_into_the_triggers(
    sqlite: tuple[Sqlite, Store], clause: str
) -> None:
    place, store = sqlite
    for i in range(3):  # the same day again: within the trigger that is a conflict
        await place.execute(
            f"INSERT {clause} INTO messages (conversation_id, seq, sender_id, sent_at)"
            f" VALUES ('b', {20 + i}, 'eve', '2026-03-10T00:00:00Z')",
            f"INSERT {clause} INTO users (id, created_at) VALUES ('n{i}', '2026-03-10T00:00:00Z')",
            f"UPDATE {clause} messages SET sent_at = '2026-03-09T00:00:00Z' WHERE seq = {20 + i}",
        )
    await assert_exact(place, store, TODAY)


@pytest.mark.parametrize("pragmas", ["PRAGMA foreign_keys = ON;", "PRAGMA recursive_triggers = ON;", ""])
async def test_sqlite_cascades_whatever_the_other_program_has_switched_on(
    sqlite: tuple[Sqlite, Store], pragmas: str
) -> None:
    place, store = sqlite
    await place.execute(f"{pragmas} DELETE FROM conversations WHERE id = 'a'; DELETE FROM users WHERE id = 'ann'")
    assert await place.fetch("SELECT count(*) FROM messages") == [(1,)]
    assert await place.fetch("SELECT count(*) FROM conversation_members") == [(0,)]
    await assert_exact(place, store, TODAY)


@pytest.fixture
async def postgresql(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Postgresql, Store]]:
    server = request.getfixturevalue("postgres")
    place = Postgresql(server.url(server.create_database()))
    async with opened(place, clock=Clock()) as store:
        await place.execute(FURNISH)
        yield place, store


@pytest.mark.needs("postgres")
@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE messages",
        "TRUNCATE conversations CASCADE",
        "TRUNCATE users",
        "TRUNCATE users, conversations, messages, conversation_members",
        "BEGIN; TRUNCATE conversations CASCADE; TRUNCATE users; ROLLBACK",
        "MERGE INTO messages AS m USING (VALUES ('a', 1), ('b', 8)) AS v (c, s)"
        " ON m.conversation_id = v.c AND m.seq = v.s WHEN MATCHED THEN DELETE"
        " WHEN NOT MATCHED THEN INSERT (conversation_id, seq, sender_id) VALUES (c, s, 'eve')",
        "WITH gone AS (DELETE FROM messages WHERE conversation_id = 'a' RETURNING *) INSERT INTO messages"
        " SELECT 'b', seq + 30, sender_id, client_id || 'x', body, sent_at FROM gone",
        "SET session_replication_role = origin; SET timezone = 'Pacific/Kiritimati';"
        " INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES ('a', 9, 'eve', '2026-03-11 01:00')",
    ],
)
async def test_postgresql_keeps_up_with(postgresql: tuple[Postgresql, Store], change: str) -> None:
    place, store = postgresql
    await place.execute(change)
    await assert_exact(place, store, TODAY)


@pytest.mark.needs("postgres")
async def test_users_who_are_truncated_take_along_their_memberships(postgresql: tuple[Postgresql, Store]) -> None:
    place, _ = postgresql
    await place.execute("INSERT INTO conversation_members (conversation_id, user_id) VALUES ('a', 'never connected')")
    await place.execute("TRUNCATE users")
    assert await place.fetch("SELECT user_id FROM conversation_members") == [("never connected",)], "as by a DELETE"


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("table", ["messages", "conversations CASCADE", "users"])
async def test_postgresql_empties_no_table_of_rows_that_the_transaction_does_not_see(
    postgresql: tuple[Postgresql, Store], table: str
) -> None:
    place, store = postgresql
    connection = await asyncpg.connect(place.url)
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM messages")
        await place.execute(
            "INSERT INTO conversations (id, created_at) VALUES ('later', '2026-01-01');"
            " INSERT INTO users (id, created_at) VALUES ('later', '2026-01-01');"
            " INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES ('a', 9, 'later', '2026-01-01')"
        )
        with pytest.raises(asyncpg.FeatureNotSupportedError, match=f"TRUNCATE of {table.split()[0]} would leave"):
            await connection.execute(f"TRUNCATE {table}; COMMIT")
    finally:
        await connection.close()
    await assert_exact(place, store, TODAY)


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("pooled", [False, pytest.param(True, marks=pytest.mark.needs("pgbouncer"))])
async def test_postgresql_that_is_serializable_for_everybody_does_not_hinder_the_server(
    request: pytest.FixtureRequest, postgresql: tuple[Postgresql, Store], pooled: bool
) -> None:
    place, _ = postgresql
    if pooled:
        place = Postgresql(request.getfixturevalue("pgbouncer").url(place.direct), place.direct)
    await place.execute(
        "DO $$ BEGIN EXECUTE format("
        "'ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$"
    )
    assert await place.fetch("SHOW transaction_isolation") == [("serializable",)]
    async with opened(place, clock=Clock()) as store:

        async def level(session: Session) -> str:
            return str((await session.fetch("SHOW transaction_isolation"))[0][0])

        assert await store._database.run(Lane.WRITE, level) == "read committed"


@pytest.mark.needs("postgres")
async def test_postgresql_keeps_up_with_copy(postgresql: tuple[Postgresql, Store]) -> None:
    place, store = postgresql
    now = Clock().now
    rows = [("ab"[i % 2], 100 + i, f"copied {i % 7}", str(i), "x", now - timedelta(hours=i)) for i in range(1000)]
    connection = await asyncpg.connect(place.url)
    await connection.copy_records_to_table("messages", records=rows)
    await connection.close()
    await assert_exact(place, store, TODAY)


@pytest.mark.needs("postgres")
async def test_a_program_that_may_only_insert_messages_keeps_the_totals_right(
    postgresql: tuple[Postgresql, Store],
) -> None:
    place, store = postgresql
    await place.execute(
        "DROP ROLE IF EXISTS writer",
        "CREATE ROLE writer LOGIN; GRANT INSERT ON messages TO writer",
    )
    elsewhere = Postgresql(place.url.replace("postgres@", "writer@"))
    await elsewhere.execute(
        "SET search_path = pg_catalog;"
        " INSERT INTO public.messages (conversation_id, seq, sender_id) VALUES ('a', 9, 'eve')"
    )
    await assert_exact(place, store, TODAY)
    assert (await recount(place, TODAY))["stored_messages"] == 5
    await place.execute("DROP OWNED BY writer; DROP ROLE writer")


async def test_a_sum_below_zero_is_an_inaccurate_day_at_once_and_said_once(
    place: Place, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    await place.execute(
        "UPDATE daily_totals SET messages = messages - 5000",
        "UPDATE conversations SET total_messages = -1 WHERE id = 'a'",
    )
    collector = Collector(store)
    capsys.readouterr()
    for _ in range(2):
        totals = (await collector.collect(5.0)).totals
        assert totals is not None
        assert (totals.stored_messages, totals.inaccurate_days) == (None, 1)
    said = capsys.readouterr().out
    assert [said.count(line) for line in ("figures are not published", "figures differ from a recount")] == [1, 1]
    await place.execute("INSERT INTO conversation_members (conversation_id, user_id) VALUES ('a', 'reader')")
    assert [found.total_messages for found in await store.conversations_of("reader")] == [None]
