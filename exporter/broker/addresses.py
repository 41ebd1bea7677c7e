"""From a host's name to an open socket. Knows nothing of what is said on it.

A question for a name that is given up goes on in a thread, and there are few of those: where no name server answers,
each takes ten seconds and more, and everybody else's names, such as the database's, would wait behind them.

Tested in ``tests/broker/test_addresses.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from functools import partial
from typing import Any, Final

from aiohappyeyeballs import start_connection

DELAY: Final = 0.25
"""Seconds that one address may be silent until the next one is tried beside it."""

Found = list[tuple[Any, ...]]

_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


class Addresses:
    """Of names; each is asked for by one question at a time, whoever gives it up meanwhile."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int], asyncio.Task[Found]] = {}

    async def of(self, host: str, port: int) -> Found:
        """As ``getaddrinfo`` answers. Raises OSError."""
        with contextlib.suppress(socket.gaierror):  # an address needs no thread, which names may have taken
            return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        name = host, port
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = asyncio.create_task(_found(host, port))
            asked.add_done_callback(partial(self._answered, name))
        await asyncio.wait({asked})
        return asked.result()

    def _answered(self, name: tuple[str, int], asked: asyncio.Task[Found]) -> None:
        del self._asked[name]
        if not asked.cancelled():
            asked.exception()  # perhaps nobody waits for it any more

    async def connected(self, host: str, port: int) -> socket.socket:
        """A socket that is connected to one of a host's addresses. Raises OSError."""
        found = await self.of(host, port)
        try:
            return await start_connection(found, happy_eyeballs_delay=DELAY)
        except OSError as error:
            # Without the addresses, which have a name. Where they fail in several ways, only the text has the numbers.
            numbers = [error.errno] if error.errno else [int(number) for number in _ERRNO.findall(str(error))]
            if not numbers:
                raise
            reasons = dict.fromkeys(map(os.strerror, numbers))
            raise OSError(numbers[0], ", ".join(reasons)) from None


async def _found(host: str, port: int) -> Found:
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))
