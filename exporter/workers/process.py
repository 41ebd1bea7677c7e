"""One worker as the supervisor sees it: a process, a line to it, and what it said of itself."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from exporter.child_process import between_fork_and_exec, own_environment
from exporter.settings.model import Settings
from exporter.settings.options import environment
from exporter.workers.channel import Channel, ChannelMessage

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 30.0
STABLE_AFTER: Final = 30.0
"""Seconds: whoever lived so long did not die at once, and the next pause is the first again."""
BEAT_TIMEOUT: Final = 3.0
"""Seconds without a beat, of which there is one per second: a worker that is stopped, or that hangs."""


class Backoff:
    """Before something is started again: short at first, doubled each time that it dies at once."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._next = FIRST_PAUSE
        self._began = now()

    def begun(self) -> None:
        """It has been started."""
        self._began = self._now()

    def next(self) -> float:
        """It has died: seconds to wait."""
        if self._now() - self._began >= STABLE_AFTER:
            self._next = FIRST_PAUSE
        pause, self._next = self._next, min(LONGEST_PAUSE, self._next * 2)
        return pause


def exit_fields(status: int) -> dict[str, Any]:
    """The fields of a log line for an exit status as of ``subprocess``: ``signal`` or ``exit_code``."""
    if status >= 0:
        return {"exit_code": status}
    try:
        return {"signal": signal.Signals(-status).name}
    except ValueError:
        return {"signal": -status}


class WorkerProcess:
    """A process that was started. ``listening`` and ``prepared`` are done when it says so, ``exited`` with its status.

    ``changed`` is called when it says something of how full it is.
    """

    def __init__(self, number: int, changed: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.prepared: asyncio.Future[None] = loop.create_future()
        self.listening: asyncio.Future[ChannelMessage] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.full = True
        """It has no room, or no database yet, or has not said so: it listens before it says the first time."""
        self.incarnation = ""
        """Its name at the broker."""
        self.accepting = False
        self.leaving = False
        """It was told to go, or says that it does."""
        self.drain_timeout = 0.0
        """Seconds, of the settings that it was started with: they may have changed since."""
        self.last_beat = time.monotonic()
        self.silent = False
        self._changed = changed
        self._process: subprocess.Popen[bytes]
        self._channel: Channel

    @classmethod
    async def start(
        cls,
        number: int,
        settings: Settings,
        shared: Sequence[socket.socket],
        own: Sequence[socket.socket],
        *,
        restarts: int,
        predecessor: str,
        standby: bool,
        changed: Callable[[], None],
        cluster: int | None = None,
    ) -> WorkerProcess:
        """Start it. ``standby``: it makes everything ready and listens when it is told to. Raises OSError.

        ``predecessor`` is the name that the dead one, whose place it takes, had at the broker.
        """
        worker = cls(number, changed)
        worker.drain_timeout = settings.drain_timeout
        ours, theirs = socket.socketpair()
        with theirs:
            passed = [one.fileno() for one in (theirs, *shared, *own)]
            try:
                worker._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                    [sys.executable, "-m", "exporter", "worker", str(number), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env=own_environment(),
                    pass_fds=passed,
                    # Until it listens to the line: nobody is connected to it, and it holds the port.
                    preexec_fn=between_fork_and_exec(signal.SIGKILL),
                )
            except BaseException:  # interrupted, too: nobody else would close it
                ours.close()
                raise
        try:
            worker._channel = await Channel.open(ours, worker._on_message, lambda: None)
        except BaseException:  # a start that is cancelled leaves nobody behind who has the sockets
            worker.kill()
            worker._process.wait()
            raise
        worker._channel.send(
            settings=environment(settings),
            shared=[one.fileno() for one in shared],
            own=[one.fileno() for one in own],
            restarts=restarts,
            predecessor=predecessor,
            standby=standby,
            cluster=cluster,
        )
        return worker

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def serves(self) -> bool:
        """Has it come as far as listening, and does it run?"""
        return self.listening.done() and not self.exited.done()

    def tell(self, word: str) -> None:
        """``listen``, ``accept``, ``pause``, ``reload``, ``drain`` with all others, ``retire`` alone."""
        if word in ("drain", "retire"):
            self.leaving = True
        elif word in ("accept", "pause"):
            self.accepting = word == "accept"
        self._channel.send(do=word)

    def reap(self) -> None:
        """A child has ended: was it this?"""
        if not self.exited.done():
            status = self._process.poll()
            if status is not None:
                self._channel.close()
                self.exited.set_result(status)

    def kill(self) -> None:
        """No chance to finish anything."""
        self.leaving = True
        if self._process.poll() is None:
            self._process.kill()

    def _on_message(self, message: ChannelMessage) -> None:
        self.last_beat = time.monotonic()
        if "prepared" in message and not self.prepared.done():
            self.prepared.set_result(None)
            self.full = False  # it has its database, and nobody is there yet
        if "listening" in message and not self.listening.done():
            self.listening.set_result(message["listening"])
        if "leaving" in message:
            self.leaving = True
        if "full" in message:
            self.full = bool(message["full"])
        if message.get("incarnation"):
            self.incarnation = str(message["incarnation"])
        self._changed()
