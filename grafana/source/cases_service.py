"""The proofs' cases of the service: is it there, do people get in, do messages arrive, are commands answered."""

from __future__ import annotations

from grafana.source.cases import JOB, NODE_A, A, B, Case, burst, rejected, slow, step
from grafana.source.series import NODES, healthy, levels, name, ramps, steady

_DELIVERY = "messaging_message_delivery_duration_seconds"
_ALL_SLOW = [
    fault for node in NODES for path in ("local", "cluster") for fault in slow(_DELIVERY, node, "0.5", path=path)
]
_ALL_SLOW_LATE = [
    fault
    for node in NODES
    for path in ("local", "cluster")
    for fault in slow(_DELIVERY, node, "0.5", start=400, path=path)
]

# A target that is no target any more: Prometheus marks its series as stale.
GONE = levels((60, 1), (1, "stale"), (59, "_"), (61, 1))

CASES: tuple[Case, ...] = (
    Case(
        "MessagingDown",
        (step(name("up", A), 1, 0),),
        NODE_A,
        "a:8765 (job messaging) has not answered Prometheus for 2 minutes. Its users are probably cut off.",
        severity="critical",
    ),
    Case(
        "MessagingDown",
        ((name("messaging_build_info", A, version="1.0.0"), None), (name("up", A), levels((60, 1), (60, 0), (61, 1)))),
        NODE_A,
        "a:8765 (job messaging) has not answered Prometheus for 2 minutes. Its users are probably cut off.",
        severity="critical",
        what="a node that never came up",
    ),
    Case(
        "MessagingAbsent",
        tuple((name("up", node), GONE) for node in NODES),
        JOB,
        "The targets of messaging, or all but those of observe, have been absent from Prometheus for 5 minutes. Nobody "
        "would notice an outage.",
        severity="critical",
    ),
    Case(
        "MessagingAbsent",
        tuple((name("up", node), GONE) for node in NODES),
        JOB,
        "The targets of messaging, or all but those of observe, have been absent from Prometheus for 5 minutes. Nobody "
        "would notice an outage.",
        severity="critical",
        what="only a process of observe is left",
        observing=True,
    ),
    Case(
        "MessagingAbsent",
        (
            *((name("up", node), GONE) for node in NODES),
            *((name("messaging_build_info", node, version="1.0.0"), None) for node in NODES),
            *((name("messaging_active_connections", node), None) for node in NODES),
        ),
        {},
        "Targets with our metrics, or with a job called messaging or messaging-exporter, have been absent from "
        "Prometheus for 5 minutes. Nobody would notice an outage.",
        severity="critical",
        what="of a job whose nodes never came up",
        alone=True,
    ),
    Case(
        "MessagingRestartLoop",
        ((name("process_start_time_seconds", A), levels((60, 0), (5, 3600), (5, 3900), (111, 4200))),),
        NODE_A,
        "a:8765 (job messaging) has started 3 times within 30 minutes. Every start cuts its users off.",
        pending=70,
        gone=100,
    ),
    Case(
        "MessagingConnectionsDropped",
        (
            step(name("messaging_active_connections", A), 500, 20),
            (name("messaging_active_connections", B), steady(100)),
            (name("messaging_connections_closed_total", A, reason="heartbeat"), "0+1x59 540+1x120"),
        ),
        JOB,
        "messaging has 120 connections left, less than half of what it had within the last 15 minutes.",
        read=68,
        gone=80,
        what="cut off by a network",
    ),
    Case(
        "MessagingConnectionsDropped",
        (
            step(name("messaging_active_connections", A), 500, 20),
            step(name("messaging_active_connections", B), 100, 10),
        ),
        JOB,
        "messaging has 30 connections left, less than half of what it had within the last 15 minutes.",
        read=68,
        gone=80,
        what="all gone, whatever the cause",
    ),
    Case(
        "MessagingReconnectStorm",
        (burst(name("messaging_connections_opened_total", A), 32, 6000),),
        JOB,
        "messaging opens 6.032k connections per minute, more than half of those that are open.",
        pending=61,
    ),
    Case(
        "MessagingAbnormalCloses",
        (burst(name("messaging_connections_closed_total", A, reason="heartbeat"), 1, 120),),
        JOB,
        "67.6% of the connections of messaging that ended were cut off by heartbeat, slow consumer, protocol error, "
        "rate limit or internal error.",
        pending=61,
    ),
    Case(
        "MessagingConnectionsRejected",
        (burst(name("messaging_connections_rejected_total", A, reason="capacity"), 1, 600),),
        {**JOB, "reason": "capacity"},
        "89.04% of the connection attempts at messaging are refused, reason capacity.",
        pending=61,
    ),
    Case(
        "MessagingConnectionLimitNear",
        (step(name("messaging_active_connections", A), 100, 18000),),
        NODE_A,
        "a:8765 (job messaging) uses 90% of its --limits.connections. At 100 % people are refused.",
    ),
    Case(
        "MessagingSendsFailing",
        (burst(rejected("send", "unavailable"), 0, 300),),
        JOB,
        "20% of the messages sent to messaging are refused as unavailable or internal.",
        pending=61,
        severity="critical",
    ),
    Case(
        "MessagingPersistSlow",
        tuple(slow("messaging_message_persist_duration_seconds", A, "0.5")),
        JOB,
        "At messaging one message in a hundred takes longer than 9.81s to become durable.",
        pending=61,
    ),
    Case(
        "MessagingDeliverySlow",
        tuple(_ALL_SLOW),
        JOB,
        "50% of the messages of the last hour at messaging reached their recipients later than 250 ms; the objective "
        "is 1 %.",
        pending=69,  # 9 of 60 minutes are more than 14.4 %
        read=90,
        severity="critical",
    ),
    Case(
        "MessagingDeliverySlowBurn",
        tuple(_ALL_SLOW_LATE),
        JOB,
        "13.06% of the messages of the last six hours at messaging reached their recipients later than 250 ms; the "
        "objective is 1 %.",
        pending=422,  # 22 of 360 minutes are more than 6 %
        gone=495,
        length=520,
    ),
    Case(
        "MessagingDeliveriesDropped",
        (burst(name("messaging_deliveries_dropped_total", A), 1, 600),),
        JOB,
        "9.105% of the message frames of messaging are dropped because their connections are being cut off.",
        pending=61,
    ),
    Case(
        "MessagingSlowConsumers",
        (
            step(name("messaging_slow_consumers", A), 1, 50),
            (name("messaging_active_connections", A), steady(200)),
        ),
        NODE_A,
        "25% of the connections of a:8765 (job messaging) have a send buffer above half its limit.",
    ),
    Case(
        "MessagingCommandErrors",
        (burst(rejected("send", "forbidden"), 2, 6000),),
        JOB,
        "85.31% of the commands at messaging are refused for a fault of the client.",
        pending=61,
    ),
    Case(
        "MessagingRateLimiting",
        (burst(rejected("unknown", "rate_limited"), 2, 600),),
        JOB,
        "messaging refuses 10.43 frames per second above the rate limit.",
        pending=61,
        severity="info",
    ),
    Case(
        "MessagingInternalErrors",
        ((rejected("send", "internal"), ramps((60, 0), (1, 3), (120, 0))),),
        JOB,
        "messaging answered or closed with an internal error 3 times within 10 minutes.",
        pending=61,
        read=65,
        gone=75,
    ),
    Case(
        "MessagingInternalErrors",
        (
            *((series, None) for series in healthy() if series.startswith("messaging_commands_rejected_total")),
            (name("messaging_connections_closed_total", A, reason="internal_error"), ramps((60, 0), (1, 3), (120, 0))),
        ),
        JOB,
        "messaging answered or closed with an internal error 3 times within 10 minutes.",
        pending=61,
        what="in a chat of one's own that reports no commands",
        read=65,
        gone=75,
    ),
)
