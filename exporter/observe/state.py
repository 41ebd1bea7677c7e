"""What is remembered of a source between scrapes and restarts: one small SQLite file of our own.

Each step is one transaction, so a process that is killed goes on where the last whole step ended. Who wrote and which
conversations there are is kept in sets: adding the same again changes nothing. A *generation* is one count of
everything; the next one is built beside the current one and takes its place when it is complete.

Tested in ``tests/observe/test_real_databases.py``.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from exporter.core.errors import Misconfigured
from exporter.observe.records import SourceError
from exporter.observe.tally import Facts

VERSION: Final = 4
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writers (
    generation INTEGER NOT NULL, person INTEGER NOT NULL, day INTEGER NOT NULL, PRIMARY KEY (generation, person)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conversations (
    generation INTEGER NOT NULL, conversation INTEGER NOT NULL, domain TEXT NOT NULL,
    PRIMARY KEY (generation, conversation)
) WITHOUT ROWID;
"""


class State:
    """The file, or memory when there is no path. One process at a time may have it."""

    def __init__(self, path: Path | None) -> None:
        """Open it; a file that cannot be read is begun anew. Raises Misconfigured."""
        self.path = path
        self._lock = threading.RLock()  # a step may be under way in a thread when somebody closes
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if not _damaged(error):
                raise Misconfigured(_reason(_name(error), path)) from error
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Without the file that was: everything in it can be counted again."""
        if self.path is not None:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._connection = self._open()

    def _failed(self, error: sqlite3.Error) -> SourceError:
        """What to tell; a damaged file is replaced by an empty one, so that the next attempt counts anew."""
        if not _damaged(error):
            return SourceError(f"cannot write the state file {self.path}: is there room?")
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._begin_anew()
        return SourceError(f"the state file {self.path} was damaged: everything is counted anew")

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path or ":memory:", isolation_level=None, timeout=2.0, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -4096")
            connection.execute("PRAGMA wal_autocheckpoint = 2000")
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                for table in ("meta", "writers", "conversations"):
                    connection.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        except BaseException:  # interrupted, too: the file must not stay locked
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """All that is changed within is kept together or not at all. Raises SourceError when it cannot be kept."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException as error:  # interrupted, too: all of a step is kept or nothing
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.DatabaseError):  # of a damaged file
                        self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise self._failed(error) from error
                raise

    def _rows(self, query: str, *values: Any) -> list[Any]:
        """Raises SourceError where the file is damaged."""
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                if self._connection.in_transaction:  # within a step, which ends with it
                    raise
                raise self._failed(error) from error

    def get(self, key: str, type: Any = Any) -> Any:
        """A value of this type that was put, None when there is none."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return msgspec.json.decode(rows[0][0], type=type) if rows else None

    def put(self, key: str, value: Any) -> None:
        """Keep a value that msgspec writes as JSON; None takes it away."""
        if value is None:
            self._connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            text = msgspec.json.encode(value).decode()
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))

    def absorb(self, generation: int, facts: Facts) -> None:
        """Add people and conversations to a generation; a person's day only moves forward."""
        people = ((person, facts.writers[person]) for person in sorted(facts.writers))
        apart = ((person, day) for day, found in facts.writers_by_day.items() for person in sorted(found))
        self._connection.executemany(
            "INSERT INTO writers VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET day = max(day, excluded.day)",
            ((generation, person, day) for person, day in chain(people, apart)),
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO conversations VALUES (?, ?, ?)",
            ((generation, id, facts.conversations[id]) for id in sorted(facts.conversations)),
        )

    def days(self, generation: int) -> dict[int, int]:
        """How many people wrote last on which day."""
        query = "SELECT day, COUNT(*) FROM writers WHERE generation = ? GROUP BY day"
        return dict(self._rows(query, generation))

    def domains(self, generation: int) -> dict[str, int]:
        """How many conversations there are by domain; rooms under the empty one."""
        query = "SELECT domain, COUNT(*) FROM conversations WHERE generation = ? GROUP BY domain"
        return dict(self._rows(query, generation))

    def day_of(self, generation: int, person: int) -> int | None:
        """When somebody wrote last."""
        query = "SELECT day FROM writers WHERE generation = ? AND person = ?"
        row = self._connection.execute(query, (generation, person)).fetchone()
        return None if row is None else row[0]

    def has_conversation(self, generation: int, conversation: int) -> bool:
        """Is it among those of a generation?"""
        query = "SELECT 1 FROM conversations WHERE generation = ? AND conversation = ?"
        return self._connection.execute(query, (generation, conversation)).fetchone() is not None

    def forget_generation(self, generation: int) -> None:
        """Throw away what an abandoned count left."""
        for table in ("writers", "conversations"):
            self._connection.execute(f"DELETE FROM {table} WHERE generation = ?", (generation,))

    def forget(self, *, but: int | None = None) -> None:
        """Throw away every generation but one; without one, everything."""
        for table in ("writers", "conversations"):
            self._connection.execute(f"DELETE FROM {table} WHERE generation IS NOT ?", (but,))
        if but is None:
            self._connection.execute("DELETE FROM meta")

    def close(self) -> None:
        """Close the file, when the step under way is done."""
        with self._lock:
            self._connection.close()


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


def _damaged(error: sqlite3.Error) -> bool:
    return _name(error).startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT"))


def _reason(name: str, path: Path | None) -> str:
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another process observes with the state in {path}: give each its own --data.dir"
    return f"cannot open the state file {path}: is the folder there, with room, and may this user write to it?"
