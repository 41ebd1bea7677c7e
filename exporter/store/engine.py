"""A pool of asynchronous connections, by SQLAlchemy's core alone. Knows no dialect, no statement.

``sqlalchemy.ext.asyncio`` has all of this and more, and it loads the whole object-relational mapper with it: 4.4 MiB
and 50 ms of every start (``make bench ARGS=startup``), for nothing that is used here. What is used is its idea: the
synchronous engine runs in a greenlet, and whatever awaits within it is awaited outside.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Pool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

T = TypeVar("T")


class AsyncConnection:
    """A connection out of the pool; ``sync_connection`` is what functions of ``run_sync`` get."""

    def __init__(self, connection: Connection) -> None:
        self.sync_connection = connection

    @property
    def info(self) -> dict[Any, Any]:
        """Notes that stay with the connection to the database, not with this use of it."""
        return self.sync_connection.info

    async def invalidate(self) -> None:
        """Throw the connection to the database away; the next use makes another."""
        await greenlet_spawn(self.sync_connection.invalidate)

    async def get_raw_connection(self) -> PoolProxiedConnection:
        """The pool's own; its ``driver_connection`` is the driver's."""
        found: PoolProxiedConnection = await greenlet_spawn(getattr, self.sync_connection, "connection")
        return found

    async def exec_driver_sql(self, statement: str) -> Any:
        """Run a statement as the driver knows it; the result."""
        return await greenlet_spawn(self.sync_connection.exec_driver_sql, statement)

    async def run_sync(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call a synchronous function with the connection."""
        return await greenlet_spawn(work, self.sync_connection, *arguments)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """A transaction: committed at the end of the block, rolled back by an error in it."""
        transaction = await greenlet_spawn(self.sync_connection.begin)
        try:
            yield
        except BaseException:  # cancelled, too: nothing is committed in halves
            if transaction.is_active:
                await _to_its_end(greenlet_spawn(transaction.rollback))
            raise
        await greenlet_spawn(transaction.commit)


class AsyncEngine:
    """The pool; ``sync_engine`` is where listeners for its events are added."""

    def __init__(self, engine: Engine) -> None:
        self.sync_engine = engine
        self.in_use = 0
        """Connections that somebody has; not those that are being made, nor those that nobody wants any more."""
        self._idle: set[Any] = set()
        self._taken: set[Any] = set()
        self._unwanted: dict[asyncio.Future[None], asyncio.Future[Connection]] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}  # for a connection to be given back, in order
        event.listen(engine, "checkin", self._checked_in)
        event.listen(engine, "checkout", self._checked_out)

    def _checked_out(self, _connection: Any, record: Any, _proxy: Any) -> None:
        self._idle.discard(record)
        self._taken.add(record)

    def _checked_in(self, connection: Any, record: Any) -> None:
        self._taken.discard(record)
        (self._idle.discard if connection is None else self._idle.add)(record)
        if connection is not None:
            self._tell()

    def _tell(self) -> None:
        """Tell who has waited longest that a connection is there."""
        if self._waiting:
            first = next(iter(self._waiting))
            del self._waiting[first]
            first.set_result(None)

    @property
    def idle(self) -> int:
        """Open connections that nobody uses. The pool's own count has those, too, that broke and were not replaced."""
        return sum(map(_is_open, self._idle))

    @property
    def has_any(self) -> bool:
        """Is a connection open? Also one that is on its way to somebody."""
        return any(map(_is_open, (*self._taken, *self._idle)))

    @property
    def pool(self) -> Pool:
        """For its counts."""
        return self.sync_engine.pool

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection for the length of a block. What was not committed is rolled back where the pool resets."""
        # Where all that wait in the pool are open, one is there without a turn of the loop.
        at_once = 0 < self.idle == self.pool.checkedin()  # type: ignore[attr-defined]  # it is a queue, as below
        connection = AsyncConnection(await (greenlet_spawn(self.sync_engine.connect) if at_once else self._first()))
        self.in_use += 1
        try:
            yield connection
        finally:
            self.in_use -= 1
            await _to_its_end(greenlet_spawn(connection.sync_connection.close))

    async def _first(self) -> Connection:
        """A new connection or one that is given back, whichever is there first; an error when there is neither.

        A pooler may let a new one wait for as long as ours are open, and then nobody would have it.
        """
        trying = {self._try()}
        try:
            while True:
                given_back = asyncio.get_running_loop().create_future()
                self._waiting[given_back] = None
                try:
                    await asyncio.wait({*trying, given_back}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._waiting.pop(given_back, None)
                done = {one for one in trying if one.done()}
                if first := next((one for one in done if one.exception() is None), None):
                    trying.remove(first)
                    return first.result()
                if self.idle:
                    trying.add(self._try())
                if trying == done:
                    return trying.pop().result()  # which raises
                trying -= done
        finally:
            if given_back.done() and self.idle:  # told in the same turn of the loop, and needs it no more
                self._tell()
            for one in trying:
                giving_back = asyncio.ensure_future(_give_back(one))
                self._unwanted[giving_back] = one
                giving_back.add_done_callback(self._unwanted.pop)

    def _try(self) -> asyncio.Future[Connection]:
        return asyncio.ensure_future(greenlet_spawn(self.sync_engine.connect))

    async def close_idle(self) -> None:
        """Close the connections that nobody uses at this moment; the next use makes others."""
        for _ in range(self.pool.size()):  # type: ignore[attr-defined]  # it is a queue, and gives each in turn
            if self.idle:
                with contextlib.suppress(Exception):  # its turn may be one's that is not open, and cannot be meanwhile
                    async with self.connect() as connection:
                        await connection.invalidate()

    async def dispose(self) -> None:
        """Close all connections that nobody uses, and open none any more."""
        await _to_its_end(self._dispose())

    async def _dispose(self) -> None:
        for unwanted in self._unwanted.values():
            unwanted.cancel()
        if self._unwanted:
            await asyncio.wait(self._unwanted)
        await greenlet_spawn(self.sync_engine.dispose)
        self._idle.clear()


def create_async_engine(url: str | URL, **options: Any) -> AsyncEngine:
    """An engine for an asynchronous driver."""
    options.setdefault("poolclass", AsyncAdaptedQueuePool)
    return AsyncEngine(create_engine(url, **options))


def _is_open(record: Any) -> bool:
    connection = record.driver_connection
    return connection is not None and not getattr(connection, "is_closed", bool)()


async def _give_back(unwanted: Awaitable[Connection]) -> None:
    """Nobody waits for this connection any more: another was there first."""
    with contextlib.suppress(Exception, asyncio.CancelledError):
        connection = await unwanted
        await _to_its_end(greenlet_spawn(connection.close))


async def _to_its_end(work: Awaitable[T]) -> T:
    """Whoever is cancelled meanwhile waits all the same: a connection is never given back half."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # nobody asks for it any longer, and asyncio would log that
    raise cancelled
