"""Everything of aiosqlite that is not its documented API, in one place: the thread of a connection, and its end.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiosqlite


async def open_connection(*args: Any, **options: Any) -> aiosqlite.Connection:
    """A connection of aiosqlite's; when it cannot be opened, its thread has ended before this is told.

    The thread reports its end to the loop. At a start that fails the loop is closed by then, and a trace would
    stand on stderr beside the one line that people need.
    """
    connection = aiosqlite.connect(*args, **options)
    connection._thread.daemon = True  # as SQLAlchemy does it: a file that hangs must not keep the process
    try:
        return await connection
    except BaseException:  # cancelled, too
        await asyncio.to_thread(connection._thread.join, 1.0)
        raise


def is_open(connection: aiosqlite.Connection) -> bool:
    """Has it its files open? Not any more when closing it has returned."""
    return connection._connection is not None
