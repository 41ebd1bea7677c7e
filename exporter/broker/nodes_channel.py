"""The channel that all nodes of a cluster listen on, whatever they hold. Knows no kind of frame by its meaning.

Tested in ``tests/broker/test_inquiries.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from exporter.broker import frames
from exporter.broker.announcements import ignore
from exporter.broker.connection import Connection, Reply, command
from exporter.broker.context import Context
from exporter.broker.frames import IncomingFrame, Kind


class NodesChannel:
    """``handlers``: by kind of frame, what is called with the node that sent one, the frame, and how long that took.

    In seconds; 0 where it is not known. A node may have been asleep before it heard it. ``on_open``: what is called
    with each connection on which this node hears the others. ``foreign_nodes``: those of another cluster with the same
    name; what they say in conversations is passed over.
    """

    def __init__(self, context: Context[Any]) -> None:
        self._node, self._clock, self._meters, self._now = context.node, context.clock, context.meters, context.now
        self.name = context.functions.nodes_channel.encode()
        self.handlers: dict[int, Callable[[bytes, IncomingFrame, float], None]] = {}
        self.on_open: Callable[[Connection], object] = ignore
        self.foreign_nodes: Set[bytes] = frozenset()

    def opened(self, connection: Connection) -> None:
        """Listen, before the server counts this node among those who answer."""
        connection.queue(command("SSUBSCRIBE", self.name), 0, ignore)
        self.on_open(connection)

    def publish(
        self,
        connection: Connection,
        kind: Kind,
        seq: int,
        user: str = "",
        data: bytes = b"",
        told: Reply = ignore,
    ) -> None:
        """To all other nodes, at once. ``told`` is called when the server has done it."""
        payload = frames.head(self._node, self._clock.stamp(self._now())) + frames.pack(kind, data, seq, user)
        connection.queue(frames.PUBLISH + frames.addressed(self.name, payload), 1, told)
        connection.flush()
        self._meters.broker_frames_sent.value += 1

    def heard(self, payload: bytes) -> None:
        """Another node's frames; those that nobody here handles are a later release's."""
        published = self._clock.here(frames.published_at(payload))
        late = 0.0 if published is None else self._now() - published
        for frame in frames.unpack(payload) if payload[:1] == b"F" else (None,):
            handler = None if frame is None else self.handlers.get(frame[0])
            if frame is None or handler is None:
                self._meters.broker_frames_dropped.value += 1
            else:
                self._meters.broker_frames_received.value += 1
                handler(frames.publisher(payload), frame, late)
