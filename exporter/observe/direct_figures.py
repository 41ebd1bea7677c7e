"""Figures that are statements of their own: users and conversations. Knows readers; keeps what was read last.

They are of the pass's own snapshot as long as that is quick. Where a million users make it slow, they are read between
the scrapes instead, for a hundredth of the time, and the moment of the figures is theirs.

Tested in ``tests/observe/test_engine.py``.
"""

from __future__ import annotations

import time
from typing import Final

from exporter.observe import counting
from exporter.observe.connections import Reader, Snapshot
from exporter.observe.counting import DirectFigures
from exporter.observe.mapping import Mapping

QUICK: Final = 0.02
"""Seconds that a pass may spend on them."""
SHARE: Final = 0.01
OLDEST: Final = 300.0
"""Seconds after which a pass reads them itself: nobody did so in between."""
SECONDS: Final = 4.0


class DirectFiguresCache:
    """The latest; with ``background_refresh`` somebody calls ``refresh`` when it is ``due``."""

    def __init__(self, *, background_refresh: bool) -> None:
        self._background_refresh = background_refresh
        self._latest: tuple[DirectFigures, float, float] | None = None
        self._wanted = False

    def forget(self) -> None:
        """Of another database."""
        self._latest, self._wanted = None, False

    async def read(self, snapshot: Snapshot, mapping: Mapping, now: float) -> tuple[DirectFigures, float, float]:
        """(the figures, their moment, how long they took), of a snapshot."""
        started = time.perf_counter()
        direct = await counting.direct(snapshot, mapping)
        return direct, now, time.perf_counter() - started

    def keep(self, read: tuple[DirectFigures, float, float]) -> None:
        """They were read."""
        self._latest = read

    def cached(self, now: float) -> tuple[DirectFigures, float, float] | None:
        """Those read last, where a pass is to do without reading them."""
        if not self._background_refresh or self._latest is None:
            return None
        _, at, took = self._latest
        self._wanted = True
        return self._latest if took > QUICK and 0 <= now - at < OLDEST else None

    def due(self, now: float) -> bool:
        """Is it time to read them again, since somebody asked?"""
        if not self._wanted or self._latest is None:
            return False
        _, at, took = self._latest
        return took > QUICK and not 0 <= now - at < took / SHARE

    async def refresh(self, reader: Reader, mapping: Mapping, now: float) -> None:
        """Read them in a snapshot of their own. Raises SourceError."""
        self.keep(await reader.read(lambda snapshot: self.read(snapshot, mapping, now), SECONDS))
        self._wanted = False
