"""Where the engine's tests run: on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.observe.databases import PostgresqlServer, Server, SqliteServer


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgres"))])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A database without tables."""
    if request.param == "sqlite":
        server: Server = SqliteServer(tmp_path / "source.db")
    else:
        server = PostgresqlServer(request.getfixturevalue("postgres"))
    with closing(server):
        yield server
