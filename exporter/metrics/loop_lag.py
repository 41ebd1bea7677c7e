"""How late the event loop is: a timer that looks at the clock. Knows one histogram.

The timer is due on a grid, every 0.1 s. A loop that stood still for a second has let ten beats pass, and each counts
with the lateness that it had. A timer that began anew after each stall would count one late beat and forget the other
nine, and the stall, with all the messages that waited, would move no percentile ("coordinated omission").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from exporter.metrics.instruments import Buckets

INTERVAL: Final = 0.1  # seconds; a stall of 50 ms is seen every second time, one of 100 ms always
EARLY: Final = 0.002
"""Seconds that a timer may come early, as uvloop counts in whole milliseconds. Such a beat is in time.

To wait for the rest would be some forty timers of 0 ms in a row, ten times a second.
"""


class LoopLagMonitor:
    """Observes the delay of its own timer; ``clock`` is monotonic seconds."""

    def __init__(self, lag: Buckets, clock: Callable[[], float] = time.monotonic) -> None:
        self._lag = lag
        self._clock = clock
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._due = self._clock() + INTERVAL
        self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._due - self._clock()), self.beat)

    def beat(self) -> None:
        """Observe every beat that is due by now, and be back at the next."""
        now = self._clock()
        while self._due <= now + EARLY:
            self._lag.observe(max(0.0, now - self._due))
            self._due += INTERVAL
        self._arm()

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
