"""The collector's one statement, and keeping what it reads small. Knows no Prometheus.

It reads ``daily_totals`` (a row per day, and a few more for the last two days) and one row of ``verification``; never
``messages``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from exporter.core.records import WINDOWS, Totals
from exporter.store import days
from exporter.store.dialects.base import Dialect, Session, transaction
from exporter.store.errors import DatabaseError, ErrorKind

IMPOSSIBLE = "a total in the database is below 0, which cannot be: run 'messaging-exporter verify --repair'"

WRONG = "figures differ from a recount: run 'messaging-exporter verify --repair'"

log = structlog.get_logger("exporter.store")

STATEMENT = """
SELECT t.*, v.inaccurate_conversations, v.inaccurate_days, v.missing_triggers, v.verified_at
FROM (
    SELECT
        CAST(coalesce(sum(messages), 0) AS bigint) AS stored_messages,
        CAST(coalesce(sum(conversations), 0) AS bigint) AS stored_conversations,
        CAST(coalesce(sum(users), 0) AS bigint) AS registered_users,
        CAST(coalesce(sum(CASE WHEN day = $1 THEN messages END), 0) AS bigint) AS messages_today,
        CAST(coalesce(sum(CASE WHEN day = $1 THEN last_active_users END), 0) AS bigint) AS active_1d,
        CAST(coalesce(sum(CASE WHEN day >= $2 AND day <= $1 THEN last_active_users END), 0) AS bigint) AS active_7d,
        CAST(coalesce(sum(CASE WHEN day >= $3 AND day <= $1 THEN last_active_users END), 0) AS bigint) AS active_30d
    FROM daily_totals
) AS t LEFT JOIN verification AS v ON v.id = 1
"""


class Findings:
    """What is known to be wrong: a line in the log when that changes, even if another process has found it."""

    def __init__(self) -> None:
        self._told = (0, 0, 0)

    def tell(self, conversations: int | None, days: int | None, triggers: int | None) -> None:
        """So many are wrong; None: not looked for."""
        found = conversations or 0, days or 0, triggers or 0
        if found == self._told:
            return
        self._told = found
        if any(found):
            log.warning(WRONG, conversations=found[0], days=found[1], triggers=found[2])
        else:
            log.info("figures agree with a recount again")


async def read(session: Session, dialect: Dialect, now: datetime) -> Totals:
    """All figures of the database, consistent with each other, as of now."""
    today, week, month = (dialect.day(now - timedelta(days=window - 1)) for window in WINDOWS)
    rows = await session.fetch(STATEMENT, today, week, month)
    *figures, inaccurate_conversations, inaccurate_days, missing_triggers, verified_at = rows[0]
    messages, conversations, users, messages_today, *active = (n if n >= 0 else None for n in figures)
    impossible = any(n < 0 for n in figures)
    if impossible:  # at least one day is wrong, whatever the last verification found
        inaccurate_days = inaccurate_days or 1
    return Totals(
        stored_messages=messages,
        stored_conversations=conversations,
        registered_users=users,
        messages_today=messages_today,
        active_users=dict(zip(WINDOWS, active, strict=True)),
        as_of=now.astimezone(UTC).timestamp(),
        inaccurate_conversations=inaccurate_conversations,
        inaccurate_days=inaccurate_days,
        missing_triggers=missing_triggers,
        verified_at=verified_at,
        error=IMPOSSIBLE if impossible else None,
    )


async def compact(session: Session, dialect: Dialect, now: datetime) -> None:
    """Put the shards of past days together: their sums stay, and a scrape reads fewer rows.

    Yesterday is left alone, since transactions that began before midnight may still be writing to it.
    """
    yesterday = dialect.day(now - timedelta(days=1))
    async with transaction(session, dialect.begin):
        for statement in dialect.compact:
            await session.fetch(statement, yesterday)
        await days.forget(session, dialect, now)


async def tidy(session: Session, dialect: Dialect, now: datetime) -> None:
    """The same where the user may lack the right to; then a scrape reads more rows, and is right."""
    try:
        await compact(session, dialect, now)
    except DatabaseError as failure:
        if failure.kind is ErrorKind.DISCONNECTED:
            raise
