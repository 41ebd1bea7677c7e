"""Pages of other origins may read the figures: CORS for GET of the stats routes, for the origins that were named.

Only with a token: no credentials are allowed, so that no page can use the cookie of somebody's browser.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

PATHS: Final = frozenset(f"/v1/messaging/stats{path}" for path in ("", "/history", "/days"))
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET",
    "Access-Control-Allow-Headers": "Authorization",
    "Access-Control-Max-Age": "600",  # seconds; Chromium keeps no answer for longer than 7,200
}


def cors(origins: tuple[str, ...], prefix: str = "") -> Middleware:
    """The middleware; put it outside of what makes problem documents, because a page must be able to read those too.

    ``origins`` are such as ``https://intranet.example``, or ``*``; without any, nothing is added. ``prefix`` stands
    before every route.
    """
    paths = {prefix + path for path in PATHS}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not origins or request.path not in paths:
            return await handler(request)
        origin = request.headers.get("Origin", "")
        allowed = bool(origin) and ("*" in origins or origin in origins)  # browsers write it in the one form
        response: web.StreamResponse
        if allowed and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response = web.Response(status=204, headers=_PREFLIGHT)
        else:
            response = await handler(request)
        if allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Date"
        response.headers["Vary"] = ", ".join(filter(None, (response.headers.get("Vary"), "Origin")))
        return response

    return middleware
