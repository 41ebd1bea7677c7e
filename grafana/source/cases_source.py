"""The proofs' cases of observed databases: are they read, are they counted, are their counters right."""

from __future__ import annotations

from grafana.source.cases import NODE_A, A, Case, step
from grafana.source.series import name, seconds

SOURCE = {**NODE_A, "source": "chat"}


def series(metric: str) -> str:
    """A gauge of the one source."""
    return name(metric, A, source="chat")


CASES: tuple[Case, ...] = (
    Case(
        "MessagingSourceDown",
        (step(series("messaging_source_up"), 1, 0),),
        SOURCE,
        "a:8765 (job messaging) has not read the database chat that it observes for 5 minutes; its figures are absent.",
    ),
    Case(
        "MessagingSourceStale",
        ((series("messaging_source_as_of_timestamp_seconds"), seconds((60, 0, 60), (60, 2999, 0), (61, 7200, 60))),),
        SOURCE,
        "The figures of chat at a:8765 (job messaging) are 25m 1s old.",
    ),
    Case(
        "MessagingSourceRecountOverdue",
        (
            (
                series("messaging_source_recount_timestamp_seconds"),
                seconds((60, 0, 60), (60, 1799, 0), (61, 7200, 60)),
            ),
        ),
        SOURCE,
        "The last full count of chat at a:8765 (job messaging) ended 50m 1s ago; what has vanished since is still "
        "counted.",
    ),
    Case(
        "MessagingSourceCountersInaccurate",
        (step(series("messaging_inaccurate_conversations"), 0, 2),),
        SOURCE,
        "The last recount at a:8765 (job messaging) found 2 conversations of chat whose counter is not the number of "
        "their messages.",
        severity="info",
    ),
)
