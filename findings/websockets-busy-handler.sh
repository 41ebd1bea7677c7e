#!/usr/bin/env bash
# websockets 17.4 and uvicorn 0.54.0 from PyPI; nothing of this project.
#
# Guess: pings and pongs are dealt with in the background, so "keepalive ping timeout" (1011) is for a peer that is gone
# or frozen. A handler that waits for its database for a while costs nobody their connection, and what came meanwhile
# is there when it reads on.
#
# Seen: while a handler does not read, the server soon stops reading the connection, and a pong stands behind the
# messages. So the client that goes on talking, and answers each ping, is cut (1011) after ping_interval + ping_timeout;
# one that says nothing is kept. Only the few messages that were read before are handed to the handler then (uvicorn's:
# one, websockets': 17), the rest of what was sent is lost. In figures and logs a slow database is a failing network.
# A handler that does not read for 6 s, pings every second that wait for one second:
#   websockets: quiet client: open
#   websockets: client that talks and answers pings: cut, handler got fewer than 20 of 50 and more
#   uvicorn: quiet client: open
#   uvicorn: client that talks and answers pings: cut, handler got fewer than 20 of 50 and more
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile uvicorn==0.54.0 websockets==17.4
venv/bin/python - <<'PYTHON' | tee seen
import asyncio
import contextlib
import socket

import uvicorn
import websockets

ended = asyncio.Queue()  # how many messages each handler got


async def handler(client):
    got = 0
    await asyncio.sleep(6)  # it waits for its database
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await client.recv()
            got += 1
    ended.put_nowait(got)


async def application(scope, receive, send):
    got = 0
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(6)  # it waits for its database
    while (await receive())["type"] == "websocket.receive":
        got += 1
    ended.put_nowait(got)


async def connect(port):
    for _ in range(100):
        with contextlib.suppress(OSError):  # it starts
            return await websockets.connect(f"ws://127.0.0.1:{port}/", proxy=None, ping_interval=None)
        await asyncio.sleep(0.1)
    raise SystemExit("the server does not start")


async def talk(client):
    """How it ended while the handler does not read, and how many messages were sent."""
    sent = 0
    try:
        async with asyncio.timeout(5):
            while True:
                await client.send("message")
                sent += 1
                await asyncio.sleep(0.01)
    except TimeoutError:
        return "open", sent
    except websockets.ConnectionClosed:  # 1011, or 1006 where the close frame goes under in a reset
        return "cut", sent


async def look(name, port):
    client = await connect(port)
    await asyncio.sleep(5)
    print(f"{name}: quiet client: {'open' if client.state.name == 'OPEN' else 'cut'}")
    await client.close()
    await ended.get()
    end, sent = await talk(await connect(port))
    got = await ended.get()
    told = "fewer than 20 of 50 and more" if got < 20 and sent >= 50 else f"{got} of {sent}"
    print(f"{name}: client that talks and answers pings: {end}, handler got {told}")


async def main():
    async with websockets.serve(handler, "127.0.0.1", 0, ping_interval=1, ping_timeout=1) as server:
        await look("websockets", server.sockets[0].getsockname()[1])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = {"lifespan": "off", "log_level": "critical"}
    server = uvicorn.Server(uvicorn.Config(application, port=port, ws_ping_interval=1, ws_ping_timeout=1, **quiet))
    serving = asyncio.create_task(server.serve())
    await look("uvicorn", port)
    server.should_exit = True
    await serving


asyncio.run(main())
PYTHON
diff seen - <<'SEEN'
websockets: quiet client: open
websockets: client that talks and answers pings: cut, handler got fewer than 20 of 50 and more
uvicorn: quiet client: open
uvicorn: client that talks and answers pings: cut, handler got fewer than 20 of 50 and more
SEEN
