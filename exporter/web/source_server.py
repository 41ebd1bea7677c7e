"""The process of ``observe``: collectors, listeners and routes put together, from start to end.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

import structlog
from aiohttp import web

from exporter import __version__
from exporter.auth.tokens import Authenticator
from exporter.core.errors import Misconfigured
from exporter.node.history import History
from exporter.observe.collector import SourceCollector
from exporter.settings.model import Settings, SourceSettings
from exporter.store.supervision import keep_running
from exporter.web.application import MAX_BODY
from exporter.web.listeners import Listeners
from exporter.web.problems import problems
from exporter.web.routes.admin import AdminPage
from exporter.web.routes.health import healthy, ready
from exporter.web.routes.landing import landing
from exporter.web.routes.sources import Sources, SourceScrape, SourceStats, sample
from exporter.web.toolkit.reload import WebConfig

log = structlog.get_logger(__name__)

TIMEOUT: Final = 5.0
"""Seconds for a scrape that does not say how long it waits."""


def sources_of(settings: Settings) -> tuple[SourceSettings, ...]:
    """What is to be observed. Raises Misconfigured."""
    if settings.sources:
        single = (settings.source_url, settings.source_kind, settings.source_config_file, settings.source_hosts)
        if any(single):
            raise Misconfigured("give either --source.url and what belongs to it, or sources in --config.file")
        return settings.sources
    for name, value in (("url", settings.source_url), ("kind", settings.source_kind)):
        if not value:
            raise Misconfigured(f"--source.{name} is missing: what is to be observed?")
    return (
        SourceSettings(
            url=settings.source_url,
            kind=settings.source_kind,
            config_file=settings.source_config_file,
            hosts=settings.source_hosts,
        ),
    )


class SourceServer:
    """One process that observes: ``start``, then ``close``. ``urls`` are known after the start."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.authenticator = Authenticator.from_settings(settings)
        self.web_config = WebConfig(settings.web_config_file)
        self.collectors = [
            SourceCollector(
                source,
                settings.data_dir,
                load=settings.source_load,
                recount_interval=settings.source_recount_interval,
            )
            for source in sources_of(settings)
        ]
        self.sources = Sources(self.collectors, several=bool(settings.sources))
        self.history = History()
        self.listeners = Listeners(self.web_config)
        self.urls: list[str] = []
        self._sampling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look at the databases, listen, and begin to count. Raises Misconfigured."""
        try:
            await asyncio.gather(*(collector.start() for collector in self.collectors))
            self.urls = await self.listeners.open(self._application(), self.settings.listen)
        except BaseException:  # cancelled, too: nothing stays open
            await self.close()
            raise
        self._sampling = asyncio.create_task(keep_running("history", self._sample, lambda name: None))
        log.info("listening", urls=self.urls, sources=[c.source.kind for c in self.collectors], version=__version__)

    def _application(self) -> web.Application:
        telemetry = self.settings.telemetry_path
        guard = self.web_config.middleware(lambda request: request.path in ("/", telemetry))
        app = web.Application(middlewares=[problems(), guard], client_max_size=MAX_BODY)
        app.on_response_prepare.append(self.web_config.on_response_prepare)
        router = app.router
        router.add_get("/", landing(telemetry, public=False, operations=True, description=False))
        scrape = SourceScrape(self.sources, timeout=TIMEOUT, max_requests=self.settings.max_requests)
        router.add_get(telemetry, scrape.handle)
        router.add_get("/-/healthy", healthy)
        router.add_get("/-/ready", self._ready)
        router.add_get("/v1/messaging/stats", SourceStats(self.sources, self.authenticator, timeout=TIMEOUT).handle)
        router.add_routes(AdminPage(self.authenticator, self.history).routes())
        return app

    async def _ready(self, request: web.Request) -> web.Response:
        """200 once every source has been counted; 503 before."""
        counting = [collector for collector in self.collectors if collector.engine.base is None]
        return ready("counting for the first time" if counting else None)

    async def _sample(self) -> None:
        """One point of the last hour every ten seconds."""
        while True:
            views = await self.sources.views(TIMEOUT)
            self.history.record(time.time(), sample(views, several=self.sources.several))
            await asyncio.sleep(self.history.until_next(time.time()))

    def reload(self) -> None:
        """Read again what can be read again; what is broken is said, and the old goes on."""
        reloaded = (self.web_config.reload(), self.authenticator.reload())
        if all(reloaded):
            log.info("reloaded")

    async def close(self) -> None:
        """End everything."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        await self.listeners.close()
        await asyncio.gather(*(collector.close() for collector in self.collectors))
        self.web_config.close()


async def observe(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reads again what can be read again. Raises Misconfigured."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = SourceServer(settings)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    await server.start()
    try:
        await ended.wait()
    finally:
        await server.close()
