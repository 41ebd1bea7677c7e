"""What one pass reads: everything that a scrape needs, of one snapshot. Knows readers; changes nothing.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.observe import counting, identity
from exporter.observe.base import Base, Count
from exporter.observe.connections import Horizon, Reader, Snapshot
from exporter.observe.counting import DirectFigures
from exporter.observe.direct_figures import DirectFiguresCache
from exporter.observe.identity import Samples
from exporter.observe.mapping import DAY, Cut, Mapping
from exporter.observe.sealing import Sealing
from exporter.observe.tally import Facts


@dataclass(slots=True)
class PassResult:
    """What one pass read, all of one snapshot."""

    newest: dict[str, int]
    horizon: Horizon | None
    facts: Facts
    direct: tuple[DirectFigures, float, float]
    another: bool
    """Are rows that were counted others now, or the newest of them gone?"""
    sealed: Cut | None = None
    samples: Samples | None = None
    """What is to be remembered from now on, where that changes."""
    fewer: bool = False
    """Are rows gone that were remembered?"""
    rest: Facts | None = None
    counted: Facts | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass to be made, which may be tried several times. ``done``: the count that it completes."""

    reader: Reader
    sealing: Sealing
    direct: DirectFiguresCache
    mapping: Mapping
    base: Base | None
    done: Count | None
    samples: Samples
    now: float

    async def read(self, snapshot: Snapshot) -> PassResult:
        """All of it. Raises SourceError."""
        mapping, base, now = self.mapping, self.base, self.now
        newest, further = await counting.newest(snapshot, mapping, 0, self.sealing.longest(mapping))
        bases = [each for each in (base, self.done and self.done.base) if each]
        still, others = await identity.compare(snapshot, mapping, self.samples)
        found = PassResult(
            newest=newest,
            horizon=await self.reader.horizon(snapshot),
            facts=Facts() if base is None else await counting.tail(snapshot, mapping, base.cut, base.day * DAY),
            direct=self.direct.cached(now) or await self.direct.read(snapshot, mapping, now),
            another=others
            or identity.none_left(self.samples, still)
            or any(identity.vanished(mapping, each.cut, newest) for each in bases),
        )
        if len(still) < len(self.samples):
            found.samples, found.fewer = still, True  # of what is gone nothing more is told: another row may come there
        if self.done is not None:
            found.counted = await counting.tail(snapshot, mapping, self.done.base.cut, self.done.base.day * DAY)
            found.samples = identity.latest(still, await identity.sample(snapshot, mapping, self.done.base.cut))
        elif base is not None:
            found.sealed = await self.sealing.next(snapshot, mapping, base, newest, further, found.horizon, now)
            if found.sealed is not None:
                found.samples = identity.latest(still, await identity.sample(snapshot, mapping, found.sealed))
                found.rest = await counting.tail(snapshot, mapping, found.sealed, base.day * DAY)
        return found
