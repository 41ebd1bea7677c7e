"""What waits for a transaction, and what the next one takes of it: users come in turn, and each turn is a share of it.

One user may have much waiting: a hundred requests for a thousand members each, or megabytes of messages. In the order
of coming alone, everybody else's message waited for all of it. So whoever's turn it is has a share of the transaction,
and their next turn behind everybody else; turns go on while there is room. What one user asked for keeps its order.

Knows no database. Tested in ``tests/store/test_queue.py``.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from exporter.store.transaction import Item, came

BATCH_ROWS = 1_000
"""In one transaction at most: by then its flush is shared enough, and it bounds how long a neighbour is waited for."""
BATCH_CHARACTERS = 4 * 1024 * 1024
"""Of message bodies in one transaction at most, but for a single one."""
SHARE = 8
"""Of so many users a transaction has room for a turn of each."""
MOST_ROWS = BATCH_ROWS // SHARE
"""Of one user in one turn. A single change that writes more is a large one, and has a turn for itself."""


@dataclass(slots=True)
class _Batch:
    """What one transaction takes, and how much that is."""

    items: list[Item] = field(default_factory=list)
    rows: int = 0
    large_rows: int = 0  # besides the others, or one large change would leave no room for anybody
    characters: int = 0
    full: bool = False

    def add(self, item: Item) -> bool:
        """Take an item; False when there is no room for it."""
        if item.rows > MOST_ROWS:
            if self.large_rows and self.large_rows + item.rows > BATCH_ROWS:
                return False
            self.large_rows += item.rows
        else:
            self.full = self.rows + item.rows > BATCH_ROWS or (
                bool(self.items) and self.characters + item.size > BATCH_CHARACTERS
            )
            if self.full:
                return False
            self.rows += item.rows
            self.characters += item.size
        self.items.append(item)
        return True


class Queue:
    """Each user's items in the order of coming, and the users in the order of their turns."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[Item]] = OrderedDict()
        self._length = 0
        self._came = itertools.count(1)

    def __len__(self) -> int:
        return self._length

    def put(self, item: Item) -> None:
        """Behind all of this user's; who has nothing waiting comes after everybody else."""
        self._length += 1
        item.came = next(self._came)
        items = self._of.get(item.whose)
        if items is None:
            items = self._of[item.whose] = deque()
        items.append(item)

    def put_back(self, items: Sequence[Item]) -> None:
        """Before all others, in this order."""
        self._length += len(items)
        for item in reversed(items):
            self._of.setdefault(item.whose, deque()).appendleft(item)
            self._of.move_to_end(item.whose, last=False)

    def forget_answered(self, whose: str) -> None:
        """Let go of what is answered at the front of this user's."""
        items = self._of.get(whose)
        if items is not None:
            self._forget_answered(items)
            if not items:
                del self._of[whose]

    def take(self) -> list[Item]:
        """The next transaction's; what is answered already is dropped."""
        batch = _Batch()
        left: list[tuple[str, deque[Item]]] = []  # there was no room for their next: they begin the next transaction
        users = len(self._of)
        turns = 0
        while self._of and not batch.full:
            # Bodies take the longest to write: who has had a turn and has more of them lets the others' be committed.
            if turns >= users > 1 and batch.characters > BATCH_CHARACTERS // SHARE:
                break
            turns += 1
            whose, items = self._of.popitem(last=False)
            had_room = self._turn(items, batch)
            if items and had_room:
                self._of[whose] = items  # behind everybody else
            elif items:
                left.append((whose, items))
        for whose, items in reversed(left):
            self._of[whose] = items
            self._of.move_to_end(whose, last=False)
        batch.items.sort(key=came)
        return batch.items

    def _turn(self, items: deque[Item], batch: _Batch) -> bool:
        """Take a share of one user's; False when the transaction had no room for it."""
        rows = characters = 0
        while True:
            self._forget_answered(items)
            if not items:
                return True
            item = items[0]
            rows += item.rows
            characters += item.size
            if (rows > MOST_ROWS or characters > BATCH_CHARACTERS // SHARE) and rows > item.rows:
                return True
            if not batch.add(item):
                return False
            items.popleft()
            self._length -= 1

    def _forget_answered(self, items: deque[Item]) -> None:
        while items and items[0].answered:
            items.popleft()
            self._length -= 1
