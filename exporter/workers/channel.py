"""The line between the supervisor and a worker: one JSON object per line, both ways, over a pair of sockets.

The two may be of different releases, when the package was upgraded and a worker started again: unknown words are passed
over. The end of the line is the end of the other side.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final, cast

LIMIT: Final = 1 << 20
"""Bytes that may wait for a side that does not read: it is frozen, and needs none of it but the last."""

ChannelMessage = dict[str, Any]


class Channel(asyncio.Protocol):
    """One end. ``on_message`` is called with each object, ``on_end`` once when the other side is gone."""

    def __init__(self, on_message: Callable[[ChannelMessage], None], on_end: Callable[[], None]) -> None:
        self._on_message, self._on_end = on_message, on_end
        self._transport: asyncio.Transport | None = None
        self._unread = b""

    @classmethod
    async def open(
        cls, end: socket.socket, on_message: Callable[[ChannelMessage], None], on_end: Callable[[], None]
    ) -> Channel:
        """Begin to read and write."""
        end.setblocking(False)
        loop = asyncio.get_running_loop()
        channel = cls(on_message, on_end)
        await loop.create_connection(lambda: channel, sock=end)
        return channel

    def send(self, **message: Any) -> None:
        """Send an object, unless the other side is gone or has long stopped to read."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.get_write_buffer_size() < LIMIT:
            transport.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: open."""
        self._transport = cast(asyncio.Transport, transport)  # of a stream socket, by whichever loop

    def data_received(self, data: bytes) -> None:
        """asyncio: read."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._on_message(json.loads(line))

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: the other side is gone."""
        self._on_end()
