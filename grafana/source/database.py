"""Database & activity: for the product. How much there is, who is active, and whether these figures can be trusted."""

from __future__ import annotations

from grafana.source import promql as q
from grafana.source.boards import Board, Row
from grafana.source.panels import DELIVERY, INSTALLATION, NODE, Query, above, figure, judged, lines, named, states

UID = "messaging-database"
UP = {"0": ("down", "red"), "1": ("up", "green")}

BOARD = Board(
    UID,
    "Messaging database & activity",
    "For the product: how much there is, who is active, and whether these figures can be trusted. All days are UTC.",
    [
        Row(
            "Now",
            4,
            [
                (
                    figure(
                        "Messages",
                        "locale",
                        Query(q.database("messaging_stored_messages")),
                        "Messages that exist; deletes count. 'Not known' while the database cannot be read: if that "
                        "lasts, see the row 'Database' below.",
                    ),
                    6,
                ),
                (
                    figure(
                        "Conversations",
                        "locale",
                        Query(q.database("messaging_stored_conversations")),
                        "Conversations that exist. If it grows much faster than the people, something makes them in a "
                        "loop.",
                    ),
                    6,
                ),
                (
                    figure(
                        "Registered",
                        "locale",
                        Query(q.database("messaging_registered_users")),
                        "People who connected at least once. If it jumps, check who may sign tokens.",
                    ),
                    6,
                ),
                (
                    figure(
                        "Sent today",
                        "locale",
                        Query(q.database("messaging_messages_today")),
                        "Messages that exist and were sent since 00:00 UTC. If it stands still while people are "
                        "online, sends fail.",
                        link=DELIVERY,
                    ),
                    6,
                ),
                (
                    figure(
                        "Active people",
                        "locale",
                        [
                            Query(
                                q.database("messaging_active_users", "window", matchers=f'window="{window}"'),
                                f"{INSTALLATION} {{{{window}}}}",
                            )
                            for window in ("1d", "7d", "30d")
                        ],
                        "Registered people whose latest message is of one of the last 1, 7, 30 UTC days, today "
                        "included. If 1d is low, it may be early in the UTC day.",
                    ),
                    24,
                ),
            ],
        ),
        Row(
            "Activity",
            8,
            [
                (
                    lines(
                        "Active people by window",
                        "short",
                        [
                            *(
                                Query(
                                    q.database("messaging_active_users", "window", matchers=f'window="{window}"'),
                                    named("{{window}}"),
                                )
                                for window in ("1d", "7d", "30d")
                            ),
                            Query(q.database("messaging_registered_users"), named("registered")),
                        ],
                        "Daily, weekly and monthly active people. If 30d falls while registered grows, newcomers do "
                        "not stay.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Stickiness",
                        "percentunit",
                        Query(
                            q.share(
                                q.database("messaging_active_users", matchers='window="1d"'),
                                q.database("messaging_active_users", matchers='window="30d"'),
                            )
                        ),
                        "People active today of those active within 30 days (DAU/MAU); it starts anew at 00:00 UTC. "
                        "If its daily peak falls over weeks, people come less often.",
                        maximum=1,
                    ),
                    8,
                ),
                (
                    lines(
                        "Messages today, over the day",
                        "short",
                        Query(q.database("messaging_messages_today"), named("messages today")),
                        "Rises through the UTC day and starts anew at midnight. If it falls before, somebody deletes "
                        "messages.",
                    ),
                    8,
                ),
                (
                    lines(
                        "Stored messages",
                        "short",
                        Query(q.database("messaging_stored_messages"), named("messages")),
                        "How the table grows; it is what backups and disks have to hold. If it falls, somebody "
                        "deletes.",
                        minimum=None,
                    ),
                    8,
                ),
                (
                    lines(
                        "Stored conversations",
                        "short",
                        Query(q.database("messaging_stored_conversations"), named("conversations")),
                        "How many conversations exist. If it jumps, look for a client that makes them in a loop.",
                        minimum=None,
                    ),
                    8,
                ),
                (
                    lines(
                        "Messages stored per second",
                        "mps",
                        Query(q.speed("messaging_messages_accepted_total", "instance"), NODE),
                        "Through each node. If it differs from what the table gains, another program writes too.",
                        stacked=True,
                        link=DELIVERY,
                    ),
                    8,
                ),
            ],
        ),
        Row(
            "Database",
            7,
            [
                (
                    states(
                        "Database as each node sees it",
                        [
                            Query(q.least("messaging_database_up", "instance"), f"{NODE}: reads"),
                            Query(q.least("messaging_database_writable", "instance"), f"{NODE}: writes"),
                        ],
                        "Red when a node could not read the database at a scrape, or cannot write to it. If one node "
                        "is red, look at its network; if all are, follow the runbook of MessagingDatabaseDown, or of "
                        "MessagingDatabaseReadOnly where only writing fails.",
                        UP,
                    ),
                    8,
                ),
                (
                    states(
                        "Collectors",
                        Query(
                            q.least("messaging_scrape_collector_success", "instance", "collector"),
                            f"{NODE}: {{{{collector}}}}",
                        ),
                        "Red when a scrape did not get a collector's figures; they are absent then, never invented. "
                        "If database is red while others are not, the database is down or slow.",
                        UP,
                    ),
                    8,
                ),
                (
                    lines(
                        "Database connections",
                        "short",
                        Query(q.total("messaging_database_pool_connections", "state"), named("{{state}}")),
                        "Connections to the database, over the chosen nodes; at most six per node. If four of a "
                        "node's are in use for minutes, requests queue: follow the runbook of MessagingPoolExhausted.",
                        stacked=True,
                    ),
                    8,
                ),
                (
                    lines(
                        "Age of the totals",
                        "dthms",
                        Query(q.age("messaging_database_last_success_timestamp_seconds"), NODE),
                        "Since each node last read the totals: about a scrape interval. If it grows, the database is "
                        "down or its answer takes longer than the scrape may.",
                        steps=above((600, "red")),
                    ),
                    12,
                ),
                (
                    lines(
                        "Reading the totals",
                        "s",
                        Query(
                            q.worst("messaging_scrape_collector_duration_seconds", "instance", "collector"),
                            f"{NODE}: {{{{collector}}}}",
                        ),
                        "How long a scrape's collectors took; database is one query over some rows per day. If it "
                        "takes more than a second, the database is overloaded.",
                        steps=above((1, "orange")),
                        ranked=True,
                    ),
                    12,
                ),
            ],
        ),
        Row(
            "Can the totals be trusted?",
            6,
            [
                (
                    figure(
                        "What verification found wrong",
                        "none",
                        [
                            Query(q.database("messaging_inaccurate_conversations"), named("conversations")),
                            Query(q.database("messaging_inaccurate_days"), named("days")),
                            Query(q.database("messaging_missing_triggers"), named("triggers missing")),
                        ],
                        "Conversations and days whose totals the last verification found wrong, and triggers that "
                        "are not there to keep them. If one is not 0, follow the runbook of "
                        "MessagingTotalsInaccurate: messaging-exporter verify --repair. Not known before the first.",
                        steps=judged((0, "green"), (1, "red")),
                        none="not known",
                        stacked=True,
                    ),
                    8,
                ),
                (
                    figure(
                        "Last verified",
                        "dthms",
                        Query(f"time() - {q.database('messaging_verified_timestamp_seconds')}"),
                        "Since everything was last recounted the slow way; a server does it once a day. When it is "
                        "older than three days, follow the runbook of MessagingVerificationOverdue. Before the first "
                        "it is not known.",
                        steps=judged((0, "green"), (259200, "orange")),
                        none="not known",
                    ),
                    8,
                ),
                (
                    lines(
                        "Becoming durable, 99 %",
                        "s",
                        Query(q.quantile(0.99, "messaging_message_persist_duration_seconds"), INSTALLATION),
                        "What senders wait for. If it stays above 0.5 s, follow the runbook of MessagingPersistSlow.",
                        steps=above((0.5, "red")),
                        link=DELIVERY,
                    ),
                    8,
                ),
            ],
        ),
    ],
    since="now-24h",
)
