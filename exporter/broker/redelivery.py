"""Frames that last are delivered again to nodes that have missed them: each says when it is back, and since when.

Whoever was away itself cannot have heard that. It says that it is back, too, and then the others repeat to it what they
had said meanwhile. ``Outbox`` keeps the frames, and ``Incoming`` passes over those that have been here.

Tested in ``tests/broker/test_outages.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from exporter.broker.connection import Connection
from exporter.broker.context import Context
from exporter.broker.frames import IncomingFrame, Kind
from exporter.broker.nodes_channel import NodesChannel
from exporter.broker.reconnecting import SILENCE

MOST_ABSENCES: Final = 1_000
"""Of this node, that are remembered: the last half hour's, of a broker that is lost every two seconds."""


class Redelivery:
    """``repeat`` sends again what lasted of this node's in so many seconds."""

    def __init__(self, context: Context[Any], nodes_channel: NodesChannel, repeat: Callable[[float], object]) -> None:
        self._node, self._reconnecting, self._now = context.node, context.reconnecting, context.now
        self._nodes_channel, self._repeat = nodes_channel, repeat
        nodes_channel.handlers[Kind.BACK] = self._another_is_back
        self._absences: deque[tuple[float, float]] = deque(maxlen=MOST_ABSENCES)  # when each began and ended

    def is_back(self, connection: Connection, last_heard: float) -> None:
        """This node hears everything again; the last answer came at that time, and silence is not noticed at once."""
        self._was_away(connection, last_heard - SILENCE)

    def was_late(self, connection: Connection) -> None:
        """A subscription came after somebody had joined; it took less time than a connection that is silent has."""
        self._was_away(connection, self._now() - 2 * SILENCE)

    def _was_away(self, connection: Connection, since: float) -> None:
        self._absences.append((since, self._now()))
        self._say(connection, since)

    def _say(self, connection: Connection, since: float, to: bytes = b"") -> None:
        self._nodes_channel.publish(connection, Kind.BACK, round((self._now() - since) * 1000), data=to)

    def _another_is_back(self, node: bytes, frame: IncomingFrame) -> None:
        _, to, milliseconds, _, _ = frame
        if to and to != self._node:
            return
        away, connection = milliseconds / 1000, self._reconnecting.connection
        self._repeat(away)
        # Those that ended while it was away: it has not heard of them.
        unheard = [began for began, ended in self._absences if ended > self._now() - away]
        if unheard and not to and connection is not None:
            self._say(connection, min(unheard), node)
