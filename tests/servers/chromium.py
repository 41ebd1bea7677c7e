"""The machine's Chromium, headless, driven by playwright, and what a test wants to know of a page besides its text."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright

from tests.servers.exporter import PATIENCE

FLAGS = (
    "--headless",
    "--no-sandbox",  # containers and root have no user namespaces for it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SHIFTS = """
window.layoutShifts = [];
window.place = ({ x, y, width, height }) => [x, y, width, height].map(Math.round).join(' ');
new PerformanceObserver((list) => {
  for (const { value, sources } of list.getEntries()) {
    layoutShifts.push({ value, moved: sources.map((s) => `${place(s.previousRect)} -> ${place(s.currentRect)}`) });
  }
}).observe({ type: 'layout-shift', buffered: true });
"""


def find() -> str | None:
    """Where Chromium is, None when the machine has none."""
    return shutil.which("chromium")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser of its own with an empty profile; gone at the end, whatever happens."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find(), args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """A page with its console, its errors, its requests and its layout shifts on record."""

    def __init__(self, page: Page, context: BrowserContext) -> None:
        self.page = page
        self.context = context
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(f"{kind}: {text}")

    def hosts(self) -> set[str]:
        """Every host and port that the page asked for anything."""
        return {urlsplit(url).netloc for url in self.requests}

    async def shifts(self) -> list[dict[str, Any]]:
        """Everything that moved without being asked, as the browser's own Layout Instability API reports it."""
        found: list[dict[str, Any]] = await self.page.evaluate("layoutShifts")
        return found


@asynccontextmanager
async def visit(
    browser: Browser,
    *,
    size: tuple[int, int] = (1280, 800),
    scheme: str = "light",
    scale: float = 1,
) -> AsyncIterator[Visit]:
    """A page in a context of its own: no cookie and no cache is shared with another test."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        device_scale_factor=scale,
        locale="en-US",
        timezone_id="UTC",
    )
    context.set_default_timeout(1_000 * PATIENCE)
    try:
        await context.add_init_script(SHIFTS)
        yield Visit(await context.new_page(), context)
    finally:
        await context.close()


async def eventually(check: Callable[[], Awaitable[bool]], what: str, *, within: float = PATIENCE) -> float:
    """Wait until ``check()`` holds; returns the seconds it took, and fails with ``what`` when it never does."""
    began, late = time.monotonic(), False
    while not await check():
        assert not late, f"not within {within} s: {what}"
        await asyncio.sleep(0.02)
        late = time.monotonic() - began > within
    return time.monotonic() - began


async def told(page: Page, pattern: str, *, within: float = PATIENCE) -> str:
    """Wait until the panel's first line matches ``pattern`` as a whole; returns what it says."""
    line, seen = page.locator("messaging-stats [role=status]").first, ""

    async def check() -> bool:
        nonlocal seen
        seen = (await line.text_content() or "").strip()
        return re.fullmatch(pattern, seen) is not None

    try:
        await eventually(check, f"the first line is {pattern!r}", within=within)
    except AssertionError as error:
        raise AssertionError(f"{error}; it says {seen!r}") from None
    return seen


async def well(page: Page, *, within: float = PATIENCE) -> str:
    """Wait until the panel is live and says that all is well."""
    return await told(page, r"All is well\..*", within=within)


async def shows(locator: Locator, text: str, *, within: float = PATIENCE) -> float:
    """Wait until the element's text is ``text``; returns the seconds it took."""
    seen = ""

    async def check() -> bool:
        nonlocal seen
        seen = (await locator.text_content() or "").strip()
        return seen == text

    try:
        return await eventually(check, f"{text!r} is shown", within=within)
    except AssertionError as error:
        raise AssertionError(f"{error}; it shows {seen!r}") from None
