"""What the headers of proxies say, hop by hop: RFC 7239's ``Forwarded`` and the ``X-Forwarded-*``. Trusts nobody.

``Forwarded`` is read strictly: a field of it that breaks the grammar says nothing at all, because who wrote which part
of it can no longer be told. Beyond the grammar, blanks around ``;`` are passed over, as many senders write them.

Tested in ``tests/web/test_proxies.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final

import msgspec

MAX_HOPS: Final = 20
"""Of a chain of proxies: more than any real one has, and a bound on what a header makes us do."""
MAX_LENGTH: Final = 8_190
"""Characters of ``Forwarded`` in all; one line has no more."""

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# One pair (or none) and what ends it: RFC 7239 section 4, RFC 9110 sections 5.6.2 and 5.6.4.
_PAIR: Final = re.compile(
    rf'[ \t]*(?:(?P<name>{_TOKEN})=(?:(?P<token>{_TOKEN})|"(?P<quoted>(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|'
    r'\\[\t\x20-\x7e\x80-\xff])*)")[ \t]*)?(?P<end>[;,]|\Z)'
)
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_NODE: Final = re.compile(r"(?P<name>\[[^\]]*\]|[^:\[\]]+)(?::(?:\d{1,5}|_[A-Za-z0-9._-]+))?")
_HIDDEN: Final = re.compile(r"unknown|_[A-Za-z0-9._-]+", re.IGNORECASE)
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # some name the WebSocket's


class Malformed(ValueError):
    """A header that cannot be believed; the message says why and holds nothing of it."""


class Hop(msgspec.Struct, frozen=True):
    """What one proxy says of the request that it received; None where it says nothing.

    ``address`` is who sent it the request, ``host`` and ``scheme`` are what was asked for, not checked yet.
    """

    address: str | None = None
    host: str | None = None
    scheme: str | None = None

    def over(self, other: Hop) -> Hop:
        """This hop, with the other's word where it is silent."""
        return Hop(self.address or other.address, self.host or other.host, self.scheme or other.scheme)


def forwarded(lines: Sequence[str]) -> list[Hop]:
    """The hops of ``Forwarded``, the nearest last; raises Malformed."""
    text = ",".join(lines)
    if len(text) > MAX_LENGTH:
        raise Malformed(f"is longer than {MAX_LENGTH} characters")
    hops: list[Hop] = []
    pairs: dict[str, str] = {}
    position, more = 0, True
    while more:
        match = _PAIR.match(text, position)
        if match is None:
            raise Malformed("is not made of name=value pairs as in RFC 7239")
        if match["name"] is not None:
            name = match["name"].lower()
            if name in pairs:
                raise Malformed("names something twice for one proxy")
            pairs[name] = match["token"] or re.sub(r"\\(.)", r"\1", match["quoted"] or "")
        if match["end"] != ";" and pairs:
            hops.append(_hop(pairs))
            pairs = {}
        position, more = match.end(), match["end"] != ""
    return hops[-MAX_HOPS:]


def _hop(pairs: dict[str, str]) -> Hop:
    _node(pairs.get("by", "unknown"))
    return Hop(
        _node(pairs.get("for", "unknown")),
        host(pairs["host"]) if "host" in pairs else None,
        scheme(pairs["proto"]) if "proto" in pairs else None,
    )


def _node(text: str) -> str | None:
    """The address of a node (RFC 7239 section 6), without its port; None for a hidden one."""
    match = _NODE.fullmatch(text)
    if match is not None:
        name = match["name"]
        if _HIDDEN.fullmatch(name):
            return None
        made = address(name)
        if made is not None and (":" in made) == name.startswith("["):
            return made
    raise Malformed("names a sender that is no address")


def x_forwarded(fors: Iterable[str], hosts: Iterable[str], protos: Iterable[str]) -> list[Hop]:
    """The hops of the lines of ``X-Forwarded-For``, ``-Host`` and ``-Proto``, the nearest last.

    Values are as they came, but for addresses: what is none is None.
    """
    lists = [
        [value.strip() for line in lines for value in line.split(",")][-MAX_HOPS:] for lines in (fors, hosts, protos)
    ]
    count = max(map(len, lists))
    padded = [[""] * (count - len(values)) + values for values in lists]
    return [Hop(address(sender), host or None, proto or None) for sender, host, proto in zip(*padded, strict=True)]


def address(text: str) -> str | None:
    """An IP address without its port and brackets; None when it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def host(text: str) -> str:
    """A host with or without a port, as in ``Host``; raises Malformed."""
    if not _HOST.fullmatch(text) or int(text.rpartition("]")[2].partition(":")[2] or 0) > 65_535:
        raise Malformed("names a host that is none")
    return text


def scheme(text: str) -> str:
    """``http`` or ``https``; raises Malformed."""
    found = _SCHEMES.get(text.lower())
    if found is None:
        raise Malformed("names a scheme that is neither http nor https")
    return found
