"""From a source's settings to a reader and the mapping that fits what is there. Knows readers and presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exporter.core.errors import Misconfigured
from exporter.observe.connections import Reader
from exporter.observe.mapping import Mapping
from exporter.observe.presets import ejabberd, mattermost, prosody, synapse
from exporter.observe.records import SourceError

KINDS: Final = ("synapse", "ejabberd", "prosody", "mattermost", "custom")
PROBE: Final = 4.0
"""Seconds for a look at what is there."""


@dataclass(frozen=True, slots=True)
class Source:
    """What somebody says of a database. ``url`` may hold a password: never shown."""

    url: str = field(repr=False)
    kind: str
    name: str = ""
    config_file: Path | None = None
    hosts: tuple[str, ...] = ()


async def mapping_of(source: Source, reader: Reader) -> Mapping:
    """The mapping for what is there now. Raises Misconfigured, and SourceError when it cannot be looked at now."""
    there = await reader.columns()
    match source.kind:
        case "synapse":
            return synapse.mapping(there, reader.dialect, await _synapse_version(reader, set(there)))
        case "ejabberd":
            accounts = bool(await _rows(reader, "SELECT 1 FROM users LIMIT 1")) if "users" in there else True
            hosts: Sequence[str] = source.hosts
            if not accounts and not hosts and "server_host" in there.get("archive", set()):
                hosts = await _distinct(reader, "archive", "server_host")
            return ejabberd.mapping(there, reader.dialect, hosts, accounts)
        case "prosody":
            found = True
            hosts = ()
            if "prosody" in there and "prosodyarchive" in there:
                found = bool(await _rows(reader, "SELECT 1 FROM prosody WHERE store = 'accounts' LIMIT 1"))
                hosts = () if found else await _distinct(reader, "prosodyarchive", "host")
            return prosody.mapping(there, reader.dialect, hosts, found)
        case "mattermost":
            return mattermost.mapping(there, reader.dialect)
    raise Misconfigured(f"there is no such kind of source: use {', '.join(KINDS[:-1])} or {KINDS[-1]}")


async def _rows(reader: Reader, sql: str) -> list[object]:
    return [row[0] for row in await reader.read(lambda snapshot: snapshot.fetch(sql), PROBE)]


async def _distinct(reader: Reader, table: str, column: str) -> list[str]:
    """All values of a column that leads an index: from one to the next, without reading the table."""
    found: list[str] = []
    while True:
        after = f" WHERE {column} > {reader.dialect.literal(found[-1])}" if found else ""
        (value,) = await _rows(reader, f"SELECT MIN({column}) FROM {table}{after}")
        if value is None:
            return found
        found.append(str(value))


async def _synapse_version(reader: Reader, tables: set[str]) -> str:
    """The schema's version where it may be read. Raises Misconfigured for one that is not known."""
    if not {"schema_version", "schema_compat_version"} <= tables:
        raise Misconfigured("this is not a database of Synapse that is known: there is no table schema_version")
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
