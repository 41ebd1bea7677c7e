"""The routes of a listener, and the middlewares around them. Decides which listener has what; knows no socket.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from exporter.auth.tokens import Authenticator
from exporter.metrics.counters import Metrics
from exporter.node.conditions import Conditions
from exporter.node.history import History
from exporter.node.node import Node
from exporter.node.snapshot import SnapshotBuilder
from exporter.settings.model import Settings
from exporter.web.cors import cors
from exporter.web.origins import Origins
from exporter.web.problems import problems
from exporter.web.proxies import trust_proxies
from exporter.web.routes.admin import AdminPage
from exporter.web.routes.conversations import Conversations
from exporter.web.routes.days import Days
from exporter.web.routes.health import healthy, ready
from exporter.web.routes.landing import landing, options, redirect
from exporter.web.routes.metrics import Scrape, elsewhere
from exporter.web.routes.openapi import openapi
from exporter.web.routes.request import show_request
from exporter.web.routes.stats import Stats
from exporter.web.routes.top import Top
from exporter.web.routes.users import Users
from exporter.web.toolkit.reload import WebConfig
from exporter.web.websocket.handshake import UpgradeHandler

MAX_BODY = 1024**2  # bytes; the largest body that is read is a list of 1,000 names


class Application(msgspec.Struct, frozen=True):
    """What the routes need of a server; ``not_ready`` says why no connections are wanted, or None."""

    settings: Settings
    authenticator: Authenticator
    origins: Origins
    web_config: WebConfig
    metrics: Metrics
    node: Node
    upgrade_handler: UpgradeHandler
    snapshots: SnapshotBuilder
    history: History
    conditions: Conditions
    not_ready: Callable[[], str | None]

    def build(self, *, public: bool, operations: bool, health: bool = False, metrics: bool = True) -> web.Application:
        """The application of a listener: ``public`` is for users, ``operations`` for those who run the server.

        ``health`` is with the operations, and may be elsewhere, too. Without ``metrics`` a scrape is told where they
        are: several processes answer here.
        """
        settings, prefix = self.settings, self.settings.prefix
        guarded = (f"{prefix}/", prefix + settings.telemetry_path)
        guard = self.web_config.middleware(lambda request: request.path in guarded and request.method != "OPTIONS")
        middlewares = [cors(settings.cors_origins, prefix), problems(), guard]
        if settings.trusted_proxies:
            middlewares.insert(0, trust_proxies(settings.trusted_proxies))
        app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
        app.on_response_prepare.append(self.web_config.on_response_prepare)
        routes = [
            web.get("/", landing(settings.telemetry_path, public=public, operations=operations, metrics=metrics)),
            web.options("/", options(lambda: ready(self.not_ready()))),
            web.get("/openapi.json", openapi(settings.telemetry_path)),
        ]
        if public:
            routes += self._public()
        if operations or health:
            routes += [web.get("/-/healthy", healthy), web.get("/-/ready", self._ready)]
        if operations:
            routes += self._operations()
        if metrics and operations:
            scrape = Scrape(
                self.snapshots, self.metrics, timeout=settings.database_timeout, max_requests=settings.max_requests
            )
            routes.append(web.get(settings.telemetry_path, scrape.handle))
        elif not metrics:
            routes.append(web.get(settings.telemetry_path, elsewhere))
        app.add_routes([web.RouteDef(r.method, prefix + r.path, r.handler, r.kwargs) for r in routes])
        if prefix:
            app.router.add_get("/", redirect(f"{prefix[1:]}/"))
            app.router.add_get(prefix, redirect(f"{prefix.rpartition('/')[2]}/"))
        return app

    def _public(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/messaging/ws", self.upgrade_handler.upgrade, allow_head=False),
            web.get("/v1/messaging/request", show_request(self.authenticator, self.origins.may_connect)),
            *Conversations(self.node, self.authenticator).routes(),
        ]

    def _operations(self) -> list[web.RouteDef]:
        settings, timeout = self.settings, self.settings.database_timeout
        stats = Stats(self.snapshots, self.metrics, self.authenticator, self.conditions, timeout=timeout)
        page = AdminPage(self.authenticator, self.history, origins=self.origins, path=settings.external_path or "/")
        return [
            web.get("/v1/messaging/stats", stats.handle),
            web.get("/v1/messaging/stats/days", Days(self.node.store, self.authenticator).handle),
            web.get("/v1/messaging/conversations/top", Top(self.node, self.authenticator).handle),
            *Users(self.node, self.authenticator, self.origins).routes(),
            *page.routes(),
        ]

    async def _ready(self, request: web.Request) -> web.Response:
        """200 when connections are wanted, 503 with the reason otherwise."""
        return ready(self.not_ready())
