"""Servers that work with one database and do not hear each other: people on one are not sent what is said on another.

Servers of one cluster hear each other by their broker; one without a broker is a cluster by itself. Each connection of
a server's pool says which cluster it belongs to, by a lock on PostgreSQL that ends with the session, so nothing is left
of a server that was killed. Whoever starts looks once, and the log tells. With an embedded database the lock is on a
file beside it, and ``exporter.cli.process`` looks.

Tested in ``tests/store/test_clusters.py``.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from exporter.core.errors import Unavailable
from exporter.store import Store
from exporter.store.dialects.base import LIVELY

BY_A_BROKER: Final = 0
"""Who has a broker of the user's is taken to hear all others that have one: how it is reached may differ."""
AGAIN: Final = 60.0
"""Seconds until it is tried again where it could not be looked."""

log = structlog.get_logger("exporter.store")


def cluster_of(broker: str | None) -> int:
    """Of a server with this ``--redis.url``; without one nobody else is in it."""
    return BY_A_BROKER if broker else random.randrange(BY_A_BROKER + 1, 2**31)


async def warn_of_others(store: Store, cluster: int, drain: float) -> None:
    """Is a server of another cluster at work when this one's predecessor has gone? Logs one warning, at most.

    ``drain``: seconds that a predecessor may take to say goodbye to people.
    """
    await asyncio.sleep(drain + LIVELY)
    while True:
        try:
            found = await store.clusters()
            break
        except Unavailable:
            await asyncio.sleep(AGAIN)
    found.pop(cluster, None)
    if found:
        log.warning(
            "another server uses the same data, and people on one do not hear those on the other: give this one a "
            "database or --database.schema of its own, or both --redis.url",
            others=sorted(set().union(*found.values())),
        )
