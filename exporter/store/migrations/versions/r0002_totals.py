"""Totals that triggers keep: their table, the backfill of what is there, and the triggers, in one transaction."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Count what is there and keep it counted; nobody can write in between."""
    if op.get_bind().dialect.name == "sqlite":
        from exporter.store.migrations.totals_sqlite import statements
    else:
        from exporter.store.migrations.totals_postgresql import statements
    for statement in statements():
        op.get_bind().exec_driver_sql(statement)
