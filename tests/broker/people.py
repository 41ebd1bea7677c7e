"""People for the disasters: light WebSocket connections whose every frame is checked against what they were told.

A connection knows what it was promised: from which number on messages come, who takes part, who types. Whatever breaks
a promise is a finding, in words.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

WS = "/v1/messaging/ws"


class Joined:
    """What a connection knows of a conversation that it has joined."""

    def __init__(self, participants: list[str], last_seq: int) -> None:
        self.after = last_seq
        self.latest = last_seq
        self.got: set[int] = set()
        self.participants = set(participants)
        self.typing: set[str] = set()

    def missing(self, through: int) -> list[int]:
        return [seq for seq in range(self.after + 1, through + 1) if seq not in self.got]


class Person(asyncio.Protocol):
    """One connection. ``finding`` is called with each broken promise, ``acknowledged`` with each ack."""

    def __init__(
        self, user: str, finding: Callable[[str], None], acknowledged: Callable[[str, str, int], None], home: int
    ) -> None:
        self.user = user
        self.node = self.home = home
        self._finding, self._acknowledged = finding, acknowledged
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._upgraded = False
        self._marks: dict[str, asyncio.Future[None]] = {}
        self.open = False
        self.connecting = False
        self.joined: dict[str, Joined] = {}
        self.pending: set[str] = set()  # conversations with a join or a leave under way
        self.typing: set[str] = set()
        self.unacknowledged: set[tuple[str, str]] = set()

    # --- connecting -----------------------------------------------------------------------------------------

    async def connect(self, url: str, token: str, node: int) -> bool:
        """Open; False when refused or unreachable."""
        parts = urlsplit(url)
        self.connecting = True
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(60):
                await asyncio.get_running_loop().create_connection(lambda: self, parts.hostname, parts.port)
                key = base64.b64encode(os.urandom(16)).decode()
                request = (
                    f"GET {WS} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                    f"Sec-WebSocket-Protocol: messaging.v1\r\nAuthorization: Bearer {token}\r\n\r\n"
                )
                assert self._transport is not None
                self._transport.write(request.encode())
                self.node = node
                return await self._ready
        except (OSError, TimeoutError):
            self.reset()
            return False
        finally:
            self.connecting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._buffer, self._upgraded = b"", False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()

    def _gone(self) -> None:
        self._transport = None
        self.open = False
        self.joined.clear()
        self.pending.clear()
        self.typing.clear()
        self.unacknowledged.clear()
        if not self._ready.done():
            self._ready.set_result(False)
        for mark in self._marks.values():
            if not mark.done():
                mark.set_result(None)
        self._marks.clear()

    def reset(self) -> None:
        """Die without a word."""
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()
            self._gone()

    def close(self) -> None:
        """Say goodbye."""
        if self._transport is not None:
            self._transport.write(b"\x88\x82\0\0\0\0\x03\xe8")
            transport, self._transport = self._transport, None
            transport.close()
            self._gone()

    # --- out ------------------------------------------------------------------------------------------------

    def send(self, type: str, **fields: Any) -> None:
        payload = json.dumps({"type": type, **fields}).encode()
        head = (
            bytes([0x81, 0x80 | len(payload)]) if len(payload) < 126 else b"\x81\xfe" + len(payload).to_bytes(2, "big")
        )
        if self._transport is not None:
            self._transport.write(head + b"\0\0\0\0" + payload)

    def join(self, conversation: str) -> None:
        self.pending.add(conversation)
        self.send("join", conversation=conversation, id=conversation)

    def leave(self, conversation: str) -> None:
        self.pending.add(conversation)
        self.typing.discard(conversation)
        self.send("leave", conversation=conversation, id=conversation)

    def type(self, conversation: str, active: bool) -> None:
        (self.typing.add if active else self.typing.discard)(conversation)
        self.send("typing", conversation=conversation, active=active)

    def say(self, conversation: str, id: str) -> None:
        self.unacknowledged.add((conversation, id))
        self.send("send", conversation=conversation, body=id, id=id)

    async def barrier(self) -> None:
        """Everything so far has been handled, or the connection is gone."""
        if not self.open:
            return
        mark = os.urandom(6).hex()
        self._marks[mark] = asyncio.get_running_loop().create_future()
        self.send("ping", id=mark)
        await self._marks[mark]

    # --- in -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, mark, rest = self._buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.reset()
                return
            self._upgraded, self._buffer = True, rest
        buffer, position = self._buffer, 0
        while len(buffer) - position >= 2:
            opcode, size, begin = buffer[position] & 15, buffer[position + 1], position + 2
            if size == 126:
                size, begin = int.from_bytes(buffer[position + 2 : position + 4], "big"), position + 4
            elif size == 127:
                size, begin = int.from_bytes(buffer[position + 2 : position + 10], "big"), position + 10
            if len(buffer) < begin + size:
                break
            payload = buffer[begin : begin + size]
            position = begin + size
            if opcode == 1:
                self._frame(json.loads(payload))
            elif opcode == 9 and self._transport is not None:
                self._transport.write(bytes([0x8A, 0x80 | len(payload)]) + b"\0\0\0\0" + payload)
            elif opcode == 8:
                self.close()
                return
        self._buffer = buffer[position:]

    def _frame(self, frame: dict[str, Any]) -> None:
        conversation = frame.get("conversation", "")
        kind = frame["type"]
        if kind == "welcome":
            self.open = True
            self._ready.set_result(True)
        elif kind == "pong":
            mark = self._marks.pop(frame.get("id", ""), None)
            if mark is not None and not mark.done():
                mark.set_result(None)
        elif kind == "joined":
            self.pending.discard(conversation)
            if conversation not in self.joined:
                self.joined[conversation] = Joined(frame["participants"], frame["last_seq"])
        elif kind == "left":
            self.pending.discard(conversation)
            self.joined.pop(conversation, None)
            self.typing.discard(conversation)
        elif kind == "ack":
            self._ack(frame)
        elif kind == "error":
            self._error(frame)
        elif conversation not in self.joined:
            self._finding(f"{self.user} got a {kind} of {conversation}, which is not joined")
        else:
            self._event(kind, frame, self.joined[conversation])

    def _ack(self, frame: dict[str, Any]) -> None:
        conversation = frame["conversation"]
        self.unacknowledged.discard((conversation, frame["id"]))
        self.typing.discard(conversation)  # the message ends it
        self._acknowledged(conversation, frame["id"], frame["seq"])
        joined = self.joined.get(conversation)
        if joined is not None:
            joined.got.add(frame["seq"])

    def _error(self, frame: dict[str, Any]) -> None:
        id = frame.get("id")
        self.pending.discard(str(id))
        sends = {pair for pair in self.unacknowledged if pair[1] == id}
        if frame["code"] == "unavailable" and sends:  # it may be durable all the same: the same id again
            for conversation, mine in sends:
                self.say(conversation, mine)
            return
        self.unacknowledged -= sends
        if frame["code"] not in ("not_joined", "rate_limited", "unavailable"):
            self._finding(f"{self.user}: {frame}")

    def _event(self, kind: str, frame: dict[str, Any], joined: Joined) -> None:
        where = f"{self.user} in {frame['conversation']} on node {self.node}"
        user = frame.get("user", "")
        if kind == "message":
            seq = frame["seq"]
            if seq in joined.got:
                self._finding(f"{where}: message {seq} twice")
            elif seq <= joined.latest:
                self._finding(f"{where}: message {seq} after {joined.latest}")
            joined.got.add(seq)
            joined.latest = max(joined.latest, seq)
        elif kind == "participant_joined":
            if user in joined.participants:
                self._finding(f"{where}: {user} joined, twice")
            joined.participants.add(user)
        elif kind == "participant_left":
            if user not in joined.participants:
                self._finding(f"{where}: {user} left, twice")
            joined.participants.discard(user)
            joined.typing.discard(user)
        elif kind == "typing":
            if frame["active"] and user in joined.typing:
                self._finding(f"{where}: {user} types, twice")
            (joined.typing.add if frame["active"] else joined.typing.discard)(user)
