"""The admin page of ``observe`` in a real browser: several databases, one of which goes away and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Locator, Page

from exporter.auth.tokens import Authenticator
from exporter.settings.model import Address, Settings, SourceSettings
from exporter.web.source_server import SourceServer
from tests.observe.test_collector import known, mattermost
from tests.servers.chromium import chromium, shows, told, visit

pytestmark = pytest.mark.needs("chromium")

LONG = "a-name-that-is-rather-long.chat.example.org"


def figure(page: Page, source: str, name: str) -> Locator:
    return page.locator(f"messaging-stats [data-source='{source}'] [data-figure='{name}']")


async def headings(page: Page) -> list[str]:
    found = await page.locator("messaging-stats h2").all()
    return [await one.inner_text() for one in found if await one.is_visible()]


async def test_each_database_is_shown_with_its_figures_or_why_there_are_none(tmp_path: Path) -> None:
    one, other = mattermost(tmp_path, 3, "one"), mattermost(tmp_path, 1_234, "other")
    settings = Settings(
        listen=(Address("127.0.0.1", 0),),
        data_dir=tmp_path,
        source_load=1.0,
        sources=(SourceSettings(one.url, "mattermost", "matrix"), SourceSettings(other.url, "mattermost", LONG)),
    )
    server = SourceServer(settings)
    await server.start()
    try:
        for collector in server.collectors:
            await known(collector)
        token = Authenticator.from_settings(settings).sign("ann", role="admin")
        for size in ((360, 740), (1280, 800), (2560, 1440)):
            async with chromium() as browser, visit(browser, size=size) as seen:
                page = seen.page
                await page.goto(f"{server.urls[0]}/admin?refresh=0.2#token={token}")
                await told(page, r"All is well\..*")
                await shows(figure(page, "matrix", "total_messages"), "3")
                await shows(figure(page, LONG, "total_messages"), "1,234")
                await shows(figure(page, LONG, "registered_users"), "1")
                await shows(figure(page, LONG, "7d"), "0")
                assert await headings(page) == ["Observed databases", "Health"]
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                if size[0] == 1280:
                    away = other.path.rename(tmp_path / "away.db")
                    await told(page, rf"The database of {LONG} is not seen.*: there is no database file at that path\.")
                    await shows(figure(page, LONG, "total_messages"), "unknown")
                    await shows(figure(page, "matrix", "total_messages"), "3")
                    note = page.locator(f"messaging-stats [data-source='{LONG}'] .note")
                    await shows(note, "There is no database file at that path.")
                    away.rename(other.path)
                    await told(page, r"All is well\..*")
                    await shows(figure(page, LONG, "total_messages"), "1,234")
                assert seen.complaints == []
    finally:
        await server.close()
        one.close()
        other.close()


async def test_a_database_alone_is_shown_in_the_same_way(tmp_path: Path) -> None:
    source = mattermost(tmp_path, 5)
    settings = Settings(
        listen=(Address("127.0.0.1", 0),),
        data_dir=tmp_path,
        source_load=1.0,
        source_url=source.url,
        source_kind="mattermost",
    )
    server = SourceServer(settings)
    await server.start()
    try:
        token = Authenticator.from_settings(settings).sign("ann", role="admin")
        async with chromium() as browser, visit(browser) as seen:
            await seen.page.goto(f"{server.urls[0]}/admin#token={token}")
            await shows(figure(seen.page, "mattermost", "total_messages"), "5")
            assert await headings(seen.page) == ["Observed databases", "Health"]
            assert seen.complaints == []
    finally:
        await server.close()
        source.close()
