"""Whether the database takes writes is asked without a client's write; what only seems to be durable is in doubt."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from exporter.core.errors import Conflict, NotFound, Unavailable
from exporter.core.records import Draft, Message
from exporter.store import Store, upkeep
from exporter.store.diagnosis import diagnose
from exporter.store.dialects.base import Session, transaction
from exporter.store.errors import (
    MOVED,
    NO_PARTITION,
    NO_SCHEMA,
    NO_TRANSACTIONS,
    READ_ONLY,
    REFUSED_BY_TRIGGER,
    RIGHTS,
    TIMEOUT,
    UNFILLED,
    UNREACHABLE,
)
from exporter.store.lanes import Lane
from tests.databases import Outcome, Place, Postgresql, Sqlite, eventually, opened, send, send_twice_told
from tests.servers.postgres import Postgres


@contextlib.asynccontextmanager
async def watching(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Have a store ask often."""
    monkeypatch.setattr(upkeep, "PROBE_EVERY", 0.3)
    monkeypatch.setattr(upkeep, "PROBE_AGAIN", 0.1)
    watcher = asyncio.create_task(store.watch_writing_forever())
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait({watcher})


@contextlib.asynccontextmanager
async def watched(place: Place, monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[Store]:
    """A store that asks often, as a server has it ask."""
    async with opened(place, **options) as store, watching(store, monkeypatch):
        yield store


async def test_a_database_that_takes_no_writes_any_more_is_noticed_while_it_can_be_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(place, monkeypatch, timeout=2.0) as store:
        assert store.write_error is None
        if isinstance(place, Sqlite):
            away = place.path.with_name("away")
            place.path.rename(away)
            await eventually(lambda: store.write_error == MOVED)
            away.rename(place.path)
        else:
            (name,) = (await place.fetch("SELECT current_database()"))[0]
            await place.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on", DISCONNECT)
            await eventually(lambda: store.write_error == READ_ONLY)
            assert (await store.totals(5)).stored_messages == 0
            assert store.write_error == READ_ONLY, "a read that works hides nothing"
            back = f"ALTER DATABASE {name} RESET default_transaction_read_only"
            await place.execute(f"BEGIN; SET TRANSACTION READ WRITE; {back}; COMMIT")
        await eventually(lambda: store.write_error is None)


async def test_a_column_that_is_gone_is_noticed_without_a_message(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(place, monkeypatch, timeout=5.0) as store:
        await place.execute("ALTER TABLE messages RENAME COLUMN body TO text")
        await eventually(lambda: store.write_error == NO_SCHEMA)
        await place.execute("ALTER TABLE messages RENAME COLUMN text TO body")
        await eventually(lambda: store.write_error is None)


DISCONNECT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def with_a_user_of_its_own(postgres: Postgres) -> tuple[Postgresql, Postgresql, str]:
    """A database as an administrator, and as the user who owns it; that user's name."""
    place = Postgresql(postgres.url(postgres.create_database()))
    role = f"limited_{uuid4().hex}"
    (name,) = (await place.fetch("SELECT current_database()"))[0]
    await place.execute(f"CREATE ROLE {role} LOGIN; ALTER DATABASE {name} OWNER TO {role}")
    return place, Postgresql(place.url.replace("postgres@", f"{role}@"), place.url), role


REFUSALS = {
    "a right that was revoked": ("REVOKE INSERT ON messages FROM {role}", "GRANT INSERT ON messages TO {role}", RIGHTS),
    "a trigger of somebody else": (
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION refuse()
        """,
        "DROP TRIGGER refuse ON messages",
        REFUSED_BY_TRIGGER,
    ),
    "a table that was renamed": (
        "ALTER TABLE messages RENAME TO elsewhere",
        "ALTER TABLE elsewhere RENAME TO messages",
        NO_SCHEMA,
    ),
}


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("what", REFUSALS)
async def test_what_refuses_messages_is_not_overruled_by_a_probe_and_its_end_is_noticed(
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    place, limited, role = await with_a_user_of_its_own(postgres)
    refuse, allow, reason = REFUSALS[what]
    async with watched(limited, monkeypatch, timeout=2.0) as store:
        await store.create_conversation("c", "ann", [])
        await place.execute(refuse.format(role=role))
        outcome = Outcome()
        store.send(Draft("c", "ann", "m", "x"), outcome)
        assert isinstance((await outcome.future)[0], Unavailable)
        await eventually(lambda: str(store.write_error).startswith(reason))
        for _ in range(10):  # two periods of the probe at the least
            await asyncio.sleep(0.1)
            assert str(store.write_error).startswith(reason)
        await place.execute(allow.format(role=role))
        await eventually(lambda: store.write_error is None)
        rows = await place.fetch("SELECT (SELECT count(*) FROM conversations), (SELECT count(*) FROM messages)")
        assert rows == [(1, 0)], "trying leaves nothing behind"


@pytest.mark.needs("postgres")
async def test_sessions_that_take_no_writes_cost_no_message_where_another_one_does(postgres: Postgres) -> None:
    """As when the address leads to another server by now: the connection says nothing about the next one."""
    async with opened(Postgresql(postgres.url(postgres.create_database()))) as store:
        await store.create_conversation("c", "ann", [])

        both = asyncio.Barrier(2)

        async def close_to_writes(session: Session) -> None:
            await session.execute("SET default_transaction_read_only = on")
            await both.wait()

        await asyncio.gather(*(store._database.run(Lane.READ, close_to_writes) for _ in range(2)))
        assert store.pool().idle == 2, "the first is met by the message, and the other is not tried after it"
        assert isinstance(await send(store, "c", "ann", "m"), Message)


@pytest.mark.needs("postgres")
@pytest.mark.usefixtures("unhurried")
async def test_one_kind_of_writing_that_works_hides_no_other_that_does_not(postgres: Postgres) -> None:
    place, limited, role = await with_a_user_of_its_own(postgres)
    async with opened(
        limited, timeout=5.0
    ) as store:  # nobody probes: what is seen is what the commands themselves show
        await store.create_conversation("c", "ann", [])
        assert await store.register("ann")
        await place.execute(f"REVOKE INSERT ON messages FROM {role}")
        assert isinstance((await send_twice_told(store, "c", "ann", "m"))[0], Unavailable)
        assert await store.register("bob")
        await store.add_participants("c", "ann", ["bob"])
        assert store.write_error == RIGHTS
        await place.execute(f"GRANT INSERT ON messages TO {role}; REVOKE INSERT ON users FROM {role}")
        assert isinstance((await send_twice_told(store, "c", "ann", "m"))[0], Message)
        assert store.write_error is None
        assert not await store.register("cat")
        for number in range(3):
            assert isinstance((await send_twice_told(store, "c", "ann", f"m{number}"))[0], Message), "cat is one's own"
        assert store.write_error == RIGHTS
        await place.execute(f"GRANT INSERT ON users TO {role}")
        await eventually(lambda: store.write_error is None)
    assert await place.fetch("SELECT id FROM users ORDER BY id") == [("ann",), ("bob",), ("cat",)]


async def test_what_a_trigger_of_others_refuses_is_refused_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(place, monkeypatch, timeout=5.0) as store:
        await store.create_conversation("c", "ann", [])
        if isinstance(place, Sqlite):
            refuse = "BEGIN SELECT RAISE(ABORT, 'no') WHERE NEW.{0} LIKE 'bad%'; END"
            messages, users = refuse.format("body"), refuse.format("id")
        else:
            messages = users = "EXECUTE FUNCTION refuse()"
            await place.execute(
                """
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN IF NEW::text LIKE '%bad%' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$
                """
            )
        await place.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW {messages}",
            f"CREATE TRIGGER refuse_users BEFORE INSERT ON users FOR EACH ROW {users}",
        )
        outcomes = [Outcome() for _ in range(5)]
        for number, outcome in enumerate(outcomes):
            store.send(Draft("c", "ann", str(number), "bad" if number == 2 else "good"), outcome)
        results = [(await outcome.future)[0] for outcome in outcomes]
        assert [type(result) for result in results] == [Message, Message, Unavailable, Message, Message]
        assert str(results[2].message) == REFUSED_BY_TRIGGER
        _, refused, _ = await asyncio.gather(*(store.register(user) for user in ("bob", "badger", "cat")))
        assert not refused

        async def registered() -> bool:  # nobody waits for it for more than a quarter of a second
            return await place.fetch("SELECT id FROM users ORDER BY id") == [("ann",), ("bob",), ("cat",)]

        await eventually(registered)
        # What the hurried probe here does not get in its own short time says nothing of what was refused.
        assert store.write_error in (None, TIMEOUT), "one person's words make nobody else wait"
        await place.execute(f"DROP TRIGGER refuse_users{'' if isinstance(place, Sqlite) else ' ON users'}")
        await eventually(lambda: place.fetch("SELECT id FROM users WHERE id = 'badger'"))  # without anything else to do


THEIRS = {
    "leaves it out": "RETURN NULL;",
    "lacks a table": "INSERT INTO nowhere VALUES (1);",
    "lacks a right": "RAISE EXCEPTION 'no' USING ERRCODE = '42501';",
    "a state of its own": "RAISE EXCEPTION 'no' USING ERRCODE = 'MY001';",
    "says read-only": "RAISE EXCEPTION 'no' USING ERRCODE = '25006';",
    "says lost": "RAISE EXCEPTION 'no' USING ERRCODE = '08006';",
    "says data": "RAISE EXCEPTION 'no' USING ERRCODE = '23514';",
}


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("what", THEIRS)
async def test_whatever_a_trigger_of_others_does_to_a_message_is_not_acknowledged_and_harms_no_other(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with watched(place, monkeypatch, timeout=5.0) as store:
        await store.create_conversation("c", "ann", [])
        await place.execute(
            f"""
            CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.body = 'bad' THEN {THEIRS[what]} END IF; RETURN NEW; END $$;
            CREATE TRIGGER theirs BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION theirs()
            """
        )
        await sends_but_one(store, place)
        await eventually(lambda: not store._database.doubtful)


async def test_a_message_that_sqlite_is_told_to_leave_out_is_not_acknowledged(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    async with opened(place) as store:
        await store.create_conversation("c", "ann", [])
        await place.execute(
            """
            CREATE TRIGGER theirs BEFORE INSERT ON messages FOR EACH ROW WHEN NEW.body = 'bad'
            BEGIN SELECT RAISE(IGNORE); END
            """
        )
        await sends_but_one(store, place)


async def sends_but_one(store: Store, place: Place) -> None:
    """Five messages at once, of which others refuse the third: numbered without a hole, and it alone is told."""
    outcomes = [Outcome() for _ in range(5)]
    for number, outcome in enumerate(outcomes):
        store.send(Draft("c", "ann", str(number), "bad" if number == 2 else "good"), outcome)
    results = [(await outcome.future)[0] for outcome in outcomes]
    assert [type(result) for result in results] == [Message, Message, Unavailable, Message, Message]
    assert str(results[2].message) == REFUSED_BY_TRIGGER
    assert await place.fetch("SELECT seq FROM messages ORDER BY seq") == [(1,), (2,), (3,), (4,)]


@pytest.mark.needs("postgres")
async def test_a_message_that_a_trigger_of_others_keeps_is_not_said_to_be_deleted(postgres: Postgres) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place) as store:
        await store.create_conversation("c", "ann", [])
        await send_twice_told(store, "c", "ann", "m")
        await place.execute(
            """
            CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
            CREATE TRIGGER keep BEFORE DELETE ON messages FOR EACH ROW EXECUTE FUNCTION keep()
            """
        )
        with pytest.raises(Unavailable, match=REFUSED_BY_TRIGGER):
            await store.delete_message("c", 1, "ann", False)


async def test_what_a_trigger_of_others_does_instead_of_a_change_is_undone_with_its_refusal(place: Place) -> None:
    async with opened(place) as store:
        await store.create_conversation("c", "ann", ["bob"])
        await place.execute("CREATE TABLE noted (what text)")
        for event in ("INSERT ON conversations", "DELETE ON conversation_members"):
            table = event.split()[-1]
            if isinstance(place, Sqlite):
                note = f"BEGIN INSERT INTO noted VALUES ('{table}'); SELECT RAISE(IGNORE); END"
            else:
                note = "EXECUTE FUNCTION note()"
                await place.execute(
                    "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN INSERT INTO noted VALUES (TG_TABLE_NAME); RETURN NULL; END $$"
                )
            await place.execute(f"CREATE TRIGGER note_{table} BEFORE {event} FOR EACH ROW {note}")
        with pytest.raises(Unavailable, match=REFUSED_BY_TRIGGER):
            await store.create_conversation("d", "ann", [])
        with pytest.raises(Unavailable, match=REFUSED_BY_TRIGGER):
            await store.remove_participant("c", "ann", "bob")
        with pytest.raises(Conflict):
            await store.create_conversation("c", "ann", [])
        with pytest.raises(NotFound):
            await store.remove_participant("c", "ann", "cat")
        assert await place.fetch("SELECT what FROM noted") == []


@pytest.mark.needs("postgres")
async def test_a_column_of_others_that_must_be_filled_is_the_reason_and_not_the_message(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with watched(place, monkeypatch, timeout=5.0) as store:
        await store.create_conversation("c", "ann", [])
        await place.execute("ALTER TABLE messages ADD COLUMN tenant text NOT NULL")
        refused = (await send_twice_told(store, "c", "ann", "m"))[0]
        assert isinstance(refused, Unavailable)
        assert str(refused.message) == UNFILLED
        await eventually(lambda: store.write_error == UNFILLED)
        named = str((await diagnose(place.url, 5.0)).problem)
        assert "column messages.tenant: must have a value, has no default, and is not this program's" in named
        await place.execute("ALTER TABLE messages ALTER tenant SET DEFAULT 'x'")
        await eventually(lambda: store.write_error is None)
        assert (await diagnose(place.url, 5.0)).problem is None


async def test_a_database_that_is_written_to_need_not_be_asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(place, monkeypatch) as store:
        asked: list[bool] = []
        original = store._dialect.check_writing

        async def counted(session: Any, *, doubtful: bool) -> None:
            asked.append(doubtful)
            await original(session, doubtful=doubtful)

        monkeypatch.setattr(store._dialect, "check_writing", counted)
        await eventually(lambda: asked)
        before = time.monotonic()
        await store.create_conversation("c", "ann", [])
        assert store._database.wrote_at >= before
        store._database.wrote_at = float("inf")  # somebody writes all the time
        earlier = len(asked)
        await asyncio.sleep(0.7)
        assert len(asked) - earlier <= 1


@pytest.fixture
async def alone() -> AsyncIterator[Postgres]:
    """A server that waits for a standby which is not there, once told to."""
    server = Postgres(fsync="off")
    try:
        yield server.start()
    finally:
        server.close()


WAIT = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'"
STOP_WAITING = "ALTER SYSTEM SET synchronous_standby_names = ''"
CANCEL = """
SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE wait_event = 'SyncRep' AND relation = 'messages'::regclass AND mode = 'RowExclusiveLock'
"""


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("told", ["notice", "error"])
async def test_a_commit_whose_wait_for_its_standby_was_cut_short_is_not_acknowledged(
    alone: Postgres, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """PostgreSQL answers such a commit with a success and a warning: the message may be on no other server."""
    name = alone.create_database()
    place = Postgresql(alone.url(name) + f"?options=-cclient_min_messages%3D{told}")
    await place.execute(f"ALTER DATABASE {name} SET client_min_messages = {told}")
    recovered: list[Message] = []
    async with watched(place, monkeypatch, timeout=10.0, on_resolved=recovered.append) as store:
        await store.create_conversation("c", "ann", [])
        await place.execute(WAIT, "SELECT pg_reload_conf()")
        await eventually(lambda: store.write_error == TIMEOUT)
        outcome = Outcome()
        store.send(Draft("c", "ann", "m", "x"), outcome)

        async def cancelled() -> bool:
            return (await place.fetch(CANCEL))[0][0] > 0

        await eventually(cancelled)
        await asyncio.sleep(0.3)
        assert not outcome.future.done() or isinstance(outcome.future.result()[0], Unavailable)
        assert recovered == []
        await place.execute(STOP_WAITING, "SELECT pg_reload_conf()")
        await eventually(lambda: store.write_error is None)
        stored, duplicate = await send_twice_told(store, "c", "ann", "m")
        assert (stored.seq, duplicate) == (1, True)
        assert await place.fetch("SELECT count(*) FROM messages") == [(1,)]
        assert recovered in ([], [stored])


@pytest.mark.needs("postgres")
async def test_the_reason_is_that_of_now_and_not_of_the_last_message_that_was_refused(
    alone: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Postgresql(alone.url(alone.create_database()))
    async with opened(place, timeout=5.0) as store:
        await store.create_conversation("c", "ann", [])
        alone.stop()
        assert isinstance(await send(store, "c", "ann", "m"), Unavailable)
        assert store.write_error == UNREACHABLE
        alone.start()
        await place.execute(WAIT, "SELECT pg_reload_conf()")
        async with watching(store, monkeypatch):
            await eventually(lambda: store.write_error == TIMEOUT)


@pytest.mark.needs("postgres")
async def test_a_warning_of_a_trigger_of_others_says_nothing_of_a_standby(postgres: Postgres) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place) as store:
        await store.create_conversation("c", "ann", [])
        await place.execute(
            "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE WARNING 'seen'; RETURN NEW; END $$",
            "CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON messages DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION warn()",
        )
        assert (await send(store, "c", "ann", "m")).seq == 1


@pytest.mark.needs("postgres")
async def test_a_warning_before_a_commit_says_nothing_of_a_standby(postgres: Postgres) -> None:
    async def work(session: Session) -> None:
        await session.execute("ROLLBACK")  # which warns that there is nothing to take back
        async with transaction(session, "BEGIN"):
            await session.fetch("SELECT 1")

    async with opened(Postgresql(postgres.url(postgres.create_database()))) as store:
        await store._database.job(Lane.WRITE, work, 10.0).result()


@pytest.mark.needs("postgres")
async def test_a_sender_whose_time_is_over_does_not_end_a_commit_as_a_success(
    alone: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Postgresql(alone.url(alone.create_database()))
    recovered: list[Message] = []
    async with opened(place, timeout=1.0, on_resolved=recovered.append) as store:
        await store.create_conversation("c", "ann", [])
        await place.execute(WAIT, "SELECT pg_reload_conf()")
        outcome = Outcome()
        store.send(Draft("c", "ann", "m", "x"), outcome)
        assert isinstance((await outcome.future)[0], Unavailable)
        await asyncio.sleep(1.0)
        assert recovered == [], "nobody knows whether a standby has it"
        await place.execute(STOP_WAITING, "SELECT pg_reload_conf()")
        await eventually(lambda: recovered)
        assert (await send_twice_told(store, "c", "ann", "m")) == (recovered[0], True)


async def test_it_is_asked_every_few_seconds_on_a_loop_whose_timers_come_early_and_after_each_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path}/m.db")
    store._database.start_writing()
    now = store._database.wrote_at = 1000.0
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        began, now = now, now + seconds - 0.0005  # as uvloop's do
        if began < 1012.0 <= now:
            store._database.wrote_at = 1012.0

    async def probe(*_: object) -> None:
        asked.append(now)
        store._database.wrote_at = now
        if len(asked) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(upkeep.time, "monotonic", lambda: now)
    monkeypatch.setattr(upkeep.asyncio, "sleep", sleep)
    monkeypatch.setattr(upkeep, "probe", probe)
    with pytest.raises(asyncio.CancelledError):
        await store.watch_writing_forever()
    monkeypatch.undo()
    assert [round(at) for at in asked] == [1005, 1010, 1017, 1022]
    await store.close()


PARTITIONED_BY_TIME = """
DROP TABLE messages;
CREATE TABLE messages (
    conversation_id text REFERENCES conversations (id) ON DELETE CASCADE, seq bigint, sender_id text NOT NULL,
    client_id text NOT NULL DEFAULT gen_random_uuid()::text, body text NOT NULL DEFAULT '',
    sent_at timestamptz DEFAULT now(),
    PRIMARY KEY (conversation_id, seq, sent_at), UNIQUE (conversation_id, sender_id, client_id, sent_at)
) PARTITION BY RANGE (sent_at);
CREATE TABLE messages_2020 PARTITION OF messages FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
"""


@pytest.mark.needs("postgres")
async def test_a_partition_that_nobody_has_made_yet_is_the_reason_and_not_the_message(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place) as store:
        await place.execute(PARTITIONED_BY_TIME)
        await store.migrate()
        await store.create_conversation("c", "ann", [])
        refused = await send(store, "c", "ann", "1")
        assert (type(refused), str(refused)) == (Unavailable, NO_PARTITION)
        async with watching(store, monkeypatch):
            await eventually(lambda: store.write_error == NO_PARTITION)
            await place.execute("CREATE TABLE messages_later PARTITION OF messages DEFAULT")
            await eventually(lambda: store.write_error is None)
        assert isinstance(await send(store, "c", "ann", "1"), Message)


@pytest.mark.needs("postgres")
async def test_a_server_that_has_no_more_numbers_for_transactions_takes_no_writes_and_is_not_the_messages_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Postgres(fsync="off", wal_level="logical")
    with contextlib.closing(server):
        place = Postgresql(server.start().url(server.create_database()))
        async with opened(place) as store:
            await store.create_conversation("c", "ann", [])
            server.psql(
                "SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')"
            )  # it keeps rows as they are
            server.use_up_transactions(left=20)
            refused: object = None
            for number in range(30):
                refused = await send(store, "c", "ann", str(number))
                if not isinstance(refused, Message):
                    break
            assert (type(refused), str(refused)) == (Unavailable, NO_TRANSACTIONS)
            async with watching(store, monkeypatch):
                await eventually(lambda: store.write_error == NO_TRANSACTIONS)
                server.psql("SELECT pg_drop_replication_slot('forgotten')")
                server.vacuum_all()
                await eventually(lambda: store.write_error is None)
            assert isinstance(await send(store, "c", "ann", "again"), Message)
