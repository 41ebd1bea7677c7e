#!/usr/bin/env bash
# python-socketio 5.18.1 (python-engineio 4.15.1) from PyPI on aiohttp 3.14.5; nothing of this project.
#
# Guess: each sid that "connect" was called for gets one "disconnect". Who goes while their "connect" still runs (it
# looks up a user, say) gets it when that has ended. So what is counted in one and uncounted in the other is right.
#
# Seen: with the default, "disconnect" is never called for them, and the server's own list goes on having them as
# connected for as long as it runs. With always_connect=True it is called, but at once, while "connect" still runs: what
# "connect" does at its end comes behind what "disconnect" has undone. is_connected(sid, "/") at the end of "connect"
# says the truth then, and then only: with the default it is False for everybody there.
#   default:        stays: connect, asked at its end: False, disconnect
#   default:        goes:  connect, asked at its end: False; still listed: True
#   always_connect: stays: connect, asked at its end: True, disconnect
#   always_connect: goes:  connect, disconnect, asked at its end: False; still listed: False
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile \
    python-socketio==5.18.1 python-engineio==4.15.1 aiohttp==3.14.5
venv/bin/python - <<'PYTHON' | tee seen
import asyncio

import aiohttp
import socketio
from aiohttp import web


async def run(name, **options):
    server = socketio.AsyncServer(async_mode="aiohttp", **options)
    happened, began, go_on, gone = [], asyncio.Event(), asyncio.Event(), asyncio.Event()
    sids = []

    @server.event
    async def connect(sid, environ, auth):
        sids.append(sid)
        happened.append("connect")
        began.set()
        await go_on.wait()
        happened.append(f"asked at its end: {server.manager.is_connected(sid, '/')}")

    @server.event
    async def disconnect(sid, reason):
        happened.append("disconnect")
        gone.set()

    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"
    async with aiohttp.ClientSession() as http:
        for who in ("stays", "goes"):
            happened.clear(), began.clear(), go_on.clear(), gone.clear()
            client = await http.ws_connect(url)
            await client.receive()  # Engine.IO's greeting
            await client.send_str("40")  # Socket.IO: connect
            await began.wait()
            if who == "stays":
                go_on.set()
                while not (await client.receive_str()).startswith("40"):
                    pass
                await client.close()
                await gone.wait()
                print(f"{name} {who}: {', '.join(happened)}")
                continue
            await client.close()
            while not all(one.closed for one in server.eio.sockets.values()):  # until Engine.IO has noticed
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)  # and has told whom it tells
            go_on.set()
            await asyncio.sleep(1)  # nothing else says that nothing will come
            listed = sids[-1] in server.manager.rooms.get("/", {}).get(None, {})
            print(f"{name} {who}:  {', '.join(happened)}; still listed: {listed}")
    await runner.cleanup()


asyncio.run(run("default:       "))
asyncio.run(run("always_connect:", always_connect=True))
PYTHON
cat >expected <<'TEXT'
default:        stays: connect, asked at its end: False, disconnect
default:        goes:  connect, asked at its end: False; still listed: True
always_connect: stays: connect, asked at its end: True, disconnect
always_connect: goes:  connect, disconnect, asked at its end: False; still listed: False
TEXT
diff expected seen
