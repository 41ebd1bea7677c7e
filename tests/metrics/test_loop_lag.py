"""The lag of the loop, with a clock that passes when told to: what a stall swallows is counted."""

from __future__ import annotations

import asyncio
import time

import pytest

from exporter.metrics.instruments import Buckets
from exporter.metrics.loop_lag import EARLY, INTERVAL, LoopLagMonitor
from tests.doubles import Clock

BOUNDS = (0.005, 0.05, 0.25, 0.5, 1.0, 2.5)


class Stalling:
    """A loop whose every stall is the test's doing."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lag = Buckets(BOUNDS)
        self.monitor = LoopLagMonitor(self.lag, self.clock)
        self.monitor.start()
        self._began = self.clock.now

    def runs(self, seconds: float) -> None:
        """In time, beat for beat."""
        for _ in range(round(seconds / INTERVAL)):
            self.stalls(INTERVAL)

    def stalls(self, seconds: float) -> None:
        """Nothing runs for so long, then everything that is due."""
        self.clock.now += seconds
        self.monitor.beat()

    @property
    def observed(self) -> int:
        return sum(self.lag.counts)

    def above(self, bound: float) -> float:
        """The share of observations above a bound."""
        return sum(self.lag.counts[BOUNDS.index(bound) + 1 :]) / self.observed


@pytest.fixture
async def loop() -> Stalling:
    return Stalling()


async def test_a_stall_of_a_second_is_ten_late_beats(loop: Stalling) -> None:
    loop.runs(10.0)
    assert loop.above(0.005) == 0
    loop.stalls(1.0 + INTERVAL)  # the beat that was due first is a second late
    late = sum(loop.lag.counts[1:])
    assert late == 10
    assert loop.lag.sum == pytest.approx(sum(beat / 10 for beat in range(1, 11)), abs=1e-6)


async def test_one_second_in_twelve_is_seen_by_the_percentile_that_the_alert_looks_at(loop: Stalling) -> None:
    for _ in range(25):  # five minutes
        loop.runs(11.0)
        loop.stalls(1.0)
    # Whoever comes at any moment waits above 0.25 s in 0.75 s of every 12 s.
    assert loop.above(0.25) == pytest.approx(0.75 / 12, abs=0.01)
    assert loop.above(0.25) > 0.01  # so the 99th percentile is above it


async def test_there_are_ten_beats_a_second_however_late_they_come(loop: Stalling) -> None:
    for stall in (0.05, 0.31, 0.12, 3.0, 0.02, 0.53):
        loop.stalls(stall)
    assert loop.observed == int((0.05 + 0.31 + 0.12 + 3.0 + 0.02 + 0.53) / INTERVAL)


async def test_a_timer_that_comes_early_is_in_time_and_the_next_is_a_whole_interval_away(loop: Stalling) -> None:
    """uvloop rounds to milliseconds: to wait for the rest would be many timers in a row."""
    for early in (EARLY / 2, 0.0):
        loop.stalls(INTERVAL - early)
        timer = loop.monitor._timer
        assert timer is not None
        assert timer.when() - asyncio.get_running_loop().time() > INTERVAL / 2
    assert loop.observed == 2
    assert loop.lag.sum == 0


async def test_what_is_stopped_leaves_no_timer(loop: Stalling) -> None:
    timer = loop.monitor._timer
    assert timer is not None
    loop.monitor.stop()
    assert timer.cancelled()


async def test_a_real_loop_that_is_blocked_shows_it() -> None:
    lag = Buckets(BOUNDS)
    monitor = LoopLagMonitor(lag)
    monitor.start()
    time.sleep(0.6)  # noqa: ASYNC251  # the stall itself
    await asyncio.sleep(INTERVAL)
    monitor.stop()
    assert sum(lag.counts) >= 5
    assert sum(lag.counts[BOUNDS.index(0.25) + 1 :]) >= 3
