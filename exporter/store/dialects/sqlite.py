"""SQLite through aiosqlite: one thread per connection, one file in WAL mode.

Tested in ``tests/store/test_outages.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite
import msgspec
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import AsyncAdaptedQueuePool

from exporter.core.errors import Misconfigured
from exporter.store import errors
from exporter.store.dialects.aiosqlite_seams import open_connection
from exporter.store.dialects.base import Ask, Dialect, Row, Session
from exporter.store.dialects.sqlite_errors import is_full, translate_error
from exporter.store.dialects.sqlite_files import Files
from exporter.store.engine import AsyncConnection, AsyncEngine, create_async_engine
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.schema import catalogue_sqlite, triggers_sqlite
from exporter.store.schema.shape import ADD_TO_DAY, ADDED, COLUMNS, SUMMED, Difference

OLDEST = (3, 35)
"""The first with ``RETURNING``, of 2021."""
MIGRATION_WAIT = 600.0
"""Seconds to wait for another process that migrates: ten million messages are counted in less than a minute."""

KEPT_LOG = 16 * 1024 * 1024
"""Bytes that the file -wal keeps for what is written next: four times what an ordinary load makes of it."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")

EARLIEST = datetime.min.replace(tzinfo=UTC)

PRAGMAS = (
    "synchronous = FULL",  # in WAL mode the default of some builds would lose the latest commits with the power
    "foreign_keys = ON",
    "cache_size = -16384",  # 16 MiB; the default 2 MiB thrashes at ten million rows
    f"journal_size_limit = {KEPT_LOG}",  # what a storm or a long reader made of the log would else stay for ever
)
"""What each connection sets for itself."""


def _machine() -> str:
    try:
        return _BOOT.read_text("ascii").strip()  # a container has a host name of its own
    except OSError:
        return socket.gethostname()


class SqliteSession:
    """One aiosqlite connection; each statement is one visit to its thread."""

    def __init__(self, driver: aiosqlite.Connection, path: Path) -> None:
        self._driver = driver
        self._path = path

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """Run one statement and return all its rows."""
        try:
            return list(await self._driver.execute_fetchall(_numbered(sql), args))
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise translate_error(error, self._path) from error

    async def execute(self, sql: str) -> None:
        """Run one statement."""
        await self.fetch(sql)

    async def abort(self) -> None:
        """Interrupt the statement under way; a wait for a lock ends after ``busy_timeout`` at the latest."""
        try:
            await self._driver.interrupt()
        except (sqlite3.Error, ValueError):
            return


_NUMBERED: dict[str, str] = {}


def _numbered(sql: str) -> str:
    # "$1" is a name to SQLite and "?1" is a number. Queries are few and constant, so the table stays small.
    found = _NUMBERED.get(sql)
    if found is None:
        found = _NUMBERED[sql] = re.sub(r"\$(\d)", r"?\1", sql)
    return found


def _text(stored: bytes) -> str:
    """SQLite keeps as text whatever bytes a program calls so; one such row must not hide all others of its page."""
    return stored.decode(errors="replace")


def _lock_holders(path: Path) -> list[str]:
    found = set()
    with contextlib.suppress(OSError, ValueError, IndexError):
        files = (path, path.with_name(path.name + "-shm"))
        inodes = {file.stat().st_ino for file in files if file.exists()}
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # "1: POSIX ADVISORY WRITE 4711 08:01:5678 120 120"
            if "WRITE" in words and int(words[words.index("WRITE") + 2].rpartition(":")[2]) in inodes:
                found.add(int(words[words.index("WRITE") + 1]))
    named = []
    for pid in sorted(found - {os.getpid()}):
        with contextlib.suppress(OSError):
            named.append(f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})")
    return named


class SqliteDialect(Dialect):
    """One file in WAL mode: readers never wait for the writer."""

    name = "sqlite"
    begin = "BEGIN IMMEDIATE"
    begin_writing = begin
    compact = (
        f"{ADD_TO_DAY} SELECT day, 0, {SUMMED} FROM daily_totals WHERE day < $1 AND shard <> 0 GROUP BY day {ADDED}",
        "DELETE FROM daily_totals WHERE day < $1 AND shard <> 0",
    )
    latest_day = "date('now', '+1 hour')"
    drivers = (sqlite3.Error, SQLAlchemyError, OSError, ValueError)
    behind = "0"
    lock = ""  # BEGIN IMMEDIATE has locked everything

    def __init__(self, path: Path) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            raise Misconfigured(f"Python's SQLite is {sqlite3.sqlite_version}: 3.35 or newer is needed")
        self.path = path
        self.place = str(path.absolute())
        self._files = Files(path)

    def engine(self, timeout: float, connections: int) -> AsyncEngine:
        """Connections that never create the file: a file that was moved away must not come back empty."""
        engine = self._engine(timeout, connections, "rw")

        @event.listens_for(engine.sync_engine, "connect")
        def read_any_text(connection: Any, _record: Any) -> None:
            connection.driver_connection.text_factory = _text

        return engine

    def maintenance_engine(self, timeout: float) -> AsyncEngine:
        """One more connection: nothing limits its statements."""
        return self._engine(timeout, 1, "rw")

    def migrating_engine(self) -> AsyncEngine:
        """One connection that may create the file; it waits for another process's migration."""
        engine = self._engine(MIGRATION_WAIT * 2, 1, "rwc")

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    async def prepare_migration(self, connection: AsyncConnection) -> None:
        """Write-ahead logging, which the file remembers."""
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, aiosqlite.Connection)  # noqa: S101 — the engine above makes no other
        await SqliteSession(driver, self.path).fetch("PRAGMA journal_mode = WAL")

    async def lock_migration(self, connection: AsyncConnection) -> None:
        """``BEGIN IMMEDIATE`` has done it."""

    async def check_rights(self, session: Session) -> None:
        """Can the file be written?"""
        await session.execute(self.begin)
        try:
            # Taking the lock needs no write; this does, and is rolled back.
            await session.execute("UPDATE verification SET repairs = repairs")
        finally:
            await session.execute("ROLLBACK")

    async def check_writing(self, session: Session, *, doubtful: bool) -> None:
        """Takes the lock and writes; to the disk only where a write has failed, so an idle server writes nothing."""
        if doubtful:
            if is_full(self.path.parent):  # what little is written here may have its room in the log, and nothing else
                raise DatabaseError(ErrorKind.DISCONNECTED, errors.FULL, self.place)
            await self.dry_run(session)
        await session.fetch(COLUMNS)
        await session.execute(self.begin)
        try:
            await session.execute("UPDATE verification SET repairs = repairs")
            await session.execute("COMMIT" if doubtful else "ROLLBACK")
        except DatabaseError:
            with contextlib.suppress(DatabaseError):
                await session.execute("ROLLBACK")
            raise

    def _engine(self, timeout: float, connections: int, mode: str) -> AsyncEngine:
        url = URL.create(
            "sqlite+aiosqlite",
            database="file:" + quote(str(self.path.absolute())),
            query={"mode": mode, "uri": "true"},
        )
        engine = create_async_engine(
            url,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_reset_on_return=None,  # whoever opens a transaction ends it
            # Below the caller's own time limit, so that a lock is reported as a lock.
            connect_args={"timeout": timeout / 2, "isolation_level": None, "async_creator_fn": open_connection},
        )

        @event.listens_for(engine.sync_engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            self._files.opening(connection.driver_connection)
            cursor = connection.cursor()
            try:
                for pragma in PRAGMAS:  # some of them read
                    cursor.execute(f"PRAGMA {pragma}")
            finally:
                cursor.close()
            self._files.opened()

        @event.listens_for(engine.sync_engine, "close")
        def save(connection: Any, _record: Any) -> None:
            self._files.closing(connection.driver_connection)
            if self._files.log_has_no_name():  # SQLite does it itself, but not while another program has it open
                with contextlib.suppress(*self.drivers):
                    connection.rollback()
                    connection.cursor().execute("PRAGMA wal_checkpoint")

        return engine

    async def named(self, session: Session, names: Sequence[str]) -> list[str]:
        """Tables, views and indexes share one space of names."""
        return await catalogue_sqlite.named(session, names)

    async def differences(self, session: Session, revision: str | None = None) -> list[Difference]:
        """A key that is gone can be made again as an index; a default cannot."""
        return await catalogue_sqlite.differences(session, revision)

    async def lock_holders(self, ask: Ask) -> list[str]:
        """Other processes of this machine that have locked the file, where the kernel tells (Linux)."""
        return await asyncio.to_thread(_lock_holders, self.path)

    async def session(self, connection: AsyncConnection, deadline: float | None) -> Session:
        """The aiosqlite connection behind the pool's; who waits for it interrupts it."""
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        assert isinstance(driver, aiosqlite.Connection)  # noqa: S101 — the engine above makes no other
        return SqliteSession(driver, self.path)

    def translate(self, error: BaseException) -> DatabaseError:
        """What an error means, SQLAlchemy's wrapping taken off."""
        return translate_error(getattr(error, "orig", None) or error, self.path)

    def check(self) -> None:
        """Are the files still those that were opened?"""
        self._files.check()

    async def identity(self, session: Session) -> str:
        """The file, and the machine that it is on."""
        found = self._files.database()
        return "" if found is None else f"{_machine()}/{found[0]}/{found[1]}"

    def remember_identity(self) -> None:
        """Remember which file it is."""
        self._files.remember()

    def source(self, **columns: str) -> str:
        """The rows of one JSON array of arrays."""
        picked = ", ".join(f"json_extract(value, '$[{i}]') AS {name}" for i, name in enumerate(columns))
        return f"SELECT key + 1 AS pos, {picked} FROM json_each(?1)"

    def pack(self, rows: Sequence[Row]) -> tuple[Any, ...]:
        """One JSON text."""
        return (msgspec.json.encode(rows).decode(),)

    def time(self, expression: str) -> str:
        """Milliseconds, whatever form another program chose; text that is no time, as old rows may have, is empty."""
        return f"CASE WHEN {expression} IS NOT NULL THEN coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', {expression}), '') END"

    def utc_day(self, expression: str) -> str:
        """As the triggers take it."""
        return triggers_sqlite.day(expression)

    def when(self, value: Any) -> datetime:
        """A time out of a row, in UTC; the earliest there is for what lies before it or is none."""
        try:
            return datetime.fromisoformat(value)
        except ValueError:  # the years 0 and before are times to SQLite
            return EARLIEST

    def moment(self, value: datetime) -> Any:
        """ISO 8601 with milliseconds and Z: of one width, so that text sorts as time does."""
        return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"

    def day(self, value: datetime) -> Any:
        """ISO 8601."""
        return value.date().isoformat()
