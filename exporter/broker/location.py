"""From the user's URL to a server: a host, a Unix socket or a name that Sentinels know. Opens nothing.

redis-py reads the URL; what it would take without a word, such as an option that does not exist, is refused here. No
part of a URL is repeated in an error: it may be a secret.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from exporter.core.errors import URL_FORM, Misconfigured

PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_SCHEMES: Final = {
    "redis": "redis",
    "valkey": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
    "redis+sentinel": "sentinel",
    "valkey+sentinel": "sentinel",
    "rediss+sentinel": "sentinels",
    "valkeys+sentinel": "sentinels",
}
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS: Final = (*_TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL: Final = ("sentinel_username", "sentinel_password", "sentinel_ssl")
_YES: Final = ("true", "yes", "1")
_NO: Final = ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class Location:
    """Where the server is. ``hosts`` are Sentinels where ``master`` is given; ``path`` is a Unix socket."""

    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    own: bool = False  # at the socket this user's program listens, and no other is spoken to
    master: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    database: int = 0
    tls: dict[str, str] | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    sentinel_tls: dict[str, str] | None = None

    def sentinel_options(self) -> dict[str, Any]:
        """What redis-py needs to ask the Sentinels. Raises Misconfigured."""
        options: dict[str, Any] = {}
        if self.sentinel_password is not None:
            options |= {"username": self.sentinel_username, "password": self.sentinel_password}
        if self.sentinel_tls is not None:
            checked = _context(self.sentinel_tls)
            files = {key: path for key, path in self.sentinel_tls.items() if key in _TLS_FILES}
            reqs = "none" if checked.verify_mode is ssl.CERT_NONE else "required"
            options |= {"ssl": True, **files, "ssl_check_hostname": checked.check_hostname, "ssl_cert_reqs": reqs}
        return options

    def tls_context(self) -> ssl.SSLContext | None:
        """For each connection anew, so that renewed certificates count. Raises Misconfigured."""
        return None if self.tls is None else _context(self.tls)

    def secret(self) -> str | None:
        """The password, from its file when there is one: read for each connection. Raises Misconfigured."""
        if self.password_file is None:
            return self.password
        try:
            password = self.password_file.read_text("utf-8-sig").strip()  # Windows writes a mark before the text
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(
                f"cannot read the broker's password file {self.password_file}: {_words(error)}"
            ) from None
        if not password:  # else the server would say that one is needed, or take a password of nobody's
            raise Misconfigured(f"the broker's password file {self.password_file} is empty")
        return password


def locate(url: str, password_file: Path | None = None) -> Location:
    """``redis``, ``rediss``, ``valkey``, ``valkeys``, ``unix``, ``redis+sentinel://h1,h2/master``.

    Raises:
        Misconfigured: not such a URL.
    """
    scheme, mark, rest = url.partition("://")
    kind = _SCHEMES.get(scheme.lower())
    if not mark or kind is None:
        named = f" ({scheme})" if mark and scheme.replace("+", "").isalnum() and len(scheme) < 24 else ""
        raise Misconfigured(
            "the broker's URL begins with none of redis://, rediss://, valkey://, valkeys://, unix:// and "
            f"redis+sentinel://{named}"
        )
    if kind != "unix" and ("#" in rest or "@" in rest.partition("?")[0].partition("/")[2]):
        raise Misconfigured(f"the broker's URL cannot be read: {URL_FORM}")  # its password ends it too early
    found = _sentinels(rest, tls=kind == "sentinels") if kind.startswith("sentinel") else _server(kind, rest)
    try:
        for host, _ in found["hosts"]:
            host.encode("idna")  # as for the question where it is
    except UnicodeError:
        text = (
            "the broker's URL has a host that can be no name: a part is empty, too long, or has a character of no name"
        )
        raise Misconfigured(text) from None
    options = {**found, "password_file": password_file}
    if password_file is not None and found.get("password") is not None:
        raise Misconfigured("the broker's URL holds a password, and a password file is given too: one of them only")
    return Location(**options)


def _server(kind: str, rest: str) -> dict[str, Any]:
    try:
        from redis.connection import parse_url
    except ImportError:
        raise Misconfigured("--redis.url needs the extra: pip install 'messaging-exporter[redis]'") from None
    try:
        options = dict(parse_url(f"{kind}://{rest}"))  # type: ignore[no-untyped-call]  # as it comes
        port = int(options.get("port") or PORT)
        if not 0 < port < 65536:
            raise ValueError
    except (ValueError, TypeError):
        raise Misconfigured(
            f"the broker's URL cannot be read: a port, a database number or an option is wrong; {URL_FORM}"
        ) from None
    options.pop("connection_class", None)
    database = int(options.get("db") or 0) if kind == "unix" else _database(rest, options.get("db"))
    tls = {name: str(options.pop(name)) for name in _TLS if name in options} if kind == "rediss" else None
    known = {"host", "port", "path", "username", "password", "db"}
    if unknown := sorted(set(options) - known):
        raise Misconfigured(f"the broker's URL has an option that does not exist here: {_shown(unknown[0])}")
    path = options.get("path")
    if kind == "unix" and not path:
        raise Misconfigured("the broker's URL names no socket: write unix:///PATH")
    return {
        "hosts": () if kind == "unix" else ((options.get("host") or "localhost", port),),
        "path": path,
        "username": options.get("username") or None,
        "password": options.get("password") or None,
        "database": database,
        "tls": tls,
    }


def _database(rest: str, parsed: Any) -> int:
    """redis-py passes over a path that is no number; here it is an error."""
    path = urlsplit(f"redis://{rest}").path.strip("/")
    if path and not path.isdecimal() and parsed is None:
        raise Misconfigured("the broker's URL has a path that is no database number: write redis://HOST:PORT/NUMBER")
    return int(parsed or 0)


def _sentinels(rest: str, *, tls: bool) -> dict[str, Any]:
    """``[user:password@]h1[:port],h2[:port]/master[/database][?sentinel_password=…]``; redis-py has no such URL.

    ``tls``: the master speaks it; the Sentinels do with ``sentinel_ssl``.
    """
    parts = urlsplit(f"redis://{rest}")
    userinfo, at, hosts = parts.netloc.rpartition("@")
    name, _, database = parts.path.strip("/").partition("/")
    if not name or (database and not database.isdecimal()):
        raise Misconfigured("a Sentinel URL ends with the name of the master: redis+sentinel://HOST,HOST/NAME")
    options: dict[str, str] = {}
    for part in filter(None, parts.query.split("&")):
        key, _, value = part.partition("=")
        if key not in (*_SENTINEL, *_TLS):
            raise Misconfigured(f"the broker's URL has an option that does not exist here: {_shown(key)}")
        options[key] = unquote(value)
    said = options.get("sentinel_ssl", "no").lower()
    if said not in (*_YES, *_NO):
        raise Misconfigured("the broker's URL: sentinel_ssl is true or false")
    sentinel_tls = said in _YES
    files = {key: options[key] for key in _TLS if key in options}
    if files and not tls and not sentinel_tls:
        raise Misconfigured(
            "the broker's URL has options of TLS, but nobody speaks it: write rediss+sentinel:// if the master does, "
            "sentinel_ssl=true if the Sentinels do"
        )
    username, _, password = userinfo.partition(":")
    return {
        "hosts": tuple(_host(text) for text in hosts.split(",")),
        "master": unquote(name),
        "database": int(database or 0),
        "username": unquote(username) or None,
        "password": unquote(password) or None if at else None,
        "tls": files if tls else None,
        "sentinel_username": options.get("sentinel_username"),
        "sentinel_password": options.get("sentinel_password"),
        "sentinel_tls": files if sentinel_tls else None,
    }


def _host(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"redis://{text.strip()}")
        host, port = parts.hostname, parts.port or SENTINEL_PORT
    except ValueError:
        host, port = None, 0
    if not host:
        raise Misconfigured("a Sentinel URL has a host that cannot be read: redis+sentinel://HOST:PORT,HOST:PORT/NAME")
    return host, port


def _context(tls: dict[str, str]) -> ssl.SSLContext:
    read = "ssl_ca_certs"
    try:
        context = ssl.create_default_context(cafile=tls.get("ssl_ca_certs"))
        read = "ssl_certfile and ssl_keyfile"
        if tls.get("ssl_certfile"):
            context.load_cert_chain(tls["ssl_certfile"], tls.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        said = (error.reason or "").replace("_", " ").lower() if isinstance(error, ssl.SSLError) else ""
        raise Misconfigured(f"the broker's TLS files cannot be used: {said or _words(error)} ({read})") from None
    if tls.get("ssl_check_hostname", "true").lower() in _NO:
        context.check_hostname = False
    if tls.get("ssl_cert_reqs", "required").lower() == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _shown(name: str) -> str:
    return name if name.isidentifier() and len(name) < 40 else "(its name is not shown)"


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or type(error).__name__).lower()
