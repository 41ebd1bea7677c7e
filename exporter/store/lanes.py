"""Who may use how many connections of the pool, and whose turn it is. Knows no database and nothing of what is done.

Tested in ``tests/store/test_lanes.py``.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from enum import Enum


class Lane(Enum):
    """Who may use how many connections, so that no one's slowness is another's."""

    WRITE = 1
    """Group commit: one transaction at a time."""
    JOIN = 2
    """Look-ups of memberships: one statement at a time, for all who ask."""
    READ = 3
    """Conversations and history: of each user one at a time, so that another's never waits behind all of them."""
    TOTALS = 4
    """Scrapes: never behind anybody else."""
    PROBE = 5
    """Does the database take writes? Never behind anybody else."""
    VERIFY = 6
    """Recounting; without a time limit, on a connection beside the pool."""


WIDTH = {Lane.WRITE: 1, Lane.JOIN: 1, Lane.READ: 2, Lane.TOTALS: 1, Lane.PROBE: 1, Lane.VERIFY: 1}


class Turns:
    """So many at once, or any number (None), and of each user ``each``; of the server's own work any number.

    In one queue for all, whoever asks most is served most: with a hundred questions of one user in it, everybody else's
    waited for all of them, and was refused for lack of time. Here it is users who come in turn.
    """

    def __init__(self, width: int | None, each: int = 1) -> None:
        self._free: float = math.inf if width is None else width
        self._each = each
        self._at_work: Counter[str] = Counter()
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}  # in the order of their turns

    async def take(self, whose: str | None) -> None:
        """Wait for a place, for a user or for the server itself (None); whoever returns from here gives it back."""
        if self._may_begin(whose):  # then nobody waits who might begin, too
            self._begin(whose)
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(whose, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given in the same turn of the loop
                self.give_back(whose)
            elif (queue := self._waiting.get(whose)) is not None and place in queue:  # else it was passed over already
                queue.remove(place)
                if not queue:
                    del self._waiting[whose]
            raise

    def give_back(self, whose: str | None) -> None:
        """Somebody else may begin."""
        self._free += 1
        if whose is not None:
            self._at_work[whose] -= 1
            if not self._at_work[whose]:
                del self._at_work[whose]
        while self._free:
            for user in self._waiting:
                if self._may_begin(user):
                    self._call(user)
                    break
            else:
                return

    def _may_begin(self, whose: str | None) -> bool:
        return self._free > 0 and (whose is None or self._at_work[whose] < self._each)

    def _begin(self, whose: str | None) -> None:
        self._free -= 1
        if whose is not None:
            self._at_work[whose] += 1

    def _call(self, whose: str | None) -> None:
        """The first of this user's begins; their next comes behind everybody else's first.

        A place that was given up and is still in the queue was no turn: then their next keeps theirs.
        """
        queue = self._waiting[whose]
        place = queue.popleft()
        if place.cancelled():
            if not queue:
                del self._waiting[whose]
            return
        del self._waiting[whose]
        if queue:
            self._waiting[whose] = queue
        self._begin(whose)
        place.set_result(None)
