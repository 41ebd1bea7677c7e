"""What goes to other nodes: gathered during one turn of the loop, one publish for each conversation, or at once.

What could not leave, or had no answer when the connection was lost, is remembered in short: up to which number other
nodes should look, who is no longer a member, which message was deleted, where it is to be asked who types. They are
told when there is a connection again. The rest is dropped, and counted.

Tested in ``tests/broker/test_redis.py``.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

from exporter.broker import frames
from exporter.broker.connection import ECHO, Connection
from exporter.broker.context import Context
from exporter.broker.frames import Kind, Outgoing
from exporter.broker.held_conversation import HeldConversation

P = TypeVar("P")

MOST_OWED: Final = 100_000
"""Conversations, and frames, that other nodes still have to be told of."""
OWED_AT_ONCE: Final = 1_000
"""Of those, how many are told in one write."""
MEASURED: Final = 0.1
"""Seconds between two measurements of how long the way takes."""
LOOKED_AT: Final = 64
"""Frames of a conversation that are looked at when somebody leaves it, 3 µs."""


_kind = itemgetter(0)
_TYPING: Final = Kind.TYPING


def outgoing(kind: Kind, *, seq: int = 0, user: str = "") -> Outgoing:
    """A frame without data."""
    return kind, b"", seq, user, None


class Outbox(Generic[P]):
    """What one node has to send."""

    def __init__(self, context: Context[P]) -> None:
        self._conversations, self._functions, self._node = context.held, context.functions, context.node
        self._clock, self._meters, self._now = context.clock, context.meters, context.now
        self._schedule = context.schedule
        self._waiting: dict[str, list[Outgoing]] = {}
        self._unanswered: deque[tuple[str, list[Outgoing]]] = deque()
        self._look: dict[str, int] = {}
        self._typists: set[str] = set()
        self._again: deque[tuple[str, Outgoing]] = deque(maxlen=MOST_OWED)
        self._owes = False  # more of that is to be told to this connection
        self._measured_at = float("-inf")
        self._stamp = 0  # of what was published last
        self._measured: int | None = None  # the stamp of what is measured

    def put(self, conversation: str, frame: Outgoing) -> None:
        """To leave with the next ``flush``."""
        waiting = self._waiting.get(conversation)
        if waiting is None:
            self._waiting[conversation] = [frame]
        else:
            waiting.append(frame)

    def send(self, connection: Connection, held: HeldConversation[P], frame: Outgoing) -> None:
        """Publish it now. Only where nothing waits, here or for people here: else it would overtake that."""
        clock = self._now  # a local name: docs/benchmarks.md
        now = clock()
        self._stamp = stamp = self._clock.stamp(now)
        words = frames.alone(held.channel, self._node, stamp, frame, now)
        self._unanswered.append((held.conversation, [frame]))
        self._meters.broker_frames_sent.value += 1
        if stamp and now > self._measured_at + MEASURED:
            self._measured_at, self._measured = now, stamp
        connection.send(frames.PUBLISH + words, self._answered, frames.PUBLISHED + words)

    def drop(self, conversation: str, frame: Outgoing) -> None:
        """There is no connection."""
        self._meters.broker_frames_dropped.value += 1
        self._owe(conversation, frame)

    @property
    def waiting(self) -> bool:
        """Is there something to be published?"""
        return bool(self._waiting)

    def has_news_of(self, user: str, conversation: str) -> bool:
        """Is there something of this user to be published, other than that they no longer type?

        What says that they have left says that, too. Where much waits, it is published instead of looked at again and
        again while many leave.
        """
        waiting = self._waiting.get(conversation, ())
        return len(waiting) > LOOKED_AT or any(
            whose == user and (active or kind is not _TYPING) for kind, _, active, whose, _ in waiting
        )

    def flush(self, connection: Connection) -> None:
        """Publish what waits."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        now = self._now()
        self._stamp = stamp = self._clock.stamp(now)
        commands, sent, words = [], 0, b""
        for conversation, turn in waiting.items():
            held = self._conversations.get(conversation)
            channel = held.channel if held is not None else self._functions.channel(conversation).encode()
            if len(turn) == 1:
                words = frames.alone(channel, self._node, stamp, turn[0], now)
            else:
                parts = [frames.head(self._node, stamp)]
                for kind, alike in groupby(turn, _kind):
                    if kind is _TYPING:
                        parts += frames.typing_runs(alike)
                    else:
                        frames.pack_all(alike, now, parts)
                words = frames.addressed(channel, b"".join(parts))
            sent += len(turn)
            commands.append(frames.PUBLISH + words)
            self._unanswered.append((conversation, turn))
        self._meters.broker_frames_sent.value += sent
        if stamp and now > self._measured_at + MEASURED:
            self._measured_at, self._measured = now, stamp
        echo = frames.PUBLISHED + words if len(commands) == 1 else b""
        connection.queue(b"".join(commands), len(commands), self._answered, echo)

    def returned(self, stamp: int) -> None:
        """What was published at that time has come back."""
        if stamp == self._measured:
            self._measured = None
            self._meters.broker_lag.observe(self._now() - self._measured_at)

    def _answered(self, reply: Any) -> None:
        if reply is ECHO and self._stamp == self._measured:  # of what was queued last, else it would be taken apart
            self.returned(self._stamp)
        self._unanswered.popleft()
        if self._owes and not self._waiting and len(self._unanswered) < OWED_AT_ONCE // 10:
            self._tell_what_is_owed()
            self._schedule()

    def closed(self) -> None:
        """The connection is lost."""
        self._owes = False
        for conversation, turn in self._unanswered:
            for frame in turn:
                self._owe(conversation, frame)
        self._unanswered.clear()
        waiting, self._waiting = self._waiting, {}
        for conversation, turn in waiting.items():
            for frame in turn:
                self.drop(conversation, frame)

    def opened(self) -> None:
        """There is a connection again: tell what is owed."""
        self._owes = True
        self._tell_what_is_owed()

    def _tell_what_is_owed(self) -> None:
        """Some of it, and more when that is answered: all in one write may be more than a server may owe an answer."""
        for _ in range(OWED_AT_ONCE):
            if self._look:
                conversation, seq = self._look.popitem()
                self.put(conversation, outgoing(Kind.LOOK, seq=seq))
            elif self._typists:
                self.put(self._typists.pop(), outgoing(Kind.TYPISTS))
            elif self._again:
                self.put(*self._again.popleft())
            else:
                self._owes = False
                return

    def _owe(self, conversation: str, frame: Outgoing) -> None:
        kind, _, seq, user, _ = frame
        if kind is Kind.MESSAGE or kind is Kind.LOOK:
            if len(self._look) < MOST_OWED or conversation in self._look:
                self._look[conversation] = max(seq, self._look.get(conversation, 0))
        elif kind is Kind.REMOVED or kind is Kind.ASK:  # perhaps a member again meanwhile
            self._again.append((conversation, outgoing(Kind.ASK, user=user)))
        elif kind is Kind.TYPING or kind is Kind.TYPISTS:
            if len(self._typists) < MOST_OWED:
                self._typists.add(conversation)
        elif kind is Kind.LASTING:
            self._again.append((conversation, frame))
