"""Sharing look-ups and transactions: the batching window, a time-out for many waiters, a memory of known users.

A transaction or a look-up costs something whatever is in it, above all two threads that wake each other. While requests
come one by one that is nobody's loss. When they come in a storm, each waited for the one before and took a dozen along;
with the window it is two dozen and more, and a new connection costs a quarter less CPU (docs/benchmarks.md).

Knows no database and nothing of what is waited for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

FEW: Final = 4
"""So many at once are no storm: whoever comes next is not made to wait."""
PAUSE: Final = 0.006
"""Seconds: what a storm of 4,000 connections a second needs to bring another two dozen."""
BELIEVED: Final = 60.0
"""Seconds at least for which a user is known to have a row."""
GENERATION: Final = 50_000
"""Known users in one of two generations."""


def batching_window(count: int, enough: int) -> float:
    """Seconds to wait before the next round, after one that served ``count``.

    A round that several shared is followed by another such. ``enough``: shared by so many, the fixed part is small
    beside each one's own.
    """
    return PAUSE if FEW <= count < enough else 0.0


class SharedTimeout(Generic[T]):
    """Makes futures; whichever is not done after ``seconds`` is given to ``on_timeout``, which has to make it done."""

    def __init__(self, seconds: float, on_timeout: Callable[[asyncio.Future[T]], None]) -> None:
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._waiting: deque[tuple[float, asyncio.Future[T]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def future(self) -> asyncio.Future[T]:
        """A new future of the running loop; for one waiter, because who is cancelled cancels what it waits for."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        waiting = self._waiting
        while waiting and waiting[0][1].done():  # answered in time: they need not stay until then
            waiting.popleft()
        waiting.append((loop.time() + self._seconds, future))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._due)
        return future

    def close(self) -> None:
        """Give up on all that still wait; there is no timer afterwards."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                self._on_timeout(future)

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= now):
            _, future = self._waiting.popleft()
            if not future.done():
                self._on_timeout(future)
        # 1 ms: a loop whose timers are coarser than its clock may come early, and must not spin
        self._timer = loop.call_later(max(0.001, self._waiting[0][0] - now), self._due) if self._waiting else None


class KnownUsers:
    """A bounded memory of users that were registered a short time ago.

    Two generations instead of an order of use: a lookup is two set look-ups, and forgetting is dropping a set. It only
    spares connections a question: what is in here is believed for ``BELIEVED`` seconds to twice that. A message or a
    join asks the database, since another program may have deleted the row.
    """

    def __init__(self) -> None:
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._advance_at = float("-inf")

    def advance(self, now: float) -> None:
        """Let time pass; ``now`` in seconds of any clock that does not go back."""
        if now >= self._advance_at:
            if now >= self._advance_at + BELIEVED:
                self._young = set()
            self._old, self._young = self._young, set()
            self._advance_at = now + BELIEVED

    def add(self, users: Iterable[str]) -> None:
        """These have a row."""
        for user in users:
            if len(self._young) >= GENERATION:
                self._old, self._young = self._young, set()
            self._young.add(user)

    def __contains__(self, user: str) -> bool:
        return user in self._young or user in self._old
