"""Chat servers of others with ``Live`` in them, on real sockets; and clients that treat them badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web
from fastapi import FastAPI, WebSocket
from starlette.websockets import WebSocketDisconnect

from exporter import Connection, Live
from tests.servers.exporter import PATIENCE


async def obey(connection: Connection, text: str) -> dict[str, Any]:
    """One command of a client; the answer."""
    command = json.loads(text)
    room = command.get("room", "")
    match command["do"]:
        case "join":
            connection.join(room)
        case "leave":
            connection.leave(room)
        case "typing":
            connection.typing(room, command["active"])
        case "message":
            connection.message(room)
        case "fail":
            raise RuntimeError("a defect of the host")
    return {"n": command["n"]}


def fastapi_app(live: Live, sockets: set[Any], admin: Callable[[Any], Any] | None = None) -> FastAPI:
    """As its users write it: accept, a loop of receive. ``sockets`` are the open ones, as the host knows them."""
    app = FastAPI()
    app.mount("/messaging", live.asgi(admin=admin or (lambda scope: (b"x-admin", b"yes") in scope["headers"])))

    @app.websocket("/ws")
    async def chat(websocket: WebSocket) -> None:
        if websocket.query_params.get("slow"):  # a handshake that takes its time: clients go meanwhile
            await asyncio.sleep(0.05)
        if websocket.query_params.get("refuse"):
            live.reject("unauthenticated")
            await websocket.close()
            return
        await websocket.accept()
        user = websocket.query_params["user"]
        sockets.add(websocket)
        try:
            with contextlib.suppress(WebSocketDisconnect), live.open(user, handle=websocket) as connection:
                while True:
                    await websocket.send_json(await obey(connection, await websocket.receive_text()))
        finally:
            sockets.discard(websocket)

    return app


def aiohttp_app(live: Live, sockets: set[Any], admin: Callable[[Any], Any] | None = None) -> web.Application:
    """aiohttp's own ``WebSocketResponse``; it can be no handle, because it is a mapping."""
    app = web.Application()
    admin = admin or (lambda request: request.headers.get("X-Admin") == "yes")
    app.add_subapp("/messaging/", live.aiohttp(admin=admin))

    async def chat(request: web.Request) -> web.WebSocketResponse:
        if request.query.get("slow"):
            await asyncio.sleep(0.05)
        if request.query.get("refuse"):
            live.reject("unauthenticated")
            raise web.HTTPUnauthorized
        websocket = web.WebSocketResponse(heartbeat=5)
        await websocket.prepare(request)
        handle = id(websocket)
        sockets.add(handle)
        try:
            with live.open(request.query["user"], handle=handle) as connection:
                async for message in websocket:
                    await websocket.send_json(await obey(connection, message.data))
        finally:
            sockets.discard(handle)
        return websocket

    app.router.add_get("/ws", chat)
    return app


@contextlib.asynccontextmanager
async def on_uvicorn(app: Any, ws: Any = "websockets-sansio") -> AsyncIterator[str]:
    """A real uvicorn in this loop, on a free port: its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws=ws)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(PATIENCE):
            while not server.started:  # noqa: ASYNC110  # uvicorn offers nothing to wait for
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def on_aiohttp(app: web.Application, **options: Any) -> AsyncIterator[str]:
    """A real aiohttp server in this loop, on a free port: its address."""
    runner = web.AppRunner(app, access_log=None, **options)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


Serve = Callable[[Any], contextlib.AbstractAsyncContextManager[str]]
HOSTS: dict[str, tuple[Callable[..., Any], Serve]] = {
    "fastapi": (fastapi_app, on_uvicorn),
    "aiohttp": (aiohttp_app, on_aiohttp),
}


@dataclass
class Model:
    """What must be true, from what the clients did."""

    users: dict[int, str] = field(default_factory=dict)
    joined: set[tuple[int, str]] = field(default_factory=set)
    typing: set[tuple[str, str]] = field(default_factory=set)

    def leaves(self, client: int, room: str) -> None:
        """This client left a room; the user's typing ends with their last one."""
        self.joined.discard((client, room))
        user = self.users[client]
        if not any(self.users[other] == user for other, there in self.joined if there == room):
            self.typing.discard((room, user))

    def goes(self, client: int) -> None:
        """This client is no longer there."""
        for other, room in list(self.joined):
            if other == client:
                self.leaves(client, room)
        del self.users[client]

    def figures(self) -> dict[str, float]:
        """The five live gauges."""
        return {
            "messaging_active_connections": len(self.users),
            "messaging_connected_users": len(set(self.users.values())),
            "messaging_active_conversations": len({room for _, room in self.joined}),
            "messaging_participants": len({(room, self.users[client]) for client, room in self.joined}),
            "messaging_typing_users": len(self.typing),
        }


class Churn:
    """Clients that do everything in any order, and a third of them die by TCP reset."""

    def __init__(self, http: aiohttp.ClientSession, url: str, seed: int) -> None:
        self.model = Model()
        self._http = http
        self._url = url
        self._random = random.Random(seed)
        self._sockets: dict[int, aiohttp.ClientWebSocketResponse[bool]] = {}
        self._numbers = iter(range(10**9))
        self.operations = 0
        self.rejected = 0

    async def step(self) -> None:
        """One operation, answered."""
        self.operations += 1
        draw = self._random.random()
        if not self._sockets or (draw < 0.12 and len(self._sockets) < 60):
            await self._connect()
        elif draw < 0.16:
            await self._cancelled_handshake()
        elif draw < 0.18:
            await self._refused()
        elif draw < 0.28:
            await self._end()
        else:
            await self._command()

    async def _connect(self) -> None:
        client, user = next(self._numbers), f"user{self._random.randrange(25)}"
        self._sockets[client] = await self._http.ws_connect(f"{self._url}/ws?user={user}")
        self.model.users[client] = user
        await self._ask(client, do="hello")

    async def _cancelled_handshake(self) -> None:
        """The client hangs up while the host still thinks about it."""
        connecting = asyncio.create_task(self._http.ws_connect(f"{self._url}/ws?user=ghost&slow=1"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError):
            await connecting

    async def _refused(self) -> None:
        with contextlib.suppress(aiohttp.WSServerHandshakeError):
            await self._http.ws_connect(f"{self._url}/ws?user=ghost&refuse=1")
        self.rejected += 1

    async def _end(self) -> None:
        client = self._random.choice(list(self._sockets))
        websocket = self._sockets.pop(client)
        self.model.goes(client)
        if self._random.random() < 1 / 3:
            reset(websocket)
        elif self._random.random() < 0.1:
            await websocket.send_json({"do": "fail", "n": 0})
            await websocket.close()
        else:
            await websocket.close()

    async def _command(self) -> None:
        client, room = self._random.choice(list(self._sockets)), f"room{self._random.randrange(8)}"
        user = self.model.users[client]
        match self._random.choice(["join", "join", "leave", "typing", "stop", "message"]):
            case "join":
                await self._ask(client, do="join", room=room)
                self.model.joined.add((client, room))
            case "leave":
                await self._ask(client, do="leave", room=room)
                if (client, room) in self.model.joined:
                    self.model.leaves(client, room)
            case "message":
                await self._ask(client, do="message", room=room)
                self.model.typing.discard((room, user))
            case kind:
                await self._ask(client, do="typing", room=room, active=kind == "typing")
                if (client, room) in self.model.joined:
                    self.model.typing.discard((room, user))
                    if kind == "typing":
                        self.model.typing.add((room, user))

    async def _ask(self, client: int, **command: Any) -> None:
        await self._sockets[client].send_json({"n": client, **command})
        assert (await self._sockets[client].receive_json(timeout=PATIENCE))["n"] == client

    async def end(self) -> None:
        """Everybody goes."""
        for client in list(self._sockets):
            websocket = self._sockets.pop(client)
            self.model.goes(client)
            if client % 3:
                await websocket.close()
            else:
                reset(websocket)


def reset(websocket: aiohttp.ClientWebSocketResponse[bool]) -> None:
    """The peer sees a TCP reset: no close frame, no FIN."""
    transport = websocket._writer.transport
    assert transport is not None
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def blocks(heading: str) -> list[str]:
    """The Python of docs/embed.md below this heading, up to the next one."""
    text = (Path(__file__).parents[2] / "docs" / "embed.md").read_text()
    [section] = [
        part for part in re.split(r"^##? (?=[A-Z])", text, flags=re.MULTILINE) if part.partition("\n")[0] == heading
    ]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


__all__ = ["HOSTS", "Churn", "Model", "blocks", "on_aiohttp", "on_uvicorn", "reset"]
