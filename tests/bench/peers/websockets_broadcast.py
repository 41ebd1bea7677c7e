"""`websockets`, its own ``broadcast``: no wait, one write per receiver."""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import parse_qs, urlsplit

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

rooms: dict[str, set[ServerConnection]] = {}


async def handler(ws: ServerConnection) -> None:
    assert ws.request is not None
    name = parse_qs(urlsplit(ws.request.path).query).get("room", [""])[0]
    room = rooms.setdefault(name, set())
    room.add(ws)
    try:
        await ws.send("joined")
        async for message in ws:
            broadcast([member for member in room if member is not ws], message)
    finally:
        room.discard(ws)


async def main(port: int) -> None:
    async with serve(handler, "127.0.0.1", port, compression=None, backlog=4096):
        print("ready", flush=True)
        await asyncio.Event().wait()


uvloop.run(main(int(sys.argv[1])))
