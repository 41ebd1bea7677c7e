"""``/metrics`` and ``/v1/messaging/stats`` of ``observe``: the same shapes, of other servers' databases.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from exporter.auth.tokens import Authenticator
from exporter.core.source_records import SourceView
from exporter.metrics.exposition import Family
from exporter.metrics.negotiation import SHARE
from exporter.metrics.source_families import source_families
from exporter.node.document import live_figures, totals_figures, utc
from exporter.node.history import FIGURES, Sample
from exporter.observe.collector import SourceCollector
from exporter.web.access import require_admin
from exporter.web.routes.answers import answer
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


def payload(views: Sequence[SourceView], *, several: bool, now: float) -> dict[str, Any]:
    """The document: the live figures are null, and so are the totals at the top where there are several sources."""
    single = None if several else views[0]
    return {
        **live_figures(None),
        **totals_figures(single.totals if single else None),
        "scope": "source",
        "nodes": None,
        "as_of": utc(now),
        "error": NOT_LIVE,
        "database": {
            "up": all(view.up for view in views),
            "as_of": utc(min((view.last_success for view in views if view.last_success is not None), default=None))
            if all(view.last_success is not None for view in views)
            else None,
            "error": SEVERAL if several else views[0].error,
        },
        "sources": [
            {
                "name": view.name or view.kind,
                "kind": view.kind,
                **totals_figures(view.totals),
                "up": view.up,
                "as_of": utc(view.last_success),
                "error": view.error,
                "since": utc(view.down_since),
                "unknown": dict(view.totals.unknown) if view.totals else {},
                "recounted_at": utc(view.recounted_at),
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
        return answer(payload(views, several=self._sources.several, now=time.time()))


def sample(views: Sequence[SourceView], *, several: bool) -> Sample:
    """One point of the page's last hour: the totals of a single source."""
    shown = totals_figures(None if several else views[0].totals)
    return Sample(**{name: shown[name] for name in FIGURES if name in shown})
