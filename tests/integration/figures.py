"""What holds of any two scrapes of one server, and of any single one."""

from __future__ import annotations

from tests.servers.exporter import Figures

LIVE = ("active_connections", "connected_users", "active_conversations", "participants", "typing_users")
# Clocks, sums of durations and what the runtime does beside; said here once, so that the rest is exact.
MOVING = (
    "process_",
    "python_",
    "messaging_event_loop_lag_seconds",
    "messaging_received_bytes_total",
    "messaging_sent_bytes_total",
    "messaging_cluster_snapshot_timestamp_seconds",
    "messaging_database_last_success_timestamp_seconds",
    "messaging_scrape_collector_duration_seconds",
    "messaging_database_pool_connections",  # opened when first needed
    "messaging_typing_oldest_age_seconds",  # an age; held against typing_users below
)
CLUSTER = {
    "messaging_active_connections": "messaging_cluster_connections",
    "messaging_connected_users": "messaging_cluster_users",
    "messaging_active_conversations": "messaging_cluster_conversations",
    "messaging_participants": "messaging_cluster_participants",
    "messaging_typing_users": "messaging_cluster_typing_users",
}


def is_exact(series: str) -> bool:
    """Is its change a fact of the event, and not of how long it took?"""
    if series.startswith(MOVING):
        return False
    name = series.partition("{")[0]
    return not name.endswith(("_seconds_sum", "_bucket"))


def difference(before: Figures, after: Figures) -> Figures:
    """What changed; a series that came or went is an error in any row."""
    assert before.keys() == after.keys()
    return {name: after[name] - value for name, value in before.items() if after[name] != value and is_exact(name)}


def is_consistent(figures: Figures) -> None:
    """What holds of any scrape."""
    for figure in LIVE:
        assert figures[f'messaging_live_drift{{figure="{figure}"}}'] == 0
    for node, cluster in CLUSTER.items():
        assert figures[node] == figures[cluster]
    leaves = sum(value for name, value in figures.items() if name.startswith("messaging_leaves_total"))
    stopped = sum(value for name, value in figures.items() if name.startswith("messaging_typing_stopped_total"))
    closed = sum(value for name, value in figures.items() if name.startswith("messaging_connections_closed_total"))
    assert figures["messaging_joins_total"] - leaves == figures["messaging_participants"]
    assert figures["messaging_typing_started_total"] - stopped == figures["messaging_typing_users"]
    assert figures["messaging_connections_opened_total"] - closed == figures["messaging_active_connections"]
    assert figures["messaging_connection_duration_seconds_count"] == closed
    assert (figures["messaging_typing_oldest_age_seconds"] > 0) == (figures["messaging_typing_users"] > 0)
    for name, value in figures.items():
        if 'le="+Inf"' in name:
            assert figures[_count_of(name)] == value


def _count_of(bucket: str) -> str:
    name, _, labels = bucket.removesuffix("}").partition("{")
    rest = ",".join(label for label in labels.split(",") if not label.startswith("le="))
    count = name.removesuffix("_bucket") + "_count"
    return f"{count}{{{rest}}}" if rest else count
