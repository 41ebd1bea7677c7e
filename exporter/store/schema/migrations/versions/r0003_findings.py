"""A column for what is wrong with triggers; and the triggers by which a day in the future gives way to the next message.

The triggers themselves are the living ones, which ``migrate`` puts in place after the last revision.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing is known of the triggers until they are looked at."""
    op.get_bind().exec_driver_sql("ALTER TABLE verification ADD COLUMN missing_triggers bigint")
