"""The pages of a full count: one is read while the one before is kept. Knows readers and the state, no schedule.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, Final

import msgspec

from exporter.observe import counting
from exporter.observe.base import Base, Count, KeyScan, LookupScan
from exporter.observe.connections import Reader, Snapshot
from exporter.observe.counting import Page
from exporter.observe.mapping import DAY, Correction, Cut, Key, Mapping
from exporter.observe.records import WINDOWS, SourceError
from exporter.observe.state import State
from exporter.observe.tally import Facts, Tally

LIMIT: Final = 4.0
"""Seconds for a pass, or for a page of a count; pages are made larger and smaller to take what is aimed at."""

FIRST_LOOKUP: Final = 20_000
"""Rows of another table in the first page of a lookup scan."""


class Pages:
    """Reads a count page by page. Whoever calls is alone in it."""

    def __init__(self, reader: Reader, state: State) -> None:
        self._reader = reader
        self._state = state
        self._keeping: asyncio.Task[None] | None = None
        self.rows_read = 0

    async def begin(
        self, snapshot: Snapshot, mapping: Mapping, generation: int, cut: Cut, now: float, *, full_speed: bool
    ) -> Count:
        """A count from the lowest row of each key to the cut, and over the longest window where its people are read
        apart."""
        pages, key_scans, lows = 100 if full_speed else 200, {}, cut.lows
        for key in mapping.keys:
            rows = await snapshot.fetch(key.next_above(None, mapping.table))
            lowest = counting.key_value(key, rows[0][0]) - 1 if rows else lows[key.name]
            key_scans[key.name] = KeyScan.between(min(lowest, lows[key.name]), lows[key.name], pages, 1_000)
        writers, lookup_scans = None, {}
        if reads_writers_separately(mapping):
            oldest = counting.midnight_of(now) - (max(WINDOWS) - 1) * DAY - 1
            writers = KeyScan.between(oldest, int(now * 1_000_000), pages // 5, 1)
            lookup_scans = {each.name: LookupScan("", FIRST_LOOKUP) for each in _corrections(mapping)}
        base = Base(generation, cut, Tally(), int(now // 86_400))
        return Count(base, now, key_scans, writers, lookup_scans)

    async def read(self, count: Count, mapping: Mapping, now: float, *, full_speed: bool) -> None:
        """Read the next page; one that takes too long is tried again smaller. Raises SourceError."""
        base, today = count.base, int(now // 86_400)
        if today > base.day:
            await self.kept()  # its ages are reckoned from the day before
            base.turn(today)
        mark = next(each for each in count.all() if not each.ended)
        messages = isinstance(mark, KeyScan) and mark is not count.writers
        grouped = messages and (count.writers is None or mapping.conversation is not None)
        page_seconds = self._reader.full_speed_page_seconds if full_speed and not grouped else self._reader.page_seconds
        started = time.perf_counter()

        async def work(snapshot: Snapshot) -> tuple[Any, Page]:
            if isinstance(mark, KeyScan):
                return await _scan(snapshot, mapping, count, mark)
            correction = next(each for each in _corrections(mapping) if count.lookup_scans[each.name] is mark)
            return await counting.correct(
                snapshot, mapping, correction, mark.read or "", mark.span, base.cut, base.day * DAY
            )

        try:
            high, page = await self._reader.read(work, LIMIT)
        except SourceError as error:
            if not error.slow or mark.span <= 1:
                raise
            mark.span = max(1, mark.span // 3)
            return
        growth = page_seconds / max(time.perf_counter() - started, 0.001)
        mark.span = max(1, int(mark.span * min(8.0 if full_speed else 3.0, max(0.5, growth))))
        mark.read = high
        await self.kept()
        self._keeping = asyncio.create_task(self._keep(count, mark, high, page, mapping))

    async def _keep(self, count: Count, mark: KeyScan | LookupScan, high: Any, page: Page, mapping: Mapping) -> None:
        facts = await asyncio.to_thread(page.digest, mapping)
        count.base.tally.add(facts.tally)
        count.base.rooms |= facts.rooms
        mark.done = high
        self.rows_read += max(0, facts.tally.rows) + facts.read
        await asyncio.to_thread(self._write, count.base.generation, facts, msgspec.to_builtins(count))

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


def reads_writers_separately(mapping: Mapping) -> bool:
    """Are those who wrote lately read apart from the messages?"""
    return mapping.recent is not None and mapping.writer is not None


def fits(count: Count, mapping: Mapping) -> bool:
    """Can this count go on? Not when an index has come or gone since."""
    names = {each.name for each in _corrections(mapping)} if reads_writers_separately(mapping) else set()
    return (count.writers is not None) == reads_writers_separately(mapping) and set(count.lookup_scans) == names


def _corrections(mapping: Mapping) -> tuple[Correction, ...]:
    return () if mapping.relaxed is None else mapping.relaxed.corrections


async def _scan(snapshot: Snapshot, mapping: Mapping, count: Count, scan: KeyScan) -> tuple[int, Page]:
    """The next page of the messages, or of those who wrote lately."""
    low, high, midnight = scan.read, min(scan.top, scan.read + scan.span), count.base.day * DAY
    key = mapping.recent if scan is count.writers else _key(mapping, count, scan)
    assert key is not None  # noqa: S101 - the count would not fit the mapping
    if scan is count.writers:
        page = await counting.writers(snapshot, mapping, key, low, None if high == scan.top else high, midnight)
    else:
        if count.lookup_scans and mapping.relaxed is not None:
            counted = replace(mapping, where=mapping.relaxed.where, weight="1", undone=None)
        else:
            counted = mapping
        page = await counting.page(
            snapshot, counted, key, low, high, count.base.cut, midnight, writers=count.writers is None
        )
    if page.empty and high < scan.top:  # a gap: on to the next row
        rows = await snapshot.fetch(key.next_above(high, mapping.table))
        # What is dated in the future, above the top, is of the last page of those who wrote: that one is to be read.
        last = scan.top - 1 if scan is count.writers else scan.top
        high = min(last, counting.key_value(key, rows[0][0]) - 1) if rows else scan.top
    return high, page


def _key(mapping: Mapping, count: Count, scan: KeyScan) -> Key:
    return next(key for key in mapping.keys if count.key_scans[key.name] is scan)
