"""Taking a connection, using it in time, giving it back. Knows no statement and no message.

What is run here is never cancelled: a job has its connection until its work has ended, and a caller who no longer
waits makes the statement end (SQLite: interrupt; PostgreSQL: the connection is cut, and the server's
``statement_timeout`` ends its side). So a hanging database holds at most the few connections of the pool, and no
connection is ever given back in the middle of something.

Tested in ``tests/store/test_totals.py``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, TypeVar

import structlog

from exporter.core.errors import Internal, Misconfigured, Refusal
from exporter.core.records import PoolStats
from exporter.store import errors
from exporter.store.dialects.base import Dialect, Session
from exporter.store.engine import AsyncEngine
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.lanes import WIDTH, Lane, Turns
from exporter.store.sharing import Sharing

T = TypeVar("T")
Work = Callable[[Session], Awaitable[T]]

log = structlog.get_logger("exporter.store")

_ANOTHER_SERVER = (ErrorKind.READ_ONLY, ErrorKind.CONFIGURATION)
"""Signs that the server is not, or no longer, the one that is meant."""
TRY_AGAIN = (ErrorKind.DISCONNECTED, ErrorKind.READ_ONLY)
"""With these another connection may do what this one could not."""
DEFECT = "an error of the server's, not of yours: its log says more"


class Job(Generic[T]):
    """Work on a connection of its own, from asking for one to giving it back."""

    def __init__(
        self,
        database: Database,
        lane: Lane,
        work: Work[T],
        timeout: float | None,
        *,
        tried_again: bool = False,
        kinds: Collection[str] = (),
        whose: str | None = None,
    ) -> None:
        self._database = database
        self._tried_again = tried_again
        self._lane = lane
        self._kinds = kinds
        self._work = work
        self._session: Session | None = None
        self._whose = whose
        self._turn_at = math.inf
        self._waiting = False
        self._unwanted = False  # nobody waits for it any more: that it was cut off says nothing of the database
        self.aborted = False
        loop = asyncio.get_running_loop()
        self._asked_at = loop.time()
        self.deadline = None if timeout is None else self._asked_at + timeout
        self.task: asyncio.Task[T] = loop.create_task(self._run())
        self.task.add_done_callback(database.ended)
        database.jobs.add(self.task)

    async def result(self) -> T:
        """What the work returned, within the job's time. Raises DatabaseError, or what the work raised.

        A caller who is cancelled or runs out of time aborts the job; ``task`` then ends by itself.
        """
        left = None if self.deadline is None else self.deadline - asyncio.get_running_loop().time()
        try:
            done, _ = await asyncio.wait({self.task}, timeout=left)
        except asyncio.CancelledError:
            self._unwanted = True
            await self.abort()
            raise
        if not done:
            crowded = self._unwanted = self._crowded
            await self.abort()
            text = errors.TOO_MUCH_TO_READ if crowded else errors.TIMEOUT
            failure = DatabaseError(ErrorKind.TIMEOUT, text, self._database.dialect.place)
            if not crowded:
                self._database.note(failure, self._lane, self._kinds)
            raise failure
        return self.task.result()

    @property
    def _crowded(self) -> bool:
        """Has a read, a user's or our own, waited longer for others than the database had? That says nothing of it."""
        return self._lane is Lane.READ and self._turn_at - self._asked_at > (self.deadline or 0.0) - self._turn_at

    async def outcome(self) -> DatabaseError | Internal | None:
        """Why the work failed, once it has ended, even when it was told to stop for lack of time; None: it did not.

        How it ended matters to whoever writes, and nothing else may be written before it has.
        """
        try:
            await self.result()
        except DatabaseError as failure:
            if self.task.done():
                return failure
        except Internal as defect:
            return defect
        else:
            return None
        await asyncio.wait({self.task})
        error = self.task.exception()
        if error is None or isinstance(error, (DatabaseError, Internal)):
            return error
        raise error

    async def abort(self) -> None:
        """Make the work end soon."""
        self.aborted = True
        if self._waiting:
            self.task.cancel()
        elif self._session is not None:
            await self._session.abort()

    async def _run(self) -> T:
        lane = self._database.lanes[self._lane]
        await self._wait(lane.take(self._whose))
        self._turn_at = asyncio.get_running_loop().time()
        try:
            result = await self._use()
        except DatabaseError as failure:
            if failure.kind is ErrorKind.TIMEOUT and self._crowded:
                raise DatabaseError(failure.kind, errors.TOO_MUCH_TO_READ, failure.where) from failure
            if not (self._unwanted or (self._tried_again and failure.kind in TRY_AGAIN)):
                self._database.note(failure, self._lane, self._kinds)
            raise
        finally:
            lane.give_back(self._whose)
        self._database.note(None, self._lane, self._kinds)
        return result

    async def _wait(self, until: Awaitable[object]) -> None:
        self._waiting = True
        try:
            await until
        except asyncio.CancelledError:
            raise DatabaseError(ErrorKind.TIMEOUT, errors.TIMEOUT) from None
        finally:
            self._waiting = False

    async def _use(self) -> T:
        sharing = self._database.sharing
        try:
            while True:
                if sharing.wanted:
                    await self._wait(sharing.turn(self.task))
                try:
                    return await self._database.use(self)
                except DatabaseError as failure:
                    if self.aborted or not sharing.may_wait(self.task, failure):
                        raise
        finally:
            sharing.pass_turn(self.task)

    async def work(self, session: Session) -> T:
        """Do the work on this connection."""
        if self.aborted:
            raise DatabaseError(ErrorKind.TIMEOUT, errors.TIMEOUT)
        self._database.sharing.has_begun(self.task)
        self._session = session
        try:
            return await self._work(session)
        finally:
            self._session = None


class Database:
    """A pool of connections to one place, and whether it answers."""

    def __init__(self, dialect: Dialect, timeout: float, engine: AsyncEngine | None = None) -> None:
        """With the dialect's usual pool, or with another one whose errors are not logged as those of the database."""
        self.dialect = dialect
        self.timeout = timeout
        self.jobs: set[asyncio.Task[Any]] = set()
        self.lanes = {lane: Turns(width) for lane, width in WIDTH.items()}
        self.up = False
        self.error: str | None = None
        self._write_errors = {"start": errors.NOT_READY}  # by what was to be written, the oldest first
        self._refused = False
        self.wrote_at = float("-inf")
        """When something was last written, on ``time.monotonic``."""
        self._defect_at = float("-inf")
        self._quiet = engine is not None
        self._logged: dict[str, str | None] = {}
        self._closed = False
        self._engine = engine or dialect.engine(timeout, sum(WIDTH.values()) - WIDTH[Lane.VERIFY])
        self.sharing = Sharing(self._engine)

    @property
    def write_error(self) -> str | None:
        """Why something that was written last could not be; None where everything could.

        What the probe met is newer than what some command did when it was last tried.
        """
        return self._write_errors.get("anything") or next(iter(self._write_errors.values()), None)

    @property
    def doubtful(self) -> bool:
        """Has something that was to be written lately been refused?"""
        return self._refused or self.write_error is not None

    def start_writing(self) -> None:
        """From now on it is ready, as far as is known."""
        self._write_errors.clear()

    def job(self, lane: Lane, work: Work[T], timeout: float | None, kinds: Collection[str] = ()) -> Job[T]:
        """Begin to do some work with a connection, within a time (seconds); ``kinds``: what it writes, in words."""
        return Job(self, lane, work, timeout, kinds=kinds)

    async def run(self, lane: Lane, work: Work[T], timeout: float | None = None, whose: str | None = None) -> T:
        """Work with a connection, within ``timeout`` seconds (None: the database's own). Raises DatabaseError.

        ``whose``: the user who asks, if one does.

        Work that may be done twice: a connection that died, or whose server changed its role, while nobody used it says
        nothing about the next one.
        """
        seconds = self.timeout if timeout is None else timeout
        until = asyncio.get_running_loop().time() + seconds
        while True:
            left = until - asyncio.get_running_loop().time()
            try:
                return await Job(self, lane, work, left, tried_again=True, whose=whose).result()
            except DatabaseError as failure:
                if failure.kind not in TRY_AGAIN:
                    raise
                left = until - asyncio.get_running_loop().time()
                if left <= 0:
                    self.note(failure, lane)
                    raise
                # A pooler may keep many such sessions; each was closed by being asked.
                if failure.text != errors.OLD_SESSION:
                    break
        return await Job(self, lane, work, left, whose=whose).result()

    async def use(self, job: Job[T]) -> T:
        """Have a job done on a connection from the pool; one that failed is thrown away."""
        try:
            if self._closed:
                raise DatabaseError(ErrorKind.DISCONNECTED, errors.CLOSED)
            self.dialect.check()
            async with self._engine.connect() as connection:
                session = await self.dialect.session(connection, job.deadline)
                try:
                    result = await job.work(session)
                    self.dialect.check()  # what was committed to a file that is gone is not durable
                    return result
                except Refusal:
                    raise  # the work has put the connection in order
                except BaseException as error:  # cancelled, too: a connection is given back in order or not at all
                    if not isinstance(error, DatabaseError) or job.aborted or error.kind in errors.USELESS:
                        await connection.invalidate()
                    if isinstance(error, DatabaseError) and error.kind in _ANOTHER_SERVER:
                        self._engine.distrust()  # nor are the others of use: the same address is asked again
                    if isinstance(error, Exception) and not isinstance(error, (DatabaseError, Misconfigured)):
                        raise self._defect(error) from error
                    raise
        except DatabaseError as failure:
            if failure.text == errors.LOG_GONE:
                await self._engine.close_idle()  # the last that is closed writes back what is in a log without a name
            raise
        except (Refusal, Misconfigured):
            raise
        except Exception as error:  # whatever a driver raises while it connects
            raise self.dialect.translate(error) from error

    def _defect(self, error: Exception) -> Internal:
        """What the work raises that is no error of the database is an error of this program, and says so."""
        # One item of a batch is enough for it, and the batch is halved until that one is found: a trace a second.
        if time.monotonic() - self._defect_at > 1.0:
            self._defect_at = time.monotonic()
            log.error("a defect in what was done with the database", exc_info=error)
        return Internal(DEFECT)

    def note(self, failure: DatabaseError | None, lane: Lane, kinds: Collection[str] = ()) -> None:
        """Remember the outcome of the latest use.

        A change of state is logged, a state is not. Reading and writing apart, and each kind of writing, since a full
        disk or a missing right stops only one: what works hides nothing that does not. The probe tries every kind.
        """
        writing = lane in (Lane.WRITE, Lane.PROBE)
        if failure is not None and failure.text == errors.READ_ONLY and self.write_error == errors.STANDBY:
            # The server's refusal of a write does not say so.
            failure = DatabaseError(failure.kind, errors.STANDBY, failure.where)
        if failure is None:
            self.up, self.error = True, None
            if writing:
                self._refused = self._refused and lane is not Lane.PROBE
                for kind in tuple(self._write_errors) if lane is Lane.PROBE else kinds:
                    self._write_errors.pop(kind, None)
                self.wrote_at = max(self.wrote_at, time.monotonic())
        elif lane is Lane.WRITE and failure.kind is ErrorKind.REFUSED:
            self._refused = True  # one, or all: the probe will tell
            return
        elif failure.kind in (ErrorKind.DATA, ErrorKind.SERIALIZATION, ErrorKind.CONFLICT, ErrorKind.LOCKED):
            return
        elif lane is Lane.WRITE and failure.kind is ErrorKind.TIMEOUT:
            return  # others may hold what it needed: the probe will tell
        else:
            self.up, self.error = False, failure.text
            if writing:
                self._write_errors.update(dict.fromkeys(kinds or {"anything"}, failure.text))
        use, state = ("writing", self.write_error) if writing else ("reading", self.error)
        if self._logged.get(use) == state or self._quiet or self._closed:
            return  # after our own closing it is no outage
        first = use not in self._logged
        self._logged[use] = state
        if state is not None:
            reason = failure.told if failure is not None and failure.text == state else state
            log.warning("database is down", use=use, reason=reason)
        elif not first or use == "reading":
            log.info("database is up", use=use)

    def pool(self) -> PoolStats:
        """Connections that somebody uses, and others that are open."""
        return PoolStats(in_use=self._engine.in_use, idle=self._engine.idle)

    def ended(self, task: asyncio.Task[Any]) -> None:
        """A job is over; one that nobody waited for any more has told its failure through ``note``."""
        self.jobs.discard(task)
        self.sharing.working.discard(task)
        if not task.cancelled():
            task.exception()

    async def close(self, timeout: float) -> None:
        """Close all connections; wait that many seconds at most for those that are still in use."""
        self._closed = True
        if self.jobs:
            await asyncio.wait(self.jobs, timeout=timeout)
        await self._engine.dispose()
