"""What joins nodes: carries frames between them, and tells what each holds. Knows no client's connection.

Whatever goes to the people in a conversation goes through the broker, also when this node is alone: then it
comes straight back. So there is one path for one node and for many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from exporter.broker.envelope import Envelope
from exporter.core.records import BrokerView

__all__ = ["Broker", "Envelope", "LocalBroker"]

P = TypeVar("P")


class Broker(Protocol[P]):
    """What a node needs of its broker."""

    @property
    def up(self) -> bool:
        """Are the other nodes within reach (True when there are none)?"""

    @property
    def alone(self) -> bool:
        """Is this node the whole cluster?"""

    @property
    def view(self) -> BrokerView | None:
        """How this node sees its broker; None when there is none."""

    def publish(self, envelope: Envelope[P]) -> None:
        """To everybody on every node; returns at once and never raises for a reason of the broker's."""


class LocalBroker(Generic[P]):
    """One node: straight back."""

    up = True
    alone = True
    view = None

    def __init__(self, deliver: Callable[[Envelope[P]], None]) -> None:
        self._deliver = deliver

    def publish(self, envelope: Envelope[P]) -> None:
        """Deliver here and now."""
        self._deliver(envelope)
