"""Totals that triggers keep: their table, the backfill of what is there, and the triggers, in one transaction."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Count what is there and keep it counted; nobody can write in between."""
    bind = op.get_bind()
    if bind.dialect.name == "sqlite":
        from exporter.store.schema.migrations.frozen import r0002_sqlite

        statements = r0002_sqlite.statements()
    else:
        from exporter.store.schema.migrations.frozen import r0002_postgresql

        statements = r0002_postgresql.statements(bind.exec_driver_sql("SELECT current_schema()").scalar_one())
    for statement in statements:
        bind.exec_driver_sql(statement)
