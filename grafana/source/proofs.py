"""The alerts' proofs: one compact row per fault, and the promtool test files made from them.

Each case puts one fault over the healthy series at minute 60 and takes it away at minute 120, and says when
the condition is first true. From that the test file claims, to the minute: nothing before; pending; still
pending one minute before ``for`` has passed; firing when it has; exact labels and texts; gone afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from grafana.source.series import (
    BOUNDS,
    LENGTH,
    NODES,
    Series,
    evening,
    growing,
    healthy,
    histogram,
    idle,
    levels,
    name,
    over,
    ramps,
    seconds,
    steady,
)

RULES = Path(__file__).parent.parent / "rules"
A, B = NODES
Fault = tuple[str, str | None]
# Minutes at which nothing may fire on a healthy or an idle server: once the windows are full, and every so often.
SILENT = (5, 30, 60, 61, 63, 65, 70, 90, 119, 150, 180)
HEADER = (
    "# Made by python -m grafana.source from grafana/source/proofs.py; promtool test rules grafana/rules/tests/*.yml\n"
)


@dataclass(frozen=True)
class Case:
    """One fault and what must come of it; times are minutes."""

    alert: str
    fault: tuple[Fault, ...]
    labels: Mapping[str, str]
    description: str
    pending: int = 60
    gone: int = 130
    severity: str = "warning"
    what: str = ""
    read: int | None = None  # when the texts are read; None: 10 minutes after it fired
    length: int = LENGTH


def step(series: str, before: float | str, during: float | str) -> Fault:
    """A gauge that is wrong from minute 60 to 120."""
    return series, levels((60, before), (60, during), (61, before))


def burst(series: str, before: float, during: float) -> Fault:
    """A counter that grows at another speed from minute 60 to 120; the first higher sample is that of minute 61."""
    return series, ramps((60, before), (60, during), (61, before))


def slow(metric: str, node: str, above: str, per_minute: float = 600, start: int = 60, **labels: str) -> list[Fault]:
    """A histogram whose observations all lie above a bound for an hour."""
    fast = ramps((start, per_minute), (60, 0), (61, per_minute))
    all_of_them = growing(per_minute, start + 121)
    bounds = (*BOUNDS[metric], "+Inf")
    split = bounds.index(above) + 1
    counts = {bound: fast if index < split else all_of_them for index, bound in enumerate(bounds)}
    return list(histogram(metric, node, counts, **labels))


def both(metric: str, values: str) -> list[Fault]:
    """The same on both nodes."""
    return [(name(metric, node), values) for node in NODES]


NODE_A = {"job": "messaging", "instance": A}
JOB = {"job": "messaging"}


def rejected(command: str, code: str) -> str:
    """The series of one kind of refusal on node a."""
    return name("messaging_commands_rejected_total", A, command=command, code=code)


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
        tuple((name("up", node), levels((60, 1), (1, "stale"), (59, "_"), (61, 1))) for node in NODES),
        {},
        "absent(up) has been 1 for 5 minutes: Prometheus has no target with our metrics, nor one whose job is called "
        "messaging or messaging-exporter. Nobody would notice an outage.",
        severity="critical",
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
        "MessagingGaugeDrift",
        (step(name("messaging_live_drift", A, figure="participants"), 0, 3),),
        {**NODE_A, "figure": "participants"},
        "participants of a:8765 (job messaging) differs from an independent recount by 3.",
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
        "MessagingTotalsInaccurate",
        tuple(step(name("messaging_inaccurate_conversations", node), 0, 2) for node in NODES),
        JOB,
        "The last verification at messaging found 2 conversations whose totals differ from their messages.",
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
        "MessagingEventLoopLag",
        tuple(slow("messaging_event_loop_lag_seconds", A, "0.5")),
        NODE_A,
        "The event loop of a:8765 (job messaging) runs later than 2.48s once in a hundred times.",
        pending=61,
    ),
    Case(
        "MessagingFileDescriptorsNearLimit",
        (step(name("process_open_fds", A), 120, 900),),
        NODE_A,
        "a:8765 (job messaging) uses 87.89% of the file descriptors it may open.",
    ),
)


# --- from cases to promtool's files ------------------------------------------------------------------------


@cache
def load(path: Path) -> list[dict[str, Any]]:
    """The groups of one rule file."""
    groups: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return groups


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert by name, as it is in the file."""
    return {rule["alert"]: rule for group in load(RULES / "alerts.yml") for rule in group["rules"]}


def needed(alert: str) -> set[str]:
    """The metrics that an alert reads, through recording rules too: the others would only make its test file long."""
    recorded: dict[str, str] = {}
    for group in load(RULES / "recording.yml"):
        for rule in group["rules"]:
            recorded[rule["record"]] = recorded.get(rule["record"], "") + rule["expr"]
    found: set[str] = set()
    todo = [alerts()[alert]["expr"]]
    while todo:
        for word in set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", todo.pop())) - found:
            found.add(word)
            if word in recorded:
                todo.append(recorded[word])
    return found


def minutes(duration: str) -> int:
    """``for`` in minutes: the tests evaluate once a minute."""
    return int(duration[:-1]) * {"m": 1, "h": 60}[duration[-1]]


def _at(minute: int) -> str:
    return f"{minute}m"


def _file(tests: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rule_files": ["../recording.yml", "../alerts.yml"],
        "evaluation_interval": "1m",
        # Without it groups come in any order, and alerts see recorded values of this minute or of the last.
        "group_eval_order": [
            group["name"] for file in ("recording", "alerts") for group in load(RULES / f"{file}.yml")
        ],
        "tests": tests,
    }


def _series(series: Series) -> list[dict[str, str]]:
    return [{"series": key, "values": values} for key, values in series.items()]


def silence(what: str, series: Series) -> dict[str, Any]:
    """A file that shows that no alert at all fires on these series."""
    checks = [
        {"eval_time": _at(minute), "alertname": alert, "exp_alerts": []} for alert in alerts() for minute in SILENT
    ]
    # Not even pending: ALERTS has a series for either state.
    pending = [{"expr": "ALERTS", "eval_time": _at(minute), "exp_samples": []} for minute in SILENT]
    test = {
        "name": f"{what}: nothing fires, nothing is pending",
        "interval": "1m",
        "input_series": _series(series),
        "alert_rule_test": checks,
        "promql_expr_test": pending,
    }
    return _file([test])


def proof(case: Case, rule: dict[str, Any]) -> dict[str, Any]:
    """One test: not before its time, at its time, with these texts, and gone afterwards."""
    metrics = needed(case.alert)
    fires = case.pending + minutes(rule["for"])
    labels = {"severity": case.severity, **case.labels}
    expected = {
        "exp_labels": labels,
        "exp_annotations": {
            "summary": rule["annotations"]["summary"],
            "description": case.description,
            "runbook_url": rule["annotations"]["runbook_url"],
        },
    }

    def state(minute: int, state: str | None) -> dict[str, Any]:
        pairs = {"alertname": case.alert, "alertstate": state or "", **labels}
        text = ", ".join(f'{key}="{value}"' for key, value in pairs.items())
        return {
            "expr": f'ALERTS{{alertname="{case.alert}"}}',
            "eval_time": _at(minute),
            "exp_samples": [{"labels": f"ALERTS{{{text}}}", "value": 1}] if state else [],
        }

    def alert(minute: int, *alerts: dict[str, Any]) -> dict[str, Any]:
        return {"eval_time": _at(minute), "alertname": case.alert, "exp_alerts": list(alerts)}

    return {
        "name": f"{case.alert}: {case.what}" if case.what else case.alert,
        "interval": "1m",
        "input_series": _series(
            {
                series: values
                for series, values in over(healthy(case.length), case.fault).items()
                if series.partition("{")[0] in metrics
            }
        ),
        "alert_rule_test": [alert(fires - 1), alert(case.read or fires + 10, expected), alert(case.gone)],
        "promql_expr_test": [
            state(case.pending - 1, None),
            state(case.pending, "pending"),
            state(fires - 1, "pending"),
            state(fires, "firing"),
            state(case.gone, None),
        ],
    }


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # ten times faster, when there
    """Without anchors, so that the files can be read and copied piece by piece."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> Iterator[tuple[str, str]]:
    """Name and text of every test file."""
    rules = alerts()
    tests: dict[str, dict[str, Any]] = {
        "evening": silence("people go home", evening()),
        "healthy": silence("a healthy cluster", healthy()),
        "idle": silence("an idle cluster", idle()),
    }
    for alert in rules:
        proofs = [proof(case, rules[alert]) for case in CASES if case.alert == alert]
        if proofs:
            tests[alert] = _file(proofs)
    for stem, content in tests.items():
        yield f"{stem}.yml", HEADER + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
