"""Making and upgrading the schema, and telling whether it fits. Knows the revisions by their numbers only.

All pending revisions run in one transaction, data included, behind a lock that a second process waits for: interrupted
half-way nothing has happened, and it can be run again.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Final

from sqlalchemy import Connection, text

from exporter.core.errors import Misconfigured
from exporter.store import errors
from exporter.store.dialects.base import Dialect, Session
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.schema import migrations

# The table's name and form are alembic's, which made it in earlier versions.
_VERSION_TABLE: Final = "alembic_version"
_CREATE: Final = f"CREATE TABLE {_VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"


def revisions() -> tuple[str, ...]:
    """All known revisions, oldest first."""
    return tuple(migrations.REVISIONS)


def upgrade(connection: Connection, revision: str) -> None:
    """Bring the schema to a revision, within the transaction that is open. Raises Misconfigured for a newer schema."""
    if not connection.dialect.has_table(connection, _VERSION_TABLE):
        connection.exec_driver_sql(_CREATE)
    current = [str(row[0]) for row in connection.exec_driver_sql(f"SELECT version_num FROM {_VERSION_TABLE}")]
    _require_known(current)
    known = revisions()
    done = known.index(max(current)) + 1 if current else 0
    wanted = len(known) if revision == "head" else known.index(revision) + 1
    if done >= wanted:
        return
    for number in known[done:wanted]:
        import_module(f"{migrations.__name__}.versions.{migrations.REVISIONS[number]}").upgrade(connection)
    connection.exec_driver_sql(f"DELETE FROM {_VERSION_TABLE}")
    connection.execute(text(f"INSERT INTO {_VERSION_TABLE} VALUES (:number)"), {"number": known[wanted - 1]})


def _require_known(current: Iterable[str]) -> None:
    for revision in set(current) - set(revisions()):
        raise Misconfigured(
            f"the database's schema is at revision {revision}, which this version does not know: "
            "a newer messaging-exporter made it, so use that one"
        )


async def migrate(dialect: Dialect, revision: str = "head") -> None:
    """Make or upgrade the schema. Raises Misconfigured, or DatabaseError when the database does not answer."""
    engine = dialect.migrating_engine()
    try:
        async with engine.connect() as connection:
            await dialect.prepare_migration(connection)
            async with connection.begin():
                await dialect.lock_migration(connection)
                await connection.run_sync(upgrade, revision)
                if revision == "head":
                    await _put_triggers(dialect, await dialect.session(connection, None))
    except (DatabaseError, Misconfigured):
        raise
    except Exception as error:  # whatever a driver raises, as SQLAlchemy wraps it or as it is
        failure = dialect.translate(error)
        if failure.text == errors.NO_FILE_YET:
            failure = DatabaseError(failure.kind, errors.NO_NEW_FILE)
        raise failure from error
    finally:
        await engine.dispose()


async def _put_triggers(dialect: Dialect, session: Session) -> None:
    """Revisions change tables and rows; the triggers are those of this version, whatever an earlier one had made."""
    if await dialect.differing_triggers(session):
        await dialect.restore_triggers(session)


async def require_current(session: Session) -> None:
    """Is the schema the one that this version works with? Raises Misconfigured."""
    try:
        rows = await session.fetch(f"SELECT version_num FROM {_VERSION_TABLE}")
    except DatabaseError as failure:
        if failure.kind is not ErrorKind.CONFIGURATION:
            raise
        rows = []
    current = tuple(str(row[0]) for row in rows)
    _require_known(current)
    if current != revisions()[-1:]:
        found = f"at revision {', '.join(current)}" if current else "not there"
        raise Misconfigured(f"the database's schema is {found}: run 'messaging-exporter migrate'")
