"""The pages of a full count: one is read while the one before is kept. Knows readers and the state, no schedule.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from exporter.observe import counting
from exporter.observe.base import Count, Walk
from exporter.observe.connections import Reader, Snapshot
from exporter.observe.counting import Page
from exporter.observe.mapping import DAY, Key, Mapping
from exporter.observe.records import WINDOWS, SourceError
from exporter.observe.state import State
from exporter.observe.tally import Facts

LIMIT: Final = 4.0
"""Seconds for a pass, or for a page of a count; pages are made larger and smaller to take what is aimed at."""


class Pages:
    """Reads a count page by page. Whoever calls is alone in it."""

    def __init__(self, reader: Reader, state: State) -> None:
        self._reader = reader
        self._state = state
        self._keeping: asyncio.Task[None] | None = None
        self.rows_read = 0

    async def walks(
        self, snapshot: Snapshot, mapping: Mapping, lows: dict[str, int], now: float, *, hurry: bool
    ) -> tuple[dict[str, Walk], Walk | None]:
        """From the lowest row of each key to the cut; and over the longest window, where its people are read apart."""
        pages, walks = 100 if hurry else 200, {}
        for key in mapping.keys:
            rows = await snapshot.fetch(key.next_above(None, mapping.table))
            lowest = counting.key_value(key, rows[0][0]) - 1 if rows else lows[key.name]
            walks[key.name] = Walk.between(min(lowest, lows[key.name]), lows[key.name], pages, 1_000)
        if mapping.recent is None or mapping.writer is None:
            return walks, None
        oldest = counting.midnight_of(now) - (max(WINDOWS) - 1) * DAY - 1
        return walks, Walk.between(oldest, int(now * 1_000_000), pages // 5, 1)

    async def read(self, count: Count, mapping: Mapping, now: float, *, hurry: bool) -> None:
        """Read the next page; one that takes too long is tried again smaller. Raises SourceError."""
        base, today = count.base, int(now // 86_400)
        if today > base.day:
            await self.kept()  # its ages are reckoned from the day before
            base.turn(today)
        key, walk = _next(count, mapping)
        apart = count.writers is not None
        lean = walk is count.writers or (apart and mapping.conversation is None)
        aim = self._reader.hurried_aim if hurry and lean else self._reader.aim
        started = time.perf_counter()

        async def work(snapshot: Snapshot) -> tuple[int, Page]:
            low, high = walk.read, min(walk.top, walk.read + walk.span)
            if walk is count.writers:
                last = None if high == walk.top else high  # some are dated in the future
                page = await counting.writers(snapshot, mapping, key, low, last, base.day * DAY)
            else:
                page = await counting.page(
                    snapshot, mapping, key, low, high, base.cut, base.day * DAY, writers=not apart
                )
            if page.empty and high < walk.top:  # a gap: on to the next row
                rows = await snapshot.fetch(key.next_above(high, mapping.table))
                high = min(walk.top, counting.key_value(key, rows[0][0]) - 1) if rows else walk.top
            return high, page

        try:
            high, page = await self._reader.read(work, LIMIT)
        except SourceError as error:
            if not error.slow or walk.span <= 1:
                raise
            walk.span = max(1, walk.span // 3)
            return
        growth = aim / max(time.perf_counter() - started, 0.001)
        walk.span = max(1, int(walk.span * min(8.0 if hurry else 3.0, max(0.5, growth))))
        walk.read = high
        await self.kept()
        self._keeping = asyncio.create_task(self._keep(count, walk, high, page, mapping))

    async def _keep(self, count: Count, walk: Walk, high: int, page: Page, mapping: Mapping) -> None:
        facts = await asyncio.to_thread(page.digest, mapping)
        count.base.tally.add(facts.tally)
        count.base.rooms |= facts.rooms
        walk.done = high
        self.rows_read += facts.tally.rows + facts.read
        await asyncio.to_thread(self._write, count.base.generation, facts, count.plain())

    def _write(self, generation: int, facts: Facts, plain: dict[str, Any]) -> None:
        with self._state.step():
            self._state.absorb(generation, facts)
            self._state.put("count", plain)

    async def kept(self) -> None:
        """Wait until what was read is in the state. Raises SourceError when that failed: memory is ahead of it then."""
        if self._keeping is not None:
            await asyncio.wait({self._keeping})
            keeping, self._keeping = self._keeping, None
            keeping.result()


def _next(count: Count, mapping: Mapping) -> tuple[Key, Walk]:
    """The walk that has pages left; that over the recent rows comes last."""
    for key in mapping.keys:
        walk = count.walks[key.name]
        if walk.read < walk.top:
            return key, walk
    assert count.writers is not None  # noqa: S101 - there is a page left
    assert mapping.recent is not None  # noqa: S101 - or the count would have been begun anew
    return mapping.recent, count.writers
