"""PostgreSQL through asyncpg: time limits on both sides, rights, and what its errors mean.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import AsyncAdaptedQueuePool

from exporter.core.errors import Misconfigured
from exporter.store import errors
from exporter.store.dialects.base import LIVELY, Ask, Clusters, Dialect, Row, Session
from exporter.store.dialects.libpq import target
from exporter.store.dialects.postgresql_connection import Connection, Connector, PostgresSession
from exporter.store.dialects.postgresql_errors import DRIVERS, translate_error
from exporter.store.dialects.postgresql_locks import LOCK_HOLDERS
from exporter.store.engine import AsyncConnection, AsyncEngine, create_async_engine
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.schema import catalogue_postgresql, triggers_postgresql
from exporter.store.schema.shape import ADD_TO_DAY, ADDED, COLUMNS, SUMMED, Difference

OLDEST = 150_000
"""PostgreSQL 15: older ones are not tried."""
LOCK_WAIT = 100
"""Milliseconds that a transaction of the writer waits for a row: another node's takes some milliseconds."""
VERIFY_LOCK_WAIT = 3.0
"""Seconds that a verification waits for a row or a table."""
CONNECT_WAIT = 60.0
"""Seconds to reach the server for a migration."""
ASLEEP = 30.0
"""Seconds until the transaction of a command is ended whose process or machine is asleep or gone: it holds rows."""
TELL_WAIT = 1.0
"""Seconds at most until a new session says whose it is."""

EARLIEST = "timestamptz '0001-01-01 00:00Z'"
LATEST = "timestamptz '9999-12-31 23:59:59.999Z'"

SETTINGS = {
    # Stricter levels, as a database may set them for everybody, would take transactions back for nothing: what is read
    # and then relied on is locked first.
    "default_transaction_isolation": "read committed",
    # The statements are few and their arrays of any length; planning each of them anew took as long as running it.
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    # The catalogue's own words for a column, a type or a function are compared with those that were seen before.
    "quote_all_identifiers": "off",
}
"""What each connection sets for itself, in the session or in each transaction."""

_STATE = """
current_setting('transaction_read_only') = 'on', pg_is_in_recovery(),
(SELECT extract(epoch FROM clock_timestamp() - backend_start) FROM pg_stat_get_activity(pg_backend_pid()))
"""
OLD = 1.0
"""Seconds of age by which a pooler's session was opened for somebody else, with the defaults of that time."""


_CLUSTER = "hashtext('messaging-exporter server ' || current_schema())"
_CLUSTERS = f"""
SELECT DISTINCT CAST(l.objid AS bigint), coalesce(host(a.client_addr), '')
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid AND a.datid = l.database
WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = CAST({_CLUSTER} AS oid)
    AND a.datname = current_database() AND a.state_change > clock_timestamp() - {LIVELY} * interval '1 second'
"""
"""A session of a machine that has gone stays for hours, and does nothing. What other users do is told to few."""


def is_of_the_server(schema: str) -> bool:
    """Is it one where the server keeps its own?"""
    return schema == "information_schema" or schema.startswith("pg_")


def _untimed() -> dict[str, str]:
    """Settings of a command whose statements may take as long as they need."""
    return {"statement_timeout": "0", "idle_in_transaction_session_timeout": f"{round(ASLEEP * 1000)}"}


def _require_writable(session: Session, read_only: bool, standby: bool, age: float | None) -> None:
    if standby:  # it may be promoted, or the address may move to another server
        raise DatabaseError(ErrorKind.READ_ONLY, errors.STANDBY)
    if read_only:
        pooled = isinstance(session, PostgresSession) and session.pooled
        text = errors.OLD_SESSION if pooled and (age or 0) > OLD else errors.READ_ONLY
        raise DatabaseError(ErrorKind.READ_ONLY, text)


class PostgresDialect(Dialect):
    """One database on one server."""

    name = "postgresql"
    begin = "BEGIN"
    compact = (
        # One statement, so that nothing changes between counting a row and removing it.
        f"WITH gone AS (DELETE FROM daily_totals WHERE day < $1 AND shard <> 0 RETURNING *) {ADD_TO_DAY} "
        f"SELECT day, 0, {SUMMED} FROM gone GROUP BY day ORDER BY day {ADDED}",
    )
    latest_day = triggers_postgresql.day("(now() + interval '1 hour')")
    drivers = (*DRIVERS, SQLAlchemyError, ValueError)
    behind = "(SELECT pg_is_in_recovery())"
    which = catalogue_postgresql.WHICH
    lock = " FOR NO KEY UPDATE"
    begin_writing = f"BEGIN; SET LOCAL lock_timeout = {LOCK_WAIT}"

    def __init__(self, dsn: str, schema: str | None = None) -> None:
        if schema is not None and is_of_the_server(schema):
            raise Misconfigured(f"--database.schema {schema} is PostgreSQL's own: choose another name")
        self._schema = schema
        self._connector = Connector(target(dsn, schema))
        self.place = self._connector.target.place

    def engine(self, timeout: float, connections: int) -> AsyncEngine:
        """A small pool; no statement takes longer, and no transaction is left open by a process that fell asleep."""
        settings = {
            # Every statement here is index look-ups, whatever the statistics of a table that was empty a minute ago
            # make the planner believe when it plans for good.
            "enable_seqscan": "off",
            "statement_timeout": f"{max(1, round(timeout * 1000))}",
            "idle_in_transaction_session_timeout": f"{max(10_000, round(timeout * 2000))}",
        }
        return self._engine(connections, self._connect(timeout, settings, of_a_server=True))

    def maintenance_engine(self, timeout: float) -> AsyncEngine:
        """One connection of its own."""
        settings = {**_untimed(), "lock_timeout": f"{round(VERIFY_LOCK_WAIT * 1000)}"}
        return self._engine(1, self._connect(timeout, settings))

    def migrating_engine(self) -> AsyncEngine:
        """One connection that may take its time."""
        return self._engine(1, self._connect(CONNECT_WAIT, _untimed()))

    def _engine(self, connections: int, connect: Callable[[], Awaitable[Any]]) -> AsyncEngine:
        return create_async_engine(
            "postgresql+messaging://",  # the URL goes to asyncpg
            connect_args={
                "async_creator_fn": connect,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": str,  # no name
            },
            poolclass=AsyncAdaptedQueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_reset_on_return=None,  # whoever opens a transaction ends it
        )

    def _connect(
        self, timeout: float, settings: dict[str, str], *, of_a_server: bool = False
    ) -> Callable[[], Awaitable[Any]]:
        async def connect() -> Any:
            connection = await self._connector.connect(timeout, {**SETTINGS, **settings})
            if of_a_server and self.cluster is not None and connection.local is None:
                await self._tell(connection, self.cluster)
            return connection

        return connect

    async def _tell(self, connection: Connection, cluster: int) -> None:
        """A lock that is never in anybody's way says for as long as the session lives which server's it is.

        Not in a pooler's session: it would say so of whoever has that next.
        """
        with contextlib.suppress(*DRIVERS):  # whoever may not lock is not seen; a dead connection is noticed by its use
            await connection.execute(f"SELECT pg_try_advisory_lock_shared({_CLUSTER}, {cluster})", timeout=TELL_WAIT)

    async def clusters(self, session: Session) -> Clusters:
        """Those of all sessions that were used lately."""
        found: Clusters = {}
        for cluster, address in await session.fetch(_CLUSTERS):
            found.setdefault(cluster, set()).update({address} - {""})
        return found

    async def prepare_migration(self, connection: AsyncConnection) -> None:
        """Is it a server that this works with? Makes the schema, if one was named."""
        session = await self.session(connection, None)
        async with self.read_transaction(session):
            rows = await session.fetch(
                "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), "
                f"current_schema(), {_STATE}"
            )
            version, encoding, schema, *state = rows[0]
            if version < OLDEST:
                raise Misconfigured(f"the database server is PostgreSQL {version // 10000}: 15 or newer is needed")
            if encoding != "UTF8":
                raise Misconfigured(f"the database's encoding is {encoding}: UTF8 is needed")
            _require_writable(session, *state)
            if schema is None and self._schema is not None:
                await self.check_creation(session)
                await session.execute(f"CREATE SCHEMA IF NOT EXISTS {triggers_postgresql.quoted(self._schema)}")
            elif schema is None:
                raise Misconfigured("the database user's search path names no schema that exists")
            elif is_of_the_server(schema):
                raise Misconfigured(f"the schema {schema} is PostgreSQL's own: the search path must begin with another")

    async def check_creation(self, session: Session) -> None:
        """Since PostgreSQL 15 only the database's owner may make tables in ``public``."""
        named = None if self._schema is None else triggers_postgresql.quoted(self._schema)
        [[user, database, schema, there, may_make, may_use]] = await session.fetch(
            """
            SELECT quote_ident(current_user), quote_ident(current_database()), quote_ident(current_schema()),
                to_regnamespace($1) IS NOT NULL, has_database_privilege(current_database(), 'CREATE'),
                has_schema_privilege(current_schema(), 'CREATE')
            """,
            named,
        )
        if may_use or (schema is None and may_make and not there):
            return
        needed = f"CREATE ON SCHEMA {schema}" if schema else f"CREATE ON DATABASE {database}"
        if schema is None and there:
            needed = f"USAGE, CREATE ON SCHEMA {named}"
        raise DatabaseError(ErrorKind.CONFIGURATION, f"{errors.RIGHTS}: GRANT {needed} TO {user} gives it")

    async def lock_migration(self, connection: AsyncConnection) -> None:
        """An advisory lock per schema, held until the transaction ends; behind a pooler, its settings too.

        The pooler may have given this transaction another session than the one that was asked before.
        """
        driver = (await connection.get_raw_connection()).driver_connection
        if isinstance(driver, Connection) and driver.local is not None:
            await connection.exec_driver_sql(driver.local)
        await connection.exec_driver_sql(
            "SELECT pg_advisory_xact_lock(hashtextextended('messaging-exporter ' || current_schema(), 0))"
        )
        session = await self.session(connection, None)
        _require_writable(session, *(await session.fetch(f"SELECT {_STATE}"))[0])

    async def check_rights(self, session: Session) -> None:
        """Does the user have every right that the statements need?"""
        async with self.read_transaction(session):
            await self._require_rights(session)

    async def _require_rights(self, session: Session) -> None:
        rows = await session.fetch(
            f"""
            SELECT string_agg(r || ' on ' || t, ', ') FILTER (WHERE NOT has_table_privilege(t, r)), {_STATE}
            FROM (VALUES ('users', 'SELECT'), ('users', 'INSERT'), ('conversations', 'SELECT'),
                ('conversations', 'INSERT'), ('conversations', 'UPDATE'), ('conversation_members', 'SELECT'),
                ('conversation_members', 'INSERT'), ('conversation_members', 'UPDATE'),
                ('conversation_members', 'DELETE'), ('messages', 'SELECT'), ('messages', 'INSERT'),
                ('messages', 'DELETE'), ('daily_totals', 'SELECT'), ('verification', 'SELECT')) AS need (t, r)
            """
        )
        lacking, *state = rows[0]
        if lacking is not None:
            raise DatabaseError(ErrorKind.CONFIGURATION, f"{errors.RIGHTS}: {lacking}")
        _require_writable(session, *state)

    async def check_writing(self, session: Session, *, doubtful: bool) -> None:
        """A commit that changes nothing, and that waits for the disk and for a synchronous standby as any other."""
        await session.execute(self.begin)
        try:
            await self._require_rights(session)
            await session.fetch(COLUMNS)
            try:
                await session.fetch("SELECT pg_logical_emit_message(true, 'messaging-exporter', 'writable')")
            except DatabaseError as failure:
                if failure.kind is not ErrorKind.CONFIGURATION:
                    raise
                await session.execute("ROLLBACK")  # somebody has taken that right away
            else:
                await session.execute("COMMIT")
        except DatabaseError as failure:
            if failure.kind not in errors.USELESS:  # those are cut off within the transaction, see ``read_transaction``
                await session.execute("ROLLBACK")
            raise
        if doubtful:
            await self.dry_run(session)

    async def named(self, session: Session, names: Sequence[str]) -> list[str]:
        """Relations and types: each kind is in the way of a table."""
        return await catalogue_postgresql.named(session, names)

    async def differences(self, session: Session, revision: str | None = None) -> list[Difference]:
        """Also triggers that are switched off, functions that were made for another schema or changed, partitions."""
        return await catalogue_postgresql.differences(session, revision)

    async def lock_holders(self, ask: Ask) -> list[str]:
        """As the server knows them; of other users' sessions only the process may be seen."""
        return [row[0] for row in await ask(LOCK_HOLDERS, self._connector.application)]

    async def session(self, connection: AsyncConnection, deadline: float | None) -> Session:
        """The asyncpg connection behind the pool's."""
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        assert isinstance(driver, Connection)  # noqa: S101 — the engine above makes no other
        return PostgresSession(driver, deadline)

    def translate(self, error: BaseException) -> DatabaseError:
        """What an error means, SQLAlchemy's wrapping taken off."""
        return translate_error(getattr(error, "orig", None) or error)

    def check(self) -> None:
        """A server is asked by asking."""

    def remember_identity(self) -> None:
        """Nothing to remember."""

    def source(self, **columns: str) -> str:
        """The rows of one array per column."""
        arrays = ", ".join(f"${i}::{kind}[]" for i, kind in enumerate(columns.values(), start=1))
        names = ", ".join(columns)
        return f"SELECT pos, {names} FROM unnest({arrays}) WITH ORDINALITY AS u ({names}, pos)"

    def pack(self, rows: Sequence[Row]) -> tuple[Any, ...]:
        """One list per column."""
        return tuple(list(column) for column in zip(*rows, strict=True))

    def time(self, expression: str) -> str:
        """As it is, but within the years 1 to 9999: the driver has no others, and one such row would fail all."""
        return (
            f"CASE WHEN {expression} < {EARLIEST} THEN {EARLIEST} "
            f"WHEN {expression} > {LATEST} THEN {LATEST} ELSE {expression} END"
        )

    def utc_day(self, expression: str) -> str:
        """As the triggers take it."""
        return triggers_postgresql.day(expression)

    def when(self, value: Any) -> datetime:
        """As it is: asyncpg gives aware times in UTC."""
        found: datetime = value
        return found

    def moment(self, value: datetime) -> Any:
        """As it is."""
        return value.astimezone(UTC)

    def day(self, value: datetime) -> Any:
        """A date."""
        return value.astimezone(UTC).date()
