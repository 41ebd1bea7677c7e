"""aiohttp + json + prometheus_client ``labels()``: the instrumented server that one writes first.

It understands the product's commands (join, leave, typing, ping) and keeps the same live figures, the way tutorials
do it: a counter with labels per event, gauges set after each, a histogram per command. The bench compares inbound
events with it, so it parses, decides, counts and, where somebody else is in the room, hands on.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop
from aiohttp import WSMsgType, web
from prometheus_client import Counter, Gauge, Histogram, generate_latest

COMMANDS = Counter("peer_commands", "Commands.", ["command"])
EVENTS = Counter("peer_events", "Events.", ["event", "reason"])
BYTES = Counter("peer_received_bytes", "Bytes received.")
LIVE = Gauge("peer_live", "Live figures.", ["figure"])
DURATION = Histogram("peer_command_duration_seconds", "Duration.", ["command"])

rooms: dict[str, dict[web.WebSocketResponse, str]] = {}
typing: dict[tuple[str, str], float] = {}
participants: set[tuple[str, str]] = set()


async def others(room: str, ws: web.WebSocketResponse, event: dict[str, Any]) -> None:
    text = json.dumps(event)
    for member in tuple(rooms.get(room, ())):
        if member is not ws:
            await member.send_str(text)


async def stop(room: str, user: str, reason: str, ws: web.WebSocketResponse) -> None:
    if typing.pop((room, user), None) is not None:
        EVENTS.labels(event="typing_stopped", reason=reason).inc()
        LIVE.labels(figure="typing_users").set(len(typing))
        await others(room, ws, {"type": "typing", "conversation": room, "user": user, "active": False})


async def command(ws: web.WebSocketResponse, user: str, text: str) -> None:
    started = time.perf_counter()
    BYTES.inc(len(text))
    frame = json.loads(text)
    kind = frame.get("type")
    if kind == "typing":
        room = frame["conversation"]
        if ws not in rooms.get(room, ()):
            await ws.send_str(json.dumps({"type": "error", "code": "not_joined"}))
        elif not frame["active"]:
            await stop(room, user, "stop", ws)
        else:
            fresh = (room, user) not in typing
            typing[room, user] = time.monotonic() + 6
            if fresh:
                EVENTS.labels(event="typing_started", reason="").inc()
                LIVE.labels(figure="typing_users").set(len(typing))
                await others(room, ws, {"type": "typing", "conversation": room, "user": user, "active": True})
    elif kind == "join":
        room = frame["conversation"]
        rooms.setdefault(room, {})[ws] = user
        EVENTS.labels(event="joined", reason="").inc()
        participants.add((room, user))
        LIVE.labels(figure="participants").set(len(participants))
        LIVE.labels(figure="active_conversations").set(len(rooms))
        await ws.send_str(
            json.dumps({"type": "joined", "conversation": room, "participants": sorted(rooms[room].values())})
        )
        await others(room, ws, {"type": "participant_joined", "conversation": room, "user": user})
    elif kind == "leave":
        room = frame["conversation"]
        await stop(room, user, "leave", ws)
        members = rooms.get(room, {})
        members.pop(ws, None)
        if not members:
            rooms.pop(room, None)
        EVENTS.labels(event="left", reason="leave").inc()
        participants.discard((room, user))
        LIVE.labels(figure="participants").set(len(participants))
        LIVE.labels(figure="active_conversations").set(len(rooms))
        await ws.send_str(json.dumps({"type": "left", "conversation": room}))
        await others(room, ws, {"type": "participant_left", "conversation": room, "user": user})
    elif kind == "ping":
        await ws.send_str(json.dumps({"type": "pong"}))
    COMMANDS.labels(command=kind).inc()
    DURATION.labels(command=kind).observe(time.perf_counter() - started)


async def handler(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    user = request.query["user"]
    EVENTS.labels(event="opened", reason="").inc()
    await ws.send_str(json.dumps({"type": "welcome", "user": user}))
    try:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await command(ws, user, message.data)
    finally:
        for room in [name for name, members in rooms.items() if ws in members]:
            await stop(room, user, "disconnect", ws)
            rooms[room].pop(ws, None)
            if not rooms[room]:
                del rooms[room]
    return ws


async def metrics(request: web.Request) -> web.Response:
    return web.Response(body=generate_latest())


async def main(port: int) -> None:
    app = web.Application()
    app.router.add_get("/ws", handler)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


uvloop.run(main(int(sys.argv[1])))
