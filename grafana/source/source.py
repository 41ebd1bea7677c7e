"""Messaging database (observed): the totals of other servers' databases, and how they were come by."""

from __future__ import annotations

from functools import partial

from grafana_foundation_sdk.models import common as c

from grafana.source import promql as q
from grafana.source.boards import Board, Row
from grafana.source.panels import NODE, Query, above, figure, judged, lines, states

UP = {"0": ("down", "red"), "1": ("up", "green")}
# With its name also when it is the only one: with one of two sources lost, the other's figure is not the sum.
each = partial(figure, text=c.BigValueTextMode.VALUE_AND_NAME, stacked=True)
NAMED = f"{NODE} {{{{source}}}}"


def total(metric: str, matchers: str = "") -> str:
    """A figure of each source, by whoever observes it; who is not observed has no ``messaging_source_up``."""
    ignored = [label for label in q.own(metric) if label != "source"]
    ignoring = f" ignoring ({', '.join(ignored)})" if ignored else ""
    return f"{q.of(metric, matchers)} and{ignoring} {q.of('messaging_source_up')}"


BOARD = Board(
    "messaging-source",
    "Messaging database (observed)",
    "For whoever runs Synapse, ejabberd, Prosody, Mattermost or a back end of their own: how much there is in its "
    "database, and how exactly that is known. All days are UTC.",
    [
        Row(
            "Now",
            4,
            [
                (
                    each(
                        "Messages",
                        "locale",
                        Query(total("messaging_stored_messages"), NAMED),
                        "Messages that exist, as the kind of the database defines them. 'Not known' when it is "
                        "counted for the first time, or cannot be read.",
                    ),
                    12,
                ),
                (
                    each(
                        "Conversations",
                        "locale",
                        Query(total("messaging_stored_conversations"), NAMED),
                        "Rooms, channels and pairs of people. If it jumps, some client makes them in a loop.",
                    ),
                    12,
                ),
                (
                    each(
                        "Registered",
                        "locale",
                        Query(total("messaging_registered_users"), NAMED),
                        "Accounts. 'Not known' when they are kept outside of the database.",
                    ),
                    12,
                ),
                (
                    each(
                        "Sent today",
                        "locale",
                        Query(total("messaging_messages_today"), NAMED),
                        "Messages that exist and were sent since 00:00 UTC. If it stands still in the day, look at the "
                        "server.",
                    ),
                    12,
                ),
            ],
        ),
        Row(
            "",
            4,
            [
                (
                    each(
                        f"Active within {days}",
                        "locale",
                        Query(total("messaging_active_users", f'window="{window}"'), NAMED),
                        f"Registered people who wrote on {when}, today included. If it is low, it may be early in the "
                        "UTC day.",
                    ),
                    8,
                )
                for window, days, when in (
                    ("1d", "a day", "this UTC day"),
                    ("7d", "7 days", "one of the last 7 UTC days"),
                    ("30d", "30 days", "one of the last 30 UTC days"),
                )
            ],
        ),
        Row(
            "Over time",
            8,
            [
                (
                    lines(
                        "Stored messages, observed",
                        "short",
                        Query(total("messaging_stored_messages"), NAMED),
                        "If it falls, somebody deletes, or messages expire.",
                        minimum=None,
                    ),
                    12,
                ),
                (
                    lines(
                        "Messages of the day",
                        "short",
                        Query(total("messaging_messages_today"), NAMED),
                        "Rises through the UTC day and starts anew at midnight. If it falls before, somebody deletes.",
                    ),
                    12,
                ),
                (
                    lines(
                        "People by window",
                        "short",
                        [
                            *(
                                Query(total("messaging_active_users", f'window="{window}"'), f"{NAMED} {{{{window}}}}")
                                for window in ("1d", "7d", "30d")
                            ),
                            Query(total("messaging_registered_users"), f"{NAMED} registered"),
                        ],
                        "Daily, weekly and monthly active people. If 30d falls while registered grows, newcomers do "
                        "not stay.",
                        ranked=True,
                    ),
                    24,
                ),
            ],
        ),
        Row(
            "How it is known",
            6,
            [
                (
                    states(
                        "Database",
                        Query(q.least("messaging_source_up", "instance", "source"), NAMED),
                        "Red when a scrape could not read the database. If it lasts, follow the runbook of "
                        "MessagingSourceDown.",
                        UP,
                    ),
                    8,
                ),
                (
                    lines(
                        "Figures' age",
                        "dthms",
                        Query(q.age("messaging_source_as_of_timestamp_seconds"), NAMED),
                        "Since the moment of the figures: about a scrape interval. If it grows, follow the runbook of "
                        "MessagingSourceStale.",
                        steps=above((600, "red")),
                    ),
                    8,
                ),
                (
                    lines(
                        "Reading them",
                        "s",
                        Query(q.worst("messaging_source_collector_duration_seconds", "instance", "source"), NAMED),
                        "How long a scrape waited for the database. If it takes more than a second, look for missing "
                        "indexes with observe --check.",
                        steps=above((1, "orange")),
                    ),
                    8,
                ),
                (
                    lines(
                        "Rows read",
                        "cps",
                        Query(q.speed("messaging_source_rows_read_total", "instance", "source"), NAMED),
                        "Rows per second that were read of the messages. It is high when everything is counted.",
                    ),
                    8,
                ),
                (
                    each(
                        "What the last recount corrected",
                        "locale",
                        Query(
                            q.worst("messaging_source_recount_difference", "instance", "source", "figure"),
                            f"{NAMED} {{{{figure}}}}",
                        ),
                        "Recount minus what had been published: what vanished without a trace (retention, purges, "
                        "expiry) is below zero. If it is large, recount more often. The first count has nothing to "
                        "correct: then it is not known.",
                        none="not known",
                    ),
                    16,
                ),
            ],
        ),
        Row(
            "",
            4,
            [
                (
                    each(
                        "Last full count",
                        "dthms",
                        Query(q.age("messaging_source_recount_timestamp_seconds"), NAMED),
                        "Since everything was last counted. If it is older than three intervals, follow the runbook "
                        "of MessagingSourceRecountOverdue.",
                        steps=judged((0, "green")),
                    ),
                    12,
                ),
                (
                    each(
                        "Count interval",
                        "dthms",
                        Query(q.worst("messaging_source_recount_interval_seconds", "instance", "source"), NAMED),
                        "How often everything is to be counted again. If that is too seldom for what expires, set "
                        "--source.recount-interval.",
                    ),
                    12,
                ),
                (
                    each(
                        "Under way",
                        "percentunit",
                        Query(q.least("messaging_source_count_progress_ratio", "instance", "source"), NAMED),
                        "How much of the full count is done; 100 % when none is under way.",
                    ),
                    12,
                ),
                (
                    each(
                        "Wrong counters",
                        "locale",
                        Query(total("messaging_inaccurate_conversations"), NAMED),
                        "Conversations whose denormalised counter differs from their messages; only with a custom "
                        "mapping that has one. If it is not 0, follow the runbook of "
                        "MessagingSourceCountersInaccurate.",
                        steps=judged((0, "green"), (1, "orange")),
                    ),
                    12,
                ),
            ],
        ),
    ],
    since="now-24h",
)
