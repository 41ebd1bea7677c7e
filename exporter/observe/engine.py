"""The engine: exact figures of a database that belongs to somebody else, cheaply. Knows no HTTP and no metric.

Everything is one identity. The total of a snapshot is the *base*, a sum over the sealed rows, plus the *tail*, read
again at every pass, less what changes in the tail have undone among the sealed. The line between them moves so that the
identity holds in that very snapshot; a full count takes the old base's place in one snapshot, too, and their difference
is what was wrong. No step depends on how often it is done; each is one transaction of the state: nothing is doubled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from exporter.observe import counting, identity
from exporter.observe.base import Base, Count, Seen
from exporter.observe.connections import Reader, Snapshot, reader_of
from exporter.observe.counters import Comparison
from exporter.observe.counting import TAIL, Small
from exporter.observe.identity import Sizes
from exporter.observe.logger import Logger
from exporter.observe.mapping import DAY, Cut, Key, Mapping
from exporter.observe.published import Published, difference, figures
from exporter.observe.records import SourceError, SourceTotals
from exporter.observe.sealing import OVERLAP, Sealing
from exporter.observe.small import SmallFigures
from exporter.observe.sources import Source, mapping_of
from exporter.observe.state import State
from exporter.observe.tally import Facts, Tally

log = Logger(__name__)

LIMIT: Final = 4.0
"""Seconds for a pass, or for a page of a count; pages are made larger and smaller to take what the reader aims at."""
SOONER: Final = 12
"""When rows have vanished, a recount comes after this part of the interval."""


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
        apart: bool = False,
    ) -> None:
        self.source = source
        self.state = state
        self.load = load
        self.recount_interval = recount_interval
        self.clock = clock
        self.reader = reader or reader_of(source.url)
        self.lock = asyncio.Lock()
        self.mapping: Mapping | None = None
        """None before the first look, and when the database may have become another one."""
        self.latest_mapping: Mapping | None = None
        self.base: Base | None = None
        self.counting: Count | None = None
        self.recounted_at: float | None = None
        self.differences: dict[str, int] = {}
        self.rows_read = 0
        self.comparison: Comparison | None = None
        """The counters' comparison under way; ``inaccurate`` is what the last one found."""
        self.inaccurate: Comparison | None = None
        self._sealing = Sealing(tail, overlap)
        self._overlap = overlap
        self._sizes = Sizes()
        self._small = SmallFigures(apart=apart)
        self._apart = apart
        self._published: Published | None = None
        self._sooner = False

    # --- opening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Look at the database and go on where the state ends, if it is the same. Raises Misconfigured, SourceError."""
        async with self.lock:
            await self._open()

    async def look_at_schema(self) -> Mapping:
        """The mapping of what is there, without reading a message. Raises Misconfigured, SourceError."""
        return await mapping_of(self.source, self.reader)

    async def _open(self) -> None:
        mapping = self.latest_mapping = await self.look_at_schema()
        here = {**await self.reader.identity(), "kind": mapping.kind, "schema": mapping.schema}
        there = self.state.get("identity")
        if there is not None and not identity.same(there, here):
            self._begin_anew("the state belongs to another database, or this one was restored")
        with self.state.step():
            self.state.put("identity", here)
        base, count, inaccurate = (self.state.get(key) for key in ("base", "count", "inaccurate"))
        self.base = None if base is None else Base.of(base)
        self.counting = None if count is None else Count.of(count)
        self.inaccurate = None if inaccurate is None else Comparison(number=inaccurate)
        self.recounted_at = self.state.get("recounted_at")
        self.differences = self.state.get("differences") or {}
        self._published = None if self.base is None else Published(self.state, self.base.generation)
        if not await identity.hold(self.reader, mapping, self.state.get("samples") or []):
            self._begin_anew("rows that were counted are others now: the database was restored or replaced")
        self._take(mapping)

    def _take(self, mapping: Mapping) -> None:
        """Go on with this mapping, unless its keys are not those of the counts: a host came or went."""
        counts = (self.base, self.counting.base if self.counting else None)
        if any(base and set(base.cut.lows) != {key.name for key in mapping.keys} for base in counts):
            self._begin_anew("the database has other hosts now")
        self.mapping = self.latest_mapping = mapping

    def suspect(self) -> None:
        """After a failure: look again whether it is the same database, before anything is read of it."""
        self.mapping = None

    def _begin_anew(self, reason: str) -> None:
        log.warning("counting anew", source=self.source.name, reason=reason)
        with self.state.step():
            self.state.forget()
        self.base = self.counting = self.recounted_at = self._published = None
        self._small = SmallFigures(apart=self._apart)
        self.differences = {}
        self._sealing.forget()
        self._sizes = Sizes()

    def _known(self) -> Mapping:
        if self.mapping is None:
            raise SourceError("the source is looked at again after a failure")
        return self.mapping

    # --- a full count -------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Is a full count under way, or its time come?"""
        if self.base is None or self.counting or self.comparison or self.recounted_at is None:
            return True
        wait = self.recount_interval / SOONER if self._sooner else self.recount_interval
        return not 0 <= self.clock() - self.recounted_at < wait

    async def count(self) -> SourceTotals:
        """A whole count without pauses, and the figures. Raises Misconfigured, SourceError."""
        if self.mapping is None:
            await self.open()
        await self.begin()
        while self.counting or self.comparison:
            await self.advance()
        return await self.look()

    async def begin(self) -> None:
        """Begin a full count, up to where the rows are sealed now, or will be first of all. Raises SourceError."""
        mapping = (await self.look_at_schema()).with_keys_of(self._known())
        now = self.clock()

        async def work(snapshot: Snapshot) -> tuple[dict[str, int], dict[str, int]]:
            lows = dict(self.base.cut.lows) if self.base else await self._sealing.first(snapshot, mapping, now)
            bottoms = {}
            for key in mapping.keys:
                rows = await snapshot.fetch(key.next_above(None, mapping.table))
                lowest = counting.key_value(key, rows[0][0]) - 1 if rows else lows[key.name]
                bottoms[key.name] = min(lowest, lows[key.name])
            return lows, bottoms

        async with self.lock:
            self._take(mapping)
            lows, bottoms = await self.reader.read(work, LIMIT)
            moment = self.base.cut.moment if self.base else _micros(now - self._overlap)
            generation = (self.base.generation if self.base else 0) + 1
            base = Base(generation, Cut(lows, moment), Tally(), int(now // 86_400))
            spans = {name: max(1_000, (lows[name] - low) // 200) for name, low in bottoms.items()}
            self.counting = Count(base, now, bottoms, dict(bottoms), spans)
            self._sooner = False
            with self.state.step():
                self.state.forget_generation(generation)
                self.state.put("count", self.counting.plain())

    async def advance(self) -> float:
        """One page of the count under way, or its completion: the seconds of database time. Raises SourceError."""
        async with self.lock:
            count = self.counting
            if count is None:
                return await self._compare()
            started = time.perf_counter()
            for key in self._known().keys:
                if count.done[key.name] < count.base.cut.lows[key.name]:
                    await self._page(count, key)
                    return time.perf_counter() - started
            await self._pass()
            return time.perf_counter() - started

    async def _compare(self) -> float:
        """One page of the counters' comparison, which follows each full count."""
        if (comparison := self.comparison) is None:
            return 0.0
        took = await comparison.step(self.reader, self._known())
        if comparison.done:
            self.inaccurate, self.comparison = comparison, None
            with self.state.step():
                self.state.put("inaccurate", comparison.number)
        return took

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
                high = min(end, counting.key_value(key, rows[0][0]) - 1) if rows else end
            return high, facts

        try:
            high, facts = await self.reader.read(work, LIMIT)
        except SourceError as error:
            if not error.slow or count.spans[key.name] <= 1:
                raise
            count.spans[key.name] = max(1, count.spans[key.name] // 3)
            return
        took = time.perf_counter() - started
        count.spans[key.name] = max(
            1, int(count.spans[key.name] * min(3.0, max(0.5, self.reader.aim / max(took, 0.001))))
        )
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
        """The figures of now, in one snapshot; unknown before the first full count. Raises SourceError."""
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
            await self.reader.read(lambda snapshot: snapshot.fetch("SELECT 1"), LIMIT)
            return figures(mapping, None, None, Small(), now, progress=0.0 if count is None else count.share)
        small = self._small.at_hand(now)

        async def work(snapshot: Snapshot) -> Seen:
            day = int(now // 86_400) * DAY
            seen = Seen(
                newest=await counting.newest(snapshot, mapping),
                horizon=await self.reader.horizon(snapshot),
                facts=Facts() if base is None else await counting.tail(snapshot, mapping, base.cut, day),
                small=small or await self._small.read(snapshot, mapping, now),
            )
            if done and count is not None:
                seen.counted = await counting.tail(snapshot, mapping, count.base.cut, day)
            elif base is not None:
                seen.sealed = await self._sealing.next(snapshot, mapping, base, seen.horizon, now)
                if seen.sealed is not None:
                    seen.samples = await identity.sample(snapshot, mapping, seen.sealed)
                    seen.rest = await counting.tail(snapshot, mapping, seen.sealed, day)
            return seen

        seen = await self.reader.read(work, LIMIT)
        self._small.keep(seen.small)
        totals = await asyncio.to_thread(self._keep_pass, seen, now)
        totals = replace(totals, as_of=min(now, seen.small[1]))
        return totals if self.inaccurate is None else replace(totals, inaccurate_conversations=self.inaccurate.number)

    async def refresh(self) -> None:
        """Read the slow ones of the small figures, where it is time to. Raises SourceError."""
        if self._small.due(self.clock()):
            async with self.lock:
                await self._small.refresh(self.reader, self._known(), self.clock())

    def _keep_pass(self, seen: Seen, now: float) -> SourceTotals:
        mapping, small = self._known(), seen.small[0]
        if self.base is not None and identity.vanished(mapping, self.base.cut, seen.newest):
            self._begin_anew("the newest rows are older than those that were counted: the database was restored")
            return figures(mapping, None, None, small, now)
        self.rows_read += sum(facts.tally.rows for facts in (seen.facts, seen.rest, seen.counted) if facts is not None)
        count, base, totals = self.counting, self.base, None
        with self.state.step():
            if base is not None and self._published is not None:
                self._published.absorb(seen.facts)
                whole = base.plus(seen.facts)
                totals = figures(mapping, whole, self._published, small, now)
                self._sooner |= self._sizes.fell(whole.tally.rows, small, seen.newest)
            if seen.counted is not None and count is not None:
                totals = self._complete(count, seen.counted, small, now, totals)
            elif seen.sealed is not None and seen.rest is not None and base is not None:
                base.tally.add(seen.facts.tally)
                base.tally.add(seen.rest.tally, -1)
                base.rooms |= seen.facts.rooms
                base.cut = seen.sealed
                samples = [*(self.state.get("samples") or []), *seen.samples]
                self.state.put("samples", samples[-identity.SAMPLES :])
            if self.base is not None:
                self.state.put("base", self.base.plain())
        assert totals is not None  # noqa: S101 - there is a base, or one has just been completed
        self._sealing.note(now, seen.newest, seen.horizon)
        return totals

    def _complete(
        self, count: Count, facts: Facts, small: Small, now: float, before: SourceTotals | None
    ) -> SourceTotals:
        """The new count takes the old one's place; both are of this snapshot, so their difference is what was wrong."""
        mapping = self._known()
        self.state.absorb(count.base.generation, facts)
        self.state.forget(but=count.base.generation)
        self.base, self.counting, self.recounted_at = count.base, None, now
        self.comparison = Comparison() if mapping.counter is not None else None
        self._published = Published(self.state, count.base.generation)
        totals = figures(mapping, count.base.plus(facts), self._published, small, now)
        if before is not None:
            self.differences = difference(before, totals)
        for key, value in (("count", None), ("recounted_at", now), ("differences", self.differences)):
            self.state.put(key, value)
        tell = log.debug if self.state.path is None else log.info  # without a file somebody waits for the figures
        tell("counted", source=self.source.name, seconds=round(now - count.begun, 3), differences=self.differences)
        return totals

    async def close(self) -> None:
        """Close the connection and the state."""
        await self.reader.close()
        self.state.close()


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)
