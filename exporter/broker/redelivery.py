"""Frames that last are delivered again to nodes that have missed them: each says when it is back, and since when.

Whoever was away itself cannot have heard that. It says that it is back, too, and then the others repeat to it what they
had said meanwhile. All hear what is repeated for one, and pass over what has been here.

Tested in ``tests/broker/test_redelivery.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from exporter.broker.announcements import ignore
from exporter.broker.connection import Connection, Reply, command
from exporter.broker.context import Context
from exporter.broker.frames import IncomingFrame, Kind, Outgoing
from exporter.broker.nodes_channel import NodesChannel
from exporter.broker.reconnecting import SILENCE

MOST_SENT: Final = 1_000
"""Frames of this node that others are sent again when they have been away."""
MOST_HEARD: Final = 10_000
"""Frames that may come again, of which it is known that they have been here."""
TOGETHER: Final = 1.0
"""Seconds in which nodes that are back are answered together: after an outage all of them are, and each would be sent
everything for each of the others."""
TAKES: Final = 4.0
"""Seconds until the others have answered so. A connection that was lost before may not have brought it."""
MOST_ABSENCES: Final = 1_000
"""Of this node, that are remembered: the last half hour's, of a broker that is lost every two seconds."""


class Redelivery:
    """``put`` sends a frame to those who hold a conversation, with the next flush."""

    def __init__(
        self, context: Context[Any], nodes_channel: NodesChannel, put: Callable[[str, Outgoing], object]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._node, self._reconnecting, self._now = context.node, context.reconnecting, context.now
        self._nodes_channel, self._put, self._schedule = nodes_channel, put, context.schedule
        nodes_channel.handlers[Kind.BACK] = self._another_is_back
        self._sent: deque[tuple[float, str, Outgoing]] = deque(maxlen=MOST_SENT)
        self._repeats_since = float("inf")  # what is to be sent again
        self._heard: dict[tuple[str, str, bytes], None] = {}
        self._last_heard = 0.0  # before this absence
        self._stamp: int | None = None  # the same by the server's clock
        self._said_at = float("-inf")  # when the others were told of it; infinite: not yet
        self._absences: deque[tuple[float, float]] = deque(maxlen=MOST_ABSENCES)  # when each began and ended

    # --- frames that last -----------------------------------------------------------------------------------------

    def remember(self, conversation: str, data: bytes, seq: int) -> Outgoing:
        """Whoever is away now is to hear it, too: it has a number, unlike others that say the same."""
        frame = Kind.LASTING, data, seq, str(time.time_ns()), None
        self._sent.append((self._now(), conversation, frame))
        return frame

    def is_news(self, conversation: str, number: str, data: bytes) -> bool:
        """Has it not been here yet?"""
        key = conversation, number, data
        if key in self._heard:
            return False
        self._heard[key] = None
        if len(self._heard) > MOST_HEARD:
            del self._heard[next(iter(self._heard))]
        return True

    def _repeat(self) -> None:
        since, self._repeats_since = self._repeats_since, float("inf")
        for at, conversation, frame in self._sent:
            if at >= since:
                self._put(conversation, frame)
        self._schedule()

    # --- this node was away ---------------------------------------------------------------------------------------

    def opened(self, last_heard: float, stamp: int | None) -> None:
        """There is a connection; the last answer came at that time, by this process's clock and by the server's."""
        if last_heard > self._said_at + TAKES:  # else what came before the last one has not been made good yet
            self._last_heard, self._stamp = last_heard, stamp
        elif self._stamp is None:
            self._stamp = stamp
        self._said_at = float("inf")

    def is_back(self, connection: Connection) -> None:
        """This node hears everything again."""
        connection.queue(command("TIME"), 1, partial(self._ask_for_what_was_missed, connection))

    def _ask_for_what_was_missed(self, connection: Connection, time: Any) -> None:
        last_heard = self._last_heard
        if self._stamp is not None:
            seconds, microseconds = map(int, time)
            # This machine, and its clock, may have been suspended; another server's clock may be behind.
            last_heard = min(last_heard, self._now() - (seconds * 1_000_000 + microseconds - self._stamp) / 1e6)
        self._was_away(connection, last_heard - SILENCE, self._is_said)  # silence is not noticed at once

    def _is_said(self, reply: Any) -> None:
        self._said_at = self._now()

    def was_late(self, connection: Connection) -> None:
        """A subscription came after somebody had joined; it took less time than a connection that is silent has."""
        self.opened(self._now() - SILENCE, None)  # if it ends soon, the next one asks for that, too
        self._was_away(connection, self._now() - 2 * SILENCE, self._is_said)

    def _was_away(self, connection: Connection, since: float, told: Reply) -> None:
        self._absences.append((since, self._now()))
        self._say(connection, since, told=told)

    def _say(self, connection: Connection, since: float, to: bytes = b"", told: Reply = ignore) -> None:
        milliseconds = round((self._now() - since) * 1000)
        self._nodes_channel.publish(connection, Kind.BACK, milliseconds, data=to, told=told)

    # --- another was ----------------------------------------------------------------------------------------------

    def _another_is_back(self, node: bytes, frame: IncomingFrame, late: float) -> None:
        _, to, milliseconds, _, _ = frame
        if to and to != self._node:
            return
        since, connection = self._now() - (milliseconds / 1000 + late), self._reconnecting.connection
        if self._repeats_since == float("inf"):
            self._loop.call_later(TOGETHER, self._repeat)
        self._repeats_since = min(self._repeats_since, since)
        # Those that ended while it was away: it has not heard of them.
        unheard = [began for began, ended in self._absences if ended > since]
        if unheard and not to and connection is not None:
            self._say(connection, min(unheard), node)
