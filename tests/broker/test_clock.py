"""The server's clock, as a node sees it by the answers to its beats."""

from __future__ import annotations

import pytest

from exporter.broker.clock import ServerClock

AHEAD = 1_000.0
"""Seconds that the server's clock is ahead of this process's."""


class Measured:
    """A clock that is measured by beats, each halfway on its way."""

    def __init__(self) -> None:
        self.time = 100.0
        self.ahead = AHEAD
        self.clock = ServerClock(lambda: self.time)

    def beat(self, takes: float, back: float = 0.5) -> None:
        """``back``: the part of the way that is the answer's."""
        asked, self.time = self.time, self.time + takes
        self.clock.measured(asked, round((self.time - takes * back + self.ahead) * 1e6))

    @property
    def off(self) -> float:
        """How wrong it is."""
        return self.clock.stamp(self.time) / 1e6 - self.time - self.ahead


def test_a_clock_that_was_not_measured_says_nothing() -> None:
    node = Measured()
    assert (node.clock.stamp(node.time), node.clock.here(1)) == (0, None)
    node.beat(0.01)
    assert node.clock.here(0) is None
    assert node.clock.here(node.clock.stamp(99.0)) == pytest.approx(99.0)
    assert node.clock.here(node.clock.stamp(200.0)) == node.time, "nothing was made later than now"
    node.clock.forget()
    assert (node.clock.stamp(node.time), node.clock.here(1)) == (0, None)


def test_the_quickest_beat_counts_until_it_is_old() -> None:
    node = Measured()
    node.beat(0.001)
    node.beat(0.1, back=1.0)
    assert node.off == pytest.approx(0.0, abs=0.001)
    beats = 0
    while node.off == pytest.approx(0.0, abs=0.001) and beats < 100:
        node.beat(0.01, back=0.9)
        beats += 1
    assert 20 < beats < 60
    assert node.off == pytest.approx(-0.004, abs=0.001)


@pytest.mark.parametrize("by", [3600.0, -3600.0, 0.1])
def test_a_clock_that_was_set_or_stood_still_is_right_with_the_next_beat_however_slow(by: float) -> None:
    node = Measured()
    node.beat(0.001)
    node.ahead += by
    node.beat(0.05)
    assert node.off == pytest.approx(0.0, abs=0.001)
