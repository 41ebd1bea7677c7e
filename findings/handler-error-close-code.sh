#!/usr/bin/env bash
# Quart 0.22.0, FastAPI 0.165.0, Litestar 2.25.0, on uvicorn 0.54.0 and Hypercorn 0.18.0; Sanic 25.12.1, Tornado 6.6.1,
# aiohttp 3.14.5 and websockets 17.4, each with its own server; all from PyPI, nothing of this project.
#
# Guess: when a WebSocket handler ends with an exception, the client is sent 1011 (RFC 6455 section 7.4.1: an unexpected
# condition kept the server from fulfilling the request), so whoever counts closes by their code sees the failures.
#
# Seen: two of ten say 1011. Quart, on both servers, and Sanic say 1000, which is a normal closure: a client that
# comes back after failures only does not come back. uvicorn, Tornado and aiohttp send no close frame (which is 1006 for
# the client, as if its network had gone), and Litestar says 4500.
#   FastAPI on uvicorn: no close frame
#   FastAPI on Hypercorn: 1011
#   Quart on uvicorn: 1000
#   Quart on Hypercorn: 1000
#   Litestar on uvicorn: 4500
#   Litestar on Hypercorn: 4500
#   Sanic: 1000
#   Tornado: no close frame
#   aiohttp: no close frame
#   websockets: 1011
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile quart==0.22.0 fastapi==0.165.0 starlette==1.10.0 \
    litestar==2.25.0 uvicorn==0.54.0 hypercorn==0.18.0 sanic==25.12.1 tornado==6.6.1 aiohttp==3.14.5 websockets==17.4
cat >applications.py <<'PYTHON'
import asyncio
import sys

import aiohttp.web
import fastapi
import litestar
import litestar.handlers
import quart
import tornado.web
import tornado.websocket
import websockets

fast, quarts = fastapi.FastAPI(), quart.Quart("applications")


@fast.websocket("/room")
async def of_fastapi(socket: fastapi.WebSocket):
    await socket.accept()
    raise KeyError(await socket.receive_text())


@quarts.websocket("/room")
async def of_quart():
    await quart.websocket.accept()
    raise KeyError(await quart.websocket.receive())


@litestar.handlers.websocket("/room")
async def of_litestar(socket: litestar.WebSocket) -> None:
    await socket.accept()
    raise KeyError(await socket.receive_text())


class OfTornado(tornado.websocket.WebSocketHandler):
    def on_message(self, text):
        raise KeyError(text)


async def of_aiohttp(request):
    socket = aiohttp.web.WebSocketResponse()
    await socket.prepare(request)
    raise KeyError(await socket.receive())


async def of_websockets(socket):
    raise KeyError(await socket.recv())


async def serve(name, port):
    if name == "tornado":
        tornado.web.Application([("/room", OfTornado)]).listen(port, "127.0.0.1")
    elif name == "aiohttp":
        application = aiohttp.web.Application()
        application.router.add_get("/room", of_aiohttp)
        runner = aiohttp.web.AppRunner(application)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", port).start()
    else:
        await websockets.serve(of_websockets, "127.0.0.1", port)
    await asyncio.Event().wait()


lite = litestar.Litestar([of_litestar])
if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
PYTHON
cat >of_sanic.py <<'PYTHON'
import sanic

application = sanic.Sanic("application")


@application.websocket("/room")
async def room(request, socket):
    raise KeyError(await socket.recv())
PYTHON
venv/bin/python - <<'PYTHON' | tee seen
import asyncio
import os
import signal
import socket
import subprocess

import websockets


def commands(port):
    for name, application in (("FastAPI", "fast"), ("Quart", "quarts"), ("Litestar", "lite")):
        yield f"{name} on uvicorn", ["uvicorn", "--port", port, f"applications:{application}"]
        yield f"{name} on Hypercorn", ["hypercorn", "--bind", f"127.0.0.1:{port}", f"applications:{application}"]
    yield "Sanic", ["sanic", "of_sanic:application", "--port", port, "--single-process"]
    for name in ("Tornado", "aiohttp", "websockets"):
        yield name, ["python", "applications.py", name.lower(), port]


async def code(port):
    for _ in range(300):
        try:
            async with websockets.connect(f"ws://127.0.0.1:{port}/room", close_timeout=3) as client:
                await client.send("x")
                await asyncio.wait_for(client.wait_closed(), 30)
                return client.close_code if client.protocol.close_rcvd else "no close frame"
        except (OSError, websockets.InvalidHandshake):  # not up yet, or the one before is not gone yet
            await asyncio.sleep(0.1)


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
for name, (program, *arguments) in commands(str(port)):
    server = subprocess.Popen([f"venv/bin/{program}", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True)
    try:
        print(f"{name}: {asyncio.run(code(port))}", flush=True)
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # Hypercorn has a process below it
        server.wait()
PYTHON
diff seen - <<'SEEN'
FastAPI on uvicorn: no close frame
FastAPI on Hypercorn: 1011
Quart on uvicorn: 1000
Quart on Hypercorn: 1000
Litestar on uvicorn: 4500
Litestar on Hypercorn: 4500
Sanic: 1000
Tornado: no close frame
aiohttp: no close frame
websockets: 1011
SEEN
