"""Where the store's tests run: on SQLite, on PostgreSQL, and on PostgreSQL through pgbouncer in transaction mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases import Place, Postgresql, Sqlite

PLACES = (
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.needs("postgres")),
    pytest.param("pgbouncer", marks=pytest.mark.needs("postgres", "pgbouncer")),
)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database of its own, empty."""
    if request.param == "sqlite":
        return Sqlite(tmp_path / "messaging.db")
    server = request.getfixturevalue("postgres")
    direct = server.url(server.create_database())
    if request.param == "postgresql":
        return Postgresql(direct)
    return Postgresql(request.getfixturevalue("pgbouncer").url(direct), direct)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told "later" because the machine is busy elsewhere for a quarter of a second."""
    monkeypatch.setattr("exporter.store.registrations.WAIT", 60.0)
