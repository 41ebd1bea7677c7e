"""The consequences of events: what is counted, who is told, and handing frames to those who are here.

Knows no command and no store. Whatever goes to the people in a conversation goes through the broker, also when this
node is alone, so there is one way.

Tested in ``tests/node/test_node.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from itertools import islice
from typing import Any, Final

import msgspec

from exporter.broker import Broker, Envelope, LocalBroker
from exporter.core import protocol
from exporter.core.events import (
    ClosedReason,
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


SLICE: Final = 250
"""Events of one cause that are told in one turn of the loop, 3 µs each: a connection may leave 1,000 conversations."""


class NodeConnection(SendQueue):
    """A connection as the node sees it: somewhere to put frames, with the sends that it still waits for."""

    __slots__ = ("sends_in_flight",)

    sends_in_flight: int
    opened_at: float  # monotonic seconds; given by the connection, as is how it ends

    @property
    def is_live(self) -> bool:
        """Is the socket open, and does it speak to this connection? Asked of the socket, not of what was told."""
        return True

    def on_sends_answered(self) -> None:
        """The last send in flight was answered."""

    def close(self, reason: ClosedReason) -> None:
        """End it, with a close frame; the first reason counts."""
        raise NotImplementedError


class Publisher:
    """Turns events into counts and frames."""

    def __init__(self, hub: Hub[NodeConnection], metrics: Metrics, fan_out: FanOut) -> None:
        self.broker: Broker[NodeConnection] = LocalBroker(self.deliver)
        # What is called with an event: people here are told, unless this node is one of several.
        self.on_event: Mapping[type[HubEvent], Callable[[Any], object]] = dict.fromkeys(_TOLD, self._tell)
        self._hub = hub
        self._metrics, self._cells = metrics, metrics.cells
        self._fan_out = fan_out
        self._untold: dict[ConversationId, tuple[HubEvent, ...]] = {}
        hub.before_audience_change = self.audience_changes

    def emit(self, events: Sequence[HubEvent]) -> None:
        """Count what happened and tell those who should know.

        Everything is counted now. Of very much the telling takes some turns of the loop, but whatever else happens in a
        conversation is told after it.
        """
        if len(events) > SLICE:
            self._emit_in_slices(events)
            return
        for event in events:
            kind = type(event)
            cell = self._cells.get(kind)
            if cell is not None:  # as ``count`` would, without the call
                cell.value += 1
            else:
                self._metrics.count(event)
            tell = self.on_event.get(kind)
            if tell is not None:  # alone, connections come and go without anybody being told
                tell(event)

    def _emit_in_slices(self, events: Sequence[HubEvent]) -> None:
        if not self._untold:
            self._fan_out.later(self._tell_some)
        untold = self._untold
        for event in events:
            self._metrics.count(event)
            if type(event) in _TOLD:
                conversation = event.conversation  # type: ignore[union-attr]  # as above
                # Nearly every conversation has one event, and 1,000 lists would be a tenth of all this.
                before = untold.get(conversation)
                untold[conversation] = (event,) if before is None else (*before, event)
            elif (tell := self.on_event.get(type(event))) is not None:
                tell(event)

    def _tell_some(self) -> None:
        for conversation in list(islice(self._untold, SLICE)):
            self.catch_up(conversation)
        if self._untold:
            self._fan_out.later(self._tell_some)

    def catch_up(self, conversation: ConversationId) -> None:
        """What has happened in a conversation is told now."""
        for event in self._untold.pop(conversation, ()):
            self.on_event[type(event)](event)

    def audience_changes(self, conversation: ConversationId, connection: NodeConnection, joins: bool) -> None:
        """The hub's word that a connection is about to join an audience or to leave it."""
        if conversation in self._untold:
            self.catch_up(conversation)
        self._fan_out.audience_changes(conversation, connection, joins)

    def _tell(self, event: ParticipantJoined | ParticipantLeft | TypingStarted | TypingStopped) -> None:
        hub, conversation, user = self._hub, event.conversation, event.user
        if len(hub.audience(conversation)) == len(hub.connections_in(conversation, user)):
            return  # nobody else is there: no frame is made, which is half of such an event's cost
        frame = text_frame(protocol.encode(_TOLD[type(event)](event)))
        self.broker.publish(Envelope(conversation, frame, exclude_user=user))

    def tell(self, conversation: ConversationId, user: UserId, frame: bytes) -> bool:
        """Hand a frame to everybody here but one user. True: it has left."""
        if conversation in self._untold:
            self.catch_up(conversation)
        hub = self._hub  # not asked with its functions: everybody's typing goes this way, on each node
        audience = hub.conversations.get(conversation, NOBODY)
        tabs = hub.participants.get((conversation, user), NOBODY)
        return len(audience) > len(tabs) and self._fan_out.send(conversation, audience, frame, tabs)

    def deliver(self, envelope: Envelope[NodeConnection]) -> None:
        """Hand a frame to everybody here whom it is for; the audience is asked now, after all awaits."""
        conversation, connection = envelope.conversation, envelope.exclude
        if conversation in self._untold:
            self.catch_up(conversation)
        audience = self._hub.audience(conversation)
        exclude: Set[SendQueue] = NOBODY
        if envelope.exclude_user is not None:
            exclude = self._hub.connections_in(conversation, envelope.exclude_user)
        elif connection is not None and connection in audience:
            exclude = {connection}
        sent = len(audience) - len(exclude)
        if sent:
            self._fan_out.send(conversation, audience, envelope.frame, exclude)
        if envelope.seq and not envelope.lasting:  # a message
            self._metrics.deliveries.value += sent
            self._metrics.fanout_recipients.observe(sent)
            if envelope.received is not None and sent:
                path = "cluster" if envelope.remote else "local"
                self._fan_out.time(self._metrics.message_delivery_duration[path], envelope.received)
