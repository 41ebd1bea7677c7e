"""Every metric name, once. Knows records and events, no objects: no hub, no store, no socket.

Two kinds. *Instruments* count events where they happen (``Metrics.count`` and a few cells for bytes and
durations). *Families made from records* are state measured at the moment of the scrape (``state_families``):
a gauge that is a length cannot leak, and it is in the very next scrape whatever path changed it.

Each HELP says its scope and how to aggregate it: node figures are summed, cluster and database figures are
the same on every node, hence ``max``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

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
from exporter.core.records import DatabaseView, Snapshot, Totals
from exporter.metrics.instruments import Cell, Counter, Histogram, LabelledCounter, LabelledHistogram

COMMAND_NAMES: Final = ("join", "leave", "typing", "send", "read", "ping")
WINDOWS: Final = (1, 7, 30)

# A frame is handled in 10 µs, a durable send in a few ms, a time-out comes after 5 s.
_FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SIZES: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_SPANS: Final = (1, 10, 60, 300, 900, 3_600, 4 * 3_600, 12 * 3_600, 86_400, 7 * 86_400)
_READING: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 1_800, 3_600, 6 * 3_600, 86_400, 7 * 86_400)

_NODE: Final = "Scope: this node; aggregate with sum."
_NODE_EVENTS: Final = "Scope: this node since it started; aggregate with sum of rates."
_NODE_WORST: Final = "Scope: this node; aggregate with max."
_CLUSTER: Final = "Scope: cluster, the same on every node (the node's own when alone); aggregate with max."
_DATABASE: Final = (
    "Scope: database, the same on every node, read at this scrape; absent when not known; aggregate with max."
)
_VIEW: Final = "Scope: this node's view; aggregate with min."


class Metrics:
    """The instruments of one process. Counters never go back, cells are bound once."""

    def __init__(self) -> None:
        self.connections_opened = Counter("messaging_connections_opened", f"Connections accepted. {_NODE_EVENTS}")
        self.connections_closed = LabelledCounter(
            "messaging_connections_closed",
            f"Connections that ended, by the server's reason. {_NODE_EVENTS}",
            "reason",
            ClosedReason,
        )
        self.connections_rejected = LabelledCounter(
            "messaging_connections_rejected",
            f"Connections refused before the upgrade. {_NODE_EVENTS}",
            "reason",
            RejectedReason,
        )
        self.joins = Counter(
            "messaging_joins", f"Participants that came: (user, conversation) pairs joined. {_NODE_EVENTS}"
        )
        self.leaves = LabelledCounter(
            "messaging_leaves",
            f"Participants that went; joins minus leaves is participants. {_NODE_EVENTS}",
            "reason",
            LeftReason,
        )
        self.typing_started = Counter("messaging_typing_started", f"Users that began to type. {_NODE_EVENTS}")
        self.typing_stopped = LabelledCounter(
            "messaging_typing_stopped",
            f"Users that stopped typing; started minus stopped is typing users. {_NODE_EVENTS}",
            "reason",
            TypingStoppedReason,
        )
        self.messages_accepted = Counter(
            "messaging_messages_accepted", f"Messages stored through this node, repetitions not counted. {_NODE_EVENTS}"
        )
        self.deliveries = Counter("messaging_deliveries", f"Message frames handed to connections. {_NODE_EVENTS}")
        self.deliveries_dropped = Counter(
            "messaging_deliveries_dropped",
            f"Message frames for joined connections that were being cut off. {_NODE_EVENTS}",
        )
        self.read_receipts = Counter("messaging_read_receipts", f"Read marks that moved forward. {_NODE_EVENTS}")
        self.commands_rejected: dict[tuple[str, ErrorCode], Cell] = {
            (command, code): Cell() for command in (*COMMAND_NAMES, "unknown") for code in ErrorCode
        }
        self.received_bytes = Counter(
            "messaging_received_bytes", f"Bytes read from WebSockets after the upgrade. {_NODE_EVENTS}"
        )
        self.sent_bytes = Counter(
            "messaging_sent_bytes", f"Bytes written to WebSockets after the upgrade. {_NODE_EVENTS}"
        )
        self.broker_frames_sent = Counter(
            "messaging_broker_frames_sent", f"Frames published to other nodes. {_NODE_EVENTS}"
        )
        self.broker_frames_received = Counter(
            "messaging_broker_frames_received", f"Frames received from other nodes. {_NODE_EVENTS}"
        )
        self.command_duration = LabelledHistogram(
            "messaging_command_duration_seconds",
            f"From a command's receipt to its answer, or to its refusal. {_NODE_EVENTS}",
            "command",
            COMMAND_NAMES,
            _FAST,
        )
        self.message_persist_duration = Histogram(
            "messaging_message_persist_duration_seconds",
            f"From a message's receipt to durable. {_NODE_EVENTS}",
            _FAST,
        )
        self.message_delivery_duration = LabelledHistogram(
            "messaging_message_delivery_duration_seconds",
            f"From a message's receipt to written to the recipients on this node. {_NODE_EVENTS}",
            "path",
            ("local", "cluster"),
            _FAST,
        )
        self.fanout_recipients = Histogram(
            "messaging_fanout_recipients", f"Connections on this node that a message went to. {_NODE_EVENTS}", _SIZES
        )
        self.connection_duration = Histogram(
            "messaging_connection_duration_seconds",
            f"How long connections that ended had lasted. {_NODE_EVENTS}",
            _SPANS,
        )
        self.read_lag = Histogram(
            "messaging_read_lag_seconds", f"From a message's sending to its being read. {_NODE_EVENTS}", _READING
        )
        self.event_loop_lag = Histogram(
            "messaging_event_loop_lag_seconds",
            f"How much later than due the event loop ran a timer. {_NODE_EVENTS}",
            _LAG,
        )
        self.broker_lag = Histogram(
            "messaging_broker_lag_seconds",
            f"From publishing a frame on another node to receiving it here. {_NODE_EVENTS}",
            _FAST,
        )
        self._simple = {
            ConnectionOpened: self.connections_opened,
            ParticipantJoined: self.joins,
            TypingStarted: self.typing_started,
        }
        self._by_reason = {
            ConnectionClosed: self.connections_closed.cells,
            ParticipantLeft: self.leaves.cells,
            TypingStopped: self.typing_stopped.cells,
        }

    def count(self, event: HubEvent) -> None:
        """Count what happened; the only place where hub events become counters."""
        cell = self._simple.get(type(event))
        if cell is None:
            cell = self._by_reason[type(event)][event.reason]  # type: ignore[index,union-attr]  # the rest have one
        cell.value += 1

    def families(self) -> Iterator[Metric]:
        """The instruments' families, one at a time."""
        yield self.connections_opened.family()
        yield self.connections_closed.family()
        yield self.connections_rejected.family()
        yield self.joins.family()
        yield self.leaves.family()
        yield self.typing_started.family()
        yield self.typing_stopped.family()
        yield self.messages_accepted.family()
        yield self.deliveries.family()
        yield self.deliveries_dropped.family()
        yield self.read_receipts.family()
        yield self._commands_rejected()
        yield self.received_bytes.family()
        yield self.sent_bytes.family()
        yield self.command_duration.family()
        yield self.message_persist_duration.family()
        yield self.message_delivery_duration.family()
        yield self.fanout_recipients.family()
        yield self.connection_duration.family()
        yield self.read_lag.family()
        yield self.event_loop_lag.family()
        yield self.broker_frames_sent.family()
        yield self.broker_frames_received.family()
        yield self.broker_lag.family()

    def _commands_rejected(self) -> Metric:
        family = CounterMetricFamily(
            "messaging_commands_rejected",
            f"Commands refused; command is unknown where it could not be read. {_NODE_EVENTS}",
            labels=["command", "code"],
        )
        for (command, code), cell in self.commands_rejected.items():
            family.add_metric([command, code], cell.value)
        return family


# --- families made from records ---------------------------------------------------------------------------


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)


def _by_label(name: str, help: str, label: str, rows: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for value, number in rows:
        family.add_metric([value], number)
    return family


def state_families(snapshot: Snapshot) -> Iterator[Metric]:
    """State as it was in one turn of the loop; what is not known is absent, never invented."""
    yield from _live(snapshot)
    yield from _pressure(snapshot)
    yield from _cluster(snapshot)
    yield from _database(snapshot.database)
    if snapshot.database.totals is not None:
        yield from _totals(snapshot.database.totals)
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
    yield InfoMetricFamily(
        "messaging_build", f"Version of the exporter, always 1. {_NODE}", value={"version": __version__}
    )


def _live(snapshot: Snapshot) -> Iterator[Metric]:
    live = snapshot.live
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
    yield _by_label(
        "messaging_live_drift",
        f"Live figure minus an independent recount from the open sockets; 0 is healthy. {_NODE_WORST}",
        "figure",
        snapshot.drift.items(),
    )


def _pressure(snapshot: Snapshot) -> Iterator[Metric]:
    pressure = snapshot.pressure
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


def _totals(totals: Totals) -> Iterator[Metric]:
    yield _gauge("messaging_stored_messages", f"Messages that exist now. {_DATABASE}", totals.stored_messages)
    yield _gauge(
        "messaging_stored_conversations", f"Conversations that exist now. {_DATABASE}", totals.stored_conversations
    )
    yield _gauge("messaging_registered_users", f"Users that exist now. {_DATABASE}", totals.registered_users)
    yield _gauge(
        "messaging_messages_today",
        f"Messages that exist now and were sent since 00:00 UTC. {_DATABASE}",
        totals.messages_today,
    )
    yield _by_label(
        "messaging_active_users",
        "Registered users whose latest message was inserted on one of the last 1, 7 or 30 UTC days, today included. "
        + _DATABASE,
        "window",
        ((f"{days}d", totals.active_users[days]) for days in WINDOWS),
    )
    if totals.inaccurate_conversations is not None:
        yield _gauge(
            "messaging_inaccurate_conversations",
            f"Conversations whose totals the last verification found wrong; absent before the first. {_DATABASE}",
            totals.inaccurate_conversations,
        )
    if totals.verified_at is not None:
        yield _gauge(
            "messaging_verified_timestamp_seconds",
            f"When the last verification ended, Unix time; absent before the first. {_DATABASE}",
            totals.verified_at,
        )
