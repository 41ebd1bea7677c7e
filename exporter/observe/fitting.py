"""Does a mapping of one's own fit the columns that are there? What does not gets one line that says what would.

Knows types and values, no connection. Tested in ``tests/observe/test_custom.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingOf
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

NUMBERS: Final = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
TEXTS: Final = ("text", "character varying", "character")
_FITTING: Final = {
    **dict.fromkeys(NUMBERS, ("s", "ms", "us", "flag")),
    **dict.fromkeys(TEXTS, ("text",)),
    "timestamp with time zone": ("timestamptz",),
    "timestamp without time zone": ("timestamp",),
    "date": ("timestamp",),
    "boolean": ("flag",),
    **dict.fromkeys(("uuid", "json", "jsonb", "bytea", "interval", "time without time zone", "inet"), ()),
}
"""PostgreSQL's types, and the units of a time in such a column. Of others nothing is known."""
_UNITS: Final = {"s": 1, "ms": 1_000, "us": 1_000_000}
_PLAUSIBLE: Final = (datetime(1990, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp())
_JULIAN: Final = (2_447_892, 2_488_070)  # the same years
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_FLAG: Final = re.compile(r"\d|\Z")  # SQLite makes a number of how a text begins
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]00:00(?::00(?:\.0+)?)?(?:Z|\+00(?::?00)?)?)?")
# After a time of day, or a date and +: others write a time of day as -12.30.00 or 12-30-00.
_OFFSET: Final = re.compile(r"[ T]?(?:\d\d:?\d\d[\d:.,]*\s?[+-]|\+)(?!00(?::?00)*(?![\d:]))\d\d")
_EARLY: Final = "'1970-01-02'"  # in every zone after the first moment of 1970
_LATE: Final = "2100"


def key_reason(key: str, type_: str, time: str) -> str | None:
    """Why a column of this type cannot be the key; None when it may."""
    if type_ in NUMBERS or type_ not in _FITTING:
        return None
    return (
        f"the key {key} is of type {type_}, which does not grow with the rows as whole numbers do: give a column of "
        f"whole numbers, or the column of time (key: {time})"
    )


def unit_reason(column: str, type_: str, unit: str) -> str | None:
    """Why a column of this type cannot hold times (or a flag) in this unit; None when it may."""
    fitting = _FITTING.get(type_)
    if fitting is None or unit in fitting:
        return None
    if not fitting:
        return f"the column {column} is of type {type_}, which holds no times"
    zone = ", with the zone that it is in" if fitting == ("timestamp",) else ""
    return f"the column {column} is of type {type_}: its unit is {' or '.join(fitting)}{zone}, not {unit}"


def value_reason(column: str, value: Any, unit: str, use: str) -> str | None:
    """Why this value of a column does not do as ``time``, ``days`` or ``deleted`` in this unit; None when it does."""
    numeric = _numeric(value)
    endless = f"the column {column} holds a time without end for what is not deleted: map a view that has NULL instead"
    if use == "days":
        return f"the key {column} holds days, of which rows to come have the same: give a column of whole numbers"
    if unit in _UNITS:
        if not numeric:
            return _digits(column, value) or (
                f"the column {column} holds {_shown(value)}, which is no number: its unit is text"
            )
        if _plausible(value, unit):
            return None
        late = use == "deleted" and float(value) / _UNITS[unit] > _PLAUSIBLE[1]
        return _other_unit(column, value, unit) or (endless if late else None)
    if use == "deleted" and _DATE.match(str(value)) and str(value) >= _LATE:
        return endless
    if unit == "flag" and isinstance(value, str | bytes) and not _FLAG.match(str(value)):
        return f"the column {column} holds {_shown(value)}, which is no flag: map a view that has a number instead"
    if unit == "text" and (value or use != "deleted"):
        if numeric:
            return _other_unit(column, value, unit)
        if not _DATE.match(str(value)):
            return _digits(column, value) or (
                f"the column {column} holds {_shown(value)}, which is no time such as 2026-01-31 12:00:00"
            )
        if _OFFSET.match(str(value)[10:]):
            return (
                f"the column {column} holds times with an offset ({_shown(value)}), which do not compare as texts: "
                "map a view that has them in UTC"
            )
    return None


def are_days(values: Sequence[Any], unit: str) -> bool:
    """Are these values of a column days, or their first moments? One midnight alone may be a moment."""
    if unit in _UNITS:
        return len(values) > 1 and all(_numeric(each) and each % (86_400 * _UNITS[unit]) == 0 for each in values)
    pattern = _DAY if len(values) > 1 else _DATE
    return all(pattern.fullmatch(str(each)) for each in values)


def never(column: str, unit: str, dialect: str) -> str:
    """SQL: was this not deleted? Beside NULL, what frameworks write for no time: an empty text, or one up to 1970.

    That is 0 or -1, the year 1 of Go, the ``-infinity`` of .NET, the zero date of MySQL. SQLite takes any type.
    """
    if unit in _UNITS:
        early = f"{column} <= 0"
    elif dialect == "sqlite":
        early = f"{column} <= 0 OR {column} BETWEEN '' AND {_EARLY}"
    else:
        early = f"{column} < {_EARLY}"
    return f"{column} IS NULL OR {early}"


def named_in(condition: str, columns: Iterable[str], dialect: str) -> Sequence[str]:
    """The columns that an SQL condition names, as words or in quotes.

    Capitals are small letters to PostgreSQL, but in quotes; to SQLite they are the same. A column too many is one that
    the user has to be granted.
    """
    words = {word for word in re.findall(r"\w+", condition) for word in (word, word.lower())}

    def named(column: str) -> bool:
        if not re.fullmatch(r"\w+", column):
            return column in condition
        return (column.lower() if dialect == "sqlite" else column) in words

    return [column for column in columns if named(column)]


def _shown(value: Any) -> str:
    """A value that looks like a time; whatever else is in a column may be somebody's message."""
    return repr(value) if re.fullmatch(r"[\d\sTZ:.,/+-]{1,40}", str(value)) else "a text"


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) or type(value).__name__ == "Decimal"


def _digits(column: str, value: Any) -> str | None:
    """What to do with a number in a text, which is of no unit."""
    if not re.fullmatch(r"\d+(\.\d*)?", str(value)):
        return None
    return f"the column {column} holds {_shown(value)} as a text: map a view that has it as a number"


def _plausible(value: Any, unit: str) -> bool:
    return _PLAUSIBLE[0] <= float(value) / _UNITS[unit] <= _PLAUSIBLE[1]


def _other_unit(column: str, value: Any, unit: str) -> str | None:
    """Which unit would make a likely time of it; a column whose times nobody knows is left alone."""
    if _JULIAN[0] <= float(value) <= _JULIAN[1]:  # PostgreSQL's numeric has NaN, which does not compare as a Decimal
        return f"the column {column} holds {value}, which is a Julian day: map a view that has seconds since 1970"
    if _plausible(value / 1_000, "us"):
        return f"the column {column} holds {value}, which are nanoseconds: map a view that has them in microseconds"
    likely = [other for other in _UNITS if _plausible(value, other)]
    return f"the column {column} holds {value}: its unit is {likely[0]}, not {unit}" if likely else None


def comparison_reason(columns: Sequence[tuple[str, str, str]]) -> str | None:
    """Why these columns, each ``(table, column, type)``, do not compare with each other; None when they may."""
    kinds = {
        "a number" if type_ in NUMBERS else "a text" if type_ in TEXTS else type_
        for _, _, type_ in columns
        if type_ in NUMBERS or type_ in TEXTS or type_ == "uuid"
    }
    if len(kinds) < 2:
        return None
    each = " and ".join(f"{column} of {table} ({type_})" for table, column, type_ in columns)
    return f"columns that are compared are of different types: {each}; map a view that has one of them cast"


def name_reason(name: str, there: MappingOf[str, Any], kind: str) -> str:
    """There is no table or column of that name; those that are nearly it."""
    alike = sorted(other for other in there if _plain(other) == _plain(name))
    if not alike and kind == "table":
        alike = sorted(other for other in there if _plain(other).endswith(f".{_plain(name)}"))
    hint = f"; there is {', '.join(alike[:5])}" if alike else ""
    return f"no {kind} {name}{hint}"


def _plain(name: str) -> str:
    return re.sub(r'["`\[\]]', "", name).lower()


def several(value: Any) -> Sequence[str]:
    """The columns, where a key was given as several."""
    parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else []
    return [str(part).strip() for part in parts] if len(parts) > 1 else []


def rows_of(part: MappingOf[str, Any]) -> str:
    """Which rows of its table a part of the file means, in words."""
    return f"rows of {part['table']}" + (f" with {part['filter']}" if "filter" in part else "")


def rules(*parts: Any) -> str:
    """A fingerprint of what the file says of the rows that are counted, whatever the order of its lines."""
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()
