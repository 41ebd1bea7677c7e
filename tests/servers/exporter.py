"""The exporter itself, as its users have it: a process on a free port, or the same server in the test's loop.

``Exporter`` is ``python -m exporter serve``: it can be stopped, killed and started again on the same data.
``InProcess`` is the composition root in this loop, for tests that put a fault into a part of it. Both are asked in the
same way: ``connect`` for people, ``scrape`` for ``/metrics`` as a dictionary, ``get`` and ``post`` for the routes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from exporter.auth.tokens import Authenticator
from exporter.settings.model import Address, Settings
from exporter.web.server import Server
from tests.servers.children import ends_with_the_tests

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds that anything may take on a busy machine before a test gives up on it; nothing waits for it to pass."""
WS = "/v1/messaging/ws"
CONVERSATIONS = "/v1/messaging/conversations"
STATS = "/v1/messaging/stats"

_SHOWN = re.compile(r"Metrics +(http://\S+)/metrics\n")
"""How ``demo`` tells people where it is."""

Figures = dict[str, float]
"""A scrape: ``name{label="value"}`` as it stands in the exposition, to its value."""


async def until(condition: Callable[[], Awaitable[T]], what: str, within: float = PATIENCE) -> T:
    """Ask again until the answer is true; the answer. What was asked before the time was over may be answered after."""
    deadline = time.monotonic() + within
    while True:
        late = time.monotonic() > deadline
        answer = await condition()
        if answer:
            return answer
        assert not late, f"not within {within} s: {what}"
        await asyncio.sleep(0.01)


def figures_of(exposition: str) -> Figures:
    """The samples of a text exposition; a series that stands twice is an error."""
    figures: Figures = {}
    for line in exposition.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            assert series not in figures, f"the exposition has {series} twice"
            figures[series] = float(value)
    return figures


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another program writes to this SQLite file for the length of a block: nobody else can."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=PATIENCE)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


class Client:
    """A person on a WebSocket, by the ``websockets`` library: an implementation that is not the server's own."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.passed_over: list[dict[str, Any]] = []
        """Frames that nobody has asked for so far, oldest first."""

    @classmethod
    async def connect(
        cls,
        url: str,
        token: str | None,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: tuple[str, ...] = ("messaging.v1",),
        welcome: bool = True,
    ) -> Client:
        """Connect and read the welcome; raises websockets' InvalidStatus when refused."""
        given = dict(headers or {})
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        connection = await websocket(
            url.replace("http", "ws", 1) + WS,
            additional_headers=given,
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            compression=None,
            ping_interval=None,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
            max_queue=None,  # whoever reads late must not look like a slow consumer
            proxy=None,
        )
        client = cls(connection)
        if welcome:
            await client.frame("welcome")
        return client

    # --- talking ------------------------------------------------------------------------------------------

    async def send(self, type: str, **fields: Any) -> None:
        """One command; it is in the server's socket when this returns."""
        await self.connection.send(json.dumps({"type": type, **fields}))

    async def raw(self, payload: str | bytes) -> None:
        """One message as it is, text or binary."""
        await self.connection.send(payload)

    async def frame(self, type: str, within: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """The next frame of this type with these fields; others are passed over and can be asked for later."""
        for index, frame in enumerate(self.passed_over):
            if frame["type"] == type and fields.items() <= frame.items():
                return self.passed_over.pop(index)
        try:
            async with asyncio.timeout(within):
                while True:
                    frame = json.loads(await self.connection.recv())
                    if frame["type"] == type and fields.items() <= frame.items():
                        return frame
                    self.passed_over.append(frame)
        except TimeoutError:
            raise AssertionError(f"no {type} {fields} within {within} s; passed over: {self.passed_over}") from None

    async def ask(self, type: str, answer: str, **fields: Any) -> dict[str, Any]:
        """A command with an answer."""
        await self.send(type, **fields)
        return await self.frame(answer)

    async def join(self, conversation: str) -> dict[str, Any]:
        """Join, be told so."""
        await self.send("join", conversation=conversation)
        return await self.frame("joined", conversation=conversation)

    async def leave(self, conversation: str) -> dict[str, Any]:
        """Leave, be told so."""
        await self.send("leave", conversation=conversation)
        return await self.frame("left", conversation=conversation)

    async def say(self, conversation: str, body: str, id: str) -> dict[str, Any]:
        """Send a message, have it acknowledged."""
        await self.send("send", conversation=conversation, body=body, id=id)
        return await self.frame("ack", id=id, conversation=conversation)

    async def barrier(self) -> None:
        """Everything that was sent before, sends and reads excepted, has been handled when this returns."""
        mark = os.urandom(8).hex()
        await self.send("ping", id=mark)
        await self.frame("pong", id=mark)

    # --- ending -------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """The closing handshake."""
        await self.connection.close()

    async def closed(self, within: float = PATIENCE) -> tuple[int, str]:
        """Wait for the server to close: its code and reason (1006: without a close frame)."""
        try:
            async with asyncio.timeout(within):
                while True:
                    self.passed_over.append(json.loads(await self.connection.recv()))
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")
        except TimeoutError:
            raise AssertionError(f"not closed within {within} s") from None

    async def reset(self) -> None:
        """Die: the peer's kernel has a TCP reset when this returns, and there was no word on the WebSocket."""
        held = self.connection.transport.get_extra_info("socket")
        if held.fileno() >= 0:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.connection.transport.abort()
        await _closed(held)

    async def reset_within_a_frame(self) -> None:
        """Die after half of a frame's bytes have left."""
        self.connection.transport.write(b'\x81\xfe\x01\x00mask{"type":"send",')
        await self.reset()

    async def vanish_within_a_frame(self) -> None:
        """Half of a frame, then an ordinary end of the TCP stream."""
        held = self.connection.transport.get_extra_info("socket")
        self.connection.transport.write(b'\x81\xfe\x01\x00mask{"type":"send",')
        self.connection.transport.close()
        await _closed(held)


async def _closed(held: socket.socket) -> None:
    while held.fileno() >= 0:  # noqa: ASYNC110  # the transport closes the socket in its next turn
        await asyncio.sleep(0)


class Asking:
    """What can be asked of a server, wherever it runs."""

    url: str
    """Such as ``http://127.0.0.1:40001``."""
    database: Path
    """The SQLite file."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator
        self._http: aiohttp.ClientSession | None = None

    @property
    def http(self) -> aiohttp.ClientSession:
        """One session for all requests, made when it is first used."""
        if self._http is None:
            self._http = self.make_session()
        return self._http

    def make_session(self, **options: Any) -> aiohttp.ClientSession:
        """One that adds no header and unpacks nothing; ``options`` go to it."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        unsaid = ["Accept", "Accept-Encoding", "User-Agent"]
        return aiohttp.ClientSession(timeout=timeout, auto_decompress=False, skip_auto_headers=unsaid, **options)

    async def hang_up(self) -> None:
        """Close the session of requests."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    def token(self, user: str, *, role: str = "user", ttl: float = 3600) -> str:
        """Signed with this installation's secret."""
        return self.authenticator.sign(user, role=role, ttl=ttl)

    async def connect(self, user: str, **options: Any) -> Client:
        """A person connects."""
        return await Client.connect(self.url, self.token(user), **options)

    async def refused(self, token: str | None, **options: Any) -> InvalidStatus:
        """A connection that must be refused before the upgrade; the refusal."""
        try:
            client = await Client.connect(self.url, token, welcome=False, **options)
        except InvalidStatus as refusal:
            return refusal
        await client.reset()
        raise AssertionError("the server upgraded a connection that it must refuse")

    async def request(
        self, method: str, path: str, *, user: str | None = None, role: str = "user", **options: Any
    ) -> tuple[int, Any, Mapping[str, str]]:
        """A request by a user: status, body (JSON read, else bytes), headers."""
        headers = dict(options.pop("headers", {}))
        if user is not None:
            headers["Authorization"] = f"Bearer {self.token(user, role=role)}"
        async with self.http.request(method, self.url + path, headers=headers, **options) as response:
            body: Any = await response.read()
            if "json" in response.headers.get("Content-Type", "") and body:
                body = json.loads(body)
            return response.status, body, response.headers

    async def get(self, path: str, **options: Any) -> tuple[int, Any, Mapping[str, str]]:
        """``request`` with GET."""
        return await self.request("GET", path, **options)

    async def conversation(self, id: str, *members: str) -> str:
        """A conversation with these members, the first of whom made it."""
        wanted = {"id": id, "participants": list(members[1:])}
        status, body, _ = await self.request("POST", CONVERSATIONS, user=members[0], json=wanted)
        assert status == 201, (status, body)
        return id

    async def exposition(self, **headers: str) -> str:
        """``/metrics`` as text 0.0.4."""
        status, body, _ = await self.get("/metrics", headers=headers)
        assert status == 200, (status, body)
        return body.decode()

    async def scrape(self, **headers: str) -> Figures:
        """``/metrics`` as figures."""
        return figures_of(await self.exposition(**headers))

    async def stats(self) -> dict[str, Any]:
        """The JSON for admins."""
        status, body, _ = await self.get(STATS, user="admin", role="admin")
        assert status == 200, (status, body)
        return body

    async def scraped(self, condition: Callable[[Figures], bool], what: str, within: float = PATIENCE) -> Figures:
        """Scrape until a condition holds; those figures."""

        async def attempt() -> Figures | None:
            figures = await self.scrape()
            return figures if condition(figures) else None

        found = await until(attempt, what, within)
        assert found is not None
        return found

    async def deserted(self) -> Figures:
        """Wait until nobody is connected."""
        return await self.scraped(lambda figures: figures["messaging_active_connections"] == 0, "everybody gone")


class Exporter(Asking):
    """A process. ``flags`` are those of ``serve``; ``program`` is what is run instead of ``python -m exporter``.

    ``inherit`` are descriptors of this process that it keeps.
    """

    patience = 2 * PATIENCE
    """Seconds that a start may take: a second of CPU, which several at once on a busy machine get late."""

    def __init__(
        self,
        folder: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "exporter"),
        command: str = "serve",
        inherit: Sequence[int] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.database = self.data / "messaging.db"
        super().__init__(Authenticator.from_settings(Settings(data_dir=self.data)))
        self.log = folder / "exporter.log"
        self._program = program
        self._inherit = inherit
        self._arguments = [
            command,
            "--data.dir",
            str(self.data),
            "--web.listen-address",
            "127.0.0.1:0",
            "--log.format",
            "json",
            *flags,
        ]
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MESSAGING_")},
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        }
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self.process is not None
        return self.process.pid

    async def start(self, *, ready: bool = True) -> Exporter:
        """Start, on the same data when it ran before; returns when it listens and, unless told otherwise, is ready."""
        with self.log.open("ab") as log:
            begins_at = log.tell()
            self.process = await asyncio.create_subprocess_exec(
                *self._program,
                *self._arguments,
                env=self._environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                pass_fds=self._inherit,
                preexec_fn=ends_with_the_tests(),
            )
        try:
            self.url = await until(lambda: self._listening(begins_at), "listening", self.patience)
            if ready:
                await until(self.ready, "ready")
        except BaseException:  # cancelled, too: no process stays
            await self.kill()
            raise
        return self

    async def _listening(self, begins_at: int) -> str | None:
        text = self.log.read_bytes()[begins_at:].decode()
        assert self.process is not None
        assert self.process.returncode is None, f"it ended with {self.process.returncode}:\n{text}"
        for line in text.splitlines(keepends=True):
            if '"listening"' in line and line.endswith("\n"):
                return str(json.loads(line)["urls"][0])
            if shown := _SHOWN.search(line):
                return shown[1]
        return None

    async def ready(self) -> bool:
        """Does it say that it is ready?"""
        return (await self.get("/-/ready"))[0] == 200

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far; whatever is no line of its own stands under ``text``."""
        found = self.log.read_text().splitlines()
        return [json.loads(line) if line.startswith("{") else {"text": line} for line in found]

    async def command(self, *arguments: str) -> int:
        """Another command of the program on the same data; its exit status, and its output in the log."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._program,
                *(arguments[0], "--data.dir", str(self.data), *arguments[1:]),
                env=self._environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                preexec_fn=ends_with_the_tests(),
            )
        async with asyncio.timeout(PATIENCE):
            return await process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def stop(self) -> int:
        """SIGTERM, and wait until it has ended: the exit status."""
        if self.process is not None and self.process.returncode is None:
            self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait until it has ended by itself: the exit status."""
        await self.hang_up()
        assert self.process is not None
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def running(folder: Path, *flags: str, ready: bool = True, **options: Any) -> AsyncIterator[Exporter]:
    """A process for the length of a block; killed at its end, however it ends."""
    exporter = Exporter(folder, *flags, **options)
    try:
        yield await exporter.start(ready=ready)
    finally:
        if exporter.process is not None:
            await exporter.kill()


class InProcess(Asking):
    """The server in this loop; ``server`` is open to faults."""

    def __init__(self, settings: Settings) -> None:
        self.server = Server(settings)
        self.database = settings.data_dir / "messaging.db"
        super().__init__(self.server.authenticator)


@asynccontextmanager
async def in_process(folder: Path, *, ready: bool = True, **settings: Any) -> AsyncIterator[InProcess]:
    """The server in this loop for the length of a block; ``settings`` are fields of Settings."""
    chosen = replace(
        Settings(listen=(Address("127.0.0.1", 0),), data_dir=folder / "data", drain_timeout=1.0), **settings
    )
    here = InProcess(chosen)
    await here.server.start()
    try:
        here.url = here.server.urls[0]

        async def is_ready() -> bool:
            return here.server.ready

        if ready:
            await until(is_ready, "ready")
        yield here
    finally:
        await here.hang_up()
        await here.server.close()
