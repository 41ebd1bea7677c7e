"""The embedded page in a real browser, in FastAPI and in aiohttp, below a prefix, with the host's own sign-in."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from starlette.requests import HTTPConnection

from exporter import Live
from tests.embed.hosts import on_aiohttp, on_uvicorn
from tests.servers.chromium import chromium, shows, visit, well

pytestmark = pytest.mark.needs("chromium")


def fastapi_host(live: Live) -> FastAPI:
    """A cookie is its sign-in; whoever has none is sent to the page where one gets it."""

    def is_admin(scope: Any) -> bool:
        if (name := HTTPConnection(scope).cookies.get("session")) is None:
            raise HTTPException(303, headers={"Location": "/sign-in"})
        return name == "eve"

    app = FastAPI()
    app.mount("/internal/messaging", live.asgi(admin=is_admin))

    @app.get("/sign-in")
    def sign_in() -> PlainTextResponse:
        return PlainTextResponse("Please sign in")

    return app


def aiohttp_host(live: Live) -> web.Application:
    """The same."""

    async def is_admin(request: web.Request) -> bool:
        if (name := request.cookies.get("session")) is None:
            raise web.HTTPSeeOther("/sign-in")
        return name == "eve"

    async def sign_in(_: web.Request) -> web.Response:
        return web.Response(text="Please sign in")

    app = web.Application()
    app.add_subapp("/internal/messaging/", live.aiohttp(admin=is_admin))
    app.router.add_get("/sign-in", sign_in)
    return app


@pytest.mark.parametrize(
    ("host", "serve"), [(fastapi_host, on_uvicorn), (aiohttp_host, on_aiohttp)], ids=["fastapi", "aiohttp"]
)
async def test_the_page_below_a_prefix(host: Any, serve: Any) -> None:
    live = Live(workers=1)
    async with serve(host(live)) as url, chromium() as browser, visit(browser) as seen:
        page, mount = seen.page, f"{url}/internal/messaging"
        missing: list[str] = []
        page.on("response", lambda answer: missing.append(answer.url) if answer.status == 404 else None)
        await page.goto(f"{mount}/admin")
        assert page.url == f"{url}/sign-in"
        assert await page.text_content("body") == "Please sign in"
        await seen.context.add_cookies([{"name": "session", "value": "bob", "url": url}])
        refused = await page.goto(f"{mount}/admin")
        assert refused is not None
        assert refused.status == 403
        await seen.context.add_cookies([{"name": "session", "value": "eve", "url": url}])

        await page.goto(f"{mount}/")
        links = await page.eval_on_selector_all("a", "links => links.map(link => link.href)")
        assert links == [f"{mount}/metrics", f"{mount}/admin", f"{mount}/v1/messaging/stats"]
        for link in links:
            answer = await page.goto(link)
            assert answer is not None
            assert answer.status == 200, link

        await page.goto(f"{mount}/admin/")  # as people type it
        assert page.url == f"{mount}/admin"
        await well(page)
        days = page.locator("messaging-stats .days", has_text="This server keeps no record of days")
        await days.wait_for(timeout=20_000)
        assert await page.locator("messaging-stats .days :visible:is(button, svg)").count() == 0
        connections = page.locator("messaging-stats [data-figure=active_connections] .number").first
        await shows(connections, "0")
        with live.open("ann") as connection:
            connection.join("room")
            await shows(connections, "1")
        await shows(connections, "0")
        assert {urlsplit(address).path.removeprefix("/internal/messaging") for address in seen.requests} >= {
            "/admin",
            "/admin/static/admin.css",
            "/admin/static/messaging-stats.js",
            "/v1/messaging/stats",
            "/v1/messaging/stats/history",
        }
        assert not missing
