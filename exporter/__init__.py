"""A WebSocket messaging server that can be seen: live gauges, exact totals, one scrape.

As a library: ``from exporter import Live`` (docs/embed.md). Importing this loads nothing else; each name is loaded when
it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.embed import (
        ClosedReason,
        Connection,
        ConnectionClosed,
        ConnectionOpened,
        HubEvent,
        LeftReason,
        Live,
        LiveMiddleware,
        LockedLive,
        ParticipantJoined,
        ParticipantLeft,
        RejectedReason,
        Source,
        TypingStarted,
        TypingStopped,
        TypingStoppedReason,
        live_connection,
    )

__version__ = "0.1.0"

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
    "__version__",
    "live_connection",
]


def __getattr__(name: str) -> Any:
    """PEP 562: the names of ``exporter.embed``, when they are asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    return getattr(import_module("exporter.embed"), name)
