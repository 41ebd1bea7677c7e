"""The tables for whoever was woken: what fires, since when, on what, with its runbook; and the nodes."""

from __future__ import annotations

from typing import Final

from grafana.source import promql as q
from grafana.source.panels import judged
from grafana.source.tables import Column, rows_of

# "messaging-exporter assets --runbooks URL" puts the user's own place here.
RUNBOOKS: Final = "https://github.com/messaging-exporter/messaging-exporter/blob/main/grafana/runbooks"
# A node's own dashboard is this one, with that node chosen.
ONE_NODE: Final = (
    "/d/messaging-overview?${__url_time_range}&var-datasource=${datasource}"
    "&var-job=${__data.fields.Job}&var-instance=${__value.raw}"
)
OURS: Final = 'alertname=~"Messaging.+"'
_FIRING: Final = (
    f"{q.recorded('ALERTS_FOR_STATE')[:-1]}, {OURS}}} and ignoring (alertstate) "
    f'{q.recorded("ALERTS")[:-1]}, {OURS}, alertstate="firing"}}'
)

FIRING: Final = rows_of(
    "What fires",
    "Alerts of this project that fire now, since when, and on what. If there is one, its name is the link to its "
    "runbook: what it means, what to look at, what to do.",
    [
        Column("Alert", label="alertname", url=f"{RUNBOOKS}/${{__value.raw}}.md", link="Runbook", width=215),
        Column(
            "Severity",
            label="severity",
            words={"critical": ("critical", "red"), "warning": ("warning", "orange"), "info": ("info", "blue")},
            width=75,
        ),
        Column("Since", expr=f"1000 * ({_FIRING})", unit="dateTimeFromNow", width=140),
        Column("Instance", label="instance"),
        Column("Job", label="job"),
    ],
    none="Nothing fires.",
    sort=("Since", True),
)

NODES: Final = rows_of(
    "Nodes",
    "Every node that Prometheus knows. A click on its name chooses it, here and in the other dashboards. If one is "
    "down, follow the runbook of MessagingDown; if 'Sees' is less than the nodes that there are, they do not know each "
    "other: see MessagingClusterNodesMismatch.",
    [
        Column("Instance", label="instance", url=ONE_NODE, link="Choose this node"),
        Column("State", expr=q.up(), words={"0": ("down", "red"), "1": ("up", "green")}, width=65),
        Column("Connections", expr=q.of("messaging_active_connections"), unit="locale", width=105),
        Column("People", expr=q.of("messaging_connected_users"), unit="locale", width=75),
        Column("Sees", expr=q.of("messaging_cluster_nodes"), unit="locale", width=60),
        Column(
            "Uptime",
            expr=q.ours(f"(time() - {q.of('process_start_time_seconds')})"),
            unit="dthms",
            steps=judged((0, "orange"), (600, "green")),
            width=110,
        ),
        Column("Job", label="job"),
    ],
    none="not known",
    sort=("State", False),
)
