"""The database refuses, hangs, is slow, is not there, comes back: what people and scrapers see meanwhile.

Each test names an outage, and ``sees_it`` says what an outage is to everybody: a scrape answers in time and completely
but for the database's figures, commands are refused with ``unavailable``, what is live goes on, and the loop never
stalls.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from exporter.core.errors import Misconfigured
from exporter.settings.model import Address, Settings
from exporter.store import Store
from tests.integration.figures import is_consistent
from tests.servers.exporter import (
    CONVERSATIONS,
    PATIENCE,
    Asking,
    Client,
    Exporter,
    Figures,
    InProcess,
    in_process,
    until,
)
from tests.servers.ports import free_port
from tests.servers.postgres import Postgres

TIMEOUT = 1.5
"""Seconds: ``database.timeout`` of the servers here; anything that blocked the loop would do so for half of it."""
THREADS = 6 + 6 + 2
"""The database's connections, the loop's executor, this one and the heartbeat's; not one per scrape that waits."""
FIGURES_OF_THE_DATABASE = {
    "messaging_stored_messages",
    "messaging_stored_conversations",
    "messaging_registered_users",
    "messaging_messages_today",
    'messaging_active_users{window="1d"}',
    'messaging_active_users{window="7d"}',
    'messaging_active_users{window="30d"}',
}


# --- tools ------------------------------------------------------------------------------------------------


class Heartbeat:
    """The longest that the loop did nothing else, beside the longest that the machine let nobody work."""

    def __init__(self) -> None:
        self.loop = 0.0
        self.machine = 0.0
        self._beat_at = (time.monotonic(), 0.0)  # and what the machine had taken until then
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_in_a_thread, daemon=True)

    async def __aenter__(self) -> Heartbeat:
        self._beat_at = (time.monotonic(), 0.0)
        self._thread.start()
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._ended.set()
        self._thread.join()

    async def _beat(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.02)
            self.loop = max(self.loop, time.monotonic() - began - 0.02)

    def _beat_in_a_thread(self) -> None:
        while not self._ended.is_set():
            time.sleep(0.02)
            now, (before, lost) = time.monotonic(), self._beat_at
            late = now - before - 0.02
            self.machine = max(self.machine, late)
            self._beat_at = (now, lost + late)

    def worked(self) -> float:
        """A clock that stands still while the machine lets this process wait."""
        before, lost = self._beat_at
        now = time.monotonic()
        return now - lost - max(0.0, now - before - 0.02)

    def never_stalled(self) -> None:
        """Less than what one wait for the database on the loop would have cost."""
        assert self.loop < TIMEOUT / 5 + 3 * self.machine, (self.loop, self.machine)


HOLD_SHARED_MEMORY = """
import fcntl, sys
held = open(sys.argv[1] + "-shm", "r+b")
fcntl.lockf(held, fcntl.LOCK_EX, 8, 120)  # all of SQLite's locks for WAL: neither writers nor readers get on
print("held", flush=True)
sys.stdin.read()
"""
HOLD_FILE = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(database: Path, script: str) -> Iterator[None]:
    """Another process holds the file for the length of a block."""
    command = [sys.executable, "-c", script, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"held\n"
            yield
        finally:
            process.stdin.close()
            process.wait(PATIENCE)


@contextmanager
def moved_away(database: Path) -> Iterator[None]:
    elsewhere = database.with_name("elsewhere")
    database.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(database)


async def refused(tab: Client, type: str, **fields: Any) -> None:
    await tab.send(type, **fields)
    answer = await tab.frame("error", within=3 * TIMEOUT)
    assert (answer["code"], answer.get("id")) == ("unavailable", fields.get("id"))


async def pooled(exporter: Asking) -> int:
    figures = await exporter.scrape()
    return sum(int(value) for name, value in figures.items() if name.startswith("messaging_database_pool_connections"))


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


class Scene:
    """Two people in a room and one who could join, from before the outage."""

    def __init__(self, exporter: Asking, heart: Heartbeat) -> None:
        self.exporter = exporter
        self.heart = heart

    async def begin(self) -> Scene:
        await self.exporter.conversation("room", "ann", "bob", "cat")
        self.ann, self.bob, self.cat = [await self.exporter.connect(who) for who in ("ann", "bob", "cat")]
        for tab in (self.ann, self.bob):
            await tab.join("room")
        await self.ann.say("room", "before", "before")
        await self.bob.send("read", conversation="room", seq=1)
        await self.ann.frame("read", user="bob", seq=1)
        self.before = await self.exporter.scrape()
        assert self.before["messaging_database_up"] == 1
        return self

    async def a_scrape_is_complete_in_time(self, deadline: float = 1.0) -> Figures:
        """All but the database's figures, before the scraper's patience ends."""
        began = self.heart.worked()
        figures = await self.exporter.scrape(**{"X-Prometheus-Scrape-Timeout-Seconds": str(deadline)})
        assert self.heart.worked() - began < deadline
        is_consistent(figures)
        assert self.before.keys() - figures.keys() == FIGURES_OF_THE_DATABASE
        assert figures.keys() <= self.before.keys()
        assert figures["messaging_database_up"] == 0
        assert figures['messaging_scrape_collector_success{collector="database"}'] == 0
        assert figures['messaging_scrape_collector_success{collector="live"}'] == 1
        last = "messaging_database_last_success_timestamp_seconds"
        assert self.before[last] <= figures[last] <= time.time()
        return figures

    async def sees_it(self, deadline: float = 1.0) -> None:
        """What an outage is, the same each time."""
        exporter = self.exporter
        figures = await self.a_scrape_is_complete_in_time(deadline)
        await asyncio.gather(*(self.a_scrape_is_complete_in_time(2 * deadline) for _ in range(20)))

        stats = await exporter.stats()
        for name in ("total_messages", "total_conversations", "messages_today", "registered_users"):
            assert stats[name] is None
        assert set(stats["active_users"].values()) == {None}
        assert stats["database"]["up"] is False
        assert "database" in stats["database"]["error"]
        assert stats["active_connections"] == 3
        assert (await exporter.get("/-/healthy"))[0] == 200
        assert (await exporter.get("/"))[0] == 200

        status, problem, headers = await exporter.get(CONVERSATIONS, user="ann")
        assert (status, problem["code"], headers["Content-Type"]) == (503, "unavailable", "application/problem+json")
        assert int(headers["Retry-After"]) > 0

        fields = {"send": {"body": "during", "id": "during"}, "read": {"seq": 1}, "join": {"id": "j"}}
        tabs = {"send": self.ann, "read": self.bob, "join": self.cat}
        await asyncio.gather(
            *(refused(tabs[command], command, conversation="room", **fields[command]) for command in tabs)
        )
        # What is live goes on, and is in the very next scrape: a new user comes, one types, one leaves.
        await self.ann.send("typing", conversation="room", active=True)
        await self.bob.frame("typing", user="ann", active=True)
        newcomer = await exporter.connect("newcomer")
        now = await self.a_scrape_is_complete_in_time(deadline)
        assert now["messaging_active_connections"] == 4
        assert now["messaging_typing_users"] == 1
        for command in tabs:
            series = f'messaging_commands_rejected_total{{code="unavailable",command="{command}"}}'
            assert now[series] == figures[series] + 1
        await self.bob.leave("room")
        await self.ann.frame("participant_left", user="bob")
        await newcomer.close()
        await self.ann.send("typing", conversation="room", active=False)
        now = await self.a_scrape_is_complete_in_time(deadline)
        assert (now["messaging_participants"], now["messaging_typing_users"]) == (1, 0)
        # However long it lasts, it costs no more connections.
        assert await pooled(exporter) <= 6

    async def is_over(self) -> Figures:
        """The next scrape has everything again; people go on, and what was refused is taken when sent again, once."""
        exporter = self.exporter
        figures = await exporter.scraped(lambda now: now["messaging_database_up"] == 1, "the database is up")
        assert self.before.keys() <= figures.keys()
        stored = figures["messaging_stored_messages"]
        await self.ann.send("send", conversation="room", body="during", id="during")
        assert (await self.ann.frame("ack", id="during"))["seq"] == 2
        await self.cat.join("room")
        await self.bob.join("room")
        await self.cat.send("read", conversation="room", seq=2)
        await self.ann.frame("read", user="cat", seq=2)

        # Who came during the outage is registered without coming again.
        figures = await exporter.scraped(
            lambda now: now["messaging_registered_users"] == 4, "the newcomer is registered"
        )
        is_consistent(figures)
        assert figures["messaging_stored_messages"] == 2 >= stored
        assert figures["messaging_messages_accepted_total"] == 2
        status, page, _ = await exporter.get(f"{CONVERSATIONS}/room/messages", user="ann")
        assert (status, [message["id"] for message in page["messages"]]) == (200, ["before", "during"])

        async def well() -> dict[str, Any] | None:
            stats = await exporter.stats()
            return stats if stats["database"]["error"] is None else None

        # Where the outage was so long that the probe met it, too, the next one ends what it said.
        stats = await until(well, "no error is told")
        assert stats is not None
        assert (stats["database"]["up"], stats["total_messages"]) == (True, 2)
        return figures


@asynccontextmanager
async def scene(folder: Path, **settings: Any) -> AsyncIterator[Scene]:
    """A server in this loop with people on it; its loop must not stall as long as the scene lasts."""
    async with in_process(folder, database_timeout=TIMEOUT, verify_interval=0.0, **settings) as exporter:
        heart = Heartbeat()
        scene = await Scene(exporter, heart).begin()
        async with heart:
            yield scene
        for tab in (scene.ann, scene.bob, scene.cat):
            await tab.reset()
        await exporter.deserted()
        heart.never_stalled()


# --- SQLite -----------------------------------------------------------------------------------------------


async def test_a_file_that_another_process_has_all_locks_of_is_a_database_that_hangs(tmp_path: Path) -> None:
    others = threads() - 1  # what the tests before this one left in the process
    async with scene(tmp_path) as people:
        with held(people.exporter.database, HOLD_SHARED_MEMORY):
            await people.sees_it()
            assert threads() - others <= THREADS
        await people.is_over()


async def test_a_file_that_was_moved_away_is_down_and_takes_nothing_into_nowhere(tmp_path: Path) -> None:
    async with scene(tmp_path) as people:
        with moved_away(people.exporter.database):
            await people.sees_it()
        await people.is_over()


async def test_a_file_that_was_replaced_by_another_is_down(tmp_path: Path) -> None:
    async with scene(tmp_path) as people:
        other = tmp_path / "other.db"
        store = Store(f"sqlite:///{other}")
        await store.migrate()
        await store.close()
        with moved_away(people.exporter.database):
            other.rename(people.exporter.database)
            await people.sees_it()
            people.exporter.database.rename(other)
        await people.is_over()
        with closing(sqlite3.connect(other)) as connection:
            assert connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)


async def test_outages_that_follow_each_other_leave_nothing_behind(tmp_path: Path) -> None:
    async with scene(tmp_path) as people:
        left = []
        for _ in range(5):
            with moved_away(people.exporter.database):
                await people.a_scrape_is_complete_in_time()
                await refused(people.ann, "send", conversation="room", body="during", id="during")
            await people.exporter.scraped(lambda now: now["messaging_database_up"] == 1, "the database is up")
            # The loop's own pool of threads grows by one where two things happen at once, up to a fixed size.
            pool = sum(thread.name.startswith(("asyncio_", "ThreadPoolExecutor-")) for thread in threading.enumerate())
            left.append((len(os.listdir("/proc/self/fd")), threads() - pool, await pooled(people.exporter)))
        (files, workers, opened), (last_files, last_workers, last_opened) = left[1], left[-1]
        # So does the database's pool: a connection is a thread, and the file with its log and its index.
        more = max(0, last_opened - opened)
        assert last_files - files <= 3 * more, left
        assert last_workers - workers <= more, left


async def test_while_another_program_writes_messages_are_refused_in_time_and_reading_goes_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as people:
        exporter = people.exporter
        with held(exporter.database, HOLD_FILE):  # in WAL mode a writer does not stop readers
            sending = asyncio.create_task(refused(people.ann, "send", conversation="room", body="during", id="during"))
            await people.cat.join("room")
            figures = await exporter.scrape()
            assert (figures["messaging_database_up"], figures["messaging_stored_messages"]) == (1, 1)
            newcomer = await exporter.connect("newcomer")  # accepted, registered later
            assert (await exporter.scrape())["messaging_registered_users"] == 3
            await sending
            await newcomer.close()
            await people.bob.leave("room")
            await people.cat.leave("room")
        await people.is_over()


async def test_a_lock_shorter_than_the_time_out_is_waited_for(tmp_path: Path) -> None:
    async with scene(tmp_path) as people:
        with held(people.exporter.database, HOLD_FILE):
            await people.ann.send("send", conversation="room", body="during", id="during")
            await people.ann.barrier()
            assert (await people.exporter.scrape())["messaging_database_up"] == 1
        assert (await people.ann.frame("ack", id="during"))["seq"] == 2


# --- slow -------------------------------------------------------------------------------------------------


class Slow:
    """The store's totals with a wait before them: how many queries there were, how many at once, how many ended."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._totals = store.totals
        self.seconds = seconds
        self.asked = self.now = self.most = self.cancelled = 0

    async def __call__(self, timeout: float) -> Any:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.seconds)
            return await self._totals(timeout)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1


@asynccontextmanager
async def slow(tmp_path: Path, seconds: float) -> AsyncIterator[tuple[Scene, Slow]]:
    async with scene(tmp_path) as people:
        assert isinstance(people.exporter, InProcess)
        store = people.exporter.server.store
        totals = Slow(store, seconds)
        with patch.object(store, "totals", totals):
            yield people, totals


async def test_scrapes_at_the_same_time_share_one_query(tmp_path: Path) -> None:
    async with slow(tmp_path, 0.3) as (people, totals):
        scrapes = await asyncio.gather(*(people.exporter.scrape() for _ in range(25)))
        assert (totals.asked, totals.most) == (1, 1)
        assert all(figures["messaging_stored_messages"] == 1 for figures in scrapes)


async def test_a_scraper_without_patience_does_without_and_one_with_patience_gets_all(tmp_path: Path) -> None:
    async with slow(tmp_path, 0.8) as (people, totals):
        patient = asyncio.create_task(people.exporter.scrape())
        await asyncio.gather(*(people.a_scrape_is_complete_in_time(deadline=1.0) for _ in range(3)))
        assert (await patient)["messaging_stored_messages"] == 1
        assert totals.most == 1


async def test_a_query_that_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    async with slow(tmp_path, 60.0) as (people, totals):
        for _ in range(3):
            await people.a_scrape_is_complete_in_time(deadline=1.5)
        assert (totals.asked, totals.most, totals.cancelled, totals.now) == (3, 1, 3, 0)
        totals.seconds = 0.0
        assert (await people.exporter.scrape())["messaging_database_up"] == 1


async def test_a_scraper_that_hangs_up_leaves_no_query_and_no_permit_behind(tmp_path: Path) -> None:
    async with slow(tmp_path, 60.0) as (people, totals):
        host, _, port = people.exporter.url.removeprefix("http://").partition(":")
        for _ in range(60):  # more than may scrape at once
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 1\r\n\r\n")
            await writer.drain()
            writer.transport.abort()

        async def answers() -> bool:
            return (await people.exporter.get("/metrics"))[0] == 200

        totals.seconds = 0.0
        await until(answers, "a scrape gets a permit")
        assert totals.most <= 1
        assert (await people.exporter.scrape())["messaging_database_up"] == 1


async def test_more_scrapes_than_allowed_at_once_are_told_to_come_later(tmp_path: Path) -> None:
    async with slow(tmp_path, 1.0) as (people, _):
        answers = await asyncio.gather(*(people.exporter.get("/metrics") for _ in range(50)))
        statuses = [status for status, _, _ in answers]
        assert (statuses.count(200), statuses.count(503)) == (40, 10)
        assert all(headers["Retry-After"] for status, _, headers in answers if status == 503)
        assert (await people.exporter.get("/metrics"))[0] == 200


# --- at the start -----------------------------------------------------------------------------------------


async def test_a_database_that_is_locked_at_the_start_is_waited_for(tmp_path: Path) -> None:
    exporter = Exporter(tmp_path, "--database.timeout=1s", "--verify.interval=0")
    with held(exporter.database, HOLD_FILE):
        try:
            await exporter.start(ready=False)
            assert (await exporter.get("/-/ready"))[0] == 503
            assert (await exporter.get("/-/healthy"))[0] == 200
            figures = await exporter.scrape()
            assert figures["messaging_database_up"] == 0
            assert not FIGURES_OF_THE_DATABASE & figures.keys()
            assert "messaging_database_last_success_timestamp_seconds" not in figures
            ann = await exporter.connect("ann")
            await refused(ann, "join", conversation="room")
            assert (await exporter.get(CONVERSATIONS, user="ann"))[0] == 503
            assert (await exporter.scrape())["messaging_active_connections"] == 1
        except BaseException:  # cancelled, too: no process stays
            await exporter.kill()
            raise
    try:
        await until(exporter.ready, "ready")
        await exporter.scraped(lambda now: now.get("messaging_registered_users") == 1, "ann is registered")
        await exporter.conversation("room", "ann")
        await ann.join("room")
        await ann.close()
        assert await exporter.stop() == 0
    finally:
        await exporter.kill()


async def test_a_database_that_is_not_reached_is_told_to_the_log_with_its_address_and_to_nobody_else(
    tmp_path: Path,
) -> None:
    place = f"127.0.0.1:{free_port()}"
    url = {"MESSAGING_DATABASE_URL": f"postgresql://ann:hunter2@{place}/chat"}
    exporter = Exporter(tmp_path, environment=url)
    try:
        await exporter.start(ready=False)

        async def told() -> list[dict[str, Any]]:
            return [line for line in exporter.lines() if line["event"] == "the database is not ready; trying on"]

        assert [line["reason"] for line in await until(told, "the log says it")] == [
            f"the database cannot be reached ({place}: connection refused)"
        ]
        assert "hunter2" not in exporter.log.read_text()
        assert place not in str(await exporter.get("/v1/messaging/stats"))
    finally:
        await exporter.kill()


def _newer_schema(folder: Path) -> str:
    database = folder / "newer.db"
    asyncio.run(_made(database))
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE messaging_schema_version SET version_num = 'r9999'")
        connection.commit()
    return f"sqlite:///{database}"


async def _made(database: Path) -> None:
    store = Store(f"sqlite:///{database}")
    await store.migrate()
    await store.close()


def _no_database(folder: Path) -> str:
    (folder / "text.db").write_text("this is no database" * 1_000)
    return f"sqlite:///{folder / 'text.db'}"


MISTAKES: dict[str, Callable[[Path], str]] = {
    "a URL of another database": lambda _: "mysql://localhost/messages",
    "no URL": lambda _: "messages.db",
    "a folder that does not exist": lambda folder: f"sqlite:///{folder / 'nowhere' / 'messages.db'}",
    "a folder instead of a file": lambda folder: f"sqlite:///{folder}",
    "a file that is no database": _no_database,
    "a schema from a newer version": _newer_schema,
}


@pytest.mark.parametrize("opened", [False, True])
async def test_whoever_cannot_listen_ends_with_nothing_under_way(tmp_path: Path, opened: bool) -> None:
    """Else what is left is cut off with the loop: a connection in the middle of being closed is a trace in the log."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        server = InProcess(Settings(listen=(address,), data_dir=tmp_path, database_timeout=1.5)).server
        closed = opened

        async def hangs() -> list[str]:
            nonlocal closed
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)  # whoever is cancelled has a connection to close
                closed = True
            return []

        if not opened:
            server.store.migrate = hangs
        before = asyncio.all_tasks()
        with pytest.raises(Misconfigured, match="cannot listen"):
            await server.start()
        assert closed
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_settings_is_one_line_and_the_end(tmp_path: Path, mistake: str) -> None:
    url = MISTAKES[mistake](tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "exporter", "serve", "--data.dir", str(tmp_path / "data"), "--database.url", url),
            *("--web.listen-address", "127.0.0.1:0", "--log.level", "error"),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert re.fullmatch(r"messaging-exporter: .+\n", done.stderr), done.stderr


# --- PostgreSQL -------------------------------------------------------------------------------------------


@asynccontextmanager
async def on_postgres(folder: Path, server: Postgres) -> AsyncIterator[tuple[Scene, str]]:
    name = server.create_database()
    async with scene(folder, database_url=server.url(name)) as people:
        yield people, name


def connections(server: Postgres, database: str) -> int:
    return int(server.psql(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"))


@pytest.mark.needs("postgres")
async def test_a_postgresql_that_is_frozen_hangs_and_then_goes_on(tmp_path: Path, postgres: Postgres) -> None:
    async with on_postgres(tmp_path, postgres) as (people, name):
        with postgres.frozen():
            await people.sees_it()
        await people.is_over()
        assert connections(postgres, name) <= 6


@pytest.mark.needs("postgres")
async def test_a_postgresql_that_is_stopped_refuses_and_comes_back(tmp_path: Path) -> None:
    server = await asyncio.to_thread(Postgres)
    try:
        await asyncio.to_thread(server.start)
        async with on_postgres(tmp_path, server) as (people, name):
            await asyncio.to_thread(server.stop)
            await people.sees_it()
            await asyncio.to_thread(server.start)
            await people.is_over()
            assert await asyncio.to_thread(connections, server, name) <= 6
    finally:
        await asyncio.to_thread(server.close)


@pytest.mark.needs("postgres")
async def test_a_table_that_somebody_locks_makes_scrapes_slow_for_nobody_else(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with on_postgres(tmp_path, postgres) as (people, name):
        locking = await asyncio.create_subprocess_exec(
            *("psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "postgres", "-d", name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert locking.stdin is not None
        assert locking.stdout is not None
        try:
            locking.stdin.write(b"BEGIN; LOCK TABLE daily_totals IN ACCESS EXCLUSIVE MODE; \\echo held\n")
            assert await locking.stdout.readline() == b"held\n"
            for _ in range(10):
                await people.a_scrape_is_complete_in_time(deadline=0.5)
            # Ended on the server too: nobody queues up for the lock.

            async def nobody_waits() -> bool:
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                return await asyncio.to_thread(postgres.psql, waiting) == "0\n"

            await until(nobody_waits, "the statements have ended on the server")
            await people.cat.join("room")
            assert connections(postgres, name) <= 7
        finally:
            locking.kill()
            await locking.wait()
        await people.exporter.scraped(lambda now: now["messaging_database_up"] == 1, "the database is up")
