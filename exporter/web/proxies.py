"""What trusted proxies say of a request: the name that the browser asked for, its scheme, its address.

A proxy is believed when its address is among ``--web.trusted-proxies``; everybody else may write what they like into
these headers. From then on ``request.host``, ``.scheme``, ``.secure`` and ``.remote`` are the browser's, everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Middleware

Network = IPv4Network | IPv6Network

# RFC 7239 section 4: name=token or name="quoted string"
_PAIR: Final = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))')
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
# Of a chain of proxies: more hops than any real one has, and a bound on what a header makes us do.
MAX_HOPS: Final = 20


def believing(trusted: Sequence[Network]) -> Middleware:
    """The middleware that gives handlers the request as the outermost trusted proxy received it."""

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if is_trusted(request.remote, trusted):
            told = _told(request, trusted)
            if told:
                request = request.clone(**told)
        return await handler(request)

    return middleware


def is_trusted(address: str | None, trusted: Sequence[Network]) -> bool:
    """Is this one of the proxies? An IPv4 address on an IPv6 socket is the IPv4 address."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in trusted)


def _told(request: web.Request, trusted: Sequence[Network]) -> dict[str, Any]:
    """What ``clone`` takes: scheme, host and remote as far as somebody trusted says them."""
    hops = _x_forwarded(request) or _forwarded(request)
    if not hops:
        return {}
    # The last hop was written by the proxy that we see; each trusted sender lets us believe the one before it.
    chosen = hops[-1]
    for before in reversed(hops[:-1]):
        if not is_trusted(chosen.get("for"), trusted):
            break
        chosen = {**chosen, **before}
    told: dict[str, Any] = {}
    if chosen.get("proto", "").lower() in ("http", "https"):
        told["scheme"] = chosen["proto"].lower()
    if _HOST.fullmatch(chosen.get("host", "")):
        told["host"] = chosen["host"]
    told["remote"] = chosen.get("for") or request.remote
    return told


def _x_forwarded(request: web.Request) -> list[dict[str, str]]:
    """``X-Forwarded-For``, ``-Host`` and ``-Proto`` hop by hop; a single host or scheme is that of every hop."""
    lists = {name: _list(request, f"X-Forwarded-{name}") for name in ("For", "Host", "Proto")}
    count = max(map(len, lists.values()))
    hops: list[dict[str, str]] = [{} for _ in range(count)]
    for name, values in lists.items():
        padded = values * count if len(values) == 1 and name != "For" else [""] * (count - len(values)) + values
        for hop, value in zip(hops, padded, strict=True):
            if value:
                hop[name.lower()] = _address(value) if name == "For" else value
    return hops


def _list(request: web.Request, name: str) -> list[str]:
    values = [value.strip() for line in request.headers.getall(name, ()) for value in line.split(",")]
    return values[-MAX_HOPS:]


def _forwarded(request: web.Request) -> list[dict[str, str]]:
    """RFC 7239's ``Forwarded``, hop by hop."""
    hops = []
    for line in request.headers.getall("Forwarded", ()):
        for element in re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', line)[-MAX_HOPS:]:
            pairs = {match[1].lower(): match[2] or match[3] or "" for match in _PAIR.finditer(element)}
            if "for" in pairs:
                pairs["for"] = _address(pairs["for"])
            hops.append(pairs)
    return hops[-MAX_HOPS:]


def _address(text: str) -> str:
    """An address without its port and brackets."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
