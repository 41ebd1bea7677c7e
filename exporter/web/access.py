"""Who may do what with a request: its token, its Origin, the admin's cookie. Knows no hub, no store and no route.

Tested in ``tests/web/test_admin.py``.
"""

from __future__ import annotations

import hashlib
import time
from typing import Final

from aiohttp import web

from exporter.auth.tokens import ADMIN, Authenticator, Claims, Unauthenticated
from exporter.settings import parsers
from exporter.web.problems import Problem

COOKIE: Final = "messaging_token_"
"""What the cookie's name begins with; ``cookie_name`` has the rest."""
SUBPROTOCOL_PREFIX: Final = "bearer."
_CHALLENGE: Final = 'Bearer realm="messaging-exporter"'


def token_of(request: web.Request, cookie: str | None = None) -> str | None:
    """The token that a request brings: Authorization, then the ``bearer.`` subprotocol, then the cookie of that name.

    Ask for a cookie on GET and HEAD, and where ``csrf_safe``: or another site could write with it.
    """
    authorizations = request.headers.getall("Authorization", ())
    if len(authorizations) > 1:
        return None  # which one would a proxy have looked at?
    if authorizations:
        scheme, _, token = authorizations[0].partition(" ")
        if scheme.lower() == "bearer":
            return token.strip() or None
    for line in request.headers.getall("Sec-WebSocket-Protocol", ()):
        for protocol in line.split(","):
            if protocol.strip().startswith(SUBPROTOCOL_PREFIX):
                return protocol.strip()[len(SUBPROTOCOL_PREFIX) :] or None
    return request.cookies.get(cookie) if cookie is not None else None


def claims_of(request: web.Request, authenticator: Authenticator, *, cookie: bool = False) -> Claims:
    """Who asks; raises a Problem of status 401 without a valid token."""
    token = token_of(request, cookie_name(request, authenticator) if cookie else None)
    if token is None:
        raise Problem(401, "a token is needed: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": _CHALLENGE})
    return verified(token, authenticator)


def verified(token: str, authenticator: Authenticator) -> Claims:
    """Who has this token; raises a Problem of status 401 for one that is not valid."""
    try:
        return authenticator.verify(token)
    except Unauthenticated as error:
        headers = {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'}
        raise Problem(401, str(error), headers=headers) from error


def require_admin(request: web.Request, authenticator: Authenticator, *, change: bool = False) -> Claims:
    """Who asks, if it is an admin; raises a Problem of status 401 or 403.

    The cookie counts for GET and HEAD; for other methods where ``change`` says that one of our own pages asks.
    """
    claims = claims_of(request, authenticator, cookie=change or request.method in ("GET", "HEAD"))
    if claims.role != ADMIN:
        raise Problem(403, "this is for the role admin")
    return claims


def origin_allowed(request: web.Request, allowed: tuple[str, ...], external: str | None = None) -> bool:
    """May a page of this Origin connect? Without an Origin it is no browser, and the token alone decides.

    ``allowed`` holds origins such as ``https://chat.example.com``, or ``*``; empty means the same origin, which is also
    the ``external`` one where proxies hide it.
    """
    origins = request.headers.getall("Origin", ())
    if not origins:
        return True
    if len(origins) > 1:
        return False
    if allowed:
        return "*" in allowed or normal_origin(origins[0]) in allowed
    return _is_same_origin(request, origins[0], external)


def csrf_safe(request: web.Request, allowed: tuple[str, ...] = (), external: str | None = None) -> bool:
    """Was this form or script request made by our own page, by one that is allowed, or by no browser at all?"""
    if allowed and "Origin" in request.headers and origin_allowed(request, allowed):
        return True
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return False
    return origin_allowed(request, (), external)


def normal_origin(text: str) -> str | None:
    """An origin in one form only (lower case, no default port, no path), None when it is none."""
    try:
        return None if text == "*" else parsers.origin(text)
    except ValueError:
        return None


def _is_same_origin(request: web.Request, origin: str, external: str | None) -> bool:
    """Hosts and ports are compared; the scheme only when TLS ends here, since a proxy may have ended it before."""
    theirs = normal_origin(origin)
    if theirs is None:
        return False
    if theirs == external:
        return True
    scheme, _, authority = theirs.partition("://")
    if request.secure and scheme != "https":
        return False
    host = request.host if "Host" in request.headers else ""  # without, aiohttp has the socket's address, and no port
    return normal_origin(f"{scheme}://{host}") == f"{scheme}://{authority}"


# --- the admin's cookie -----------------------------------------------------------------------------------


def cookie_name(request: web.Request, authenticator: Authenticator) -> str:
    """The cookie of this installation: browsers send a cookie to every port of a host, and to every prefix.

    What tells installations apart is their secret, and the port in the address that the browser asked.
    """
    port = request.host.rpartition("]")[2].partition(":")[2]
    return COOKIE + hashlib.sha256(f"{authenticator.installation} {port}".encode()).hexdigest()[:8]


def set_cookie(
    response: web.StreamResponse, name: str, token: str, claims: Claims, *, secure: bool, path: str = "/"
) -> None:
    """Keep a verified token in the browser, out of reach of scripts and of other sites, until it expires."""
    max_age = max(0, min(int(claims.expires_at - time.time()), 2**31 - 1))
    response.set_cookie(name, token, path=path, max_age=max_age, httponly=True, samesite="Strict", secure=secure)


def clear_cookie(response: web.StreamResponse, name: str, *, secure: bool = False, path: str = "/") -> None:
    """Sign out."""
    response.del_cookie(name, path=path, httponly=True, samesite="Strict", secure=secure)
