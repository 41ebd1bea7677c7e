#!/usr/bin/env bash
# uvicorn 0.54.0, Hypercorn 0.18.0, Daphne 4.2.3 and Granian 2.8.9 from PyPI, one ASGI application; nothing of this
# project.
#
# Guess: on SIGTERM a server closes its WebSockets with 1001 or 1012, so that clients know that they should come back.
# The handler gets "websocket.disconnect" and does what it does for who goes; then comes "lifespan.shutdown".
#
# Seen: only uvicorn does. Hypercorn waits for its graceful timeout, 3 s, cancels the handlers, and clients are told
# 1011, an error. Daphne cancels them, too, and its clients' connections just end (1006); it has no lifespan. Granian
# ends before its handlers do: "websocket.disconnect" comes too late or not at all, no exception comes, a "finally" that
# waits for something does not come to its end, clients read 1006, and "lifespan.shutdown" comes all the same. So what a
# handler takes back behind "websocket.disconnect" (somebody's presence in a database, a count of connections) stays
# with three of the four after every deployment. Daphne's handler gets nothing where the connection is but a moment old.
#   uvicorn: client 1012, handler got websocket.disconnect, finally ran to its end, then lifespan.shutdown
#   hypercorn: client 1011, handler got CancelledError, finally ran to its end, then lifespan.shutdown
#   daphne: client 1006, handler got CancelledError, finally ran to its end
#   granian: client 1006, handler did not come to its end, then lifespan.shutdown
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile \
    uvicorn==0.54.0 hypercorn==0.18.0 daphne==4.2.3 granian==2.8.9 websockets==17.4 wsproto==1.3.2
cat >application.py <<'PYTHON'
import asyncio


def note(text):
    with open("notes", "a") as notes:
        notes.write(f"{text}\n")


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            if event["type"] == "lifespan.shutdown":
                note("then lifespan.shutdown")
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    try:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        note(f"handler got {event['type']}")
    except BaseException as error:
        note(f"handler got {type(error).__name__}")
        raise
    finally:
        await asyncio.sleep(0.2)  # it takes somebody out of a database
        note("finally ran to its end")
PYTHON
venv/bin/python - <<'PYTHON' | tee seen
import asyncio
import pathlib
import socket
import subprocess
import sys

import websockets

NOTES = pathlib.Path("notes")
SERVERS = {
    "uvicorn": "uvicorn --port {} --log-level critical application:application",
    "hypercorn": "hypercorn --workers 0 --bind 127.0.0.1:{} --log-level critical application:application",
    "daphne": "daphne --bind 127.0.0.1 --port {} --verbosity 0 application:application",
    "granian": "granian --interface asgi --host 127.0.0.1 --port {} --log-level critical application:application",
}


async def connect(port):
    for _ in range(300):
        try:
            return await websockets.connect(f"ws://127.0.0.1:{port}/", proxy=None)
        except OSError:  # it starts
            await asyncio.sleep(0.1)
    raise SystemExit("the server does not start")


async def main():
    for name, command in SERVERS.items():
        NOTES.write_text("")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen([sys.executable, "-m", *command.format(port).split()], stderr=subprocess.DEVNULL)
        try:
            client = await connect(port)
            await client.send("hello")
            assert await client.recv() == "hello"  # its handler runs
            await asyncio.sleep(2)
            server.terminate()
            await asyncio.wait_for(client.wait_closed(), 30)
            await asyncio.wait_for(asyncio.to_thread(server.wait), 30)
        finally:
            server.kill()
            server.wait()
        notes = NOTES.read_text().splitlines()
        if "finally ran to its end" not in notes:
            notes = ["handler did not come to its end", *[note for note in notes if note.startswith("then")]]
        print(", ".join([f"{name}: client {client.close_code}", *notes]))


asyncio.run(main())
PYTHON
diff seen - <<'SEEN'
uvicorn: client 1012, handler got websocket.disconnect, finally ran to its end, then lifespan.shutdown
hypercorn: client 1011, handler got CancelledError, finally ran to its end, then lifespan.shutdown
daphne: client 1006, handler got CancelledError, finally ran to its end
granian: client 1006, handler did not come to its end, then lifespan.shutdown
SEEN
