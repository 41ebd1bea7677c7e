"""Where the line between sealed rows and the tail may go. Knows snapshots; keeps a few minutes of marks.

A row may become visible below the highest key that was seen: numbers and times are taken before the commit. So the
line stays behind: a mark of the newest keys is used when it is old enough, and when every transaction that was under
way at its moment has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exporter.observe import counting
from exporter.observe.base import Base
from exporter.observe.connections import Snapshot
from exporter.observe.mapping import Cut, Key, Mapping

OVERLAP: Final = 60.0
"""Seconds after which no row appears below the highest key of a moment, as far as servers were seen."""
PATIENCE: Final = 900.0
"""Seconds that a transaction which stays open is waited for; what it brings later, a recount finds."""
MARKS: Final = 256


@dataclass(frozen=True, slots=True)
class _Mark:
    """What the newest keys were at a moment, and which transaction was the next to come."""

    at: float
    newest: dict[str, int]
    next_transaction: int | None


class Sealing:
    """The marks, and the next cut. ``tail`` rows stay unsealed in any case: changes among them are seen at once."""

    def __init__(self, tail: int, overlap: float) -> None:
        self._tail = tail
        self._overlap = overlap
        self._marks: list[_Mark] = []

    def note(self, now: float, newest: dict[str, int], horizon: tuple[int, int] | None) -> None:
        """Remember what was newest, and which transaction was the next."""
        if not self._marks or now - self._marks[-1].at >= self._overlap / 16:
            self._marks = [*self._marks[-MARKS:], _Mark(now, newest, None if horizon is None else horizon[1])]

    def forget(self) -> None:
        """Of another database."""
        self._marks = []

    async def first(self, snapshot: Snapshot, mapping: Mapping, now: float) -> dict[str, int]:
        """Where the very first count may end: the tail is above, and so is the overlap where keys are times."""
        found = await counting.newest(snapshot, mapping, self._tail)
        return {key.name: _capped(key, found.get(key.name, key.lowest), now - self._overlap) for key in mapping.keys}

    async def next(
        self, snapshot: Snapshot, mapping: Mapping, base: Base, horizon: tuple[int, int] | None, now: float
    ) -> Cut | None:
        """A cut above the base's, None when it stays."""
        ripe = [mark for mark in self._marks if self._is_ripe(mark, horizon, now)]
        if not ripe:
            return None
        mark = ripe[-1]
        room = await counting.newest(snapshot, mapping, self._tail)
        lows = {}
        for key in mapping.keys:
            low = min(mark.newest.get(key.name, key.lowest), room.get(key.name, key.lowest))
            low = _capped(key, low, mark.at)
            if key.name in mapping.safe and now - mark.at < PATIENCE:
                rows = await snapshot.fetch(mapping.safe[key.name])
                low = low if not rows or rows[0][0] is None else min(low, int(rows[0][0]))
            lows[key.name] = max(low, base.cut.lows[key.name])
        self._marks = [other for other in self._marks if other.at >= mark.at]
        moved = any(lows[name] > low for name, low in base.cut.lows.items())
        return Cut(lows, max(base.cut.moment, int(mark.at * 1_000_000))) if moved else None

    def _is_ripe(self, mark: _Mark, horizon: tuple[int, int] | None, now: float) -> bool:
        age = now - mark.at
        if age < self._overlap:
            return False
        ended = horizon is None or mark.next_transaction is None or horizon[0] >= mark.next_transaction
        return ended or age >= PATIENCE


def _capped(key: Key, value: int, moment: float) -> int:
    """A row that is dated in the future must not hide those that come after it."""
    return value if key.time is None else max(key.lowest, min(value, int(moment * 1_000_000)))
