"""``GET /metrics``: one scrape is one value, rendered family by family.

prometheus_client renders some 400 series in 5 ms; done in one piece, every message waits for it. So the values are
taken in one turn, and rendering gives way after each millisecond. Its own aiohttp handler is not used: it runs
collectors on the loop, and one that raises, or a malformed ``Accept``, turns everything into a 500.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.samples import Sample

from exporter.metrics.names import Metrics, state_families
from exporter.metrics.negotiation import OPENMETRICS, budget, content_type, wants_gzip
from exporter.metrics.process import process_families
from exporter.node.snapshot import Figures
from exporter.web.problems import Problem

log = structlog.get_logger(__name__)

SLICE: Final = 0.001  # seconds of rendering in one piece
_EOF: Final = b"# EOF\n"
_PROCESS_TIMEOUT: Final = 0.5  # seconds; /proc answers in 0.2 ms, and a scrape does not wait for a sick kernel


class _Single:
    """A registry of one family, which is what prometheus_client's renderers ask for."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Scrape:
    """The handler. ``timeout`` in seconds is what a scrape without a time-out header may take."""

    def __init__(self, figures: Figures, metrics: Metrics, *, timeout: float, max_requests: int) -> None:
        self._figures = figures
        self._metrics = metrics
        self._timeout = timeout
        self._max_requests = max_requests
        self._under_way = 0
        self._work = asyncio.Lock()
        own = CollectorRegistry()  # these two insist on a registry; they are asked directly
        self._python = [PlatformCollector(registry=own), GCCollector(registry=own)]

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
        process = await self._process_families()
        database = await self._figures.database(until - time.monotonic())
        kind = content_type(",".join(request.headers.getall("Accept", ())))
        # Scrapes that waited for the same query go on in the same turn of the loop: one after the other, because forty
        # of them, each giving way after a millisecond, would hold up a message for forty milliseconds and more.
        async with self._work:
            snapshot = await self._figures.around(database)
            # No await since the snapshot was put together: its gauges and these counters are of one turn of the loop.
            families = [*state_families(snapshot), *self._metrics.families(), *process]
            names = set(request.query.getall("name[]", []))
            body = await _render(_restricted(families, names) if names else families, kind)
        headers = {"Content-Type": kind, "Vary": "Accept, Accept-Encoding"}
        if wants_gzip(",".join(request.headers.getall("Accept-Encoding", ()))):
            body = await asyncio.get_running_loop().run_in_executor(None, gzip.compress, body, 4)
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def _process_families(self) -> list[Metric]:
        """In a thread: old kernels have to list 10,000 open files. Absent when it fails or takes too long."""
        work = asyncio.get_running_loop().run_in_executor(None, self._collect_process)
        try:
            return await asyncio.wait_for(work, _PROCESS_TIMEOUT)
        except (TimeoutError, OSError, ValueError):
            log.warning("the process figures could not be read")
            return []

    def _collect_process(self) -> list[Metric]:
        return [*process_families(), *(family for collector in self._python for family in collector.collect())]


async def _render(families: Iterable[Metric], kind: str) -> bytes:
    generate: Callable[[_Single], bytes] = generate_openmetrics if kind == OPENMETRICS else generate_text
    parts: list[bytes] = []
    begun = time.perf_counter()
    for family in families:
        parts.append(generate(_Single([family])).removesuffix(_EOF))
        if time.perf_counter() - begun > SLICE:
            await asyncio.sleep(0)
            begun = time.perf_counter()
    if kind == OPENMETRICS:
        parts.append(_EOF)
    return b"".join(parts)


def _restricted(families: Iterable[Metric], names: set[str]) -> Iterator[Metric]:
    """The families or single series named by ``?name[]=``, as prometheus_client's restricted registry does."""
    for family in families:
        if family.name in names:
            yield family
            continue
        samples = [sample for sample in family.samples if sample.name in names]
        if family.type == "histogram":
            # A part of a histogram is none: OpenMetrics' parsers refuse one without all of its parts.
            for name in sorted({sample.name for sample in samples}):
                yield _part(name, "unknown", family, [sample for sample in samples if sample.name == name])
        elif samples:
            yield _part(family.name, family.type, family, samples)


def _part(name: str, kind: str, family: Metric, samples: list[Sample]) -> Metric:
    part = Metric(name, family.documentation, kind, family.unit)
    part.samples = samples
    return part
