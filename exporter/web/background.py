"""Work that goes on beside the requests: a defect in one task costs that task a pause, and nobody else anything.

Knows no task by its work. Each is started under a name; what it raises is logged with its trace, counted, and after a
pause the task is started again. Only the database's opening may end the process, and it is not run here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from exporter.metrics.counters import BackgroundTask
from exporter.metrics.instruments import LabelledCounter
from exporter.store.supervision import PAUSE, keep_running


class BackgroundTasks:
    """The tasks of one server; ``failures`` counts by task."""

    def __init__(self, failures: LabelledCounter[BackgroundTask], *, pause: float = PAUSE) -> None:
        self._failures = failures
        self._pause = pause
        self._tasks: set[asyncio.Task[None]] = set()
        self._handled: asyncio.AbstractEventLoop | None = None

    def start(self, name: BackgroundTask, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work()`` until it returns; when it raises, again after a pause."""
        running = keep_running(name, work, self.failed, pause=self._pause)
        task = asyncio.get_running_loop().create_task(running, name=f"background-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def failed(self, name: str) -> None:
        """Count a failure of a task; also of those that somebody else keeps running."""
        self._failures[BackgroundTask(name)].value += 1

    def watch_callbacks(self) -> None:
        """Count what callbacks and forgotten tasks of this loop raise, besides the loop's own line in the log."""
        self._handled = asyncio.get_running_loop()
        self._handled.set_exception_handler(self._callback_failed)

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), OSError | None):  # those are a peer's socket
            self.failed(BackgroundTask.CALLBACK)
        loop.default_exception_handler(context)

    async def close(self) -> None:
        """End them all."""
        if self._handled is not None:
            self._handled.set_exception_handler(None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
