"""A column for what is wrong with triggers; and triggers by which a day in the future gives way to the next message.

The triggers themselves are the living ones, which ``migrate`` puts in place after the last revision.
"""

from __future__ import annotations

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Nothing is known of the triggers until they are looked at."""
    connection.exec_driver_sql("ALTER TABLE verification ADD COLUMN missing_triggers bigint")
