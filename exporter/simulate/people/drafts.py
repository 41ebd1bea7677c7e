"""What a client still has to get acknowledged, and how fast it may send. Knows no network and no clock.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

# The client's own restraint, as a share of what the server allows: reads, joins and pings need room beside it.
SHARE_OF_FRAMES = 0.5


@dataclass(slots=True)
class Draft:
    """A message that this client has to get acknowledged; ``sent_at`` is of the latest attempt, 0 before the first."""

    n: int
    conversation: int
    body: str
    sent_at: float = 0.0
    retry_at: float = 0.0
    connection: int = 0  # the connection it was sent on


@dataclass(slots=True)
class Allowance:
    """A bucket of one second's frames, below the server's."""

    per_second: float = 20.0
    _left: float = 10.0
    _at: float = 0.0

    def limit(self, frames_per_second: float) -> None:
        """The server said what it allows."""
        self.per_second = max(1.0, frames_per_second * SHARE_OF_FRAMES)

    def take(self, now: float, spend: bool) -> bool:
        """May another frame be sent at ``now`` (seconds of any clock)? ``spend``: it is."""
        self._left = min(self._left + (now - self._at) * self.per_second, self.per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= spend
        return True
