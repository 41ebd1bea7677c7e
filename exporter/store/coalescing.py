"""Futures that give up by themselves. Knows nothing of what is waited for.

Everybody waits equally long, so the order of coming is the order of giving up, and one timer serves all:
``asyncio.wait`` with a time-out makes a timer, a callback and a set for each, which was a tenth of what a new
connection costs (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Patience(Generic[T]):
    """Makes futures; whichever is not done after ``seconds`` is given to ``give_up``, which has to make it done."""

    def __init__(self, seconds: float, give_up: Callable[[asyncio.Future[T]], None]) -> None:
        self._seconds = seconds
        self._give_up = give_up
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
                self._give_up(future)

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= now):
            _, future = self._waiting.popleft()
            if not future.done():
                self._give_up(future)
        # 1 ms: a loop whose timers are coarser than its clock may come early, and must not spin
        self._timer = loop.call_later(max(0.001, self._waiting[0][0] - now), self._due) if self._waiting else None
