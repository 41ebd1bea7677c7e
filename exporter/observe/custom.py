"""A mapping of one's own tables, out of a strict YAML file. Knows mappings; opens nothing but the file.

Names of tables and columns are quoted; a ``filter`` is SQL of the user's own, over the columns of its table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from exporter.core.errors import Misconfigured
from exporter.core.redaction import mask
from exporter.observe import fitting
from exporter.observe.mapping import Counter, Cut, Dialect, Key, Mapping, Region, Rows, Table, Time
from exporter.observe.presets import Columns
from exporter.settings import strict_yaml

UNITS: Final = ("s", "ms", "us", "timestamptz", "timestamp", "text")
PROBED: Final = 1_000
"""Rows of which one must have a time, for what its times look like to be known."""
_KEYS: Final = {
    "": {"messages": True, "users": False, "conversations": False},
    "messages": {
        "table": True,
        "key": True,
        "time": True,
        "sender": False,
        "conversation": False,
        "filter": False,
        "deleted": False,
    },
    "time": {"column": True, "unit": True, "zone": False},
    "deleted": {"column": True, "unit": True, "zone": False},
    "users": {"table": True, "id": True, "filter": False},
    "conversations": {"table": True, "id": True, "filter": False, "counter": False},
}
"""Per mapping of the file: its keys, and which must be there."""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What the database says of itself that the file cannot: indexes, and what its times look like."""

    indexes: frozenset[tuple[str, str]] = frozenset()
    values: MappingOf[str, Any] = field(default_factory=dict)
    """Of the columns of time, what one of the newest rows holds."""
    days: bool = False
    """Is the key a time, and are its values days?"""
    numbered_with: frozenset[str] = frozenset()
    """Columns with which the key is unique, where it is not by itself: it comes several times."""


class Document:
    """The file, checked key by key."""

    def __init__(self, path: Path) -> None:
        """Raises Misconfigured, with the file and the key."""
        self.path = path
        document = self._mapping(strict_yaml.load(path), "")
        self.messages = self._mapping(document["messages"], "messages")
        self.users = self._mapping(document["users"], "users") if "users" in document else None
        self.conversations = (
            self._mapping(document["conversations"], "conversations") if "conversations" in document else None
        )
        self.time = self._time(self.messages["time"], "time", UNITS)
        deleted = self.messages.get("deleted")
        self.deleted = None if deleted is None else self._time(deleted, "deleted", (*UNITS, "flag"))
        if self.conversations and "counter" in self.conversations and "conversation" not in self.messages:
            raise self._wrong("conversations.counter needs messages.conversation")

    def _wrong(self, reason: str) -> Misconfigured:
        return Misconfigured(f"{self.path}: {reason}")

    def _mapping(self, value: Any, name: str) -> dict[str, Any]:
        where = f"under {name}" if name else "at the top"
        if not isinstance(value, dict):
            raise self._wrong(f"expected a mapping {where}")
        known = _KEYS[name]
        for key in value:
            if key not in known:
                line = strict_yaml.line_of(key)
                raise self._wrong(f"there is no {mask(key)[:80]} {where}{line}; there is {', '.join(known)}")
        for key, needed in known.items():
            if needed and key not in value:
                raise self._wrong(f"{key} is missing {where}")
            if key == "key" and (parts := fitting.several(value[key])):
                raise self._wrong(
                    f"the key is one column that grows by itself, not several ({mask(', '.join(parts))[:80]})"
                    f"{strict_yaml.key_line(value, key)}: give the column of time"
                )
            if key in value and key not in _KEYS and (not isinstance(value[key], str) or not value[key].strip()):
                raise self._wrong(f"expected text for {key} {where}{strict_yaml.key_line(value, key)}")
        condition = value.get("filter", "")
        if re.search(r";|--|/\*|\0", condition):
            line = strict_yaml.key_line(value, "filter")
            raise self._wrong(f"a filter {where}{line} is one SQL condition, without ; and comments")
        return value

    def _time(self, value: Any, name: str, units: tuple[str, ...]) -> dict[str, Any]:
        checked = self._mapping(value, name)
        if checked["unit"] not in units:
            line = strict_yaml.key_line(checked, "unit")
            raise self._wrong(f"expected {', '.join(units[:-1])} or {units[-1]} for unit under {name}{line}")
        try:
            ZoneInfo(checked.get("zone", "UTC"))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            line = strict_yaml.key_line(checked, "zone")
            raise self._wrong(f"there is no zone of that name under {name}{line}") from None
        return checked

    def mapping(self, there: Columns, dialect: Dialect, facts: DatabaseFacts) -> Mapping:
        """The mapping for what is there. Raises Misconfigured when a table or column is not."""
        tables = self._tables(there, dialect.name)
        messages, users, conversations = self.messages, self.users, self.conversations
        column = messages["key"]
        self._check(there, dialect, facts)
        time = _time(self.time, dialect, facts)
        key = Key(column, f"{{a}}.{_name(column)}", time=time if column == self.time["column"] else None)
        where = f"({messages['filter']})" if "filter" in messages else "1 = 1"
        weight, undone, change = self._deletions(there, dialect, facts, where)
        absent = {}
        if users is None:
            absent["registered_users"] = "no table of users is mapped"
        if "sender" not in messages:
            absent["active_users"] = "no column with the sender is mapped"
        if conversations is None and "conversation" not in messages:
            absent["stored_conversations"] = "no conversations are mapped"
        distinct = conversations is None and "conversation" in messages
        told = messages["sender"] if column == self.time["column"] and "sender" in messages else self.time["column"]
        return Mapping(
            kind="custom",
            schema="custom",
            dialect=dialect,
            tables=tables,
            table=_table(messages["table"]),
            keys=(key,),
            time=time,
            where=where,
            weight=weight,
            writer=f"e.{_name(messages['sender'])}" if "sender" in messages else None,
            recent=Key(self.time["column"], f"{{a}}.{_name(self.time['column'])}", time=time)
            if key.time is None and (messages["table"], self.time["column"]) in facts.indexes
            else None,
            account=None
            if users is None
            else f"SELECT 1 FROM {_table(users['table'])} u WHERE u.{_name(users['id'])} = {{w}}{_and(users)}",
            conversation=f"e.{_name(messages['conversation'])}" if distinct else None,
            identity=dialect.as_text(f"{{a}}.{_name(told)}"),
            users=None if users is None else _count(users),
            conversations=None if conversations is None else _count(conversations),
            undone=undone,
            change=change,
            absent=absent,
            counter=self._counter(),
            meaning=self._meaning(),
            rules=fitting.rules(messages, users, conversations is None, undone is not None),
            indexes=self._indexes(),
            without_index=self._without_index(),
        )

    def _check(self, there: Columns, dialect: Dialect, facts: DatabaseFacts) -> None:
        """Raises Misconfigured for a column that cannot be what the file says: its type, or what it holds."""
        reasons: list[str | None] = []
        types = there[self.messages["table"]]
        key, postgresql = self.messages["key"], dialect.name == "postgresql"
        if postgresql and key != self.time["column"]:
            reasons.append(fitting.key_reason(key, types[key], self.time["column"]))
        compared = [("sender", self.users), ("conversation", self.conversations if self._counter() else None)]
        for name, part in compared if postgresql else ():
            if part is not None and name in self.messages:
                ours, theirs = self.messages[name], part["id"]
                own, other = self.messages["table"], part["table"]
                pair = [(own, ours, types[ours]), (other, theirs, there[other][theirs])]
                reasons.append(fitting.comparison_reason(pair))
        if facts.numbered_with:
            others = ", ".join(sorted(facts.numbered_with))
            reasons.append(
                f"the key {key} is unique only together with {others}: numbered anew for each, it does not grow with "
                f"the rows. Give the column of time (key: {self.time['column']})"
            )
        for use, time in (("days" if facts.days else "time", self.time), ("deleted", self.deleted)):
            if time is None:
                continue
            column, unit = time["column"], time["unit"]
            if postgresql:
                reasons.append(fitting.unit_reason(column, types[column], unit))
            elif unit in ("timestamp", "timestamptz"):
                unit = "text"
            if column in facts.values:
                reasons.append(fitting.value_reason(column, facts.values[column], unit, use))
        for reason in filter(None, reasons):
            raise self._wrong(reason)

    def filters(self) -> dict[str, tuple[str, str]]:
        """By part of the file, statements that read nothing: one with its filter, one without."""
        parts = {
            "messages": (self.messages, "e"),
            "users": (self.users, "u"),
            "conversations": (self.conversations, ""),
        }
        return {
            name: (f"SELECT 1 FROM {rows} WHERE ({part['filter']}) LIMIT 0", f"SELECT 1 FROM {rows} LIMIT 0")
            for name, (part, alias) in parts.items()
            if part is not None and "filter" in part
            for rows in (f"{_table(part['table'])} {alias}",)
        }

    def repeated(self) -> str | None:
        """A statement: how many of some rows have a key, and how many different ones; None where it is the time."""
        key, table = self.messages["key"], self.messages["table"]
        if key == self.time["column"]:
            return None
        rows = f"SELECT {_name(key)} AS k FROM {_table(table)} LIMIT {PROBED}"
        return f"SELECT COUNT(x.k) - COUNT(DISTINCT x.k) FROM ({rows}) x"

    def probes(self, facts: DatabaseFacts) -> dict[str, str]:
        """By column of time, a statement with what one of the newest rows holds; of one that is the key, what each."""
        key, table = self.messages["key"], self.messages["table"]
        order = f" ORDER BY {_name(key)} DESC" if (table, key) in facts.indexes else ""
        return {  # of times of deletion the latest: others may say that nothing was deleted
            time["column"]: f"SELECT x.t FROM (SELECT {_name(time['column'])} AS t FROM {_table(table)}{order} "
            f"LIMIT {PROBED}) x WHERE x.t IS NOT NULL{' ORDER BY x.t DESC' if time is self.deleted else ''}"
            f"{'' if time['column'] == key else ' LIMIT 1'}"
            for time in (self.time, self.deleted)
            if time is not None
        }

    def _deletions(
        self, there: Columns, dialect: Dialect, facts: DatabaseFacts, where: str
    ) -> tuple[str, Any, Key | None]:
        """What a row weighs, and how later deletions are seen: by an index on their time, or by recounts only."""
        if self.deleted is None:
            return "1", None, None
        column, table = self.deleted["column"], self.messages["table"]
        gone = f"e.{_name(column)}"
        if self.deleted["unit"] == "flag":
            # A boolean, or a number as other frameworks write it: PostgreSQL takes no number for a condition.
            number = dialect.name == "postgresql" and there[table][column] in fitting.NUMBERS
            return f"CASE WHEN {gone if number else f'CAST({gone} AS integer)'} <> 0 THEN 0 ELSE 1 END", None, None
        weight = f"CASE WHEN {fitting.never(gone, self.deleted['unit'], dialect.name)} THEN 1 ELSE 0 END"
        if (table, column) not in facts.indexes:
            return weight, None, None

        def undone(changed: Rows, target: Region, cut: Cut) -> str:
            return f"FROM {changed('e')} WHERE {target('e')} AND {where}"

        return weight, undone, Key(column, f"{{a}}.{_name(column)}", time=_time(self.deleted, dialect, facts))

    def _counter(self) -> Counter | None:
        conversations = self.conversations
        if conversations is None or "counter" not in conversations:
            return None
        return Counter(
            table=_table(conversations["table"]),
            id=_name(conversations["id"]),
            column=_name(conversations["counter"]),
            message_conversation=_name(self.messages["conversation"]),
            where=f"({conversations['filter']})" if "filter" in conversations else "",
        )

    def _tables(self, there: Columns, dialect: str) -> tuple[Table, ...]:
        """What is read; of a filter, the columns of its table that it names. Raises Misconfigured."""
        tables = []
        for part, named in (
            (self.messages, ("key", "sender", "conversation")),
            (self.users, ("id",)),
            (self.conversations, ("id", "counter")),
        ):
            if part is None:
                continue
            name = part["table"]
            if name not in there:
                raise self._wrong(f"the database has {fitting.name_reason(name, there, 'table')}")
            columns = [part[key] for key in named if key in part]
            if part is self.messages:
                columns += [time["column"] for time in (self.time, self.deleted) if time is not None]
            columns += sorted(fitting.named_in(part.get("filter", ""), there[name], dialect))
            for column in columns:
                if column not in there[name]:
                    raise self._wrong(f"the table {name} has {fitting.name_reason(column, there[name], 'column')}")
            schema, _, plain = name.rpartition(".")
            tables.append(Table(plain, tuple(dict.fromkeys(columns)), schema or None))
        return tuple(tables)

    def _indexes(self) -> tuple[tuple[str, str], ...]:
        table = self.messages["table"]
        wanted = [(table, self.messages["key"])]
        if self.deleted is not None and self.deleted["unit"] != "flag":
            wanted.append((table, self.deleted["column"]))
        if self._counter() is not None:
            wanted.append((table, self.messages["conversation"]))
        if self.users is not None:
            wanted.append((self.users["table"], self.users["id"]))
        return tuple(wanted)

    def _without_index(self) -> dict[tuple[str, str], str]:
        table = self.messages["table"]
        found = {}
        if self.deleted is not None:
            found[table, self.deleted["column"]] = "a deletion is seen by the next recount only"
        if self._counter() is not None:
            found[table, self.messages["conversation"]] = "comparing the counters is slow"
        return found

    def _meaning(self) -> dict[str, str]:
        return {
            "stored_messages": fitting.rows_of(self.messages)
            + (f", without those deleted by {self.deleted['column']}" if self.deleted else ""),
            "stored_conversations": fitting.rows_of(self.conversations)
            if self.conversations
            else "distinct conversations of messages",
            "registered_users": fitting.rows_of(self.users) if self.users else "",
            "messages_today": f"messages of the current UTC day by {self.time['column']}",
            "active_users": "users who wrote, deleted or not, on one of the last N UTC days",
        }


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _table(name: str) -> str:
    """A table's name for SQL, with its schema where it has one."""
    return ".".join(_name(part) for part in name.split("."))


def _and(part: MappingOf[str, Any]) -> str:
    return f" AND ({part['filter']})" if "filter" in part else ""


def _count(part: MappingOf[str, Any]) -> str:
    condition = f" WHERE ({part['filter']})" if "filter" in part else ""
    return f"SELECT COUNT(*) FROM {_table(part['table'])}{condition}"


def _time(time: MappingOf[str, Any], dialect: Dialect, facts: DatabaseFacts) -> Time:
    """SQLite has no times but texts and numbers."""
    unit = time["unit"]
    if dialect.name == "sqlite" and unit in ("timestamp", "timestamptz"):
        unit = "text"
    separator = "T" if str(facts.values.get(time["column"], ""))[10:11] == "T" else " "
    return Time(f"{{a}}.{_name(time['column'])}", unit, time.get("zone", "UTC"), separator)
