"""Settings out of flags, environment and file: who wins, what is refused, and that no secret is shown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core.errors import Misconfigured
from exporter.settings import parsers, strict_yaml
from exporter.settings.ineffective_variables import left_empty, misspelt
from exporter.settings.model import Address, Limits, Settings, SourceSettings
from exporter.settings.options import BY_NAME, OF_SERVE, OPTIONS, environment, resolve, unread, variable

SECRET = "hunter2-%40-s3cr3t"
URLS_WITH_PASSWORD = [
    f"postgresql://ann:{SECRET}@db.example.com/app",
    f"postgres://ann:{SECRET}@db.example.com:5432/app?sslmode=require",
    f"postgresql+asyncpg://ann:{SECRET}@db.example.com/app",
    f"postgresql://db.example.com/app?user=ann&password={SECRET}",
    f"postgresql://ann@db.example.com/app?PASSWORD={SECRET}",
    f"postgresql://ann@db.example.com/app?sslpassword={SECRET}",
    f"postgresql://ann@db.example.com/app?%70ass%77ord={SECRET}",
    f"postgresql://:{SECRET}@db.example.com/app",
    f"postgresql://ann:{SECRET}/x@y@db.example.com/app",
    f"postgresql://ann:{SECRET}?x@db.example.com/app",
]
ORIGIN = "https://chat.example.com"
SAMPLES = {
    "listen": ("127.0.0.1:1", (Address("127.0.0.1", 1),)),
    "metrics_listen": ("[::1]:2", (Address("::1", 2),)),
    "systemd_socket": ("true", True),
    "telemetry_path": ("/internal/metrics", "/internal/metrics"),
    "web_config_file": ("web.yml", Path("web.yml")),
    "max_requests": ("7", 7),
    "workers": ("3", 3),
    "external_url": ("https://EXAMPLE.com:443/chat/", "https://example.com/chat"),
    "route_prefix": ("chat/", "/chat"),
    "trusted_proxies": ("10.0.0.0/8", (ip_network("10.0.0.0/8"),)),
    "data_dir": ("/srv/data", Path("/srv/data")),
    "database_url": ("postgresql://db.example.com/app", "postgresql://db.example.com/app"),
    "database_schema": ("chat", "chat"),
    "database_timeout": ("1500ms", 1.5),
    "database_migrate": ("false", False),
    "verify_interval": ("0", 0.0),
    "redis_url": ("valkey://cache.example.com/2", "valkey://cache.example.com/2"),
    "redis_password_file": ("/run/password", Path("/run/password")),
    "cluster_name": ("blue.1", "blue.1"),
    "cluster_lease": ("2500ms", 2.5),
    "auth_secret_file": ("/run/secret", Path("/run/secret")),
    "auth_public_key_file": ("key.pem", Path("key.pem")),
    "auth_audiences": ("chat", ("chat",)),
    "auth_issuers": ("https://idp.example.com/", ("https://idp.example.com/",)),
    "auth_jwks_file": ("jwks.json", Path("jwks.json")),
    "allowed_origins": (ORIGIN, (ORIGIN,)),
    "cors_origins": (ORIGIN, (ORIGIN,)),
    "limits.connections": ("11", 11),
    "limits.connections_per_user": ("12", 12),
    "limits.frame_bytes": ("13_000", 13_000),
    "limits.frames_per_second": ("14", 14),
    "limits.send_buffer_bytes": ("15", 15),
    "typing_timeout": ("1m30s", 90.0),
    "heartbeat_interval": ("2s", 2.0),
    "drain_timeout": ("0", 0.0),
    "source_url": ("postgresql://db.example.com/synapse", "postgresql://db.example.com/synapse"),
    "source_kind": ("Synapse", "synapse"),
    "source_config_file": ("mapping.yml", Path("mapping.yml")),
    "source_hosts": ("chat.example.org", ("chat.example.org",)),
    "source_recount_interval": ("30m", 1800.0),
    "source_load": ("12.5%", 0.125),
    "log_level": ("DEBUG", "debug"),
    "log_format": ("json", "json"),
}


def write(folder: Path, text: str) -> str:
    path = folder / "settings.yml"
    path.write_text(text)
    return str(path)


def value_of(settings: Settings, field: str) -> object:
    for name in field.split("."):
        settings = getattr(settings, name)
    return settings


def nested(name: str, text: str) -> str:
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(name.split("."))]
    return "\n".join(lines) + f' "{text}"\n'


def test_without_anything_said_the_defaults_are_those_of_the_settings() -> None:
    assert resolve({}, {}) == Settings()


def test_every_setting_can_be_set_by_somebody() -> None:
    simple = {field.name for field in dataclasses.fields(Settings)} - {"limits", "sources"}
    limits = {f"limits.{field.name}" for field in dataclasses.fields(Limits)}
    assert {option.field for option in OPTIONS} == simple | limits == set(SAMPLES)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_setting_is_read_alike_from_flag_environment_and_file(option, tmp_path: Path) -> None:
    text, expected = SAMPLES[option.field]
    flag = resolve({option.name: (text,) if option.many else text}, {})
    assert value_of(flag, option.field) == expected
    assert flag != Settings()
    assert resolve({}, {option.variable: text}) == flag
    if option.switch:
        text = "yes" if expected else "no"
    assert resolve({"config.file": write(tmp_path, nested(option.name, text))}, {}) == flag


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_help_tells_the_default_that_is_in_force(option) -> None:
    default = value_of(Settings(), option.field)
    if option.default and default not in ((), None, "", Path("data")) and "<" not in option.default:
        parsed = option.parse(option.default)
        assert ((parsed,) if option.many else parsed) == default


@pytest.mark.parametrize("name", ["auth.audience", "auth.issuer"])
def test_what_another_process_would_take_for_two_is_not_told_to_it(name: str) -> None:
    with pytest.raises(Misconfigured, match=f"--{name} has a comma"):
        environment(resolve({name: ("CN=idp,O=example",)}, {}))


def test_the_file_is_named_as_every_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell reads what stands in a unit or a compose file, and none a tilde behind an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.yml").write_text("web: {max-requests: 7}\n")
    for text in ("~/config.yml", f" {tmp_path}/config.yml "):
        assert resolve({"config.file": text}, {}).max_requests == 7
        assert resolve({}, {"MESSAGING_CONFIG_FILE": text}).max_requests == 7
    assert resolve({}, {"MESSAGING_CONFIG_FILE": " "}).max_requests == Settings().max_requests
    with pytest.raises(Misconfigured, match="MESSAGING_CONFIG_FILE: expected a path; there is no such user"):
        resolve({}, {"MESSAGING_CONFIG_FILE": "~nobody-of-this-name/config.yml"})


def test_the_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "drain: {timeout: 3s}\ntyping: {timeout: 3s}\nheartbeat: {interval: 3s}\n")
    environ = {"MESSAGING_DRAIN_TIMEOUT": "2s", "MESSAGING_TYPING_TIMEOUT": "2s", "MESSAGING_CONFIG_FILE": file}
    settings = resolve({"drain.timeout": "1s"}, environ)
    assert (settings.drain_timeout, settings.typing_timeout, settings.heartbeat_interval) == (1.0, 2.0, 3.0)


def test_repeated_settings_are_commas_in_the_environment_and_lists_in_the_file(tmp_path: Path) -> None:
    expected = (Address("127.0.0.1", 1), Address("", 2))
    assert resolve({"web.listen-address": ("127.0.0.1:1", ":2")}, {}).listen == expected
    assert resolve({}, {"MESSAGING_WEB_LISTEN_ADDRESS": "127.0.0.1:1, :2,"}).listen == expected
    file = write(tmp_path, "web:\n  listen-address: ['127.0.0.1:1', ':2']\n")
    assert resolve({"config.file": file}, {}).listen == expected


def test_an_empty_variable_is_one_that_nobody_set_and_can_be_told() -> None:
    empty = {option.variable: " " for option in OPTIONS} | {variable("config.file"): ""}
    assert resolve({}, empty) == Settings()
    assert left_empty(empty | {"MESSAGING_OF_OTHERS": "", "PATH": ""}) == sorted(empty)
    assert left_empty({"MESSAGING_LOG_LEVEL": "info"}) == []


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.many], ids=lambda option: option.name)
def test_commas_without_anything_between_them_are_no_value(option) -> None:
    with pytest.raises(Misconfigured, match=f"^{option.variable}: has no value$"):
        resolve({}, {option.variable: " , ,"})


def test_an_empty_name_of_the_file_is_refused_as_every_other_empty_flag(tmp_path: Path) -> None:
    environment = {variable("config.file"): write(tmp_path, "log: {level: warn}")}
    with pytest.raises(Misconfigured, match=r"^--config\.file: expected a path"):
        resolve({"config.file": " "}, environment)


def test_what_a_command_does_not_read_is_told_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, "sources: [{name: a, url: 'sqlite:///a.db', kind: custom}]\nsource: {load: 1%}\n")
    settings = resolve({"config.file": file, "log.level": "info"}, {"MESSAGING_LIMITS_CONNECTIONS": "3"})
    assert unread(settings, ("limits.connections",)) == ["source.load", "sources"]
    assert unread(settings, ("source.url", "source.load")) == ["limits.connections"]
    assert unread(settings, ("source.url", "source.load", "limits.connections")) == []


def test_what_changes_nothing_beside_the_others_is_told_by_name() -> None:
    sockets = {"web.systemd-socket": True, "web.listen-address": (":1",)}
    assert unread(resolve(sockets, {}), OF_SERVE) == ["web.listen-address"]
    assert unread(resolve(sockets | {"web.systemd-socket": False}, {}), OF_SERVE) == []
    nodes = {"cluster.name": "chat", "cluster.lease": "5s"}
    assert unread(resolve(nodes, {}), OF_SERVE) == ["cluster.name", "cluster.lease"]
    for broker in ({"redis.url": "redis://h"}, {"workers": "2"}):
        assert unread(resolve(nodes | broker, {}), OF_SERVE) == []


def test_commas_in_a_flag_are_told_to_be_several_flags(tmp_path: Path) -> None:
    both = "https://a.example, https://b.example"
    for flags in (
        {"auth.allowed-origins": [both]},
        {"config.file": write(tmp_path, f"auth: {{allowed-origins: '{both}'}}")},
    ):
        with pytest.raises(Misconfigured, match="the flag once more, or a list in YAML"):
            resolve(flags, {})


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("name", ["database.url", "data.dir", "auth.audience", "workers"])
def test_quotes_that_nobody_took_away_are_refused_and_the_value_is_not_repeated(name: str, quote: str) -> None:
    with pytest.raises(Misconfigured, match="leave out the quotes") as caught:
        resolve({}, {variable(name): f"{quote}postgresql://ann:hunter2@db/chat{quote}"})
    assert str(caught.value).startswith(variable(name))
    assert "hunter2" not in str(caught.value)


def test_numbers_and_switches_of_yaml_need_no_quotes(tmp_path: Path) -> None:
    file = write(tmp_path, "limits: {frame-bytes: 100}\ndatabase: {migrate: false}\nverify: {interval: 0}\n")
    settings = resolve({"config.file": file}, {})
    assert (settings.limits.frame_bytes, settings.database_migrate, settings.verify_interval) == (100, False, 0.0)


@pytest.mark.parametrize("url", URLS_WITH_PASSWORD)
def test_a_password_in_a_flag_is_refused_with_a_hint_and_not_repeated(url: str) -> None:
    with pytest.raises(Misconfigured, match="MESSAGING_DATABASE_URL") as caught:
        resolve({"database.url": url}, {})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", URLS_WITH_PASSWORD)
def test_a_password_in_environment_or_file_is_accepted_and_not_shown(url: str, tmp_path: Path) -> None:
    from_environment = resolve({}, {"MESSAGING_DATABASE_URL": url})
    assert from_environment.database_url == url
    assert "hunter2" not in repr(from_environment)
    assert resolve({"config.file": write(tmp_path, f"database: {{url: '{url}'}}")}, {}) == from_environment


@pytest.mark.parametrize(
    "url",
    ["sqlite:///x/y.db", "postgresql://ann@db/app", "postgresql:///app?host=/run/postgresql", "postgresql://h:5/a"],
)
def test_a_url_without_a_password_is_a_fine_flag(url: str) -> None:
    assert resolve({"database.url": url}, {}).database_url == url


@pytest.mark.parametrize("scheme", ["mysql", "http", ""])
def test_a_database_of_another_kind_is_refused_without_its_password(scheme: str) -> None:
    with pytest.raises(Misconfigured, match="expected sqlite") as caught:
        resolve({}, {"MESSAGING_DATABASE_URL": f"{scheme}://ann:{SECRET}@db/app"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["database.url", "redis.url", "source.url"])
def test_a_secret_that_is_no_url_at_all_is_not_shown_either(name: str, tmp_path: Path) -> None:
    nested = name.replace(".", ": {") + f": {SECRET}}}"
    for flags, environ in ({}, {variable(name): SECRET}), ({"config.file": write(tmp_path, nested)}, {}):
        with pytest.raises(Misconfigured, match="expected") as caught:
            resolve(flags, environ)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "x" * 64, "ä" * 32, "a\0b", "pg_mine"])
def test_a_schema_that_postgresql_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected the name of a schema"):
        parsers.schema(name)
    assert parsers.schema("x" * 63) == "x" * 63


@pytest.mark.parametrize(
    ("external_url", "route_prefix", "prefix", "path", "origin"),
    [
        ("", "", "", "", None),
        ("", "/chat", "/chat", "/chat", None),
        ("", "/", "", "", None),
        ("https://x.example", "", "", "", "https://x.example"),
        ("https://x.example", "/chat", "/chat", "", "https://x.example"),
        ("https://x.example/m/chat", "", "/m/chat", "/m/chat", "https://x.example"),
        ("https://x.example/m", "/chat", "/chat", "/m", "https://x.example"),
        ("https://x.example/m", "/", "", "/m", "https://x.example"),
    ],
)
def test_what_stands_before_the_routes_here_and_where_browsers_are(
    external_url: str, route_prefix: str, prefix: str, path: str, origin: str | None
) -> None:
    settings = Settings(external_url=external_url, route_prefix=route_prefix)
    assert (settings.prefix, settings.external_path, settings.external_origin) == (prefix, path, origin)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense: 1", 'no setting called "nonsense"'),
        ("web: {listen-adress: ':1'}", 'no setting called "web.listen-adress"'),
        ("config: {file: x}", "no setting called"),
        ("drain: {timeout: 1s}\ndrain: {timeout: 2s}", 'the key "drain" stands twice'),
        ("drain: {timeout: 1s}\ndrain.timeout: 2s", "stands twice"),
        ("drain: {timeout: [1s, 2s]}", "expected one value"),
        ("drain: {timeout: }", "expected text or a number"),
        ("drain: {timeout: true}", "expected text or a number"),
        ("web: {listen-address: []}", "has no value"),
        ("database: {migrate: 5}", "expected true or false"),
        ("drain: 5s", 'expected a mapping of settings under "drain"'),
        ("- a\n- b", "expected a mapping"),
        ("just words", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    with pytest.raises(Misconfigured, match=r"settings\.yml") as caught:
        resolve({"config.file": file}, {})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_line_of_the_file_is_not_shown(tmp_path: Path) -> None:
    file = write(tmp_path, f"database:\n  url: 'postgresql://ann:{SECRET}@db/app\n")
    with pytest.raises(Misconfigured) as caught:
        resolve({"config.file": file}, {})
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_absent_a_folder_or_endless_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yml", tmp_path, Path("/dev/zero")):
        with pytest.raises(Misconfigured, match=str(path)):
            resolve({"config.file": str(path)}, {})


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    for text in ("a: " * 3 + "{b: " * 40 + "1" + "}" * 40, "[" * 50_000):
        with pytest.raises(Misconfigured):
            resolve({"config.file": write(tmp_path, text)}, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("web.listen-address", "8765"),
        ("web.listen-address", "1.2.3.4:99999"),
        ("web.listen-address", "::1:8765"),
        ("web.listen-address", "http://x:1"),
        ("web.listen-address", ""),
        ("web.telemetry-path", "metrics"),
        ("web.telemetry-path", "/"),
        ("web.telemetry-path", "/admin"),
        ("web.telemetry-path", "/admin/x"),
        ("web.telemetry-path", "/v1/messaging/ws"),
        ("web.telemetry-path", "/-/ready"),
        ("web.telemetry-path", "/a/../b"),
        ("web.telemetry-path", "/{x}"),
        ("web.telemetry-path", "/met rics"),
        ("web.max-requests", "0"),
        ("limits.connections", "-1"),
        ("limits.connections", "1e3"),
        ("limits.connections", "٣"),
        ("limits.frame-bytes", "9" * 5000),
        ("database.timeout", "5"),
        ("database.timeout", "0"),
        ("database.timeout", "-5s"),
        ("database.timeout", "5 s"),
        ("database.timeout", "inf"),
        ("database.timeout", "9999999h"),
        ("database.timeout", "٣s"),
        ("auth.allowed-origins", "chat.example.com"),
        ("auth.allowed-origins", "https://chat.example.com/path"),
        ("auth.allowed-origins", "https://ann:x@chat.example.com"),
        ("auth.allowed-origins", "https://chat.example.com:99999"),
        ("log.level", "loud"),
        ("log.format", "xml"),
        ("data.dir", ""),
        ("data.dir", "~nobody-of-that-name/x"),
        ("data.dir", "a\x00b"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_in_one_printable_line(name: str, text: str) -> None:
    option = BY_NAME[name]
    with pytest.raises(Misconfigured, match=f"--{name}") as caught:
        resolve({name: (text,) if option.many else text}, {})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["\x1b[2J", "\n level=error", "\ud800", "\u202e"])
def test_what_is_refused_cannot_write_a_line_of_its_own(text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        resolve({"log.level": text}, {})
    assert str(caught.value).isprintable()


def test_an_address_cannot_be_given_twice_but_any_free_port_can() -> None:
    with pytest.raises(Misconfigured, match="given twice"):
        resolve({"web.listen-address": (":1",), "web.metrics-listen-address": (":1",)}, {})
    assert len(resolve({"web.listen-address": (":0", ":0")}, {}).listen) == 2


def test_what_lies_within_all_interfaces_cannot_be_given_beside_them() -> None:
    with pytest.raises(Misconfigured, match=r"^:1 is all interfaces, and 127\.0\.0\.1:1 among them"):
        resolve({"web.listen-address": (":1",), "web.metrics-listen-address": ("127.0.0.1:1",)}, {})
    resolve({"web.listen-address": (":1",), "web.metrics-listen-address": ("127.0.0.1:2",)}, {})


def test_an_address_that_sockets_of_systemd_take_the_place_of_is_free_for_the_metrics() -> None:
    metrics = {"web.metrics-listen-address": [str(Settings().listen[0])]}
    with pytest.raises(Misconfigured, match="given twice"):
        resolve(metrics, {})
    assert resolve(metrics | {"web.systemd-socket": True}, {}).metrics_listen == Settings().listen


def test_two_kinds_of_key_exclude_each_other() -> None:
    with pytest.raises(Misconfigured, match="exclude each other"):
        resolve({"auth.secret-file": "a", "auth.public-key-file": "b"}, {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("1d", 86400),
        ("0", 0),
        ("1w", 604800),
        ("366d", 31_622_400),
    ],
)
def test_durations_are_written_as_for_prometheus(text: str, seconds: float) -> None:
    assert parsers.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8765", "127.0.0.1:8765"),
        (":8765", ":8765"),
        ("[::1]:80", "[::1]:80"),
        ("localhost:0", "localhost:0"),
        ("localhost:65535", "localhost:65535"),
    ],
)
def test_an_address_reads_as_it_is_written(text: str, address: str) -> None:
    assert str(parsers.address(text)) == address


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("HTTPS://Chat.Example.COM/", "https://chat.example.com"),
        ("https://Bücher.example:8443", "https://xn--bcher-kva.example:8443"),  # as browsers write it
        ("https://straße.example", "https://xn--strae-oqa.example"),
        ("https://chat.example.com:443", "https://chat.example.com"),
        ("http://chat.example.com:443", "http://chat.example.com:443"),
        ("http://[::1]:80", "http://[::1]"),
        ("*", "*"),
    ],
)
def test_an_origin_has_one_form(text: str, normal: str) -> None:
    assert parsers.origin(text) == normal


@pytest.mark.parametrize(
    "text", ["https://x.example/?q", "https://x.example/#f", "https://x.example/chat", "x.example"]
)
def test_an_address_of_a_page_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match="expected an origin"):
        parsers.origin(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parsers.external_url, "https://x.example/chat?q"),
        (parsers.external_url, "https://x.example/chat#f"),
        (parsers.external_url, "https://x.example/a/../b"),
        (parsers.external_url, "https://x.example/./b"),
        (parsers.route_prefix, ""),
        (parsers.route_prefix, "/a/.."),
        (parsers.route_prefix, "/a b"),
        (parsers.claim, "https://idp.example/\n"),
        (parsers.claim, ""),
    ],
)
def test_what_would_be_read_otherwise_elsewhere_is_refused(parse: Callable[[str], str], text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "least", "most", "beyond"),
    [
        (parsers.lease, "500ms", "1h", ("499ms", "3601s")),
        (parsers.recount_interval, "10s", "1d", ("9s", "25h")),
        (parsers.share, "0.1%", "100%", ("0%", "101%", "5")),
        (parsers.positive_duration, "1ms", "366d", ("0", "0s", "367d")),
    ],
)
def test_a_bound_is_within_and_what_lies_beyond_is_not(
    parse: Callable[[str], float], least: str, most: str, beyond: tuple[str, ...]
) -> None:
    assert parse(least) < parse(most)
    for text in beyond:
        with pytest.raises(ValueError, match="expected"):
            parse(text)


@pytest.mark.parametrize(
    "parse", [parsers.duration, parsers.address, parsers.origin, parsers.route, parsers.switch, parsers.number(1, 9)]
)
@given(text=st.text(max_size=40))
def test_a_parser_of_values_says_value_error_to_whatever_it_cannot_read(parse, text: str) -> None:
    refused = None
    try:
        parse(text)
    except ValueError as error:
        refused = error
    assert refused is None or (type(refused) is ValueError and str(refused).startswith("expected"))


def test_a_file_that_is_no_configuration_is_noticed_early(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=f"longer than {strict_yaml.MAX_BYTES} bytes"):
        strict_yaml.load(Path(write(tmp_path, "#" * (strict_yaml.MAX_BYTES + 1))))
    assert strict_yaml.load(Path(write(tmp_path, "#" * strict_yaml.MAX_BYTES))) is None


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_document_or_misconfigured(content: bytes) -> None:
    refused = "file"
    try:
        strict_yaml.parse(content, "file")
    except Misconfigured as error:
        refused = str(error)
    assert refused.startswith("file")


def test_the_variable_of_a_flag_is_its_name_in_capitals() -> None:
    assert variable("limits.connections-per-user") == "MESSAGING_LIMITS_CONNECTIONS_PER_USER"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MESSAGING_LIMITS_CONECTIONS", "MESSAGING_LIMITS_CONNECTIONS"),
        ("MESSAGING_DATADIR", "MESSAGING_DATA_DIR"),
        ("MESSAGING_DATA__DIR", "MESSAGING_DATA_DIR"),
        ("MESSAGING_DATA.DIR", "MESSAGING_DATA_DIR"),
        ("MESSAGING_WORKER", "MESSAGING_WORKERS"),
        ("MESSAGING_CONFIGFILE", "MESSAGING_CONFIG_FILE"),
        ("MESSAGING_SECRET_FILE", "MESSAGING_AUTH_SECRET_FILE"),
        ("MESSAGING_LISTEN_ADDRESS", "MESSAGING_WEB_LISTEN_ADDRESS"),
        ("MESSAGING_REDIS_PASSWORD", "MESSAGING_REDIS_PASSWORD_FILE"),
        ("MESSAGING_EXPORTER_LOG_LEVEL", "MESSAGING_LOG_LEVEL"),
        ("messaging_log_level", "MESSAGING_LOG_LEVEL"),
        ("MESAGING_LOG_LEVEL", "MESSAGING_LOG_LEVEL"),
    ],
)
def test_a_variable_that_is_close_to_a_setting_is_told_with_it(name: str, meant: str) -> None:
    assert misspelt({name: "x", "MESSAGING_LOG_LEVEL": "info", "PATH": "/bin"}) == {name: meant}
    assert misspelt({name: " "}) == {}


@pytest.mark.parametrize(
    "name",
    [
        *(option.variable for option in OPTIONS),
        variable("config.file"),
        *(
            f"MESSAGING{service}{link}"  # of Kubernetes, for Services of these names
            for service in ("", "_EXPORTER", "_WORKERS", "_REDIS", "_LOG_LEVEL")
            for link in ("_SERVICE_HOST", "_SERVICE_PORT", "_SERVICE_PORT_HTTP", "_PORT", "_PORT_9100_TCP")
        ),
        *(f"MESSAGING_EXPORTER_PORT_9100_TCP_{part}" for part in ("PROTO", "PORT", "ADDR")),
        "MESSAGING_BASE_URL",
        "MESSAGING_API_KEY",
        "MESSAGING_",
        "MESSENGER_LOG_LEVEL",
        "MAIL",
        "_MESSAGING_EXPORTER_COMPLETE",
        "LOG_LEVEL",
    ],
)
def test_what_is_read_and_what_is_of_others_is_not_called_misspelt(name: str) -> None:
    assert misspelt({name: "x"}) == {}


def test_what_the_documents_and_the_examples_set_is_not_called_misspelt() -> None:
    root = Path(__file__).parents[2]
    files = [path for folder in ("deploy", "docs", "examples") for path in (root / folder).rglob("*") if path.is_file()]
    texts = [path.read_text(errors="replace") for path in (*files, root / "README.md", root / "Makefile")]
    named = {name for text in texts for name in re.findall(r"\b\w*MESSAGING_\w*", text)}
    assert {"MESSAGING_DATABASE_URL", "MESSAGING_WORKERS"} < named
    assert misspelt(dict.fromkeys(named, "x")) == {}


def test_settings_survive_the_way_through_the_environment() -> None:
    settings = resolve(
        {
            "web.listen-address": ["127.0.0.1:1", "[::1]:2"],
            "web.config.file": "some where/web.yml",
            "database.url": "sqlite:///x y.db",
            "database.migrate": False,
            "database.timeout": "1500ms",
            "verify.interval": "0",
            "auth.allowed-origins": ["https://a.example", "https://b.example:8443"],
            "limits.frame-bytes": "1234",
            "drain.timeout": "0",
            "log.format": "json",
        },
        {},
    )
    assert resolve({}, environment(settings)) == settings
    assert resolve({}, environment(resolve({}, {}))) == resolve({}, {})


def test_sources_are_a_list_of_the_file(tmp_path: Path) -> None:
    text = """
sources:
  - {name: chat, url: "sqlite:///a.db", kind: prosody}
  - {name: old, url: "postgresql://h/d", kind: ejabberd, host: [A.example, b.example]}
  - &own {name: own, url: "postgresql://h/e", kind: custom, config-file: own.yml}
  - {<<: *own, name: alike, host: One.example}
"""
    assert resolve({"config.file": write(tmp_path, text)}, {}).sources == (
        SourceSettings("sqlite:///a.db", "prosody", "chat"),
        SourceSettings("postgresql://h/d", "ejabberd", "old", hosts=("a.example", "b.example")),
        SourceSettings("postgresql://h/e", "custom", "own", config_file=Path("own.yml")),
        SourceSettings("postgresql://h/e", "custom", "alike", Path("own.yml"), ("one.example",)),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sources: []", "expected a list of sources"),
        ("sources: [{name: a, kind: synapse}]", "entry 1: url is missing"),
        ("sources: [{name: a, url: 'sqlite:///a', kind: matrix}]", "entry 1: kind .line 1.: expected synapse"),
        ("sources: [{name: 'a b', url: 'sqlite:///a', kind: synapse}]", "name .line 1.: expected letters"),
        ("sources: [{name: a, url: 'sqlite:///a', kind: synapse, port: 1}]", "there is no setting called port"),
        ("sources: [{name: a, url: 'x', kind: synapse}, 3]", "entry 1: url .line 1.: expected sqlite:///FILE"),
        (
            "sources: [{name: a, url: 'sqlite:///a', kind: synapse}, {name: a, url: 'sqlite:///b', kind: synapse}]",
            "the name a stands twice",
        ),
    ],
)
def test_what_is_wrong_with_a_source_is_said_without_its_url(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason) as refused:
        resolve({"config.file": write(tmp_path, text)}, {})
    assert "///a" not in str(refused.value)


def test_an_unknown_setting_of_the_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, "log: {level: debug}\nweb:\n  listen-adress: ':1'\n")
    with pytest.raises(Misconfigured, match=r'no setting called "web\.listen-adress" \(line 3\)'):
        resolve({"config.file": file}, {})


PLACES = {
    "web:\n  listen-adress: :80": ("web.listen-adress", 2),
    "\nweb:\n  9: x": ("web.9", 3),
    "\non: 3": ("on", 2),
    "web:\n  max-requests: many": ("web.max-requests", 2),
    "web:\n  max-requests: [1, 2]": ("web.max-requests", 2),
    "web:\n  max-requests: {a: 1}": ("web.max-requests", 2),
    "web:\n  max-requests:": ("web.max-requests", 2),
    "web:\n  max-requests: true": ("web.max-requests", 2),
    "web:\n  max-requests: 1e1": ("web.max-requests", 2),
    "web:\n  listen-address: []": ("web.listen-address", 2),
    'web:\n  listen-address: ["127.0.0.1:1", "foo:bar"]': ("web.listen-address", 2),
    "cluster:\n  name: no": ("cluster.name", 2),
    "database:\n  migrate: 7": ("database.migrate", 2),
    "database:\n  timeout: 2020-01-01": ("database.timeout", 2),
    "database:\n  timeout: 1:30": ("database.timeout", 2),
    "database:\n  url: mysql://ann@h/d": ("database.url", 2),
    "web:\n  max-requests: 3\n  max-requests: 4": ("max-requests", 3),
    "web:\n  max-requests: 3\nweb.max-requests: 4": ("web.max-requests", 3),
    "\nweb: foo": ("web", 2),
    "web: &a\n  max-requests: 3\ndatabase: *a": ("database.max-requests", 2),
    "\n&a\nweb: *a": ("web", 3),
    "web:\r\n  max-requests: x\r\n": ("web.max-requests", 2),
    "\ufeffweb:\n  max-requests: x": ("web.max-requests", 2),
    "sources:\n  - name: a\n    9: 3": ("9", 3),
    "sources:\n  - name: [a]\n    url: sqlite:///x\n    kind: synapse": ("name", 2),
    "sources:\n  - name: a\n    url: 9\n    kind: synapse": ("url", 3),
    "sources:\n  - name: a\n    url: sqlite:///x\n    kind: synapse\n    host: [3]": ("host", 5),
}


@pytest.mark.parametrize(("text", "place"), PLACES.items())
def test_whatever_is_wrong_in_the_file_is_named_with_its_line(
    text: str, place: tuple[str, int], tmp_path: Path
) -> None:
    key, line = place
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "settings.yml").write_bytes(text.encode(encoding))
        with pytest.raises(Misconfigured, match=rf"\b{re.escape(key)}\b.*\bline {line}\b|line {line}\b.*\b{key}\b"):
            resolve({"config.file": str(tmp_path / "settings.yml")}, {})


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"web:\n\tmax-requests: 3", 2, "a tab"),
        (b"\nweb: *a", 2, "whose anchor"),
        (b"\nweb: !foo {}", 2, "a tag"),
        (b"web: {}\n---\nlog: {}", 2, "a second document"),
        (b"database:\n  url: a: b", 2, "in quotes"),
        (b"\n? [a]\n: 3", 2, "keys are texts"),
        (b'web:\n  external-url: "\xe4"', 2, "not valid YAML in UTF-8"),
        (b"web:\n  external-url: \x00", 2, "not valid YAML in UTF-8"),
        (bytes(range(256)), 2, "not valid YAML in UTF-8"),
        (b"web:\n  external-url: 'a\n", 3, "not valid YAML"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(content: bytes, line: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yml").write_bytes(content)
    with pytest.raises(Misconfigured, match=rf"settings\.yml, line {line}: .*{words}"):
        resolve({"config.file": str(tmp_path / "settings.yml")}, {})


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "null\n", "web:\n", "web:\n  # all of it\nlog:\n"])
def test_a_file_that_sets_nothing_is_one(text: str, tmp_path: Path) -> None:
    assert resolve({"config.file": write(tmp_path, text)}, {}) == Settings()


def test_texts_are_what_stands_there_and_not_what_yaml_1_1_makes_of_them(tmp_path: Path) -> None:
    for text in ("0123", "1.10", "1:30", "2020-01-01", "1_000", "0x1F", "1e3", "007.5"):
        found = resolve({"config.file": write(tmp_path, f"web:\n  config.file: {text}")}, {})
        assert found.web_config_file == Path(text)
