"""Databases of other servers that tests write to: plain SQL on an SQLite file or in a PostgreSQL database."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg

from tests.servers.postgres import Postgres


class SqliteServer:
    """One file in WAL mode or with a rollback journal; one writer at a time."""

    engine = "sqlite"
    writers = 1

    def __init__(self, path: Path, journal: str = "wal") -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(f"PRAGMA journal_mode = {journal}")
        self._connection.execute("PRAGMA synchronous = OFF")

    def script(self, sql: str) -> None:
        """Several statements, committed."""
        self._connection.executescript(sql)

    def execute(self, sql: str, writer: int = 0) -> None:
        """One statement of a writer, in its transaction where it has begun one."""
        self._connection.execute(sql)

    def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """What everybody sees."""
        with contextlib.closing(sqlite3.connect(self.path)) as reader:
            return reader.execute(sql).fetchall()

    def close(self) -> None:
        self._connection.close()


class PostgresqlServer:
    """One database; each writer is a connection of its own."""

    engine = "postgresql"
    writers = 8

    def __init__(self, postgres: Postgres) -> None:
        self.name = postgres.create_database()
        self.url = postgres.url(self.name)
        self._loop = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1)  # with a loop of its own, so that tests with a loop may write, too
        self._connections: dict[int, asyncpg.Connection] = {}

    def _run(self, work: Any) -> Any:
        async def run() -> Any:
            return await work

        return self._thread.submit(lambda: self._loop.run(run())).result()

    def _connection(self, writer: int) -> Any:
        if writer not in self._connections:
            self._connections[writer] = self._run(asyncpg.connect(self.url, statement_cache_size=0))
        return self._connections[writer]

    def script(self, sql: str) -> None:
        """Several statements, committed."""
        self._run(self._connection(-1).execute(sql))

    def execute(self, sql: str, writer: int = 0) -> None:
        """One statement of a writer, in its transaction where it has begun one."""
        self._run(self._connection(writer).execute(sql))

    def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """What everybody sees."""
        return [tuple(row) for row in self._run(self._connection(-1).fetch(sql))]

    def close(self) -> None:
        for connection in self._connections.values():
            self._run(connection.close(timeout=5))
        self._thread.submit(self._loop.close).result()
        self._thread.shutdown()


Server = SqliteServer | PostgresqlServer


@contextlib.contextmanager
def closing(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.close()
