"""A connection to the first of a database's hosts that will do. One that says nothing leaves time for those behind it.

Tested in ``tests/store/test_libpq.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

Hosts = Sequence[tuple[str, int]]


async def connect(
    dsn: str, hosts: Hosts, timeout: float, *, each: float | None = None, **options: Any
) -> tuple[Any, Hosts]:
    """Within ``timeout`` seconds, and ``each`` for one host; also the hosts without those that said nothing.

    The driver has one time limit for all of them: a host that is frozen, or whose machine is gone, took all of it, and
    the standby behind it that had been promoted was never asked. Raises what the driver raises.
    """
    until = asyncio.get_running_loop().time() + timeout
    while True:
        if hosts:
            options["host"], options["port"] = map(list, zip(*hosts, strict=True))
        share = (until - asyncio.get_running_loop().time()) / max(1, len(hosts))
        try:
            return await asyncpg.connect(dsn, timeout=min(share, each or share), **options), hosts
        except TimeoutError:
            hosts = hosts[1:]
            if not hosts:
                raise
