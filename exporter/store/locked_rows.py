"""Rows that another program has locked, and whatever waits for them: set aside, so that the rest commits at once.

A row is known by what an item needs of it: its conversation, its sender's row, its membership. What is locked is found
by asking for the rows and skipping those that are, which waits for nobody. What an item needs beside those (a day's
totals, a name that somebody else is about to insert) cannot be asked for: such an item is tried alone, now and
then; when one gets through, all others of that kind are tried with it, at once.

Knows no transaction; the writer takes back what is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from exporter.store.connections import Database
from exporter.store.dialects.base import Session
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.lanes import Lane
from exporter.store.queries import Queries
from exporter.store.transaction import Item, MarkItem, OperationItem, SendItem, came

RowKey = tuple[str, ...]
"""("conversation", id), ("user", id) or ("member", conversation, user)."""

POLL_INTERVAL: Final = 0.1
"""Seconds between two looks whether what is locked is free."""
RETRY_INTERVAL: Final = 0.5
"""Seconds between two tries of an item that waits for nobody knows what; each may take a lock's time limit."""


def rows_of(item: Item) -> tuple[RowKey, ...]:
    """The rows that an item needs for itself."""
    match item:
        case SendItem(draft=draft):
            return ("conversation", draft.conversation), ("user", draft.sender)
        case MarkItem(conversation=conversation, whose=user):
            return (("member", conversation, user),)
        case OperationItem(conversation=str(conversation)):
            return (("conversation", conversation),)
        case _:
            return ()


class LockedRows:
    """What was found locked, and the items that were set aside for it."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries
        self._rows: dict[RowKey, float] = {}  # 0, or the time before which nobody need try what cannot be asked for
        self._waiting: dict[Item, RowKey | None] = {}
        self._poll_at = 0.0
        self._retry_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._rows or self._waiting)

    def __contains__(self, row: RowKey) -> bool:
        return row in self._rows

    def users(self) -> list[str]:
        """Whose rows are locked."""
        return [row[1] for row in self._rows if row[0] == "user"]

    def blocked_by(self, item: Item) -> RowKey | None:
        """The locked row that an item needs; None where it needs none that is known to be locked."""
        return next((row for row in rows_of(item) if row in self._rows), None) if self._rows else None

    def set_aside(self, item: Item, row: RowKey | None) -> None:
        """Keep an item until its row is free; None: nobody knows what it waits for."""
        self._waiting[item] = row

    def back_off(self, row: RowKey) -> None:
        """This row could not be had, although nobody has locked it: somebody may be about to make it."""
        self._rows[row] = asyncio.get_running_loop().time() + RETRY_INTERVAL

    async def find(self, rows: Iterable[RowKey]) -> set[RowKey]:
        """Which of these rows somebody else has locked at this moment; they are remembered."""
        wanted = set(rows)
        found: set[RowKey] = set()
        # A user's row is needed by the first message of a day only: it is no reason where there is another one.
        for kinds in (("conversation", "member"), ("user",)):
            for kind in kinds:
                keys = sorted(row[1:] for row in wanted if row[0] == kind)
                if keys:
                    found |= {(kind, *key) for key in await self._find_locked(kind, keys)}
            if found:
                break
        self._rows.update(dict.fromkeys(found, 0.0))
        return found

    async def _find_locked(self, kind: str, keys: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
        async def look(session: Session) -> Sequence[tuple[str, ...]]:
            dialect = self._queries.dialect
            await session.execute(dialect.begin_writing)
            try:
                return await self._queries.locked(session, kind, keys)
            finally:
                await session.execute("ROLLBACK")

        try:
            return await self._database.job(Lane.WRITE, look, self._database.timeout, {"look"}).result()
        except DatabaseError as failure:
            # The whole table is locked. Or the rows cannot be asked for: then the items are tried one by one.
            return keys if failure.kind is ErrorKind.LOCKED else []

    @property
    def due(self) -> bool:
        """Is it time to look again?"""
        return bool(self) and asyncio.get_running_loop().time() >= self._poll_at

    async def take_unlocked(self) -> list[Item]:
        """Look again; the items whose rows are free now, oldest first. Those that were answered meanwhile are gone."""
        now = asyncio.get_running_loop().time()
        self._poll_at = now + POLL_INTERVAL
        self._waiting = {item: row for item, row in self._waiting.items() if not item.answered}
        waited_for = set(self._waiting.values())
        kept, self._rows = self._rows, {}
        for row, until in kept.items():
            if until > now or (until and row in waited_for):
                self._rows[row] = until
        for kind in ("conversation", "member", "user"):
            await self.find(row for row in kept if row[0] == kind and not kept[row])
        return self._take([row for row in waited_for if row is not None and row not in self._rows])

    def take_one(self) -> Item | None:
        """An item that waits for what cannot be asked for, when it is time to try one; it is no longer set aside.

        Users come in turn, and of each it is their oldest, or another would overtake it.
        """
        now = asyncio.get_running_loop().time()
        if now < self._retry_at:
            return None
        ready = [
            item
            for item, row in self._waiting.items()
            if not item.answered and (row is None or 0.0 < self._rows.get(row, 0.0) <= now)
        ]
        if not ready:
            return None
        self._retry_at = now + RETRY_INTERVAL
        of_one = [item for item in ready if item.whose == ready[0].whose]
        for item in of_one:
            self._waiting[item] = self._waiting.pop(item)  # behind everybody else's
        tried = min(of_one, key=came)
        del self._waiting[tried]
        return tried

    def take_rest(self) -> list[Item]:
        """All items that wait for what cannot be asked for: one of them has got through, and nobody knows that the
        others wait for something else.
        """
        tried = {row for row, until in self._rows.items() if until}
        for row in tried:
            del self._rows[row]
        return self._take({None, *tried})

    def _take(self, rows: Collection[RowKey | None]) -> list[Item]:
        taken = sorted((item for item, row in self._waiting.items() if row in rows), key=came)
        for item in taken:
            del self._waiting[item]
        return taken
