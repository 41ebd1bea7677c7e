"""One connection to PostgreSQL: how it is made, used and found wanting. Knows no table.

Behind a pooler such as pgbouncer each transaction may run on another of the server's sessions, so nothing may be left
in one: no setting but within a transaction, no named statement. Whether somebody stands in between is seen, not
configured: the process that answers is not the one that the greeting named.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from exporter.store import errors
from exporter.store.dialects.base import Row
from exporter.store.dialects.libpq import Target
from exporter.store.dialects.postgresql_errors import DRIVERS, translate_error
from exporter.store.dialects.several_hosts import Hosts, connect
from exporter.store.dialects.unreached import unreached
from exporter.store.errors import DatabaseError, ErrorKind

APPLICATION: Final = "messaging-exporter"
GOODBYE: Final = 0.25
"""Seconds that a server has to hang up."""


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """asyncpg's, and what is known of the way to the server."""

    local: str | None = None
    """What to set in each transaction; None where it was set for the session, which nobody else uses."""
    warned: bool = False
    """Has the server warned since this was last set back?"""

    async def close(self, *, timeout: float | None = None) -> None:
        """Say goodbye; who does not answer is cut off, or a frozen server would never let this program end."""
        with contextlib.suppress(TimeoutError):
            await super().close(timeout=min(timeout or GOODBYE, GOODBYE))


class Connector:
    """Makes connections to one target, each with the same settings; remembers whether there is a pooler."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._pooled: bool | None = None

    @property
    def application(self) -> str:
        """The name under which the server knows this program's sessions."""
        return self.target.settings.get("application_name", APPLICATION)

    async def connect(self, timeout: float, settings: Mapping[str, str]) -> Connection:
        """A connection within ``timeout`` seconds. Raises DatabaseError."""
        hosts: Hosts = self.target.hosts
        until = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(until):
                while True:
                    left = until - asyncio.get_running_loop().time()
                    connection, hosts = await self._open(hosts, left)
                    if await self._prepare(connection, {**settings, **self.target.settings}):
                        return connection
        except (*DRIVERS, ValueError) as error:
            # A ValueError's words would repeat parts of the URL.
            known = isinstance(error, DRIVERS)
            failure = translate_error(error) if known else DatabaseError(ErrorKind.CONFIGURATION, errors.BAD_URL)
            if failure.kind in (ErrorKind.DISCONNECTED, ErrorKind.TIMEOUT):
                failure = DatabaseError(
                    failure.kind, failure.text, failure.where or unreached(self.target.place, error)
                )
            raise failure from error

    async def _open(self, hosts: Hosts, timeout: float) -> tuple[Connection, Hosts]:
        # Only what every pooler lets through: pgbouncer refuses a connection for any other.
        settings = {
            "application_name": self.application,
            "timezone": "UTC",
        }
        unnamed: dict[str, Any] = {"statement_cache_size": 0} if self._pooled is not False else {}
        return await connect(
            self.target.dsn,
            hosts,
            timeout,
            each=self.target.connect_timeout,
            server_settings=settings,
            connection_class=Connection,
            **unnamed,
        )

    async def _prepare(self, connection: Connection, settings: Mapping[str, str]) -> bool:
        """Set what is to be set; False when the connection was made for another kind of way, and is closed."""
        try:
            await connection.execute("BEGIN")  # so that a pooler keeps to one session for these statements
            pooled = connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()")
            expected, self._pooled = self._pooled, pooled
            if pooled is expected:
                if pooled:
                    connection.local = f"SELECT {_configs(settings, local=True)}"
                else:
                    await connection.execute(f"SELECT {_configs(settings, local=False)}")
            await connection.execute("COMMIT")
        except BaseException:  # cancelled, too: half prepared it is of no use
            connection.terminate()
            raise
        if pooled is not expected:
            connection.terminate()
            return False
        connection.add_log_listener(_warned)
        return True


_COMMIT: Final = "synchronous_commit"
# Acknowledged means durable: a commit that PostgreSQL tells of before it is written is lost when the server crashes.
# What else somebody has set for everybody is about standbys, and theirs to decide.
_DURABLE: Final = f"coalesce(nullif(current_setting('{_COMMIT}'), 'off'), 'local')"


def _configs(settings: Mapping[str, str], *, local: bool) -> str:
    """``set_config`` of each: a SET would take a search path of two schemas for the name of one."""
    # Whatever somebody has set: a commit that its standby may lack is told by a warning and by nothing else.
    wanted = {**settings, "client_min_messages": "warning"}
    values = {_COMMIT: _DURABLE, **{name: _literal(value) for name, value in wanted.items()}}
    return ", ".join(
        f"set_config({_literal(name)}, {value}, {'true' if local else 'false'})" for name, value in values.items()
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _warned(connection: Connection, message: Any) -> None:
    # Of a trigger that others deferred to the commit it has a context.
    if message.severity_en == "WARNING" and not message.context:
        connection.warned = True


class PostgresSession:
    """One asyncpg connection; each statement is one round trip, or a transaction of its own behind a pooler."""

    def __init__(self, driver: Connection, deadline: float | None) -> None:
        self._driver = driver
        self._deadline = deadline

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """Run one statement and return all its rows; one that takes too long is cancelled on the server too."""
        if self._driver.local is None or self._driver.is_in_transaction():
            return await self._fetch(sql, *args)
        await self.execute("BEGIN")
        try:
            rows = await self._fetch(sql, *args)
            await self.execute("COMMIT")
        except DatabaseError as failure:
            if failure.kind is not ErrorKind.DISCONNECTED:
                await self.execute("ROLLBACK")
            raise
        return rows

    async def _fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        try:
            rows: Sequence[Row] = await self._driver.fetch(sql, *args, timeout=self._limit())
        except Exception as error:  # a connection that dies breaks the driver in any way: see _meant
            raise self._meant(error) from error
        return rows

    async def execute(self, sql: str) -> None:
        """Run one statement, or several, by the simple protocol: nothing is prepared."""
        try:
            if sql == "COMMIT":
                await self._commit()
            elif sql.startswith("BEGIN") and self._driver.local is not None:
                more = sql.removeprefix("BEGIN")
                begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; {self._driver.local}{more}"
                await self._driver.execute(begin, timeout=self._limit())
            else:
                await self._driver.execute(sql, timeout=self._limit())
        except Exception as error:  # a connection that dies breaks the driver in any way: see _meant
            if sql.startswith("BEGIN"):
                # What waits in a pooler's queue cannot be cancelled: it would be carried out when nobody wants it any
                # more, and keep the pooler's session from everybody.
                self._driver.terminate()
            raise self._meant(error) from error

    def _meant(self, error: Exception) -> Exception:
        """An error of the database's as one; a defect as it is. A connection that dies breaks the driver, too."""
        if isinstance(error, (*DRIVERS, ValueError, OverflowError, DatabaseError)):
            return translate_error(error)
        return DatabaseError(ErrorKind.DISCONNECTED, errors.LOST) if self._driver.is_closed() else error

    async def _commit(self) -> None:
        """Commit, and wait for a synchronous standby as long as it takes.

        A cancel request, as the driver's time limit sends it, would end that wait with a success: the commit is then
        on this server and perhaps on no other, and the first failover would lose what had been acknowledged. So none
        is sent, the connection is cut instead; and when somebody else's ends the wait, the server warns.
        """
        self._driver.warned = False
        await self._driver.execute("COMMIT")
        if self._driver.warned:
            raise DatabaseError(ErrorKind.DISCONNECTED, errors.UNREPLICATED)

    def _limit(self) -> float | None:
        if self._deadline is None:
            return None
        # A little before the caller gives up, so that the cancelling gets on its way before the connection is cut.
        left = self._deadline - asyncio.get_running_loop().time()
        return max(0.001, left - min(0.05, left * 0.1))

    async def abort(self) -> None:
        """Cut the connection; ``statement_timeout`` ends what the server may still be doing."""
        self._driver.terminate()

    @property
    def pooled(self) -> bool:
        """Is there a pooler, whose sessions others have used before?"""
        return self._driver.local is not None


class PoolDialect(PGDialect_asyncpg):
    """SQLAlchemy's, without what it asks on each connection: those are statements outside a transaction."""

    supports_statement_cache = True

    def initialize(self, connection: Any) -> None:
        """Nothing is compiled that depends on the server's version."""

    def on_connect(self) -> None:
        """No JSON is read."""


registry.register("postgresql.messaging", __name__, "PoolDialect")
