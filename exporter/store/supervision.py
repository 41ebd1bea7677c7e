"""A task that is started again: a defect costs it a pause, and nobody else anything. Knows no task by its work.

What the work raises is logged with its trace, told to whoever counts, and after a pause the work is begun anew.
``exporter.web.background`` runs a server's other tasks by it.

Tested in ``tests/integration/test_background.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds before a failed task is started again: doubled with each failure in a row, as supervisors do."""


async def keep_running(
    name: str,
    work: Callable[[], Awaitable[None]],
    failed: Callable[[str], object],
    *,
    pause: float = PAUSE,
    longest: float = LONGEST_PAUSE,
) -> None:
    """Run ``work()`` until it returns; when it raises, call ``failed(name)`` and run it again after a pause (seconds).

    Cancelling ends it.
    """
    loop = asyncio.get_running_loop()
    shortest = pause
    while True:
        began = loop.time()
        try:
            await work()
            return
        except Exception as error:  # whatever it is: the others go on, and so does this one
            if loop.time() - began > LONGEST_PAUSE:
                pause = shortest
            failed(name)
            log.error("a background task failed and will be started again", task=name, after=pause, exc_info=error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)
