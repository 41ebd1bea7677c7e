"""``serve --workers``: one server of several processes, each of which can be looked at and done something to."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.servers.exporter import PATIENCE, Asking, Exporter, until

LEASE = 2.0
"""Seconds: a dead worker's part of the figures is gone after this at the latest, and a beat."""


class Worker(Asking):
    """One worker, asked at its metrics port; ``pid`` is of the process that fills its place now."""

    def __init__(self, server: Workers, number: int, url: str) -> None:
        super().__init__(server.authenticator)
        self.number, self.url, self._server = number, url, server

    @property
    def pid(self) -> int:
        """As the log says."""
        return [line["pid"] for line in self._server.said("worker listening") if line["worker"] == self.number][-1]

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    async def another_than(self, pid: int) -> int:
        """Wait until another process has taken the place of ``pid``, and answers; its own."""

        async def changed() -> bool:
            return self.pid != pid

        await until(changed, f"a new process in the place of worker {self.number}", self._server.patience)
        await until(self.ready, "ready")
        return self.pid

    async def ready(self) -> bool:
        """Does it say that it is ready?"""
        return (await self.get("/-/ready"))[0] == 200


class Workers(Exporter):
    """A server. ``url`` is the shared port, ``workers`` are those behind it."""

    workers: list[Worker]
    patience = 3 * PATIENCE  # they start one after the other

    def __init__(self, folder: Path, database: str, *flags: str, count: int = 2, **options: Any) -> None:
        more = ("--workers", str(count), "--database.url", database, "--cluster.lease", f"{LEASE:g}s")
        super().__init__(folder, *more, *flags, **options)

    @property
    def http(self) -> aiohttp.ClientSession:
        """A session that keeps no connection.

        One that is kept is of the worker that took it, and hangs when that is stopped; a new one comes to a worker
        that answers.
        """
        if self._http is None:
            self._http = self.make_session(connector=aiohttp.TCPConnector(force_close=True))
        return self._http

    async def start(self, *, ready: bool = True) -> Workers:
        """Start; returns when all of them listen and, unless told otherwise, are ready."""
        await super().start(ready=ready)
        listening = self.said("listening")[-1]
        self.workers = [Worker(self, number, url) for number, url in enumerate(listening["metrics"])]
        if ready:
            for worker in self.workers:
                await until(worker.ready, f"worker {worker.number} is ready")
        return self

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log for an event."""
        return [line for line in self.lines() if line.get("event") == event]

    async def hears(self, event: str) -> dict[str, Any]:
        """Wait for a line of the log; it."""

        async def found() -> list[dict[str, Any]]:
            return self.said(event)

        return (await until(found, f"a line that says: {event}", self.patience))[-1]

    def children(self) -> list[int]:
        """The supervisor's."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def broker_folder(self) -> Path:
        """Where the socket of its own Valkey is."""
        title = Path(f"/proc/{self.broker}/cmdline").read_text()
        return Path(title.partition("unixsocket:")[2].strip("\0 ")).parent

    @property
    def broker(self) -> int:
        """The process of the Valkey of its own."""
        return next(pid for pid in self.children() if "valkey" in Path(f"/proc/{pid}/cmdline").read_text())

    async def settled(self) -> None:
        """Every worker says that the cluster's figures are final."""
        for worker in self.workers:
            await worker.scraped(lambda f: f.get("messaging_cluster_settling") == 0, "settled")

    async def ended(self) -> int:
        """Wait until it has ended; its exit status."""
        for worker in getattr(self, "workers", ()):
            await worker.hang_up()
        return await super().ended()


def listens_on_a_port(pid: int) -> bool:
    """Has this process a TCP socket?"""
    files = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    return bool({f"socket:[{line.split()[9]}]" for line in tables.splitlines()} & set(files))


def alive(pid: int) -> bool:
    """Does this process run (or stand stopped)? One that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@asynccontextmanager
async def running(folder: Path, database: str, *flags: str, **options: Any) -> AsyncIterator[Workers]:
    """A server for the length of a block; killed at its end, however it ends: the workers end with it."""
    server = Workers(folder, database, *flags, **options)
    try:
        yield await server.start()
    finally:
        if server.process is not None:
            await server.kill()
