"""The admin page in a real browser, around figures that the tests set: each state that a person can meet."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Route

from exporter.node.history import Sample
from tests.servers.chromium import Visit, eventually, shows, told, visit, well
from tests.servers.stats_double import FIGURES, StatsDouble, moment

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.asyncio(loop_scope="module")]

SIZES = {
    "reflow": (320, 640),  # WCAG 1.4.10: what is left of 1,280 pixels at four times the size
    "narrow": (360, 740),
    "phone": (390, 844),
    "tablet": (820, 1180),
    "desk": (1280, 800),
    "hd": (1920, 1080),
    "wall": (2560, 1440),
    "4k": (3840, 2160),
}
LIVE = ("active_connections", "connected_users", "active_conversations", "total_participants", "typing_users")
HEADINGS = [
    "Messaging",
    "Now",
    "Per second",
    "Quality",
    "Days",
    "Connections closed",
    "Connections refused",
    "Commands refused",
    "Stored",
    "Active users",
    "Health",
    "Largest conversations",
    "Busiest in the last hour, this node",
    "A user",
]
STORED = ("total_messages", "messages_today", "total_conversations", "registered_users")
LONG = " ".join(f"reason {n}," for n in range(60)) + " and that is all"  # as a driver's message may be


@pytest.fixture(scope="module")
def axe(modules: Path) -> str:
    return (modules / "axe-core" / "axe.min.js").read_text()


def figure(page: Page, name: str) -> Any:
    inner = ".number" if name in LIVE else ""
    return page.locator(f"messaging-stats [data-figure={name}] {inner}".strip())


def status(page: Page) -> Any:
    return page.locator("messaging-stats [role=status]")


async def follow_link(seen: Visit, double: StatsDouble, refresh: float = 0.5, ttl: float = 3600) -> Page:
    await seen.page.goto(double.link(ttl).replace("/admin", f"/admin?refresh={refresh}"))
    return seen.page


async def sign_in_by_link(seen: Visit, double: StatsDouble, refresh: float = 0.5, ttl: float = 3600) -> Page:
    page = await follow_link(seen, double, refresh, ttl)
    await well(page)
    return page


async def violations(page: Page, axe: str) -> list[str]:
    await page.evaluate(f"{axe}; null")
    result = await page.evaluate(
        "axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] })"
    )
    return [f"{v['id']}: {v['help']}: {[n['html'] for n in v['nodes']]}" for v in result["violations"]]


async def clipped(page: Page) -> list[str]:
    """The texts that do not fit where they stand."""
    found: list[str] = await page.evaluate(
        """[...document.querySelector('messaging-stats').shadowRoot.querySelectorAll('.number, dt, dd, td, th, h2')]
           .filter((node) => node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).display !== 'inline')
           .map((node) => node.textContent)"""
    )
    return found


# --- signing in and out ------------------------------------------------------------------------------------------


async def test_a_wrong_token_is_refused_with_its_reason_and_a_right_one_shows_the_figures(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(f"{double.url}/admin")
        token = page.get_by_label("Admin token")
        assert await token.evaluate("node => node === document.activeElement"), "typing can begin at once"
        await token.fill("nonsense")
        await token.press("Enter")
        await shows(page.get_by_role("alert"), "The token is not a signed JWT.")
        assert await token.get_attribute("aria-invalid") == "true", "an empty one is read as no"
        assert await page.locator("messaging-stats").count() == 0

        await token.fill(double.token(role="user"))
        await page.get_by_role("button", name="Sign in").click()
        await shows(page.get_by_role("alert"), "The token is good, but its role is not admin.")
        assert double.asked == 0, "nothing was asked without a sign-in"

        await token.fill(double.token())
        await token.press("Enter")
        await shows(figure(page, "active_connections"), "1,240")
        assert await page.get_by_label("Admin token").is_hidden()
        assert await page.locator("#token").input_value() == "", "the token does not stay in the form"
        assert await page.locator("#who").inner_text() != ""
        assert await seen.shifts() == []


@pytest.mark.parametrize("size", ["narrow", "phone", "desk"])
async def test_the_longest_reason_against_a_token_moves_nothing_in_the_form(
    browser: Browser, double: StatsDouble, size: str
) -> None:
    reason = "the token names a key (kid) that is not known here, or is not for RS256 or ES256 signatures"
    async with visit(browser, size=SIZES[size]) as seen:
        await seen.page.route("**/admin/sign-in", lambda route: route.fulfill(status=401, json={"detail": reason}))
        await seen.page.goto(f"{double.url}/admin")
        await seen.page.get_by_label("Admin token").fill("another's")
        await seen.page.keyboard.press("Enter")
        await shows(seen.page.get_by_role("alert"), f"{reason[0].upper()}{reason[1:]}.")
        assert await seen.shifts() == []


async def test_a_link_signs_in_by_itself_and_its_token_is_gone_from_the_address_and_from_going_back(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        await seen.page.goto("about:blank")
        await seen.page.goto(double.link())
        await shows(figure(seen.page, "active_connections"), "1,240")
        assert seen.page.url == f"{double.url}/admin"
        assert await seen.page.evaluate("history.length") == 2
        cookies = {cookie["name"]: cookie for cookie in await seen.context.cookies()}
        assert {(c["httpOnly"], c["sameSite"]) for c in cookies.values()} == {(True, "Strict")}
        assert await seen.page.evaluate("document.cookie") == ""
        assert await seen.page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
        assert not [url for url in seen.requests if "token" in url]


async def test_a_link_followed_on_the_open_page_signs_in_too(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        await seen.page.goto(f"{double.url}/admin")
        await seen.page.goto(double.link())  # only the fragment differs: the page is not loaded again
        await shows(figure(seen.page, "active_connections"), "1,240")
        assert "#" not in seen.page.url


async def test_a_bad_link_says_why_and_offers_the_form(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        await seen.page.goto(double.link(ttl=-60))
        await shows(seen.page.get_by_role("alert"), "The token has expired.")
        assert await seen.page.get_by_label("Admin token").is_visible()


async def test_after_a_reload_the_cookie_is_enough_and_after_signing_out_it_is_gone(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await page.reload()
        await well(page)
        await page.get_by_role("button", name="Sign out").click()
        await shows(page.locator("#why"), "You have signed out.")
        assert await seen.context.cookies() == []
        asked = double.asked
        await page.reload()
        assert await page.get_by_label("Admin token").is_visible()
        assert double.asked == asked, "whoever signed out asks nothing"


async def test_a_server_that_hangs_is_said_not_to_answer(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page, alert = seen.page, seen.page.get_by_role("alert")
        await page.add_init_script(
            "AbortSignal.timeout = ((real) => (ms) => real.call(AbortSignal, ms / 10))(AbortSignal.timeout)"
        )
        double.hanging = {"sign-in", "top", "connections"}
        await page.goto(double.link())
        await shows(alert, "The server does not answer. Try again.")
        await page.get_by_label("Admin token").fill(double.token())
        async with page.expect_event("requestfailed", lambda request: request.url.endswith("/sign-in")):
            await page.keyboard.press("Enter")
        await shows(alert, "The server does not answer. Try again.")
        double.hanging.remove("sign-in")
        await page.keyboard.press("Enter")
        await well(page)
        await page.get_by_label("User", exact=True).fill("ann")
        await page.keyboard.press("Enter")
        await shows(page.locator("#user-state"), "The server does not answer. Try again.")
        await shows(page.locator("#largest-note"), "Unknown: the server does not answer.")


@pytest.mark.parametrize("body", ["null", '"busy"', '{"detail": {"code": 1}}'])
async def test_a_link_that_a_gateway_answers_in_json_of_its_own_offers_the_form(
    browser: Browser, double: StatsDouble, body: str
) -> None:
    async with visit(browser) as seen:
        await seen.page.route(
            "**/admin/sign-in", lambda route: route.fulfill(status=503, content_type="application/json", body=body)
        )
        await seen.page.goto(double.link())
        await shows(seen.page.get_by_role("alert"), "The server is in trouble. Try again.")
        assert await seen.page.get_by_label("Admin token").is_visible()


async def test_whoever_could_not_be_signed_out_is_not_told_so(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await page.route("**/admin/sign-out", lambda route: route.fulfill(status=502, body="The proxy has no server."))
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_text("The proxy has no server.").wait_for()
        assert len(await seen.context.cookies()) == 1
        await page.go_back()
        await well(page)


async def test_when_the_token_expires_the_page_says_so_and_signing_in_again_goes_on(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await follow_link(seen, double, ttl=2)
        await page.locator(
            "#why", has_text=re.compile(r"^Your sign-in expired at \d\d:\d\d\. Sign in again")
        ).wait_for()
        assert await page.locator("messaging-stats").count() == 0
        asked = double.asked
        await page.get_by_label("Admin token").fill(double.token())
        await page.get_by_role("button", name="Sign in").click()
        await well(page)
        assert double.asked > asked


async def test_a_proxy_may_serve_everything_below_a_prefix(browser: Browser, double: StatsDouble) -> None:
    proxy = await double.behind("/ops/messaging")
    try:
        async with visit(browser) as seen:
            page = seen.page
            await page.goto(f"http://127.0.0.1:{proxy.addresses[0][1]}/ops/messaging/admin")
            await page.get_by_label("Admin token").fill(double.token())
            await page.keyboard.press("Enter")
            await shows(figure(page, "active_connections"), "1,240")
            await shows(page.locator("[data-rate=messages] .number"), "12.5")
            await page.reload()
            await well(page)
            await page.get_by_role("button", name="Sign out").click()
            await shows(page.locator("#why"), "You have signed out.")
            assert seen.complaints == []
    finally:
        await proxy.cleanup()


async def test_without_javascript_the_form_still_signs_in_and_says_what_is_wrong(
    browser: Browser, double: StatsDouble
) -> None:
    context = await browser.new_context(java_script_enabled=False)
    try:
        page = await context.new_page()
        await page.goto(f"{double.url}/admin")
        await page.get_by_label("Admin token").fill("nonsense")
        await page.get_by_role("button", name="Sign in").click()
        await shows(page.get_by_role("alert"), "The token is not a signed JWT.")
        await page.get_by_label("Admin token").fill(double.token())
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url(f"{double.url}/admin")
        assert await page.get_by_role("link", name="as JSON").is_visible()
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url(f"{double.url}/admin")
        assert await page.get_by_label("Admin token").is_visible()
    finally:
        await context.close()


# --- the figures -------------------------------------------------------------------------------------------------


async def test_every_figure_is_shown_as_the_server_says_it(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        for name in (*LIVE, *STORED):
            await shows(figure(page, name), f"{FIGURES[name]:,}")
        for window, count in FIGURES["active_users"].items():
            await shows(page.locator(f"[data-active='{window}']"), f"{count:,}")
        await shows(page.locator("[data-rate=messages] .number"), "12.5")
        await shows(page.locator("[data-rate=deliveries] .number"), "190")
        await shows(page.locator("[data-rate=joins] .number"), "1.4")
        await shows(page.locator("[data-rate=connects] .number"), "0.40")
        await shows(page.locator("[data-closed='client.last_minute']"), "18")
        await shows(page.locator("[data-closed='client.last_hour']"), "1,077")
        await shows(page.locator("[data-closed='internal_error.last_hour']"), "1")
        await shows(page.locator("[data-closed='shutdown.last_hour']"), "0")
        await shows(page.locator("[data-health=database]"), "up")
        assert re.fullmatch(r"[2-4] s", await page.locator("[data-age=database]").inner_text())


async def test_a_change_is_seen_at_the_next_poll_and_polls_are_a_refresh_time_apart(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, refresh=1)
        asked = double.asked
        double.figures["active_connections"] = 1241
        await shows(figure(page, "active_connections"), "1,241")
        assert double.asked - asked <= 2, "one poll may have been under way"
        assert await page.title() == "1,241 connected · Messaging"
        began = await page.evaluate(
            "performance.getEntriesByType('resource').filter((r) => r.name.endsWith('/stats')).map((r) => r.startTime)"
        )
        assert all(later - earlier > 990 for earlier, later in itertools.pairwise(began))


@pytest.mark.parametrize("size", ["narrow", "desk"])
async def test_nothing_moves_complains_or_asks_elsewhere_while_figures_of_any_size_and_outages_come_and_go(
    browser: Browser, double: StatsDouble, size: str
) -> None:
    async with visit(browser, size=SIZES[size]) as seen:
        page = await sign_in_by_link(seen, double, refresh=0.25)
        down = {"up": False, "error": "the database cannot be reached: connection refused"}
        for value in (0, 7, 99_999, 123_456, None, 10_000_000, 3):
            double.figures.update(dict.fromkeys((*LIVE, *STORED), value))
            double.figures["active_users"] = dict.fromkeys(("1d", "7d", "30d"), value)
            double.figures["database"] = down if value is None else {"up": True, "error": None}
            await shows(figure(page, "registered_users"), "unknown" if value is None else f"{value:,}")
            assert await clipped(page) == []
        double.fail = 500
        await page.locator("messaging-stats .lost").wait_for()
        double.fail = None
        await well(page)
        assert await seen.shifts() == []
        assert seen.hosts() == {urlsplit(double.url).netloc}
        assert [c for c in seen.complaints if "500" not in c] == []


async def test_what_is_not_known_is_called_unknown_with_its_reason(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        double.figures.update(dict.fromkeys(STORED), active_users=dict.fromkeys(("1d", "7d", "30d")))
        double.figures["database"] = {"up": False, "error": "the database does not answer"}
        double.figures["inaccurate"] = dict.fromkeys(("conversations", "days", "triggers"))
        await told(page, r"Database down since [\d:]{8}: every send is refused\. The database does not answer\.")
        for name in STORED:
            await shows(figure(page, name), "unknown")
        for window in ("1d", "7d", "30d"):
            await shows(page.locator(f"[data-active='{window}']"), "unknown")
        await shows(page.locator(".sums .note"), "Unknown: the database does not answer.")
        await shows(page.locator("[data-health=database]"), "down")
        await shows(page.locator("[data-health=checked]"), "unknown")  # they may have been recounted
        await shows(page.locator(".well .note"), "The database does not answer.")
        await shows(figure(page, "active_connections"), "1,240")

        double.figures.update(dict.fromkeys(LIVE), scope="cluster", nodes=None, error="the broker cannot be reached")
        for name in LIVE:
            await shows(figure(page, name), "unknown")
        await shows(page.locator(".now header p"), "Unknown: the broker cannot be reached")


async def test_a_cluster_is_named_where_its_figures_are_and_rates_stay_this_nodes(
    browser: Browser, double: StatsDouble
) -> None:
    double.figures.update(scope="cluster", nodes=3, cluster={"up": True, "as_of": moment(time.time() - 40)})
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await shows(page.locator(".now header p"), "whole cluster, 3 nodes · last hour")
        await shows(page.locator(".speed header p"), "this node · last hour")
        await shows(page.locator("[data-health=cluster]"), "3 nodes")
        assert re.fullmatch(r"4\d s", await page.locator("[data-age=cluster]").inner_text())
        double.figures["cluster"] = {"up": False, "error": "the broker cannot be reached"}
        await shows(page.locator("[data-health=cluster]"), "not seen")
        await shows(page.locator(".well .note"), "The broker cannot be reached.")


async def test_pointing_at_a_line_tells_the_value_of_that_moment_on_every_line(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, refresh=60)
        await shows(page.locator("[data-figure=active_connections] .range"), "1,240 to 1,500")
        await page.locator("[data-figure=active_connections] svg").hover()
        for name, value in (("active_connections", "1,240"), ("typing_users", "17")):
            text = await page.locator(f"[data-figure={name}] .range").inner_text()
            assert re.fullmatch(rf"\d\d:\d\d:\d\d · {value}", text)
        await page.mouse.move(0, 0)
        await shows(page.locator("[data-figure=active_connections] .range"), "1,240 to 1,500")


async def test_the_keyboard_reads_the_lines_as_pointing_does(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, refresh=60)
        await shows(page.locator("[data-figure=active_connections] .range"), "1,240 to 1,500")  # the lines are there
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        slider = page.get_by_role("slider", name="Moment on the lines")
        assert await slider.evaluate("node => node.getRootNode().activeElement === node")
        await page.keyboard.press("ArrowLeft")
        read = await page.locator("[data-figure=active_connections] .range").inner_text()
        assert re.fullmatch(r"\d\d:\d\d:\d\d · 1,240", read)
        assert await slider.get_attribute("aria-valuetext") == read
        await page.keyboard.press("Home")
        assert await page.locator("[data-figure=typing_users] .range").inner_text() != read
        await page.keyboard.press("Tab")
        await shows(page.locator("[data-figure=active_connections] .range"), "1,240 to 1,500")
        assert await seen.shifts() == []


async def test_the_keyboards_slider_is_seen_beside_the_heading_on_a_wall_of_4k(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser, size=(3840, 2160)) as seen:
        page = await sign_in_by_link(seen, double, refresh=60)
        slider = page.get_by_role("slider", name="Moment on the lines")
        await slider.focus()
        await page.keyboard.press("ArrowLeft")
        box = await slider.bounding_box()
        heading = await page.get_by_role("heading", name="Now").evaluate(
            """node => { const range = document.createRange(); range.selectNodeContents(node);
                         return range.getBoundingClientRect().right; }"""
        )
        size = await page.locator("messaging-stats .panel").evaluate("n => parseFloat(getComputedStyle(n).fontSize)")
        assert box is not None
        assert box["x"] > heading, "it does not cover the heading"
        assert box["height"] > 0.9 * size, "it is as large as the text, not 13 pixels"
        assert await slider.evaluate("node => getComputedStyle(node).opacity") == "1"
        assert re.search(r" · 1,240$", await page.locator("[data-figure=active_connections] .range").inner_text())


async def test_the_highest_of_today_stands_below_each_line_with_its_time(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        peak = double.history.answer()["peaks"]["figures"]["active_connections"]
        at = datetime.fromisoformat(peak["at"]).strftime("%H:%M")
        await shows(page.locator("[data-peak=active_connections]"), f"top 1,500, {at}")
        double.figures["active_connections"] = 1700
        await page.locator("[data-peak=active_connections]", has_text="top 1,700, ").wait_for()


async def test_refusals_failed_sends_and_the_share_in_time_are_told_by_reason(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await shows(page.locator("[data-quality=delivered_in_time] .number"), "99.98%")
        await shows(page.locator("[data-quality=sends_failed] .number"), "4")
        await shows(page.locator("[data-quality=connections_refused] .number"), "134")
        await shows(page.locator("[data-quality=commands_refused] .number"), "1,204")
        for span, value in (("last_minute", "1"), ("last_hour", "59"), ("since_start", "131")):
            await shows(page.locator(f"[data-refused_connections='unauthenticated.{span}']"), value)
        for span, value in (("last_minute", "12"), ("last_hour", "718"), ("since_start", "1,200")):
            await shows(page.locator(f"[data-refused_commands='rate_limited.{span}']"), value)
        await shows(page.locator("[data-health=server]"), "version 0.4.0")
        await shows(page.locator("[data-age=uptime]"), "2 d")
        double.figures.update(delivered_in_time=None, sends_failed=0)
        await shows(page.locator("[data-quality=delivered_in_time] .number"), "none yet")
        assert await clipped(page) == []


async def test_counts_by_reason_and_lines_say_the_same_span(browser: Browser, double: StatsDouble) -> None:
    double.history.record(0, Sample())  # so far from all others that it begins anew
    for i in range(29):
        double.history.record(time.time() - 10 * (28 - i), Sample(active_connections=5))
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await shows(page.locator("messaging-stats .now header p"), "this node · last 5 min")
        assert await page.locator("messaging-stats .closed thead th").last.inner_text() == "5 min"


async def test_reasons_and_figures_of_any_size_are_whole_whatever_the_width_of_the_window(
    browser: Browser, double: StatsDouble
) -> None:
    """Also where columns are narrowest: right above each width at which there is one more of them."""
    refused = double.figures["refused"]
    double.figures.update(dict.fromkeys(LIVE, 123_456), **dict.fromkeys(STORED, 1_234_567_890))
    double.figures["active_users"] = dict.fromkeys(("1d", "7d", "30d"), 12_345_678)
    double.figures["refused"] = {what: dict.fromkeys(reasons, 999_999) for what, reasons in refused.items()}
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, refresh=60)
        for width in range(320, 2000, 8):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await clipped(page) == [], width


# --- days ----------------------------------------------------------------------------------------------------------


async def test_which_days_are_shown_is_seen_where_the_system_chooses_the_colours(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, refresh=60)
        await page.emulate_media(forced_colors="active")
        looks = {
            name: await page.get_by_role("button", name=name).evaluate(
                "button => { const s = getComputedStyle(button); return [s.color, s.backgroundColor, s.borderColor]; }"
            )
            for name in ("30 days", "90 days", "CSV")
        }
        assert looks["30 days"] != looks["90 days"] == looks["CSV"]


async def test_the_days_are_a_picture_of_thirty_or_ninety_that_can_be_pointed_at_and_read_by_keyboard(
    browser: Browser, double: StatsDouble
) -> None:
    today = datetime.now(UTC).date()
    named = f"{today:%b} {today.day}"
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, refresh=60)
        messages, people = (page.locator(f"[data-days={name}]") for name in ("messages", "active_users"))
        await shows(messages, f"peak 40,210 on {named}")
        await shows(people, f"peak 1,200 on {named}")
        bars = page.locator("messaging-stats .days .bars").first
        assert (await bars.get_attribute("d") or "").count("M") == 30
        await page.get_by_role("button", name="90 days").click()
        assert (await bars.get_attribute("d") or "").count("M") == 90
        unknown = page.locator("messaging-stats .days .bars").nth(1)
        assert (await unknown.get_attribute("d") or "").count("M") == 60, "a day that is not known has no bar"
        await page.locator("messaging-stats .days svg").first.hover(position={"x": 1, "y": 5})
        first = today - timedelta(days=89)
        await shows(messages, f"{first:%b} {first.day} · 0")
        await shows(people, f"{first:%b} {first.day} · unknown")
        await page.mouse.move(0, 0)
        slider = page.get_by_role("slider", name="Day on the bars")
        await slider.focus()
        await page.keyboard.press("ArrowLeft")
        await shows(messages, f"{today - timedelta(days=1):%b} {(today - timedelta(days=1)).day} · 39,910")
        assert "39,910" in (await slider.get_attribute("aria-valuetext") or "")
        assert await seen.shifts() == []


async def test_days_on_which_nothing_happened_have_no_peak(browser: Browser, double: StatsDouble) -> None:
    double.days = lambda ago: (0, 0 if ago == 0 else None)
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, refresh=60)
        for name in ("messages", "active_users"):
            await shows(page.locator(f"[data-days={name}]"), "none yet")


async def test_days_that_cannot_be_read_are_unknown_with_the_reason_and_come_back(
    browser: Browser, double: StatsDouble
) -> None:
    double.failing = {"days"}
    async with visit(browser) as seen:
        await seen.page.clock.install()
        page = await sign_in_by_link(seen, double)
        note = page.locator("messaging-stats .days .note")
        await shows(note, "Unknown: the database cannot be reached.")
        for name in ("messages", "active_users"):
            await shows(page.locator(f"[data-days={name}]"), "unknown")
        double.failing = set()
        await page.clock.fast_forward(31_000)
        await shows(note, "UTC days; a gap is a day of which it is not known")
        double.failing = {"days"}
        await page.clock.fast_forward(301_000)
        await note.filter(
            has_text=re.compile(r"^Not read since \d\d:\d\d:\d\d: the database cannot be reached\.$")
        ).wait_for()
        assert "peak" in await page.locator("[data-days=messages]").inner_text(), "what was known stays to be seen"
        assert await seen.shifts() == []


async def test_an_hour_that_cannot_be_read_is_unknown_with_the_reason(browser: Browser, double: StatsDouble) -> None:
    double.failing = {"history"}
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await shows(page.locator("[data-health=lines]"), "unknown")
        await shows(page.locator("[data-rate=messages] .number"), "unknown")
        await shows(page.locator("messaging-stats .well .note"), "History: The database cannot be reached.")


async def test_what_a_proxy_answers_in_the_place_of_the_server_is_told_as_such(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        for path in ("stats/history", "stats/days*"):
            await seen.page.route(f"**/v1/messaging/{path}", lambda route: route.fulfill(body="<p>Sign in"))
        for path in ("conversations/top*", "users/connections*"):
            await seen.page.route(f"**/v1/messaging/{path}", lambda route: route.fulfill(status=502, body="<p>Bad"))
        page = await sign_in_by_link(seen, double)
        no_json = (
            rf"The answer from {double.url}/\S+ is no JSON: a proxy or the page itself answers there \(status 200\)\."
        )
        for place, pattern in ((".days .note", f"Unknown: {no_json}"), (".well .note", f"History: {no_json}")):
            await page.locator(f"messaging-stats {place}", has_text=re.compile(f"^{pattern}$")).wait_for()
        await shows(page.locator("#largest-note"), "Unknown: answer 502.")
        await page.get_by_label("User", exact=True).fill("ann")
        await page.keyboard.press("Enter")
        await shows(page.locator("#user-state"), "Answer 502.")


@pytest.mark.parametrize("days", [30, 90])
async def test_the_days_can_be_taken_along_as_csv(browser: Browser, double: StatsDouble, days: int) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await page.get_by_role("button", name=f"{days} days").click()
        async with page.expect_download() as download:
            await page.get_by_role("button", name="CSV").click()
        file = await download.value
        assert file.suggested_filename == f"messaging-{days}-days.csv"
        lines = (await asyncio.to_thread((await file.path()).read_text)).splitlines()
        assert lines[0] == "day,messages,active_users"
        assert len(lines) == days + 1
        assert lines[-1] == f"{datetime.now(UTC).date()},40210,1200"
        assert seen.complaints == []


# --- is anything wrong, and since when -----------------------------------------------------------------------------

DOWN = {"up": False, "writable": False, "error": "the database cannot be reached"}
TROUBLES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "the database is down": (
        {"database": DOWN},
        r"Database down since [\d:]{8}: every send is refused\. The database cannot be reached\.",
        "bad", "Database down",
    ),
    "it takes no writes": (
        {"database": {"up": True, "writable": False, "error": "the database is read-only"}},
        r"Database takes no writes: every send is refused\. The database is read-only\.", "bad", "Database read-only",
    ),
    "totals are wrong": (
        {"inaccurate": {"conversations": 3, "days": 0, "triggers": 0}},
        r"Stored totals are wrong: run messaging-exporter verify --repair\.", "warn", "Totals wrong",
    ),
    "the cluster is not seen": (
        {"scope": "cluster", "cluster": {"up": False, "as_of": None, "error": "the broker cannot be reached"}},
        r"The other nodes are not seen: the broker cannot be reached\.", "bad", "Nodes not seen",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("figures", "line", "level", "title"), TROUBLES.values(), ids=TROUBLES.keys())
async def test_the_first_line_says_what_is_wrong_and_the_title_follows(
    browser: Browser, double: StatsDouble, figures: dict[str, Any], line: str, level: str, title: str
) -> None:
    double.figures.update(figures)
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(double.link().replace("/admin", "/admin?refresh=0.5"))
        await told(page, line)
        await page.locator(f"messaging-stats .status.{level}").wait_for()
        await eventually(lambda: _titled(page, f"{title} · 1,240 connected · Messaging"), "the title follows")
        double.figures.pop("cluster", None)
        double.figures.update({**FIGURES, "database": {"up": True, "writable": True, "error": None}})
        await well(page)
        await eventually(lambda: _titled(page, "1,240 connected · Messaging"), "the title is as before")
        double.figures.update(figures)
        since = r" since \d\d:\d\d:\d\d"
        again = line if "since" in line else re.sub(r"(?=[:.](?: |$))", "XX", line, count=1)
        await told(page, again.replace("XX", since) if "XX" in again else line)
        assert await seen.shifts() == []


async def test_of_two_troubles_each_reason_is_told_once_in_words_of_its_own(
    browser: Browser, double: StatsDouble
) -> None:
    double.figures.update({**TROUBLES["the cluster is not seen"][0], "database": DOWN})
    async with visit(browser) as seen:
        await seen.page.goto(double.link())
        await told(seen.page, TROUBLES["the database is down"][1])
        note = await seen.page.locator("messaging-stats .well .note").inner_text()
    assert note == "The database cannot be reached. The other nodes are not seen: the broker cannot be reached."


@pytest.mark.parametrize(
    ("code", "figures"),
    [("database_read_only", TROUBLES["it takes no writes"][0]), ("totals_wrong", TROUBLES["totals are wrong"][0])],
)
async def test_what_began_before_the_page_was_opened_is_told_with_since_when(
    browser: Browser, double: StatsDouble, code: str, figures: dict[str, Any]
) -> None:
    began = datetime.now(UTC) - timedelta(minutes=7)
    double.figures.update(figures)
    double.figures["since"] = {code: began.isoformat(), "at_capacity": None}
    async with visit(browser) as seen:
        await seen.page.goto(double.link())
        await told(seen.page, rf".* since {began.astimezone():%H:%M:%S}: .*")


async def test_what_the_last_minute_says_is_told_with_since_when(browser: Browser, double: StatsDouble) -> None:
    now = time.time()
    for i in range(30):  # five minutes of which the last two are bad
        bad = max(0, i - 17)
        counters = {"sends_failed": 3 * bad, "delivered": 100 * i, "delivered_in_time": 100 * i - 20 * bad}
        double.history.record(now - 10 * (30 - i), Sample(active_connections=5, **counters))
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(double.link())
        line = await told(page, r"Sends fail since [\d:]{8}\.")
        began = datetime.fromtimestamp(now - 120, UTC)
        shown = datetime.combine(began.date(), datetime.strptime(line[-9:-1], "%H:%M:%S").time(), UTC)
        assert abs((shown - began).total_seconds()) <= 20
        await page.locator("messaging-stats .well .note", has_text="Deliveries are late since").wait_for()


async def test_what_is_bad_comes_before_what_is_late(browser: Browser, double: StatsDouble) -> None:
    for i in range(12):
        late = Sample(active_connections=5, delivered=100 * i, delivered_in_time=80 * i)
        double.history.record(time.time() - 10 * (12 - i), late)
    error = "the broker cannot be reached"
    double.figures["inaccurate"] = {"conversations": 3, "days": 0, "triggers": 0}
    double.figures.update(scope="cluster", cluster={"up": False, "as_of": None, "error": error})
    async with visit(browser) as seen:
        await seen.page.goto(double.link())
        await told(seen.page, rf"The other nodes are not seen: {error}\.")
        await seen.page.locator("messaging-stats .status.bad").wait_for()
        notes = seen.page.locator("messaging-stats .well .note", has_text="Deliveries are late since")
        await notes.filter(has_text="Stored totals are wrong").wait_for()


async def test_what_the_hour_says_of_the_process_before_a_restart_is_not_told_of_the_one_after(
    browser: Browser, double: StatsDouble
) -> None:
    for i in range(3):
        double.history.record(time.time() - 10 * (3 - i), Sample(active_connections=5, sends_failed=3 * i))
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(double.link().replace("/admin", "/admin?refresh=0.5"))
        await told(page, r"Sends fail since [\d:]{8}\.")
        await double.stop()
        await told(page, r"Server lost since .*")
        double.failing = {"history"}  # the page still has the hour of before
        double.figures["started_at"] = moment(time.time())
        await double.start()
        await told(page, r"All is well\. Up since [\d:]{8}: the server has just started\.")


async def test_of_observed_databases_the_first_line_names_the_one_that_is_not_seen(
    browser: Browser, double: StatsDouble
) -> None:
    for name in ("version", "started_at", "refused", "sends_failed", "delivered_in_time", "inaccurate"):
        double.figures.pop(name)
    source = {"name": "synapse", "up": False, "as_of": moment(time.time() - 90), "error": "it cannot be reached"}
    double.figures.update(
        dict.fromkeys(LIVE), scope="source", nodes=None, sources=[{"name": "old", "up": True}, source]
    )
    double.figures["error"] = "a database does not tell who is connected now"
    double.figures["database"] = {"up": False, "error": "it cannot be reached"}
    async with visit(browser) as seen:
        await seen.page.goto(double.link())
        await told(seen.page, r"The database of synapse is not seen since [\d:]{8}: it cannot be reached\.")
        assert await seen.page.locator("#tools").is_hidden(), "there is no conversation to list"
        assert seen.complaints == []


async def test_of_observed_databases_the_first_line_names_the_one_whose_counters_are_wrong(
    browser: Browser, double: StatsDouble
) -> None:
    for name in ("version", "started_at", "refused", "sends_failed", "delivered_in_time", "inaccurate"):
        double.figures.pop(name)
    good = {"up": True, "as_of": moment(time.time()), "error": None, **{name: FIGURES[name] for name in STORED}}
    right = {"name": "right", "kind": "custom", "inaccurate_conversations": 0, **good}
    wrong = {"name": "wrong", "kind": "custom", "inaccurate_conversations": 1_002, **good}
    double.figures.update(dict.fromkeys(LIVE), scope="source", nodes=None, sources=[right, wrong])
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(double.link().replace("/admin", "/admin?refresh=0.5"))
        await told(page, r"Counters in the database of wrong are wrong \(conversations: 1,002\)\.")
        await page.locator("messaging-stats .status.warn").wait_for()
        await eventually(lambda: _titled(page, "Counters wrong · Messaging"), "the title follows")
        notes = page.locator("messaging-stats .sources .note")
        await shows(
            notes.nth(1),
            r"Counters differ from a recount (conversations: 1,002): see messaging-exporter observe --check.",
        )
        await shows(notes.first, "")
        wrong |= {"up": False, "error": "the database does not answer"}
        await told(page, r"The database of wrong is not seen since [\d:]{8}: the database does not answer\.")
        wrong |= good | {"inaccurate_conversations": None}
        await told(page, r"All is well\.")


@pytest.mark.parametrize("size", ["narrow", "tablet", "desk"])
async def test_of_observed_databases_one_that_is_lost_moves_none_of_the_others(
    browser: Browser, double: StatsDouble, size: str
) -> None:
    for name in ("version", "started_at", "refused", "sends_failed", "delivered_in_time", "inaccurate"):
        double.figures.pop(name)
    good = {"up": True, "as_of": moment(time.time()), "error": None, **{name: FIGURES[name] for name in STORED}}
    sources = [{"name": f"chat-{n}.example.org", "kind": "synapse", **good} for n in range(3)]
    double.figures.update(dict.fromkeys(LIVE), scope="source", nodes=None, sources=sources)
    async with visit(browser, size=SIZES[size]) as seen:
        page = await sign_in_by_link(seen, double)
        await page.locator("messaging-stats .sources .age", has_text="as of ").last.wait_for()
        before = len(await seen.shifts())  # what is not of such a server has gone
        unknown = dict.fromkeys(STORED)
        sources[0] |= {"up": False, "error": "there is no database file at that path", **unknown}
        sources[1] |= {"up": False, "error": LONG, "as_of": moment(time.time() - 200_000), **unknown}
        double.figures["database"] = {"up": False, "error": LONG}
        notes = page.locator("messaging-stats .sources .note")
        await shows(notes.first, "There is no database file at that path.")
        await told(page, r"The database of chat-0\.example\.org is not seen since .*")
        sources[0] |= good
        await told(page, rf"The database of chat-1\.example\.org is not seen since .*{LONG}\.")
        assert (await seen.shifts())[before:] == []
        assert await opens(notes.nth(1))


@pytest.mark.parametrize("size", ["reflow", "narrow", "tablet", "desk", "hd"])
async def test_of_observed_databases_totals_of_ten_digits_stand_apart(
    browser: Browser, double: StatsDouble, size: str
) -> None:
    source = {"name": "chat", "kind": "synapse", "up": True, "as_of": moment(time.time()), "error": None}
    sources = [source | dict.fromkeys(STORED, 2_000_000_000)]
    double.figures.update(dict.fromkeys(LIVE), scope="source", nodes=None, sources=sources)
    async with visit(browser, size=SIZES[size]) as seen:
        page = await sign_in_by_link(seen, double)
        await shows(page.locator("messaging-stats .sources dd").first, "2,000,000,000")
        assert [text for text in await clipped(page) if text == "2,000,000,000"] == []


async def test_a_restart_is_told(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        assert re.fullmatch(r"All is well\. Up since \w+ \d+, \d\d:\d\d\.", await status(page).inner_text())
        double.figures["started_at"] = moment(time.time())
        await told(page, r"All is well\. Up since [\d:]{8}: the server has just started\.")
        dot = "(name) => getComputedStyle(document.querySelector(name).shadowRoot.querySelector('.dot')).{}"
        assert await page.evaluate(dot.format("backgroundColor"), "messaging-stats") == "rgb(24, 121, 78)"  # good
        assert await page.evaluate(dot.format("borderRadius"), "messaging-stats") == "50%"
        await eventually(lambda: _titled(page, "Just started · 1,240 connected · Messaging"), "the title tells it")
        await double.stop()
        await told(page, r"Server lost since .*")
        await eventually(lambda: _titled(page, "Server lost · Messaging"), "how many are there is not known")
        await double.start()


async def _titled(page: Page, title: str) -> bool:
    return await page.title() == title


# --- conversations and users ---------------------------------------------------------------------------------------


async def test_the_largest_and_the_busiest_conversations_are_listed(browser: Browser, double: StatsDouble) -> None:
    double.top["largest"][0]["id"] = "<b>room</b> " + "x" * 100
    async with visit(browser, size=(360, 800)) as seen:
        page = await sign_in_by_link(seen, double)
        first = page.locator("#largest tbody tr").first
        await shows(first.locator("th"), "<b>room</b> " + "x" * 100)
        assert await first.locator("td").all_inner_texts() == ["49", "90,000"]
        assert await page.locator("#busiest tbody tr").all_inner_texts() == ["deploys\t410", *["–\t–"] * 4]
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        assert await seen.shifts() == []


@pytest.mark.parametrize("size", SIZES)
async def test_counts_of_the_largest_conversations_are_whole_and_no_name_reaches_beyond_its_cell(
    browser: Browser, double: StatsDouble, size: str
) -> None:
    counts = [1_234_567, 12_345_678, 123_456_789, 1_234_567_890, 9_999_999_999]
    double.top["largest"] = [{"id": "x" * 128, "members": n, "total_messages": n} for n in counts]
    double.top["busiest"] = [{"id": "x" * 128, "messages": n} for n in counts]
    async with visit(browser, size=SIZES[size]) as seen:
        page = await sign_in_by_link(seen, double)
        await shows(page.locator("#largest tbody td").last, "9,999,999,999")
        cut = await page.evaluate(
            "[...document.querySelectorAll('#tools td, #tools th:not(:first-child)')]"
            ".filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.textContent)"
        )
        assert cut == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_what_was_found_of_a_user_a_minute_ago_is_told_with_its_time(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        await seen.page.clock.install()
        page = await sign_in_by_link(seen, double)
        said = page.locator("#user-state")
        await page.get_by_role("textbox", name="User").fill("ann")
        await page.get_by_role("button", name="Look up").click()
        await said.filter(has_text=re.compile("^ann is connected since")).wait_for()
        await page.clock.run_for(62_000)
        await said.filter(has_text=re.compile(r"^At \d\d:\d\d: ann is connected since")).wait_for()
        await page.get_by_role("button", name="Look up").click()
        await said.filter(has_text=re.compile("^ann is connected since")).wait_for()
        assert await seen.shifts() == []


async def test_a_name_turns_nothing_around_but_itself(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await page.get_by_role("textbox", name="User").fill("ann\u2069\u202egnissim")
        await page.get_by_role("button", name="Look up").click()
        said = page.locator("#user-state", has_text="is connected since")
        await said.wait_for()
        text = await said.text_content() or ""
        assert text.startswith("anngnissim is connected"), "the rest would be read backwards"


async def test_conversations_that_cannot_be_listed_are_unknown_with_the_reason_and_old_ones_are_said_to_be_old(
    browser: Browser, double: StatsDouble
) -> None:
    double.failing = {"top"}
    async with visit(browser) as seen:
        await seen.page.clock.install()
        page = await sign_in_by_link(seen, double)
        first = {table: page.locator(f"#{table} tbody tr").first for table in ("largest", "busiest")}
        notes = {table: page.locator(f"#{table}-note") for table in first}
        for table in first:
            await shows(first[table].locator("th"), "unknown")
            await shows(notes[table], "Unknown: the database cannot be reached.")

        double.failing = set()
        double.top.update(largest=None, error="the database cannot be reached", busiest=[], undercounted_by=3)
        await page.clock.fast_forward(61_000)
        await shows(first["busiest"].locator("th"), "none yet")
        await shows(notes["busiest"], "Each may have up to 3 more.")
        await shows(notes["largest"], "Unknown: the database cannot be reached.")

        double.top.update(largest=[{"id": "room 1", "members": 4, "total_messages": 9}], error=None)
        await page.clock.fast_forward(61_000)
        await shows(notes["largest"], "Read once a minute.")
        assert await first["largest"].locator("td").all_inner_texts() == ["4", "9"]

        await double.stop()
        old = re.compile(r"^Not read since \d\d:\d\d: the server does not answer\.$")
        await page.clock.run_for(2_000)
        await notes["largest"].filter(has_text=old).wait_for()
        assert await page.locator("#largest[data-old]").count() == 1
        assert await first["largest"].locator("td").all_inner_texts() == ["4", "9"], "what was known stays to be seen"
        await double.start()
        await page.clock.run_for(12_000)
        await shows(notes["largest"], "Read once a minute.")
        assert await page.locator("[data-old]").count() == 0
        assert await seen.shifts() == []


async def test_lists_from_before_a_page_was_seen_again_or_signed_in_again_are_read_anew(
    browser: Browser, double: StatsDouble
) -> None:
    hide = """(hidden) => {
        Object.defineProperty(document, 'hidden', { configurable: true, value: hidden });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    async with visit(browser) as seen:
        await seen.page.clock.install()
        page = await sign_in_by_link(seen, double)
        first = page.locator("#largest tbody th").first
        await shows(first, "room 1")
        await page.evaluate(hide, True)
        double.top["largest"][0]["id"] = "new"
        await page.clock.run_for(61_000)
        assert await first.text_content() == "room 1", "nobody sees it: nothing is asked"
        await page.evaluate(hide, False)
        await shows(first, "new")
        await page.get_by_role("button", name="Sign out").click()
        await shows(page.locator("#why"), "You have signed out.")
        double.top["largest"][0]["id"] = "newer"
        await page.get_by_label("Admin token").fill(double.token())
        await page.keyboard.press("Enter")
        await shows(first, "newer")


async def test_a_user_can_be_looked_up_and_disconnected(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await page.get_by_label("User", exact=True).fill("ann/é")
        await page.keyboard.press("Enter")
        said = page.locator("#user-state")
        await page.get_by_role("button", name="Disconnect").wait_for()
        assert re.fullmatch(r"ann/é is connected since \d\d:\d\d, on 2 devices\.", await said.inner_text())
        await page.get_by_role("button", name="Disconnect").click()
        await shows(said, "Disconnected. ann/é is not connected.")
        assert double.disconnected == ["ann/é"]
        assert await page.get_by_role("button", name="Disconnect").is_hidden()
        await page.locator("#user:focus").wait_for()  # the keyboard goes on where it was
        await double.stop()
        await page.get_by_role("button", name="Look up").click()
        await shows(said, "The server does not answer. Try again.")
        await double.start()


async def test_a_user_of_a_cluster_is_on_several_nodes_and_one_that_does_not_answer_is_named(
    browser: Browser, double: StatsDouble
) -> None:
    opened_at = ["2026-11-22T13:00:00Z", "2026-11-22T13:00:01Z", "2026-11-22T13:00:02Z"]
    nodes = [
        {"name": "web-1:8765", "connections": 2, "opened_at": opened_at[:2], "error": None},
        {"name": "web-2:8765", "connections": 1, "opened_at": opened_at[2:], "error": None},
        {"name": "web-3:8765", "connections": 0, "opened_at": [], "error": None},
    ]
    double.whereabouts = {"scope": "cluster", "connections": 3, "opened_at": opened_at, "nodes": nodes}
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        said, button = page.locator("#user-state"), page.get_by_role("button", name="Disconnect")
        await page.get_by_label("User", exact=True).fill("ann")
        await page.keyboard.press("Enter")
        await button.wait_for()
        assert (await said.inner_text()).endswith(", on 3 devices (web-1:8765: 2, web-2:8765: 1).")

        nodes[1] |= {"connections": None, "opened_at": None, "error": "it did not answer within 1 s"}
        error = "not known of web-2:8765"
        double.whereabouts |= {"connections": None, "since": None, "error": error, "opened_at": opened_at[:2]}
        await page.get_by_role("button", name="Look up").click()
        await page.locator("#user-state[data-bad]").wait_for()
        assert (await said.inner_text()).endswith(" or before, on at least 2 devices. Not known of web-2:8765.")

        double.may_disconnect = False
        await button.click()
        await shows(said, "0 connections were closed, perhaps not all: not known of web-2:8765; try again.")
        double.whereabouts |= {"connected": None, "opened_at": []}
        await page.get_by_role("button", name="Look up").click()
        await shows(said, "ann is perhaps connected. Not known of web-2:8765.")
        double.may_disconnect = True
        double.whereabouts = {}
        await button.click()  # it is still offered: whoever is not known may be told again
        await shows(said, "Disconnected. ann is not connected.")


@pytest.mark.parametrize("name", [".", "..", "a/b", "%2F", "?x=1#y", "<b>", "😀", "שלום", "x" * 300])
async def test_whoever_has_an_odd_name_is_asked_about_by_it(browser: Browser, double: StatsDouble, name: str) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        field = page.get_by_label("User", exact=True)
        await field.fill(name)
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Disconnect").click()
        said = page.locator("#user-state")
        await said.get_by_text("Disconnected.").wait_for()
        assert (await said.inner_text()).replace("\u2068", "").replace("\u2069", "") == (
            f"Disconnected. {name} is not connected."
        )
        assert double.disconnected[-1] == name


async def test_what_is_shown_of_a_user_goes_when_another_is_typed_or_none(
    browser: Browser, double: StatsDouble
) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        field, said = page.get_by_label("User", exact=True), page.locator("#user-state")
        for rest in ("annb", ""):
            await field.fill("ann")
            await page.keyboard.press("Enter")
            await page.get_by_role("button", name="Disconnect").wait_for()
            await field.fill(rest)
            await shows(said, "")
            assert await page.get_by_role("button", name="Disconnect").is_hidden()
        await page.get_by_role("button", name="Look up").click()
        await shows(said, "Which user? Type their name, as in the token’s sub.")


async def test_an_answer_about_one_user_that_comes_late_says_and_offers_nothing_below_the_next(
    browser: Browser, double: StatsDouble
) -> None:
    held = asyncio.Event()

    async def late(route: Route) -> None:
        if route.request.method == "DELETE":
            await held.wait()
            await route.fulfill(status=503, json={"detail": "not everywhere"})
        else:
            await route.continue_()

    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        await page.route("**/users/connections**", late)
        field, button = page.get_by_label("User", exact=True), page.get_by_role("button", name="Disconnect")
        await field.fill("ann")
        await page.keyboard.press("Enter")
        await button.click()
        await field.fill("bob")
        async with page.expect_response(lambda response: response.status == 503) as answer:
            held.set()
        await (await answer.value).finished()
        await page.evaluate("new Promise((resolve) => setTimeout(resolve))")  # what the answer did is done
        assert await page.locator("#user-state").text_content() == ""
        assert await button.is_hidden(), "it would disconnect ann"


# --- the end of a sign-in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [360, 704, 820, 1280])
async def test_before_the_sign_in_ends_the_page_warns_and_a_new_token_goes_on(
    browser: Browser, double: StatsDouble, width: int
) -> None:
    async with visit(browser, size=(width, 800)) as seen:
        await seen.page.clock.install()
        page = await sign_in_by_link(seen, double)
        assert await page.locator("#ending").inner_text() == ""
        assert await page.get_by_role("button", name="Sign in again").is_hidden()
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Admin token").fill(double.token(ttl=240))
        await page.keyboard.press("Enter")
        await well(page)
        assert await page.locator("#ending").inner_text() == "", "a short one warns when half of it is left"
        await page.clock.fast_forward(121_000)
        await page.locator("#ending", has_text=re.compile(r"^Your sign-in ends at \d\d:\d\d\.$")).wait_for()
        assert await page.locator("messaging-stats").count() == 1, "it has not ended yet"
        assert await seen.shifts() == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        box, heading = await page.locator("#ending").bounding_box(), await page.locator("h1").bounding_box()
        assert box is not None
        assert heading is not None
        assert box["height"] < heading["height"], "it is one line"
        await page.get_by_role("button", name="Sign in again").click()
        await page.get_by_label("Admin token").fill(f"Bearer {double.token()}")
        await page.keyboard.press("Enter")
        await well(page)
        assert await page.locator("#ending").inner_text() == ""


async def test_a_sign_in_that_ends_on_another_day_says_which(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, ttl=3 * 86_400)
        end = datetime.now(UTC) + timedelta(days=3)
        assert await page.locator("#who").inner_text() in {
            f"ada, until {at.day} {at:%b}, {at:%H:%M}"
            for at in (end - timedelta(minutes=1), end, end + timedelta(minutes=1))
        }


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_clock_that_is_wrong_moves_neither_the_warning_nor_the_end(
    browser: Browser, double: StatsDouble, hours: int
) -> None:
    async with visit(browser) as seen:
        await seen.page.clock.install(time=time.time() + 3600 * hours)
        page = await sign_in_by_link(seen, double)
        await page.clock.run_for(2_000)
        assert await page.locator("#ending").text_content() == "", "an hour is left"
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Admin token").fill(double.token(ttl=600))
        await page.keyboard.press("Enter")
        await well(page)
        await page.clock.fast_forward(301_000)
        await page.locator("#ending", has_text="Your sign-in ends at ").wait_for()
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Admin token").fill(double.token(ttl=2))
        await page.keyboard.press("Enter")
        await page.locator("#why", has_text="Your sign-in expired at ").wait_for()


@pytest.mark.parametrize("apart", ["ports", "prefixes"])
async def test_two_installations_on_one_host_do_not_sign_each_other_out(
    browser: Browser, double: StatsDouble, apart: str
) -> None:
    other = StatsDouble(b"another secret of the tests that is long enough")
    await other.start()
    proxy = await double.behind("/one", two=other)
    if apart == "ports":
        pages = [f"{double.url}/admin", f"{other.url}/admin"]
    else:
        pages = [f"http://127.0.0.1:{proxy.addresses[0][1]}/{name}/admin" for name in ("one", "two")]
    try:
        async with visit(browser) as seen:
            page = seen.page
            for url, server in zip(pages, (double, other), strict=True):
                await page.goto(url)
                await page.get_by_label("Admin token").fill(server.token())
                await page.keyboard.press("Enter")
                await well(page)
            for url in pages:
                await page.goto(url)
                await well(page)
            await page.get_by_role("button", name="Sign out").click()
            await shows(page.locator("#why"), "You have signed out.")
            await page.goto(pages[0])
            await well(page)
            assert len(await seen.context.cookies()) == 1
    finally:
        await proxy.cleanup()
        await other.stop()


# --- losing the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "asked"), [("phone", "all"), ("desk", "all"), ("narrow", "history"), ("phone", "days"), ("narrow", "top")]
)
async def test_a_server_that_is_gone_is_said_to_be_gone_with_the_age_and_one_that_is_back_is_live_again(
    browser: Browser, double: StatsDouble, size: str, asked: str
) -> None:
    """It goes when ``all`` was read, or while the page reads one of the rest."""
    double.hanging = {asked} - {"all"}
    async with visit(browser, size=SIZES[size]) as seen:
        page = await sign_in_by_link(seen, double)
        if asked == "all":
            await page.wait_for_load_state("networkidle")
        else:
            await double.hangs.wait()
        await double.stop()
        double.hanging = set()
        said = page.locator("messaging-stats [role=status]", has_text="Server lost")
        await said.wait_for()
        assert re.fullmatch(r"Server lost since \d\d:\d\d:\d\d\. Figures of then\.", await said.inner_text())
        assert await figure(page, "active_connections").inner_text() == "1,240", "what was known stays to be seen"
        await page.locator("messaging-stats .status", has_text=re.compile(r"last answer ([2-9]|\d\d) s ago")).wait_for()
        await shows(page.locator("[data-health=server]"), "no answer")

        double.figures["active_connections"] = 5
        await double.start()
        await well(page)
        await shows(figure(page, "active_connections"), "5")
        await shows(page.locator("messaging-stats .days .note"), "UTC days; a gap is a day of which it is not known")
        await shows(page.locator("#largest-note"), "Read once a minute.")
        assert await seen.shifts() == []


@pytest.mark.parametrize("size", SIZES)
async def test_a_reason_of_any_length_moves_nothing_and_can_be_read_whole(
    browser: Browser, double: StatsDouble, size: str
) -> None:
    good = {**FIGURES, "scope": "cluster", "nodes": 2, "cluster": {"up": True, "error": None}}
    good["database"] = {"up": True, "error": None}
    bad = dict.fromkeys((*LIVE, *STORED)) | {"active_users": dict.fromkeys(("1d", "7d", "30d"))}
    bad |= {name: {"up": False, "error": LONG} for name in ("cluster", "database")}
    double.unread = double.detail = LONG
    double.figures.update(good)
    async with visit(browser, size=SIZES[size]) as seen:
        await seen.page.clock.install()
        page = await sign_in_by_link(seen, double)
        line = page.locator("messaging-stats [role=status]")
        places = (".now header p", ".days .note", ".sums .note", ".well .note")
        texts = [*(page.locator(f"messaging-stats {place}") for place in places), page.locator("#largest-note")]

        async def everything_fails() -> None:
            double.failing = {"history", "days", "top"}
            double.figures.update(bad)
            await page.clock.fast_forward(301_000)
            for text in texts:
                await text.filter(has_text="and that is all").wait_for()

        await everything_fails()
        double.fail = 503
        await told(page, rf"Server in trouble since [\d:]{{8}}: {LONG}\.")
        double.fail = None
        double.failing = set()
        double.figures.update(good)
        await page.clock.fast_forward(301_000)
        await well(page)
        await shows(page.locator("#largest-note"), "Read once a minute.")
        await eventually(lambda: _no_stops(page), "what is whole is no stop of the keyboard")
        assert await seen.shifts() == []

        await everything_fails()
        for text in texts:
            assert await opens(text)
        double.fail = 503
        await told(page, rf"Server in trouble since [\d:]{{8}}: {LONG}\.")
        assert await opens(line)


async def opens(text: Any) -> bool:
    """Is it cut where it stands, and whole once somebody goes to it by the keyboard?"""
    fits = "node => node.scrollHeight <= node.clientHeight + 1 && node.scrollWidth <= node.clientWidth + 1"
    assert not await text.evaluate(fits)
    assert await text.get_attribute("tabindex") == "0"
    assert await text.get_attribute("title") == await text.text_content()
    await text.focus()
    return bool(await text.evaluate(fits))


async def _no_stops(page: Page) -> bool:
    return await page.locator("messaging-stats .fold[tabindex], #tools .note[tabindex]").count() == 0


async def test_a_machine_that_slept_shows_how_old_the_figures_are_and_reads_all_of_it_anew(
    browser: Browser, double: StatsDouble
) -> None:
    sleep = """(seconds) => { // performance.now() and timers stand still while a machine sleeps
        const awake = Date.now;
        Date.now = () => awake() + seconds * 1000;
    }"""
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, ttl=9 * 3600)
        await shows(page.locator("#largest-note"), "Read once a minute.")
        double.top["largest"][0]["id"] = "of the morning"
        double.days = lambda ago: (7, 7)
        await page.evaluate(sleep, 3 * 3600)
        await shows(page.locator("#largest tbody th").first, "of the morning")
        await page.locator("messaging-stats .days .range", has_text="7").first.wait_for()
        await double.stop()
        await page.evaluate(sleep, 4 * 3600)
        await page.locator("messaging-stats .status", has_text="last answer 4 h ago").wait_for()
        await shows(page.locator("[data-health=server]"), "no answer")
        await double.start()
        await well(page)
        await page.locator("messaging-stats .status", has_text=re.compile(r"as of [\d:]{8}")).wait_for()


async def test_a_server_in_trouble_is_told_from_one_that_is_gone(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double)
        double.fail = 503
        await told(page, r"Server in trouble since [\d:]{8}: the tests want it so\.")


async def test_one_poll_at_a_time_however_slow_the_server_is(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = await sign_in_by_link(seen, double, refresh=0.25)
        double.held.clear()
        asked = double.asked
        await eventually(lambda: _is(double.asked > asked), "the next poll came")
        asked = double.asked
        await page.locator("messaging-stats .status", has_text=re.compile(r"last answer ([3-9]|\d\d) s ago")).wait_for()
        assert double.asked == asked, "no second poll while the first waits"
        double.held.set()
        await page.locator("messaging-stats .status", has_text="as of ").wait_for()


async def _is(value: bool) -> bool:
    return value


# --- for everybody -------------------------------------------------------------------------------------------------


@pytest.mark.needs("node")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_on_the_form_on_the_panel_and_in_an_outage(
    browser: Browser, double: StatsDouble, axe: str, scheme: str
) -> None:
    async with visit(browser, scheme=scheme) as seen:
        await seen.page.goto(f"{double.url}/admin")
        await seen.page.get_by_label("Admin token").fill("nonsense")
        await seen.page.get_by_role("button", name="Sign in").click()
        await shows(seen.page.get_by_role("alert"), "The token is not a signed JWT.")
        assert await violations(seen.page, axe) == []

        page = await sign_in_by_link(seen, double)
        await shows(page.locator("[data-rate=messages] .number"), "12.5")
        assert await violations(page, axe) == []

        double.figures.update(dict.fromkeys((*LIVE, *STORED)), active_users={})
        double.figures["database"] = {"up": False, "error": LONG}
        await shows(figure(page, "total_messages"), "unknown")
        await page.locator("messaging-stats .sums .note[tabindex]").focus()
        assert await violations(page, axe) == []

        await double.stop()
        await page.locator("messaging-stats .lost").wait_for()
        assert await violations(page, axe) == []


async def test_all_of_it_works_by_keyboard_and_reads_in_order(browser: Browser, double: StatsDouble) -> None:
    async with visit(browser) as seen:
        page = seen.page
        await page.goto(f"{double.url}/admin")
        await page.keyboard.type(double.token())
        await page.keyboard.press("Enter")
        await well(page)
        snapshot = await page.locator("body").aria_snapshot()
        assert re.findall(r'heading "(.*?)"', snapshot) == HEADINGS
        assert "1,240" in snapshot, "figures are text, not pictures"
        assert "img" not in snapshot, "the lines only repeat what is said in words"
        assert len(await page.locator("[aria-live], [role=status], [role=alert]").all()) == 4
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await shows(page.locator("#why"), "You have signed out.")
        assert await page.get_by_label("Admin token").evaluate("node => node === document.activeElement")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_from_phone_to_wall_in_light_and_dark_everything_is_within_the_screen(
    browser: Browser, double: StatsDouble, size: str, scheme: str, tmp_path: Path
) -> None:
    async with visit(browser, size=SIZES[size], scheme=scheme) as seen:
        page = await sign_in_by_link(seen, double)
        await shows(page.locator("[data-rate=messages] .number"), "12.5")
        assert await seen.shifts() == []  # before the picture: taking it resizes the window
        picture = await page.screenshot(path=tmp_path / f"{size}-{scheme}.png", full_page=True)
        assert len(picture) > 10_000
        width, height = await page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        )
        assert width <= SIZES[size][0]
        if size in ("wall", "4k"):
            assert height <= SIZES[size][1], "a wall screen has nobody to scroll it"
        assert await clipped(page) == []
        beside = await page.evaluate(
            """() => {
              const edges = (nodes) => [...nodes].map((node) => node.getBoundingClientRect().left);
              const panel = edges(document.querySelector('messaging-stats').shadowRoot.querySelectorAll('section'));
              return edges(document.querySelectorAll('#tools section'))
                .filter((edge) => !panel.some((other) => Math.abs(edge - other) < 1));
            }"""
        )
        assert beside == [], "what is below the panel stands on its columns"
        background = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        assert seen.complaints == []


@pytest.mark.parametrize("size", ["narrow", "tablet", "desk", "hd", "4k"])
async def test_counts_of_six_digits_stand_apart_and_no_age_leaves_its_place(
    browser: Browser, double: StatsDouble, size: str
) -> None:
    for name in ("connections", "commands"):
        double.figures["refused"][name] = dict.fromkeys(FIGURES["refused"][name], 123_456)
    now = time.time()
    for ago in (3000, 50, 0):  # so many in the last minute and in the last hour
        counts = dict.fromkeys(FIGURES["refused"]["commands"], 0 if ago == 3000 else 123_456 if ago else 246_912)
        double.history.record(now - ago, Sample(active_connections=5, commands_refused=counts))
    async with visit(browser, size=SIZES[size]) as seen:
        page = await sign_in_by_link(seen, double)
        cells = page.locator("messaging-stats td", has_text="123,456")
        await eventually(lambda: _many(cells), "the figures are shown")
        gaps = await page.evaluate(
            """() => {
              const text = (cell) => {
                const range = document.createRange();
                range.selectNodeContents(cell);
                return range.getBoundingClientRect();
              };
              const rows = [...document.querySelector('messaging-stats').shadowRoot.querySelectorAll('tbody tr')];
              return rows.flatMap(({ cells }) =>
                [...cells].slice(1).map((cell, i) => text(cell).left - text(cells[i]).right));
            }"""
        )
        assert min(gaps) >= 3, "one figure can be told from the next"
        assert await clipped(page) == []


async def _many(cells: Any) -> bool:
    return bool(await cells.count() > 10)
