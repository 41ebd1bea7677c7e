"""``<messaging-stats>`` in pages that are not the admin page: plain HTML, React and Vue, as docs/component.md says."""

from __future__ import annotations

import asyncio
import itertools
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from exporter.auth.tokens import LEEWAY
from tests.servers.chromium import Visit, eventually, shows, told, visit, well
from tests.servers.npm import bundle
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
HOOK = """
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { MessagingStats, useMessagingStats } from '%s';

const URL = '/v1/messaging/stats';

function Admin({ token }) {
  const [open, setOpen] = useState(true);
  const [line, setLine] = useState('');
  const [url, setUrl] = useState(URL);
  const { stats, status, error } = useMessagingStats(url, () => token, 0.25);
  const refused = useMessagingStats(URL, 'refused by design', 0.25);
  return <main>
    <p id="seen">{status}: {stats?.active_connections}</p>
    <p id="refused">{refused.status}: {refused.error?.message}</p>
    <p id="line">{line}</p>
    <button onClick={() => setUrl('/unanswered')}>Elsewhere</button>
    <button onClick={() => setOpen(!open)}>Close</button>
    {open && <MessagingStats url={URL} token={() => token} refresh={0.25} className="wide" labels={{ now: 'Jetzt' }}
      onState={(state) => setLine(`${state.level}: ${state.text}`)} />}
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


async def test_a_refusal_whose_reason_is_no_text_is_a_refusal_all_the_same(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        await seen.page.route("**/stats", lambda route: route.fulfill(status=401, json={"detail": [{"msg": "x"}]}))
        page = await plain(seen, double, double.token())
        await told(page, "Not allowed to see the figures: answer 401.")


async def test_figures_of_before_are_never_shown_as_those_of_now_or_of_another_server(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await plain(seen, double, double.token())
        element, aged = page.locator("messaging-stats"), page.locator("messaging-stats .panel.aged")
        await well(page)
        assert await aged.count() == 0
        await element.evaluate("node => { node.token = 'another' }")
        await told(page, "Not allowed to see the figures: .*")
        await aged.wait_for()
        assert await figure(page).text_content() == "1,240", "the same server said so"
        await element.evaluate("(node, token) => { node.token = token }", double.token())
        await well(page)
        assert await aged.count() == 0

        double.held.clear()  # nothing is answered when it comes back
        await element.evaluate("node => { const place = node.parentElement; node.remove(); place.append(node) }")
        await aged.wait_for()
        double.held.set()
        await well(page)

        await page.get_by_role("button", name="90 days").click()
        await element.evaluate("node => { node.src = '/nowhere/stats' }")
        await told(page, "Nothing is at .*")
        assert await figure(page).text_content() == "–"
        assert await page.locator("messaging-stats [data-health=database]").text_content() == "–"
        assert await page.locator("messaging-stats .curve[d]:not([d=''])").count() == 0
        await element.evaluate("node => { node.src = '/v1/messaging/stats' }")
        await shows(figure(page), "1,240")
        await well(page)
        assert len(seen.complaints) == 2, "the refusal and the 404"


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


async def test_a_refresh_time_longer_than_a_timer_is_no_hurry_and_none_is_a_pause(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        await seen.page.clock.install()
        page = await plain(seen, double, double.token())
        await well(page)
        for refresh in ("1e7", "1e300"):
            await page.locator("messaging-stats").evaluate("(node, refresh) => { node.refresh = refresh }", refresh)
            await well(page)
            asked = double.asked
            await page.clock.run_for(1_000)
            assert double.asked <= asked + 1, "the one that the change asked for"
        paces = await page.evaluate(
            """import('/admin/static/messaging-stats.js').then(({ StatsClient }) =>
                [0, -1, NaN, Infinity, 5, 1e7, undefined].map((refresh) => new StatsClient({ refresh }).refresh))"""
        )
        assert paces == [0.25, 0.25, 2, 2, 5, 86_400, 2]


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
async def test_the_react_hook_and_component_ask_only_while_mounted_and_keep_the_token_out_of_the_page(
    browser: Browser, double: StatsDouble, modules: Path
) -> None:
    source, target = modules.parent / "hook.jsx", modules.parent / "hook.js"
    for shipped in (MODULE, MODULE.with_name("messaging-stats-react.tsx")):  # beside the app, as a project keeps them
        (modules.parent / shipped.name).write_text(shipped.read_text())
    source.write_text(HOOK % "./messaging-stats-react")
    bundle(modules, source, target)
    double.pages.update({"/hook.html": HOST % double.token(), "/app.js": target.read_text()})
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(f"{double.url}/hook.html")
        await shows(page.locator("#seen"), "live: 1240")
        await shows(page.locator("#refused"), "denied: Not allowed to see the figures: the token is not a signed JWT.")
        await page.locator("#line", has_text="good: All is well. Up since ").wait_for()
        await shows(page.locator(".wide messaging-stats h2:visible").first, "Jetzt")
        double.figures["active_connections"] = 1241
        await shows(page.locator("#seen"), "live: 1241")
        await shows(figure(page), "1,241")
        await page.evaluate("document.querySelector('#root').removeAttribute('data-token')")
        assert double.token() not in await page.content()
        double.fail = 503
        await shows(page.locator("#seen"), "lost: 1241")
        double.fail = None
        await page.get_by_role("button", name="Close").click()
        assert await page.locator("messaging-stats").count() == 0
        await shows(page.locator("#seen"), "live: 1241")
        await page.route("**/unanswered", lambda route: None)
        await page.get_by_role("button", name="Elsewhere").click()
        await shows(page.locator("#seen"), "connecting:")  # those were of another server


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


# --- requests that never get through -----------------------------------------------------------------------------


async def test_a_request_that_the_browser_blocks_names_the_network_a_proxy_and_cors(
    browser: Browser, double: StatsDouble
) -> None:
    other = StatsDouble()
    await other.start()
    try:
        double.lax = True
        double.pages["/other.html"] = PLAIN.replace('src="/v1', f'src="{other.url}/v1') % double.token()
        async with visit(browser) as seen:
            await seen.page.goto(f"{double.url}/other.html")
            said = await told(seen.page, r"No answer from .*")
            assert said == (
                f"No answer from {other.url} that this page may read: "
                f"network, proxy, or CORS (--web.cors-origins {double.url})."
            )
            await shows(seen.page.locator("[data-health=server]"), "no answer")
    finally:
        await other.stop()


async def test_a_page_whose_own_policy_forbids_the_request_is_told_so(browser: Browser, double: StatsDouble) -> None:
    double.pages["/other.html"] = PLAIN.replace('src="/v1', 'src="http://127.0.0.1:9/v1') % double.token()
    async with visit(browser) as seen:
        await seen.page.goto(f"{double.url}/other.html")
        await told(
            seen.page, r"This page may not ask http://127\.0\.0\.1:9: its Content-Security-Policy \(connect-src\).*"
        )


async def test_a_server_that_never_answered_is_not_called_lost(browser: Browser, double: StatsDouble) -> None:
    double.pages["/plain.html"] = PLAIN % double.token()
    async with visit(browser) as seen:
        await seen.page.route("**/v1/messaging/stats", lambda route: route.abort("connectionrefused"))
        await seen.page.goto(f"{double.url}/plain.html")
        said = await told(seen.page, r"No answer from .*")
        assert said == (
            f"No answer from {double.url}/v1/messaging/stats: "
            "the network or a proxy is in the way, or the server does not run."
        )
        await seen.page.unroute("**/v1/messaging/stats")
        await well(seen.page)
        await seen.page.route("**/v1/messaging/stats", lambda route: route.abort("connectionrefused"))
        await told(seen.page, r"Server lost since \d\d:\d\d:\d\d\. Figures of then\.")


@pytest.mark.parametrize("name", ["TimeoutError", "AbortError"])
async def test_a_server_that_takes_too_long_is_told_by_how_long_it_had(
    browser: Browser, double: StatsDouble, name: str
) -> None:
    """Whatever name a browser has for the end of a request whose time is over."""
    double.pages["/plain.html"] = PLAIN % double.token()
    async with visit(browser) as seen:
        await seen.page.add_init_script(
            "AbortSignal.timeout = () => {"
            " const control = new AbortController();"
            f" setTimeout(() => control.abort(new DOMException('', '{name}')), 50);"
            " return control.signal; };"
        )
        await seen.page.route("**/v1/messaging/stats", lambda route: None)
        await seen.page.goto(f"{double.url}/plain.html")
        said = await told(seen.page, r"No answer from .* within .*")
        assert said == f"No answer from {double.url}/v1/messaging/stats within 8 s."
        await seen.page.unroute("**/v1/messaging/stats")


async def test_an_answer_that_is_cut_off_is_none_and_no_proxy_of_another_kind_is_blamed(
    browser: Browser, double: StatsDouble
) -> None:
    double.pages["/plain.html"] = PLAIN % double.token()
    double.cut_off = True
    async with visit(browser) as seen:
        await seen.page.goto(f"{double.url}/plain.html")
        await told(seen.page, r"No answer from .*: the network or a proxy is in the way, .*")
        double.cut_off = False
        await well(seen.page)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            {"body": "<!doctype html><title>App</title>", "content_type": "text/html"},
            r"The answer from .* is no JSON: .*",
        ),
        ({"status": 404, "body": "<h1>Not here</h1>", "content_type": "text/html"}, r"Nothing is at .* \(404\): .*"),
        ({"status": 502, "body": "<h1>Bad gateway</h1>"}, r"Server in trouble: answer 502\."),
    ],
    ids=["page", "404", "502"],
)
async def test_a_proxy_that_answers_in_place_of_the_server_is_named(
    browser: Browser, double: StatsDouble, answer: dict[str, Any], said: str
) -> None:
    double.pages["/plain.html"] = PLAIN % double.token()
    async with visit(browser) as seen:
        await seen.page.route("**/v1/messaging/stats", lambda route: route.fulfill(**answer))
        await seen.page.goto(f"{double.url}/plain.html")
        await told(seen.page, said)


async def test_a_token_function_is_asked_again_when_its_token_has_run_out_and_nothing_is_denied(
    browser: Browser, double: StatsDouble
) -> None:
    double.pages["/late.html"] = "<!doctype html><title>Late</title><messaging-stats></messaging-stats>"
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(f"{double.url}/late.html")
        await page.evaluate(
            """tokens => {
                window.given = window.denied = 0;
                addEventListener('messaging-stats-denied', () => { denied += 1 });
                Object.assign(document.querySelector('messaging-stats'), {
                    token: async () => { given += 1; return tokens.shift(); }, refresh: 0.25 });
                return import('/admin/static/messaging-stats.js').then(() => null);
            }""",
            [double.token(ttl=-LEEWAY + 2), double.token(), double.token()],
        )
        await well(page)
        await page.wait_for_function("given === 2")
        double.figures["active_connections"] = 1241
        await shows(figure(page), "1,241")
        assert await page.evaluate("[given, denied]") == [2, 0]


async def test_a_token_function_that_never_answers_is_told_and_asked_again(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        await seen.page.clock.install()
        page = await plain(seen, double, double.token())
        await well(page)
        await page.evaluate(
            """token => {
                const given = [new Promise(() => {}), token];
                document.querySelector('messaging-stats').token = async () => given.shift();
            }""",
            double.token(),
        )
        await told(page, "Connecting…")
        await page.clock.run_for(8_100)
        await told(page, r"Server in trouble.*: no token: none within 8 s\.")
        await page.clock.run_for(1_100)
        await well(page)


# --- looks and languages -------------------------------------------------------------------------------------------


async def colour(page: Page, selector: str = ".number") -> str:
    element = page.locator(f"messaging-stats {selector}").first
    found: str = await element.evaluate("node => getComputedStyle(node).color")
    return found


async def test_a_page_that_is_dark_by_class_makes_the_panel_dark_with_one_line_of_css(
    browser: Browser, double: StatsDouble
) -> None:
    double.lax = True
    style = "<style>.dark { color-scheme: dark }</style></head>"
    double.pages["/plain.html"] = (PLAIN % double.token()).replace("</head>", style)
    async with visit(browser) as seen:
        await seen.page.goto(f"{double.url}/plain.html")
        await shows(figure(seen.page), "1,240")
        assert await colour(seen.page) == "rgb(21, 24, 29)"
        await seen.page.evaluate("document.documentElement.classList.add('dark')")
        assert await colour(seen.page) == "rgb(236, 238, 241)"


async def test_every_colour_can_be_changed_from_outside(browser: Browser, double: StatsDouble) -> None:
    double.lax = True
    colours = {"ink": "rgb(1, 2, 3)", "muted": "rgb(2, 3, 4)", "good": "rgb(3, 4, 5)", "bad": "rgb(4, 5, 6)"}
    colours |= {"warn": "rgb(5, 6, 7)", "line": "rgb(6, 7, 8)"}
    style = "".join(f"--messaging-stats-{name}: {value};" for name, value in colours.items())
    double.pages["/plain.html"] = (PLAIN % double.token()).replace(
        "</head>", f"<style>messaging-stats {{ {style} }}</style></head>"
    )
    double.figures["database"] = {"up": False, "error": "the tests want it so"}
    async with visit(browser) as seen:
        await seen.page.goto(f"{double.url}/plain.html")
        await told(seen.page, r"Database down since .*")
        assert await colour(seen.page) == colours["ink"]
        assert await colour(seen.page, "dt") == colours["muted"]
        assert await colour(seen.page, "[data-health=server]") == colours["good"]
        assert await colour(seen.page, "[role=status]") == colours["bad"]
        line = "node => getComputedStyle(node).borderBlockEndColor"
        assert await seen.page.locator("messaging-stats .rows > div").first.evaluate(line) == colours["line"]


async def test_numbers_and_times_are_written_in_the_pages_language_and_texts_as_the_labels_say(
    browser: Browser, double: StatsDouble
) -> None:
    double.pages["/plain.html"] = (PLAIN % double.token()).replace('lang="en"', 'lang="de"')
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(f"{double.url}/plain.html")
        await shows(figure(page), "1.240")
        assert await page.locator("messaging-stats .panel").get_attribute("lang") == "en", "its texts are English"
        await page.locator("messaging-stats").evaluate(
            "node => { node.labels = { now: 'Jetzt', all_is_well_up: 'Läuft seit {time}.' } }"
        )
        await shows(page.locator("messaging-stats h2:visible").first, "Jetzt")
        await told(page, r"Läuft seit \d+\. \w+\.?, \d\d:\d\d\.")
        assert await page.locator("messaging-stats .panel").get_attribute("lang") == "de"
        await page.locator("messaging-stats").evaluate("node => { node.lang = 'en-IN' }")
        double.figures["active_connections"] = 1_234_567
        await shows(figure(page), "12,34,567")
        await page.locator("messaging-stats").evaluate("node => { node.lang = 'no language'; node.labels = null }")
        await shows(figure(page), "1,234,567")
        await shows(page.locator("messaging-stats h2:visible").first, "Now")


async def test_on_a_page_that_is_read_from_right_to_left_the_panel_is_whole(
    browser: Browser, double: StatsDouble
) -> None:
    double.pages["/plain.html"] = (PLAIN % double.token()).replace('lang="en"', 'lang="he" dir="rtl"')
    double.figures["database"] = {"up": False, "error": "the tests want it so"}
    for width in (360, 1280):
        async with visit(browser, size=(width, 800)) as seen:
            page = seen.page
            await page.goto(f"{double.url}/plain.html")
            await told(page, r"Database down since .*")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            dot = await page.locator("messaging-stats .dot").bounding_box()
            line = await page.locator("messaging-stats [role=status]").bounding_box()
            assert dot is not None
            assert line is not None
            assert dot["x"] >= line["x"] + line["width"], "the line begins at the right"
            direction = "node => getComputedStyle(node).unicodeBidi"
            assert await page.locator("messaging-stats .note.bad").first.evaluate(direction) == "plaintext"
            outside = await page.evaluate(
                """[...document.querySelector('messaging-stats').shadowRoot.querySelectorAll('section, td, svg')]
                   .map((node) => node.getBoundingClientRect())
                   .filter((box) => box.left < -0.5 || box.right > innerWidth + 0.5).length"""
            )
            assert outside == 0


async def read(page: Page, selector: str, pattern: str, *, to_the_left: bool = False) -> bool:
    """Do the groups of ``pattern`` stand one beside the other on the screen, in the order in which they are read?"""
    node = page.locator(f"messaging-stats {selector}").first
    text = ""

    async def said() -> bool:
        nonlocal text
        text = await node.text_content() or ""
        return re.search(pattern, text) is not None

    await eventually(said, f"{selector} matches {pattern}")
    match = re.search(pattern, text)
    assert match is not None
    places: list[tuple[float, float]] = await node.evaluate(
        """(node, spans) => spans.map(([from, to]) => {
             const range = document.createRange();
             range.setStart(node.firstChild, from);
             range.setEnd(node.firstChild, to);
             const { left, right } = range.getBoundingClientRect();
             return [left, right];
           })""",
        [match.span(number) for number in range(1, len(match.groups()) + 1)],
    )
    if to_the_left:
        places.reverse()
    return all(earlier[1] <= later[0] + 0.5 for earlier, later in itertools.pairwise(places))


# Arabic digits that stand beside each other are read from right to left, whatever is around: each is isolated.
NUMBER, CLOCK, DAY = (f"\u2068({it})\u2069" for it in ("[٠-٩٬]+", "[٠-٩:]{5,8}", "[٠-٩]+ [\u0621-\u064a]+"))


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
async def test_arabic_numbers_and_times_stand_where_english_labels_read_them(
    browser: Browser, double: StatsDouble, direction: str
) -> None:
    double.pages["/plain.html"] = (PLAIN % double.token()).replace('lang="en"', f'lang="ar-EG" dir="{direction}"')
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(f"{double.url}/plain.html")
        await shows(figure(page), "١٬٢٤٠")
        moment_of_another_day = "\u2068([٠-٩].*[٠-٩])\u2069"
        assert await read(page, "[role=status]", rf"(Up since) {moment_of_another_day}")
        assert await read(page, ".quality header p", rf"(this node) · \u2068?(since) {moment_of_another_day}")
        assert await read(page, "[data-peak=active_connections]", f"(top) {NUMBER}, {CLOCK}")
        assert await read(page, "[data-days=messages]", f"(peak) {NUMBER} (on) {DAY}")
        await page.get_by_role("slider", name="Moment on the lines").focus()
        assert await read(page, "[data-figure=typing_users] .range", f"{CLOCK} (·) {NUMBER}")
        await page.get_by_role("slider", name="Day on the bars").focus()
        assert await read(page, "[data-days=messages]", f"{DAY} (·) {NUMBER}")


async def test_arabic_labels_are_read_from_right_to_left_and_so_is_what_has_no_letters(
    browser: Browser, double: StatsDouble
) -> None:
    double.pages["/plain.html"] = (PLAIN % double.token()).replace('lang="en"', 'lang="ar-EG" dir="rtl"')
    labels = {"now": "الآن", "moment": "اللحظة", "peak": "الذروة {value}، {time}"}
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(f"{double.url}/plain.html")
        await page.locator("messaging-stats").evaluate("(node, labels) => { node.labels = labels }", labels)
        assert await read(page, "[data-peak=active_connections]", f"(الذروة) {NUMBER}، {CLOCK}", to_the_left=True)
        await page.get_by_role("slider", name="اللحظة").focus()
        assert await read(page, "[data-figure=typing_users] .range", f"{CLOCK} (·) {NUMBER}", to_the_left=True)


async def _quiet(double: StatsDouble) -> bool:
    """Was nothing asked for more than two refresh times?"""
    asked = double.asked
    await asyncio.sleep(0.6)
    return double.asked == asked
