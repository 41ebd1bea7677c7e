"""The proofs' cases of the thresholds: just below nothing is pending, just above it fires. Knows no alerts.

Each is one condition that stays: of a value, and of two values of it, a little on either side of the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grafana.source.cases import A, B, Fault, both, rejected
from grafana.source.cases_source import series
from grafana.source.series import BOUNDS, LENGTH, NODES, growing, histogram, levels, name, ramps, steady

_CLOSED = "messaging_connections_closed_total"
_CONNECTIONS = "messaging_active_connections"
_DELIVERY = "messaging_message_delivery_duration_seconds"
_OPENED = "messaging_connections_opened_total"
_PERSIST = "messaging_message_persist_duration_seconds"


@dataclass(frozen=True)
class Threshold:
    """``fault`` makes the series of a value; ``below`` and ``above`` are two on either side of the threshold."""

    alert: str
    what: str
    fault: Callable[[float], list[Fault]]
    below: float
    above: float
    idle: bool = False  # nobody does anything else: the floor of traffic is what is crossed
    at: int = 30  # minute at which it fires, or not


def gauge(metric: str, **labels: str) -> Callable[[float], list[Fault]]:
    """Of node a."""
    return lambda value: [(name(metric, A, **labels), steady(value))]


def counter(*metrics: str) -> Callable[[float], list[Fault]]:
    """Series, each of which grows by so much in a minute."""
    return lambda per_minute: [(metric, growing(per_minute)) for metric in metrics]


def behind(*stamps: str) -> Callable[[float], list[Fault]]:
    """Times that are so many seconds ago, always."""
    return lambda seconds: [(stamp, f"{-seconds:g}+60x{LENGTH}") for stamp in stamps]


def late(metric: str, bound: str, share: float, node: str = A, per_minute: float = 600, **labels: str) -> list[Fault]:
    """A histogram of which this share lies above a bound, and all the rest in the bucket that ends with it."""
    bounds = (*BOUNDS[metric], "+Inf")
    place = bounds.index(bound)
    shares = [0.0] * place + [1 - share] + [1.0] * (len(bounds) - place - 1)
    counts = {le: growing(per_minute * each) for le, each in zip(bounds, shares, strict=True)}
    return list(histogram(metric, node, counts, **labels))


def late_delivery(share: float) -> list[Fault]:
    """On every node and by every way."""
    return [
        fault
        for node in NODES
        for path in ("local", "cluster")
        for fault in late(_DELIVERY, "0.25", share, node, path=path)
    ]


def eased(minutes: int) -> Callable[[float], list[Fault]]:
    """Half of all messages are late for so long, then this share: the long window is above, the short one decides."""

    def fault(share: float) -> list[Fault]:
        timely = ramps((minutes, 300), (LENGTH, 600 * (1 - share)))
        counts = {le: timely if le in ("0.005", "0.25") else growing(600) for le in (*BOUNDS[_DELIVERY], "+Inf")}
        return [
            each
            for node in NODES
            for path in ("local", "cluster")
            for each in histogram(_DELIVERY, node, counts, path=path)
        ]

    return fault


def dropped(left: float, closed: int = 0, before: int = 600) -> list[Fault]:
    """At minute 20 so many connections are left of those of before; so many had been cut off."""
    return [
        (name(_CONNECTIONS, A), levels((20, before), (161, left))),
        (name(_CONNECTIONS, B), steady(0)),
        (name(_CLOSED, A, reason="heartbeat"), f"0x19 {steady(closed, 160)}"),
        (name(_CLOSED, B, reason="heartbeat"), steady(0)),
    ]


def restarted(times: float) -> list[Fault]:
    """So often within ten minutes."""
    starts = [(2, 1200 + 120 * number) for number in range(int(times))]
    return [(name("process_start_time_seconds", A), levels((20, 0), *starts[:-1], (160, starts[-1][1])))]


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold("MessagingRestartLoop", "three times", restarted, 2, 3),
    Threshold("MessagingConnectionsDropped", "half of them", lambda left: dropped(left, 500), 305, 295, at=26),
    Threshold(
        "MessagingConnectionsDropped", "half of that cut off", lambda cut: dropped(200, int(cut)), 195, 205, at=26
    ),
    Threshold("MessagingConnectionsDropped", "nine tenths", dropped, 62, 58, at=26),
    Threshold("MessagingConnectionsDropped", "more than 50", lambda before: dropped(1, 60, int(before)), 50, 51, at=26),
    Threshold(
        "MessagingReconnectStorm",
        "half of the connections in a minute",
        lambda opened: [*both(_CONNECTIONS, steady(1000)), (name(_OPENED, A), growing(opened))],
        960,
        980,
    ),
    Threshold("MessagingReconnectStorm", "5 a second", counter(name(_OPENED, A)), 295, 305, idle=True),
    Threshold("MessagingAbnormalCloses", "a quarter", counter(name(_CLOSED, A, reason="heartbeat")), 17.5, 19),
    Threshold("MessagingAbnormalCloses", "6 a minute", counter(name(_CLOSED, A, reason="heartbeat")), 5.9, 6.1, True),
    Threshold(
        "MessagingConnectionsRejected",
        "one in five",
        counter(name("messaging_connections_rejected_total", A, reason="capacity")),
        17,
        18,
    ),
    Threshold(
        "MessagingConnectionsRejected",
        "12 a minute",
        counter(name("messaging_connections_rejected_total", A, reason="capacity")),
        11.9,
        12.1,
        idle=True,
    ),
    Threshold("MessagingConnectionLimitNear", "85 %", gauge(_CONNECTIONS), 16_990, 17_010),
    Threshold("MessagingSendsFailing", "1 %", counter(rejected("send", "unavailable")), 11.9, 12.4),
    Threshold("MessagingSendsFailing", "3 a minute", counter(rejected("send", "unavailable")), 2.9, 3.1, idle=True),
    Threshold(
        "MessagingPersistSlow",
        "1 % above half a second",
        lambda share: [fault for node in NODES for fault in late(_PERSIST, "0.5", share, node)],
        0.0099,
        0.01005,
    ),
    Threshold("MessagingPersistSlow", "6 a minute", lambda n: late(_PERSIST, "0.5", 1, per_minute=n), 5.9, 6.1, True),
    Threshold("MessagingDeliverySlow", "14.4 %", late_delivery, 0.143, 0.145),
    Threshold("MessagingDeliverySlow", "14.4 % of five minutes", eased(40), 0.143, 0.145, at=60),
    Threshold(
        "MessagingDeliverySlow",
        "3 a minute",
        lambda n: late(_DELIVERY, "0.25", 1, per_minute=n, path="local"),
        2.9,
        3.1,
        idle=True,
        at=70,
    ),
    Threshold("MessagingDeliverySlowBurn", "6 %", late_delivery, 0.059, 0.061),
    Threshold("MessagingDeliverySlowBurn", "6 % of half an hour", eased(60), 0.059, 0.061, at=120),
    Threshold(
        "MessagingDeliverySlowBurn",
        "3 a minute of six hours, of which three have passed",
        lambda n: late(_DELIVERY, "0.25", 1, per_minute=n, path="local"),
        5.9,
        6.6,
        idle=True,
        at=180,
    ),
    Threshold("MessagingDeliveriesDropped", "1 %", counter(name("messaging_deliveries_dropped_total", A)), 59, 60),
    Threshold(
        "MessagingDeliveriesDropped",
        "6 a minute",
        counter(name("messaging_deliveries_dropped_total", A)),
        5.9,
        6.1,
        idle=True,
    ),
    Threshold(
        "MessagingSlowConsumers",
        "2 %",
        lambda slow: [(name(_CONNECTIONS, A), steady(1000)), *gauge("messaging_slow_consumers")(slow)],
        20,
        21,
    ),
    Threshold(
        "MessagingSlowConsumers",
        "5 of them",
        lambda slow: [(name(_CONNECTIONS, A), steady(100)), *gauge("messaging_slow_consumers")(slow)],
        4,
        5,
    ),
    Threshold("MessagingCommandErrors", "one in ten", counter(rejected("send", "forbidden")), 550, 565),
    Threshold("MessagingCommandErrors", "30 a minute", counter(rejected("unknown", "bad_frame")), 29, 31, idle=True),
    Threshold("MessagingRateLimiting", "1 a second", counter(rejected("send", "rate_limited")), 33, 35),
    Threshold("MessagingTypingStuck", "a minute", gauge("messaging_typing_oldest_age_seconds"), 60, 61),
    Threshold(
        "MessagingTotalsStale",
        "10 minutes",
        behind(*(name("messaging_database_last_success_timestamp_seconds", node) for node in NODES)),
        600,
        601,
    ),
    Threshold(
        "MessagingVerificationOverdue",
        "three days",
        behind(*(name("messaging_verified_timestamp_seconds", node) for node in NODES)),
        259_200,
        259_201,
        at=70,
    ),
    Threshold(
        "MessagingPoolExhausted", "nearly four", gauge("messaging_database_pool_connections", state="in_use"), 3.4, 3.5
    ),
    Threshold(
        "MessagingBrokerLag",
        "1 % above a quarter of a second",
        lambda share: [fault for node in NODES for fault in late("messaging_broker_lag_seconds", "0.25", share, node)],
        0.0099,
        0.01005,
    ),
    Threshold(
        "MessagingBrokerLag",
        "6 a minute",
        lambda n: late("messaging_broker_lag_seconds", "0.25", 1, per_minute=n),
        5.9,
        6.1,
        idle=True,
    ),
    Threshold(
        "MessagingClusterSnapshotStale",
        "two minutes",
        behind(name("messaging_cluster_snapshot_timestamp_seconds", A)),
        120,
        121,
    ),
    Threshold(
        "MessagingEventLoopLag",
        "1 % above a quarter of a second",
        lambda share: late("messaging_event_loop_lag_seconds", "0.25", share),
        0.0099,
        0.01005,
    ),
    Threshold("MessagingFileDescriptorsNearLimit", "80 %", gauge("process_open_fds"), 819, 820),
    Threshold(
        "MessagingSourceStale", "10 minutes", behind(series("messaging_source_as_of_timestamp_seconds")), 600, 601
    ),
    Threshold(
        "MessagingSourceCountStuck",
        "all of it",
        lambda part: [(series("messaging_source_count_progress_ratio"), steady(part))],
        1,
        0.99,
        at=40,
    ),
    Threshold(
        "MessagingSourceRecountOverdue",
        "three intervals",
        behind(series("messaging_source_recount_timestamp_seconds")),
        1800,
        1801,
    ),
    # The tolerance between nodes: 5 and 5 %.
    Threshold(
        "MessagingInvariantBroken",
        "connections of all nodes = cluster connections",
        lambda n: [
            *both(_CONNECTIONS, steady(500)),
            *both(_OPENED, growing(30, start=500)),
            *both("messaging_cluster_connections", steady(n)),
        ],
        1055,
        1056,
    ),
    Threshold(
        "MessagingInvariantBroken",
        "cluster users <= users of all nodes",
        lambda n: both("messaging_cluster_users", steady(n)),
        194,
        195,
    ),
    Threshold(
        "MessagingInvariantBroken",
        "users of one node <= cluster users",
        lambda n: both("messaging_cluster_users", steady(n)),
        81,
        80,
    ),
)
