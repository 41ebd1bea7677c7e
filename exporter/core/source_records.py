"""What is known of another server's database, as plain values. Knows nobody.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

import msgspec

from exporter.core.records import KnownTotals


class SourceTotals(KnownTotals, frozen=True):
    """The figures of one source, of one snapshot of its database.

    ``unknown`` says by the figure's name why it is not known. ``inaccurate_conversations`` is None also where no
    counter is mapped.
    """

    unknown: dict[str, str] = msgspec.field(default_factory=dict)


class SourceView(msgspec.Struct, frozen=True):
    """A source as it was seen at one scrape.

    ``up``: its database answered. ``totals`` is None when it did not, and ``error`` says why; with totals, ``error``
    says what is missing of them. ``kind`` and ``schema`` are empty before the first look at the database; ``progress``
    is the share of a count under way that is done, 1 when there is none; times are Unix seconds; ``differences`` are
    what the latest recount corrected, by figure; ``recount_interval`` is in seconds, None where nothing is recounted.
    ``down_since`` is when it was last read, or first not reached; None while it is up.
    """

    name: str
    kind: str
    schema: str = ""
    up: bool = False
    totals: SourceTotals | None = None
    error: str | None = None
    last_success: float | None = None
    recounted_at: float | None = None
    differences: dict[str, int] = msgspec.field(default_factory=dict)
    rows_read: int = 0
    progress: float = 0.0
    duration: float = 0.0
    recount_interval: float | None = None
    down_since: float | None = None
