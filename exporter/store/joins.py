"""Memberships for joins: all who ask at the same time share one SELECT. Knows nothing of connections and hubs."""

from __future__ import annotations

import asyncio
from itertools import islice

from exporter.errors import NotFound, Unavailable
from exporter.records import Membership
from exporter.store.database import Database, Lane
from exporter.store.faults import Trouble
from exporter.store.statements import Statements

BATCH = 1_000
"""Look-ups in one statement at most: some milliseconds of either database."""

Pair = tuple[str, str]


class Joins:
    """What is asked while a look-up is under way goes into the next one; the same question is asked once."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements
        self._asked: dict[Pair, asyncio.Future[Membership]] = {}
        self._task: asyncio.Task[None] | None = None

    async def membership(self, conversation: str, user: str) -> Membership:
        """Is the user a member, and how far is the conversation? Raises NotFound or Unavailable."""
        pair = (conversation, user)
        future = self._asked.get(pair)
        if future is None:
            future = self._asked[pair] = asyncio.get_running_loop().create_future()
            if self._task is None:
                self._task = asyncio.create_task(self._run())
        done, _ = await asyncio.wait({future}, timeout=self._database.timeout)
        if not done:
            raise Unavailable("the database did not answer in time")
        return future.result()

    async def _run(self) -> None:
        try:
            while self._asked:
                pairs = list(islice(self._asked, BATCH))
                await self._look_up({pair: self._asked.pop(pair) for pair in pairs})
        finally:
            self._task = None

    async def _look_up(self, asked: dict[Pair, asyncio.Future[Membership]]) -> None:
        pairs = list(asked)
        try:
            found = await self._database.run(Lane.JOIN, lambda session: self._statements.memberships(session, pairs))
        except Trouble as trouble:
            for future in asked.values():
                _fail(future, Unavailable(trouble.text))
            return
        for future, (last_seq, member) in zip(asked.values(), found, strict=True):
            if last_seq is None:
                _fail(future, NotFound("no such conversation"))
            else:
                future.set_result(Membership(member, last_seq))


def _fail(future: asyncio.Future[Membership], error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # nobody may be waiting any more
