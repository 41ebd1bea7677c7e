"""Making and upgrading the schema, and telling whether it fits. Knows the revisions only as alembic shows them.

All pending revisions run in one transaction, data included, behind a lock that a second process waits for: interrupted
half-way nothing has happened, and it can be run again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from exporter.core.errors import Misconfigured
from exporter.store import errors
from exporter.store.dialects.base import Dialect, Session
from exporter.store.errors import DatabaseError, ErrorKind


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@functools.cache
def revisions() -> tuple[str, ...]:
    """All known revisions, oldest first."""
    script = ScriptDirectory.from_config(_config())
    return tuple(revision.revision for revision in script.walk_revisions())[::-1]


def upgrade(connection: Connection, revision: str) -> None:
    """Bring the schema to a revision, within the transaction that is open. Raises Misconfigured for a newer schema."""
    _require_known(MigrationContext.configure(connection).get_current_heads())
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


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
        rows = await session.fetch("SELECT version_num FROM alembic_version")
    except DatabaseError as failure:
        if failure.kind is not ErrorKind.CONFIGURATION:
            raise
        rows = []
    current = tuple(str(row[0]) for row in rows)
    _require_known(current)
    if current != revisions()[-1:]:
        found = f"at revision {', '.join(current)}" if current else "not there"
        raise Misconfigured(f"the database's schema is {found}: run 'messaging-exporter migrate'")
