"""The families made from records at the moment of a scrape, each name once. Knows records, no objects.

A gauge that is a length cannot leak, and it is in the very next scrape whatever path changed it. Each HELP says its
scope and how to aggregate it: node figures are summed; cluster and database figures are the same on every node, hence
``max``.

Tested in ``tests/metrics/test_counters.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from exporter import __version__
from exporter.core.records import WINDOWS, DatabaseView, HubStats, KnownTotals, Snapshot, Totals

_NODE: Final = "Scope: this node; aggregate with sum."
_NODE_WORST: Final = "Scope: this node; aggregate with max."
_CLUSTER: Final = "Scope: cluster, the same on every node (the node's own when alone); aggregate with max."
_DATABASE: Final = (
    "Scope: database, the same on every node, read at this scrape; absent when not known; aggregate with max."
)
_FOUND: Final = (
    "the last verification, or the comparison at a start, found wrong; 0 was recounted; absent before the first."
)
_VIEW: Final = "Scope: this node's view; aggregate with min."


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)


def _by_label(name: str, help: str, label: str, rows: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for value, number in rows:
        family.add_metric([value], number)
    return family


def state_families(snapshot: Snapshot) -> Iterator[Metric]:
    """State as it was in one turn of the loop; what is not known is absent, never invented."""
    yield from _live(snapshot.live)
    yield drift_family(snapshot.drift)
    yield from _pressure(snapshot)
    yield from _cluster(snapshot)
    yield from _database(snapshot.database)
    if snapshot.database.totals is not None:
        yield from totals_families(snapshot.database.totals)
        yield from _verification(snapshot.database.totals)
    yield _by_label(
        "messaging_scrape_collector_duration_seconds",
        f"How long this scrape's collector took. {_NODE_WORST}",
        "collector",
        (("live", snapshot.live_duration), ("database", snapshot.database.duration)),
    )
    yield _by_label(
        "messaging_scrape_collector_success",
        f"1 when this scrape's collector knew its figures, else 0. {_VIEW}",
        "collector",
        (("live", 1), ("database", float(snapshot.database.totals is not None))),
    )
    yield build_family()


def build_family() -> Metric:
    """``messaging_build_info``."""
    return InfoMetricFamily(
        "messaging_build", f"Version of the exporter, always 1. {_NODE}", value={"version": __version__}
    )


def live_families(live: HubStats) -> dict[str, Metric]:
    """The five live gauges, by the name of the figure."""
    return {family.name.removeprefix("messaging_"): family for family in _live(live)}


def _live(live: HubStats) -> Iterator[Metric]:
    yield _gauge("messaging_active_connections", f"Open authenticated connections. {_NODE}", live.active_connections)
    yield _gauge(
        "messaging_connected_users",
        f"Distinct users behind this node's connections. {_NODE} Distinct over nodes: messaging_cluster_users.",
        live.connected_users,
    )
    yield _gauge(
        "messaging_active_conversations",
        f"Conversations with somebody joined. {_NODE} Distinct over nodes: messaging_cluster_conversations.",
        live.active_conversations,
    )
    yield _gauge("messaging_participants", f"(user, conversation) pairs joined. {_NODE}", live.participants)
    yield _gauge("messaging_typing_users", f"(user, conversation) pairs typing. {_NODE}", live.typing_users)


def drift_family(drift: Mapping[str, int]) -> Metric:
    """``messaging_live_drift``, keyed by the figure."""
    return _by_label(
        "messaging_live_drift",
        f"Live figure minus an independent recount from the open sockets; 0 is healthy. {_NODE_WORST}",
        "figure",
        drift.items(),
    )


def _pressure(snapshot: Snapshot) -> Iterator[Metric]:
    pressure = snapshot.saturation
    yield _gauge(
        "messaging_send_buffer_max_bytes",
        f"The fullest send buffer of all connections. {_NODE_WORST}",
        pressure.send_buffer_max,
    )
    yield _gauge(
        "messaging_slow_consumers",
        f"Connections whose send buffer is above half its limit. {_NODE}",
        pressure.slow_consumers,
    )
    yield _gauge(
        "messaging_connection_limit", f"Connections that this node accepts. {_NODE}", pressure.connection_limit
    )
    yield _gauge(
        "messaging_typing_oldest_age_seconds",
        f"Since the oldest typing state was last refreshed, 0 when nobody types. {_NODE_WORST}",
        pressure.typing_oldest_age,
    )


def _cluster(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge(
        "messaging_broker_up",
        f"1 when this node reaches the broker, or is alone; else 0. {_VIEW}",
        float(snapshot.broker_up),
    )
    cluster = snapshot.cluster
    if cluster is None:
        return
    for name, help, value in (
        ("nodes", "Live nodes.", cluster.nodes),
        ("connections", "Open authenticated connections on all nodes.", cluster.connections),
        ("users", "Distinct connected users.", cluster.users),
        ("conversations", "Distinct conversations with somebody joined.", cluster.conversations),
        ("participants", "Distinct (user, conversation) pairs joined.", cluster.participants),
        ("typing_users", "Distinct (user, conversation) pairs typing.", cluster.typing_users),
    ):
        yield _gauge(f"messaging_cluster_{name}", f"{help} {_CLUSTER}", value)
    yield _gauge(
        "messaging_cluster_settling",
        "Above 0: the cluster's figures are not final, some nodes' parts are leaving, incomplete or perhaps missing. "
        + _CLUSTER,
        cluster.settling,
    )
    yield _gauge(
        "messaging_cluster_snapshot_timestamp_seconds",
        f"When this node last saw the cluster's figures, Unix time. {_VIEW}",
        cluster.as_of,
    )


def _database(view: DatabaseView) -> Iterator[Metric]:
    yield _gauge(
        "messaging_database_up",
        f"1 when this scrape's query of the database succeeded, else 0. {_VIEW}",
        float(view.up),
    )
    yield _gauge(
        "messaging_database_writable",
        "1 when the database takes writes, asked every 5 seconds without a client's write; 0 on a read-only server, "
        f"a standby, a full disk, or while nothing answers. {_VIEW}",
        float(view.writable),
    )
    if view.last_success is not None:
        yield _gauge(
            "messaging_database_last_success_timestamp_seconds",
            f"When this node last read its figures from the database, Unix time; absent before. {_VIEW}",
            view.last_success,
        )
    yield _by_label(
        "messaging_database_pool_connections",
        f"Database connections of this node. {_NODE}",
        "state",
        (("in_use", view.pool.in_use), ("idle", view.pool.idle)),
    )


TOTALS: Final = {
    "stored_messages": "Messages that exist now.",
    "stored_conversations": "Conversations that exist now.",
    "registered_users": "Users that exist now.",
    "messages_today": "Messages that exist now and were sent since 00:00 UTC.",
}
"""The totals of any database, by the name of the figure."""


def totals_families(totals: KnownTotals) -> Iterator[Metric]:
    """The figures that are known, each absent otherwise."""
    for name, help in TOTALS.items():
        value = getattr(totals, name)
        if value is not None:
            yield _gauge(f"messaging_{name}", f"{help} {_DATABASE}", value)
    windows = [(f"{days}d", count) for days in WINDOWS if (count := totals.active_users.get(days)) is not None]
    if windows:
        yield _by_label(
            "messaging_active_users",
            "Registered users whose latest message was inserted on one of the last 1, 7 or 30 UTC days, today "
            f"included. {_DATABASE}",
            "window",
            windows,
        )


def _verification(totals: Totals) -> Iterator[Metric]:
    for name, help, value in (
        (
            "messaging_inaccurate_conversations",
            f"Conversations whose total or last number {_FOUND}",
            totals.inaccurate_conversations,
        ),
        ("messaging_inaccurate_days", f"Days whose totals {_FOUND}", totals.inaccurate_days),
        (
            "messaging_missing_triggers",
            f"Triggers, functions, keys and columns that are missing, disabled or changed, as {_FOUND}",
            totals.missing_triggers,
        ),
        (
            "messaging_verified_timestamp_seconds",
            "When the last verification ended, Unix time; absent before the first.",
            totals.verified_at,
        ),
    ):
        if value is not None:
            yield _gauge(name, f"{help} {_DATABASE}", value)
