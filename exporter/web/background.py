"""Work that goes on beside the requests: a defect in one task costs that task a pause, and nobody else anything.

Knows no task by its work. Each is started under a name; what it raises is logged with its trace, counted, and after a
pause the task is started again. Only the database's opening may end the process, and it is not run here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from exporter.metrics.counters import BackgroundTask
from exporter.metrics.instruments import LabelledCounter

log = structlog.get_logger(__name__)

# Seconds before a failed task is started again: doubled with each failure in a row, as supervisors do.
PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0


class Background:
    """The tasks of one server; ``failures`` counts by task."""

    def __init__(self, failures: LabelledCounter[BackgroundTask], *, pause: float = PAUSE) -> None:
        self._failures = failures
        self._pause = pause
        self._tasks: set[asyncio.Task[None]] = set()
        self._handled: asyncio.AbstractEventLoop | None = None

    def start(self, name: BackgroundTask, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work()`` until it returns; when it raises, again after a pause."""
        task = asyncio.get_running_loop().create_task(self._run(name, work), name=f"background-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, name: BackgroundTask, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        pause = self._pause
        while True:
            began = loop.time()
            try:
                await work()
                return
            except Exception as error:  # whatever it is: the others go on, and so does this one
                if loop.time() - began > LONGEST_PAUSE:
                    pause = self._pause
                self._failures[name].value += 1
                log.error("a background task failed and will be started again", task=name, after=pause, exc_info=error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def watch_callbacks(self) -> None:
        """Count what callbacks and forgotten tasks of this loop raise, besides the loop's own line in the log."""
        self._handled = asyncio.get_running_loop()
        self._handled.set_exception_handler(self._callback_failed)

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), OSError | None):  # those are a peer's socket
            self._failures[BackgroundTask.CALLBACK].value += 1
        loop.default_exception_handler(context)

    async def close(self) -> None:
        """End them all."""
        if self._handled is not None:
            self._handled.set_exception_handler(None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
