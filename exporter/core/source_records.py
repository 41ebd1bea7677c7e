"""What is known of another server's database, as plain values. Knows nobody.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SourceTotals:
    """The figures of one source, of one snapshot of its database; named as those of ``Totals``.

    A figure is None when it is not known; ``unknown`` then says why, by the figure's name. ``active_users`` is keyed by
    window in days: 1, 7, 30. ``as_of`` is Unix seconds. ``inaccurate_conversations`` is None where no counter is mapped
    or it has not been compared yet.
    """

    stored_messages: int | None
    stored_conversations: int | None
    registered_users: int | None
    messages_today: int | None
    active_users: dict[int, int | None]
    as_of: float
    unknown: dict[str, str] = field(default_factory=dict)
    inaccurate_conversations: int | None = None


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source as it was seen at one scrape.

    ``up``: its database answered. ``totals`` is None when it did not, and ``error`` says why; with totals, ``error``
    says what is missing of them. ``kind`` and ``schema`` are empty before the first look at the database; ``progress``
    is the share of a count under way that is done, 1 when there is none; times are Unix seconds; ``differences`` are
    what the latest recount corrected, by figure; ``recount_interval`` is in seconds, None where nothing is recounted.
    """

    name: str
    kind: str
    schema: str
    up: bool
    totals: SourceTotals | None
    error: str | None
    last_success: float | None
    recounted_at: float | None
    differences: dict[str, int]
    rows_read: int
    progress: float
    duration: float
    recount_interval: float | None = None
