"""How a connection ends: its states, and what the close frame says for each reason of the server's.

Tested in ``tests/web/test_connection.py``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from exporter.core.events import ClosedReason
from exporter.core.protocol import CloseCode

# Close code and words; what is not here is a normal end.
CLOSE_FRAMES: Final = {
    ClosedReason.SHUTDOWN: (CloseCode.GOING_AWAY, "server going away"),
    ClosedReason.SLOW_CONSUMER: (CloseCode.SLOW_CONSUMER, "slow consumer"),
    ClosedReason.RATE_LIMITED: (CloseCode.RATE_LIMITED, "rate limited"),
    ClosedReason.TOKEN_EXPIRED: (CloseCode.TOKEN_EXPIRED, "token expired"),
    ClosedReason.ADMIN: (CloseCode.ADMIN, "disconnected by an admin"),
    ClosedReason.INTERNAL_ERROR: (CloseCode.INTERNAL, "internal error"),
}


class State(Enum):
    """Where a connection stands; it only moves down this list."""

    OPEN = 1
    DRAINING = 2  # takes no more commands, waits for its sends
    CLOSING = 3  # ended for the hub; the close frame is out, reading on for courtesy
    LOST = 4  # the socket is gone
