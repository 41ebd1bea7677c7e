"""Making and upgrading the schema, and telling whether it fits. Knows the revisions by their numbers only.

All pending revisions run in one transaction, data included, behind a lock that a second process waits for: interrupted
half-way nothing has happened, and it can be run again.

Tested in ``tests/store/test_migrations.py``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from importlib import import_module
from typing import Final

from sqlalchemy import Connection, text

from exporter.core.errors import Misconfigured
from exporter.store import errors
from exporter.store.dialects.base import Dialect, Session
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.schema import migrations

RACES: Final = 8
"""How often a migration that the database took back is tried again."""
VERSIONS: Final = "messaging_schema_version"
"""Where the revision stands: a table of our own, beside that of an application that has revisions as well."""
OLD_VERSIONS: Final = "alembic_version"
"""Where it stood in earlier versions, which used alembic."""
_FIRST: Final = frozenset({"users", "conversations", "conversation_members", "messages"})
TABLES: Final = _FIRST | {"daily_totals", "verification"}
LATER: Final = frozenset({"user_days"})
"""Made by later revisions."""
MADE_BY: Final = {"0001": _FIRST, "0002": TABLES}
"""The revisions that used the old table, and what they had made."""
_CREATE: Final = f"CREATE TABLE {VERSIONS} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"


def revisions() -> tuple[str, ...]:
    """All known revisions, oldest first."""
    return tuple(migrations.REVISIONS)


def upgrade(connection: Connection, revision: str) -> None:
    """Bring the schema to a revision, within the transaction that is open.

    Raises Misconfigured for a schema that this version does not know, and where tables of these names are not ours.
    """
    present = _tables(connection)
    if VERSIONS not in present:
        ours = OLD_VERSIONS in present and _take_over(connection, present)
        foreign = sorted(present & (TABLES | LATER))
        if foreign and not ours:
            raise Misconfigured(f"{errors.FOREIGN}: {', '.join(foreign)}")
        if not ours:
            connection.exec_driver_sql(_CREATE)
    current = [str(row[0]) for row in connection.exec_driver_sql(f"SELECT version_num FROM {VERSIONS}")]
    _require_known(current)
    known = revisions()
    done = known.index(max(current)) + 1 if current else 0
    wanted = len(known) if revision == "head" else known.index(revision) + 1
    if done >= len(MADE_BY) and (lost := sorted(TABLES - present)):
        raise Misconfigured(
            f"the database's schema is at revision {current[0]} and lacks tables of it: {', '.join(lost)}. "
            "They were dropped or renamed: put them back, from a backup if need be"
        )
    if done >= wanted:
        return
    for number in known[done:wanted]:
        import_module(f"{migrations.__name__}.versions.{migrations.REVISIONS[number]}").upgrade(connection)
    connection.exec_driver_sql(f"DELETE FROM {VERSIONS}")
    connection.execute(text(f"INSERT INTO {VERSIONS} VALUES (:number)"), {"number": known[wanted - 1]})


def _tables(connection: Connection) -> set[str]:
    """Tables and views of the schema that is used."""
    if connection.dialect.name == "sqlite":
        statement = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
    else:
        statement = (
            "SELECT relname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE nspname = current_schema() AND relkind IN ('r', 'p', 'v', 'm', 'f')"
        )
    return set(connection.exec_driver_sql(statement).scalars())


def _take_over(connection: Connection, present: set[str]) -> bool:
    """Up to revision 0002 the version stood in a table that every user of alembic has: move it, where it is ours.

    Another application may have a revision of the same name: it is ours when the tables of that revision are there.
    """
    rows = [str(row) for row in connection.exec_driver_sql(f"SELECT version_num FROM {OLD_VERSIONS}").scalars()]
    needed = MADE_BY.get(rows[0]) if len(rows) == 1 else None
    if needed is None or not needed <= present:
        return False
    # Not renamed: the name of its index would still be in the other application's way.
    connection.exec_driver_sql(_CREATE)
    connection.exec_driver_sql(f"INSERT INTO {VERSIONS} SELECT version_num FROM {OLD_VERSIONS}")
    connection.exec_driver_sql(f"DROP TABLE {OLD_VERSIONS}")
    return True


def _require_known(current: Iterable[str]) -> None:
    for revision in set(current) - set(revisions()):
        raise Misconfigured(
            f"the database's table {VERSIONS} says revision {revision}, and this version of messaging-exporter knows "
            f"none after {revisions()[-1]}: use a version that knows it, such as a newer one"
        )


async def migrate(dialect: Dialect, revision: str = "head") -> None:
    """Make or upgrade the schema. Raises Misconfigured, or DatabaseError when the database does not answer."""
    for attempt in range(RACES + 1):
        try:
            await _migrate(dialect, revision)
            return
        except DatabaseError as failure:  # others write: they and the locks of a revision may wait for each other
            if failure.kind is not ErrorKind.SERIALIZATION or attempt == RACES:
                raise
            await asyncio.sleep(random.uniform(0.01, 0.1))


async def _migrate(dialect: Dialect, revision: str) -> None:
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
        rows = await session.fetch(f"SELECT version_num FROM {VERSIONS}")
    except DatabaseError as failure:
        if failure.text != errors.NO_SCHEMA:
            raise
        rows = []
    current = tuple(str(row[0]) for row in rows)
    _require_known(current)
    if current != revisions()[-1:]:
        found = f"at revision {', '.join(current)}" if current else "not there"
        raise Misconfigured(f"the database's schema is {found}: run 'messaging-exporter migrate'")
