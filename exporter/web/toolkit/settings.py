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
from exporter.settings.file_watch import refuse_pipe
from exporter.web.toolkit import basic_auth, tls
from exporter.web.toolkit.tls import TlsSettings

_SECTIONS: Final = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
_HTTP: Final = ("http2", "headers")
_RATE: Final = ("interval", "burst")
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
    """The settings in ``path``, certificates tried; raises Misconfigured, which names the key and its line."""
    refuse_pipe(path)
    document = strict_yaml.load(path)
    try:
        document = {} if document is None else document
        if not isinstance(document, dict):
            raise Misconfigured(f"the file: expected a mapping of {', '.join(_SECTIONS)}")
        _known(document, _SECTIONS, "the file")
        http = _section(document, "http_server_config")
        _known(http, _HTTP, "http_server_config")
        _typed(http, "http2", bool, True, "http_server_config")  # accepted: this server speaks HTTP/1.1
        tls_settings, context = _tls(_section(document, "tls_server_config"), path.parent)
        return WebSettings(
            tls=tls_settings,
            context=context,
            headers=_headers(_section(http, "headers", "http_server_config.")),
            users=_users(_section(document, "basic_auth_users")),
            rate=_rate(_section(document, "rate_limit")),
        )
    except Misconfigured as error:
        raise Misconfigured(f"{path}: {error}") from error


def _wrong(where: str, section: Mapping[Any, Any], name: str, problem: str) -> Misconfigured:
    """``where.name (line 7): problem``; the name is one of those that are known."""
    return Misconfigured(f"{where}.{name}{strict_yaml.key_line(section, name)}: {problem}")


def _tls(section: Mapping[str, Any], folder: Path) -> tuple[TlsSettings | None, ssl.SSLContext | None]:
    where, known = "tls_server_config", TlsSettings.__dataclass_fields__
    _known(section, tuple(known), where)
    given: dict[str, Any] = {}
    for name in section:
        if name.endswith("_file"):
            text = _typed(section, name, str, "", where)
            given[name] = folder / text if text else None
        elif name in ("client_allowed_sans", "cipher_suites", "curve_preferences"):
            given[name] = _strings(section, name, where)
        elif name == "prefer_server_cipher_suites":
            given[name] = _typed(section, name, bool, True, where)
        else:
            given[name] = _typed(section, name, str, "", where) or known[name].default
    settings = TlsSettings(**given)
    # The toolkit's own test (IsEnabled): options alone, without any of these, leave TLS off.
    named = (settings.cert, settings.key, settings.client_ca, settings.client_auth_type, *settings.files)
    if not any(named):
        return None, None
    try:
        return settings, tls.build(settings)
    except tls.InvalidSetting as unfit:
        if not unfit.name:
            raise Misconfigured(f"{where}: {unfit}") from unfit
        raise _wrong(where, section, unfit.name, str(unfit)) from unfit


def _headers(section: Mapping[str, Any]) -> dict[str, str]:
    where = "http_server_config.headers"
    _known(section, tuple(_HEADERS), where)
    headers = {}
    for name in section:
        number = type(section[name]) is int  # "X-XSS-Protection: 0" is a number to YAML
        value = str(section[name]) if number else _typed(section, name, str, "", where)
        allowed = _HEADERS[name]
        if allowed is not None and value not in allowed:
            raise _wrong(where, section, name, f"must be {' or '.join(allowed)}")
        if not re.fullmatch(r"[\t\x20-\x7e]*", value):
            raise _wrong(where, section, name, "holds characters that no header may have")
        if value:  # "unset if blank"
            headers[str(name)] = value
    return headers


def _users(section: Mapping[str, Any]) -> dict[bytes, bytes]:
    """A user's name is not shown: whoever swaps the two sides has a password there."""
    users = {}
    for name in section:
        line = strict_yaml.line_of(name)
        hash = section[name].encode() if isinstance(section[name], str) else b""
        if not basic_auth.is_hash(hash):
            raise Misconfigured(
                f"basic_auth_users{line}: the password is not hashed with bcrypt; use htpasswd -nBC 10 USER"
            )
        if ":" in name:
            raise Misconfigured(f"basic_auth_users{line}: a user's name must not contain a colon")
        users[name.encode()] = hash
    return users


def _rate(section: Mapping[str, Any]) -> RateLimit:
    where = "rate_limit"
    _known(section, _RATE, where)
    interval, burst = section.get("interval", "0"), section.get("burst", 0)
    try:
        seconds = parsers.duration(str(interval))
    except ValueError as error:
        raise _wrong(where, section, "interval", str(error)) from error
    if isinstance(burst, bool) or not isinstance(burst, int) or burst < 0:
        raise _wrong(where, section, "burst", "expected a whole number")
    if seconds and not burst:
        known = "burst" if "burst" in section else "interval"
        raise _wrong(where, section, known, "with a burst of 0 nothing would ever be answered")
    return RateLimit(seconds, burst)


def _section(document: Mapping[str, Any], name: str, prefix: str = "") -> Mapping[str, Any]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Misconfigured(f"{prefix}{name}{strict_yaml.key_line(document, name)}: expected a mapping")
    return value


def _known(section: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    """Every key must be one of ``names``. The stray one is shown only if it is a plain word, hence no secret."""
    for key in section:
        if key not in names:
            elsewhere = key in (*_SECTIONS, *_HTTP, *_RATE, *_HEADERS)
            plain = elsewhere or re.fullmatch(r"[A-Za-z_-]{1,40}|\d{1,4}", key, re.ASCII)
            shown = f' "{key}"' if plain else ""
            raise Misconfigured(f"{where}: unknown key{shown}{strict_yaml.line_of(key)}; known are {', '.join(names)}")


def _typed(section: Mapping[str, Any], name: str, kind: type[Any], default: Any, where: str) -> Any:
    value = section.get(name, default)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise _wrong(where, section, name, f"expected {'true or false' if kind is bool else 'text'}")
    return value


def _strings(section: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = section[name]
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(where, section, name, "expected a list of texts")
    return tuple(value)
