"""The admin page in good and bad times, by Chromium, from a phone to a wall of 4K, light and dark.

The figures are made up as the page's tests make them up: no real server can be brought to every state when asked to.
The page that ``Live`` serves within another application is drawn from a real one.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from aiohttp import web
from playwright.async_api import Browser

from exporter import Live
from exporter.core.errors import ErrorCode
from exporter.core.events import ClosedReason, RejectedReason
from exporter.node.history import MAXLEN, STEP, History, Sample
from tests.embed.hosts import on_aiohttp
from tests.servers.chromium import chromium, eventually, visit
from tests.servers.stats_double import FIGURES, StatsDouble, moment

SIZES = {360: 740, 768: 1024, 1280: 800, 1920: 1080, 3840: 2160}
SCHEMES = ("light", "dark")
LIVE = ("active_connections", "connected_users", "active_conversations", "total_participants", "typing_users")
STORED = ("total_messages", "total_conversations", "messages_today", "registered_users")
REACHED = "the database cannot be reached"
SINCE = 240.0  # seconds for which what is wrong has been wrong
Course = Callable[[float], Mapping[str, int | None]]


def _well(ago: float) -> Mapping[str, int | None]:
    return {}


@dataclass(frozen=True)
class State:
    """What the page is told: other ``figures`` than those of a good day, made when it is drawn.

    ``course`` has other values of the hour's samples, and other growths of its counters, by how many seconds ago.
    ``failing`` ends the addresses that are answered 503. ``gone``: the server is stopped once the page has been seen;
    ``empty``: nobody ever wrote. The history has so many ``samples``.
    """

    figures: Callable[[], Mapping[str, Any]] = dict
    course: Course = _well
    failing: frozenset[str] = frozenset()
    gone: bool = False
    empty: bool = False
    samples: int = MAXLEN


def _database(up: bool, error: str) -> Callable[[], Mapping[str, Any]]:
    """No statement that writes succeeds; nor does one that reads, where it is not ``up``."""

    def figures() -> Mapping[str, Any]:
        began = moment(time.time() - SINCE)
        refused = {**FIGURES["refused"], "commands": {**FIGURES["refused"]["commands"], "unavailable": 720}}
        told = {"refused": refused, "sends_failed": 480, "since": {"database_read_only": began}}
        if up:
            return told | {"database": {"up": True, "writable": False, "error": error}}
        unknown = dict.fromkeys(STORED) | {"active_users": dict.fromkeys(("1d", "7d", "30d"))}
        unknown |= {"inaccurate": dict.fromkeys(("conversations", "days", "triggers"))}
        database = {"up": False, "writable": False, "error": error, "as_of": began}
        return told | unknown | {"database": database, "since": {"database_down": began}}

    return figures


def _nothing_is_stored(ago: float) -> Mapping[str, int | None]:
    return {"messages_accepted": 0, "deliveries": 0, "sends_failed": 20, "unavailable": 30} if ago < SINCE else {}


def _idle() -> Mapping[str, Any]:
    nothing = dict.fromkeys((*LIVE, *STORED), 0) | {"active_users": dict.fromkeys(("1d", "7d", "30d"), 0)}
    refused = {kind: dict.fromkeys(reasons, 0) for kind, reasons in FIGURES["refused"].items()}
    return nothing | {"refused": refused, "delivered_in_time": None}


def _alone() -> Mapping[str, Any]:
    error = "the broker cannot be reached"
    seen = {"up": False, "as_of": moment(time.time() - SINCE), "error": error}
    return dict.fromkeys(LIVE) | {"scope": "cluster", "nodes": None, "cluster": seen, "error": error}


STATES: Mapping[str, State] = {
    "healthy": State(),
    "idle": State(_idle, lambda ago: dict.fromkeys((*LIVE, *STORED, *GROWTH), 0), empty=True),
    "restarted": State(lambda: {"started_at": moment(time.time() - 20)}, samples=2),
    "database-down": State(_database(False, REACHED), _nothing_is_stored, frozenset({"days"})),
    "read-only": State(_database(True, "the database is read-only"), _nothing_is_stored),
    "broker-down": State(_alone, lambda ago: dict.fromkeys(LIVE) if ago < SINCE else {}),
    "totals-wrong": State(lambda: {"inaccurate": {"conversations": 2, "days": 1, "triggers": 0}}),
    "details-fail": State(failing=frozenset({"history", "days", "top"})),
    "lost": State(gone=True),
}
# A good day: the tests' figures have more to tell.
CALM = {
    "sends_failed": 0,
    "refused": {**FIGURES["refused"], "connections": {**FIGURES["refused"]["connections"], "unauthenticated": 12}},
}
# By how much the counters grow in ten seconds of a good hour.
GROWTH = {
    "messages_accepted": 125, "deliveries": 1900, "joins": 14, "connections_opened": 4, "delivered": 1900,
    "delivered_in_time": 1899, "sends_failed": 0, "client": 3, "unauthenticated": 0, "unavailable": 0,
}  # fmt: skip


def remember(history: History, course: Course, samples: int) -> None:
    """So many samples up to now, of an hour in which people come, go and come back."""
    history.record(0, Sample())  # so far from all others that it begins anew
    random = Random(1)
    counters: Counter[str] = Counter()
    for step in range(MAXLEN):
        ago = STEP * (MAXLEN - step) - STEP / 2
        crowd = (0.8 + 0.2 * math.cos(ago / 600)) * random.uniform(0.97, 1)
        told = course(ago)
        for name, growth in GROWTH.items():
            counters[name] += told.get(name, round(growth * crowd + random.uniform(-0.5, 0.5))) or 0
        counters["delivered_in_time"] = min(counters["delivered_in_time"], counters["delivered"])
        live = {name: round(FIGURES[name] * crowd) for name in LIVE} | {name: FIGURES[name] for name in STORED}
        sample = Sample(
            **live | {name: value for name, value in told.items() if name in live},
            **{name: counters[name] for name in list(GROWTH)[:7]},
            connections_closed=_reasons(ClosedReason, client=counters["client"]),
            connections_refused=_reasons(RejectedReason, unauthenticated=counters["unauthenticated"]),
            commands_refused=_reasons(ErrorCode, unavailable=counters["unavailable"]),
        )
        if step >= MAXLEN - samples:
            history.record(time.time() - ago, sample)


def _reasons(kind: Iterable[ClosedReason | RejectedReason | ErrorCode], **counts: int) -> dict[str, int]:
    return {reason.value: counts.get(reason.value, 0) for reason in kind}


# What stands out of its place: wider than the window, or a text that is cut off where it stands.
FAULTS = """() => {
  const root = document.querySelector('messaging-stats')?.shadowRoot;
  const nodes = [...(root ?? document).querySelectorAll('.number, dt, dd, td, th, h2, p, button'), ...document.querySelectorAll('h1, p, button, label')];
  const cut = nodes.filter((node) => node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).display !== 'inline')
    .map((node) => `cut off: ${node.textContent}`);
  const wide = document.documentElement.scrollWidth - innerWidth;
  return wide > 0 ? [`${wide} px wider than the window`, ...cut] : cut;
}"""  # noqa: E501 - lines of another language


async def page_pictures(output: Path) -> list[str]:
    """Draws ``page-STATE-WIDTH-SCHEME.png`` in ``output``; the faults that can be measured, none when all is well."""
    faults: list[str] = []
    async with chromium() as browser:
        double = StatsDouble()
        await double.start()
        try:
            for name, state in STATES.items():

                async def begin(state: State = state) -> str:
                    """As of now: the history of an hour ends at this moment."""
                    await double.stop()  # so that a server that was gone is there again
                    await double.start()
                    double.reset()
                    double.figures.update(CALM | state.figures())
                    double.failing = set(state.failing)
                    if "days" in state.failing:
                        double.top.update(largest=None, error=REACHED)
                    if state.empty:
                        double.days = lambda ago: (0, 0 if ago < 2 else None)
                        double.top.update(largest=[], busiest=[])
                    remember(double.history, state.course, state.samples)
                    return double.link()

                end = double.stop if state.gone else None
                faults += await _drawn(browser, begin, output, f"page-{name}", end)

            async def form() -> str:
                await double.stop()
                await double.start()
                return double.link(ttl=-60)

            faults += await _drawn(browser, form, output, "page-sign-in")
        finally:
            await double.stop()
        async with _embedded() as url:

            async def embedded() -> str:
                return url

            faults += await _drawn(browser, embedded, output, "page-embedded")
    return faults


async def page_of(link: str, output: Path) -> None:
    """``page.png`` and ``page-dark.png`` of a real server, by the link that ``make run`` prints: the documents' own."""
    async with chromium() as browser:
        for scheme, name, scale in (("light", "page.png", 1.5), ("dark", "page-dark.png", 1.0)):
            await draw(browser, link, (1280, 970), scheme, output / name, scale=scale, whole=False)


async def _drawn(
    browser: Browser,
    begin: Callable[[], Awaitable[str]],
    output: Path,
    name: str,
    end: Callable[[], Awaitable[None]] | None = None,
) -> list[str]:
    faults = []
    for width, height in SIZES.items():
        for scheme in SCHEMES:
            target = output / f"{name}-{width}-{scheme}.png"
            found = await draw(browser, await begin(), (width, height), scheme, target, end=end)
            faults += [f"{name} at {width}, {scheme}: {fault}" for fault in found]
    return faults


async def draw(
    browser: Browser,
    link: str,
    size: tuple[int, int],
    scheme: str,
    target: Path,
    *,
    scale: float = 1,
    whole: bool = True,
    end: Callable[[], Awaitable[None]] | None = None,
) -> list[str]:
    """A picture of the page, ``whole`` or its first screen, once all that it asks for is answered; what is wrong.

    ``end`` is called then, and the picture is of the page that has noticed it.
    """
    async with visit(browser, size=size, scheme=scheme, scale=scale) as seen:
        page = seen.page
        await page.goto(link)
        await page.locator("messaging-stats .status.live, #problem:not(:empty)").first.wait_for()
        if await page.locator("messaging-stats").count():
            asked = ["/v1/messaging/stats/history", "/v1/messaging/stats/days"]
            if await page.locator("#tools").is_visible():
                asked.append("/v1/messaging/conversations/top")

            async def answered() -> bool:
                return all(any(path in url for url in seen.requests) for path in asked)

            await eventually(answered, "the page asks for its history")
        await page.wait_for_load_state("networkidle")
        complaints = list(seen.complaints)
        if end is not None:
            await end()
            await page.locator("messaging-stats .status.lost").wait_for()
        await page.screenshot(path=target, full_page=whole)
        found: list[str] = await page.evaluate(FAULTS)
        # That a request was answered 401 or 503 is the browser's own line, and what the picture is about.
        return found + [complaint for complaint in complaints if "Failed to load resource" not in complaint]


@asynccontextmanager
async def _embedded() -> AsyncIterator[str]:
    """The address of the page in an application with some people in it."""
    live = Live(workers=1)
    app = web.Application()
    app.add_subapp("/messaging/", live.aiohttp(admin=lambda request: True))
    async with on_aiohttp(app) as url:
        connections = [live.open(f"user {n}") for n in range(12)]
        for n, connection in enumerate(connections):
            connection.join(f"room {n % 3}")
            connection.message(f"room {n % 3}")
        connections[0].typing("room 0", True)
        try:
            yield f"{url}/messaging/admin"
        finally:
            for connection in connections:
                connection.close()
