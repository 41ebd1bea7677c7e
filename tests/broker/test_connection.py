"""One connection to the broker: what is handed out when, and that nothing is left of one that nobody has."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from exporter.broker.connection import AT_ONCE, Connection, connect
from exporter.broker.location import locate
from tests.servers.valkey import Server


async def test_much_that_is_read_at_once_is_handed_out_in_slices_in_order() -> None:
    got: list[int] = []
    reading: list[str] = []

    class Transport(asyncio.Transport):
        def pause_reading(self) -> None:
            reading.append("paused")

        def resume_reading(self) -> None:
            reading.append("resumed")

    connection = Connection(lambda push: got.append(int(push[1])), lambda reason: None)
    connection.connection_made(Transport())
    count = 2 * AT_ONCE + 50
    connection.data_received(b"".join(b">2\r\n$1\r\nx\r\n:%d\r\n" % n for n in range(count)))
    assert (got, reading) == ([*range(AT_ONCE)], ["paused"])
    connection.data_received(b">2\r\n$1\r\nx\r\n:%d\r\n" % count)  # what the socket had before it was paused
    assert len(got) == AT_ONCE
    while reading[-1] == "paused":
        before = len(got)
        await asyncio.sleep(0)
        assert len(got) <= before + AT_ONCE
    assert (got, reading) == ([*range(count + 1)], ["paused", "resumed"])
    connection.data_received(b">2\r\n$1\r\nx\r\n:7\r\n")
    assert got[-1] == 7


async def test_a_start_that_is_cancelled_leaves_no_connection_behind(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the moment when it is open already and nobody has it yet."""
    made: list[Connection] = []
    loop = asyncio.get_running_loop()
    create = loop.create_connection

    async def cancelled(factory: Any, *rest: Any, **more: Any) -> Any:
        _, connection = await create(factory, *rest, **more)
        made.append(connection)
        raise asyncio.CancelledError

    monkeypatch.setattr(loop, "create_connection", cancelled)
    location = locate(server.url, None)
    with pytest.raises(asyncio.CancelledError):
        await connect(location, location.hosts[0], print, print, time.monotonic, float("inf"), "x")
    assert not made[0].open
