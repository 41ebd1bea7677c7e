"""The limit for one write per receiver on an event loop in Python: ready-made bytes, no parsing, no state.

Whatever arrives is counted in frames by its lengths; each frame makes every other connection's transport be
written the same bytes once. No server on uvloop that writes per receiver can be cheaper. With a broker's URL as the
second argument frames are published, too, and those of other processes make every transport be written to.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

import uvloop

SIZE = 120
READY = bytes([0x81, SIZE]) + b'{"type":"typing"'.ljust(SIZE, b" ")
NODE = secrets.token_hex(8).encode()
PUBLISH = b"*3\r\n$8\r\nSPUBLISH\r\n$4\r\nroom\r\n$%d\r\n%b%b\r\n" % (len(NODE + READY), NODE, READY)
connections: dict[int, Connection] = {}


class Broker(asyncio.Protocol):
    """RESP3. What is published comes to whoever is subscribed, also to whoever has published it."""

    rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's is no subclass
        Connection.publish = transport.write
        transport.write(b"HELLO 3\r\nSSUBSCRIBE room\r\n")

    def data_received(self, data: bytes) -> None:
        lines, _, self.rest = (self.rest + data).rpartition(b"\r\n")
        for _ in range(lines.count(READY) - lines.count(NODE)):
            for connection in connections.values():
                connection.transport.write(READY)


class Connection(asyncio.Protocol):
    upgraded = False
    others: list[Callable[[bytes], object]] | None = None
    publish: Callable[[bytes], object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport

    def data_received(self, data: bytes) -> None:
        if not self.upgraded:
            key = next(
                x.split(b":", 1)[1].strip() for x in data.split(b"\r\n") if x.lower().startswith(b"sec-websocket-key")
            )
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324  # RFC 6455
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x81\x06joined"
            )
            self.upgraded = True
            connections[id(self)] = self
            for connection in connections.values():
                connection.others = None
            return
        if self.others is None:
            self.others = [other.transport.write for other in connections.values() if other is not self]
        at = frames = 0
        while at < len(data):
            length = data[at + 1] & 127
            at += length + 6 if length < 126 else int.from_bytes(data[at + 2 : at + 4]) + 8
            frames += 1
            for write in self.others:
                write(READY)
        if self.publish is not None:
            self.publish(PUBLISH * frames)

    def connection_lost(self, error: Exception | None) -> None:
        connections.pop(id(self), None)
        for connection in connections.values():
            connection.others = None


async def main(port: int, broker: str = "") -> None:
    if broker:
        where = urlsplit(broker)
        await asyncio.get_running_loop().create_connection(Broker, where.hostname, where.port)
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
