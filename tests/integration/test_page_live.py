"""The admin page on a real server: what people do on WebSockets is what /metrics says and what the page shows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.servers.chromium import Visit, shows, told, visit, well
from tests.servers.exporter import Exporter, Figures, running
from tests.servers.ports import free_port

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.asyncio(loop_scope="module")]

LIVE = {
    "active_connections": "messaging_active_connections",
    "connected_users": "messaging_connected_users",
    "active_conversations": "messaging_active_conversations",
    "total_participants": "messaging_participants",
    "typing_users": "messaging_typing_users",
}
STORED = {
    "total_messages": "messaging_stored_messages",
    "messages_today": "messaging_messages_today",
    "total_conversations": "messaging_stored_conversations",
    "registered_users": "messaging_registered_users",
}
REFRESH = 1.0


class Site:
    """A server on a port that stays the same when it starts again, as a browser expects it."""

    def __init__(self, exporter: Exporter, url: str) -> None:
        self.exporter = exporter
        self.url = url

    def link(self, *, role: str = "admin", ttl: float = 3600) -> str:
        return f"{self.url}/admin?refresh={REFRESH}#token={self.exporter.token('ada', role=role, ttl=ttl)}"


@pytest_asyncio.fixture(loop_scope="module")
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    port = free_port()
    async with running(tmp_path, "--web.listen-address", f"127.0.0.1:{port}") as exporter:
        yield Site(exporter, f"http://127.0.0.1:{port}")


def figure(page: Page, name: str) -> Any:
    inner = " .number" if name in LIVE else ""
    return page.locator(f"messaging-stats [data-figure={name}]{inner}")


def status(page: Page) -> Any:
    return page.locator("messaging-stats [role=status]")


async def signed_in(seen: Visit, site: Site) -> Page:
    await seen.page.goto(site.link())
    await well(seen.page)
    return seen.page


async def seen_at_the_next_poll(seen: Visit, name: str, value: int) -> None:
    """The figure is there after one poll that began after the event, or after the one that was under way."""

    def polls() -> int:
        return sum(url.endswith("/v1/messaging/stats") for url in seen.requests)

    before = polls()
    await shows(figure(seen.page, name), f"{value:,}")
    assert polls() - before <= 2, f"{name} came only after {polls() - before} polls"


async def agrees_with(page: Page, figures: Figures) -> None:
    """Everything on the page is what one scrape says."""
    for name, metric in {**LIVE, **STORED}.items():
        await shows(figure(page, name), f"{figures[metric]:,.0f}")
    for window in ("1d", "7d", "30d"):
        count = figures[f'messaging_active_users{{window="{window}"}}']
        await shows(page.locator(f"[data-active='{window}']"), f"{count:,.0f}")


async def test_each_event_on_a_websocket_is_on_the_page_at_its_next_poll_and_all_is_as_metrics_says(
    browser: Browser, site: Site
) -> None:
    server = site.exporter
    await server.conversation("c1", "ann", "bob")
    await server.conversation("c2", "ann", "bob")
    async with visit(browser) as seen:
        page = await signed_in(seen, site)
        await shows(figure(page, "active_connections"), "0")
        ann = await server.connect("ann")
        await seen_at_the_next_poll(seen, "active_connections", 1)
        bob = await server.connect("bob")
        bobs_phone = await server.connect("bob")
        await seen_at_the_next_poll(seen, "active_connections", 3)
        await shows(figure(page, "connected_users"), "2")
        await ann.join("c1")
        await seen_at_the_next_poll(seen, "active_conversations", 1)
        await bob.join("c1")
        await bobs_phone.join("c1")
        await bobs_phone.join("c2")
        await seen_at_the_next_poll(seen, "total_participants", 3)
        await ann.send("typing", conversation="c1", active=True)
        await seen_at_the_next_poll(seen, "typing_users", 1)
        for number in range(12):
            await ann.say("c1", f"message {number}", str(number))
        await seen_at_the_next_poll(seen, "total_messages", 12)
        await shows(figure(page, "typing_users"), "0")
        await agrees_with(page, await server.scrape())
        await bobs_phone.close()
        await server.scraped(lambda f: f["messaging_active_connections"] == 2, "the phone is gone")
        await seen_at_the_next_poll(seen, "active_connections", 2)
        await agrees_with(page, await server.scrape())

        # The server samples every ten seconds: then the rates and the closes are known too.
        await shows(page.locator("[data-closed='client.last_hour']"), "1")
        await shows(page.locator("[data-closed='internal_error.last_hour']"), "0")
        assert re.fullmatch(r"[\d.]+", await page.locator("[data-rate=messages] .number").inner_text())
        assert seen.complaints == []
        assert await seen.shifts() == []
        await ann.close()
        await bob.close()


async def test_the_page_outlives_a_restart_of_the_server(browser: Browser, site: Site) -> None:
    server = site.exporter
    await server.conversation("c1", "ann")
    ann = await server.connect("ann")
    await ann.join("c1")
    await ann.say("c1", "before", "1")
    async with visit(browser) as seen:
        page = await signed_in(seen, site)
        await shows(figure(page, "active_connections"), "1")
        await server.stop()
        lost = page.locator("[role=status]", has_text="Server lost since")
        await lost.wait_for()
        assert await figure(page, "total_messages").inner_text() == "1"
        await server.start()
        await well(page)
        await shows(figure(page, "active_connections"), "0")
        await shows(figure(page, "total_messages"), "1")
        assert await seen.shifts() == []
        assert {c for c in seen.complaints if "ERR_" not in c and "503" not in c} == set()


async def test_a_database_that_is_gone_is_unknown_with_its_reason_and_known_again_when_it_is_back(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    server = site.exporter
    await server.conversation("c1", "ann")
    async with visit(browser) as seen:
        page = await signed_in(seen, site)
        await shows(figure(page, "total_conversations"), "1")
        away = tmp_path / "away.db"
        await asyncio.to_thread(server.database.rename, away)
        await shows(figure(page, "total_conversations"), "unknown")
        await shows(page.locator("[data-health=database]"), "down")
        await told(page, r"Database down since \d\d:\d\d:\d\d: every send is refused\. .+\.")
        said = await page.locator(".sums .note").inner_text()
        assert re.fullmatch(r"Unknown: (?!the server gave no reason).+\.", said)
        assert await figure(page, "active_connections").inner_text() == "0", "what is not the database's is known"
        await asyncio.to_thread(away.rename, server.database)
        await shows(figure(page, "total_conversations"), "1")
        await shows(page.locator("[data-health=database]"), "up")
        await well(page)
        assert await seen.shifts() == []


async def test_an_expired_sign_in_and_a_user_without_the_role_see_no_figure(browser: Browser, site: Site) -> None:
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(site.link(role="user"))
        await shows(page.get_by_role("alert"), "The token is good, but its role is not admin.")
        assert await page.locator("messaging-stats").count() == 0
        await page.goto(site.link(ttl=3))
        await page.locator("#why", has_text=re.compile(r"^Your sign-in expired at ")).wait_for()
        assert await page.locator("messaging-stats").count() == 0
