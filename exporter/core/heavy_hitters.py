"""Which few of very many keys come most often, in little memory. Pure: the time is passed in.

Misra and Gries (1982): at most ``capacity`` counters per stretch of time; when a new key finds none free, every counter
falls by one. A count is then too low by at most the number of such falls, which is told, and a key that comes more
often than that is never missed.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Generic, TypeVar

K = TypeVar("K")


@dataclass(slots=True)
class _Stretch(Generic[K]):
    number: int
    counts: dict[K, int] = field(default_factory=dict)
    falls: int = 0


class HeavyHitters(Generic[K]):
    """Counts of the last ``window`` seconds and at most one of its ``parts`` more; ``capacity`` keys per part."""

    def __init__(self, window: float = 3600.0, parts: int = 12, capacity: int = 10_000) -> None:
        self._length = window / parts
        self._capacity = capacity
        self._stretches: deque[_Stretch[K]] = deque(maxlen=parts + 1)

    def count(self, key: K, now: float) -> None:
        """It came once more; ``now`` in seconds of a clock that does not go back. Some 0.3 µs."""
        number = int(now // self._length)
        if not self._stretches or self._stretches[-1].number != number:
            self._stretches.append(_Stretch(number))
        stretch = self._stretches[-1]
        counts = stretch.counts
        if key in counts:
            counts[key] += 1
        elif len(counts) < self._capacity:
            counts[key] = 1
        else:
            stretch.falls += 1
            stretch.counts = {name: n - 1 for name, n in counts.items() if n > 1}

    def top(self, number: int, now: float) -> tuple[list[tuple[K, int]], int]:
        """The ``number`` most frequent keys with their counts, the most frequent first, and by how much at most each
        count is too low."""
        oldest = int(now // self._length) - (self._stretches.maxlen or 1) + 1
        held = [stretch for stretch in self._stretches if stretch.number >= oldest]
        total: Counter[K] = Counter()
        for stretch in held:
            total.update(stretch.counts)
        return nlargest(number, total.items(), key=lambda item: item[1]), sum(stretch.falls for stretch in held)
