"""aiohttp, ``await ws.send_str`` per member: what aiohttp's own chat examples do."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import WSMsgType, web

rooms: dict[str, set[web.WebSocketResponse]] = {}


async def handler(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    room = rooms.setdefault(request.query.get("room", ""), set())
    room.add(ws)
    try:
        await ws.send_str("joined")
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                for member in tuple(room):
                    if member is not ws:
                        await member.send_str(message.data)
    finally:
        room.discard(ws)
    return ws


async def main(port: int) -> None:
    app = web.Application()
    app.router.add_get("/ws", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


uvloop.run(main(int(sys.argv[1])))
