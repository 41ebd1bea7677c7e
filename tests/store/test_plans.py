"""What each statement of the writer and the readers reads, in a fresh database and in one that has its statistics.

Every planner makes guesses about lists whose length it does not know. What was really read is what PostgreSQL's own
``EXPLAIN ANALYZE`` says; SQLite's ``EXPLAIN QUERY PLAN`` names what it walks through.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from exporter.core.records import Message
from exporter.store import Store
from exporter.store.dialects.base import Row, Session
from exporter.store.lanes import Lane
from tests.databases import Place, opened

MANY = 200
FILL = {
    "sqlite": "WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {}) ",
    "postgresql": "WITH g (n) AS (SELECT generate_series(1, {})) ",
}
TABLES = (
    (2_000, "conversations (id) {}SELECT 'c' || n FROM g"),
    (2_000, "users (id) {}SELECT 'u' || n FROM g"),
    (
        10_000,
        "conversation_members (conversation_id, user_id) {}"
        "SELECT 'c' || (n % 2000 + 1), 'u' || (n % 2000 + 1 + n / 2000) FROM g",
    ),
    (10_000, "messages (conversation_id, seq, sender_id) {}SELECT 'c' || (n % 2000 + 1), n / 2000 + 1, 'u1' FROM g"),
)


class Explaining:
    """A session that tells what each statement reads, and has no row for anybody."""

    def __init__(self, session: Session, place: Place) -> None:
        self._session = session
        self._place = place
        self.plans: dict[str, Sequence[Row]] = {}

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        if self._place.name == "sqlite":
            self.plans[sql] = await self._session.fetch(f"EXPLAIN QUERY PLAN {sql}", *args)
            return []
        # As the server plans it, which does not look at the parameters.
        await self._session.execute(f"PREPARE asked AS {sql}")
        given = ", ".join("'{" + ",".join(map(str, column)) + "}'" for column in args)
        self.plans[sql] = await self._session.fetch(
            f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE asked ({given})"
        )
        await self._session.execute("DEALLOCATE asked")
        return []


@pytest.fixture(params=["fresh", "analyzed"])
async def store(place: Place, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    async with opened(place) as store:
        for number, statement in TABLES:
            await place.execute("INSERT INTO " + statement.format(FILL[place.name].format(number)))
        if request.param == "analyzed":
            await place.execute("ANALYZE")
        yield store


async def plans(place: Place, store: Store) -> dict[str, Sequence[Row]]:
    queries, now = store._queries, store.now()
    pairs = [(f"c{n}", f"u{n}") for n in range(2, MANY + 2)]
    messages = [Message(conversation, 99, user, "m", "hello", now) for conversation, user in pairs]

    async def ask(session: Session) -> dict[str, Sequence[Row]]:
        asked: Any = Explaining(session, place)
        await session.execute("BEGIN")
        await queries.lock(asked, [conversation for conversation, _ in pairs])
        await queries.look_up(asked, [(*pair, "m") for pair in pairs])
        await queries.insert(asked, messages)
        await queries.register(asked, [f"new {user}" for _, user in pairs], now)
        await queries.marks(asked, [(*pair, 1) for pair in pairs])
        await queries.move(asked, [(*pair, 1) for pair in pairs])
        await queries.memberships(asked, pairs)
        if store._dialect.lock:  # nobody asks SQLite what is locked
            await queries.locked(asked, "conversation", [(conversation,) for conversation, _ in pairs])
            await queries.locked(asked, "member", pairs)
        await session.execute("ROLLBACK")
        return asked.plans

    return await store._database.run(Lane.READ, ask)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


async def test_a_statement_of_many_rows_reads_about_as_many(place: Place, store: Store) -> None:
    found = await plans(place, store)
    if place.name == "sqlite":
        for sql, steps in found.items():
            walked = [step[3] for step in steps if step[3].startswith("SCAN") and "json_each" not in step[3]]
            assert not set(walked) - {"SCAN w", "SCAN wanted", "SCAN h", "SCAN held", "SCAN found"}, (sql, walked)
        return
    for sql, [[answer]] in found.items():
        for node in nodes(json.loads(answer)[0]["Plan"]):
            assert node["Node Type"] != "Seq Scan", (sql, node)
            compared = node.get("Rows Removed by Join Filter", 0)
            if node.get("Relation Name") == "messages":  # of others it may take all in order, if they are not many
                compared += node["Actual Rows"] * node["Actual Loops"]
            assert compared <= 10 * MANY, (sql, node)
