"""The hub's machine on real sockets: any order of what clients do to FastAPI on uvicorn and to aiohttp.

After every step one scrape of the real server is read: each gauge is the model's, the drift is 0, and the counters
agree with the gauges. What the machine waits for is that the server's handler has ended, never that a figure is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

import aiohttp
import pytest
from aiohttp import web
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from exporter import Connection, Live
from exporter.core.hub import Hub
from tests.embed.hosts import HOSTS, Model, on_aiohttp, reset
from tests.servers.exporter import PATIENCE, figures_of, until

T = TypeVar("T")
TYPING = 6.0
USERS = st.sampled_from(["ann", "bob", "cat"])
ROOMS = st.sampled_from(["one", "two"])
WHO = st.integers(0, 5)
UPGRADE = (
    "GET /ws?user=ghost{} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Running:
    """The WebSocket handlers of a host that have not ended, from outside of the host's own code."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = 0

    @contextlib.contextmanager
    def one(self) -> Any:
        """Around one handler."""
        self.count += 1
        self.begun += 1
        try:
            yield
        finally:
            self.count -= 1

    def around(self, app: Any) -> Any:
        """The same application, watched."""
        if isinstance(app, web.Application):

            @web.middleware
            async def middleware(request: web.Request, handler: Any) -> Any:
                if request.path != "/ws":
                    return await handler(request)
                with self.one():
                    return await handler(request)

            app.middlewares.append(middleware)
            return app

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "websocket":
                await app(scope, receive, send)
                return
            with self.one():
                await app(scope, receive, send)

        return watched


class SocketMachine(RuleBasedStateMachine):
    """What clients do, right or wrong; each step is answered, or its end has reached the handler."""

    host: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.model = Model()
        self.typing_until: dict[tuple[str, str], float] = {}
        self.sockets: set[Any] = set()
        self.running = Running()
        self.clients: dict[int, aiohttp.ClientWebSocketResponse[bool]] = {}
        self.number = 0
        self.rejected = 0
        self.url = ""
        self.http: aiohttp.ClientSession
        self.stack = contextlib.AsyncExitStack()
        self.loop = asyncio.Runner()

    def do(self, work: Awaitable[T]) -> T:
        """In the loop in which the server runs, too; it stands still between two steps."""

        async def awaited() -> T:
            async with asyncio.timeout(PATIENCE):
                return await work

        return self.loop.run(awaited())

    def some(self, draw: int) -> int | None:
        return list(self.clients)[draw % len(self.clients)] if self.clients else None

    @initialize(there=st.booleans())
    def serve(self, there: bool) -> None:
        """Somebody is there already in every other example, so that much can happen in few steps."""
        self.do(self._serve())
        if there:
            self.opens("ann", 2, "one")
            self.opens("bob", 2, "one")

    async def _serve(self) -> None:
        application, serving = HOSTS[self.host]
        self.live = Live(now=lambda: self.now, typing_timeout=TYPING, open_sockets=lambda: self.sockets, workers=1)
        app = self.running.around(application(self.live, self.sockets))
        self.url = await self.stack.enter_async_context(serving(app))
        self.http = await self.stack.enter_async_context(aiohttp.ClientSession())

    # --- coming and going ---------------------------------------------------------------------------------

    @rule(user=USERS, tabs=st.integers(1, 2), room=ROOMS)
    def opens(self, user: str, tabs: int, room: str) -> None:
        """Two tabs show the same conversation."""
        for _ in range(tabs):
            self.number += 1
            self.clients[self.number] = self.do(self.http.ws_connect(f"{self.url}/ws?user={user}"))
            self.model.users[self.number] = user
            self._ask(self.number, "hello")
            if tabs > 1:
                self._joins(self.number, room)

    @rule(slow=st.booleans(), sent=st.sampled_from([0, 40, 10_000]), abrupt=st.booleans())
    def handshake_is_cancelled(self, slow: bool, sent: int, abrupt: bool) -> None:
        """A client hangs up with nothing sent, half a request, or the whole of it while the host thinks."""
        self.do(self._cancelled(UPGRADE.format("&slow=1" if slow else "")[:sent].encode(), abrupt, whole=sent > 1_000))

    async def _cancelled(self, request: bytes, abrupt: bool, whole: bool) -> None:
        host, port = self.url.removeprefix("http://").split(":")
        before = self.running.begun
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        await writer.drain()
        if whole:
            await self._until(lambda: self.running.begun > before)
        if abrupt:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await self._settled()

    @rule()
    def handshake_is_refused(self) -> None:
        async def ask() -> None:
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                await self.http.ws_connect(f"{self.url}/ws?user=ghost&refuse=1")
            await self._settled()

        self.do(ask())
        self.rejected += 1

    @rule(draw=WHO, how=st.sampled_from(["close", "reset", "half a frame", "fail"]))
    def ends(self, draw: int, how: str) -> None:
        if (client := self.some(draw)) is not None:
            websocket = self.clients.pop(client)
            for room in [room for at, room in self.model.joined if at == client]:
                self._leaves(client, room)
            del self.model.users[client]
            self.do(self._end(websocket, how))

    async def _end(self, websocket: aiohttp.ClientWebSocketResponse[bool], how: str) -> None:
        match how:
            case "close":
                await websocket.close()
            case "fail":  # a defect of the host, in the middle of a command
                await websocket.send_json({"do": "fail", "n": 0})
            case _:
                if how == "half a frame":
                    transport = websocket._writer.transport
                    assert transport is not None
                    transport.write(b"\x81\xfe\x01\x00\x00\x00")
                    await asyncio.sleep(0)
                reset(websocket)
        await self._settled()
        await websocket.close()

    async def _settled(self) -> None:
        """As many handlers run as there are clients."""
        await self._until(lambda: self.running.count == len(self.clients))

    async def _until(self, condition: Callable[[], bool]) -> None:
        async def asked() -> bool:
            return condition()

        await until(asked, "the handlers that should have ended have")

    # --- conversations ------------------------------------------------------------------------------------

    def _ask(self, client: int, do: str, **command: Any) -> None:
        async def ask() -> None:
            await self.clients[client].send_json({"n": client, "do": do, **command})
            assert (await self.clients[client].receive_json())["n"] == client

        self.do(ask())

    def _leaves(self, client: int, room: str) -> None:
        self.model.leaves(client, room)
        self.typing_until = {pair: at for pair, at in self.typing_until.items() if pair in self.model.typing}

    @rule(draw=WHO, room=ROOMS)
    def joins(self, draw: int, room: str) -> None:
        if (client := self.some(draw)) is not None:
            self._joins(client, room)

    def _joins(self, client: int, room: str) -> None:
        self._ask(client, "join", room=room)
        self.model.joined.add((client, room))

    def _somewhere(self, draw: int, room: str) -> tuple[int | None, str]:
        """Mostly where a client takes part: what it does elsewhere changes nothing."""
        joined = sorted(self.model.joined)
        return joined[draw % len(joined)] if joined and draw else (self.some(draw), room)

    @rule(draw=WHO, room=ROOMS)
    def leaves(self, draw: int, room: str) -> None:
        client, room = self._somewhere(draw, room)
        if client is not None:
            self._ask(client, "leave", room=room)
            if (client, room) in self.model.joined:
                self._leaves(client, room)

    @rule(draw=WHO, room=ROOMS, active=st.booleans())
    def types(self, draw: int, room: str, active: bool) -> None:
        client, room = self._somewhere(draw, room)
        if client is not None:
            self._ask(client, "typing", room=room, active=active)
            if (client, room) in self.model.joined:
                self._types((room, self.model.users[client]), active)

    @rule(draw=WHO, room=ROOMS)
    def sends(self, draw: int, room: str) -> None:
        client, room = self._somewhere(draw, room)
        if client is not None:
            self._ask(client, "message", room=room)
            self._types((room, self.model.users[client]), active=False)

    def _types(self, pair: tuple[str, str], active: bool) -> None:
        self.model.typing.discard(pair)
        self.typing_until.pop(pair, None)
        if active:
            self.model.typing.add(pair)
            self.typing_until[pair] = self.now + TYPING

    @rule(user=USERS, room=ROOMS)
    def is_removed(self, user: str, room: str) -> None:
        self.live.remove(room, user)
        for client, at in list(self.model.joined):
            if at == room and self.model.users[client] == user:
                self._leaves(client, room)

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.9, 6.1]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for pair, at in list(self.typing_until.items()):
            if at <= self.now:
                self._types(pair, active=False)

    # --- what is shown ------------------------------------------------------------------------------------

    async def _scrape(self) -> dict[str, float]:
        async with self.http.get(f"{self.url}/messaging/metrics") as response:
            assert response.status == 200
            return figures_of(await response.text())

    @invariant()
    def the_next_scrape_is_the_model(self) -> None:
        if self.url:
            self._check(self.do(self._scrape()))

    def _check(self, figures: dict[str, float]) -> None:
        expected = self.model.figures()
        assert {name: figures[name] for name in expected} == expected
        drift = {name: value for name, value in figures.items() if name.startswith("messaging_live_drift")}
        assert len(drift) == 5
        assert not any(drift.values()), drift

        def sum_of(name: str) -> float:
            return sum(value for series, value in figures.items() if series.partition("{")[0] == f"messaging_{name}")

        assert sum_of("connections_opened_total") - sum_of("connections_closed_total") == len(self.model.users)
        assert sum_of("joins_total") - sum_of("leaves_total") == expected["messaging_participants"]
        assert sum_of("typing_started_total") - sum_of("typing_stopped_total") == expected["messaging_typing_users"]
        assert sum_of("connections_rejected_total") == self.rejected

    def teardown(self) -> None:
        """Everybody goes, a third of them by reset: 0 everywhere."""
        try:
            if self.url:
                for client in list(self.clients):
                    self.ends(list(self.clients).index(client), "close" if client % 3 else "reset")
                assert set(self.model.figures().values()) == {0}
                self._check(self.do(self._scrape()))
        finally:
            self.do(self.stack.aclose())
            self.loop.close()


MACHINES = {name: type(f"SocketMachine_{name}", (SocketMachine,), {"host": name}) for name in HOSTS}


@pytest.mark.parametrize("host", HOSTS)
def test_every_scrape_of_a_real_server_is_the_model(host: str) -> None:
    run_state_machine_as_test(MACHINES[host], settings=settings(max_examples=20, stateful_step_count=40))


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("host", HOSTS)
def test_every_scrape_of_a_real_server_is_the_model_for_long(host: str) -> None:
    run_state_machine_as_test(MACHINES[host], settings=settings(max_examples=300, stateful_step_count=80))


# --- planted defects ------------------------------------------------------------------------------------------


def _counts_but_does_not_leave(hub: Hub[Any], connection: Any, reason: Any) -> list[Any]:
    """What joined stays joined."""
    known = hub.connections.pop(connection, None)
    if known is not None:
        hub.users[known.user].discard(connection)
        if not hub.users[known.user]:
            del hub.users[known.user]
    return []


def _left_open(_: Connection, *__: Any) -> None:
    """A host whose handler ends without a close."""


def _closes_only_without_an_error(connection: Connection, kind: Any, error: Any, trace: Any) -> None:
    """A host that has no ``finally``."""
    if error is None or type(error).__name__ == "WebSocketDisconnect":
        connection.close()


def _leaves_with_the_first_tab(hub: Hub[Any], connection: Any, room: str) -> list[Any]:
    """One dictionary of users, as the origin's: the second tab is forgotten."""
    hub.require_joined(connection, room)
    return hub.remove(room, hub.connections[connection].user)[0]


class _Forgetful(set[Any]):
    """A host that forgets to take a socket out of its list."""

    def discard(self, element: Any) -> None:
        """Nothing."""


DEFECTS: dict[str, tuple[Any, str, Any]] = {
    "a handler that ends leaves its connection open": (Connection, "__exit__", _left_open),
    "a handler that fails leaves its connection open": (Connection, "__exit__", _closes_only_without_an_error),
    "an end leaves no conversation": (Hub, "close", _counts_but_does_not_leave),
    "one tab leaves for all of them": (Hub, "leave", _leaves_with_the_first_tab),
    "typing does not time out": (Live, "expire", lambda _: []),
    "typing does not end with its message": (Hub, "stop_typing", lambda *_: []),
    "a refusal is not counted": (Live, "reject", lambda *_: None),
    "a removed user stays": (Live, "remove", lambda *_: []),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_machine_finds_what_is_planted(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, name, replacement = DEFECTS[defect]
    monkeypatch.setattr(target, name, replacement)
    _finds()


def test_the_machine_finds_a_socket_that_the_host_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    make = SocketMachine.__init__

    def forgetful(machine: SocketMachine) -> None:
        make(machine)
        machine.sockets = _Forgetful()

    monkeypatch.setattr(SocketMachine, "__init__", forgetful)
    _finds()


def test_the_machine_finds_a_host_that_counts_before_it_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    def application(live: Live, sockets: set[Any]) -> web.Application:
        app = web.Application()
        app.add_subapp("/messaging/", live.aiohttp())

        async def chat(request: web.Request) -> web.WebSocketResponse:
            if request.query.get("refuse"):
                live.reject("unauthenticated")
                raise web.HTTPUnauthorized
            websocket = web.WebSocketResponse()
            handle = id(websocket)
            connection = live.open(request.query["user"], handle=handle)
            sockets.add(handle)
            if request.query.get("slow"):
                await asyncio.sleep(0.05)
            await websocket.prepare(request)  # the client may have gone
            async for message in websocket:
                await websocket.send_json({"n": json.loads(message.data)["n"]})
            connection.close()
            sockets.discard(handle)
            return websocket

        app.router.add_get("/ws", chat)
        return app

    monkeypatch.setitem(HOSTS, "aiohttp", (application, on_aiohttp))
    for name in ("joins", "leaves", "types", "sends", "is_removed"):  # this host knows connections only
        monkeypatch.setattr(SocketMachine, name, lambda *_, **__: None)
    _finds()


def _finds() -> None:
    """In aiohttp's host, the faster one; the same examples each time."""
    quick = settings(
        max_examples=60, stateful_step_count=30, phases=[Phase.generate], derandomize=True, database=None,
        report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    with pytest.raises(AssertionError):
        run_state_machine_as_test(MACHINES["aiohttp"], settings=quick)
