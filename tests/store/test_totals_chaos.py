"""Eight writers at once, the server among them, across a UTC midnight, some killed in the middle: totals stay exact."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exporter.core.errors import Refusal
from exporter.core.records import Draft, Message
from exporter.store import Store
from exporter.store.verify import verify
from tests.databases import Outcome, Place, Postgresql, Sqlite, assert_exact, opened
from tests.writers import CONVERSATIONS, USERS

MIDNIGHT = datetime(2026, 3, 11, tzinfo=UTC)
SECONDS = 6.0
ENOUGH = 20
"""Messages that each server must have stored among all that; on a busy machine it goes on a little longer."""
PROCESSES = 6
"""Programs of plain SQL; with a second store and the one under test that makes eight writers."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgres"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Sqlite(tmp_path / "messaging.db")
    server = request.getfixturevalue("postgres")
    return Postgresql(server.url(server.create_database()))


class Programs:
    """Other processes, started again with other random numbers after each kill."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.kills = 0
        self._started = 0
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._started += 1
        arguments = [self.url, f"w{self._started}", MIDNIGHT.isoformat()]
        self._running.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.writers", *arguments],
                cwd=Path(__file__).parents[2],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        )

    def kill_one(self) -> None:
        process = self._running.pop(0)
        assert process.poll() is None, process.communicate()[1].decode()
        process.kill()
        process.communicate()
        self.kills += 1

    def stop(self) -> None:
        while self._running:
            self.kill_one()


@pytest.fixture
def programs(place: Place) -> Iterator[Programs]:
    programs = Programs(place.url)
    try:
        yield programs
    finally:
        with contextlib.suppress(AssertionError):
            programs.stop()


class PassingClock:
    """Runs from shortly before midnight to shortly after it while the test runs."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> datetime:
        return MIDNIGHT - timedelta(seconds=SECONDS / 2) + timedelta(seconds=time.monotonic() - self._began)


async def serve(store: Store, seed: str, until: float) -> int:
    """What the server does: sends, most of them in company, conversations, deletes. How many were stored."""
    chance = random.Random(seed)
    stored = number = 0
    while time.monotonic() < until or (stored < ENOUGH and time.monotonic() < until + 60):
        outcomes = []
        for _ in range(chance.choice([1, 5, 30])):
            number += 1
            outcome = Outcome()
            draft = Draft(chance.choice(CONVERSATIONS), chance.choice(USERS), f"{seed}-{number}", "x")
            store.send(draft, outcome)
            if chance.random() < 0.1:
                store.send(draft, Outcome())
            outcomes.append(outcome)
        results = [(await outcome.future)[0] for outcome in outcomes]
        stored += sum(isinstance(result, Message) for result in results)
        with contextlib.suppress(Refusal):
            if chance.random() < 0.3:
                await store.create_conversation(chance.choice(CONVERSATIONS), chance.choice(USERS), USERS[:3])
            elif chance.random() < 0.3:
                await store.delete_message(chance.choice(CONVERSATIONS), chance.randint(1, 2000), "root", True)
            elif chance.random() < 0.3:
                await store.register(chance.choice(USERS))
    return stored


async def test_every_figure_is_exact_after_eight_writers(place: Place, programs: Programs) -> None:
    clock = PassingClock()
    async with opened(place, clock=clock, timeout=20.0) as store, opened(place, clock=clock, timeout=20.0) as second:
        for _ in range(PROCESSES):
            programs.start()
        until = time.monotonic() + SECONDS
        servers = [
            asyncio.create_task(serve(store, "first", until)),
            asyncio.create_task(serve(second, "second", until)),
        ]
        scrapes = 0
        while time.monotonic() < until:
            await asyncio.sleep(SECONDS / 12)
            programs.kill_one()
            programs.start()
            found = await store.totals(20)
            assert found.stored_messages >= found.messages_today >= 0
            scrapes += 1
        assert min(await asyncio.gather(*servers)) >= ENOUGH
        programs.stop()
        assert programs.kills > PROCESSES
        assert (await place.fetch("SELECT count(*) FROM messages WHERE client_id LIKE 'w%'"))[0][0] > 0
        for day in (MIDNIGHT - timedelta(days=1), MIDNIGHT, MIDNIGHT + timedelta(days=29)):
            for one in (store, second):
                one._clock = lambda day=day: day
                await assert_exact(place, one, day.date())
        report = await verify(store)
        assert report.agrees, report
