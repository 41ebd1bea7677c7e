#!/usr/bin/env bash
# Hypercorn 0.18.0 and, to compare, uvicorn 0.54.0 (with websockets 17.4) from PyPI; nothing of this project.
#
# Guess: a server with a ping interval finds peers that are gone: who does not answer a ping is closed, and the handler
# gets "websocket.disconnect". Hypercorn has websocket_ping_interval, uvicorn --ws-ping-interval and --ws-ping-timeout.
#
# Seen: Hypercorn sends its pings and does not look for pongs; there is no timeout to set either. A peer that answers
# none of them is still connected after ten intervals, and its handler waits; uvicorn has closed it after one. So with
# Hypercorn a phone that has left without a word stays "connected" until TCP gives up, and who counts connections or
# presence in handlers needs a timeout of their own.
#   uvicorn: some pings, none answered: closed, handler got websocket.disconnect
#   hypercorn: ten pings or more, none answered: open, handler waits
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile \
    uvicorn==0.54.0 hypercorn==0.18.0 websockets==17.4 wsproto==1.3.2
cat >application.py <<'PYTHON'
import pathlib


async def application(scope, receive, send):
    if scope["type"] != "websocket":
        raise NotImplementedError
    await receive()
    await send({"type": "websocket.accept"})
    event = await receive()
    pathlib.Path("got").write_text(f"got {event['type']}")
PYTHON
echo 'websocket_ping_interval = 1.0' >hypercorn.toml
venv/bin/python - <<'PYTHON' | tee seen
import base64
import contextlib
import pathlib
import socket
import subprocess
import time

SERVERS = {
    "uvicorn": "uvicorn --port {} --ws-ping-interval 1 --ws-ping-timeout 1 --log-level critical "
               "application:application",
    "hypercorn": "hypercorn --workers 0 --bind 127.0.0.1:{} --config hypercorn.toml --log-level critical "
                 "application:application",
}  # fmt: skip
ASKED = (
    "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n\r\n"
)
GOT = pathlib.Path("got")


def connect(port):
    for _ in range(300):
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connection.sendall(ASKED.encode())
            return connection, connection.makefile("rb")
        time.sleep(0.1)
    raise SystemExit("it does not start")


def look(port):
    """Frames until a close or the end, or until there were ten pings. The frames of a server are short, unmasked."""
    connection, file = connect(port)
    assert b" 101 " in file.readline()
    while file.readline().strip():
        pass
    pings = 0
    while pings < 10 and (head := file.read(2)):
        file.read(head[1])
        if head[0] & 15 == 8:
            break
        pings += head[0] & 15 == 9
    time.sleep(2)
    ended, handler = pings < 10, GOT.read_text() if GOT.exists() else "waits"
    many = "ten pings or more" if pings >= 10 else "some pings" if pings else "no pings"
    return f"{many}, none answered: {'closed' if ended else 'open'}, handler {handler}"


for name, command in SERVERS.items():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    GOT.unlink(missing_ok=True)
    server = subprocess.Popen(f"exec venv/bin/{command.format(port)}", shell=True)
    try:
        print(f"{name}: {look(port)}")
    finally:
        server.kill()
        server.wait()
PYTHON
diff seen - <<'SEEN'
uvicorn: some pings, none answered: closed, handler got websocket.disconnect
hypercorn: ten pings or more, none answered: open, handler waits
SEEN
