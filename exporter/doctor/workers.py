"""Several workers: what they need beside what one process needs, and whether the database has room for them all."""

from __future__ import annotations

import os

from exporter.core.errors import Misconfigured, Unavailable
from exporter.doctor.configuration import listen
from exporter.doctor.findings import Finding, Outcome
from exporter.settings.model import Settings
from exporter.store.diagnosis import diagnose
from exporter.store.lanes import WIDTH
from exporter.web.sockets import METRICS_LISTEN
from exporter.workers import plan

CONNECTIONS = sum(WIDTH.values())
"""To the database, of a worker at most."""


async def examine(settings: Settings) -> list[Finding]:
    """Nothing with one process: ``--workers 1`` is the server itself."""
    if settings.workers == 1:
        return []
    try:
        plan.check(settings)
        own = plan.own_addresses(settings, settings.listen[0].port or None) if settings.listen[0].port else []
    except Misconfigured as error:
        return [Finding("workers", Outcome.FAILED, str(error))]
    findings = [_cores(settings.workers)]
    if not settings.metrics_listen:  # those that were given have been tried with the other addresses: the first ones
        findings += [listen(address, METRICS_LISTEN) for some in own for address in some]
    else:
        findings += [listen(address, METRICS_LISTEN) for some in own[1:] for address in some]
    return [*findings, *await _room(settings)]


def _cores(workers: int) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{workers} on {cores} cores"
    if workers > cores:
        return Finding("workers", Outcome.WARNING, text, "more workers than cores cost memory and gain nothing")
    return Finding("workers", Outcome.OK, text)


async def _room(settings: Settings) -> list[Finding]:
    try:
        found = await diagnose(settings.effective_database_url, settings.database_timeout, settings.database_schema)
    except (Misconfigured, Unavailable):
        return []  # said where the database is examined
    if found.max_connections is None:
        return []
    needed = (settings.workers + 1) * CONNECTIONS  # one more while they are replaced
    text = f"{found.max_connections} for all its users, {needed} needed at most"
    if needed > found.max_connections:
        advice = "raise max_connections, take fewer workers, or put pgbouncer in between"
        return [Finding("db connections", Outcome.WARNING, text, advice)]
    return [Finding("db connections", Outcome.OK, text)]
