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

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection, QueuePool
from sqlalchemy.util import greenlet_spawn

T = TypeVar("T")
_AGE = "messaging_age"


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
        self._age = 0
        self.in_use = 0
        """Connections that somebody has; not those that are being made, nor those that nobody wants any more."""
        self._idle: set[Any] = set()
        self._taken: set[Any] = set()
        self._trying: set[asyncio.Future[Connection]] = set()  # also for those who do not want it any more
        self._unwanted: dict[asyncio.Future[None], asyncio.Future[Connection]] = {}
        # In order, those who wait for a connection, or to be told that there is room for another one (None); and
        # whether they are trying to have one made meanwhile.
        self._waiting: dict[asyncio.Future[Connection | None], bool] = {}
        event.listen(engine, "checkin", self._checked_in)
        event.listen(engine, "checkout", self._checked_out)

    def _checked_out(self, _connection: Any, record: Any, _proxy: Any) -> None:
        self._idle.discard(record)
        self._taken.add(record)

    def _checked_in(self, connection: Any, record: Any) -> None:
        self._taken.discard(record)
        (self._idle.discard if connection is None else self._idle.add)(record)

    @property
    def idle(self) -> int:
        """Open connections that nobody uses. The pool's own count has those, too, that broke and were not replaced."""
        return sum(map(_is_open, self._idle))

    @property
    def has_any(self) -> bool:
        """Is a connection open? Also one that is on its way to somebody."""
        return any(map(_is_open, (*self._taken, *self._idle)))

    @property
    def pool(self) -> QueuePool:
        """For its counts."""
        pool = self.sync_engine.pool
        assert isinstance(pool, QueuePool)  # noqa: S101 — no other is made below
        return pool

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection for the length of a block. Whoever opens a transaction in it ends it there."""
        connection = await self._usable()
        self.in_use += 1
        try:
            yield AsyncConnection(connection)
        finally:
            self.in_use -= 1
            await self._give_back(connection)

    async def _usable(self) -> Connection:
        """The server may have restarted, or another one may have its address: the pool may hold several such."""
        while True:
            at_once = not self._waiting and self._has_room and self.idle > 0  # without a turn of the loop
            if at_once:
                self._put_open_ones_first()
            connection = await (greenlet_spawn(self.sync_engine.connect) if at_once else self._first())
            if _is_open(connection.connection) and connection.info.setdefault(_AGE, self._age) == self._age:
                return connection
            try:
                await _to_its_end(greenlet_spawn(connection.invalidate))
            finally:
                await self._give_back(connection)

    def _put_open_ones_first(self) -> None:
        """The pool keeps the places of those that broke, too: a new one may have to wait, while an open one is idle."""
        if self.idle < self.pool.checkedin():
            queue = self.pool._pool
            records = [queue.get(block=False) for _ in range(queue.qsize())]
            for record in sorted(records, key=_is_open, reverse=True):
                queue.put(record, block=False)

    def distrust(self) -> None:
        """The connections that were made so far are of no use: none is used any more."""
        self._age += 1

    async def _first(self) -> Connection:
        """A new connection or one that is given back, whichever is there first; an error when there is neither.

        A pooler may let a new one wait for as long as ours are open, and then nobody would have it.
        """
        trying: asyncio.Future[Connection] | None = None
        while True:
            if trying is None and self._has_room:
                trying = self._try()
            given: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting[given] = trying is not None
            try:
                either: set[asyncio.Future[Any]] = {given} if trying is None else {given, trying}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self._leave(trying)
                if given.done() and (connection := given.result()) is not None:  # in the same turn of the loop
                    await self._give_back(connection)
                self._tell_of_room()
                raise
            finally:
                self._waiting.pop(given, None)
            if given.done() and (connection := given.result()) is not None:
                self._leave(trying)
                return connection
            if trying is not None and trying.done():
                return trying.result()  # or raises

    @property
    def _has_room(self) -> bool:
        """May one more be taken from the pool, or made? In its own queue nobody is told of what fails."""
        return len(self._taken) + len(self._trying) < self.pool.size()

    def _try(self) -> asyncio.Future[Connection]:
        trying = asyncio.ensure_future(greenlet_spawn(self.sync_engine.connect))
        self._trying.add(trying)
        trying.add_done_callback(self._tried)
        return trying

    def _tried(self, trying: asyncio.Future[Connection]) -> None:
        self._trying.discard(trying)
        self._tell_of_room()

    def _leave(self, trying: asyncio.Future[Connection] | None) -> None:
        """Nobody waits for this connection any more: another was there first."""
        if trying is not None:
            giving_back = asyncio.ensure_future(self._give_back_once_there(trying))
            self._unwanted[giving_back] = trying
            giving_back.add_done_callback(self._unwanted.pop)

    async def _give_back_once_there(self, unwanted: Awaitable[Connection]) -> None:
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await self._give_back(await unwanted)

    async def _give_back(self, connection: Connection) -> None:
        """To who has waited longest, or else to the pool, from which those who come later would take it first."""
        if self._waiting and not connection.invalidated:
            first = next(iter(self._waiting))
            del self._waiting[first]
            first.set_result(connection)
            return
        try:
            await _to_its_end(greenlet_spawn(connection.close))
        finally:
            self._tell_of_room()

    def _tell_of_room(self) -> None:
        """To who has waited longest of those who have none made."""
        if self._has_room and (waiting := next((one for one, tries in self._waiting.items() if not tries), None)):
            del self._waiting[waiting]
            waiting.set_result(None)

    async def close_idle(self) -> None:
        """Close the connections that nobody uses at this moment; the next use makes others."""
        for _ in range(self.pool.size()):  # it is a queue, and gives each in turn
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
