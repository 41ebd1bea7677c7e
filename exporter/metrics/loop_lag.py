"""How late the event loop is: a timer that looks at the clock. Knows one histogram."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from exporter.metrics.instruments import Buckets

INTERVAL: Final = 0.1  # seconds; a stall of 50 ms is seen every second time, one of 100 ms always


class LoopLagMonitor:
    """Observes the delay of its own timer."""

    def __init__(self, lag: Buckets) -> None:
        self._lag = lag
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._due = time.monotonic() + INTERVAL
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._beat)

    def _beat(self) -> None:
        self._lag.observe(max(0.0, time.monotonic() - self._due))
        self.start()

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
