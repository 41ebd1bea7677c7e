"""The server's clock, as this node sees it: one clock for all nodes. Knows nothing else.

Measured by the quickest beat of the last minutes; the error is at most half of that beat's round trip.

Tested in ``tests/broker/test_clock.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_FADING: Final = 1.05  # clocks drift: with each beat an old measurement is worth less


class ServerClock:
    """``now`` is this process's monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._error = float("inf")
        self._offset: float | None = None

    def forget(self) -> None:
        """Another server, another clock."""
        self._error, self._offset = float("inf"), None

    def measured(self, asked: float, microseconds: int) -> None:
        """An answer has come now: what the server's clock said between ``asked`` and now."""
        now = self._now()
        error, offset = (now - asked) / 2, microseconds / 1e6 - (now + asked) / 2
        # Where both cannot be true, a clock was set, or this machine and its own were suspended.
        if error <= self._error or self._offset is None or abs(offset - self._offset) > error + self._error:
            self._error, self._offset = error, offset
        else:
            self._error *= _FADING

    def stamp(self, now: float) -> int:
        """A moment of this process's clock, in Unix microseconds of the server; 0 when it is not known."""
        return 0 if self._offset is None else int((now + self._offset) * 1e6)

    def here(self, stamp: int) -> float | None:
        """When a stamp of any node was made, by this process's clock; not later than now; None when it is not known."""
        if not stamp or self._offset is None:
            return None
        return min(self._now(), stamp / 1e6 - self._offset)
