"""The server of a demo as a process of its own: how it is started, listened to and stopped; and its own main program.

It gets its settings through its standard input, because they may hold secrets and everybody may read a process list.
It says in its first line where it listens. It stops when its input ends, that is, however this process ended.
``main`` is the program of that process; only ``ServerProcess`` can start it.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import exporter
from exporter.core.errors import Misconfigured, Unavailable
from exporter.settings.model import Settings

if TYPE_CHECKING:
    from exporter.web.server import Server

_LENGTH: Final = struct.Struct(">Q")
_STDIN: Final = 0
_OF_THE_GROUP: Final = frozenset((signal.SIGINT, signal.SIGTERM))
# What a pipe says whose reader was ended by the same signal; uvloop says it with a RuntimeError.
_GONE: Final = (OSError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the server listens, as URLs such as ``http://127.0.0.1:8765``."""

    urls: list[str]
    metrics_urls: list[str]


class ServerProcess:
    """A running server. What it says on standard error goes line by line to ``note``; until that is set it is kept."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.note: Callable[[str], None] = self._keep
        self._kept: list[str] = []
        self._process = process
        self._listening = asyncio.ensure_future(self._listen())
        self.exited: asyncio.Future[int] = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, settings: Settings) -> ServerProcess:
        """Starts it, in this process's group: what a terminal sends, it sends to both."""
        here = str(Path(exporter.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from exporter.demo.server_process import main; raise SystemExit(main())",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        packed = pickle.dumps(settings)
        assert process.stdin is not None  # noqa: S101 - asked for above
        server = cls(process)
        with suppress(*_GONE):
            process.stdin.write(_LENGTH.pack(len(packed)) + packed)
        return server

    async def places(self) -> Places:
        """Where it listens, once it does. Returns only if it ever does: look at ``exited`` beside it."""
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        line = await self._process.stdout.readline()
        if not line:
            await asyncio.Event().wait()
        return Places(**json.loads(line))

    def _keep(self, line: str) -> None:
        self._kept.append(line)
        del self._kept[:-100]

    def tell(self) -> None:
        """Says on standard error what was kept: it did not come as far as listening."""
        for line in self._kept:
            with suppress(OSError):
                print(line, file=sys.stderr, flush=True)

    async def _listen(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - asked for above
        while line := await self._process.stderr.readline():
            self.note(line.decode(errors="replace").rstrip())

    async def stop(self, seconds: float) -> None:
        """Asks it to drain and stop, waits this long, then ends it."""
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        with suppress(*_GONE):
            self._process.stdin.close()
        await asyncio.wait((self.exited,), timeout=seconds)
        if not self.exited.done():
            with suppress(ProcessLookupError):
                self._process.kill()
        await self.exited
        await self._listening


def main() -> int:
    """The server's process."""
    from exporter import logs
    from exporter.simulate import loop_factory
    from exporter.web import server

    # The other process decides when to stop: Ctrl-C and a supervisor's SIGTERM reach the whole group, and a second
    # signal would cut the draining short.
    signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)
    settings: Settings = pickle.loads(_exactly(_LENGTH.unpack(_exactly(_LENGTH.size))[0]))  # noqa: S301 - our parent's
    threading.Thread(target=_stop_with_input, daemon=True).start()
    logs.configure(settings.log_level, settings.log_format)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(server.serve(settings, started=_announce))
    except (Misconfigured, Unavailable) as error:
        print(f"messaging-exporter: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def _announce(server: Server) -> None:
    print(json.dumps({"urls": server.urls, "metrics_urls": server.metrics_urls}), flush=True)


def _exactly(size: int) -> bytes:
    # Without Python's buffer: a thread that waits in a buffered read at exit is a fatal error.
    data = b""
    while len(data) < size:
        piece = os.read(_STDIN, size - len(data))
        if not piece:
            sys.exit(1)
        data += piece
    return data


def _stop_with_input() -> None:
    while os.read(_STDIN, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # one with the group's, if that is pending
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
