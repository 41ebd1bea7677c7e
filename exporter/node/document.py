"""The figures under the names that ``/v1/messaging/stats`` gives them, whoever answers it. Knows no HTTP.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import astuple

from exporter.core.records import WINDOWS, ClusterStats, HubStats, Totals
from exporter.core.source_records import SourceTotals
from exporter.node.history import FIGURES

LIVE = FIGURES[:5]


def live_figures(stats: HubStats | ClusterStats | None) -> dict[str, int | None]:
    """The live figures of a node or of the cluster; null is not known."""
    values: tuple[int | None, ...] = (None,) * len(LIVE)
    if isinstance(stats, HubStats):
        values = astuple(stats)
    elif stats is not None:
        values = stats.connections, stats.users, stats.conversations, stats.participants, stats.typing_users
    return dict(zip(LIVE, values, strict=True))


def totals_figures(totals: Totals | SourceTotals | None) -> dict[str, Any]:
    """The totals of a database; null is not known."""
    return {
        "total_messages": totals.stored_messages if totals else None,
        "total_conversations": totals.stored_conversations if totals else None,
        "messages_today": totals.messages_today if totals else None,
        "registered_users": totals.registered_users if totals else None,
        "active_users": {f"{days}d": totals.active_users.get(days) if totals else None for days in WINDOWS},
    }


def utc(moment: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC, to the second."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
