"""What some rows add up to. Knows neither database nor file: rows of ``statements.facts`` come in, sums come out.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from exporter.observe.mapping import OF_ROOMS
from exporter.observe.statements import AGES


def fingerprint(text: str) -> int:
    """A person or a conversation as 64 bits: a million of them take 16 MB on disk, and no name is kept.

    Two of a million fall together with a probability of 1 in 37 million.
    """
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big", signed=True)


def _zero() -> list[int]:
    return [0] * AGES


@dataclass(slots=True)
class Tally:
    """Sums of weights by age; the doubtful ones apart by domain, since rooms may become known later."""

    sure: list[int] = field(default_factory=_zero)
    doubtful: dict[str, list[int]] = field(default_factory=dict)
    opaque: int = 0
    rows: int = 0

    def add(self, other: Tally, sign: int = 1) -> None:
        """Add another tally, or take it away."""
        self.sure = [a + sign * b for a, b in zip(self.sure, other.sure, strict=True)]
        for domain, sums in other.doubtful.items():
            mine = self.doubtful.setdefault(domain, _zero())
            self.doubtful[domain] = [a + sign * b for a, b in zip(mine, sums, strict=True)]
        self.opaque += sign * other.opaque
        self.rows += sign * other.rows

    def weight(self, rooms: set[str], youngest: int = 0) -> int:
        """What it weighs, from this age on, when these domains are those of rooms."""
        doubtful = sum(sum(sums[youngest:]) for domain, sums in self.doubtful.items() if domain not in rooms)
        return sum(self.sure[youngest:]) + doubtful

    def turn(self, days: int) -> None:
        """So many midnights have passed: what was tomorrow's is today's."""
        for sums in (self.sure, *self.doubtful.values()):
            for _ in range(min(days, AGES)):
                sums[:] = [sums[0] + sums[1], *sums[2:], 0]


@dataclass(slots=True)
class Facts:
    """A tally, and who and what was met in its rows: last days by person, domains by conversation."""

    tally: Tally = field(default_factory=Tally)
    writers: dict[int, int] = field(default_factory=dict)
    conversations: dict[int, str] = field(default_factory=dict)
    rooms: set[str] = field(default_factory=set)
    writers_by_day: dict[int, array[int]] = field(default_factory=dict)
    """Many people, in a few bytes each, where they were read apart; ``read`` is of how many rows."""
    read: int = 0

    def take(self, rows: Iterable[Sequence[Any]], *, fingerprints: bool) -> None:
        """Rows of ``statements.facts``; ``fingerprints``: did the database make them?"""
        tally, writers = self.tally, self.writers
        for conversation, domain, writer, age, day, count, weight, doubtful, opaque, registered in rows:
            tally.rows += count
            tally.sure[age] += int(weight)
            tally.opaque += int(opaque)
            if doubtful:
                tally.doubtful.setdefault(domain, _zero())[age] += int(doubtful)
            if writer is not None and registered and day is not None:
                person = writer if fingerprints else fingerprint(str(writer))
                if writers.get(person, -1) < day:
                    writers[person] = day
            if conversation is not None:
                name = str(conversation)
                room = domain is not None and name.startswith("room ")
                if room:
                    self.rooms.add(domain)
                if name != OF_ROOMS:
                    self.conversations[fingerprint(name)] = "" if room else domain or ""

    def take_writers(self, rows: Iterable[Sequence[Any]], *, fingerprints: bool) -> None:
        """Rows of ``statements.writers``."""
        for day, people, count in rows:
            self.read += int(count)
            found = self.writers_by_day.setdefault(day, array("q"))
            if fingerprints:
                packed = array("q", people)
                if sys.byteorder == "little":
                    packed.byteswap()
                found.extend(packed)
            else:
                found.append(fingerprint(str(people)))

    def take_undone(self, rows: Iterable[Sequence[Any]], units: int, sign: int) -> None:
        """Rows of ``statements.undone``."""
        for age, count in rows:
            self.tally.sure[age] += sign * int(count) * units
