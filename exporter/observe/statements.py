"""The engine's few statements, out of a mapping. Knows no connection.

``facts`` reads a region of the messages once and groups what it needs, so that a page of a million rows comes back as
few: what they weigh, by age; who wrote in the last 30 days, and when last; which conversations there are. ``writers``
reads the second of these alone, by the index on the time.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence

from exporter.observe.mapping import DAY, Correction, Cut, Dialect, Key, Mapping, Region, Rows
from exporter.observe.records import WINDOWS

AGES = 4
"""Before today; today; tomorrow; later. What is dated in the future counts as today's, as ``>= midnight`` would."""
LONGEST = max(WINDOWS)
MANY = 100_000
"""Rows up to which the size of what is new is found out first."""
CHANGES = ""
"""In place of a key's name: the size of what was changed, where that is told by a time of its own."""


def age(mapping: Mapping, midnight: int) -> str:
    """SQL: the age of a row as a number from 0."""
    time = mapping.time
    column = time.of("e")
    branches = " ".join(
        f"WHEN {column} >= {time.literal(midnight + ahead * DAY)} THEN {ahead + 1}" for ahead in (2, 1, 0)
    )
    return f"CASE {branches} ELSE 0 END"


def day(mapping: Mapping, midnight: int) -> str:
    """SQL: the UTC day of a row of the longest window, in days since 1970; NULL for an older one.

    By comparing with each midnight, which works for a column of any type in any zone. What is dated in the future is
    of its day, as far as ages go: it is sealed today, and of today after midnight.
    """
    time = mapping.time
    column = time.of("e")
    today = midnight // DAY
    branches = [
        f"WHEN {column} >= {time.literal(midnight + ahead * DAY)} THEN {today + ahead}"
        for ahead in range(AGES - 2, -LONGEST, -1)
    ]
    # The usual row is an old one: it is compared once.
    oldest = time.literal(midnight - (LONGEST - 1) * DAY)
    return f"CASE WHEN {column} < {oldest} THEN NULL {' '.join(branches)} END"


def facts(mapping: Mapping, rows: str, midnight: int, *, writers: bool = True) -> str:
    """Rows ``(conversation, domain, writer, age, last day, rows, weight, doubtful, opaque rows, registered)``.

    ``rows``: what follows FROM, with the alias ``e`` and a WHERE.

    The writer is a fingerprint where the database makes them; nobody where they are not asked for.
    """
    writer = mapping.writer if writers else None
    if writer is not None:
        recent = f"{mapping.time.of('e')} >= {mapping.time.literal(midnight - (LONGEST - 1) * DAY)}"
        writer = f"CASE WHEN {recent} THEN {writer} END"
    last_day = "NULL" if writer is None else f"MAX({day(mapping, midnight)})"
    # Columns that are constant are not grouped by: PostgreSQL takes no constant there.
    columns = {"c": mapping.conversation, "d": mapping.domain, "w": writer}
    selected = ", ".join(f"{sql or 'NULL'} AS {name}" for name, sql in columns.items())
    grouped = [str(i) for i, sql in enumerate(columns.values(), start=1) if sql is not None] + ["4"]
    inner = (
        f"SELECT {selected}, {age(mapping, midnight)} AS age, {last_day} AS day, COUNT(*) AS n, "
        f"SUM({mapping.weight}) AS weight, {_sum(mapping.doubtful)} AS doubtful, {_sum(mapping.opaque)} AS opaque "
        f"FROM {_told(mapping, rows)} GROUP BY {', '.join(grouped)}"
    )
    registered = "1"
    if writer is not None and (known := _registered(mapping, many=False)) is not None:
        registered = f"CASE WHEN g.w IS NULL THEN 0 WHEN {known} THEN 1 ELSE 0 END"
    person = "g.w" if writer is None else fingerprint(mapping.dialect, "g.w")
    return (
        f"SELECT g.c, g.d, {person} AS w, g.age, g.day, g.n, g.weight, g.doubtful, g.opaque, "
        f"{registered} AS registered FROM ({inner}) g"
    )


def writers(mapping: Mapping, rows: str, midnight: int) -> str:
    """Rows ``(day, writers, rows)``: registered users by the last day on which they wrote, out of the longest window.

    ``writers`` are fingerprints of 8 bytes each where the database makes them, else there is a row for each name.
    """
    inner = (
        f"SELECT {mapping.writer} AS w, MAX({day(mapping, midnight)}) AS day, COUNT(*) AS n "
        f"FROM {_told(mapping, rows)} GROUP BY 1"
    )
    known = _registered(mapping, many=True)
    people = f"SELECT g.day, g.w, g.n FROM ({inner}) g WHERE g.w IS NOT NULL AND g.day IS NOT NULL" + (
        f" AND {known}" if known else ""
    )
    if not mapping.dialect.fingerprints:
        return people
    packed = f"string_agg(int8send({fingerprint(mapping.dialect, 'p.w')}), ''::bytea)"
    return f"SELECT p.day, {packed}, SUM(p.n) FROM ({people}) p GROUP BY p.day"


def fingerprint(dialect: Dialect, text: str) -> str:
    """SQL: 64 bits in place of a text, by which PostgreSQL also tells the parts of a table; elsewhere the text."""
    return f"hashtextextended(({text})::text, 0)" if dialect.fingerprints else text


def _registered(mapping: Mapping, *, many: bool) -> str | None:
    """SQL: is ``g.w`` a registered user? None where everybody is.

    Of few writers, each is looked up. EXISTS leaves it to PostgreSQL to go through the whole table of users instead,
    which it would do for few, too: it takes each row of a page for another writer.
    """
    condition = mapping.registered
    if mapping.account is not None:
        condition = f"EXISTS ({mapping.account})" if many else f"({mapping.account} LIMIT 1) = 1"
    return None if condition is None else condition.replace("{w}", "g.w")


def _told(mapping: Mapping, rows: str) -> str:
    """What follows FROM: those of these rows ``e`` that say anything, with the columns of the mapping's steps."""
    return stepped(mapping.tables[0].columns, f"{rows} AND ({mapping.where})", mapping.steps, mapping.dialect)


def of_region(mapping: Mapping, region: str) -> str:
    """What follows FROM: the rows ``e`` of a region."""
    return f"{mapping.table} e WHERE {region}"


def sizes(mapping: Mapping, cut: Cut) -> dict[str, str]:
    """Per key, a statement: how many rows are above the cut, up to ``MANY``; and how many were changed since."""
    found = {key.name: key.guarded(_size(mapping, key, cut.lows[key.name])) for key in mapping.keys}
    if mapping.change is not None:
        found[CHANGES] = mapping.change.guarded(_size(mapping, mapping.change, cut.moment))
    return found


def _size(mapping: Mapping, key: Key, low: int) -> str:
    rows = f"SELECT 1 FROM {mapping.table} k WHERE {key.between(low, None, 'k')} {key.order('k')} LIMIT {MANY}"
    return f"SELECT COUNT(*) FROM ({rows}) c"


def tail(mapping: Mapping, cut: Cut, sizes: MappingOf[str, int]) -> Rows | None:
    """The rows above the cut, of which there are so many of each key; None where there are none."""
    parts = [_above(mapping, key, cut.lows[key.name], sizes[key.name]) for key in mapping.keys if sizes[key.name]]
    rows = " UNION ALL ".join(f"SELECT * FROM {part} p{i}" for i, part in enumerate(parts))
    return (lambda alias: f"({rows}) {alias}") if parts else None


def changed(mapping: Mapping, cut: Cut, sizes: MappingOf[str, int]) -> Rows | None:
    """The rows that tell of changes: those of the tail, or those with a time of change after the cut's moment."""
    if mapping.change is None:
        return tail(mapping, cut, sizes)
    part = _above(mapping, mapping.change, cut.moment, sizes[CHANGES])
    return (lambda alias: f"{part} {alias}") if sizes[CHANGES] else None


def _above(mapping: Mapping, key: Key, low: int, size: int) -> str:
    """The rows of one key above ``low``, as a subquery.

    PostgreSQL believes a LIMIT. Its own guess of what lies above a value is a part of the column's histogram, or a
    third of a table that was never analysed: for some hundred rows it then read whole tables of edits and redactions,
    and made hash tables of them. The order makes it use the key's index, whatever it guesses.
    """
    rows = f"SELECT {_columns(mapping)} FROM {mapping.table} k WHERE {key.between(low, None, 'k')}"
    return f"({rows} {key.order('k')} LIMIT {size})" if size < MANY else f"({rows})"


def _columns(mapping: Mapping) -> str:
    return ", ".join(f'k."{name}"' for name in mapping.tables[0].columns)


def stepped(
    columns: Sequence[str], rows: str, steps: Sequence[MappingOf[str, str]], dialect: Dialect, order: str = ""
) -> str:
    """SQL after FROM: these rows, each step's columns worked out once.

    Without the fences, both databases put the steps' text in the place of each use: a stanza was taken apart a hundred
    times over. Columns come by name: the rights may be for these only.
    """
    taken, fence = ", ".join(f'e."{name}"' for name in columns), order or dialect.fence
    for step in steps:
        made = ", ".join(f"{sql} AS {name}" for name, sql in step.items())
        rows = f"(SELECT {taken}, {made} FROM {rows} {fence}) e"
        taken, fence = "e.*", dialect.fence
    return rows


def _sum(expression: str | None) -> str:
    return "0" if expression is None else f"SUM({expression})"


def undone(mapping: Mapping, changed: Rows, target: Region, cut: Cut, midnight: int) -> str:
    """Rows ``(age, rows)``: what was counted in ``target`` and is undone by what ``changed``."""
    assert mapping.undone is not None  # noqa: S101 - asked for only where there is one, which needs an identity
    assert mapping.identity is not None  # noqa: S101 - as above
    # A row that tells of its own change comes once; its identity is not its own where it is a sender or a time.
    once = "" if mapping.change is not None else f"DISTINCT {mapping.identity.replace('{a}', 'e')} AS id, "
    return (
        f"SELECT z.age, COUNT(*) FROM (SELECT {once}{age(mapping, midnight)} AS age "
        f"{mapping.undone(changed, target, cut)}) z GROUP BY z.age"
    )


def corrections(mapping: Mapping, correction: Correction, chosen: str, cut: Cut, midnight: int) -> str:
    """Rows ``(age, rows)`` of what was counted too many, by the other table's rows ``k`` that are chosen."""
    found = correction.rows(chosen, below(mapping, cut)("e"))
    return f"SELECT z.age, COUNT(*) FROM (SELECT {age(mapping, midnight)} AS age {found}) z GROUP BY z.age"


def below(mapping: Mapping, cut: Cut) -> Region:
    """The sealed rows: those of every key up to the cut."""
    return lambda alias: "(" + " OR ".join(key.upto(cut.lows[key.name], alias) for key in mapping.keys) + ")"
