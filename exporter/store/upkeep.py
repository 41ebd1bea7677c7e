"""What is done from time to time, whoever asks: looking whether the database takes writes, and tidying.

Tested in ``tests/store/test_writing.py`` and ``tests/store/test_store.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from datetime import datetime

from exporter.store import totals
from exporter.store.connections import Database
from exporter.store.dialects.base import Dialect
from exporter.store.errors import DatabaseError
from exporter.store.lanes import Lane

TIDY_INTERVAL = 3600.0
"""Seconds, on average, until the shards of past days are put together again: sixteen rows a day at most."""
PROBE_EVERY = 5.0
"""Seconds between questions whether the database takes writes, while it does and nobody writes."""
PROBE_AGAIN = 1.0
"""Seconds between questions while it does not."""


async def watch_writing(database: Database, dialect: Dialect, timeout: float) -> None:
    """Ask every few seconds whether the database takes writes, unless something was just written; until cancelled.

    ``timeout``: seconds, of one question.
    """
    pause = PROBE_AGAIN
    while True:
        await asyncio.sleep(pause)
        pause = PROBE_EVERY - (time.monotonic() - database.wrote_at)
        if database.doubtful or pause < 0.001:  # by so little a loop's timer may come early
            await probe(database, dialect, timeout)
            pause = PROBE_AGAIN


async def probe(database: Database, dialect: Dialect, timeout: float) -> None:
    """Ask once; what the answer is, the database remembers."""
    with contextlib.suppress(DatabaseError):
        await database.run(
            Lane.PROBE,
            lambda session: dialect.check_writing(session, doubtful=database.doubtful),
            min(timeout, PROBE_EVERY),
        )


async def tidy(database: Database, dialect: Dialect, clock: Callable[[], datetime]) -> None:
    """Put the shards of past days together, about every ``TIDY_INTERVAL``; until cancelled."""
    while True:
        await asyncio.sleep(random.uniform(0.5, 1.5) * TIDY_INTERVAL)  # the nodes of a cluster not all at once
        with contextlib.suppress(DatabaseError):
            await database.run(Lane.READ, lambda session: totals.tidy(session, dialect, clock()))
