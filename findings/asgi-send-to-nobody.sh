#!/usr/bin/env bash
# uvicorn 0.54.0, Hypercorn 0.18.0, Daphne 4.2.3 and Granian 2.8.9 from PyPI, one ASGI application; nothing of this
# project.
#
# Guess: send() to a client that is gone raises a subclass of OSError, as the ASGI specification has it since 2.4, of
# 2024. So a handler that only sends, a feed say, ends soon after its client has gone, and what send() took was at least
# for somebody who was there.
#
# Seen: only uvicorn's raises. The three others take message after message for a client that is gone, be it after a
# proper close, without an error and without ending the handler, for as long as was looked at, 3 s. They know better: a
# receive() then says "websocket.disconnect" at once. scope["asgi"]["spec_version"] tells who raises: 2.4 does.
#   uvicorn, spec 2.4: closed: ClientDisconnected (an OSError) after 0 of 60 messages, then websocket.disconnect
#   uvicorn, spec 2.4: lost: ClientDisconnected (an OSError) after 0 of 60 messages, then websocket.disconnect
#   hypercorn, spec 2.3: closed: nothing raised after 60 of 60 messages, then websocket.disconnect
#   hypercorn, spec 2.3: lost: nothing raised after 60 of 60 messages, then websocket.disconnect
#   daphne, spec None: closed: nothing raised after 60 of 60 messages, then websocket.disconnect
#   daphne, spec None: lost: nothing raised after 60 of 60 messages, then websocket.disconnect
#   granian, spec 2.3: closed: nothing raised after 60 of 60 messages, then websocket.disconnect
#   granian, spec 2.3: lost: nothing raised after 60 of 60 messages, then websocket.disconnect
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

MESSAGES = 60


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(1)  # the client goes, and the server has seen it
    sent, raised = 0, "nothing raised"
    try:
        for _ in range(MESSAGES):
            await send({"type": "websocket.send", "text": "hello"})
            sent += 1
            await asyncio.sleep(0.05)
    except OSError as error:
        raised = f"{type(error).__name__} (an OSError)"
    event = await asyncio.wait_for(receive(), 10)
    with open("outcome", "w") as outcome:
        spec = scope["asgi"].get("spec_version")
        outcome.write(f"{spec}|{raised} after {sent} of {MESSAGES} messages, then {event['type']}\n")
PYTHON
venv/bin/python - <<'PYTHON' | tee seen
import asyncio
import pathlib
import socket
import subprocess

import websockets

OUTCOME = pathlib.Path("outcome")
SERVERS = {
    "uvicorn": "uvicorn --port {} --log-level critical application:application",
    "hypercorn": "hypercorn --workers 0 --bind 127.0.0.1:{} --log-level critical application:application",
    "daphne": "daphne --bind 127.0.0.1 --port {} --verbosity 0 application:application",
    "granian": "granian --interface asgi --host 127.0.0.1 --port {} --no-log application:application",
}


async def outcome(port, how):
    OUTCOME.unlink(missing_ok=True)
    for _ in range(300):
        try:
            client = await websockets.connect(f"ws://127.0.0.1:{port}")
            break
        except OSError:  # it starts
            await asyncio.sleep(0.1)
    if how == "closed":
        await client.close()
    else:
        client.transport.abort()
    while not OUTCOME.exists() or not OUTCOME.read_text().endswith("\n"):
        await asyncio.sleep(0.1)
    return OUTCOME.read_text().strip().split("|")


async def main():
    for name, command in SERVERS.items():
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        program, *arguments = command.format(port).split()
        server = subprocess.Popen([f"venv/bin/{program}", *arguments], stderr=subprocess.DEVNULL)
        try:
            for how in ("closed", "lost"):
                spec, what = await asyncio.wait_for(outcome(port, how), 60)
                print(f"{name}, spec {spec}: {how}: {what}", flush=True)
        finally:
            server.terminate()
            server.wait()


asyncio.run(main())
PYTHON
diff seen - <<'SEEN'
uvicorn, spec 2.4: closed: ClientDisconnected (an OSError) after 0 of 60 messages, then websocket.disconnect
uvicorn, spec 2.4: lost: ClientDisconnected (an OSError) after 0 of 60 messages, then websocket.disconnect
hypercorn, spec 2.3: closed: nothing raised after 60 of 60 messages, then websocket.disconnect
hypercorn, spec 2.3: lost: nothing raised after 60 of 60 messages, then websocket.disconnect
daphne, spec None: closed: nothing raised after 60 of 60 messages, then websocket.disconnect
daphne, spec None: lost: nothing raised after 60 of 60 messages, then websocket.disconnect
granian, spec 2.3: closed: nothing raised after 60 of 60 messages, then websocket.disconnect
granian, spec 2.3: lost: nothing raised after 60 of 60 messages, then websocket.disconnect
SEEN
