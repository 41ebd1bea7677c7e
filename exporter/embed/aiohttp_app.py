"""The same for aiohttp: a sub-application, and a middleware that knows WebSockets by themselves.

It changes nothing of the host: no loop, no signals, no logging, no garbage collector.

Tested in ``tests/embed/test_frameworks.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from exporter.core.events import ClosedReason, RejectedReason
from exporter.embed.connection import Connection, explicit_reason, reason_of
from exporter.embed.middleware import REASONS, accepted
from exporter.embed.service import Service, slashed

if TYPE_CHECKING:
    from exporter.embed.identifiers import User
    from exporter.embed.live import Live

CONNECTION: Final = web.RequestKey("live_connection", Connection)
"""``request[CONNECTION]`` is the connection of a WebSocket that ``watch`` counts."""


_WATCHED: Final = web.RequestKey("live_connections", dict["Live", Connection])
"""By whom: an application may be watched for several, and a sub-application of it once more."""


def application(live: Live, admin: Callable[[web.Request], Any] | None = None) -> web.Application:
    """For ``app.add_subapp("/messaging/", …)``. ``admin(request)`` decides who may see JSON and page."""
    app = web.Application()
    service = Service(live, admin)

    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): ",".join(request.headers.getall(name)) for name in request.headers}
        query = {name: request.query.getall(name) for name in request.query}
        path = "/" + request.match_info["path"]
        answer = await service.answer(request.method, path, headers, query, request)
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))

    async def without_slash(request: web.Request) -> web.Response:
        answer = slashed(request.rel_url.raw_path)
        return web.Response(status=answer.status, headers=dict(answer.headers))

    async def close(_: web.Application) -> None:
        await service.close()

    app.router.add_route("*", "", without_slash)
    app.router.add_route("*", "/{path:.*}", handle)
    app.on_cleanup.append(close)
    return app


def watch(app: web.Application, live: Live, user: Callable[[web.Request], User | None] | None = None) -> None:
    """Count the WebSockets of a host: opened when the response is prepared, closed when the handler ends.

    ``user(request)`` says whose connection it is, or None. ``request[CONNECTION]`` is the connection, from the
    moment in which the ``WebSocketResponse`` is prepared.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except BaseException as error:  # cancelled, too: however the handler ends, the connection has ended
            if (connection := request.get(_WATCHED, {}).get(live)) is not None:
                why = explicit_reason(connection.reason) or reason_of(error, live.cancelled)
                live.close_without_caller(connection, why)
            elif isinstance(error, web.HTTPException) and _is_upgrade(request):
                live.reject(REASONS.get(error.status, RejectedReason.HANDSHAKE))
            raise
        if (connection := request.get(_WATCHED, {}).get(live)) is not None:
            live.close_without_caller(connection, explicit_reason(connection.reason) or ClosedReason.CLIENT)
        elif _is_upgrade(request) and response.status >= 400:
            live.reject(REASONS.get(response.status, RejectedReason.HANDSHAKE))
        return response

    async def prepared(request: web.Request, response: web.StreamResponse) -> None:
        transport = request.transport
        if isinstance(response, web.WebSocketResponse) and transport is not None and not transport.is_closing():
            watched = request.setdefault(_WATCHED, {})
            if live not in watched:
                request[CONNECTION] = watched[live] = accepted(live, user, request)

    app.middlewares.append(middleware)
    app.on_response_prepare.append(prepared)


def _is_upgrade(request: web.Request) -> bool:
    return "websocket" in request.headers.get("Upgrade", "").lower()
