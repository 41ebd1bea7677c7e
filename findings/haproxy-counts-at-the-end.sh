#!/usr/bin/env bash
# HAProxy 2.6.12 (Debian 12); nothing of this project.
#
# Guess: a WebSocket counts in the responses of HAProxy's statistics (hrsp_1xx, in its exporter
# haproxy_*_http_responses_total) when it gets its 101: for the frontend, the backend and the server alike. Only bytes
# wait for the end, as the manual has it ("option contstats").
#
# Seen: it counts for the server when it is answered, and for frontend and backend when it ENDS; the backend's requests
# (req_tot) are counted then, too. "option contstats" brings the bytes forward, and nothing else. So the rate of a
# frontend's or a backend's responses is that of WebSockets that end: a storm of new ones is not seen, and when all of
# them are cut the rate of "answers" leaps. What a server has been sending for hours is in no figure of bytes.
#   plain, 5 are open: frontend 5 requests 0 responses, backend 0 and 0, server 5 and 5, bytes 0
#   plain, 5 have ended: frontend 5 requests 5 responses, backend 5 and 5, server 5 and 5, bytes counted
#   contstats, 5 are open: frontend 5 requests 0 responses, backend 0 and 0, server 5 and 5, bytes counted
#   contstats, 5 have ended: frontend 5 requests 5 responses, backend 5 and 5, server 5 and 5, bytes counted
#
# Needs the libraries of Debian's haproxy. Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'haproxy=2.6.12-*' liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
for package in *.deb; do dpkg -x "$package" unpacked; done
LD_LIBRARY_PATH=$(echo "$folder"/unpacked/usr/lib/*-linux-gnu) python3 - <<'PYTHON' | tee seen
import asyncio
import contextlib
import csv
import pathlib
import socket
import subprocess

UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"  # the key and its answer are RFC 6455's example
ASKED = (b"GET / HTTP/1.1\r\nHost: example.org\r\n" + UPGRADE
         + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")  # fmt: skip
AGREED = (b"HTTP/1.1 101 Switching Protocols\r\n" + UPGRADE
          + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")  # fmt: skip
ENOUGH = 7  # seconds; contstats counts every five


async def echo(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(AGREED)
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def connect(port):
    for _ in range(200):
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        await asyncio.sleep(0.1)  # it starts
    writer.write(ASKED)
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"x" * 1000)
    await reader.readexactly(1000)
    return writer


async def tell(when):
    reader, writer = await asyncio.open_unix_connection("statistics")
    writer.write(b"show stat\n")
    table = csv.DictReader((await reader.read()).decode().removeprefix("# ").splitlines())
    rows = {row["svname"]: row for row in table}
    front, server, back = (rows[name] for name in ("FRONTEND", "s", "BACKEND"))
    number = {name: (row["req_tot"], row["hrsp_1xx"]) for name, row in (("f", front), ("b", back), ("s", server))}
    few = {int(row["bin"]) >= 5000 and int(row["bout"]) >= 5000 for row in (front, back, server)}
    told = {frozenset({True}): "counted", frozenset({False}): "0"}.get(frozenset(few), "differ")
    print(f"{when}: frontend {number['f'][0]} requests {number['f'][1]} responses, "
          f"backend {' and '.join(number['b'])}, server {' and '.join(number['s'])}, bytes {told}")
    writer.close()


async def look(name, option):
    upstream = await asyncio.start_server(echo, "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pathlib.Path("haproxy.cfg").write_text(f"""
global
    stats socket {pathlib.Path.cwd()}/statistics
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    {option}
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
    server s 127.0.0.1:{upstream.sockets[0].getsockname()[1]}
""")
    haproxy = subprocess.Popen(["unpacked/usr/sbin/haproxy", "-q", "-db", "-f", "haproxy.cfg"])
    try:
        clients = [await connect(port) for _ in range(5)]
        await asyncio.sleep(ENOUGH)
        await tell(f"{name}, 5 are open")
        for client in clients:
            client.close()
        await asyncio.sleep(1)
        await tell(f"{name}, 5 have ended")
    finally:
        haproxy.terminate()
        haproxy.wait()


asyncio.run(look("plain", ""))
asyncio.run(look("contstats", "option contstats"))
PYTHON
diff seen - <<'SEEN'
plain, 5 are open: frontend 5 requests 0 responses, backend 0 and 0, server 5 and 5, bytes 0
plain, 5 have ended: frontend 5 requests 5 responses, backend 5 and 5, server 5 and 5, bytes counted
contstats, 5 are open: frontend 5 requests 0 responses, backend 0 and 0, server 5 and 5, bytes counted
contstats, 5 have ended: frontend 5 requests 5 responses, backend 5 and 5, server 5 and 5, bytes counted
SEEN
