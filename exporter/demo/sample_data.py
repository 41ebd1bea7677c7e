"""Three months of plausible history for a demo, through the documented tables. Knows no server and no event loop.

Plain SQL by another program, as the schema allows: triggers keep the totals. It happens in one transaction, and only
in a database where nobody has ever written anything; what it writes is therefore also the mark that it was done.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final

from exporter.simulate.people.organisation import PHRASES, Organisation
from exporter.store.location import SqliteLocation, locate

DAYS: Final = 92
COLLEAGUES: Final = 3  # for each simulated person so many who are not simulated: they came, wrote, and some have left
_HOURS: Final = (1, 0, 0, 0, 0, 1, 3, 10, 40, 80, 90, 70, 30, 60, 85, 80, 60, 30, 12, 8, 8, 7, 4, 2)  # messages by hour
_TABLES: Final = {
    "users": ("id", "created_at"),
    "conversations": ("id", "created_at"),
    "conversation_members": ("conversation_id", "user_id", "last_read_seq"),
    "messages": ("conversation_id", "seq", "sender_id", "body", "sent_at"),
}
_ANYTHING: Final = " UNION ALL ".join(
    f"SELECT 1 FROM (SELECT 1 FROM {table} LIMIT 1) AS t"  # noqa: S608  # our own names
    for table in _TABLES
)


@dataclass(slots=True)
class Past:
    """Rows by table, in the columns of ``_TABLES``; times are aware datetimes, messages ascending in time."""

    users: list[tuple[str, datetime]] = field(default_factory=list)
    conversations: list[tuple[str, datetime]] = field(default_factory=list)
    conversation_members: list[tuple[str, str, int]] = field(default_factory=list)
    messages: list[tuple[str, int, str, str, datetime]] = field(default_factory=list)

    def tables(self) -> Iterator[tuple[str, Sequence[tuple[object, ...]]]]:
        """Table names and rows, parents first."""
        for table in _TABLES:
            yield table, getattr(self, table)


@dataclass(slots=True)
class _Room:
    """A conversation of the past: who was a member, from when until when (days ago) each of them wrote."""

    id: str
    since: int
    members: list[tuple[str, int, int]]
    seq: int = 0


def invent(organisation: Organisation, now: datetime) -> Past:
    """The past of the simulated people and of their colleagues, up to now. The same seed tells the same story."""
    random = Random(f"{organisation.seed}/past")
    people = len(organisation.people)
    others = Organisation(people * COLLEAGUES, max(4, len(organisation.conversations)), organisation.seed)
    past = Past()
    rooms: list[_Room] = []
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for company, lasting in ((organisation, True), (others, False)):
        spans = {person.name: _span(random, lasting) for person in company.people}
        for name, (first, _) in spans.items():
            past.users.append((name, midnight - timedelta(days=first) + timedelta(seconds=random.uniform(25e3, 60e3))))
        for conversation, members in zip(company.conversations, company.members, strict=True):
            since = random.randint(10, DAYS) if rooms else DAYS
            past.conversations.append((conversation, midnight - timedelta(days=since) + timedelta(hours=6)))
            named = [company.people[member].name for member in members]
            rooms.append(_Room(conversation, since, [(name, *spans[name]) for name in named]))
    random.shuffle(rooms)
    for ago in range(DAYS - 1, -1, -1):
        _day(random, past, rooms, midnight - timedelta(days=ago), ago, now)
    for room in rooms:
        for name, _, _ in room.members:
            past.conversation_members.append((room.id, name, max(0, room.seq - int(random.expovariate(0.2)))))
    past.users.sort(key=lambda user: user[1])
    return past


def _span(random: Random, lasting: bool) -> tuple[int, int]:
    """From how many days ago to how many days ago somebody writes."""
    first = DAYS - int(random.betavariate(1, 2.5) * (DAYS - 2))
    if lasting or random.random() < 0.45:
        return first, 0
    return first, min(first, int(random.expovariate(1 / 25)))


def _day(random: Random, past: Past, rooms: list[_Room], midnight: datetime, ago: int, now: datetime) -> None:
    weekday = (0.95, 1.1, 1.15, 1.05, 0.8, 0.12, 0.09)[midnight.weekday()]
    growth = 0.35 + 0.65 * (DAYS - ago) / DAYS
    seconds = _times(random, round(320 * weekday * growth * random.uniform(0.8, 1.2)))
    open_rooms = [room for room in rooms if room.since > ago]
    cumulative = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(open_rooms))))
    here = {room.id: [name for name, first, last in room.members if last <= ago <= first] for room in open_rooms}
    for second in seconds:
        sent_at = midnight + timedelta(seconds=second)
        if sent_at >= now:
            break
        room = random.choices(open_rooms, cum_weights=cumulative)[0]
        if writers := here[room.id]:
            room.seq += 1
            sender = writers[int(random.random() ** 2 * len(writers))]
            past.messages.append((room.id, room.seq, sender, random.choice(PHRASES), sent_at))


def _times(random: Random, count: int) -> list[float]:
    """Seconds after midnight, ascending, as an office writes."""
    hours = random.choices(range(24), _HOURS, k=count)
    return sorted(3600 * (hour + random.random()) for hour in hours)


class NoHistory(Exception):
    """The past could not be written. The message is the kind of error alone: a driver's words may repeat the URL."""


async def backfill(
    url: str, organisation: Organisation, now: datetime | None = None, *, schema: str | None = None
) -> int:
    """Writes the past into an empty database and returns how many messages that were; 0 where there was something.

    ``url`` and ``schema`` are the user's, of a database that has been migrated. Raises NoHistory.
    """
    place = locate(url)
    moment = now or datetime.now(UTC)
    try:
        if isinstance(place, SqliteLocation):
            return await asyncio.to_thread(_sqlite, place.path, organisation, moment)
        return await _postgresql(place.dsn, schema, organisation, moment)
    except (OSError, sqlite3.Error) as error:
        raise NoHistory(type(error).__name__) from error


def _sqlite(path: Path, organisation: Organisation, now: datetime) -> int:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute(_ANYTHING).fetchone() is not None:
            return 0
        past = invent(organisation, now)
        for table, rows in past.tables():
            columns = _TABLES[table]
            marks = ", ".join("?" * len(columns))
            sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608  # our own names
            connection.executemany(sql, (tuple(map(_plain, row)) for row in rows))
        connection.execute("COMMIT")
        return len(past.messages)
    finally:
        connection.close()  # rolls back what was not committed


def _plain(value: object) -> object:
    if not isinstance(value, datetime):
        return value
    return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03}Z"


async def _postgresql(dsn: str, schema: str | None, organisation: Organisation, now: datetime) -> int:
    import asyncpg  # the extra postgres

    from exporter.store.dialects.libpq import target

    place = target(dsn, schema)
    try:
        connection = await asyncpg.connect(place.dsn, timeout=10, statement_cache_size=0)  # for a pooler's sake
    except asyncpg.PostgresError as error:
        raise NoHistory(type(error).__name__) from error
    try:
        async with connection.transaction():
            for name, value in place.settings.items():
                await connection.execute("SELECT set_config($1, $2, true)", name, value)
            await connection.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
            if await connection.fetchval(_ANYTHING) is not None:
                return 0
            past = invent(organisation, now)
            for table, rows in past.tables():
                await connection.copy_records_to_table(table, records=rows, columns=_TABLES[table])
            return len(past.messages)
    except asyncpg.PostgresError as error:
        raise NoHistory(type(error).__name__) from error
    finally:
        await connection.close()
