"""What trusted proxies say of a request: the name that the browser asked for, its scheme, its address.

A proxy is believed when its address is among ``--web.trusted-proxies``; everybody else may write what they like into
these headers. From then on ``request.host``, ``.scheme``, ``.secure`` and ``.remote`` are the browser's, everywhere.

A proxy sets ``Forwarded`` or the ``X-Forwarded-*``, and passes the others on as somebody wrote them, unless it deletes
them. Which it sets cannot be seen from here, so neither has precedence: what they contradict each other in is not
believed, and what only one of them says is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, Literal

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from exporter.core.redaction import mask
from exporter.web import forwarded
from exporter.web.forwarded import Hop, Malformed

Network = IPv4Network | IPv6Network
Proxy = Network | Literal["unix"]
"""Addresses of proxies, or that they come by a Unix socket, which has no addresses."""

log = structlog.get_logger(__name__)

_SHOWN: Final = 100  # characters of a header in the log


def trust_proxies(trusted: Sequence[Proxy]) -> Middleware:
    """The middleware that gives handlers the request as the outermost trusted proxy received it."""
    said: set[tuple[str, str]] = set()

    def say(request: web.Request, name: str, problem: str) -> None:
        """Once for each header and problem: the senders choose what is in them."""
        if (name, problem) not in said:
            said.add((name, problem))
            log.warning(
                f"a trusted proxy's {name} {problem}; it is not believed",
                proxy=request.remote or "unix",
                value=mask(", ".join(request.headers.getall(name, ())))[:_SHOWN],
                hint="let the proxy set this header itself, or delete what its clients send",
            )

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_trusted(request.remote, trusted) or ("unix" in trusted and _is_unix(request)):
            told = _told(request, trusted, lambda name, problem: say(request, name, problem))
            if told:
                request = request.clone(**{"remote": request.remote, **told})
        return await handler(request)

    return middleware


def is_trusted(address: str | None, trusted: Sequence[Proxy]) -> bool:
    """Is this one of the proxies? An IPv4 address on an IPv6 socket is the IPv4 address."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in trusted if network != "unix")


def _is_unix(request: web.Request) -> bool:
    listening = request.transport.get_extra_info("socket") if request.transport is not None else None
    return listening is not None and listening.family == socket.AF_UNIX


def _told(request: web.Request, trusted: Sequence[Proxy], say: Callable[[str, str], None]) -> dict[str, Any]:
    """What ``clone`` takes: scheme, host and remote as far as somebody trusted says them."""
    standard, usual = _standard(request, trusted, say), _usual(request, trusted, say)
    told: dict[str, Any] = {}
    for name, field, of_usual in (
        ("host", "host", "Host"),
        ("scheme", "scheme", "Proto"),
        ("remote", "address", "For"),
    ):
        one, other = getattr(standard, field), getattr(usual, field)
        if one and other and one.lower() != other.lower():
            say("Forwarded", f"contradicts the same request's X-Forwarded-{of_usual}")
        elif one or other:
            told[name] = one or other
    return told


def _standard(request: web.Request, trusted: Sequence[Proxy], say: Callable[[str, str], None]) -> Hop:
    try:
        return _outermost(forwarded.forwarded(request.headers.getall("Forwarded", ())), trusted)
    except Malformed as malformed:
        say("Forwarded", str(malformed))
        return Hop()


def _usual(request: web.Request, trusted: Sequence[Proxy], say: Callable[[str, str], None]) -> Hop:
    lines = [request.headers.getall(f"X-Forwarded-{name}", ()) for name in ("For", "Host", "Proto")]
    hop = _outermost(forwarded.x_forwarded(*lines), trusted)
    checked: list[str | None] = []
    for name, value, check in (("Host", hop.host, forwarded.host), ("Proto", hop.scheme, forwarded.scheme)):
        try:
            checked.append(check(value) if value else None)
        except Malformed as malformed:
            say(f"X-Forwarded-{name}", str(malformed))
            checked.append(None)
    return Hop(hop.address, *checked)


def _outermost(hops: Sequence[Hop], trusted: Sequence[Proxy]) -> Hop:
    """The last hop was written by the proxy that we see; each trusted sender lets us believe the one before it."""
    if not hops:
        return Hop()
    chosen = hops[-1]
    for before in reversed(hops[:-1]):
        if not is_trusted(chosen.address, trusted):
            break
        chosen = before.over(chosen)
    return chosen
