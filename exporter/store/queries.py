"""The statements of the writer and the readers, written once for both databases. Knows no transaction and no queue.

Each is about many rows at once and keeps the order of what it was given. On PostgreSQL rows are locked in the order of
their keys, so that two writers of several conversations wait for each other and do not lock each other out.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from exporter.core.records import Membership, Message
from exporter.store import errors
from exporter.store.dialects.base import Dialect, Session
from exporter.store.errors import DatabaseError, ErrorKind

Key = tuple[str, str, str]
"""Conversation, sender, client's id: what makes a message the same one."""


class Stored(NamedTuple):
    """What the database knows of a key: None where there is no conversation, or no such message."""

    last_seq: int | None
    seq: int | None
    body: str | None
    sent_at: datetime | None
    registered: bool
    """Has the sender a row? Asked, not remembered: others may have deleted it."""


class Mark(NamedTuple):
    """What the database knows of a read mark: None where there is no conversation, membership or message."""

    last_seq: int | None
    last_read: int | None
    sent_at: datetime | None


class Queries:
    """The statements in one dialect; each method is one round trip."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        d = dialect
        self._lock = f"""
            SELECT id FROM conversations
            WHERE id IN (SELECT id FROM ({d.source(id="text")}) AS w) ORDER BY id{d.lock}
        """
        self._look_up = f"""
            WITH wanted AS ({d.source(conversation="text", sender="text", client="text")}),
            held AS (
                SELECT id, last_seq FROM conversations
                WHERE id IN (SELECT conversation FROM wanted) ORDER BY id{d.lock}
            )
            SELECT h.last_seq, m.seq, m.body, {d.time("m.sent_at")}, CASE WHEN u.id IS NULL THEN 0 ELSE 1 END
            FROM wanted AS w
            LEFT JOIN held AS h ON h.id = w.conversation
            LEFT JOIN users AS u ON u.id = w.sender
            LEFT JOIN messages AS m
                ON m.conversation_id = w.conversation AND m.sender_id = w.sender AND m.client_id = w.client
            ORDER BY w.pos
        """
        columns = {
            "conversation": "text",
            "seq": "bigint",
            "sender": "text",
            "client": "text",
            "body": "text",
            "sent_at": "timestamptz",
        }
        self._insert = f"""
            INSERT INTO messages (conversation_id, seq, sender_id, client_id, body, sent_at)
            SELECT conversation, seq, sender, client, body, sent_at FROM ({d.source(**columns)}) AS w ORDER BY pos
            RETURNING 1
        """
        self._register = f"""
            INSERT INTO users (id, created_at)
            SELECT id, created_at FROM ({d.source(id="text", created_at="timestamptz")}) AS w WHERE true ORDER BY id
            ON CONFLICT (id) DO NOTHING RETURNING 1
        """
        # Joined, the marks would be looked through for each that is wanted: PostgreSQL takes them to be few. So they
        # are put beside the rest by their place.
        self._marks = f"""
            WITH wanted AS ({d.source(conversation="text", reader="text", seq="bigint")}),
            held AS (
                SELECT w.pos, own.last_read_seq FROM wanted AS w
                JOIN conversation_members AS own ON own.conversation_id = w.conversation AND own.user_id = w.reader
                ORDER BY own.conversation_id, own.user_id{d.lock and f"{d.lock} OF own"}
            )
            SELECT max(last_seq), max(last_read), max(sent_at) FROM (
                SELECT w.pos, c.last_seq, NULL AS last_read, {d.time("m.sent_at")} AS sent_at
                FROM wanted AS w
                LEFT JOIN conversations AS c ON c.id = w.conversation
                LEFT JOIN messages AS m ON m.conversation_id = w.conversation AND m.seq = w.seq
                UNION ALL SELECT pos, NULL, last_read_seq, NULL FROM held
            ) AS found GROUP BY pos ORDER BY pos
        """
        self._move = f"""
            WITH wanted AS ({d.source(conversation="text", reader="text", seq="bigint")})
            UPDATE conversation_members SET last_read_seq = w.seq FROM wanted AS w
            WHERE conversation_members.conversation_id = w.conversation
                AND conversation_members.user_id = w.reader AND conversation_members.last_read_seq < w.seq
        """
        self._memberships = f"""
            SELECT c.last_seq, CASE WHEN m.user_id IS NULL THEN 0 ELSE 1 END, CASE WHEN u.id IS NULL THEN 0 ELSE 1 END,
                {d.behind}
            FROM ({d.source(conversation="text", member="text")}) AS w
            LEFT JOIN users AS u ON u.id = w.member
            LEFT JOIN conversations AS c ON c.id = w.conversation
            LEFT JOIN conversation_members AS m ON m.conversation_id = w.conversation AND m.user_id = w.member
            ORDER BY w.pos
        """

        self._locked = {
            kind: f"""
            WITH wanted AS ({d.source(**dict.fromkeys(key, "text"))}),
            free AS (
                SELECT {", ".join(key)} FROM {table}
                WHERE ({", ".join(key)}) IN (SELECT {", ".join(key)} FROM wanted){d.lock} SKIP LOCKED
            )
            SELECT {", ".join(key)} FROM {table}
            WHERE ({", ".join(key)}) IN (SELECT {", ".join(key)} FROM wanted)
            EXCEPT SELECT {", ".join(key)} FROM free
            """
            for kind, table, key in (
                ("conversation", "conversations", ("id",)),
                ("user", "users", ("id",)),
                ("member", "conversation_members", ("conversation_id", "user_id")),
            )
        }

    async def lock(self, session: Session, conversations: Sequence[str]) -> None:
        """Wait until no other transaction is at work on these conversations, and keep them."""
        await session.fetch(self._lock, *self.dialect.pack([(name,) for name in conversations]))

    async def look_up(self, session: Session, keys: Sequence[Key]) -> list[Stored]:
        """For each key: its conversation, held from now on, and the message if it is there."""
        found = []
        rows = await session.fetch(self._look_up, *self.dialect.pack(keys))
        for last_seq, seq, body, sent_at, registered in rows:
            at = None if sent_at is None else self.dialect.when(sent_at)
            found.append(Stored(last_seq, seq, body, at, bool(registered)))
        return found

    async def insert(self, session: Session, messages: Sequence[Message]) -> None:
        """Store messages, whose numbers are given. Raises DatabaseError where a trigger of others leaves one out."""
        moment = self.dialect.moment
        rows = [(m.conversation, m.seq, m.sender, m.id, m.body, moment(m.sent_at)) for m in messages]
        inserted = await session.fetch(self._insert, *self.dialect.pack(rows))
        if len(inserted) < len(messages):
            # Left out without a word, or put elsewhere, such as into a table that inherits from this one.
            found = await self.look_up(session, [(m.conversation, m.sender, m.id) for m in messages])
            if any(stored.seq is None for stored in found):
                raise DatabaseError(ErrorKind.REFUSED, errors.REFUSED_BY_TRIGGER)

    async def register(self, session: Session, users: Sequence[str], now: datetime) -> int:
        """Make rows for users that have none; how many were made."""
        created_at = self.dialect.moment(now)
        made = await session.fetch(self._register, *self.dialect.pack([(user, created_at) for user in users]))
        return len(made)

    async def marks(self, session: Session, wanted: Sequence[tuple[str, str, int]]) -> list[Mark]:
        """For each (conversation, user, seq): the state of the mark, held from now on, and of the message."""
        found = []
        for last_seq, last_read, sent_at in await session.fetch(self._marks, *self.dialect.pack(wanted)):
            found.append(Mark(last_seq, last_read, None if sent_at is None else self.dialect.when(sent_at)))
        return found

    async def move(self, session: Session, wanted: Sequence[tuple[str, str, int]]) -> None:
        """Move read marks forward."""
        await session.fetch(self._move, *self.dialect.pack(wanted))

    async def memberships(
        self, session: Session, wanted: Sequence[tuple[str, str]]
    ) -> list[tuple[Membership | None, bool]]:
        """For each (conversation, user): None where there is no such conversation; and has the user a row?

        Where a standby lacks the conversation, nobody is a member yet.
        """
        rows: Sequence[Any] = await session.fetch(self._memberships, *self.dialect.pack(wanted))
        return [
            (
                None if last_seq is None and not behind else Membership(bool(member), last_seq or 0, bool(behind)),
                bool(registered),
            )
            for last_seq, member, registered, behind in rows
        ]

    async def locked(self, session: Session, kind: str, keys: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Which rows that are there somebody else has locked: ``conversation``, ``user`` or ``member``."""
        return [tuple(row) for row in await session.fetch(self._locked[kind], *self.dialect.pack(keys))]
