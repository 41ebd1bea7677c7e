"""The table of settings: all that there is to say of each. Knows no click, no server and no store.

The command line, the environment's names, the file's keys, the help and the documentation are made from it.

Tested in ``tests/settings/test_options.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from exporter.settings import parsers
from exporter.settings.model import LOG_FORMATS, LOG_LEVELS, MAX_WORKERS, SOURCE_KINDS, Settings

PREFIX: Final = "MESSAGING_"
DEFAULTS: Final = Settings()


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its name with dots, how to read it, and what to tell people."""

    name: str
    parse: Callable[[str], Any]
    default: str
    help: str
    named: str = ""  # the field of Settings, where it is called otherwise
    secret: bool = False  # the value is never shown

    @property
    def field(self) -> str:
        """The field of Settings: ``database_url`` for ``database.url``, ``max_requests`` for ``web.max-requests``."""
        words = self.name.removeprefix("web.").replace("-", "_")
        return self.named or (words if words.startswith("limits.") else words.replace(".", "_"))

    @property
    def many(self) -> bool:
        """May it be repeated? Then it is commas in the environment and a list in YAML."""
        return isinstance(getattr(DEFAULTS, self.field, None), tuple)

    @property
    def switch(self) -> bool:
        """Is it ``--name`` and ``--no-name``?"""
        return self.parse is parsers.switch

    @property
    def variable(self) -> str:
        """``web.listen-address`` is ``MESSAGING_WEB_LISTEN_ADDRESS``."""
        return variable(self.name)

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        return next((word for word, parse in _METAVARS.items() if self.parse in parse), "VALUE")


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper().replace(".", "_").replace("-", "_")


_METAVARS: Final[dict[str, tuple[Callable[[str], Any], ...]]] = {
    "HOST:PORT": (parsers.address,),
    "PATH": (parsers.route, parsers.path, parsers.route_prefix),
    "URL": (parsers.database_url, parsers.broker_url, parsers.external_url, parsers.source_url),
    "NAME": (parsers.cluster_name, parsers.claim),
    "DURATION": (parsers.lease, parsers.duration, parsers.positive_duration, parsers.recount_interval),
    "ORIGIN": (parsers.origin,),
    "ADDRESS": (parsers.proxy,),
    "PERCENT": (parsers.share,),
    "HOST": (parsers.host,),
}
_COUNT: Final = parsers.number(1, 10_000_000)
_BYTES: Final = parsers.number(1, 1_073_741_824)

OPTIONS: Final = (
    Option(
        "web.listen-address",
        parsers.address,
        "127.0.0.1:8765",
        "where to listen; :8765 is all interfaces",
        named="listen",
    ),
    Option(
        "web.metrics-listen-address",
        parsers.address,
        "same listener",
        "serve metrics, health, admin and stats only here",
        named="metrics_listen",
    ),
    Option(
        "web.systemd-socket",
        parsers.switch,
        "false",
        "listen on the sockets that systemd has opened, in the place of --web.listen-address",
    ),
    Option("web.telemetry-path", parsers.route, "/metrics", "where the metrics are"),
    Option(
        "web.config.file",
        parsers.path,
        "",
        "TLS, basic auth and headers, as in the Prometheus exporter toolkit",
        named="web_config_file",
    ),
    Option("web.max-requests", parsers.number(1, 10_000), "40", "concurrent scrapes; 503 beyond"),
    Option(
        "web.external-url",
        parsers.external_url,
        "",
        "where browsers reach the server behind a proxy; its path becomes the route prefix",
    ),
    Option(
        "web.route-prefix",
        parsers.route_prefix,
        "path of web.external-url",
        "before every route here; / where the proxy takes the path away",
    ),
    Option(
        "web.trusted-proxies",
        parsers.proxy,
        "",
        "addresses whose X-Forwarded-* and Forwarded are believed: 10.0.0.0/8; unix for those on a Unix socket",
    ),
    Option(
        "web.cors-origins", parsers.origin, "none", "pages of other origins that may GET the stats routes with a token"
    ),
    Option("data.dir", parsers.path, "data", "folder of the SQLite file and of auth.secret"),
    Option(
        "database.url",
        parsers.database_url,
        "sqlite:///<data.dir>/messaging.db",
        "sqlite:///FILE or postgresql://USER@HOST/DATABASE; a password by environment or file only",
        secret=True,
    ),
    Option(
        "database.schema",
        parsers.schema,
        "",
        "PostgreSQL: the schema of our tables, made when absent; beside an application that has tables of these names",
    ),
    Option("database.timeout", parsers.positive_duration, "5s", "one statement at most"),
    Option("database.migrate", parsers.switch, "true", "create or upgrade the database at start"),
    Option("verify.interval", parsers.duration, "24h", "recount everything in the background this often; 0 is never"),
    Option(
        "redis.url",
        parsers.broker_url,
        "",
        "this is one node of several: redis, rediss, valkey, valkeys, unix, redis+sentinel://HOST,HOST/NAME",
        secret=True,
    ),
    Option("redis.password-file", parsers.path, "", "the broker's password, for its user"),
    Option("cluster.name", parsers.cluster_name, "messaging", "tells installations on one broker apart"),
    Option("cluster.lease", parsers.lease, "15s", "a dead node's part of the figures is gone after this"),
    Option("auth.secret-file", parsers.path, "<data.dir>/auth.secret", "the HS256 secret, made when absent"),
    Option(
        "auth.public-key-file",
        parsers.path,
        "",
        "PEM of your identity provider, with one key or several: RS256 or ES256 instead of HS256",
    ),
    Option(
        "auth.jwks-file",
        parsers.path,
        "",
        "JWKS of your identity provider, keys by kid: RS256 or ES256 instead of HS256",
    ),
    Option(
        "auth.audience",
        parsers.claim,
        "any",
        "tokens must be for one of these (aud); ask for it when your identity provider serves other applications, too",
        named="auth_audiences",
    ),
    Option("auth.issuer", parsers.claim, "any", "tokens must be from one of these (iss)", named="auth_issuers"),
    Option(
        "auth.allowed-origins",
        parsers.origin,
        "same origin",
        "pages that may open WebSockets and sign in: https://chat.example.com, or *",
        named="allowed_origins",
    ),
    Option("limits.connections", _COUNT, "20000", "connections in total"),
    Option("limits.connections-per-user", _COUNT, "20", "connections of one user"),
    Option("limits.frame-bytes", _BYTES, "65536", "the largest frame a client may send"),
    Option("limits.frames-per-second", _COUNT, "50", "frames of one connection"),
    Option("limits.send-buffer-bytes", _BYTES, "1048576", "what may wait for a slow reader before it is cut off"),
    Option(
        "workers",
        parsers.number(1, MAX_WORKERS),
        "1",
        "processes on one port; metrics on ports of their own: from the listen port + 1, or web.metrics-listen-address",
    ),
    Option("typing.timeout", parsers.positive_duration, "6s", "typing ends by itself after this"),
    Option("heartbeat.interval", parsers.positive_duration, "30s", "a peer silent for 1.5 of these is cut"),
    Option("drain.timeout", parsers.duration, "10s", "time to say goodbye after SIGTERM"),
    Option(
        "source.url",
        parsers.source_url,
        "",
        "the database to observe: sqlite:///FILE or postgresql://USER@HOST/DATABASE; a password by environment or file",
        secret=True,
    ),
    Option("source.kind", parsers.one_of(SOURCE_KINDS), "", "whose it is: " + ", ".join(SOURCE_KINDS)),
    Option("source.config-file", parsers.path, "", "the mapping of a custom database, YAML"),
    Option(
        "source.host",
        parsers.host,
        "",
        "host of the addresses in ejabberd's default schema, which does not store it",
        named="source_hosts",
    ),
    Option(
        "source.recount-interval",
        parsers.recount_interval,
        "1h",
        "count everything again this often: rows vanish without a trace",
    ),
    Option("source.load", parsers.share, "5%", "share of the time that counting may take"),
    Option("log.level", parsers.one_of(LOG_LEVELS), "info", "debug, info, warn or error"),
    Option("log.format", parsers.one_of(LOG_FORMATS), "logfmt", "logfmt or json"),
)
BY_NAME: Final = {option.name: option for option in OPTIONS}
