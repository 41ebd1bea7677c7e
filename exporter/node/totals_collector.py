"""Database totals for one scrape: single flight, deadline, age. Knows no metric and no SQL.

Scrapes that overlap share one query. Each has its own deadline: one that runs out answers without the figures, and
when nobody waits any more the query is ended, on the server too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from exporter.core.errors import Internal, Unavailable
from exporter.core.records import DatabaseView, Totals
from exporter.store import Store

log = structlog.get_logger("exporter.store")


class Collector:
    """Asks the store when somebody scrapes, never on a timer."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._query: asyncio.Task[Totals] | None = None
        self._until = 0.0  # when the query ends at the latest
        self._waiting = 0
        self._last_success: float | None = None
        self._logged: str | None = None  # what is wrong with the figures, said once

    async def collect(self, deadline: float) -> DatabaseView:
        """The figures as they are now, or the reason why they are not known within ``deadline`` seconds from now.

        One record of this scrape alone: another one that ends at the same time changes nothing in it. Never raises but
        CancelledError.
        """
        began = time.monotonic()
        totals, error, up = None, None, True
        try:
            totals = await self._within(began + deadline)
            self._last_success = self._clock()
            error = totals.error
            if error is not None and error != self._logged:
                log.warning("figures are not published", reason=error)
            self._logged = error
        except Unavailable as refusal:
            error, up = refusal.message, False
        except Internal as defect:
            error = defect.message
        duration, unwritable = time.monotonic() - began, self._store.write_error
        return DatabaseView(
            up, totals, error or unwritable, self._last_success, duration, self._store.pool(), unwritable is None
        )

    async def _within(self, until: float) -> Totals:
        while (left := until - time.monotonic()) > 0:
            if self._query is None:
                self._query = asyncio.create_task(self._store.totals(left))
                self._query.add_done_callback(self._ended)
                self._until = until
            query, query_until = self._query, self._until
            self._waiting += 1
            try:
                await asyncio.wait({query}, timeout=left)
            finally:
                self._waiting -= 1
                if not self._waiting and not query.done():
                    query.cancel()
                    self._query = None
            if not query.done():
                break
            if query.cancelled():
                continue
            if query.exception() is None or query_until >= until or time.monotonic() < query_until:
                return query.result()
            # It ran out of the time of somebody who had less than we have: ask again.
        raise Unavailable("the database did not answer in time")

    def _ended(self, query: asyncio.Task[Totals]) -> None:
        if self._query is query:
            self._query = None
        if not query.cancelled():
            query.exception()
