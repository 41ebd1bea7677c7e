"""What SQLite's errors mean, and what about the file they are about: SQLite says neither which file nor why.

Tested in ``tests/store/test_outages.py``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import sqlite3
import stat
from pathlib import Path

from exporter.store import errors
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.location import free_bytes

NEEDED = 64 * 1024
"""Bytes of free space: SQLite's shared memory takes half of it before anything is written."""

_BY_NAME = (
    ("SQLITE_BUSY", ErrorKind.TIMEOUT, errors.LOCKED),
    ("SQLITE_LOCKED", ErrorKind.TIMEOUT, errors.LOCKED),
    (
        "SQLITE_PROTOCOL",
        ErrorKind.TIMEOUT,
        errors.LOCKED,
    ),  # after ten seconds of asking for a lock of the shared memory
    ("SQLITE_INTERRUPT", ErrorKind.TIMEOUT, errors.TIMEOUT),
    ("SQLITE_FULL", ErrorKind.DISCONNECTED, errors.FULL),
    ("SQLITE_READONLY", ErrorKind.READ_ONLY, errors.READ_ONLY),
    ("SQLITE_PERM", ErrorKind.READ_ONLY, errors.READ_ONLY),
    ("SQLITE_IOERR", ErrorKind.DISCONNECTED, errors.BROKEN_DISK),
    ("SQLITE_CORRUPT", ErrorKind.CONFIGURATION, errors.DAMAGED),
    ("SQLITE_NOTADB", ErrorKind.CONFIGURATION, errors.DAMAGED),
    ("SQLITE_CANTOPEN", ErrorKind.CONFIGURATION, errors.NO_FILE),
    ("SQLITE_CONSTRAINT_UNIQUE", ErrorKind.CONFLICT, errors.KEY_TAKEN),
    ("SQLITE_CONSTRAINT_PRIMARYKEY", ErrorKind.CONFLICT, errors.KEY_TAKEN),
    ("SQLITE_CONSTRAINT_TRIGGER", ErrorKind.REFUSED, errors.REFUSED_BY_TRIGGER),
    ("SQLITE_CONSTRAINT_NOTNULL", ErrorKind.REFUSED, errors.UNFILLED),  # no value of ours is null
    ("SQLITE_CONSTRAINT", ErrorKind.DATA, errors.REJECTED),
    ("SQLITE_MISMATCH", ErrorKind.DATA, errors.REJECTED),
    ("SQLITE_TOOBIG", ErrorKind.DATA, errors.REJECTED),
    ("SQLITE_SCHEMA", ErrorKind.SERIALIZATION, errors.RACED),
)

_OF_THE_FILE = (ErrorKind.DISCONNECTED, ErrorKind.READ_ONLY, ErrorKind.CONFIGURATION)
"""What it is that fails then is the file, and not a statement."""
_BESIDE = "where SQLite keeps its files -wal and -shm beside the database"


def translate_error(error: BaseException, path: Path) -> DatabaseError:
    """What an error of the driver means, for a file at a path."""
    if isinstance(error, DatabaseError):
        return error
    name = str(getattr(error, "sqlite_errorname", None) or "")
    if name.startswith("SQLITE_IOERR") and is_full(path.parent):  # the files beside it, of which SQLite says no more
        return DatabaseError(ErrorKind.DISCONNECTED, errors.FULL, str(path.absolute()))
    for start, kind, text in _BY_NAME:
        if name.startswith(start):
            text = _of_the_path(path) if text == errors.NO_FILE else text
            return DatabaseError(kind, text, _where(path.absolute(), text) if kind in _OF_THE_FILE else "")
    if isinstance(error, (sqlite3.DataError, sqlite3.InterfaceError, UnicodeError, OverflowError)):
        return DatabaseError(ErrorKind.DATA, errors.REJECTED)
    if isinstance(error, sqlite3.OperationalError) and str(error).startswith("no such"):
        return DatabaseError(ErrorKind.CONFIGURATION, errors.NO_SCHEMA)
    if isinstance(error, sqlite3.OperationalError) and str(error).endswith("already exists"):
        return DatabaseError(ErrorKind.CONFIGURATION, errors.FOREIGN)
    if isinstance(error, ValueError):  # aiosqlite: "no active connection", "Connection closed"
        return DatabaseError(ErrorKind.DISCONNECTED, errors.LOST)
    return DatabaseError(ErrorKind.DISCONNECTED, errors.UNKNOWN, name)


def is_full(folder: Path) -> bool:
    """Is nothing free there?"""
    with contextlib.suppress(OSError):
        return free_bytes(folder) < NEEDED
    return False


def not_there(path: Path) -> DatabaseError:
    """Why the file at a path is not the one that was opened there."""
    text = errors.MOVED
    with contextlib.suppress(OSError):
        try:
            path.stat()
        except PermissionError:
            text = errors.NO_FILE  # the folder was shut, and the file may well be in it
    return DatabaseError(ErrorKind.DISCONNECTED, text, _where(path.absolute(), text))


def _of_the_path(path: Path) -> str:
    """Why a file cannot be opened, as far as the path alone tells."""
    try:
        found = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return errors.NO_FILE_YET if os.path.isdir(path.parent) else errors.NO_FOLDER
    except OSError:
        return errors.NO_FILE
    return errors.A_FOLDER if stat.S_ISDIR(found) else errors.NO_FILE


def _where(path: Path, text: str) -> str:
    """The file, and what is in the way or what to do, as far as the file system tells."""
    if text == errors.DAMAGED:
        return f"{path}: restore a backup of it, or name another file"
    if text not in (errors.NO_FILE, errors.NO_FILE_YET, errors.READ_ONLY):
        return str(path)
    folder = path.parent
    with contextlib.suppress(OSError):
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return f"{path}: it lies on a read-only file system, and must be writable with its folder, {_BESIDE}"
        for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
            if os.path.exists(file) and not _may(file, os.R_OK | os.W_OK):  # never raises
                return f"{file} belongs to {_owner(file)}, and this user, {_named(os.geteuid())}, may not write it"
        if not _may(folder, os.W_OK | os.X_OK):
            return f"{path}: this user, {_named(os.geteuid())}, must be able to write in its folder, {_BESIDE}"
    return str(path)


def _may(file: Path, mode: int) -> bool:
    # As SQLite would be answered: with the effective user, where the system can be asked for that one.
    return os.access(file, mode, effective_ids=os.access in os.supports_effective_ids)


def _owner(file: Path) -> str:
    return _named(file.stat().st_uid)


@functools.cache
def _named(uid: int) -> str:
    """The user's name; the number where there is none, as in a container. Asked for once: a directory may be slow."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
