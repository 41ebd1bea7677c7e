"""SQLite files of running servers. How a file is opened is decided by its header, not by a guess.

*Rollback journal* (ejabberd, Prosody): their writers do not wait, so a reader that holds a lock for a millisecond makes
a message vanish. The file is opened ``immutable``: no lock at all, on a fresh connection for each reading. What was
read is thrown away when the file's change counter moved meanwhile or a journal stood, and is then read again; a page
torn by a write raises "malformed" although the file is sound.

*Write-ahead log* (Synapse): ``mode=ro`` in a short transaction; ``immutable`` would miss what is in the log. Where
there is no log (the server is stopped), everything is in the file, and ``mode=ro`` would create files beside it.

Tested in ``tests/observe/test_harmless.py``.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from exporter.observe.connections import Horizon, Row, Snapshot
from exporter.observe.mapping import Dialect
from exporter.observe.records import SourceError
from exporter.store import errors

T = TypeVar("T")

LONGEST: Final = 2.0
"""Seconds that a transaction on a write-ahead log may take: meanwhile the log cannot be put away."""
HEADER: Final = 100
WAL: Final = 2
PAUSE: Final = 0.02
"""Seconds between attempts, on the average: a server's write takes some milliseconds."""
_MAGIC: Final = b"SQLite format 3\x00"
_TORN: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR", "SQLITE_SCHEMA", "SQLITE_CANTOPEN")
MOVING: Final = "the file was being written to during every attempt to read it"
HOT: Final = (
    "a journal stands beside the file: a write is under way, or the server crashed and will tidy up at its start"
)
REPLACED: Final = "another file has been put in the database's place: it is looked at anew"
CRASHED: Final = "the server left a write-ahead log and does not run: what is in it is known when it has started again"


@dataclass(frozen=True, slots=True)
class _State:
    """The file as it is at one moment; two that are equal have nothing written between them."""

    wal: bool
    inode: tuple[int, int]
    changes: int
    size: int
    modified: int


class _Moved(Exception):
    """The file changed under a reading without locks."""


class _Snapshot:
    """The connection of one reading, which may end at any moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._statement = threading.Lock()
        self._ended = False

    async def fetch(self, sql: str) -> Sequence[Row]:
        return await asyncio.to_thread(self._rows, sql)

    def _rows(self, sql: str) -> Sequence[Row]:
        with self._statement:
            if self._ended:
                raise SourceError(errors.TIMEOUT, slow=True)
            return self._connection.execute(sql).fetchall()

    async def expect_many(self) -> None:
        """It looks each row up by an index in any case."""

    def end(self) -> None:
        """Let no statement begin, interrupt the one under way, then close. Waits for it: not for the loop's thread.

        A statement that its thread is only about to begin hears no interrupt, so it is told until it has ended. A
        progress handler would not do: SQLite counts a table's rows in one instruction. Closing beside a statement
        crashes the process, or stops all of it until the statement has ended.
        """
        self._ended = True
        while not self._statement.acquire(timeout=0.01):
            self._connection.interrupt()
        try:
            self._connection.close()
        finally:
            self._statement.release()


class SqliteReader:
    """One file. ``mode=ro`` where locks do no harm, ``immutable`` where they would."""

    dialect = Dialect("sqlite")
    page_seconds = (
        0.1  # a longer one finds no quiet moment on a busy file, and keeps a write-ahead log from being put away
    )
    full_speed_page_seconds = page_seconds

    def __init__(self, path: Path, *, ours: bool = False) -> None:
        """``ours``: this process writes the file, too, so it is read with locks in any case.

        A connection without locks would take those of the process's other connections away when it is closed.
        """
        self._path = path
        self._ours = ours
        self._file: tuple[int, int] | None = None
        self._lock = asyncio.Lock()

    @property
    def read_mode(self) -> str:
        """By the file's header."""
        try:
            wal = self._state().wal
        except OSError as error:
            raise self._meant(error) from error
        except SourceError as error:
            self._meant(error)
            raise
        if wal:
            return "in short read transactions (write-ahead log)"
        return "in short read transactions (rollback journal)" if self._ours else "without any lock (rollback journal)"

    async def read(self, work: Callable[[Snapshot], Awaitable[T]], seconds: float) -> T:
        """On a connection of its own."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        async with self._lock:
            last = self._meant(SourceError(errors.TIMEOUT, slow=True))
            while (left := until - loop.time()) > 0:
                try:
                    return await self._attempt(work, left)
                except _Moved as moved:
                    last = self._meant(SourceError(str(moved), slow=True))
                except SourceError as error:
                    self._meant(error)
                    raise
                except (sqlite3.Error, OSError, ValueError, UnicodeError) as error:
                    last = self._meant(error)
                    if not str(getattr(error, "sqlite_errorname", "")).startswith(_TORN):
                        raise last from error
                await asyncio.sleep(random.uniform(0.5, 1.5) * PAUSE)
            raise last

    async def _attempt(self, work: Callable[[Snapshot], Awaitable[T]], seconds: float) -> T:
        before = self._state()
        known, self._file = self._file, before.inode
        if known not in (None, before.inode):
            raise SourceError(REPLACED)  # once: whoever reads on has looked whose it is
        log, shared = self._beside("-wal").exists(), self._beside("-shm").exists()
        if before.wal and log and not shared:
            raise SourceError(CRASHED)
        locked = log if before.wal else self._ours
        if not locked and self._hot():
            raise _Moved(HOT)
        result = await self._run(
            work, "mode=ro" if locked else "mode=ro&immutable=1", seconds if not locked else min(seconds, LONGEST)
        )
        if not locked and (self._hot() or self._state() != before or (before.wal and self._beside("-wal").exists())):
            raise _Moved(MOVING)
        return result

    async def _run(self, work: Callable[[Snapshot], Awaitable[T]], options: str, seconds: float) -> T:
        if not self._ours:
            return await self._transaction(work, options, seconds, [])
        # Nothing of it on this loop: where somebody commits on it, it waits for the lock that the reading has, and a
        # reading that waits for the loop never ends.
        begun: list[_Snapshot] = []
        reading = asyncio.ensure_future(asyncio.to_thread(_apart, self._transaction(work, options, seconds, begun)))
        reading.add_done_callback(_heard)
        try:
            await asyncio.wait({reading})
        except asyncio.CancelledError:
            for snapshot in begun:
                await asyncio.shield(asyncio.to_thread(snapshot.end))
            raise
        return reading.result()

    async def _transaction(
        self, work: Callable[[Snapshot], Awaitable[T]], options: str, seconds: float, begun: list[_Snapshot]
    ) -> T:
        snapshot, loop = _Snapshot(await asyncio.to_thread(self._open, options)), asyncio.get_running_loop()
        begun.append(snapshot)
        timer = loop.call_later(seconds, loop.run_in_executor, None, snapshot.end)
        try:
            await snapshot.fetch("BEGIN")
            working = asyncio.ensure_future(work(snapshot))
            working.add_done_callback(_heard)
            await asyncio.wait({working})  # ``shield`` of Python 3.14 logs how it ends for who was cancelled
            return working.result()
        finally:
            timer.cancel()
            await asyncio.shield(asyncio.to_thread(snapshot.end))

    def _open(self, options: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self._path.absolute()))}?{options}",
            uri=True,
            timeout=0.5,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
        connection.text_factory = lambda data: data.decode(errors="replace")
        return connection

    def _meant(self, error: BaseException) -> SourceError:
        """What an error means, and of which file."""
        failure = _source_error(error)
        failure.where = failure.where or str(self._path.absolute())
        return failure

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)

    def _hot(self) -> bool:
        """Is there a journal with something in it? ``persist`` and ``truncate`` leave an empty or blanked one."""
        try:
            with self._beside("-journal").open("rb") as journal:
                return any(journal.read(8))
        except FileNotFoundError:
            return False

    def _state(self) -> _State:
        status = self._path.stat()
        header = os.pread(_descriptor(self._path, status), HEADER, 0)
        if len(header) < HEADER or not header.startswith(_MAGIC):
            raise SourceError(errors.DAMAGED, lasting=True)
        return _State(
            wal=header[18] == WAL or header[19] == WAL,
            inode=(status.st_dev, status.st_ino),
            changes=int.from_bytes(header[24:28], "big"),
            size=status.st_size,
            modified=status.st_mtime_ns,
        )

    async def identity(self) -> dict[str, Any]:
        """The file itself; a copy put in its place is another one. ``changes`` never goes back."""
        try:
            state = self._state()
        except OSError as error:
            raise self._meant(error) from error
        except SourceError as error:
            self._meant(error)
            raise
        return {"file": state.inode[1], "changes": state.changes}

    async def columns(self) -> dict[str, dict[str, str]]:
        """As the file's own schema says; a type binds no value here."""

        async def work(snapshot: Snapshot) -> dict[str, dict[str, str]]:
            rows = await snapshot.fetch(
                "SELECT m.name, p.name, p.type FROM sqlite_master m, pragma_table_xinfo(m.name) p "
                "WHERE m.type IN ('table', 'view')"
            )
            found: dict[str, dict[str, str]] = {}
            for table, column, type_ in rows:
                found.setdefault(table, {})[column] = type_
            return found

        return await self.read(work, 10.0)

    async def horizon(self, snapshot: Snapshot) -> Horizon | None:
        """There is one writer at a time: what is seen is in the order of its commits."""
        return None

    async def close(self) -> None:
        """Nothing is kept open."""


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """On an event loop of this thread's own."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(work)


_descriptors: Final[dict[tuple[int, int], int]] = {}
_opening: Final = threading.Lock()


def _descriptor(path: Path, status: os.stat_result) -> int:
    """Of the file that is there, open for reading. It stays open as long as the process lives.

    Closing any descriptor of a file takes away all locks that the process has on it: those of a reading under way in
    another source, or of the program that this is built into.
    """
    with _opening:
        found = _descriptors.get((status.st_dev, status.st_ino))
        if found is None:
            for file, descriptor in list(_descriptors.items()):
                if not os.fstat(descriptor).st_nlink:  # gone for good: its room on the disk is to be free
                    os.close(_descriptors.pop(file))
            found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            opened = os.fstat(found)  # it may have been replaced since
            found = _descriptors.setdefault((opened.st_dev, opened.st_ino), found)
        return found


def _heard(working: asyncio.Future[Any]) -> None:
    """Who was cancelled does not ask how the work ended, and asyncio would log that nobody did."""
    if not working.cancelled():
        working.exception()


def _source_error(error: BaseException) -> SourceError:
    if isinstance(error, SourceError):
        return error
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return SourceError("there is no database file at that path", lasting=True)
    if isinstance(error, PermissionError):
        return SourceError("the file may not be read by this user", lasting=True)
    if isinstance(error, OSError):
        return SourceError(errors.BROKEN_DISK)
    name = str(getattr(error, "sqlite_errorname", None) or "")
    if name == "SQLITE_INTERRUPT":
        return SourceError(errors.TIMEOUT, slow=True)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return SourceError(errors.LOCKED, slow=True)
    if name.startswith("SQLITE_CANTOPEN"):
        return SourceError("the file, or its -shm file beside it, may not be read by this user", lasting=True)
    if name.startswith("SQLITE_READONLY"):
        return SourceError(CRASHED)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return SourceError("the file could not be read in one piece while it was written to, or is damaged", slow=True)
    if isinstance(error, sqlite3.OperationalError) and str(error).startswith("no such"):
        return SourceError(
            "the source lacks tables or columns that are needed: observe --check says which", lasting=True
        )
    return SourceError(errors.UNKNOWN)
