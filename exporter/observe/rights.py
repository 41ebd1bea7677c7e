"""May this user read what a mapping needs, and are the indexes there that it relies on? Knows readers and mappings.

Tested in ``tests/observe/test_grants.py``.
"""

from __future__ import annotations

from typing import Any

from exporter.observe.connections import Reader
from exporter.observe.mapping import Mapping

SECONDS = 4.0
"""For each look at the catalogue."""


async def missing(reader: Reader, mapping: Mapping) -> list[str]:
    """``table.column`` of what may not be read. Raises SourceError."""
    if reader.dialect.name != "postgresql":
        return []  # a file is readable or not
    literal = reader.dialect.literal
    values = ", ".join(
        f"({literal(table.schema or '')}, {literal(table.name)}, {literal(column)})"
        for table in mapping.tables
        for column in table.columns
    )
    # A schema that may not be used hides its tables from everything but the catalog.
    sql = (
        f"SELECT n.nspname::text, t, c, has_schema_privilege(n.oid, 'USAGE') FROM (VALUES {values}) AS need (s, t, c) "
        "JOIN pg_class k ON k.relname = t JOIN pg_namespace n ON n.oid = k.relnamespace "
        "AND CASE s WHEN '' THEN pg_table_is_visible(k.oid) ELSE n.nspname = s END "
        "JOIN pg_attribute a ON a.attrelid = k.oid AND a.attname = c "
        "WHERE NOT (has_column_privilege(k.oid, a.attnum, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'))"
    )
    rows = await reader.read(lambda snapshot: snapshot.fetch(sql), SECONDS)
    schemas = {f"schema {schema}": None for schema, _, _, usable in rows if not usable}
    return [*schemas, *(f"{table}.{column}" for _, table, column, _ in rows)]


async def hidden(reader: Reader, mapping: Mapping) -> list[str]:
    """Tables and views of which row security shows this user some rows only, for all that is known. Raises SourceError.

    A policy that says true shows every row; what another one shows, only its author knows.
    """
    if reader.dialect.name != "postgresql":
        return []
    literal = reader.dialect.literal
    values = ", ".join(f"({literal(table.schema or '')}, {literal(table.name)})" for table in mapping.tables)
    policies = (
        "SELECT p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true' AS shows, "
        "NOT p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) <> 'true' AS hides "
        "FROM pg_policy p WHERE p.polrelid = k.oid AND p.polcmd IN ('r', '*') "
        "AND EXISTS (SELECT 1 FROM unnest(p.polroles) r WHERE r = 0 OR pg_has_role(u.oid, r, 'USAGE'))"
    )
    invoker = (
        "(SELECT bool_or(option_value::bool) FROM pg_options_to_table(k.reloptions) "
        "WHERE option_name = 'security_invoker')"
    )
    # What a view reads, it reads with its owner's rights, unless it is made to read with those of whoever asks.
    sql = (
        f"WITH RECURSIVE need (oid, name, reader) AS (SELECT k.oid, t, current_user FROM (VALUES {values}) "
        "AS v (s, t) JOIN pg_class k ON k.relname = t JOIN pg_namespace n ON n.oid = k.relnamespace "
        "AND CASE s WHEN '' THEN pg_table_is_visible(k.oid) ELSE n.nspname = s END "
        "UNION SELECT d.refobjid, need.name, "
        f"CASE WHEN {invoker} THEN current_user ELSE pg_get_userbyid(k.relowner) END "
        "FROM need JOIN pg_class k ON k.oid = need.oid AND k.relkind = 'v' JOIN pg_rewrite w ON w.ev_class = k.oid "
        "JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid "
        "AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> k.oid) "
        "SELECT DISTINCT need.name::text FROM need JOIN pg_class k ON k.oid = need.oid "
        "JOIN pg_roles u ON u.rolname = reader "
        "WHERE k.relkind IN ('r', 'p') AND k.relrowsecurity AND NOT u.rolsuper AND NOT u.rolbypassrls "
        "AND (k.relforcerowsecurity OR NOT pg_has_role(u.oid, k.relowner, 'USAGE')) "
        f"AND (SELECT bool_or(x.shows) IS NOT TRUE OR bool_or(x.hides) FROM ({policies}) x)"
    )
    return [str(row[0]) for row in await reader.read(lambda snapshot: snapshot.fetch(sql), SECONDS)]


async def grants(reader: Reader, mapping: Mapping) -> list[str]:
    """The statements that give exactly what is read: columns, never a table with passwords in it. Raises SourceError.

    The server itself quotes the names, which may be words of its SQL.
    """
    schemas = [table.schema for table in mapping.tables if table.schema]
    names = {*schemas, *(name for table in mapping.tables for name in (table.name, *table.columns))}
    columns = ", ".join(f"quote_ident({reader.dialect.literal(name)})" for name in names)
    sql = f"SELECT quote_ident(current_user::text), {columns}"
    ((user, *found),) = await reader.read(lambda snapshot: snapshot.fetch(sql), SECONDS)
    quoted: dict[str, str] = dict(zip(names, map(str, found), strict=True))
    return [
        *(f"GRANT USAGE ON SCHEMA {quoted[schema]} TO {user};" for schema in dict.fromkeys(schemas)),
        *(
            f"GRANT SELECT ({', '.join(quoted[column] for column in table.columns)}) "
            f"ON {f'{quoted[table.schema]}.' if table.schema else ''}{quoted[table.name]} TO {user};"
            for table in mapping.tables
        ),
    ]


async def missing_indexes(reader: Reader, mapping: Mapping) -> list[tuple[str, str]]:
    """(table, column) of the indexes that are not there. Raises SourceError."""
    there = await indexes(reader)
    return [index for index in mapping.indexes if index not in there]


async def unique_with(reader: Reader, table: str, column: str) -> set[str]:
    """Columns with which this one is unique, where it neither is by itself nor is numbered by a sequence.

    Raises SourceError.
    """
    literal = reader.dialect.literal
    if reader.dialect.name == "postgresql":
        sql = (
            "SELECT i.indexrelid::bigint, b.attname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid "
            f"AND a.attname = {literal(column)} AND a.attnum = ANY (i.indkey) "
            "JOIN pg_attribute b ON b.attrelid = c.oid AND b.attnum = ANY (i.indkey) "
            "LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum "
            f"WHERE i.indisunique AND (n.nspname || '.' || c.relname = {literal(table)} "
            f"OR c.relname = {literal(table)} AND pg_table_is_visible(c.oid)) AND a.attidentity = '' "
            "AND COALESCE(pg_get_expr(d.adbin, d.adrelid), '') NOT LIKE 'nextval(%'"
        )
    else:
        sql = (
            f"SELECT l.name, i.name FROM pragma_index_list({literal(table)}) l, pragma_index_info(l.name) i "
            f'WHERE l."unique" AND EXISTS (SELECT 1 FROM pragma_index_info(l.name) o WHERE o.name = {literal(column)})'
        )
    together: dict[Any, set[str]] = {}
    for index, name in await reader.read(lambda snapshot: snapshot.fetch(sql), SECONDS):
        together.setdefault(index, set()).add(str(name))
    alone = any(names == {column} for names in together.values())
    return set() if alone else set().union(*together.values()) - {column}


async def views(reader: Reader) -> set[str]:
    """Names of what is no table of its own: which indexes serve it cannot be told. Raises SourceError."""
    sql = "SELECT name, name FROM sqlite_master WHERE type = 'view'"
    if reader.dialect.name == "postgresql":
        sql = (
            "SELECT c.relname::text, n.nspname || '.' || c.relname FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'f')"
        )
    rows = await reader.read(lambda snapshot: snapshot.fetch(sql), SECONDS)
    return {str(name) for row in rows for name in row}


async def indexes(reader: Reader) -> set[tuple[str, str]]:
    """(table, first column) of every index that finds the values above another one. Raises SourceError.

    That is no partial index, unless it leaves out nothing but NULL, and on PostgreSQL one in an order that has NULL
    where ``ORDER BY`` has it.
    """
    if reader.dialect.name == "postgresql":
        sql = (
            "SELECT n.nspname || '.' || c.relname, a.attname::text, pg_table_is_visible(c.oid), c.relname::text "
            "FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
            "JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam "
            "WHERE i.indisvalid AND m.amname = 'btree' AND i.indoption[0] IN (0, 3) AND (i.indpred IS NULL "
            "OR pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', a.attname))"
        )
    else:
        sql = (
            "SELECT m.name, i.name, 0, '' FROM sqlite_master m, pragma_index_list(m.name) l, "
            "pragma_index_info(l.name) i, sqlite_master x WHERE m.type = 'table' AND i.seqno = 0 "
            "AND i.name IS NOT NULL AND x.name = l.name AND (l.partial = 0 OR upper(x.sql) LIKE '%IS NOT NULL') "
            "UNION SELECT m.name, t.name, 0, '' FROM sqlite_master m, pragma_table_info(m.name) t "
            "WHERE m.type = 'table' AND t.pk = 1"
        )
    rows = await reader.read(lambda snapshot: snapshot.fetch(sql), SECONDS)
    return {(str(name), str(column)) for full, column, visible, short in rows for name in (full, *[short] * visible)}
