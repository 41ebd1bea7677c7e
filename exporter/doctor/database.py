"""The database: is it there, is it ours, may we, does it answer in time, and what time is it there?

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

from exporter.core.errors import Misconfigured, Unavailable
from exporter.doctor.findings import Finding, Outcome
from exporter.doctor.machine import clock
from exporter.doctor.reaching import unreached
from exporter.settings.model import Settings
from exporter.store import errors
from exporter.store.clusters import BY_A_BROKER
from exporter.store.diagnosis import Diagnosis, diagnose
from exporter.store.dialects.base import Clusters
from exporter.store.dialects.libpq import target
from exporter.store.errors import DatabaseError
from exporter.store.location import PostgresLocation, dialect_of, locate

ADVICE = {
    errors.UNREACHABLE: "check host and port of --database.url, and PostgreSQL's listen_addresses",
    errors.PASSWORD: "a password comes from MESSAGING_DATABASE_URL, PGPASSWORD or ~/.pgpass",
    errors.NO_DATABASE: "createdb makes it, or name another in --database.url",
    errors.NO_TLS: "have the server speak TLS (ssl = on), or say sslmode=prefer",
}
"""What to do, where the words of the store do not say it."""
GRANT = "whoever owns the tables gives them: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA … TO …"
SEPARATE = "several servers use it that do not hear each other, or would not hear one that is started like this"
SEPARATE_ADVICE = "give each a database or --database.schema of its own, or all of them the same --redis.url"
SLOW = 0.1
"""Seconds of a round trip that every send waits for at least."""


async def examine(settings: Settings) -> list[Finding]:
    """Reaching it, its schema and rights, its clock."""
    url = settings.effective_database_url
    made_at_start = not settings.database_url and settings.database_migrate
    try:
        if made_at_start and not (settings.data_dir / "messaging.db").exists():
            dialect_of(url, settings.database_schema)  # refuses what is for PostgreSQL
            return [Finding("database", Outcome.OK, "SQLite in the data folder: the first start makes it")]
        found = await diagnose(url, settings.database_timeout, settings.database_schema)
    except (Misconfigured, Unavailable) as error:
        failure = error.__cause__
        text = failure.text if isinstance(failure, DatabaseError) else ""
        if text == errors.NO_FILE_YET and settings.database_migrate:
            return [Finding("database", Outcome.OK, "is not there yet: the first start makes it")]
        return [await _unreached(url, text, str(error))]
    findings = [_reached(found)]
    if found.problem is None:
        findings.append(Finding("schema, rights", Outcome.OK, f"revision {found.revision}, may read and write"))
    elif found.behind and settings.database_migrate:
        findings.append(Finding("schema, rights", Outcome.OK, f"{found.problem}; the next start does it"))
    else:
        advice = GRANT if "INSERT on " in found.problem else ""
        findings.append(Finding("schema, rights", Outcome.FAILED, found.problem, advice))
    if found.clock is not None:
        findings.append(clock("the database", found.clock))
    if separate(found.clusters, broker=bool(settings.redis_url)):
        findings.append(Finding("servers", Outcome.WARNING, SEPARATE, SEPARATE_ADVICE))
    return findings


def separate(clusters: Clusters, *, broker: bool) -> bool:
    """Are there servers that do not hear each other, or would not hear one with these settings?

    One without a broker may be the very server whose settings these are.
    """
    alone = len(clusters.keys() - {BY_A_BROKER})
    return alone > 0 if broker else BY_A_BROKER in clusters or alone > 1


async def _unreached(url: str, text: str, told: str) -> Finding:
    """What a start would say, and where it was tried or what to do; ``text`` is the store's own for it."""
    if text in (errors.UNREACHABLE, errors.TIMEOUT):
        place = locate(url)
        addresses = target(place.dsn).addresses if isinstance(place, PostgresLocation) else ()
        if where := await unreached(addresses):
            return Finding("database", Outcome.FAILED, f"{text}: {where}", ADVICE[errors.UNREACHABLE])
    return Finding("database", Outcome.FAILED, told, ADVICE.get(text, ""))


def _reached(found: Diagnosis) -> Finding:
    text = f"{found.engine} answers in {1000 * found.seconds:.1f} ms"
    if found.seconds > SLOW:
        return Finding("database", Outcome.WARNING, text, "every send waits for at least one such round trip")
    return Finding("database", Outcome.OK, text)
