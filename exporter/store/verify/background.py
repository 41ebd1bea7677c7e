"""Verifying from time to time, beside a server that runs. Knows when it is due, not how it is done.

Tested in ``tests/store/test_verify.py``.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from exporter.core.errors import Misconfigured, Unavailable
from exporter.store import Store
from exporter.store.verify import verify

BACKGROUND_PACE = 9.0
"""In the background it works a tenth of the time."""

log = structlog.get_logger("exporter.store")


async def run_verification_forever(
    store: Store, interval: float, *, pace: float = BACKGROUND_PACE, at_once: bool = False
) -> None:
    """Verify once per interval (seconds), whichever node does it; until cancelled. Never repairs.

    Differences are logged as one warning; the collector's figures tell the rest. ``at_once``: there is reason to.
    """
    hindered = ""
    while True:
        await asyncio.sleep(0 if at_once else await _until_due(store, interval))
        at_once = False
        try:
            report = await verify(store, pace=pace)
        except (Unavailable, Misconfigured) as error:
            if str(error) != hindered:
                hindered = str(error)
                log.warning("verification was not possible", reason=hindered)
            await asyncio.sleep(min(interval, 300.0))
            continue
        found = report.inaccurate_conversations, report.inaccurate_days, report.missing_triggers
        if not report.unkept:
            hindered = ""
            store.findings.tell(*found)
            continue
        if f"{report.unkept} {found}" != hindered:
            hindered = f"{report.unkept} {found}"
            fields = dict(zip(("conversations", "days", "triggers"), found, strict=True))
            log.warning("what a verification found could not be kept", reason=report.unkept, **fields)
        await asyncio.sleep(interval)  # the database does not tell when it is due, and counting costs as much as ever


async def _until_due(store: Store, interval: float) -> float:
    # A little chance, so that the nodes of a cluster do not all begin at once and one finds the other's result.
    wait = random.uniform(0.0, min(interval * 0.1, 600.0))
    try:
        found = (await store.totals(30.0)).verified_at
    except Unavailable:
        return min(interval, 60.0)
    return wait if found is None else max(wait, found + interval - store.now().timestamp())
