"""What the broker brings: frames of other nodes, announcements of the server's functions. Knows no connection.

Tested in ``tests/broker/test_redis.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from exporter.broker import frames
from exporter.broker.announcements import Announcements
from exporter.broker.context import Context
from exporter.broker.envelope import Envelope
from exporter.broker.frames import Kind
from exporter.broker.held_conversation import HeldConversation
from exporter.broker.nodes_channel import NodesChannel
from exporter.broker.ordering import Ordering

P = TypeVar("P")

# Looked up in the enumeration these would cost more than the comparison.
_MESSAGE, _TYPING, _TYPING_RUN = int(Kind.MESSAGE), int(Kind.TYPING), int(Kind.TYPING_RUN)


LATE: Final = 0.25
"""Seconds on the way after which whoever was removed may be a member again, and have joined: the database is asked."""


class Incoming(Generic[P]):
    """``returned`` is called with the stamp of each payload of this node's own that comes back.

    ``is_news``: has what lasts not been here yet?
    """

    def __init__(
        self,
        context: Context[P],
        ordering: Ordering[P],
        announcements: Announcements[P],
        nodes_channel: NodesChannel,
        returned: Callable[[int], None],
        is_news: Callable[[str, str, bytes], bool],
    ) -> None:
        self._by_channel, self._mine = context.by_channel, b"F" + context.node
        self._hub, self._local = context.hub, context.local
        self._ordering, self._announcements = ordering, announcements
        self._clock, self._meters, self._now = context.clock, context.meters, context.now
        self._nodes_channel, self._returned, self._is_news = nodes_channel, returned, is_news

    def pushed(self, push: list[Any]) -> None:
        """One push of the connection."""
        if push[0] != b"smessage":
            return  # subscriptions: what was asked behind them has an answer of its own
        _, channel, payload = push
        if payload.startswith(self._mine):
            self._returned(frames.published_at(payload))
            return
        held = self._by_channel.get(channel)
        if held is None:
            if channel == self._nodes_channel.name:
                self._nodes_channel.heard(payload)
            return  # let go of a moment ago
        first, foreign_nodes = payload[:1], self._nodes_channel.foreign_nodes
        if foreign_nodes and first == b"F" and frames.publisher(payload) in foreign_nodes:
            self._meters.broker_frames_dropped.value += frames.how_many(payload)
        elif first == b"F":
            typing = frames.lone_typing(payload)
            if typing is None:
                self._frames(held, payload)
            else:
                user, active, frame = typing
                self._announcements.types_afar(held, user, active, frame)
                self._meters.broker_frames_received.value += 1
        elif first == b"A":
            told = held.told
            for line in frames.announcements(payload):
                if line[0:1] == "J" and line[1:] in told:
                    continue  # most often this node has said so itself
                if not self._announcements.heard_from_afar(held, line[:1], line[1:]):
                    self._meters.broker_frames_dropped.value += 1
        else:
            self._meters.broker_frames_dropped.value += 1

    def _frames(self, held: HeldConversation[P], payload: bytes) -> None:
        published: float | None = None
        count = 0
        conversation, ordering, typing = held.conversation, self._ordering, self._hub.typing
        hand_out = ordering.message
        for frame in frames.unpack(payload):
            if frame is None:
                self._meters.broker_frames_dropped.value += 1
                continue
            count += 1
            kind, data, seq, user, age = frame
            if kind == _MESSAGE:
                if typing:
                    self._local.said(conversation, user)
                received = None
                if age:
                    if published is None:
                        published = self._clock.here(frames.published_at(payload))
                    received = None if published is None else published - age / 1e6
                hand_out(held, Envelope(conversation, data, None, None, received, seq, True, False, user))
            elif kind == _TYPING:
                self._announcements.types_afar(held, user, seq > 0, data)
            elif kind == _TYPING_RUN:
                run = frames.typing_run(data)
                if run is None:
                    self._meters.broker_frames_dropped.value += 1
                    continue
                count += seq - 1
                self._announcements.many_type_afar(held, run)
            elif kind == Kind.TYPISTS:
                self._announcements.ask_typists(held)
            elif kind == Kind.REMOVED:
                if self._is_late(payload):
                    self._local.examine([(conversation, user)])
                else:
                    self._local.removed(conversation, user)
            elif kind == Kind.LOOK:
                ordering.look(held, seq)
            elif kind == Kind.ASK:
                self._local.examine([(conversation, user)])
            elif kind != Kind.LASTING:
                ordering.other(held, Envelope(conversation, data, exclude_user=user or None, remote=True))
            elif self._is_news(conversation, user, data):
                ordering.deletion(held, Envelope(conversation, data, seq=seq, remote=True, lasting=True))
        self._meters.broker_frames_received.value += count

    def _is_late(self, payload: bytes) -> bool:
        published = self._clock.here(frames.published_at(payload))
        return published is None or self._now() - published > LATE
