"""Where settings come from: a flag, else the environment, else the YAML file, else the default.

One table says all there is to say of a setting; the command line, the environment's names, the file's keys
and the help are made from it. Knows no click, no server and no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from exporter.core.errors import Misconfigured
from exporter.core.redaction import mask, printable
from exporter.settings import parsers, source_list, strict_yaml
from exporter.settings.model import LOG_FORMATS, LOG_LEVELS, SOURCE_KINDS, Limits, Settings

PREFIX: Final = "MESSAGING_"
CONFIG_FILE: Final = "config.file"
SOURCES: Final = "sources"

Given = str | bool | Sequence[str]


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
    Option("data.dir", "data_dir", parsers.path, "data", "folder of the SQLite file and of auth.secret"),
    Option(
        "database.url",
        "database_url",
        parsers.database_url,
        "sqlite:///<data.dir>/messaging.db",
        "or postgresql://USER@HOST/DATABASE; a password by environment or file only",
        secret=True,
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
        "auth.allowed-origins",
        "allowed_origins",
        parsers.origin,
        "same origin",
        "pages that may open WebSockets: https://chat.example.com, or *",
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


@dataclass(slots=True)
class _Reading:
    """What has been read so far; the first source to name a setting wins."""

    found: dict[str, Any] = field(default_factory=dict)

    def take(self, option: Option, texts: Sequence[str], where: str) -> None:
        if option.name in self.found:
            return
        parsed = tuple(_parse(option, text.strip(), where) for text in texts)
        self.found[option.name] = parsed if option.many else parsed[-1]


def resolve(flags: Mapping[str, Given | None], environ: Mapping[str, str]) -> Settings:
    """The settings out of all sources; raises Misconfigured. ``flags`` is keyed by dotted names; None: not given."""
    reading = _Reading()
    for name, given in flags.items():
        if name != CONFIG_FILE and given is not None and given != ():
            _take_flag(reading, BY_NAME[name], given)
    for option in OPTIONS:
        text = environ.get(option.variable, "")
        if text.strip():  # an empty variable is one that a compose file left open
            texts = [part for part in text.split(",") if part.strip()] if option.many else [text]
            reading.take(option, texts, option.variable)
    file = flags.get(CONFIG_FILE) or environ.get(variable(CONFIG_FILE))
    if file:
        _take_file(reading, Path(str(file)))
    return _settings(reading.found)


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make another process resolve to ``settings``. They may hold secrets."""
    variables = {}
    for option in OPTIONS:
        if option.name.startswith("source."):  # of observe, which starts no other process
            continue
        value: Any = settings
        for name in option.field.split("."):
            value = getattr(value, name)
        if value not in (None, "", ()):
            variables[option.variable] = ",".join(map(_text, value if option.many else (value,)))
    return variables


def _text(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:f}s"
    return str(value)


def _take_flag(reading: _Reading, option: Option, given: Given) -> None:
    texts = [str(given).lower()] if isinstance(given, bool) else [given] if isinstance(given, str) else list(given)
    if option.secret and any(parsers.holds_password(text) for text in texts):
        raise Misconfigured(
            f"--{option.name} holds a password, which every user of this machine could see in the process list: "
            f"give it as {option.variable} in the environment, or in the file of --{CONFIG_FILE}"
        )
    reading.take(option, texts, f"--{option.name}")


def _take_file(reading: _Reading, path: Path) -> None:
    document = strict_yaml.load(path)
    if isinstance(document, dict) and SOURCES in document:
        reading.found[SOURCES] = source_list.read(document.pop(SOURCES), f"{SOURCES} in {path}")
    for name, value in _flat(document, path).items():
        option = BY_NAME.get(name)
        if option is None:
            raise Misconfigured(f"{path}: there is no setting called {_shown(name)}")
        reading.take(option, _texts(option, value, f"{name} in {path}"), f"{name} in {path}")


def _texts(option: Option, value: Any, where: str) -> list[str]:
    """A YAML value as the text that the parsers read."""
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not option.many:
        raise Misconfigured(f"{where}: expected one value, not a list")
    if not items:
        raise Misconfigured(f"{where}: has no value")
    texts = []
    for item in items:
        if item is None or isinstance(item, dict | list) or (isinstance(item, bool) and not option.switch):
            raise Misconfigured(f"{where}: expected {'true or false' if option.switch else 'text or a number'}")
        texts.append(str(item))
    return texts


def _flat(document: Any, path: Path, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """``{web: {listen-address: x}}`` as ``{web.listen-address: x}``."""
    if document is None:
        return {}
    if not isinstance(document, dict) or depth > 8:
        under = f" under {_shown(prefix[:-1])}" if prefix else ""
        raise Misconfigured(f"{path}: expected a mapping of settings{under}")
    flat: dict[str, Any] = {}
    for key, value in document.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, dict) and name not in BY_NAME
        for inner, leaf in (_flat(value, path, f"{name}.", depth + 1) if nested else {name: value}).items():
            if inner in flat:
                raise Misconfigured(f"{path}: {_shown(inner)} stands twice")
            flat[inner] = leaf
    return flat


def _parse(option: Option, text: str, where: str) -> Any:
    try:
        return option.parse(text)
    except ValueError as error:
        shown = "" if option.secret else f", not {_shown(text)}"
        raise Misconfigured(f"{where}: {error}{shown}") from error


def _shown(text: str) -> str:
    """Somebody's text inside an error of one line: short, printable, without what looks like a secret."""
    safe = printable(mask(text)).replace("\n", "\\n")
    return f'"{safe if len(safe) <= 80 else safe[:80] + "…"}"'


def _settings(found: Mapping[str, Any]) -> Settings:
    top, limits = {}, {}
    sources = found.get(SOURCES, ())
    for name, value in found.items():
        if name == SOURCES:
            continue
        target, _, limit = BY_NAME[name].field.partition(".")
        if limit:
            limits[limit] = value
        else:
            top[target] = value
    settings = replace(Settings(), limits=Limits(**limits), sources=sources, **top)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    """What no single value can know."""
    fixed = [address for address in (*settings.listen, *settings.metrics_listen) if address.port]
    for address in fixed:
        if fixed.count(address) > 1:
            raise Misconfigured(f"the address {address} is given twice")
    files = (settings.auth_secret_file, settings.auth_public_key_file, settings.auth_jwks_file)
    if sum(file is not None for file in files) > 1:
        raise Misconfigured("--auth.secret-file, --auth.public-key-file and --auth.jwks-file exclude each other")
