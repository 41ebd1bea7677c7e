"""A source for those who show it: counting in the background, figures when somebody asks. Knows no HTTP and no metric.

Nothing slow happens in a scrape: it makes one pass, or shares the one that is under way, or takes the figures of the
last seconds. Full counts are made in the background, in slices, within their share of the time.
"""

from __future__ import annotations

import asyncio
import re
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Final

from exporter.core.errors import Misconfigured
from exporter.observe.connections import reader_of
from exporter.observe.engine import Engine
from exporter.observe.logger import Logger
from exporter.observe.records import SourceError, SourceTotals, SourceView
from exporter.observe.sealing import OVERLAP
from exporter.observe.sources import Source
from exporter.observe.state import State

log = Logger(__name__)

FRESH: Final = 1.0
"""Seconds for which figures are shown again without a look at the database; more where a look takes long."""
RETRY: Final = 5.0
"""Seconds between attempts while a database does not answer; until something is changed where that is needed:"""
RETRY_LASTING: Final = 30.0
IDLE: Final = 1.0
FIRST_LOOK: Final = 3.0
TIMEOUT: Final = "the source did not answer in time"
STOPPED: Final = "the source is not read any more"


class SourceCollector:
    """One source: ``start``, then ``collect`` as often as one likes, then ``close``.

    ``collect`` gives a ``SourceTotals``, which has the fields of the product's own ``Totals``; any of them may be None.
    Without a ``data_dir`` nothing is remembered after the end.
    """

    def __init__(
        self,
        source: Source,
        data_dir: Path | None = None,
        *,
        load: float = 0.05,
        recount_interval: float = 3_600.0,
        ours: bool = False,
    ) -> None:
        """``ours``: this process writes the database, too."""
        self.source = source
        path = None if data_dir is None else data_dir / state_name(source.name)
        self._engine_of = partial(Engine, source, load=load, recount_interval=recount_interval, background_refresh=True)
        self._ours = ours
        self.engine = self._engine_of(State(path), reader=reader_of(source.url, ours=ours))
        self.latest: SourceTotals | None = None
        """The figures that were read last; kept while the database is down."""
        self.up = False
        """Did the database answer the latest collection?"""
        self.error: str | None = "starting"
        """Why the latest collection has no figures, or not all; None when it has."""
        self.last_success: float | None = None
        """The moment of the latest figures, in Unix seconds."""
        self.down_since: float | None = None
        """Since when the database does not answer, in Unix seconds: since the latest figures; None while it does."""
        self.duration = 0.0
        """Seconds that the latest collection took, successful or not."""
        self._pass: asyncio.Task[SourceTotals] | None = None
        self._read_at = float("-inf")
        self._cost = 0.0
        self._opening: asyncio.Task[None] | None = None
        self._background: asyncio.Task[None] | None = None
        self._told: str | None = None

    async def start(self) -> None:
        """Look at the database, and begin to count. Raises Misconfigured.

        A database that cannot be reached now is tried again until it can.
        """
        opening = self._opening = asyncio.create_task(self._open())
        await asyncio.wait({opening}, timeout=FIRST_LOOK)
        if opening.done():
            opening.result()
        self._background = asyncio.create_task(self._run(opening))

    def leave_loop(self) -> None:
        """The event loop has ended, with all that belonged to it: locks, tasks, connections. The state stays.

        It may only have been left, and may run again.
        """
        for task in (self._opening, self._background, self._pass):
            if task is not None and not task.get_loop().is_closed():
                task.cancel()
        self.engine = self._engine_of(self.engine.state, reader=reader_of(self.source.url, ours=self._ours))
        self._opening = self._background = self._pass = None
        self._read_at = float("-inf")  # what was read there is looked at again

    def go_on(self) -> None:
        """In the running loop, after ``leave_loop``."""
        self._background = asyncio.create_task(self._run())

    async def _open(self) -> None:
        try:
            await self.engine.open()
        except SourceError as error:
            if error.lasting:
                raise Misconfigured(error.told) from error
            self._tell(error.told)
        except Misconfigured:
            raise
        except Exception as error:  # a defect, perhaps of what is in the database now: it is tried again
            self._tell(defect(error))

    async def _run(self, opening: asyncio.Task[None] | None = None) -> None:
        if opening is not None:
            await asyncio.gather(opening, return_exceptions=True)
        engine = self.engine
        while True:
            try:
                if engine.mapping is None:
                    await engine.open()
                pause = IDLE
                if engine.due and (not engine.to_begin or await engine.begin(OVERLAP)):
                    took = await engine.advance()
                    pause = took / engine.load - took
                await engine.refresh()
                self._tell(None)
            except SourceError as error:
                self._tell(error.told)
                engine.require_recheck()
                pause = RETRY_LASTING if error.lasting else RETRY
            except Misconfigured as error:  # at run time: a schema that changed, another file in its place
                self._tell(str(error))
                engine.require_recheck()
                pause = RETRY_LASTING
            except Exception as error:  # a defect: counting goes on, or the figures would stay as they are for ever
                self._tell(defect(error))
                engine.require_recheck()
                pause = RETRY_LASTING
            await asyncio.sleep(pause)

    def _tell(self, problem: str | None) -> None:
        """Log a change of state once."""
        if problem != self._told:
            if problem is None:
                log.info("the source answers", source=self.source.title)
            else:
                log.warning("the source cannot be read", source=self.source.title, reason=problem)
        self._told = problem

    async def collect(self, deadline: float) -> SourceTotals | None:
        """The figures as they are now or were a second ago, or None when not known within ``deadline`` seconds.

        Never raises but CancelledError; the reason of a None is in ``error``.
        """
        began = time.monotonic()
        try:
            if self.latest is not None and self.up and began - self._read_at < self._lasting():
                return self.latest
            if self._pass is None:
                self._pass = asyncio.create_task(self._look())
                self._pass.add_done_callback(self._ended)
            looking = self._pass
            await asyncio.wait({looking}, timeout=max(0.0, deadline))
            if not looking.done():
                raise SourceError(TIMEOUT)
            if looking.cancelled():  # by ``close``: whoever asks is not to be cancelled for it
                raise SourceError(STOPPED)
            totals = looking.result()
        except (SourceError, Misconfigured) as error:
            self.up, self.error = False, str(error)
            return None
        except Exception as error:  # a defect costs this source only, and is no reason to show old figures
            self.up, self.error = False, defect(error)
            self.engine.require_recheck()
            return None
        else:
            self.up, self.latest = True, totals
            self.error = "; ".join(dict.fromkeys(totals.unknown.values())) or None
            self.last_success = totals.as_of
            return totals
        finally:
            self.duration = time.monotonic() - began
            if self.up:
                self.down_since = None
            elif self.down_since is None:
                self.down_since = self.last_success or time.time()

    def _lasting(self) -> float:
        return max(FRESH, self._cost / self.engine.load)

    async def _look(self) -> SourceTotals:
        try:
            if self.engine.mapping is None:
                await self.engine.open()
            began = time.monotonic()
            totals = await self.engine.look()
            self._read_at = time.monotonic()
            self._cost = self._read_at - began
        except SourceError:
            self.engine.require_recheck()
            raise
        return totals

    def _ended(self, task: asyncio.Task[SourceTotals]) -> None:
        if self._pass is task:
            self._pass = None
        if not task.cancelled():
            task.exception()

    async def view(self, deadline: float) -> SourceView:
        """Everything that is shown of the source at one scrape."""
        totals = await self.collect(deadline)
        engine, mapping = self.engine, self.engine.latest_mapping
        return SourceView(
            name=self.source.name,
            kind=self.source.kind,
            schema=mapping.schema if mapping else "",
            up=self.up,
            totals=totals,
            error=self.error,
            last_success=None if self.last_success is None or engine.base is None else self.last_success,
            recounted_at=engine.recounted_at,
            recount_interval=engine.recount_interval,
            differences=dict(engine.differences),
            rows_read=engine.rows_read,
            progress=engine.counting.share if engine.counting else 0.0 if engine.base is None else 1.0,
            duration=self.duration,
            down_since=self.down_since,
        )

    async def close(self) -> None:
        """End what is under way, and close the connection and the state."""
        tasks = [task for task in (self._opening, self._background, self._pass) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.engine.close()


def defect(error: Exception) -> str:
    """What is said of an error of this program: its kind and its place. Its words may hold what somebody wrote."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"an error of messaging-exporter: {type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"


def state_name(name: str) -> str:
    """The state's file of a source: ``observe.db``, or ``observe-NAME.db`` where it has a name."""
    return f"observe-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.db" if name else "observe.db"
