"""Settings: what may be chosen, with units and defaults. Reading them is in options.

Tested in ``tests/settings/test_options.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Literal

LOG_LEVELS: Final = ("debug", "info", "warn", "error")  # the Prometheus exporters' words
LOG_FORMATS: Final = ("logfmt", "json")
MAX_WORKERS: Final = 128  # each has seven connections to the database; more cores than this are more machines


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; an empty host is all interfaces, port 0 any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process, one user and one connection may take at most; each refusal has a code and a counter."""

    connections: int = 20_000
    connections_per_user: int = 20
    frame_bytes: int = 65_536
    frames_per_second: int = 50
    send_buffer_bytes: int = 1_048_576


SOURCE_KINDS: Final = ("synapse", "ejabberd", "prosody", "mattermost", "custom")


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What ``observe`` is told of another server's database. ``url`` may hold a password: never shown.

    ``name`` tells several sources apart and is empty for a single one; ``config_file`` is the custom mapping; ``hosts``
    are those of ejabberd's default schema.
    """

    url: str = field(repr=False)
    kind: str
    name: str = ""
    config_file: Path | None = None
    hosts: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What it is called before people, who know a single one by its kind."""
        return self.name or self.kind


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that may be set; times in seconds, sizes in bytes. The three URLs may hold passwords: never shown.

    What begins with ``source`` is for ``observe`` alone, which ignores most of the rest.
    """

    listen: tuple[Address, ...] = (Address("127.0.0.1", 8765),)
    metrics_listen: tuple[Address, ...] = ()
    systemd_socket: bool = False  # in the place of ``listen``
    telemetry_path: str = "/metrics"
    web_config_file: Path | None = None
    max_requests: int = 40
    external_url: str = ""  # where browsers and Prometheus reach the server, when proxies hide it; no closing slash
    route_prefix: str = ""  # empty: the path of ``external_url``; "/" is none
    trusted_proxies: tuple[IPv4Network | IPv6Network | Literal["unix"], ...] = ()
    data_dir: Path = Path("data")
    database_url: str = field(default="", repr=False)  # empty: sqlite:///<data_dir>/messaging.db
    database_schema: str | None = None  # of PostgreSQL; None: the first of the user's search path
    database_timeout: float = 5.0
    database_migrate: bool = True
    verify_interval: float = 86_400.0  # 0: no verification in the background
    redis_url: str = field(default="", repr=False)  # empty: this node is alone
    redis_password_file: Path | None = None
    cluster_name: str = "messaging"
    cluster_lease: float = 15.0
    auth_secret_file: Path | None = None  # None: <data_dir>/auth.secret
    auth_public_key_file: Path | None = None
    auth_jwks_file: Path | None = None
    auth_audiences: tuple[str, ...] = ()
    auth_issuers: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()  # empty: same origin only
    cors_origins: tuple[str, ...] = ()  # pages elsewhere that may GET the stats with a token
    limits: Limits = Limits()
    workers: int = 1  # processes on one port
    typing_timeout: float = 6.0
    heartbeat_interval: float = 30.0
    drain_timeout: float = 10.0
    source_url: str = field(default="", repr=False)
    source_kind: str = ""
    source_config_file: Path | None = None
    source_hosts: tuple[str, ...] = ()
    source_recount_interval: float = 3_600.0
    source_load: float = 0.05  # share of the time that counting may take
    sources: tuple[SourceSettings, ...] = ()  # several, out of the file
    log_level: str = "info"
    log_format: str = "logfmt"

    @property
    def identity_provider_file(self) -> Path | None:
        """Where the public keys are, when tokens are signed elsewhere."""
        return self.auth_public_key_file or self.auth_jwks_file

    @property
    def external_origin(self) -> str | None:
        """Scheme, name and port of ``external_url``."""
        return "/".join(self.external_url.split("/")[:3]) or None

    @property
    def external_path(self) -> str:
        """The path of ``external_url``, or else the prefix: without a closing slash, empty for none."""
        parts = self.external_url.split("/", 3)
        return f"/{parts[3]}" if len(parts) > 3 else "" if self.external_url else self.prefix

    @property
    def prefix(self) -> str:
        """What stands before every route here: without a closing slash, empty for none."""
        return self.route_prefix.rstrip("/") if self.route_prefix or not self.external_url else self.external_path

    @property
    def effective_database_url(self) -> str:
        """The URL to open: the given one, or the SQLite file in the data folder."""
        return self.database_url or f"sqlite:///{self.data_dir / 'messaging.db'}"

    @property
    def effective_secret_file(self) -> Path:
        """Where the HS256 secret is kept."""
        return self.auth_secret_file or self.data_dir / "auth.secret"
