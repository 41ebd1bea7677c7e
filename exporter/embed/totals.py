"""Totals of the host's own database, by ``observe``'s mappings. What reads databases is imported when it is used.

Tested in ``tests/embed/test_examples.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.core.errors import Misconfigured
from exporter.core.source_records import SourceView

if TYPE_CHECKING:
    from exporter.observe.collector import SourceCollector

REFRESH: Final = 5.0
"""Seconds between two looks at the database while nobody asks."""
STALE: Final = 30.0
"""Seconds after which what was seen is not said any more: the event loop that looked has ended, or is held up."""
RETRY: Final = 30.0
"""Seconds between attempts while something has to be changed first."""
UNREAD: Final = "nothing has been read yet; it is read on an event loop"
NOBODY_LOOKS: Final = "the database was not looked at lately: no event loop runs"


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
    _latest: SourceView | None = field(default=None, init=False, repr=False)
    _refreshing: asyncio.Task[None] | None = field(default=None, init=False, repr=False)
    _starting: asyncio.Task[None] | None = field(default=None, init=False, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)
    _looked_at: float = field(default=0.0, init=False, repr=False)
    _error: str = field(default=UNREAD, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):  # it would be found in a task that nobody awaits
            raise TypeError(
                f"a database's URL is text, not {type(self.url).__name__}; that of an SQLAlchemy engine is "
                f"engine.url.render_as_string(False)"
            )

    def start_soon(self) -> None:
        """Begin to count when an event loop runs, or go on in another one; without one ``await start()`` does."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a synchronous host
            return
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            if self._loop.is_running():  # in another thread, where it is looked at
                return
            self._leave_loop()
            self._loop = loop
            if self._collector is not None:
                self._collector.go_on()
        if self._collector is None and self._starting is None:
            self._starting = loop.create_task(self._start_or_say_why(), name="messaging-source-start")
        elif self._collector is not None and self._refreshing is None and self._starting is None:
            self._refreshing = loop.create_task(self._keep_looking(), name="messaging-source")

    def _leave_loop(self) -> None:
        """The event loop has ended, with all that ran in it, or nobody runs it any more."""
        for task in (self._starting, self._refreshing):
            if task is not None and not task.get_loop().is_closed():
                task.cancel()
        self._loop = self._starting = self._refreshing = None
        if self._collector is not None:
            self._collector.leave_loop()

    async def _start_or_say_why(self) -> None:
        """Again and again: the host may make its tables, or its file, after the first question."""
        while self._collector is None:
            try:
                await self.start()
            except Misconfigured as error:
                if self._error != str(error):
                    logging.getLogger("exporter.embed").error("totals: %s", error)
                self._error = str(error)
                await asyncio.sleep(RETRY)
            except Exception:  # a defect, or something that only shows now: nobody awaits this, so nobody would be told
                logging.getLogger("exporter.embed").exception("totals: the database cannot be read")
                self._error = "the database cannot be read: the log says why"
                await asyncio.sleep(RETRY)

    async def start(self) -> None:
        """Begin to count, on the running loop; once. Raises Misconfigured."""
        if self._collector is not None:
            return
        try:
            from exporter.observe import sources
            from exporter.observe.collector import SourceCollector
        except ModuleNotFoundError as error:  # installed with --no-deps
            raise Misconfigured(
                f"totals of a database need what the plain installation brings, and {error.name} is missing: "
                f"pip install messaging-exporter"
            ) from error

        if self.kind == "custom" and self.mapping is None:
            raise Misconfigured("what a message is, a mapping says: Source(url, 'mapping.yml'); see docs/observe.md")
        described = sources.Source(
            self.url, self.kind, config_file=None if self.mapping is None else Path(self.mapping)
        )
        collector = SourceCollector(
            described,
            None if self.data_dir is None else Path(self.data_dir),
            load=self.load,
            recount_interval=self.recount_interval,
            ours=True,
        )
        self._collector = collector
        try:
            await collector.start()
        except BaseException:  # cancelled, too: what did not start may be started again
            self._collector = self._latest = None
            await asyncio.shield(collector.close())  # it has the state
            raise
        self._loop = asyncio.get_running_loop()
        if self._refreshing is None:
            self._refreshing = self._loop.create_task(self._keep_looking(), name="messaging-source")

    async def view(self, deadline: float) -> SourceView:
        """Everything that is known of the source now; within ``deadline`` seconds."""
        if (collector := self._collector) is not None:
            seen = await self._seen(collector, deadline)
            if seen is not None and collector is self._collector:  # and has not been given up meanwhile
                self._latest, self._looked_at = seen, time.monotonic()
        return self.latest()

    async def _seen(self, collector: SourceCollector, deadline: float) -> SourceView | None:
        """In the event loop that the connections belong to; None where that one does not answer in time."""
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop() or not loop.is_running():
            return await collector.view(deadline)
        looking = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(collector.view(deadline), loop))
        await asyncio.wait({looking}, timeout=deadline)
        if not looking.done():
            looking.cancel()
        return None if looking.cancelled() or not looking.done() else looking.result()

    def latest(self) -> SourceView:
        """What the last look showed, some seconds ago; nothing while the database is down, or nobody looks."""
        if self._latest is not None and time.monotonic() - self._looked_at > STALE:
            return SourceView(name="", kind=self.kind, error=NOBODY_LOOKS)
        return self._latest or SourceView(name="", kind=self.kind, error=self._error)

    async def _keep_looking(self) -> None:
        """For those who cannot wait: a registry of the host's, ``get_stats``."""
        while True:
            await self.view(REFRESH)
            await asyncio.sleep(REFRESH)

    async def close(self) -> None:
        """Stop counting; not while another event loop does: it is asked to, or ends."""
        if self._loop is not None and not self._loop.is_running():
            self._leave_loop()
        if self._loop not in (None, asyncio.get_running_loop()):
            return
        collector, tasks = self._collector, [task for task in (self._starting, self._refreshing) if task is not None]
        # At once: what somebody begins anew meanwhile is another one's.
        self._collector = self._latest = self._starting = self._refreshing = None
        self._error = UNREAD
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if collector is not None:
            await asyncio.shield(collector.close())
