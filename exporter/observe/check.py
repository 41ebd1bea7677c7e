"""``observe --check``: what would be read, what is missing, what the figures mean, and what they are. Knows no HTTP.

Tested in ``tests/observe/test_grants.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from exporter.core.errors import Misconfigured
from exporter.observe.engine import Engine
from exporter.observe.mapping import Mapping
from exporter.observe.records import FIGURES, WINDOWS, SourceError, SourceTotals
from exporter.observe.sources import Source
from exporter.observe.state import State

ALL_WELL: Final = 0
FINDINGS: Final = 1
UNCHECKED: Final = 2


async def check_all(sources: Sequence[Source], *, out: Callable[[str], None]) -> int:
    """Check every source and print what is found: the worst exit status of all."""
    return max([await check(source, out=out) for source in sources])


async def check(source: Source, *, out: Callable[[str], None]) -> int:
    """Check one source: 0 all is well, 1 something is missing or wrong, 2 it cannot be read."""
    out(f"{source.title}: {source.kind}")
    engine = Engine(source, State(None), load=1.0)
    try:
        missing = await _look(engine, out)
        totals = await engine.count()
    except (SourceError, Misconfigured) as error:
        out(f"  could not check: {error.told if isinstance(error, SourceError) else error}")
        return UNCHECKED
    finally:
        await engine.close()
    assert engine.latest_mapping is not None  # noqa: S101 - it has been counted
    _print_figures(engine.latest_mapping, totals, out)
    wrong = engine.counters.inaccurate
    if wrong is not None:
        out(f"  inaccurate_conversations: {wrong.number:,}")
        for conversation, said, counted in wrong.wrong:
            out(f"    {conversation}: the counter says {said}, there are {counted} messages")
        missing = missing or wrong.number > 0
    return FINDINGS if missing else ALL_WELL


async def _look(engine: Engine, out: Callable[[str], None]) -> bool:
    """Open, and say what is read; True when something is missing. Raises SourceError, Misconfigured."""
    from exporter.observe import rights

    mapping = await engine.look_at_schema()
    out(f"  schema {mapping.schema}, on {mapping.dialect.name}, read {engine.reader.read_mode}")
    refused = await rights.missing(engine.reader, mapping)
    for table in mapping.tables:
        name = f"{table.schema}.{table.name}" if table.schema else table.name
        out(f"  reads {name} ({', '.join(table.columns)})")
    if refused:
        out(f"  rights are missing for {', '.join(refused)}; grant them with")
        for statement in await rights.grants(engine.reader, mapping):
            out(f"    {statement}")
        raise SourceError("the source may not be read")
    views = await rights.views(engine.reader)
    indexes = await rights.missing_indexes(engine.reader, mapping)
    for name, column in indexes:
        without = mapping.without_index.get((name, column), "what is new is found slowly")
        if name in views:
            out(f"  {name} is a view: whether an index serves {column} is not known here; without one, {without}")
        else:
            out(f"  there is no index on {name} ({column}): {without}")
    return any(name not in views for name, _ in indexes)


def _print_figures(mapping: Mapping, totals: SourceTotals, out: Callable[[str], None]) -> None:
    for figure in FIGURES:
        meaning = mapping.meaning.get(figure, "")
        if figure in totals.unknown:
            out(f"  {figure}: not known: {totals.unknown[figure]}")
        elif figure == "active_users":
            for window in WINDOWS:
                out(f"  active_users {window}d: {totals.active_users[window]:,}")
        else:
            out(f"  {figure}: {getattr(totals, figure):,}")
        if meaning:
            out(f"      {meaning}")
