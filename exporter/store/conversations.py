"""Conversations, their members and their history: what the HTTP routes ask. Knows no HTTP.

Changes are operations within the writer's transactions, so they share its flushes and its order; reads take a
connection of their own.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec

from exporter.core.errors import Conflict, Forbidden, NotFound
from exporter.core.records import Conversation, Message
from exporter.store import errors
from exporter.store.dialects.base import Dialect, Row, Session
from exporter.store.errors import DatabaseError, ErrorKind

LISTED = 100
"""Members of each conversation in a list of many."""
SHOWN = 1_000
"""Members of one conversation that is shown by itself."""
PAGE = 100
"""Messages that SQLite reads at once: a thousand of the largest are 64 MB, and an answer has room for 4."""
SLICE = 50
"""Conversations whose members are read from JSON in one turn of the loop: a quarter of a millisecond."""

_names = msgspec.json.Decoder(tuple[str, ...]).decode


def _conversation(row: Row, most: int) -> Conversation:
    name, messages, last_seq, members, count = row
    listed = tuple(sorted(_names(members))) if members is not None else ()
    return Conversation(name, messages if messages >= 0 else None, last_seq, listed, count if count > most else None)


class Conversations:
    """The statements of the routes in one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._add = f"""
            INSERT INTO conversation_members (conversation_id, user_id)
            SELECT conversation, member FROM ({dialect.source(conversation="text", member="text")}) AS w
            WHERE true ORDER BY member ON CONFLICT (conversation_id, user_id) DO NOTHING
        """
        members = {
            "sqlite": "SELECT json_group_array(user_id) FROM ({}) AS l",
            "postgresql": "SELECT CAST(json_agg(user_id) AS text) FROM ({}) AS l",
        }[dialect.name]
        columns = f"""
            c.id, c.total_messages, c.last_seq,
            ({members.format("SELECT user_id FROM conversation_members WHERE conversation_id = c.id LIMIT %d")}),
            (SELECT count(*) FROM conversation_members WHERE conversation_id = c.id)
        """
        # Names are compared by code points on both databases, whatever order a database has for its texts.
        name = {"sqlite": "{}", "postgresql": '{} COLLATE "C"'}[dialect.name].format
        self._one = f"SELECT {columns % SHOWN} FROM conversations AS c WHERE c.id = $1"
        self._mine = f"""
            SELECT {columns % LISTED} FROM conversation_members AS mine
            JOIN conversations AS c ON c.id = mine.conversation_id
            WHERE mine.user_id = $1 AND {name("mine.conversation_id")} > $2
            ORDER BY {name("mine.conversation_id")} LIMIT $3
        """
        self._members = f"""
            SELECT user_id FROM conversation_members
            WHERE conversation_id = $1 AND {name("user_id")} > $2 ORDER BY {name("user_id")} LIMIT $3
        """
        # Until the transaction ends: whoever is about to delete it waits, as for whoever adds a row that refers to it.
        self._held = {"sqlite": "", "postgresql": " FOR KEY SHARE OF c"}[dialect.name]
        self._after = f"""
            SELECT seq, sender_id, client_id, body, {dialect.time("sent_at")} FROM messages
            WHERE conversation_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
        """
        # The same, as many as fit, and the size of all of them. PostgreSQL looks up how large a body is, and each
        # part is a round trip. SQLite has to read a body for it, so there it is as well to read a few at once.
        self._most_at_once = {"sqlite": PAGE, "postgresql": None}[dialect.name]
        self._fitting = {
            "sqlite": self._after.replace(" FROM", ", 0 FROM").replace(" ORDER", " AND $5 >= 0 ORDER"),
            "postgresql": f"""
                SELECT seq, sender_id, client_id, body, {dialect.time("sent_at")}, through FROM (
                    SELECT seq, sender_id, client_id, body, sent_at, octet_length(body) AS size,
                        CAST(sum(octet_length(body)) OVER (ORDER BY seq) AS bigint) AS through
                    FROM messages WHERE conversation_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
                ) AS m WHERE through - size <= $5 ORDER BY seq
            """,
        }[dialect.name]

    async def create(
        self, session: Session, now: datetime, name: str, creator: str, participants: Sequence[str]
    ) -> Conversation:
        """Make a conversation with its members. Raises Conflict."""
        there = "SELECT 1 FROM conversations WHERE id = $1"
        made = await session.fetch(  # for one that is there no trigger of others does anything
            f"INSERT INTO conversations (id, created_at) SELECT $1, $2 WHERE NOT EXISTS ({there}) "
            "ON CONFLICT (id) DO NOTHING RETURNING id",
            name,
            self._dialect.moment(now),
        )
        if not made:
            if not await session.fetch(there, name):
                raise DatabaseError(ErrorKind.REFUSED, errors.REFUSED_BY_TRIGGER)
            raise Conflict("a conversation of that name exists")
        members = sorted({creator, *participants})
        await session.fetch(self._add, *self._dialect.pack([(name, member) for member in members]))
        return Conversation(name, 0, 0, tuple(members))

    async def largest(self, session: Session, number: int) -> list[tuple[str, int | None, int]]:
        """Names, messages (None: not known) and members of those with the most messages; reads all conversations."""
        rows = await session.fetch(
            """
            SELECT c.id, c.total_messages,
                (SELECT count(*) FROM conversation_members AS m WHERE m.conversation_id = c.id)
            FROM (SELECT id, total_messages FROM conversations ORDER BY total_messages DESC, id LIMIT $1) AS c
            ORDER BY c.total_messages DESC, c.id
            """,
            number,
        )
        return [(name, messages if messages >= 0 else None, members) for name, messages, members in rows]

    async def add(self, session: Session, name: str, by: str, users: Sequence[str]) -> Conversation:
        """Add members. Raises NotFound, Forbidden."""
        await self._require(session, name, by, self._held)
        await session.fetch(self._add, *self._dialect.pack([(name, user) for user in sorted(set(users))]))
        rows = await session.fetch(self._one, name)
        return _conversation(rows[0], SHOWN)

    async def remove(self, session: Session, name: str, by: str, user: str) -> None:
        """Remove a member. Raises NotFound, Forbidden."""
        await self._require(session, name, by)
        gone = await session.fetch(
            "DELETE FROM conversation_members WHERE conversation_id = $1 AND user_id = $2 RETURNING user_id", name, user
        )
        if not gone:
            member = "SELECT 1 FROM conversation_members WHERE conversation_id = $1 AND user_id = $2"
            if await session.fetch(member, name, user):
                raise DatabaseError(ErrorKind.REFUSED, errors.REFUSED_BY_TRIGGER)
            raise NotFound("no such member")

    async def delete_message(self, session: Session, name: str, seq: int, by: str, admin: bool) -> None:
        """Delete a message. Raises NotFound, Forbidden."""
        sender = "SELECT sender_id FROM messages WHERE conversation_id = $1 AND seq = $2"
        rows = await session.fetch(sender, name, seq)
        if not rows:
            raise NotFound("no such message")
        if not admin and rows[0][0] != by:
            raise Forbidden("only the sender or an admin may delete a message")
        if not await session.fetch(
            "DELETE FROM messages WHERE conversation_id = $1 AND seq = $2 RETURNING 1", name, seq
        ):
            if not await session.fetch(sender, name, seq):  # another node has deleted it meanwhile
                raise NotFound("no such message")
            raise DatabaseError(ErrorKind.REFUSED, errors.REFUSED_BY_TRIGGER)

    async def of(self, session: Session, user: str, after: str, limit: int) -> list[Conversation]:
        """The next conversations of a member behind a name, by name; ``LISTED`` members of each at most."""
        rows = await session.fetch(self._mine, user, after, limit)
        found: list[Conversation] = []
        for start in range(0, len(rows), SLICE):
            found += [_conversation(row, LISTED) for row in rows[start : start + SLICE]]
            await asyncio.sleep(0)
        return found

    async def members(self, session: Session, name: str, user: str, after: str, limit: int) -> tuple[list[str], int]:
        """The next members behind a name, by name, and how many there are in all. Raises NotFound, Forbidden."""
        await self._require(session, name, user)
        rows = await session.fetch(self._members, name, after, limit)
        count = await session.fetch("SELECT count(*) FROM conversation_members WHERE conversation_id = $1", name)
        return [member for (member,) in rows], int(count[0][0])

    async def after(
        self, session: Session, name: str, user: str, after: int, limit: int, characters: int
    ) -> tuple[list[Message], int]:
        """Messages with a higher number, in order, and the conversation's last one. Raises NotFound, Forbidden.

        There may be more when the bodies have more than so many characters together.
        """
        last_seq = await self._require(session, name, user)
        found: list[Message] = []
        while len(found) < limit and characters >= 0:
            wanted = min(self._most_at_once or limit, limit - len(found))
            rows = await session.fetch(self._fitting, name, after, last_seq, wanted, characters)
            found += self._messages(name, rows)
            if not rows or (len(rows) < wanted and rows[-1][-1] <= characters):
                break
            after = found[-1].seq
            characters -= sum(len(row[3]) for row in rows)  # PostgreSQL's sizes are bytes, of which there are more
        return found, last_seq

    async def between(self, session: Session, name: str, after: int, through: int, limit: int) -> list[Message]:
        """Messages with a higher number than ``after`` and none above ``through``, in order."""
        return self._messages(name, await session.fetch(self._after, name, after, through, limit))

    def _messages(self, name: str, rows: Sequence[Row]) -> list[Message]:
        when = self._dialect.when
        return [Message(name, seq, sender, client, body, when(at)) for seq, sender, client, body, at, *_ in rows]

    async def _require(self, session: Session, name: str, user: str, held: str = "") -> int:
        rows = await session.fetch(
            f"""
            SELECT c.last_seq, m.user_id FROM conversations AS c
            LEFT JOIN conversation_members AS m ON m.conversation_id = c.id AND m.user_id = $2 WHERE c.id = $1{held}
            """,
            name,
            user,
        )
        if not rows:
            raise NotFound("no such conversation")
        if rows[0][1] is None:
            raise Forbidden("not a member of this conversation")
        return int(rows[0][0])
