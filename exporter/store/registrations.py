"""Users who wait to be registered, and who waits for it. Knows no database; the writer takes them along.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

from exporter.store.coalescing import SharedTimeout

MAX_WAITING: Final = 100_000
"""Users waiting to be registered at most; who is beyond that is registered by their next connection."""
WAIT: Final = 0.25
"""Seconds that a new connection waits for its user's row; a transaction takes some milliseconds."""


class Registrations:
    """Each user is kept until they are registered, or nobody can register them.

    ``returning``: had most of the latest newcomers a row already? Then it is quicker to ask first whether the next one
    has: that goes along with the look-ups of joins, and nothing is to be written.
    """

    def __init__(self, timeout: float) -> None:
        """``timeout``: seconds that the database may take at most."""
        self._users: dict[str, list[asyncio.Future[bool]]] = {}
        self._asked: dict[str, list[asyncio.Future[bool]]] = {}  # of whom somebody else finds out whether they have one
        self.returning = False
        self._shared_timeout: SharedTimeout[bool] = SharedTimeout(min(WAIT, timeout), _later)
        self._refused_until = 0.0

    def __contains__(self, user: str) -> bool:
        return user in self._users

    def __bool__(self) -> bool:
        return bool(self._users)

    def add(self, user: str, *, closed: bool = False) -> asyncio.Future[bool]:
        """True when it is done; False when the next try failed, takes longer than ``WAIT``, or none is to come."""
        future = self._shared_timeout.future()
        asked = self._asked.pop(user, [])
        if closed or (len(self._users) >= MAX_WAITING and user not in self._users):
            _tell([future, *asked], False)
        else:
            self._users.setdefault(user, []).extend([future, *asked])
        return future

    def ask(self, user: str) -> asyncio.Future[bool]:
        """As ``add``, for one who most likely has a row: somebody looks, and then says ``looked``."""
        future = self._shared_timeout.future()
        self._asked.setdefault(user, []).append(future)
        return future

    def looked(self, user: str, has_row: bool) -> None:
        """Has the user a row? Where not, ``add`` follows."""
        if user in self._asked:
            self.returning = has_row
            if has_row:
                _tell(self._asked.pop(user), True)

    def next(self, most: int, held: Iterable[str]) -> list[str]:
        """The next to be registered, but for those whose rows are held."""
        if asyncio.get_running_loop().time() < self._refused_until:
            return []
        others = set(held)
        return list(islice((user for user in self._users if user not in others), most))

    def refused(self, seconds: float) -> None:
        """They could not be registered by themselves: for so long they go along with nothing else, either."""
        self._refused_until = asyncio.get_running_loop().time() + seconds

    def tell(self, user: str, registered: bool) -> None:
        """Tell those who wait; a user who is not registered stays, for the next try."""
        waiting = self._users.get(user)
        if waiting is None:
            return
        _tell(waiting, registered)
        if registered:
            del self._users[user]
        else:
            waiting.clear()

    def give_up(self, user: str) -> None:
        """Nobody can register this one."""
        self.tell(user, False)
        self._users.pop(user, None)

    def close(self) -> None:
        """Whoever still waits is told."""
        for user in list(self._users):
            self.tell(user, False)
        for waiting in self._asked.values():
            _tell(waiting, False)
        self._asked.clear()
        self._shared_timeout.close()


def _tell(waiting: Iterable[asyncio.Future[bool]], registered: bool) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(registered)


def _later(registered: asyncio.Future[bool]) -> None:
    registered.set_result(False)
