"""``/-/healthy`` and ``/-/ready``: may this process be sent work? Knows no state; the server says it.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

from aiohttp import web

from exporter.web.problems import Problem


async def healthy(request: web.Request) -> web.Response:
    """200: the process answers."""
    return web.Response(text="healthy\n")


def ready(reason: str | None) -> web.Response:
    """200 when nothing speaks against new connections; raises a Problem of status 503 with the reason otherwise."""
    if reason is not None:
        raise Problem(503, reason)
    return web.Response(text="ready\n")
