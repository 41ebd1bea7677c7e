"""Messaging overview: one screen for everyone. Up? Who is there? Does it flow, or fail? How full?"""

from __future__ import annotations

from grafana.source import promql as q
from grafana.source.panels import Board, Link, Query, Row, above, bars, figure, lines

UID = "messaging-overview"
DELIVERY = Link("Connections & delivery", "messaging-delivery")
DATABASE = Link("Database & activity", "messaging-database")
HEALTH = Link("Cluster & exporter health", "messaging-health")

ABNORMAL = 'reason=~"heartbeat|slow_consumer|protocol_error|rate_limited|internal_error"'
BOARD = Board(
    UID,
    "Messaging overview",
    "One screen for everyone: is it up, who is there, does it flow, does it fail, how much room is left.",
    [
        Row(
            "",
            4,
            [
                (
                    figure(
                        "Nodes up",
                        "none",
                        Query(f"sum by (job) {q.up()}"),
                        "Nodes that answer Prometheus. If it is red or lower than you run, users of the missing nodes "
                        "are cut off: follow the runbook of MessagingDown.",
                        steps=above((1, "green"), base="red"),
                        none="none",
                        link=HEALTH,
                    ),
                    3,
                ),
                (
                    figure(
                        "Alerts firing",
                        "none",
                        Query(q.worst("instance:messaging_alerts_firing:count")),
                        "Alerts of this project that fire now. When it is not 0, open Alerting and follow each "
                        "alert's runbook link. 'No rules' means that the rule files are not loaded, or that nothing "
                        "is scraped.",
                        steps=above((1, "red")),
                        none="no rules",
                    ),
                    3,
                ),
                (
                    figure(
                        "Database",
                        "none",
                        Query(q.least("messaging_database_up")),
                        "DOWN when any node could not read its database at the latest scrape. If it stays so, "
                        "sending, joining and reading fail: follow the runbook of MessagingDatabaseDown.",
                        words={"0": ("DOWN", "red"), "1": ("UP", "green")},
                        link=DATABASE,
                    ),
                    3,
                ),
                (
                    figure(
                        "People online",
                        "short",
                        Query(q.cluster("messaging_cluster_users")),
                        "Distinct users with at least one connection, over all nodes. If it falls at an unusual hour, "
                        "look at the closes and refusals in Connections & delivery.",
                        link=DELIVERY,
                    ),
                    3,
                ),
                (
                    figure(
                        "Connections",
                        "short",
                        Query(q.total("messaging_active_connections")),
                        "Open connections on the chosen nodes. If it falls by half within minutes, "
                        "MessagingConnectionsDropped fires: look for a node that is down or a network that fails.",
                        link=DELIVERY,
                    ),
                    3,
                ),
                (
                    figure(
                        "Conversations",
                        "short",
                        Query(q.cluster("messaging_cluster_conversations")),
                        "Distinct conversations with somebody joined, over all nodes. If it is 0 while people are "
                        "online, joins fail: look at the refused commands.",
                        link=DELIVERY,
                    ),
                    3,
                ),
                (
                    figure(
                        "Typing now",
                        "short",
                        Query(q.cluster("messaging_cluster_typing_users")),
                        "People typing, once per conversation, over all nodes. If it never falls, look at 'Oldest "
                        "typing state' in Connections & delivery.",
                        link=DELIVERY,
                    ),
                    3,
                ),
                (
                    figure(
                        "Messages today",
                        "short",
                        Query(q.database("messaging_messages_today")),
                        "Messages that exist and were sent since 00:00 UTC. 'Not known' while the database cannot be "
                        "read: when that lasts, look at the database figure to the left.",
                        link=DATABASE,
                    ),
                    3,
                ),
            ],
        ),
        Row(
            "Traffic",
            6,
            [
                (
                    lines(
                        "People and connections",
                        "short",
                        [
                            Query(q.total("messaging_active_connections"), "connections"),
                            Query(q.cluster("messaging_cluster_users"), "people"),
                            Query(q.cluster("messaging_cluster_participants"), "participants"),
                        ],
                        "Connections on the chosen nodes; distinct people, and people per conversation joined, over "
                        "all nodes. If connections rise without people, clients reconnect without closing: look at "
                        "the closes by heartbeat.",
                        link=DELIVERY,
                    ),
                    8,
                ),
                (
                    lines(
                        "Messages per second",
                        "mps",
                        [
                            Query(q.speed("messaging_messages_accepted_total"), "accepted"),
                            Query(q.speed("messaging_deliveries_total"), "delivered"),
                        ],
                        "Messages stored, and message frames handed to recipients: their ratio is the fan-out. When "
                        "accepted falls to 0 while people are online, look at the refused sends.",
                        link=DELIVERY,
                    ),
                    8,
                ),
                (
                    lines(
                        "Delivery time",
                        "s",
                        [
                            Query(q.quantile(0.5, "messaging_message_delivery_duration_seconds"), "half within"),
                            Query(q.quantile(0.99, "messaging_message_delivery_duration_seconds"), "99 % within"),
                        ],
                        "From a message's receipt to its being written to the recipients. The objective is 99 % "
                        "within 250 ms. If the upper line stays above it, follow the runbook of "
                        "MessagingDeliverySlow.",
                        steps=above((0.25, "red")),
                        link=DELIVERY,
                    ),
                    8,
                ),
            ],
        ),
        Row(
            "Trouble and growth",
            6,
            [
                (
                    lines(
                        "What goes wrong",
                        "ops",
                        [
                            Query(
                                q.speed("messaging_commands_rejected_total", matchers='code=~"unavailable|internal"'),
                                "commands failed",
                            ),
                            Query(
                                q.speed("messaging_commands_rejected_total", matchers='code!~"unavailable|internal"'),
                                "commands refused",
                            ),
                            Query(q.speed("messaging_connections_rejected_total"), "connections refused"),
                            Query(
                                q.speed("messaging_connections_closed_total", matchers=ABNORMAL), "connections cut off"
                            ),
                            Query(q.speed("messaging_deliveries_dropped_total"), "deliveries dropped"),
                        ],
                        "Failures and refusals per second. A little is every day's; when a line jumps, its reasons "
                        "are in Connections & delivery.",
                        link=DELIVERY,
                    ),
                    8,
                ),
                (
                    lines(
                        "Stored messages",
                        "short",
                        Query(q.database("messaging_stored_messages"), "messages"),
                        "Messages that exist in the database; deletes count. Gaps are times in which it could not be "
                        "read. If it falls, somebody deletes.",
                        minimum=None,
                        link=DATABASE,
                    ),
                    8,
                ),
                (
                    lines(
                        "Active people",
                        "short",
                        [
                            Query(q.database("messaging_active_users", "window"), "{{window}}"),
                            Query(q.database("messaging_registered_users"), "registered"),
                        ],
                        "Registered people who sent something on one of the last 1, 7 and 30 UTC days. 1d starts anew "
                        "at 00:00 UTC. If 7d falls over days, people leave.",
                        link=DATABASE,
                    ),
                    8,
                ),
            ],
        ),
        Row(
            "Headroom",
            4,
            [
                (
                    bars(
                        "Connections of the limit",
                        "percentunit",
                        [
                            Query(
                                q.share(
                                    q.total("messaging_active_connections", "instance"),
                                    q.total("messaging_connection_limit", "instance"),
                                ),
                                "{{instance}}",
                            )
                        ],
                        "How full each node is. Above 85 % MessagingConnectionLimitNear fires: if it goes on rising, "
                        "add a node or raise --limits.connections.",
                        above((0.7, "orange"), (0.85, "red")),
                        1,
                        HEALTH,
                    ),
                    8,
                ),
                (
                    bars(
                        "File descriptors of the limit",
                        "percentunit",
                        [
                            Query(
                                q.share(
                                    f"sum by (instance) ({q.ours(q.of('process_open_fds'))})",
                                    f"sum by (instance) ({q.ours(q.of('process_max_fds'))})",
                                ),
                                "{{instance}}",
                            )
                        ],
                        "Each connection is a file descriptor. If it passes 80 %, raise the service's LimitNOFILE.",
                        above((0.6, "orange"), (0.8, "red")),
                        1,
                        HEALTH,
                    ),
                    8,
                ),
                (
                    lines(
                        "Event loop lag, 99 % within",
                        "s",
                        Query(q.quantile(0.99, "messaging_event_loop_lag_seconds", "instance"), "{{instance}}"),
                        "How late the event loop runs its timers: every message waits as long. If it stays above 250 "
                        "ms, follow the runbook of MessagingEventLoopLag.",
                        steps=above((0.25, "red")),
                        link=HEALTH,
                    ),
                    8,
                ),
            ],
        ),
    ],
)
