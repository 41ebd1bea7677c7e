"""May this user read what a mapping needs, and are the indexes there that it relies on? Knows readers and mappings.

Tested in ``tests/observe/test_grants.py``.
"""

from __future__ import annotations

from exporter.observe.connections import Reader
from exporter.observe.mapping import Mapping

SECONDS = 4.0


async def missing(reader: Reader, mapping: Mapping) -> list[str]:
    """``table.column`` of what may not be read. Raises SourceError."""
    if reader.dialect.name != "postgresql":
        return []  # a file is readable or not
    wanted = [(table.name, column) for table in mapping.tables for column in table.columns]
    literal = reader.dialect.literal
    values = ", ".join(f"({literal(table)}, {literal(column)})" for table, column in wanted)
    sql = (
        f"SELECT t, c FROM (VALUES {values}) AS need (t, c) "
        "WHERE NOT has_column_privilege(quote_ident(t)::regclass, c, 'SELECT')"
    )
    rows = await reader.read(lambda snapshot: snapshot.fetch(sql), SECONDS)
    return [f"{table}.{column}" for table, column in rows]


async def user(reader: Reader) -> str:
    """The name of the user that reads, quoted for SQL."""
    rows = await reader.read(lambda snapshot: snapshot.fetch("SELECT quote_ident(current_user::text)"), SECONDS)
    return str(rows[0][0])


def grants(mapping: Mapping, user: str) -> list[str]:
    """The statements that give exactly what is read: columns, never a table with passwords in it."""
    return [
        f"GRANT SELECT ({', '.join(_quoted(column) for column in table.columns)}) ON {_quoted(table.name)} TO {user};"
        for table in mapping.tables
    ]


def _quoted(name: str) -> str:
    """An identifier, in quotes where it is a word of SQL or has capitals."""
    plain = name.isidentifier() and name == name.lower() and name not in {"user", "when", "with", "key", "type"}
    return name if plain else '"' + name.replace('"', '""') + '"'


async def missing_indexes(reader: Reader, mapping: Mapping) -> list[tuple[str, str]]:
    """(table, column) of the indexes that are not there. Raises SourceError."""
    there = await indexes(reader)
    return [index for index in mapping.indexes if index not in there]


async def indexes(reader: Reader) -> set[tuple[str, str]]:
    """(table, first column) of every index. Raises SourceError."""
    if reader.dialect.name == "postgresql":
        sql = (
            "SELECT c.relname::text, a.attname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
            "WHERE i.indisvalid AND pg_table_is_visible(c.oid)"
        )
    else:
        sql = (
            "SELECT m.name, i.name FROM sqlite_master m, pragma_index_list(m.name) l, pragma_index_info(l.name) i "
            "WHERE m.type = 'table' AND i.seqno = 0 "
            "UNION SELECT m.name, t.name FROM sqlite_master m, pragma_table_info(m.name) t "
            "WHERE m.type = 'table' AND t.pk = 1"
        )
    rows = await reader.read(lambda snapshot: snapshot.fetch(sql), SECONDS)
    return {(str(table), str(column)) for table, column in rows}
