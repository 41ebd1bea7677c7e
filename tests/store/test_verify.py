"""Verification finds what triggers could not see, repairs it while others write, and keeps the result."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg
import pytest
import structlog

from exporter.core.errors import Misconfigured, NotFound, Unavailable
from exporter.core.records import Draft, Message, Totals
from exporter.store import Store, totals
from exporter.store import verify as verify_module
from exporter.store.dialects import postgresql
from exporter.store.dialects.base import Dialect, Row, Session, transaction
from exporter.store.errors import DatabaseError
from exporter.store.lanes import Lane
from exporter.store.schema.shape import COUNTED
from exporter.store.totals import tidy
from exporter.store.verify import background, compare, queries, verify
from exporter.store.verify.background import run_verification_forever
from exporter.store.verify.queries import REPAIR_SHARD
from exporter.store.verify.schema import watch_schema_forever
from tests.databases import Clock, Outcome, Place, Postgresql, Sqlite, assert_exact, eventually, opened, send
from tests.servers.postgres import Postgres

TODAY = date(2026, 3, 10)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    async with opened(place, clock=Clock()) as store:
        for name in ("a", "b'\"\n", "c"):
            await store.create_conversation(name, "ann", [])
            for i in range(5):
                await send(store, name, f"u{i}", f"m{i}")
        yield store


async def findings(store: Store, **options: object) -> tuple[verify_module.Report, list[str]]:
    lines: list[str] = []
    report = await verify(store, out=lines.append, **options)
    return report, lines


def published(totals: Totals) -> tuple[int | None, int | None, int | None]:
    """What a server shows of the last verification: conversations, days, triggers."""
    return totals.inaccurate_conversations, totals.inaccurate_days, totals.missing_triggers


def wrong(report: verify_module.Report) -> tuple[int, int, int]:
    """What a verification says that it found."""
    return report.inaccurate_conversations, report.inaccurate_days, report.missing_triggers


async def test_what_triggers_kept_agrees(store: Store) -> None:
    report, lines = await findings(store)
    assert (report.agrees, report.conversations, report.messages, lines) == (True, 3, 15, [])
    totals = await store.totals(5)
    assert (totals.inaccurate_conversations, totals.verified_at) == (0, Clock().now.timestamp())


async def test_what_a_start_finds_takes_nothing_back_that_a_verification_had_found(place: Place, store: Store) -> None:
    await place.execute(
        "INSERT INTO daily_totals (day, shard, users) VALUES ('2020-02-29', 3, 7), ('2020-03-01', 3, 1)"
    )
    assert wrong((await findings(store))[0]) == (0, 2, 0)
    assert await compare(store)
    assert published(await store.totals(5)) == (0, 2, 0)


async def test_before_the_first_verification_nothing_is_known(store: Store) -> None:
    totals = await store.totals(5)
    assert (published(totals), totals.verified_at) == ((None, None, None), None)


SPOILED = {
    "a total": (
        "UPDATE conversations SET total_messages = 99 WHERE id = 'a'",
        ["'a': total_messages is 99, counted 5"],
    ),
    "a last seq": ("UPDATE conversations SET last_seq = 2 WHERE id = 'c'", ["'c': last_seq is 2, highest seq 5"]),
    "all totals": (
        "UPDATE conversations SET total_messages = total_messages - 1",
        ["'a': total_messages is 4", "'b\\'\"\\n': total_messages is 4", "'c': total_messages is 4, counted 5"],
    ),
    "a day": ("UPDATE daily_totals SET messages = messages + 3", ["2026-03-10: messages is 18, counted 15"]),
    "a day that is missing": (
        "DELETE FROM daily_totals",
        ["messages is 0, counted 15", "conversations is 0, counted 3"],
    ),
    "a day too many": (
        "INSERT INTO daily_totals (day, shard, users) VALUES ('2020-02-29', 3, 7)",
        ["2020-02-29: users is 7, counted 0"],
    ),
    "days and the memory of repairs": (
        "DELETE FROM verification; UPDATE daily_totals SET conversations = 7",
        ["conversations is 7, counted 3"],
    ),
    "active users": ("UPDATE daily_totals SET last_active_users = 0", ["last_active_users is 0, counted 5"]),
}


@pytest.mark.parametrize(("spoil", "expected"), SPOILED.values(), ids=SPOILED.keys())
async def test_a_difference_is_found_told_and_mended(
    place: Place, store: Store, spoil: str, expected: list[str]
) -> None:
    await place.execute(spoil)
    report, lines = await findings(store)
    assert not report.agrees
    assert not report.repaired
    for part in expected:
        assert any(part in line for line in lines), lines
    assert all("\n" not in line for line in lines)
    assert published(await store.totals(5)) == wrong(report)

    report, again = await findings(store, repair=True)
    assert (report.agrees, report.repaired, again) == (False, True, lines)
    assert published(await store.totals(5)) == (0, 0, 0)
    await assert_exact(place, store, TODAY)
    assert (await findings(store))[0].agrees


async def test_the_first_repair_of_days_needs_no_memory_of_others(place: Place, store: Store) -> None:
    await place.execute("DELETE FROM verification; UPDATE daily_totals SET conversations = 7")
    report, lines = await findings(store, repair=True)
    assert (report.repaired, lines) == (True, ["day 2026-03-10: conversations is 7, counted 3"])
    await assert_exact(place, store, TODAY)


async def test_a_repair_leaves_a_number_that_was_given_though_its_message_is_deleted(
    place: Place, store: Store
) -> None:
    await store.delete_message("a", 5, "root", True)
    await place.execute("UPDATE conversations SET total_messages = 99 WHERE id = 'a'")
    assert (await findings(store, repair=True))[0].repaired
    stored = await send(store, "a", "u0", "after")
    assert isinstance(stored, Message)
    assert stored.seq == 6


async def test_a_conversation_that_is_deleted_before_its_repair_stays_so(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.execute("UPDATE conversations SET total_messages = 99 WHERE id = 'a'")
    original = queries.repair_conversation

    async def deleted_before(session: Session, begin: str, lock: str, name: str) -> None:
        await place.execute("DELETE FROM conversations WHERE id = 'a'")
        await original(session, begin, lock, name)

    monkeypatch.setattr(queries, "repair_conversation", deleted_before)
    assert (await findings(store, repair=True))[0].repaired
    assert (await store.totals(5)).stored_conversations == 2
    await assert_exact(place, store, TODAY)


async def test_a_repair_while_others_write_mends_exactly(place: Place, store: Store) -> None:
    stop = asyncio.Event()

    async def write(sender: str) -> int:
        sent = 0
        while not stop.is_set():
            outcome = Outcome()
            store.send(Draft("ac"[sent % 2], sender, f"{sender}{sent}", "x"), outcome)
            sent += 1
            await outcome.future
            if sent % 10 == 0:
                await store.delete_message("a", sent // 2, "root", True) if sent % 20 else None
        return sent

    async def write_anyhow(sender: str) -> int:
        try:
            return await write(sender)
        except NotFound:  # another has deleted it; the others go on
            return 0

    writers = [asyncio.create_task(write_anyhow(f"w{i}")) for i in range(4)]
    for _ in range(6):
        await place.execute(
            "UPDATE conversations SET total_messages = total_messages + 7",
            "UPDATE daily_totals SET messages = messages - 5, users = users + 1",
        )
        report, _ = await findings(store, repair=True)
        assert report.inaccurate_conversations == 3
        assert report.inaccurate_days == 1
        assert (await findings(store))[0].agrees
    stop.set()
    assert sum(await asyncio.gather(*writers)) > 0
    await assert_exact(place, store, TODAY)


async def test_two_repairs_at_once_do_not_mend_twice(place: Place, store: Store) -> None:
    await place.execute(
        "UPDATE conversations SET total_messages = 1",
        "UPDATE daily_totals SET messages = 1, conversations = 1, users = 1, last_active_users = 1",
    )
    await asyncio.gather(*(verify(store, repair=True) for _ in range(3)))
    await assert_exact(place, store, TODAY)


async def test_it_goes_in_pages_and_says_how_far_it_is(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE_CONVERSATIONS", 10)
    monkeypatch.setattr(queries, "PAGE_MESSAGES", 4)
    for i in range(55):
        await store.create_conversation(f"x{i}", "ann", [])
        if i % 10 == 0:
            await send(store, f"x{i}", "ann", "m")
    await place.execute("UPDATE conversations SET total_messages = 1 WHERE id IN ('x3', 'x33', 'x54')")
    seen: list[tuple[int, int]] = []
    report, lines = await findings(store, progress=lambda done, total: seen.append((done, total)))
    assert (report.conversations, report.inaccurate_conversations, len(lines)) == (58, 3, 3)
    assert len(seen) > 6
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (21, 21)


async def test_triggers_that_somebody_dropped_are_found_and_made_again(place: Place, store: Store) -> None:
    if isinstance(place, Sqlite):
        await place.execute("DROP TRIGGER messages_inserted; DROP TRIGGER conversations_deleted")
    else:
        await place.execute("DROP TRIGGER messages_inserted ON messages; ALTER TABLE conversations DISABLE TRIGGER ALL")
    await place.execute("INSERT INTO messages (conversation_id, seq, sender_id) VALUES ('a', 9, 'ann')")
    report, lines = await findings(store)
    assert report.missing_triggers >= 2
    assert "trigger messages_inserted: missing or disabled" in lines
    assert published(await store.totals(5)) == wrong(report)
    report, _ = await findings(store, repair=True)
    assert report.repaired
    await place.execute("INSERT INTO messages (conversation_id, seq, sender_id) VALUES ('a', 10, 'ann')")
    await assert_exact(place, store, TODAY)
    assert (await findings(store))[0].agrees


async def test_a_trigger_or_function_that_somebody_changed_is_found_and_migrate_mends_it(
    place: Place, store: Store
) -> None:
    if isinstance(place, Sqlite):
        await place.execute(
            "DROP TRIGGER messages_deleted;CREATE TRIGGER messages_deleted AFTER DELETE ON messages BEGIN SELECT 1; END"
        )
        expected = ["trigger messages_deleted: not as this version makes it"]
    else:
        await place.execute(
            "CREATE OR REPLACE TRIGGER messages_deleted AFTER DELETE ON messages"
            " REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION messaging_conversations_deleted();"
            "ALTER FUNCTION messaging_users_deleted() SET search_path = elsewhere, pg_temp;"
            "ALTER FUNCTION messaging_users_updated() SECURITY INVOKER;"
            "CREATE OR REPLACE FUNCTION messaging_shard() RETURNS integer LANGUAGE sql AS 'SELECT 1'"
        )
        expected = [
            "function messaging_shard: not as this version makes it",
            "function messaging_users_deleted: not as this version makes it",
            "function messaging_users_updated: not as this version makes it",
            "trigger messages_deleted: not as this version makes it",
        ]
    report, lines = await findings(store)
    assert (sorted(lines), report.missing_triggers) == (expected, len(expected))
    assert not report.agrees, "although every figure is right as yet"
    await store.migrate()
    assert (await findings(store))[1] == []


@pytest.mark.parametrize("gone", ["a", "m", "z", "amz"], ids=["the first", "one between", "the last", "all"])
async def test_messages_whose_conversation_is_gone_get_it_back(tmp_path: Path, gone: str) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    async with opened(place, clock=Clock()) as store:
        for name in "amz":
            await store.create_conversation(name, "ann", [])
            await send(store, name, "ann", "m")
        await place.execute(
            "DROP TRIGGER conversations_deleted",
            *(f"DELETE FROM conversations WHERE id = '{name}'" for name in gone),
        )
        report, lines = await findings(store, repair=True)
        assert report.inaccurate_conversations == len(gone)
        for name in gone:
            told = [line for line in lines if f"'{name}'" in line]
            assert told == [f"conversation '{name}': no such row, counted 1"]
        await assert_exact(place, store, TODAY)
        assert (await findings(store))[0].agrees


async def test_replacing_behind_the_triggers_back_is_found(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    async with opened(place, clock=Clock()) as store:
        await store.create_conversation("c", "ann", [])
        await send(store, "c", "ann", "m")
        await place.execute(
            "PRAGMA recursive_triggers = OFF;"
            "INSERT OR REPLACE INTO messages (conversation_id, seq, sender_id) VALUES ('c', 1, 'bob')"
        )
        assert (await findings(store))[0].inaccurate_conversations == 1
        await verify(store, repair=True)
        await assert_exact(place, store, TODAY)


async def test_past_days_need_one_row_each_afterwards(place: Place, store: Store) -> None:
    for shard in (93, 95, -1):
        await place.execute(
            "INSERT INTO daily_totals (day, shard, messages, users) VALUES"
            f" ('2026-01-01', {shard}, 1, 1), ('2026-03-09', {shard}, 3, 0), ('2026-03-10', {shard}, 2, 0)"
        )
    before = await place.fetch("SELECT day, sum(messages), sum(users) FROM daily_totals GROUP BY 1 ORDER BY 1")
    await verify(store)
    assert before == await place.fetch("SELECT day, sum(messages), sum(users) FROM daily_totals GROUP BY 1 ORDER BY 1")
    assert await place.fetch("SELECT shard FROM daily_totals WHERE day = '2026-01-01'") == [(0,)]
    for day in ("2026-03-09", "2026-03-10"):  # transactions that began before midnight may write to yesterday still
        assert len(await place.fetch(f"SELECT shard FROM daily_totals WHERE day = '{day}'")) >= 3


@pytest.mark.needs("postgres")
async def test_a_connection_that_is_lost_while_past_days_are_put_together_is_no_reason_not_to(
    postgres: Postgres,
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place, clock=Clock(), timeout=60.0) as store:
        await place.execute("INSERT INTO daily_totals (day, shard, messages) VALUES ('2026-01-01', 93, 1)")
        holder = await asyncpg.connect(place.direct)
        async with holder.transaction():
            await holder.execute("LOCK TABLE daily_totals")
            work = partial(tidy, dialect=store._dialect, now=store.now())
            tidying = asyncio.create_task(store._database.run(Lane.READ, work))
            lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = "
            await eventually(lambda: holder.fetch(f"{lost} current_database()"))
        await holder.close()
        await tidying
        assert await place.fetch("SELECT shard FROM daily_totals WHERE day = '2026-01-01'") == [(0,)]


async def test_what_cannot_be_checked_is_said(place: Place, store: Store) -> None:
    if isinstance(place, Sqlite):
        place.path.rename(place.path.with_name("away"))
        with pytest.raises(Unavailable, match="moved"):
            await verify(store)
    else:
        await place.execute("ALTER TABLE messages RENAME TO elsewhere")
        with pytest.raises(Misconfigured, match="table messages: missing"):
            await verify(store)


async def test_it_does_not_keep_others_waiting(place: Place, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PAGE_MESSAGES", 1)
    task = asyncio.create_task(verify(store, pace=1000.0))  # it rests nearly all the time
    for i in range(20):
        await send(store, "a", "ann", f"x{i}")
        await store.totals(5)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})


async def test_in_the_background_it_is_done_when_it_is_due(place: Place, store: Store) -> None:
    await place.execute("UPDATE conversations SET total_messages = 9 WHERE id = 'a'")
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(run_verification_forever(store, 0.5, pace=0))

        async def found() -> bool:
            return (await store.totals(5)).inaccurate_conversations == 1

        await eventually(found)
        await eventually(lambda: [entry for entry in logs if entry["log_level"] == "warning"])
        task.cancel()
        await asyncio.wait({task})
    assert await place.fetch("SELECT total_messages FROM conversations WHERE id = 'a'") == [(9,)], "it only looks"


async def test_in_the_background_what_hinders_it_is_told_each_time_that_it_begins(place: Place, store: Store) -> None:
    async def verified_since(moment: float) -> bool:
        return ((await store.totals(5)).verified_at or 0.0) > moment

    def told(times: int) -> bool:
        return [entry["event"] for entry in logs].count("verification was not possible") == times

    clock = store._clock
    assert isinstance(clock, Clock)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(run_verification_forever(store, 0.05, pace=0))
        for number in (1, 2):
            began = store.now().timestamp()
            clock.pass_(seconds=1)
            await eventually(partial(verified_since, began))
            await place.execute("ALTER TABLE messages RENAME TO elsewhere")
            await eventually(partial(told, number))
            await place.execute("ALTER TABLE elsewhere RENAME TO messages")
        task.cancel()
        await asyncio.wait({task})


async def test_in_the_background_it_waits_until_it_is_due(place: Place, store: Store) -> None:
    await verify(store)
    waits: list[float] = []
    waits.append(await background._until_due(store, 3600.0))
    assert 3600.0 <= waits[0] <= 3600.0 + 1
    store._clock = lambda: datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
    assert await background._until_due(store, 3600.0) <= 360.0


async def test_a_repair_that_others_undo_is_published_as_what_a_recount_finds(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.execute("UPDATE daily_totals SET messages = messages + 3")
    original = queries.repair_days

    async def mended_and_spoiled_again(session: Session, dialect: Dialect, rows: Sequence[Row]) -> bool | None:
        done = await original(session, dialect, rows)
        await session.fetch("UPDATE daily_totals SET users = users + 1 WHERE day = (SELECT max(day) FROM daily_totals)")
        return done

    monkeypatch.setattr(queries, "repair_days", mended_and_spoiled_again)
    report, _ = await findings(store, repair=True)
    assert not report.repaired
    assert published(await store.totals(5)) == (0, 1, 0)


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("table", ["messages", "conversations", "users"])
async def test_a_table_that_is_emptied_before_a_repair_is_done_is_recounted(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """What was missing of its rows is missing no more."""
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place, clock=Clock()) as store:
        await store.create_conversation("c", "ann", [])
        await send(store, "c", "ann", "m")
        await place.execute("UPDATE daily_totals SET messages = 8, conversations = 8, users = 8, last_active_users = 8")
        original, emptied = queries.repair_days, list[str]()

        async def emptied_before(session: Session, dialect: Dialect, rows: Sequence[Row]) -> bool | None:
            if not emptied:
                emptied.append(table)
                await place.execute(f"TRUNCATE {table} CASCADE")
            return await original(session, dialect, rows)

        monkeypatch.setattr(queries, "repair_days", emptied_before)
        assert (await findings(store, repair=True))[0].repaired
        await assert_exact(place, store, TODAY)


async def test_totals_below_0_are_not_known_and_the_reason_is_said(place: Place, store: Store) -> None:
    await place.execute("UPDATE daily_totals SET users = -1000, messages = -7, last_active_users = -1")
    totals = await store.totals(5)
    assert (totals.registered_users, totals.stored_messages, totals.messages_today) == (None, None, None)
    assert totals.active_users == {1: None, 7: None, 30: None}
    assert totals.stored_conversations == 3
    assert "verify --repair" in str(totals.error)
    await verify(store, repair=True)
    assert (await store.totals(5)).error is None
    await assert_exact(place, store, TODAY)


# --- the comparison at a start ----------------------------------------------------------------------------


async def test_what_agrees_is_not_doubted_at_a_start(store: Store) -> None:
    assert not await compare(store)
    assert published(await store.totals(5)) == (None, None, None)


RESTORED = """
UPDATE daily_totals SET messages = 2 * messages, conversations = 2 * conversations, users = 2 * users
"""


@pytest.mark.parametrize(
    "spoil",
    [
        RESTORED,
        "UPDATE daily_totals SET messages = messages + 1000000",
        "UPDATE daily_totals SET users = 100",
        "DELETE FROM daily_totals",
        "UPDATE daily_totals SET last_active_users = 0",
        "UPDATE daily_totals SET conversations = 7",
        "UPDATE daily_totals SET active_users = -1",
        *(  # sums that are right, of days that cannot be
            f"INSERT INTO daily_totals (day, shard, {counted}) VALUES ('2026-01-01', 99, -1), ('2026-01-02', 99, 1)"
            for counted in COUNTED[:-1]
        ),
    ],
)
async def test_totals_that_cannot_be_right_are_published_and_logged_at_a_start(
    place: Place, store: Store, spoil: str
) -> None:
    await place.execute(spoil)
    with structlog.testing.capture_logs() as logs:
        assert await compare(store)
    assert published(await store.totals(5)) == (None, 1, 0)
    assert ["verify --repair" in entry["event"] for entry in logs] == [True]
    await verify(store, repair=True)
    with structlog.testing.capture_logs() as logs:
        assert published(await store.totals(5)) == (0, 0, 0)
        assert not await compare(store)
        await place.execute(spoil)
        assert await compare(store)
    assert [entry["log_level"] for entry in logs] == ["info", "warning"], "that it is right, and that it no longer is"


async def test_triggers_that_are_gone_are_published_at_a_start(place: Place, store: Store) -> None:
    table = " ON messages" if isinstance(place, Postgresql) else ""
    await place.execute(f"DROP TRIGGER messages_deleted{table}")
    assert await compare(store)
    assert published(await store.totals(5)) == (None, 0, 1)


# --- what others hold ---------------------------------------------------------------------------------------


@pytest.mark.needs("postgres")
async def test_a_repair_leaves_what_others_hold_names_them_and_mends_the_rest(
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place, clock=Clock()) as store:
        for name in ("a", "b"):
            await store.create_conversation(name, "ann", [])
        await leave_what_others_hold(place, store, monkeypatch)


async def leave_what_others_hold(place: Postgresql, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "VERIFY_LOCK_WAIT", 1.5)
    await place.execute("UPDATE conversations SET total_messages = 9")
    holder = await asyncpg.connect(place.direct, server_settings={"application_name": "nightly report"})
    try:
        pid = holder.get_server_pid()
        await holder.execute("BEGIN; UPDATE conversations SET created_at = created_at WHERE id = 'a'")
        report, lines = await findings(store, repair=True)
        (told,) = [line for line in lines if "not repaired" in line]
        held = "the database is locked by another program"
        assert told.startswith(f"conversation 'a': not repaired, {held}: process {pid}")
        assert "nightly report" in told
        assert sum("total_messages is 9" in line for line in lines) == 2, "each is told once, and counted twice"
        assert not report.repaired
        assert published(await store.totals(5)) == (1, 0, 0), "the rest is right again"
        await holder.execute("ROLLBACK")
        await place.execute(f"INSERT INTO daily_totals (day, shard, users) VALUES ('2026-03-10', {REPAIR_SHARD}, 5)")
        await holder.execute("BEGIN; SELECT 1 FROM daily_totals FOR UPDATE")
        _, lines = await findings(store, repair=True)
        assert any(line.startswith(f"days: not repaired, {held}: process {pid}") for line in lines), lines
        assert published(await store.totals(5)) == (0, 1, 0)
        await holder.execute("ROLLBACK; BEGIN; LOCK TABLE messages")
        with pytest.raises(Unavailable, match=f"locked by another program: process {pid}"):
            await verify(store)
        await holder.execute("ROLLBACK")
        assert (await findings(store, repair=True))[0].repaired
    finally:
        await holder.close()


@pytest.mark.needs("postgres")
async def test_a_prepared_transaction_that_holds_what_is_to_be_repaired_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody's process holds it, and it stays when the server is started again: only its name ends it."""
    monkeypatch.setattr(postgresql, "VERIFY_LOCK_WAIT", 1.5)
    server = Postgres(fsync="off", max_prepared_transactions="4")
    try:
        place = Postgresql(server.start().url(server.create_database()))
        async with opened(place, clock=Clock()) as store:
            await store.create_conversation("a", "ann", [])
            await place.execute(
                "UPDATE conversations SET total_messages = 9",
                "BEGIN; SELECT 1 FROM users LIMIT 1; PREPARE TRANSACTION 'in nobody''s way'",
                "BEGIN; UPDATE conversations SET created_at = created_at; PREPARE TRANSACTION E'row\\n1'",
            )
            held = "the database is locked by another program: prepared transaction"
            _, lines = await findings(store, repair=True)
            (told,) = [line for line in lines if "not repaired" in line]
            assert told.startswith(f"conversation 'a': not repaired, {held} \"row\\n1\" (postgres, since ")
            await place.execute(
                "ROLLBACK PREPARED E'row\\n1'", "BEGIN; LOCK TABLE messages; PREPARE TRANSACTION 'table'"
            )
            with pytest.raises(Unavailable, match=rf'{held} "table" \(postgres, since [0-9:]+ UTC\)$'):
                await verify(store)
    finally:
        server.close()


HOLDING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"PRAGMA locking_mode = {sys.argv[2]}")
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


async def test_a_file_that_another_process_keeps_to_itself_is_told_with_the_process(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    async with opened(place):
        pass
    holder = await holding(place, "EXCLUSIVE")
    store = Store(place.url, timeout=2.0)
    try:
        with pytest.raises(Unavailable, match=f"locked by another program: process {holder.pid} "):
            await verify(store)
    finally:
        await release(holder)
        await store.close()


async def holding(place: Sqlite, mode: str) -> asyncio.subprocess.Process:
    """Another process that holds the file."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDING, str(place.path), mode, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    return holder


async def release(holder: asyncio.subprocess.Process) -> None:
    assert holder.stdin is not None
    holder.stdin.close()
    await holder.wait()


async def test_a_file_that_another_process_holds_is_told_with_the_process(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    async with opened(place, clock=Clock(), timeout=2.0) as store:
        await store.create_conversation("a", "ann", [])
        await place.execute("UPDATE conversations SET total_messages = 9")
        holder = await holding(place, "NORMAL")
        try:
            lines: list[str] = []
            with pytest.raises(Unavailable, match=f"locked by another program: process {holder.pid} "):
                await verify(store, repair=True, out=lines.append)  # what it found cannot be kept, either
            assert any(
                f"'a': not repaired, the database is locked by another program: process {holder.pid}" in line
                for line in lines
            )
        finally:
            await release(holder)
        assert (await findings(store, repair=True))[0].repaired


# --- a day that has not come --------------------------------------------------------------------------------


async def active_days(place: Place) -> dict[str, str | None]:
    rows = await place.fetch("SELECT id, last_active_on FROM users")
    return {name: None if day is None else str(day) for name, day in rows}


def insert(seq: int, day: str) -> str:
    return (
        f"INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES ('a', {seq}, 'u0', '{day}T10:00:00Z')"
    )


async def test_a_day_that_has_not_come_gives_way_to_the_next_message(place: Place, store: Store) -> None:
    tomorrow = str(datetime.now(UTC).date() + timedelta(days=2))
    await place.execute(insert(100, tomorrow))
    assert (await active_days(place))["u0"] == tomorrow
    await place.execute(insert(101, "2026-03-09"), insert(102, "2026-03-11"), insert(103, "2026-03-10"))
    assert (await active_days(place))["u0"] == "2026-03-11", "and then the latest stays"
    await place.execute(f"{insert(104, tomorrow)}, ('a', 105, 'u0', '2026-03-12T10:00:00Z')")
    assert (await active_days(place))["u0"] == "2026-03-12", "also within one statement"
    await assert_exact(place, store, TODAY)


async def test_a_day_that_has_not_come_is_found_and_mended_by_the_messages_that_are_there(
    place: Place, store: Store
) -> None:
    await place.execute("UPDATE users SET last_active_on = '2199-01-01' WHERE id IN ('u1', 'u2')")
    await place.execute("DELETE FROM messages WHERE sender_id = 'u2'")
    report, lines = await findings(store)
    assert lines == ["day 2199-01-01: 2 users were last active on it, and it has not come"]
    assert wrong(report) == (0, 1, 0)
    await place.execute(insert(100, "2199-01-02"))
    report, _ = await findings(store, repair=True)
    assert report.repaired
    found = await active_days(place)
    assert (found["u0"], found["u1"], found["u2"]) == ("2026-03-10", "2026-03-10", None)
    await assert_exact(place, store, TODAY)


# --- partitions ---------------------------------------------------------------------------------------------

PARTITIONED = """
ALTER TABLE messages RENAME TO plain;
CREATE TABLE messages (LIKE plain INCLUDING DEFAULTS, PRIMARY KEY (conversation_id, seq),
    UNIQUE (conversation_id, sender_id, client_id),
    FOREIGN KEY (conversation_id) REFERENCES conversations (id) ON DELETE CASCADE) PARTITION BY HASH (conversation_id);
CREATE TABLE messages_0 PARTITION OF messages FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE "Messages 1" PARTITION OF messages FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO messages SELECT * FROM plain;
DROP TABLE plain;
"""


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("style", ["ISO", "German"])
async def test_days_that_the_driver_does_not_know_are_counted_told_and_mended(postgres: Postgres, style: str) -> None:
    """Milliseconds that were taken for seconds are some fifty thousand years from now."""
    place = Postgresql(postgres.url(postgres.create_database()) + f"?options=-cDateStyle%3D{style}")
    days = ["57883-11-29", "9999-12-31", "infinity", "0044-03-15 BC", "-infinity"]
    rows = (
        "INSERT INTO users (id, created_at) VALUES ('{0}{1}', '{1}')",
        "INSERT INTO conversations (id, created_at) VALUES ('{0}{1}', '{1}')",
        "INSERT INTO messages (conversation_id, seq, sender_id, sent_at) VALUES ('{0}{1}', 1, '{0}{1}', '{1}')",
    )
    async with opened(place) as store:
        await place.execute("SET timezone = UTC;" + ";".join(row.format("kept ", day) for day in days for row in rows))
        report, lines = await findings(store, repair=True)
        ahead = [f"day {day}: 1 users were last active on it, and it has not come" for day in sorted(days[:3])]
        assert (sorted(lines), report.repaired) == (ahead, True)
        behind = "SET timezone = UTC; SET session_replication_role = replica;"
        await place.execute(behind + ";".join(row.format("not ", day) for day in days for row in rows))
        report, lines = await findings(store, repair=True)
        assert (report.inaccurate_conversations, report.repaired) == (len(days), True)
        assert {f"day {day}: messages is 1, counted 2" for day in days} <= set(lines)
        assert (await findings(store))[0].agrees


@pytest.mark.needs("postgres")
async def test_who_writes_to_a_partition_or_empties_it_is_counted(postgres: Postgres) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place, clock=Clock()) as store:
        names = [f"c{number}" for number in range(12)]
        for name in names:
            await store.create_conversation(name, "ann", [])
            await send(store, name, "ann", "m")
        await place.execute(PARTITIONED)
        _, lines = await findings(store)
        assert "trigger messages_inserted on messages_0: missing or disabled" in lines
        assert 'trigger partition_truncated on "Messages 1": missing or disabled' in lines
        await store.migrate()  # there are triggers to make, although the schema is current
        assert (await findings(store))[0].agrees
        for partition in ("messages_0", '"Messages 1"'):
            await place.execute(
                f"INSERT INTO {partition} (conversation_id, seq, sender_id)"
                f" SELECT conversation_id, 2, 'bob' FROM {partition}",
                f"UPDATE {partition} SET sent_at = '2026-01-01T00:00Z' WHERE seq = 1",
                f"DELETE FROM {partition} WHERE seq = 2 AND conversation_id < 'c3'",
            )
            await assert_exact(place, store, TODAY)
            assert (await findings(store))[1] == []
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="TRUNCATE of messages_0"):
            await place.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE messages_0; COMMIT")
        await place.execute("TRUNCATE messages_0")
        await assert_exact(place, store, TODAY)
        assert 0 < ((await store.totals(5)).stored_messages or 0) < 24
        await send(store, "c1", "ann", "again")
        await place.execute("TRUNCATE messages")
        await assert_exact(place, store, TODAY)


@pytest.mark.needs("postgres")
async def test_a_schema_whose_name_needs_quoting_is_verified(postgres: Postgres) -> None:
    direct = postgres.url(postgres.create_database())
    place = Postgresql(direct + "?options=-csearch_path%3D%22My%5C%20Chat%22")
    await Postgresql(direct).execute('CREATE SCHEMA "My Chat"')
    async with opened(place, clock=Clock()) as store:
        await store.create_conversation("c", "ann", [])
        await send(store, "c", "ann", "m")
        assert (await findings(store))[0].agrees
        await Postgresql(direct).execute('DROP TRIGGER messages_deleted ON "My Chat".messages')
        assert (await findings(store, repair=True))[0].repaired


@pytest.mark.needs("postgres")
async def test_a_restore_of_rows_alone_is_found_at_the_start(postgres: Postgres, tmp_path: Path) -> None:
    """With PostgreSQL's own tools, into a database that ``migrate`` has been run on."""
    name = postgres.create_database()
    async with opened(Postgresql(postgres.url(name)), clock=Clock()) as store:
        await store.create_conversation("c", "ann", ["bob"])
        for number in range(5):
            await send(store, "c", "ann", f"m{number}")
    await Postgresql(postgres.url(name)).execute("UPDATE daily_totals SET shard = 99")  # as none of the restore's own
    dump = await asyncio.to_thread(postgres.dump, name, "--data-only", "--inserts", "--on-conflict-do-nothing")
    other = Postgresql(postgres.url(postgres.create_database()))
    async with opened(other, clock=Clock()) as store:
        await other.execute("DELETE FROM verification", dump)
        assert await compare(store)
        assert (await store.totals(5)).inaccurate_days == 1
        assert (await findings(store, repair=True))[0].repaired
        assert (await store.totals(5)).stored_messages == 5
        assert not await compare(store)


@pytest.mark.parametrize("place", ["postgresql", "pgbouncer"], indirect=True)
@pytest.mark.needs("postgres", "pgbouncer")
async def test_a_repair_whose_machine_falls_asleep_keeps_nothing_from_others(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "ASLEEP", 0.5)
    database = store.maintenance()
    awake = asyncio.Event()

    async def sleep(session: Session) -> None:
        async with transaction(session, database.dialect.begin):
            await session.fetch("SELECT 1 FROM conversations WHERE id = 'a'" + database.dialect.lock)
            held.set()
            await awake.wait()

    held = asyncio.Event()
    job = database.job(Lane.VERIFY, sleep, None)
    await held.wait()

    async def sent() -> bool:
        return isinstance(await send(store, "a", "ann", "new"), Message)

    await eventually(sent)
    awake.set()
    with pytest.raises(DatabaseError):
        await job.result()
    await database.close(1.0)


# --- who may not write the result -----------------------------------------------------------------------------------


@pytest.fixture
async def reader(postgres: Postgres) -> AsyncIterator[tuple[Postgresql, Postgresql]]:
    """A database with something wrong, as its owner and as a user with the rights that a server needs, and no more."""
    name = postgres.create_database()
    owner, place = Postgresql(postgres.url(name)), Postgresql(postgres.url(name, name))
    async with opened(owner, clock=Clock()) as store:
        await store.create_conversation("c", "ann", [])
        await send(store, "c", "ann", "m")
    await owner.execute(
        f"CREATE ROLE {name} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name};"
        f"GRANT INSERT, DELETE ON messages, conversation_members TO {name};"
        f"GRANT INSERT, UPDATE ON users, conversations TO {name}; GRANT UPDATE ON conversation_members TO {name}",
        "UPDATE conversations SET total_messages = 7",
    )
    yield owner, place
    await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.needs("postgres")
async def test_what_was_found_is_told_where_it_cannot_be_kept(
    reader: tuple[Postgresql, Postgresql], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[verify_module.Report] = []

    async def once_more(store: Store, **options: float) -> verify_module.Report:
        counted.append(await verify(store, **options))
        return counted[-1]

    monkeypatch.setattr(background, "verify", once_more)
    store = Store(reader[1].url, clock=Clock())
    with structlog.testing.capture_logs() as logs:
        await store.start()
        task = asyncio.create_task(run_verification_forever(store, 3600.0, pace=0, at_once=True))
        (told,) = await eventually(lambda: [entry for entry in logs if entry["log_level"] == "warning"])
        assert (await store.totals(5)).verified_at is None
        task.cancel()
        await asyncio.wait({task})
        await store.close()
    assert told["event"] == "what a verification found could not be kept"
    assert (told["conversations"], told["days"], told["triggers"]) == (1, 0, 0)
    assert "lacks a right" in told["reason"]
    assert [wrong(report) for report in counted] == [(1, 0, 0)]
    assert not counted[0].agrees
    assert not counted[0].repaired


@pytest.mark.needs("postgres")
async def test_a_start_and_the_minute_tell_what_is_wrong_where_it_cannot_be_kept(
    reader: tuple[Postgresql, Postgresql],
) -> None:
    owner, place = reader
    store = Store(place.url, clock=Clock())
    with structlog.testing.capture_logs() as logs:
        await store.start()
        await owner.execute("ALTER TABLE messages DISABLE TRIGGER messages_inserted")
        assert await compare(store)
        await store.totals(5)
        watching = asyncio.create_task(watch_schema_forever(store, 0.01))
        (found,) = await eventually(lambda: [entry["found"] for entry in logs if "found" in entry])
        watching.cancel()
        await asyncio.wait({watching})
        await store.close()
    assert "trigger messages_inserted" in found
    (warning,) = [entry for entry in logs if entry["event"] == totals.WRONG]
    assert (warning["days"], warning["triggers"]) == (1, 1)
    assert "lacks a right" in warning["unkept"]
    assert not [entry for entry in logs if "agree" in entry["event"]]


@pytest.mark.needs("postgres")
def test_on_a_read_only_database_the_command_says_what_it_counted(postgres: Postgres) -> None:
    name = postgres.create_database()
    url = postgres.url(name)

    def command(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "exporter", *words, "--database.url", url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert command("migrate")[0] == 0
    read_only = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
    postgres.psql(read_only)
    status, out, said = command("verify")
    assert (status, "all figures agree" in out) == (0, True)
    assert said.strip() == "messaging-exporter: the server cannot publish what was found: the database is read-only"
    insert = "BEGIN READ WRITE; INSERT INTO conversations (id) VALUES ('c'); "
    postgres.psql(f"{insert} UPDATE conversations SET total_messages = 7; COMMIT", name)
    status, out, said = command("verify")
    assert (status, "1 conversation, 0 days" in out) == (1, True)
    assert "read-only" in said
    status, out, said = command("verify", "--repair")
    assert (status, "read-only" in said) == (2, True)
