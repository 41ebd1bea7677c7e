"""Every metric, once: what a snapshot is rendered to, and what is absent when it is not known.

The same on a running server, with the contract's table, is tests/integration/test_exposition.py.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable

import pytest
from msgspec.structs import asdict, fields, replace
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_strictly

from exporter import __version__
from exporter.core.errors import ErrorCode
from exporter.core.events import (
    ClosedReason,
    ConnectionClosed,
    ConnectionOpened,
    HubEvent,
    LeftReason,
    ParticipantJoined,
    ParticipantLeft,
    RejectedReason,
    TypingStarted,
    TypingStopped,
    TypingStoppedReason,
)
from exporter.core.protocol import COMMANDS
from exporter.core.records import ClusterStats, DatabaseView, HubStats, PoolStats, Saturation, Snapshot, Totals
from exporter.core.recount import Drift
from exporter.metrics.counters import COMMAND_NAMES, Metrics
from exporter.metrics.families import state_families

# Each number once, so that a figure in the wrong place is seen.
SNAPSHOT = Snapshot(
    as_of=1_000.5,
    live=HubStats(11, 12, 13, 14, 15),
    cluster=ClusterStats(21, 22, 23, 24, 25, 26, 27.5, 28),
    alone=False,
    broker_up=True,
    database=DatabaseView(
        up=True,
        totals=Totals(
            31,
            32,
            33,
            34,
            {1: 35, 7: 36, 30: 37},
            38.0,
            inaccurate_conversations=39,
            inaccurate_days=45,
            missing_triggers=46,
            verified_at=40.5,
        ),
        error=None,
        last_success=41.5,
        duration=0.42,
        pool=PoolStats(43, 44),
        writable=True,
    ),
    saturation=Saturation(51, 52, 53, 54.5),
    drift=asdict(Drift(61, 62, 63, 64, 65)),
    live_duration=0.71,
)
FIGURES = {
    "messaging_active_connections": 11,
    "messaging_connected_users": 12,
    "messaging_active_conversations": 13,
    "messaging_participants": 14,
    "messaging_typing_users": 15,
    "messaging_cluster_nodes": 21,
    "messaging_cluster_connections": 22,
    "messaging_cluster_users": 23,
    "messaging_cluster_conversations": 24,
    "messaging_cluster_participants": 25,
    "messaging_cluster_typing_users": 26,
    "messaging_cluster_settling": 28,
    "messaging_cluster_snapshot_timestamp_seconds": 27.5,
    "messaging_broker_up": 1,
    "messaging_stored_messages": 31,
    "messaging_stored_conversations": 32,
    "messaging_registered_users": 33,
    "messaging_messages_today": 34,
    'messaging_active_users{window="1d"}': 35,
    'messaging_active_users{window="7d"}': 36,
    'messaging_active_users{window="30d"}': 37,
    "messaging_inaccurate_conversations": 39,
    "messaging_inaccurate_days": 45,
    "messaging_missing_triggers": 46,
    "messaging_database_writable": 1,
    "messaging_verified_timestamp_seconds": 40.5,
    "messaging_database_up": 1,
    "messaging_database_last_success_timestamp_seconds": 41.5,
    'messaging_database_pool_connections{state="in_use"}': 43,
    'messaging_database_pool_connections{state="idle"}': 44,
    "messaging_send_buffer_max_bytes": 51,
    "messaging_slow_consumers": 52,
    "messaging_connection_limit": 53,
    "messaging_typing_oldest_age_seconds": 54.5,
    'messaging_live_drift{figure="active_connections"}': 61,
    'messaging_live_drift{figure="connected_users"}': 62,
    'messaging_live_drift{figure="active_conversations"}': 63,
    'messaging_live_drift{figure="participants"}': 64,
    'messaging_live_drift{figure="typing_users"}': 65,
    'messaging_scrape_collector_duration_seconds{collector="live"}': 0.71,
    'messaging_scrape_collector_duration_seconds{collector="database"}': 0.42,
    'messaging_scrape_collector_success{collector="live"}': 1,
    'messaging_scrape_collector_success{collector="database"}': 1,
    f'messaging_build_info{{version="{__version__}"}}': 1,
}
# The contract: what is read from the database, and hence absent when it is not known.
READ = re.compile(
    r"messaging_(stored_messages|stored_conversations|registered_users|messages_today|active_users"
    r"|inaccurate_conversations|inaccurate_days|missing_triggers|verified_timestamp_seconds)\b"
)


class Registry:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        return self._families


def figures(snapshot: Snapshot) -> dict[str, float]:
    """Each series of a snapshot, as it stands in the exposition, to its value."""
    found = {}
    for family in state_families(snapshot):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def everything() -> list[Metric]:
    return [*state_families(SNAPSHOT), *Metrics().families()]


# --- state ------------------------------------------------------------------------------------------------


def test_each_figure_of_a_snapshot_stands_where_it_belongs() -> None:
    assert figures(SNAPSHOT) == FIGURES


def test_without_the_database_what_is_read_from_it_is_absent_and_everything_else_is_there() -> None:
    down = replace(SNAPSHOT.database, up=False, totals=None, error="it is down")
    found = figures(replace(SNAPSHOT, database=down))
    expected = {series: value for series, value in FIGURES.items() if not READ.match(series)}
    expected["messaging_database_up"] = 0
    expected['messaging_scrape_collector_success{collector="database"}'] = 0
    assert found == expected
    assert len(FIGURES) - len(found) == 11
    assert "it is down" not in generate_latest(Registry(state_families(replace(SNAPSHOT, database=down)))).decode()


def test_before_the_first_verification_its_figures_are_absent() -> None:
    totals = SNAPSHOT.database.totals
    assert totals is not None
    fresh = replace(
        totals, inaccurate_conversations=None, inaccurate_days=None, missing_triggers=None, verified_at=None
    )
    found = figures(replace(SNAPSHOT, database=replace(SNAPSHOT.database, totals=fresh)))
    assert FIGURES.keys() - found.keys() == {
        "messaging_inaccurate_conversations",
        "messaging_inaccurate_days",
        "messaging_missing_triggers",
        "messaging_verified_timestamp_seconds",
    }


def test_a_total_that_is_not_known_is_absent_beside_those_that_are() -> None:
    totals = SNAPSHOT.database.totals
    assert totals is not None
    partly = replace(totals, registered_users=None, active_users={1: 35, 7: None, 30: None})
    found = figures(replace(SNAPSHOT, database=replace(SNAPSHOT.database, totals=partly)))
    assert FIGURES.keys() - found.keys() == {
        "messaging_registered_users",
        'messaging_active_users{window="7d"}',
        'messaging_active_users{window="30d"}',
    }


def test_a_cluster_that_is_not_known_is_absent_and_never_a_0() -> None:
    found = figures(replace(SNAPSHOT, cluster=None, broker_up=False))
    assert found["messaging_broker_up"] == 0
    assert not [series for series in found if series.startswith("messaging_cluster_")]


def test_a_figure_of_0_is_shown_as_0() -> None:
    nothing = Totals(0, 0, 0, 0, {1: 0, 7: 0, 30: 0}, 0.0, 0, inaccurate_days=0, missing_triggers=0, verified_at=0.0)
    database = replace(SNAPSHOT.database, totals=nothing)
    zero = replace(SNAPSHOT, live=HubStats(), saturation=Saturation(), drift=asdict(Drift()), database=database)
    found = figures(zero)
    assert found.keys() == FIGURES.keys()
    assert found["messaging_active_connections"] == found["messaging_slow_consumers"] == 0
    assert {value for series, value in found.items() if READ.match(series)} == {0}


# --- events -----------------------------------------------------------------------------------------------

EVENTS: list[tuple[HubEvent, str]] = [
    (ConnectionOpened("ann"), "messaging_connections_opened_total"),
    (ParticipantJoined("c", "ann"), "messaging_joins_total"),
    (TypingStarted("c", "ann"), "messaging_typing_started_total"),
    *((ConnectionClosed("ann", r), f"messaging_connections_closed_total {r}") for r in ClosedReason),
    *((ParticipantLeft("c", "ann", r), f"messaging_leaves_total {r}") for r in LeftReason),
    *((TypingStopped("c", "ann", r), f"messaging_typing_stopped_total {r}") for r in TypingStoppedReason),
]


def counters(metrics: Metrics) -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in metrics.families()
        if family.type == "counter"
        for sample in family.samples
    }


@pytest.mark.parametrize(("event", "series"), EVENTS, ids=[series for _, series in EVENTS])
def test_each_event_raises_its_counter_by_one_and_no_other(event: HubEvent, series: str) -> None:
    metrics = Metrics()
    before = counters(metrics)
    metrics.count(event)
    metrics.count(event)
    after = counters(metrics)
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {series: 2}


def test_there_is_no_event_of_the_hub_that_is_not_counted() -> None:
    counted = {type(event) for event, _ in EVENTS}
    assert counted == set(HubEvent.__args__)


def test_every_series_that_is_known_beforehand_stands_at_0_from_the_start() -> None:
    found = counters(Metrics())
    assert set(found.values()) == {0}
    for reasons, name in (
        (ClosedReason, "messaging_connections_closed_total"),
        (RejectedReason, "messaging_connections_rejected_total"),
        (LeftReason, "messaging_leaves_total"),
        (TypingStoppedReason, "messaging_typing_stopped_total"),
    ):
        assert {series for series in found if series.startswith(name)} == {f"{name} {reason}" for reason in reasons}
    rejected = {s.split(" ", 1)[1] for s in found if s.startswith("messaging_commands_rejected")}
    assert rejected == {f"{c} {code}" for c in [*COMMAND_NAMES, "unknown"] for code in ErrorCode}


def test_the_commands_are_the_protocols() -> None:
    assert set(COMMAND_NAMES) == set(COMMANDS.values())


def test_every_reason_of_the_contract_is_a_label_value_and_no_other() -> None:
    assert {*ClosedReason} == {
        "client",
        "shutdown",
        "heartbeat",
        "slow_consumer",
        "protocol_error",
        "rate_limited",
        "token_expired",
        "admin",
        "internal_error",
    }
    assert {*RejectedReason} == {"unauthenticated", "origin", "capacity", "user_limit", "draining", "handshake"}
    assert {*LeftReason} == {"leave", "disconnect", "removed"}
    assert {*TypingStoppedReason} == {"stop", "timeout", "message", "leave", "disconnect"}


def test_every_instrument_is_exposed() -> None:
    """An instrument that is counted but left out of ``families`` would be invisible for ever."""
    metrics = Metrics()
    instruments = [value for name, value in vars(metrics).items() if not name.startswith("_")]
    assert len(list(metrics.families())) == len(instruments)
    names = [getattr(value, "name", "messaging_commands_rejected") for value in instruments]
    assert sorted(names) == sorted(family.name for family in metrics.families())


# --- form -------------------------------------------------------------------------------------------------


def test_the_strict_parser_reads_it() -> None:
    text = generate_openmetrics(Registry(everything())).decode()
    parsed = list(parse_strictly(text))
    assert sorted(family.name for family in parsed) == sorted(family.name for family in everything())


PROMTOOL_TAKES_FOR_A_DURATION = b'messaging_inaccurate_days use base unit "seconds" instead of "days"'


@pytest.mark.needs("promtool")
def test_promtool_has_no_complaint() -> None:
    exposition = generate_latest(Registry(everything()))
    result = subprocess.run(["promtool", "check", "metrics"], input=exposition, capture_output=True, check=False)
    # The contract's name; promtool takes a count of days for a duration.
    assert (result.stdout, result.stderr.splitlines()) == (b"", [PROMTOOL_TAKES_FOR_A_DURATION])


def test_no_family_and_no_series_stands_twice() -> None:
    families = everything()
    names = Counter(family.name for family in families)
    series = Counter((s.name, tuple(sorted(s.labels.items()))) for family in families for s in family.samples)
    assert {name for name, count in names.items() if count > 1} == set()
    assert {name for name, count in series.items() if count > 1} == set()


@pytest.mark.parametrize("family", everything(), ids=lambda family: family.name)
def test_each_family_says_what_it_is_its_scope_and_how_to_aggregate_it(family: Metric) -> None:
    assert re.fullmatch(r"messaging(_[a-z]+)+", family.name)
    assert re.search(r"Scope: (this node|cluster|database)", family.documentation)
    assert re.search(r"aggregate with (sum|sum of rates|max|min)\b", family.documentation)
    assert family.documentation.strip() == family.documentation
    assert "\n" not in family.documentation


@pytest.mark.parametrize("family", everything(), ids=lambda family: family.name)
def test_names_and_labels_keep_the_conventions(family: Metric) -> None:
    labels = {label for sample in family.samples for label in sample.labels}
    allowed = {"reason", "command", "code", "path", "figure", "state", "collector", "window", "version", "le", "task"}
    assert labels <= allowed  # no user, conversation, connection, address; none of type, service, env, instance, job
    assert family.type in ("gauge", "counter", "histogram", "info")
    if family.type == "counter":
        assert all(sample.name.endswith("_total") for sample in family.samples)
    else:
        assert "_total" not in family.name
    assert not set(family.name.split("_")) & {"ms", "sec", "secs", "milliseconds", "kb", "mb", "kib", "mib", "minutes"}
    if family.type == "histogram":
        bounds = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
        assert "+Inf" in bounds


def test_the_drift_has_a_series_for_each_live_figure() -> None:
    assert list(SNAPSHOT.drift) == [field.name for field in fields(HubStats)]
