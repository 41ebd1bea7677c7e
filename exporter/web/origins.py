"""Is the page that asks one of ours? One answer for WebSockets and for signing in, and a line in the log when not.

A browser names the page's origin, and no page can make it lie. Ours are the origins of ``--auth.allowed-origins``, and
the server's own: the name that the request was sent to, as far as it arrives here, and that of ``--web.external-url``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web

from exporter.web import access

log = structlog.get_logger(__name__)

# Whoever connects chooses what stands in the log: so many different origins in an hour, and each once.
TOLD: Final = 20
TOLD_IN: Final = 3_600.0  # seconds


class Origins:
    """Decides, and tells the log of the first refusal of each origin. ``now`` is monotonic seconds."""

    def __init__(
        self,
        allowed: tuple[str, ...] = (),
        external: str | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed = allowed
        self._external = external
        self._now = now
        self._told: dict[str, None] = {}
        self._told_since = float("-inf")

    def may_connect(self, request: web.Request) -> bool:
        """May a page of this origin open a WebSocket? Without an Origin it is no browser: the token alone decides."""
        allowed = access.origin_allowed(request, self._allowed, self._external)
        return allowed or self._refuse(request, "WebSocket")

    def may_sign_in(self, request: web.Request) -> bool:
        """May a page of this origin sign in or out: one of those that may connect, or the server's own page?"""
        return access.csrf_safe(request, self._allowed, self._external) or self._refuse(request, "sign-in")

    def is_secure(self, request: web.Request) -> bool:
        """Does the browser speak TLS, wherever it ends? Then the cookie is Secure."""
        if request.secure or (self._external or "").startswith("https://"):
            return True
        return request.headers.get("Origin", "").lower().startswith("https://")

    def _refuse(self, request: web.Request, what: str) -> bool:
        now = self._now()
        if now - self._told_since > TOLD_IN:
            self._told.clear()
            self._told_since = now
        origin = ", ".join(request.headers.getall("Origin", ())) or "none"
        if origin not in self._told and len(self._told) < TOLD:
            self._told[origin] = None
            log.warning(
                "a page of another origin was refused",
                origin=origin,
                wanted=what,
                host=request.headers.get("Host", ""),
                hint=self._hint(origin),
            )
        return False

    @staticmethod
    def _hint(origin: str) -> str:
        ours = access.normal_origin(origin)
        if ours is None:
            return "this is no origin of a page on the web"
        return (
            f"if it is yours, set --auth.allowed-origins {ours}; behind a proxy, let it pass the Host on, or set "
            f"--web.external-url {ours}, or --web.trusted-proxies where it sends X-Forwarded-Host"
        )
