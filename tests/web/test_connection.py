"""A connection on a real socket, on asyncio's loop and on uvloop's: limits, order, endings, what the peer gets.

The heartbeat and the expiry of tokens are tried with a clock that passes when told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import uvloop

from exporter.auth.tokens import LEEWAY
from exporter.core import websocket_frames
from exporter.core.errors import ErrorCode, Unavailable
from exporter.core.events import ClosedReason
from exporter.core.records import HubStats, Membership
from exporter.core.websocket_frames import BINARY, CLOSE, PING, PONG, TEXT
from exporter.metrics.counters import Metrics
from exporter.node.fanout import FanOut
from exporter.node.node import Node
from exporter.node.turn import SEVERAL
from exporter.settings.model import Limits
from exporter.web.websocket import connection as connection_module
from exporter.web.websocket import connections as connections_module
from exporter.web.websocket.connection import MAX_WAITING, ConnectionContext, State, WebSocketConnection
from exporter.web.websocket.connections import VISITS, Connections
from tests.doubles import Clock, FakeStore, client_frame, server_frames, texts, turns
from tests.logged import logged
from tests.servers.exporter import in_process
from tests.servers.wire import handshake

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
MEMBER = Membership(member=True, last_seq=0)
NEVER = 1e12
PATIENCE = 60.0


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.001)


class Client:
    """The other end: a raw socket, so that it can do what a library would not."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.seen = b""
        self._loop = asyncio.get_running_loop()

    async def send(self, *data: bytes) -> None:
        await self._loop.sock_sendall(self.raw, b"".join(data))

    async def say(self, *commands: dict[str, Any]) -> None:
        await self.send(*(client_frame(TEXT, json.dumps(command).encode()) for command in commands))

    async def _receive(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            data = await self._loop.sock_recv(self.raw, 1 << 20)
        self.seen += data
        return bool(data)

    async def frames(self, count: int) -> list[dict[str, Any]]:
        """The next text frames, and no more of them."""
        while len(found := self._whole()) < count:
            assert await self._receive(), f"closed after {found}"
        self.seen = b""
        assert len(found) == count, found
        return found

    def _whole(self) -> list[dict[str, Any]]:
        """None of them while a part of the last is still on its way."""
        try:
            return texts(self.seen)
        except (AssertionError, IndexError):
            return []

    async def rest(self, *, answered: bool = False) -> list[tuple[int, bytes]]:
        """Everything up to the end of the stream; a close frame is answered, so that the server need not wait."""
        while await self._receive():
            with contextlib.suppress(AssertionError, IndexError):
                opcode, payload = server_frames(self.seen)[-1]
                if opcode == CLOSE and not answered:
                    answered = True
                    with contextlib.suppress(ConnectionError):
                        await self.send(client_frame(CLOSE, payload[:2]))
        return server_frames(self.seen)

    async def closed(self) -> tuple[int, str]:
        """Code and words of the close frame, which is the last thing that comes."""
        opcode, payload = (await self.rest())[-1]
        assert opcode == CLOSE
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()


class World:
    """A node with real connections on real sockets."""

    def __init__(self, *, limits: Limits | None = None, now: Callable[[], float] = time.monotonic) -> None:
        loop = asyncio.get_running_loop()
        self.store = FakeStore()
        self.metrics = Metrics()
        self.limits = limits = limits or Limits()
        self.node = Node(
            self.store,
            self.metrics,
            FanOut(loop.call_soon, self.metrics.sent_bytes, now),
            now=now,
        )
        self.connections = Connections(30.0)
        self.context = ConnectionContext(
            self.node, self.metrics, limits, now, self.connections.ended, self.connections.lost
        )
        self.made: list[WebSocketConnection] = []
        self._clients: list[socket.socket] = []
        self._server: asyncio.Server | None = None

    def connection(self, transport: asyncio.Transport, user: str, expires_at: float = NEVER) -> WebSocketConnection:
        connection = WebSocketConnection(f"s{len(self.made)}", user, expires_at, transport, self.context)
        self.made.append(connection)
        self.connections.add(connection)
        self.node.open(connection)
        return connection

    async def connect(
        self, user: str = "ann", *, receive_buffer: int | None = None
    ) -> tuple[WebSocketConnection, Client]:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[WebSocketConnection] = loop.create_future()

        class Accepting(asyncio.Protocol):
            def connection_made(_, transport: asyncio.BaseTransport) -> None:
                connection = self.connection(cast(asyncio.Transport, transport), user)  # uvloop's is a class of its own
                transport.set_protocol(connection)
                accepted.set_result(connection)

        server = await loop.create_server(Accepting, "127.0.0.1", 0)
        raw = socket.socket()
        raw.setblocking(False)
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._clients.append(raw)
        await loop.sock_connect(raw, server.sockets[0].getsockname())
        connection = await asyncio.wait_for(accepted, PATIENCE)
        server.close()
        return connection, Client(raw)

    async def joined(self, client: Client, conversation: str = "c") -> None:
        await client.say({"type": "join", "conversation": conversation})
        await until(lambda: self.store.asked, "the join is asked")
        self.store.answer(MEMBER)
        await client.frames(1)

    def closed(self) -> dict[str, int]:
        """How many ended for which reason."""
        return {str(r): cell.value for r, cell in self.metrics.connections_closed.cells.items() if cell.value}

    def rejected(self, command: str, code: ErrorCode) -> int:
        return self.metrics.commands_rejected[command, code].value

    async def finish(self) -> None:
        for raw in self._clients:
            raw.close()
        self.connections.abort_all()
        await until(lambda: not self.connections.sockets, "all sockets are gone")
        for _, future in self.store.asked:
            if not future.done():
                future.set_exception(Unavailable("the test is over"))
        await self.node.close_all()
        assert self.node.hub.stats() == HubStats()
        assert not self.node.fan_out.slow
        opened, closed = self.metrics.connections_opened.value, sum(self.closed().values())
        assert opened == closed == sum(self.metrics.connection_duration.counts) == len(self.made)


@contextlib.asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    made = World(**options)
    try:
        yield made
    finally:
        await made.finish()


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test on asyncio's loop and on uvloop's, which write and pause differently."""

    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop: str) -> None:
        failures: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
            await test()

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(watched())
        assert not failures

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


# --- in ---------------------------------------------------------------------------------------------------


@on_both_loops
async def test_what_came_with_the_handshake_is_carried_out_before_what_follows_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with in_process(Path(folder)) as exporter:
            parts = urlsplit(exporter.url)
            with socket.create_connection((parts.hostname or "", parts.port or 0)) as raw:
                raw.setblocking(False)
                client, node = Client(raw), exporter.server.node
                let_in = node.open

                def open_and_hear_more(connection: Any) -> None:
                    let_in(connection)
                    raw.sendall(client_frame(TEXT, b'{"type":"ping","id":"2"}')[:9])  # and never the rest

                node.open = open_and_hear_more  # type: ignore[method-assign]
                early = client_frame(TEXT, b'{"type":"ping","id":"1"}')
                await client.send(handshake(exporter.token("ann")) + early)
                while b'"id":"1"' not in client.seen:
                    assert await client._receive(), client.seen
                _, _, frames = client.seen.partition(b"\r\n\r\n")
                assert [frame["type"] for frame in texts(frames)] == ["welcome", "pong"]


@on_both_loops
async def test_a_command_is_answered_however_its_bytes_arrive() -> None:
    async with world() as w:
        _, client = await w.connect()
        await client.say({"type": "ping", "id": "1"}, {"type": "ping", "id": "2"})
        assert await client.frames(2) == [{"type": "pong", "id": "1"}, {"type": "pong", "id": "2"}]
        for byte in client_frame(TEXT, b'{"type": "ping"}'):
            await client.send(bytes([byte]))
        assert await client.frames(1) == [{"type": "pong"}]


@on_both_loops
async def test_bytes_in_and_out_are_counted_exactly() -> None:
    async with world() as w:
        _, client = await w.connect()
        await client.say({"type": "ping", "id": "1"})
        await until(lambda: w.metrics.sent_bytes.value, "the answer")
        await client.send(client_frame(PING, b"x"))
        await client.send(client_frame(CLOSE, struct.pack("!H", 1000)))
        sent = sum(len(websocket_frames.frame(*frame)) for frame in await client.rest(answered=True))
        assert w.metrics.sent_bytes.value == sent
        received = len(client_frame(TEXT, json.dumps({"type": "ping", "id": "1"}).encode())) + 7 + 8
        assert w.metrics.received_bytes.value == received


@on_both_loops
async def test_what_is_no_command_is_answered_and_the_connection_stays_open() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await client.send(
            client_frame(TEXT, b"garbage"),
            client_frame(BINARY, b"\x00\xff"),
            client_frame(TEXT, b'{"type": "nonsense", "id": "1"}'),
            client_frame(TEXT, b'{"type": "join", "conversation": "' + b"x" * 129 + b'", "id": "2"}'),
            client_frame(TEXT, b'{"type": "ping"}'),
        )
        *errors, pong = await client.frames(5)
        assert [(error["code"], error.get("id")) for error in errors] == [
            ("bad_frame", None),
            ("bad_frame", None),
            ("unknown_type", "1"),
            ("too_large", "2"),
        ]
        assert pong == {"type": "pong"}
        assert connection.state is State.OPEN
        assert w.rejected("unknown", ErrorCode.BAD_FRAME) == 2
        assert w.rejected("unknown", ErrorCode.UNKNOWN_TYPE) == w.rejected("join", ErrorCode.TOO_LARGE) == 1


@on_both_loops
async def test_a_ping_frame_is_answered_with_its_payload_and_a_pong_frame_is_not() -> None:
    async with world() as w:
        _, client = await w.connect()
        await client.send(client_frame(PONG, b"unasked"), client_frame(PING, b"x" * 125), client_frame(PING))
        await client.send(client_frame(CLOSE))
        assert await client.rest() == [(PONG, b"x" * 125), (PONG, b""), (CLOSE, struct.pack("!H", 1000))]


# --- the rate limit ---------------------------------------------------------------------------------------


@on_both_loops
async def test_a_bucket_of_one_seconds_frames_then_rate_limited_then_4029() -> None:
    clock = Clock()
    async with world(limits=Limits(frames_per_second=5), now=clock) as w:
        _, client = await w.connect()
        await client.say(*({"type": "ping", "id": str(n)} for n in range(9)))
        answers = await client.frames(9)
        assert [a["type"] for a in answers] == ["pong"] * 5 + ["error"] * 4
        assert {(a["code"], a["id"]) for a in answers[5:]} == {("rate_limited", str(n)) for n in range(5, 9)}
        assert w.rejected("ping", ErrorCode.RATE_LIMITED) == 4
        await client.send(client_frame(TEXT, b'{"type": "join"'))  # the fifth in a row; nobody reads what it is
        *_, (opcode, last), close = await client.rest()
        assert (opcode, json.loads(last)["code"]) == (TEXT, "rate_limited")
        assert close == (CLOSE, struct.pack("!H", 4029) + b"rate limited")
        assert w.rejected("unknown", ErrorCode.RATE_LIMITED) == 1
        assert w.closed() == {"rate_limited": 1}


@on_both_loops
async def test_the_bucket_fills_with_time_up_to_one_second_and_strikes_in_a_row_are_forgotten() -> None:
    clock = Clock()
    async with world(limits=Limits(frames_per_second=4), now=clock) as w:
        _, client = await w.connect()
        for _ in range(3):
            await client.say(*({"type": "ping"} for _ in range(7)))  # three too many: one more would close
            assert [a["type"] for a in await client.frames(7)] == ["pong"] * 4 + ["error"] * 3
            clock.now += 100.0  # a long pause is worth no more than one second
        clock.now += 0.0
        await client.say(*({"type": "ping"} for _ in range(6)))
        assert [a["type"] for a in await client.frames(6)] == ["pong"] * 4 + ["error"] * 2
        clock.now += 0.25
        await client.say({"type": "ping"}, {"type": "ping"})
        assert [a["type"] for a in await client.frames(2)] == ["pong", "error"]
        assert w.closed() == {}


@on_both_loops
async def test_what_is_refilled_between_strikes_is_kept() -> None:
    clock = Clock()
    async with world(limits=Limits(frames_per_second=4), now=clock) as w:
        _, client = await w.connect()
        await client.say(*({"type": "ping"} for _ in range(4)))
        await client.frames(4)
        for answer in ("error", "pong") * 3:
            clock.now += 0.125
            await client.say({"type": "ping"})
            assert [a["type"] for a in await client.frames(1)] == [answer]


@on_both_loops
async def test_over_the_limit_a_binary_message_is_refused_and_a_ping_frame_has_its_pong() -> None:
    """A client library pings to see whether the connection stands: without a pong it would give it up."""
    async with world(limits=Limits(frames_per_second=3), now=Clock()) as w:
        _, client = await w.connect()
        await client.say(*({"type": "ping"} for _ in range(3)))
        await client.send(client_frame(PING, b"?"), client_frame(BINARY, b"!"))
        await client.send(client_frame(CLOSE, b"\x03\xe8"))
        *answers, pong, refusal, close = await client.rest()
        assert [json.loads(payload)["type"] for _, payload in answers] == ["pong"] * 3
        assert pong == (PONG, b"?")
        assert json.loads(refusal[1])["code"] == "rate_limited"
        assert close == (CLOSE, b"\x03\xe8")
        assert w.rejected("unknown", ErrorCode.RATE_LIMITED) == 1


@pytest.mark.parametrize("opcode", [PING, PONG, BINARY])
def test_a_flood_of_frames_that_are_no_commands_ends_too(opcode: int) -> None:
    async def test() -> None:
        async with world(limits=Limits(frames_per_second=5), now=Clock()) as w:
            _, client = await w.connect()
            await client.send(client_frame(opcode) * 200)
            assert await client.closed() == (4029, "rate limited")
            assert w.closed() == {"rate_limited": 1}

    asyncio.run(test())


@on_both_loops
async def test_a_refused_command_changes_nothing() -> None:
    clock = Clock()
    async with world(limits=Limits(frames_per_second=2), now=clock) as w:
        _, client = await w.connect()
        await w.joined(client)
        await client.say({"type": "ping"})
        await client.frames(1)
        before = w.node.hub.stats()
        await client.say({"type": "typing", "conversation": "c", "active": True})
        assert [frame["code"] for frame in await client.frames(1)] == ["rate_limited"]
        assert w.node.hub.stats() == before
        assert w.metrics.typing_started.value == 0


# --- waiting behind a join --------------------------------------------------------------------------------


@on_both_loops
async def test_commands_behind_a_join_wait_for_it_and_are_answered_in_order() -> None:
    async with world() as w:
        _, client = await w.connect()
        await client.say(
            {"type": "join", "conversation": "c", "id": "1"},
            {"type": "ping", "id": "2"},
            {"type": "typing", "conversation": "c", "active": True},
            {"type": "join", "conversation": "d", "id": "3"},
            {"type": "leave", "conversation": "c", "id": "4"},
            {"type": "send", "conversation": "d", "body": "b", "id": "5"},
        )
        await until(lambda: w.store.asked, "the first join is asked")
        await turns()
        assert [question for question, _ in w.store.asked] == [("membership", "c", "ann")]
        assert not w.metrics.typing_started.value
        w.store.answer(MEMBER)
        assert [frame.get("id") for frame in await client.frames(2)] == ["1", "2"]
        assert w.metrics.typing_started.value == 1
        assert sum(w.metrics.command_duration["typing"].counts) == 1
        await until(lambda: w.store.asked, "the second join is asked")
        w.store.answer(Unavailable("down"))
        answers = await client.frames(3)
        assert [(a["type"], a["id"], a.get("code")) for a in answers] == [
            ("error", "3", "unavailable"),
            ("left", "4", None),
            ("error", "5", "not_joined"),
        ]


@on_both_loops
async def test_who_sends_on_and_on_behind_a_join_is_not_read_until_it_is_answered() -> None:
    async with world(limits=Limits(frames_per_second=10_000)) as w:
        connection, client = await w.connect()
        await client.say({"type": "join", "conversation": "c"})
        await until(lambda: w.store.asked, "the join is asked")
        for number in range(MAX_WAITING):
            await client.say({"type": "ping", "id": str(number)})
        await until(lambda: not connection._socket.is_reading(), "reading is paused")
        assert connection.is_held_up
        before = w.metrics.received_bytes.value
        await client.say({"type": "ping", "id": "last"})
        await turns(50)
        assert w.metrics.received_bytes.value == before
        w.store.answer(MEMBER)
        answers = await client.frames(MAX_WAITING + 2)
        assert [a.get("id") for a in answers] == [None, *map(str, range(MAX_WAITING)), "last"]
        assert connection._socket.is_reading()
        assert not connection.is_held_up


@on_both_loops
async def test_a_connection_that_is_cut_during_its_join_is_forgotten_with_what_waited() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await client.say({"type": "join", "conversation": "c"}, *({"type": "ping"} for _ in range(MAX_WAITING + 3)))
        await until(lambda: not connection._socket.is_reading(), "reading is paused")
        connection.abort(ClosedReason.HEARTBEAT)
        w.store.answer(MEMBER)
        await until(lambda: connection.state is State.LOST, "the socket is gone")
        await turns()
        assert w.metrics.joins.value == 0
        assert sum(w.metrics.command_duration["ping"].counts) == 0


@on_both_loops
async def test_what_waits_behind_a_join_is_not_kept_for_who_has_gone() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await client.say({"type": "join", "conversation": "c"}, {"type": "ping"})
        await until(lambda: connection.is_held_up, "a command waits")
        client.raw.close()
        await until(lambda: connection.state is State.LOST, "the socket is gone")
        assert not connection.is_held_up


@on_both_loops
async def test_a_connection_that_ends_while_it_is_not_read_still_hears_why() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await client.say({"type": "join", "conversation": "c"}, *({"type": "ping"} for _ in range(MAX_WAITING + 3)))
        await until(lambda: not connection._socket.is_reading(), "reading is paused")
        connection.close(ClosedReason.TOKEN_EXPIRED)
        assert await client.closed() == (4001, "token expired")
        w.store.answer(MEMBER)
        await turns()
        assert w.metrics.joins.value == 0


# --- endings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "answer", "reason"),
    [
        (b"", 1000, "client"),
        (struct.pack("!H", 1000) + b"bye", 1000, "client"),
        (struct.pack("!H", 1001), 1001, "client"),
        (struct.pack("!H", 1002), 1002, "client"),  # the client's code decides nothing
        (struct.pack("!H", 1011), 1011, "client"),
        (struct.pack("!H", 1013), 1013, "client"),
        (struct.pack("!H", 4029), 4029, "client"),
        (struct.pack("!H", 1005), 1002, "protocol_error"),
        (struct.pack("!H", 999), 1002, "protocol_error"),
        (struct.pack("!H", 5000), 1002, "protocol_error"),
        (b"\x03", 1002, "protocol_error"),
        (struct.pack("!H", 1000) + b"\xff", 1002, "protocol_error"),
    ],
)
def test_a_close_frame_is_answered_and_the_server_closes_first(payload: bytes, answer: int, reason: str) -> None:
    async def test() -> None:
        async with world() as w:
            connection, client = await w.connect()
            await client.send(client_frame(CLOSE, payload), client_frame(TEXT, b'{"type": "ping"}'))
            assert (await client.closed())[0] == answer  # and then the end of the stream, though we have not closed
            assert w.closed() == {reason: 1}
            await until(lambda: connection.state is State.LOST, "the socket is gone")

    asyncio.run(test())


VIOLATIONS = {
    "unmasked": (client_frame(TEXT, b'{"type": "ping"}', masked=False), 1002),
    "reserved bit": (client_frame(TEXT, b"{}", reserved=4), 1002),
    "unknown opcode": (client_frame(3), 1002),
    "long control frame": (client_frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (client_frame(0, b"x"), 1002),
    "not UTF-8": (client_frame(TEXT, b'{"type": "ping", "id": "\xff"}'), 1007),
    "not UTF-8 where nobody looks": (client_frame(TEXT, b'{"type": "ping", "x": "\xff"}'), 1007),
    "a surrogate in UTF-8": (client_frame(TEXT, b'{"type": "ping", "x": "\xed\xa0\x80"}'), 1007),
    "one byte above the limit": (client_frame(TEXT, b"x" * 65_537), 1009),
    "fragments above the limit": (client_frame(TEXT, b"x" * 65_536, fin=False) + client_frame(0, b"x"), 1009),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation_closes_with_its_code_after_what_came_before_is_answered(data: bytes, code: int) -> None:
    async def test() -> None:
        async with world() as w:
            _, client = await w.connect()
            await client.send(client_frame(TEXT, b'{"type": "ping"}'), data, client_frame(TEXT, b'{"type": "ping"}'))
            client.raw.shutdown(socket.SHUT_WR)
            pong, close = await client.rest()
            assert pong == (TEXT, b'{"type":"pong"}')
            assert (close[0], int.from_bytes(close[1][:2], "big")) == (CLOSE, code)
            assert w.closed() == {"protocol_error": 1}

    asyncio.run(test())


ENDLESS = bytes((0x81, 0xFF)) + (1 << 40).to_bytes(8, "big") + bytes(4)
UNFINISHED = {
    "a header of more than will ever come": (ENDLESS, 1009),
    "half of a frame above the limit": (client_frame(TEXT, b"x" * 200_000)[:90_000], 1009),
    "fragments above the limit, and more to come": (
        client_frame(TEXT, b"x" * 65_536, fin=False) + client_frame(0, b"x", fin=False),
        1009,
    ),
    "a fragment that is not UTF-8": (client_frame(TEXT, b'{"x": "\xff', fin=False), 1007),
    "a second fragment that is not UTF-8": (
        client_frame(TEXT, b'{"x": "\xe4', fin=False) + client_frame(0, b"x", fin=False),
        1007,
    ),
}


@on_both_loops
async def test_the_fin_follows_the_close_frame_of_a_violation_whose_peer_waits() -> None:
    """The peer answers nothing before it has seen the end: whoever waits here would wait for the other for ever."""
    for name, (data, code) in (VIOLATIONS | UNFINISHED).items():
        async with world() as w:
            connection, client = await w.connect()
            await client.send(data)
            frames = await client.rest(answered=True)
            assert (frames[-1][0], frames[-1][1][:2]) == (CLOSE, struct.pack("!H", code)), name
            assert connection.state is State.CLOSING, name  # it reads on
            await client.send(client_frame(TEXT, b"what was under way"))
            client.raw.shutdown(socket.SHUT_WR)
            await until(lambda: connection.state is State.LOST, f"the socket is gone: {name}")  # noqa: B023  # at once
            assert w.closed() == {"protocol_error": 1}, name


@on_both_loops
async def test_the_fin_waits_for_the_rest_of_what_is_too_large() -> None:
    """A proxy that saw it earlier would reset a peer that is still sending, and the close code would be lost."""
    async with world() as w:
        connection, client = await w.connect()
        pieces = [client_frame(TEXT if n == 0 else 0, b"x" * 30_000, fin=n == 9) for n in range(10)]
        await client.send(*pieces[:3])
        await until(lambda: connection.state is State.CLOSING, "the close frame")
        for piece in pieces[3:-1]:
            assert not connection._fin_sent
            await client.send(piece)
            await turns()
        await client.send(pieces[-1])
        assert (await client.rest(answered=True))[-1][0] == CLOSE


@on_both_loops
async def test_who_breaks_the_protocol_behind_another_end_gets_the_fin_too() -> None:
    """Its close frame cannot be seen any more, whatever the reason was before."""
    async with world() as w:
        connection, client = await w.connect()
        connection.close(ClosedReason.ADMIN)
        await client.send(client_frame(3))
        assert (await client.rest(answered=True))[-1] == (CLOSE, struct.pack("!H", 4003) + b"disconnected by an admin")
        client.raw.shutdown(socket.SHUT_WR)
        await until(lambda: connection.state is State.LOST, "the socket is gone")
        assert w.closed() == {"admin": 1}


@on_both_loops
async def test_a_client_gets_to_see_1009_however_large_its_frame_is() -> None:
    """Closing with unread bytes in the socket would reset it, and the client would never see the code."""
    async with world() as w:
        connection, client = await w.connect()
        size = 40 << 20
        await client.send(bytes((0x81, 0xFF)) + size.to_bytes(8, "big") + bytes(4))
        chunk = bytes(1 << 20)
        for _ in range(size // len(chunk)):
            await client.send(chunk)
        await client.send(client_frame(CLOSE, struct.pack("!H", 1009)))
        assert await client.closed() == (1009, "frame is larger than 65536 bytes")
        assert w.closed() == {"protocol_error": 1}
        await until(lambda: connection.state is State.LOST, "the socket is gone")


@on_both_loops
async def test_a_frame_of_exactly_the_limit_is_accepted() -> None:
    async with world() as w:
        _, client = await w.connect()
        await client.send(client_frame(TEXT, b'{"type": "ping"}'.ljust(65_536)))
        assert await client.frames(1) == [{"type": "pong"}]


@on_both_loops
async def test_a_reset_is_the_clients_end_and_everything_is_gone_with_it() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await w.joined(client)
        await client.say({"type": "typing", "conversation": "c", "active": True})
        await until(lambda: w.node.hub.stats().typing_users, "typing")
        client.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.raw.close()
        await until(lambda: connection.state is State.LOST, "the reset is seen")
        assert w.node.hub.stats() == HubStats()
        assert w.closed() == {"client": 1}
        assert w.connections.sockets == 0


@on_both_loops
async def test_half_a_frame_and_then_nothing_is_the_clients_end() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await client.send(client_frame(TEXT, b'{"type": "ping"}')[:9])
        client.raw.shutdown(socket.SHUT_WR)
        assert await client.rest() == []
        await until(lambda: connection.state is State.LOST, "the socket is gone")
        assert w.closed() == {"client": 1}


@on_both_loops
async def test_the_first_reason_counts_and_ending_twice_is_ending_once() -> None:
    async with world() as w:
        connection, client = await w.connect()
        connection.close(ClosedReason.TOKEN_EXPIRED)
        connection.close(ClosedReason.SHUTDOWN)
        connection.on_overflow()
        connection.drain()
        assert connection.state is State.CLOSING
        assert len(w.connections) == 0
        assert w.connections.sockets == 1  # the courtesy after the close frame
        assert await client.closed() == (4001, "token expired")
        connection.abort(ClosedReason.HEARTBEAT)
        assert w.closed() == {"token_expired": 1}


@on_both_loops
async def test_who_does_not_answer_the_close_frame_is_cut_off_after_a_while() -> None:
    async with world() as w:
        connection, client = await w.connect()
        connection.close(ClosedReason.RATE_LIMITED)
        await until(lambda: connection.state is State.LOST, "the socket is gone")
        assert await client.closed() == (4029, "rate limited")


@on_both_loops
async def test_who_sends_no_more_and_never_reads_is_cut_off_after_a_while() -> None:
    async with world(limits=SMALL) as w:
        connection, client = await w.connect(receive_buffer=65_536)
        await fill(connection, lambda: connection in w.node.fan_out.slow)
        client.raw.shutdown(socket.SHUT_WR)
        await until(lambda: connection.state is State.LOST, "the socket is gone")
        assert w.connections.sockets == 0
        assert w.closed() == {"client": 1}


@on_both_loops
async def test_who_goes_on_sending_after_the_close_frame_is_cut_off_in_the_end() -> None:
    async with world() as w:
        connection, client = await w.connect()
        connection.close(ClosedReason.RATE_LIMITED)
        ended = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while connection.state is not State.LOST:
                await client.send(client_frame(TEXT, b'{"type": "ping"}'))
                await asyncio.sleep(0.002)
                assert time.monotonic() < ended + PATIENCE
        assert sum(w.metrics.command_duration["ping"].counts) == 0
        await until(lambda: connection.state is State.LOST, "the socket is gone")


@pytest.fixture(autouse=True)
def _courtesy(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "cut_off" in request.node.name:
        monkeypatch.setattr(connection_module, "LINGER", 0.3)  # longer than a busy machine keeps the sender waiting
        monkeypatch.setattr(connection_module, "LINGER_MAX", 0.6)
    elif "the_fin_waits" in request.node.name:
        for name in ("SILENCE", "LINGER", "LINGER_MAX"):
            monkeypatch.setattr(connection_module, name, 3_600.0)  # however long this machine keeps the sender waiting


@on_both_loops
async def test_a_defect_costs_the_connection_with_1011_and_nobody_else() -> None:
    async with world() as w:
        _, client = await w.connect()
        _, other = await w.connect("bob")

        def defect(*_: object) -> None:
            raise ZeroDivisionError

        handle, w.node.handle = w.node.handle, defect
        await client.say({"type": "ping"})
        assert await client.closed() == (1011, "internal error")
        w.node.handle = handle
        await other.say({"type": "ping"})
        assert await other.frames(1) == [{"type": "pong"}]
        assert w.closed() == {"internal_error": 1}


@on_both_loops
async def test_a_defect_in_the_ending_too_does_not_keep_others_from_what_is_theirs() -> None:
    """Not even until the next read: where frames come alone, what is put in a read leaves with it."""
    async with world() as w:
        broken, client = await w.connect()
        other, quiet = await w.connect("bob")
        for _ in range(SEVERAL):
            await client.say({"type": "ping"})
            await client.frames(1)
        failed = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.set())

        def defect(*_: object) -> None:
            raise ZeroDivisionError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(w.node, "handle", defect)
            patch.setattr(w.node, "close", defect)
            await client.say({"type": "ping"})
            await asyncio.wait_for(failed.wait(), PATIENCE)
        other.put(websocket_frames.text_frame(b"{}"))
        assert await quiet.frames(1) == [{}]
        w.node.close(broken, ClosedReason.INTERNAL_ERROR)


async def test_text_that_is_not_utf8_ends_the_connection_and_is_no_command() -> None:
    async with world() as w:
        _, client = await w.connect()
        await client.send(client_frame(TEXT, b"\xff"), client_frame(TEXT, b"{}"))
        assert (await client.closed())[0] == 1007
        assert not any(cell.value for cell in w.metrics.commands_rejected.values())


async def test_what_comes_alone_is_written_to_others_when_its_read_is_over() -> None:
    """Without another round of the loop."""
    async with world() as w:
        ann, bob = (w.connection(StillTransport(), user) for user in ("ann", "bob"))
        w.node.hub.join(ann, "room")
        assert not w.node._publisher.tell("room", "ann", b"nobody is there")
        w.node.hub.join(bob, "room")
        turn, to_bob = w.node.fan_out.turn, cast(StillTransport, bob.transport).written
        turn.alone = 1
        for active in (True, False):
            payload = json.dumps({"type": "typing", "conversation": "room", "active": active}).encode()
            ann.data_received(client_frame(TEXT, payload))
            assert (len(to_bob), turn.begun) == (1, not active)  # the second one waits, to be looked at
        await turns()
        assert [frame["active"] for frame in texts(b"".join(to_bob))] == [True, False]
        for connection in (ann, bob):
            connection.connection_lost(None)


# --- draining ---------------------------------------------------------------------------------------------


@on_both_loops
async def test_an_idle_connection_that_is_drained_is_told_at_once() -> None:
    async with world() as w:
        connection, client = await w.connect()
        connection.drain()
        connection.drain()
        assert len(w.connections) == 0
        assert await client.closed() == (1001, "server going away")
        assert w.closed() == {"shutdown": 1}


@on_both_loops
async def test_a_drained_connection_gets_its_answers_first_and_takes_no_more_commands() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await w.joined(client)
        await client.say(*({"type": "send", "conversation": "c", "body": "b", "id": str(n)} for n in range(2)))
        await until(lambda: len(w.store.sends) == 2, "both are queued")
        connection.drain()
        before = w.metrics.received_bytes.value
        await client.say({"type": "send", "conversation": "c", "body": "late", "id": "2"}, {"type": "ping"})
        await client.send(client_frame(PING))
        await until(lambda: w.metrics.received_bytes.value > before, "they were read")
        await turns()
        assert connection.state is State.DRAINING
        assert len(w.store.sends) == 2
        w.store.commit()
        assert connection.state is State.DRAINING
        w.store.refuse(Unavailable("down"))
        ack, error, close = await client.rest()
        assert (json.loads(ack[1])["type"], json.loads(error[1])["code"]) == ("ack", "unavailable")
        assert close == (CLOSE, struct.pack("!H", 1001) + b"server going away")
        assert w.closed() == {"shutdown": 1}


@on_both_loops
async def test_a_drained_connection_gets_the_answer_to_its_join_first() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await client.say({"type": "join", "conversation": "c"}, {"type": "ping"})
        await until(lambda: w.store.asked, "the join is asked")
        connection.drain()
        assert connection.state is State.DRAINING
        w.store.answer(MEMBER)
        joined, close = await client.rest()  # what waited behind the join is not carried out
        assert json.loads(joined[1])["type"] == "joined"
        assert int.from_bytes(close[1][:2], "big") == 1001


@on_both_loops
async def test_a_client_that_closes_while_it_is_drained_has_closed() -> None:
    async with world() as w:
        connection, client = await w.connect()
        await w.joined(client)
        await client.say({"type": "send", "conversation": "c", "body": "b", "id": "1"})
        await until(lambda: w.store.sends, "it is queued")
        connection.drain()
        await client.send(client_frame(CLOSE, struct.pack("!H", 1000)))
        assert (await client.closed())[0] == 1000
        w.store.commit()
        assert w.closed() == {"client": 1}


@on_both_loops
async def test_without_time_everybody_is_told_at_once_whatever_is_under_way() -> None:
    async with world() as w:
        _, client = await w.connect()
        await w.joined(client)
        others = [(await w.connect(f"user {number}"))[1] for number in range(20)]
        await client.say({"type": "send", "conversation": "c", "body": "b", "id": "1"})
        await until(lambda: w.store.sends, "it is queued")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
            await w.connections.drain(0.0)
        for told in (client, *others):
            assert await told.closed() == (1001, "server going away")
        assert w.closed() == {"shutdown": 21}


@on_both_loops
async def test_a_defect_that_one_meets_keeps_nobody_else_from_being_told() -> None:
    async with world() as w:
        (bad, client), (_, other) = await w.connect("ann"), await w.connect("bob")
        drain = WebSocketConnection.drain

        def failing(connection: WebSocketConnection) -> None:
            if connection is bad:
                raise RuntimeError("a defect")
            drain(connection)

        with pytest.MonkeyPatch.context() as patch, logged(connections_module) as lines:
            patch.setattr(WebSocketConnection, "drain", failing)
            await w.connections.drain(0.0)
        assert [line["event"] for line in lines] == ["connection failed"]
        for told in (other, client):
            assert (await told.closed())[0] == 1001


# --- slow consumers ---------------------------------------------------------------------------------------

SMALL = Limits(send_buffer_bytes=256 * 1024)
PAYLOAD = websocket_frames.text_frame(b'{"type":"message","body":"' + b"x" * 16_000)


async def fill(connection: WebSocketConnection, condition: Callable[[], bool]) -> int:
    """Deliver, turn by turn, until the condition holds; how many deliveries."""
    for count in range(10_000):
        if condition():
            return count
        connection.put(PAYLOAD)
        await asyncio.sleep(0)
    raise AssertionError("the buffer never filled")


@on_both_loops
async def test_a_peer_that_does_not_read_becomes_slow_and_is_itself_again_when_it_reads() -> None:
    async with world(limits=SMALL) as w:
        connection, client = await w.connect(receive_buffer=65_536)
        slow = w.node.fan_out.slow
        count = await fill(connection, lambda: connection in slow)
        assert connection.buffered > SMALL.send_buffer_bytes // 2
        assert connection.state is State.OPEN
        while len(client.seen) < count * len(PAYLOAD):
            await client._receive()
        await until(lambda: connection not in slow, "it has caught up")
        assert connection.buffered <= SMALL.send_buffer_bytes // 2
        assert w.closed() == {}


@on_both_loops
async def test_a_peer_that_still_does_not_read_is_cut_with_4008_which_it_sees_when_it_reads_again() -> None:
    async with world(limits=SMALL) as w:
        connection, client = await w.connect(receive_buffer=65_536)
        await w.joined(client)
        before = w.metrics.sent_bytes.value
        delivered = await fill(connection, lambda: connection.state is not State.OPEN)
        assert connection.state is State.CLOSING
        assert w.closed() == {"slow_consumer": 1}
        assert w.node.hub.stats() == HubStats()
        assert not w.node.fan_out.slow  # an ended connection is no slow consumer, though its buffer is full
        assert connection.buffered <= SMALL.send_buffer_bytes + 200
        assert w.metrics.deliveries_dropped.value >= 1
        assert not connection.put(PAYLOAD)
        *messages, close = await client.rest()
        assert close == (CLOSE, struct.pack("!H", 4008) + b"slow consumer")
        assert len(messages) == delivered - w.metrics.deliveries_dropped.value
        assert w.metrics.sent_bytes.value - before == len(client.seen)


@on_both_loops
async def test_a_burst_of_one_turn_is_within_the_limit_too() -> None:
    """A peer that had not been slow is given many times the limit in one turn, which the socket cannot take."""
    async with world(limits=Limits(send_buffer_bytes=64 * 1024)) as w:
        connection, client = await w.connect(receive_buffer=65_536)
        for _ in range(600):  # 10 MB
            connection.put(PAYLOAD)
        await until(lambda: connection.state is not State.OPEN, "it is cut off")
        assert w.closed() == {"slow_consumer": 1}
        assert not w.node.fan_out.slow
        assert await client.closed() == (4008, "slow consumer")


ENDS: dict[str, Callable[[WebSocketConnection], object]] = {
    "cut": lambda connection: connection.abort(ClosedReason.HEARTBEAT),
    "closed by its peer": lambda connection: connection.eof_received(),
    "lost": lambda connection: connection.connection_lost(None),
}


@on_both_loops
async def test_what_was_waiting_for_a_connection_that_ends_is_counted_as_dropped() -> None:
    for how, end in ENDS.items():
        async with world() as w:
            connection, client = await w.connect()
            connection.put(PAYLOAD)
            connection.put(websocket_frames.text_frame(b"no delivery"))
            connection.put(PAYLOAD)
            end(connection)
            assert w.metrics.deliveries_dropped.value == 2, how
            connection._socket.abort()
            with contextlib.suppress(ConnectionError):
                assert await client.rest() == []


# --- the clock --------------------------------------------------------------------------------------------


class StillTransport(asyncio.Transport):
    """A socket on which nothing happens."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def is_closing(self) -> bool:
        return self.aborted

    def is_reading(self) -> bool:
        return True

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.aborted = True


class Ring:
    """Connections under a clock that is moved from tick to tick."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, heartbeat: float = 30.0) -> None:
        self.clock, self.wall = Clock(), Clock(1_795_352_400.0)
        fake = type("time", (), {"monotonic": staticmethod(self.clock), "time": staticmethod(self.wall)})
        monkeypatch.setattr(connections_module, "time", fake)
        self.world = World(now=self.clock)
        self.heartbeat = heartbeat
        self.connections = Connections(heartbeat)
        context = self.world.context
        self.world.context = ConnectionContext(
            context.node, context.metrics, context.limits, context.now, self.connections.ended, self.connections.lost
        )

    def connection(self, expires_at: float = NEVER) -> WebSocketConnection:
        connection = WebSocketConnection("s", "ann", expires_at, StillTransport(), self.world.context)
        self.connections.add(connection)
        self.world.node.open(connection)
        return connection

    def tick(self, seconds: float | None = None) -> None:
        """One visit of one slot, with the clock where it then is."""
        step = self.connections._tick if seconds is None else seconds
        self.clock.now += step
        self.wall.now += step
        self.connections.stop()
        self.connections._visit()
        self.world.node.fan_out.flush()

    def close(self) -> None:
        self.connections.stop()
        for connection in list(self.connections):
            connection.abort(ClosedReason.SHUTDOWN)


@pytest.mark.parametrize("heartbeat", [0.05, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("late", [1.0, 1.2])
async def test_a_silent_peer_is_pinged_within_an_interval_and_cut_within_one_and_a_half(
    monkeypatch: pytest.MonkeyPatch, heartbeat: float, late: float
) -> None:
    """Whatever the phase at which it fell silent, and with a loop that runs every tick a fifth late, too."""
    ring = Ring(monkeypatch, heartbeat)
    fell_silent: dict[WebSocketConnection, float] = {}
    pinged: dict[WebSocketConnection, float] = {}
    cut: dict[WebSocketConnection, float] = {}
    while not cut or len(cut) < len(fell_silent):
        if ring.clock.now < 1_000 + heartbeat / 2:  # one at each tick of half an interval: every phase
            fell_silent[ring.connection()] = ring.clock.now
        ring.tick(ring.connections._tick * late)
        for connection, since in fell_silent.items():
            transport = connection.transport
            assert isinstance(transport, StillTransport)
            if transport.written and connection not in pinged:
                pinged[connection] = ring.clock.now - since
            if transport.aborted and connection not in cut:
                cut[connection] = ring.clock.now - since
        assert ring.clock.now < 1_000 + 4 * heartbeat * late
    visit = heartbeat / VISITS * late
    assert heartbeat * 0.8 <= min(pinged.values())
    assert max(pinged.values()) <= heartbeat * 7 / 8 + visit * 1.2
    assert max(cut.values()) <= 1.5 * heartbeat
    assert min(cut[connection] - pinged[connection] for connection in cut) >= 0.25 * heartbeat  # time to answer
    reasons = ring.world.metrics.connections_closed
    assert reasons[ClosedReason.HEARTBEAT].value == len(fell_silent) == reasons[ClosedReason.HEARTBEAT].value
    assert all(connection.transport.written == [websocket_frames.frame(PING, b"")] for connection in cut)
    assert len(ring.connections) == 0
    ring.close()


@pytest.mark.parametrize("what", [client_frame(PONG), client_frame(TEXT, b'{"type": "ping"}'), b"\x81"])
async def test_a_peer_of_which_anything_is_heard_is_never_cut(monkeypatch: pytest.MonkeyPatch, what: bytes) -> None:
    ring = Ring(monkeypatch)
    connection = ring.connection()
    transport = connection.transport
    assert isinstance(transport, StillTransport)
    pings = 0
    while ring.clock.now < 1_000 + 10 * 30.0:
        ring.tick()
        if websocket_frames.frame(PING, b"") in transport.written:
            pings += 1
            transport.written.clear()
            if len(what) > 1 or pings == 1:
                connection.data_received(what)
            else:
                connection.last_seen = ring.clock.now  # a second half byte would be a violation
                connection.pinged = False
    assert connection.state is State.OPEN
    assert 9 <= pings <= 12  # a ping in each interval, not in each visit
    ring.close()


@pytest.mark.parametrize("standstill", [1.4, 2.0, 100.0])
async def test_a_standstill_of_the_server_is_no_silence_of_its_peers(
    monkeypatch: pytest.MonkeyPatch, standstill: float
) -> None:
    """A frozen machine, a stopped container: nobody was asked, so nobody has failed to answer."""
    ring = Ring(monkeypatch)
    answering, gone = ring.connection(), ring.connection()
    ring.tick(standstill * 30.0)
    resumed, pinged_at = ring.clock.now, 0.0
    while ring.clock.now < resumed + 3 * 30.0 and gone.state is State.OPEN:
        ring.tick()
        if gone.transport.written and not pinged_at:
            pinged_at = ring.clock.now
        if answering.transport.written:
            answering.transport.written.clear()
            answering.data_received(client_frame(PONG))
    assert answering.state is State.OPEN
    assert gone.transport.aborted
    assert pinged_at - resumed <= 30.0 / VISITS + 0.1
    assert 0.25 * 30.0 <= ring.clock.now - pinged_at <= 0.5 * 30.0
    ring.close()


async def test_a_busy_peer_is_not_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(monkeypatch)
    connection = ring.connection()
    for number in range(2_000):
        ring.tick()
        if number % 64 == 0:
            connection.data_received(client_frame(PONG))
    assert isinstance(connection.transport, StillTransport)
    assert connection.transport.written == []
    ring.close()


async def test_the_silence_of_a_peer_that_is_not_read_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(monkeypatch)
    connection = ring.connection()
    connection.data_received(client_frame(TEXT, b'{"type": "join", "conversation": "c"}'))
    connection.data_received(client_frame(TEXT, b'{"type": "ping"}'))
    assert connection.is_held_up
    await turns()
    while ring.clock.now < 1_000 + 5 * 30.0:
        ring.tick()
    assert connection.state is State.OPEN
    ring.world.store.answer(MEMBER)
    await turns()
    assert not connection.is_held_up
    ring.close()


@pytest.mark.parametrize("lifetime", [-29.9, -29.0, 0.0, 10.0, 1_000.0])
async def test_a_token_that_expires_ends_the_connection_after_the_leeway_and_not_before(
    monkeypatch: pytest.MonkeyPatch, lifetime: float
) -> None:
    ring = Ring(monkeypatch)
    begun = ring.wall.now
    later: list[tuple[float, Callable[..., object], tuple[object, ...]]] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def note(delay: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
        if getattr(callback, "__name__", "") != "close":
            return call_later(delay, callback, *args, **options)
        later.append((ring.wall.now + delay, callback, args))
        return call_later(0, lambda: None)

    monkeypatch.setattr(loop, "call_later", note)
    connection = ring.connection(begun + lifetime)
    ring.connections._next_slot = ring.connections._fill + 1  # its own is the last to be visited
    transport = connection.transport
    assert isinstance(transport, StillTransport)
    due = begun + lifetime + LEEWAY
    while connection.state is State.OPEN:
        ring.tick()
        connection.last_seen = ring.clock.now
        for at, end, args in [entry for entry in later if entry[0] <= ring.wall.now]:
            later.remove((at, end, args))
            assert at >= due - 1e-6
            end(*args)
        assert ring.wall.now < due + 2 * ring.connections._tick, "nobody was there at that moment"
    assert ring.wall.now >= due
    (opcode, payload) = server_frames(b"".join(transport.written))[-1]
    assert (opcode, payload) == (CLOSE, struct.pack("!H", 4001) + b"token expired")
    assert ring.world.metrics.connections_closed[ClosedReason.TOKEN_EXPIRED].value == 1
    transport.aborted = True
    connection.connection_lost(None)
    ring.close()


async def test_a_tick_visits_one_slot_and_all_slots_are_visited_in_one_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(monkeypatch)
    made = [ring.connection() for _ in range(640)]
    slots = ring.connections._slots
    assert {len(slot) for slot in slots} == {640 // len(slots)}
    assert ring.connections._tick * len(slots) == pytest.approx(30.0 / VISITS)
    assert len(ring.connections) == ring.connections.sockets == len(list(ring.connections)) == len(made)
    ring.close()


async def test_sessions_may_end_while_somebody_walks_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(monkeypatch)
    made = [ring.connection() for _ in range(10)]
    for connection in ring.connections:
        connection.abort(ClosedReason.SHUTDOWN)
    assert len(ring.connections) == 0
    assert ring.connections.sockets == 10
    for connection in made:
        connection.connection_lost(None)
        connection.connection_lost(None)
    assert ring.connections.sockets == 0
    ring.close()


async def test_the_clock_starts_and_stops() -> None:
    connections = Connections(0.08)
    connections.start()
    first = connections._timer
    await until(lambda: connections._timer is not first, "it ticks")
    connections.stop()
    assert connections._timer is not None
    assert connections._timer.cancelled()
