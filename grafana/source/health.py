"""Cluster & exporter health: do the nodes agree, are the figures true, is the process well?"""

from __future__ import annotations

from grafana.source import promql as q
from grafana.source.boards import Board, Row
from grafana.source.colors import FIGURES
from grafana.source.courses import halves
from grafana.source.oncall import INSTANCE, JOB
from grafana.source.panels import NODE, Query, above, figure, judged, lines, named, states
from grafana.source.tables import Column, rows_of

UID = "messaging-health"
_PYTHON = q.without("python_info", "instance", "major", "minor")
PYTHON = (
    f"label_join({q.of('messaging_build_info')} * ignoring (version, major, minor) group_left (major, minor)"
    f' max without ({_PYTHON}) ({q.of("python_info")}), "python", ".", "major", "minor")'
)
UP = {"0": ("down", "red"), "1": ("up", "green")}

BOARD = Board(
    UID,
    "Messaging cluster & exporter health",
    "Do the nodes agree, are the figures true, is the process well?",
    [
        Row(
            "Nodes",
            6,
            [
                (
                    states(
                        "Nodes",
                        Query(q.up(), NODE),
                        "Red when Prometheus could not scrape a node. If it stays red, follow the runbook of "
                        "MessagingDown.",
                        UP,
                    ),
                    8,
                ),
                (
                    lines(
                        "Uptime",
                        "dthms",
                        Query(q.uptime(), NODE),
                        "Since each process started; a saw-tooth is a node that restarts. If it has many teeth, "
                        "follow the runbook of MessagingRestartLoop.",
                    ),
                    7,
                ),
                (
                    rows_of(
                        "Versions",
                        "Version of each node, and its Python. If versions differ for long, a deploy has stopped "
                        "half-way.",
                        [
                            INSTANCE,
                            Column("Version", label="version", expr=PYTHON, width=72),
                            Column("Python", label="python", width=63),
                            JOB,
                        ],
                        none="no nodes",
                        hidden=("major", "minor"),
                    ),
                    9,
                ),
            ],
        ),
        Row(
            "Cluster: of several nodes with --redis.url",
            7,
            [
                (
                    lines(
                        "Nodes, as seen",
                        "short",
                        Query(q.worst("messaging_cluster_nodes", "instance"), NODE),
                        "All lines should be one. If they differ, the cluster is split or a lease was lost: follow "
                        "the runbook of MessagingClusterNodesMismatch.",
                    ),
                    6,
                ),
                (
                    lines(
                        "Age of the figures",
                        "dthms",
                        Query(q.age("messaging_cluster_snapshot_timestamp_seconds"), NODE),
                        "Since each node last saw the cluster: at most some seconds more than the scrape interval. If "
                        "a node's grows, it is cut off: follow the runbook of MessagingClusterSnapshotStale.",
                        steps=above((120, "red")),
                    ),
                    6,
                ),
                (
                    lines(
                        "Distinct over all nodes",
                        "short",
                        [
                            Query(q.known("messaging_cluster_connections"), named("connections")),
                            Query(q.known("messaging_cluster_users"), named("users")),
                            Query(q.known("messaging_cluster_conversations"), named("conversations")),
                            Query(q.known("messaging_cluster_participants"), named("participants")),
                            Query(q.known("messaging_cluster_typing_users"), named("typing")),
                            Query(q.cluster("messaging_cluster_settling"), named("not final")),
                        ],
                        "Somebody on two nodes counts once. While 'not final' is above 0, nodes come, go or may be "
                        "missing: if it stays so, follow the runbook of MessagingClusterUnsettled. If there is no "
                        "data, no node knows: look at the broker.",
                        colors=FIGURES,
                        ranked=True,
                    ),
                    12,
                ),
                (
                    states(
                        "Broker, as seen",
                        Query(q.least("messaging_broker_up", "instance"), NODE),
                        "Red when a node cannot reach Redis; always up where a node is alone. If it stays red, follow "
                        "the runbook of MessagingBrokerDown.",
                        UP,
                    ),
                    6,
                ),
                (
                    lines(
                        "Frames between nodes per second",
                        "ops",
                        [
                            Query(q.speed("messaging_broker_frames_sent_total"), named("sent")),
                            Query(q.speed("messaging_broker_frames_received_total"), named("received")),
                            Query(q.speed("messaging_broker_frames_dropped_total"), named("dropped")),
                        ],
                        "Frames published to and received from other nodes; 0 where a node is alone. Frames that the "
                        "broker's outage kept back are dropped; messages among them are read from the database. If "
                        "frames are dropped while the broker is up, follow the runbook of "
                        "MessagingBrokerFramesDropped.",
                    ),
                    9,
                ),
                (
                    lines(
                        "Broker lag",
                        "s",
                        halves("messaging_broker_lag_seconds"),
                        "From publishing a frame to receiving it back from the broker, on one node and by one clock; "
                        "no data where a node is alone. If it stays above 250 ms, follow the runbook of "
                        "MessagingBrokerLag.",
                        steps=above((0.25, "red")),
                    ),
                    9,
                ),
            ],
            collapsed=True,
            # How many nodes there are is not known while the broker is away, which is when this row is looked for.
            only_if=f"max({q.of('messaging_cluster_nodes')}) > 1 or min({q.of('messaging_broker_up')}) == 0",
        ),
        Row(
            "Are the figures true?",
            6,
            [
                (
                    figure(
                        "Drift",
                        "none",
                        Query(
                            f"max without ({q.without('messaging_live_drift', 'figure')})"
                            f" (abs({q.of('messaging_live_drift')}))",
                            named("{{figure}}"),
                        ),
                        "Live figure minus an independent recount, the worst node's; 0 is healthy. If any is not, a "
                        "figure leaks: follow the runbook of MessagingGaugeDrift.",
                        steps=judged((0, "green"), (1, "red")),
                        stacked=True,
                    ),
                    8,
                ),
                (
                    lines(
                        "Figures that contradict each other",
                        "short",
                        [
                            Query(
                                q.excess("messaging_typing_users", "messaging_participants"),
                                f"{NODE}: typing > participants",
                            ),
                            Query(
                                q.excess("messaging_connected_users", "messaging_active_connections"),
                                f"{NODE}: users > connections",
                            ),
                            Query(
                                q.excess("messaging_active_conversations", "messaging_participants"),
                                f"{NODE}: conversations > participants",
                            ),
                        ],
                        "By how much figures of one scrape contradict each other: always 0. If not, follow the "
                        "runbook of MessagingInvariantBroken.",
                        steps=above((1, "red")),
                        ranked=True,
                    ),
                    16,
                ),
            ],
        ),
        Row(
            "Process",
            7,
            [
                (
                    lines(
                        "Event loop lag",
                        "s",
                        [
                            Query(q.quantile(0.5, "messaging_event_loop_lag_seconds", "instance"), f"{NODE}: half"),
                            Query(q.quantile(0.99, "messaging_event_loop_lag_seconds", "instance"), f"{NODE}: 99 %"),
                        ],
                        "How late timers ran. If it rises together with the CPU, the node is full; without, something "
                        "blocks the loop.",
                        steps=above((0.25, "red")),
                        ranked=True,
                    ),
                    12,
                ),
                (
                    lines(
                        "Failures",
                        "cpm",
                        [
                            Query(
                                q.per_minute("messaging_background_failures_total", "instance", "task"),
                                f"{NODE}: {{{{task}}}}",
                            ),
                            Query(
                                q.per_minute("messaging_worker_restarts_total", "instance"),
                                f"{NODE}: worker",
                            ),
                        ],
                        "Background tasks that ended with a defect of the server, and workers that died, each started "
                        "again, per minute. If it is not 0, the log has the trace, the exit code or the signal: report "
                        "it, or follow the runbook of MessagingRestartLoop.",
                        colors={"/.*/": "red"},
                        ranked=True,
                    ),
                    12,
                ),
                (
                    lines(
                        "CPU",
                        "percentunit",
                        Query(q.ours(q.rate("process_cpu_seconds_total")), NODE),
                        "Share of one core. One event loop uses one core: if it nears 100 %, add a node.",
                        steps=above((0.7, "orange"), (0.9, "red")),
                    ),
                    8,
                ),
                (
                    lines(
                        "Memory",
                        "bytes",
                        [
                            Query(q.ours(q.of("process_resident_memory_bytes")), f"{NODE}: resident"),
                        ],
                        "Resident memory: some 3.2 KiB per idle connection, 24 KiB more with the server's own TLS. If "
                        "it rises while connections do not, something leaks: compare with 'Drift'.",
                    ),
                    8,
                ),
                (
                    lines(
                        "File descriptors",
                        "short",
                        Query(q.ours(q.of("process_open_fds")), NODE),
                        "Open files; each connection is one. If they near the process' limit ('Room used' in the "
                        "overview), raise LimitNOFILE.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Scrape time",
                        "s",
                        Query(q.ours(q.of("scrape_duration_seconds")), NODE),
                        "How long Prometheus waited for /metrics. If it nears the scrape time-out, the database is "
                        "slow or the loop lags.",
                    ),
                    12,
                ),
                (
                    lines(
                        "Samples",
                        "short",
                        Query(q.ours(q.of("scrape_samples_scraped")), NODE),
                        "The number of series hardly ever changes: no label carries a user, conversation or address. "
                        "If it grows, report a bug.",
                    ),
                    12,
                ),
                (
                    lines(
                        "Garbage collections",
                        "ops",
                        Query(
                            q.ours(q.rate("python_gc_collections_total"), "generation"),
                            f"{NODE}: gen {{{{generation}}}}",
                        ),
                        "Python's collector. If generation 2 runs often, pauses grow with the number of connections: "
                        "compare with the event loop lag.",
                        ranked=True,
                    ),
                    12,
                ),
                (
                    lines(
                        "Garbage found",
                        "ops",
                        [
                            Query(
                                "sum without (generation)"
                                f" ({q.ours(q.rate('python_gc_objects_collected_total'), 'generation')})",
                                f"{NODE}: collected",
                            ),
                            Query(
                                "sum without (generation)"
                                f" ({q.ours(q.rate('python_gc_objects_uncollectable_total'), 'generation')})",
                                f"{NODE}: leaked",
                            ),
                        ],
                        "Objects in reference cycles that the collector freed, and those it could not (leaked). If "
                        "any leaked, memory grows.",
                        ranked=True,
                    ),
                    12,
                ),
            ],
        ),
    ],
)
