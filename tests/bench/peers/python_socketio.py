"""python-socketio on aiohttp and uvloop, WebSocket transport only, its own rooms.

With a broker's URL as the second argument: its Redis manager, and no heartbeats, because those clients answer none.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import socketio
import uvloop
from aiohttp import web

manager = socketio.AsyncRedisManager(sys.argv[2]) if len(sys.argv) > 2 else None
sio = socketio.AsyncServer(
    async_mode="aiohttp",
    transports=["websocket"],
    http_compression=False,
    client_manager=manager,
    ping_interval=3600 if manager else 25,
)
member_of: dict[str, str] = {}


@sio.event
async def join(sid: str, room: str) -> str:
    member_of[sid] = room
    await sio.enter_room(sid, room)
    return "joined"


@sio.event
async def typing(sid: str, data: Any) -> None:
    await sio.emit("typing", data, room=member_of[sid], skip_sid=sid)


@sio.event
async def disconnect(sid: str, *reason: object) -> None:
    member_of.pop(sid, None)


async def main(port: int) -> None:
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


uvloop.run(main(int(sys.argv[1])))
