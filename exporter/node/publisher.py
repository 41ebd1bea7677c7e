"""The consequences of events: what is counted, who is told, and handing frames to those who are here.

Knows no command and no store. Whatever goes to the people in a conversation goes through the broker, also when this
node is alone, so there is one road.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any, Final

import msgspec

from exporter.broker import Broker, Envelope, LocalBroker
from exporter.core import protocol
from exporter.core.events import (
    ConversationId,
    HubEvent,
    ParticipantJoined,
    ParticipantLeft,
    TypingStarted,
    TypingStopped,
    UserId,
)
from exporter.core.hub import Hub
from exporter.core.websocket_frames import text_frame
from exporter.metrics.counters import Metrics
from exporter.node.fanout import NOBODY, FanOut, SendQueue

# What the others in a conversation are told of an event; a table, because ``match`` costs 1 µs here.
_TOLD: Final[dict[type[HubEvent], Callable[[Any], msgspec.Struct]]] = {
    TypingStarted: lambda event: protocol.SomebodyTyping(event.conversation, event.user, True),
    TypingStopped: lambda event: protocol.SomebodyTyping(event.conversation, event.user, False),
    ParticipantJoined: lambda event: protocol.SomebodyJoined(event.conversation, event.user),
    ParticipantLeft: lambda event: protocol.SomebodyLeft(event.conversation, event.user),
}


class NodeConnection(SendQueue):
    """A connection as the node sees it: somewhere to put frames, with the sends that it still waits for."""

    __slots__ = ("sends_in_flight",)

    sends_in_flight: int

    @property
    def is_live(self) -> bool:
        """Is the socket open, and does it speak to this connection? Asked of the socket, not of what was told."""
        return True

    def on_sends_answered(self) -> None:
        """The last send in flight was answered."""


class Publisher:
    """Turns events into counts and frames."""

    def __init__(self, hub: Hub[NodeConnection], metrics: Metrics, fan_out: FanOut) -> None:
        self.broker: Broker[NodeConnection] = LocalBroker(self.deliver)
        self.happened: Callable[[HubEvent], None] | None = None  # who announces, when this node is one of several
        self._hub = hub
        self._metrics = metrics
        self._fan_out = fan_out

    def emit(self, events: Iterable[HubEvent]) -> None:
        """Count what happened and tell those who should know."""
        for event in events:
            self._metrics.count(event)
            if self.happened is not None:
                self.happened(event)
                continue
            told = _TOLD.get(type(event))
            if told is not None:  # connections come and go without anybody being told
                self._tell(event.conversation, event.user, told, event)  # type: ignore[union-attr]  # the others have one

    def _tell(
        self, conversation: ConversationId, user: UserId, told: Callable[[Any], msgspec.Struct], event: HubEvent
    ) -> None:
        hub = self._hub
        if len(hub.audience(conversation)) == len(hub.tabs(conversation, user)):
            return  # nobody else is there: no frame is made, which is half of such an event's cost
        frame = text_frame(protocol.encode(told(event)))
        self.broker.publish(Envelope(conversation, frame, exclude_user=user))

    def deliver(self, envelope: Envelope[NodeConnection]) -> None:
        """Hand a frame to everybody here whom it is for; the audience is asked now, after all awaits."""
        conversation, connection = envelope.conversation, envelope.exclude
        audience = self._hub.audience(conversation)
        exclude: Set[SendQueue] = NOBODY
        if envelope.exclude_user is not None:
            exclude = self._hub.tabs(conversation, envelope.exclude_user)
        elif connection is not None and connection in audience:
            exclude = {connection}
        sent = len(audience) - len(exclude)
        if sent:
            self._fan_out.send(conversation, audience, envelope.frame, exclude)
        if isinstance(envelope.frame, protocol.Delivery):
            self._metrics.deliveries.value += sent
            self._metrics.fanout_recipients.observe(sent)
            if envelope.received is not None and sent:
                path = "cluster" if envelope.remote else "local"
                self._fan_out.time(self._metrics.message_delivery_duration[path], envelope.received)
