"""``GET /metrics``: one scrape is one value, rendered family by family.

The values are taken in one turn, and rendering gives way (``metrics.exposition``). prometheus_client's own aiohttp
handler is not used: it runs collectors on the loop, and one that raises, or a malformed ``Accept``, turns everything
into a 500.

Tested in ``tests/integration/test_exposition.py``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Generic, TypeVar

import structlog
from aiohttp import web

from exporter.core.records import DatabaseView
from exporter.metrics.counters import Metrics
from exporter.metrics.exposition import Family, encoded, render, restricted
from exporter.metrics.families import state_families
from exporter.metrics.negotiation import budget, content_type
from exporter.metrics.process import ProcessCollector
from exporter.node.snapshot import SnapshotBuilder
from exporter.web.problems import Problem

log = structlog.get_logger(__name__)

G = TypeVar("G")
"""What a scrape gathers before its families are made."""


class Exposition(Generic[G]):
    """The handler. ``timeout`` in seconds is what a scrape without a time-out header may take."""

    def __init__(self, *, timeout: float, max_requests: int) -> None:
        self._timeout = timeout
        self._max_requests = max_requests
        self._under_way = 0
        self._work = asyncio.Lock()
        self._process = ProcessCollector()

    async def handle(self, request: web.Request) -> web.Response:
        """200 with everything that is known now; 503 when too many scrapes are under way."""
        if self._under_way >= self._max_requests:
            raise Problem(503, f"{self._max_requests} scrapes are under way already", headers={"Retry-After": "1"})
        self._under_way += 1
        try:
            return await self._answer(request)
        finally:
            self._under_way -= 1

    async def _answer(self, request: web.Request) -> web.Response:
        seconds = budget(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds"), self._timeout)
        until = time.monotonic() + seconds
        process = await self._process.collect_in_time()
        if process is None:
            log.warning("the process figures could not be read")
        gathered = await self._gather(until - time.monotonic())
        kind = content_type(",".join(request.headers.getall("Accept", ())))
        # Scrapes that waited for the same query go on in the same turn of the loop: one after the other, because forty
        # of them, each giving way after a millisecond, would hold up a message for forty milliseconds and more.
        async with self._work:
            families = [*await self._families(gathered), *(process or ())]
            text = await render(restricted(families, set(request.query.getall("name[]", []))), kind)
        body, headers = await encoded(text, kind, ",".join(request.headers.getall("Accept-Encoding", ())))
        return web.Response(body=body, headers=headers)

    async def _gather(self, seconds: float) -> G:
        """What takes time without taking work, within that many seconds."""
        raise NotImplementedError

    async def _families(self, gathered: G) -> list[Family]:
        """The families, of one moment."""
        raise NotImplementedError


class Scrape(Exposition[DatabaseView]):
    """The scrape of the messaging server."""

    def __init__(self, snapshots: SnapshotBuilder, metrics: Metrics, *, timeout: float, max_requests: int) -> None:
        super().__init__(timeout=timeout, max_requests=max_requests)
        self._snapshots = snapshots
        self._metrics = metrics

    async def _gather(self, seconds: float) -> DatabaseView:
        return await self._snapshots.database(seconds)

    async def _families(self, gathered: DatabaseView) -> list[Family]:
        snapshot = await self._snapshots.around(gathered)
        # No await since the snapshot was put together: its gauges and these counters are of one turn of the loop.
        return [*state_families(snapshot), *self._metrics.families()]


async def elsewhere(request: web.Request) -> web.Response:
    """404 where several processes answer: whose figures these would be is chance, and Prometheus would mix them up."""
    raise Problem(404, "several workers answer here; each has its own metrics on a port of its own (docs/cluster.md)")
