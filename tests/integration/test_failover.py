"""A primary and its standby swap roles under 50 senders: nothing acknowledged is lost, and everybody is told the truth.

The address first stays with the old primary, which is a hot standby by then: reading works there, writing does not. Old
connections stay where they are when the address moves, as behind a virtual address or a changed DNS record.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.cut import CutProxy
from tests.servers.exporter import Client, Exporter, running, until
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.needs("postgres")

SENDERS = 50
ROOMS = 5
LIMIT = 5.0
"""Seconds from the address's move to the first acknowledgement: the promise."""


@contextmanager
def pair(**settings: str) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and a standby that follows it."""
    settings = {"fsync": "off", "wal_keep_size": "256MB", **settings}
    primary = Postgres(**settings)
    standby = None
    try:
        primary.start()
        standby = Postgres(standby_of=primary, **settings).start()
        yield primary, standby
    finally:
        primary.close()
        if standby is not None:
            standby.close()


class Sender:
    """Sends one message after the other, each again until it is acknowledged."""

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.room = f"room{int(name[1:]) % ROOMS}"
        self.acknowledged: dict[str, int] = {}
        self.latest = 0.0
        self._client = client

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop, and then until the last one is acknowledged."""
        await self._client.join(self.room)
        number = 0
        while not stop.is_set():
            number += 1
            await self._deliver(f"{self.name}-{number}")
            await asyncio.sleep(0.02)

    async def _deliver(self, id: str) -> None:
        while True:
            await self._client.send("send", conversation=self.room, body="x", id=id)
            answer = await self._answer(id)
            if answer["type"] == "ack":
                self.acknowledged[id] = answer["seq"]
                self.latest = time.monotonic()
                return
            assert answer["code"] == "unavailable", answer
            await asyncio.sleep(0.1)

    async def _answer(self, id: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                frame: dict[str, Any] = json.loads(await self._client.connection.recv())
                if frame.get("id") == id and frame["type"] in ("ack", "error"):
                    return frame


async def swap(folder: Path, primary: Postgres, standby: Postgres, *, crash: bool) -> None:
    database = primary.create_database()
    async with CutProxy(primary.port) as address:
        url = f"postgresql://postgres@127.0.0.1:{address.port}/{database}"
        limits = ("--database.timeout=2s", "--limits.connections-per-user=100")
        async with running(folder, *limits, environment={"MESSAGING_DATABASE_URL": url}) as exporter:
            names = [f"u{number}" for number in range(SENDERS)]
            for room in range(ROOMS):
                await exporter.conversation(f"room{room}", *(n for n in names if int(n[1:]) % ROOMS == room))
            senders = [Sender(name, await exporter.connect(name)) for name in names]
            stop = asyncio.Event()
            tasks = [asyncio.create_task(sender.run(stop)) for sender in senders]
            await _all_have(senders, 3)

            await asyncio.to_thread(primary.stop, signal.SIGQUIT if crash else signal.SIGINT)
            await until(lambda: _is_unready(exporter), "a database that is down is told")
            await asyncio.to_thread(standby.promote)
            await asyncio.to_thread(primary.follow, standby, rewind=crash)
            await _is_followed(standby, "sync" if crash else "async")
            await _tells_of_a_standby(exporter)

            address.target = standby.port
            moved = time.monotonic()

            async def accepted() -> bool:
                return all(sender.latest > moved for sender in senders)

            await until(accepted, "everybody's sends are accepted again", LIMIT)
            await until(exporter.ready, "ready", LIMIT)
            figures = await exporter.scrape()
            assert (figures["messaging_database_up"], figures["messaging_database_writable"]) == (1, 1)
            assert (await exporter.stats())["database"]["error"] is None
            await _all_have(senders, 1 + max(len(sender.acknowledged) for sender in senders))
            stop.set()
            await asyncio.gather(*tasks)
            assert await exporter.stop() == 0
    _nothing_is_lost(standby, database, senders)


async def _is_followed(primary: Postgres, how: str) -> None:
    async def followed() -> bool:
        states = await asyncio.to_thread(primary.psql, "SELECT sync_state FROM pg_stat_replication")
        return states.strip() == how

    await until(followed, f"a standby is {how}")


async def _all_have(senders: list[Sender], count: int) -> None:
    async def have() -> bool:
        return all(len(sender.acknowledged) >= count for sender in senders)

    await until(have, f"{count} acknowledgements each")


async def _is_unready(exporter: Exporter) -> bool:
    return (await exporter.get("/-/ready"))[0] == 503


async def _tells_of_a_standby(exporter: Exporter) -> None:
    """Reading works and is said to; that hides nothing of what does not."""

    async def told() -> bool:
        figures = await exporter.scrape()
        if (figures["messaging_database_up"], figures["messaging_database_writable"]) != (1, 0):
            return False
        # Reading may work again before writing is tried, which last failed because there was no server.
        stats = (await exporter.stats())["database"]
        assert (stats["up"], stats["writable"]) == (True, False)
        return stats["error"] in ("the database is a standby, which takes no writes", "the database is read-only")

    await until(told, "a standby can be read and not be written, with the reason")
    status, problem, _ = await exporter.get("/-/ready")
    assert status == 503
    assert "cannot write" in str(problem)


def _nothing_is_lost(server: Postgres, database: str, senders: list[Sender]) -> None:
    rows = [
        line.split("|")
        for line in server.psql("SELECT conversation_id, seq, client_id FROM messages", database).split()
    ]
    stored = {id: (room, int(seq)) for room, seq, id in rows}
    assert len(stored) == len(rows), "a message is there twice"
    acknowledged = {id: (sender.room, seq) for sender in senders for id, seq in sender.acknowledged.items()}
    assert acknowledged.items() <= stored.items()
    for room in range(ROOMS):
        numbers = sorted(seq for name, seq in stored.values() if name == f"room{room}")
        assert numbers == list(range(1, len(numbers) + 1))
    kept = server.psql("SELECT sum(messages) FROM daily_totals", database).strip()
    assert int(kept) == len(rows)


async def test_a_primary_that_crashes_and_its_synchronous_standby_swap_roles(tmp_path: Path) -> None:
    with pair(synchronous_standby_names="*") as (primary, standby):
        await _is_followed(primary, "sync")
        await swap(tmp_path, primary, standby, crash=True)


async def test_a_clean_switchover_to_an_asynchronous_standby(tmp_path: Path) -> None:
    with pair() as (primary, standby):
        await swap(tmp_path, primary, standby, crash=False)
