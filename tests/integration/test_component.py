"""``<messaging-stats>`` in pages that are not the admin page: plain HTML, React and Vue, as docs/component.md says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.servers.chromium import Visit, chromium, eventually, shows, told, visit, well
from tests.servers.npm import bundle, node_modules
from tests.servers.stats_double import StatsDouble

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.asyncio(loop_scope="module")]

MODULE = Path(str(resources.files("exporter.web"))) / "static" / "messaging-stats.js"
PLAIN = """<!doctype html><html lang="en"><head><title>Plain</title>
<link rel="icon" href="/admin/static/icon.svg">
<script type="module" src="/admin/static/messaging-stats.js"></script></head>
<body><h1>Ours</h1>
<messaging-stats src="/v1/messaging/stats" token="%s" refresh="0.25"></messaging-stats></body></html>"""
REACT = """
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import '%s';

function Admin({ token }) {
  const [seen, setSeen] = useState('nothing yet');
  const [given, setGiven] = useState('refused by design');
  const [open, setOpen] = useState(true);
  return <main>
    <p id="seen">{seen}</p>
    <button onClick={() => setGiven(token)}>Give the token</button>
    <button onClick={() => setOpen(!open)}>Close</button>
    {open && <messaging-stats src="/v1/messaging/stats" token={given} refresh={0.25}
      onmessaging-stats-update={(event) => setSeen(`${event.detail.active_connections} connections`)}
      onmessaging-stats-denied={(event) => setSeen(`${event.detail.status}: ${event.detail.reason}`)} />}
  </main>;
}

const root = document.querySelector('#root');
createRoot(root).render(<StrictMode><Admin token={root.dataset.token} /></StrictMode>);
"""
VUE = """
import { createApp } from '/vue.js';
import '/admin/static/messaging-stats.js';

const app = createApp({
  data: () => ({ token: document.querySelector('#root').dataset.token, seen: 'nothing yet' }),
  template: `<p id="seen">{{ seen }}</p>
    <messaging-stats src="/v1/messaging/stats" :token="token" :refresh="0.25"
      @messaging-stats-update="seen = $event.detail.active_connections + ' connections'"></messaging-stats>`,
});
app.config.compilerOptions.isCustomElement = (tag) => tag === 'messaging-stats';
app.mount('#root');
"""
HOST = """<!doctype html><html lang="en"><head><title>Host</title><link rel="icon" href="/admin/static/icon.svg"></head>
<body><div id="root" data-token="%s"></div><script type="module" src="/app.js"></script></body></html>"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def double() -> AsyncIterator[StatsDouble]:
    double = StatsDouble()
    await double.start()
    try:
        yield double
    finally:
        await double.stop()


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node_modules(tmp_path_factory.getbasetemp().parent / "npm")


def figure(page: Page, name: str = "active_connections") -> Any:
    return page.locator(f"messaging-stats [data-figure={name}] .number")


async def plain(seen: Visit, double: StatsDouble, token: str) -> Page:
    double.pages["/plain.html"] = PLAIN % token
    await seen.page.goto(f"{double.url}/plain.html")
    return seen.page


async def test_a_plain_page_needs_one_script_and_one_element(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await plain(seen, double, double.token())
        await shows(figure(page), "1,240")
        double.figures["active_connections"] = 1241
        await shows(figure(page), "1,241")
        assert await seen.context.cookies() == []
        assert await seen.shifts() == []
        assert seen.complaints == []


async def test_a_page_that_is_light_keeps_a_light_panel_on_a_dark_system(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser, scheme="dark") as seen:
        page = await plain(seen, double, double.token())
        await shows(figure(page), "1,240")
        assert (
            await page.locator("messaging-stats").evaluate("node => getComputedStyle(node).color") == "rgb(21, 24, 29)"
        )


async def test_a_refused_token_is_said_and_asked_no_more_and_a_new_one_is_taken_at_once(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await plain(seen, double, double.token(role="user"))
        said = page.locator("messaging-stats [role=status]")
        await shows(said, "Not allowed to see the figures: this is for the role admin.")
        asked = double.asked
        await asyncio.sleep(0.6)  # more than two refresh times in which nothing may happen
        assert double.asked == asked
        await page.locator("messaging-stats").evaluate("(node, token) => { node.token = token }", double.token())
        await well(page)
        assert double.token() not in await page.content(), "a token set as a property stays out of the document"


async def test_the_refresh_time_can_be_changed_and_removing_the_element_ends_the_asking(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await plain(seen, double, double.token())
        await shows(figure(page), "1,240")
        element = page.locator("messaging-stats")
        await element.evaluate("node => { node.refresh = 3600 }")
        await well(page)
        double.figures["active_connections"] = 1
        await element.evaluate("node => { node.refresh = 0.25 }")
        await shows(figure(page), "1")
        await element.evaluate("node => node.remove()")
        await eventually(lambda: _quiet(double), "the asking ends")


async def test_properties_that_were_set_before_the_module_was_loaded_count(
    browser: Browser, double: StatsDouble
) -> None:
    double.pages["/late.html"] = "<!doctype html><title>Late</title><messaging-stats></messaging-stats>"
    async with visit(browser) as seen:
        await seen.page.goto(f"{double.url}/late.html")
        await seen.page.evaluate(
            "token => { Object.assign(document.querySelector('messaging-stats'), { token, refresh: 0.25 }) }",
            double.token(),
        )
        await seen.page.evaluate("import('/admin/static/messaging-stats.js').then(() => null)")
        await shows(figure(seen.page), "1,240")
        double.figures["active_connections"] = 1
        await shows(figure(seen.page), "1")


async def test_two_panels_on_one_page_do_not_disturb_each_other(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await plain(seen, double, double.token())
        await shows(figure(page), "1,240")
        await page.evaluate(
            "token => document.body.append(Object.assign(document.createElement('messaging-stats'), { token }))",
            double.token(),
        )
        await shows(figure(page).nth(1), "1,240")
        await well(page)


@pytest.mark.needs("node")
async def test_in_a_react_page_the_panel_takes_props_reports_events_and_goes_when_it_is_unmounted(
    browser: Browser, double: StatsDouble, modules: Path
) -> None:
    source, target = modules.parent / "app.jsx", modules.parent / "app.js"
    source.write_text(REACT % MODULE)
    bundle(modules, source, target)
    double.pages.update({"/react.html": HOST % double.token(), "/app.js": target.read_text()})
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(f"{double.url}/react.html")
        await shows(page.locator("#seen"), "401: the token is not a signed JWT")
        await page.get_by_role("button", name="Give the token").click()
        await shows(figure(page), "1,240")
        await shows(page.locator("#seen"), "1240 connections")
        double.figures["active_connections"] = 1241
        await shows(page.locator("#seen"), "1241 connections")
        await page.get_by_role("button", name="Close").click()
        await eventually(lambda: _quiet(double), "an unmounted panel asks nothing")
        assert [c for c in seen.complaints if "401" not in c] == []


@pytest.mark.needs("node")
async def test_in_a_vue_page_the_panel_takes_props_and_reports_events(
    browser: Browser, double: StatsDouble, modules: Path
) -> None:
    double.lax = True  # Vue compiles templates in the page here; a build step does without
    vue = (modules / "vue" / "dist" / "vue.esm-browser.prod.js").read_text()
    double.pages.update({"/vue.html": HOST % double.token(), "/app.js": VUE, "/vue.js": vue})
    async with visit(browser) as seen:
        await seen.page.goto(f"{double.url}/vue.html")
        await shows(figure(seen.page), "1,240")
        await shows(seen.page.locator("#seen"), "1240 connections")
        assert seen.complaints == []


async def _quiet(double: StatsDouble) -> bool:
    """Was nothing asked for more than two refresh times?"""
    asked = double.asked
    await asyncio.sleep(0.6)
    return double.asked == asked
