"""Where another server keeps what, as plain values, and the words for people. Knows no connection.

A *key* is a column that grows with the rows, so that what is new lies above what was seen. Rows far enough below the
newest are *sealed*: nothing new appears among them but what a recount finds. A ``Cut`` says where that line is.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

OF_ROOMS: Final = "room "
"""In place of a conversation: this row tells that its domain is one of rooms."""
DAY: Final = 86_400_000_000
"""Microseconds; every moment here is whole microseconds since 1970, UTC."""
_UNITS: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = -62_135_424_000_000_000  # 0001-01-03 and 9999-12-29: in every zone they are in Python's calendar
_LATEST: Final = 253_402_041_600_000_000


@dataclass(frozen=True, slots=True)
class Dialect:
    """The few words that differ between the two databases."""

    name: str  # sqlite, postgresql

    def position(self, text: str, part: str) -> str:
        """Where ``part`` begins in ``text``, from 1; 0 when it is not in it."""
        return f"{'strpos' if self.name == 'postgresql' else 'instr'}({text}, {part})"

    @property
    def fence(self) -> str:
        """What ends a subquery whose columns are to be worked out once, and not again at each use outside."""
        return "OFFSET 0" if self.name == "postgresql" else "LIMIT -1 OFFSET 0"

    @property
    def fingerprints(self) -> bool:
        """Does the database itself make 64 bits out of a text? What it sends is then a number instead of a name."""
        return self.name == "postgresql"

    def as_text(self, column: str) -> str:
        """SQL: what tells a value from others, as a text; SQLite would cast bytes (a UUID) into what is no text."""
        return f"CAST({column} AS text)" if self.name == "postgresql" else f"NULLIF(hex({column}), '')"

    @staticmethod
    def literal(text: str) -> str:
        """A text as an SQL literal."""
        return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Time:
    """A column that holds times: ``s``, ``ms``, ``us`` since 1970, ``timestamptz``, ``timestamp`` or ``text``.

    The last two say nothing of their zone, so ``zone`` does. ``separator`` stands between date and time in a text.
    """

    column: str  # an SQL expression with {a} for the table's alias
    unit: str
    zone: str = "UTC"
    separator: str = " "

    def of(self, alias: str) -> str:
        """The column of the table with this alias."""
        return self.column.replace("{a}", alias)

    def literal(self, moment: int) -> str:
        """The first value at or after a moment, as an SQL literal that the column compares with."""
        whole = self._literal(moment)
        # Of midnight only the date: a text without a time of day, or without seconds, is not below that.
        return whole.replace(f"{self.separator}00:00:00'", "'") if self.unit == "text" else whole

    def _literal(self, moment: int) -> str:
        unit = _UNITS.get(self.unit)
        if unit is not None:
            return str(-(-moment // unit))
        if not _EARLIEST <= moment <= _LATEST:
            infinite = "-infinity" if moment < _EARLIEST else "infinity"
            return (
                f"{self.unit} '{infinite}'" if self.unit != "text" else "''" if moment < _EARLIEST else "'9999-12-31'"
            )
        when = _EPOCH + timedelta(microseconds=moment)
        if self.unit == "timestamptz":
            return f"timestamptz '{when.isoformat(sep=' ')}'"
        local = when.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)
        if self.unit == "timestamp":
            return f"timestamp '{local.isoformat(sep=' ')}'"
        return f"'{local.isoformat(sep=self.separator)}'"

    def readable(self, expression: str) -> str:
        """SQL: a value of the column within the years 1 to 9999, beyond which PostgreSQL has times and Python none."""
        if self.unit not in ("timestamp", "timestamptz"):
            return expression
        return f"LEAST(GREATEST({expression}, {self.unit} '0001-01-01'), {self.unit} '9999-12-30')"

    def line(self, moment: int) -> str:
        """The last value at or before a moment, of midnight also one with seconds: rows are above this line or not."""
        unit = _UNITS.get(self.unit)
        return self._literal(moment) if unit is None else str(moment // unit)

    def settled(self, moment: int) -> int:
        """At most this moment: where no row to come is written, also when clocks are about to be put back.

        The hour before that is written twice then, and rows of its second half of time lie among those of its first.
        """
        if self.unit not in ("timestamp", "text") or self.zone == "UTC" or not _EARLIEST <= moment <= _LATEST:
            return moment
        quarter, zone = 900_000_000, ZoneInfo(self.zone)
        ahead = [moment, *((moment // quarter + i) * quarter for i in range(1, 13))]
        local = min((_EPOCH + timedelta(microseconds=at)).astimezone(zone).replace(tzinfo=None, fold=0) for at in ahead)
        return min(moment, self.moment(local) - 1)

    def moment(self, value: Any) -> int:
        """A value of the column, as the driver gives it, in microseconds since 1970. Raises ValueError."""
        unit = _UNITS.get(self.unit)
        if unit is not None:
            return int(value) * unit
        when = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(when, datetime):
            raise ValueError("not a time")
        if when.tzinfo is None:
            when = when.replace(tzinfo=ZoneInfo(self.zone))
        return (when - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Key:
    """A column that grows. ``sign`` -1: it grows downwards from -1, as numbers of backfilled events do.

    Values of a key are whole numbers that grow: the column's own, its negatives, or microseconds of a time.
    """

    name: str
    column: str  # an SQL expression with {a} for the table's alias
    time: Time | None = None
    sign: int = 1
    only: str = ""  # which rows belong to this key, where several share a table
    there: str = ""  # SQL that is false where this key has no row, and quick, where ``only`` is slow to find that out

    def of(self, alias: str) -> str:
        """The column of the table with this alias."""
        return self.column.replace("{a}", alias)

    def above(self, low: int, alias: str) -> str:
        """SQL: the rows above ``low``."""
        return f"{self.of(alias)} {'>' if self.sign > 0 else '<'} {self._literal(low)}"

    def upto(self, high: int, alias: str) -> str:
        """SQL: the rows of this key up to ``high``, included."""
        return f"{self.of(alias)} {'<=' if self.sign > 0 else '>='} {self._literal(high)}" + self.only_of(alias)

    def only_of(self, alias: str) -> str:
        """SQL to add to a condition: the rows of this key only."""
        return f" AND {self.only.replace('{a}', alias)}" if self.only else ""

    def between(self, low: int, high: int | None, alias: str) -> str:
        """SQL: the rows of this key above ``low``, up to ``high`` where there is one."""
        return (
            f"{self.above(low, alias)} AND {self.upto(high, alias)}"
            if high is not None
            else (self.above(low, alias) + self.only_of(alias))
        )

    @property
    def lowest(self) -> int:
        """Below every value but the first two of 64 bits, which are below it in a literal of 64 bits.

        Of times it is what state files have for a key without rows, as that of hosts that are not known yet.
        """
        return 0 if self.sign < 0 else 1 - 2**63 if self.time is None else -(2**62)

    def order(self, alias: str) -> str:
        """SQL: from the lowest value on, as the key's index has them."""
        return f"ORDER BY {self.of(alias)} {'ASC' if self.sign > 0 else 'DESC'}"

    def guarded(self, statement: str) -> str:
        """SQL: a statement's value, NULL where this key has no row."""
        return f"CASE WHEN {self.there} THEN ({statement}) END" if self.there else f"({statement})"

    def next_above(self, low: int | None, table: str) -> str:
        """A statement: the lowest value above ``low`` (of all, when None)."""
        where = [self.only.replace("{a}", "k")] if self.only else []
        if low is not None:
            where.append(self.above(low, "k"))
        return self._ordered(table, where, "ASC" if self.sign > 0 else "DESC")

    def newest(self, table: str, offset: int = 0) -> str:
        """A statement: the highest value, or the one with ``offset`` rows above it."""
        return self._ordered(
            table, [self.only.replace("{a}", "k")] if self.only else [], "DESC" if self.sign > 0 else "ASC", offset
        )

    def _ordered(self, table: str, where: list[str], order: str, offset: int = 0) -> str:
        column = self.of("k")
        where = [*where, f"{column} IS NOT NULL"]
        chosen, value = " AND ".join(where), self.time.readable(column) if self.time is not None else column
        return f"SELECT {value} FROM {table} k WHERE {chosen} ORDER BY {column} {order} LIMIT 1 OFFSET {offset}"

    def value(self, raw: Any) -> int:
        """What the driver gave, as a whole number that grows. Raises ValueError."""
        return self.time.moment(raw) if self.time is not None else int(raw) * self.sign

    def _literal(self, value: int) -> str:
        return self.time.line(value) if self.time is not None else str(value * self.sign)


@dataclass(frozen=True, slots=True)
class Cut:
    """Up to where the rows are sealed: per key, and up to which moment changes of sealed rows are in the base."""

    lows: MappingOf[str, int]
    moment: int


Region = Callable[[str], str]
"""SQL that chooses rows of the messages' table, given its alias."""
Rows = Callable[[str], str]
"""SQL to follow FROM: rows of the messages' table under this alias."""


@dataclass(frozen=True, slots=True)
class Table:
    """What is read of a table, for rights and for telling schemas apart."""

    name: str
    columns: tuple[str, ...]
    schema: str | None = None  # where it is not the search path that finds it


@dataclass(frozen=True, slots=True)
class Counter:
    """A denormalised number of messages per conversation, to be compared with the messages."""

    table: str
    id: str
    column: str
    message_conversation: str  # with {a}
    where: str = ""


@dataclass(frozen=True, slots=True)
class Correction:
    """Rows that ``RelaxedFilter`` counts too many, found in pages of another table by a key of texts with an index."""

    name: str
    table: str
    key: str
    rows: Callable[[str, str], str]
    """``rows(chosen, below)``: FROM and WHERE of these rows ``e``, each once, given two conditions: on the other
    table's rows ``k``, and which rows ``e`` are sealed."""
    whole: bool
    """Are these rows no messages at all? Else they weigh nothing any more, which changes above the cut may have done:
    ``identity`` is then what the key holds."""


@dataclass(frozen=True, slots=True)
class RelaxedFilter:
    """A cheaper ``where`` for a full count, in which every row weighs 1, and what it counts too many.

    A count that compares each of ten million rows with two small tables takes five times as long as one that does not,
    and makes these tables ready for that in each page anew.
    """

    where: str
    corrections: tuple[Correction, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """All that the engine knows of a database.

    ``where`` chooses the rows of ``table`` (alias ``e``) that say anything at all; ``weight`` is what each adds to
    the messages in ``1/units``. ``doubtful`` is added only where ``domain`` turns out not to be one of rooms.
    ``writer`` and ``conversation`` are texts that tell people and conversations apart, NULL for none; those of rooms
    begin with ``OF_ROOMS``. The first of ``tables`` is that of the messages.
    """

    kind: str
    schema: str
    dialect: Dialect
    tables: tuple[Table, ...]
    table: str
    keys: tuple[Key, ...]
    time: Time
    where: str
    weight: str
    meaning: MappingOf[str, str]
    rules: str = ""
    """Of a file of the user's own, what decides which rows count and for whom, and whether deletions are seen at once:
    counts by other rules do not go on."""
    where_of_few: str | None = None
    """The same as ``where``, where there is a form that is better for few rows."""
    units: int = 1
    steps: tuple[MappingOf[str, str], ...] = ()
    """Further columns of ``e`` by name, each worked out once per row, out of the table's columns and earlier steps."""
    doubtful: str | None = None
    domain: str | None = None
    writer: str | None = None
    recent: Key | None = None
    """The time as a key, where it has an index of its own: who wrote lately is then read by it, and not by every page
    of a full count."""
    relaxed: RelaxedFilter | None = None
    """Used where who wrote is read apart."""
    account: str | None = None
    """A statement with {w} that has a row when this writer is a registered user; ``registered`` is a condition."""
    registered: str | None = None
    conversation: str | None = None
    identity: str | None = None  # of a row, with {a}: another database has other ones
    users: str | None = None  # a statement with one number
    conversations: str | None = None  # a statement with one number
    rooms: str | None = None  # a statement: (conversation, domain) of rooms that need not have messages
    undone: Callable[[Rows, Region, Cut], str] | None = None
    """``undone(changed, target, cut)``: FROM and WHERE of the rows ``e`` of ``target`` that no longer count because of
    changes after the cut, and would count without them. A row may come several times."""
    change: Key | None = None
    """The time at which a row was changed, where that tells changes; else new rows do."""
    safe: MappingOf[str, str] = field(default_factory=dict)
    """Per key, a statement: the highest value below which nothing appears any more, or NULL."""
    opaque: str | None = None
    """SQL that is 1 for a row whose contents cannot be read; one such row, and messages cannot be told."""
    absent: MappingOf[str, str] = field(default_factory=dict)
    """Figures that this server cannot tell, and why."""
    counter: Counter | None = None
    indexes: tuple[tuple[str, str], ...] = ()
    """(table, first column) of the indexes that reading what is new relies on."""
    without_index: MappingOf[tuple[str, str], str] = field(default_factory=dict)
    """What the lack of one of them means, where it is not that what is new is found slowly."""

    def with_keys_of(self, other: Mapping) -> Mapping:
        """The same with the other's keys, by which counts were made: the last of several finds new hosts' rows, too."""
        return replace(self, keys=other.keys) if len(other.keys) > 1 else self
