#!/usr/bin/env bash
# uvicorn 0.54.0, Hypercorn 0.18.0 and Daphne 4.2.3 from PyPI, one ASGI application; nothing of this project.
#
# Guess: the code of "websocket.disconnect" is the client's, as the ASGI specification has it: 1005 when its close frame
# had none, 3000 when it said so, 1006 when its connection just ended; and 4001 after the application's own close with
# that code. So a handler can tell who went from who was lost.
#
# Seen: each server differs, and only Daphne tells who was lost from everybody else. With uvicorn, who closed without a
# code (as browsers do) and who was lost are both 1005. With Hypercorn every end that comes from outside is 1006, a
# proper close with a code too, and the application's own close is 1000 whatever it said. Daphne says None for 1005.
#   uvicorn:   no code 1005, code 3000 3000, lost 1005, own close with 4001 4001
#   hypercorn: no code 1006, code 3000 1006, lost 1006, own close with 4001 1000
#   daphne:    no code None, code 3000 3000, lost 1006, own close with 4001 4001
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile \
    uvicorn==0.54.0 hypercorn==0.18.0 daphne==4.2.3 websockets==17.4 wsproto==1.3.2
cat >application.py <<'PYTHON'
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/own":
        await send({"type": "websocket.close", "code": 4001})
    while (event := await receive())["type"] != "websocket.disconnect":
        pass
    with open("codes", "a") as codes:
        codes.write(f"{event.get('code')}\n")
PYTHON
venv/bin/python - <<'PYTHON' | tee seen
import asyncio
import pathlib
import socket
import subprocess
import sys

import websockets

CODES = pathlib.Path("codes")
SERVERS = {
    "uvicorn": "uvicorn --port {} --log-level critical application:application",
    "hypercorn": "hypercorn --workers 0 --bind 127.0.0.1:{} --log-level critical application:application",
    "daphne": "daphne --bind 127.0.0.1 --port {} --verbosity 0 application:application",
}
EMPTY_CLOSE_FRAME = bytes([0x88, 0x80, 0, 0, 0, 0])  # masked, as a client's frames are


async def connect(port, path):
    for _ in range(300):
        try:
            return await websockets.connect(f"ws://127.0.0.1:{port}{path}")
        except OSError:  # it starts
            await asyncio.sleep(0.1)
    raise SystemExit("the server does not start")


async def codes_of(port):
    for number, path in enumerate(["/empty", "/code", "/lost", "/own"], 1):
        client = await connect(port, path)
        if path == "/empty":
            client.transport.write(EMPTY_CLOSE_FRAME)
        elif path == "/code":
            await client.close(3000)
        elif path == "/lost":
            client.transport.abort()
        await client.wait_closed()
        while not CODES.exists() or len(CODES.read_text().split()) < number:
            await asyncio.sleep(0.02)
    return CODES.read_text().split()


async def main():
    for name, command in SERVERS.items():
        CODES.unlink(missing_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen([sys.executable, "-m", *command.format(port).split()])
        try:
            empty, code, lost, own = await asyncio.wait_for(codes_of(port), 40)
        finally:
            server.terminate()
            server.wait()
        print(f"{name}: no code {empty}, code 3000 {code}, lost {lost}, own close with 4001 {own}")


asyncio.run(main())
PYTHON
diff seen - <<'SEEN'
uvicorn: no code 1005, code 3000 3000, lost 1005, own close with 4001 4001
hypercorn: no code 1006, code 3000 1006, lost 1006, own close with 4001 1000
daphne: no code None, code 3000 3000, lost 1006, own close with 4001 4001
SEEN
