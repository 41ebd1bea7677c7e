"""python-socketio with true gauges, in under fifty lines: ``uvicorn main:app``, then /messaging/metrics."""

from __future__ import annotations

from typing import Any

import socketio

from exporter import Live

live = Live()
sio = socketio.AsyncServer(async_mode="asgi")


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str] | None) -> None:
    if not auth or "user" not in auth:
        live.reject("unauthenticated")
        raise ConnectionRefusedError("say who you are")
    live.open(auth["user"], handle=sid)


@sio.event
async def join(sid: str, room: str) -> None:
    await sio.enter_room(sid, room)
    live.join(sid, room)


@sio.event
async def message(sid: str, frame: dict[str, str]) -> None:
    live.message(sid, frame["room"])
    await sio.emit("message", frame, room=frame["room"], skip_sid=sid)


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    live.close(sid, "heartbeat" if reason == "ping timeout" else "client")


figures = live.asgi()
chat = socketio.ASGIApp(sio)


async def app(scope: Any, receive: Any, send: Any) -> None:
    mounted = scope["type"] == "http" and f"{scope['path']}/".startswith("/messaging/")
    await figures({**scope, "root_path": "/messaging"}, receive, send) if mounted else await chat(scope, receive, send)
