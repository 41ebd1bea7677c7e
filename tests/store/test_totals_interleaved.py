"""Statements of two programs, interleaved at each level of isolation on PostgreSQL: what is kept equals a recount.

They open transactions, set savepoints, and prepare transactions that somebody else ends. A program that waits for the
other's rows goes on when it may: the order is the chance's and the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from exporter.store import Store
from tests.databases import DIFFERING_CONVERSATIONS, Postgresql, differing_days
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.needs("postgres")

STATEMENTS = 500
CONVERSATIONS, USERS = ("a", "b", "c"), ("ann", "bob", "eve")
TIMES = ("2026-03-09T23:59:59Z", "2026-03-10T00:30:00+02:00", "2026-03-10T12:00:00Z", "2099-01-01T00:00:00Z")
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
REFUSALS = (
    asyncpg.UniqueViolationError,
    asyncpg.ForeignKeyViolationError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InFailedSQLTransactionError,
    asyncpg.InvalidSavepointSpecificationError,
    asyncpg.FeatureNotSupportedError,  # to empty a table of rows that are not seen
)
"""What the server may answer. The triggers raise nothing else."""
MISSING_DAYS = """
SELECT (sent_at AT TIME ZONE 'UTC')::date, sender_id FROM messages EXCEPT SELECT day, user_id FROM user_days
"""


class Program:
    """A session, and the statement in it that waits for somebody's rows."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._waiting: asyncio.Task[str] | None = None
        self.refused = False

    @property
    def is_busy(self) -> bool:
        return self._waiting is not None

    @property
    def is_in_transaction(self) -> bool:
        return bool(self._connection.is_in_transaction())

    async def run(self, statement: str, eye: asyncpg.Connection) -> None:
        """Until it is answered or waits for a lock."""
        self._waiting = asyncio.ensure_future(self._connection.execute(statement))
        await self.go_on(eye)

    async def go_on(self, eye: asyncpg.Connection) -> None:
        """The same for the statement that waits."""
        pid = self._connection.get_server_pid()
        while self._waiting is not None and not (await asyncio.wait({self._waiting}, timeout=0.005))[0]:
            if await eye.fetchval("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", pid):
                return
        if self._waiting is not None:
            done, self._waiting = self._waiting, None
            self.refused = False
            try:
                await done
            except REFUSALS:
                self.refused = True


class Chance:
    """What comes next."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.choice, self.random = self._random.choice, self._random.random

    def change(self) -> str:
        """One statement that writes."""
        room, other, user, friend = (*self._random.choices(CONVERSATIONS, k=2), *self._random.choices(USERS, k=2))
        seq, at, later = self._random.randint(1, 6), self.choice(TIMES), self.choice(TIMES)
        new = "INSERT INTO messages (conversation_id, seq, sender_id, sent_at)"
        return self.choice(
            (
                f"{new} VALUES ('{room}', {seq}, '{user}', '{at}') ON CONFLICT DO NOTHING",
                f"{new} SELECT '{room}', max(seq) + {seq}, '{user}', '{at}' FROM messages"
                f" WHERE conversation_id = '{room}' HAVING count(*) > 0",
                f"{new} VALUES ('{room}', {seq}, '{user}', '{at}'), ('{other}', {seq + 10}, '{friend}', '{later}'),"
                f" ('{other}', {seq + 20}, '{user}', '{at}') ON CONFLICT (conversation_id, seq)"
                " DO UPDATE SET sent_at = excluded.sent_at, sender_id = excluded.sender_id",
                f"DELETE FROM messages WHERE conversation_id = '{room}' AND seq < {seq}",
                f"DELETE FROM messages WHERE sender_id = '{user}'",
                f"UPDATE messages SET conversation_id = '{other}', seq = seq + {seq * 40}"
                f" WHERE conversation_id = '{room}' AND seq < {seq}",
                f"UPDATE messages SET sent_at = '{at}' WHERE sender_id = '{user}'",
                f"UPDATE messages SET sender_id = '{friend}', sent_at = '{at}' WHERE conversation_id = '{room}'",
                f"MERGE INTO messages AS m USING (VALUES ('{room}', {seq}), ('{other}', 8)) AS v (c, s)"
                " ON m.conversation_id = v.c AND m.seq = v.s WHEN MATCHED THEN DELETE"
                f" WHEN NOT MATCHED THEN INSERT (conversation_id, seq, sender_id) VALUES (c, s, '{user}')",
                f"INSERT INTO conversations (id, created_at, total_messages) VALUES ('{room}', '{at}', 5)"
                " ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at",
                f"INSERT INTO conversations (id, created_at) VALUES ('{room}', '{at}') ON CONFLICT DO NOTHING",
                f"INSERT INTO conversations (id, created_at) VALUES ('{room}', '{at}') ON CONFLICT DO NOTHING",
                f"DELETE FROM conversations WHERE id = '{room}'",
                f"UPDATE conversations SET created_at = '{at}'",
                f"INSERT INTO users (id, created_at) VALUES ('{user}', '{at}') ON CONFLICT DO NOTHING",
                f"DELETE FROM users WHERE id = '{user}'",
                f"UPDATE users SET created_at = '{at}', last_active_on = NULL WHERE id = '{user}'",
                f"UPDATE users SET id = '{friend}' WHERE id = '{user}'",
                self.choice(("TRUNCATE messages", "TRUNCATE users", "TRUNCATE conversations CASCADE", "SELECT 1")),
            )
        )

    def statement(self, program: Program, number: int) -> str:
        """What a program that is not waiting says next."""
        if not program.is_in_transaction:
            return f"BEGIN ISOLATION LEVEL {self.choice(LEVELS)}" if self.random() < 0.6 else self.change()
        if program.refused:
            return self.choice(("ROLLBACK TO SAVEPOINT s", "ROLLBACK"))
        kind = self.random()
        for most, statement in (
            (0.15, "COMMIT"),
            (0.2, "ROLLBACK"),
            (0.25, f"PREPARE TRANSACTION 'p{number}'"),
            (0.35, "SAVEPOINT s"),
            (0.4, "ROLLBACK TO SAVEPOINT s"),
        ):
            if kind < most:
                return statement
        return self.change()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    server = Postgres(fsync="off", max_prepared_transactions="8", deadlock_timeout="20ms")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
async def eye(place: Postgresql) -> AsyncIterator[asyncpg.Connection]:
    """Who looks on and ends what was prepared."""
    connection = await asyncpg.connect(place.url)
    yield connection
    await connection.close()


@pytest.fixture
async def place(server: Postgres) -> Postgresql:
    url = server.url(server.create_database())
    store = Store(url)
    try:
        await store.migrate()
    finally:
        await store.close()
    return Postgresql(url, f"{url}?lock_timeout=100ms")


async def end_prepared(eye: asyncpg.Connection, chance: Chance) -> None:
    for (name,) in await eye.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
        await eye.execute(f"{chance.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{name}'")


async def recounted(place: Postgresql) -> bool:
    """False where a table cannot be read now, since somebody empties it."""
    try:
        assert await place.fetch(DIFFERING_CONVERSATIONS) == []
        assert await differing_days(place) == []
        assert await place.fetch(MISSING_DAYS) == []
    except asyncpg.LockNotAvailableError:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
async def test_what_two_programs_write_at_once_is_counted(
    place: Postgresql, eye: asyncpg.Connection, seed: int
) -> None:
    chance, recounts = Chance(seed), 0
    async with contextlib.AsyncExitStack() as stack:
        programs = []
        for zone in ("Pacific/Auckland", "UTC"):
            connection = await asyncpg.connect(place.url, server_settings={"timezone": zone})
            stack.callback(connection.terminate)
            programs.append(Program(connection))
        for number in range(STATEMENTS):
            program = chance.choice(programs)
            await program.go_on(eye)
            if not program.is_busy:
                await program.run(chance.statement(program, number), eye)
            if chance.random() < 0.05 or all(one.is_busy for one in programs):
                await end_prepared(eye, chance)
            recounts += number % 5 == 0 and await recounted(place)
        while any(one.is_busy or one.is_in_transaction for one in programs):
            await end_prepared(eye, chance)
            for one in programs:
                await one.go_on(eye)
                if not one.is_busy and one.is_in_transaction:
                    await one.run("COMMIT", eye)
        await end_prepared(eye, chance)
        assert await recounted(place)
    assert recounts > STATEMENTS / 20
