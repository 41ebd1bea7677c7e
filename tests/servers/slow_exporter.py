"""The exporter with a database that takes its time: whoever asks it waits a while, so that much can happen meanwhile.

``python -m tests.servers.slow_exporter serve …``: everything else is the real thing, in a process of its own.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from exporter.cli import main
from exporter.store import Store

LONGEST = 0.03
"""Seconds: several hundred times what the database takes by itself."""


def _slowed(method: Any) -> Any:
    async def slowed(*arguments: Any) -> Any:
        await asyncio.sleep(random.random() * LONGEST)
        return await method(*arguments)

    return slowed


def _slowed_future(method: Any) -> Any:
    """For a method that answers with a future and not with a coroutine."""

    def slowed(*arguments: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(_slowed(method)(*arguments))

    return slowed


if __name__ == "__main__":
    for name in ("register", "totals"):
        setattr(Store, name, _slowed(getattr(Store, name)))
    Store.membership = _slowed_future(Store.membership)
    main()
