"""WebSockets by hand: what a well-behaved library would never send. Masked frames, raw handshakes, open sockets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455's own sample


def masked(
    payload: bytes, opcode: int = 1, *, fin: bool = True, rsv: int = 0, mask: bytes = b"\x01\x02\x03\x04"
) -> bytes:
    """A client's frame."""
    size = len(payload)
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    keys = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")


def handshake(token: str, *more: str, path: str = "/v1/messaging/ws") -> bytes:
    """An upgrade request; ``more`` are header lines."""
    lines = (
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        f"Authorization: Bearer {token}",
        *more,
    )
    return "\r\n".join((*lines, "", "")).encode()


class Wire:
    """A TCP connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str, limit: int = 2**16) -> Wire:
        """Connect to ``http://host:port``."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, limit=limit))

    @classmethod
    async def upgraded(cls, url: str, token: str) -> Wire:
        """Connect and upgrade."""
        wire = await cls.open(url)
        wire.writer.write(handshake(token))
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return wire

    async def frame(self) -> tuple[int, bytes]:
        """The server's next frame: opcode and payload. Raises IncompleteReadError or ConnectionError at the end."""
        first, second = await self.reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8), "big")
        return first & 0x0F, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Read on to the close frame: its code; 1006 when the connection ends without one."""
        try:
            while True:
                opcode, payload = await self.frame()
                if opcode == 8:
                    return int.from_bytes(payload[:2], "big") if payload else 1005
        except (asyncio.IncompleteReadError, ConnectionError):
            return 1006

    async def rest(self) -> bytes:
        """Everything until the server closes; a reset ends it, too."""
        parts = []
        try:
            while part := await self.reader.read(65_536):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    """Descriptors that a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))
