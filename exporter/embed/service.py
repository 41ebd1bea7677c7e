"""The figures of a ``Live`` over HTTP, whatever the framework: what to answer to which path. Knows no socket.

Scrapes share one look at the database; the text is rendered in slices; the page is the product's own.

Tested in ``tests/embed/test_frameworks.py``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from exporter.core.source_records import SourceView
from exporter.embed import figures
from exporter.embed.admin_check import AdminCheck
from exporter.metrics.counters import Metrics
from exporter.metrics.exposition import Family, encoded, render, restricted
from exporter.metrics.negotiation import SHARE, budget, content_type
from exporter.metrics.process import ProcessCollector
from exporter.metrics.quality import quality
from exporter.node.history import FIGURES, History, Sample

if TYPE_CHECKING:
    from exporter.embed.live import Live

TIMEOUT: Final = 5.0  # seconds that a scrape without a time-out header may take
_JSON: Final = {"content-type": "application/json", "cache-control": "no-store", "x-content-type-options": "nosniff"}
_GUARDED: Final = (
    "/v1/messaging/stats",
    "/v1/messaging/stats/history",
    "/v1/messaging/stats/days",
    "/admin",
)
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: header names are in lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Service:
    """The routes of one ``Live``. ``admin`` is asked before anything for admins is shown.

    Several event loops may have them at once: a host that serves one application at two addresses, in two threads.
    """

    def __init__(self, live: Live, admin: Callable[[Any], Any] | None) -> None:
        self._live = live
        self._check = AdminCheck(admin)
        self._history = History()
        self._process = ProcessCollector()
        # From the mounting on, which every worker does, and not from the first request, which may be another's.
        if live.workers is None:
            live.worker_group.enter()
        self._work: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sampling: asyncio.Task[None] | None = None

    async def answer(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, Sequence[str]],
        subject: Any,
    ) -> Answer:
        """What this request gets. ``path`` is below the mount, ``headers`` have names in lower case.

        ``subject`` is what the host's admin check decides by: the ASGI scope, aiohttp's request.
        """
        if method not in ("GET", "HEAD"):
            return _problem(405, "only GET and HEAD are for these pages", allow="GET, HEAD")
        self._start()
        if path == "/admin/":  # the page's addresses are relative
            return Answer(308, b"", {"location": "../admin"})
        if path == "/":
            return _html("landing.html")
        path = path.rstrip("/")
        if path == "/metrics":
            return self._alone() or await self._metrics(headers, query)
        if path not in _GUARDED and not path.startswith("/admin/static/"):
            return _problem(404, "no such page")
        if path.startswith("/admin/static/"):
            return _static(path.rpartition("/")[2])
        if (refusal := await self._check.refusal(subject)) is not None:
            return _problem(refusal.status, refusal.detail, **refusal.headers)
        if path == "/admin":
            return _html("page.html")
        if path.endswith("/days"):  # not 404: the page would ask again, and the browser's console would tell
            return Answer(200, b'{"days": null, "error": "an embedded server keeps no record of days"}', _JSON)
        if path.endswith("/history"):
            return self._alone() or Answer(200, self._history.body(), _JSON)
        return self._alone() or await self._stats()

    async def close(self) -> None:
        """Stop what runs beside the requests; a later request begins anew."""
        if self._sampling is not None and self._loop is asyncio.get_running_loop():
            sampling, self._sampling = self._sampling, None
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        if self._live.totals is not None:
            await self._live.totals.close()
        self._live.worker_group.leave()

    # --- answers ------------------------------------------------------------------------------------------

    def _alone(self) -> Answer | None:
        """None when this process is the whole server; else why its figures are not shown as the server's."""
        return None if self._live.is_alone() else _problem(503, self._live.worker_group.explanation())

    async def _metrics(self, headers: Mapping[str, str], query: Mapping[str, Sequence[str]]) -> Answer:
        until = time.monotonic() + budget(headers.get("x-prometheus-scrape-timeout-seconds"), TIMEOUT)
        process = await self._process.collect_in_time()
        view = await self._database(until - time.monotonic())
        kind = content_type(headers.get("accept", ""))
        # One rendering at a time: each gives way, and together they would hold up a message.
        async with self._turn():
            drift = figures.Drift(self._live)
            for _ in drift.count():
                await asyncio.sleep(0)
            families: list[Family] = [*figures.families(self._live, drift.found), *(process or ())]
            if view is not None:
                families += figures.totals_of(view)
            text = await render(restricted(families, set(query.get("name[]", ()))), kind)
        body, answered = await encoded(text, kind, headers.get("accept-encoding", ""))
        return Answer(200, body, {name.lower(): value for name, value in answered.items()})

    def _turn(self) -> asyncio.Lock:
        """This event loop's lock. One that was waited for keeps its loop, so those of loops that have ended go."""
        for loop in tuple(self._work):
            if loop.is_closed():
                self._work.pop(loop, None)
        return self._work.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def _stats(self) -> Answer:
        view = await self._database(TIMEOUT * SHARE)
        return Answer(200, json.dumps(figures.document(self._live, view)).encode(), _JSON)

    async def _database(self, deadline: float) -> SourceView | None:
        return None if self._live.totals is None else await self._live.totals.view(deadline)

    # --- beside the requests ------------------------------------------------------------------------------

    def _start(self) -> None:
        """With the first request, because a mounted application is told of no beginning."""
        if self._loop is None or self._loop.is_closed():  # with all that ran in it
            self._sampling = None
        if self._sampling is None or self._sampling.done():  # a defect ended it: the loop has said so
            self._loop = asyncio.get_running_loop()
            self._sampling = asyncio.create_task(self._sample(), name="messaging-history")
        if self._live.totals is not None:
            self._live.totals.start_soon()

    async def _sample(self) -> None:
        while True:
            document = figures.document(self._live, await self._database(TIMEOUT * SHARE))
            metrics, reported = self._live.metrics, self._live.reported
            self._history.record(
                time.time(),
                Sample(
                    **{name: document[name] for name in FIGURES},
                    messages_accepted=metrics.messages_accepted.value if "messages_accepted" in reported else None,
                    deliveries=metrics.deliveries.value if "deliveries" in reported else None,
                    joins=metrics.joins.value if "joins" in reported else None,
                    connections_opened=metrics.connections_opened.value,
                    **_quality(metrics, reported),
                ),
            )
            await asyncio.sleep(self._history.until_next(time.time()))


def _quality(metrics: Metrics, reported: Set[str]) -> dict[str, Any]:
    """The rest of a sample, as far as the host reports it."""
    seen = quality(metrics)
    sample: dict[str, Any] = {"connections_closed": seen.closed_connections}
    if "connections_rejected" in reported:
        sample["connections_refused"] = seen.refused_connections
    if "commands_rejected" in reported:
        sample |= {"commands_refused": seen.refused_commands, "sends_failed": seen.sends_failed}
    if "message_delivery_duration" in reported:
        sample |= {"delivered": seen.delivered, "delivered_in_time": seen.delivered_in_time}
    return sample


def slashed(path: str) -> Answer:
    """For who asks for the mount without its slash, which the pages' relative addresses need; ``path`` as asked for,
    a character for each byte.
    """
    return Answer(308, b"", {"location": quote(path.rpartition("/")[2], safe="%", encoding="latin-1") + "/"})


def _html(name: str) -> Answer:
    """A page beside this module. Who may see it is the host's affair, so it has no sign-in; addresses are relative."""
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": _POLICY,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return Answer(200, resources.files("exporter.embed").joinpath(name).read_bytes(), headers)


def _static(name: str) -> Answer:
    kind = _TYPES.get("." + name.rpartition(".")[2])
    file = resources.files("exporter.web").joinpath("static", name)
    try:
        found = kind is not None and file.is_file()
    except OSError:  # a name that is too long for the file system
        found = False
    if kind is None or not found:
        return _problem(404, "no such page")
    return Answer(200, file.read_bytes(), {"content-type": kind, "x-content-type-options": "nosniff"})


def _problem(status: int, detail: str, **headers: str) -> Answer:
    """An error as RFC 9457 shapes it."""
    document: dict[str, Any] = {"type": "about:blank", "title": "Error", "status": status, "detail": detail}
    return Answer(
        status, json.dumps(document).encode(), {**_JSON, "content-type": "application/problem+json", **headers}
    )
