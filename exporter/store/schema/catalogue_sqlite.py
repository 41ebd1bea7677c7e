"""What SQLite's own tables say is there, held against what this program made. Changes nothing.

Tested in ``tests/store/test_shape.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from exporter.store.dialects.base import Session
from exporter.store.schema import triggers_sqlite
from exporter.store.schema.shape import TABLES, Difference, FoundColumn, differing_columns, unknown_columns

_OBJECTS = "SELECT name, type FROM sqlite_master WHERE name IN (SELECT value FROM json_each($1)) ORDER BY 1"
_COLUMNS = """
SELECT m.name, c.name, upper(c.type), c.dflt_value IS NOT NULL, c."notnull" OR c.pk > 0, c.pk
FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c
WHERE m.type = 'table' AND m.name IN (SELECT value FROM json_each($1))
"""
_INDEXES = """
SELECT m.name, i.name, i."unique", c.name
FROM sqlite_master AS m JOIN pragma_index_list(m.name) AS i JOIN pragma_index_info(i.name) AS c
WHERE m.type = 'table' AND m.name IN (SELECT value FROM json_each($1)) AND NOT i.partial ORDER BY 1, 2, c.seqno
"""
_AFFINITIES = (("INT", "integer"), ("CHAR", "text"), ("CLOB", "text"), ("TEXT", "text"), ("REAL", "real"))
_STORED_AS = {"time": "text", "day": "text"}


async def named(session: Session, names: Sequence[str]) -> list[str]:
    """What has one of these names, whatever it is: "users", "messages (a view)"."""
    rows = await session.fetch(_OBJECTS, json.dumps(list(names)))
    articles = {"view": "a view", "index": "an index", "trigger": "a trigger"}
    # A trigger is in nobody's way: its names are a space of their own.
    return [f"{name} ({articles[kind]})" if kind in articles else name for name, kind in rows if kind != "trigger"]


async def differences(session: Session, revision: str | None = None) -> list[Difference]:
    """All of them, what others need first. ``revision``: the tables and columns of that one only."""
    names = [name for name, table in TABLES.items() if revision is None or table.since <= revision]
    asked = json.dumps(names)
    kinds = {name: kind for name, kind in await session.fetch(_OBJECTS, asked) if kind in ("table", "view")}
    found = [
        Difference(f"table {name}", "is a view" if name in kinds else "missing", needed=True)
        for name in names
        if kinds.get(name) != "table"
    ]
    tables: dict[str, dict[str, FoundColumn]] = {name: {} for name in names}
    keys: dict[str, dict[int, str]] = {name: {} for name in names}
    for table, name, type, default, required, place in await session.fetch(_COLUMNS, asked):
        tables[table][name] = FoundColumn(_kind(table, name, type), type.lower(), bool(default), bool(required))
        if place:
            keys[table][place] = name
    there = [name for name in names if tables[name]]
    for table in there:
        found += unknown_columns(table, tables[table]) if revision is None else ()
        found += [difference for _, _, difference in differing_columns(table, tables[table], revision)]
    if revision is not None or len(there) < len(names):
        return found  # without its table nothing else can be made
    return [*found, *await _indexes(session, asked, keys), *await _triggers(session)]


def _kind(table: str, name: str, type: str) -> str:
    """The kind as it was made, where the column's affinity is that kind's; SQLite has fewer."""
    affinity = next((kind for part, kind in _AFFINITIES if part in type), "another")
    made = TABLES[table].columns.get(name)
    return made.kind if made is not None and _STORED_AS.get(made.kind, made.kind) == affinity else affinity


async def _indexes(session: Session, asked: str, keys: dict[str, dict[int, str]]) -> list[Difference]:
    unique = {(table, tuple(columns[place] for place in sorted(columns))) for table, columns in keys.items()}
    columns: dict[tuple[str, str, bool], tuple[str, ...]] = {}
    for table, index, distinct, column in await session.fetch(_INDEXES, asked):
        at = (table, index, bool(distinct))
        columns[at] = (*columns.get(at, ()), column)
    unique |= {(table, listed) for (table, _, distinct), listed in columns.items() if distinct}
    indexed = unique | {(table, listed) for (table, _, _), listed in columns.items()}
    found = []
    for table, made in TABLES.items():
        for number, key in enumerate(made.keys, start=1):
            if (table, key) not in unique:
                on = f"{table} ({', '.join(key)})"
                repair = f"CREATE UNIQUE INDEX messaging_{table}_key_{number} ON {on}"
                found.append(Difference(f"key {on}", "missing", (repair,), needed=True))
        if made.index and not any(of == table and of_it[: len(made.index)] == made.index for of, of_it in indexed):
            on = f"{table} ({', '.join(made.index)})"
            repairs = (f"DROP INDEX IF EXISTS {table}_user", f"CREATE INDEX {table}_user ON {on}")
            found.append(Difference(f"index {on}", "missing", repairs))
    return found


async def _triggers(session: Session) -> list[Difference]:
    """SQLite keeps the text of a trigger as it was given, and cannot switch one off."""
    rows = await session.fetch("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    there: dict[str, str] = dict(map(tuple, rows))
    found = []
    for name in triggers_sqlite.TRIGGERS:
        statement = triggers_sqlite.trigger(name)
        if name not in there:
            found.append(Difference(f"trigger {name}", "missing or disabled", (statement,)))
        elif there[name].split() != statement.split():
            repair = (f"DROP TRIGGER {name}", statement)
            found.append(Difference(f"trigger {name}", "not as this version makes it", repair))
    return found
