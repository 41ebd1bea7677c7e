"""Failing surroundings under load: the database stops, hangs, cuts connections, the disk is full.

All along: whatever was acknowledged is stored, whoever sends is told ``unavailable`` instead of waiting for ever,
``/metrics`` answers within its deadline and says that the database is down, and everything recovers by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.exporter import Exporter, running, until
from tests.servers.postgres import Postgres
from tests.servers.wire import Wire, masked

TIMEOUT = 1.0
"""``--database.timeout`` here, hence how long a scrape may take, with a margin for a busy machine below."""
MARGIN = 2.0
TALKERS = 8
FLAGS = ("--limits.connections", "1000", "--limits.frames-per-second", "1000", "--database.timeout", f"{TIMEOUT:g}s")


class Talker:
    """Sends one message after the other, again what was refused or lost, reconnects; keeps the books."""

    def __init__(self, exporter: Exporter, number: int) -> None:
        self.exporter = exporter
        self.number = number
        self.room = f"room-{number % 2}"
        self.acknowledged: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.longest = 0.0
        self.stopping = False
        self._ids = itertools.count(1)

    async def run(self) -> None:
        wire = await Wire.upgraded(self.exporter.url, self.exporter.token(f"user-{self.number}"))
        try:
            await self._insist(wire, "join", "joined", id="join")
            while not self.stopping:
                id = str(next(self._ids))
                await self._insist(wire, "send", "ack", id=id, body="x")
        finally:
            wire.close()

    async def _insist(self, wire: Wire, type: str, answer: str, **fields: Any) -> None:
        async def ask() -> bool:
            return await self._ask(wire, type, answer, **fields)

        await until(ask, f"{answer} for {self.number}", 90)

    async def _ask(self, wire: Wire, type: str, answer: str, **fields: Any) -> bool:
        began = time.monotonic()
        command = {"type": type, "conversation": self.room, **fields}
        wire.writer.write(masked(json.dumps(command).encode()))
        while True:
            opcode, payload = await wire.frame()
            assert opcode == 1, (opcode, payload)
            frame = json.loads(payload)
            if frame.get("id") != fields["id"] or frame["type"] not in (answer, "error"):
                continue
            self.longest = max(self.longest, time.monotonic() - began)
            if frame["type"] == answer:
                if type == "send":
                    self.acknowledged[fields["id"]] = frame["seq"]
                return True
            self.refused[frame["code"]] = self.refused.get(frame["code"], 0) + 1
            return False


class Load:
    """Talkers, and a scraper that never pauses."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        self.talkers = [Talker(exporter, number) for number in range(TALKERS)]
        self.ups: list[float] = []
        self.slowest_scrape = 0.0

    @property
    def acknowledged(self) -> int:
        return sum(len(talker.acknowledged) for talker in self.talkers)

    @property
    def unavailable(self) -> int:
        return sum(talker.refused.get("unavailable", 0) for talker in self.talkers)

    async def scrape(self) -> None:
        while True:
            began = time.monotonic()
            figures = await self.exporter.scrape()
            self.slowest_scrape = max(self.slowest_scrape, time.monotonic() - began)
            up = figures["messaging_database_up"]
            self.ups.append(up)
            assert ("messaging_stored_messages" in figures) == ("messaging_registered_users" in figures)
            if up == 0:
                assert "messaging_stored_messages" not in figures
            await asyncio.sleep(0.05)

    async def more(self, count: int = 40) -> None:
        """Until so many more messages have been acknowledged."""
        goal = self.acknowledged + count
        await until(self._holds(lambda: self.acknowledged >= goal), "acknowledgements", 60)

    async def refusals(self) -> None:
        """Until somebody was told ``unavailable``, and a scrape has said that the database is down."""
        await until(self._holds(lambda: self.unavailable > 0 and 0 in self.ups), "an outage that is seen", 60)

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> Callable[[], Any]:
        async def ask() -> bool:
            return condition()

        return ask


@contextlib.asynccontextmanager
async def load(exporter: Exporter) -> AsyncIterator[Load]:
    for room in (0, 1):
        await exporter.conversation(f"room-{room}", *(f"user-{number}" for number in range(room, TALKERS, 2)))
    work = Load(exporter)
    scraping = asyncio.ensure_future(work.scrape())
    talking = [asyncio.ensure_future(talker.run()) for talker in work.talkers]
    try:
        await work.more()
        yield work
        for talker in work.talkers:
            talker.stopping = True
        await asyncio.wait_for(asyncio.gather(*talking), 60)
        await exporter.scraped(lambda figures: figures["messaging_database_up"] == 1, "up again")
    finally:
        for task in (scraping, *talking):
            task.cancel()
        results = await asyncio.gather(scraping, *talking, return_exceptions=True)
    wrong = [result for result in results if isinstance(result, Exception)]
    assert not wrong, wrong
    assert set().union(*(talker.refused for talker in work.talkers)) <= {"unavailable"}
    assert work.slowest_scrape < TIMEOUT + MARGIN
    assert max(talker.longest for talker in work.talkers) < 2 * TIMEOUT + 2 * MARGIN, "somebody waited too long"


def agrees(work: Load, rows: list[tuple[str, int, str, str]]) -> None:
    """Everything acknowledged is stored once, under the seq that was told, and the seqs have no holes."""
    stored = {(sender, id): (room, seq) for room, seq, sender, id in rows}
    assert len(stored) == len(rows)
    for talker in work.talkers:
        for id, seq in talker.acknowledged.items():
            assert stored[(f"user-{talker.number}", id)] == (talker.room, seq)
    for room in ("room-0", "room-1"):
        seqs = sorted(seq for where, seq in stored.values() if where == room)
        assert seqs == list(range(1, len(seqs) + 1))


async def one_total(exporter: Exporter, rows: int) -> None:
    """The figure is the number of rows, and each message was counted as accepted once."""
    figures = await exporter.scraped(lambda found: found.get("messaging_stored_messages") == rows, "exact totals")
    assert figures["messaging_messages_accepted_total"] == rows
    wrong = [line for line in exporter.lines() if line.get("level") == "error"]
    assert not wrong, wrong[:3]


# --- PostgreSQL ---------------------------------------------------------------------------------------------

QUERY = "SELECT conversation_id || ' ' || seq || ' ' || sender_id || ' ' || client_id FROM messages"


@pytest.fixture
def own_postgres() -> Any:
    """A server that a test may stop."""
    server = Postgres()
    try:
        yield server.start()
    finally:
        server.close()


def rows_of(server: Postgres, name: str) -> list[tuple[str, int, str, str]]:
    split = [line.split(" ") for line in server.psql(QUERY, name).splitlines()]
    return [(room, int(seq), sender, id) for room, seq, sender, id in split]


@contextlib.asynccontextmanager
async def on_postgres(server: Postgres, folder: Path) -> AsyncIterator[tuple[Exporter, str]]:
    name = server.create_database()
    async with running(folder, *FLAGS, environment={"MESSAGING_DATABASE_URL": server.url(name)}) as exporter:
        yield exporter, name


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
async def test_postgresql_is_stopped_and_comes_back_under_load(
    own_postgres: Postgres, tmp_path: Path, how: signal.Signals
) -> None:
    async with on_postgres(own_postgres, tmp_path) as (exporter, name):
        async with load(exporter) as work:
            await asyncio.to_thread(own_postgres.stop, how)
            await work.refusals()
            await asyncio.to_thread(own_postgres.start)
            await work.more()
        rows = rows_of(own_postgres, name)
        agrees(work, rows)
        await one_total(exporter, len(rows))


@pytest.mark.needs("postgres")
async def test_postgresql_cuts_connections_under_load(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server: Postgres = request.getfixturevalue("postgres")
    async with on_postgres(server, tmp_path) as (exporter, name):
        async with load(exporter) as work:
            for _ in range(5):
                cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
                await asyncio.to_thread(server.psql, cut)
                await work.more()
        rows = rows_of(server, name)
        agrees(work, rows)
        await one_total(exporter, len(rows))


@pytest.mark.needs("postgres")
async def test_postgresql_hangs_under_load(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server: Postgres = request.getfixturevalue("postgres")
    async with on_postgres(server, tmp_path) as (exporter, name):
        async with load(exporter) as work:
            with server.frozen():
                await work.refusals()
            await work.more()
        rows = rows_of(server, name)
        agrees(work, rows)
        await one_total(exporter, len(rows))


@pytest.mark.needs("postgres")
async def test_a_statement_hangs_behind_a_lock_under_load(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import asyncpg

    server: Postgres = request.getfixturevalue("postgres")
    async with on_postgres(server, tmp_path) as (exporter, name):
        async with load(exporter) as work:
            locker = await asyncpg.connect(server.url(name))
            try:
                async with locker.transaction():
                    await locker.execute("LOCK TABLE messages, conversations, daily_totals IN ACCESS EXCLUSIVE MODE")
                    await work.refusals()
                    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
                    assert int(await asyncio.to_thread(server.psql, waiting)) < 30, "connections pile up"
            finally:
                await locker.close()
            await work.more()
        rows = rows_of(server, name)
        agrees(work, rows)
        await one_total(exporter, len(rows))


# --- SQLite -------------------------------------------------------------------------------------------------


def file_rows(database: Path) -> list[tuple[str, int, str, str]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute("SELECT conversation_id, seq, sender_id, client_id FROM messages").fetchall()
    finally:
        connection.close()


def limit_files(pid: int, size: int) -> None:
    """From now on no file of this process may be larger: what a full disk does, for one process only."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[bool]:
    """A file system of 8 MB for the data, where this user may mount one; says whether it is there."""
    place = tmp_path / "data"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    yield mounted
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def fill(filler: Path) -> None:
    """Until there is no more space."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4_096)


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit and tmpfs are Linux's")
async def test_a_full_disk_under_load(tmp_path: Path, small_disk: bool) -> None:
    async with running(tmp_path, *FLAGS) as exporter:
        async with load(exporter) as work:
            wal = exporter.database.with_name(exporter.database.name + "-wal")
            filler = exporter.data / "filler"
            if small_disk:
                fill(filler)
            else:
                limit_files(exporter.pid, wal.stat().st_size)
            await until(work._holds(lambda: work.unavailable > 0), "refusals", 60)
            refused_at = work.acknowledged
            if small_disk:
                filler.unlink()
            else:
                limit_files(exporter.pid, resource.RLIM_INFINITY)
            await work.more()
            assert work.acknowledged > refused_at
        rows = file_rows(exporter.database)
        agrees(work, rows)
        await one_total(exporter, len(rows))
        assert await exporter.stop() == 0


@pytest.mark.parametrize("what", ["locked", "moved"])
async def test_the_file_is_locked_by_somebody_or_moved_away_under_load(tmp_path: Path, what: str) -> None:
    async with running(tmp_path, *FLAGS) as exporter:
        async with load(exporter) as work:
            if what == "locked":
                somebody = sqlite3.connect(exporter.database, isolation_level=None)
                somebody.execute("BEGIN IMMEDIATE")
                await until(work._holds(lambda: work.unavailable > 0), "refusals", 60)
                somebody.execute("ROLLBACK")
                somebody.close()
            else:
                parts = list(exporter.data.glob("messaging.db*"))
                for part in parts:
                    part.rename(part.with_name("away-" + part.name))
                await work.refusals()
                for part in parts:
                    part.with_name("away-" + part.name).replace(part)
            await work.more()
        rows = file_rows(exporter.database)
        agrees(work, rows)
        await one_total(exporter, len(rows))
