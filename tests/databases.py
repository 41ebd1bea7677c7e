"""Both databases for the tests: a fresh one each, plain SQL beside the store, and the slow recount to compare with."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from exporter.core.errors import Refusal
from exporter.core.records import Draft, Message, Totals
from exporter.store import Store
from exporter.store.schema import triggers_postgresql, triggers_sqlite


class Clock:
    """A time that a test sets."""

    def __init__(self, now: datetime = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **delta: float) -> None:
        """Let time go by."""
        self.now += timedelta(**delta)


class Sqlite:
    """A file and other programs' connections to it."""

    name = "sqlite"
    day = "coalesce(date({}), '0000-01-01')"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    async def execute(self, *scripts: str) -> None:
        """Each script in a connection of its own, as another program would run it: foreign keys off."""

        def run() -> None:
            for script in scripts:
                with contextlib.closing(sqlite3.connect(self.path, timeout=20)) as connection:
                    connection.executescript(script)

        await asyncio.to_thread(run)

    async def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        def run() -> list[tuple[Any, ...]]:
            with contextlib.closing(sqlite3.connect(self.path, timeout=20)) as connection:
                return connection.execute(sql).fetchall()

        return await asyncio.to_thread(run)


class Postgresql:
    """A database on the tests' server and other programs' connections to it, which go past any pooler."""

    name = "postgresql"
    day = "({} AT TIME ZONE 'UTC')::date"

    def __init__(self, url: str, direct: str | None = None) -> None:
        self.url = url
        self.direct = direct or url

    async def execute(self, *scripts: str) -> None:
        """Each script in a connection of its own, in a time zone far from UTC."""
        for script in scripts:
            connection = await asyncpg.connect(self.direct, server_settings={"timezone": "Pacific/Auckland"})
            try:
                await connection.execute(script)
            finally:
                await connection.close()

    async def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.direct)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()


Place = Sqlite | Postgresql


async def recount(place: Place, today: date) -> dict[str, Any]:
    """Every figure by counting rows."""
    day = place.day.format

    async def one(sql: str) -> int:
        return int((await place.fetch(sql))[0][0])

    async def active(days: int) -> int:
        since = today - timedelta(days=days - 1)
        return await one(
            f"SELECT count(*) FROM users WHERE last_active_on >= '{since}' AND last_active_on <= '{today}'"
        )

    return {
        "stored_messages": await one("SELECT count(*) FROM messages"),
        "stored_conversations": await one("SELECT count(*) FROM conversations"),
        "registered_users": await one("SELECT count(*) FROM users"),
        "messages_today": await one(f"SELECT count(*) FROM messages WHERE {day('sent_at')} = '{today}'"),
        "active_users": {days: await active(days) for days in (1, 7, 30)},
    }


def figures(totals: Totals) -> dict[str, Any]:
    """What is compared with a recount."""
    return {
        name: getattr(totals, name)
        for name in ("stored_messages", "stored_conversations", "registered_users", "messages_today", "active_users")
    }


DIFFERING_CONVERSATIONS = """
SELECT c.id, c.total_messages, c.last_seq, count(m.seq), coalesce(max(m.seq), 0)
FROM conversations AS c LEFT JOIN messages AS m ON m.conversation_id = c.id
GROUP BY c.id, c.total_messages, c.last_seq
HAVING c.total_messages <> count(m.seq) OR c.last_seq < coalesce(max(m.seq), 0)
"""


async def differing_days(place: Place) -> list[tuple[Any, ...]]:
    """Days whose kept figures are not those of a recount."""
    day = place.day.format
    return await place.fetch(
        f"""
        SELECT day, sum(m), sum(c), sum(u), sum(a), sum(d) FROM (
            SELECT {day("sent_at")} AS day, 1 AS m, 0 AS c, 0 AS u, 0 AS a, 0 AS d FROM messages
            UNION ALL SELECT {day("created_at")}, 0, 1, 0, 0, 0 FROM conversations
            UNION ALL SELECT {day("created_at")}, 0, 0, 1, 0, 0 FROM users
            UNION ALL SELECT last_active_on, 0, 0, 0, 1, 0 FROM users WHERE last_active_on IS NOT NULL
            UNION ALL SELECT day, 0, 0, 0, 0, 1 FROM user_days
            UNION ALL SELECT day, -messages, -conversations, -users, -last_active_users, -active_users FROM daily_totals
        ) AS x GROUP BY day HAVING sum(m) <> 0 OR sum(c) <> 0 OR sum(u) <> 0 OR sum(a) <> 0 OR sum(d) <> 0
        """
    )


async def assert_exact(place: Place, store: Store, today: date) -> None:
    """Every figure that is kept equals a recount."""
    assert figures(await store.totals(10)) == await recount(place, today)
    assert await place.fetch(DIFFERING_CONVERSATIONS) == []
    assert await differing_days(place) == []


class Outcome:
    """What became of a send or a read mark."""

    def __init__(self) -> None:
        self.future: asyncio.Future[tuple[Any, bool]] = asyncio.get_running_loop().create_future()

    def __call__(self, result: Any, duplicate: bool = False) -> None:
        self.future.set_result((result, duplicate))


async def send(store: Store, conversation: str, sender: str, id: str, body: str = "hello") -> Message | Refusal:
    """Send and wait for the answer."""
    return (await send_twice_told(store, conversation, sender, id, body))[0]


async def send_twice_told(
    store: Store, conversation: str, sender: str, id: str, body: str = "hello"
) -> tuple[Any, bool]:
    """Send and wait for the answer, and whether it had been stored before."""
    outcome = Outcome()
    store.send(Draft(conversation, sender, id, body), outcome)
    return await outcome.future


async def read(store: Store, user: str, conversation: str, seq: int) -> Any:
    """Move a read mark and wait for the answer."""
    outcome = Outcome()
    store.mark_read(user, conversation, seq, outcome)
    return (await outcome.future)[0]


async def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until a condition holds; what it returned."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def opened(place: Place, *, cluster: int | None = None, **options: Any) -> AsyncIterator[Store]:
    """A store at work, closed at the end; with ``cluster`` as a server's."""
    store = Store(place.url, **options)
    try:
        await store.migrate()
        await store.start(cluster)
        yield store
    finally:
        await store.close()


async def make_as_of(place: Place, revision: str) -> None:
    """What an earlier release left: tables and rows of a revision, with today's triggers but for what came later."""
    store = Store(place.url)
    try:
        await store.migrate(revision)
    finally:
        await store.close()
    if isinstance(place, Sqlite):
        names = [name for name in triggers_sqlite.TRIGGERS if "user_days" not in name]
        statements = [triggers_sqlite.trigger(name).replace(triggers_sqlite._USER_DAY, "") for name in names]
    else:
        heads = [head for head in triggers_postgresql.FUNCTIONS if "user_days" not in head]
        statements = [triggers_postgresql.function(head, "public") for head in heads]
        names = [name for name in triggers_postgresql.TRIGGERS if "user_days" not in name]
        statements += [statement for name in names for statement in triggers_postgresql.trigger(name)]
    await place.execute(";\n".join(statements))


@contextlib.contextmanager
def heartbeat() -> Iterator[list[float]]:
    """How long the event loop kept others waiting: the gaps between the beats of a task, in seconds."""
    gaps: list[float] = []

    async def beat() -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(0.005)
            now = loop.time()
            gaps.append(now - last)
            last = now

    task = asyncio.get_running_loop().create_task(beat())
    try:
        yield gaps
    finally:
        task.cancel()
