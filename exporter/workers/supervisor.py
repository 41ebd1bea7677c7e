"""The first process of ``serve --workers``: it binds, starts workers, starts them again, replaces them, and ends them.

It accepts no connection and reads no message, so nothing that people do reaches it. What it is told by signals it
passes on: SIGTERM and SIGINT drain all workers, SIGHUP has each read again what can be read again, SIGUSR2 replaces
them one after the other.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import structlog

from exporter import __version__
from exporter.core.errors import Misconfigured
from exporter.settings.model import Settings
from exporter.settings.options import OPTIONS
from exporter.web import notify
from exporter.workers import plan
from exporter.workers.own_broker import OwnBroker
from exporter.workers.pool import Pool

log = structlog.get_logger(__name__)

_FIXED: Final = ("workers", "listen", "metrics_listen", "systemd_socket", "redis_url", "cluster_name")
"""What only a new start changes: sockets are bound, and workers of two clusters would not hear of each other."""


async def supervise(settings: Settings, resolve: Callable[[], Settings]) -> int:
    """Run ``settings.workers`` processes until SIGTERM or SIGINT; the exit status.

    ``resolve`` reads the settings again. Raises Misconfigured when it cannot start.
    """
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        loop.add_signal_handler(number, signals.put_nowait, number)
    plan.check(settings)
    with plan.opened(settings) as sockets:
        return await _Supervisor(settings, resolve, sockets, signals).run()


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        resolve: Callable[[], Settings],
        sockets: plan.Sockets,
        signals: asyncio.Queue[signal.Signals],
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._signals = signals
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._broker = None if settings.redis_url else OwnBroker()
        cluster = None if self._broker is None else self._broker.cluster
        self._pool = Pool(settings, settings.workers, sockets, self._last_ended, cluster)
        self._replacing: asyncio.Task[None] | None = None

    def _last_ended(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)

    async def run(self) -> int:
        """Until the end; nobody is left behind, however it ends."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        watching = self._pool.watch()
        starting = asyncio.create_task(self._start())
        try:
            return await self._serve(starting)
        finally:
            for task in (watching, starting, self._replacing):
                if task is not None:
                    task.cancel()
            self._pool.kill()
            if self._broker is not None:
                await self._broker.stop()

    async def _start(self) -> None:
        if self._broker is not None:
            self._pool.supervise(await self._broker.start())
        self._pool.settings = self._for_workers()
        listening = await self._pool.start()
        urls, metrics = listening[0]["urls"], [url for one in listening for url in one["metrics_urls"]]
        notify.ready(urls, metrics)
        log.info("listening", urls=urls, metrics=metrics, version=__version__, workers=len(self._pool))

    def _for_workers(self) -> Settings:
        url = self._settings.redis_url if self._broker is None else self._broker.url
        return replace(self._settings, workers=1, systemd_socket=False, redis_url=url)

    def _reap(self) -> None:
        self._pool.reap()
        if self._broker is not None:
            self._broker.reap()

    async def _serve(self, starting: asyncio.Task[None]) -> int:
        wanted = asyncio.create_task(self._signals.get())
        while True:
            waiting: list[asyncio.Future[Any]] = [wanted, self._ended, *(() if starting.done() else (starting,))]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            if self._ended.done():
                await self._drain()
                return self._ended.result()
            if wanted.done():
                number = wanted.result()
                if number in (signal.SIGTERM, signal.SIGINT):
                    starting.cancel()
                    await self._drain()
                    return 0
                wanted = asyncio.create_task(self._signals.get())
                self._pass_on(number, starting=not starting.done())

    def _pass_on(self, number: signal.Signals, *, starting: bool) -> None:
        if number == signal.SIGHUP:
            for worker in self._pool.workers:
                worker.tell("reload")
        elif starting or (self._replacing is not None and not self._replacing.done()):
            log.warning("workers are being started already; this SIGUSR2 changes nothing")
        else:
            self._replacing = self._pool.begin(self._replace(), "replace")

    async def _replace(self) -> None:
        before, self._settings = self._settings, self._read_again()
        self._pool.settings = self._for_workers()
        log.info("replacing the workers, one after the other")
        if await self._pool.replace():
            log.info("replaced the workers")
        else:
            self._settings = before
            self._pool.settings = self._for_workers()

    def _read_again(self) -> Settings:
        fixed = {name: getattr(self._settings, name) for name in _FIXED}
        try:
            found = self._resolve()
            plan.check(replace(found, **fixed))
        except Misconfigured as error:
            log.error("the settings are wrong now; the new workers get the old ones", reason=str(error))
            return self._settings
        changed = [name for name, value in fixed.items() if getattr(found, name) != value]
        if changed:
            names = [option.name for option in OPTIONS if option.field in changed]
            log.warning("some settings change only when the whole server is started again", settings=names)
        return replace(found, **fixed)

    async def _drain(self) -> None:
        """People are told, what was sent is acknowledged. A second signal ends everything at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end_at_once)
        notify.stopping()
        if self._replacing is not None:
            self._replacing.cancel()
        await self._pool.drain()

    def _end_at_once(self) -> None:
        log.warning("a second signal: ending at once")
        self._pool.kill()
        if self._broker is not None:
            self._broker.end_at_once()
        os._exit(0)
