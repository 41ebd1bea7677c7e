"""The database: messages, members, read marks, and totals that are exact after every commit.

``Store`` is what a node has of it. Behind it: ``writer`` (group commit), ``queue`` (what it takes of each user),
``transaction`` (one commit), ``pending`` and ``locked_rows`` (who waits, and for whose row), ``queries`` and
``conversations`` (SQL for both databases), ``memberships`` (coalesced look-ups), ``coalescing`` (batching window),
``totals`` (the collector's statement), ``verify`` (the recount), ``lanes`` (whose turn it is), ``connections`` (pools,
time limits), ``upkeep`` (from time to time), ``clusters`` (who does not hear whom), ``dialects``, ``schema``
(migrations, triggers).

Others import small parts beside it: errors, where a database is (``location``), what ``doctor`` asks (``diagnosis``).

It may not know a connection of a client, a frame, a metric or a broker.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from exporter.core.errors import BadFrame, Refusal, Unavailable
from exporter.core.records import Conversation, DayTotals, Draft, Membership, Message, PoolStats, ReadMark, Totals
from exporter.store import days, errors, totals, upkeep
from exporter.store.connections import Database, Work
from exporter.store.conversations import Conversations
from exporter.store.dialects.base import Clusters, Dialect, Session
from exporter.store.errors import DatabaseError
from exporter.store.lanes import Lane
from exporter.store.location import dialect_of
from exporter.store.memberships import MembershipLookups
from exporter.store.queries import Queries
from exporter.store.registrations import MAX_WAITING
from exporter.store.schema import migrate
from exporter.store.storable import number, require_storable
from exporter.store.transaction import MarkItem, SendItem
from exporter.store.writer import Writer

__all__ = ["Store", "utcnow"]

T = TypeVar("T")


def utcnow() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Store:
    """The database of one process, used from one event loop.

    Every method that refuses does so with a ``Refusal`` and has then changed nothing that it knows of; ``Unavailable``
    means that trying again is right. Nothing here blocks the loop or takes longer than ``timeout`` seconds (``migrate``
    excepted), however the database hangs.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        timeout: float = 5.0,
        clock: Callable[[], datetime] = utcnow,
        on_resolved: Callable[[Message], None] = lambda message: None,
        on_failed: Callable[[str], object] = lambda task: None,
    ) -> None:
        """Open nothing yet.

        Args:
            url: see ``exporter.store.location.locate``; raises Misconfigured.
            schema: of PostgreSQL, where the tables are; None: the first of the user's search path.
            timeout: seconds, of one statement and of anything that is asked here.
            clock: the time, aware; what "now" and "today" are.
            on_resolved: called once, on the loop, with each message whose sender was told ``Unavailable`` or nothing
                and that turned out to be durable; before the answer to a repetition of it.
            on_failed: called with ``writer`` or ``memberships`` when a defect ended that task, which then goes on.
        """
        self._dialect: Dialect = dialect_of(url, schema)
        self.place = self._dialect.place  # the file, or the server's hosts and ports: fit to be shown
        self._timeout = timeout
        self._clock = clock
        self._on_resolved = on_resolved
        self._queries = Queries(self._dialect)
        self._conversations = Conversations(self._dialect)
        self._database = Database(self._dialect, timeout)
        self._on_failed = on_failed
        self._joins = MembershipLookups(self._database, self._queries, self._looked, on_failed)
        self.findings = totals.Findings()
        """What is known to be wrong with the figures, by whomever it was found."""
        self._writer: Writer | None = None
        self._compared = False  # has ``migrate`` just done it?
        self._unregistered: set[str] = set()  # who came before the database could be reached

    # --- life ---------------------------------------------------------------------------------------------

    async def migrate(self, revision: str = "head") -> list[str]:
        """Create or upgrade the schema, and repair it; all of it or nothing, also when two processes do it at once.

        What is not as it was made, cannot be made again and is not needed is returned, a line each.

        Raises:
            Misconfigured: rights, password, path, a newer schema, something that is needed and gone.
            Unavailable: it cannot be reached or is locked; the caller may try again.
        """
        try:
            left = await migrate.migrate(self._dialect, revision)
        except DatabaseError as failure:
            raise errors.at_start(failure) from failure
        self._compared = revision == "head"
        return [str(difference) for difference in left]

    async def start(self, cluster: int | None = None) -> None:
        """Check place, schema and rights, begin to work; a server says in which cluster. Errors as of ``migrate``."""
        self._dialect.cluster = cluster
        try:
            await self._database.run(Lane.READ, self._check)
        except DatabaseError as failure:
            raise errors.at_start(failure) from failure
        self._dialect.remember_identity()
        self._database.start_writing()
        if self._writer is None:
            self._writer = Writer(self._database, self._queries, self._clock, self._on_resolved, self._on_failed)
            for user in self._unregistered:
                self._writer.register(user)
            self._unregistered.clear()

    async def _check(self, session: Session) -> None:
        async with self._dialect.read_transaction(session):
            await migrate.require_current(self._dialect, session, compare=not self._compared)
        await self._dialect.check_rights(session)

    async def close(self) -> None:
        """Finish what is queued, for ``timeout`` seconds at most, then close all connections."""
        if self._writer is not None:
            await self._writer.close(self._timeout)
        self._joins.close()
        await self._database.close(1.0)

    @property
    def timeout(self) -> float:
        """Seconds that anything takes at most."""
        return self._timeout

    @property
    def up(self) -> bool:
        """Did the latest use of the database succeed?"""
        return self._database.up

    @property
    def error(self) -> str | None:
        """Why it did not: one of a few sentences, without anything secret."""
        return self._database.error

    @property
    def write_error(self) -> str | None:
        """Why writing fails, whether or not reading works; None while the database takes writes."""
        return self._database.write_error

    async def watch_writing_forever(self) -> None:
        """Ask every few seconds whether the database takes writes, unless something was just written; until cancelled.

        So a read-only server, a standby or a full disk is noticed without a message, and its end: see ``write_error``.
        """
        await upkeep.watch_writing(self._database, self._dialect, self._timeout)

    async def clusters(self) -> Clusters:
        """Servers that work with this database now, where it can tell; see ``store.clusters``. Raises Unavailable."""
        return await self._read(self._dialect.clusters)

    async def identity(self) -> str:
        """Which database this is, in a word; empty where nobody knows. Raises Unavailable."""
        return await self._read(self._dialect.identity)

    def pool(self) -> PoolStats:
        """Connections in use and idle."""
        return self._database.pool()

    # --- messages -----------------------------------------------------------------------------------------

    def send(self, draft: Draft, done: Callable[[Message | Refusal, bool], None]) -> None:
        """Queue a message to be stored.

        ``done(result, duplicate)`` is called exactly once, on the loop, after this has returned, in the order of
        commits: with the durable message (``duplicate``: it had been stored before), or with a Refusal. After
        ``Unavailable`` the message may be durable all the same: then ``on_resolved`` tells.

        Raises:
            Unavailable: too much is queued; ``done`` is not called.
            BadFrame: it holds what no database stores; ``done`` is not called.
        """
        require_storable(draft.conversation, draft.sender, draft.id, draft.body)
        self._writing().put(SendItem(done, draft))

    def mark_read(self, user: str, conversation: str, seq: int, done: Callable[[ReadMark | Refusal], None]) -> None:
        """Queue a read mark; ``done`` and errors as with ``send``."""
        require_storable(user, conversation)
        self._writing().put(MarkItem(done, user, conversation, number(seq)))

    async def delete_message(self, conversation: str, seq: int, by: str, admin: bool) -> None:
        """Delete a message; only its sender or an admin may. Raises NotFound, Forbidden, Unavailable."""
        require_storable(conversation, by)
        await self._writing().operate(
            "delete",
            by,
            lambda s, _: self._conversations.delete_message(s, conversation, number(seq), by, admin),
            conversation,
        )

    async def messages_after(
        self, conversation: str, user: str, after: int, limit: int, characters: int = 2**62
    ) -> tuple[list[Message], int]:
        """The next messages after a number, and the conversation's last. Raises NotFound, Forbidden, Unavailable.

        They may be fewer than there are when their bodies have more than so many characters together.
        """
        require_storable(conversation, user)
        return await self._read(
            lambda s: self._conversations.after(s, conversation, user, number(after), limit, characters), user
        )

    async def messages_between(self, conversation: str, after: int, through: int, limit: int) -> list[Message]:
        """Messages after a number, up to another, in order, whoever asks. Raises Unavailable."""
        return await self._read(lambda s: self._conversations.between(s, conversation, after, through, limit))

    # --- users and members --------------------------------------------------------------------------------

    async def register(self, user: str) -> bool:
        """Have a row made for a user; True when it is durable, False when it will be made later, by itself.

        Nobody waits for a user who was registered a short time ago, and a quarter of a second at most for another.
        """
        writer = self._writer
        try:
            require_storable(user)
        except BadFrame:
            return False
        if writer is None:
            if len(self._unregistered) < MAX_WAITING:
                self._unregistered.add(user)
            return False
        asked = None if (known := writer.is_known(user)) else writer.ask(user)
        if known or asked is not None:
            self._joins.require_row(user)  # others may have deleted it
        return known or await (asked or writer.register(user))

    def _looked(self, user: str, has_row: bool) -> None:
        if self._writer is not None:
            self._writer.looked(user, has_row)

    def membership(self, conversation: str, user: str) -> asyncio.Future[Membership]:
        """What a join needs to know; the future may raise NotFound, Unavailable. Raises BadFrame."""
        require_storable(conversation, user)
        return self._joins.membership(conversation, user)

    async def memberships(self, pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        """For each (conversation, user); None where there is no such conversation. Raises Unavailable."""
        found = await self._read(lambda session: self._queries.memberships(session, pairs))
        return [membership for membership, _ in found]

    async def create_conversation(self, id: str | None, creator: str, participants: Sequence[str]) -> Conversation:
        """Make a conversation with its members, the creator included. Raises Conflict, Unavailable."""
        name = uuid.uuid4().hex if id is None else id
        require_storable(name, creator, *participants)
        return await self._writing().operate(
            "create",
            creator,
            lambda s, now: self._conversations.create(s, now, name, creator, participants),
            rows=2 + len(participants),
        )

    async def conversations_of(self, user: str, after: str = "", limit: int = 1_000) -> list[Conversation]:
        """The next conversations of a member behind a name, by name; 100 members of each. Raises Unavailable."""
        require_storable(user, after)
        return await self._read(lambda s: self._conversations.of(s, user, after, limit), user)

    async def members(self, conversation: str, user: str, after: str, limit: int) -> tuple[list[str], int]:
        """The next members behind a name, by name, and how many there are. Raises NotFound, Forbidden, Unavailable."""
        require_storable(conversation, user, after)
        return await self._read(lambda s: self._conversations.members(s, conversation, user, after, limit), user)

    async def add_participants(self, conversation: str, by: str, users: Sequence[str]) -> Conversation:
        """Add members; any member may. Raises NotFound, Forbidden, Unavailable."""
        require_storable(conversation, by, *users)
        return await self._writing().operate(
            "add",
            by,
            lambda s, _: self._conversations.add(s, conversation, by, users),
            conversation,
            rows=1 + len(users),
        )

    async def remove_participant(self, conversation: str, by: str, user: str) -> None:
        """Remove a member; any member may. Raises NotFound, Forbidden, Unavailable."""
        require_storable(conversation, by, user)
        await self._writing().operate(
            "remove", by, lambda s, _: self._conversations.remove(s, conversation, by, user), conversation
        )

    # --- figures ------------------------------------------------------------------------------------------

    async def totals(self, timeout: float) -> Totals:
        """All figures, in one round trip. Raises Unavailable within ``timeout`` seconds, the statement ended too."""
        self._writing()  # before the start nobody has looked whether there are tables to be counted
        try:
            found = await self._database.run(
                Lane.TOTALS,
                lambda session: totals.read(session, self._dialect, self._clock()),
                min(timeout, self._timeout),
            )
        except DatabaseError as failure:
            raise Unavailable(failure.text) from failure
        self.findings.tell(found.inaccurate_conversations, found.inaccurate_days, found.missing_triggers)
        return found

    async def largest_conversations(self, number: int) -> list[tuple[str, int | None, int]]:
        """Names, messages (None: not known) and members of the largest conversations. Raises Unavailable."""
        return await self._read(lambda session: self._conversations.largest(session, number))

    async def days(self, count: int) -> list[DayTotals]:
        """The last ``count`` UTC days, today included, the oldest first. Raises Unavailable."""
        return await self._read(lambda session: days.read(session, self._dialect, self._clock(), count))

    def now(self) -> datetime:
        """The time, by the store's clock."""
        return self._clock()

    def maintenance(self) -> Database:
        """A connection beside all others whose statements may take long: for ``verify``, which closes it."""
        return Database(self._dialect, self._timeout, self._dialect.maintenance_engine(self._timeout))

    async def tidy_forever(self) -> None:
        """Put the shards of past days together from time to time; until cancelled. For a task of its own."""
        await upkeep.tidy(self._database, self._dialect, self.now)

    # --- within -------------------------------------------------------------------------------------------

    def _writing(self) -> Writer:
        if self._writer is None:
            raise Unavailable("the database is not ready")
        return self._writer

    async def _read(self, work: Work[T], user: str | None = None) -> T:
        try:
            return await self._database.run(Lane.READ, work, whose=user)
        except DatabaseError as failure:
            raise Unavailable(failure.text) from failure
