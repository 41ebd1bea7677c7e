"""The cheap part of a verification, each minute: is what the revisions made still there, and as it was made?

A partition that was attached lacks triggers, one that was detached keeps them, somebody drops a key: a figure is wrong
from then on, and the whole recount may be a day away. This reads the catalogue only.

Tested in ``tests/store/test_shape.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Final

import structlog

from exporter.core.errors import Misconfigured
from exporter.store import Store
from exporter.store.dialects.base import Session
from exporter.store.errors import DatabaseError
from exporter.store.lanes import Lane
from exporter.store.schema.shape import Difference, listed
from exporter.store.verify import queries

EVERY: Final = 60.0
"""Seconds: some milliseconds of a server's time each."""

log = structlog.get_logger("exporter.store")


async def watch_schema_forever(store: Store, interval: float = EVERY) -> None:
    """Publish how much is not as it was made, and log what, when that changes; until cancelled. Never repairs."""
    logged = ""
    while True:
        await asyncio.sleep(random.uniform(0.9, 1.1) * interval)
        with contextlib.suppress(DatabaseError, Misconfigured):  # the probe and the scrapes tell
            found = listed(await _look(store), 12)
            if found and found != logged:
                log.warning("the database's schema is not as it was made", found=found)
            logged = found


async def _look(store: Store) -> list[Difference]:
    database = store.maintenance()

    async def look(session: Session) -> list[Difference]:
        found = list(await database.dialect.differences(session))
        await queries.why_unkept(queries.keep_schema(session, len(found)))  # the log tells it in any case
        return found

    try:
        return await database.run(Lane.VERIFY, look, EVERY)
    finally:
        await database.close(1.0)
