"""Connections & delivery: for on-call. Who was cut off or refused and why, where a message's time goes."""

from __future__ import annotations

from grafana.source import promql as q
from grafana.source.panels import Board, Link, Query, Row, above, figure, lines, warmth

UID = "messaging-delivery"
DATABASE = Link("Database & activity", "messaging-database")
HEALTH = Link("Cluster & exporter health", "messaging-health")

DELIVERY = "messaging_message_delivery_duration_seconds"

BOARD = Board(
    UID,
    "Messaging connections & delivery",
    "For on-call: who was cut off or refused and why, where a message's time goes, which commands fail.",
    [
        Row(
            "Connections",
            7,
            [
                (
                    lines(
                        "Connections by node",
                        "short",
                        [
                            Query(q.total("messaging_active_connections", "instance"), "{{instance}}"),
                            Query(q.least("messaging_connection_limit", "job"), "limit"),
                        ],
                        "Open connections of each node, and the lowest limit. If one node has far more than the "
                        "others, the load balancer does not spread; if all approach the limit, add a node.",
                        dashed=["/limit$/"],
                    ),
                    8,
                ),
                (
                    lines(
                        "Opened and ended per second",
                        "cps",
                        [
                            Query(q.speed("messaging_connections_opened_total"), "opened"),
                            Query(q.speed("messaging_connections_closed_total"), "ended"),
                        ],
                        "Connections that came and went. When both rise together, clients are being cut off and come "
                        "back (MessagingReconnectStorm): the reasons are to the right.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Why connections end",
                        "cps",
                        Query(q.speed("messaging_connections_closed_total", "reason"), "{{reason}}"),
                        "The server's reason for each end. If heartbeat grows, networks fail; slow_consumer: clients "
                        "do not read; internal_error: a bug, read the log.",
                        stacked=True,
                    ),
                    8,
                ),
                (
                    lines(
                        "Why connections are refused",
                        "cps",
                        Query(q.speed("messaging_connections_rejected_total", "reason"), "{{reason}}"),
                        "Attempts refused before the upgrade. If capacity grows, add nodes; unauthenticated: expired "
                        "or foreign tokens; origin: a web address is missing in --auth.allowed-origins.",
                        stacked=True,
                    ),
                    8,
                ),
                (
                    lines(
                        "How long connections last",
                        "s",
                        [
                            Query(q.quantile(0.5, "messaging_connection_duration_seconds"), "half end within"),
                            Query(q.quantile(0.9, "messaging_connection_duration_seconds"), "90 % end within"),
                        ],
                        "Lifetime of the connections that ended. If it gathers at one value, something in between has "
                        "a time-out: a proxy's idle limit shows as 60 s.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Who is there",
                        "short",
                        [
                            Query(q.total("messaging_connected_users"), "users, per node"),
                            Query(q.total("messaging_active_conversations"), "conversations, per node"),
                            Query(q.total("messaging_participants"), "participants, per node"),
                        ],
                        "Sums over the chosen nodes: somebody on two nodes counts twice here, once in the overview. "
                        "If participants stay while users leave, something leaks: see 'Drift' in Cluster & exporter "
                        "health.",
                        link=HEALTH,
                    ),
                    8,
                ),
            ],
        ),
        Row(
            "Messages",
            7,
            [
                (
                    figure(
                        "Delivered within 250 ms",
                        "percentunit",
                        Query(
                            q.share(
                                q.speed(f"{DELIVERY}_bucket", matchers='le="0.25"'),
                                q.speed(f"{DELIVERY}_count"),
                            )
                        ),
                        "The objective is 99 %. When it is lower, the two time panels to the right say whether it is "
                        "becoming durable that takes long, or writing out.",
                        steps=above((0.95, "orange"), (0.99, "green"), base="red"),
                        none="idle",
                    ),
                    4,
                ),
                (
                    warmth(
                        "Delivery time",
                        "s",
                        Query(q.speed(f"{DELIVERY}_bucket", "le")),
                        "How many messages took how long from receipt to written. If a second band appears above the "
                        "first, one part of the messages takes another road: a slow conversation, or the broker.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Delivery time by path",
                        "s",
                        [
                            Query(q.quantile(0.5, DELIVERY, "path"), "{{path}}, half within"),
                            Query(q.quantile(0.99, DELIVERY, "path"), "{{path}}, 99 % within"),
                        ],
                        "local: on the sender's node; cluster: through the broker. If only cluster is slow, look at "
                        "the broker's lag; if both are, look at 'Becoming durable'.",
                        steps=above((0.25, "red")),
                        link=HEALTH,
                    ),
                    6,
                ),
                (
                    lines(
                        "Becoming durable",
                        "s",
                        [
                            Query(q.quantile(0.5, "messaging_message_persist_duration_seconds"), "half within"),
                            Query(q.quantile(0.99, "messaging_message_persist_duration_seconds"), "99 % within"),
                        ],
                        "From receipt to durable; the sender's ack waits for it. If it stays above 0.5 s, follow the "
                        "runbook of MessagingPersistSlow: the database is at its limit.",
                        steps=above((0.5, "red")),
                        link=DATABASE,
                    ),
                    6,
                ),
                (
                    lines(
                        "Messages per second",
                        "mps",
                        [
                            Query(q.speed("messaging_messages_accepted_total"), "accepted"),
                            Query(q.speed("messaging_deliveries_total"), "delivered"),
                            Query(q.speed("messaging_deliveries_dropped_total"), "dropped"),
                            Query(q.speed("messaging_read_receipts_total"), "read"),
                        ],
                        "Stored, handed to recipients, dropped because the recipient was being cut off, marked as "
                        "read. If dropped is more than 1 %, look at the slow consumers.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Recipients of a message",
                        "short",
                        [
                            Query(q.quantile(0.5, "messaging_fanout_recipients"), "half have at most"),
                            Query(q.quantile(0.99, "messaging_fanout_recipients"), "99 % have at most"),
                        ],
                        "Connections on one node that a message went to. When it jumps, a very large conversation has "
                        "become busy: expect more deliveries and more memory.",
                    ),
                    8,
                ),
                (
                    lines(
                        "From sent to read",
                        "s",
                        Query(q.quantile(0.5, "messaging_read_lag_seconds"), "half within"),
                        "How long messages wait for their readers. It is about people; if it jumps at once, check "
                        "whether deliveries work.",
                    ),
                    8,
                ),
            ],
        ),
        Row(
            "Taking part",
            7,
            [
                (
                    lines(
                        "Joined and left per second",
                        "ops",
                        [
                            Query(q.speed("messaging_joins_total"), "joined"),
                            Query(q.speed("messaging_leaves_total", "reason"), "left: {{reason}}"),
                        ],
                        "Participants that came and went. If leaves by disconnect jump, look at why connections end.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Typing per second",
                        "ops",
                        [
                            Query(q.speed("messaging_typing_started_total"), "started"),
                            Query(q.speed("messaging_typing_stopped_total", "reason"), "stopped: {{reason}}"),
                        ],
                        "Healthy typing ends with a message or a stop. If most ends by timeout, clients do not send "
                        "stop.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Oldest typing state",
                        "s",
                        [
                            Query(q.worst("messaging_typing_oldest_age_seconds", "instance"), "{{instance}}"),
                        ],
                        "Time since the oldest typing state was refreshed. It may reach --typing.timeout (6 s). If it "
                        "goes on rising, follow the runbook of MessagingTypingStuck.",
                        steps=above((60, "red")),
                    ),
                    4,
                ),
                (
                    lines(
                        "Typing now",
                        "short",
                        Query(q.total("messaging_typing_users", "instance"), "{{instance}}"),
                        "People typing on each node. If it does not fall when traffic does, something is stuck.",
                    ),
                    4,
                ),
            ],
        ),
        Row(
            "Commands",
            7,
            [
                (
                    lines(
                        "Commands per second",
                        "ops",
                        Query(q.speed("messaging_command_duration_seconds_count", "command"), "{{command}}"),
                        "What clients ask, refused commands included. If one kind multiplies, a client version may be "
                        "looping.",
                        stacked=True,
                    ),
                    8,
                ),
                (
                    lines(
                        "Command time, 99 % within",
                        "s",
                        Query(q.quantile(0.99, "messaging_command_duration_seconds", "command"), "{{command}}"),
                        "From receipt to answer. send, join and read wait for the database; if typing and ping are "
                        "slow too, the event loop lags.",
                        link=HEALTH,
                    ),
                    8,
                ),
                (
                    lines(
                        "Refused commands by code",
                        "ops",
                        Query(q.speed("messaging_commands_rejected_total", "code"), "{{code}}"),
                        "If unavailable grows, the database is down or slow; internal: a bug, read the log; the "
                        "others are the clients' faults.",
                        stacked=True,
                        link=DATABASE,
                    ),
                    4,
                ),
                (
                    lines(
                        "Refused commands by kind",
                        "ops",
                        Query(q.speed("messaging_commands_rejected_total", "command"), "{{command}}"),
                        "unknown: the frame could not be read. If one kind stands out, compare with its codes to the "
                        "left.",
                        stacked=True,
                    ),
                    4,
                ),
            ],
        ),
        Row(
            "Pressure",
            7,
            [
                (
                    lines(
                        "Slow consumers",
                        "short",
                        Query(q.total("messaging_slow_consumers", "instance"), "{{instance}}"),
                        "Connections whose send buffer is above half its limit. If there are many at once, follow the "
                        "runbook of MessagingSlowConsumers: a network is slow, or a fan-out too large.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Fullest send buffer",
                        "bytes",
                        Query(q.worst("messaging_send_buffer_max_bytes", "instance"), "{{instance}}"),
                        "The fullest of all connections' buffers. At --limits.send-buffer-bytes (1 MiB) its "
                        "connection is cut off with 4008. If it is always near, clients cannot keep up.",
                        steps=above((524288, "orange"), (1048576, "red")),
                    ),
                    8,
                ),
                (
                    lines(
                        "Bytes per second",
                        "Bps",
                        [
                            Query(q.speed("messaging_received_bytes_total"), "received"),
                            Query(q.speed("messaging_sent_bytes_total"), "sent"),
                        ],
                        "WebSocket bytes after the upgrade. If sent approaches the network card's limit, everything "
                        "becomes slow: spread the load over more nodes.",
                    ),
                    8,
                ),
            ],
        ),
    ],
)
