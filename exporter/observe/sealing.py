"""Where the line between sealed rows and the tail may go. Knows snapshots; keeps a few minutes of marks.

A row may become visible below the highest key that was seen: numbers and times are taken before the commit. So the
line stays behind: a mark of the newest keys is used when it is old enough, and when every transaction that was under
way at its moment has ended.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Final

from exporter.observe import counting
from exporter.observe.base import Base
from exporter.observe.connections import Horizon, Reader, Snapshot, behind
from exporter.observe.mapping import Cut, Key, Mapping

OVERLAP: Final = 60.0
"""Seconds after which no row appears below the highest key of a moment, as far as servers were seen."""
MAX_TRANSACTION_AGE: Final = 900.0
"""Seconds that a transaction which stays open is waited for; when it ends later, everything is counted again."""
MAX_MARKS: Final = 256
MIN_TAIL: Final = 10
"""Rows of a key that stay unsealed where many keys share the tail: hosts of one server, each with its own."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """What the newest keys were at a moment, and which transaction was the next to come."""

    at: float
    newest: dict[str, int]
    next_transaction: int | None


@dataclass(frozen=True, slots=True)
class _PendingCut:
    """Where the very first count may end as soon as all transactions below ``next_transaction`` have ended."""

    at: float
    cut: Cut
    next_transaction: int


class Sealing:
    """The marks, and the next cut. ``tail`` rows stay unsealed in any case: changes among them are seen at once."""

    def __init__(self, tail: int, overlap: float) -> None:
        self._tail = tail
        self._overlap = overlap
        self._marks: list[_Mark] = []
        self._pending: _PendingCut | None = None
        self.awaited: int | None = None
        """The line did not wait for all transactions below this one, of which some are open; the state keeps it."""
        self.overtaken = False
        """Have they ended? What they wrote below the line may not be counted."""

    def note(self, now: float, newest: dict[str, int], horizon: Horizon | None) -> None:
        """Remember what was newest, and which transaction was the next, at the moment that a standby shows."""
        now -= behind(horizon)
        if self.awaited is not None and _have_ended(self.awaited, horizon):
            self.awaited, self.overtaken = None, True
        if not self._marks or now - self._marks[-1].at >= self._overlap / 16:
            self._marks = [*self._marks[-MAX_MARKS:], _Mark(now, newest, None if horizon is None else horizon.next)]

    def resume(self, awaited: int | None) -> None:
        """What an earlier process waited for; whoever has gone on since knows better."""
        if self.awaited is None and not self.overtaken:
            self.awaited = awaited

    def forget(self) -> None:
        """Of another database."""
        self._marks, self._pending, self.awaited, self.overtaken = [], None, None, False

    async def first(
        self, reader: Reader, snapshot: Snapshot, mapping: Mapping, now: float, max_wait: float
    ) -> Cut | None:
        """Where the very first count may end: the tail is above, and so is the overlap where keys are times.

        None: not yet. Open transactions may write below that; ask again until these have ended. After ``max_wait``
        seconds they are waited for no longer, and when they have ended all is counted once more.
        """
        horizon, first = await reader.horizon(snapshot), self._pending
        if first is None or set(first.cut.lows) != {key.name for key in mapping.keys}:
            cut = await self._first_cut(snapshot, mapping, now - behind(horizon) - self._overlap)
            if horizon is None or horizon.oldest >= horizon.next:
                self.awaited = None
                return cut
            first = self._pending = _PendingCut(now, cut, horizon.next)
        ended = _have_ended(first.next_transaction, horizon)
        if not ended and 0 <= now - first.at < max_wait:
            return None
        self._pending, self.awaited = None, None if ended else first.next_transaction
        return first.cut

    async def _first_cut(self, snapshot: Snapshot, mapping: Mapping, moment: float) -> Cut:
        (found,) = await counting.newest(snapshot, mapping, self._share(mapping))
        lows = {key.name: _capped(key, found.get(key.name, key.lowest), moment) for key in mapping.keys}
        safe = {name: await _safe(snapshot, mapping, name, low) for name, low in lows.items()}
        return Cut(safe, _changes(mapping, moment))

    def _share(self, mapping: Mapping) -> int:
        """Rows of each key that stay unsealed; the last of several is of hosts that are not known yet."""
        share = self._tail // max(1, len(mapping.keys) - 1)
        return min(self._tail, max(MIN_TAIL, share))

    def longest(self, mapping: Mapping) -> int:
        """Rows above the line with which it moves: a quarter more than the tail. Moving costs reading it twice."""
        share = self._share(mapping)
        return share + share // 4

    async def next(
        self,
        snapshot: Snapshot,
        mapping: Mapping,
        base: Base,
        newest: MappingOf[str, int],
        further: MappingOf[str, int],
        horizon: Horizon | None,
        now: float,
    ) -> Cut | None:
        """A cut above the base's, None when it stays. ``further``: the keys with ``longest`` rows above them."""
        if all(further.get(key.name, key.lowest) <= base.cut.lows[key.name] for key in mapping.keys):
            return None
        now -= behind(horizon)
        settled = self._settled_marks(horizon, now)
        if not settled:
            return None
        mark = settled[-1]
        left = settled if horizon is not None else self._until(self._end_of_the_writer(newest), now)
        moment = left[-1].at if left else 0.0
        (room,) = await counting.newest(snapshot, mapping, self._share(mapping))
        lows = {}
        for key in mapping.keys:
            low = min(mark.newest.get(key.name, key.lowest), room.get(key.name, key.lowest))
            low = _capped(key, low, moment)
            if now - mark.at < MAX_TRANSACTION_AGE:
                low = await _safe(snapshot, mapping, key.name, low)
            lows[key.name] = max(low, base.cut.lows[key.name])
        moved = any(lows[name] > low for name, low in base.cut.lows.items())
        if moved and horizon is not None and (mark.next_transaction or 0) > horizon.oldest:
            self.awaited = max(self.awaited or 0, mark.next_transaction or 0)
        self._marks = [other for other in self._marks if other.at >= moment]
        return Cut(lows, max(base.cut.moment, _changes(mapping, moment))) if moved else None

    def _end_of_the_writer(self, newest: MappingOf[str, int]) -> float:
        """The latest moment whose writer, of which SQLite has one, has ended since: something came after it.

        Numbers do not wait for it: nobody writes beside it, so what it writes is above what is there. But its rows and
        its deletions may have the time of its beginning, and rows that are there have that too, or a later one.
        """
        return max((mark.at for mark in self._marks if mark.newest != newest), default=float("-inf"))

    def _settled_marks(self, horizon: Horizon | None, now: float) -> list[_Mark]:
        """Marks below which nothing appears any more.

        A key is taken at most ``overlap`` seconds before its transaction begins to write. So all that lies below a mark
        is there when every transaction has ended that had begun so many seconds after it.
        """
        if horizon is None:
            ended = now
        else:
            ends = [mark.at for mark in self._marks if (mark.next_transaction or 0) <= horizon.oldest]
            ended = max(ends, default=float("-inf"))
        return self._until(ended, now)

    def _until(self, ended: float, now: float) -> list[_Mark]:
        latest = max(ended - self._overlap, now - MAX_TRANSACTION_AGE)
        return [mark for mark in self._marks if mark.at <= latest]


def _have_ended(awaited: int, horizon: Horizon | None) -> bool:
    """Have all transactions below this one ended, or are the numbers of another server, before a restore?"""
    return horizon is not None and not horizon.oldest < awaited <= horizon.next


def _capped(key: Key, value: int, moment: float) -> int:
    """A row that is dated in the future must not hide those that come after it."""
    return value if key.time is None else max(key.lowest, min(value, key.time.settled(int(moment * 1_000_000))))


def _changes(mapping: Mapping, moment: float) -> int:
    """Up to where changes are in the base: none to come is dated before, also when clocks are about to be put back."""
    at = int(moment * 1_000_000)
    return at if mapping.change is None or mapping.change.time is None else mapping.change.time.settled(at)


async def _safe(snapshot: Snapshot, mapping: Mapping, name: str, low: int) -> int:
    """At most the limit that the server itself gives, where it gives one."""
    if name not in mapping.safe:
        return low
    rows = await snapshot.fetch(mapping.safe[name])
    return low if not rows or rows[0][0] is None else min(low, int(rows[0][0]))
