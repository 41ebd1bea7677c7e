"""Messages and active users of past days: reading them, and forgetting who wrote long ago. Knows no Prometheus.

``user_days`` has a row per user and day on which they sent a message, kept by triggers for ``KEPT`` days; how many rows
a day has stands in ``daily_totals``, as everything that is counted does. Deleting a message or a user leaves the row:
it says what was done on that day, and so a past day's figure does not shrink.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from exporter.core.records import DayTotals
from exporter.store.dialects.base import Dialect, Session

KEPT = 400
"""Days, today included: a year and a month, so that a month can be held against that of the year before."""

STATEMENT = """
SELECT day, CAST(sum(messages) AS bigint), CAST(sum(active_users) AS bigint)
FROM daily_totals WHERE day >= $1 AND day <= $2 GROUP BY day
"""
IMPOSSIBLE = "a day's total in the database is below 0, which cannot be: run 'messaging-exporter verify --repair'"
NOT_RECORDED = "who wrote on some days is not known: messages of them had been deleted before that was recorded"

FROM = "SELECT active_users_from FROM verification WHERE id = 1"
"""Before that day messages had been deleted when the record began, so who wrote is not known; null: all is known."""


async def read(session: Session, dialect: Dialect, now: datetime, count: int) -> list[DayTotals]:
    """The last ``count`` days, the oldest first. A day without a row had nothing; what cannot be is not known."""
    first = now - timedelta(days=count - 1)
    rows = await session.fetch(STATEMENT, dialect.day(first), dialect.day(now))
    found = {_date(day): (messages, users) for day, messages, users in rows}
    begun = await session.fetch(FROM)
    known_from = _date(begun[0][0]) if begun and begun[0][0] is not None else date.min
    days = []
    for ago in range(count - 1, -1, -1):
        day = (now - timedelta(days=ago)).date()
        messages, users = found.get(day, (0, 0))
        known = day >= known_from and users >= 0
        error = NOT_RECORDED if day < known_from else None
        if messages < 0 or users < 0:
            error = IMPOSSIBLE
        days.append(DayTotals(day, messages if messages >= 0 else None, users if known else None, error))
    return days


async def forget(session: Session, dialect: Dialect, now: datetime) -> None:
    """Rows of days that are no longer kept go, a day's worth at a time in a server that runs; triggers count along."""
    await session.fetch("DELETE FROM user_days WHERE day < $1", dialect.day(now - timedelta(days=KEPT - 1)))


def _date(value: Any) -> date:
    return value if isinstance(value, date) else date.fromisoformat(value)
