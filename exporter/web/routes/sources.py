"""``/metrics`` and ``/v1/messaging/stats`` of ``observe``: the same shapes, of other servers' databases.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp import web

from exporter.auth.tokens import Authenticator
from exporter.core.records import WINDOWS
from exporter.core.source_records import SourceView
from exporter.metrics.exposition import Family
from exporter.metrics.negotiation import SHARE
from exporter.metrics.source_families import source_families
from exporter.node.history import Sample
from exporter.observe.collector import SourceCollector
from exporter.web.access import require_admin
from exporter.web.routes.metrics import Exposition

NOT_LIVE: Final = "a database does not tell who is connected now"
SEVERAL: Final = "several sources are observed: their figures are in sources"


class Sources:
    """All observed databases."""

    def __init__(self, collectors: Sequence[SourceCollector], *, several: bool) -> None:
        self.collectors = collectors
        self.several = several

    async def views(self, seconds: float) -> list[SourceView]:
        """One view each; they are asked side by side, so that one that is slow costs only itself."""
        return list(await asyncio.gather(*(collector.view(seconds) for collector in self.collectors)))


class SourceScrape(Exposition[list[SourceView]]):
    """The scrape of ``observe``."""

    def __init__(self, sources: Sources, *, timeout: float, max_requests: int) -> None:
        super().__init__(timeout=timeout, max_requests=max_requests)
        self._sources = sources

    async def _gather(self, seconds: float) -> list[SourceView]:
        return await self._sources.views(seconds)

    async def _families(self, gathered: list[SourceView]) -> list[Family]:
        return list(source_families(gathered, labelled=self._sources.several))


def figures(view: SourceView | None) -> dict[str, Any]:
    """The totals as the JSON names them; null is not known."""
    totals = None if view is None else view.totals
    return {
        "total_messages": totals.stored_messages if totals else None,
        "total_conversations": totals.stored_conversations if totals else None,
        "messages_today": totals.messages_today if totals else None,
        "registered_users": totals.registered_users if totals else None,
        "active_users": {f"{days}d": totals.active_users.get(days) if totals else None for days in WINDOWS},
    }


def payload(views: Sequence[SourceView], *, several: bool, now: float) -> dict[str, Any]:
    """The document: the live figures are null, and so are the totals at the top where there are several sources."""
    single = None if several else views[0]
    return {
        **dict.fromkeys(
            ("active_connections", "connected_users", "active_conversations", "total_participants", "typing_users")
        ),
        **figures(single),
        "scope": "source",
        "nodes": None,
        "as_of": _utc(now),
        "error": NOT_LIVE,
        "database": {
            "up": all(view.up for view in views),
            "as_of": _utc(min((view.last_success for view in views if view.last_success is not None), default=None))
            if all(view.last_success is not None for view in views)
            else None,
            "error": SEVERAL if several else views[0].error,
        },
        "sources": [
            {
                "name": view.name or view.kind,
                "kind": view.kind,
                **figures(view),
                "up": view.up,
                "as_of": _utc(view.last_success),
                "error": view.error,
                "unknown": dict(view.totals.unknown) if view.totals else {},
                "recounted_at": _utc(view.recounted_at),
                "recount_difference": view.differences,
                "inaccurate_conversations": view.totals.inaccurate_conversations if view.totals else None,
            }
            for view in views
        ],
    }


class SourceStats:
    """The handler of ``/v1/messaging/stats``. ``timeout`` in seconds is the source's."""

    def __init__(self, sources: Sources, authenticator: Authenticator, *, timeout: float) -> None:
        self._sources = sources
        self._authenticator = authenticator
        self._timeout = timeout

    async def handle(self, request: web.Request) -> web.Response:
        """200 for admins, 401 without a token, 403 for another role."""
        require_admin(request, self._authenticator)
        views = await self._sources.views(self._timeout * SHARE)
        document = payload(views, several=self._sources.several, now=time.time())
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=msgspec.json.encode(document), headers=headers)


def sample(views: Sequence[SourceView], *, several: bool) -> Sample:
    """One point of the page's last hour: the totals of a single source."""
    shown = figures(None if several else views[0])
    names = ("total_messages", "total_conversations", "messages_today", "registered_users")
    return Sample(**{name: shown[name] for name in names})


def _utc(moment: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC, to the second."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
