"""The one writer: takes all that is queued, commits it as one transaction, tells everybody. Knows no SQL.

There is no timer that waits for others: a single sender's message goes into a transaction of its own at once, and
what arrives while that one is being flushed to the disk shares the next one.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import structlog

from exporter.core.errors import BadFrame, Internal, Refusal, Unavailable
from exporter.core.records import Message
from exporter.store.coalescing import KnownUsers, batching_window
from exporter.store.connections import Database
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.lanes import Lane
from exporter.store.locked_rows import POLL_INTERVAL, LockedRows, rows_of
from exporter.store.pending import Pending
from exporter.store.queries import Key, Queries
from exporter.store.queue import BATCH_ROWS, Queue
from exporter.store.registrations import Registrations
from exporter.store.supervision import keep_running
from exporter.store.transaction import Item, Operation, OperationItem, SendItem, Transaction

T = TypeVar("T")
RACES = 8
"""How often a transaction that the database took back is tried again."""
ENOUGH = 64
"""Registrations in one transaction that are worth waiting for."""
SEARCH = 1.0
"""Seconds for finding out which items wait for what cannot be asked for; what is left then is tried one by one."""
AGAIN = 0.1
"""Seconds until it goes on after a defect, whose items their time limits answer: everybody waits for this task."""
RETRY = 1.0
"""Seconds until work that nobody waits for (registrations, in-doubt messages) is tried again."""

log = structlog.get_logger("exporter.store")


class Writer:
    """Queue, transactions and answers. One per store; everything happens on one event loop."""

    def __init__(
        self,
        database: Database,
        queries: Queries,
        clock: Callable[[], datetime],
        on_resolved: Callable[[Message], None],
        on_failed: Callable[[str], object],
    ) -> None:
        self._database = database
        self._queries = queries
        self._clock = clock
        self._on_resolved = on_resolved
        self._loop = asyncio.get_running_loop()
        self._queue = Queue()
        self._pending = Pending(database.timeout, self._expired)
        self._unregistered = Registrations(database.timeout)
        self._register_at = 0.0  # not before, unless something else is to be stored anyway
        self._in_doubt: dict[Key, Message] = {}
        self._known = KnownUsers()
        self._locked_rows = LockedRows(database, queries)
        self._search_until = 0.0  # for what it is that others hold
        self._wake = asyncio.Event()
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        running = keep_running("writer", self._run, on_failed, pause=AGAIN, longest=RETRY)
        self._task = self._loop.create_task(running, name="store-writer")

    # --- what others call ---------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Queue something. It is answered later, exactly once.

        Raises:
            Unavailable: the queue is full, or the store is closing.
        """
        if self._closing:
            raise Unavailable("the server is shutting down")
        self._pending.admit(item)
        self._queue.put(item)
        self._wake.set()

    def operate(
        self, kind: str, by: str, operation: Operation[T], conversation: str | None = None, *, rows: int = 1
    ) -> asyncio.Future[T]:
        """Queue any other change, in about that many rows; errors as with ``put``, and the future may raise Refusal."""
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: Any) -> None:
            if not future.cancelled():
                (future.set_exception if isinstance(result, Refusal) else future.set_result)(result)

        self.put(OperationItem(done, kind, by, operation, conversation, rows=rows))
        return future

    def is_known(self, user: str) -> bool:
        """Was this user registered a short time ago?"""
        self._known.advance(self._loop.time())
        return user in self._known

    def register(self, user: str) -> asyncio.Future[bool]:
        """Have a user registered, now or whenever the database can.

        The future is True when it is done, and False when that is left to later.
        """
        self._wake.set()
        return self._unregistered.add(user, closed=self._closing)

    def ask(self, user: str) -> asyncio.Future[bool] | None:
        """As ``register``, where it is quicker to look first: then the caller does that, and says ``looked``."""
        return self._unregistered.ask(user) if self._unregistered.returning and not self._closing else None

    def looked(self, user: str, has_row: bool) -> None:
        """Somebody has looked whether the user has a row; who has none, or could not be looked for, is registered."""
        self._unregistered.looked(user, has_row)
        if has_row:
            self._known.add((user,))
        else:
            self.register(user)

    async def close(self, timeout: float) -> None:
        """Finish what is queued within that many seconds; what is left is answered ``unavailable``."""
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task}, timeout=timeout)
        self._task.cancel()
        await asyncio.wait({self._task})
        if self._timer is not None:
            self._timer.cancel()
        self._pending.close()
        self._unregistered.close()

    # --- the loop -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._wake.set()  # a defect may have come between the alarm and the work
        while not (self._closing and not self._queue):
            await self._wake.wait()
            self._wake.clear()
            while True:
                if self._locked_rows.due:
                    await self._retry_waiting()
                users = self._next_users()
                if not (self._queue or users or self._resolvable()):
                    if self._unregistered:
                        self._wake_in(RETRY)
                    break
                early = self._register_at - self._loop.time()
                if early > 0 and not (self._queue or self._resolvable() or self._closing):
                    self._wake_in(early)
                    break
                useful = await self._commit(self._take(), users)
                if not useful and not self._queue:
                    self._wake_in(RETRY)
                    break
                self._register_at = self._loop.time() + batching_window(len(users), ENOUGH)
            if self._locked_rows:
                self._wake_in(POLL_INTERVAL)

    def _take(self) -> list[Item]:
        return self._without_locked(self._queue.take())

    def _resolvable(self) -> list[Message]:
        return [m for m in self._in_doubt.values() if ("conversation", m.conversation) not in self._locked_rows]

    def _next_users(self) -> list[str]:
        return self._unregistered.next(BATCH_ROWS, self._locked_rows.users())

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake.set()

    async def _commit(self, items: Sequence[Item], users: Sequence[str]) -> bool:
        """Store what these items and users ask; False when the database is of no use now. All items are answered."""
        races = losses = 0
        while True:
            items = [item for item in items if not item.answered]
            users = [user for user in users if user in self._unregistered]
            if not items and not users and not self._resolvable():
                return True
            transaction = Transaction(
                self._queries,
                items,
                users=users,
                in_doubt=self._resolvable(),
                now=self._now(),
            )
            job = self._database.job(Lane.WRITE, transaction.run, self._database.timeout, transaction.kinds)
            failure = await job.outcome()
            if failure is None:
                self._committed(transaction)
                return True
            lost = isinstance(failure, Internal) or failure.kind in (ErrorKind.DISCONNECTED, ErrorKind.TIMEOUT)
            in_doubt_now = transaction.committing and lost
            if in_doubt_now:
                self._mark_in_doubt(transaction)
            if isinstance(failure, Internal):
                return await self._bisect(items, users, failure)
            match failure.kind:
                case ErrorKind.SERIALIZATION if races < RACES:
                    races += 1
                    await asyncio.sleep(random.uniform(0.001, 0.002 * 2**races))
                case ErrorKind.DISCONNECTED | ErrorKind.READ_ONLY if not losses and not in_doubt_now:
                    losses += 1  # a connection that died while nobody used it says nothing about the next one
                case ErrorKind.LOCKED:
                    return await self._set_aside(items, users)
                case ErrorKind.TIMEOUT if items and not in_doubt_now and not self._closing:
                    await asyncio.sleep(0.01)  # until each item's own time is over
                case ErrorKind.CONFLICT if not races:
                    races += 1  # another node stored the same message meanwhile: now it will be found
                case ErrorKind.CONFLICT | ErrorKind.DATA | ErrorKind.REFUSED:
                    return await self._bisect(items, users, failure)
                case _ if items and users and not in_doubt_now:  # what keeps one from being written may spare the other
                    await self._commit([], users)
                    return await self._commit(items, [])
                case _:
                    for item in items:
                        self._pending.answer(item, Unavailable(failure.text))
                    self._not_registered(users)
                    return False

    def _now(self) -> datetime:
        # Milliseconds are what SQLite's functions keep: an acknowledgement and its repetition show the same time.
        now = self._clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    async def _set_aside(self, items: Sequence[Item], users: Sequence[str]) -> bool:
        """Another program holds something of what these need: set that aside, and store the rest."""
        needed = {row for item in items for row in rows_of(item)} | {("user", user) for user in users}
        locked = await self._locked_rows.find(needed | {("conversation", m.conversation) for m in self._resolvable()})
        if locked:
            return await self._commit(
                self._without_locked(items), [user for user in users if ("user", user) not in locked]
            )
        now = self._loop.time()
        if now > self._search_until + SEARCH:
            self._search_until = now + SEARCH
        if len(items) + len(users) == 1 or now > self._search_until:
            for item in items:
                # Most likely somebody is about to make the sender's row; so much for what else they send, too.
                row = ("user", item.draft.sender) if len(items) == 1 and isinstance(item, SendItem) else None
                self._locked_rows.set_aside(item, row)
                if row is not None:
                    self._locked_rows.back_off(row)
            for user in users:
                self._locked_rows.back_off(("user", user))
                self._unregistered.tell(user, False)
            return True
        if items and users:
            return await self._commit(items, []) and await self._commit([], users)
        half = max(len(items), len(users)) // 2
        done = await self._commit(items[:half], users[:half])
        return done and await self._commit(self._without_locked(items[half:]), users[half:])

    def _without_locked(self, items: Sequence[Item]) -> list[Item]:
        """Those that need nothing that is locked; the others are set aside."""
        free = []
        for item in items:
            row = self._locked_rows.blocked_by(item)
            if row is None:
                free.append(item)
            else:
                self._locked_rows.set_aside(item, row)
        return free

    async def _retry_waiting(self) -> None:
        """Take back what is free, to its place before what came later."""
        self._queue.put_back(await self._locked_rows.take_unlocked())
        tried = self._locked_rows.take_one()
        if tried is not None:
            await self._commit([tried], [])
            if tried.answered:
                self._queue.put_back(self._locked_rows.take_rest())

    async def _bisect(self, items: Sequence[Item], users: Sequence[str], failure: DatabaseError | Internal) -> bool:
        """Something in there cannot be stored: find it, and store the rest, in order."""
        if items and users:
            return await self._commit([], users) and await self._commit(items, [])
        if len(users) > 1:
            middle = len(users) // 2
            return await self._commit([], users[:middle]) and await self._commit([], users[middle:])
        if users and isinstance(failure, DatabaseError) and failure.kind is ErrorKind.REFUSED:
            self._not_registered(users)
        elif users:
            log.error("a user that cannot be registered", reason=str(failure))
            self._unregistered.give_up(users[0])
        elif len(items) == 1:
            refusal: Refusal
            if isinstance(failure, Internal):
                refusal = failure
            else:
                refusal = (BadFrame if failure.kind is ErrorKind.DATA else Unavailable)(failure.text)
            self._pending.answer(items[0], refusal)
        elif items:
            middle = len(items) // 2
            return await self._commit(items[:middle], []) and await self._commit(items[middle:], [])
        return True

    # --- outcomes -----------------------------------------------------------------------------------------

    def _committed(self, transaction: Transaction) -> None:
        for message in transaction.looked_up:
            self._in_doubt.pop((message.conversation, message.sender, message.id), None)
        self._known.advance(self._loop.time())
        self._known.add(transaction.users)
        if transaction.users:
            self._unregistered.returning = 2 * transaction.newcomers < len(transaction.users)
        for user in transaction.users:
            self._unregistered.tell(user, True)
        for message in transaction.resolved:
            self._resolve(message)
        for item, result in transaction.results.items():
            if not item.answered:
                self._pending.answer(item, result)
            elif isinstance(item, SendItem) and not isinstance(result, Refusal) and not result[1]:
                self._resolve(result[0])  # it took longer than its sender was willing to wait

    def _mark_in_doubt(self, transaction: Transaction) -> None:
        for message in transaction.stored:
            self._in_doubt[message.conversation, message.sender, message.id] = message

    def _resolve(self, message: Message) -> None:
        try:
            self._on_resolved(message)
        except Exception:  # a listener's mistake must not stop the writer, which everybody waits for
            log.exception("a listener failed")

    def _not_registered(self, users: Sequence[str]) -> None:
        """They wait for the next try, and hold up nothing else until then."""
        for user in users:
            self._unregistered.tell(user, False)
        if users:
            self._unregistered.refused(RETRY)

    def _expired(self, item: Item) -> None:
        self._queue.forget_answered(item.whose)  # however long the writer is held up, they do not pile up
