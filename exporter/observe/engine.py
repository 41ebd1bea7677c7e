"""The engine: exact figures of a database that belongs to somebody else, cheaply. Knows no HTTP and no metric.

Everything is one identity. The total of a snapshot is the *base*, a sum over the sealed rows, plus the *tail*, which is
read again at every pass, less what changes in the tail have undone among the sealed. Sealing moves the line so that the
identity holds in the very snapshot in which the line moves; a full count makes a new base for the line where it began
and takes the old one's place in one snapshot, too, where their difference is what the old one had wrong. No step
depends on how often it is done, and each is one transaction of the state: nothing is ever doubled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from exporter.observe import counting
from exporter.observe.base import Base, Count, Mark, Seen
from exporter.observe.connections import Reader, Snapshot, reader_of
from exporter.observe.counting import TAIL, Small
from exporter.observe.mapping import DAY, Cut, Key, Mapping
from exporter.observe.published import Published, difference, figures
from exporter.observe.records import SourceError, SourceTotals
from exporter.observe.sources import Source, mapping_of
from exporter.observe.state import State
from exporter.observe.tally import Facts, Tally

log = structlog.get_logger(__name__)

OVERLAP: Final = 60.0
"""Seconds after which no row appears below the highest key of a moment, as far as servers were seen; and only when
every transaction of that moment has ended. A transaction that stays open is waited for this long:"""
PATIENCE: Final = 900.0
PASS: Final = 4.0
"""Seconds for a pass; for a page of a count, which is made smaller when it takes longer than ``PAGE``:"""
PAGE_LIMIT: Final = 4.0
PAGE: Final = 0.25
MARKS: Final = 64


class Engine:
    """One source, from its opening to its figures. One step at a time: ``lock`` is held by whoever makes one."""

    def __init__(
        self,
        source: Source,
        state: State,
        *,
        load: float = 0.05,
        recount_interval: float = 3_600.0,
        clock: Callable[[], float] = time.time,
        reader: Reader | None = None,
        tail: int = TAIL,
        overlap: float = OVERLAP,
    ) -> None:
        self.source = source
        self.state = state
        self.load = load
        self.recount_interval = recount_interval
        self.clock = clock
        self.reader = reader or reader_of(source.url)
        self.lock = asyncio.Lock()
        self.mapping: Mapping | None = None
        self.base: Base | None = None
        self.counting: Count | None = None
        self.recounted_at: float | None = None
        self.differences: dict[str, int] = {}
        self.rows_read = 0
        self._tail = tail
        self._overlap = overlap
        self._marks: list[Mark] = []
        self._small: tuple[float, float, Small] | None = None
        self._published: Published | None = None
        self._sooner = False

    # --- opening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Look at the database and go on where the state ends, if it is the same. Raises Misconfigured, SourceError."""
        self.mapping = await mapping_of(self.source, self.reader)
        here = {**await self.reader.identity(), "kind": self.mapping.kind, "schema": self.mapping.schema}
        there = self.state.get("identity")
        if there is not None and not _same(there, here):
            self._begin_anew("the state belongs to another database, or this one was restored")
        with self.state.step():
            self.state.put("identity", here)
        base, count = self.state.get("base"), self.state.get("count")
        self.base = None if base is None else Base.of(base)
        self.counting = None if count is None else Count.of(count)
        self.recounted_at = self.state.get("recounted_at")
        self.differences = self.state.get("differences") or {}
        self._published = None if self.base is None else Published(self.state, self.base.generation)
        if not await self._samples_hold():
            self._begin_anew("rows that were counted are others now: the database was restored or replaced")

    def _begin_anew(self, reason: str) -> None:
        log.warning("counting anew", source=self.source.name, reason=reason)
        with self.state.step():
            self.state.forget()
        self.base = self.counting = self.recounted_at = self._published = self._small = None
        self.differences = {}
        self._marks = []

    async def _samples_hold(self) -> bool:
        """Are rows that were seen still themselves? One that is gone says nothing."""
        mapping, samples = self._known(), self.state.get("samples") or []
        keys = {key.name: key for key in mapping.keys}

        async def work(snapshot: Snapshot) -> bool:
            for name, value, identity in samples:
                rows = await snapshot.fetch(_identities(mapping, keys[name], value))
                if rows and identity not in [str(row[0]) for row in rows]:
                    return False
            return True

        return await self.reader.read(work, PASS)

    def _known(self) -> Mapping:
        assert self.mapping is not None  # noqa: S101 - open() comes first
        return self.mapping

    # --- a full count -------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Is a full count under way, or its time come?"""
        if self.base is None or self.counting is not None or self.recounted_at is None:
            return True
        return self._sooner or self.clock() >= self.recounted_at + self.recount_interval

    async def count(self) -> SourceTotals:
        """A whole count without pauses, and the figures. Raises Misconfigured, SourceError."""
        if self.mapping is None:
            await self.open()
        await self.begin()
        while self.counting is not None:
            await self.advance()
        return await self.look()

    async def begin(self) -> None:
        """Begin a full count, up to where the rows are sealed now, or will be first of all. Raises SourceError."""
        mapping, now = self._known(), self.clock()

        async def work(snapshot: Snapshot) -> tuple[dict[str, int], dict[str, int]]:
            lows = dict(self.base.cut.lows) if self.base else await self._first_lows(snapshot, mapping, now)
            bottoms = {}
            for key in mapping.keys:
                rows = await snapshot.fetch(key.next_above(None, mapping.table))
                lowest = key.value(rows[0][0]) - 1 if rows else lows[key.name]
                bottoms[key.name] = min(lowest, lows[key.name])
            return lows, bottoms

        async with self.lock:
            lows, bottoms = await self.reader.read(work, PASS)
            moment = self.base.cut.moment if self.base else _micros(now - self._overlap)
            generation = (self.base.generation if self.base else 0) + 1
            base = Base(generation, Cut(lows, moment), Tally(), int(now // 86_400))
            spans = {name: max(1_000, (lows[name] - low) // 1_000) for name, low in bottoms.items()}
            self.counting = Count(base, now, bottoms, dict(bottoms), spans)
            self._sooner = False
            with self.state.step():
                self.state.forget_generation(generation)
                self.state.put("count", self.counting.plain())

    async def _first_lows(self, snapshot: Snapshot, mapping: Mapping, now: float) -> dict[str, int]:
        found = await counting.newest(snapshot, mapping, self._tail)
        return {
            key.name: self._capped(key, found.get(key.name, key.lowest), now - self._overlap) for key in mapping.keys
        }

    def _capped(self, key: Key, value: int, moment: float) -> int:
        """A row that is dated in the future must not hide those that come after it."""
        return value if key.time is None else max(key.lowest, min(value, _micros(moment)))

    async def advance(self) -> float:
        """One page of the count under way, or its completion: the seconds of database time. Raises SourceError."""
        async with self.lock:
            count = self.counting
            if count is None:
                return 0.0
            started = time.perf_counter()
            for key in self._known().keys:
                if count.done[key.name] < count.base.cut.lows[key.name]:
                    await self._page(count, key)
                    return time.perf_counter() - started
            await self._pass()
            return time.perf_counter() - started

    async def _page(self, count: Count, key: Key) -> None:
        mapping, base = self._known(), count.base
        low, end = count.done[key.name], base.cut.lows[key.name]
        base.turn(int(self.clock() // 86_400))
        started = time.perf_counter()

        async def work(snapshot: Snapshot) -> tuple[int, Facts]:
            high = min(end, low + count.spans[key.name])
            facts = await counting.page(snapshot, mapping, key, low, high, base.cut, base.day * DAY)
            if not facts.tally.rows and high < end:  # a gap: on to the next row
                rows = await snapshot.fetch(key.next_above(high, mapping.table))
                high = min(end, key.value(rows[0][0]) - 1) if rows else end
            return high, facts

        try:
            high, facts = await self.reader.read(work, PAGE_LIMIT)
        except SourceError as error:
            if not error.slow or count.spans[key.name] <= 1:
                raise
            count.spans[key.name] = max(1, count.spans[key.name] // 8)
            return
        took = time.perf_counter() - started
        count.spans[key.name] = max(1, int(count.spans[key.name] * min(4.0, max(0.25, PAGE / max(took, 0.001)))))
        await asyncio.to_thread(self._keep_page, count, key, high, facts)
        self.rows_read += facts.tally.rows

    def _keep_page(self, count: Count, key: Key, high: int, facts: Facts) -> None:
        count.base.tally.add(facts.tally)
        count.base.rooms |= facts.rooms
        count.done[key.name] = high
        with self.state.step():
            self.state.absorb(count.base.generation, facts)
            self.state.put("count", count.plain())

    # --- a pass -------------------------------------------------------------------------------------------

    async def look(self) -> SourceTotals:
        """The figures of now, in one snapshot; those of a source that is being counted for the first time are unknown.

        Raises SourceError.
        """
        async with self.lock:
            return await self._pass()

    async def _pass(self) -> SourceTotals:
        mapping, now = self._known(), self.clock()
        count, base = self.counting, self.base
        done = count is not None and all(count.done[name] >= low for name, low in count.base.cut.lows.items())
        for each in (base, count.base if count else None):
            if each is not None:
                each.turn(int(now // 86_400))
        if base is None and not done:
            return figures(mapping, None, None, Small(), now, progress=0.0 if count is None else count.share)
        small = self._small_in_time(now)
        started = time.perf_counter()

        async def work(snapshot: Snapshot) -> Seen:
            day = int(now // 86_400) * DAY
            seen = Seen(
                newest=await counting.newest(snapshot, mapping),
                horizon=await self.reader.horizon(snapshot),
                facts=Facts() if base is None else await counting.tail(snapshot, mapping, base.cut, day),
                small=await counting.small(snapshot, mapping) if small is None else None,
            )
            if done and count is not None:
                seen.counted = await counting.tail(snapshot, mapping, count.base.cut, day)
            elif base is not None:
                seen.sealed = await self._sealable(snapshot, mapping, base, seen, now)
                if seen.sealed is not None:
                    seen.rest = await counting.tail(snapshot, mapping, seen.sealed, day)
            return seen

        seen = await self.reader.read(work, PASS)
        return await asyncio.to_thread(self._keep_pass, seen, now, small, time.perf_counter() - started)

    def _small_in_time(self, now: float) -> Small | None:
        """The small figures that were read last, unless their time has come: a share of the time for each."""
        if self._small is None:
            return None
        at, took, small = self._small
        return small if 0 <= now - at < took / self.load - took else None

    async def _sealable(self, snapshot: Snapshot, mapping: Mapping, base: Base, seen: Seen, now: float) -> Cut | None:
        """Where the cut may go: below it everything has been there long enough, and the tail keeps its length."""
        old = [mark for mark in self._marks if self._ripe(mark, seen.horizon, now)]
        if not old or seen.facts.tally.rows < self._tail // 2:
            return None
        mark = old[-1]
        room = await counting.newest(snapshot, mapping, self._tail)
        lows = {}
        for key in mapping.keys:
            low = self._capped(key, min(mark.newest.get(key.name, key.lowest), room.get(key.name, key.lowest)), mark.at)
            safe = mapping.safe.get(key.name)
            if safe is not None and now - mark.at < PATIENCE:
                rows = await snapshot.fetch(safe)
                low = low if not rows or rows[0][0] is None else min(low, int(rows[0][0]))
            lows[key.name] = max(low, base.cut.lows[key.name])
        moved = any(lows[name] > low for name, low in base.cut.lows.items())
        return Cut(lows, max(base.cut.moment, _micros(mark.at))) if moved else None

    def _ripe(self, mark: Mark, horizon: tuple[int, int] | None, now: float) -> bool:
        age = now - mark.at
        if age < self._overlap:
            return False
        return (
            age >= PATIENCE or horizon is None or mark.next_transaction is None or horizon[0] >= mark.next_transaction
        )

    def _keep_pass(self, seen: Seen, now: float, small: Small | None, took: float) -> SourceTotals:
        mapping = self._known()
        if seen.small is not None:
            self._small = (now, took, seen.small)
            small = seen.small
        assert small is not None  # noqa: S101 - read now, or in time
        self.rows_read += seen.facts.tally.rows
        count, base = self.counting, self.base
        totals = None
        with self.state.step():
            if base is not None and self._published is not None:
                self._published.absorb(seen.facts)
                totals = figures(mapping, self._whole(base, seen.facts), self._published, small, now)
            if seen.counted is not None and count is not None:
                totals = self._complete(count, seen.counted, small, now, totals)
            elif seen.sealed is not None and seen.rest is not None and base is not None:
                base.tally.add(seen.facts.tally)
                base.tally.add(seen.rest.tally, -1)
                base.rooms |= seen.facts.rooms
                base.cut = seen.sealed
                self._marks = [mark for mark in self._marks if mark.at * 1_000_000 > seen.sealed.moment]
            if self.base is not None:
                self.state.put("base", self.base.plain())
        assert totals is not None  # noqa: S101 - there is a base, or one has just been completed
        next_transaction = None if seen.horizon is None else seen.horizon[1]
        self._marks = [*self._marks[-MARKS:], Mark(now, seen.newest, next_transaction)]
        return totals

    def _whole(self, base: Base, facts: Facts) -> Base:
        tally = Tally()
        tally.add(base.tally)
        tally.add(facts.tally)
        return Base(base.generation, base.cut, tally, base.day, base.rooms | facts.rooms)

    def _complete(
        self, count: Count, facts: Facts, small: Small, now: float, before: SourceTotals | None
    ) -> SourceTotals:
        """The new count takes the old one's place; both are of this snapshot, so their difference is what was wrong."""
        mapping = self._known()
        self.state.absorb(count.base.generation, facts)
        self.state.forget(but=count.base.generation)
        self.base, self.counting, self.recounted_at = count.base, None, now
        self._published = Published(self.state, count.base.generation)
        totals = figures(mapping, self._whole(count.base, facts), self._published, small, now)
        if before is not None:
            self.differences = difference(before, totals)
        for key, value in (("count", None), ("recounted_at", now), ("differences", self.differences)):
            self.state.put(key, value)
        log.info("counted", source=self.source.name, seconds=round(now - count.begun, 3), differences=self.differences)
        return totals

    async def close(self) -> None:
        """Close the connection and the state."""
        await self.reader.close()
        self.state.close()


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)


def _same(there: dict[str, object], here: dict[str, object]) -> bool:
    """Is it the database of the state? A file's change counter never goes back but by being replaced."""
    changes, now = there.get("changes"), here.get("changes")
    if isinstance(changes, int) and isinstance(now, int) and now < changes:
        return False
    return all(there.get(name) == value for name, value in here.items() if name != "changes")


def _identities(mapping: Mapping, key: Key, value: int) -> str:
    assert mapping.identity is not None  # noqa: S101 - samples are of mappings that have one
    row = mapping.identity.replace("{a}", "e")
    return f"SELECT {row} FROM {mapping.table} e WHERE {key.between(value - 1, value, 'e')}"
