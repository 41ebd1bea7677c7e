"""The HTTP routes a simulation uses: make conversations, catch up. Knows the contract's shapes, no WebSocket.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import aiohttp
import msgspec
from yarl import URL

from exporter.core.errors import Misconfigured

T = TypeVar("T")
PAGE = 1000
AT_ONCE = 1000  # participants in one request


class StoredMessage(msgspec.Struct):
    """A message as the catch-up route gives it back."""

    seq: int
    id: str
    sender: str
    body: str


class Page(msgspec.Struct):
    """One answer of the catch-up route."""

    messages: list[StoredMessage]
    last_seq: int


class Room(msgspec.Struct):
    """A conversation as its members see it."""

    id: str
    last_seq: int
    participants: list[str]


class Rooms(msgspec.Struct):
    """What a user is a member of."""

    conversations: list[Room]


class Refused(Exception):
    """The server answered with a status that was not expected."""

    def __init__(self, status: int, path: str) -> None:
        super().__init__(f"the server answered {status} to {path}")
        self.status = status


_page = msgspec.json.Decoder(Page).decode
_rooms = msgspec.json.Decoder(Rooms).decode
_PASSING = (502, 503, 504)
FAILURES = (Refused, aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError)
"""What a question may end with instead of an answer."""


class Api:
    """The routes of a server, or of one node of several after another: who does not answer is not asked next.

    Raises Refused, aiohttp.ClientError, OSError, TimeoutError. ``timeout`` is what one answer may take, in seconds.
    """

    def __init__(self, http: aiohttp.ClientSession, bases: Sequence[URL], token_for: Callable[[str], str]) -> None:
        self.timeout = 30.0
        self._http = http
        self._bases = deque(bases)
        self.asked = bases[0]
        """Who was asked last."""
        self._token_for = token_for
        self._gate = asyncio.Semaphore(8)

    async def make(self, id: str, members: Sequence[str]) -> int:
        """The conversation is there, with these members. Returns its last seq."""
        body = {"id": id, "participants": members[:AT_ONCE]}
        status, _ = await self._call("POST", members[0], "conversations", body, (201, 409))
        if status == 409:
            return await self._found(id, members)
        await self._add(id, members[0], members[AT_ONCE:])
        return 0

    async def _add(self, id: str, member: str, others: Sequence[str]) -> None:
        path = f"conversations/{id}/participants"
        for start in range(0, len(others), AT_ONCE):
            await self._call("POST", member, path, {"participants": others[start : start + AT_ONCE]}, (201,))

    async def _found(self, id: str, members: Sequence[str]) -> int:
        room, after = None, None
        while room is None:
            query = {"limit": "1000", **({} if after is None else {"after": after})}
            _, answer = await self._call("GET", members[0], "conversations", None, (200,), query)
            rooms = _rooms(answer).conversations
            if not rooms:
                break
            room, after = next((room for room in rooms if room.id == id), None), rooms[-1].id
        if room is None:
            raise Misconfigured(f"the conversation {id} exists and belongs to somebody else: choose another --seed")
        await self._add(id, members[0], sorted(set(members) - set(room.participants)))
        return room.last_seq

    async def messages(self, id: str, member: str, after: int, limit: int = PAGE) -> Page:
        """Catch-up: what came after ``after``, at most ``limit``."""
        path = f"conversations/{id}/messages"
        _, answer = await self._call("GET", member, path, None, (200,), {"after": str(after), "limit": str(limit)})
        return _page(answer)

    async def _call(
        self,
        method: str,
        user: str,
        path: str,
        body: object,
        expected: tuple[int, ...],
        query: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        self.asked = self._bases[0]
        url = self.asked / "v1/messaging" / path
        headers = {"Authorization": f"Bearer {self._token_for(user)}"}
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        try:
            async with (
                self._gate,
                self._http.request(method, url, json=body, params=query, headers=headers, timeout=timeout) as response,
            ):
                answer = await response.read()
                if response.status not in expected:
                    raise Refused(response.status, f"{method} /v1/messaging/{path}")
                return response.status, answer
        except FAILURES as error:
            if passing(error):
                self._bases.rotate(-1)
            raise


def passing(error: Exception) -> bool:
    """Is it worth trying again?"""
    return not isinstance(error, Refused) or error.status in _PASSING


async def persist(attempt: Callable[[], Awaitable[T]], deadline: float, clock: Callable[[], float]) -> T:
    """Tries until it works or the deadline has passed or trying again is no use; then raises the latest error."""
    delay = 0.1
    while True:
        try:
            return await attempt()
        except FAILURES as error:
            if clock() + delay > deadline or not passing(error):
                raise
        await asyncio.sleep(delay)
        delay = min(2 * delay, 1.0)
