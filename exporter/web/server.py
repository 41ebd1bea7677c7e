"""The composition root: settings in, a running server out. Everything is put together here and nowhere else.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from exporter import __version__
from exporter.auth.tokens import Authenticator
from exporter.core.errors import Misconfigured, Unavailable
from exporter.metrics.counters import BackgroundTask, Metrics
from exporter.metrics.loop_lag import LoopLagMonitor
from exporter.metrics.negotiation import SHARE
from exporter.metrics.quality import quality
from exporter.node.conditions import Conditions
from exporter.node.fanout import FanOut
from exporter.node.history import History
from exporter.node.node import Node
from exporter.node.snapshot import SnapshotBuilder
from exporter.node.totals_collector import Collector
from exporter.settings.model import Settings
from exporter.settings.options import require_broker
from exporter.store import Store
from exporter.store.clusters import cluster_of, warn_of_others
from exporter.web import notify, systemd
from exporter.web.aiohttp_seams import self_check
from exporter.web.application import Application
from exporter.web.background import BackgroundTasks
from exporter.web.listeners import Listeners, OpenFiles, allow_open_files
from exporter.web.origins import Origins
from exporter.web.routes.stats import sample
from exporter.web.sockets import METRICS_LISTEN
from exporter.web.toolkit.reload import WebConfig
from exporter.web.websocket.connections import Connections
from exporter.web.websocket.handshake import UpgradeHandler

log = structlog.get_logger(__name__)

RETRY: Final = 1.0  # seconds between attempts to reach a database that was not there at start
# A connection is a dozen objects that live long, and the collector finds nothing in them: 1.7 times faster connecting.
GC_THRESHOLDS: Final = (50_000, 20, 50)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Server:
    """One process: ``start``, then ``stop``.

    ``cluster`` is of others that it hears, see ``store.clusters``; None: whoever has a broker, too. Where it is given
    the broker is this user's own.
    Known after the start: ``urls``, where users connect, such as ``http://127.0.0.1:8765``, and ``metrics_urls``, where
    ``/metrics`` and the admin page are.
    """

    def __init__(self, settings: Settings, cluster: int | None = None) -> None:
        self.settings = settings
        self._cluster = cluster_of(settings.redis_url) if cluster is None else cluster
        self.authenticator = Authenticator.from_settings(settings)
        self.web_config = WebConfig(settings.web_config_file, always_served=f"{settings.prefix}/-/healthy")
        self.metrics = Metrics()
        loop = asyncio.get_running_loop()
        self.fan_out = FanOut(loop.call_soon, self.metrics.sent_bytes, time.monotonic)
        self.store = Store(
            settings.effective_database_url,
            schema=settings.database_schema,
            timeout=settings.database_timeout,
            on_resolved=lambda message: self.node.resolved(message),
            on_failed=lambda name: self.background.failed(name),
        )
        self.node = _node(settings, self.store, self.metrics, self.fan_out, own_broker=cluster is not None)
        self.connections = Connections(settings.heartbeat_interval)
        origins = Origins(settings.allowed_origins, settings.external_origin)
        self.upgrade_handler = UpgradeHandler(self.node, self.connections, self.authenticator, settings.limits, origins)
        self.collector = Collector(self.store)
        self.snapshots = SnapshotBuilder(self.node, self.collector, self.connections, settings.limits.connections)
        self.history = History()
        self.conditions = Conditions()
        self.ready = False
        self.background = BackgroundTasks(self.metrics.background_failures)
        self.listeners = Listeners(self.web_config)
        self.urls: list[str] = []
        self.metrics_urls: list[str] = []
        self._loop_lag = LoopLagMonitor(self.metrics.event_loop_lag)
        self._opening: asyncio.Task[None] | None = None
        self._application = Application(
            settings,
            self.authenticator,
            origins,
            self.web_config,
            self.metrics,
            self.node,
            self.upgrade_handler,
            self.snapshots,
            self.history,
            self.conditions,
            self._not_ready,
        )

    def _not_ready(self) -> str | None:
        if self.upgrade_handler.draining or not self.ready:
            return "draining" if self.upgrade_handler.draining else "starting"
        reason = self.store.write_error
        return None if reason is None else f"cannot write: {reason}"

    # --- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the database if it can be reached, listen, begin. Raises Misconfigured."""
        await self.prepare()
        await self.listen()

    async def prepare(self) -> None:
        """Everything of the start but listening. Raises Misconfigured."""
        async with self._closed_by_a_failure():
            opening = self._opening = asyncio.create_task(self._open_database())
            # A wrong setting shows at once and ends the start; an outage or a long migration holds up no listening.
            await asyncio.wait({opening}, timeout=min(1.0, self.settings.database_timeout))
            if opening.done():
                opening.result()
            await self_check()
            await self.node.start()

    async def listen(self) -> None:
        """Accept connections, begin. Raises Misconfigured."""
        apart = bool(self.settings.metrics_listen)
        async with self._closed_by_a_failure():
            public = self._application.build(public=True, operations=not apart)
            if self.settings.systemd_socket:
                self.urls = await self.listeners.serve(public, systemd.sockets())
            else:
                self.urls = await self.listeners.open(public, self.settings.listen)
            self.metrics_urls = self.urls
            if apart:
                operations = self._application.build(public=False, operations=True)
                self.metrics_urls = await self.listeners.open(operations, self.settings.metrics_listen, METRICS_LISTEN)
        self._begin()
        log.info("listening", urls=self.urls, metrics=self.metrics_urls, database=self.store.place, version=__version__)

    async def listen_with_others(self, shared: Sequence[socket.socket], own: Sequence[socket.socket]) -> None:
        """As ``listen``, on sockets that are bound: ``shared`` with other processes, and this one's ``own``.

        The metrics are on its own: on the shared ones nobody knows whose they would be.
        """
        async with self._closed_by_a_failure():
            everything = not self.settings.metrics_listen
            public = self._application.build(public=True, operations=everything, health=True, metrics=False)
            self.urls = await self.listeners.serve(public, shared, shared=True)
            operations = self._application.build(public=False, operations=True)
            self.metrics_urls = await self.listeners.serve(operations, own)
        self._begin()

    @contextlib.asynccontextmanager
    async def _closed_by_a_failure(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:  # cancelled, too: nothing stays open
            await self.close()
            raise

    def _begin(self) -> None:
        self.urls, self.metrics_urls = (
            [url + self.settings.prefix for url in urls] for urls in (self.urls, self.metrics_urls)
        )
        allow_open_files(self.settings.limits.connections)
        self._loop_lag.start()
        self.connections.start()
        self.background.watch_callbacks()
        self.background.start(BackgroundTask.HISTORY, self._sample)
        gc.freeze()  # what the start made stays; looking for what does not costs 30 ms and finds 2,000 objects
        gc.set_threshold(*GC_THRESHOLDS)
        gc.enable()

    async def _open_database(self) -> None:
        told = False
        while True:
            try:
                if self.settings.database_migrate:
                    await self.store.migrate()
                await self.store.start(self._cluster)
                break
            except Unavailable as error:
                if not told:
                    log.warning("the database is not ready; trying on", reason=error.message)
                told = True
                await asyncio.sleep(RETRY)
        self.ready = True
        if told:
            log.info("the database is there")
        self.background.start(BackgroundTask.TIDY, self.store.tidy_forever)
        self.background.start(BackgroundTask.PROBE, self.store.watch_writing_forever)
        self.background.start(BackgroundTask.VERIFY, self._verify)
        self.background.start(BackgroundTask.SCHEMA, self._watch_schema)

    async def _verify(self) -> None:
        from exporter.store.verify import compare
        from exporter.store.verify.background import run_verification_forever

        doubtful = await compare(self.store)
        if self.settings.verify_interval > 0:
            await run_verification_forever(self.store, self.settings.verify_interval, at_once=doubtful)

    async def _watch_schema(self) -> None:
        from exporter.store.verify.schema import watch_schema_forever

        await warn_of_others(self.store, self._cluster, self.settings.drain_timeout)
        await watch_schema_forever(self.store)

    async def _sample(self) -> None:
        """One point of the last hour every ten seconds."""
        files = OpenFiles()
        while True:
            snapshot = await self.snapshots.snapshot(self.settings.database_timeout * SHARE, saturation=False)
            self.conditions.look(snapshot, quality(self.metrics))
            files.look()
            self.history.record(snapshot.as_of, sample(snapshot, self.metrics))
            await asyncio.sleep(self.history.until_next(time.time()))

    async def failed(self) -> None:
        """Returns only by raising what the database's opening ended with, such as Misconfigured."""
        await self.opened()
        await asyncio.Event().wait()

    async def opened(self) -> None:
        """Returns when the database is open. Raises Misconfigured."""
        if self._opening is not None:
            await asyncio.shield(self._opening)

    async def drain(self, seconds: float | None = None) -> None:
        """No new connections; everybody is closed with 1001, spread over the drain time, sends acknowledged first.

        ``seconds``: in the place of the drain time.
        """
        self.upgrade_handler.draining = True
        log.info("draining", connections=len(self.connections))
        await self.connections.drain(self.settings.drain_timeout if seconds is None else seconds)

    def reload(self) -> None:
        """Read again what can be read again; what is broken is said, and the old goes on."""
        reloaded = (self.web_config.reload(), self.authenticator.reload())
        if all(reloaded):
            log.info("reloaded")

    async def stop(self) -> None:
        """Drain, close what is open, wait for what is under way."""
        await self.drain()
        await self.close()

    async def close(self) -> None:
        """Close everything, without courtesy."""
        self.connections.stop()
        self._loop_lag.stop()
        if self._opening is not None:  # to its end: a connection cut off while it is closed is a trace in the log
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self.background.close()
        self.fan_out.flush_all()
        await self.listeners.close()
        self.connections.abort_all()
        await self.node.close_all()
        await self.store.close()
        self.web_config.close()


def _node(settings: Settings, store: Store, metrics: Metrics, fan_out: FanOut, *, own_broker: bool) -> Node:
    """Alone, or one of several. Raises Misconfigured."""
    if not settings.redis_url:
        require_broker(settings)
        return Node(store, metrics, fan_out, typing_timeout=settings.typing_timeout)
    try:
        from exporter.node.cluster import ClusterNode, locate
    except ImportError:
        raise Misconfigured("--redis.url needs the extra: pip install 'messaging-exporter[redis]'") from None
    return ClusterNode(
        store,
        metrics,
        fan_out,
        location=replace(locate(settings.redis_url, settings.redis_password_file), own=own_broker),
        cluster=settings.cluster_name,
        lease=settings.cluster_lease,
        name=_name(settings),
        typing_timeout=settings.typing_timeout,
    )


def _name(settings: Settings) -> str:
    """What operators know this node by: the host, where Prometheus asks for its metrics, the process."""
    port = (settings.metrics_listen or settings.listen)[0].port
    return f"{socket.gethostname()}{f':{port}' if port else ''} (process {os.getpid()})"


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, drain, return. A second signal ends it at once. Raises Misconfigured.

    SIGHUP reads again what can be read again.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in _SIGNALS:
        loop.add_signal_handler(number, signals.put_nowait, number)
    server = Server(settings)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    loop.add_signal_handler(signal.SIGUSR2, _no_workers)
    await server.start()
    notify.ready(server.urls, server.metrics_urls)
    try:
        await first(signals.get(), server.failed())
        for number in _SIGNALS:
            loop.add_signal_handler(number, end_at_once)
        notify.stopping()
        await server.drain()
    finally:
        await server.close()
        for number in (*_SIGNALS, signal.SIGHUP, signal.SIGUSR2):
            loop.remove_signal_handler(number)


def _no_workers() -> None:
    log.warning("SIGUSR2 replaces the workers of serve --workers; this server has none, and goes on")


def end_at_once() -> None:
    """A second signal. Closing in order waits for a database that hangs; whatever was acknowledged is durable."""
    log.warning("a second signal: ending at once")
    os._exit(0)


async def first(*works: Awaitable[Any]) -> None:
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
