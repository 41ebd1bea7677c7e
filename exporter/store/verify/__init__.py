"""The slow recount: do the kept figures agree with what is there? Knows no command line.

It needs no lock and no long transaction while writers go on. A figure and its recount are read in *one* statement, so
in one state of the database, where triggers have already kept up with every row that can be seen: a difference is
a difference. And since triggers only ever add and subtract, a difference does not change while writers go on, so
adding it repairs the figure at any later time, unless somebody else has repaired it in between, which a counter tells.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from exporter.core.errors import Misconfigured
from exporter.store import Store, days, errors, totals
from exporter.store.connections import Database
from exporter.store.dialects.base import Dialect, Row, Session, transaction
from exporter.store.errors import DatabaseError, ErrorKind
from exporter.store.lanes import Lane
from exporter.store.schema import migrate
from exporter.store.schema.shape import COUNTED, Difference
from exporter.store.verify import queries

LOCKED_TRIES = 2  # before what is held is left to whoever holds it

LOOK_FOR_LOCK_HOLDERS = 0.7  # seconds of waiting after which is asked for whom
_PASSING = (
    *(ErrorKind.SERIALIZATION, ErrorKind.TIMEOUT, ErrorKind.LOCKED, ErrorKind.CONFLICT),
    ErrorKind.READ_ONLY,  # a pooler's session of another time
)

log = structlog.get_logger("exporter.store")


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found, and what is left of it after repairs."""

    conversations: int
    """Checked."""
    messages: int
    """Counted, roughly: writers went on."""
    inaccurate_conversations: int
    """Found with a wrong ``total_messages`` or ``last_seq``, or without a row."""
    inaccurate_days: int
    """Found with a wrong figure in ``daily_totals``."""
    missing_triggers: int
    """Found missing, disabled or changed: triggers, functions, keys and whatever else of the schema is not as made."""
    repaired: bool
    """Was something wrong, and is nothing wrong any more, as a second recount says?"""
    unkept: str = ""
    """Why nobody can publish it, where the database did not take it: it was counted all the same."""

    @property
    def agrees(self) -> bool:
        """Was everything right?"""
        return not (self.inaccurate_conversations or self.inaccurate_days or self.missing_triggers)


def _nobody(done: int, total: int) -> None:
    """Nobody watches."""


async def verify(
    store: Store,
    *,
    repair: bool = False,
    progress: Callable[[int, int], None] = _nobody,
    out: Callable[[str], None] = lambda line: None,
    pace: float = 0.0,
) -> Report:
    """Recount everything, print what differs, repair it if asked, and keep the result in the database.

    Args:
        store: its schema must be current; it need not have been started.
        repair: also repair it, in small transactions, while others write.
        progress: called with messages done and messages in all.
        out: called with one line per difference.
        pace: seconds of rest for each second of work.

    Raises:
        Unavailable, Misconfigured: it could not be checked.
    """
    database = store.maintenance()
    try:
        return await _Verification(store, database, repair, progress, out, pace).run()
    except DatabaseError as failure:
        raise errors.at_start(failure) from failure
    finally:
        await database.close(1.0)


async def compare(store: Store) -> bool:
    """Is there reason to doubt the totals? A cheap look at a start, without the messages; what it finds is published.

    It finds rows that were loaded behind the triggers or beside them, as by a restore of data alone into a database
    that had been migrated, and triggers that are missing or changed. Logs one warning. Raises Internal (a defect).
    """
    database = store.maintenance()
    dialect = database.dialect

    async def look(session: Session) -> tuple[bool, Sequence[Difference], str]:
        differs, unkept = bool((await session.fetch(queries.COMPARISON))[0][0]), ""
        findings = await dialect.differences(session)
        if differs or findings:
            unkept = await queries.why_unkept(queries.keep_comparison(session, differs, len(findings)))
        return differs, findings, unkept

    try:
        differs, findings, unkept = await database.job(Lane.VERIFY, look, None).result()
    except (DatabaseError, Misconfigured) as error:
        reason = error.told if isinstance(error, DatabaseError) else str(error)
        log.warning("the totals could not be compared", reason=reason)
        return False
    finally:
        await database.close(1.0)
    if unkept:  # what the database tells next would be a contradiction
        log.warning(totals.WRONG, days=int(differs), triggers=len(findings), unkept=unkept)
    else:
        store.findings.tell(None, int(differs), len(findings))
    return differs or bool(findings)


@dataclass(frozen=True, slots=True)
class _Found:
    """What one pass looked at, and how many conversations, days and parts of the schema were wrong."""

    conversations: int
    messages: int
    wrong: tuple[int, int, int]


@dataclass
class _Verification:
    store: Store
    database: Database
    repair: bool
    progress: Callable[[int, int], None]
    out: Callable[[str], None]
    pace: float
    _lock_holders: str = ""

    def __post_init__(self) -> None:
        self.dialect: Dialect = self.database.dialect
        self._days = queries.days_statement(self.dialect)
        self._ahead = queries.future_statement(self.dialect)

    async def run(self) -> Report:
        await self._run(partial(migrate.require_current, self.dialect, repairable=True))
        found = left = await self._pass()
        if self.repair and any(found.wrong):  # what is published was recounted, not believed
            self.repair, self.out = False, lambda line: None
            left = await self._pass()
        unkept = await self._keep(left)
        repaired = any(found.wrong) > any(left.wrong)
        return Report(found.conversations, found.messages, *found.wrong, repaired, unkept)

    async def _keep(self, left: _Found) -> str:
        now = self.store.now()
        keeping = self._run(lambda session: queries.keep(session, now.timestamp(), *left.wrong))
        if unkept := await queries.why_unkept(keeping):
            return unkept
        with suppress(DatabaseError):  # a scrape reads more rows then, and is right
            await self._run(lambda session: totals.compact(session, self.dialect, now))
        return ""

    async def _pass(self) -> _Found:
        differences = await self._differences()
        conversations, messages, inaccurate = await self._conversations()
        wrong_days = await self._future() + await self._user_days() + await self._recount_days()
        return _Found(conversations, messages, (inaccurate, wrong_days, differences))

    async def _run(self, work: Callable[[Session], Any]) -> Any:
        """Run work, a few times if others are in its way, and rest after it. Whoever holds what it needs is named."""
        locked = 0
        for attempt in range(8):
            began = time.monotonic()
            self._lock_holders = ""
            watcher = asyncio.create_task(self._look_for_lock_holders())
            try:
                result = await self.database.job(Lane.VERIFY, work, None).result()
            except DatabaseError as failure:
                locked += failure.text == errors.LOCKED
                if failure.kind not in _PASSING or attempt == 7 or locked == LOCKED_TRIES:
                    raise DatabaseError(failure.kind, failure.text + self._lock_holders, failure.where) from failure
                await asyncio.sleep(random.uniform(0, 0.05 * 2**attempt))
                continue
            finally:
                watcher.cancel()
                await asyncio.wait({watcher})
            await asyncio.sleep((time.monotonic() - began) * self.pace)
            return result
        raise AssertionError("unreachable")

    async def _look_for_lock_holders(self) -> None:
        while True:
            await asyncio.sleep(LOOK_FOR_LOCK_HOLDERS)
            with suppress(DatabaseError):
                if lock_holders := await self.dialect.lock_holders(self._ask_beside):
                    self._lock_holders = ": " + ", ".join(lock_holders)

    async def _ask_beside(self, sql: str, *args: Any) -> Sequence[Row]:
        beside = self.store.maintenance()
        try:
            return await beside.run(Lane.VERIFY, lambda session: session.fetch(sql, *args), LOOK_FOR_LOCK_HOLDERS * 2)
        finally:
            await beside.close(1.0)

    async def _repaired(self, subject: str, work: Callable[[Session], Any]) -> Any:
        """Run what repairs something; False where somebody holds it, which is said."""
        try:
            return await self._run(work)
        except DatabaseError as failure:
            if not failure.text.startswith(errors.LOCKED):
                raise
            self.out(f"{subject}: not repaired, {failure.text}")
            return False

    # --- what the revisions made ----------------------------------------------------------------------------

    async def _differences(self) -> int:
        findings: Sequence[Difference] = await self._run(self.dialect.differences)
        for finding in findings:
            self.out(str(finding))
        if any(finding.repair for finding in findings) and self.repair:
            await self._repaired("the schema", lambda session: self._repair(session, findings))
        return len(findings)

    async def _repair(self, session: Session, findings: Sequence[Difference]) -> None:
        async with transaction(session, self.dialect.begin):
            await self.dialect.repair(session, findings)

    # --- conversations ------------------------------------------------------------------------------------

    async def _conversations(self) -> tuple[int, int, int]:
        total = await self._run(queries.count_kept)
        conversations = messages = inaccurate = 0
        last: str | None = None
        while True:
            after = last
            page = await self._run(partial(queries.next_page, after=after))
            names, weight, more = page
            last = names[-1] if names else last
            until = last if more else None
            for row in await self._run(partial(queries.differing, after=after, until=until)):
                inaccurate += 1
                weight += row[4] - max(0, row[2])  # counted, in the place of what was claimed
                await self._differs(row)
            conversations += len(names)
            messages += weight
            self.progress(min(messages, total) if more else total, total)
            if not more:
                return conversations, messages, inaccurate

    async def _differs(self, row: Row) -> None:
        name, known, kept, last_seq, counted, top = row
        if not known:
            self.out(f"conversation {name!r}: no such row, counted {counted}")
        elif kept != counted:
            self.out(f"conversation {name!r}: total_messages is {kept}, counted {counted}")
        if known and last_seq < top:
            self.out(f"conversation {name!r}: last_seq is {last_seq}, highest seq {top}")
        if self.repair:
            begin, lock = self.dialect.begin, self.dialect.lock
            repair = partial(queries.repair_conversation, begin=begin, lock=lock, name=name)
            await self._repaired(f"conversation {name!r}", repair)

    # --- days that have not come --------------------------------------------------------------------------

    async def _future(self) -> int:
        rows: Sequence[Row] = await self._run(lambda session: session.fetch(self._ahead))
        for day, users in rows:
            self.out(f"day {day}: {users} users were last active on it, and it has not come")
        if rows and self.repair:
            repair = partial(queries.repair_future, dialect=self.dialect)
            await self._repaired("users whose last day has not come", repair)
        return len(rows)

    # --- days ---------------------------------------------------------------------------------------------

    async def _user_days(self) -> int:
        since = self.store.now() - timedelta(days=days.KEPT - 1)
        rows: Sequence[Row] = await self._run(lambda s: queries.days_without_users(s, self.dialect, since))
        for day, users in rows:
            self.out(f"day {day}: {users} of its senders are not in the record of active users")
        if rows and self.repair:
            repair = partial(queries.repair_user_days, dialect=self.dialect, since=since)
            await self._repaired("the record of active users", repair)
        return len(rows)

    async def _recount_days(self) -> int:
        for _ in range(8):
            rows = await self._run(lambda session: session.fetch(self._days))
            if not rows or not self.repair:
                break
            # Those whom the counter betrays have not changed anything: look again.
            repaired = await self._repaired("days", partial(queries.repair_days, dialect=self.dialect, rows=rows))
            if repaired is not None:
                break
        else:
            raise DatabaseError(ErrorKind.SERIALIZATION, "somebody else repairs the database at the same time")
        for day, _repairs, *figures in rows:
            for i, figure in enumerate(COUNTED):
                counted, kept = figures[i], figures[i + len(COUNTED)]
                if counted != kept:
                    self.out(f"day {day}: {figure} is {kept}, counted {counted}")
        return len(rows)
