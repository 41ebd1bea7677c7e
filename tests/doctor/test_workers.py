"""``doctor --workers``: what several processes need is looked at before they are started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.doctor.test_doctor import doctor
from tests.servers.postgres import Postgres


def test_sqlite_fails_with_the_reason(tmp_path: Path) -> None:
    code, found, said = doctor(tmp_path, "--workers", "2")
    assert code == 1, said
    assert found["workers"][0] == "failed"
    assert "needs PostgreSQL" in found["workers"][1]


@pytest.mark.needs("postgres", "valkey")
def test_cores_ports_and_connections_are_looked_at(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.url(postgres.create_database())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ("--database.url", url, "--web.metrics-listen-address", f"127.0.0.1:{port}")
        code, found, said = doctor(tmp_path, "--workers", "2", *flags)
    assert code == 0, said
    assert found["broker"] == ("-", "none: the workers get a Valkey of their own")
    assert found["db connections"] == ("ok", "97 for all its users, 21 needed at most")
    assert said.count(f"{port} is in use") == 1
    code, found, said = doctor(tmp_path, "--workers", "100", "--database.url", url)
    assert code == 0, said
    assert found["workers"][0] == "warning"
    assert found["db connections"][0] == "warning"
    assert "max_connections" in found["db connections"][1]
