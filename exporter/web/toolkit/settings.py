"""What the exporter toolkit's web configuration file may say, read and checked. Knows no request and no clock.

The keys and their meaning are the toolkit's (docs/web-configuration.md there, as of 2026); unknown ones are refused.

Tested in ``tests/web/test_toolkit.py``.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from exporter.core.errors import Misconfigured
from exporter.settings import parsers, strict_yaml
from exporter.web.toolkit import basic_auth, tls
from exporter.web.toolkit.tls import TlsSettings

_SECTIONS: Final = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
_HEADERS: Final[Mapping[str, tuple[str, ...] | None]] = {
    "Strict-Transport-Security": None,
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": None,
    "Content-Security-Policy": None,
}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: one request per ``interval`` seconds, ``burst`` of them at once; 0 is no limit."""

    interval: float = 0.0
    burst: int = 0


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What the file says; ``context`` is None without TLS. Users and hashes are bytes, as they come in headers."""

    tls: TlsSettings | None = None
    context: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    rate: RateLimit = RateLimit()


def read(path: Path) -> WebSettings:
    """The settings in ``path``, certificates tried; raises Misconfigured."""
    try:
        document = _mapping(strict_yaml.load(path), "the file")
        _known(document, _SECTIONS, "the file")
        tls_settings = _tls(_mapping(document.get("tls_server_config"), "tls_server_config"), path.parent)
        http = _mapping(document.get("http_server_config"), "http_server_config")
        _known(http, ("http2", "headers"), "http_server_config")
        _typed(http, "http2", bool, True)  # accepted for the ecosystem's sake: this server speaks HTTP/1.1
        return WebSettings(
            tls=tls_settings,
            context=tls.build(tls_settings) if tls_settings is not None else None,
            headers=_headers(_mapping(http.get("headers"), "headers")),
            users=_users(_mapping(document.get("basic_auth_users"), "basic_auth_users")),
            rate=_rate(_mapping(document.get("rate_limit"), "rate_limit")),
        )
    except Misconfigured as error:
        raise Misconfigured(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _tls(section: Mapping[str, Any], folder: Path) -> TlsSettings | None:
    known = TlsSettings.__dataclass_fields__
    _known(section, tuple(known), "tls_server_config")
    given: dict[str, Any] = {}
    for name in section:
        if name.endswith("_file"):
            text = _typed(section, name, str, "")
            given[name] = folder / text if text else None
        elif name in ("client_allowed_sans", "cipher_suites", "curve_preferences"):
            given[name] = _strings(section, name)
        elif name == "prefer_server_cipher_suites":
            given[name] = _typed(section, name, bool, True)
        else:
            given[name] = _typed(section, name, str, "") or known[name].default
    settings = TlsSettings(**given)
    # The toolkit's own test (IsEnabled): options alone, without any of these, leave TLS off.
    named = (settings.cert, settings.key, settings.client_ca, settings.client_auth_type, *settings.files)
    return settings if any(named) else None


def _headers(section: Mapping[str, Any]) -> dict[str, str]:
    _known(section, tuple(_HEADERS), "headers")
    headers = {}
    for name in section:
        number = type(section[name]) is int  # "X-XSS-Protection: 0" is a number to YAML
        value = str(section[name]) if number else _typed(section, name, str, "")
        allowed = _HEADERS[name]
        if allowed is not None and value not in allowed:
            raise Misconfigured(f"{name} must be {' or '.join(allowed)}")
        if not re.fullmatch(r"[\t\x20-\x7e]*", value):
            raise Misconfigured(f"{name} holds characters that no header may have")
        if value:  # "unset if blank"
            headers[name] = value
    return headers


def _users(section: Mapping[str, Any]) -> dict[bytes, bytes]:
    users = {}
    for name in section:
        hash = section[name].encode() if isinstance(section[name], str) else b""
        if not basic_auth.is_hash(hash):
            raise Misconfigured("basic_auth_users: a password is not hashed with bcrypt; use htpasswd -nBC 10 USER")
        if ":" in str(name):
            raise Misconfigured("basic_auth_users: a user's name must not contain a colon")
        users[str(name).encode()] = hash
    return users


def _rate(section: Mapping[str, Any]) -> RateLimit:
    _known(section, ("interval", "burst"), "rate_limit")
    interval, burst = section.get("interval", "0"), section.get("burst", 0)
    try:
        seconds = parsers.duration(str(interval))
    except ValueError as error:
        raise Misconfigured(f"rate_limit.interval: {error}") from error
    if isinstance(burst, bool) or not isinstance(burst, int) or burst < 0:
        raise Misconfigured("rate_limit.burst: expected a whole number")
    if seconds and not burst:
        raise Misconfigured("rate_limit.burst: with 0 nothing would ever be answered")
    return RateLimit(seconds, burst)


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Misconfigured(f"{where}: expected a mapping")
    return value


def _known(section: Mapping[Any, Any], names: tuple[str, ...], where: str) -> None:
    """Every key must be one of ``names``. The stray one is shown only if it is a plain word, hence no secret."""
    for key in section:
        if key not in names:
            shown = f' "{key}"' if isinstance(key, str) and re.fullmatch(r"[A-Za-z_-]{1,40}", key) else ""
            raise Misconfigured(f"{where}: unknown key{shown}{strict_yaml.line_of(key)}; known are {', '.join(names)}")


def _typed(section: Mapping[str, Any], name: str, kind: type[Any], default: Any) -> Any:
    value = section.get(name, default)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise Misconfigured(f"{name}: expected {'true or false' if kind is bool else 'text'}")
    return value


def _strings(section: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = section[name]
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Misconfigured(f"{name}: expected a list of texts")
    return tuple(value)
