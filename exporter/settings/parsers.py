"""Values as people write them: durations, addresses, origins, switches. Knows no flag, no file, no setting.

Every function takes text and raises ValueError with what was expected, in lower case and without the text:
whoever knows where the text came from adds that, and decides whether it may be shown.

Tested in ``tests/settings/test_options.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from exporter.settings.model import Address

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]@]*)):(\d{1,5})", re.ASCII)
_NAME: Final = re.compile(r"[\w.:-]+")  # of a host, also one that is not in ASCII
_PREFIX: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_DURATION: Final = 366 * 86_400.0  # seconds; timers and dates must hold it


def duration(text: str) -> float:
    """Seconds in ``5s``, ``500ms``, ``1h30m``, ``1.5s``; ``0`` needs no unit."""
    if text == "0":
        return 0.0
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError("expected a duration such as 500ms, 5s, 1h30m or 1d")
    seconds = sum(float(part[1]) * _UNITS[part[2]] for part in parts)
    if not math.isfinite(seconds) or seconds > MAX_DURATION:
        raise ValueError("expected a duration of a year at most")
    return seconds


def positive_duration(text: str) -> float:
    """Like ``duration``, but more than nothing."""
    seconds = duration(text)
    if seconds <= 0:
        raise ValueError("expected a duration above 0")
    return seconds


def schema(text: str) -> str:
    """The name of a PostgreSQL schema, as it stands in the catalogue: not quoted."""
    if not 1 <= len(text.encode()) <= 63 or "\0" in text:
        raise ValueError("expected the name of a schema, of at most 63 bytes")
    if text.startswith("pg_"):
        raise ValueError("expected the name of a schema that is not PostgreSQL's own")
    return text


def number(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``least`` to ``most``; ``_`` may group digits as in Python and YAML."""

    def parse(text: str) -> int:
        if re.fullmatch(r"\d{1,18}(?:_\d{1,18}){0,6}", text, re.ASCII):
            value = int(text)
            if least <= value <= most:
                return value
        raise ValueError(f"expected a whole number from {least} to {most}")

    return parse


def address(text: str) -> Address:
    """``127.0.0.1:8765``, ``[::1]:8765``, ``name:8765``; ``:8765`` is all interfaces, port 0 any free one."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError("expected HOST:PORT, [IPv6]:PORT or :PORT")
    return Address(match[1] or match[2] or "", int(match[3]))


def origin(text: str) -> str:
    """A browser's Origin in its one form: ``https://chat.example.com``; ``*`` is any."""
    if text == "*":
        return text
    expected = "expected an origin such as https://chat.example.com, or *"
    try:
        parts = urlsplit(text.lower())
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    name = parts.hostname
    if parts.scheme not in _DEFAULT_PORTS or not name or not _NAME.fullmatch(name) or "@" in parts.netloc:
        raise ValueError(expected)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(expected)
    try:
        host = f"[{name}]" if ":" in name else name if name.isascii() else _in_ascii(name)
    except ValueError:
        raise ValueError(expected) from None
    return f"{parts.scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}")


def _in_ascii(name: str) -> str:
    """A host's name as browsers write it into ``Origin`` and ``Host``: ``xn--bcher-kva.example`` for bücher.example."""
    from yarl import URL  # here, because such names are few; it knows today's IDNA, and Python's own codec that of 2003

    return URL.build(scheme="https", host=name).raw_host or ""


def external_url(text: str) -> str:
    """Where browsers reach the server: ``https://example.com/messaging``; without a closing slash."""
    expected = "expected a URL such as https://example.com or https://example.com/messaging"
    try:
        parts = urlsplit(text)
        start = origin(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        raise ValueError(expected) from None
    if parts.query or parts.fragment or not _PREFIX.fullmatch(parts.path.rstrip("/")):
        raise ValueError(expected)
    return start + parts.path.rstrip("/")


def route_prefix(text: str) -> str:
    """What stands before every route: ``/messaging``; ``/`` is nothing."""
    prefix = "/" + text.strip("/")
    if not text or (prefix != "/" and not _PREFIX.fullmatch(prefix)):
        raise ValueError("expected a path such as /messaging, or /")
    return prefix


_MAPPED_BITS: Final = 96  # of ::ffff:0:0/96, the IPv4 addresses as IPv6 has them (RFC 4291 section 2.5.5.2)


def network(text: str) -> IPv4Network | IPv6Network:
    """An address or a network: ``127.0.0.1``, ``10.0.0.0/8``, ``fd00::/8``. IPv4 written as IPv6 is IPv4."""
    try:
        parsed = ip_network(text.strip("[]"))
    except ValueError:
        raise ValueError("expected an address such as 127.0.0.1, or a network such as 10.0.0.0/8") from None
    if isinstance(parsed, IPv6Network) and parsed.prefixlen >= _MAPPED_BITS:
        mapped = parsed.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, parsed.prefixlen - _MAPPED_BITS))
    return parsed


def proxy(text: str) -> IPv4Network | IPv6Network | Literal["unix"]:
    """Whom to trust as a proxy: a network, or ``unix`` for whoever comes by a Unix socket."""
    return "unix" if text.lower() in ("unix", "unix:") else network(text)


def claim(text: str) -> str:
    """What a token's ``aud`` or ``iss`` is compared with, character by character."""
    if not text or not text.isprintable():
        raise ValueError("expected the text that tokens have there, such as https://idp.example.com/")
    return text


def path(text: str) -> Path:
    """A file or folder; relative ones are relative to where the command was started."""
    if not text or "\x00" in text:
        raise ValueError("expected a path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("expected a path; there is no such user, or no home for this one") from None


def route(text: str) -> str:
    """Where the metrics are served: ``/metrics``. No page of ours may be hidden by it."""
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text) or {"..", "."} & set(text.split("/")):
        raise ValueError("expected a path such as /metrics")
    if text in ("/admin", "/openapi.json") or text.startswith(("/-/", "/admin/", "/v1/", "/static/")):
        raise ValueError("expected a path that is not one of the server's own")
    return text


def switch(text: str) -> bool:
    """``true`` or ``false``, also ``yes/no``, ``on/off``, ``1/0``."""
    match text.lower():
        case "true" | "yes" | "on" | "1":
            return True
        case "false" | "no" | "off" | "0":
            return False
    raise ValueError("expected true or false")


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """A parser that takes these words only."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError("expected " + ", ".join(choices[:-1]) + " or " + choices[-1])
        return text.lower()

    return parse


def database_url(text: str) -> str:
    """A URL of SQLite or PostgreSQL; the store looks closer. It may hold a password: never shown."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme.split("+")[0] not in ("sqlite", "postgresql", "postgres"):
        raise ValueError("expected sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    return text


def broker_url(text: str) -> str:
    """A URL of Redis or Valkey; the broker looks closer. It may hold a password: never shown."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme.split("+")[0] not in ("redis", "rediss", "valkey", "valkeys", "unix"):
        raise ValueError("expected redis://HOST:PORT, rediss://, valkey://, valkeys://, unix:// or redis+sentinel://")
    return text


def cluster_name(text: str) -> str:
    """A word for keys and channels."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text, re.ASCII):
        raise ValueError("expected up to 64 letters, digits, dots, hyphens and underscores")
    return text


def lease(text: str) -> float:
    """A duration in which several beats have a place."""
    seconds = duration(text)
    if not 0.5 <= seconds <= 3600:
        raise ValueError("expected a duration from 500ms to 1h")
    return seconds


def source_url(text: str) -> str:
    """A URL of another server's database; whoever opens it looks closer. It may hold a password: never shown."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise ValueError("expected sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    return text


def share(text: str) -> float:
    """A share of the time: ``5%``, ``100%``; above 0."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", text, re.ASCII)
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError("expected a share of the time such as 5%, above 0% and up to 100%")
    return float(match[1]) / 100


def recount_interval(text: str) -> float:
    """A duration of ten seconds to a day: rows that vanish without a trace are noticed within it."""
    seconds = duration(text)
    if not 10 <= seconds <= 86_400:
        raise ValueError("expected a duration from 10s to 1d")
    return seconds


def host(text: str) -> str:
    """A host as in addresses: ``chat.example.org``."""
    if not text or any(character.isspace() or character in "@/'\"," for character in text):
        raise ValueError("expected a host such as chat.example.org")
    return text.lower()


def holds_password(url: str) -> bool:
    """Is there a password in this URL, in whatever place people put it? In doubt: yes."""
    rest = unquote(url.partition("://")[2] or url)  # drivers decode the options' names, too
    before, at, _ = rest.rpartition("@")
    if at and before.partition(":")[2]:
        return True
    return re.search(r"(?:passw|pwd|passphrase)[^=&\s]*=[^&\s]", rest, re.IGNORECASE) is not None
