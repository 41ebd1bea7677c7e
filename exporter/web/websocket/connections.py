"""The open connections of this process, and the clock that looks after them: heartbeats and expiring tokens.

A timer per connection would be 20,000 timers. Instead the connections stand in a ring of slots, and a tick visits one
slot, so that each connection is looked at several times per interval and no tick takes longer than a fraction of a
millisecond.

Tested in ``tests/web/test_connection.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import structlog

from exporter.auth.tokens import LEEWAY
from exporter.core import websocket_frames
from exporter.core.events import ClosedReason
from exporter.web.websocket.connection import State, WebSocketConnection

log = structlog.get_logger(__name__)

# Visits per interval: a silent peer is pinged at 7/8 and cut at 11/8, hence seen to at the latest one visit later,
# which keeps the promise of one and a half intervals with a quarter of a visit to spare for a late loop.
VISITS: Final = 8
_PING_AFTER: Final = 7 / 8
_CUT_AFTER: Final = 11 / 8 - 1 / 16
_TO_ANSWER: Final = 1 / 4  # of an interval, at least, from the ping to the cut: after a late ping, too
# Closing everybody in one moment would bring everybody back in one moment: at most so many a second, and all of them
# within four fifths of the drain time, so that the rest is left for the stragglers' sends.
CLOSES_PER_SECOND: Final = 500.0
DRAIN_SHARE: Final = 0.8
_PING: Final = websocket_frames.frame(websocket_frames.PING, b"")


class Connections:
    """Connections by the socket: added when upgraded, taken out when they end. ``heartbeat`` in seconds."""

    def __init__(self, heartbeat: float) -> None:
        self.heartbeat = heartbeat
        # 64 slots at the default of 30 s: a tick of 59 ms and 312 of 20,000 connections; few slots for short intervals,
        # so that the timer stays above 10 ms.
        count = max(1, min(64, int(heartbeat / VISITS / 0.01)))
        self._slots: list[dict[WebSocketConnection, None]] = [{} for _ in range(count)]
        self._tick = heartbeat / VISITS / count
        self._next_slot = 0
        self._count = 0
        self._fill = 0
        self._lingering: set[WebSocketConnection] = set()
        self._slot_of: dict[WebSocketConnection, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._slot_of)

    def __iter__(self) -> Iterator[WebSocketConnection]:
        """The open ones; a copy, because whoever walks may end some."""
        return iter(list(self._slot_of))

    def add(self, connection: WebSocketConnection) -> None:
        """It has been upgraded."""
        self._fill = (self._fill + 1) % len(self._slots)
        self._slot_of[connection] = self._fill
        self._slots[self._fill][connection] = None
        self._mind_expiry(connection, time.time())  # a token may end before the first visit

    def ended(self, connection: WebSocketConnection) -> None:
        """It has ended for the hub; its socket may linger."""
        slot = self._slot_of.pop(connection, None)
        if slot is not None:
            del self._slots[slot][connection]
            self._lingering.add(connection)

    def lost(self, connection: WebSocketConnection) -> None:
        """Its socket is gone."""
        self.ended(connection)
        self._lingering.discard(connection)

    @property
    def sockets(self) -> int:
        """Sockets held, those of ended connections included."""
        return len(self._slot_of) + len(self._lingering)

    def abort_all(self) -> None:
        """Close every socket now."""
        _each((*self._slot_of, *self._lingering), lambda connection: connection.abort(ClosedReason.SHUTDOWN))

    async def drain(self, timeout: float) -> None:
        """Close everybody within ``timeout`` seconds, spread over that time, sends acknowledged first."""
        begun = time.monotonic()
        connections = list(self)
        pause = min(1 / CLOSES_PER_SECOND, timeout * DRAIN_SHARE / max(1, len(connections)))
        for number, connection in enumerate(connections):
            _each((connection,), WebSocketConnection.drain)
            ahead = begun + number * pause - time.monotonic()
            if ahead > 0.01:  # in steps of 10 ms: a timer per connection would be more work than the closing
                await asyncio.sleep(ahead)
        while self.sockets and time.monotonic() < begun + timeout:  # noqa: ASYNC110  # ends one by one, bounded
            await asyncio.sleep(0.01)
        _each(self, lambda connection: connection.close(ClosedReason.SHUTDOWN))

    # --- the clock ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look after them."""
        self._timer = asyncio.get_running_loop().call_later(self._tick, self._visit)

    def stop(self) -> None:
        """No more heartbeats."""
        if self._timer is not None:
            self._timer.cancel()

    def _visit(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._tick, self._visit)
        slot = self._slots[self._next_slot]
        self._next_slot = (self._next_slot + 1) % len(self._slots)
        if not slot:
            return
        now, wall = time.monotonic(), time.time()
        _each(list(slot), lambda connection: self._look_at(connection, now, wall))

    def _look_at(self, connection: WebSocketConnection, now: float, wall: float) -> None:
        if connection.state is not State.OPEN:
            return
        self._mind_expiry(connection, wall)
        if connection.is_held_up:
            connection.last_seen = now
        silent = now - connection.last_seen
        if connection.pinged:
            if silent >= _CUT_AFTER * self.heartbeat:
                connection.abort(ClosedReason.HEARTBEAT)
        elif silent >= _PING_AFTER * self.heartbeat:
            # After a standstill of this process (a frozen machine, a stopped container) nobody has been asked for long.
            connection.last_seen = max(connection.last_seen, now - (_CUT_AFTER - _TO_ANSWER) * self.heartbeat)
            connection.pinged = True
            connection.put(_PING)

    def _mind_expiry(self, connection: WebSocketConnection, wall: float) -> None:
        """When the token ends before the next visit: be there at that moment."""
        left = connection.expires_at + LEEWAY - wall
        if left <= self.heartbeat / VISITS:
            asyncio.get_running_loop().call_later(max(0.0, left), connection.close, ClosedReason.TOKEN_EXPIRED)


def _each(connections: Iterable[WebSocketConnection], action: Callable[[WebSocketConnection], None]) -> None:
    """A defect that one connection meets must not keep the others from their turn."""
    for connection in connections:
        try:
            action(connection)
        except Exception:  # as this function promises
            log.exception("connection failed")
