"""The database: is it there, is it ours, may we, does it answer in time, and what time is it there?

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

from exporter.core.errors import Misconfigured, Unavailable
from exporter.doctor.findings import Finding, Outcome
from exporter.doctor.machine import clock
from exporter.settings.model import Settings
from exporter.store import errors
from exporter.store.diagnosis import Diagnosis, diagnose

SLOW = 0.1
"""Seconds of a round trip that every send waits for at least."""


async def examine(settings: Settings) -> list[Finding]:
    """Reaching it, its schema and rights, its clock."""
    if not settings.database_url and not (settings.data_dir / "messaging.db").exists():
        return [Finding("database", Outcome.OK, "SQLite in the data folder: the first start makes it")]
    try:
        found = await diagnose(settings.effective_database_url, settings.database_timeout, settings.database_schema)
    except (Misconfigured, Unavailable) as error:
        text = error.message if isinstance(error, Unavailable) else str(error)
        if text == errors.NO_FILE_YET and settings.database_migrate:
            return [Finding("database", Outcome.OK, "is not there yet: the first start makes it")]
        return [Finding("database", Outcome.FAILED, text)]
    findings = [_reached(found)]
    if found.problem is None:
        findings.append(Finding("schema, rights", Outcome.OK, f"revision {found.revision}, may read and write"))
    elif found.behind and settings.database_migrate:
        findings.append(Finding("schema, rights", Outcome.OK, f"{found.problem}; the next start does it"))
    else:
        findings.append(Finding("schema, rights", Outcome.FAILED, found.problem))
    if found.clock is not None:
        findings.append(clock("the database", found.clock))
    return findings


def _reached(found: Diagnosis) -> Finding:
    text = f"{found.engine} answers in {1000 * found.seconds:.1f} ms"
    if found.seconds > SLOW:
        return Finding("database", Outcome.WARNING, text, "every send waits for at least one such round trip")
    return Finding("database", Outcome.OK, text)
