"""What PostgreSQL's catalogue says is there, held against what this program made. Changes nothing.

Tested in ``tests/store/test_shape.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from exporter.store.dialects.base import Session
from exporter.store.schema import triggers_postgresql
from exporter.store.schema.shape import (
    NAME,
    NOW,
    TABLES,
    Column,
    Difference,
    FoundColumn,
    differing_columns,
    unknown_columns,
)
from exporter.store.schema.triggers_postgresql import quoted

WHICH = """
SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()), oid, current_schema())
FROM pg_database WHERE datname = current_database()
"""
"""A standby that is promoted is the same, a copy by ``pg_dump`` is another."""
_HERE = "(SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
_POLICIES = """
    FROM pg_policy WHERE polrelid = pg_class.oid AND polcmd IN ('*', 'r')
    AND EXISTS (SELECT FROM unnest(polroles) AS r WHERE r = 0 OR pg_has_role(r, 'USAGE'))
"""
"""Those on reading that apply to this user; one of "true" shows every row."""
_RELATIONS = f"""
SELECT relname::text, relkind::text, relpersistence::text, row_security_active(oid) AND NOT (
    EXISTS (SELECT {_POLICIES} AND polpermissive AND pg_get_expr(polqual, polrelid) = 'true')
    AND NOT EXISTS (SELECT {_POLICIES} AND NOT polpermissive AND pg_get_expr(polqual, polrelid) <> 'true')
), EXISTS (
    SELECT FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = pg_class.oid AND NOT child.relispartition
) FROM pg_class WHERE relnamespace = {_HERE} AND relname = ANY ($1)
"""
_COLUMNS = f"""
SELECT relname::text, attname::text, format_type(coalesce(nullif(typbasetype, 0), atttypid), NULL),
    atthasdef OR attidentity <> '' OR typdefault IS NOT NULL, attnotnull, EXISTS (
        SELECT FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE tgrelid = attrelid AND tgtype & 7 = 7 AND tgenabled <> 'D' AND NOT proname LIKE 'messaging\\_%'
    )
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
JOIN pg_type ON pg_type.oid = atttypid
WHERE relnamespace = {_HERE} AND relname = ANY ($1)
"""
_INDEXES = f"""
SELECT relname::text, relkind = 'p', indisunique AND indimmediate, indisprimary, ARRAY(
    SELECT attname::text FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
    JOIN pg_attribute ON attrelid = indrelid AND attnum = number WHERE place <= indnkeyatts ORDER BY place
)
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace = {_HERE} AND relname = ANY ($1) AND indisvalid AND indpred IS NULL AND indexprs IS NULL
"""
_REFERENCES = f"""
SELECT child.relname::text, parent.relname::text
FROM pg_constraint JOIN pg_class AS child ON child.oid = conrelid JOIN pg_class AS parent ON parent.oid = confrelid
WHERE contype = 'f' AND confdeltype = 'c' AND convalidated
    AND child.relnamespace = {_HERE} AND parent.relnamespace = {_HERE}
"""
_FUNCTIONS = f"""
SELECT proname::text, prosrc, prosecdef, proconfig FROM pg_proc WHERE pronamespace = {_HERE} AND pronargs = 0
"""
_TRIGGERS = f"""
SELECT tgrelid::regclass::text, tgname::text, tgenabled IN ('O', 'A'), pg_get_triggerdef(pg_trigger.oid, true),
    relnamespace = {_HERE} AND relname = ANY ($1)
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE NOT tgisinternal AND pronamespace = {_HERE} AND proname = ANY ($2)
"""
_SESSION = "SELECT current_schema(), quote_ident(current_schema()), current_setting('session_replication_role')"
_PARTITIONS = """
SELECT relid::regclass::text, isleaf FROM pg_partition_tree('messages'::regclass) WHERE level > 0 ORDER BY 1
"""

_OTHER_KINDS: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a composite type",
    "i": "an index",
    "I": "an index",
    "t": "a TOAST table",
}
_KINDS: Final = {
    "text": "text",
    "character varying": "text",
    "timestamp with time zone": "time",
    "date": "day",
    "bigint": "integer",
    "integer": "integer",
    "double precision": "real",
}
_SMALL: Final = frozenset({("daily_totals", "shard"), ("verification", "id")})
"""Where an ``integer`` is wide enough; elsewhere it would overflow one day."""


async def named(session: Session, names: Sequence[str]) -> list[str]:
    """What has one of these names in the schema that is used, whatever it is: "users", "messages (a view)"."""
    rows = await session.fetch(
        f"""
        SELECT relname::text AS name, relkind::text FROM pg_class WHERE relnamespace = {_HERE} AND relname = ANY ($1)
        UNION ALL SELECT typname::text, 'type' FROM pg_type
        WHERE typnamespace = {_HERE} AND typname = ANY ($1) AND typrelid = 0
        ORDER BY 1, 2
        """,
        list(names),
    )
    kinds = {**_OTHER_KINDS, "type": "a type"}
    return [f"{name} ({kinds[kind]})" if kind in kinds else name for name, kind in rows]


async def differences(session: Session, revision: str | None = None) -> list[Difference]:
    """All of them, what others need first. ``revision``: the tables and columns of that one only."""
    names = [name for name, table in TABLES.items() if revision is None or table.since <= revision]
    found = await _relations(session, names)
    there = [name for name in names if f"table {name}" not in {d.subject for d in found if d.needed}]
    found += await _columns(session, there, revision)
    if revision is not None or len(there) < len(names):
        return found  # without its table nothing else can be made
    found += await _keys(session, there)
    schema, printed, role = (await session.fetch(_SESSION))[0]
    if role == "replica":
        found.append(Difference("setting session_replication_role", "is replica, by which no trigger counts"))
    return [*found, *await _functions(session, schema, printed), *await _triggers(session, names)]


async def _relations(session: Session, names: Sequence[str]) -> list[Difference]:
    """Tables that are missing, or are no tables that can be trusted with rows."""
    rows = {name: more for name, *more in await session.fetch(_RELATIONS, list(names))}
    found = []
    for name in names:
        subject = f"table {name}"
        if name not in rows:
            found.append(Difference(subject, "missing", needed=True))
            continue
        kind, persistence, filtered, inherited = rows[name]
        if kind in _OTHER_KINDS:
            found.append(Difference(subject, f"is {_OTHER_KINDS[kind]}", needed=True))
            continue
        if persistence != "p":
            found.append(
                Difference(subject, "is unlogged: a crash would empty it", (f"ALTER TABLE {name} SET LOGGED",))
            )
        if filtered:
            found.append(Difference(subject, "row security hides rows from this user"))
        if inherited:
            found.append(Difference(subject, "other tables inherit from it, whose rows no trigger counts"))
    return found


async def _columns(session: Session, names: Sequence[str], revision: str | None) -> list[Difference]:
    tables: dict[str, dict[str, FoundColumn]] = {name: {} for name in names}
    for table, name, type, default, required, filled in await session.fetch(_COLUMNS, list(names)):
        narrow = type == "integer" and (table, name) not in _SMALL
        kind = "narrow" if narrow else _KINDS.get(type, "another")
        # A trigger of others before each row may give a value to a column of theirs.
        given = default or (filled and name not in TABLES[table].columns)
        tables[table][name] = FoundColumn(kind, type, given, required)
    found: list[Difference] = []
    for table in names:
        if revision is None:
            found += unknown_columns(table, tables[table])
        for name, made, difference in differing_columns(table, tables[table], revision):
            alter = f"ALTER TABLE {table} ALTER COLUMN {name} SET"
            if difference.needed:
                found.append(difference)
            elif tables[table][name].required or not made.required:
                found.append(replace(difference, repair=(f"{alter} DEFAULT {_default(made)}",)))
            else:
                found.append(replace(difference, repair=(f"{alter} NOT NULL",)))
    return found


def _default(column: Column) -> str:
    given = {NOW: "now()", NAME: "gen_random_uuid()::text"}
    return given.get(str(column.default)) or (f"'{column.default}'" if column.kind == "text" else str(column.default))


async def _keys(session: Session, names: Sequence[str]) -> list[Difference]:
    """Primary keys, unique keys, an index, and what is deleted with a conversation."""
    unique: set[tuple[str, tuple[str, ...]]] = set()
    indexed: set[tuple[str, tuple[str, ...]]] = set()
    primary: set[str] = set()
    for table, partitioned, distinct, is_primary, columns in await session.fetch(_INDEXES, list(names)):
        indexed.add((table, tuple(columns)))
        if distinct:
            # The keys of a partitioned table hold what it is partitioned by as well.
            made = TABLES[table].keys if partitioned else ()
            unique |= {(table, key) for key in made if set(key) <= set(columns)} | {(table, tuple(columns))}
        if is_primary:
            primary.add(table)
    references = {tuple(row) for row in await session.fetch(_REFERENCES)}
    found = []
    for table in names:
        for key in TABLES[table].keys:
            if (table, key) not in unique:
                kind = "UNIQUE" if table in primary else "PRIMARY KEY"
                columns = ", ".join(key)
                repair = f"ALTER TABLE {table} ADD {kind} ({columns})"
                found.append(Difference(f"key {table} ({columns})", "missing", (repair,), needed=True))
            primary.add(table)
    for table in names:
        index, parent = TABLES[table].index, TABLES[table].parent
        if index and not any(of == table and columns[: len(index)] == index for of, columns in indexed):
            columns = ", ".join(index)
            # One that could not be finished may have the name.
            repairs = (f"DROP INDEX IF EXISTS {table}_user", f"CREATE INDEX {table}_user ON {table} ({columns})")
            found.append(Difference(f"index {table} ({columns})", "missing", repairs))
        if parent and (table, parent) not in references:
            repair = f"ALTER TABLE {table} ADD FOREIGN KEY (conversation_id) REFERENCES {parent} (id) ON DELETE CASCADE"
            found.append(Difference(f"foreign key {table} ({parent})", "missing", (repair,)))
    return found


async def _functions(session: Session, schema: str, printed: str) -> list[Difference]:
    """Functions that are missing, changed, made for another schema, or without their owner's rights."""
    path = f"search_path={printed}, pg_temp"
    there = {
        name: (text, sorted(config or []) if definer else None)
        for name, text, definer, config in await session.fetch(_FUNCTIONS)
    }
    found = []
    for head in triggers_postgresql.FUNCTIONS:
        name = head.partition("(")[0]
        config = sorted((path, *triggers_postgresql.CONFIG)) if head.endswith("trigger") else None
        if there.get(name) != (triggers_postgresql.body(head), config):
            problem = "not as this version makes it" if name in there else "missing"
            found.append(Difference(f"function {name}", problem, (triggers_postgresql.function(head, schema),)))
    return found


async def _triggers(session: Session, names: Sequence[str]) -> list[Difference]:
    """Triggers that are missing, changed or switched off, and those that count what is not ours, or count it twice."""
    expected = {(triggers_postgresql.table(name), name): (name, "") for name in triggers_postgresql.TRIGGERS}
    # Who names a partition itself meets its triggers and not those of the table.
    for partition, leaf in await session.fetch(_PARTITIONS):
        for name in triggers_postgresql.of_partition(leaf):
            expected[partition, name] = (name, partition)
    functions = [head.partition("(")[0] for head in triggers_postgresql.FUNCTIONS]
    found, there = [], {}
    for table, name, enabled, text, ours in await session.fetch(_TRIGGERS, list(names), functions):
        if (table, name) in expected:
            there[table, name] = text if enabled else None
        else:
            problem = "counts twice" if ours else "counts what is no part of messages, or no longer"
            found.append(
                Difference(f"trigger {name} on {table}", problem, (f"DROP TRIGGER {quoted(name)} ON {table}",))
            )
    for at, (name, partition) in expected.items():
        statements = triggers_postgresql.trigger(name, partition or None)
        subject = f"trigger {name}{f' on {partition}' if partition else ''}"
        text = there.get(at)
        if text is None:
            found.append(Difference(subject, "missing or disabled", statements))
        elif not partition and _words(text) != _words(statements[0]):
            found.append(Difference(subject, "not as this version makes it", statements))
    return found


def _words(definition: str) -> list[str]:
    """A definition's words, as we write it or as the server prints it."""
    return re.sub(r"[()\s]+", " ", definition.replace("OR REPLACE ", "").lower()).split()
