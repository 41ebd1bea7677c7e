"""The servers under measurement: how each is started, joined and talked to. Ours is one of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.bench.load import NUMBER, Connection, frame, upgrade
from tests.bench.machine import compiled, cores, keep, node_modules, raise_files

HERE = Path(__file__).parent
PAYLOAD = 120  # bytes of one delivered frame's payload, for everybody


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Subject:
    """A server process on the server's core. ``members`` says what its connections do."""

    name = ""
    deliver = '{"type":"typing"'  # how a delivered frame's payload begins
    echoes = False  # does a sender get its own frame back
    polls = False  # does it burn the core while it has nothing to do: it is stopped while others are measured

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    def available(self) -> str | None:
        """Why it cannot be measured here, or None."""
        return None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        core = cores()[0]
        raise_files()
        self.process = subprocess.Popen(
            self.command(),
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("LOAD_DEBUG") else subprocess.DEVNULL,
            text=True,
            env=self.environment(),
            cwd=HERE.parent.parent,
            preexec_fn=lambda: keep(0, core),
        )
        try:
            self.wait_until_ready()
        except BaseException:  # cancelled, too: a server that nobody stops disturbs what is measured next
            self.stop()
            raise

    def wait_until_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready":
                return
        raise RuntimeError(f"{self.name} did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def pause(self) -> None:
        """Its turn is over; nothing happens to a server that sleeps by itself."""
        if self.polls:
            os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Its turn has come."""
        if self.polls:
            os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Subject:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def room(self, size: int) -> list[Connection]:
        """The connections of one room of that size; each can send typing events."""
        return self.rooms([size])

    def rooms(self, sizes: list[int]) -> list[Connection]:
        raise NotImplementedError


def event(room: str = "room") -> str:
    """What peers are sent and hand on: 120 bytes that look like our typing event."""
    text = json.dumps(
        {"type": "typing", "conversation": room, "user": "u-000001", "active": True}, separators=(",", ":")
    )
    return text[:-1] + "," + '"pad":"' + "x" * (PAYLOAD - len(text) - 9) + '"}'


PING = '{"type":"ping"}'


def join(room: str) -> str:
    """The product's command."""
    return f'{{"type":"join","conversation":"{room}"}}'


def commands(room: str, kind: str) -> list[str]:
    """What a connection of the product sends in turn."""
    if kind == "send":
        return [f'{{"type":"send","conversation":"{room}","id":"{NUMBER}","body":"{"x" * (PAYLOAD // 2)}"}}']
    if kind == "join":
        return [f'{{"type":"leave","conversation":"{room}"}}', join(room)]
    return [f'{{"type":"typing","conversation":"{room}","active":{active}}}' for active in ("true", "false")]


class Peer(Subject):
    """A script of peers/ that speaks plain WebSocket: the room in the query, ``joined`` when in."""

    script = ""
    needs = ""

    def available(self) -> str | None:
        import importlib.util

        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"needs {self.needs}: pip install -e .[bench]"
        return None

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "peers" / self.script), str(self.port)]

    def rooms(self, sizes: list[int]) -> list[Connection]:
        return [
            Connection([upgrade(f"/ws?room=r{number}"), (b"", b"joined")], [event()])
            for number, size in enumerate(sizes)
            for _ in range(size)
        ]


class Websockets(Peer):
    name, script, needs = "websockets broadcast", "websockets_broadcast.py", "websockets"


class AiohttpSend(Peer):
    name, script = "aiohttp send_str", "aiohttp_send.py"


class BareUvloop(Peer):
    name, script = "limit: bare uvloop", "bare_uvloop.py"


class UWebSockets(Peer):
    name, script, needs = "uWebSockets (C++)", "uwebsockets.py", "socketify"
    polls = True
    echoes = True  # socketify's publish knows no sender: one delivery more a message, and it counts as one


class Epoll(Peer):
    name = "limit: C epoll, joined"

    def available(self) -> str | None:
        return None if compiled(HERE / "peers" / "epoll.c") else "needs a C compiler"

    def command(self) -> list[str]:
        return [str(compiled(HERE / "peers" / "epoll.c")), str(self.port)]


class NodeWs(Peer):
    name, script = "Node ws", "ws.js"

    def available(self) -> str | None:
        return None if node_modules() else "needs node and npm"

    def command(self) -> list[str]:
        return ["node", str(HERE / "peers" / self.script), str(self.port)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "NODE_PATH": str(node_modules()), "NODE_ENV": "production"}


class _SocketIoFrames(Peer):
    """Engine.IO 4 over WebSocket: ``0{…}`` opens, ``40`` connects, ``42[…]`` is an event, ``43`` an acknowledgement."""

    deliver = '42["typing"'

    def rooms(self, sizes: list[int]) -> list[Connection]:
        text = event()
        payload = '42["typing",' + text[: -(2 + len('42["typing",') + 1)] + '"}]'
        return [
            Connection(
                [
                    upgrade("/socket.io/?EIO=4&transport=websocket"),
                    (b"", b"0{"),
                    (frame(b"40"), b"40"),
                    (frame(f'420["join","r{number}"]'.encode()), b"43"),
                ],
                [payload],
            )
            for number, size in enumerate(sizes)
            for _ in range(size)
        ]


class AiohttpLabels(Peer):
    """The instrumented peer of the inbound comparison; it speaks the product's commands."""

    name, script = "aiohttp + json + labels()", "aiohttp_labels.py"
    pong, joined, left = '{"type": "pong"', '{"type": "joined"', '{"type": "left"'

    def __init__(self, *, kind: str = "typing") -> None:
        super().__init__()
        self.kind = kind

    def rooms(self, sizes: list[int]) -> list[Connection]:
        return [
            Connection(
                [
                    upgrade(f"/ws?user=u{number:05d}-{i:04d}"),
                    (frame(join(room).encode()), self.joined.encode()),
                ],
                commands(room, self.kind),
            )
            for number, size in enumerate(sizes)
            for room in [f"room-{number:05d}".ljust(50, "x")]
            for i in range(size)
        ]


class PythonSocketIo(_SocketIoFrames):
    name, script, needs = "python-socketio", "python_socketio.py", "socketio"


class SocketIo(_SocketIoFrames, NodeWs):
    name, script = "socket.io", "socketio.js"


class Ours(Subject):
    """``messaging-exporter serve`` as a real process, with nothing taken out; only the limits are raised."""

    name = "messaging-exporter"
    pong, joined, left, ack = '{"type":"pong"', '{"type":"joined"', '{"type":"left"', '{"type":"ack"'
    extra: tuple[str, ...] = ()

    def __init__(self, *, database_url: str = "", kind: str = "typing", label: str = "", bare: bool = False) -> None:
        super().__init__()
        self.name = label or self.name
        self.bare = bare  # without instruments: the bench's own launcher, not a switch of the product
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.database_url = database_url
        self.kind = kind
        self.deliver = '{"type":"message"' if kind == "send" else '{"type":"typing"'

    def command(self) -> list[str]:
        options = {
            "web.listen-address": f"127.0.0.1:{self.port}",
            "data.dir": str(self.folder),
            "limits.connections": raise_files() - 50,
            "limits.connections-per-user": 60_000,
            "limits.frames-per-second": 10_000_000,
            "limits.send-buffer-bytes": 64 << 20,
            "typing.timeout": "3600s",
            "log.level": "warn",
        }
        launcher = ["-m", "tests.bench.without_instruments" if self.bare else "exporter"]
        return [
            sys.executable,
            *launcher,
            "serve",
            *(f"--{key}={value}" for key, value in options.items()),
            *self.extra,
        ]

    def environment(self) -> dict[str, str]:
        more = {"MESSAGING_DATABASE_URL": self.database_url} if self.database_url else {}
        return {**os.environ, **more}

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60  # on a busy machine
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
            try:
                if self.request("GET", "/-/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not become ready")

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def token(self, user: str) -> str:
        """A token as another program may sign it: HS256 with the text in auth.secret."""
        secret = (self.folder / "auth.secret").read_text().strip().encode()

        def part(value: bytes) -> str:
            return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

        head = part(b'{"alg":"HS256","typ":"JWT"}')
        body = part(json.dumps({"sub": user, "exp": int(time.time()) + 7200, "role": "user"}).encode())
        return f"{head}.{body}.{part(hmac.digest(secret, f'{head}.{body}'.encode(), hashlib.sha256))}"

    def request(self, method: str, path: str, body: Any = None, user: str | None = None) -> tuple[int, bytes]:
        """One HTTP request on a connection that is kept."""
        connection: http.client.HTTPConnection = self.__dict__.setdefault(
            "_http", http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        )
        headers = {"Authorization": f"Bearer {self.token(user)}"} if user else {}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body), "application/json"
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (http.client.HTTPException, OSError):
            connection.close()
            raise

    def rooms(self, sizes: list[int], first: int = 0) -> list[Connection]:
        return [connection for number, size in enumerate(sizes, first) for connection in self._room(number, size)]

    def _room(self, number: int, size: int) -> list[Connection]:
        users = [f"u{number:05d}-{i:04d}" for i in range(size)]
        # a typing event on the wire is then 120 bytes
        room = f"room-{number:05d}-{os.urandom(4).hex()}".ljust(PAYLOAD - len(users[0]) - 57, "x")
        path, most = "/v1/messaging/conversations", 1_000  # names in one request
        status, text = self.request("POST", path, {"id": room, "participants": users[:most]}, users[0])
        for more in range(most, size, most):
            if status == 201:
                body = {"participants": users[more : more + most]}
                status, text = self.request("POST", f"{path}/{room}/participants", body, users[0])
        if status != 201:
            raise RuntimeError(f"creating a conversation: {status} {text[:200]!r}")
        return [self.member(room, user) for user in users]

    def member(self, room: str, user: str) -> Connection:
        steps = [
            upgrade("/v1/messaging/ws", [f"Authorization: Bearer {self.token(user)}"]),
            (frame(join(room).encode()), b'{"type":"joined"'),
        ]
        return Connection(steps, commands(room, self.kind))


PEERS = (Epoll, BareUvloop, UWebSockets, NodeWs, AiohttpSend, Websockets, SocketIo, PythonSocketIo)
