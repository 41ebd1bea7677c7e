"""A worker: the server, on sockets that the supervisor has bound, doing what it is told over the line.

Tested in ``tests/workers/test_supervisor.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from select import POLLHUP, poll
from typing import Any, Final

import structlog

from exporter.broker.redis import RedisBroker
from exporter.child_process import told_of_the_parents_end_by
from exporter.core.errors import Misconfigured
from exporter.node.cluster import ClusterNode
from exporter.settings.model import Settings
from exporter.settings.options import resolve
from exporter.web.server import Server, end_at_once, first
from exporter.workers.channel import Channel, ChannelMessage

log = structlog.get_logger(__name__)

BEAT_INTERVAL: Final = 1.0  # seconds
ORPHAN_DRAIN: Final = 1.0
"""Seconds to say goodbye when the supervisor is gone: the next one wants the port, and the broker may be gone too."""
ORPHAN_EXIT: Final = 5.0
"""Seconds until a worker without a supervisor is ended, whatever it hangs in."""
_HANDOVER: Final = 10.0  # seconds until the supervisor has sent what to do
_NEARLY: Final = 0.9  # of the connections: above this it looks more often
_ROOM: Final = 0.98  # of the connections: a worker that was full has room again below this


async def serve(number: int, descriptor: int, configure_logs: Callable[[Settings, int], None]) -> None:
    """Be worker ``number``, told over the socket ``descriptor``. Raises Misconfigured."""
    worker = _Worker(number)
    try:
        line = socket.socket(fileno=descriptor)
        worker.channel = await Channel.open(line, worker.received, worker.orphaned)
    except OSError:
        raise Misconfigured("this command is for serve --workers, which starts it") from None
    threading.Thread(target=_end_without, args=(descriptor,), daemon=True, name="supervisor-watch").start()
    told_of_the_parents_end_by(signal.SIGCONT)  # one that is stopped wakes up to notice that the line has ended
    handed = await asyncio.wait_for(worker.handed, _HANDOVER)
    settings = resolve({}, handed["settings"])
    configure_logs(settings, number)
    await worker.run(settings, handed)


class _Worker:
    def __init__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.channel: Channel
        self.handed: asyncio.Future[ChannelMessage] = loop.create_future()
        self._may_listen = asyncio.Event()
        self._ends: asyncio.Queue[str] = asyncio.Queue()
        self._accepting: asyncio.Queue[bool] = asyncio.Queue()
        self._reload: Callable[[], None] = lambda: None
        self._full = False
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self._ends.put_nowait, "retire")
        loop.add_signal_handler(signal.SIGHUP, lambda: self._reload())
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # it is for the supervisor

    def received(self, message: ChannelMessage) -> None:
        """What the supervisor sends."""
        if "settings" in message:
            self.handed.set_result(message)
        match message.get("do"):
            case "listen":
                self._may_listen.set()
            case "accept" | "pause" as word:
                self._accepting.put_nowait(word == "accept")
            case "reload":
                self._reload()
            case "drain" | "retire" as word:
                self._ends.put_nowait(word)

    def orphaned(self) -> None:
        """The supervisor is gone."""
        self._ends.put_nowait("orphaned")

    async def run(self, settings: Settings, handed: ChannelMessage) -> None:
        """Serve until the end."""
        ending = asyncio.ensure_future(self._ends.get())
        server = Server(settings, handed["cluster"])
        server.metrics.worker_restarts.value = handed["restarts"]
        self._reload = server.reload
        broker = server.node.redis if isinstance(server.node, ClusterNode) else None
        if broker is not None and handed.get("predecessor"):
            broker.take_the_place_of(handed["predecessor"])
        await server.prepare()
        beating = asyncio.create_task(self._beat(server, broker))
        try:
            if handed["standby"]:
                await first(self._prepared(server), asyncio.shield(ending))
            if not ending.done():
                shared, own = ([_socket(descriptor) for descriptor in handed[which]] for which in ("shared", "own"))
                await server.listen_with_others(shared, own)
                self.channel.send(listening={"urls": server.urls, "metrics_urls": server.metrics_urls})
                log.info("worker listening", metrics=server.metrics_urls, pid=os.getpid())
                await first(asyncio.shield(ending), server.failed(), self._accept(server))
            await self._end(server, ending.result())
        finally:
            beating.cancel()
            await server.close()
        self.channel.close()

    async def _prepared(self, server: Server) -> None:
        await server.opened()
        self.channel.send(prepared=True)
        await self._may_listen.wait()

    async def _end(self, server: Server, how: str) -> None:
        self.channel.send(leaving=True)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end_at_once)
        if how == "orphaned":
            log.error("the supervisor is gone; this worker ends")
        if how != "drain":  # the others serve whoever comes now; when all drain, all refuse in words
            await server.listeners.stop_accepting()
        await server.drain(min(ORPHAN_DRAIN, server.settings.drain_timeout) if how == "orphaned" else None)

    async def _accept(self, server: Server) -> None:
        while True:
            await server.listeners.set_accepting(await self._accepting.get())

    async def _beat(self, server: Server, broker: RedisBroker[Any] | None) -> None:
        limit = server.settings.limits.connections
        while True:
            self._full = not server.ready or len(server.connections) >= (limit * _ROOM if self._full else limit)
            self.channel.send(full=self._full, incarnation=None if broker is None else broker.incarnation)
            calm = server.ready and len(server.connections) < limit * _NEARLY
            await asyncio.sleep(BEAT_INTERVAL if calm else BEAT_INTERVAL / 20)


def _socket(descriptor: int) -> socket.socket:
    found = socket.socket(fileno=descriptor)
    found.set_inheritable(False)
    found.setblocking(False)
    return found


def _end_without(descriptor: int) -> None:
    """A thread: whatever the loop hangs in, this process does not stay without its supervisor."""
    with contextlib.suppress(OSError):
        line = poll()
        line.register(os.dup(descriptor), POLLHUP)
        line.poll()
    time.sleep(ORPHAN_EXIT)
    os._exit(1)
