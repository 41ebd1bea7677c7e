"""What the two databases do differently, as one interface. Knows no statement: those are in ``queries``.

A statement is written once, with ``$1`` … for parameters and with the rows that it is about in a source that the
dialect makes: ``json_each`` of one JSON text on SQLite (it runs in C, without the interpreter's lock), ``unnest`` of
one array per column on PostgreSQL. So a thousand rows are one statement, and its triggers fire once.

Tested in ``tests/store/test_verify.py``.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import uuid4

from exporter.store.engine import AsyncConnection, AsyncEngine
from exporter.store.errors import USELESS, DatabaseError, ErrorKind
from exporter.store.schema.shape import Difference

Row = Sequence[Any]
"""A row of a result, or of a source's values: ``str``, ``int``, ``bool``, ``None`` and what ``moment`` makes."""


_IN_THE_WAY = (ErrorKind.CONFIGURATION, ErrorKind.CONFLICT, ErrorKind.DATA)
"""Rows or rights do not let something be made."""


_DRY_RUN = (
    "INSERT INTO users (id) VALUES ($1)",
    "INSERT INTO conversations (id) VALUES ($1)",
    "INSERT INTO conversation_members (conversation_id, user_id) VALUES ($1, $1)",
    "INSERT INTO messages (conversation_id, seq, sender_id, body) VALUES ($1, 1, $1, 'would a message be stored?')",
    "UPDATE conversation_members SET last_read_seq = 1 WHERE conversation_id = $1",
    "DELETE FROM messages WHERE conversation_id = $1",
    "DELETE FROM conversation_members WHERE conversation_id = $1",
)


Clusters = dict[int, set[str]]
"""Servers at work, by the number of their cluster: the addresses from which they come, as far as there are any."""
LIVELY = 15
"""Seconds within which a server at work has used its database: three of its questions whether that takes writes."""


class Session(Protocol):
    """One connection that somebody has taken, outside or inside a transaction that they opened themselves."""

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """Run one statement and return all its rows. Raises DatabaseError and nothing else."""

    async def execute(self, sql: str) -> None:
        """Run one statement that has neither parameters nor rows."""

    async def abort(self) -> None:
        """Make the statement under way end soon, with DatabaseError; the connection is of no more use."""


@contextlib.asynccontextmanager
async def transaction(session: Session, begin: str) -> AsyncIterator[None]:
    """All of what is done within it or nothing; ``begin`` opens it. Raises DatabaseError, with what made it fail."""
    await session.execute(begin)
    try:
        yield
        await session.execute("COMMIT")
    except DatabaseError as failure:
        try:
            await session.execute("ROLLBACK")
        except DatabaseError:
            # Nothing is left to undo, or nobody to ask: such a connection must not be used again.
            raise DatabaseError(ErrorKind.DISCONNECTED, failure.text, failure.where) from failure
        raise


Ask = Callable[..., Awaitable[Sequence[Row]]]
"""Runs a statement with its parameters, as ``Session.fetch`` does."""


class Dialect(ABC):
    """One kind of database at one place."""

    name: str
    cluster: int | None = None
    """Which servers hear each other, while this is one: connections that are made say so. None: this is no server."""
    place: str = ""
    """The file, or the server's addresses: for logs and terminals only. Empty where it is not known."""
    begin: str
    """Opens a transaction that will write."""
    begin_writing: str
    """Opens a transaction of the writer, for whom what somebody else holds is not worth waiting for."""
    compact: tuple[str, ...]
    """Put the shards of the days before ``$1`` together, within a transaction."""
    latest_day: str
    """The UTC day that it will be in an hour, by the database's clock: what lies beyond has not come."""
    drivers: tuple[type[Exception], ...]
    """What the driver raises of itself; anything else is a defect of ours."""
    behind: str
    """Whether the server that answers may lack what another one has acknowledged, as SQL."""
    which: str
    """Tells a database from others, as a query."""
    lock: str
    """Ends a SELECT that must have the rows to itself; the names of the tables may follow ``OF``."""

    @abstractmethod
    def engine(self, timeout: float, connections: int) -> AsyncEngine:
        """A pool of at most that many connections, whose statements take ``timeout`` seconds at most."""

    @abstractmethod
    def maintenance_engine(self, timeout: float) -> AsyncEngine:
        """One connection, reached within ``timeout`` seconds, whose statements may take as long as they need."""

    @abstractmethod
    def migrating_engine(self) -> AsyncEngine:
        """One connection, without a time limit on statements, that may create what does not exist."""

    @abstractmethod
    async def prepare_migration(self, connection: AsyncConnection) -> None:
        """What must be set outside of a transaction, and what must be found wrong before anything is made."""

    async def check_creation(self, session: Session) -> None:
        """May the user make the tables, where there are none? Raises DatabaseError, which says what to grant."""
        return  # whoever may write to the folder of a file may

    @abstractmethod
    async def lock_migration(self, connection: AsyncConnection) -> None:
        """Wait until no other process migrates, and keep them out until the transaction ends."""

    @contextlib.asynccontextmanager
    async def read_transaction(self, session: Session) -> AsyncIterator[None]:
        """A transaction that writes nothing.

        It is left open by a refusal for which the connection is cut: so a pooler closes its session, too. That one may
        have the defaults of another time, and would be handed out for an hour after they were changed.
        """
        await session.execute("BEGIN")
        try:
            yield
        except DatabaseError as failure:
            if failure.kind not in USELESS:
                await session.execute("ROLLBACK")
            raise
        await session.execute("COMMIT")

    @abstractmethod
    async def check_rights(self, session: Session) -> None:
        """May this user do all that the store does? Raises DatabaseError; changes nothing."""

    @abstractmethod
    async def check_writing(self, session: Session, *, doubtful: bool) -> None:
        """Does it take writes at this moment? Raises DatabaseError. ``doubtful``: the last write failed."""

    async def dry_run(self, session: Session) -> None:
        """Do all that is ever written, and take it back: what refuses a command refuses this. Raises DatabaseError."""
        name = f"rehearsal-{uuid4().hex}"
        await session.execute(self.begin_writing)
        try:
            for statement in _DRY_RUN:
                await session.fetch(statement, name)
        except DatabaseError:
            with contextlib.suppress(DatabaseError):
                await session.execute("ROLLBACK")
            raise
        await session.execute("ROLLBACK")

    async def identity(self, session: Session) -> str:
        """Which database this is: one word, whoever asks and whatever it is reached by. Raises DatabaseError.

        Empty where this user may not ask.
        """
        try:
            [[word]] = await session.fetch(self.which)
        except DatabaseError as failure:
            if failure.kind is not ErrorKind.CONFIGURATION:
                raise
            return ""
        return str(word)

    async def clusters(self, session: Session) -> Clusters:
        """Which servers are at work here? Raises DatabaseError."""
        return {}  # of a file nobody knows who has it open

    @abstractmethod
    async def named(self, session: Session, names: Sequence[str]) -> list[str]:
        """What has one of these names where our tables are, and what it is where it is no table."""

    @abstractmethod
    async def differences(self, session: Session, revision: str | None = None) -> list[Difference]:
        """What is not as this version makes it, what others need first; ``revision``: tables and columns of that."""

    async def repair(self, session: Session, differences: Sequence[Difference]) -> None:
        """Make again what can be made, each for itself, within the transaction that is open."""
        for difference in differences:
            if not difference.repair:
                continue
            await session.execute("SAVEPOINT repairing")
            try:
                for statement in difference.repair:
                    await session.execute(statement)
            except DatabaseError as failure:
                if failure.kind not in _IN_THE_WAY:
                    raise
                await session.execute("ROLLBACK TO SAVEPOINT repairing")
            await session.execute("RELEASE SAVEPOINT repairing")

    @abstractmethod
    async def lock_holders(self, ask: Ask) -> list[str]:
        """Who holds what this program has been waiting for: "process 4711 (psql, idle in transaction)".

        ``ask`` runs a statement on another connection, where one is needed. Raises DatabaseError.
        """

    @abstractmethod
    async def session(self, connection: AsyncConnection, deadline: float | None) -> Session:
        """The driver's own connection behind the pool's, for statements that end before a time of the loop's clock."""

    @abstractmethod
    def translate(self, error: BaseException) -> DatabaseError:
        """What a driver's error means."""

    @abstractmethod
    def check(self) -> None:
        """Is the place still what it was when it was first opened? Cheap; raises DatabaseError."""

    @abstractmethod
    def remember_identity(self) -> None:
        """From now on the place is what it is at this moment."""

    @abstractmethod
    def source(self, **columns: str) -> str:
        """A SELECT of the rows given as parameters from ``$1`` on: ``pos`` from 1, then the named columns.

        Kinds of columns are ``text``, ``bigint`` and ``timestamptz``.
        """

    @abstractmethod
    def pack(self, rows: Sequence[Row]) -> tuple[Any, ...]:
        """The parameters for ``source``."""

    @abstractmethod
    def time(self, expression: str) -> str:
        """A stored time as something that ``when`` reads."""

    @abstractmethod
    def utc_day(self, expression: str) -> str:
        """The UTC day of a stored time."""

    @abstractmethod
    def when(self, value: Any) -> datetime:
        """A time out of a row, in UTC."""

    @abstractmethod
    def moment(self, value: datetime) -> Any:
        """A time as a parameter, plain or in a source."""

    @abstractmethod
    def day(self, value: datetime) -> Any:
        """A UTC day as a plain parameter."""
