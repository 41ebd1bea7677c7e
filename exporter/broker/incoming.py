"""What comes over the road: frames of other nodes, announcements of the server's functions. Knows no connection.

Tested in ``tests/broker/test_road.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from exporter.broker import frames
from exporter.broker.announcements import Announcements
from exporter.broker.clock import ServerClock
from exporter.broker.envelope import Envelope
from exporter.broker.frames import Kind
from exporter.broker.held import Held
from exporter.broker.inquiries import Inquiries
from exporter.broker.ordering import Ordering
from exporter.broker.ports import Meters, Side
from exporter.core import protocol

P = TypeVar("P")


class Incoming(Generic[P]):
    """``node`` is this node's name on the road: its own frames come back, and say how long the road takes."""

    def __init__(
        self,
        by_channel: dict[bytes, Held[P]],
        node: bytes,
        side: Side[P],
        ordering: Ordering[P],
        announcements: Announcements[P],
        clock: ServerClock,
        meters: Meters,
        now: Callable[[], float],
        inquiries: Inquiries,
    ) -> None:
        self._by_channel = by_channel
        self._mine = b"F" + node
        self._side, self._ordering, self._announcements = side, ordering, announcements
        self._clock, self._meters, self._now, self._inquiries = clock, meters, now, inquiries

    def pushed(self, push: list[Any]) -> None:
        """One push of the connection."""
        if push[0] != b"smessage":
            return  # subscriptions: what was asked behind them has an answer of its own
        payload = push[2]
        if payload.startswith(self._mine):
            lag = self._clock.since(frames.published_at(payload))
            if lag is not None:
                self._meters.broker_lag.observe(lag)
            return
        held = self._by_channel.get(push[1])
        if held is None:
            if push[1] == self._inquiries.channel:
                self._inquiries.heard(payload)
            return  # let go of a moment ago
        first = payload[:1]
        if first == b"F":
            self._frames(held, payload)
        elif first == b"A":
            for line in frames.announcements(payload):
                if not self._announcements.heard_from_afar(held, line[:1], line[1:]):
                    self._meters.broker_frames_dropped.value += 1
        else:
            self._meters.broker_frames_dropped.value += 1

    def _frames(self, held: Held[P], payload: bytes) -> None:
        now, count = self._now(), 0
        lag = self._clock.since(frames.published_at(payload))
        conversation, ordering = held.conversation, self._ordering
        for frame in frames.unpack(payload):
            if frame is None:
                self._meters.broker_frames_dropped.value += 1
                continue
            count += 1
            kind = frame.kind
            if kind is Kind.MESSAGE:
                if frame.user:
                    self._side.said(conversation, frame.user)
                received = now - lag - frame.age / 1e6 if frame.age and lag is not None else None
                data = protocol.Delivery(frame.data)
                ordering.message(held, Envelope(conversation, data, received=received, seq=frame.seq, remote=True))
            elif kind is Kind.TYPING:
                self._announcements.heard_from_afar(held, "T" if frame.seq else "U", frame.user)
            elif kind is Kind.TYPISTS:
                self._announcements.ask_typists(held)
            elif kind is Kind.REMOVED:
                self._side.removed(conversation, frame.user)
            elif kind is Kind.LOOK:
                ordering.look(held, frame.seq)
            elif kind is Kind.ASK:
                self._side.examine([(conversation, frame.user)])
            else:
                user = frame.user or None
                ordering.other(held, Envelope(conversation, frame.data, exclude_user=user, remote=True))
        self._meters.broker_frames_received.value += count
