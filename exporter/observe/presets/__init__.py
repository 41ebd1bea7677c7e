"""What the tables of known servers mean, measured on the servers themselves. Knows mappings, no connection.

A preset is a function: the columns that are there, the dialect, and what ``probe`` found out, give a ``Mapping``.
A schema that is not known is refused in one line, since a good guess here is a wrong figure.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf

from exporter.core.errors import Misconfigured
from exporter.observe import fitting
from exporter.observe.mapping import Table

Columns = MappingOf[str, MappingOf[str, str]]
"""Types by column by table."""


def not_known(kind: str, table: str, there: Columns) -> Misconfigured:
    """What to say of a database without this table; of one in a schema that is not searched, where it is."""
    reason, found = fitting.name_reason(table, there, "table"), any(name.endswith(f".{table}") for name in there)
    hint = "; a table is found by this user's search_path: ALTER ROLE … SET search_path" if found else ""
    return Misconfigured(f"this is not a database of {kind} that is known: there is {reason}{hint}")


def require(kind: str, there: Columns, tables: tuple[Table, ...]) -> None:
    """Raises Misconfigured when a table or column that the preset reads is not there."""
    for table in tables:
        if table.name not in there:
            raise not_known(kind, table.name, there)
        missing = sorted(set(table.columns) - set(there[table.name]))
        if missing:
            raise Misconfigured(
                f"this schema of {kind} is not known: the table {table.name} has no column {', '.join(missing)}"
            )
