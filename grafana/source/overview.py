"""Messaging overview: one screen for everyone, on call first. What fires? Is it up, who is there, does it flow?"""

from __future__ import annotations

from grafana_foundation_sdk.models import common as c

from grafana.source import promql as q
from grafana.source.boards import Board, Row
from grafana.source.colors import HALF
from grafana.source.courses import distinct, halves
from grafana.source.oncall import FIRING, NODES
from grafana.source.panels import (
    DATABASE,
    DELIVERY,
    HEALTH,
    IDLE,
    INSTALLATION,
    NODE,
    Query,
    above,
    bars,
    figure,
    judged,
    lines,
    named,
)

ABNORMAL = 'reason=~"heartbeat|slow_consumer|protocol_error|rate_limited|internal_error"'
FAILED = 'code=~"unavailable|internal"'
FAILED_SENDS = f'command="send", {FAILED}'
SLOW_30D = "job:messaging_delivery_slow:ratio_rate30d"
BUDGET = 0.01  # of the messages may be delivered late

_UP = q.least("messaging_database_up")
_FAILED = q.speed("messaging_commands_rejected_total", matchers=FAILED_SENDS, now=True)
_ACCEPTED = q.speed("messaging_messages_accepted_total", now=True)

# With its menu docked Grafana leaves 1050 of 1280 pixels: a tile of four columns has room for a title of one short
# word or two then, one of five for the longer ones. tests/grafana/test_titles.py reckons it.
STATE = Row(
    "",
    3,
    [
        (
            figure(
                "Nodes up",
                "none",
                [
                    Query(q.up_of_all(), "{{nodes}} {{job}}"),
                    Query(f"clamp({q.apart()}, 0.5, 0.5)", "{{job}}: separate"),
                ],
                "Nodes that answer Prometheus, of those it knows. Red from the first dead one: its users are cut off. "
                "If it is red, follow the runbook of MessagingDown. 'Separate' nodes do not know each other: people "
                "on different ones do not hear each other, unless they are given one --redis.url.",
                steps=judged((0, "green"), (0.5, "orange"), (1, "red"), unknown="red"),
                none="no nodes",
                link=HEALTH,
                text=c.BigValueTextMode.NAME,
                stacked=True,
            ),
            4,
        ),
        (
            figure(
                "Down",
                "none",
                Query(q.down(), "{{cluster}} {{instance}}"),
                "The nodes that do not answer: up to three by name, more by number; all are in the table below. If "
                "there is one, log in there, and follow the runbook of MessagingDown.",
                steps=judged((0, "green"), (1, "red")),
                link=HEALTH,
                text=c.BigValueTextMode.NAME,
                stacked=True,
            ),
            4,
        ),
        (
            figure(
                "Alerts",
                "none",
                Query(
                    f"count({q.recorded('ALERTS')[:-1]}, "
                    'alertname=~"Messaging.+", alertstate="firing"})'
                    f" or 0 * count({q.of('instance:messaging_build_info:last_1d')})",
                    "",
                ),
                "Alerts of this project that fire now, at all chosen installations. When it is not 0, they are in the "
                "table below, with their runbooks. 'No rules' means that the rule files are not loaded.",
                steps=judged((0, "green"), (1, "red"), unknown="orange"),
                none="no rules",
            ),
            4,
        ),
        (
            figure(
                "Database",
                "none",
                # Down is 0, up but not to be written 1. A server from before the second figure is believed to write.
                Query(f"{_UP} * (1 + {q.least('messaging_database_writable')}) or 2 * {_UP}"),
                "DOWN when any node could not read its database at the latest scrape, READ-ONLY when one cannot write "
                "to it. If it stays so, sends fail: follow the runbook of MessagingDatabaseDown or "
                "MessagingDatabaseReadOnly.",
                words={"0": ("DOWN", "red"), "1": ("READ-ONLY", "red"), "2": ("UP", "green")},
                link=DATABASE,
            ),
            4,
        ),
        (
            figure(
                "Sends fail",
                "percentunit",
                Query(q.or_idle(q.share(_FAILED, f"({_FAILED} + {_ACCEPTED})"), "messaging_commands_rejected_total")),
                "Share of the sends that are refused through no fault of the sender. If it is above 1 %, people cannot "
                "write: follow the runbook of MessagingSendsFailing. 'Idle' when nobody sends.",
                steps=judged((0, "green"), (0.001, "orange"), (0.01, "red")),
                words=IDLE,
                link=DELIVERY,
                decimals=1,
            ),
            4,
        ),
        (
            figure(
                "Budget",
                "percentunit",
                Query(q.present(f"1 - {q.recorded(SLOW_30D)} / {BUDGET}")),
                "The objective: of 30 days' messages 99 % are delivered within 250 ms. What is left of the 1 % that "
                "may be late; below 0 it is missed. If it shrinks fast, see its burn below and MessagingDeliverySlow.",
                steps=judged((-1e6, "red"), (0, "orange"), (0.25, "green")),
                link=DELIVERY,
                decimals=0,
            ),
            4,
        ),
    ],
)

LIVE = Row(
    "",
    3,
    [
        (
            figure(
                "People online",
                "locale",
                distinct("messaging_cluster_users", "messaging_connected_users"),
                "Distinct users with at least one connection, over all nodes. 'At most' where several nodes do not "
                "know each other (no --redis.url, or embedded): somebody on two counts twice. If it falls at an "
                "unusual hour, look at the closes and refusals in Connections & delivery.",
                link=DELIVERY,
            ),
            5,
        ),
        (
            figure(
                "Connections",
                "locale",
                Query(q.total("messaging_active_connections")),
                "Open connections on the chosen nodes. If it falls by half within minutes, "
                "MessagingConnectionsDropped fires: look for a node that is down or a network that fails.",
                link=DELIVERY,
            ),
            5,
        ),
        (
            figure(
                "Conversations",
                "locale",
                distinct("messaging_cluster_conversations", "messaging_active_conversations"),
                "Distinct conversations with somebody joined, over all nodes; 'at most' as for people. "
                "If it is 0 while people are online, joins fail: look at the refused commands.",
                link=DELIVERY,
            ),
            5,
        ),
        (
            figure(
                "Typing",
                "locale",
                distinct("messaging_cluster_typing_users", "messaging_typing_users"),
                "People typing, once per conversation, over all nodes; 'at most' as for people. If it never falls, "
                "look at 'Oldest typing state' in Connections & delivery.",
                link=DELIVERY,
            ),
            4,
        ),
        (
            figure(
                "Sent today",
                "locale",
                Query(q.database("messaging_messages_today")),
                "Messages that exist and were sent since 00:00 UTC. 'Not known' while the database cannot be "
                "read: when that lasts, look at the database above. Of observed databases 'Messaging database "
                "(observed)' tells it.",
                link=DATABASE,
            ),
            5,
        ),
    ],
)

FLOW = Row(
    "",
    6,
    [
        (
            lines(
                "People and connections",
                "short",
                [
                    Query(q.together("messaging_cluster_users", "messaging_connected_users"), named("people")),
                    Query(q.at_most("messaging_connected_users"), named("people, at most")),
                    Query(q.total("messaging_active_connections"), named("connections")),
                    Query(f"{q.recorded('job:messaging_people:distinct')} offset 1w", named("people a week ago")),
                    Query(
                        f"{q.recorded('job:messaging_people:at_most')} offset 1w", named("people, at most, a week ago")
                    ),
                ],
                "Distinct people and their connections, and the people of the same hour last week, as the rules "
                "recorded it. If people are far below last week, look for what cut them off; if connections rise "
                "without people, clients reconnect without closing.",
                colors={"/: people(, at most)?$/": "blue", "/: connections$/": "purple"},
                dashed=["/: people(, at most,)? a week ago$/"],
                link=DELIVERY,
            ),
            8,
        ),
        (
            lines(
                "Messages per second",
                "mps",
                [
                    Query(q.speed("messaging_messages_accepted_total"), named("accepted")),
                    Query(q.speed("messaging_deliveries_total"), named("delivered")),
                ],
                "Messages stored, and message frames handed to recipients: their ratio is the fan-out. When "
                "accepted falls to 0 while people are online, look at the refused sends.",
                colors={"/: accepted$/": "blue", "/: delivered$/": "green"},
                link=DELIVERY,
            ),
            8,
        ),
        (
            lines(
                "Delivery time",
                "s",
                halves("messaging_message_delivery_duration_seconds"),
                "From a message's receipt to its being handed to the recipients' socket buffers. The objective is "
                "99 % within 250 ms. If the upper line stays above it, follow the runbook of MessagingDeliverySlow.",
                steps=above((0.25, "red")),
                colors=HALF,
                link=DELIVERY,
            ),
            8,
        ),
    ],
)

TROUBLE = Row(
    "",
    6,
    [
        (
            lines(
                "What goes wrong, per minute",
                "cpm",
                [
                    Query(q.per_minute("messaging_commands_rejected_total", matchers=FAILED), named("commands failed")),
                    Query(
                        q.per_minute("messaging_commands_rejected_total", matchers=FAILED.replace("=~", "!~")),
                        named("commands refused"),
                    ),
                    Query(q.per_minute("messaging_connections_rejected_total"), named("connections refused")),
                    Query(
                        q.per_minute("messaging_connections_closed_total", matchers=ABNORMAL),
                        named("connections cut off"),
                    ),
                    Query(q.per_minute("messaging_deliveries_dropped_total"), named("deliveries dropped")),
                ],
                "Failures and refusals per minute. A little is every day's; when a line jumps, its reasons "
                "are in Connections & delivery.",
                colors={
                    "/: commands failed$/": "red",
                    "/: commands refused$/": "yellow",
                    "/: connections refused$/": "orange",
                    "/: connections cut off$/": "dark-orange",
                    "/: deliveries dropped$/": "purple",
                },
                ranked=True,
                link=DELIVERY,
            ),
            12,
        ),
        (
            lines(
                "Budget burn",
                "none",
                [
                    Query(
                        f"{q.recorded(f'job:messaging_delivery_slow:ratio_rate{window}')} / {BUDGET}",
                        f"{INSTALLATION} {window}",
                    )
                    for window in ("1h", "6h")
                ],
                "How fast the objective's budget is used: at 1 it lasts exactly its 30 days, at 14.4 an hour takes 2 % "
                "of it. If the hour stays above 14.4, MessagingDeliverySlow fires; the six hours above 6, "
                "MessagingDeliverySlowBurn.",
                steps=above((1, "orange"), (14.4, "red")),
                colors={
                    "/ 1h$/": "orange",
                    "/ 6h$/": "blue",
                },
                link=DELIVERY,
            ),
            6,
        ),
        (
            bars(
                "Room used",
                "percentunit",
                [
                    Query(
                        q.share(
                            q.total("messaging_active_connections", "instance"),
                            q.total("messaging_connection_limit", "instance"),
                        ),
                        f"{NODE}: connections",
                    ),
                    Query(
                        q.share(f"({q.ours(q.of('process_open_fds'))})", q.of("process_max_fds")),
                        f"{NODE}: files",
                    ),
                ],
                "How full each node is: connections of --limits.connections, and open files of the process' limit. "
                "Above 85 % or 80 % people are soon refused: if it goes on rising, add a node or raise the limit "
                "(MessagingConnectionLimitNear, MessagingFileDescriptorsNearLimit).",
                judged((0, "green"), (0.6, "orange"), (0.8, "red")),
                1,
                HEALTH,
            ),
            6,
        ),
    ],
)

BOARD = Board(
    "messaging-overview",
    "Messaging overview",
    "One screen for everyone, on call first: what fires, is it up, who is there, does it flow, does it fail.",
    [STATE, LIVE, Row("", 6, [(FIRING, 13), (NODES, 11)]), FLOW, TROUBLE],
)
