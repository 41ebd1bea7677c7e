"""Ids, commands and events. Knows nothing else: no wire, no state, no clock.

Commands are what a client asks, in the imperative; events are what happened, in the past tense. Both
are frozen. ``gc=False`` is right for them: they hold only strings and numbers, hence no cycles, and the
collector need not look at them (msgspec's documentation, "Disabling Garbage Collection").

Tested in ``tests/core/test_recount.py``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias, get_args

import msgspec

UserId: TypeAlias = str
ConversationId: TypeAlias = str


# --- commands: what a client asks -------------------------------------------------------------------------


class Join(msgspec.Struct, frozen=True, gc=False, tag="join"):
    """Take part in a conversation of which the user is a member."""

    conversation: ConversationId
    id: str | None = None


class Leave(msgspec.Struct, frozen=True, gc=False, tag="leave"):
    """Stop taking part with this connection."""

    conversation: ConversationId
    id: str | None = None


class Typing(msgspec.Struct, frozen=True, gc=False, tag="typing"):
    """Start, refresh or stop typing."""

    conversation: ConversationId
    active: bool


class Send(msgspec.Struct, frozen=True, gc=False, tag="send"):
    """Store and deliver a message; ``id`` is the client's and makes a retry harmless."""

    conversation: ConversationId
    body: str
    id: str


class Read(msgspec.Struct, frozen=True, gc=False, tag="read"):
    """Everything up to ``seq`` has been read."""

    conversation: ConversationId
    seq: int


class Ping(msgspec.Struct, frozen=True, gc=False, tag="ping"):
    """Is anybody there?"""

    id: str | None = None


Command: TypeAlias = Join | Leave | Typing | Send | Read | Ping
COMMANDS: Final[dict[type[Command], str]] = {kind: str(kind.__struct_config__.tag) for kind in get_args(Command)}
"""Each command's name, on the wire and as a label."""


# --- reasons: known beforehand, hence label values that stand at 0 from the start ---------------------------


class ClosedReason(StrEnum):
    """Why a connection ended; the server decides, never the client's close code."""

    CLIENT = "client"
    SHUTDOWN = "shutdown"
    HEARTBEAT = "heartbeat"
    SLOW_CONSUMER = "slow_consumer"
    PROTOCOL_ERROR = "protocol_error"
    RATE_LIMITED = "rate_limited"
    TOKEN_EXPIRED = "token_expired"
    ADMIN = "admin"
    INTERNAL_ERROR = "internal_error"


class RejectedReason(StrEnum):
    """Why a connection was refused before the upgrade."""

    UNAUTHENTICATED = "unauthenticated"
    ORIGIN = "origin"
    CAPACITY = "capacity"
    USER_LIMIT = "user_limit"
    DRAINING = "draining"
    HANDSHAKE = "handshake"


class LeftReason(StrEnum):
    """Why a user stopped taking part in a conversation."""

    LEAVE = "leave"
    DISCONNECT = "disconnect"
    REMOVED = "removed"


class TypingStoppedReason(StrEnum):
    """Why a user stopped typing in a conversation."""

    STOP = "stop"
    TIMEOUT = "timeout"
    MESSAGE = "message"
    LEAVE = "leave"
    DISCONNECT = "disconnect"


# --- events: what happened ---------------------------------------------------------------------------------


class ConnectionOpened(msgspec.Struct, frozen=True, gc=False):
    """A connection was authenticated and accepted."""

    user: UserId


class ConnectionClosed(msgspec.Struct, frozen=True, gc=False):
    """A connection ended, for whatever reason; last of the events of its end."""

    user: UserId
    reason: ClosedReason


class ParticipantJoined(msgspec.Struct, frozen=True, gc=False):
    """A user's first connection joined a conversation."""

    conversation: ConversationId
    user: UserId


class ParticipantLeft(msgspec.Struct, frozen=True, gc=False):
    """A user's last connection left a conversation."""

    conversation: ConversationId
    user: UserId
    reason: LeftReason


class TypingStarted(msgspec.Struct, frozen=True, gc=False):
    """A user began to type; a refresh is no event."""

    conversation: ConversationId
    user: UserId


class TypingStopped(msgspec.Struct, frozen=True, gc=False):
    """A user no longer types."""

    conversation: ConversationId
    user: UserId
    reason: TypingStoppedReason


HubEvent: TypeAlias = (
    ConnectionOpened | ConnectionClosed | ParticipantJoined | ParticipantLeft | TypingStarted | TypingStopped
)
