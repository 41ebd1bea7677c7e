"""Which dialect a URL means. The drivers are imported only for the database that is used."""

from __future__ import annotations

from exporter.store.dialect import Dialect
from exporter.store.urls import SqlitePlace, locate


def dialect_of(url: str) -> Dialect:
    """The dialect for a URL, bound to its place; nothing is opened. Raises Misconfigured."""
    place = locate(url)
    if isinstance(place, SqlitePlace):
        from exporter.store.sqlite import SqliteDialect

        return SqliteDialect(place.path)
    from exporter.store.postgresql import PostgresDialect

    return PostgresDialect(place.dsn)
