"""Names that no name server answers, and addresses that do not: nothing piles up, and the next address is tried."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from exporter.broker import addresses, reconnecting, sentinels
from exporter.broker.addresses import Addresses
from exporter.broker.location import locate
from tests.broker.nodes import Node
from tests.broker.test_redis import talk
from tests.logged import logged
from tests.servers.exporter import until
from tests.servers.valkey import Server

NAME = "broker.example.com"


class NameServer:
    """What the loop asks for a name: who asks is answered when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.questions: list[asyncio.Future[list[Any]]] = []
        self.found: list[Any] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.asked)

    def answers(self, *ports: int) -> None:
        """From now on."""
        self.found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        for question in self.questions:
            question.set_result(self.found)

    async def asked(self, host: str, *_: object, **__: object) -> list[Any]:
        if self.found:
            return self.found
        self.questions.append(asyncio.get_running_loop().create_future())
        return await asyncio.shield(self.questions[-1])  # a thread does not end because nobody waits for it


async def test_a_name_is_asked_for_once_however_often_that_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnecting, "SILENCE", 0.05)
    monkeypatch.setattr(reconnecting, "LONGEST_PAUSE", 0.01)
    tries: list[object] = []
    failed = reconnecting.ReconnectingConnection._failed
    monkeypatch.setattr(
        reconnecting.ReconnectingConnection, "_failed", lambda *said: (tries.append(said), failed(*said))
    )
    names = NameServer(monkeypatch)
    node = Node(f"redis://{NAME}:{server.port}", "messaging")

    async def tried() -> bool:
        return len(tries) >= 5

    try:
        await node.broker.start(0.0)
        await until(tried, "given up again and again")
        assert len(names.questions) == 1
        node.broker._reconnecting._silence = 2.0
        names.answers(server.port)
        await node.up()
    finally:
        await node.broker.close()


async def test_a_name_that_is_not_found_after_that_was_given_up_is_no_lost_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: lost.append(context))
    monkeypatch.setattr(sentinels, "TIMEOUT", 0.01)
    names, found = NameServer(monkeypatch), Addresses()
    location = locate(f"redis+sentinel://{NAME}/main")
    for _ in range(3):
        with pytest.raises(ConnectionError, match="no Sentinel can be reached"):
            await sentinels.master(location, found)
    assert len(names.questions) == 1
    names.questions[0].set_exception(socket.gaierror(-3, "Temporary failure in name resolution"))
    await asyncio.wait(found._asked.values())
    names.questions.clear()
    gc.collect()
    assert lost == []


@contextmanager
def silent() -> Iterator[int]:
    """A port where nobody answers: its queue is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waits = stack.enter_context(socket.socket())
            waits.setblocking(False)
            waits.connect_ex(full.getsockname())
        yield full.getsockname()[1]


async def test_an_address_that_is_silent_does_not_hide_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent() as port:
        NameServer(monkeypatch).answers(port, server.port)
        first, last = (Node(f"redis://{NAME}:{server.port}", "addresses") for _ in range(2))
        try:
            for node in (first, last):
                await node.broker.start(5.0)
                await node.up()
            await talk(first, last)
        finally:
            await first.broker.close()
            await last.broker.close()


async def test_frames_do_not_wait_for_each_other_on_the_way(server: Server) -> None:
    """Nagle's algorithm would keep each back until the one before it is confirmed."""
    node = Node(server.url, "messaging")
    try:
        await node.broker.start(5.0)
        connection = node.broker._reconnecting.connection
        assert connection is not None
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        await node.broker.close()


async def test_why_there_is_no_connection_is_told_without_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refuses = closed.getsockname()
        with pytest.raises(OSError, match="Connection refused") as caught:
            await Addresses().connected(*refuses)
        assert "127" not in str(caught.value)
        names = NameServer(monkeypatch)
        names.found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (refuses, ("255.255.255.255", 1), refuses)
        ]
        with pytest.raises(OSError, match="Connection refused") as caught:
            await Addresses().connected(NAME, 1)
    assert caught.value.strerror == "Connection refused, Network is unreachable", "each of them, once"


async def test_an_address_is_not_asked_for_as_a_name_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that nobody answers may have taken all threads that ask."""
    names = NameServer(monkeypatch)
    async with asyncio.timeout(30):  # nobody answers here
        found = [(await Addresses().of(host, 7))[0][4] for host in ("127.0.0.1", "::1")]
    assert (found, names.questions) == ([("127.0.0.1", 7), ("::1", 7, 0, 0)], [])


async def test_reasons_that_take_turns_are_each_told_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is down is now without a route, and now silent; and when it was there meanwhile, that is news."""
    monkeypatch.setattr(reconnecting, "FIRST_PAUSE", 0.0)
    errors = [TimeoutError(), OSError(113, "No route to host")]
    connected, tries = addresses.Addresses.connected, 0

    async def fail(self: Addresses, host: str, port: int) -> socket.socket:
        nonlocal tries
        tries += 1
        if tries % 7 == 0:
            return await connected(self, host, port)
        raise errors[tries % 2]

    monkeypatch.setattr(addresses.Addresses, "connected", fail)
    node = Node(server.url, "messaging")
    try:
        with logged(reconnecting) as lines:
            for _ in range(2):
                await node.broker.start(0.0) if not tries else None
                await node.up()
                connection = node.broker._reconnecting.connection
                assert connection is not None
                connection.abort("for this test")
            said = [line.get("reason", line["event"]) for line in lines]
    finally:
        await node.broker.close()
    once = ["no route to host", "no answer in time", "the broker is there", "for this test"]
    assert said == [*once, once[1], once[0], *once[2:]] or said == once * 2, said
