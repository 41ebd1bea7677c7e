"""Counts, complete and under way, as records that the state keeps. Knows no connection.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from exporter.observe.mapping import Cut
from exporter.observe.tally import Facts, Tally


@dataclass(slots=True)
class Base:
    """A complete count: its generation, its cut, and how much; ages are reckoned from ``day`` (since 1970)."""

    generation: int
    cut: Cut
    tally: Tally
    day: int
    rooms: set[str] = field(default_factory=set)

    def turn(self, day: int) -> None:
        """Midnights that have passed."""
        if day > self.day:
            self.tally.turn(day - self.day)
            self.day = day

    def plus(self, facts: Facts) -> Base:
        """With a tail: all that there is."""
        tally = Tally()
        tally.add(self.tally)
        tally.add(facts.tally)
        return Base(self.generation, self.cut, tally, self.day, self.rooms | facts.rooms)


@dataclass(slots=True)
class KeyScan:
    """From ``bottom`` to ``top`` of a key in pages of ``span``: up to ``read`` they are read, up to ``done`` kept."""

    bottom: int
    top: int
    done: int
    span: int
    read: int = field(init=False)

    def __post_init__(self) -> None:
        self.read = self.done  # also out of the state: what was read and not kept is read again

    @classmethod
    def between(cls, bottom: int, top: int, pages: int, least: int) -> KeyScan:
        """At its beginning; so many pages at first, which become larger or smaller."""
        return cls(bottom, top, bottom, max(least, (top - bottom) // pages))

    @property
    def ended(self) -> bool:
        """Is everything read?"""
        return self.read >= self.top

    @property
    def kept(self) -> bool:
        """Is everything kept?"""
        return self.done >= self.top

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        return (self.done - self.bottom) / (self.top - self.bottom) if self.top > self.bottom else 1.0


@dataclass(slots=True)
class LookupScan:
    """Rows of another table by a key of texts, ``span`` rows at a time; "" is the beginning, None the end."""

    done: str | None
    span: int
    read: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.read = self.done  # as above

    @property
    def ended(self) -> bool:
        """Is everything read?"""
        return self.read is None

    @property
    def kept(self) -> bool:
        """Is everything kept?"""
        return self.done is None


@dataclass(slots=True)
class Count:
    """A full count under way: a base that grows, where each key stands, and who wrote lately, where it is read apart.

    The share of what is done is told by the keys' values.
    """

    base: Base
    begun: float
    key_scans: dict[str, KeyScan]
    writers: KeyScan | None = None
    lookup_scans: dict[str, LookupScan] = field(default_factory=dict)
    """By name, those of the corrections of a count with the relaxed filter."""

    def all(self) -> list[KeyScan | LookupScan]:
        """Everything that is to be gone through, in this order."""
        return [*self.key_scans.values(), *self.lookup_scans.values(), *([self.writers] if self.writers else [])]

    @property
    def read(self) -> bool:
        """Is there no page left?"""
        return all(scan.ended for scan in self.all())

    @property
    def done(self) -> bool:
        """Is all that was read in the base?"""
        return all(scan.kept for scan in self.all())

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        key_scans = self.key_scans.values()
        whole = sum(scan.top - scan.bottom for scan in key_scans)
        share = sum(scan.done - scan.bottom for scan in key_scans) / whole if whole else 1.0
        return share if self.writers is None else 0.8 * share + 0.2 * self.writers.share
