"""Database totals for one scrape: single flight, deadline, age. Knows no metric and no SQL.

Scrapes that overlap share one query. Each has its own deadline: one that runs out answers without the figures, and
when nobody waits any more the query is ended, on the server too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from exporter.errors import Unavailable
from exporter.records import Totals
from exporter.store import Store


class Collector:
    """Asks the store when somebody scrapes, never on a timer."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._query: asyncio.Task[Totals] | None = None
        self._waiting = 0
        self.latest: Totals | None = None
        """The figures that were read last; ``latest.as_of`` says when. Kept while the database is down."""
        self.error: str | None = None
        """Why the latest collection has no figures; None when it has."""
        self.last_success: float | None = None
        """When figures were read last, in Unix seconds."""
        self.duration: float = 0.0
        """Seconds that the latest collection took, successful or not."""
        self.up: bool = False
        """Did the latest collection get its figures?"""

    async def collect(self, deadline: float) -> Totals | None:
        """The figures as they are now, or None when they are not known within ``deadline`` seconds from now.

        Never raises but CancelledError; the reason of a None is in ``error``.
        """
        began = time.monotonic()
        try:
            totals = await self._within(began + deadline)
        except Unavailable as refusal:
            self.up, self.error = False, refusal.message
            totals = None
        else:
            self.up, self.error = True, None
            if self.latest is None or totals.as_of >= self.latest.as_of:
                self.latest = totals
            self.last_success = self._clock()
        self.duration = time.monotonic() - began
        return totals

    async def _within(self, until: float) -> Totals:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise Unavailable("the database did not answer in time")
            shared = self._query is not None
            if self._query is None:
                self._query = asyncio.create_task(self._store.totals(left))
                self._query.add_done_callback(self._ended)
            query = self._query
            self._waiting += 1
            try:
                done, _ = await asyncio.wait({query}, timeout=left)
            finally:
                self._waiting -= 1
                if self._waiting == 0 and not query.done():
                    query.cancel()
                    self._query = None
            if not done:
                continue
            if query.cancelled() or (shared and query.exception() is not None and until > time.monotonic()):
                continue  # it had somebody else's deadline; ours is later
            return query.result()

    def _ended(self, query: asyncio.Task[Totals]) -> None:
        if self._query is query:
            self._query = None
        if not query.cancelled():
            query.exception()
