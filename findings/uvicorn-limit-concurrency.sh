#!/usr/bin/env bash
# uvicorn 0.54.0 from PyPI, one ASGI application; nothing of this project.
#
# Guess: --limit-concurrency bounds WebSockets as it bounds requests: "maximum number of concurrent connections or tasks
# to allow, before issuing HTTP 503 responses". So with a limit of ten the eleventh WebSocket is refused with 503.
#
# Seen: no WebSocket is ever refused, but each one that is open takes one of the ten places, and so does each request's
# own connection. From the ninth on it is the plain requests that get 503, all of them, for as long as the WebSockets
# stay: health checks and scrapes too. So a server that has many people is taken for one that is down, and its figures
# are missing just then.
#   0 WebSockets: a request gets 200
#   5 WebSockets, 5 of which answer: a request gets 200
#   20 WebSockets, 20 of which answer: a request gets 503
#   5 WebSockets, 5 of which answer: a request gets 200
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile uvicorn==0.54.0 websockets==17.4
cat >application.py <<'PYTHON'
async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})
PYTHON
venv/bin/python - <<'PYTHON' | tee seen
import asyncio
import socket
import subprocess
import sys

import websockets


async def request(port):
    """The status of a request that has a connection of its own, when uvicorn has closed that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


async def look(port):
    clients = []
    for number in (0, 5, 20, 5):
        while len(clients) > number:
            await clients.pop().close()
        while len(clients) < number:
            clients.append(await websockets.connect(f"ws://127.0.0.1:{port}"))
        answers = 0
        for client in clients:
            await client.send("text")
            answers += await client.recv() == "text"
        await asyncio.sleep(0.5)  # uvicorn takes note of connections that have ended
        status = await request(port)
        print(f"{number} WebSockets" + f", {answers} of which answer" * (number > 0) + f": a request gets {status}")


async def main():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"--port {port} --limit-concurrency 10 --lifespan off --log-level critical"
    server = subprocess.Popen([sys.executable, "-m", "uvicorn", *options.split(), "application:application"])
    try:
        for _ in range(300):
            try:
                await request(port)
                break
            except OSError:  # it starts
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        await asyncio.wait_for(look(port), 60)
    finally:
        server.terminate()
        server.wait()


asyncio.run(main())
PYTHON
diff seen - <<'SEEN'
0 WebSockets: a request gets 200
5 WebSockets, 5 of which answer: a request gets 200
20 WebSockets, 20 of which answer: a request gets 503
5 WebSockets, 5 of which answer: a request gets 200
SEEN
