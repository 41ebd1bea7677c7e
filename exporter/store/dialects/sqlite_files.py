"""Which files a database in WAL mode is made of, and whether they are still there. Runs no statement.

What was committed last is in the file -wal, and -shm tells all processes where in it. SQLite keeps both where they are
while anybody has the database open, and never looks whether they are still there. When something else removes them,
a cleaning job for instance, what is committed goes on into a file without a name, which ends with this process, and
whoever opens the database next gets new files that know nothing of it: the two would overwrite each other. The way out
is to close every connection: the last one writes back what is in the old files, and the next makes new ones. The last
of this process is not the last of all where another program has it open, too: each writes back what it can.

Tested in ``tests/store/test_outages.py``.
"""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakSet

import aiosqlite

from exporter.store import errors
from exporter.store.dialects.aiosqlite_seams import is_open
from exporter.store.dialects.sqlite_errors import not_there
from exporter.store.errors import DatabaseError, ErrorKind

_Identity = tuple[int, int] | None  # device and inode; None: it is not there


class Files:
    """The database and the two files beside it, as they were when they were opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = str(path)
        target = os.path.realpath(path)  # SQLite makes them beside what a link leads to
        self._wal, self._shm = f"{target}-wal", f"{target}-shm"
        self._database: _Identity = None
        self._beside: tuple[_Identity, _Identity] | None = None
        self._connections: WeakSet[aiosqlite.Connection] = WeakSet()

    def check(self) -> None:
        """Are they where they were? A commit into an unlinked file is lost. Raises DatabaseError."""
        if self._database is not None and self.database() != self._database:
            raise not_there(self._path)
        if self._beside is not None and (now := self._look_beside()) != self._beside and self._open():
            if self._beside != (None, None):
                raise DatabaseError(ErrorKind.DISCONNECTED, errors.LOG_GONE, f"{self._wal}, {self._shm}")
            if None not in now:  # a restored copy had no log until another program, a server's start, gave it one
                self._beside = now

    def database(self) -> tuple[int, int] | None:
        """Device and inode of the database that is there at this moment; None: there is none."""
        return _identity(self._file)

    def remember(self) -> None:
        """From now on the database is the file that is there at this moment."""
        self._database = self.database()

    def opening(self, connection: aiosqlite.Connection) -> None:
        """A connection is about to read for the first time. Raises DatabaseError."""
        self.check()
        if not self._open():
            self._beside = None  # whatever files it finds or makes are right
        self._connections.add(connection)

    def opened(self) -> None:
        """It has read. Raises DatabaseError: it may have other files open than the others have."""
        if self._beside is None:
            self._beside = self._look_beside()
        self.check()

    def closing(self, connection: aiosqlite.Connection) -> None:
        """A connection is about to be closed. If it is the last, SQLite takes the files away, and nobody else has."""
        if self._look_beside() == self._beside:
            self._connections.discard(connection)

    def log_has_no_name(self) -> bool:
        """Has somebody removed the log, and opened none since? Then what is in it can only be written back, or lost."""
        return self._beside is not None and self._beside[0] is not None and _identity(self._wal) is None

    def _open(self) -> bool:
        return any(map(is_open, self._connections))

    def _look_beside(self) -> tuple[_Identity, _Identity]:
        return _identity(self._wal), _identity(self._shm)


def _identity(file: str) -> _Identity:
    # On the loop: it takes 2 µs on a local file system, and SQLite in WAL mode works on no other.
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino
