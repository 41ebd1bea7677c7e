"""The database refuses, hangs, loses answers, moves away, is full and comes back: what was acknowledged is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import pytest
import structlog

from exporter.core.errors import Internal, Misconfigured, Refusal, Unavailable
from exporter.core.records import Draft, Message, PoolStats
from exporter.store import Store, sharing, upkeep
from exporter.store.connections import Work
from exporter.store.dialects import sqlite as sqlite_module
from exporter.store.dialects import sqlite_errors
from exporter.store.dialects.base import Row, Session
from exporter.store.dialects.postgresql_connection import Connector
from exporter.store.dialects.several_hosts import Hosts
from exporter.store.dialects.sqlite_files import Files
from exporter.store.errors import CROWDED, MOVED, DatabaseError, ErrorKind
from exporter.store.lanes import Lane
from exporter.store.queries import Queries
from exporter.store.transaction import Transaction
from exporter.store.verify import Report, verify
from exporter.store.writer import Writer
from tests.databases import (
    Outcome,
    Place,
    Postgresql,
    Sqlite,
    eventually,
    heartbeat,
    opened,
    read,
    send,
    send_twice_told,
)
from tests.servers.pgbouncer import Pgbouncer
from tests.servers.postgres import Postgres
from tests.servers.proxy import LossyProxy

TIMEOUT = 1.0
LATE = 1.5
"""Seconds beyond a time limit that a busy machine may need; a store that hangs takes much longer."""
LOST = DatabaseError(ErrorKind.DISCONNECTED, "the connection to the database was lost")
STALL = 0.5
"""Seconds that the loop may be kept from others on a busy machine; a blocking call would take TIMEOUT."""


class Witness:
    """Everything that a store told: answers, and messages that turned out to be durable."""

    def __init__(self) -> None:
        self.stored: dict[str, Message] = {}
        self.repeated: dict[str, Message] = {}
        self.refused: dict[str, Refusal] = {}
        self.recovered: list[Message] = []

    def send(self, store: Store, conversation: str, sender: str, id: str) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Message | Refusal, duplicate: bool) -> None:
            if isinstance(result, Refusal):
                self.refused[id] = result
            elif duplicate:
                self.repeated[id] = result
            else:
                assert id not in self.stored, "told twice"
                self.stored[id] = result
            future.set_result(result)

        try:
            store.send(Draft(conversation, sender, id, "x"), done)
        except Unavailable as refusal:
            self.refused[id] = refusal
            future.set_result(refusal)
        return future

    @property
    def broadcast(self) -> list[str]:
        """Ids of the messages that a server would have delivered."""
        return sorted([*self.stored, *(message.id for message in self.recovered)])


async def within(seconds: float, call: Any) -> Any:
    """What a call answers, refusals included; it must not take longer."""
    async with asyncio.timeout(seconds):
        try:
            return await call
        except Refusal as refusal:
            return refusal


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (LOST, Unavailable),
        (DatabaseError(ErrorKind.TIMEOUT, "the database did not answer in time"), Unavailable),
        (RuntimeError("a defect"), Internal),
    ],
    ids=["lost", "late", "defect"],
)
async def test_a_message_whose_commit_got_no_answer_is_told_of_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception, answer: type[Refusal]
) -> None:
    witness = Witness()
    async with opened(place, timeout=30.0, on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", [])
        lose_the_answer_of_a_commit(monkeypatch, error=error)
        assert isinstance(await witness.send(store, "c", "ann", "m1"), answer)
        await eventually(lambda: witness.recovered)  # by itself, with nothing else to do
        stored, duplicate = await send_twice_told(store, "c", "ann", "m1")
        assert witness.recovered == [stored]
        assert duplicate
        assert await place.fetch("SELECT count(*) FROM messages") == [(1,)]
        await send(store, "c", "ann", "m2")
        assert len(witness.recovered) == 1


async def test_a_retry_is_acknowledged_after_the_message_was_told_of(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[Any] = []
    async with opened(place, timeout=TIMEOUT, on_resolved=lambda m: order.append(("recovered", m.id))) as store:
        await store.create_conversation("c", "ann", [])
        lose_the_answer_of_a_commit(monkeypatch)
        assert isinstance(await send(store, "c", "ann", "m1"), Unavailable)
        _, duplicate = await send_twice_told(store, "c", "ann", "m1")
        order.append(("acknowledged", duplicate))
        assert order == [("recovered", "m1"), ("acknowledged", True)]


async def test_a_message_whose_commit_failed_is_not_told_of(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = Witness()
    async with opened(place, timeout=TIMEOUT, on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", [])
        lose_the_answer_of_a_commit(monkeypatch, commit=False)
        assert isinstance(await witness.send(store, "c", "ann", "m1"), Unavailable)
        stored, duplicate = await send_twice_told(store, "c", "ann", "m1")
        assert (stored.seq, duplicate, witness.recovered) == (1, False, [])


async def test_a_message_that_another_node_stored_when_this_ones_commit_had_failed_is_told_of_by_that_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness()
    async with opened(place, timeout=30.0, on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", [])
        lose_the_answer_of_a_commit(monkeypatch, commit=False)
        assert isinstance(await witness.send(store, "c", "ann", "m1"), Unavailable)
        await place.execute(
            "INSERT INTO messages (conversation_id, seq, sender_id, client_id, sent_at)"
            " VALUES ('c', 1, 'ann', 'm1', '2026-01-01T00:00:00Z')"
        )
        stored, duplicate = await send_twice_told(store, "c", "ann", "m1")
        assert (stored.seq, duplicate, witness.recovered) == (1, True, [])


def lose_the_answer_of_a_commit(
    monkeypatch: pytest.MonkeyPatch, *, commit: bool = True, error: Exception = LOST
) -> None:
    """The next transaction of the writer ends as with a connection that dies while it waits for its commit."""
    original = Transaction.run
    done = []

    class Losing:
        def __init__(self, session: Any) -> None:
            self.session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

        async def execute(self, sql: str) -> None:
            if sql == "COMMIT" and not done:
                done.append(True)
                await self.session.execute("COMMIT" if commit else "ROLLBACK")
                raise error
            await self.session.execute(sql)

    monkeypatch.setattr(Transaction, "run", lambda self, session: original(self, Losing(session)))


async def test_a_commit_that_takes_too_long_is_told_of_when_it_is_done(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness()
    original = Transaction.run
    slow: list[bool] = []

    async def run(self: Transaction, session: Any) -> None:
        await original(self, session)
        if slow.pop() if slow else False:
            await asyncio.sleep(TIMEOUT * 2)

    async with opened(place, timeout=TIMEOUT, on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", [])
        await send(store, "c", "ann", "m0")
        slow.append(True)
        monkeypatch.setattr(Transaction, "run", run)
        repeated, future = (witness.send(store, "c", "ann", id) for id in ("m0", "m1"))
        assert isinstance(await within(TIMEOUT + LATE, future), Unavailable)
        assert isinstance(await repeated, Unavailable)
        await eventually(lambda: witness.recovered)
        assert [m.seq for m in witness.recovered] == [2], "the other was told of before"
        assert (await send_twice_told(store, "c", "ann", "m1"))[1]


@pytest.mark.parametrize("kind", [ErrorKind.DISCONNECTED, ErrorKind.READ_ONLY])
async def test_what_may_be_done_twice_is_when_a_connection_turns_out_to_be_of_no_use(
    place: Place, kind: ErrorKind
) -> None:
    async with opened(place) as store:
        failures = [DatabaseError(kind, "it had died while nobody used it")]

        async def work(session: Session) -> Sequence[Row]:
            if failures:
                raise failures.pop()
            return await session.fetch("SELECT 1")

        assert [tuple(row) for row in await store._database.run(Lane.READ, work)] == [(1,)]
        assert (store.up, store.error) == (True, None)
        failures = [DatabaseError(kind, "it has died") for _ in range(2)]
        with pytest.raises(DatabaseError):
            await store._database.run(Lane.READ, work)
        assert (store.up, store.error) == (False, "it has died")


async def test_a_message_whose_connection_dies_before_its_commit_is_stored_on_another(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the commit is asked for nothing is in doubt, and nobody need be told to try again."""
    work, failures = Transaction._work, [LOST]

    async def dies(self: Transaction, session: Session) -> None:
        await work(self, session)
        if failures:
            raise failures.pop()

    async with opened(place, timeout=30.0) as store:
        await store.create_conversation("c", "ann", [])
        monkeypatch.setattr(Transaction, "_work", dies)
        stored, duplicate = await send_twice_told(store, "c", "ann", "m")
        assert (stored.seq, duplicate, failures) == (1, False, [])


async def test_an_outage_is_logged_once_per_change_of_state(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(place, timeout=TIMEOUT) as store:
        down = DatabaseError(ErrorKind.DISCONNECTED, "the database cannot be reached")
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                store._database.note(down, Lane.TOTALS)
                store._database.note(down, Lane.JOIN)
            assert (store.up, store.error) == (False, "the database cannot be reached")
            for _ in range(5):
                await store.totals(5)
            assert (store.up, store.error) == (True, None)
        assert [entry["event"] for entry in logs] == ["database is down", "database is up"]


async def test_a_disk_that_is_full_is_logged_once_however_many_scrapes_succeed(place: Place) -> None:
    async with opened(place, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                full = DatabaseError(ErrorKind.DISCONNECTED, "the database's disk is full")
                store._database.note(full, Lane.WRITE, {"send"})
                await store.totals(5)
            await send(store, "c", "ann", "m")
        assert [(entry["event"], entry["use"]) for entry in logs] == [
            ("database is down", "writing"),
            ("database is up", "writing"),
        ]


async def test_a_full_disk_is_not_called_writable_for_what_little_the_log_has_room_for(
    file: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(file) as store:
        await store.create_conversation("c", "ann", [])
        full = DatabaseError(ErrorKind.DISCONNECTED, "the database's disk is full")
        store._database.note(full, Lane.WRITE, {"send"})
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_errors, "NEEDED", 2**80)
            await upkeep.probe(store._database, store._dialect, TIMEOUT)
            assert store.write_error == "the database's disk is full"
        await upkeep.probe(store._database, store._dialect, TIMEOUT)
        assert store.write_error is None


@pytest.mark.parametrize("root", [True, False], ids=["root", "others"])
async def test_what_a_file_system_reserves_for_root_is_room_for_root_alone(
    root: bool, file: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(file) as store:
        store._database.note(DatabaseError(ErrorKind.TIMEOUT, "late"), Lane.PROBE)
        of = list(os.statvfs(file.path.parent))
        of[3], of[4] = 2**30, 0  # f_bfree, f_bavail
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(of))
        await upkeep.probe(store._database, store._dialect, TIMEOUT)
        assert store.write_error == (None if root else "the database's disk is full")


async def test_a_defect_of_ours_is_logged_with_its_trace_and_is_not_the_databases(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message breaks the code: it alone is answered "internal", its neighbours are stored."""
    original = Transaction._send

    async def broken(self: Transaction, session: Any, items: Any) -> None:
        if any(item.draft.id == "poison" for item in items):
            raise TypeError("a defect")
        await original(self, session, items)

    async with opened(place, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])
        monkeypatch.setattr(Transaction, "_send", broken)
        with structlog.testing.capture_logs() as logs:
            results = await asyncio.gather(*(send(store, "c", "ann", name) for name in ("a", "poison", "b")))
        assert [type(result) for result in results] == [Message, Internal, Message]
        assert results[1].code == "internal"
        assert [entry["exc_info"].args for entry in logs if entry["log_level"] == "error"] == [("a defect",)]
        assert (store.up, store.error, store.write_error) == (True, None, None)

        async def also_broken(*_: object) -> None:
            raise KeyError("another")

        monkeypatch.setattr("exporter.store.totals.read", also_broken)
        with pytest.raises(Internal):
            await store.totals(5)
        assert (store.up, store.error) == (True, None)


async def test_a_user_whom_others_deleted_is_registered_again_by_their_next_message_or_join(place: Place) -> None:
    async with opened(place, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", ["bob"])
        await eventually(lambda: store.register("ann"))
        await eventually(lambda: store.register("bob"))
        await place.execute("DELETE FROM users")
        await place.execute(
            "INSERT INTO conversation_members (conversation_id, user_id) VALUES ('c', 'ann'), ('c', 'bob')"
        )
        assert isinstance(await send(store, "c", "ann", "m"), Message)
        found = await store.totals(5)
        assert (found.registered_users, found.active_users[1]) == (1, 1)
        await store.membership("c", "bob")

        async def there() -> bool:
            return await place.fetch("SELECT id FROM users ORDER BY id") == [("ann",), ("bob",)]

        await eventually(there)


async def test_a_user_who_cannot_be_looked_for_is_registered_when_the_database_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(place, timeout=TIMEOUT) as store:
        await eventually(lambda: store.register("ann"))
    async with opened(place, timeout=TIMEOUT) as store:
        await eventually(lambda: store.register("ann"))  # has a row: the next one is looked for

        async def down(*_: object) -> None:
            raise DatabaseError(ErrorKind.DISCONNECTED, "down")

        monkeypatch.setattr(store._queries, "memberships", down)
        monkeypatch.setattr(store._queries, "register", down)
        assert await within(LATE, store.register("new")) is False
        assert await within(LATE, store.register("new")) is False
        monkeypatch.undo()

        async def there() -> bool:
            return await place.fetch("SELECT id FROM users ORDER BY id") == [("ann",), ("new",)]

        await eventually(there)


async def test_a_user_whom_others_deleted_is_registered_again_by_coming_back(place: Place) -> None:
    """And does nothing else: neither joins nor sends."""
    async with opened(place, timeout=TIMEOUT) as store:
        await eventually(lambda: store.register("ann"))
        await place.execute("DELETE FROM users")
        await eventually(lambda: store.register("ann"))

        async def there() -> bool:
            return await place.fetch("SELECT id FROM users") == [("ann",)]

        await eventually(there, 2.0)


async def test_a_defect_of_the_writer_or_of_the_look_ups_costs_that_one_a_pause(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    async with opened(place, timeout=10.0, on_failed=failed.append) as store:
        await store.create_conversation("c", "ann", [])

        def broken(*_: object) -> Any:
            raise TypeError("a defect")

        with structlog.testing.capture_logs() as logs, monkeypatch.context() as patch:
            patch.setattr(Writer, "_take", broken)
            sent = asyncio.ensure_future(send(store, "c", "ann", "m1"))
            await eventually(lambda: "writer" in failed)
            assert (await store.membership("c", "ann")).member, "others go on"
        assert isinstance(await sent, Message), "what was queued is stored after all"
        assert [entry["exc_info"].args for entry in logs if entry.get("task") == "writer"][:1] == [("a defect",)]
        with monkeypatch.context() as patch:
            patch.setattr(Queries, "memberships", broken)
            with pytest.raises(Internal):
                await store.membership("c", "ann")
            patch.undo()
            patch.setattr("exporter.store.memberships.batching_window", broken)
            assert (await store.membership("c", "ann")).member
            await eventually(lambda: "memberships" in failed)
        assert (await store.membership("c", "ann")).member
        assert isinstance(await send(store, "c", "ann", "m2"), Message)


async def test_users_are_registered_later_when_the_database_is_away(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(place, timeout=TIMEOUT) as store:
        original = Transaction.run
        away = [True]

        async def run(self: Transaction, session: Any) -> None:
            if away:
                raise DatabaseError(ErrorKind.DISCONNECTED, "away")
            await original(self, session)

        monkeypatch.setattr(Transaction, "run", run)
        assert await within(LATE, store.register("ann")) is False
        assert await place.fetch("SELECT id FROM users") == []
        away.clear()

        async def there() -> bool:
            return await place.fetch("SELECT id FROM users") == [("ann",)]

        await eventually(there)


# --- SQLite ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def file(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path / "messaging.db")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program is in the middle of a transaction."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


async def test_a_locked_file_makes_writers_unavailable_in_time_and_readers_go_on(file: Sqlite) -> None:
    witness = Witness()
    async with opened(file, timeout=TIMEOUT, on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", ["bob"])
        with heartbeat() as gaps, locked(file.path):
            began = time.monotonic()
            sends = [witness.send(store, "c", "ann", f"m{i}") for i in range(50)]
            answers = [
                within(TIMEOUT + LATE, store.create_conversation("d", "ann", [])),
                within(TIMEOUT + LATE, read(store, "bob", "c", 0)),
                *(within(TIMEOUT + LATE, future) for future in sends),
            ]
            assert await within(LATE, store.register("new")) is False
            assert (await store.totals(LATE)).stored_messages == 0
            assert (await store.membership("c", "bob")).member
            assert {type(answer) for answer in await asyncio.gather(*answers)} == {Unavailable}
            assert time.monotonic() - began >= TIMEOUT * 0.9, "a lock may go away in time"
            assert store._writer is not None
            assert (len(store._writer._queue), store._writer._pending.characters) == (0, 0), "what was refused piles up"
            assert store.up is False or store.error is None
            assert store.write_error is None, "somebody may hold what it needed: the probe will tell"
        assert max(gaps) < STALL
        stored = await send(store, "c", "ann", "after")
        assert isinstance(stored, Message)
        assert (await file.fetch("SELECT count(*) FROM messages")) == [(1,)]
        assert (stored.seq, witness.recovered) == (1, []), "what was refused before it began was not stored"
        assert store.up


async def test_a_short_lock_is_waited_for(file: Sqlite) -> None:
    async with opened(file, timeout=5.0) as store:
        await store.create_conversation("c", "ann", [])
        with locked(file.path):
            outcome = Outcome()
            store.send(Draft("c", "ann", "m", "x"), outcome)
            await asyncio.sleep(0.3)
            assert not outcome.future.done()
        assert isinstance((await outcome.future)[0], Message)


async def test_a_file_that_was_moved_away_is_a_database_that_is_down(file: Sqlite) -> None:
    async with opened(file, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])
        assert isinstance(await send(store, "c", "ann", "m1"), Message)
        away = file.path.with_name("away.db")
        file.path.rename(away)
        assert isinstance(await within(TIMEOUT + LATE, send(store, "c", "ann", "m2")), Unavailable)
        assert isinstance(await within(TIMEOUT + LATE, store.totals(TIMEOUT)), Unavailable)
        assert isinstance(await within(TIMEOUT + LATE, store.membership("c", "ann")), Unavailable)
        assert isinstance(await within(TIMEOUT + LATE, store.conversations_of("ann")), Unavailable)
        assert (store.up, store.error) == (False, "the database's file was moved, removed or replaced")
        assert not file.path.exists(), "an empty file came into being"
        away.rename(file.path)
        assert (await store.totals(TIMEOUT)).stored_messages == 1
        assert store.up
        stored = await send(store, "c", "ann", "m2")
        assert isinstance(stored, Message)
        assert stored.seq == 2


async def test_a_commit_into_a_file_that_went_away_meanwhile_is_not_acknowledged(
    file: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness()
    original = Transaction.run
    away = file.path.with_name("away.db")

    async def run(self: Transaction, session: Any) -> None:
        await original(self, session)
        file.path.rename(away)

    async with opened(file, timeout=TIMEOUT, on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", [])
        with monkeypatch.context() as patch:
            patch.setattr(Transaction, "run", run)
            assert isinstance(await witness.send(store, "c", "ann", "m1"), Unavailable)
        away.rename(file.path)
        await eventually(lambda: witness.recovered)
        assert (await send_twice_told(store, "c", "ann", "m1")) == (witness.recovered[0], True)


async def test_a_file_that_was_replaced_is_a_database_that_is_down(file: Sqlite) -> None:
    async with opened(file, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])
        copy = file.path.with_name("copy.db")
        shutil.copy(file.path, copy)
        original = file.path.with_name("original.db")
        file.path.rename(original)
        copy.rename(file.path)
        assert isinstance(await within(TIMEOUT + LATE, send(store, "c", "ann", "m1")), Unavailable)
        assert isinstance(await within(TIMEOUT + LATE, store.totals(TIMEOUT)), Unavailable)
        original.replace(file.path)
        assert isinstance(await send(store, "c", "ann", "m1"), Message)


async def test_a_file_that_was_removed_does_not_come_back_empty(file: Sqlite) -> None:
    async with opened(file, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])
        file.path.unlink()
        assert isinstance(await within(TIMEOUT + LATE, send(store, "c", "ann", "m1")), Unavailable)
        assert isinstance(await within(TIMEOUT + LATE, store.totals(TIMEOUT)), Unavailable)
        assert not file.path.exists()


@pytest.mark.parametrize("removed", [("-wal",), ("-shm",), ("-wal", "-shm")], ids="".join)
async def test_what_was_committed_to_a_log_that_somebody_removed_is_kept(
    removed: tuple[str, ...], file: Sqlite
) -> None:
    witness = Witness()
    link = file.path.with_name("link.db")
    link.symlink_to(file.path)
    target = file.path.resolve()
    async with opened(Sqlite(link), on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", ["bob"])
        for round in range(3):
            # Several connections have the log open.
            await asyncio.gather(store.totals(5), store.membership("c", "bob"), store.conversations_of("bob"))
            await witness.send(store, "c", "ann", f"before {round}")
            for suffix in removed:
                file.path.with_name(file.path.name + suffix).unlink()
            with structlog.testing.capture_logs() as logs:
                await eventually(lambda: sent(store, f"after {round}"))  # noqa: B023 - it is over in this round
            told = "the log beside the database's file, or its index, was moved, removed or replaced"
            assert {log["reason"] for log in logs if "reason" in log} == {f"{told} ({target}-wal, {target}-shm)"}
        assert not witness.refused
        assert await file.fetch("SELECT client_id, seq FROM messages ORDER BY seq") == [
            (f"{when} {round}", 2 * round + seq) for round in range(3) for seq, when in ((1, "before"), (2, "after"))
        ], "another program does not see what was acknowledged"
        assert (await store.totals(5)).stored_messages == 6
        assert await file.fetch("PRAGMA integrity_check") == [("ok",)]


READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
print(connection.execute("SELECT count(*) FROM messages").fetchone(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("removed", [("-wal",), ("-wal", "-shm")], ids="".join)
async def test_what_was_committed_to_a_log_that_somebody_removed_is_kept_while_another_program_has_it_open(
    removed: tuple[str, ...], file: Sqlite
) -> None:
    async with opened(file) as store:
        await store.create_conversation("c", "ann", ["bob"])
        assert await sent(store, "before")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", READER, str(file.path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline()
            for suffix in removed:
                file.path.with_name(file.path.name + suffix).unlink()
            await eventually(lambda: sent(store, "after"))
            assert (await store.totals(5)).stored_messages == 2
        finally:
            await process.communicate(b"")
        assert await sent(store, "at last")
    assert await file.fetch("SELECT client_id FROM messages ORDER BY seq") == [("before",), ("after",), ("at last",)]
    assert await file.fetch("PRAGMA integrity_check") == [("ok",)]


async def test_whoever_asks_first_after_a_log_was_removed_is_answered(file: Sqlite) -> None:
    async with opened(file) as store:
        await store.create_conversation("c", "ann", ["bob"])
        over = asyncio.Event()

        async def breaks(session: Session) -> None:
            raise DatabaseError(ErrorKind.DISCONNECTED, "broken")

        async def waits(session: Session) -> None:
            await over.wait()

        others = [store._database.job(lane, waits, TIMEOUT) for lane in (Lane.JOIN, Lane.TOTALS)]
        try:
            with pytest.raises(DatabaseError, match="broken"):
                await store._database.job(Lane.READ, breaks, TIMEOUT).result()
        finally:
            over.set()
        for other in others:
            await other.result()
        # The first in the queue is not open now, and two behind it are.
        file.path.with_name(file.path.name + "-wal").unlink()
        assert (await store.totals(TIMEOUT)).stored_messages == 0


async def test_a_log_that_another_program_begins_is_not_called_one_that_was_removed(file: Sqlite) -> None:
    async with opened(file):
        pass
    await file.execute("PRAGMA journal_mode = DELETE")  # as a copy is that VACUUM INTO has made
    database = Store(file.url).maintenance()
    work: Work[object] = lambda session: session.fetch("SELECT count(*) FROM messages")  # noqa: E731 - typed
    await database.job(Lane.VERIFY, work, TIMEOUT).result()
    async with opened(file) as server:
        assert await database.job(Lane.VERIFY, work, TIMEOUT).result() == [(0,)]
        file.path.with_name(file.path.name + "-wal").unlink()
        with pytest.raises(DatabaseError, match="was moved, removed or replaced"):
            await database.job(Lane.VERIFY, work, TIMEOUT).result()
        await database.close(TIMEOUT)
        await eventually(lambda: server.totals(TIMEOUT))


@contextlib.asynccontextmanager
async def files_of(file: Sqlite, journal: str) -> AsyncIterator[tuple[Files, list[aiosqlite.Connection]]]:
    """What is known of the files by the first of two connections, which has read."""
    async with opened(file):
        pass
    await file.execute(f"PRAGMA journal_mode = {journal}")
    files = Files(file.path)
    async with aiosqlite.connect(file.path) as one, aiosqlite.connect(file.path) as other:
        files.opening(one)
        await one.execute_fetchall("SELECT count(*) FROM messages")
        files.opened()
        yield files, [one, other]


async def test_nobody_opens_new_files_while_others_have_a_log_without_a_name_open_or_are_about_to_close_it(
    file: Sqlite,
) -> None:
    async with files_of(file, "WAL") as (files, (one, other)):
        files.opening(other)
        file.path.with_name(file.path.name + "-wal").unlink()
        with pytest.raises(DatabaseError, match="was moved, removed or replaced"):
            files.opened()
        files.closing(one)
        files.closing(other)
        with pytest.raises(DatabaseError, match="was moved, removed or replaced"):
            files.opening(other)


async def test_a_log_that_another_program_is_just_beginning_is_not_called_one_that_was_removed(file: Sqlite) -> None:
    async with files_of(file, "DELETE") as (files, _):
        for suffix in ("-shm", "-wal"):  # one is there before the other
            file.path.with_name(file.path.name + suffix).touch()
            files.check()
        file.path.with_name(file.path.name + "-wal").unlink()
        with pytest.raises(DatabaseError, match="was moved, removed or replaced"):
            files.check()


async def test_a_log_that_goes_with_the_last_connection_is_not_called_one_that_was_removed(
    file: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, asked = asyncio.Event(), asyncio.Event()
    real = aiosqlite.Connection._execute

    async def late(connection: aiosqlite.Connection, function: Any, *args: Any, **options: Any) -> Any:
        last = function == connection._conn.close
        result = await real(connection, function, *args, **options)
        if last:  # what comes now finds no log, and a connection that is not known to be closed
            gone.set()
            await asked.wait()
        return result

    async def breaks(session: Session) -> None:
        raise DatabaseError(ErrorKind.DISCONNECTED, "broken")

    async with opened(file) as store:
        await store._database._engine.close_idle()
        await store.create_conversation("c", "ann", [])
        monkeypatch.setattr(aiosqlite.Connection, "_execute", late)
        try:
            broken = asyncio.create_task(store._database.job(Lane.READ, breaks, TIMEOUT).result())
            await gone.wait()
            assert not file.path.with_name(file.path.name + "-wal").exists()
            assert (await store.totals(TIMEOUT)).stored_messages == 0
        finally:
            asked.set()
        with pytest.raises(DatabaseError, match="broken"):
            await broken


async def sent(store: Store, id: str) -> bool:
    """Is it stored now? A client would try again, too."""
    return isinstance(await send(store, "c", "ann", id), Message)


async def test_a_full_disk_refuses_and_takes_again_when_there_is_room(
    file: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "PRAGMAS", (*sqlite_module.PRAGMAS, "max_page_count = 60"))
    async with opened(file, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])
        for i in range(200):
            result = await send(store, "c", "ann", f"m{i}", "x" * 4000)
            if isinstance(result, Refusal):
                break
        assert isinstance(result, Unavailable)
        assert result.message == "the database's disk is full"
        assert (store.up, store.error) == (False, "the database's disk is full")
        assert (await store.totals(TIMEOUT)).stored_messages == i
        await store.delete_message("c", 1, "ann", False)
        await store.delete_message("c", 2, "ann", False)
        assert isinstance(await send(store, "c", "ann", "smaller", "x"), Message)
        assert store.up


async def test_whoever_may_not_start_for_a_full_disk_is_told_what_to_do_first(
    file: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "PRAGMAS", (*sqlite_module.PRAGMAS, "max_page_count = 4"))
    store = Store(file.url)
    with pytest.raises(Unavailable, match=re.escape(f"is full ({file.path}): make room there")):
        await store.migrate()
    monkeypatch.undo()
    await store.migrate()
    await store.close()


async def test_a_log_that_grew_behind_a_long_reader_gives_its_room_back(file: Sqlite) -> None:
    log = file.path.with_name(file.path.name + "-wal")
    async with opened(file) as store:
        await store.create_conversation("c", "ann", [])
        with contextlib.closing(sqlite3.connect(file.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM messages").fetchall()
            number = 0
            while log.stat().st_size < 2 * sqlite_module.KEPT_LOG:
                number += 1
                assert isinstance(await send(store, "c", "ann", f"m{number}", "x" * 1_000_000), Message)
        for after in range(3):  # one writes the log back, the next begins it anew
            assert isinstance(await send(store, "c", "ann", f"after {after}"), Message)
        assert log.stat().st_size <= sqlite_module.KEPT_LOG
        assert (await store.totals(5)).stored_messages == number + 3


# --- PostgreSQL -----------------------------------------------------------------------------------------------


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[tuple[Postgres, Postgresql]]:
    """A server that a test may stop, freeze and crash."""
    server = Postgres(fsync="off")
    try:
        server.start()
        yield server, Postgresql(server.url(server.create_database()))
    finally:
        server.close()


@pytest.mark.needs("postgres")
async def test_a_database_that_admits_nobody_any_more_is_named_as_such(own: tuple[Postgres, Postgresql]) -> None:
    server, place = own
    name = place.url.rpartition("/")[2]
    other = Postgresql(server.url("postgres"))
    async with opened(place, timeout=TIMEOUT) as store:
        await other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        gone = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        await other.execute(gone)
        await eventually(lambda: refused(store, "the database admits no connections"))
        await other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await store.create_conversation("c", "ann", [])


async def refused(store: Store, reason: str) -> bool:
    """Is that what a scrape is told now?"""
    try:
        await store.totals(TIMEOUT)
    except Unavailable as refusal:
        return refusal.message.startswith(reason)
    return False


@pytest.mark.needs("postgres")
async def test_a_server_that_goes_and_comes_back(own: tuple[Postgres, Postgresql]) -> None:
    server, place = own
    async with opened(place, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", ["bob"])
        assert isinstance(await send(store, "c", "ann", "m1"), Message)
        await asyncio.gather(*(store.conversations_of("ann") for _ in range(8)))
        server.stop(signal.SIGQUIT)
        with heartbeat() as gaps, structlog.testing.capture_logs() as logs:
            for call in (
                send(store, "c", "ann", "m2"),
                read(store, "bob", "c", 1),
                store.membership("c", "ann"),
                store.totals(TIMEOUT),
                store.create_conversation("d", "ann", []),
                store.messages_after("c", "ann", 0, 1),
            ):
                assert isinstance(await within(TIMEOUT + LATE, call), Unavailable)
            assert await within(LATE, store.register("new")) is False
        assert max(gaps) < STALL
        assert (store.up, store.error) == (False, "the database cannot be reached")
        told = {entry["use"]: entry["reason"] for entry in logs if entry["event"] == "database is down"}
        reached = f"the database cannot be reached (127.0.0.1:{server.port}: connection refused)"
        assert told == {"reading": reached, "writing": reached}
        await asyncio.to_thread(server.start)
        stored = await send(store, "c", "ann", "m2")
        assert isinstance(stored, Message)
        assert stored.seq == 2
        assert (await store.totals(TIMEOUT)).stored_messages == 2
        assert (await store.membership("c", "bob")).member
        assert await asyncio.gather(*(store.conversations_of("ann") for _ in range(8)))

        async def registered() -> bool:
            return ("new",) in await place.fetch("SELECT id FROM users")

        await eventually(registered)


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("pooled", [False, pytest.param(True, marks=pytest.mark.needs("pgbouncer"))])
async def test_what_is_acknowledged_outlives_a_crash_of_a_server_that_is_set_to_commit_later(pooled: bool) -> None:
    with contextlib.ExitStack() as stack:
        server = Postgres(fsync="off", synchronous_commit="off", wal_writer_delay="10s")
        stack.callback(server.close)
        direct = server.start().url(server.create_database())
        url = direct
        if pooled:
            url = stack.enter_context(contextlib.closing(Pgbouncer(server, "transaction"))).url(direct)
        place = Postgresql(url, direct)
        async with opened(place, timeout=5.0) as store:
            await store.create_conversation("c", "ann", [])
            sent = [await send(store, "c", "ann", str(number)) for number in range(10)]
            assert all(isinstance(message, Message) for message in sent)
            server.stop(signal.SIGQUIT)
        server.start()
        assert await place.fetch("SELECT count(*) FROM messages") == [(len(sent),)]


@pytest.mark.needs("postgres")
async def test_a_restart_between_two_uses_is_not_noticed(own: tuple[Postgres, Postgresql]) -> None:
    server, place = own
    async with opened(place, timeout=5.0) as store:
        await store.create_conversation("c", "ann", [])
        await store.totals(5)
        await store.membership("c", "ann")
        await asyncio.to_thread(server.restart)
        assert (await store.totals(5)).stored_conversations == 1
        assert (await store.membership("c", "ann")).member
        assert isinstance(await send(store, "c", "ann", "m1"), Message)


@pytest.mark.needs("postgres")
@pytest.mark.parametrize(
    "pooled",
    [
        None,
        pytest.param(("transaction", 4, "max_client_conn = 1"), marks=pytest.mark.needs("pgbouncer"), id="refuses"),
        pytest.param(("session", 1, ""), marks=pytest.mark.needs("pgbouncer"), id="lets wait"),
    ],
)
async def test_a_server_or_pooler_that_grants_one_connection_has_it_shared(
    postgres: Postgres, pooled: tuple[str, int, str] | None
) -> None:
    name = postgres.create_database()
    place = Postgresql(postgres.url(name, name), postgres.url(name))
    limit = -1 if pooled else 1
    await place.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT {limit}; ALTER DATABASE {name} OWNER TO {name}")
    with contextlib.ExitStack() as stack, structlog.testing.capture_logs() as logs:
        if pooled:
            mode, size, more = pooled
            pooler = stack.enter_context(contextlib.closing(Pgbouncer(postgres, mode, size=size, more=more)))
            place = Postgresql(pooler.url(place.direct), place.direct)
        async with opened(place) as store:
            await store.create_conversation("c", "ann", [])
            for i in range(10):
                await asyncio.gather(store.totals(5), store.membership("c", "ann"), store.conversations_of("ann"))
                *_, stored = await asyncio.gather(store.totals(5), store.days(1), send(store, "c", "ann", f"m{i}"))
                assert isinstance(stored, Message)
    assert not [entry for entry in logs if entry["event"] == "database is down"]


@pytest.mark.needs("postgres")
async def test_nobody_starves_where_one_connection_is_shared(postgres: Postgres) -> None:
    name = postgres.create_database()
    place = Postgresql(postgres.url(name, name), postgres.url(name))
    await place.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1; ALTER DATABASE {name} OWNER TO {name}")
    async with opened(place, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])

        async def read_on() -> None:
            while True:
                await store.conversations_of("ann")

        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(read_on()) for _ in range(4)]
            for i in range(50):
                assert isinstance(await send(store, "c", "ann", f"m{i}"), Message)
                assert (await store.totals(TIMEOUT)).stored_messages == i + 1
            for reader in readers:
                reader.cancel()


@pytest.mark.needs("postgres")
async def test_who_has_lost_all_connections_to_others_says_so_at_once(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgres.create_database()
    place = Postgresql(postgres.url(name, name), postgres.url(name))
    await place.execute(f"CREATE ROLE {name} LOGIN; ALTER DATABASE {name} OWNER TO {name}")
    tried: list[float] = []
    connect = Connector._open

    async def counted(self: Connector, hosts: Hosts, timeout: float) -> Any:
        tried.append(timeout)
        return await connect(self, hosts, timeout)

    async with opened(place, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])
        await asyncio.gather(store.totals(5), store.membership("c", "ann"), store.conversations_of("ann"))
        await eventually(lambda: store.pool().idle > 1)
        await place.execute(f"ALTER ROLE {name} CONNECTION LIMIT 0")
        await place.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")
        await eventually(lambda: store.pool().idle == 0)
        monkeypatch.setattr(Connector, "_open", counted)
        with pytest.raises(Unavailable, match=CROWDED):
            await store.conversations_of("ann")
        assert len(tried) <= 2
        assert store.pool() == PoolStats(in_use=0, idle=0)
        await place.execute(f"ALTER ROLE {name} CONNECTION LIMIT -1")
        await store.conversations_of("ann")


@pytest.mark.needs("postgres")
async def test_who_no_longer_wants_an_answer_says_nothing_of_the_database(postgres: Postgres) -> None:
    name = postgres.create_database()
    place = Postgresql(postgres.url(name, name), postgres.url(name))
    await place.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1; ALTER DATABASE {name} OWNER TO {name}")
    async with opened(place, timeout=60.0) as store:
        await store.create_conversation("c", "ann", [])
        other = await asyncpg.connect(postgres.url(name))
        async with other.transaction():
            await other.execute("LOCK TABLE conversations")
            working, waiting = (asyncio.create_task(store.conversations_of(user)) for user in ("ann", "bob"))
            await eventually(lambda: len(store._database.jobs) == 2 and store._database.sharing.wanted)
            for reader in (waiting, working):
                reader.cancel()
                await asyncio.wait({reader})
            await eventually(lambda: not store._database.jobs)
        await other.close()
        assert store.error is None
        assert store.up
        assert await store.conversations_of("ann"), "nor does it keep the turn from others"


@pytest.mark.needs("postgres")
async def test_who_waits_for_a_connection_does_not_ask_for_it_again_and_again(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time, the server would make a process, only to say that there is no connection more."""
    name = postgres.create_database()
    place = Postgresql(postgres.url(name, name), postgres.url(name))
    await place.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1; ALTER DATABASE {name} OWNER TO {name}")
    tried: list[float] = []
    connect = Connector._open

    async def counted(self: Connector, hosts: Hosts, timeout: float) -> Any:
        tried.append(timeout)
        return await connect(self, hosts, timeout)

    async with opened(place, timeout=60.0) as store:
        await store.create_conversation("c", "ann", ["bob"])
        monkeypatch.setattr(sharing, "AGAIN", 3600.0)
        monkeypatch.setattr(Connector, "_open", counted)
        other = await asyncpg.connect(place.direct)
        async with other.transaction():
            await other.execute("LOCK TABLE conversations")
            readers = [asyncio.create_task(store.conversations_of(user)) for user in ("ann", "bob")]
            await eventually(lambda: tried and store._database.sharing.wanted)
            for _ in range(20):
                await place.fetch("SELECT 1")  # a connection of its own each
            assert len(tried) == 1
        await other.close()
        assert [len(found) for found in await asyncio.gather(*readers)] == [1, 1]


@pytest.mark.needs("postgres")
async def test_what_lacks_memory_at_work_is_not_done_again_for_want_of_a_connection(postgres: Postgres) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place, timeout=10.0) as store:
        await place.execute(
            "CREATE SEQUENCE tries; CREATE FUNCTION lacking() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM nextval('tries'); RAISE 'out of memory' USING ERRCODE = '53200'; END $$;"
            "CREATE TRIGGER lacking BEFORE INSERT ON conversations FOR EACH ROW EXECUTE FUNCTION lacking()"
        )
        with pytest.raises(Unavailable, match=CROWDED):
            await store.create_conversation("c", "ann", [])
        assert await place.fetch("SELECT last_value FROM tries") == [(2,)], "once more, on another connection"


@pytest.mark.needs("postgres")
async def test_a_frozen_server_costs_only_time_limits(own: tuple[Postgres, Postgresql]) -> None:
    server, place = own
    witness = Witness()
    async with opened(place, timeout=TIMEOUT, on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", ["bob"])
        await store.totals(TIMEOUT)
        with heartbeat() as gaps:
            with server.frozen():
                began = time.monotonic()
                for _ in range(3):
                    assert isinstance(await within(0.3 + LATE, store.totals(0.3)), Unavailable)
                answers = await asyncio.gather(
                    *(within(TIMEOUT + LATE, witness.send(store, "c", "ann", f"m{i}")) for i in range(200)),
                    within(TIMEOUT + LATE, store.membership("c", "bob")),
                    within(TIMEOUT + LATE, store.conversations_of("bob")),
                    *(within(TIMEOUT + LATE, store.totals(TIMEOUT)) for _ in range(20)),
                )
                assert {type(answer) for answer in answers} == {Unavailable}
                assert store.up is False
                pool = store.pool()
                assert pool.in_use + pool.idle <= 5
                assert time.monotonic() - began < 20
            await eventually(lambda: within(TIMEOUT + LATE, store.totals(TIMEOUT)), 30)

            async def works() -> bool:
                return isinstance(await send(store, "c", "ann", "after"), Message)

            await eventually(works, 30)
        assert max(gaps) < STALL
        rows = {row[0] for row in await place.fetch("SELECT client_id FROM messages")}
        assert rows == {*witness.broadcast, "after"}


@pytest.mark.needs("postgres")
async def test_a_frozen_server_does_not_keep_a_store_from_closing(
    own: tuple[Postgres, Postgresql], caplog: pytest.LogCaptureFixture
) -> None:
    server, place = own
    store = Store(place.url, timeout=TIMEOUT)
    await store.migrate()
    await store.start()
    await store.totals(TIMEOUT)
    with server.frozen():
        async with asyncio.timeout(30):  # it waited for ever
            await store.close()
    assert caplog.records == []


@pytest.mark.needs("postgres")
async def test_a_slow_statement_of_a_scrape_is_ended_on_the_server_too(place_: Postgresql) -> None:
    async with opened(place_, timeout=30.0) as store:
        other = await asyncpg.connect(place_.url)
        transaction = other.transaction()
        await transaction.start()
        await other.execute("LOCK TABLE daily_totals IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            assert isinstance(await within(0.3 + LATE, store.totals(0.3)), Unavailable)

        async def idle() -> bool:
            rows = await place_.fetch(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'messaging-exporter'"
                " AND state = 'active' AND datname = current_database()"
            )
            return rows == [(0,)]

        await eventually(idle, 5)
        await transaction.rollback()
        await other.close()
        assert (await store.totals(5)).stored_messages == 0
        assert store.pool().in_use + store.pool().idle <= 5


@pytest.fixture
def place_(postgres: Postgres) -> Postgresql:
    return Postgresql(postgres.url(postgres.create_database()))


@pytest.mark.needs("postgres")
async def test_a_conversation_that_somebody_else_has_locked_delays_only_until_the_time_limit(
    place_: Postgresql,
) -> None:
    witness = Witness()
    async with opened(place_, timeout=TIMEOUT, on_resolved=witness.recovered.append) as store:
        await store.create_conversation("c", "ann", [])
        other = await asyncpg.connect(place_.url)
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT 1 FROM conversations FOR UPDATE")
        assert isinstance(await within(TIMEOUT + LATE, witness.send(store, "c", "ann", "m1")), Unavailable)
        assert (await store.totals(TIMEOUT)).stored_messages == 0
        await transaction.rollback()
        await other.close()
        stored, duplicate = await send_twice_told(store, "c", "ann", "m1")
        assert isinstance(stored, Message)
        assert duplicate == bool(witness.recovered)
        assert await place_.fetch("SELECT count(*) FROM messages") == [(1,)]


async def test_what_sqlite_calls_an_error_of_the_disk_is_a_full_one_where_nothing_is_free(
    file: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shared memory cannot be made on a full tmpfs: SQLite says "disk I/O error"."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    assert sqlite_errors.translate_error(error, file.path).told == f"the database's disk reports an error ({file.path})"
    monkeypatch.setattr(sqlite_errors, "NEEDED", 2**80)
    assert sqlite_errors.translate_error(error, file.path).told == f"the database's disk is full ({file.path})"


async def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "messaging.db").mkdir()
    store = Store(f"sqlite:///{tmp_path / 'messaging.db'}")
    for asked in (store.migrate, store.start):
        with pytest.raises(Misconfigured, match=rf"that of a folder \({tmp_path}/messaging.db\)"):
            await asked()
    await store.close()


@pytest.fixture
async def open_to_all() -> AsyncIterator[Sqlite]:
    """A database in a folder to which everybody finds the way, which is not so in pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        place = Sqlite(Path(name) / "messaging.db")
        async with opened(place):
            await asyncio.to_thread(place.path.stat)  # loads what may lie where the other user does not get
        yield place
        place.path.parent.chmod(0o700)


@contextlib.contextmanager
def as_an_ordinary_user(folder: int, file: int, path: Path) -> Iterator[None]:
    """With these modes. Root may write everything, so for a moment this process, with all its threads, is another's."""
    path.chmod(file)
    path.parent.chmod(folder)
    user = os.geteuid()
    if user == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(user)


async def refusals(place: Sqlite) -> set[str]:
    """What migrate, start and verify say."""
    store = Store(place.url)
    said = set()
    for asked in (store.migrate, store.start, lambda: verify(store)):
        try:
            answer = await asked()
        except (Misconfigured, Unavailable) as error:
            said.add(str(error))
        else:  # there was nothing to write, or what was counted could not be kept
            assert asked != store.start
            said |= {answer.unkept} if isinstance(answer, Report) else set()
    await store.close()
    return said


async def test_a_folder_that_may_not_be_written_is_told_with_the_reason_why_it_must_be(open_to_all: Sqlite) -> None:
    with as_an_ordinary_user(0o555, 0o666, open_to_all.path):
        said = await refusals(open_to_all)
    folder = (
        r"\w+, must be able to write in its folder, where SQLite keeps its files -wal and -shm beside the database\)"
    )
    told = rf"the database('s file cannot be opened| is read-only) \({open_to_all.path}: this user, {folder}"
    assert said, "which of the two depends on SQLite's version"
    assert all(re.fullmatch(told, line) for line in said), said


async def test_a_folder_that_was_shut_is_not_called_a_file_that_was_moved(open_to_all: Sqlite) -> None:
    async with opened(open_to_all) as store:
        with as_an_ordinary_user(0, 0o666, open_to_all.path):
            with (
                structlog.testing.capture_logs() as logs,
                pytest.raises(Unavailable, match=r"^the database's file cannot be opened$"),
            ):
                await store.totals(5)
            [said] = await refusals(open_to_all)
        open_to_all.path.parent.chmod(0o700)
        assert (await store.totals(5)).stored_messages == 0
    assert [entry["reason"] for entry in logs] == [said]
    assert re.search(r"cannot be opened \(\S+: this user, \w+, must be able to write in its folder", said)


async def test_a_file_of_somebody_else_is_told_with_both_users(open_to_all: Sqlite) -> None:
    owner = pwd.getpwuid(open_to_all.path.stat().st_uid).pw_name
    with as_an_ordinary_user(0o777, 0o444, open_to_all.path):
        [said] = await refusals(open_to_all)
    told = re.escape(f"the database is read-only ({open_to_all.path} belongs to {owner}, and this user, ")
    assert re.fullmatch(rf"{told}\w+, may not write it\)", said)


async def test_shared_memory_that_another_user_left_is_named_as_what_is_in_the_way(open_to_all: Sqlite) -> None:
    """As after a look at the database by root."""
    beside = open_to_all.path.with_name("messaging.db-shm")
    beside.touch(0o400)
    with as_an_ordinary_user(0o777, 0o666, open_to_all.path):
        said = await refusals(open_to_all)
    assert said
    assert all(f"({beside} belongs to " in line for line in said), said


async def test_a_read_only_file_system_is_told_as_such(file: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorname = "SQLITE_CANTOPEN"
    file.path.touch()
    mounted = os.statvfs_result((4096, 4096, 9, 9, 9, 9, 9, 9, os.ST_RDONLY, 255))
    monkeypatch.setattr(os, "statvfs", lambda folder: mounted)
    failure = sqlite_errors.translate_error(error, file.path)
    assert failure.text == "the database's file cannot be opened"
    assert failure.told.startswith(f"{failure.text} ({file.path}: it lies on a read-only file system, ")


async def test_a_file_that_is_none_of_sqlites_is_named(file: Sqlite) -> None:
    file.path.write_bytes(b"garbage" * 2000)
    assert await refusals(file) == {
        f"the file is not a database or is damaged ({file.path}: restore a backup of it, or name another file)"
    }


async def test_where_the_file_is_stands_in_the_log_and_not_in_what_others_are_told(file: Sqlite) -> None:
    async with opened(file, timeout=TIMEOUT) as store:
        await store.create_conversation("c", "ann", [])
        file.path.unlink()
        with structlog.testing.capture_logs() as logs:
            refused = await within(TIMEOUT + LATE, send(store, "c", "ann", "m1"))
        assert refused.message == store.error == store.write_error == MOVED
        assert logs[0]["reason"] == f"{MOVED} ({file.path})"


@pytest.mark.needs("postgres")
async def test_answers_of_commits_lost_on_the_network_lose_no_message_and_double_none(
    postgres: Postgres,
    place_: Postgresql,
) -> None:
    witness = Witness()
    async with LossyProxy(postgres.port) as proxy:
        through = Postgresql(place_.url.replace(str(postgres.port), str(proxy.port)))
        async with opened(through, timeout=TIMEOUT, on_resolved=witness.recovered.append) as store:
            await store.create_conversation("c", "ann", [])
            for i in range(12):
                if i % 3 == 0:
                    proxy.cut_after = b"COMMIT"
                await witness.send(store, "c", "ann", f"m{i}")
                if f"m{i}" in witness.refused:
                    await witness.send(store, "c", "ann", f"m{i}")
            assert proxy.cuts >= 4
            rows = await place_.fetch("SELECT client_id, seq FROM messages ORDER BY seq")
    assert [seq for _, seq in rows] == list(range(1, 13))
    assert {name for name, _ in rows} == {*witness.stored, *witness.repeated}
    assert witness.broadcast == sorted(name for name, _ in rows), "each was delivered once"


@pytest.mark.needs("postgres")
async def test_backends_killed_under_load_lose_no_message_and_double_none(place_: Postgresql) -> None:
    witness = Witness()
    async with opened(place_, timeout=5.0, on_resolved=witness.recovered.append) as store:
        for name in "abc":
            await store.create_conversation(name, "ann", [])
        other = await asyncpg.connect(place_.url)
        stop = asyncio.Event()

        def told() -> int:
            return len(witness.stored) + len(witness.recovered)

        kills = 0

        async def kill() -> None:
            nonlocal kills
            while not stop.is_set():
                kills += await other.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name = 'messaging-exporter' AND datname = current_database()"
                )
                before = told()
                await eventually(lambda before=before: stop.is_set() or told() > before)
                await asyncio.sleep(random.uniform(0, 0.02))

        async def client(sender: int) -> None:
            for i in itertools.count():
                if i >= 24 and kills > 1:  # how many fit in is the machine's business
                    break
                name = f"{sender}-{i}"
                while True:
                    result = await witness.send(store, "abc"[i % 3], f"u{sender}", name)
                    if isinstance(result, Message):
                        break
                    await asyncio.sleep(0.005)

        killer = asyncio.create_task(kill())
        await asyncio.gather(*(client(sender) for sender in range(8)))
        stop.set()
        await killer
        await other.close()
        rows = await place_.fetch("SELECT conversation_id, client_id, seq FROM messages ORDER BY 1, 3")
    assert len(rows) >= 8 * 24
    for name in "abc":
        seqs = [seq for conversation, _, seq in rows if conversation == name]
        assert seqs == list(range(1, len(seqs) + 1))
    assert sorted(client_id for _, client_id, _ in rows) == witness.broadcast
