"""Reading pages and tails of a source into tallies, and the figures out of them. Knows no schedule.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from exporter.observe import statements
from exporter.observe.connections import Row, Snapshot
from exporter.observe.mapping import DAY, Correction, Cut, Key, Mapping, Region
from exporter.observe.records import SourceError, SourceTotals
from exporter.observe.sources import Source
from exporter.observe.tally import Facts, fingerprint

TAIL: Final = 250
"""Rows that stay unsealed and are read at every pass: what changes among them is seen at once."""
MAX_COLUMNS: Final = 500
"""Columns of a statement; SQLite and PostgreSQL allow 1,600 and more."""


@dataclass(frozen=True, slots=True)
class DirectFigures:
    """Figures that a plain statement gives: numbers, or why there is none."""

    users: int | None = None
    conversations: int | None = None
    rooms: dict[int, str] = field(default_factory=dict)


async def newest(snapshot: Snapshot, mapping: Mapping, *offsets: int) -> list[dict[str, int]]:
    """Per offset, the value of each key with so many above it: 0 is the highest. Keys with fewer rows are missing.

    In one statement: on a busy machine, each costs the time that two processes wait for their turn.
    """
    found: list[dict[str, int]] = [{} for _ in offsets]
    wanted = [(values, key, offset) for values, offset in zip(found, offsets, strict=True) for key in mapping.keys]
    columns = [key.guarded(key.newest(mapping.table, offset)) for _, key, offset in wanted]
    for (values, key, _), raw in zip(wanted, await _values(snapshot, columns), strict=True):
        if raw is not None:
            values[key.name] = key_value(key, raw)
    return found


async def _values(snapshot: Snapshot, columns: Sequence[str]) -> list[Any]:
    """What these expressions give, in as few statements as may be."""
    found: list[Any] = []
    for start in range(0, len(columns), MAX_COLUMNS):
        (row,) = await snapshot.fetch(f"SELECT {', '.join(columns[start : start + MAX_COLUMNS])}")
        found += row
    return found


def key_value(key: Key, raw: Any) -> int:
    """A key as a whole number. Raises SourceError for what does not grow."""
    try:
        if key.time is None and not isinstance(raw, int | float | Decimal):
            raise TypeError  # texts and UUIDs have another order than the numbers in them
        return key.value(raw)
    except (ValueError, TypeError, OverflowError) as error:
        raise SourceError(
            f"the key {key.name} holds neither whole numbers nor times: give a column that does, or the time",
            lasting=True,
        ) from error


def bottom(mapping: Mapping) -> dict[str, int]:
    """A cut with nothing below it."""
    return {key.name: key.lowest for key in mapping.keys}


async def tail(snapshot: Snapshot, mapping: Mapping, cut: Cut, midnight: int) -> Facts:
    """What lies above the cut, less what changes above it have undone below."""
    facts, sizes = Facts(), await _sizes(snapshot, mapping, cut)
    if (rows := statements.tail(mapping, cut, sizes)) is not None:
        told = replace(mapping, where=mapping.where_of_few or mapping.where)
        found = await snapshot.fetch(statements.facts(told, f"{rows('e')} WHERE 1 = 1", midnight))
        facts.take(found, fingerprints=mapping.dialect.fingerprints)
    undone = await _undone(snapshot, mapping, statements.below(mapping, cut), cut, midnight, sizes)
    facts.take_undone(undone, mapping.units, -1)
    return facts


async def _sizes(snapshot: Snapshot, mapping: Mapping, cut: Cut) -> dict[str, int]:
    """How much is new, as ``statements.sizes`` asks."""
    wanted = statements.sizes(mapping, cut)
    found = await _values(snapshot, [*wanted.values()])
    return {name: size or 0 for name, size in zip(wanted, found, strict=True)}


async def many_above(snapshot: Snapshot, mapping: Mapping, cuts: Sequence[Cut]) -> list[bool]:
    """Per cut, is so much above it that it may be more than one reading can take?"""
    return [max((await _sizes(snapshot, mapping, cut)).values()) >= statements.MANY for cut in cuts]


async def _undone(
    snapshot: Snapshot, mapping: Mapping, target: Region, cut: Cut, midnight: int, sizes: dict[str, int] | None = None
) -> Sequence[Row]:
    """What changes above the cut have undone in ``target``."""
    if mapping.undone is None:
        return ()
    changed = statements.changed(mapping, cut, sizes or await _sizes(snapshot, mapping, cut))
    if changed is None:
        return ()
    return await snapshot.fetch(statements.undone(mapping, changed, target, cut, midnight))


@dataclass(slots=True)
class Page:
    """What the database sent of a page; made into facts when its transaction has ended."""

    facts: Sequence[Row] = ()
    undone: Sequence[Row] = ()
    writers: Sequence[Row] = ()
    taken: Sequence[Row] = ()
    """Rows of ``statements.corrections``: what the relaxed filter counts too many."""
    whole: bool = False
    """Are these no messages at all, so that their rows go, too?"""

    @property
    def empty(self) -> bool:
        """Is there no row?"""
        return not self.facts and not self.writers

    def digest(self, mapping: Mapping) -> Facts:
        """As facts; people by day where only they were read."""
        facts = Facts()
        facts.take(self.facts, fingerprints=mapping.dialect.fingerprints)
        facts.take_undone(self.undone, mapping.units, 1)
        facts.take_undone(self.taken, mapping.units, -1)
        if self.whole:
            facts.tally.rows -= sum(int(count) for _, count in self.taken)
        facts.take_writers(self.writers, fingerprints=mapping.dialect.fingerprints)
        return facts


async def page(
    snapshot: Snapshot, mapping: Mapping, key: Key, low: int, high: int, cut: Cut, midnight: int, *, writers: bool
) -> Page:
    """Rows of one key above ``low`` up to ``high``, as they counted before the changes above the cut.

    With the relaxed filter each weighs 1: ``correct`` tells the rest.
    """
    chosen = statements.of_region(mapping, key.between(low, high, "e"))
    rows = await snapshot.fetch(statements.facts(mapping, chosen, midnight, writers=writers))
    if not rows:
        return Page(rows)
    return Page(rows, await _undone(snapshot, mapping, lambda alias: key.between(low, high, alias), cut, midnight))


async def correct(
    snapshot: Snapshot, mapping: Mapping, correction: Correction, low: str, span: int, cut: Cut, midnight: int
) -> tuple[str | None, Page]:
    """What is counted too many by the next ``span`` rows of another table, and where these end; None at its end."""
    literal, key, table = mapping.dialect.literal, correction.key, correction.table
    chosen = f"k.{key} > {literal(low)}"
    rows = await snapshot.fetch(f"SELECT k.{key} FROM {table} k WHERE {chosen} ORDER BY k.{key} LIMIT 1 OFFSET {span}")
    high = str(rows[0][0]) if rows else None
    if high is not None:
        chosen += f" AND k.{key} <= {literal(high)}"
    taken = await snapshot.fetch(statements.corrections(mapping, correction, chosen, cut, midnight))
    if correction.whole or mapping.undone is None or mapping.identity is None:
        return high, Page(taken=taken, whole=correction.whole)
    there, sealed = mapping.identity, statements.below(mapping, cut)
    identified = chosen.replace(f"k.{key}", there)

    def target(alias: str) -> str:
        return f"{sealed(alias)} AND {identified.replace('{a}', alias)}"

    return high, Page(taken=taken, undone=await _undone(snapshot, mapping, target, cut, midnight))


async def writers(snapshot: Snapshot, mapping: Mapping, key: Key, low: int, high: int | None, midnight: int) -> Page:
    """Who wrote after ``low`` up to ``high``, or till now and later. ``key`` is that of the time.

    Who wrote above the cut is among them, which the tail says, too.
    """
    rows = statements.of_region(mapping, key.between(low, high, "e"))
    await snapshot.expect_many()
    return Page(writers=await snapshot.fetch(statements.writers(mapping, rows, midnight)))


async def direct(snapshot: Snapshot, mapping: Mapping) -> DirectFigures:
    """The figures that are statements of their own."""
    users = conversations = None
    rooms: dict[int, str] = {}
    if mapping.users is not None and "registered_users" not in mapping.absent:
        users = int((await snapshot.fetch(mapping.users))[0][0])
    if mapping.conversations is not None and "stored_conversations" not in mapping.absent:
        conversations = int((await snapshot.fetch(mapping.conversations))[0][0])
    if mapping.rooms is not None:
        rooms = {fingerprint(name): domain for name, domain in await snapshot.fetch(mapping.rooms)}
    return DirectFigures(users, conversations, rooms)


def midnight_of(now: float) -> int:
    """The latest UTC midnight in microseconds since 1970."""
    return int(now * 1_000_000) // DAY * DAY


async def count_once(
    url: str,
    kind: str,
    host: str | None = None,
    now: datetime | float | None = None,
    config_file: Path | None = None,
) -> SourceTotals:
    """Count a source once, without remembering anything: every figure as of now, or why it is not known.

    ``host`` (several with commas) is needed by ejabberd's default schema, ``config_file`` by a custom mapping. ``now``
    is the moment that "today" and the windows are reckoned from. Raises Misconfigured and SourceError.
    """
    from exporter.observe.engine import Engine
    from exporter.observe.state import State

    hosts = tuple(part.strip() for part in (host or "").split(",") if part.strip())
    moment = now.timestamp() if isinstance(now, datetime) else now

    def clock() -> float:
        return time.time() if moment is None else moment

    engine = Engine(Source(url, kind, config_file=config_file, hosts=hosts), State(None), load=1.0, clock=clock)
    try:
        return await engine.count()
    finally:
        await engine.close()
