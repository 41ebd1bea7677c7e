"""What the parts of one node's broker have in common. Knows none of them.

Tested in ``tests/broker/test_redis.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from exporter.broker.clock import ServerClock
from exporter.broker.functions import Figures, Functions
from exporter.broker.held_conversation import HeldConversation
from exporter.broker.ports import LocalNode, Meters
from exporter.broker.reconnecting import ReconnectingConnection
from exporter.core.hub import Hub

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Context(Generic[P]):
    """One node: its name to others (``node``), its connection, what it holds (in ``held`` and in ``by_channel``)."""

    functions: Functions
    node: bytes
    hub: Hub[P]
    local: LocalNode[P]
    meters: Meters
    clock: ServerClock
    now: Callable[[], float]
    reconnecting: ReconnectingConnection
    error: Callable[[], str | None]  # why the broker is not up
    figures: Callable[[], Figures | None]  # the latest answer of the server; None while it does not know this node
    schedule: Callable[[], None]  # what is queued leaves at the end of the turn
    changed: Callable[[], None]  # the same for presence, which may wait a moment for more
    put_first: Callable[[], None]  # all that waits goes ahead of what is asked next, and both at the end of the turn
    held: dict[str, HeldConversation[P]] = field(default_factory=dict)
    by_channel: dict[bytes, HeldConversation[P]] = field(default_factory=dict)
