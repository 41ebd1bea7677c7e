"""The one writer: takes all that is queued, commits it as one transaction, tells everybody. Knows no SQL.

There is no timer that waits for others: a single sender's message goes into a transaction of its own at once, and
what arrives while that one is being flushed to the disk shares the next one.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import structlog

from exporter.core.errors import BadFrame, Refusal, Unavailable
from exporter.core.records import Message
from exporter.store import errors
from exporter.store.coalescing import KnownUsers, SharedTimeout, batching_window
from exporter.store.connections import Database, Lane
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.queries import Key, Queries
from exporter.store.transaction import Item, SendItem, Transaction

QUEUE_ITEMS = 10_000
"""Waiting at most: about a second's work of either database."""
QUEUE_CHARACTERS = 64 * 1024 * 1024
"""Of message bodies waiting at most."""
BATCH_ITEMS = 1_000
"""In one transaction at most: by then its flush is shared enough, and it bounds how long a neighbour is waited for."""
BATCH_CHARACTERS = 4 * 1024 * 1024
"""Of message bodies in one transaction at most, but for a single one."""
UNREGISTERED = 100_000
"""Users waiting to be registered at most; who is beyond that is registered by their next connection."""
RACES = 8
"""How often a transaction that the database took back is tried again."""
ENOUGH = 64
"""Registrations in one transaction that are worth waiting for."""
REGISTER_WAIT = 0.25
"""Seconds that a new connection waits for its user's row; a transaction takes some milliseconds."""
RETRY = 1.0
"""Seconds until work that nobody waits for (registrations, in_doubt_now messages) is tried again."""

log = structlog.get_logger("exporter.store")


class Writer:
    """Queue, transactions and answers. One per store; everything happens on one event loop."""

    def __init__(
        self,
        database: Database,
        queries: Queries,
        clock: Callable[[], datetime],
        on_resolved: Callable[[Message], None],
    ) -> None:
        self._database = database
        self._queries = queries
        self._clock = clock
        self._on_resolved = on_resolved
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Item] = deque()
        self._open: deque[Item] = deque()  # queued or under way, oldest first; answered ones linger at times
        self._characters = 0
        self._unregistered: dict[str, list[asyncio.Future[bool]]] = {}
        self._register_at = 0.0  # not before, unless something else is to be stored anyway
        self._shared_timeout: SharedTimeout[bool] = SharedTimeout(min(REGISTER_WAIT, database.timeout), _later)
        self._in_doubt: dict[Key, Message] = {}
        self._known = KnownUsers()
        self._wake = asyncio.Event()
        self._closing = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._task = self._loop.create_task(self._run(), name="store-writer")

    # --- what others call ---------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Queue something. It is answered later, exactly once.

        Raises:
            Unavailable: the queue is full, or the store is closing.
        """
        if self._closing:
            raise Unavailable("the server is shutting down")
        if len(self._open) >= QUEUE_ITEMS or self._characters >= QUEUE_CHARACTERS:
            self._forget_answered()
            if len(self._open) >= QUEUE_ITEMS or self._characters >= QUEUE_CHARACTERS:
                raise Unavailable("too much is waiting to be stored")
        item.deadline = self._loop.time() + self._database.timeout
        self._queue.append(item)
        self._open.append(item)
        self._characters += item.size
        if self._sweeper is None:
            self._sweeper = self._loop.call_at(item.deadline, self._sweep)
        self._wake.set()

    def is_known(self, user: str) -> bool:
        """Was this user registered a short time ago?"""
        self._known.advance(self._loop.time())
        return user in self._known

    def register(self, user: str) -> asyncio.Future[bool]:
        """Have a user registered, now or whenever the database can.

        The future is True when it is done; False when the next try failed or takes longer than ``REGISTER_WAIT``.
        """
        future = self._shared_timeout.future()
        if self._closing or (len(self._unregistered) >= UNREGISTERED and user not in self._unregistered):
            future.set_result(False)
        else:
            self._unregistered.setdefault(user, []).append(future)
            self._wake.set()
        return future

    async def close(self, timeout: float) -> None:
        """Finish what is queued within that many seconds; what is left is answered ``unavailable``."""
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task}, timeout=timeout)
        self._task.cancel()
        await asyncio.wait({self._task})
        for handle in (self._sweeper, self._alarm):
            if handle is not None:
                handle.cancel()
        for item in self._open:
            self._answer(item, Unavailable("the server is shutting down"))
        for user in list(self._unregistered):
            self._tell(user, False)
        self._shared_timeout.close()

    # --- the loop -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not (self._closing and not self._queue):
            await self._wake.wait()
            self._wake.clear()
            while self._queue or self._unregistered or self._in_doubt:
                early = self._register_at - self._loop.time()
                if early > 0 and not (self._queue or self._in_doubt or self._closing):
                    self._set_alarm(early)
                    break
                users = list(islice(self._unregistered, BATCH_ITEMS))
                try:
                    useful = await self._commit(self._take(), users)
                except Exception:  # a mistake of ours; everybody waits for this task, and time limits answer the items
                    log.exception("a transaction failed")
                    useful = False
                if not useful and not self._queue:
                    self._set_alarm(RETRY)
                    break
                self._register_at = self._loop.time() + batching_window(len(users), ENOUGH)

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        characters = 0
        while self._queue and len(batch) < BATCH_ITEMS:
            item = self._queue[0]
            if batch and characters + item.size > BATCH_CHARACTERS:
                break
            self._queue.popleft()
            if not item.answered:
                batch.append(item)
                characters += item.size
        return batch

    def _set_alarm(self, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake.set()

    async def _commit(self, items: Sequence[Item], users: Sequence[str]) -> bool:
        """Store what these items and users ask; False when the database is of no use now. All items are answered."""
        races = losses = 0
        while True:
            items = [item for item in items if not item.answered]
            users = [user for user in users if user in self._unregistered]
            if not items and not users and not self._in_doubt:
                return True
            transaction = Transaction(
                self._queries,
                items,
                users=users,
                is_known=self.is_known,
                in_doubt=list(self._in_doubt.values()),
                now=self._now(),
            )
            failure = await self._attempt(transaction)
            if failure is None:
                self._committed(transaction)
                return True
            in_doubt_now = transaction.committing and failure.kind in (ErrorKind.DISCONNECTED, ErrorKind.TIMEOUT)
            if in_doubt_now:
                self._mark_in_doubt(transaction)
            match failure.kind:
                case ErrorKind.SERIALIZATION if races < RACES:
                    races += 1
                    await asyncio.sleep(random.uniform(0.001, 0.002 * 2**races))
                case ErrorKind.DISCONNECTED | ErrorKind.READ_ONLY if not losses and not in_doubt_now:
                    losses += 1  # a connection that died while nobody used it says nothing about the next one
                case ErrorKind.TIMEOUT if items and not in_doubt_now and not self._closing:
                    await asyncio.sleep(0.01)  # until each item's own time is over
                case ErrorKind.CONFLICT if not races:
                    races += 1  # another node stored the same message meanwhile: now it will be found
                case ErrorKind.CONFLICT | ErrorKind.DATA:
                    return await self._divide(items, users, failure)
                case _:
                    for item in items:
                        self._answer(item, Unavailable(failure.text))
                    for user in users:
                        self._tell(user, False)
                    return False

    def _now(self) -> datetime:
        # Milliseconds are what SQLite's functions keep: an acknowledgement and its repetition show the same time.
        now = self._clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    async def _attempt(self, transaction: Transaction) -> DatabaseError | None:
        job = self._database.job(Lane.WRITE, transaction.run, self._database.timeout)
        try:
            await job.result()
        except DatabaseError as failure:
            if job.task.done():
                return failure
        except Exception:  # a mistake of ours; the writer goes on, because everybody waits for it
            log.exception("a transaction failed")
            return DatabaseError(ErrorKind.DISCONNECTED, errors.UNKNOWN)
        else:
            return None
        # It was told to stop. How it ended matters, and nothing else may be written before it has.
        await asyncio.wait({job.task})
        error = job.task.exception()
        return (
            error
            if error is None or isinstance(error, DatabaseError)
            else DatabaseError(ErrorKind.DISCONNECTED, errors.UNKNOWN)
        )

    async def _divide(self, items: Sequence[Item], users: Sequence[str], failure: DatabaseError) -> bool:
        """Something in there cannot be stored: find it, and store the rest, in order."""
        if items and users:
            return await self._commit([], users) and await self._commit(items, [])
        if users:
            log.error("users that cannot be registered", count=len(users))
            for user in users:
                self._tell(user, False)
                self._unregistered.pop(user, None)
        elif len(items) == 1:
            refusal = BadFrame if failure.kind is ErrorKind.DATA else Unavailable
            self._answer(items[0], refusal(failure.text))
        elif items:
            middle = len(items) // 2
            return await self._commit(items[:middle], []) and await self._commit(items[middle:], [])
        return True

    # --- outcomes -----------------------------------------------------------------------------------------

    def _committed(self, transaction: Transaction) -> None:
        self._in_doubt.clear()
        self._known.advance(self._loop.time())
        self._known.add(transaction.users)
        for user in transaction.users:
            self._tell(user, True)
        for message in transaction.resolved:
            self._resolve(message)
        for item, result in transaction.results.items():
            if not item.answered:
                self._answer(item, result)
            elif isinstance(item, SendItem) and not isinstance(result, Refusal) and not result[1]:
                self._resolve(result[0])  # it took longer than its sender was willing to wait
        self._forget_answered()

    def _mark_in_doubt(self, transaction: Transaction) -> None:
        for message in transaction.stored:
            self._in_doubt[message.conversation, message.sender, message.id] = message

    def _resolve(self, message: Message) -> None:
        try:
            self._on_resolved(message)
        except Exception:  # a listener's mistake must not stop the writer, which everybody waits for
            log.exception("a listener failed")

    def _answer(self, item: Item, result: Any) -> None:
        if item.answered:
            return
        item.answered = True
        self._characters -= item.size
        try:
            item.answer(result)
        except Exception:  # as above
            log.exception("a listener failed")

    def _tell(self, user: str, registered: bool) -> None:
        waiting = self._unregistered.get(user)
        if waiting is None:
            return
        for future in waiting:
            if not future.done():
                future.set_result(registered)
        if registered:
            del self._unregistered[user]
        else:
            waiting.clear()

    # --- time limits --------------------------------------------------------------------------------------

    def _forget_answered(self) -> None:
        while self._open and self._open[0].answered:
            self._open.popleft()

    def _sweep(self) -> None:
        now = self._loop.time()
        while self._open and (self._open[0].answered or self._open[0].deadline <= now):
            self._answer(self._open.popleft(), Unavailable(errors.TIMEOUT))
        while self._queue and self._queue[0].answered:  # however long the writer is held up, they do not pile up
            self._queue.popleft()
        self._sweeper = self._loop.call_at(self._open[0].deadline, self._sweep) if self._open else None


def _later(registered: asyncio.Future[bool]) -> None:
    registered.set_result(False)
