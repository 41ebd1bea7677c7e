"""The server of a demo: ``python -m exporter serve`` as a process of its own, started, listened to and stopped.

Its settings go through the environment, because they may hold secrets and everybody may read a process list. It says
by sd_notify where it listens and when it drains. On Linux the kernel stops it when this process ends, however it ends.

Tested in ``tests/integration/test_demo.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from exporter.child_process import between_fork_and_exec, own_environment
from exporter.settings.model import Settings
from exporter.settings.options import environment
from exporter.web.sockets import LISTEN


@dataclass(frozen=True, slots=True)
class ServerUrls:
    """Where the server listens, such as ``http://127.0.0.1:8765``."""

    urls: list[str]
    metrics_urls: list[str]


class ServerProcess(asyncio.DatagramProtocol):
    """A running server. What it says on standard error goes line by line to ``note``; until that is set it is kept."""

    def __init__(self) -> None:
        self.note: Callable[[str], None] = self._keep
        self.exited: asyncio.Future[int]
        self._process: asyncio.subprocess.Process
        self._notices: asyncio.DatagramTransport
        self._reading: asyncio.Future[None]
        self._kept: list[str] = []
        self._listening: asyncio.Future[ServerUrls] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._folder = tempfile.TemporaryDirectory(prefix="messaging-demo-", dir="/tmp")  # a socket's path is short

    @classmethod
    async def start(cls, settings: Settings) -> ServerProcess:
        """Start it in a process group of its own: Ctrl-C is for the demo, which then stops its server.

        Raises Misconfigured.
        """
        told = environment(settings)
        server = cls()
        path = f"{server._folder.name}/notify"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        receiver.bind(path)
        server._notices, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, sock=receiver)
        server._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter", "serve"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**own_environment(), **told, "NOTIFY_SOCKET": path},
            preexec_fn=between_fork_and_exec(signal.SIGTERM),
        )
        server._reading = asyncio.ensure_future(server._read_errors())
        server.exited = asyncio.ensure_future(server._process.wait())
        return server

    async def urls(self) -> ServerUrls:
        """Where it listens, once it does. Returns only if it ever does: look at ``exited`` beside it."""
        return await asyncio.shield(self._listening)

    def tell(self) -> None:
        """Say on standard error what was kept: it did not come as far as listening."""
        for line in self._kept:
            if f"{LISTEN} HOST:PORT" in line and "MAKELEVEL" in os.environ:  # below make, which has no such flag
                line = f'{line} (make run ARGS="{LISTEN} HOST:PORT")'
            with suppress(OSError):
                print(line, file=sys.stderr, flush=True)

    async def stop(self, seconds: float) -> None:
        """Ask it to drain and stop unless it does so already, wait this long, then end it."""
        with suppress(ProcessLookupError):
            if not self._stopping:
                self._process.terminate()
            await asyncio.wait((self.exited,), timeout=seconds)
            if not self.exited.done():
                self._process.kill()
        await self.exited
        await self._reading
        self._notices.close()
        self._folder.cleanup()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """asyncio: a notice of sd_notify(3)."""
        for line in data.decode().splitlines():
            name, _, value = line.partition("=")
            if name == "X_MESSAGING_URLS" and not self._listening.done():
                self._listening.set_result(ServerUrls(**json.loads(value)))
            elif name == "STOPPING":
                self._stopping = True

    def _keep(self, line: str) -> None:
        self._kept.append(line)
        del self._kept[:-100]

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - asked for above
        while line := await self._process.stderr.readline():
            self.note(line.decode(errors="replace").rstrip())
