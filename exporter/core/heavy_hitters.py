"""Which few of very many keys come most often, in little memory. Pure: the time is passed in.

Misra and Gries (1982): at most ``capacity`` counters per part of the window; when a new key finds none free, every
counter is lowered by one. A count is then too low by at most the number of such decrements, which is told, and a key
that comes more often than that is never missed.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Generic, TypeVar

K = TypeVar("K")


@dataclass(slots=True)
class _Part(Generic[K]):
    number: int
    counts: dict[K, int] = field(default_factory=dict)
    decrements: int = 0


class HeavyHitters(Generic[K]):
    """Counts of the last ``window`` seconds and at most one of its ``parts`` more; ``capacity`` keys per part."""

    def __init__(self, window: float = 3600.0, parts: int = 12, capacity: int = 10_000) -> None:
        self._length = window / parts
        self._capacity = capacity
        self._parts: deque[_Part[K]] = deque(maxlen=parts + 1)

    def count(self, key: K, now: float) -> None:
        """It came once more; ``now`` in seconds of a clock that does not go back. Some 0.3 µs."""
        number = int(now // self._length)
        if not self._parts or self._parts[-1].number != number:
            self._parts.append(_Part(number))
        part = self._parts[-1]
        counts = part.counts
        if key in counts:
            counts[key] += 1
        elif len(counts) < self._capacity:
            counts[key] = 1
        else:
            part.decrements += 1
            part.counts = {name: n - 1 for name, n in counts.items() if n > 1}

    def top(self, number: int, now: float) -> tuple[list[tuple[K, int]], int]:
        """The ``number`` most frequent keys with their counts, the most frequent first, and by how much at most each
        count is too low."""
        oldest = int(now // self._length) - (self._parts.maxlen or 1) + 1
        held = [part for part in self._parts if part.number >= oldest]
        total: Counter[K] = Counter()
        for part in held:
            total.update(part.counts)
        return nlargest(number, total.items(), key=lambda item: item[1]), sum(part.decrements for part in held)
