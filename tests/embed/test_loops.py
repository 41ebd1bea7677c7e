"""A host that has two event loops at once: an application at two addresses, tests whose client has one per request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from exporter.embed import Live, LockedLive, Source, totals
from exporter.embed.service import Service
from exporter.observe import collector
from tests.servers.exporter import PATIENCE
from tests.servers.postgres import Postgres

ASKED = 0.01  # seconds
SAY = "INSERT INTO message (room, sender, at) VALUES ('room', 'ann', now())"


@contextmanager
def _in_a_thread(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.mark.needs("postgres")
def test_totals_are_read_by_the_loop_that_has_the_connection(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "FRESH", 0.0)
    database = postgres.create_database().rpartition("/")[2]
    postgres.psql("CREATE TABLE message (id bigserial PRIMARY KEY, room TEXT, sender TEXT, at timestamptz)", database)
    postgres.psql(SAY, database)
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamptz}, sender: sender, "
        "conversation: room}\n"
    )
    live = Live(workers=1, totals=Source(postgres.url(database), mapping, load=1.0))
    service = Service(live, lambda _: True)
    answers: list[Any] = []

    async def reads(wanted: int) -> None:
        """All that is answered is kept; it may still be counting for the first time."""
        async with asyncio.timeout(PATIENCE):
            while True:
                document = json.loads((await service.answer("GET", "/v1/messaging/stats", {}, {}, None)).body)
                answers.append((document["total_messages"], document["database"]["error"]))
                if document["total_messages"] == wanted:
                    return
                await asyncio.sleep(0.01)

    first = asyncio.new_event_loop()  # that of a WebSocket
    try:
        with _in_a_thread(first):
            asyncio.run_coroutine_threadsafe(reads(1), first).result()
            source = live.totals
            assert source is not None
            assert source._collector is not None
            engine = source._collector.engine
            for wanted in (2, 3):
                postgres.psql(SAY, database)
                asyncio.run(reads(wanted))
            assert source._collector.engine is engine, "nothing was begun anew"
        for wanted in (4, 5):  # it is not closed, and nobody runs it
            postgres.psql(SAY, database)
            asyncio.run(reads(wanted))
        postgres.psql(SAY, database)
        first.run_until_complete(reads(6))  # and now it is run again
        looking = [task for task in asyncio.all_tasks(first) if task.get_name() == "messaging-source"]
        assert len(looking) == 1, "what was begun there before does not go on"
        assert not [error for _, error in answers if "an error of messaging-exporter" in (error or "")]
        first.run_until_complete(service.close())
    finally:
        first.close()


def test_a_scrape_in_one_loop_waits_for_none_in_another() -> None:
    rendering, answered = threading.Event(), threading.Event()

    def sockets() -> list[object]:
        """The first scrape is held up in the middle of its work."""
        if not rendering.is_set():
            rendering.set()
            answered.wait(PATIENCE)
        return []

    service = Service(LockedLive(workers=1, open_sockets=sockets), None)

    async def scrapes(times: int) -> list[int]:
        async with asyncio.timeout(PATIENCE):
            return [(await service.answer("GET", "/metrics", {}, {}, None)).status for _ in range(times)]

    first = asyncio.new_event_loop()
    try:
        with _in_a_thread(first):
            held_up = asyncio.run_coroutine_threadsafe(scrapes(1), first)
            assert rendering.wait(PATIENCE)
            try:
                assert asyncio.run(scrapes(2)) == [200, 200]
            finally:
                answered.set()
            assert held_up.result() == [200]
        first.run_until_complete(service.close())
    finally:
        first.close()


def test_whoever_asks_for_totals_waits_for_no_event_loop_that_is_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "REFRESH", 3_600.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "host.db")) as database:
        database.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, sender TEXT, at TEXT)")
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender}\n"
    )
    source = Source(f"sqlite:///{tmp_path}/host.db", mapping, load=1.0)
    held_up, go_on, looks = threading.Event(), threading.Event(), 0

    def hold_up() -> None:
        held_up.set()
        go_on.wait(PATIENCE)

    async def asked() -> None:
        for _ in range(3):
            await source.view(ASKED)

    first = asyncio.new_event_loop()
    try:
        with _in_a_thread(first):
            asyncio.run_coroutine_threadsafe(source.start(), first).result()
            assert source._collector is not None
            view = source._collector.view

            async def counted(deadline: float) -> Any:
                nonlocal looks
                await asyncio.sleep(0)
                looks += deadline == ASKED
                return await view(deadline)

            source._collector.view = counted  # type: ignore[method-assign]  # counted
            first.call_soon_threadsafe(hold_up)
            assert held_up.wait(PATIENCE)
            try:
                asyncio.run(asyncio.wait_for(asked(), PATIENCE / 2))
            finally:
                go_on.set()
            for _ in range(3):
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), first).result()
            assert looks == 0, "for who has gone nobody looks"
        first.run_until_complete(source.close())
    finally:
        first.close()


def test_an_event_loop_that_has_ended_is_not_kept() -> None:
    service = Service(LockedLive(workers=1, open_sockets=lambda: range(5_000)), None)
    loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    async def scrapes() -> None:
        """Together, so that one waits for the other."""
        loops.add(asyncio.get_running_loop())
        await asyncio.gather(*(service.answer("GET", "/metrics", {}, {}, None) for _ in range(3)))

    for _ in range(4):
        asyncio.run(scrapes())
    gc.collect()
    assert len(loops) == 1


def test_an_address_that_is_closed_leaves_the_totals_to_the_other(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "host.db").execute("CREATE TABLE message (id INTEGER PRIMARY KEY, sender TEXT, at TEXT)")
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender}\n"
    )
    live = LockedLive(workers=1, totals=Source(f"sqlite:///{tmp_path}/host.db", mapping, load=1.0))
    service = Service(live, lambda _: True)

    async def reads() -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await service.answer("GET", "/v1/messaging/stats", {}, {}, None)
                if json.loads(answer.body)["total_messages"] == 0:
                    return
                await asyncio.sleep(0.01)

    first = asyncio.new_event_loop()
    try:
        with _in_a_thread(first):
            asyncio.run_coroutine_threadsafe(reads(), first).result()
            asyncio.run(service.close())
            assert live.get_stats()["total_messages"] == 0
        first.run_until_complete(service.close())
        assert live.totals is not None
        assert live.totals._collector is None
    finally:
        first.close()


async def test_what_is_begun_while_the_totals_are_being_closed_ends_with_the_next_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite3.connect(tmp_path / "host.db").execute("CREATE TABLE message (id INTEGER PRIMARY KEY, sender TEXT, at TEXT)")
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender}\n"
    )
    source = Source(f"sqlite:///{tmp_path}/host.db", mapping, load=1.0)
    await source.start()
    closing = asyncio.create_task(source.close())
    await asyncio.sleep(0)
    monkeypatch.setattr(collector.SourceCollector, "start", lambda self: asyncio.Event().wait())
    source.start_soon()  # a request
    begun = source._starting
    await closing
    await source.close()
    assert begun is not None
    assert begun.done()
