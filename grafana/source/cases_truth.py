"""The proofs' cases of figures, database, cluster and process: are they true, are they there, are they well."""

from __future__ import annotations

from grafana.source.cases import JOB, NODE_A, A, Case, Fault, both, burst, slow, step
from grafana.source.series import NODES, levels, name, seconds


def invariant(text: str, gap: str, *fault: Fault, cluster: bool = False) -> Case:
    """A case of MessagingInvariantBroken."""
    where = "messaging" if cluster else f"{A} of messaging"
    return Case(
        "MessagingInvariantBroken",
        fault,
        {**(JOB if cluster else NODE_A), "invariant": text},
        f'{where} breaks "{text}" by {gap}.',
        what=text,
    )


CASES: tuple[Case, ...] = (
    Case(
        "MessagingGaugeDrift",
        (step(name("messaging_live_drift", A, figure="participants"), 0, 3),),
        {**NODE_A, "figure": "participants"},
        "participants of a:8765 (job messaging) differs from an independent recount by 3.",
    ),
    Case(
        "MessagingGaugeDrift",
        (step(name("messaging_live_drift", A, figure="connected_users"), 0, -2),),
        {**NODE_A, "figure": "connected_users"},
        "connected_users of a:8765 (job messaging) differs from an independent recount by -2.",
        what="the recount has more",
    ),
    invariant(
        "typing users <= participants",
        "30",
        step(name("messaging_typing_users", A), 5, 230),
        (name("messaging_typing_started_total", A), "5+300x59 18230+300x59 36005+300x60"),
    ),
    invariant("active conversations <= participants", "50", step(name("messaging_active_conversations", A), 40, 250)),
    invariant(
        "connected users <= active connections",
        "750",
        step(name("messaging_connected_users", A), 90, 1000),
        *both("messaging_cluster_users", levels((60, 150), (60, 1000), (61, 150))),
    ),
    invariant(
        "connections opened - closed = active",
        "5",
        (name("messaging_connections_opened_total", A), "100+32x59 2025+32x120"),
        (name("messaging_connections_closed_total", A, reason="shutdown"), levels((120, 0), (61, 5))),
    ),
    invariant(
        "joins - leaves = participants",
        "7",
        (name("messaging_joins_total", A), "200+60x59 3807+60x120"),
        (name("messaging_leaves_total", A, reason="removed"), levels((120, 0), (61, 7))),
    ),
    invariant(
        "typing started - stopped = typing users",
        "4",
        (name("messaging_typing_started_total", A), "5+300x59 18009+300x120"),
        (name("messaging_typing_stopped_total", A, reason="timeout"), levels((120, 0), (61, 4))),
    ),
    invariant(
        "connections of all nodes = cluster connections",
        "970",
        *both("messaging_cluster_connections", "200+4x59 1440+4x59 680+4x60"),
        cluster=True,
    ),
    invariant(
        "cluster users <= users of all nodes",
        "765",
        *both("messaging_cluster_users", levels((60, 150), (60, 1000), (61, 150))),
        cluster=True,
    ),
    invariant(
        "users of one node <= cluster users",
        "64",
        *both("messaging_cluster_users", levels((60, 150), (60, 20), (61, 150))),
        cluster=True,
    ),
    Case(
        "MessagingTypingStuck",
        (step(name("messaging_typing_oldest_age_seconds", A), 4, 75),),
        NODE_A,
        "The oldest typing state of a:8765 (job messaging) was refreshed 1m 15s ago; it should have timed out.",
    ),
    Case(
        "MessagingDatabaseDown",
        (step(name("messaging_database_up", A), 1, 0),),
        NODE_A,
        "a:8765 (job messaging) has not read its database for a minute. Sending, joining and reading are refused as "
        "unavailable.",
        severity="critical",
    ),
    Case(
        "MessagingTotalsStale",
        tuple(
            both(
                "messaging_database_last_success_timestamp_seconds",
                seconds((60, 0, 60), (60, 3540, 0), (61, 7200, 60)),
            )
        ),
        JOB,
        "No node of messaging has read the totals from the database for 26m 0s.",
        pending=70,  # the last success was in minute 59
    ),
    Case(
        "MessagingDatabaseReadOnly",
        (step(name("messaging_database_writable", A), 1, 0),),
        NODE_A,
        "a:8765 (job messaging) reads its database but has not been able to write for a minute. Every message sent "
        "there is refused as unavailable.",
        severity="critical",
    ),
    Case(
        "MessagingTotalsInaccurate",
        tuple(step(name("messaging_inaccurate_conversations", node), 0, 2) for node in NODES),
        {**JOB, "found": "conversations"},
        "The last verification at messaging found 2 conversations whose totals differ from their messages.",
        what="conversations",
    ),
    Case(
        "MessagingTotalsInaccurate",
        tuple(step(name("messaging_inaccurate_days", node), 0, 1) for node in NODES),
        {**JOB, "found": "days"},
        "The last verification at messaging found 1 days whose totals differ from their messages.",
        what="days",
    ),
    Case(
        "MessagingTotalsInaccurate",
        tuple(step(name("messaging_missing_triggers", node), 0, 3) for node in NODES),
        {**JOB, "found": "triggers"},
        "The last verification at messaging found 3 triggers missing that keep the totals.",
        what="triggers",
    ),
    Case(
        "MessagingVerificationOverdue",
        tuple(both("messaging_verified_timestamp_seconds", seconds((60, 0, 60), (90, -259200, 0), (31, 9000, 60)))),
        JOB,
        "The totals of messaging were verified 3d 2h 10m 0s ago.",
        severity="info",
        gone=155,
    ),
    Case(
        "MessagingPoolExhausted",
        (step(name("messaging_database_pool_connections", A, state="in_use"), 1, 4),),
        {**NODE_A, "state": "in_use"},
        "a:8765 (job messaging) has had 4 database connections in use for 10 minutes, which is all that requests may "
        "have.",
        pending=64,  # five of the window's six samples are 4
    ),
    Case(
        "MessagingBrokerDown",
        (step(name("messaging_broker_up", A), 1, 0),),
        NODE_A,
        "a:8765 (job messaging) has not reached Redis for a minute: people on different nodes do not hear each other.",
        severity="critical",
    ),
    Case(
        "MessagingBrokerLag",
        tuple(slow("messaging_broker_lag_seconds", A, "0.5")),
        JOB,
        "At messaging one frame in a hundred takes longer than 9.81s from node to node.",
        pending=61,
    ),
    Case(
        "MessagingClusterSnapshotStale",
        (
            (
                name("messaging_cluster_snapshot_timestamp_seconds", A),
                seconds((60, 0, 60), (60, 3540, 0), (61, 7200, 60)),
            ),
        ),
        NODE_A,
        "a:8765 (job messaging) last saw the cluster's figures 15m 0s ago.",
        pending=62,
    ),
    Case(
        "MessagingClusterNodesMismatch",
        (step(name("messaging_cluster_nodes", A), 2, 1),),
        JOB,
        "A node of messaging sees 1 nodes in the cluster, but Prometheus scrapes another number.",
        what="a node that sees itself only",
    ),
    Case(
        "MessagingClusterNodesMismatch",
        tuple(step(name("messaging_cluster_nodes", node), 2, 3) for node in NODES),
        JOB,
        "A node of messaging sees 3 nodes in the cluster, but Prometheus scrapes another number.",
        what="a node that nobody scrapes",
    ),
    Case(
        "MessagingClusterUnsettled",
        (step(name("messaging_cluster_settling", A), 0, 1),),
        JOB,
        "For 10 minutes the cluster's figures of messaging have not been final: nodes come and go, or the broker "
        "loses what it is told.",
    ),
    Case(
        "MessagingBrokerFramesDropped",
        (burst(name("messaging_broker_frames_dropped_total", A), 0, 60),),
        NODE_A,
        "a:8765 (job messaging) drops 1 frames a second of those that nodes send each other.",
        pending=61,
    ),
    Case(
        "MessagingEventLoopLag",
        tuple(slow("messaging_event_loop_lag_seconds", A, "0.5")),
        NODE_A,
        "During one per cent of the time the event loop of a:8765 (job messaging) is late by 2.48s or more.",
        pending=61,
    ),
    Case(
        "MessagingFileDescriptorsNearLimit",
        (step(name("process_open_fds", A), 120, 900),),
        NODE_A,
        "a:8765 (job messaging) uses 87.89% of the file descriptors it may open.",
    ),
)
