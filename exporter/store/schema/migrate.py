"""Making and upgrading the schema, and telling whether it fits. Knows the revisions by their numbers only.

All pending revisions run in one transaction, data included, behind a lock that a second process waits for: interrupted
half-way nothing has happened, and it can be run again.

Tested in ``tests/store/test_migrations.py``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Final

from sqlalchemy import Connection, text

from exporter.core.errors import Misconfigured
from exporter.store import errors
from exporter.store.dialects.base import Dialect, Session
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.schema import migrations
from exporter.store.schema.shape import TABLES, Difference, listed

RACES: Final = 8
"""How often a migration that the database took back is tried again."""
OLD_SESSIONS: Final = 30.0
"""Seconds at most for a pooler's sessions of another time."""
VERSIONS: Final = "messaging_schema_version"
"""Where the revision stands: a table of our own, beside that of an application that has revisions as well."""
RUN_MIGRATE: Final = "run 'messaging-exporter migrate'"
OLD_VERSIONS: Final = "alembic_version"
"""Where it stood in earlier versions, which used alembic."""
_FIRST: Final = frozenset(name for name, table in TABLES.items() if table.since == "0001")
MADE_BY: Final = {"0001": _FIRST, "0002": _FIRST | {"daily_totals", "verification"}}
"""The revisions that used the old table, and what they had made."""
_CREATE: Final = f"CREATE TABLE {VERSIONS} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"


def revisions() -> tuple[str, ...]:
    """All known revisions, oldest first."""
    return tuple(migrations.REVISIONS)


def upgrade(connection: Connection, revision: str, current: str | None, stands_in: str | None) -> None:
    """Bring the schema to a revision, within the transaction that is open.

    ``current``: the revision that it is at; ``stands_in``: the table that says so; None: there is none.
    """
    if stands_in != VERSIONS:
        connection.exec_driver_sql(_CREATE)
    if stands_in == OLD_VERSIONS:
        # Not renamed: the name of its index would still be in the other application's way.
        connection.exec_driver_sql(f"INSERT INTO {VERSIONS} SELECT version_num FROM {OLD_VERSIONS}")
        connection.exec_driver_sql(f"DROP TABLE {OLD_VERSIONS}")
    known = revisions()
    done = known.index(current) + 1 if current else 0
    wanted = len(known) if revision == "head" else known.index(revision) + 1
    if done >= wanted:
        return
    for number in known[done:wanted]:
        import_module(f"{migrations.__name__}.versions.{migrations.REVISIONS[number]}").upgrade(connection)
    connection.exec_driver_sql(f"DELETE FROM {VERSIONS}")
    connection.execute(text(f"INSERT INTO {VERSIONS} VALUES (:number)"), {"number": known[wanted - 1]})


async def current_revision(dialect: Dialect, session: Session) -> tuple[str | None, str | None]:
    """The revision that the schema is at and the table that says so; (None, …) where nothing of ours is there.

    Raises Misconfigured for a schema that this version does not know, where something of our names is not ours, and
    where nothing tells whether it is.
    """
    there = await dialect.named(session, [VERSIONS, OLD_VERSIONS, *TABLES])
    ours = [name for name in there if name.partition(" ")[0] in TABLES]
    if VERSIONS in there:
        current = [str(row[0]) for row in await session.fetch(f"SELECT version_num FROM {VERSIONS}")]
        _require_known(current)
        if ours and not current:
            raise Misconfigured(
                f"the database's table {VERSIONS} is empty, so nothing tells which revision its tables are of: "
                "put its row back, from a backup if need be"
            )
        return max(current, default=None), VERSIONS
    if OLD_VERSIONS in there and (taken := await _of_earlier_releases(session, ours)) is not None:
        return taken, OLD_VERSIONS
    if ours or (VERSIONS in {name.partition(" ")[0] for name in there}):
        foreign = ours or [name for name in there if name.startswith(VERSIONS)]
        raise Misconfigured(f"{errors.FOREIGN}. They are: {', '.join(foreign)}")
    return None, None


async def _of_earlier_releases(session: Session, ours: Sequence[str]) -> str | None:
    """Up to revision 0002 the version stood in a table that every user of alembic has: is it ours?

    Another application may have a revision of the same name: it is ours when the tables of that revision are there.
    """
    rows = [str(row[0]) for row in await session.fetch(f"SELECT version_num FROM {OLD_VERSIONS}")]
    needed = MADE_BY.get(rows[0]) if len(rows) == 1 else None
    return rows[0] if needed is not None and needed <= set(ours) else None


def _require_known(current: Iterable[str]) -> None:
    for revision in set(current) - set(revisions()):
        raise Misconfigured(
            f"the database's table {VERSIONS} says revision {revision}, and this version of messaging-exporter knows "
            f"none after {revisions()[-1]}: use a version that knows it, such as a newer one"
        )


async def migrate(dialect: Dialect, revision: str = "head") -> list[Difference]:
    """Make or upgrade the schema, and repair it; what is left that nothing needs.

    Raises Misconfigured, or DatabaseError when the database does not answer.
    """
    until, races = time.monotonic() + OLD_SESSIONS, 0
    while True:
        try:
            return await _migrate(dialect, revision)
        except DatabaseError as failure:
            if failure.text == errors.OLD_SESSION and time.monotonic() < until:
                continue  # a pooler may have many of them; each was closed by being asked
            if failure.kind is not ErrorKind.SERIALIZATION or races == RACES:
                raise
            races += 1  # others write: they and the locks of a revision may wait for each other
            await asyncio.sleep(random.uniform(0.01, 0.1))


async def _migrate(dialect: Dialect, revision: str) -> list[Difference]:
    engine = dialect.migrating_engine()
    try:
        async with engine.connect() as connection:
            await dialect.prepare_migration(connection)
            async with connection.begin():
                await dialect.lock_migration(connection)
                session = await dialect.session(connection, None)
                current, stands_in = await current_revision(dialect, session)
                if current is None:
                    await dialect.check_creation(session)
                else:
                    _require_complete(await dialect.differences(session, current))
                await connection.run_sync(upgrade, revision, current, stands_in)
                return await _repair(dialect, session, current) if revision == "head" else []
    except dialect.drivers as error:  # as SQLAlchemy wraps it or as it is
        failure = dialect.translate(error)
        if failure.text == errors.NO_FILE_YET:
            failure = DatabaseError(failure.kind, errors.NO_NEW_FILE, failure.where)
        raise failure from error
    finally:
        await engine.dispose()


async def _repair(dialect: Dialect, session: Session, before: str | None) -> list[Difference]:
    """Revisions change tables and rows; functions and triggers are those of this version, whatever was there.

    ``before``: the revision so far. Where no triggers were, all must be made: totals that nobody keeps are wrong.
    """
    found = await dialect.differences(session)
    if any(difference.repair for difference in found):
        await dialect.repair(session, found)
        found = await dialect.differences(session)
    _require_complete(found)
    lost = [difference for difference in found if difference.repair]
    if lost and before in (None, "0001"):
        raise DatabaseError(ErrorKind.CONFIGURATION, f"{errors.RIGHTS}: {listed(lost)}")
    return found


def _require_complete(found: Sequence[Difference]) -> None:
    """Is there all that is needed? Raises Misconfigured, which says what is not."""
    lost = [difference for difference in found if difference.needed]
    if any(not difference.repair for difference in lost):
        raise Misconfigured(
            f"the database lacks what this program had made, or has it changed: {listed(lost)}. "
            "Undo what was dropped, renamed or changed by hand, or restore it from a backup"
        )
    if lost:
        raise Misconfigured(
            f"the database lacks what this program had made, and its rows or your rights do not let it be made again: "
            f"{listed(lost)}. Remove rows that are there twice, or restore a backup"
        )


async def require_current(
    dialect: Dialect, session: Session, *, repairable: bool = False, compare: bool = True
) -> list[Difference]:
    """Is the schema the one that this version works with? What differs of it that nothing needs. Raises Misconfigured.

    ``repairable``: what is needed may be gone, if it can be made again. ``compare``: False where it was just done.
    "Run migrate" is said where ``migrate`` has something to do and nothing that it refuses is known.
    """
    current, _ = await current_revision(dialect, session)
    if current != revisions()[-1]:
        if current is not None:
            _require_complete(await dialect.differences(session, current))
        found = "not there" if current is None else f"at revision {current}"
        raise Misconfigured(f"the database's schema is {found}: {RUN_MIGRATE}")
    differences = await dialect.differences(session) if compare else []
    lost = [difference for difference in differences if difference.needed]
    if lost and all(difference.repair for difference in lost):
        if repairable:
            return differences
        raise Misconfigured(f"the database lacks what this program had made: {listed(lost)}: {RUN_MIGRATE}")
    _require_complete(lost)
    return differences
