"""``GET /v1/messaging/request``: the request as it arrived, for whoever sets up a proxy (``doctor --url`` asks it).

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from exporter.auth.tokens import Authenticator
from exporter.core.redaction import printable
from exporter.web import access
from exporter.web.routes.answers import answer

# What proxies add or change. Nothing that may hold a secret: this is pasted into questions for help.
TOLD: Final = (
    "Host",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "Via",
)


def show_request(authenticator: Authenticator, is_allowed: Callable[[web.Request], bool]) -> Handler:
    """The handler: 200 with what the server sees of an admin's request; raises a Problem of status 401 or 403."""

    async def handle(request: web.Request) -> web.Response:
        access.require_admin(request, authenticator)
        seen = {
            "scheme": request.scheme,
            "host": printable(request.host),
            "remote": request.remote or "",
            "http_version": f"{request.version.major}.{request.version.minor}",
            "origin_allowed": is_allowed(request),
            "headers": {
                name: [printable(line) for line in request.headers.getall(name)]
                for name in TOLD
                if name in request.headers
            },
        }
        return answer(seen)

    return handle
