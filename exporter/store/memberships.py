"""Memberships for joins: all who ask at the same time share one SELECT. Knows nothing of connections and hubs.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice

from exporter.core.errors import Internal, NotFound, Refusal, Unavailable
from exporter.core.records import Membership
from exporter.store.coalescing import SharedTimeout, batching_window
from exporter.store.connections import DEFECT, Database
from exporter.store.errors import DatabaseError
from exporter.store.lanes import Lane
from exporter.store.queries import Queries
from exporter.store.supervision import keep_running

BATCH = 1_000
"""Look-ups in one statement at most: some milliseconds of either database."""
ENOUGH = 24
"""Look-ups in one statement that are worth waiting for; with more, 64 people who come and go wait for each other."""

AGAIN = 0.1
"""Seconds until it goes on after a defect."""
NOWHERE = ""
"""No conversation has this name."""

Pair = tuple[str, str]


class MembershipLookups:
    """What is asked while a look-up is under way goes into the next one; the same question is asked once."""

    def __init__(
        self,
        database: Database,
        queries: Queries,
        on_row: Callable[[str, bool], object],
        on_failed: Callable[[str], object],
    ) -> None:
        """``on_row``: told whether a user has a row, if that was asked for, or if they have none."""
        self._database = database
        self._on_row = on_row
        self._queries = queries
        self._asked: dict[Pair, list[asyncio.Future[Membership]]] = {}
        self._on_failed = on_failed
        self._task: asyncio.Task[None] | None = None
        self._shared_timeout: SharedTimeout[Membership] = SharedTimeout(database.timeout, _too_late)

    def membership(self, conversation: str, user: str) -> asyncio.Future[Membership]:
        """Is the user a member, and how far is the conversation? The future may raise NotFound or Unavailable."""
        future = self._shared_timeout.future()
        self._ask((conversation, user)).append(future)
        return future

    def require_row(self, user: str) -> None:
        """Ask whether the user has a row, together with what others ask: ``on_row`` is told."""
        self._ask((NOWHERE, user))

    def _ask(self, pair: Pair) -> list[asyncio.Future[Membership]]:
        futures = self._asked.setdefault(pair, [])
        if self._task is None:
            running = keep_running("memberships", self._run, self._on_failed, pause=AGAIN, longest=AGAIN)
            self._task = asyncio.create_task(running)
            self._task.add_done_callback(self._ended)
        return futures

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if self._asked and not task.cancelled():  # asked in the same turn
            self._ask(next(iter(self._asked)))

    def close(self) -> None:
        """Whoever still waits is told ``unavailable``."""
        self._shared_timeout.close()

    async def _run(self) -> None:
        while self._asked:
            pairs = list(islice(self._asked, BATCH))
            await self._look_up({pair: self._asked.pop(pair) for pair in pairs})
            await asyncio.sleep(batching_window(len(pairs), ENOUGH))

    async def _look_up(self, asked: dict[Pair, list[asyncio.Future[Membership]]]) -> None:
        pairs = list(asked)
        try:
            found = await self._database.run(Lane.JOIN, lambda session: self._queries.memberships(session, pairs))
        except DatabaseError as failure:
            self._refuse(asked, Unavailable(failure.text))
            return
        except Exception as error:  # a defect: who asks is told, and then it is logged where the task is kept running
            self._refuse(asked, error if isinstance(error, Internal) else Internal(DEFECT))
            if not isinstance(error, Internal):  # whose trace is in the log already
                raise
            return
        for ((conversation, user), futures), (membership, registered) in zip(asked.items(), found, strict=True):
            if not registered or conversation == NOWHERE:
                self._on_row(user, registered)
            if membership is None:
                _refuse(futures, NotFound("no such conversation"))
                continue
            if membership.behind and not membership.member:
                _refuse(futures, Unavailable("the database is a standby, which may not know of it yet"))
                continue
            for future in futures:
                if not future.done():
                    future.set_result(membership)

    def _refuse(self, asked: dict[Pair, list[asyncio.Future[Membership]]], refusal: Refusal) -> None:
        for (conversation, user), futures in asked.items():
            if conversation == NOWHERE:
                self._on_row(user, False)  # it costs nothing where there is a row
            _refuse(futures, refusal)


def _refuse(futures: list[asyncio.Future[Membership]], refusal: Refusal) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(refusal)


def _too_late(future: asyncio.Future[Membership]) -> None:
    future.set_exception(Unavailable("the database did not answer in time"))
