"""What happens on a node, told to others: presence to the server, announcements to people. Knows no frame's form.

Tested in ``tests/broker/test_announcements.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from exporter.broker.announcements import Announcements
from exporter.broker.context import Context
from exporter.broker.frames import Kind
from exporter.broker.functions import pair
from exporter.broker.held_conversations import HeldConversations
from exporter.broker.outgoing import Outbox
from exporter.broker.presence import Presence
from exporter.core.events import (
    ConnectionClosed,
    ConnectionOpened,
    HubEvent,
    ParticipantJoined,
    ParticipantLeft,
    TypingStarted,
    TypingStopped,
)

P = TypeVar("P")

TOGGLES: Final = 0.05
"""Seconds until the server's figures know of typing that frames have told of at once; other changes take it along.

A call of a function for each would be a third of what an event costs between two nodes.
"""


_TYPING: Final = Kind.TYPING  # looked up in the enumeration it would cost more than the rest of its frame


class EventPublisher(Generic[P]):
    """What happens on one node; ``on_event``: what is to be called with an event of each kind."""

    def __init__(
        self,
        context: Context[P],
        presence: Presence,
        announcements: Announcements[P],
        conversations: HeldConversations[P],
        outbox: Outbox[P],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._held, self._hub, self._local, self._presence = context.held, context.hub, context.local, presence
        self._announcements, self._conversations, self._outbox = announcements, conversations, outbox
        self._reconnecting, self._schedule, self._changed = context.reconnecting, context.schedule, context.changed
        self._toggles: asyncio.TimerHandle | None = None
        self.on_event: Final[Mapping[type[HubEvent], Callable[[Any], None]]] = {
            TypingStarted: self._types,
            TypingStopped: self._types,
            ConnectionOpened: self._opened,
            ConnectionClosed: self._closed,
            ParticipantJoined: self._joined,
            ParticipantLeft: self._left,
        }

    def close(self) -> None:
        """Nothing follows."""
        if self._toggles is not None:
            self._toggles.cancel()

    def _opened(self, event: ConnectionOpened) -> None:
        if self._hub.connections_of(event.user) == 1:
            self._presence.add(f"u{event.user}")
            self._changed()

    def _closed(self, event: ConnectionClosed) -> None:
        if not self._hub.connections_of(event.user):
            self._presence.remove(f"u{event.user}")
            self._changed()

    def _joined(self, event: ParticipantJoined) -> None:
        held, user = self._held[event.conversation], event.user
        if not held.counted:
            held.counted = True
            self._presence.add(f"c{held.conversation}")
        self._presence.add(f"p{pair(held.conversation, user)}")
        self._changed()
        self._announcements.heard(held, "J", user)

    def _left(self, event: ParticipantLeft) -> None:
        held, user, connection = self._held[event.conversation], event.user, self._reconnecting.connection
        if connection is None:  # else the server says it, unless another node's tab goes on
            self._announcements.heard(held, "L", user)
        elif self._outbox.has_news_of(user, held.conversation):  # what they did is heard before that they have left
            self._presence.flush(connection, ahead=True)
            self._outbox.flush(connection)
        self._presence.remove(f"p{pair(held.conversation, user)}")
        if held.counted and held.conversation not in self._hub.conversations:
            held.counted = False
            self._presence.remove(f"c{held.conversation}")
        self._changed()
        self._conversations.let_go(held)

    def _types(self, event: TypingStarted | TypingStopped) -> None:
        """Somebody types, or no longer does. Of who takes part here only, frames tell: functions cost more."""
        conversation, user, active = event.conversation, event.user, type(event) is TypingStarted
        held, connection = self._held[conversation], self._reconnecting.connection
        entry, typing = held.type_prefix + user, held.typing
        if connection is not None and held.connection is connection and user not in held.shared:  # ``only_here``
            frame = self._local.announcement("T" if active else "U", conversation, user)
            has_left = False
            if active is not (user in typing):  # people here are told with what the others are sent
                (typing.add if active else typing.discard)(user)
                tell = self._local.tell  # a local name: docs/benchmarks.md
                has_left = tell(conversation, user, frame)
            presence_waits = self._presence.toggle(entry, active)
            if self._toggles is None:
                self._toggles = self._loop.call_later(TOGGLES, self._toggles_are_due)
            outgoing = (_TYPING, frame, active, user, None)
            if has_left and not presence_waits:  # who joins is announced before what they do
                self._outbox.send(connection, held, outgoing)
                return
            self._outbox.put(conversation, outgoing)
        else:
            if active:
                self._presence.add(entry)
            else:
                self._presence.remove(entry)
            if active or connection is None:
                self._announcements.heard(held, "T" if active else "U", user)
        self._schedule()

    def _toggles_are_due(self) -> None:
        self._toggles = None
        self._presence.toggles_are_due()
        if self._presence.waiting:
            self._schedule()
