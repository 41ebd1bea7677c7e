"""The proofs' cases of observed databases: are they read, are they counted, are their counters right."""

from __future__ import annotations

from grafana.source.cases import NODE_A, A, Case, step
from grafana.source.series import levels, name, seconds

OBSERVER = "o:8765"
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
        "MessagingSourceDown",
        (
            (name("up", OBSERVER), levels((60, 1), (60, 0), (61, 1))),
            (name("messaging_source_up", OBSERVER, source="chat"), levels((60, 1), (1, "stale"), (59, "_"), (61, 1))),
        ),
        {**NODE_A, "instance": OBSERVER, "source": "chat"},
        "o:8765 (job messaging) has not read the database chat that it observes for 5 minutes; its figures are absent.",
        what="the process that reads it is down",
        observing=True,
        silent=("MessagingDown", "MessagingAbsent"),
    ),
    Case(
        "MessagingSourceCountStuck",
        ((series("messaging_source_count_progress_ratio"), levels((60, 1), (120, 0.4), (61, 1))),),
        SOURCE,
        "The count of chat at a:8765 (job messaging) stands at 40% and has not gone on for half an hour or "
        "longer. If it is the first one, there are no figures.",
        pending=120,
        gone=190,
        length=240,
    ),
    Case(
        "MessagingSourceCountStuck",
        ((series("messaging_source_count_progress_ratio"), levels((61, "_"), (60, 0), (61, 1))),),
        SOURCE,
        "The count of chat at a:8765 (job messaging) stands at 0% and has not gone on for half an hour or "
        "longer. If it is the first one, there are no figures.",
        what="a process that has only started",
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
