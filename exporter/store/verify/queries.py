"""The statements of a verification: what differs, and its repair. Knows no order of things, no progress, no report.

Each compares in one statement, so in one state of the database; the repairs are small transactions.

Tested in ``tests/store/test_verify.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import datetime

from exporter.store.dialects.base import Dialect, Row, Session, transaction
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.schema.shape import ADD_TO_DAY, ADDED

PAGE_CONVERSATIONS = 500
"""Looked at in one statement at most; with the next limit it bounds memory and the length of a statement."""
PAGE_MESSAGES = 20_000
"""Counted in one statement at most, but for a single larger conversation; some 10 ms."""
REPAIR_SHARD = -1
"""Where repairs add to a day: no trigger uses it, so nobody waits."""


async def count_kept(session: Session) -> int:
    """How many messages the totals claim: what there is to count, for a display of progress."""
    rows = await session.fetch("SELECT CAST(coalesce(sum(messages), 0) AS bigint) FROM daily_totals")
    return max(0, int(rows[0][0]))


async def next_page(session: Session, after: str | None) -> tuple[list[str], int, bool]:
    """Names of the next conversations, how many messages they claim, and whether there are more."""
    rows = await session.fetch(
        f"SELECT id, total_messages FROM conversations WHERE {_range('id', after, None)} "
        f"ORDER BY id LIMIT {PAGE_CONVERSATIONS + 1}",
        *_bounds(after, None),
    )
    names: list[str] = []
    weight = 0
    for name, messages in rows[:PAGE_CONVERSATIONS]:
        names.append(name)
        weight += max(0, messages)
        if weight >= PAGE_MESSAGES:
            break
    return names, weight, len(rows) > len(names)


def _range(column: str, after: str | None, until: str | None) -> str:
    parts = ["1 = 1"]
    for operator, bound in ((">", after), ("<=", until)):
        if bound is not None:
            parts.append(f"{column} {operator} ${len(parts)}")
    return " AND ".join(parts)


def _bounds(after: str | None, until: str | None) -> list[str]:
    return [bound for bound in (after, until) if bound is not None]


async def differing(session: Session, after: str | None, until: str | None) -> Sequence[Row]:
    """Conversations whose kept figures and recount differ; also names that only messages know."""
    return await session.fetch(
        f"""
        SELECT id, sum(known), CAST(sum(kept) AS bigint), max(last_seq), CAST(sum(counted) AS bigint), max(top)
        FROM (
            SELECT id, 1 AS known, total_messages AS kept, last_seq, 0 AS counted, 0 AS top
            FROM conversations WHERE {_range("id", after, until)}
            UNION ALL
            SELECT conversation_id, 0, 0, 0, count(*), max(seq)
            FROM messages WHERE {_range("conversation_id", after, until)} GROUP BY conversation_id
        ) AS both_sides
        GROUP BY id
        HAVING sum(kept) <> sum(counted) OR max(last_seq) < max(top)
        ORDER BY id
        """,
        *_bounds(after, until),
    )


async def repair_conversation(session: Session, begin: str, lock: str, name: str) -> None:
    """Whoever has changed its messages has the row until they commit; having it, we count what is committed."""
    async with transaction(session, begin):
        if not await session.fetch(f"SELECT 1 FROM conversations WHERE id = $1{lock}", name):
            await session.fetch(
                "INSERT INTO conversations (id) SELECT $1 WHERE EXISTS "
                "(SELECT 1 FROM messages WHERE conversation_id = $1) ON CONFLICT (id) DO NOTHING",
                name,
            )
        await session.fetch(
            """
            UPDATE conversations SET
                total_messages = (SELECT count(*) FROM messages WHERE conversation_id = conversations.id),
                last_seq = (
                    SELECT CASE WHEN conversations.last_seq < coalesce(max(seq), 0) THEN max(seq)
                        ELSE conversations.last_seq END
                    FROM messages WHERE conversation_id = conversations.id
                )
            WHERE id = $1
            """,
            name,
        )


def _as_text(dialect: Dialect, day: str) -> str:
    """A day for people and for ``repair_days``: the driver has no year 10000, and takes the last day before for ever.

    In this form whatever order of day, month and year a session has set.
    """
    return {"sqlite": day, "postgresql": f"(to_json({day}) #>> '{{}}')"}[dialect.name]


def days_statement(dialect: Dialect) -> str:
    """Days on which a kept figure and its recount differ: day, number of repairs so far, counted ×5, kept ×5."""
    sent, made = dialect.utc_day("sent_at"), dialect.utc_day("created_at")
    return f"""
    SELECT {_as_text(dialect, "day")}, coalesce((SELECT repairs FROM verification WHERE id = 1), 0),
        CAST(sum(m) AS bigint), CAST(sum(c) AS bigint), CAST(sum(u) AS bigint), CAST(sum(a) AS bigint),
        CAST(sum(d) AS bigint), CAST(sum(km) AS bigint), CAST(sum(kc) AS bigint), CAST(sum(ku) AS bigint),
        CAST(sum(ka) AS bigint), CAST(sum(kd) AS bigint)
    FROM (
        SELECT {sent} AS day, count(*) AS m, 0 AS c, 0 AS u, 0 AS a, 0 AS d, 0 AS km, 0 AS kc, 0 AS ku, 0 AS ka, 0 AS kd
            FROM messages GROUP BY 1
        UNION ALL SELECT {made}, 0, count(*), 0, 0, 0, 0, 0, 0, 0, 0 FROM conversations GROUP BY 1
        UNION ALL SELECT {made}, 0, 0, count(*), 0, 0, 0, 0, 0, 0, 0 FROM users GROUP BY 1
        UNION ALL SELECT last_active_on, 0, 0, 0, count(*), 0, 0, 0, 0, 0, 0 FROM users
            WHERE last_active_on IS NOT NULL GROUP BY 1
        UNION ALL SELECT day, 0, 0, 0, 0, count(*), 0, 0, 0, 0, 0 FROM user_days GROUP BY 1
        UNION ALL SELECT day, 0, 0, 0, 0, 0, messages, conversations, users, last_active_users, active_users
            FROM daily_totals
    ) AS both_sides
    GROUP BY day
    HAVING sum(m) <> sum(km) OR sum(c) <> sum(kc) OR sum(u) <> sum(ku) OR sum(a) <> sum(ka)
        OR sum(d) <> sum(kd)
    ORDER BY day
    """


async def repair_days(session: Session, dialect: Dialect, rows: Sequence[Row]) -> bool | None:
    """Add what is missing; None when somebody else has done so since the rows were read."""
    given = {"sqlite": "$1", "postgresql": "CAST(CAST($1 AS text) AS date)"}[dialect.name]
    async with transaction(session, dialect.begin):
        await session.fetch("INSERT INTO verification (id) VALUES (1) ON CONFLICT (id) DO NOTHING")
        mine = await session.fetch(
            "UPDATE verification SET repairs = repairs + 1 WHERE id = 1 AND repairs = $1 RETURNING repairs", rows[0][1]
        )
        for day, _repairs, m, c, u, a, d, km, kc, ku, ka, kd in rows if mine else ():
            await session.fetch(
                f"{ADD_TO_DAY} VALUES ({given}, {REPAIR_SHARD}, $2, $3, $4, $5, $6) {ADDED}",
                day, m - km, c - kc, u - ku, a - ka, d - kd,
            )  # fmt: skip
    return True if mine else None


def future_statement(dialect: Dialect) -> str:
    """Days that have not come, and how many users were last active on one; an hour is left to clocks that differ."""
    return f"""
    SELECT {_as_text(dialect, "last_active_on")}, count(*) FROM users WHERE last_active_on > {dialect.latest_day}
    GROUP BY last_active_on ORDER BY last_active_on
    """


async def repair_future(session: Session, dialect: Dialect) -> None:
    """Whoever was last active on a day that has not come: on the day of their latest message that is not of one."""
    day = dialect.utc_day("m.sent_at")
    await session.fetch(
        f"""
        UPDATE users SET last_active_on = (
            SELECT max({day}) FROM messages AS m WHERE m.sender_id = users.id AND {day} <= {dialect.latest_day}
        ) WHERE last_active_on > {dialect.latest_day}
        """
    )


def _user_days(dialect: Dialect) -> str:
    """Who must be in the record: whoever has a message of that day, registered today or not. Not older than $1."""
    return f"""
    SELECT p.day, p.user_id FROM (
        SELECT DISTINCT {dialect.utc_day("sent_at")} AS day, sender_id AS user_id FROM messages
    ) AS p
    WHERE p.day >= $1 AND NOT EXISTS (SELECT 1 FROM user_days AS d WHERE d.day = p.day AND d.user_id = p.user_id)
    """


async def days_without_users(session: Session, dialect: Dialect, since: datetime) -> Sequence[Row]:
    """Days of whose senders some are not in the record, and how many; the record may hold more (deleted messages)."""
    return await session.fetch(
        f"SELECT {_as_text(dialect, 'day')}, count(*) FROM ({_user_days(dialect)}) AS p GROUP BY day ORDER BY day",
        dialect.day(since),
    )


async def repair_user_days(session: Session, dialect: Dialect, since: datetime) -> None:
    """Record them; triggers count them."""
    await session.fetch(
        f"INSERT INTO user_days (day, user_id) SELECT day, user_id FROM ({_user_days(dialect)}) AS p WHERE true "
        "ORDER BY day, user_id ON CONFLICT (day, user_id) DO NOTHING",
        dialect.day(since),
    )


COMPARISON = """
SELECT
    (SELECT coalesce(sum(total_messages), 0) FROM conversations) <> m OR (SELECT count(*) FROM conversations) <> c
    OR (SELECT count(*) FROM users) <> u OR (SELECT count(*) FROM users WHERE last_active_on IS NOT NULL) <> a
    OR EXISTS (
        SELECT 1 FROM daily_totals GROUP BY day
        HAVING sum(messages) < 0 OR sum(conversations) < 0 OR sum(users) < 0 OR sum(last_active_users) < 0
            OR sum(active_users) < 0
    )
FROM (
    SELECT coalesce(sum(messages), 0) AS m, coalesce(sum(conversations), 0) AS c, coalesce(sum(users), 0) AS u,
        coalesce(sum(last_active_users), 0) AS a
    FROM daily_totals
) AS kept
"""
"""Do the sums over days differ from what the conversations say and from how many rows there are, or is a day below 0?

No message is read.
"""


async def why_unkept(keeping: Awaitable[None]) -> str:
    """Wait until a result is kept; why it cannot be: who may not write may recount all the same, and say it."""
    try:
        await keeping
    except DatabaseError as failure:
        if failure.kind not in (ErrorKind.CONFIGURATION, ErrorKind.READ_ONLY):
            raise
        return failure.told
    return ""


async def keep(session: Session, verified_at: float, conversations: int, days: int, triggers: int) -> None:
    """Keep the result for those who publish it; ``verified_at`` in Unix seconds."""
    await session.fetch(
        """
        INSERT INTO verification (id, verified_at, inaccurate_conversations, inaccurate_days, missing_triggers)
        VALUES (1, $1, $2, $3, $4)
        ON CONFLICT (id) DO UPDATE SET verified_at = excluded.verified_at,
            inaccurate_conversations = excluded.inaccurate_conversations, inaccurate_days = excluded.inaccurate_days,
            missing_triggers = excluded.missing_triggers
        """,
        verified_at,
        conversations,
        days,
        triggers,
    )


async def keep_comparison(session: Session, differs: bool, triggers: int) -> None:
    """Publish what a start found: at least one day is wrong, so many triggers are. Nothing found takes nothing back."""
    await session.fetch(
        """
        INSERT INTO verification (id, inaccurate_days, missing_triggers) VALUES (1, $1, $2)
        ON CONFLICT (id) DO UPDATE SET missing_triggers = excluded.missing_triggers,
            inaccurate_days = CASE WHEN coalesce(verification.inaccurate_days, 0) > excluded.inaccurate_days
                THEN verification.inaccurate_days ELSE excluded.inaccurate_days END
        """,
        int(differs),
        triggers,
    )


async def keep_schema(session: Session, found: int) -> None:
    """Publish how much of the schema is not as it was made; writes nothing where that is known."""
    await session.fetch(
        "UPDATE verification SET missing_triggers = $1 WHERE id = 1 AND coalesce(missing_triggers, 0) <> $2",
        found,
        found,
    )
