"""One WebSocket connection of the simulation. Knows frames as bytes, not what they mean.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import aiohttp
from aiohttp import WSMsgType
from yarl import URL

from exporter.core.protocol import SUBPROTOCOL

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], object]

HEARTBEAT = 20.0  # seconds; a server that is gone without a word is noticed after one and a half
CLOSE_TIMEOUT = 3.0
_LINGER_0 = struct.pack("ii", 1, 0)


class ClientConnection:
    """A connection that writes without waiting: frames leave in order, by one task that lives while there are any.

    ``heard_at`` is when a frame was read last; ``asked_at`` and ``stands_still`` are ``people.standstill``'s.
    """

    def __init__(self, ws: aiohttp.ClientWebSocketResponse[bool], url: URL, number: int, spawn: Spawn) -> None:
        self.number = number
        self.url = url
        self._ws = ws
        self._spawn = spawn
        self._queue: deque[bytes] = deque()
        self._writing = False
        self.heard_at = time.monotonic()
        self.asked_at = 0.0
        self.stands_still = False

    @classmethod
    async def open(
        cls, http: aiohttp.ClientSession, url: URL, token: str, number: int, spawn: Spawn
    ) -> ClientConnection:
        """Connects; raises what aiohttp raises: ClientError (with a status where there was an answer), OSError."""
        ws = await http.ws_connect(
            url,
            headers={"Authorization": f"Bearer {token}"},
            protocols=(SUBPROTOCOL,),
            heartbeat=HEARTBEAT,
            max_msg_size=0,
            decode_text=False,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
        )
        return cls(ws, url, number, spawn)

    @property
    def close_code(self) -> int | None:
        """The code the connection was closed with; 1006 when it broke off."""
        return self._ws.close_code

    def put(self, frame: bytes) -> None:
        """Send this after what was put before; lost without a word when the connection is."""
        self._queue.append(frame)
        if not self._writing:
            self._writing = True
            self._spawn(self._write())

    async def _write(self) -> None:
        try:
            while self._queue:
                await self._ws.send_frame(self._queue.popleft(), WSMsgType.TEXT)
        except (aiohttp.ClientError, OSError):
            self._queue.clear()  # the reading side notices and tells
        finally:
            self._writing = False

    async def frames(self) -> AsyncIterator[bytes]:
        """Text frames until the connection is over. Not asking for the next one is not reading."""
        while True:
            message = await self._ws.receive()
            if message.type is not WSMsgType.TEXT:
                return
            self.heard_at = time.monotonic()
            yield message.data

    async def close(self) -> None:
        """Closes politely; the reading side ends."""
        try:
            await self._ws.close()
        except (aiohttp.ClientError, OSError):
            return

    async def drop(self) -> None:
        """Lets go of the connection without waiting for anybody; nothing to do when it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0):  # aiohttp frees the connection when its closing is interrupted
                await self.close()

    def reset(self) -> None:
        """The phone is in a tunnel: what was received is read, then the peer gets a TCP reset and no close frame.

        Shutting the reading side is invisible to the peer; the transport then sees an end and closes the
        socket, which without lingering is a reset. There is no public way to the transport's ``abort``.
        """
        transport_socket = self._ws.get_extra_info("socket")
        if transport_socket is None or transport_socket.fileno() < 0:
            return
        with socket.socket(fileno=os.dup(transport_socket.fileno())) as same:
            try:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                same.shutdown(socket.SHUT_RD)
            except OSError:
                return  # it was gone already
