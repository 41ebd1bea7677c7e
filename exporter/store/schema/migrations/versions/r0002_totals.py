"""Totals that triggers keep: their table, the backfill of what is there, and the triggers, in one transaction."""

from __future__ import annotations

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Count what is there and keep it counted; nobody can write in between."""
    if connection.dialect.name == "sqlite":
        from exporter.store.schema.migrations.frozen import r0002_sqlite

        statements = r0002_sqlite.statements()
    else:
        from exporter.store.schema.migrations.frozen import r0002_postgresql

        statements = r0002_postgresql.statements(connection.exec_driver_sql("SELECT current_schema()").scalar_one())
    for statement in statements:
        connection.exec_driver_sql(statement)
