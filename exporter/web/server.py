"""The composition root: settings in, a running server out. Everything is put together here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import time
from collections.abc import Awaitable, Coroutine
from typing import Any, Final

import structlog
from aiohttp import web

from exporter import __version__
from exporter.auth.tokens import Authenticator
from exporter.core.errors import Unavailable
from exporter.core.events import ClosedReason
from exporter.core.records import Message
from exporter.metrics.counters import Metrics
from exporter.metrics.loop_lag import LoopLagMonitor
from exporter.metrics.negotiation import SHARE
from exporter.node.fanout import FanOut
from exporter.node.history import History
from exporter.node.node import Node
from exporter.node.snapshot import SnapshotBuilder
from exporter.node.totals_collector import Collector
from exporter.settings.model import Settings
from exporter.store import Store
from exporter.web import notify
from exporter.web.listeners import Listeners
from exporter.web.problems import problems
from exporter.web.routes.admin import AdminPage
from exporter.web.routes.conversations import Conversations
from exporter.web.routes.health import healthy, ready
from exporter.web.routes.landing import landing
from exporter.web.routes.metrics import Scrape
from exporter.web.routes.openapi import openapi
from exporter.web.routes.stats import Stats, sample
from exporter.web.toolkit.reload import WebConfig
from exporter.web.websocket.connections import Connections
from exporter.web.websocket.handshake import UpgradeHandler

log = structlog.get_logger(__name__)

# Closing everybody in one moment would bring everybody back in one moment: at most so many a second, and all of them
# within four fifths of the drain time, so that the rest is left for the stragglers' sends.
CLOSES_PER_SECOND: Final = 500.0
DRAIN_SHARE: Final = 0.8
RETRY: Final = 1.0  # seconds between attempts to reach a database that was not there at start
SPARE_FILES: Final = 200  # besides the connections: database, listeners, scrapes, logs
# A connection is a dozen objects that live long, and the collector finds nothing in them: 1.7 times faster connecting.
GC_THRESHOLDS: Final = (50_000, 20, 50)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Server:
    """One process: ``start``, then ``stop``.

    Known after the start: ``urls``, where users connect, such as ``http://127.0.0.1:8765``, and ``metrics_urls``, where
    ``/metrics`` and the admin page are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.authenticator = Authenticator.from_settings(settings)
        self.web_config = WebConfig(settings.web_config_file)
        self.metrics = Metrics()
        loop = asyncio.get_running_loop()
        self.fan_out = FanOut(loop.call_soon, self.metrics.sent_bytes, time.monotonic)
        self.store = Store(
            settings.effective_database_url, timeout=settings.database_timeout, on_resolved=self._resolved
        )
        self.node = Node(self.store, self.metrics, self.fan_out, typing_timeout=settings.typing_timeout)
        self.connections = Connections(settings.heartbeat_interval)
        self.upgrade_handler = UpgradeHandler(
            self.node, self.connections, self.authenticator, settings.limits, settings.allowed_origins
        )
        self.collector = Collector(self.store)
        self.snapshots = SnapshotBuilder(self.node, self.collector, self.connections, settings.limits.connections)
        self.history = History()
        self.ready = False
        self.listeners = Listeners(self.web_config)
        self.urls: list[str] = []
        self.metrics_urls: list[str] = []
        self._loop_lag = LoopLagMonitor(self.metrics.event_loop_lag)
        self._tasks: list[asyncio.Task[None]] = []

    def _resolved(self, message: Message) -> None:
        self.node.resolved(message)

    # --- routes -------------------------------------------------------------------------------------------

    def _application(self, *, public: bool, operations: bool) -> web.Application:
        telemetry = self.settings.telemetry_path
        guard = self.web_config.middleware(lambda request: request.path in ("/", telemetry))
        app = web.Application(middlewares=[problems(), guard], client_max_size=1024**2)
        app.on_response_prepare.append(self.web_config.on_response_prepare)
        app.router.add_get("/", landing(telemetry, public=public, operations=operations))
        app.router.add_get("/openapi.json", openapi(telemetry))
        if public:
            app.router.add_get("/v1/messaging/ws", self.upgrade_handler.upgrade, allow_head=False)
            app.router.add_routes(Conversations(self.node, self.authenticator).routes())
        if operations:
            scrape = Scrape(
                self.snapshots,
                self.metrics,
                timeout=self.settings.database_timeout,
                max_requests=self.settings.max_requests,
            )
            stats = Stats(self.snapshots, self.authenticator, timeout=self.settings.database_timeout)
            app.router.add_get(telemetry, scrape.handle)
            app.router.add_get("/-/healthy", healthy)
            app.router.add_get("/-/ready", self._ready)
            app.router.add_get("/v1/messaging/stats", stats.handle)
            app.router.add_routes(AdminPage(self.authenticator, self.history).routes())
        return app

    async def _ready(self, request: web.Request) -> web.Response:
        """200 when connections are wanted, 503 with the reason otherwise."""
        return ready("draining" if self.upgrade_handler.draining else None if self.ready else "starting")

    # --- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the database if it can be reached, listen, begin. Raises Misconfigured."""
        opening = asyncio.create_task(self._open_database())
        # A wrong setting shows at once and ends the start; an outage or a long migration does not hold up listening.
        await asyncio.wait({opening}, timeout=min(1.0, self.settings.database_timeout))
        if opening.done():
            opening.result()
        else:
            self._tasks.append(opening)
        try:
            apart = bool(self.settings.metrics_listen)
            public = self._application(public=True, operations=not apart)
            self.urls = self.metrics_urls = await self.listeners.open(public, self.settings.listen)
            if apart:
                operations = self._application(public=False, operations=True)
                self.metrics_urls = await self.listeners.open(operations, self.settings.metrics_listen)
        except BaseException:
            opening.cancel()
            await self.listeners.close()
            await self.store.close()
            raise
        _allow_sockets(self.settings.limits.connections)
        self._loop_lag.start()
        self.connections.start()
        self._background(self._sample())
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        log.info("listening", urls=self.urls, metrics=self.metrics_urls, version=__version__)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _open_database(self) -> None:
        told = False
        while True:
            try:
                if self.settings.database_migrate:
                    await self.store.migrate()
                await self.store.start()
                break
            except Unavailable as error:
                if not told:
                    log.warning("the database cannot be reached; trying on", reason=error.message)
                told = True
                await asyncio.sleep(RETRY)
        self.ready = True
        if told:
            log.info("the database is there")
        if self.settings.verify_interval > 0:
            self._background(self._verify())

    async def _verify(self) -> None:
        from exporter.store.verify import run_verification_forever

        await run_verification_forever(self.store, self.settings.verify_interval)

    async def _sample(self) -> None:
        """One point of the last hour every ten seconds."""
        while True:
            snapshot = await self.snapshots.snapshot(self.settings.database_timeout * SHARE, saturation=False)
            self.history.record(snapshot.as_of, sample(snapshot, self.metrics))
            await asyncio.sleep(self.history.until_next(time.time()))

    async def failed(self) -> None:
        """Returns only by raising what ended a background task, such as Misconfigured from a late database."""
        pending = set(self._tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            pending |= {task for task in self._tasks if not task.done()}
        await asyncio.Event().wait()

    async def drain(self) -> None:
        """No new connections; everybody is closed with 1001, spread over the drain time, sends acknowledged first."""
        self.upgrade_handler.draining = True
        log.info("draining", connections=len(self.connections))
        deadline = time.monotonic() + self.settings.drain_timeout
        connections = list(self.connections)
        pause = min(1 / CLOSES_PER_SECOND, self.settings.drain_timeout * DRAIN_SHARE / max(1, len(connections)))
        begun = time.monotonic()
        for number, connection in enumerate(connections):
            connection.drain()
            ahead = begun + number * pause - time.monotonic()
            if ahead > 0.01:  # in steps of 10 ms: a timer per connection would be more work than the closing
                await asyncio.sleep(ahead)
        while self.connections.sockets and time.monotonic() < deadline:  # noqa: ASYNC110  # ends one by one, bounded
            await asyncio.sleep(0.01)
        for connection in self.connections:
            connection.close(ClosedReason.SHUTDOWN)

    async def stop(self) -> None:
        """Drain, close what is open, wait for what is under way."""
        await self.drain()
        await self.close()

    async def close(self) -> None:
        """Close everything, without courtesy."""
        self.connections.stop()
        self._loop_lag.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.fan_out.flush()
        await self.listeners.close()
        self.connections.abort_all()
        await self.node.close_all()
        await self.store.close()
        self.web_config.close()


def _allow_sockets(connections: int) -> None:
    """Raise the soft limit of open files to the hard one: each connection is one; say so when it is not enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < connections + SPARE_FILES:
        log.warning("fewer files may be opened than connections are allowed", files=hard, connections=connections)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, drain, return. A second signal ends it at once. Raises Misconfigured."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in _SIGNALS:
        loop.add_signal_handler(number, signals.put_nowait, number)
    server = Server(settings)
    await server.start()
    notify.ready(server.urls, server.metrics_urls)
    try:
        await _first(signals.get(), server.failed())
        for number in _SIGNALS:
            loop.add_signal_handler(number, _end_at_once)
        notify.stopping()
        await server.drain()
    finally:
        await server.close()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _end_at_once() -> None:
    """A second signal. Closing in order waits for a database that hangs; whatever was acknowledged is durable."""
    log.warning("a second signal: ending at once")
    os._exit(0)


async def _first(*works: Awaitable[Any]) -> None:
    """Until one of them ends; the others are cancelled, and what it raised is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
