"""The wire as a client sees it: of each frame no more than a client needs. Knows no socket and no state.

Not the server's own structs: what checks the server must not share its mistakes, and a client reads what it
needs and ignores the rest.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec


class Welcome(msgspec.Struct, tag="welcome"):
    """First frame of a connection, which it names."""

    connection: str = ""
    limits: dict[str, float] = {}  # msgspec copies an empty default


class Joined(msgspec.Struct, tag="joined"):
    """Answer to ``join``."""

    conversation: str
    last_seq: int


class Left(msgspec.Struct, tag="left"):
    """Answer to ``leave``; unasked with a reason, to somebody who was removed."""

    conversation: str
    reason: str | None = None


class Ack(msgspec.Struct, tag="ack"):
    """A message is durable."""

    id: str
    seq: int


class NewMessage(msgspec.Struct, tag="message"):
    """Somebody wrote."""

    conversation: str
    seq: int
    id: str
    sender: str
    body: str

    @property
    def content(self) -> tuple[str, str]:
        """Its sender and its words."""
        return self.sender, self.body


class Deleted(msgspec.Struct, tag="deleted"):
    """A message is no more."""

    conversation: str
    seq: int


class Error(msgspec.Struct, tag="error"):
    """A command was refused."""

    code: str
    id: str | None = None


class Typing(msgspec.Struct, tag="typing"):
    """Somebody types, or no longer does."""


class Read(msgspec.Struct, tag="read"):
    """Somebody has read."""


class ParticipantJoined(msgspec.Struct, tag="participant_joined"):
    """Somebody came."""


class ParticipantLeft(msgspec.Struct, tag="participant_left"):
    """Somebody went."""


class Pong(msgspec.Struct, tag="pong"):
    """Answer to ``ping``."""


Frame: TypeAlias = (
    Welcome
    | Joined
    | Left
    | Ack
    | NewMessage
    | Deleted
    | Error
    | Typing
    | Read
    | ParticipantJoined
    | ParticipantLeft
    | Pong
)
decode: Final = msgspec.json.Decoder(Frame).decode
"""A text frame; raises msgspec.DecodeError for anything else."""
