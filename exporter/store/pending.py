"""Items that wait for their answer: how many and how large they may be together, and until when. Knows no database.

Tested in ``tests/store/test_pending.py``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog

from exporter.core.errors import Unavailable
from exporter.store import errors
from exporter.store.transaction import Item

QUEUE_ITEMS = 10_000
"""Waiting at most: about a second's work of either database."""
QUEUE_CHARACTERS = 64 * 1024 * 1024
"""Of message bodies waiting at most."""
SHARE = 4
"""One user may have the fourth part of it waiting: what they send beyond is refused, and others find room."""

log = structlog.get_logger("exporter.store")


class Pending:
    """Each item is answered exactly once, at its deadline at the latest."""

    def __init__(self, timeout: float, on_expired: Callable[[Item], None]) -> None:
        """``timeout`` in seconds; ``on_expired`` is called after one was answered because its time was over."""
        self._timeout = timeout
        self._on_expired = on_expired
        self._loop = asyncio.get_running_loop()
        self._items: OrderedDict[Item, None] = OrderedDict()  # oldest first
        self.characters = 0
        self._of: dict[str, tuple[int, int]] = {}  # each user's items and characters
        self._sweeper: asyncio.TimerHandle | None = None

    def admit(self, item: Item) -> None:
        """Take an item, with a deadline from now on. Raises Unavailable: too much is waiting."""
        if len(self._items) >= QUEUE_ITEMS or self.characters >= QUEUE_CHARACTERS:
            raise Unavailable("too much is waiting to be stored")
        items, characters = self._of.get(item.whose, (0, 0))
        if items >= QUEUE_ITEMS // SHARE or characters >= QUEUE_CHARACTERS // SHARE:
            raise Unavailable("too much of this user is waiting to be stored")
        self._of[item.whose] = (items + 1, characters + item.size)
        item.deadline = self._loop.time() + self._timeout
        self._items[item] = None
        self.characters += item.size
        if self._sweeper is None:
            self._sweeper = self._loop.call_at(item.deadline, self._sweep)

    def answer(self, item: Item, result: Any) -> None:
        """Tell the one who waits, unless they have been told."""
        if item.answered:
            return
        item.answered = True
        del self._items[item]
        self.characters -= item.size
        items, characters = self._of.pop(item.whose)
        if items > 1:
            self._of[item.whose] = (items - 1, characters - item.size)
        try:
            item.answer(result)
        except Exception:  # a listener's mistake must not stop the writer, which everybody waits for
            log.exception("a listener failed")

    def close(self) -> None:
        """Whoever still waits is told that the server ends."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for item in tuple(self._items):
            self.answer(item, Unavailable("the server is shutting down"))

    def _sweep(self) -> None:
        now = self._loop.time()
        while (item := next(iter(self._items), None)) is not None and item.deadline <= now:
            self.answer(item, Unavailable(errors.TIMEOUT))
            self._on_expired(item)
        self._sweeper = None if item is None else self._loop.call_at(item.deadline, self._sweep)
