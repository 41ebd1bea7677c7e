"""A process that is killed while it stores: what it acknowledged is there, once, without holes."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from exporter.core.records import Message
from tests.databases import Clock, Place, Postgresql, Sqlite, assert_exact, opened, send_twice_told

SENDER = """
import asyncio, sys
import structlog
from exporter.core.records import Draft, Message
from exporter.store import Store

async def client(store, sender):
    for i in range(100_000):
        future = asyncio.get_running_loop().create_future()
        store.send(Draft("c", f"u{sender}", str(i), "x"), lambda result, _: future.set_result(result))
        result = await future
        assert isinstance(result, Message), result
        print(sender, i, result.seq, flush=True)

async def main():
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    store = Store(sys.argv[1])
    await store.start()
    await asyncio.gather(*(client(store, sender) for sender in range(20)))

asyncio.run(main())
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgres"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Sqlite(tmp_path / "messaging.db")
    server = request.getfixturevalue("postgres")
    return Postgresql(server.url(server.create_database()))


async def test_what_was_acknowledged_before_a_kill_is_there_once(place: Place) -> None:
    async with opened(place, clock=Clock()) as store:
        await store.create_conversation("c", "ann", [])
        told: dict[tuple[str, str], int] = {}
        for lines in (300, 700):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", SENDER, place.url,
                cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            for _ in range(lines):
                sender, i, seq = (await process.stdout.readline()).decode().split()
                known = told.setdefault((f"u{sender}", i), int(seq))
                assert known == int(seq), "acknowledged again with another number"
            process.send_signal(signal.SIGKILL)
            rest = (await process.communicate())[0].decode().splitlines()
            for line in rest:
                if len(line.split()) == 3 and line != rest[-1]:
                    sender, i, seq = line.split()
                    told.setdefault((f"u{sender}", i), int(seq))
        rows = await place.fetch("SELECT sender_id, client_id, seq FROM messages ORDER BY seq")
        assert [seq for _, _, seq in rows] == list(range(1, len(rows) + 1))
        there = {(sender, i): seq for sender, i, seq in rows}
        assert told.items() <= there.items()
        assert len(told) >= 700
        # What was under way and is resent is stored once.
        for sender in range(20):
            last = max(int(i) for name, i in there if name == f"u{sender}")
            for i, duplicate in ((last, True), (last + 1, False)):
                stored, repeated = await send_twice_told(store, "c", f"u{sender}", str(i))
                assert isinstance(stored, Message)
                assert repeated is duplicate
        await assert_exact(place, store, Clock().now.date())
