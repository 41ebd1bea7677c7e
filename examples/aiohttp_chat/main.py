"""A chat on aiohttp's own WebSocketResponse with true gauges: ``python main.py``, then /messaging/metrics."""

from __future__ import annotations

import json
from contextlib import suppress

from aiohttp import WSMsgType, web

from exporter import Live

live = Live(typing_timeout=6.0)
sockets: dict[object, web.WebSocketResponse] = {}


async def broadcast(room: str, frame: dict[str, object]) -> None:
    """To everybody who joined; a copy of the audience, because people come and go meanwhile."""
    for connection in live.audience(room):
        with suppress(KeyError, ConnectionError):  # who has gone meanwhile ends nobody else's connection
            await sockets[connection].send_json(frame)


async def chat(request: web.Request) -> web.WebSocketResponse:
    """One person: leaving the block counts the end, whatever the way out."""
    websocket = web.WebSocketResponse(heartbeat=20)
    await websocket.prepare(request)
    with live.open(request.query.get("user", "somebody")) as connection:
        sockets[connection] = websocket
        try:
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await obey(connection.user, connection, json.loads(message.data))
        finally:
            del sockets[connection]
    return websocket


async def obey(user: str | None, connection: object, frame: dict[str, str]) -> None:
    """One frame. The events say whom to tell what: a second tab of a user announces nothing."""
    room = frame["room"]
    match frame["type"]:
        case "join":
            for _ in live.join(connection, room):
                await broadcast(room, {"type": "joined", "user": user})
        case "leave":
            for _ in live.leave(connection, room):
                await broadcast(room, {"type": "left", "user": user})
        case "typing":
            for _ in live.typing(connection, room):
                await broadcast(room, {"type": "typing", "user": user})
        case "message":
            live.message(connection, room)
            await broadcast(room, {"type": "message", "user": user, "text": frame["text"]})
            live.delivered(len(live.audience(room)))


def application() -> web.Application:
    """The chat, with metrics for Prometheus and a page for whoever is on this machine."""
    app = web.Application()
    app.router.add_get("/ws", chat)
    app.add_subapp("/messaging/", live.aiohttp(admin=lambda request: request.remote in ("127.0.0.1", "::1")))
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=8080)
