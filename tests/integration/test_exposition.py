"""Expositions are clean: every metric of the contract, both formats, whatever a scraper asks for.

The table below is written from the contract and not from the code that makes the metrics.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import __version__
from tests.integration.figures import LIVE, is_exact
from tests.servers.exporter import STATS, Exporter, figures_of, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

COMMANDS = ("join", "leave", "typing", "send", "read", "ping")
CODES = (
    "bad_frame",
    "unknown_type",
    "not_joined",
    "forbidden",
    "not_found",
    "too_large",
    "rate_limited",
    "unavailable",
    "internal",
)
CLOSED = (
    "client",
    "shutdown",
    "heartbeat",
    "slow_consumer",
    "protocol_error",
    "rate_limited",
    "token_expired",
    "admin",
    "internal_error",
)
REJECTED = ("unauthenticated", "origin", "capacity", "user_limit", "draining", "handshake")


@dataclass(frozen=True)
class Promise:
    """What the contract says of a metric; ``values`` by label, all of them known beforehand."""

    kind: str
    scope: str
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def series(self, name: str) -> list[str]:
        """Every series that must be there from the start, as it stands in the text format."""
        names = [name + suffix for suffix in ("_count", "_sum")] if self.kind == "histogram" else [name]
        rows = itertools.product(
            *([f'{label}="{value}"' for value in self.values[label]] for label in sorted(self.values))
        )
        labels = ["{" + ",".join(row) + "}" if row else "" for row in rows]
        return [each + row for each in names for row in labels]


def node(kind: str, **values: tuple[str, ...]) -> Promise:
    return Promise(kind, "node", values)


def cluster(kind: str) -> Promise:
    return Promise(kind, "cluster")


def view(kind: str, **values: tuple[str, ...]) -> Promise:
    return Promise(kind, "view", values)


def database(kind: str, **values: tuple[str, ...]) -> Promise:
    return Promise(kind, "database", values)


CONTRACT = {
    "messaging_active_connections": node("gauge"),
    "messaging_connected_users": node("gauge"),
    "messaging_active_conversations": node("gauge"),
    "messaging_participants": node("gauge"),
    "messaging_typing_users": node("gauge"),
    "messaging_connections_opened_total": node("counter"),
    "messaging_connections_closed_total": node("counter", reason=CLOSED),
    "messaging_connections_rejected_total": node("counter", reason=REJECTED),
    "messaging_joins_total": node("counter"),
    "messaging_leaves_total": node("counter", reason=("leave", "disconnect", "removed")),
    "messaging_typing_started_total": node("counter"),
    "messaging_typing_stopped_total": node("counter", reason=("stop", "timeout", "message", "leave", "disconnect")),
    "messaging_messages_accepted_total": node("counter"),
    "messaging_deliveries_total": node("counter"),
    "messaging_deliveries_dropped_total": node("counter"),
    "messaging_read_receipts_total": node("counter"),
    "messaging_commands_rejected_total": node("counter", command=(*COMMANDS, "unknown"), code=CODES),
    "messaging_received_bytes_total": node("counter"),
    "messaging_sent_bytes_total": node("counter"),
    "messaging_command_duration_seconds": node("histogram", command=COMMANDS),
    "messaging_message_persist_duration_seconds": node("histogram"),
    "messaging_message_delivery_duration_seconds": node("histogram", path=("local", "cluster")),
    "messaging_fanout_recipients": node("histogram"),
    "messaging_connection_duration_seconds": node("histogram"),
    "messaging_read_lag_seconds": node("histogram"),
    "messaging_event_loop_lag_seconds": node("histogram"),
    "messaging_background_failures_total": node(
        "counter", task=("history", "verify", "tidy", "probe", "callback", "writer", "memberships", "schema")
    ),
    "messaging_worker_restarts_total": node("counter"),
    "messaging_send_buffer_max_bytes": node("gauge"),
    "messaging_slow_consumers": node("gauge"),
    "messaging_connection_limit": node("gauge"),
    "messaging_typing_oldest_age_seconds": node("gauge"),
    "messaging_live_drift": node("gauge", figure=LIVE),
    "messaging_cluster_nodes": cluster("gauge"),
    "messaging_cluster_connections": cluster("gauge"),
    "messaging_cluster_users": cluster("gauge"),
    "messaging_cluster_conversations": cluster("gauge"),
    "messaging_cluster_participants": cluster("gauge"),
    "messaging_cluster_typing_users": cluster("gauge"),
    "messaging_cluster_snapshot_timestamp_seconds": view("gauge"),
    "messaging_cluster_settling": cluster("gauge"),
    "messaging_broker_up": view("gauge"),
    "messaging_broker_frames_sent_total": node("counter"),
    "messaging_broker_frames_received_total": node("counter"),
    "messaging_broker_frames_dropped_total": node("counter"),
    "messaging_broker_lag_seconds": node("histogram"),
    "messaging_stored_messages": database("gauge"),
    "messaging_stored_conversations": database("gauge"),
    "messaging_registered_users": database("gauge"),
    "messaging_messages_today": database("gauge"),
    "messaging_active_users": database("gauge", window=("1d", "7d", "30d")),
    "messaging_database_up": view("gauge"),
    "messaging_database_writable": view("gauge"),
    "messaging_database_last_success_timestamp_seconds": view("gauge"),
    "messaging_database_pool_connections": node("gauge", state=("in_use", "idle")),
    "messaging_scrape_collector_duration_seconds": node("gauge", collector=("live", "database")),
    "messaging_scrape_collector_success": view("gauge", collector=("live", "database")),
}
AFTER_A_VERIFICATION = {
    "messaging_inaccurate_conversations": database("gauge"),
    "messaging_inaccurate_days": database("gauge"),
    "messaging_missing_triggers": database("gauge"),
    "messaging_verified_timestamp_seconds": database("gauge"),
}
NOT_ZERO = {
    "messaging_database_writable": 1,
    "messaging_connection_limit": 20_000,
    "messaging_cluster_nodes": 1,
    "messaging_broker_up": 1,
    "messaging_database_up": 1,
    'messaging_scrape_collector_success{collector="live"}': 1,
    'messaging_scrape_collector_success{collector="database"}': 1,
}
SCOPES = {"node": "Scope: this node", "cluster": "Scope: cluster", "view": "view", "database": "Scope: database"}


# --- one server, which has seen people --------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fresh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exporter]:
    """Nobody has been here."""
    async with running(tmp_path_factory.mktemp("fresh"), "--verify.interval=0") as exporter:
        yield exporter


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def busy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exporter]:
    """Somebody has done everything once, under names that would show."""
    async with running(tmp_path_factory.mktemp("busy"), "--verify.interval=0") as exporter:
        await exporter.conversation("SECRETROOM", "SECRETANN", "SECRETBOB")
        ann, bob = [await exporter.connect(user) for user in ("SECRETANN", "SECRETBOB")]
        for tab in (ann, bob):
            await tab.join("SECRETROOM")
        await bob.send("typing", conversation="SECRETROOM", active=True)
        await ann.say("SECRETROOM", "SECRETBODY", "SECRETID")
        await bob.send("read", conversation="SECRETROOM", seq=1)
        await ann.frame("read")
        for garbage in ('{"type":"SECRETTYPE"}', '{"type":"join","conversation":"SECRETNOWHERE"}', "SECRET"):
            await ann.raw(garbage)
            await ann.frame("error")
        await exporter.refused("SECRETTOKEN")
        await exporter.get("/SECRETPATH?name[]=SECRETNAME", headers={"Accept": "SECRET/SECRET"})
        await bob.reset()
        assert await exporter.command("verify") == 0
        yield exporter
        await ann.reset()


# --- what is there ----------------------------------------------------------------------------------------


async def test_every_metric_of_the_contract_is_there_from_the_start_with_its_type_and_scope(fresh: Exporter) -> None:
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in parse_text(await fresh.exposition())
    }
    for name, promise in CONTRACT.items():
        assert name in families, name
        assert families[name].type == promise.kind, name
        assert SCOPES[promise.scope] in families[name].documentation, name
        assert "aggregate with" in families[name].documentation, name
    own = {name for name in families if name.startswith("messaging_")}
    assert own - CONTRACT.keys() == {"messaging_build_info"}


async def test_every_known_series_is_there_from_the_start_and_stands_at_0(fresh: Exporter) -> None:
    figures = await fresh.scrape()
    known = [series for name, promise in CONTRACT.items() for series in promise.series(name)]
    assert set(known) <= figures.keys()
    own = {name for name in figures if name.startswith("messaging_") and "_bucket{" not in name}
    assert own - set(known) == {f'messaging_build_info{{version="{__version__}"}}'}
    for series in known:
        if is_exact(series):
            assert figures[series] == NOT_ZERO.get(series, 0), series


async def test_a_histogram_has_the_bucket_of_everything(fresh: Exporter) -> None:
    figures = await fresh.scrape()
    for name, promise in CONTRACT.items():
        if promise.kind == "histogram":
            buckets = [series for series in figures if series.startswith(f"{name}_bucket{{") and 'le="+Inf"' in series]
            assert len(buckets) == len(promise.series(name)) / 2, name


async def test_what_a_verification_found_is_there_after_it(busy: Exporter) -> None:
    families = {family.name: family for family in parse_text(await busy.exposition())}
    for name, promise in AFTER_A_VERIFICATION.items():
        assert families[name].type == promise.kind
        assert SCOPES[promise.scope] in families[name].documentation
    assert (await busy.scrape())["messaging_inaccurate_conversations"] == 0


async def test_process_and_python_figures_are_there_as_usual(fresh: Exporter) -> None:
    figures = await fresh.scrape()
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"):
        assert figures[name] > 0
    assert any(name.startswith("python_info{") for name in figures)
    assert any(name.startswith("python_gc_collections_total{") for name in figures)


async def test_no_label_and_no_help_carries_what_people_sent(busy: Exporter) -> None:
    for accept in (TEXT, OPENMETRICS):
        assert "SECRET" not in await busy.exposition(Accept=accept)


async def test_the_figures_and_the_json_are_views_of_the_same_records(busy: Exporter) -> None:
    figures, stats = await busy.scrape(), await busy.stats()
    names = {
        "active_connections": "messaging_active_connections",
        "connected_users": "messaging_connected_users",
        "active_conversations": "messaging_active_conversations",
        "total_participants": "messaging_participants",
        "typing_users": "messaging_typing_users",
        "total_messages": "messaging_stored_messages",
        "total_conversations": "messaging_stored_conversations",
        "messages_today": "messaging_messages_today",
        "registered_users": "messaging_registered_users",
        "nodes": "messaging_cluster_nodes",
    }
    assert {key: stats[key] for key in names} == {key: figures[name] for key, name in names.items()}
    assert stats["active_users"] == {
        window: figures[f'messaging_active_users{{window="{window}"}}'] for window in ("1d", "7d", "30d")
    }
    assert (stats["scope"], stats["database"]["up"], stats["database"]["error"]) == ("node", True, None)
    assert (await busy.get(STATS))[0] == 401
    assert (await busy.get(STATS, user="ann"))[0] == 403


# --- by the tools of the field ----------------------------------------------------------------------------


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("which", ["fresh", "busy"])
async def test_promtool_finds_nothing_to_complain_about(fresh: Exporter, busy: Exporter, which: str) -> None:
    text = await {"fresh": fresh, "busy": busy}[which].exposition()
    done = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    complaints = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        # The last: the contract's name; promtool takes a count of days for a duration.
        if not line.startswith(("python_", "process_", 'messaging_inaccurate_days use base unit "seconds"'))
    ]
    assert complaints == []


async def test_the_strict_openmetrics_parser_reads_the_same_figures(busy: Exporter) -> None:
    families = {family.name: family for family in parse_openmetrics(await busy.exposition(Accept=OPENMETRICS))}
    text = {family.name: family for family in parse_text(await busy.exposition())}
    # In OpenMetrics an info is a type of its own; in the text format it is a gauge.
    own = {name for name in families if name.startswith("messaging_")} - {"messaging_build"}
    assert own == {name for name in text if name.startswith("messaging_")} - {"messaging_build_info"}
    for name in own:
        assert families[name].type == text[name].type
        assert families[name].documentation == text[name].documentation
        samples = [{(s.name, *sorted(s.labels.items())): s.value for s in f[name].samples} for f in (families, text)]
        assert samples[0].keys() == samples[1].keys()
        if is_exact(name):
            assert samples[0] == samples[1]
    assert families["messaging_build"].type == "info"


async def test_no_series_and_no_family_stands_twice(busy: Exporter) -> None:
    for accept in (TEXT, OPENMETRICS):
        text = await busy.exposition(Accept=accept)
        figures_of(text)
        kinds = [line for line in text.splitlines() if line.startswith("# TYPE ")]
        assert len({line.split()[2] for line in kinds}) == len(kinds)
        assert "_created" not in text
        assert text.endswith("# EOF\n") == (accept == OPENMETRICS)


# --- whatever is asked for --------------------------------------------------------------------------------

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROTOBUF_FIRST = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7," + PROMETHEUS_3
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
ACCEPTED = [
    (None, TEXT),
    ("", TEXT),
    ("*/*", TEXT),
    ("text/*", TEXT),
    ("text/plain", TEXT),
    ("text/plain;version=0.0.4", TEXT),
    (BROWSER, TEXT),
    ("application/json", TEXT),
    ("application/openmetrics-text", OPENMETRICS),
    ("application/openmetrics-text;version=1.0.0", OPENMETRICS),
    ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
    ('application/openmetrics-text;version="1.0.0"', OPENMETRICS),
    ("APPLICATION/OpenMetrics-Text;Version=1.0.0", OPENMETRICS),
    (PROMETHEUS_2, OPENMETRICS),
    (PROMETHEUS_3, OPENMETRICS),
    (PROTOBUF_FIRST, OPENMETRICS),
    ("application/openmetrics-text;q=0.4,text/plain;q=0.5", TEXT),
    ("application/openmetrics-text;q=0.5,text/plain;q=0.4", OPENMETRICS),
    ("text/plain;q=0.4,application/openmetrics-text;q=0.5", OPENMETRICS),
    ("application/openmetrics-text;q=0.5,*/*;q=0.9", TEXT),
    ("application/openmetrics-text;q=0,text/plain;q=0.1", TEXT),
    ("application/openmetrics-text;q=0", TEXT),
    ("application/openmetrics-text;version=9.9.9", TEXT),
]
GARBAGE = [
    ",",
    ";",
    ";;;",
    ",;,;q",
    "q=1",
    "=",
    "/",
    "//",
    "text",
    "text/",
    "/plain",
    "text/plain;",
    "text/plain;q",
    "text/plain;q=",
    "text/plain;q=x",
    "text/plain;q=nan",
    "text/plain;q=inf",
    "text/plain;q=-1",
    "text/plain;q=1e999",
    "text/plain;q=0.5;q=0.7",
    "text/plain;version",
    'text/plain;version="0.0.4',
    "application/openmetrics-text;q=nan",
    "application/openmetrics-text;version=",
    "application/openmetrics-text;version=1.0.0;version=0.0.1",
    "äöü/€;q=ß",
    "%00%0d%0a",
    "x" * 7_000,
    "a/b," * 1_500,
    "a/b;q=0.1;" * 700,
]


@pytest.mark.parametrize(("accept", "kind"), ACCEPTED)
async def test_the_format_is_the_one_that_is_preferred(fresh: Exporter, accept: str | None, kind: str) -> None:
    status, body, headers = await fresh.get("/metrics", headers={} if accept is None else {"Accept": accept})
    assert (status, headers["Content-Type"]) == (200, kind)
    assert "Accept" in headers["Vary"]
    list((parse_openmetrics if kind == OPENMETRICS else parse_text)(body.decode()))


@pytest.mark.parametrize("header", ["Accept", "Accept-Encoding", "X-Prometheus-Scrape-Timeout-Seconds"])
async def test_no_garbage_in_a_header_makes_a_scrape_fail(fresh: Exporter, header: str) -> None:
    for garbage in GARBAGE:
        status, body, headers = await fresh.get("/metrics", headers={header: garbage})
        assert (status, headers["Content-Type"] in (TEXT, OPENMETRICS)) == (200, True), garbage
        assert headers.get("Content-Encoding") in (None, "gzip")
        assert body


@pytest.mark.parametrize("garbage", [b"\xff\xfe", b"\x00", b"text/plain\x01", b"a\tb"])
async def test_bytes_that_no_header_may_have_are_the_scrapers_fault(fresh: Exporter, garbage: bytes) -> None:
    host, _, port = fresh.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: " + garbage + b"\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.split(b" ")[1] in (b"200", b"400")


async def test_several_accept_headers_are_one_list(fresh: Exporter) -> None:
    host, _, port = fresh.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = ("Accept: text/plain;q=0.1", "Accept: application/openmetrics-text;q=0.2")
    writer.write("\r\n".join(("GET /metrics HTTP/1.1", "Host: x", "Connection: close", *lines, "", "")).encode())
    answer = await reader.read()
    writer.close()
    assert b"openmetrics-text" in answer.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize(
    ("wanted", "encoding"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0", None),
        ("identity", None),
        ("br", None),
        ("gzip;q=0, *", None),
    ],
)
async def test_gzip_comes_to_those_who_take_it(fresh: Exporter, wanted: str, encoding: str | None) -> None:
    status, body, headers = await fresh.get("/metrics", headers={"Accept-Encoding": wanted})
    assert (status, headers.get("Content-Encoding")) == (200, encoding)
    assert "Accept-Encoding" in headers["Vary"]
    text = (gzip.decompress(body) if encoding else body).decode()
    assert "messaging_active_connections" in figures_of(text)
    if encoding:
        assert len(body) < len(text) / 4


async def test_head_answers_the_headers_alone(fresh: Exporter) -> None:
    status, body, headers = await fresh.request("HEAD", "/metrics", headers={"Accept": OPENMETRICS})
    assert (status, body, headers["Content-Type"]) == (200, b"", OPENMETRICS)
    assert int(headers["Content-Length"]) > 10_000


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_scrape_changes_nothing_so_it_is_no_post(fresh: Exporter, method: str) -> None:
    status, _, headers = await fresh.request(method, "/metrics")
    assert status == 405
    assert "GET" in headers["Allow"]


NAMES: list[tuple[list[str], set[str]]] = [
    (["messaging_active_connections"], {"messaging_active_connections"}),
    (["messaging_joins_total"], {"messaging_joins_total"}),
    (
        ["messaging_typing_users", "messaging_stored_messages"],
        {"messaging_typing_users", "messaging_stored_messages"},
    ),
    (["messaging_fanout_recipients_count"], {"messaging_fanout_recipients_count"}),
    (["messaging_nothing"], set()),
    (["messaging_joins_total", "", "messaging_joins_total", "é"], {"messaging_joins_total"}),
]


@pytest.mark.parametrize(("names", "found"), NAMES)
async def test_only_the_named_series_come_when_some_are_named(
    fresh: Exporter, names: list[str], found: set[str]
) -> None:
    params: Any = [("name[]", name) for name in names]
    status, body, _ = await fresh.get("/metrics", params=params)
    assert status == 200
    assert {series.partition("{")[0] for series in figures_of(body.decode())} == found
    status, body, _ = await fresh.get("/metrics", params=params, headers={"Accept": OPENMETRICS})
    assert status == 200
    assert {sample.name for family in parse_openmetrics(body.decode()) for sample in family.samples} == found


async def test_a_family_is_named_by_its_own_name_too(fresh: Exporter) -> None:
    status, body, _ = await fresh.get("/metrics", params={"name[]": "messaging_fanout_recipients"})
    assert status == 200
    names = {
        series.partition("{")[0].removeprefix("messaging_fanout_recipients") for series in figures_of(body.decode())
    }
    assert names == {"_bucket", "_count", "_sum"}


async def test_overlapping_scrapes_are_all_answered_completely(busy: Exporter) -> None:
    expositions = await asyncio.gather(*(busy.exposition() for _ in range(30)))
    sets = [figures_of(text).keys() for text in expositions]
    assert all(names == sets[0] for names in sets)
