"""What the broker needs of its node: where frames go, and what is counted. Protocols only.

Tested in ``tests/broker/test_redis.py``.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from exporter.broker.envelope import Envelope

P = TypeVar("P")


class Cell(Protocol):
    """A counter."""

    value: int


class Distribution(Protocol):
    """A histogram."""

    def observe(self, value: float) -> None:
        """Add one observation."""


class Meters(Protocol):
    """What is counted here."""

    @property
    def broker_frames_sent(self) -> Cell:
        """Frames published."""

    @property
    def broker_frames_received(self) -> Cell:
        """Frames of other nodes."""

    @property
    def broker_frames_dropped(self) -> Cell:
        """Frames that could not leave, or that are of a kind that is not known here."""

    @property
    def broker_lag(self) -> Distribution:
        """Seconds that a frame takes."""


class Turn(Protocol):
    """A turn of the loop, at whose end what was gathered leaves."""

    alone: int
    """How many reads may be turns of their own, because frames come alone."""
    reading: int
    """To be set to ``alone`` before what was read from a socket is handled."""

    def has_read(self) -> None:
        """What was read is handled, all of it or as much as one turn takes."""


class LocalNode(Protocol[P]):
    """The node, as its broker sees it."""

    def deliver(self, envelope: Envelope[P]) -> None:
        """Hand a frame to everybody here whom it is for."""

    def announce(self, word: str, conversation: str, user: str) -> None:
        """Tell everybody here: J, L (joined, left), T, U (types, no longer types)."""

    def announcement(self, word: str, conversation: str, user: str) -> bytes:
        """The frame of that."""

    def tell(self, conversation: str, user: str, frame: bytes) -> bool:
        """Hand an announcement of this user to everybody here but them. True: it has left."""

    def said(self, conversation: str, user: str) -> None:
        """A message of this user is durable, sent on another node: they do not type any more."""

    def removed(self, conversation: str, user: str) -> None:
        """The user is no longer a member: their connections here leave."""

    def connections_of(self, user: str, disconnect: bool) -> list[float]:
        """When the user's connections here were opened, Unix seconds; ``disconnect``: they are ended."""

    def heal(self, conversation: str, after: int, through: int) -> None:
        """Read these messages, ``fill`` them in, then say ``healed`` or ``not_healed``."""

    def examine(self, pairs: list[tuple[str, str]] | None) -> None:
        """Ask the database whether these participants (None: all here) are members, and what the last numbers are."""
