"""A look at a database that changes nothing: for people who ask why it does not work.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from exporter.core.errors import Misconfigured
from exporter.store import errors
from exporter.store.connections import Database
from exporter.store.dialects.base import Clusters, Dialect, Session
from exporter.store.errors import DatabaseError
from exporter.store.lanes import Lane
from exporter.store.location import SqliteLocation, dialect_of, locate
from exporter.store.schema import migrate
from exporter.store.schema.shape import listed

_ROUND_TRIPS: Final = 3
_MAX_CONNECTIONS: Final = (
    "SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer"
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was seen. ``engine`` says where, too: other settings lead to another database.

    ``seconds`` is the quickest round trip; ``clock`` is the server's time minus this machine's.
    ``problem`` says in a sentence what is wrong with schema or rights, None when nothing is; ``behind`` means that
    ``migrate`` repairs it. ``max_connections`` are the connections that PostgreSQL has for ordinary users. ``clusters``
    are those of servers at work, see ``store.clusters``.
    """

    engine: str
    seconds: float
    clock: float | None
    revision: str
    problem: str | None
    behind: bool
    max_connections: int | None = None
    clusters: Clusters = field(default_factory=dict)


async def _lacking(database: Database, dialect: Dialect) -> str | None:
    """Which rights on the tables the user lacks, in a sentence; None where that is not known."""
    try:
        await database.run(Lane.READ, dialect.check_rights)
    except DatabaseError as failure:
        return failure.text if failure.text.startswith(errors.RIGHTS) else None
    return None


async def diagnose(url: str, timeout: float, schema: str | None = None) -> Diagnosis:
    """Look, within ``timeout`` seconds for each statement. Raises Misconfigured, Unavailable as a start would."""
    dialect = dialect_of(url, schema)
    embedded = isinstance(locate(url), SqliteLocation)
    database = Database(dialect, timeout)

    async def look(session: Session) -> tuple[str, float, float | None, int | None]:
        name = "SQLite" if embedded else "PostgreSQL"
        asked = "sqlite_version()" if embedded else "current_setting('server_version')"
        [[version]] = await session.fetch(f"SELECT {asked}")
        trips = []
        for _ in range(_ROUND_TRIPS):
            begun = time.perf_counter()
            await session.fetch("SELECT 1")
            trips.append(time.perf_counter() - begun)
        ahead = max_connections = None
        if not embedded:  # an embedded database has no clock of its own
            begun = time.time()
            [[there]] = await session.fetch("SELECT clock_timestamp()")
            here = datetime.fromtimestamp((begun + time.time()) / 2, UTC)
            ahead = (there - here).total_seconds()
            [[max_connections]] = await session.fetch(_MAX_CONNECTIONS)
        where = f" at {dialect.place}" if dialect.place else ""
        return f"{name} {str(version).split()[0]}{where}", min(trips), ahead, max_connections

    async def fits(session: Session) -> tuple[str | None, bool]:
        async with dialect.read_transaction(session):
            if (await migrate.current_revision(dialect, session))[0] is None:
                await dialect.check_creation(session)
            found = await migrate.require_current(dialect, session)
        await dialect.check_rights(session)
        if not found:
            return None, False
        behind = any(difference.repair for difference in found)
        advice = (
            f"{migrate.RUN_MIGRATE}, then 'verify'"
            if behind
            else "it was changed by hand, and only by hand can it be put back"
        )
        return f"{listed(found)}: {advice}", behind

    try:
        try:
            engine, seconds, ahead, max_connections = await database.run(Lane.READ, look)
        except DatabaseError as failure:
            raise errors.at_start(failure) from failure
        problem, behind = None, False
        try:
            problem, behind = await database.run(Lane.READ, fits)
        except Misconfigured as error:
            problem, behind = str(error), migrate.RUN_MIGRATE in str(error)
        except DatabaseError as failure:
            problem = failure.told
            if failure.text == errors.RIGHTS:  # on what says which revision it is: on what else?
                problem = await _lacking(database, dialect) or problem
        clusters: Clusters = {}
        with contextlib.suppress(DatabaseError):
            clusters = await database.run(Lane.READ, dialect.clusters)
        return Diagnosis(engine, seconds, ahead, migrate.revisions()[-1], problem, behind, max_connections, clusters)
    finally:
        await database.close(1.0)
