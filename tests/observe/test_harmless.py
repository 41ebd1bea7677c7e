"""A running ejabberd and a running Prosody on SQLite lose nothing while their files are read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from exporter.observe import count_once
from exporter.observe.records import SourceError
from tests.observe.chatting import MESSAGES, ROWS, ordinary_reader, rows, two_people, write
from tests.servers.xmpp_servers import Ejabberd, Prosody


@pytest.fixture(
    params=[
        pytest.param(Ejabberd, marks=pytest.mark.needs("ejabberd"), id="ejabberd"),
        pytest.param(Prosody, marks=pytest.mark.needs("prosody"), id="prosody"),
    ]
)
def server(request: pytest.FixtureRequest) -> Iterator[Ejabberd | Prosody]:
    """The server at work, stopped at the end."""
    running = request.param()
    try:
        running.start()
        yield running
    finally:
        running.close()


async def test_all_302_rows_are_kept_while_the_file_is_read_without_a_pause(server: Ejabberd | Prosody) -> None:
    async with two_people(server) as (ann, bob):
        await write(ann, bob, range(1))  # Prosody makes its tables with the first
        done = asyncio.Event()
        seen: list[int] = []

        async def watch() -> None:
            while not done.is_set():
                with contextlib.suppress(SourceError):  # written to during every attempt: nothing is known, none lost
                    totals = await count_once(f"sqlite:///{server.file}", server.name, host="example.org")
                    seen.append(totals.stored_messages or 0)

        watching = asyncio.create_task(watch())
        await write(ann, bob, range(1, MESSAGES))
        done.set()
        await watching
        last = await count_once(f"sqlite:///{server.file}", server.name, host="example.org")
    server.stop()
    assert rows(server) == ROWS
    assert last.stored_messages == MESSAGES
    assert seen, "the file was read at least once meanwhile"
    assert seen == sorted(seen), "no count went back"
    assert "commit" not in server.output()


@pytest.mark.needs("ejabberd")
async def test_a_reader_with_locks_would_have_lost_rows() -> None:
    server = Ejabberd()
    try:
        server.start()
        async with two_people(server) as (ann, bob):
            await write(ann, bob, range(1))
            with ordinary_reader(server):
                await write(ann, bob, range(1, 6))
            await write(ann, bob, range(6, 10))
        server.stop()
        assert rows(server) == 10, "of 20: 10 messages were delivered, 5 of them are in nobody's archive"
    finally:
        server.close()
