"""Who sent a message on which day, and how many people each day had: counted from the messages that are there.

Where messages had been deleted before, the days before the oldest that is left are not known, and stay so. From here on
the living triggers keep the record, which ``migrate`` puts in place after the last revision.
"""

from __future__ import annotations

from sqlalchemy import Connection

SQLITE = (
    "ALTER TABLE daily_totals ADD COLUMN active_users INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE verification ADD COLUMN active_users_from TEXT",
    """
    CREATE TABLE user_days (
        day TEXT NOT NULL,
        user_id TEXT NOT NULL,
        PRIMARY KEY (day, user_id)
    ) WITHOUT ROWID
    """,
    """
    INSERT INTO user_days (day, user_id)
    SELECT DISTINCT date(sent_at), sender_id FROM messages WHERE date(sent_at) > date('now', '-400 days')
    """,
    """
    UPDATE verification SET active_users_from = (SELECT coalesce(min(date(sent_at)), date('now')) FROM messages)
    WHERE (SELECT coalesce(sum(last_seq - total_messages), 0) FROM conversations) <> 0
    """,
)
POSTGRESQL = (
    "LOCK TABLE users, messages IN SHARE ROW EXCLUSIVE MODE",
    "ALTER TABLE daily_totals ADD COLUMN active_users bigint NOT NULL DEFAULT 0",
    "ALTER TABLE verification ADD COLUMN active_users_from date",
    "CREATE TABLE user_days (day date NOT NULL, user_id text NOT NULL, PRIMARY KEY (day, user_id))",
    """
    INSERT INTO user_days (day, user_id)
    SELECT DISTINCT (sent_at AT TIME ZONE 'UTC')::date, sender_id FROM messages
    WHERE sent_at > now() - interval '400 days'
    """,
    """
    UPDATE verification SET active_users_from = (
        SELECT coalesce(min(sent_at AT TIME ZONE 'UTC'), now() AT TIME ZONE 'UTC')::date FROM messages
    ) WHERE (SELECT coalesce(sum(last_seq - total_messages), 0) FROM conversations) <> 0
    """,
)
COUNT = """
    INSERT INTO daily_totals (day, shard, active_users)
    SELECT day, 0, count(*) FROM user_days WHERE true GROUP BY day
    ON CONFLICT (day, shard) DO UPDATE SET active_users = excluded.active_users
"""


def upgrade(connection: Connection) -> None:
    """Count what is there; nobody can write in between."""
    for statement in (*(SQLITE if connection.dialect.name == "sqlite" else POSTGRESQL), COUNT):
        connection.exec_driver_sql(statement)
