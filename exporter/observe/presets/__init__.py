"""What the tables of known servers mean, measured on the servers themselves. Knows mappings, no connection.

A preset is a function: the columns that are there, the dialect, and what ``probe`` found out, give a ``Mapping``.
A schema that is not known is refused in one line, since a good guess here is a wrong figure.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf

from exporter.core.errors import Misconfigured
from exporter.observe.mapping import Table

Columns = MappingOf[str, MappingOf[str, str]]
"""Types by column by table."""


def require(kind: str, there: Columns, tables: tuple[Table, ...]) -> None:
    """Raises Misconfigured when a table or column that the preset reads is not there."""
    for table in tables:
        if table.name not in there:
            raise Misconfigured(f"this is not a database of {kind} that is known: there is no table {table.name}")
        missing = sorted(set(table.columns) - set(there[table.name]))
        if missing:
            raise Misconfigured(
                f"this schema of {kind} is not known: the table {table.name} has no column {', '.join(missing)}"
            )
