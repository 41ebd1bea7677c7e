"""Totals: their table, and the backfill of what is there, while nobody can write.

The triggers that keep them from then on are the living ones, which ``migrate`` puts in place after the last revision.
"""

from __future__ import annotations

from sqlalchemy import Connection

# Text that is no time, written before triggers refused it, has day 0.
_SQLITE_DAY = "coalesce(date({}), '0000-01-01')"
_POSTGRESQL_DAY = "({} AT TIME ZONE 'UTC')::date"

SQLITE = (
    "ALTER TABLE users ADD COLUMN last_active_on TEXT",
    """
    CREATE TABLE daily_totals (
        day TEXT NOT NULL,
        shard INTEGER NOT NULL DEFAULT 0,
        messages INTEGER NOT NULL DEFAULT 0,
        conversations INTEGER NOT NULL DEFAULT 0,
        users INTEGER NOT NULL DEFAULT 0,
        last_active_users INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (day, shard)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE verification (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        verified_at REAL,
        inaccurate_conversations INTEGER,
        inaccurate_days INTEGER,
        repairs INTEGER NOT NULL DEFAULT 0
    )
    """,
    "INSERT INTO verification (id) VALUES (1)",
    "UPDATE conversations SET total_messages = 0, last_seq = max(last_seq, 0)",
)
POSTGRESQL = (
    "LOCK TABLE users, conversations, conversation_members, messages IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE users ADD COLUMN last_active_on date",
    # Room for heap-only updates: these rows are changed all the time and their indexed columns never.
    "ALTER TABLE users SET (fillfactor = 90)",
    "ALTER TABLE conversations SET (fillfactor = 80)",
    """
    CREATE TABLE daily_totals (
        day date NOT NULL,
        shard integer NOT NULL DEFAULT 0,
        messages bigint NOT NULL DEFAULT 0,
        conversations bigint NOT NULL DEFAULT 0,
        users bigint NOT NULL DEFAULT 0,
        last_active_users bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (day, shard)
    ) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000)
    """,
    """
    CREATE TABLE verification (
        id integer PRIMARY KEY CHECK (id = 1),
        verified_at double precision,
        inaccurate_conversations bigint,
        inaccurate_days bigint,
        repairs bigint NOT NULL DEFAULT 0
    )
    """,
    "INSERT INTO verification (id) VALUES (1)",
    "UPDATE conversations SET total_messages = 0 WHERE total_messages <> 0",
)


def _count(day: str, greatest: str) -> tuple[str, ...]:
    sent, made = day.format("sent_at"), day.format("created_at")
    return (
        f"""
        UPDATE users SET last_active_on = latest.day FROM (
            SELECT sender_id, max({sent}) AS day FROM messages GROUP BY sender_id
        ) AS latest WHERE latest.sender_id = users.id
        """,
        f"""
        UPDATE conversations SET total_messages = found.n, last_seq = {greatest}(last_seq, found.top) FROM (
            SELECT conversation_id, count(*) AS n, max(seq) AS top FROM messages GROUP BY conversation_id
        ) AS found WHERE found.conversation_id = conversations.id
        """,
        f"""
        INSERT INTO daily_totals (day, messages, conversations, users, last_active_users)
        SELECT day, sum(m), sum(c), sum(u), sum(a) FROM (
            SELECT {sent} AS day, count(*) AS m, 0 AS c, 0 AS u, 0 AS a FROM messages GROUP BY 1
            UNION ALL SELECT {made}, 0, count(*), 0, 0 FROM conversations GROUP BY 1
            UNION ALL SELECT {made}, 0, 0, count(*), 0 FROM users GROUP BY 1
            UNION ALL SELECT last_active_on, 0, 0, 0, count(*) FROM users WHERE last_active_on IS NOT NULL GROUP BY 1
        ) AS found GROUP BY day
        """,
    )


def upgrade(connection: Connection) -> None:
    """Count what is there; nobody can write in between."""
    if connection.dialect.name == "sqlite":
        statements = (*SQLITE, *_count(_SQLITE_DAY, "max"))
    else:
        statements = (*POSTGRESQL, *_count(_POSTGRESQL_DAY, "greatest"))
    for statement in statements:
        connection.exec_driver_sql(statement)
