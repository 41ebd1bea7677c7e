"""Whose turn it is, where the server grants this program fewer connections than it has lanes. Knows no statement.

Tested in ``tests/store/test_outages.py``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from exporter.store import errors
from exporter.store.engine import AsyncEngine
from exporter.store.errors import DatabaseError

AGAIN: Final = 1.0
"""Seconds after which it is tried whether more connections are granted: each trial is a process of the server's."""
_NO_MORE: Final = (errors.CROWDED, errors.REFUSED)
"""Of the server's and of a pooler's: what is said to a connection too many."""


class Sharing:
    """First come, first served: who has just ended something would otherwise always be the next."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Any] | None = None
        self._until = float("-inf")
        self.working: set[asyncio.Task[Any]] = set()
        """Those that have a connection."""

    @property
    def wanted(self) -> bool:
        """Does somebody wait for a connection, or was one refused lately?"""
        return self._turn.locked() or self._full

    @property
    def _full(self) -> bool:
        return time.monotonic() < self._until

    def may_wait(self, task: asyncio.Task[Any], failure: DatabaseError) -> bool:
        """Was it told that there is no connection more, and is there one that this program has already?"""
        if failure.text not in _NO_MORE or task in self.working or not (self.working or self._engine.has_any):
            return False
        self._until = time.monotonic() + AGAIN
        return True

    async def turn(self, task: asyncio.Task[Any]) -> None:
        """Wait for those who came earlier, and until there is a connection or another may be granted."""
        if self._next is not task:
            await self._turn.acquire()
            self._next = task
        while self._full and self.working and not self._engine.idle:
            await asyncio.wait(self.working, timeout=AGAIN, return_when=asyncio.FIRST_COMPLETED)

    def pass_turn(self, task: asyncio.Task[Any]) -> None:
        """The next may have a connection, if it was this one's turn."""
        if self._next is task:
            self._next = None
            self._turn.release()

    def has_begun(self, task: asyncio.Task[Any]) -> None:
        """It has its connection."""
        self.working.add(task)
        self.pass_turn(task)
