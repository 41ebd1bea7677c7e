"""Is it still the database that was counted? Knows snapshots and mappings.

Four signs: what the database says of itself, rows that were sealed and are others now, a newest row below the sealed
ones, and the latest of the sealed rows gone. A restored copy has one of them: where keys are times, the last.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from typing import Any, Final

from exporter.observe.connections import Snapshot
from exporter.observe.counting import DirectFigures
from exporter.observe.mapping import Cut, Key, Mapping

SAMPLES: Final = 16
"""Rows whose identity is remembered: the latest that were sealed."""

ENOUGH: Final = 8
"""Of the latest rows that were sealed; so many are not deleted one by one."""

Samples = Sequence[Sequence[Any]]
"""(name of the key, value, identity of the row there)."""


def same_database(there: MappingOf[str, Any], here: MappingOf[str, Any]) -> bool:
    """Is it the database of the state? A file's change counter never goes back but by being replaced."""
    if here.get("changes", 0) < there.get("changes", 0):
        return False
    return all(there.get(name) == value for name, value in here.items() if name != "changes")


async def compare(snapshot: Snapshot, mapping: Mapping, samples: Samples) -> tuple[Samples, bool]:
    """Those of these rows that are still themselves, and is any another one now? One that is gone says nothing."""
    keys = {key.name: key for key in mapping.keys}
    known = [each for each in samples if each[0] in keys]
    if not known or mapping.identity is None:
        return [], False
    row = mapping.identity.replace("{a}", "e")
    told = [
        f"CASE WHEN EXISTS ({rows} AND {row} = {mapping.dialect.literal(identity)}) THEN 1 "
        f"WHEN EXISTS ({rows}) THEN 2 ELSE 0 END"
        for name, value, identity in known
        for rows in (_identities(mapping, keys[name], value),)
    ]
    (found,) = await snapshot.fetch(f"SELECT {', '.join(told)}")
    return [each for each, what in zip(known, found, strict=True) if what == 1], any(what == 2 for what in found)


async def sample(snapshot: Snapshot, mapping: Mapping, cut: Cut) -> Samples:
    """The rows at the cut."""
    found = []
    if mapping.identity is not None:
        for key in mapping.keys:
            rows = await snapshot.fetch(_identities(mapping, key, cut.lows[key.name]) + " LIMIT 1")
            found += [(key.name, cut.lows[key.name], str(row[0])) for row in rows if row[0] is not None]
    return found


def latest(known: Samples, found: Samples) -> Samples:
    """Those to remember, each once."""
    return [*dict.fromkeys((name, value, identity) for name, value, identity in [*known, *found])][-SAMPLES:]


def _identities(mapping: Mapping, key: Key, value: int) -> str:
    assert mapping.identity is not None  # noqa: S101 - samples are of mappings that have one
    row = mapping.identity.replace("{a}", "e")
    return f"SELECT {row} FROM {mapping.table} e WHERE {key.between(value - 1, value, 'e')}"


class Sizes:
    """What was there at the last pass, to see that something became less: sealed rows may have vanished with it."""

    def __init__(self) -> None:
        self._last: tuple[int, ...] = ()

    def shrank(self, rows: int, direct: DirectFigures, newest: MappingOf[str, int]) -> bool:
        """Is anything less than it was?"""
        last, now = (
            self._last,
            (rows, direct.users or 0, direct.conversations or 0, len(direct.rooms), *newest.values()),
        )
        self._last = now
        return len(last) == len(now) and any(after < before for before, after in zip(last, now, strict=True))


def none_left(samples: Samples, still: Samples) -> bool:
    """Are the latest of these rows gone? Then what was sealed since some moment went with them."""
    return len(samples) >= ENOUGH and not any(each in still for each in samples[-ENOUGH:])


def vanished(mapping: Mapping, cut: Cut, newest: MappingOf[str, int]) -> bool:
    """Is the newest row of a key below the sealed ones?"""
    return any(newest.get(key.name, key.lowest) < cut.lows[key.name] for key in mapping.keys)
