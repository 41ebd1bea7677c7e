"""Counts, complete and under way, as plain values that the state keeps. Knows no connection.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter.observe.counting import Small
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

    def plain(self) -> dict[str, Any]:
        """For the state."""
        return {
            "generation": self.generation,
            "lows": dict(self.cut.lows),
            "moment": self.cut.moment,
            "tally": self.tally.plain(),
            "day": self.day,
            "rooms": sorted(self.rooms),
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Base:
        """Out of the state."""
        cut = Cut(plain["lows"], plain["moment"])
        return cls(plain["generation"], cut, Tally(**plain["tally"]), plain["day"], set(plain["rooms"]))


@dataclass(slots=True)
class Walk:
    """From ``bottom`` to ``top`` of a key in pages of ``span``: up to ``read`` they are read, up to ``done`` kept."""

    bottom: int
    top: int
    done: int
    span: int
    read: int

    @classmethod
    def between(cls, bottom: int, top: int, pages: int, least: int) -> Walk:
        """At its beginning; so many pages at first, which become larger or smaller."""
        return cls(bottom, top, bottom, max(least, (top - bottom) // pages), bottom)

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

    def plain(self) -> list[int]:
        """For the state; ``of`` goes on at what was kept."""
        return [self.bottom, self.top, self.done, self.span]

    @classmethod
    def of(cls, plain: list[int]) -> Walk:
        """Out of the state."""
        bottom, top, done, span = plain
        return cls(bottom, top, done, span, done)


@dataclass(slots=True)
class Sweep:
    """Through a key of texts, ``span`` rows at a time; "" is the beginning, None the end."""

    done: str | None
    span: int
    read: str | None

    @property
    def ended(self) -> bool:
        """Is everything read?"""
        return self.read is None

    @property
    def kept(self) -> bool:
        """Is everything kept?"""
        return self.done is None

    def plain(self) -> list[Any]:
        """For the state; ``of`` goes on at what was kept."""
        return [self.done, self.span]

    @classmethod
    def of(cls, plain: list[Any]) -> Sweep:
        """Out of the state."""
        done, span = plain
        return cls(done, span, done)


@dataclass(slots=True)
class Count:
    """A full count under way: a base that grows, where each key stands, and who wrote lately, where it is read apart.

    The share of what is done is told by the keys' values.
    """

    base: Base
    begun: float
    walks: dict[str, Walk]
    writers: Walk | None = None
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    """By name, those of the corrections of a lean count."""

    def all(self) -> list[Walk | Sweep]:
        """Everything that is to be gone through, in this order."""
        return [*self.walks.values(), *self.sweeps.values(), *([self.writers] if self.writers else [])]

    @property
    def read(self) -> bool:
        """Is there no page left?"""
        return all(walk.ended for walk in self.all())

    @property
    def done(self) -> bool:
        """Is all that was read in the base?"""
        return all(walk.kept for walk in self.all())

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        walks = self.walks.values()
        whole = sum(walk.top - walk.bottom for walk in walks)
        share = sum(walk.done - walk.bottom for walk in walks) / whole if whole else 1.0
        return share if self.writers is None else 0.8 * share + 0.2 * self.writers.share

    def plain(self) -> dict[str, Any]:
        """For the state."""
        return {
            "base": self.base.plain(),
            "begun": self.begun,
            "walks": {name: walk.plain() for name, walk in self.walks.items()},
            "writers": None if self.writers is None else self.writers.plain(),
            "sweeps": {name: sweep.plain() for name, sweep in self.sweeps.items()},
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Count:
        """Out of the state."""
        walks = {name: Walk.of(walk) for name, walk in plain["walks"].items()}
        writers = None if plain["writers"] is None else Walk.of(plain["writers"])
        sweeps = {name: Sweep.of(sweep) for name, sweep in plain["sweeps"].items()}
        return cls(Base.of(plain["base"]), plain["begun"], walks, writers, sweeps)


@dataclass(slots=True)
class Seen:
    """What one pass read, all of one snapshot."""

    newest: dict[str, int]
    horizon: tuple[int, int] | None
    facts: Facts
    small: tuple[Small, float, float]
    sealed: Cut | None = None
    samples: Sequence[Sequence[Any]] = ()
    rest: Facts | None = None
    counted: Facts | None = None
