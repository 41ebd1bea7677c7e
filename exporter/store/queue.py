"""What waits for a transaction, and what the next one takes of it: in the order of coming, and a share of each user's.

One user may have much waiting: a hundred requests for a thousand members each, or megabytes of messages. In the order
of coming alone, everybody else's message waited for all of it. So of each user a transaction takes a share, and leaves
the rest to the next. What one user asked for keeps its order.

Knows no database. Tested in ``tests/store/test_queue.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from exporter.store.transaction import Item

BATCH_ROWS = 1_000
"""In one transaction at most: by then its flush is shared enough, and it bounds how long a neighbour is waited for."""
BATCH_CHARACTERS = 4 * 1024 * 1024
"""Of message bodies in one transaction at most, but for a single one."""
SHARE = 8
"""Of so many users a transaction has room for all that they may have in it."""
MOST_ROWS = BATCH_ROWS // SHARE
"""Of one user in one transaction, but for a single item that writes more: one such, whoever wants it."""


class Queue:
    """First come, first served, within each one's share."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Behind all others."""
        self._items.append(item)

    def put_back(self, items: Iterable[Item]) -> None:
        """Before all others, in this order."""
        self._items.extendleft(reversed(list(items)))

    def forget_answered(self) -> None:
        """Let go of what is answered at the front."""
        while self._items and self._items[0].answered:
            self._items.popleft()

    def take(self) -> list[Item]:
        """The next transaction's; what is answered already is dropped."""
        batch: list[Item] = []
        left: list[Item] = []
        taken: dict[str, tuple[int, int]] = {}
        rows = characters = 0
        large = False
        while self._items and rows < BATCH_ROWS:
            item = self._items[0]
            if batch and characters + item.size > BATCH_CHARACTERS:
                break
            self._items.popleft()
            if item.answered:
                continue
            before = taken.get(item.whose)
            share = (item.rows, item.size) if before is None else (before[0] + item.rows, before[1] + item.size)
            taken[item.whose] = share  # above it, too: what comes later must not overtake
            is_large = item.rows > MOST_ROWS
            above = share[0] > MOST_ROWS or share[1] > BATCH_CHARACTERS // SHARE
            if (above and before is not None) or (is_large and large):
                left.append(item)
                continue
            batch.append(item)
            large = large or is_large
            rows += 0 if is_large else item.rows  # or it would leave no room for anybody
            characters += item.size
        self.put_back(left)
        return batch
