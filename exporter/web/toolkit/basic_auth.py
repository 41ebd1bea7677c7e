"""Basic auth with bcrypt that costs the server little and tells a stranger nothing. Knows no request and no file.

A check takes a core 50–100 ms, so it happens off the loop, one at a time, and once per password. Users that do
not exist cost the same. Passwords that proved right are remembered apart from those that proved wrong, so that
somebody who guesses cannot push a scraper's password out.

Tested in ``tests/web/test_toolkit.py``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import bcrypt

MAX_PASSWORD: Final = 72  # bytes; bcrypt looks at no more, so a longer one would match its own beginning
MAX_WAITING: Final = 32  # checks in the queue: at 100 ms each, longer waits than 3 s help nobody
MAX_WRONG: Final = 1_000  # wrong pairs remembered, so that a misconfigured scraper costs one check
_HASH: Final = re.compile(rb"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


class Busy(Exception):
    """Too many unknown passwords wait to be checked."""


def is_hash(value: bytes) -> bool:
    """Is this a bcrypt hash?"""
    return _HASH.fullmatch(value) is not None


def credentials(header: str) -> tuple[bytes, bytes] | None:
    """User and password of an ``Authorization: Basic`` header, None when it is no such header."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


class BasicAuth:
    """Checks passwords against bcrypt hashes. Used from one event loop; ``close`` it at the end."""

    def __init__(self, check: Callable[[bytes, bytes], bool] = bcrypt.checkpw) -> None:
        self._check = check
        self._key = secrets.token_bytes(32)  # the memory of this process holds no digest that could be looked up
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")

    async def allows(self, users: Mapping[bytes, bytes], user: bytes, password: bytes) -> bool:
        """Does ``password`` match ``users[user]``? Raises Busy when too many others are being checked."""
        if len(password) > MAX_PASSWORD:
            return False
        known = users.get(user)
        hash = known if known is not None else _stand_in(users)
        pair = self._digest(user, hash, password)
        if pair in self._right:
            return known is not None
        if pair in self._wrong:
            return False
        return await asyncio.shield(self._checked(pair, hash, password, len(users))) and known is not None

    def close(self) -> None:
        """Let go of the thread; what waits is not checked any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _checked(self, pair: bytes, hash: bytes, password: bytes, users: int) -> asyncio.Future[bool]:
        """The one check of this pair that is under way, begun now if there is none."""
        pending = self._pending.get(pair)
        if pending is None:
            if len(self._pending) >= MAX_WAITING:
                raise Busy
            pending = asyncio.ensure_future(self._run(pair, hash, password, users))
            self._pending[pair] = pending
            pending.add_done_callback(lambda _: self._pending.pop(pair, None))
        return pending

    async def _run(self, pair: bytes, hash: bytes, password: bytes, users: int) -> bool:
        right = await asyncio.get_running_loop().run_in_executor(self._thread, self._matches, hash, password)
        memory, limit = (self._right, 2 * users) if right else (self._wrong, MAX_WRONG)
        memory[pair] = None
        while len(memory) > max(limit, 1):
            memory.popitem(last=False)
        return right

    def _matches(self, hash: bytes, password: bytes) -> bool:
        try:
            return self._check(password, hash)
        except ValueError:  # a password that this bcrypt refuses, whatever it is: not the right one
            return False

    def _digest(self, *parts: bytes) -> bytes:
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.digest()


def _stand_in(users: Mapping[bytes, bytes]) -> bytes:
    """A hash that nobody's password has, of the cost that real ones have: so a missing user takes as long."""
    cost = max((hash[4:6] for hash in users.values()), default=b"10")
    return b"$2b$" + cost + b"$" + b"." * 53
