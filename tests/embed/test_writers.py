"""A handler that only writes: the middleware sees its client's end all the same, and takes nothing from it."""

from __future__ import annotations

import asyncio
import gc
import textwrap
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from autobahn.exception import Disconnected

from exporter import Live, LiveMiddleware
from exporter.embed.middleware import SILENCE
from tests.embed.hosts import reset
from tests.embed.test_servers import SERVERS, scrape, serving
from tests.servers.exporter import PATIENCE, until

TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")
DISCONNECT = {"type": "websocket.disconnect", "code": 1001}
Handler = Callable[["Server"], Awaitable[None]]


class Server:
    """An ASGI server whose ``send`` tells nobody of an end, and the clock. Two receives at once are an error."""

    def __init__(self, spec_version: str | None = "2.3") -> None:
        self.now = 0.0
        self.live = Live(workers=1, now=lambda: self.now)
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.asked: list[str] = []
        self._asking = False
        self._scope = {"type": "websocket", "asgi": {"spec_version": spec_version}}

    async def run(self, handler: Handler) -> None:
        """The handler, accepted."""

        async def application(_: Any, receive: Any, send: Any) -> None:
            self.receive, self._send = receive, send
            TENANT.set("acme")
            await send({"type": "websocket.accept"})
            await handler(self)

        middleware = LiveMiddleware(application, live=self.live, user=lambda _: "ann")
        async with asyncio.timeout(PATIENCE):
            await middleware(self._scope, self._next, self._sent)
        await asyncio.sleep(0)
        assert not looking()

    async def write(self, text: Any = "tick", seconds: float = SILENCE) -> None:
        """A message of the handler, and time passes; whoever was started meanwhile runs."""
        await self._send({"type": "websocket.send", "text": text})
        self.now += seconds
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def open(self) -> int:
        return self.live.stats().active_connections

    async def _next(self) -> Any:
        self.asked.append(TENANT.get())
        assert not self._asking
        self._asking = True
        try:
            event = await self.events.get()
        finally:
            self._asking = False
        if isinstance(event, Exception):
            raise event
        return event

    async def _sent(self, message: Any) -> None:
        """It is taken, whoever is there, unless it is to fail."""
        if isinstance(error := message.get("text"), Exception):
            raise error


def looking() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "messaging-look"]


async def test_the_end_is_seen_at_once_and_its_event_is_the_handlers() -> None:
    async def handler(server: Server) -> None:
        await server.write()
        assert not looking()
        await Context().run(asyncio.create_task, server.write())  # somebody else's task does
        assert looking()
        server.events.put_nowait(DISCONNECT)
        await until(lambda: asyncio.sleep(0, not server.open()), "it is seen without another message")
        await server.write()
        assert await server.receive() == DISCONNECT
        await server.write()
        await server.write()
        assert len(server.asked) == 1

    server = Server()
    await server.run(handler)
    closed = {reason: cell.value for reason, cell in server.live.metrics.connections_closed.cells.items() if cell.value}
    assert closed == {"client": 1}
    assert server.asked == ["acme"]  # the context is the handler's


async def test_one_event_is_read_ahead_and_none_is_lost_or_passes_another() -> None:
    async def handler(server: Server) -> None:
        await server.write()
        await server.write()
        with pytest.raises(TimeoutError):  # a handler that looks in
            await asyncio.wait_for(server.receive(), 0.001)
        assert looking()
        for event in ("one", "two", "three"):
            server.events.put_nowait({"type": "websocket.receive", "text": event})
        server.events.put_nowait(DISCONNECT)
        for _ in range(3):
            await server.write()
        assert server.events.qsize() == 3
        for left, event in ((3, "one"), (2, "two"), (1, "three")):
            assert (await server.receive())["text"] == event
            await server.write()
            assert server.events.qsize() == left  # it has read lately
        assert server.open() == 1
        assert await server.receive() == DISCONNECT

    await Server().run(handler)


async def test_who_waits_already_is_waited_for_and_two_get_an_event_each() -> None:
    async def handler(server: Server) -> None:
        await server.write()
        await server.write()
        waiting = [asyncio.create_task(server.receive()) for _ in range(2)]
        await asyncio.sleep(0)
        assert len(server.asked) == 1
        for event in ("one", "two"):
            server.events.put_nowait({"type": "websocket.receive", "text": event})
        assert [(await one)["text"] for one in waiting] == ["one", "two"]

    await Server().run(handler)


async def test_nothing_is_asked_for_a_handler_that_reads_or_a_server_that_tells_writers() -> None:
    async def reads(server: Server) -> None:
        reading = asyncio.create_task(server.receive())
        await asyncio.sleep(0)
        for _ in range(3):
            await server.write()
        assert not looking()
        server.events.put_nowait(DISCONNECT)
        await reading
        assert len(server.asked) == 1

    async def only_writes(server: Server) -> None:
        for _ in range(3):
            await server.write()
        assert not looking()

    await Server().run(reads)
    await Server("2.4").run(only_writes)


async def test_an_error_of_the_server_is_the_handlers_and_a_forgotten_one_nobodys() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def asks(server: Server) -> None:
        await server.write()
        await server.write()
        server.events.put_nowait(RuntimeError("a defect of the server"))
        await server.write()
        with pytest.raises(RuntimeError, match="a defect of the server"):
            await server.receive()

    async def does_not_ask(server: Server) -> None:
        await server.write()
        await server.write()
        server.events.put_nowait(RuntimeError("a defect of the server"))
        await server.write()
        assert server.open() == 1

    await Server().run(asks)
    await Server().run(does_not_ask)
    gc.collect()
    assert not complaints


async def test_a_handler_that_is_cancelled_leaves_no_task_and_who_writes_after_its_end_starts_none() -> None:
    begun = asyncio.Event()

    async def handler(server: Server) -> None:
        await server.write()
        await server.write()
        assert looking()
        begun.set()
        await asyncio.Event().wait()

    server = Server()
    running = asyncio.create_task(server.run(handler))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    for _ in range(3):
        await server.write()
    assert not looking()
    server.events.put_nowait(DISCONNECT)
    assert await server.receive() == DISCONNECT
    assert server.live.metrics.connections_closed.cells["shutdown"].value == 1


FEED = textwrap.dedent("""
    import asyncio, time
    from fastapi import FastAPI, WebSocket
    from exporter import Live, LiveMiddleware

    live = Live(workers=1, now=lambda: 1_000 * time.monotonic())
    app = FastAPI()
    app.mount("/messaging", live.asgi())
    app.add_middleware(LiveMiddleware, live=live, user=lambda scope: "ann")

    @app.websocket("/feed")
    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_text("tick")
            await asyncio.sleep(0.01)
""")


@pytest.mark.parametrize(("error", "open_"), [(Disconnected("closed"), 0), (OSError("gone"), 0), (ValueError("no"), 1)])
async def test_a_handler_may_pass_over_what_a_server_raises(error: Exception, open_: int) -> None:
    """Daphne raises autobahn's while the client closes, and takes everything afterwards."""

    async def handler(server: Server) -> None:
        with pytest.raises(type(error)):
            await server.write(error)
        assert server.open() == open_

    await Server().run(handler)


@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("server", ["hypercorn", "daphne"])
async def test_servers_that_do_not_tell_a_writer(server: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(FEED)
    async with serving(tmp_path, *SERVERS[server]) as url, aiohttp.ClientSession() as http:
        websocket = await http.ws_connect(f"{url}/feed")
        for _ in range(5):
            assert await websocket.receive_str(timeout=PATIENCE) == "tick"

        async def shows(value: float) -> bool:
            return (await scrape(http, f"{url}/messaging/metrics"))["messaging_active_connections"] == value

        assert await shows(1)
        if end == "reset":
            reset(websocket)
        else:
            await websocket.close()
        await until(lambda: shows(0), "nobody is left")
        figures = await scrape(http, f"{url}/messaging/metrics")
        assert {name: value for name, value in figures.items() if "connections_closed_total" in name and value} == {
            'messaging_connections_closed_total{reason="client"}': 1
        }
