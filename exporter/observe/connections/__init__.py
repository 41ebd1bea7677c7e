"""Connections that do no harm to the server whose database it is: the only home of drivers in ``observe``.

A *reading* is some work on one consistent snapshot, in a short read-only transaction or, where even that would hurt,
without any lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from exporter.core.errors import Misconfigured
from exporter.observe.mapping import Dialect
from exporter.store.location import SqliteLocation, locate

T = TypeVar("T")
Row = Sequence[Any]


class Horizon(NamedTuple):
    """Every transaction below ``oldest`` has ended; none at or above ``next`` had begun to write."""

    oldest: int
    next: int
    behind: float = 0.0
    """Seconds since what a standby shows was all that there is on the server that it follows."""


def behind(horizon: Horizon | None) -> float:
    """How old what is seen is, in seconds."""
    return 0.0 if horizon is None else horizon.behind


class Snapshot(Protocol):
    """One consistent state of the database, for the time of one reading."""

    async def fetch(self, sql: str) -> Sequence[Row]:
        """Run one statement and return all its rows. Raises SourceError."""

    async def expect_many(self) -> None:
        """The statements to come compare many rows with whole tables, whatever the database thinks of it."""


class Reader(Protocol):
    """One source. At most one connection, at most one reading at a time."""

    dialect: Dialect
    page_seconds: float
    """Seconds that a page of a count should take: worth its plan, and in nobody's way."""
    full_speed_page_seconds: float
    """The same at full load, while nobody has figures to wait for."""

    @property
    def read_mode(self) -> str:
        """How it is read, in a few words for people. Raises SourceError."""

    async def read(self, work: Callable[[Snapshot], Awaitable[T]], seconds: float) -> T:
        """What the work returns, of one snapshot, within that many seconds. Raises SourceError.

        The work may be done again from its start, so it must change nothing but what it returns.
        """

    async def identity(self) -> dict[str, Any]:
        """What tells this database from another one and from its own restored copy. Raises SourceError."""

    async def columns(self) -> dict[str, dict[str, str]]:
        """The columns of every table, and their types. Raises SourceError.

        A table goes by its name where that finds it, and by ``schema.name`` where there are schemas.
        """

    async def horizon(self, snapshot: Snapshot) -> Horizon | None:
        """Where transactions stand, None where that cannot be told. Raises SourceError."""

    async def close(self) -> None:
        """Give everything back."""


def reader_of(url: str, *, ours: bool = False) -> Reader:
    """The reader for a URL; nothing is opened. ``ours``: this process writes it, too. Raises Misconfigured."""
    scheme = url.partition("://")[0].partition("+")[0].lower()
    if scheme in ("mysql", "mariadb"):
        raise Misconfigured("the source's URL names MySQL or MariaDB, which is not supported: use sqlite or postgresql")
    place = locate(url)
    if isinstance(place, SqliteLocation):
        from exporter.observe.connections.sqlite import SqliteReader

        return SqliteReader(place.path, ours=ours)
    from exporter.observe.connections.postgresql import PostgresReader

    return PostgresReader(place.dsn)
