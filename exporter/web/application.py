"""The routes of a listener, and the middlewares around them. Decides which listener has what; knows no socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from exporter.auth.tokens import Authenticator
from exporter.metrics.counters import Metrics
from exporter.node.history import History
from exporter.node.node import Node
from exporter.node.snapshot import SnapshotBuilder
from exporter.settings.model import Settings
from exporter.web.problems import problems
from exporter.web.routes.admin import AdminPage
from exporter.web.routes.conversations import Conversations
from exporter.web.routes.health import healthy, ready
from exporter.web.routes.landing import landing
from exporter.web.routes.metrics import Scrape
from exporter.web.routes.openapi import openapi
from exporter.web.routes.request import arrived
from exporter.web.routes.stats import Stats
from exporter.web.toolkit.reload import WebConfig
from exporter.web.websocket.handshake import UpgradeHandler

MAX_BODY = 1024**2  # bytes; the largest body that is read is a list of 1,000 names


@dataclass(frozen=True, slots=True)
class Application:
    """What the routes need of a server; ``not_ready`` says why no connections are wanted, or None."""

    settings: Settings
    authenticator: Authenticator
    web_config: WebConfig
    metrics: Metrics
    node: Node
    upgrade_handler: UpgradeHandler
    snapshots: SnapshotBuilder
    history: History
    not_ready: Callable[[], str | None]

    def build(self, *, public: bool, operations: bool) -> web.Application:
        """The application of a listener: ``public`` is for users, ``operations`` for those who run the server."""
        telemetry = self.settings.telemetry_path
        guard = self.web_config.middleware(lambda request: request.path in ("/", telemetry))
        app = web.Application(middlewares=[problems(), guard], client_max_size=MAX_BODY)
        app.on_response_prepare.append(self.web_config.on_response_prepare)
        app.router.add_get("/", landing(telemetry, public=public, operations=operations))
        app.router.add_get("/openapi.json", openapi(telemetry))
        if public:
            app.router.add_get("/v1/messaging/ws", self.upgrade_handler.upgrade, allow_head=False)
            app.router.add_routes(Conversations(self.node, self.authenticator).routes())
            app.router.add_get("/v1/messaging/request", arrived(self.authenticator, self.settings.allowed_origins))
        if operations:
            self._add_operations(app.router)
        return app

    def _add_operations(self, router: web.UrlDispatcher) -> None:
        timeout = self.settings.database_timeout
        scrape = Scrape(self.snapshots, self.metrics, timeout=timeout, max_requests=self.settings.max_requests)
        router.add_get(self.settings.telemetry_path, scrape.handle)
        router.add_get("/-/healthy", healthy)
        router.add_get("/-/ready", self._ready)
        router.add_get("/v1/messaging/stats", Stats(self.snapshots, self.authenticator, timeout=timeout).handle)
        router.add_routes(AdminPage(self.authenticator, self.history).routes())

    async def _ready(self, request: web.Request) -> web.Response:
        """200 when connections are wanted, 503 with the reason otherwise."""
        return ready(self.not_ready())
