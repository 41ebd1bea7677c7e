"""PostgreSQL: one connection, short read-only transactions, and nothing that outlives them.

Each reading is one REPEATABLE READ, READ ONLY transaction of a few seconds at most, so vacuum is never held back for
longer. Settings are set in the transaction, so that a pooler in transaction mode will do. Works on a hot standby.

Tested in ``tests/observe/test_harmless.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from exporter.core.errors import Misconfigured
from exporter.observe.connections import Horizon, Row, Snapshot
from exporter.observe.mapping import Dialect
from exporter.observe.records import SourceError
from exporter.store import errors
from exporter.store.dialects.libpq import Target, target
from exporter.store.dialects.postgresql_errors import translate_error
from exporter.store.dialects.several_hosts import connect
from exporter.store.dialects.unreached import unreached

T = TypeVar("T")

LONGEST: Final = 4.5
"""Seconds that a transaction may take: vacuum waits for the oldest one."""
CONNECT: Final = 10.0
LOCK_WAIT: Final = "200ms"
"""An administrator's exclusive lock is not waited for: whoever comes after us would wait as long."""
STRAYED: Final = "the standby does not keep up with a server, and how old its figures are is not known"
REWRITTEN: Final = "a table was rewritten, emptied or replaced while it was read"
_REWRITTEN: Final = (
    "SELECT 1 FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation "
    "WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND (c.oid IS NULL OR c.relkind IN ('r', 'm') "
    "AND c.relfilenode <> 0 AND c.relfilenode <> pg_relation_filenode(c.oid)) LIMIT 1"
)
"""A row where a table that this transaction reads is another one than its snapshot knows.

Who changes a column's type makes the table anew, with rows that no earlier snapshot sees: it is empty there. The
snapshot is taken before a table's lock is waited for. What is read as a table is of the snapshot, the function's
answer is of now; both stay as they are, as long as the lock is held.
"""

_BY_STATE: Final = (  # SQLSTATE, or its beginning: words, is it a matter of time, does it last
    ("57014", errors.TIMEOUT, True, False),
    ("55P03", errors.LOCKED, False, False),
    ("57P", errors.STARTING, False, False),
    ("40", errors.RACED, True, False),
    ("28", errors.PASSWORD, False, True),
    ("3D", errors.NO_DATABASE, False, True),
    (
        "42883",
        "columns that are compared are of different types: a person's or conversation's id in two tables",
        False,
        True,
    ),
    ("42804", "a column is not of the type that the mapping says", False, True),
    ("42501", errors.RIGHTS + ": observe --check prints the GRANT statements", False, True),
    ("42", "the source lacks tables or columns that are needed: observe --check says which", False, True),
    ("53", errors.CROWDED, False, False),
    ("58", errors.BROKEN_DISK, False, False),
    ("08", errors.LOST, False, False),
)


def source_error(error: BaseException) -> SourceError:
    """What an error of the driver means; its own words may hold a password or somebody's message."""
    if isinstance(error, SourceError):
        return error
    if "statement pooling mode" in str(error):  # pgbouncer, which hangs up at the same moment
        return SourceError(errors.STATEMENT_POOLING, lasting=True)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        for start, text, slow, lasting in _BY_STATE:
            if state.startswith(start):
                return SourceError(text, slow=slow, lasting=lasting)
        return SourceError(errors.UNKNOWN)
    if isinstance(error, TimeoutError):
        return SourceError(errors.TIMEOUT, slow=True)
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return SourceError(errors.BAD_URL, lasting=True)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return SourceError(errors.LOST)
    if isinstance(error, OSError):
        return SourceError(errors.UNREACHABLE)
    return SourceError(errors.UNKNOWN)


def _not_connected(error: BaseException) -> SourceError:
    """Of who is not let in: nothing has been read, so it is no matter of tables; as the server tells it of its own."""
    known = translate_error(error)
    return SourceError(
        known.text, slow=known.kind is errors.ErrorKind.TIMEOUT, lasting=known.kind is errors.ErrorKind.CONFIGURATION
    )


class _Snapshot:
    def __init__(self, connection: Any, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    async def fetch(self, sql: str) -> Sequence[Row]:
        left = self._deadline - asyncio.get_running_loop().time()
        rows: Sequence[Row] = await self._connection.fetch(sql, timeout=max(0.05, left))
        return rows

    async def expect_many(self) -> None:
        """Of a table that was never analysed, one row is expected, and each of a million was compared with each."""
        await self._connection.execute("SET LOCAL enable_nestloop = off")


class PostgresReader:
    """One database on one server."""

    dialect = Dialect("postgresql")
    page_seconds = (
        1.0  # each page hashes the tables that it is compared with: at 0.25 s that was nearly all of the work
    )
    full_speed_page_seconds = 2.6

    read_mode = f"in read-only transactions of at most {LONGEST:g} s, on one connection"

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Any = None
        self._lock = asyncio.Lock()

    async def read(self, work: Callable[[Snapshot], Awaitable[T]], seconds: float) -> T:
        """In one transaction; one that was cut off or timed out takes its connection with it."""
        seconds = min(seconds, LONGEST)
        async with self._lock:
            connected = ended = False
            try:
                connection = await self._connected(seconds)
                connected = True
                # The clock starts before the transaction does: nothing of it is older than what was promised.
                deadline = asyncio.get_running_loop().time() + seconds
                await connection.execute(_begin(seconds), timeout=seconds)
                result = await work(snapshot := _Snapshot(connection, deadline))
                if await snapshot.fetch(_REWRITTEN):
                    raise SourceError(REWRITTEN)
                await connection.execute("ROLLBACK", timeout=1.0)
                ended = True
                return result
            except OverflowError as error:  # of the driver: Python has no later times
                raise SourceError(errors.BEYOND_TIME, lasting=True) from error
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                failure = source_error(error) if connected else _not_connected(error)
                if not connected and not failure.lasting:
                    failure.where = unreached(self._target().place, error)
                raise failure from error
            finally:
                if not ended:
                    await self._end()

    async def _connected(self, seconds: float) -> Any:
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection, _ = await connect(
                    self._dsn,
                    self._target().hosts,
                    min(seconds, CONNECT),
                    statement_cache_size=0,  # nothing prepared by name: a pooler may give the next one another server
                    server_settings={"application_name": "messaging-exporter observe"},
                )
            except ValueError as error:  # whose words would repeat parts of the URL
                raise SourceError(errors.BAD_URL, lasting=True) from error
        return self._connection

    def _target(self) -> Target:
        with contextlib.suppress(Misconfigured):  # an option that only ``serve`` would refuse
            return target(self._dsn, several=True)
        return Target(self._dsn)

    async def _end(self) -> None:
        """After a failure: give the connection back in order where it still answers at once, else cut it."""
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            await asyncio.shield(connection.execute("ROLLBACK", timeout=0.2))
            self._connection = connection
        except BaseException as error:  # cancelled, too: the transaction must end in any case
            connection.terminate()
            if isinstance(error, asyncio.CancelledError):
                raise

    async def identity(self) -> dict[str, Any]:
        """The database's oid, and the server's own number where that may be asked for."""

        async def work(snapshot: Snapshot) -> dict[str, Any]:
            rows = await snapshot.fetch("SELECT oid::bigint FROM pg_database WHERE datname = current_database()")
            allowed = await snapshot.fetch("SELECT has_function_privilege('pg_control_system()', 'EXECUTE')")
            found: dict[str, Any] = {"database": rows[0][0]}
            if allowed[0][0]:
                system = await snapshot.fetch("SELECT s.system_identifier::text FROM pg_control_system() s")
                found |= {"system": system[0][0]}
            return found

        return await self.read(work, LONGEST)

    async def columns(self) -> dict[str, dict[str, str]]:
        """By the catalog, which shows also what this user may not read. A domain's type is the one below it."""

        async def work(snapshot: Snapshot) -> dict[str, dict[str, str]]:
            rows = await snapshot.fetch(
                "SELECT n.nspname::text, c.relname::text, pg_table_is_visible(c.oid), a.attname::text, "
                "format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, NULL) "
                "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid "
                "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped "
                "AND n.nspname !~ '^(pg_|information_schema$)'"
            )
            found: dict[str, dict[str, str]] = {}
            for schema, table, visible, column, type_ in rows:
                for name in (f"{schema}.{table}", *([table] if visible else [])):
                    found.setdefault(name, {})[column] = type_
            return found

        return await self.read(work, LONGEST)

    async def horizon(self, snapshot: Snapshot) -> Horizon | None:
        """Of a standby with its age: that of the latest commit, unless it has all that a server sends it now.

        A snapshot knows the latest transaction that has ended: above it some may be open, which its age tells.
        """
        ((oldest, above, open_, behind),) = await snapshot.fetch(
            "SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text, age(pg_snapshot_xmax(s)::xid), "
            "CASE WHEN NOT pg_is_in_recovery() "
            "OR pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() AND EXISTS (SELECT 1 FROM pg_stat_wal_receiver) "
            "THEN 0 ELSE date_part('epoch', clock_timestamp() - pg_last_xact_replay_timestamp()) END "
            "FROM pg_current_snapshot() s"
        )
        if behind is None:
            raise SourceError(STRAYED)
        return Horizon(int(oldest), int(above) + open_, max(0.0, behind))

    async def close(self) -> None:
        """Say goodbye to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await connection.close(timeout=1.0)


def _begin(seconds: float) -> str:
    limit = max(1, round(seconds * 1000))
    return (
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
        f"SET LOCAL statement_timeout = {limit}; SET LOCAL lock_timeout = '{LOCK_WAIT}'; "
        f"SET LOCAL idle_in_transaction_session_timeout = {limit}; "
        # By the default, made for disks, two thousand rows are compared with a whole table rather than by its index.
        "SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off; SET LOCAL random_page_cost = 1.1; "
        "SET LOCAL timezone = 'UTC'"
    )
