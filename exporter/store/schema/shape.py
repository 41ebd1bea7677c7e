"""What the revisions made, as a description: tables, columns, keys. Knows no statement and no catalogue.

A start, ``migrate``, ``verify`` and ``doctor`` hold what is there against it, by ``Dialect.differences``; functions and
triggers are described beside their texts, in ``triggers_postgresql`` and ``triggers_sqlite``. A revision that changes
tables changes this, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

Kind = str
"""``text``, ``time``, ``day``, ``integer`` or ``real``."""

NOW: Final = "now"
NAME: Final = "a name of its own"


class Column(msgspec.Struct, frozen=True):
    """One column; ``default`` is a number, a text, ``NOW`` or ``NAME``, None where there is none."""

    kind: Kind
    default: int | str | None = None
    required: bool = True
    since: str = "0001"
    """The revision that made it."""


class Table(msgspec.Struct, frozen=True):
    """One table. ``keys``: the primary key, then what else is unique."""

    columns: Mapping[str, Column]
    keys: tuple[tuple[str, ...], ...]
    index: tuple[str, ...] = ()
    """Columns of an index without which lists are slow."""
    parent: str = ""
    """The table that ``conversation_id`` refers to: what is deleted there is deleted here."""
    since: str = "0001"


def _counter(since: str = "0002") -> Column:
    return Column("integer", 0, since=since)


TABLES: Final[Mapping[str, Table]] = {
    "users": Table(
        {
            "id": Column("text"),
            "created_at": Column("time", NOW),
            "last_active_on": Column("day", required=False, since="0002"),
        },
        (("id",),),
    ),
    "conversations": Table(
        {
            "id": Column("text"),
            "created_at": Column("time", NOW),
            "total_messages": _counter("0001"),
            "last_seq": _counter("0001"),
        },
        (("id",),),
    ),
    "conversation_members": Table(
        {"conversation_id": Column("text"), "user_id": Column("text"), "last_read_seq": _counter("0001")},
        (("conversation_id", "user_id"),),
        index=("user_id", "conversation_id"),
        parent="conversations",
    ),
    "messages": Table(
        {
            "conversation_id": Column("text"),
            "seq": Column("integer"),
            "sender_id": Column("text"),
            "client_id": Column("text", NAME),
            "body": Column("text", ""),
            "sent_at": Column("time", NOW),
        },
        (("conversation_id", "seq"), ("conversation_id", "sender_id", "client_id")),
        parent="conversations",
    ),
    "daily_totals": Table(
        {
            "day": Column("day", since="0002"),
            "shard": _counter(),
            "messages": _counter(),
            "conversations": _counter(),
            "users": _counter(),
            "last_active_users": _counter(),
            "active_users": _counter("0004"),
        },
        (("day", "shard"),),
        since="0002",
    ),
    "verification": Table(
        {
            "id": Column("integer", since="0002"),
            "verified_at": Column("real", required=False, since="0002"),
            "inaccurate_conversations": Column("integer", required=False, since="0002"),
            "inaccurate_days": Column("integer", required=False, since="0002"),
            "repairs": _counter(),
            "missing_triggers": Column("integer", required=False, since="0003"),
            "active_users_from": Column("day", required=False, since="0004"),
        },
        (("id",),),
        since="0002",
    ),
    "user_days": Table(
        {"day": Column("day", since="0004"), "user_id": Column("text", since="0004")},
        (("day", "user_id"),),
        since="0004",
    ),
}
"""By name, what others refer to first."""


COUNTED: Final = ("messages", "conversations", "users", "last_active_users", "active_users")
"""What ``daily_totals`` counts of a day."""
ADD_TO_DAY: Final = f"INSERT INTO daily_totals AS t (day, shard, {', '.join(COUNTED)})"
ADDED: Final = "ON CONFLICT (day, shard) DO UPDATE SET " + ", ".join(f"{c} = t.{c} + excluded.{c}" for c in COUNTED)
SUMMED: Final = ", ".join(f"sum({counted})" for counted in COUNTED)


COLUMNS: Final = " UNION ALL ".join(
    f"SELECT 1 FROM (SELECT {', '.join(table.columns)} FROM {name} LIMIT 0) AS {name}_columns"
    for name, table in TABLES.items()
    if name != "user_days"  # which triggers write, with their owner's rights
)
"""Reads nothing, and fails where a column is gone that is read or written."""


class Difference(msgspec.Struct, frozen=True):
    """Something that is not as this program made it: "trigger NAME: missing or disabled"."""

    subject: str
    problem: str
    repair: tuple[str, ...] = ()
    """Statements that make it again; none where only somebody who knows what happened can."""
    needed: bool = False
    """Is nothing stored or counted without it?"""

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}"


class FoundColumn(msgspec.Struct, frozen=True):
    """One column that is there; ``default``: has it one?"""

    kind: Kind
    type: str
    default: bool
    required: bool


def differing_columns(
    name: str, found: Mapping[str, FoundColumn], revision: str | None = None
) -> Iterator[tuple[str, Column, Difference]]:
    """Of one table that is there, as of a revision (None: the latest). What repairs them is the caller's to say."""
    for column, made in TABLES[name].columns.items():
        if revision is not None and made.since > revision:
            continue
        subject, there = f"column {name}.{column}", found.get(column)
        if there is None:
            yield column, made, Difference(subject, "missing", needed=True)
        elif there.kind != made.kind:
            yield column, made, Difference(subject, f"is of type {there.type}", needed=True)
        elif made.required and not there.required:
            yield column, made, Difference(subject, "may be empty (null)")
        elif made.default is not None and not there.default:
            yield column, made, Difference(subject, "has no default")


def unknown_columns(name: str, found: Mapping[str, FoundColumn]) -> Iterator[Difference]:
    """Of one table: columns of others that refuse every row of ours. All others are welcome."""
    for column, there in found.items():
        if column not in TABLES[name].columns and there.required and not there.default:
            yield Difference(f"column {name}.{column}", "must have a value, has no default, and is not this program's")


def listed(differences: list[Difference] | tuple[Difference, ...], most: int = 6) -> str:
    """Several of them in one line."""
    more = f" (and {len(differences) - most} more)" if len(differences) > most else ""
    return "; ".join(map(str, differences[:most])) + more
