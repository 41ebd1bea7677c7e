"""The admin page in good and bad times, by Chromium, from a phone to a wall of 4K, light and dark.

The figures are made up as the page's tests make them up: no real server can be brought to every state when asked to.
The page that ``Live`` serves within another application is drawn from a real one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.async_api import Browser

from exporter import Live
from tests.embed.hosts import on_aiohttp
from tests.servers.chromium import chromium, eventually, visit
from tests.servers.stats_double import StatsDouble, moment

SIZES = {360: 740, 768: 1024, 1280: 800, 3840: 2160}
SCHEMES = ("light", "dark")
NO_TOTALS = dict.fromkeys(("total_messages", "total_conversations", "messages_today", "registered_users"))
STATES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "healthy": dict,
    "database-down": lambda: {
        **NO_TOTALS,
        "active_users": dict.fromkeys(("1d", "7d", "30d")),
        "inaccurate": dict.fromkeys(("conversations", "days", "triggers")),
        "database": {"up": False, "writable": False, "error": "the database cannot be reached"},
        "since": {"database_down": moment(time.time() - 240)},
    },
    "read-only": lambda: {
        "database": {"up": True, "writable": False, "error": "the database is read-only"},
        "since": {"database_read_only": moment(time.time() - 240)},
    },
    "restarted": lambda: {"started_at": moment(time.time() - 20)},
    "broker-down": lambda: {
        "scope": "cluster",
        "nodes": 3,
        "cluster": {"up": False, "as_of": moment(time.time() - 90), "error": "the broker cannot be reached"},
        "error": "the broker cannot be reached",
        **dict.fromkeys(("active_connections", "connected_users", "active_conversations")),
        **dict.fromkeys(("total_participants", "typing_users")),
    },
}
# What stands out of its place: wider than the window, or a text that is cut off where it stands.
FAULTS = """() => {
  const root = document.querySelector('messaging-stats').shadowRoot;
  const nodes = [...root.querySelectorAll('.number, dt, dd, td, th, h2, p, button'), ...document.querySelectorAll('h1, p, button, label')];
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
            for state, figures in STATES.items():

                def begin(figures: Callable[[], dict[str, Any]] = figures) -> str:
                    """As of now: the history of an hour ends at this moment."""
                    double.reset()
                    double.figures.update(figures())
                    return double.link()

                faults += await _drawn(browser, begin, output, f"page-{state}")
        finally:
            await double.stop()
        async with _embedded() as url:
            faults += await _drawn(browser, lambda: url, output, "page-embedded")
    return faults


async def page_of(link: str, output: Path) -> None:
    """``page.png`` and ``page-dark.png`` of a real server, by the link that ``make run`` prints: the documents' own."""
    async with chromium() as browser:
        for scheme, name, scale in (("light", "page.png", 1.5), ("dark", "page-dark.png", 1.0)):
            await draw(browser, link, (1280, 958), scheme, output / name, scale=scale, whole=False)


async def _drawn(browser: Browser, begin: Callable[[], str], output: Path, name: str) -> list[str]:
    faults = []
    for width, height in SIZES.items():
        for scheme in SCHEMES:
            target = output / f"{name}-{width}-{scheme}.png"
            found = await draw(browser, begin(), (width, height), scheme, target)
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
) -> list[str]:
    """A picture of the page, ``whole`` or its first screen, once its figures and history are there; what is wrong."""
    async with visit(browser, size=size, scheme=scheme, scale=scale) as seen:
        page = seen.page
        await page.goto(link)
        await page.locator("messaging-stats .status.live").wait_for()
        asked = ("/v1/messaging/stats/history", "/v1/messaging/stats/days")

        async def answered() -> bool:
            return all(any(path in url for url in seen.requests) for path in asked)

        await eventually(answered, "the page asks for its history")
        await page.wait_for_load_state("networkidle")
        await page.screenshot(path=target, full_page=whole)
        found: list[str] = await page.evaluate(FAULTS)
        return found + seen.complaints


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
