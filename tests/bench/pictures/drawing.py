"""Pictures on a page of Chromium: Grafana's components from npm, bundled once, and a server that hands them out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.async_api import Browser

from tests.servers.chromium import chromium

GRAFANA = "13.2.3"
PACKAGES = (
    *(f"@grafana/{name}@{GRAFANA}" for name in ("data", "schema", "ui")),
    "@fontsource/inter@5",
    "esbuild@0.28",
    "react@18",
    "react-dom@18",
)
PAGE = """<!doctype html><meta charset="utf-8"><title>A dashboard</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
<script>window.__grafana_public_path__ = "/public/"; window.PICTURE = {picture};</script>
<div id="root"></div><script src="/page.js"></script>"""
# Each description's icon comes by itself; a title without it is wider than it will be.
ICONS = """() => [...document.querySelectorAll('[data-panel] h2')]
  .every((title) => title.parentElement.parentElement.querySelector('svg'))"""
SMALLEST = 9  # pixels of a text
# What nobody can read: clipped titles, columns and names of courses out of sight, and letters that are too small.
FAULTS = """(smallest) => [...document.querySelectorAll('[data-panel]')].flatMap((panel) => {
  const box = panel.getBoundingClientRect();
  const title = panel.querySelector('h2');
  const grid = panel.querySelector('[role=grid]');
  const names = [...panel.querySelectorAll('[data-testid^="data-testid VizLegend series"]')]
    .filter((name) => !name.closest('table') && name.getBoundingClientRect().bottom > box.bottom - 8)
    .map((name) => `out of sight: ${name.textContent}`);
  const cut = [...panel.querySelectorAll('table button')]
    .filter((name) => name.scrollWidth > name.clientWidth + 1)
    .map((name) => `cut off: ${name.textContent}`);
  const own = (node) => [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());
  const small = [...panel.querySelectorAll('*')]
    .filter((node) => own(node) && parseFloat(getComputedStyle(node).fontSize) < smallest)
    .map((node) => `small: ${node.textContent}`);
  const found = [
    ...(title.scrollWidth > title.clientWidth ? ['clipped title'] : []),
    ...(grid && grid.scrollWidth > grid.clientWidth + 1 ? [`${grid.scrollWidth - grid.clientWidth} px of columns out of sight`] : []),
    ...names,
    ...cut,
    ...small,
  ];
  return found.map((fault) => `${panel.dataset.panel}: ${fault}`);
})"""  # noqa: E501 - lines of another language


def installed(folder: Path) -> Path:
    """``folder/node_modules`` with Grafana's components; again only when something of it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "done").exists():
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps"]
        subprocess.run(["npm", "install", *options, "--prefix", str(folder), *PACKAGES], check=True, cwd=folder)
        (folder / "done").touch()
    return folder / "node_modules"


def bundled(folder: Path) -> Path:
    """``folder/out`` with the page's script and style."""
    modules = installed(folder)
    source = folder / "page.jsx"
    source.write_text(Path(__file__).with_name("page.jsx").read_text(encoding="utf-8"), encoding="utf-8")
    loaders = [f"--loader:.{kind}={how}" for kind, how in (("woff2", "dataurl"), ("woff", "dataurl"), ("ttf", "empty"))]
    command = [str(modules / ".bin" / "esbuild"), str(source), "--bundle", f"--outfile={folder / 'out' / 'page.js'}"]
    options = ["--jsx=automatic", '--define:process.env.NODE_ENV="production"', "--define:global=window"]
    subprocess.run([*command, *options, *loaders, "--log-level=error"], check=True, cwd=folder)
    return folder / "out"


class Studio:
    """Draws pictures; made by ``studio``."""

    def __init__(self, browser: Browser, pictures: dict[str, dict[str, Any]], url: str) -> None:
        self._browser = browser
        self._pictures = pictures
        self._url = url

    async def draw(self, picture: dict[str, Any], width: int, target: Path, *, height: int = 1080) -> list[str]:
        """A picture of the whole dashboard in a window of this width; what of it cannot be read."""
        self._pictures["now"] = picture
        context = await self._browser.new_context(viewport={"width": width, "height": height}, timezone_id="UTC")
        try:
            page = await context.new_page()
            await page.clock.set_fixed_time(picture["end"] / 1000)  # "five minutes ago" is said of the recording
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(f"{self._url}/now")
            await page.wait_for_function("window.DRAWN && document.querySelectorAll('[data-panel]').length > 0")
            await page.evaluate("document.fonts.ready")
            await page.wait_for_load_state("networkidle")
            await page.wait_for_function(ICONS)
            assert not errors, errors
            await page.screenshot(path=target, full_page=True)
            faults: list[str] = await page.evaluate(FAULTS, SMALLEST)
            return faults
        finally:
            await context.close()


@asynccontextmanager
async def studio(folder: Path) -> AsyncIterator[Studio]:
    """A browser and what it needs, for the length of a block. ``folder`` keeps the npm packages."""
    out = bundled(folder)
    pictures: dict[str, dict[str, Any]] = {}

    async def page(request: web.Request) -> web.Response:
        picture = json.dumps(pictures[request.match_info["name"]]).replace("</", "<\\/")
        return web.Response(text=PAGE.replace("{picture}", picture), content_type="text/html")

    app = web.Application()
    icons = folder / "node_modules" / "@grafana" / "ui" / "dist" / "public" / "img" / "icons"
    app.router.add_static("/public/build/img/icons", icons)
    app.router.add_get("/page.js", lambda _: _file(out / "page.js"))
    app.router.add_get("/page.css", lambda _: _file(out / "page.css"))
    app.router.add_get("/{name}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with chromium() as browser:
            yield Studio(browser, pictures, f"http://{host}:{port}")
    finally:
        await runner.cleanup()


async def _file(path: Path) -> web.FileResponse:
    return web.FileResponse(path)
