"""Who is connected, what they joined, where they type. Knows no wire, no I/O and no clock: time is a parameter.

The whole state is five dictionaries, and every live gauge is the length of one of them. Events are
returned, never acted upon; the caller counts and forwards them. So a figure cannot disagree with the
state that it describes, and there is no ``inc`` here that could miss its ``dec``.

A connection is any hashable handle; the hub stores it and never looks into it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence, Set
from typing import Any, Generic, TypeVar

import msgspec

from exporter.core.errors import Forbidden, NotJoined
from exporter.core.events import (
    ClosedReason,
    ConnectionClosed,
    ConnectionOpened,
    ConversationId,
    HubEvent,
    LeftReason,
    ParticipantJoined,
    ParticipantLeft,
    TypingStarted,
    TypingStopped,
    TypingStoppedReason,
    UserId,
)
from exporter.core.records import HubStats

_NONE: frozenset[Any] = frozenset()

C = TypeVar("C")
K = TypeVar("K")

Pair = tuple[ConversationId, UserId]

# Enough for a person with every room of a large organisation open, and a bound on what one connection can pin.
MAX_JOINED = 1_000


class Connection(msgspec.Struct, frozen=True, gc=False):  # strings only: nothing for the collector
    """What the hub knows of one connection; replaced, never changed, so a copy of the dictionary copies the state."""

    user: UserId
    joined: tuple[ConversationId, ...] = ()


class Hub(Generic[C]):
    """Live state of one node.

    Every method that changes state returns the events that happened, in order, or raises a ``Refusal``
    and then has changed nothing. A method may be called in any state; closing twice is closing once.
    """

    def __init__(
        self,
        *,
        typing_timeout: float = 6.0,
        max_joined: int = MAX_JOINED,
    ) -> None:
        """``typing_timeout`` in seconds; ``max_joined`` conversations per connection."""
        self.connections: dict[C, Connection] = {}
        self.users: dict[UserId, set[C]] = {}
        self.conversations: dict[ConversationId, set[C]] = {}
        self.participants: dict[Pair, set[C]] = {}
        # One time-out for all: the order of insertion is the order of the deadlines, so this is the timer queue, too.
        self.typing: dict[Pair, float] = {}
        # The users of each conversation, sorted: what a join is answered with. Kept, because sorting 10,000 names for
        # each of 10,000 who come back at once holds up everybody for most of a minute.
        self._users_in: dict[ConversationId, list[UserId]] = {}
        self.typing_timeout = typing_timeout
        self.max_joined = max_joined
        self.before_audience_change: Callable[[ConversationId, C, bool], object] | None = None
        """Called with a conversation, the connection that is about to join its audience or to leave it, and whether it
        joins. So whoever gathers frames for an audience knows who may have which, and no way to a change can miss it.
        """

    # --- connections --------------------------------------------------------------------------------------

    def open(self, connection: C, user: UserId) -> list[HubEvent]:
        """A connection was accepted. Opening one that is open already is an error of the caller (ValueError)."""
        if connection in self.connections:
            raise ValueError("connection is open already")
        self.connections[connection] = Connection(user)
        self.users.setdefault(user, set()).add(connection)
        return [ConnectionOpened(user)]

    def close(self, connection: C, reason: ClosedReason) -> list[HubEvent]:
        """A connection ended. Leaves everything it joined first; nothing happens when it is not open."""
        known = self.connections.get(connection)
        if known is None:
            return []
        events: list[HubEvent] = []
        for conversation in known.joined:
            events += self._withdraw(connection, known.user, conversation, LeftReason.DISCONNECT)
        del self.connections[connection]
        _discard(self.users, known.user, connection)
        events.append(ConnectionClosed(known.user, reason))
        return events

    def is_open(self, connection: C) -> bool:
        """Is it (still) open? Ask again after every await."""
        return connection in self.connections

    def connections_of(self, user: UserId) -> int:
        """How many connections this user has open."""
        return len(self.users.get(user, ()))

    # --- conversations ------------------------------------------------------------------------------------

    def join(self, connection: C, conversation: ConversationId) -> list[HubEvent]:
        """Take part. ``ParticipantJoined`` for the user's first connection only; nothing when joined already.

        Raises NotJoined when the connection is not open (it may have gone during an await), Forbidden
        above ``max_joined`` conversations.
        """
        known = self.connections.get(connection)
        if known is None:
            raise NotJoined("the connection has ended")
        audience = self.conversations.get(conversation)
        if audience is not None and connection in audience:
            return []
        if len(known.joined) >= self.max_joined:
            raise Forbidden(f"this connection has joined {self.max_joined} conversations, the most allowed")
        if self.before_audience_change is not None:
            self.before_audience_change(conversation, connection, True)
        if audience is None:
            audience = self.conversations[conversation] = set()
        audience.add(connection)
        self.connections[connection] = Connection(known.user, (*known.joined, conversation))
        pair = (conversation, known.user)
        tabs = self.participants.get(pair)
        if tabs is not None:
            tabs.add(connection)
            return []
        self.participants[pair] = {connection}
        users = self._users_in.get(conversation)
        if users is None:
            self._users_in[conversation] = [known.user]
        else:
            insort(users, known.user)
        return [ParticipantJoined(conversation, known.user)]

    def leave(self, connection: C, conversation: ConversationId) -> list[HubEvent]:
        """Stop taking part with this connection. Raises NotJoined."""
        self.require_joined(connection, conversation)
        return self._leave(connection, conversation, LeftReason.LEAVE)

    def remove(self, conversation: ConversationId, user: UserId) -> tuple[list[HubEvent], list[C]]:
        """A user is no longer a member: all their connections leave at once; returns the events and them."""
        removed = list(self.participants.get((conversation, user), ()))
        events: list[HubEvent] = []
        for connection in removed:
            events += self._leave(connection, conversation, LeftReason.REMOVED)
        return events, removed

    def require_joined(self, connection: C, conversation: ConversationId) -> None:
        """Raises NotJoined unless this connection takes part in that conversation."""
        if connection not in self.conversations.get(conversation, _NONE):
            raise NotJoined("join the conversation first")

    def audience(self, conversation: ConversationId) -> Set[C]:
        """The connections that a fan-out goes to, as they are now: a live view, not to be kept over an await."""
        return self.conversations.get(conversation) or _NONE

    def connections_in(self, conversation: ConversationId, user: UserId) -> Set[C]:
        """The connections with which a user takes part there: a live view, too."""
        return self.participants.get((conversation, user)) or _NONE

    def joined(self, connection: C) -> tuple[ConversationId, ...]:
        """What a connection takes part in; nothing when it is not open."""
        known = self.connections.get(connection)
        return known.joined if known is not None else ()

    def participants_of(self, conversation: ConversationId) -> Sequence[UserId]:
        """The users who have joined, sorted: a live view, too."""
        return self._users_in.get(conversation) or []

    def _leave(self, connection: C, conversation: ConversationId, reason: LeftReason) -> list[HubEvent]:
        known = self.connections[connection]
        user, joined = known.user, known.joined
        at = joined.index(conversation)
        self.connections[connection] = Connection(user, joined[:at] + joined[at + 1 :])
        return self._withdraw(connection, user, conversation, reason)

    def _withdraw(
        self, connection: C, user: UserId, conversation: ConversationId, reason: LeftReason
    ) -> list[HubEvent]:
        """Take a connection out of a conversation; its own record is the caller's affair."""
        if self.before_audience_change is not None:
            self.before_audience_change(conversation, connection, False)
        _discard(self.conversations, conversation, connection)
        pair = (conversation, user)
        if not _discard(self.participants, pair, connection):
            return []
        users = self._users_in[conversation]
        del users[bisect_left(users, user)]
        if not users:
            del self._users_in[conversation]
        # Nobody of this user is left: whoever does not take part does not type. A removal stops it like a leave.
        stopped = TypingStoppedReason.DISCONNECT if reason is LeftReason.DISCONNECT else TypingStoppedReason.LEAVE
        left = ParticipantLeft(conversation, user, reason)
        return [*self.stop_typing(conversation, user, stopped), left] if pair in self.typing else [left]

    # --- typing -------------------------------------------------------------------------------------------

    def set_typing(self, connection: C, conversation: ConversationId, active: bool, now: float) -> list[HubEvent]:
        """Start, refresh (no event) or stop typing. Raises NotJoined."""
        if connection not in self.conversations.get(conversation, _NONE):
            raise NotJoined("join the conversation first")
        user = self.connections[connection].user
        pair = (conversation, user)
        before = self.typing.pop(pair, None)
        if active:
            self.typing[pair] = now + self.typing_timeout
            return [] if before is not None else [TypingStarted(conversation, user)]
        return [] if before is None else [TypingStopped(conversation, user, TypingStoppedReason.STOP)]

    def stop_typing(self, conversation: ConversationId, user: UserId, reason: TypingStoppedReason) -> list[HubEvent]:
        """Nothing happens when the user does not type there."""
        if self.typing.pop((conversation, user), None) is None:
            return []
        return [TypingStopped(conversation, user, reason)]

    def expire_typing(self, now: float) -> list[HubEvent]:
        """Everybody whose deadline has come stops; costs only what expires."""
        due = []
        for pair, deadline in self.typing.items():
            if deadline > now:
                break
            due.append(pair)
        return [event for pair in due for event in self.stop_typing(*pair, TypingStoppedReason.TIMEOUT)]

    def next_deadline(self) -> float | None:
        """When ``expire_typing`` has something to do next; None when nobody types."""
        return next(iter(self.typing.values()), None)

    # --- figures ------------------------------------------------------------------------------------------

    def stats(self) -> HubStats:
        """The live figures, O(1)."""
        return HubStats(
            active_connections=len(self.connections),
            connected_users=len(self.users),
            active_conversations=len(self.conversations),
            participants=len(self.participants),
            typing_users=len(self.typing),
        )

    def oldest_typing_age(self, now: float) -> float:
        """Seconds since the oldest typing state was last refreshed, 0 when nobody types."""
        deadline = self.next_deadline()
        return 0.0 if deadline is None else max(0.0, now - (deadline - self.typing_timeout))


def _discard(index: dict[K, set[C]], key: K, connection: C) -> bool:
    """Take a connection out of a set in an index, and the set out of the index when it is empty: True then."""
    members = index[key]
    members.discard(connection)
    if members:
        return False
    del index[key]
    return True
