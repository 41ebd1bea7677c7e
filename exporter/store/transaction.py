"""One transaction of the group commit: what goes in, what comes out. Knows no queue, no clock and no retry.

Everything that was queued goes through the same few statements, so the price of a transaction, above all of its
flush to the disk, is shared by all of it.

Tested in ``tests/store/test_outages.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

from exporter.core.errors import Forbidden, NotFound, Refusal
from exporter.core.records import Draft, Message, ReadMark
from exporter.store import errors
from exporter.store.dialects.base import Session, transaction
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.queries import Key, Queries

LAST_SEQ = 2**63 - 1
"""The highest number that a column holds; SQLite would round what lies beyond to a number that is given already."""

T = TypeVar("T")
Operation = Callable[[Session, datetime], Awaitable[T]]
"""Any other change, done within the transaction; what refuses, by raising a Refusal, has written nothing."""


@dataclass(slots=True, eq=False)
class Item:
    """Something that waits for a transaction; ``done`` is told once what that came to, or a Refusal."""

    done: Callable[..., None]
    kind: str = field(init=False)
    """What it writes, in a word: writing one thing may work while another does not."""
    whose: str
    """The user who asked for it."""
    size: int = field(default=0, init=False)
    rows: int = field(default=1, kw_only=True)
    """How many it writes, about."""
    answered: bool = field(default=False, init=False)
    deadline: float = field(default=0.0, init=False)
    came: int = field(default=0, init=False)
    """Its number in the queue."""

    def answer(self, result: Any) -> None:
        """Tell the one who asked."""
        self.done(result)


came = attrgetter("came")


@dataclass(slots=True, eq=False)
class SendItem(Item):
    """A message to be stored; ``done`` is told whether it was there before, too."""

    draft: Draft
    whose: str = field(init=False)
    kind: str = field(default="send", init=False)

    def __post_init__(self) -> None:
        self.size = len(self.draft.body)
        self.whose = self.draft.sender

    @property
    def key(self) -> Key:
        """What makes it the same message."""
        return self.draft.conversation, self.draft.sender, self.draft.id

    def answer(self, result: Any) -> None:
        """With (message, was it there before?) or a Refusal."""
        if isinstance(result, Refusal):
            self.done(result, False)
        else:
            self.done(*result)


@dataclass(slots=True, eq=False)
class MarkItem(Item):
    """A read mark to be moved."""

    conversation: str
    seq: int
    kind: str = field(default="read", init=False)


@dataclass(slots=True, eq=False)
class OperationItem(Item):
    """Any other change; ``conversation``: the one that it is about, if it is there already."""

    kind: str
    operation: Operation[Any]
    conversation: str | None = None


class Transaction:
    """Does what the items ask, all of it or nothing. Used once; the results are good once ``run`` has returned."""

    def __init__(
        self,
        queries: Queries,
        items: Sequence[Item],
        *,
        users: Iterable[str],
        in_doubt: Sequence[Message],
        now: datetime,
    ) -> None:
        self._queries = queries
        self._items = items
        self._in_doubt = in_doubt
        self._now = now
        self.users = dict.fromkeys(users)
        """Registered when this has been committed."""
        self.newcomers = 0
        """How many of them had no row before."""
        self.results: dict[Item, Any] = {}
        """For each item: what to answer."""
        self.stored: list[Message] = []
        """New messages."""
        self.looked_up: list[Message] = []
        """Those of the messages in doubt whose fate is known when this has been committed."""
        self.resolved: list[Message] = []
        """Of the in-doubt messages those that are durable."""
        self.committing = False
        """Was the commit asked for? From then on only the database knows the outcome."""

    @property
    def kinds(self) -> frozenset[str]:
        """What it writes: ``register`` and the kinds of its items."""
        return frozenset({item.kind for item in self._items} | ({"register"} if self.users else set()))

    async def run(self, session: Session) -> None:
        """Do it. Raises DatabaseError when nothing of it is known to be durable."""
        async with transaction(session, self._queries.dialect.begin_writing):
            await self._work(session)
            self.committing = True

    async def _work(self, session: Session) -> None:
        if self._in_doubt:
            await self._resolve(session)
        if self.users:
            self.newcomers += await self._queries.register(session, list(self.users), self._now)
        # It may have taken long to get here: whoever has been told "unavailable" meanwhile is left out.
        items = [item for item in self._items if not item.answered]
        sends = [item for item in items if isinstance(item, SendItem)]
        if sends:
            await self._send(session, sends)
        marks = [item for item in items if isinstance(item, MarkItem)]
        if marks:
            await self._mark(session, marks)
        for item in items:
            if isinstance(item, OperationItem):
                self.results[item] = await self._operate(session, item.operation)

    async def _resolve(self, session: Session) -> None:
        # The lost transaction held its conversations until it ended: having them, we know that it has. Only a
        # statement that begins after that is sure to see what it left.
        await self._queries.lock(session, sorted({message.conversation for message in self._in_doubt}))
        found = await self._queries.look_up(session, [(m.conversation, m.sender, m.id) for m in self._in_doubt])
        self.looked_up = list(self._in_doubt)
        for message, stored in zip(self._in_doubt, found, strict=True):
            if (stored.seq, stored.sent_at) == (message.seq, message.sent_at):
                self.resolved.append(message)

    async def _send(self, session: Session, items: Sequence[SendItem]) -> None:
        by_key: dict[Key, list[SendItem]] = {}
        for item in items:
            by_key.setdefault(item.key, []).append(item)
        found = await self._queries.look_up(session, list(by_key))
        last: dict[str, int] = {}
        new: set[str] = set()
        for (key, same), stored in zip(by_key.items(), found, strict=True):
            conversation, sender, client = key
            if stored.last_seq is None:
                for item in same:
                    self.results[item] = NotFound("no such conversation")
                continue
            if stored.seq is not None and stored.body is not None and stored.sent_at is not None:
                first = Message(conversation, stored.seq, sender, client, stored.body, stored.sent_at)
                repeated = same
            else:
                seq = last[conversation] = last.get(conversation, stored.last_seq) + 1
                if seq > LAST_SEQ:
                    raise DatabaseError(ErrorKind.DATA, errors.REJECTED)
                first = Message(conversation, seq, sender, client, same[0].draft.body, self._now)
                self.stored.append(first)
                if not stored.registered:
                    new.add(sender)
                self.results[same[0]] = (first, False)
                repeated = same[1:]
            for item in repeated:
                self.results[item] = (first, True)
        if self.stored:
            if new:
                self.newcomers += await self._queries.register(session, sorted(new), self._now)
                self.users.update(dict.fromkeys(new))
            await self._queries.insert(session, self.stored)

    async def _mark(self, session: Session, items: Sequence[MarkItem]) -> None:
        found = await self._queries.marks(session, [(i.conversation, i.whose, i.seq) for i in items])
        reached: dict[tuple[str, str], int] = {}
        for item, mark in zip(items, found, strict=True):
            at = (item.conversation, item.whose)
            if mark.last_seq is None:
                self.results[item] = NotFound("no such conversation")
            elif mark.last_read is None:
                self.results[item] = Forbidden("not a member of this conversation")
            elif item.seq > mark.last_seq:
                self.results[item] = NotFound("no such message yet")
            else:
                moved = item.seq > reached.get(at, mark.last_read)
                if moved:
                    reached[at] = item.seq
                self.results[item] = ReadMark(moved, mark.sent_at)
        if reached:
            await self._queries.move(session, [(*at, seq) for at, seq in sorted(reached.items())])

    async def _operate(self, session: Session, operation: Operation[Any]) -> Any:
        try:
            return await operation(session, self._now)
        except Refusal as refusal:
            return refusal
