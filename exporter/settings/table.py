"""The table of settings: all that there is to say of each. Knows no click, no server and no store.

The command line, the environment's names, the file's keys, the help and the documentation are made from it.

Tested in ``tests/settings/test_options.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from exporter.settings import parsers
from exporter.settings.model import LOG_FORMATS, LOG_LEVELS, MOST_WORKERS, SOURCE_KINDS

PREFIX: Final = "MESSAGING_"


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its name with dots, the field of Settings, how to read it, and what to tell people."""

    name: str
    field: str
    parse: Callable[[str], Any]
    default: str
    help: str
    many: bool = False  # may be repeated; commas in the environment, a list in YAML
    switch: bool = False  # --name / --no-name
    secret: bool = False  # the value is never shown

    @property
    def variable(self) -> str:
        """``web.listen-address`` is ``MESSAGING_WEB_LISTEN_ADDRESS``."""
        return variable(self.name)

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        return _METAVARS.get(self.parse, "VALUE")


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper().replace(".", "_").replace("-", "_")


_METAVARS: Final[dict[Callable[[str], Any], str]] = {
    parsers.address: "HOST:PORT",
    parsers.route: "PATH",
    parsers.path: "PATH",
    parsers.database_url: "URL",
    parsers.broker_url: "URL",
    parsers.cluster_name: "NAME",
    parsers.lease: "DURATION",
    parsers.duration: "DURATION",
    parsers.positive_duration: "DURATION",
    parsers.origin: "ORIGIN",
    parsers.external_url: "URL",
    parsers.route_prefix: "PATH",
    parsers.proxy: "ADDRESS",
    parsers.claim: "NAME",
    parsers.source_url: "URL",
    parsers.recount_interval: "DURATION",
    parsers.share: "PERCENT",
    parsers.host: "HOST",
}
_COUNT: Final = parsers.number(1, 10_000_000)
_BYTES: Final = parsers.number(1, 1_073_741_824)

OPTIONS: Final = (
    Option(
        "web.listen-address",
        "listen",
        parsers.address,
        "127.0.0.1:8765",
        "where to listen; :8765 is all interfaces",
        many=True,
    ),
    Option(
        "web.metrics-listen-address",
        "metrics_listen",
        parsers.address,
        "same listener",
        "serve metrics, health, admin and stats only here",
        many=True,
    ),
    Option(
        "web.systemd-socket",
        "systemd_socket",
        parsers.switch,
        "false",
        "listen on the sockets that systemd has opened, in the place of --web.listen-address",
        switch=True,
    ),
    Option("web.telemetry-path", "telemetry_path", parsers.route, "/metrics", "where the metrics are"),
    Option(
        "web.config.file",
        "web_config_file",
        parsers.path,
        "",
        "TLS, basic auth and headers, as in the Prometheus exporter toolkit",
    ),
    Option("web.max-requests", "max_requests", parsers.number(1, 10_000), "40", "concurrent scrapes; 503 beyond"),
    Option(
        "web.external-url",
        "external_url",
        parsers.external_url,
        "",
        "where browsers reach the server behind a proxy; its path becomes the route prefix",
    ),
    Option(
        "web.route-prefix",
        "route_prefix",
        parsers.route_prefix,
        "path of web.external-url",
        "before every route here; / where the proxy takes the path away",
    ),
    Option(
        "web.trusted-proxies",
        "trusted_proxies",
        parsers.proxy,
        "",
        "addresses whose X-Forwarded-* and Forwarded are believed: 10.0.0.0/8; unix for those on a Unix socket",
        many=True,
    ),
    Option(
        "web.cors-origins",
        "cors_origins",
        parsers.origin,
        "none",
        "pages of other origins that may GET the stats routes with a token",
        many=True,
    ),
    Option("data.dir", "data_dir", parsers.path, "data", "folder of the SQLite file and of auth.secret"),
    Option(
        "database.url",
        "database_url",
        parsers.database_url,
        "sqlite:///<data.dir>/messaging.db",
        "or postgresql://USER@HOST/DATABASE; a password by environment or file only",
        secret=True,
    ),
    Option(
        "database.schema",
        "database_schema",
        parsers.schema,
        "",
        "PostgreSQL: the schema of our tables, made when absent; beside an application that has tables of these names",
    ),
    Option("database.timeout", "database_timeout", parsers.positive_duration, "5s", "one statement at most"),
    Option(
        "database.migrate",
        "database_migrate",
        parsers.switch,
        "true",
        "create or upgrade the database at start",
        switch=True,
    ),
    Option(
        "verify.interval",
        "verify_interval",
        parsers.duration,
        "24h",
        "recount everything in the background this often; 0 is never",
    ),
    Option(
        "redis.url",
        "redis_url",
        parsers.broker_url,
        "",
        "this is one node of several: redis, rediss, valkey, valkeys, unix, redis+sentinel://HOST,HOST/NAME",
        secret=True,
    ),
    Option("redis.password-file", "redis_password_file", parsers.path, "", "the broker's password, for its user"),
    Option(
        "cluster.name", "cluster_name", parsers.cluster_name, "messaging", "tells installations on one broker apart"
    ),
    Option(
        "cluster.lease",
        "cluster_lease",
        parsers.lease,
        "15s",
        "a dead node's part of the figures is gone after this",
    ),
    Option(
        "auth.secret-file",
        "auth_secret_file",
        parsers.path,
        "<data.dir>/auth.secret",
        "the HS256 secret, made when absent",
    ),
    Option(
        "auth.public-key-file",
        "auth_public_key_file",
        parsers.path,
        "",
        "PEM of your identity provider, with one key or several: RS256 or ES256 instead of HS256",
    ),
    Option(
        "auth.jwks-file",
        "auth_jwks_file",
        parsers.path,
        "",
        "JWKS of your identity provider, keys by kid: RS256 or ES256 instead of HS256",
    ),
    Option(
        "auth.audience",
        "auth_audiences",
        parsers.claim,
        "any",
        "tokens must be for one of these (aud); ask for it when your identity provider serves other applications, too",
        many=True,
    ),
    Option("auth.issuer", "auth_issuers", parsers.claim, "any", "tokens must be from one of these (iss)", many=True),
    Option(
        "auth.allowed-origins",
        "allowed_origins",
        parsers.origin,
        "same origin",
        "pages that may open WebSockets and sign in: https://chat.example.com, or *",
        many=True,
    ),
    Option("limits.connections", "limits.connections", _COUNT, "20000", "connections in total"),
    Option("limits.connections-per-user", "limits.connections_per_user", _COUNT, "20", "connections of one user"),
    Option("limits.frame-bytes", "limits.frame_bytes", _BYTES, "65536", "the largest frame a client may send"),
    Option("limits.frames-per-second", "limits.frames_per_second", _COUNT, "50", "frames of one connection"),
    Option(
        "limits.send-buffer-bytes",
        "limits.send_buffer_bytes",
        _BYTES,
        "1048576",
        "what may wait for a slow reader before it is cut off",
    ),
    Option(
        "workers",
        "workers",
        parsers.number(1, MOST_WORKERS),
        "1",
        "processes on one port; metrics on ports of their own: from the listen port + 1, or web.metrics-listen-address",
    ),
    Option("typing.timeout", "typing_timeout", parsers.positive_duration, "6s", "typing ends by itself after this"),
    Option(
        "heartbeat.interval",
        "heartbeat_interval",
        parsers.positive_duration,
        "30s",
        "a peer silent for 1.5 of these is cut",
    ),
    Option("drain.timeout", "drain_timeout", parsers.duration, "10s", "time to say goodbye after SIGTERM"),
    Option(
        "source.url",
        "source_url",
        parsers.source_url,
        "",
        "the database to observe: sqlite:///FILE or postgresql://USER@HOST/DATABASE; a password by environment or file",
        secret=True,
    ),
    Option("source.kind", "source_kind", parsers.one_of(SOURCE_KINDS), "", "whose it is: " + ", ".join(SOURCE_KINDS)),
    Option("source.config-file", "source_config_file", parsers.path, "", "the mapping of a custom database, YAML"),
    Option(
        "source.host",
        "source_hosts",
        parsers.host,
        "",
        "host of the addresses in ejabberd's default schema, which does not store it",
        many=True,
    ),
    Option(
        "source.recount-interval",
        "source_recount_interval",
        parsers.recount_interval,
        "1h",
        "count everything again this often: rows vanish without a trace",
    ),
    Option("source.load", "source_load", parsers.share, "5%", "share of the time that counting may take"),
    Option("log.level", "log_level", parsers.one_of(LOG_LEVELS), "info", "debug, info, warn or error"),
    Option("log.format", "log_format", parsers.one_of(LOG_FORMATS), "logfmt", "logfmt or json"),
)
BY_NAME: Final = {option.name: option for option in OPTIONS}
