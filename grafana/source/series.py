"""Series for promtool's rule tests: a healthy cluster of two nodes, an idle one, and faults put over them.

One sample per minute. promtool's notation: ``a+bxn`` is a and n further samples, each b higher; ``_`` is a
missing sample. The functions below make it; they know nothing of alerts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exporter.core.errors import ErrorCode
from exporter.core.events import ClosedReason, LeftReason, RejectedReason, TypingStoppedReason
from exporter.metrics.counters import COMMAND_NAMES

Series = dict[str, str]

NODES = ("a:8765", "b:8765")
LENGTH = 180  # minutes of a test, unless it says otherwise
BOUNDS = {
    "messaging_command_duration_seconds": ("0.005", "0.25", "0.5", "10.0"),
    "messaging_message_persist_duration_seconds": ("0.005", "0.25", "0.5", "10.0"),
    "messaging_message_delivery_duration_seconds": ("0.005", "0.25", "0.5", "10.0"),
    "messaging_event_loop_lag_seconds": ("0.005", "0.25", "0.5", "2.5"),
    "messaging_broker_lag_seconds": ("0.005", "0.25", "0.5", "10.0"),
}


def steady(value: float | str, minutes: int = LENGTH) -> str:
    """One value all the time."""
    return f"{value}x{minutes}"


def growing(per_minute: float, minutes: int = LENGTH, start: float = 0) -> str:
    """A counter that grows evenly."""
    return f"{start:g}+{per_minute:g}x{minutes}"


def levels(*parts: tuple[int, float | str]) -> str:
    """A gauge with one value after another: (minutes, value)."""
    return " ".join(f"{value}x{minutes - 1}" if minutes > 1 else f"{value}" for minutes, value in parts)


def ramps(*parts: tuple[int, float]) -> str:
    """A counter with one speed after another: (minutes, growth per minute)."""
    texts, value = [], 0.0
    for minutes, growth in parts:
        texts.append(f"{value:g}+{growth:g}x{minutes - 1}")
        value += growth * minutes
    return " ".join(texts)


def seconds(*parts: tuple[int, float, float]) -> str:
    """A time stamp: (minutes, seconds at its first sample, growth per minute). Time starts at 0 in promtool."""
    return " ".join(f"{start:g}+{growth:g}x{minutes - 1}" for minutes, start, growth in parts)


def name(metric: str, node: str, **labels: str) -> str:
    """A series' name with the labels that Prometheus adds."""
    pairs = {"job": "messaging", "instance": node, **labels}
    return metric + "{" + ", ".join(f'{key}="{value}"' for key, value in pairs.items()) + "}"


def histogram(metric: str, node: str, counts: dict[str, str], **labels: str) -> Iterator[tuple[str, str]]:
    """Buckets and count, each with its values, by upper bound; ``+Inf`` is also the count."""
    for bound, values in counts.items():
        yield name(f"{metric}_bucket", node, **labels, le=bound), values
    yield name(f"{metric}_count", node, **labels), counts["+Inf"]


def _fast(metric: str, node: str, per_minute: float, minutes: int, **labels: str) -> Iterator[tuple[str, str]]:
    """A histogram whose observations are all in the first bucket."""
    values = growing(per_minute, minutes)
    return histogram(metric, node, dict.fromkeys((*BOUNDS[metric], "+Inf"), values), **labels)


def _node(node: str, busy: bool, minutes: int) -> Iterator[tuple[str, str]]:
    def gauge(metric: str, value: float, **labels: str) -> tuple[str, str]:
        return name(metric, node, **labels), steady(value, minutes)

    def counter(metric: str, per_minute: float, **labels: str) -> tuple[str, str]:
        return name(metric, node, **labels), growing(per_minute if busy else 0, minutes)

    now = growing(60, minutes)
    on = 1 if busy else 0
    yield gauge("up", 1)
    yield gauge("messaging_build_info", 1, version="1.0.0")
    yield gauge("process_start_time_seconds", 0)
    yield gauge("process_open_fds", 120)
    yield gauge("process_max_fds", 1024)
    yield name("messaging_active_connections", node), growing(2 * on, minutes, 100 * on)
    yield gauge("messaging_connected_users", 90 * on)
    yield gauge("messaging_active_conversations", 40 * on)
    yield gauge("messaging_participants", 200 * on)
    yield gauge("messaging_typing_users", 5 * on)
    yield gauge("messaging_connection_limit", 20000)
    yield gauge("messaging_slow_consumers", 1 * on)
    yield gauge("messaging_typing_oldest_age_seconds", 4 * on)
    for figure in ("active_connections", "connected_users", "active_conversations", "participants", "typing_users"):
        yield gauge("messaging_live_drift", 0, figure=figure)
    # Conserved: opened - closed = active, joins - leaves = participants, started - stopped = typing.
    yield name("messaging_connections_opened_total", node), growing(32 * on, minutes, 100 * on)
    for closed in ClosedReason:
        yield counter(
            "messaging_connections_closed_total", {"client": 29, "heartbeat": 1}.get(closed, 0), reason=closed
        )
    for rejected in RejectedReason:
        yield counter("messaging_connections_rejected_total", 1, reason=rejected)
    yield name("messaging_joins_total", node), growing(60 * on, minutes, 200 * on)
    for left in LeftReason:
        yield counter("messaging_leaves_total", {"leave": 20, "disconnect": 40}.get(left, 0), reason=left)
    yield name("messaging_typing_started_total", node), growing(300 * on, minutes, 5 * on)
    for stopped in TypingStoppedReason:
        yield counter("messaging_typing_stopped_total", {"message": 250, "stop": 50}.get(stopped, 0), reason=stopped)
    yield counter("messaging_messages_accepted_total", 600)
    yield counter("messaging_deliveries_total", 3000)
    yield counter("messaging_deliveries_dropped_total", 1)
    for command in (*COMMAND_NAMES, "unknown"):
        for code in ErrorCode:
            per_minute = 2 if code not in ("internal", "unavailable") else 0
            yield counter("messaging_commands_rejected_total", per_minute, command=command, code=code)
    for command in COMMAND_NAMES:
        yield from _fast("messaging_command_duration_seconds", node, 600 * on, minutes, command=command)
    yield from _fast("messaging_message_persist_duration_seconds", node, 600 * on, minutes)
    for path in ("local", "cluster"):
        yield from _fast("messaging_message_delivery_duration_seconds", node, 600 * on, minutes, path=path)
    yield from _fast("messaging_event_loop_lag_seconds", node, 600, minutes)
    yield from _fast("messaging_broker_lag_seconds", node, 600 * on, minutes)
    yield gauge("messaging_cluster_nodes", 2)
    yield name("messaging_cluster_connections", node), growing(4 * on, minutes, 200 * on)
    yield gauge("messaging_cluster_users", 150 * on)
    yield name("messaging_cluster_snapshot_timestamp_seconds", node), now
    yield gauge("messaging_cluster_settling", 0)
    yield gauge("messaging_broker_up", 1)
    yield counter("messaging_broker_frames_dropped_total", 0)
    yield gauge("messaging_database_up", 1)
    yield name("messaging_database_last_success_timestamp_seconds", node), now
    yield gauge("messaging_database_pool_connections", 2 * on, state="in_use")
    yield gauge("messaging_database_pool_connections", 3, state="idle")
    yield gauge("messaging_database_writable", 1)
    yield gauge("messaging_inaccurate_conversations", 0)
    yield gauge("messaging_inaccurate_days", 0)
    yield gauge("messaging_missing_triggers", 0)
    yield name("messaging_verified_timestamp_seconds", node), now


def _observed(node: str, minutes: int) -> Iterator[tuple[str, str]]:
    """A database of another server, observed by the process of a node; it counts every ten minutes."""
    source = {"source": "chat"}
    yield name("messaging_source_up", node, **source), steady(1, minutes)
    yield name("messaging_source_as_of_timestamp_seconds", node, **source), growing(60, minutes)
    yield name("messaging_source_recount_timestamp_seconds", node, **source), growing(60, minutes)
    yield name("messaging_source_recount_interval_seconds", node, **source), steady(600, minutes)
    yield name("messaging_source_count_progress_ratio", node, **source), steady(1, minutes)
    yield name("messaging_inaccurate_conversations", node, **source), steady(0, minutes)


def healthy(minutes: int = LENGTH) -> Series:
    """Two nodes with much traffic, with the few errors and refusals that every day has."""
    nodes = {key: values for node in NODES for key, values in _node(node, True, minutes)}
    return {**nodes, **dict(_observed(NODES[0], minutes))}


def observing(node: str = "o:8765", minutes: int = LENGTH) -> Series:
    """A process of ``observe`` under the nodes' job: one more target of ours, and no node."""
    process = (
        (name("up", node), steady(1, minutes)),
        (name("messaging_build_info", node, version="1.0.0"), steady(1, minutes)),
    )
    return {**dict(process), **dict(_observed(node, minutes))}


def idle() -> Series:
    """Two nodes that nobody uses: every live figure 0, no counter moves."""
    return {key: values for node in NODES for key, values in _node(node, False, LENGTH)}


def evening() -> Series:
    """Seven of ten connections end within a minute because people go home: every figure moves, and nothing is wrong."""
    changes: list[tuple[str, str | None]] = []
    for node in NODES:
        changes += [
            (name("messaging_active_connections", node), levels((60, 500), (121, 150))),
            (name("messaging_connections_opened_total", node), growing(30, start=500)),
            (name("messaging_connections_closed_total", node, reason="client"), "0+29x59 2090+29x120"),
            (name("messaging_cluster_connections", node), levels((60, 1000), (121, 300))),
        ]
    return over(healthy(), changes)


def few() -> Series:
    """Hardly anybody is there, and nearly all that they do goes wrong: shares that say much, of numbers that say
    nothing. Each node knows only itself. A program that is not ours, beside them, restarts and has no files left."""
    a = NODES[0]

    def late(metric: str, per_minute: float, **labels: str) -> Iterator[tuple[str, str]]:
        bounds = (*BOUNDS[metric], "+Inf")
        counts = {bound: growing(per_minute if index > 2 else 0) for index, bound in enumerate(bounds)}
        return histogram(metric, a, counts, **labels)

    connections = levels((60, 8), (121, 2))
    changes = (
        (name("messaging_active_connections", a), connections),
        *((name("messaging_cluster_connections", node), connections) for node in NODES),
        (name("messaging_connected_users", a), steady(1)),
        *((name("messaging_cluster_users", node), steady(1)) for node in NODES),
        (name("messaging_connections_opened_total", a), growing(4, start=8)),
        (name("messaging_connections_closed_total", a, reason="heartbeat"), "0+4x59 246+4x120"),
        (name("messaging_connections_rejected_total", a, reason="capacity"), growing(6)),
        (name("messaging_slow_consumers", a), steady(2)),
        (name("messaging_commands_rejected_total", a, command="send", code="unavailable"), growing(2)),
        (name("messaging_commands_rejected_total", a, command="send", code="bad_frame"), growing(20)),
        *late("messaging_command_duration_seconds", 22, command="send"),
        *late("messaging_message_persist_duration_seconds", 4),
        *late("messaging_message_delivery_duration_seconds", 2, path="local"),
        (name("messaging_deliveries_dropped_total", a), growing(4)),
        *late("messaging_broker_lag_seconds", 4),
        *((name("messaging_cluster_nodes", node), steady(1)) for node in NODES),
    )
    other = {
        name("process_start_time_seconds", "other:9100"): levels(*((5, at * 60) for at in range(0, LENGTH, 5))),
        name("process_open_fds", "other:9100"): steady(1000),
        name("process_max_fds", "other:9100"): steady(1024),
    }
    return over(idle(), changes) | other


def of_cluster(series: Series, **labels: str) -> Series:
    """The same series with labels that Prometheus adds to every target of an installation."""
    pairs = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return {key.replace("{", f"{{{pairs}, ", 1): values for key, values in series.items()}


def over(base: Series, faults: Iterable[tuple[str, str | None]]) -> Series:
    """``base`` with other values for some series; ``None`` takes a series out."""
    result = dict(base)
    for key, values in faults:
        if key not in base:
            raise KeyError(f"{key} is not in the base: a fault in a series that does not exist proves nothing")
        if values is None:
            del result[key]
        else:
            result[key] = values
    return result
