"""Stand-ins for the unit tests of the core: a store that answers on command, a transport that remembers, a clock.

Whatever has a real counterpart is tried with it too: the store in test_store.py, the sockets in tests/integration.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from exporter.core.errors import Refusal
from exporter.core.records import Conversation, Draft, Membership, Message, PoolStats, ReadMark
from exporter.core.websocket_frames import TEXT

SENT_AT = datetime(2026, 11, 22, 13, 0, 0, tzinfo=UTC)


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Transport:
    """Remembers what was written; ``room`` is how many bytes the peer takes before they stay in the buffer."""

    def __init__(self, room: float = float("inf")) -> None:
        self.writes: list[bytes] = []
        self.buffered = 0
        self.room = room
        self.failure: Exception | None = None

    def write(self, data: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.writes.append(data)
        self.buffered += int(max(0, len(data) - self.room))
        self.room = max(0, self.room - len(data))

    def get_write_buffer_size(self) -> int:
        return self.buffered


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length_bytes: int | None = None,
    mask: bytes = b"\xa1\xb2\xc3\xd4",
) -> bytes:
    """A frame as a client sends it, or as it must not."""
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65_536 else 8
    code = {0: size, 2: 126, 8: 127}[length_bytes]
    extended = size.to_bytes(length_bytes, "big") if length_bytes else b""
    head = bytes((fin << 7 | reserved << 4 | opcode, masked << 7 | code)) + extended
    if not masked:
        return head + payload
    keys = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")


def server_frames(data: bytes) -> list[tuple[int, bytes]]:
    """The unmasked frames in what a server wrote, as (opcode, payload)."""
    frames, at = [], 0
    while at < len(data):
        size, head = data[at + 1], at + 2
        if size == 126:
            size, head = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif size == 127:
            size, head = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        assert len(data) >= head + size, "the server wrote half a frame"
        frames.append((data[at] & 0x0F, data[head : head + size]))
        at = head + size
    return frames


def texts(data: bytes) -> list[dict[str, Any]]:
    """The JSON of the text frames in what a server wrote."""
    return [json.loads(payload) for opcode, payload in server_frames(data) if opcode == TEXT]


class FakeStore:
    """Answers when the test says so. ``sends`` and ``reads`` hold what waits for ``done``."""

    def __init__(self) -> None:
        self.sends: list[tuple[Draft, Callable[[Message | Refusal, bool], None]]] = []
        self.reads: list[tuple[tuple[str, str, int], Callable[[ReadMark | Refusal], None]]] = []
        self.asked: list[tuple[tuple[str, ...], asyncio.Future[Any]]] = []
        self.refusal: Exception | None = None
        self.last_seq = 0

    # --- what the test says -------------------------------------------------------------------------------

    def answer(self, outcome: object, number: int = 0) -> None:
        """Answer the longest waiting question."""
        _, future = self.asked.pop(number)
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def commit(self, number: int = 0, *, duplicate: bool = False, seq: int | None = None) -> Message:
        """The longest waiting message is durable."""
        draft, done = self.sends.pop(number)
        self.last_seq = self.last_seq + 1 if seq is None else seq
        message = self.message(draft, self.last_seq)
        done(message, duplicate)
        return message

    def refuse(self, refusal: Refusal) -> Draft:
        """The longest waiting message is not stored, as far as is known."""
        draft, done = self.sends.pop(0)
        done(refusal, False)
        return draft

    @staticmethod
    def message(draft: Draft, seq: int) -> Message:
        return Message(draft.conversation, seq, draft.sender, draft.id, draft.body, SENT_AT)

    # --- the store ----------------------------------------------------------------------------------------

    def send(self, draft: Draft, done: Callable[[Message | Refusal, bool], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.sends.append((draft, done))

    def mark_read(self, user: str, conversation: str, seq: int, done: Callable[[ReadMark | Refusal], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.reads.append(((user, conversation, seq), done))

    async def _ask(self, *question: str) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.append((question, future))
        return await future

    def membership(self, conversation: str, user: str) -> asyncio.Future[Membership]:
        future: asyncio.Future[Membership] = asyncio.get_running_loop().create_future()
        self.asked.append((("membership", conversation, user), future))
        return future

    async def remove_participant(self, conversation: str, by: str, user: str) -> None:
        await self._ask("remove", conversation, by, user)

    async def delete_message(self, conversation: str, seq: int, by: str, admin: bool) -> None:
        await self._ask("delete", conversation, str(seq), by)

    async def create_conversation(self, id: str | None, creator: str, participants: Sequence[str]) -> Conversation:
        return await self._ask("create", id or "", creator)

    async def add_participants(self, conversation: str, by: str, users: Sequence[str]) -> Conversation:
        return await self._ask("add", conversation, by)

    async def register(self, user: str) -> bool:
        return True

    write_error: str | None = None

    def pool(self) -> PoolStats:
        return PoolStats()


async def turns(count: int = 5) -> None:
    """Let whatever is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
