"""The engine: exact figures of a database that belongs to somebody else, cheaply. Knows no HTTP and no metric.

Everything is one identity. The total of a snapshot is the *base*, a sum over the sealed rows, plus the *tail*, read
again at every pass, less what changes in the tail have undone among the sealed. The line between them moves so that the
identity holds in that very snapshot; a full count takes the old base's place in one snapshot, too, and their difference
is what was wrong. No step depends on how often it is done; each is one transaction of the state: nothing is doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from exporter.observe import counting, identity
from exporter.observe.base import Base, Count
from exporter.observe.connections import Reader, Snapshot, behind, reader_of
from exporter.observe.counters import Counters
from exporter.observe.counting import TAIL, DirectFigures
from exporter.observe.direct_figures import DirectFiguresCache
from exporter.observe.identity import Sizes
from exporter.observe.logger import Logger
from exporter.observe.mapping import Mapping
from exporter.observe.paging import LIMIT, Pages, fits
from exporter.observe.passing import Pass, PassResult
from exporter.observe.published import Published, by_name, difference, figures
from exporter.observe.records import SourceError, SourceTotals
from exporter.observe.sealing import OVERLAP, Sealing
from exporter.observe.sources import Source, mapping_of
from exporter.observe.state import State
from exporter.observe.tally import Facts

log = Logger(__name__)

EARLY_RECOUNT_DIVISOR: Final = 12
"""When rows have vanished, a recount comes after this part of the interval."""
SLOW_PASSES: Final = 3
"""Passes in a row that took too long, after which it is asked whether too much is new."""


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
        background_refresh: bool = False,
    ) -> None:
        self.source, self.state = source, state
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
        self.counters = Counters(state)
        self._sealing = Sealing(tail, overlap)
        self._pages = Pages(self.reader, state)
        self._sizes = Sizes()
        self._direct = DirectFiguresCache(background_refresh=background_refresh)
        self._published: Published | None = None
        self._rows_passed, self._slow_passes, self._recount_early = 0, 0, False

    # --- opening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Look at the database and go on where the state ends, if it is the same. Raises Misconfigured, SourceError."""
        async with self.lock:
            await self._open()

    async def look_at_schema(self) -> Mapping:
        """The mapping of what is there, without reading a message. Raises Misconfigured, SourceError."""
        return await mapping_of(self.source, self.reader)

    async def _open(self) -> None:
        with contextlib.suppress(SourceError):
            await self._pages.kept()  # the state says how far it came
        mapping = self.latest_mapping = await self.look_at_schema()
        here = {**await self.reader.identity(), "kind": mapping.kind, "schema": mapping.schema}
        there = self.state.get("identity")
        if there is not None and not identity.same_database(there, here):
            self._begin_anew("the state belongs to another database, or this one was restored")
        with self.state.step():
            self.state.put("identity", here)
        try:
            self.base, self.counting = self.state.get("base", Base), self.state.get("count", Count)
        except msgspec.MsgspecError:
            self._begin_anew("the state was written by another version")
        self.counters.resume()
        self.recounted_at = self.state.get("recounted_at")
        self.differences = self.state.get("differences") or {}
        self._sealing.resume(self.state.get("awaited"))
        self._published = None if self.base is None else Published(self.state, self.base.generation)
        samples = self.state.get("samples") or []
        if (await self.reader.read(lambda snapshot: identity.compare(snapshot, mapping, samples), LIMIT))[1]:
            self._begin_anew("rows that were counted are others now: the database was restored or replaced")
        self._take(mapping)

    def _take(self, mapping: Mapping) -> None:
        """Go on with this mapping, unless its keys are not those of the counts: a host came or went."""
        counts = (self.base, self.counting.base if self.counting else None)
        if any(base and set(base.cut.lows) != {key.name for key in mapping.keys} for base in counts):
            self._begin_anew("the database has other hosts now", deleted=True)
        if self.state.get("rules") not in (None, mapping.rules):
            self._begin_anew("the mapping was changed", deleted=True)
        with self.state.step():
            self.state.put("rules", mapping.rules)
            self.counters.take(mapping)
        if self.counting and not fits(self.counting, mapping):
            self.counting = None
        self.mapping = self.latest_mapping = mapping

    def require_recheck(self) -> None:
        """After a failure: look again whether it is the same database, before anything is read of it."""
        self.mapping = None

    def _begin_anew(self, reason: str, *, deleted: bool = False) -> None:
        """``deleted``: it may be the same database, so what was published is what the new count is compared with."""
        log.warning("counting anew", source=self.source.title, reason=reason)
        kept = {key: self.state.get(key) for key in ("identity", *(["published"] if deleted else []))}
        with self.state.step():
            self.state.forget()
            for key, value in kept.items():
                self.state.put(key, value)
        self.base = self.counting = self.recounted_at = self._published = None
        self.counters.forget()
        self._direct.forget()
        self.differences = {}
        self._sealing.forget()
        self._sizes = Sizes()

    def _known(self) -> Mapping:
        if self.mapping is None:
            raise SourceError("the source is looked at again after a failure")
        return self.mapping

    @property
    def rows_read(self) -> int:
        """Rows of messages that were read, since the start."""
        return self._rows_passed + self._pages.rows_read

    # --- a full count -------------------------------------------------------------------------------------

    @property
    def _full_speed(self) -> bool:
        """At full load, while there are no figures yet: nobody is kept waiting by long pages."""
        return self.load >= 1 and self.base is None

    @property
    def due(self) -> bool:
        """Is a full count or what follows it under way, or its time come?"""
        return self.counting is not None or self.counters.comparison is not None or self._recount_due

    @property
    def to_begin(self) -> bool:
        """Is what is due a full count's beginning? A comparison that does not go on holds up no recount."""
        comparison = self.counters.comparison
        return not self.counting and (comparison is None or (comparison.stuck and self._recount_due))

    @property
    def _recount_due(self) -> bool:
        base, now = self.base, self.clock()
        if not base or self.recounted_at is None or self._sealing.overtaken:
            return True
        wait = self.recount_interval / EARLY_RECOUNT_DIVISOR if self._recount_early else self.recount_interval
        return base.day > now // 86_400 or not 0 <= now - self.recounted_at < wait

    async def count(self) -> SourceTotals:
        """A whole count without pauses, and the figures. Raises Misconfigured, SourceError."""
        if self.mapping is None:
            await self.open()
        await self.begin()
        while self.counting or self.counters.comparison:
            await self.advance()
        return await self.look()

    async def begin(self, max_wait: float = 0.0) -> bool:
        """Begin a full count, to where rows are sealed now, or will be first; False: not yet. Raises SourceError."""
        mapping = (await self.look_at_schema()).with_keys_of(self._known())
        now = self.clock()

        async def work(snapshot: Snapshot) -> Count | None:
            generation, cut = (self.base.generation, self.base.cut) if self.base else (0, None)
            cut = cut or await self._sealing.first(self.reader, snapshot, mapping, now, max_wait)
            if cut is None:
                return None
            return await self._pages.begin(snapshot, mapping, generation + 1, cut, now, full_speed=self._full_speed)

        async with self.lock:
            await self._pages.kept()
            self._take(mapping)
            self.counting = await self.reader.read(work, LIMIT)
            if self.counting is not None:
                self._recount_early = self._sealing.overtaken = False
                with self.state.step():
                    self.state.forget_generation(self.counting.base.generation)
                    for key, value in (("count", self.counting), ("awaited", self._sealing.awaited)):
                        self.state.put(key, value)
            return self.counting is not None

    async def advance(self) -> float:
        """One page of the count under way, or its completion: the seconds of database time. Raises SourceError."""
        async with self.lock:
            count = self.counting
            if count is None:
                return await self.counters.step(self.reader, self._known())
            started = time.perf_counter()
            if count.read:
                await self._pass()
            else:
                await self._pages.read(count, self._known(), self.clock(), full_speed=self._full_speed)
            return time.perf_counter() - started

    # --- a pass -------------------------------------------------------------------------------------------

    async def look(self) -> SourceTotals:
        """The figures of now, in one snapshot; unknown before the first full count. Raises SourceError."""
        if self.base is None and self.counting and self.lock.locked():
            return self._nothing_yet()  # a page of it is being read: nobody waits for that
        async with self.lock:
            return await self._pass()

    def _nothing_yet(self) -> SourceTotals:
        progress = 0.0 if self.counting is None else self.counting.share
        return figures(self._known(), None, None, DirectFigures(), self.clock(), progress)

    async def _pass(self) -> SourceTotals:
        await self._pages.kept()
        mapping, now = self._known(), self.clock()
        count, base = self.counting, self.base
        done = count if count and count.done else None
        for each in (base, count.base if count else None):
            if each is not None:
                each.turn(int(now // 86_400))
        if base is None and done is None:
            await self.reader.read(lambda snapshot: snapshot.fetch("SELECT 1"), LIMIT)
            return self._nothing_yet()
        samples = self.state.get("samples") or []
        wanted = Pass(self.reader, self._sealing, self._direct, mapping, base, done, samples, now)
        try:
            found = await self.reader.read(wanted.read, LIMIT)
        except SourceError as error:
            self._slow_passes = self._slow_passes + 1 if error.slow else 0
            await self._leave_what_is_outgrown()
            raise
        self._slow_passes = 0
        self._direct.keep(found.direct)
        totals = await asyncio.to_thread(self._keep_pass, found, now)
        totals = replace(totals, as_of=min(now, found.direct[1]) - behind(found.horizon))
        inaccurate = self.counters.inaccurate
        return totals if inaccurate is None else replace(totals, inaccurate_conversations=inaccurate.number)

    async def _leave_what_is_outgrown(self) -> None:
        """After a bulk load or a long absence, more may be new than a pass can read, for ever: then count anew."""
        if self._slow_passes < SLOW_PASSES:
            return
        mapping, bases = self._known(), (self.base, self.counting and self.counting.base)
        cuts = [base.cut for base in bases if base]
        grown = await self.reader.read(lambda snapshot: counting.many_above(snapshot, mapping, cuts), LIMIT)
        if grown[:1] == [True]:
            self._begin_anew("more is new than can be read at once")
        elif any(grown):  # a recount that took long; the figures themselves are well
            self.counting = None
            with self.state.step():
                self.state.put("count", None)

    async def refresh(self) -> None:
        """Read the direct figures again, where they are slow and it is time to. Raises SourceError."""
        if self._direct.due(self.clock()):
            async with self.lock:
                await self._direct.refresh(self.reader, self._known(), self.clock())

    def _keep_pass(self, found: PassResult, now: float) -> SourceTotals:
        mapping, direct = self._known(), found.direct[0]
        if found.another:
            self._begin_anew("the newest rows were deleted, or the database was restored", deleted=True)
            return figures(mapping, None, None, direct, now)
        self._rows_passed += sum(
            facts.tally.rows for facts in (found.facts, found.rest, found.counted) if facts is not None
        )
        count, base, totals = self.counting, self.base, None
        with self.state.step():
            if base is not None and self._published is not None:
                self._published.absorb(found.facts)
                whole = base.plus(found.facts)
                totals = figures(mapping, whole, self._published, direct, now)
                self._recount_early |= self._sizes.shrank(whole.tally.rows, direct, found.newest) or found.fewer
            if found.counted is not None and count is not None:
                totals = self._complete(count, found.counted, direct, now, totals)
            elif found.sealed is not None and found.rest is not None and base is not None:
                base.tally.add(found.facts.tally)
                base.tally.add(found.rest.tally, -1)
                base.rooms |= found.facts.rooms
                base.cut = found.sealed
            for key, value in (("samples", found.samples), ("awaited", self._sealing.awaited)):
                if value is not None:  # who is awaited stays there until the count that it makes due has begun
                    self.state.put(key, value)
            if self.base is not None and totals is not None:
                self.state.put("base", self.base)
                self.state.put("published", by_name(totals))
        assert totals is not None  # noqa: S101 - there is a base, or one has just been completed
        self._sealing.note(now, found.newest, found.horizon)
        return totals

    def _complete(
        self, count: Count, facts: Facts, direct: DirectFigures, now: float, before: SourceTotals | None
    ) -> SourceTotals:
        """The new count takes the old one's place; both are of this snapshot, so their difference is what was wrong."""
        mapping = self._known()
        self.state.absorb(count.base.generation, facts)
        self.state.forget(but=count.base.generation)
        self.base, self.counting, self.recounted_at = count.base, None, now
        self.counters.begin(mapping)
        self._sizes = Sizes()  # fewer rows than the old count had: that is corrected, not to be counted once more
        self._published = Published(self.state, count.base.generation)
        totals = figures(mapping, count.base.plus(facts), self._published, direct, now)
        published = self.state.get("published") if before is None else by_name(before)
        if published is not None:
            self.differences = difference(published, by_name(totals))
        for key, value in (("count", None), ("recounted_at", now), ("differences", self.differences)):
            self.state.put(key, value)
        tell = log.debug if self.state.path is None else log.info  # without a file somebody waits for the figures
        tell("counted", source=self.source.title, seconds=round(now - count.begun, 3), differences=self.differences)
        return totals

    async def close(self) -> None:
        """Close the connection and the state."""
        with contextlib.suppress(SourceError):
            await self._pages.kept()
        await self.reader.close()
        self.state.close()
