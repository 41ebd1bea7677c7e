"""From a source's settings to a reader and the mapping that fits what is there. Knows readers and presets.

Tested in ``tests/observe/test_real_databases.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from exporter.core.errors import Misconfigured
from exporter.observe import custom, fitting, rights
from exporter.observe.connections import Reader
from exporter.observe.mapping import Mapping
from exporter.observe.presets import Columns, ejabberd, mattermost, not_known, prosody, synapse
from exporter.observe.records import SourceError
from exporter.settings.model import SOURCE_KINDS, SourceSettings

PROBE: Final = 4.0
"""Seconds for a look at what is there."""


RECENT: Final = 5_000
"""Rows of an archive that are asked for their hosts."""


Source = SourceSettings


async def mapping_of(source: Source, reader: Reader) -> Mapping:
    """The mapping for what is there now. Raises Misconfigured, and SourceError when it cannot be looked at now."""
    mapping = await _mapping_of(source, reader)
    if hidden := await rights.hidden(reader, mapping):
        raise Misconfigured(
            f"row security hides rows of {', '.join(hidden)} from this user: a superuser may ALTER ROLE … BYPASSRLS, "
            "or the owner CREATE POLICY … FOR SELECT TO … USING (true)"
        )
    return mapping


async def _mapping_of(source: Source, reader: Reader) -> Mapping:
    there = await reader.columns()
    match source.kind:
        case "synapse":
            version, statistics = await _synapse_version(reader, there), True
            if {"room_stats_current", "events"} <= set(there):
                statistics = await _any(reader, "room_stats_current") or not await _any(reader, "events")
            return synapse.mapping(there, reader.dialect, version, statistics)
        case "ejabberd":
            accounts, hosts = True, source.hosts
            if {"users", "archive"} <= set(there):
                accounts = await _any(reader, "users") or not await _any(reader, "archive")
                if ejabberd.is_new(there):
                    hosts = await _distinct(reader, "archive", "server_host")
                else:
                    hosts = await _hosts(reader, hosts)
            return ejabberd.mapping(there, reader.dialect, hosts, accounts)
        case "prosody":
            accounts, hosts = True, ()
            if {"prosody", "prosodyarchive"} <= set(there):
                accounts = await _any(reader, "prosody WHERE store = 'accounts'") or not await _any(
                    reader, "prosodyarchive"
                )
            if not accounts:
                hosts = await _distinct(reader, "prosodyarchive", "host")
            return prosody.mapping(there, reader.dialect, hosts, accounts)
        case "mattermost":
            return mattermost.mapping(there, reader.dialect)
        case "custom":
            if source.config_file is None:
                raise Misconfigured("a custom source needs its mapping: give its file with --source.config-file")
            return await _custom(custom.Document(source.config_file), reader, there)
    raise Misconfigured(f"there is no such kind of source: use {', '.join(SOURCE_KINDS[:-1])} or {SOURCE_KINDS[-1]}")


async def _custom(document: custom.Document, reader: Reader, there: Columns) -> Mapping:
    """The mapping of somebody's own tables, with what only the database knows of them."""
    document.mapping(there, reader.dialect, custom.DatabaseFacts())  # what is not there needs no look at what it holds
    for name, (filtered, plain) in document.filters().items():
        try:
            await _rows(reader, filtered)
        except SourceError as error:
            if error.slow or await _readable(reader, plain) is None:
                raise
            raise Misconfigured(
                f"{document.path}: the filter under {name} is no SQL condition over the columns of its table"
            ) from None
    facts = custom.DatabaseFacts(frozenset(await rights.indexes(reader)))
    values = {}
    for column, probe in document.probes(facts).items():
        if found := await _readable(reader, probe):
            values[column] = found[0]
            if column == document.messages["key"]:
                facts = replace(facts, days=fitting.are_days(found, document.time["unit"]))
    if (repeated := document.repeated()) and (await _readable(reader, repeated)) not in (None, [0]):
        table, key = document.messages["table"], document.messages["key"]
        facts = replace(facts, numbered_with=frozenset(await rights.unique_with(reader, table, key)))
    return document.mapping(there, reader.dialect, replace(facts, values=values))


async def _any(reader: Reader, table: str) -> bool:
    """Is there a row? Where there is none, a server is as good as new, or keeps such rows elsewhere.

    What may not be read is taken to have rows: the mapping then says which rights are missing.
    """
    return await _readable(reader, f"SELECT 1 FROM {table} LIMIT 1") != []


async def _rows(reader: Reader, sql: str) -> list[object]:
    return [row[0] for row in await reader.read(lambda snapshot: snapshot.fetch(sql), PROBE)]


async def _readable(reader: Reader, sql: str) -> list[object] | None:
    """The rows; None where it may not be read, which ``rights`` tells better than a failure here would."""
    try:
        return await _rows(reader, sql)
    except SourceError as error:
        if error.lasting:
            return None
        raise


async def _distinct(reader: Reader, table: str, column: str) -> tuple[str, ...]:
    """All values of a column that leads an index: from one to the next, without reading the table."""
    found: list[str] = []
    while True:
        after = f" WHERE {column} > {reader.dialect.literal(found[-1])}" if found else ""
        rows = await _readable(reader, f"SELECT MIN({column}) FROM {table}{after}")
        if rows in (None, [None]):
            return tuple(found)
        found += [str(value) for value in rows or ()]


async def _hosts(reader: Reader, given: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts that were told, and those that stanzas tell. Raises Misconfigured where there is neither."""
    rows = await _readable(reader, ejabberd.hosts_query(reader.dialect, RECENT))
    found = [str(host) for host in rows or () if host]
    if not given and not found and rows is not None and await _any(reader, "archive"):
        raise Misconfigured(
            "ejabberd's default schema does not store the host, and the messages do not tell it: give it with "
            "--source.host, as in the addresses USER@HOST (several with commas)"
        )
    return tuple(dict.fromkeys([*given, *sorted(found)]))


async def _synapse_version(reader: Reader, there: Columns) -> str:
    """The schema's version where it may be read. Raises Misconfigured for one that is not known."""
    if not {"schema_version", "schema_compat_version"} <= set(there):
        raise not_known("Synapse", "schema_version", there)
    try:
        version = int(str((await _rows(reader, "SELECT version FROM schema_version"))[0]))
        oldest = int(str((await _rows(reader, "SELECT compat_version FROM schema_compat_version"))[0]))
    except SourceError as error:
        if error.lasting:  # not granted: the columns that are there have to tell
            return "unknown"
        raise
    except IndexError:
        raise Misconfigured(
            "this database of Synapse is empty: start Synapse once, so that it makes its tables"
        ) from None
    if version < synapse.OLDEST or oldest > synapse.NEWEST:
        raise Misconfigured(
            f"this schema of Synapse is not known: version {version}, for programs that know {oldest} or later; "
            f"known are {synapse.OLDEST} to {synapse.NEWEST}"
        )
    return str(version)
