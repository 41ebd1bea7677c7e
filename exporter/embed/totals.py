"""Totals of the host's own database, by ``observe``'s mappings. What reads databases is imported when it is used."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.core.records import DatabaseView, PoolStats

if TYPE_CHECKING:
    from exporter.observe.collector import SourceCollector


@dataclass
class Source:
    """A database to be observed, read-only: ``Live(totals=Source(url, "mapping.yml"))``.

    Args:
        url: ``postgresql://…`` or ``sqlite:///…``; it may hold a password, and is never shown.
        mapping: the file that says what a message is (docs/observe.md), for the kind ``custom``.
        kind: one of the servers that ``messaging-exporter observe`` knows, or ``custom``.
        data_dir: where the state survives a restart; without it everything is counted again.
        load: the share of time that counting may take.
        recount_interval: seconds between full recounts.
    """

    url: str = field(repr=False)
    mapping: str | Path | None = None
    kind: str = "custom"
    data_dir: str | Path | None = None
    load: float = 0.05
    recount_interval: float = 3_600.0
    _collector: SourceCollector | None = field(default=None, init=False, repr=False)

    async def start(self) -> None:
        """Begin to count, on the running loop; once. Raises Misconfigured."""
        if self._collector is not None:
            return
        from exporter.observe import sources
        from exporter.observe.collector import SourceCollector

        described = sources.Source(
            self.url, self.kind, config_file=None if self.mapping is None else Path(self.mapping)
        )
        collector = SourceCollector(
            described,
            None if self.data_dir is None else Path(self.data_dir),
            load=self.load,
            recount_interval=self.recount_interval,
        )
        self._collector = collector
        try:
            await collector.start()
        except BaseException:
            self._collector = None
            raise

    async def collect(self, deadline: float) -> DatabaseView:
        """The figures as of now, or why they are not known; within ``deadline`` seconds."""
        collector = self._collector
        if collector is not None:
            await collector.collect(deadline)
        return self.latest()

    def latest(self) -> DatabaseView:
        """What was read last; nothing while the database is down."""
        collector = self._collector
        if collector is None:
            return DatabaseView(False, None, "nothing has been read yet", None, 0.0, PoolStats())
        return DatabaseView(
            up=collector.up,
            totals=collector.latest if collector.up else None,
            error=collector.error,
            last_success=collector.last_success,
            duration=collector.duration,
            pool=PoolStats(),
        )

    async def close(self) -> None:
        """Stop counting."""
        collector, self._collector = self._collector, None
        if collector is not None:
            await asyncio.shield(collector.close())
