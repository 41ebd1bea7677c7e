"""Is it still the database that was counted? Knows readers and mappings.

Three signs: what the database says of itself, rows that were sealed and are others now, and a newest row below the
sealed ones. A restored copy has one of them.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from typing import Any, Final

from exporter.observe.connections import Reader, Snapshot
from exporter.observe.counting import DirectFigures
from exporter.observe.mapping import Cut, Key, Mapping

SECONDS: Final = 4.0
SAMPLES: Final = 16
"""Rows whose identity is remembered: the latest that were sealed."""

Samples = Sequence[Sequence[Any]]
"""(name of the key, value, identity of the row there)."""


def same_database(there: MappingOf[str, Any], here: MappingOf[str, Any]) -> bool:
    """Is it the database of the state? A file's change counter never goes back but by being replaced."""
    if here.get("changes", 0) < there.get("changes", 0):
        return False
    return all(there.get(name) == value for name, value in here.items() if name != "changes")


async def samples_match(reader: Reader, mapping: Mapping, samples: Samples) -> bool:
    """Are these rows still themselves? One that is gone says nothing. Raises SourceError."""
    keys = {key.name: key for key in mapping.keys}

    async def work(snapshot: Snapshot) -> bool:
        for name, value, identity in samples:
            rows = await snapshot.fetch(_identities(mapping, keys[name], value)) if name in keys else []
            if rows and identity not in [str(row[0]) for row in rows]:
                return False
        return True

    return await reader.read(work, SECONDS)


async def latest_differs(snapshot: Snapshot, mapping: Mapping, samples: Samples) -> bool:
    """Is the highest of these rows, by any key, another one now? One that is gone says nothing."""
    highest: dict[str, tuple[int, str]] = {}
    for name, value, identity in samples:
        highest[name] = max(highest.get(name, (value, identity)), (value, identity))
    others = [
        f"CASE WHEN EXISTS ({rows}) AND NOT EXISTS ({rows} AND {row} = {mapping.dialect.literal(identity)}) "
        "THEN 1 ELSE 0 END"
        for key in mapping.keys
        if key.name in highest and mapping.identity is not None
        for value, identity in (highest[key.name],)
        for rows, row in ((_identities(mapping, key, value), mapping.identity.replace("{a}", "e")),)
    ]
    return bool(others) and (await snapshot.fetch(f"SELECT {' + '.join(others)}"))[0][0] > 0


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


def vanished(mapping: Mapping, cut: Cut, newest: MappingOf[str, int]) -> bool:
    """Is the newest row of a key below the sealed ones?"""
    return any(
        cut.lows[key.name] > key.lowest and newest.get(key.name, key.lowest) < cut.lows[key.name]
        for key in mapping.keys
    )
