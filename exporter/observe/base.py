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
class Count:
    """A full count under way: a base that grows, and where each key stands."""

    base: Base
    begun: float
    bottoms: dict[str, int]
    done: dict[str, int]
    spans: dict[str, int]

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1, by the keys' values."""
        lows = self.base.cut.lows
        whole = sum(max(0, lows[name] - bottom) for name, bottom in self.bottoms.items())
        return sum(self.done[name] - self.bottoms[name] for name in self.bottoms) / whole if whole else 1.0

    def plain(self) -> dict[str, Any]:
        """For the state."""
        return {
            "base": self.base.plain(),
            "begun": self.begun,
            "bottoms": self.bottoms,
            "done": self.done,
            "spans": self.spans,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Count:
        """Out of the state."""
        return cls(Base.of(plain["base"]), plain["begun"], plain["bottoms"], plain["done"], plain["spans"])


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
