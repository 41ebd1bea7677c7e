"""A PostgreSQL URL as libpq reads it: its options, a service file, the environment. Opens no connection.

asyncpg knows some of libpq's options and sends all others to the server as settings, which a server refuses with a
message about something else. So each option is honoured here or by asyncpg, dropped because it changes nothing that
matters to this program, or refused by its name. Nothing of a value that may be secret is repeated.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from exporter.core.errors import URL_FORM, Misconfigured
from exporter.store.dialects.libpq_tls import require_choices, require_files
from exporter.store.schema.triggers_postgresql import quoted

DEFAULT_PORT: Final = 5432

# What asyncpg reads out of a URL.
_PASSED: Final = {
    *("host", "port", "dbname", "database", "user", "password", "passfile", "target_session_attrs"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslnegotiation", "sslcrl", "sslpassword"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
}
# Of the way to the server, which asyncpg and the time limits of this program look after.
_DROPPED: Final = {
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
    *("sslcompression", "sslsni", "gssdelegation", "max_protocol_version", "authtype", "tty"),
    *("service", "servicefile", "hostaddr"),  # read before
}
# Fine with these values, which are what happens anyway; others ask for what asyncpg cannot do.
_WITH_VALUES: Final = {
    "channel_binding": {"disable", "prefer"},
    "gssencmode": {"disable", "prefer"},
    "client_encoding": {"utf8", "utf-8", "auto", "unicode"},
    "load_balance_hosts": {"disable"},
    "replication": {"false", "off", "no", "0"},
    "requiressl": {"0"},
    "sslcertmode": {"allow", "disable"},
    "min_protocol_version": {"3.0"},
}
_REFUSED: Final = {
    **dict.fromkeys(("requirepeer", "require_auth", "scram_client_key", "scram_server_key", "sslkeylogfile"), ""),
    **dict.fromkeys(("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"), ""),
    "sslcrldir": ", or name one file with sslcrl",
}
"""And what to do instead, beside leaving it out."""
_ENVIRONMENT: Final = {
    "PGSERVICE": "service",
    "PGHOSTADDR": "hostaddr",
    "PGOPTIONS": "options",
    "PGAPPNAME": "application_name",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGCHANNELBINDING": "channel_binding",
    "PGGSSENCMODE": "gssencmode",
    "PGREQUIREAUTH": "require_auth",
    "PGREQUIREPEER": "requirepeer",
    "PGREQUIRESSL": "requiressl",
    "PGLOADBALANCEHOSTS": "load_balance_hosts",
    "PGSSLCRLDIR": "sslcrldir",
    "PGSSLCERTMODE": "sslcertmode",
    "PGMINPROTOCOLVERSION": "min_protocol_version",
}
"""Variables that libpq reads and asyncpg does not."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect: what asyncpg is given, and what each session sets for itself."""

    dsn: str = field(repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float | None = None
    """Seconds; None: as long as any other use of the database may take."""
    hosts: tuple[tuple[str, int], ...] = ()
    """Hosts, or folders of Unix sockets, and ports, as they are tried; empty where they are not known."""

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Those of the network."""
        return tuple((host, port) for host, port in self.hosts if not host.startswith("/"))

    @property
    def place(self) -> str:
        """Where the server is, in words, without anything of the user and the password."""
        return ", ".join(_place(host, port) for host, port in self.hosts)


def target(
    url: str, schema: str | None = None, environ: Mapping[str, str] = os.environ, *, several: bool = False
) -> Target:
    """Read a URL with the options, the service and the environment that libpq would read.

    Of ``several`` databases each keeps the host that it names: to libpq PGHOSTADDR is the address of them all.

    Raises:
        Misconfigured: an option that is unknown or cannot be honoured, a service or a certificate that is not there.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    options = {name: value for name, value in given.items() if value != ""}
    origins = {name: f"the database URL's option {name}" for name in options}
    for variable, name in _ENVIRONMENT.items():
        if environ.get(variable) and name == "service":
            options.setdefault(name, environ[variable])
    if "service" in options:
        options = {**_service(options["service"], options.get("servicefile"), environ), **options}
    for name in options:
        origins.setdefault(name, f"the database service's option {name}")
    for variable, name in _ENVIRONMENT.items():
        named = parts.netloc.rpartition("@")[2] or options.get("host")
        if environ.get(variable) and name not in options and not (several and name == "hostaddr" and named):
            options[name] = environ[variable]
            origins[name] = f"the environment variable {variable}"
    settings: dict[str, str] = {}
    passed: dict[str, str] = {}
    timeout = None
    for name, value in options.items():
        if name in _PASSED:
            passed[name] = value
        elif name == "connect_timeout":
            timeout = _seconds(value, origins[name])
        elif name == "application_name":
            settings[name] = value
        elif name == "fallback_application_name":
            settings.setdefault("application_name", value)
        elif name == "options":
            settings.update(_settings(value, origins[name]))
        elif name == "search_path":  # no option of libpq, but one that asyncpg takes
            settings["search_path"] = value
        elif name not in _DROPPED:
            _require_harmless(name, value, origins[name])
    if schema is not None:
        settings["search_path"] = quoted(schema)
    require_choices(passed, environ, origins)
    require_files(passed, environ)
    _require_port(passed, environ, origins)
    if not (parts.password or passed.get("password") or environ.get("PGPASSWORD")):
        _require_passwords(passed, environ, origins)
    netloc = parts.netloc
    if "hostaddr" in options:
        netloc = _at_address(netloc, options["hostaddr"], passed, environ, origins["hostaddr"])
    path = "" if parts.path == "/" else parts.path  # libpq: PGDATABASE or the user's name, as without the slash
    query = urlencode(passed, quote_via=quote)
    dsn = f"postgresql://{netloc}{path}{'?' if query else ''}{query}"
    # A password with a "/", "?" or "#" in it that is not written as %2F ends the host too early: what is before it is
    # then taken for host and port. The driver refuses or goes elsewhere; nothing of it may be shown.
    torn = "@" in parts.path + parts.query + parts.fragment
    return Target(dsn, settings, timeout, () if torn else _hosts(netloc, passed, environ))


def _place(host: str, port: int) -> str:
    if host.startswith("/"):
        return f"{host}/.s.PGSQL.{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _hosts(netloc: str, passed: Mapping[str, str], environ: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    named = netloc.rpartition("@")[2]
    hosts = (named or passed.get("host") or environ.get("PGHOST", "")).split(",")
    ports = (passed.get("port") or environ.get("PGPORT") or "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    found = []
    with contextlib.suppress(ValueError):  # what is no port, or not one for each host: the driver says so
        for host, port in zip(hosts, ports, strict=True):
            name, own = (host, None) if host.startswith("/") else _host(host)
            if name:
                found.append((unquote(name) if named else name, own or int(port or DEFAULT_PORT)))
        return tuple(found)
    return ()


def _host(text: str) -> tuple[str, int | None]:
    """A name as it is written, as a password file may have it, and a port of its own. Raises ValueError."""
    if text.count(":") > 1 and not text.startswith("["):  # IPv6 has its brackets in the netloc only
        return text, None
    port = urlsplit(f"//{text}").port
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0], port


def _at_address(netloc: str, address: str, passed: dict[str, str], environ: Mapping[str, str], origin: str) -> str:
    """The address takes the place of the name, which is needed for nothing but to be compared with a certificate."""
    if (passed.get("sslmode") or environ.get("PGSSLMODE")) == "verify-full":
        raise Misconfigured(f"{origin} cannot be honoured with sslmode=verify-full: leave it out or use verify-ca")
    login, at, hosts = netloc.rpartition("@")
    named, addresses = (hosts or passed.get("host", "")).split(","), address.split(",")
    if named != [""] and len(named) != len(addresses):
        raise Misconfigured(f"{origin} has another number of addresses than there are hosts")
    try:
        ports = [_host(host)[1] for host in hosts.split(",")]
    except ValueError:
        raise Misconfigured(f"the database URL's host or port cannot be read: {URL_FORM}") from None
    if any(ports):
        passed["port"] = ",".join(str(port or DEFAULT_PORT) for port in ports)
    passed["host"] = address
    return login + at


def _require_port(passed: Mapping[str, str], environ: Mapping[str, str], origins: Mapping[str, str]) -> None:
    port = passed.get("port") or environ.get("PGPORT")
    if port and not all(re.fullmatch(r"[0-9]{1,5}|", part) for part in port.split(",")):
        raise Misconfigured(f"{origins.get('port', 'the environment variable PGPORT')} is not a number")


def _require_passwords(passed: Mapping[str, str], environ: Mapping[str, str], origins: Mapping[str, str]) -> None:
    file = passed.get("passfile") or environ.get("PGPASSFILE")
    if not file:
        return
    origin = origins.get("passfile", "the environment variable PGPASSFILE")
    if not os.access(file, os.R_OK):
        raise Misconfigured(f"{origin} names a file that is not there or cannot be read: {file}")
    if Path(file).stat().st_mode & 0o077:  # the driver passes over it, as libpq does
        raise Misconfigured(f"{origin} names a file that others can read: chmod it to 0600: {file}")


def _require_harmless(name: str, value: str, origin: str) -> None:
    allowed = _WITH_VALUES.get(name)
    if allowed is not None and value.lower() in allowed:
        return
    if allowed is not None:
        raise Misconfigured(
            f"{origin} cannot be honoured with that value: leave it out or use {' or '.join(sorted(allowed))}"
        )
    if name in _REFUSED:
        raise Misconfigured(f"{origin} cannot be honoured: leave it out{_REFUSED[name]}")
    if not re.fullmatch(r"[a-z0-9_]{1,40}", name):
        origin = origin.removesuffix(name) + "with a strange name"
    raise Misconfigured(
        f"{origin} is none of PostgreSQL's connection options: "
        "a setting of the server is given as options=-c%20NAME=VALUE"
    )


def _seconds(value: str, origin: str) -> float | None:
    try:
        seconds = int(value)
    except ValueError:
        raise Misconfigured(f"{origin} is not a number of seconds") from None
    return float(max(2, seconds)) if seconds > 0 else None  # 0 is no limit, and below 2 libpq takes 2


def _settings(text: str, origin: str) -> dict[str, str]:
    """``-c NAME=VALUE`` and ``--NAME=VALUE``, with a backslash before a space that belongs to a value."""
    reader = shlex.shlex(text, posix=True)
    reader.whitespace_split, reader.quotes, reader.commenters = True, "", ""
    words = list(reader)
    found = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = words.pop(0)
        elif word.startswith(("-c", "--")):
            word = word[2:]
        else:
            word = ""
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            raise Misconfigured(f"{origin} is understood as -c NAME=VALUE only")
        found[name.lower()] = value
    return found


def _service(name: str, file: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """A section of the user's service file, else of the system's."""
    home = Path(environ.get("HOME") or Path.home())
    files = [Path(file or environ.get("PGSERVICEFILE") or home / ".pg_service.conf")]
    if environ.get("PGSYSCONFDIR"):
        files.append(Path(environ["PGSYSCONFDIR"]) / "pg_service.conf")
    for path in files:
        parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
        parser.optionxform = str  # type: ignore[assignment, method-assign]  # as documented
        try:
            parser.read_string(path.read_text())
        except FileNotFoundError:
            continue
        except (OSError, UnicodeError, configparser.Error):
            raise Misconfigured(f"the service file {path} cannot be read") from None
        if parser.has_section(name):
            return {key: value for key, value in parser.items(name) if key not in ("service", "ldap") and value}
    raise Misconfigured(f"the database service that is asked for is not in {' or '.join(map(str, files))}")
