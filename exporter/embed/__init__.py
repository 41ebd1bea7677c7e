"""True gauges in servers that others wrote: ``Live`` and what shows it. Imports core, metrics, some of node.

Nothing here needs aiohttp, SQLAlchemy or uvloop until it is used: prometheus-client and msgspec are enough.
"""

from __future__ import annotations

from exporter.core.events import (
    ClosedReason,
    ConnectionClosed,
    ConnectionOpened,
    HubEvent,
    LeftReason,
    ParticipantJoined,
    ParticipantLeft,
    RejectedReason,
    TypingStarted,
    TypingStopped,
    TypingStoppedReason,
)
from exporter.embed.connection import Connection
from exporter.embed.live import Live
from exporter.embed.locked import LockedLive
from exporter.embed.middleware import LiveMiddleware, live_connection
from exporter.embed.totals import Source

__all__ = [
    "ClosedReason",
    "Connection",
    "ConnectionClosed",
    "ConnectionOpened",
    "HubEvent",
    "LeftReason",
    "Live",
    "LiveMiddleware",
    "LockedLive",
    "ParticipantJoined",
    "ParticipantLeft",
    "RejectedReason",
    "Source",
    "TypingStarted",
    "TypingStopped",
    "TypingStoppedReason",
    "live_connection",
]
