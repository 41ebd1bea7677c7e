"""Connections & delivery: for on-call. Who was cut off or refused and why, where a message's time goes."""

from __future__ import annotations

from grafana.source import promql as q
from grafana.source.boards import Board, Row
from grafana.source.colors import CLOSES, HALF, REFUSALS, TYPING
from grafana.source.commands import COMMANDS, PRESSURE
from grafana.source.courses import halves, parted
from grafana.source.panels import DATABASE, HEALTH, NODE, NOTHING, Query, above, figure, judged, lines, named, warmth

UID = "messaging-delivery"

DELIVERY = "messaging_message_delivery_duration_seconds"

BOARD = Board(
    UID,
    "Messaging connections & delivery",
    "For on-call: who was cut off or refused and why, where a message's time goes, which commands fail.",
    [
        Row(
            "Connections",
            8,
            [
                (
                    lines(
                        "Connections by node",
                        "short",
                        [
                            Query(q.total("messaging_active_connections", "instance"), NODE),
                        ],
                        "Open connections of each node. If one node has far more than the others, the load balancer "
                        "does not spread; how near each is to its limit is under 'Room used' in the overview.",
                    ),
                    6,
                ),
                (
                    lines(
                        "Opened and ended",
                        "cps",
                        [
                            Query(q.speed("messaging_connections_opened_total"), named("opened")),
                            Query(q.speed("messaging_connections_closed_total"), named("ended")),
                        ],
                        "Connections that came and went. When both rise together, clients are being cut off and come "
                        "back (MessagingReconnectStorm): the reasons are below.",
                    ),
                    6,
                ),
                (
                    lines(
                        "Lifetime",
                        "dthms",
                        [
                            Query(q.quantile(0.5, "messaging_connection_duration_seconds"), named("half end within")),
                            Query(q.quantile(0.9, "messaging_connection_duration_seconds"), named("90 % end within")),
                        ],
                        "Lifetime of the connections that ended. If it gathers at one value, something in between has "
                        "a time-out: a proxy's idle limit shows as 60 s.",
                    ),
                    6,
                ),
                (
                    lines(
                        "Who is there",
                        "short",
                        [
                            Query(q.total("messaging_connected_users"), named("users, per node")),
                            Query(q.total("messaging_active_conversations"), named("conversations, per node")),
                            Query(q.total("messaging_participants"), named("participants, per node")),
                        ],
                        "Sums over the chosen nodes: somebody on two nodes counts twice here, once in the overview. "
                        "If participants stay while users leave, something leaks: see 'Drift' in Cluster & exporter "
                        "health.",
                        link=HEALTH,
                    ),
                    6,
                ),
                (
                    parted(
                        "Why connections end",
                        "cps",
                        "messaging_connections_closed_total",
                        "reason",
                        "The server's reason for each end. If heartbeat grows, networks fail; slow_consumer: clients "
                        "do not read; internal_error: a bug, read the log.",
                        CLOSES,
                    ),
                    12,
                ),
                (
                    parted(
                        "Refused connections per minute",
                        "cpm",
                        "messaging_connections_rejected_total",
                        "reason",
                        "Attempts refused before the upgrade. If capacity grows, add nodes; unauthenticated: expired "
                        "or foreign tokens; origin: a web address is missing in --auth.allowed-origins.",
                        REFUSALS,
                    ),
                    12,
                ),
            ],
        ),
        Row(
            "Messages",
            8,
            [
                (
                    figure(
                        "Within 250 ms",
                        "percentunit",
                        Query(
                            q.or_idle(
                                q.share(
                                    q.speed(f"{DELIVERY}_bucket", matchers='le="0.25"', now=True),
                                    q.speed(f"{DELIVERY}_count", now=True),
                                ),
                                f"{DELIVERY}_count",
                            )
                        ),
                        "The objective is 99 %. When it is lower, 'Time by path' and 'Becoming durable' say whether "
                        "becoming durable takes long, or handing out. 'Nothing' when nothing is delivered: nobody "
                        "sends, or sends fail.",
                        steps=judged((0, "red"), (0.95, "orange"), (0.99, "green")),
                        words=NOTHING,
                        decimals=1,
                    ),
                    5,
                ),
                (
                    warmth(
                        "Delivery time",
                        "s",
                        Query(f"sum by (le) ({q.rate(f'{DELIVERY}_bucket')})"),
                        "How many messages took how long from receipt to the recipients' socket buffers, of all "
                        "chosen jobs together. If a second band appears above the "
                        "first, one part of the messages takes another road: a slow conversation, or the broker.",
                    ),
                    7,
                ),
                (
                    lines(
                        "Time by path",
                        "s",
                        halves(DELIVERY, "path"),
                        "local: on the sender's node; cluster: through the broker. If only cluster is slow, look at "
                        "the broker's lag; if both are, look at 'Becoming durable'.",
                        steps=above((0.25, "red")),
                        link=HEALTH,
                        ranked=True,
                    ),
                    12,
                ),
                (
                    lines(
                        "Messages per second",
                        "mps",
                        [
                            Query(q.speed("messaging_messages_accepted_total"), named("accepted")),
                            Query(q.speed("messaging_deliveries_total"), named("delivered")),
                            Query(q.speed("messaging_deliveries_dropped_total"), named("dropped")),
                            Query(q.speed("messaging_read_receipts_total"), named("read")),
                        ],
                        "Stored, handed to recipients, dropped because the recipient was being cut off, marked as "
                        "read. If dropped is more than 1 %, look at the slow consumers.",
                        colors={"/: dropped$/": "red", "/: accepted$/": "blue", "/: delivered$/": "green"},
                        ranked=True,
                    ),
                    12,
                ),
                (
                    lines(
                        "Becoming durable",
                        "s",
                        halves("messaging_message_persist_duration_seconds"),
                        "From receipt to durable; the sender's ack waits for it. If it stays above 0.5 s, follow the "
                        "runbook of MessagingPersistSlow: the database is at its limit.",
                        steps=above((0.5, "red")),
                        colors=HALF,
                        link=DATABASE,
                    ),
                    12,
                ),
                (
                    lines(
                        "Recipients of a message",
                        "short",
                        halves("messaging_fanout_recipients", words="have at most"),
                        "Connections on one node that a message went to. When it jumps, a very large conversation has "
                        "become busy: expect more deliveries and more memory.",
                    ),
                    12,
                ),
                (
                    lines(
                        "From sent to read",
                        "dthms",
                        Query(q.quantile(0.5, "messaging_read_lag_seconds"), named("half within")),
                        "How long messages wait for their readers. It is about people; if it jumps at once, check "
                        "whether deliveries work.",
                    ),
                    12,
                ),
            ],
        ),
        Row(
            "Taking part",
            7,
            [
                (
                    lines(
                        "Joined and left",
                        "ops",
                        [
                            Query(q.speed("messaging_joins_total"), named("joined")),
                            Query(q.speed("messaging_leaves_total", "reason"), named("left: {{reason}}")),
                        ],
                        "Participants that came and went. If leaves by disconnect jump, look at why connections end.",
                        ranked=True,
                    ),
                    12,
                ),
                (
                    lines(
                        "Typing per second",
                        "ops",
                        [
                            Query(q.speed("messaging_typing_started_total"), named("started")),
                            Query(q.speed("messaging_typing_stopped_total", "reason"), named("stopped: {{reason}}")),
                        ],
                        "Healthy typing ends with a message or a stop. If most ends by timeout, clients do not send "
                        "stop.",
                        colors=TYPING,
                        ranked=True,
                    ),
                    12,
                ),
                (
                    lines(
                        "Oldest typing state",
                        "s",
                        [
                            Query(q.worst("messaging_typing_oldest_age_seconds", "instance"), NODE),
                        ],
                        "Time since the oldest typing state was refreshed. It may reach --typing.timeout (6 s). If it "
                        "goes on rising, follow the runbook of MessagingTypingStuck.",
                        steps=above((60, "red")),
                    ),
                    12,
                ),
                (
                    lines(
                        "Typing now",
                        "short",
                        Query(q.total("messaging_typing_users", "instance"), NODE),
                        "People typing on each node. If it does not fall when traffic does, something is stuck.",
                    ),
                    12,
                ),
            ],
        ),
        COMMANDS,
        PRESSURE,
    ],
)
