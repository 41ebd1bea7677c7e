"""One connection of a host's user, as ``Live`` counts it; and why it ended.

Tested in ``tests/embed/test_live.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Final

from exporter.core.events import ClosedReason, HubEvent

if TYPE_CHECKING:
    from exporter.embed.live import Live

# What the frameworks raise when the peer has gone; by name, because none of them is imported here.
_DISCONNECTS: Final = frozenset(
    ("WebSocketDisconnect", "ConnectionClosed", "ConnectionClosedOK", "ConnectionClosedError", "ClientDisconnected")
)


class Connection:
    """One connection of one user. A context manager: leaving it closes the connection, whatever happened inside.

    ``user`` is None while nobody has said who it is. Every method returns the events that happened, in order, for a
    caller that broadcasts from them.
    """

    __slots__ = ("_live", "handle", "opened_at", "reason", "user")

    def __init__(self, live: Live, user: str | None, handle: Hashable | None, opened_at: float) -> None:
        self._live = live
        self.user = user
        self.handle = handle
        self.opened_at = opened_at
        self.reason: ClosedReason | None = None
        """Set it before leaving the context to say why the connection ends."""

    @property
    def is_open(self) -> bool:
        """Is it still counted?"""
        return self._live.is_open(self)

    def identify(self, user: str) -> None:
        """Say whose connection this is, once; for connections that a middleware opened."""
        self._live.identify(self, user)

    def join(self, conversation: str) -> list[HubEvent]:
        """Take part. ``ParticipantJoined`` for the user's first connection only."""
        return self._live._join(self, conversation)

    def leave(self, conversation: str) -> list[HubEvent]:
        """Stop taking part. ``ParticipantLeft`` for the user's last connection only."""
        return self._live._leave(self, conversation)

    def typing(self, conversation: str, active: bool = True) -> list[HubEvent]:
        """Start, refresh (no event) or stop typing; it ends by itself after the time-out."""
        return self._live._typing(self, conversation, active)

    def message(self, conversation: str) -> list[HubEvent]:
        """A message of this user is durable: counted, and their typing there ends."""
        return self._live._message(self, conversation)

    def close(self, reason: ClosedReason | str = ClosedReason.CLIENT) -> list[HubEvent]:
        """It ended; closing twice is closing once."""
        return self._live._close(self, ClosedReason(reason))

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live._close(self, self.reason or reason_of(error))


def reason_of(error: BaseException | None) -> ClosedReason:
    """Why a connection ended whose handler ended with ``error``."""
    if error is None or isinstance(error, OSError | EOFError) or type(error).__name__ in _DISCONNECTS:
        return ClosedReason.CLIENT
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit | GeneratorExit):
        return ClosedReason.SHUTDOWN
    return ClosedReason.INTERNAL_ERROR
