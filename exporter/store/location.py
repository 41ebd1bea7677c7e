"""From the user's URL to a location: an SQLite file or a PostgreSQL server. Opens nothing; repeats no part of a URL.

``repr`` of an SQLAlchemy URL hides ``user:password@`` and shows ``?password=``, so no URL object is kept for messages.

Tested in ``tests/store/test_migrations.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from exporter.core.errors import URL_FORM, Misconfigured
from exporter.store.dialects.base import Dialect


@dataclass(frozen=True, slots=True)
class SqliteLocation:
    """A file; it need not exist yet."""

    path: Path


@dataclass(frozen=True, slots=True)
class PostgresLocation:
    """A server and what it needs to be asked; in libpq's form, hence with its secrets."""

    dsn: str = field(repr=False)


# With SQLAlchemy's names of drivers, because a program beside has such a URL; ours are chosen all the same.
_SQLITE = ("sqlite", "sqlite+aiosqlite", "sqlite+pysqlite")
_POSTGRES = (
    *("postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg_async"),
    *("postgresql+psycopg2", "postgresql+psycopg2cffi", "postgresql+pg8000"),
)


def locate(url: str) -> SqliteLocation | PostgresLocation:
    """Where the database is. ``sqlite:///relative``, ``sqlite:////absolute``, ``postgresql://…`` with libpq's options.

    Raises:
        Misconfigured: not such a URL. Its message repeats nothing that may be secret.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        raise Misconfigured("the database URL has no '://': write sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    if scheme in _SQLITE:
        return SqliteLocation(_path(rest))
    if scheme in _POSTGRES:
        return PostgresLocation(_dsn(rest))
    named = f" ({scheme})" if scheme.replace("+", "").isalnum() and len(scheme) < 24 else ""
    raise Misconfigured(f"the database URL names no database that is supported{named}: use sqlite or postgresql")


def _path(rest: str) -> Path:
    path, query, _ = rest.partition("?")
    if query:
        raise Misconfigured("an SQLite URL takes no options after '?'")
    if not path.startswith("/"):
        raise Misconfigured("an SQLite URL has three slashes and a file, or four for an absolute one: sqlite:///FILE")
    name = unquote(path[1:])
    if not name or name == ":memory:" or name.startswith("file:") or "\0" in name:
        raise Misconfigured("an SQLite URL needs a file: several connections share it")
    return Path(name)


def _dsn(rest: str) -> str:
    dsn = f"postgresql://{rest}"
    try:
        parts = urlsplit(dsn)
        if "," not in parts.netloc:  # several hosts: the driver reads them
            _ = parts.port
        # A password's @ or / leaves a host that nobody meant, and a # something that no such URL has.
        torn = parts.netloc.count("@") > 1 or ("@" in parts.path and "@" not in parts.netloc) or bool(parts.fragment)
        hidden = parts.password == "***"
    except ValueError:
        torn, hidden = True, False
    if hidden:
        raise Misconfigured(
            "the password in the database URL is '***', as SQLAlchemy writes it in place of one: give it "
            "url.render_as_string(False)"
        )
    if torn:
        raise Misconfigured(f"the database URL's host or port cannot be read: {URL_FORM}")
    return dsn


def dialect_of(url: str, schema: str | None = None) -> Dialect:
    """The dialect for a URL, bound to its location; nothing is opened. Raises Misconfigured."""
    location = locate(url)
    if isinstance(location, SqliteLocation):
        if schema is not None:
            raise Misconfigured("--database.schema is for PostgreSQL: an SQLite file has no schemas")
        from exporter.store.dialects.sqlite import SqliteDialect

        return SqliteDialect(location.path)
    from exporter.store.dialects.postgresql import PostgresDialect

    return PostgresDialect(location.dsn, schema)


def free_bytes(folder: Path) -> int:
    """What this user may still write there: what a file system reserves is root's. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_frsize * (found.f_bavail if os.geteuid() else found.f_bfree)
