"""``GET /``: name, version and links to what this listener serves, and ``OPTIONS /``, which load balancers check.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from exporter import __version__

_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def landing(
    telemetry_path: str, *, public: bool, operations: bool, metrics: bool = True, description: bool = True
) -> Handler:
    """The handler. ``public``: users connect here; ``operations``: metrics (unless ``metrics`` says no) and the admin
    page are here.

    ``description``: the routes are described by ``/openapi.json``. The links are relative, so they stay below whatever
    path a proxy serves this page at.
    """
    figures = {telemetry_path: "Metrics", "/admin": "Admin page", "/-/ready": "Ready"}
    if not metrics:
        del figures[telemetry_path]
    messaging = {"/v1/messaging/ws": "WebSocket (messaging.v1)"}
    links = (figures if operations else {}) | (messaging if public else {})
    if description:
        links["/openapi.json"] = "OpenAPI description"
    items = "".join(
        f'<li><a href="{html.escape(path[1:])}">{html.escape(words)}</a> <code>{html.escape(path)}</code></li>'
        for path, words in links.items()
    )
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>messaging-exporter</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark"></head>'
        "<body><h1>messaging-exporter</h1>"
        f"<p>Version {html.escape(__version__)}</p><ul>{items}</ul></body></html>"
    )

    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=text, headers=_HEADERS)

    return handle


def options(check: Callable[[], web.Response]) -> Handler:
    """The handler of ``OPTIONS /``, HAProxy's check where none is configured: as ``/-/ready``, with ``Allow``."""

    async def handle(request: web.Request) -> web.Response:
        response = check()
        response.headers["Allow"] = "GET,HEAD,OPTIONS"
        return response

    return handle


def redirect(location: str) -> Handler:
    """The handler of what lies outside of ``--web.route-prefix``: on to the landing page, by a relative address."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    return handle
