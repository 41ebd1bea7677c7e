"""The tables for whoever was woken: what fires, since when, on what, with its runbook; and the nodes."""

from __future__ import annotations

from dataclasses import replace
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
# As wide as an IPv4 address with its port, and as "messaging".
INSTANCE: Final = Column("Instance", label="instance", least=110)
JOB: Final = Column("Job", label="job", least=85)
_FIRING: Final = (
    f"{q.recorded('ALERTS_FOR_STATE')[:-1]}, {OURS}}} and ignoring (alertstate) "
    f'{q.recorded("ALERTS")[:-1]}, {OURS}, alertstate="firing"}}'
)

FIRING: Final = rows_of(
    "What fires",
    "Alerts of this project that fire now, for how long, and on what; the newest first. If there is one, its name "
    "(without the word Messaging) is the link to its runbook: what it means, what to look at, what to do.",
    [
        Column(
            "Alert",
            label="alertname",
            url=f"{RUNBOOKS}/${{__value.raw}}.md",
            link="Runbook",
            prefix="Messaging",
            width=155,
        ),
        Column(
            "Severity",
            label="severity",
            words={"critical": ("critical", "red"), "warning": ("warning", "orange"), "info": ("info", "blue")},
            width=70,
        ),
        Column("Lasts", expr=f"time() - ({_FIRING})", unit="dthms", width=83),
        INSTANCE,
        JOB,
    ],
    none="Nothing fires.",
    sort=("Lasts", False),
)

NODES: Final = rows_of(
    "Nodes",
    "Every node that Prometheus knows. A click on its name chooses it, here and in the other dashboards. If one is "
    "down, follow the runbook of MessagingDown; if 'Sees' is less than the nodes that there are, they do not know each "
    "other: see MessagingClusterNodesMismatch.",
    [
        replace(INSTANCE, url=ONE_NODE, link="Choose this node"),
        Column(
            "Uptime",
            expr=f"{q.uptime()} or ({q.up()} == 0) - 1",
            unit="dthms",
            words={"-1": ("down", "red")},
            steps=judged((0, "orange"), (600, "green")),
            width=90,
        ),
        Column("Conns", expr=q.of("messaging_active_connections"), unit="locale", width=70),
        Column("Sees", expr=q.of("messaging_cluster_nodes"), unit="locale", width=50),
        JOB,
    ],
    none="not known",
    sort=("Uptime", False),
)
