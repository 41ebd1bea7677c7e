"""One connection of a host's user, as ``Live`` counts it; and why it ended.

Tested in ``tests/embed/test_live.py``.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from exporter.core.events import ClosedReason, HubEvent
from exporter.embed.identifiers import Handle, User

if TYPE_CHECKING:
    from exporter.embed.live import Live

# What the frameworks raise when the peer has gone; by name, because none of them is imported here.
_DISCONNECTS: Final = frozenset(
    (
        "WebSocketDisconnect",
        "WebSocketDisconnected",
        "ClientDisconnected",
        "WebsocketClosed",  # Sanic
        "WebSocketDisconnectError",  # BlackSheep
        "WebSocketClosedError",  # Tornado
    )
)
# Names that a message broker's client may have, too, for what it makes errors of its own of: pika's
# ``ConnectionClosedByBroker`` is a ``ConnectionClosed``, and a fault of the host.
_CLOSED: Final = frozenset(
    (
        "ConnectionClosed",
        "ConnectionClosedOK",
        "ConnectionClosedError",
        "Disconnected",  # autobahn's, by way of Daphne
    )
)
# Not every OSError: a database that refuses is a fault of the host.
_GONE: Final = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
# Everything that ``reason_of`` answers; of several errors the first of these is told.
_WEIGHTIEST_FIRST: Final = (
    ClosedReason.INTERNAL_ERROR,
    ClosedReason.PROTOCOL_ERROR,
    ClosedReason.CLIENT,
    ClosedReason.SHUTDOWN,
)


class Connection:
    """One connection of one user. A context manager: leaving it closes the connection, whatever happened inside.

    ``user`` is None while nobody has said who it is. Every method returns the events that happened, in order, for a
    caller that broadcasts from them.
    """

    __slots__ = ("_live", "handle", "joined", "opened_at", "reason", "user")

    def __init__(self, live: Live, user: str | None, handle: Handle | None, opened_at: float) -> None:
        self._live = live
        self.user = user
        self.handle: Any = handle  # the host knows what it gave
        self.opened_at = opened_at
        self.reason: ClosedReason | str | None = None
        """Set it before leaving the context to say why the connection ends; what is no reason is passed over."""
        self.joined: dict[str, None] | None = None  # what it joined before anybody said whose it is

    @property
    def is_open(self) -> bool:
        """Is it still counted?"""
        return self._live.is_open(self)

    def identify(self, user: User) -> list[HubEvent]:
        """Say whose connection this is, once; for connections that a middleware opened. Events of what it joined."""
        return self._live.identify(self, user)

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
        return self._live._close(self, explicit_reason(reason) or ClosedReason.CLIENT)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.close_without_caller(self, explicit_reason(self.reason) or reason_of(error, self._live.cancelled))


def explicit_reason(reason: ClosedReason | str | None) -> ClosedReason | None:
    """The reason that a handler set; None for none, and for a word that is no reason: an end must not fail for it."""
    try:
        return None if reason is None else ClosedReason(reason)
    except ValueError:
        return None


def reason_of(error: BaseException | None, cancelled: ClosedReason) -> ClosedReason:
    """Why a connection ended whose handler ended with ``error``; ``cancelled`` is why this server cancels a handler."""
    if isinstance(
        error, BaseExceptionGroup
    ):  # of a TaskGroup: a reader that found the peer gone, and who was cancelled
        return min((reason_of(inner, cancelled) for inner in error.exceptions), key=_WEIGHTIEST_FIRST.index)
    kinds = {kind.__name__ for kind in type(error).__mro__}  # a host may have made its own of them
    gone = type(error).__name__ in _CLOSED or not kinds.isdisjoint(_DISCONNECTS)
    if error is None or isinstance(error, _GONE) or gone:
        return ClosedReason.CLIENT
    if "WebSocketException" in kinds and isinstance(code := getattr(error, "code", None), int):
        return reason_of_code(code)  # FastAPI's and Litestar's way to close on purpose
    if isinstance(error, asyncio.CancelledError) or type(error).__name__ == "Cancelled":  # Trio's
        return cancelled
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        return ClosedReason.SHUTDOWN
    return ClosedReason.INTERNAL_ERROR


def reason_of_code(code: int) -> ClosedReason:
    """Why an application closes with this code (RFC 6455 section 7.4.1)."""
    match code:
        case 1001 | 1012:
            return ClosedReason.SHUTDOWN
        case 1002 | 1003 | 1007 | 1009:
            return ClosedReason.PROTOCOL_ERROR
        case 1011 | 4500:  # Litestar's for an error of a handler
            return ClosedReason.INTERNAL_ERROR
    return ClosedReason.CLIENT
