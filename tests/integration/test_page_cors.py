"""A page of another origin shows the figures of a real server in a real browser, once the server allows its origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.chromium import chromium, shows, told, visit, well
from tests.servers.exporter import running
from tests.servers.stats_double import StatsDouble

pytestmark = pytest.mark.needs("chromium")


async def test_with_the_origin_allowed_the_panel_works_there_and_without_it_says_cors(tmp_path: Path) -> None:
    double = StatsDouble()  # serves the page of the other origin, and nothing else here
    double.lax = True
    await double.start()
    try:
        async with (
            running(tmp_path / "open", "--web.cors-origins", double.url) as allowing,
            running(tmp_path / "shut") as silent,
            chromium() as browser,
            visit(browser) as seen,
        ):
            for name, exporter in (("open", allowing), ("shut", silent)):
                token = exporter.token("ada", role="admin")
                double.pages[f"/{name}.html"] = (
                    '<!doctype html><html lang="en"><head><title>Elsewhere</title><link rel="icon" href="data:,">'
                    '<script type="module" src="/admin/static/messaging-stats.js"></script></head>'
                    f'<body><messaging-stats src="{exporter.url}/v1/messaging/stats" token="{token}"></messaging-stats>'
                )
            await seen.page.goto(f"{double.url}/open.html")
            await well(seen.page)
            await shows(seen.page.locator("[data-figure=active_connections] .number"), "0")
            await seen.page.locator("[data-days=messages]", has_text="none yet").wait_for()
            assert seen.complaints == []
            await seen.page.goto(f"{double.url}/shut.html")
            said = await told(seen.page, r"No answer from .*")
            assert f"--web.cors-origins {double.url}" in said
    finally:
        await double.stop()
