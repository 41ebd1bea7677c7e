"""What this process holds of an SQLite file is not let go when the file is looked at once more."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.observe.connections import Snapshot, reader_of
from exporter.observe.records import SourceError
from exporter.store.errors import TIMEOUT

SERVER = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM posts').fetchall();"
    "print('open', flush=True); input()"
)
# Half a minute or so: whatever does not end it lets a test fail in place of hanging.
LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT count(*) FROM n"
WRITE = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')"


def made(path: Path, journal: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(
        f"PRAGMA journal_mode = {journal}; CREATE TABLE posts (id text); INSERT INTO posts VALUES (1)"
    )
    return connection


def locks(path: Path) -> int:
    """How many locks this process holds on the file, by the kernel's own list."""
    inode = path.stat().st_ino
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(row[1] == "POSIX" and row[4] == str(os.getpid()) and row[5].endswith(f":{inode}") for row in rows)


def another_process_may_write(path: Path) -> bool:
    return not subprocess.run(
        [sys.executable, "-c", WRITE, str(path)], stderr=subprocess.DEVNULL, check=False
    ).returncode


async def number_of_posts(snapshot: Snapshot) -> int:
    ((number,),) = await snapshot.fetch("SELECT COUNT(*) FROM posts")
    return int(number)


async def test_a_file_with_a_journal_beside_it_is_read_when_that_is_done(tmp_path: Path) -> None:
    """An empty one, and one whose beginning was blanked, are what is left of it."""
    path = tmp_path / "chat.db"
    made(path, "delete").close()
    reader, journal = reader_of(f"sqlite:///{path}"), tmp_path / "chat.db-journal"
    for content in (b"", bytes(512)):
        journal.write_bytes(content)
        assert await reader.read(number_of_posts, 4) == 1
    journal.write_bytes(bytes.fromhex("d9d505f920a163d7") + bytes(504))
    with pytest.raises(SourceError, match="a journal stands beside the file"):
        await reader.read(number_of_posts, 0.1)


async def test_a_log_that_a_server_left_behind_is_not_passed_over(tmp_path: Path) -> None:
    """Without it the file is an old one."""
    path, copy = tmp_path / "chat.db", tmp_path / "copy.db"
    server = made(path, "wal")
    server.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    server.execute("INSERT INTO posts VALUES (2)")
    copy.write_bytes(path.read_bytes())
    (tmp_path / "copy.db-wal").write_bytes((tmp_path / "chat.db-wal").read_bytes())
    with pytest.raises(SourceError, match="does not run"):
        await reader_of(f"sqlite:///{copy}").read(number_of_posts, 4)
    server.close()


async def test_a_server_that_starts_during_a_reading_is_read_with_its_log(tmp_path: Path) -> None:
    """A file without a log is read as it is; with one, that would be without what was committed last."""
    path = tmp_path / "chat.db"
    made(path, "wal").close()
    servers: list[sqlite3.Connection] = []

    async def work(snapshot: Snapshot) -> int:
        if not servers:
            servers.append(sqlite3.connect(path, isolation_level=None))
            servers[0].execute("INSERT INTO posts VALUES (2)")
        return await number_of_posts(snapshot)

    assert await reader_of(f"sqlite:///{path}").read(work, 4) == 2
    servers[0].close()


@pytest.fixture(params=["wal", "delete"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Opened by another process, as a server's is; this one has no connection of its own to it."""
    path = tmp_path / "chat.db"
    made(path, request.param).close()
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"open\n"
        yield path
        server.communicate(b"\n")


async def test_a_reading_keeps_its_locks_while_the_file_is_looked_at(file: Path) -> None:
    reader, other = (reader_of(f"sqlite:///{file}") for _ in range(2))
    seen: list[int] = []

    async def work(snapshot: Snapshot) -> None:
        await snapshot.fetch("SELECT * FROM posts")
        seen.append(locks(file))
        await other.identity()
        assert other.read_mode
        await reader.identity()
        seen.append(locks(file))

    await reader.read(work, 5)
    assert seen[0] == seen[1]
    assert bool(seen[0]) == ("log" in reader.read_mode), "a write-ahead log is read with a lock, the other without"


@pytest.mark.parametrize("journal", ["wal", "delete"])
async def test_the_host_s_own_locks_outlive_every_reading_of_its_totals(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    host = made(path, journal)
    reader = reader_of(f"sqlite:///{path}", ours=True)
    host.execute("BEGIN IMMEDIATE")
    host.execute("INSERT INTO posts VALUES (2)")
    assert not another_process_may_write(path)
    assert (await reader.read(lambda snapshot: snapshot.fetch("SELECT COUNT(*) FROM posts"), 5))[0][0] == 1
    await reader.identity()
    assert reader.read_mode.startswith("in short read transactions")
    assert not another_process_may_write(path)
    host.execute("COMMIT")
    assert another_process_may_write(path)
    host.close()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.mark.parametrize("between", [False, True], ids=["in a statement", "before a statement"])
async def test_a_reading_that_is_cancelled_ends_its_statement(file: Path, between: bool) -> None:
    # Of threads: what reads a host's own file is on a loop of its own.
    reader, begun, go = reader_of(f"sqlite:///{file}", ours=True), threading.Event(), threading.Event()

    async def work(snapshot: Snapshot) -> None:
        begun.set()
        if between:
            await asyncio.to_thread(go.wait)
        await snapshot.fetch(ENDLESS)

    reading = asyncio.create_task(reader.read(work, 600))
    await asyncio.to_thread(begun.wait)
    reading.cancel()
    await asyncio.sleep(0)  # it is told
    go.set()
    async with asyncio.timeout(30):
        await asyncio.wait({reading})
    assert reading.cancelled()


async def test_a_reading_that_is_too_long_ends_whatever_it_does(file: Path) -> None:
    async def work(snapshot: Snapshot) -> None:
        await asyncio.sleep(0.2)  # the time is over before the statement begins
        await snapshot.fetch(ENDLESS)

    with pytest.raises(SourceError, match=TIMEOUT):
        async with asyncio.timeout(30):
            await reader_of(f"sqlite:///{file}", ours=True).read(work, 0.1)


class Late(sqlite3.Connection):
    """Its long statement begins when an interrupt has been told already, which therefore interrupts nothing."""

    told = threading.Event()
    ran_to_its_end = False

    def interrupt(self) -> None:
        super().interrupt()
        self.told.set()

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql != LONG:
            return super().execute(sql, *parameters)
        assert self.told.wait(60)
        cursor = super().execute(sql, *parameters)
        type(self).ran_to_its_end = True
        return cursor


@pytest.mark.parametrize("by", ["a cancellation", "its time"])
async def test_a_statement_that_begins_after_the_interrupt_is_ended_too(
    by: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Late, "told", threading.Event())
    monkeypatch.setattr(Late, "ran_to_its_end", False)
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Late))
    reader, begun = reader_of(f"sqlite:///{file}", ours=True), threading.Event()

    async def work(snapshot: Snapshot) -> None:
        begun.set()
        await snapshot.fetch(LONG)

    if by == "its time":
        with pytest.raises(SourceError, match=TIMEOUT):
            await reader.read(work, 0.2)
    else:
        reading = asyncio.create_task(reader.read(work, 600))
        await asyncio.to_thread(begun.wait)
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()
    assert not Late.ran_to_its_end


CANCELLED = f"""
import asyncio, sys, threading
from exporter.observe.connections import reader_of

async def main():
    for attempt in range(60):
        begun = threading.Event()

        async def work(snapshot):
            begun.set()
            await snapshot.fetch({ENDLESS!r})

        reading = asyncio.create_task(reader_of(sys.argv[1], ours=True).read(work, 600))
        await asyncio.to_thread(begun.wait)
        await asyncio.sleep(attempt % 6 / 1000)
        reading.cancel()
        await asyncio.wait({{reading}})

asyncio.run(main())
"""


def test_readings_that_are_cancelled_early_and_late_leave_the_process_whole(file: Path) -> None:
    """In a process of its own: closing a connection beside its statement crashes or stops all of it."""
    done = subprocess.run(
        [sys.executable, "-c", CANCELLED, f"sqlite:///{file}"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=400,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
