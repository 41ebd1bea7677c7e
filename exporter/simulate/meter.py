"""Counts what the people of a simulation did and met. Knows no network and no clock.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from exporter.simulate.latency import Percentiles


@dataclass(slots=True)
class Meter:
    """Everything counted since the start, and latencies in seconds: of the whole run, and of the latest moments."""

    sent: int = 0  # first attempts
    resent: int = 0
    missed: int = 0  # due, and nobody was there to write it
    given_up: int = 0  # refused for good
    typing: int = 0
    reads: int = 0
    opened: int = 0
    resets: int = 0  # connections that a phone lost, by TCP reset
    moved: int = 0  # connections that came back to another node than they had left
    caught_up: int = 0  # messages fetched after a gap
    online: int = 0  # connections now
    people: Counter[int] = field(default_factory=Counter)  # connections now, by person
    joined: int = 0  # (connection, conversation) pairs now
    closed: Counter[str] = field(default_factory=Counter)  # by close code, where the server closed
    rejected: Counter[str] = field(default_factory=Counter)  # connection attempts, by status or reason
    errors: Counter[str] = field(default_factory=Counter)  # error frames, by code
    stood_still: dict[str, float] = field(default_factory=dict)  # by process: seconds at most
    lag: float = 0.0  # how late this process was at most, seconds
    ack: Percentiles = field(default_factory=Percentiles)
    delivery: Percentiles = field(default_factory=Percentiles)
    recent_ack: Percentiles = field(default_factory=Percentiles)
    recent_delivery: Percentiles = field(default_factory=Percentiles)
    recent_lag: float = 0.0
    _older_lag: float = 0.0

    def acknowledged(self, seconds: float) -> None:
        """An acknowledgement came this long after the first attempt."""
        self.ack.add(seconds)
        self.recent_ack.add(seconds)

    def delivered(self, seconds: float) -> None:
        """A delivery came this long after the first attempt."""
        self.delivery.add(seconds)
        self.recent_delivery.add(seconds)

    def late(self, seconds: float) -> None:
        """This process did something this much later than it meant to."""
        self.lag = max(self.lag, seconds)
        self.recent_lag = max(self.recent_lag, seconds)

    @property
    def lately(self) -> float:
        """How late this process was in this moment and the one before, seconds."""
        return max(self.recent_lag, self._older_lag)

    def connected(self, person: int, *, moved: bool = False) -> None:
        """One connection more, by somebody who was on another node before or was not."""
        self.opened += 1
        self.moved += moved
        self.online += 1
        self.people[person] += 1

    def disconnected(self, person: int) -> None:
        """One connection less."""
        self.online -= 1
        self.people[person] -= 1
        if not self.people[person]:
            del self.people[person]

    def next_moment(self) -> None:
        """The latest moments begin anew."""
        self.recent_ack, self.recent_delivery = Percentiles(), Percentiles()
        self._older_lag, self.recent_lag = self.recent_lag, 0.0
