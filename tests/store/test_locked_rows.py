"""Another program holds a row, or a whole table: what needs it waits for its own deadline, the rest commits at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from exporter.core.errors import NotFound, Unavailable
from exporter.core.records import Draft, Message, ReadMark
from exporter.store import Store
from tests.databases import Outcome, Place, Postgresql, assert_exact, eventually, opened, read, send
from tests.store.test_outages import lose_the_answer_of_a_commit

pytestmark = pytest.mark.needs("postgres")

TIMEOUT = 5.0
PATIENT = 60.0
"""Seconds that a store has whose items are not to run out of time, however busy the machine is."""
SOON = 30.0
"""Seconds in which whoever needs nothing that is held is answered, on a busy machine; less than a lock is held."""


@pytest.fixture(params=["postgresql", pytest.param("pgbouncer", marks=pytest.mark.needs("pgbouncer"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Postgresql:
    """There are no rows to hold on SQLite: a writer has the file."""
    server = request.getfixturevalue("postgres")
    direct = server.url(server.create_database())
    if request.param == "postgresql":
        return Postgresql(direct)
    return Postgresql(request.getfixturevalue("pgbouncer").url(direct), direct)


@pytest.fixture
async def store(place: Postgresql) -> AsyncIterator[Store]:
    async with opened(place, timeout=PATIENT) as store:
        for name in ("held", "free"):
            await store.create_conversation(name, "ann", ["bob", "eve"])
            await send(store, name, "ann", "first")
        yield store


@contextlib.asynccontextmanager
async def holding(place: Place, *statements: str) -> AsyncIterator[None]:
    """Another program is in the middle of a transaction."""
    assert isinstance(place, Postgresql)
    other = await asyncpg.connect(place.direct)
    try:
        async with other.transaction():
            for statement in statements:
                await other.execute(statement)
            yield
    finally:
        await other.close()


async def waits(place: Postgresql) -> bool:
    """Does somebody wait for a lock?"""
    held_up = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return await place.fetch(held_up) != []


def begin(store: Store, conversation: str, sender: str, id: str) -> asyncio.Future[Any]:
    outcome = Outcome()
    store.send(Draft(conversation, sender, id, "x"), outcome)
    return outcome.future


async def soon(waiting: Any) -> Any:
    async with asyncio.timeout(SOON):
        return await waiting


LOCKED = {
    "one conversation": ("SELECT 1 FROM conversations WHERE id = 'held' FOR UPDATE", ("held", "bob")),
    "one user": ("SELECT 1 FROM users WHERE id = 'eve' FOR UPDATE", ("free", "eve")),
    "a user who is being deleted": ("DELETE FROM users WHERE id = 'eve'", ("free", "eve")),
    "a user whom somebody else makes": ("INSERT INTO users (id) VALUES ('new')", ("free", "new")),
    "a message of that number": (
        "INSERT INTO messages (conversation_id, seq, sender_id) VALUES ('held', 2, 'zoe')",
        ("held", "bob"),
    ),
}


@pytest.mark.parametrize("what", LOCKED)
async def test_what_needs_a_held_row_waits_and_the_rest_commits_at_once(
    place: Postgresql, store: Store, what: str
) -> None:
    statement, (conversation, sender) = LOCKED[what]
    await place.execute("INSERT INTO users (id) VALUES ('eve') ON CONFLICT DO NOTHING")
    async with holding(place, statement):
        waiting = [begin(store, conversation, sender, f"w{number}") for number in range(3)]
        for number in range(30):  # and as long as somebody retries on what is held
            waiting.append(begin(store, conversation, sender, f"again{number}"))
            assert isinstance((await soon(begin(store, "free", "ann", f"m{number}")))[0], Message)
        assert not any(future.done() for future in waiting)
    for future in waiting:
        assert isinstance((await soon(future))[0], Message), "free again: at once, and before its deadline"
    assert store.write_error is None
    seqs = await place.fetch("SELECT seq FROM messages WHERE conversation_id = 'free' ORDER BY 1")
    assert [row[0] for row in seqs] == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize("what", LOCKED)
async def test_what_needs_a_held_row_is_refused_at_its_own_deadline(place: Postgresql, store: Store, what: str) -> None:
    statement, (conversation, sender) = LOCKED[what]
    await place.execute("INSERT INTO users (id) VALUES ('eve') ON CONFLICT DO NOTHING")
    async with opened(place, timeout=TIMEOUT) as hasty, holding(place, statement):
        began = time.monotonic()
        results = await asyncio.gather(*(begin(hasty, conversation, sender, f"w{number}") for number in range(3)))
        assert [type(result) for result, _ in results] == [Unavailable] * 3
        assert time.monotonic() - began >= TIMEOUT * 0.9
        assert hasty.write_error is None


async def test_a_held_membership_holds_up_its_read_mark_alone(place: Postgresql, store: Store) -> None:
    where = "conversation_id = 'free' AND user_id = 'bob'"
    async with holding(place, f"SELECT 1 FROM conversation_members WHERE {where} FOR UPDATE"):
        mark = asyncio.ensure_future(read(store, "bob", "free", 1))
        assert isinstance(await soon(read(store, "eve", "free", 1)), ReadMark)
        assert isinstance(await soon(send(store, "free", "bob", "m")), Message)
        assert not mark.done()
    assert isinstance(await soon(mark), ReadMark)


async def test_a_change_of_a_held_conversation_holds_up_nobody_else(place: Postgresql, store: Store) -> None:
    async with holding(place, "SELECT 1 FROM conversations WHERE id = 'held' FOR UPDATE"):
        change = asyncio.ensure_future(store.delete_message("held", 1, "ann", False))
        adding = asyncio.ensure_future(store.add_participants("held", "ann", ["zoe"]))
        for number in range(5):
            assert isinstance(await soon(send(store, "free", "ann", f"m{number}")), Message)
        made = await soon(store.create_conversation("made", "ann", []))
        assert (made.id, change.done(), adding.done()) == ("made", False, False)
    await soon(change)
    await soon(adding)


async def test_who_deletes_what_another_is_just_deleting_is_told_that_there_is_no_such_message(
    place: Postgresql, store: Store
) -> None:
    async with holding(place, "DELETE FROM messages WHERE conversation_id = 'held' AND seq = 1"):
        late = asyncio.ensure_future(store.delete_message("held", 1, "ann", False))
        await eventually(lambda: waits(place))
    with pytest.raises(NotFound, match="no such message"):
        await soon(late)


async def test_who_adds_somebody_to_what_another_is_just_deleting_is_told_that_there_is_no_such_conversation(
    place: Postgresql, store: Store
) -> None:
    store._dialect.begin_writing = "BEGIN"  # as where the other one ends within the time that a lock is waited for
    async with holding(place, "DELETE FROM conversations WHERE id = 'held'"):
        late = asyncio.ensure_future(store.add_participants("held", "ann", ["zoe"]))
        await eventually(lambda: waits(place))
    with pytest.raises(NotFound, match="no such conversation"):
        await soon(late)


async def test_messages_of_one_sender_keep_their_order_while_some_are_set_aside(
    place: Postgresql, store: Store
) -> None:
    async with holding(place, "SELECT 1 FROM conversations WHERE id = 'held' FOR UPDATE"):
        waiting = []
        for number in range(20):
            waiting.append(begin(store, "held", "bob", f"m{number}"))
            await soon(send(store, "free", "bob", f"m{number}"))
    results = [(await soon(future))[0] for future in waiting]
    assert [result.seq for result in results] == list(range(2, 22))


async def test_a_message_in_doubt_whose_conversation_is_held_holds_up_nobody_else(
    place: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovered: list[Message] = []
    async with opened(place, timeout=PATIENT, on_resolved=recovered.append) as store:
        for name in ("held", "free"):
            await store.create_conversation(name, "ann", [])
        lose_the_answer_of_a_commit(monkeypatch)
        assert isinstance(await send(store, "held", "ann", "m"), Unavailable)
        async with holding(place, "SELECT 1 FROM conversations WHERE id = 'held' FOR UPDATE"):
            for number in range(5):
                assert isinstance(await soon(send(store, "free", "ann", f"m{number}")), Message)
        await eventually(lambda: recovered)
        assert [(message.conversation, message.id) for message in recovered] == [("held", "m")]


@pytest.mark.parametrize("held", [0.9, 1.9])
async def test_messages_of_one_sender_keep_their_order_while_they_are_tried_one_by_one(
    place: Postgresql, store: Store, held: float
) -> None:
    """It is the oldest that is tried, however often, and nobody knows when the lock goes."""
    async with holding(place, "LOCK TABLE messages"):
        waiting = [begin(store, "free", sender, f"m{number}") for number in range(6) for sender in ("ann", "bob")]
        await asyncio.sleep(held)
    results = [(await soon(future))[0] for future in waiting]
    for sender in ("ann", "bob"):
        of_one = [result.seq for result in results if result.sender == sender]
        assert of_one == sorted(of_one)


@pytest.mark.parametrize("table", ["conversations", "messages", "users", "daily_totals"])
async def test_with_the_whole_table_locked_each_send_fails_at_its_own_deadline_and_works_again_at_once(
    place: Postgresql, store: Store, table: str
) -> None:
    lock = f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"
    async with opened(place, timeout=TIMEOUT) as hasty, holding(place, lock):
        began = time.monotonic()
        first = begin(hasty, "free", "ann", "m1")
        await asyncio.sleep(TIMEOUT / 3)
        second = begin(hasty, "held", "bob", "m2")
        ends = []
        for future in (first, second):
            assert isinstance((await future)[0], Unavailable)
            ends.append(time.monotonic() - began)
        assert TIMEOUT * 0.9 <= ends[0] < TIMEOUT + SOON
        assert TIMEOUT * 1.2 <= ends[1] < TIMEOUT * 4 / 3 + SOON
        assert hasty.write_error is None, "a lock is not a database that takes no writes"
        third = [begin(store, "free", f"u{number}", f"m3{number}") for number in range(10)]
        await eventually(lambda: waits(place))
    async with asyncio.timeout(SOON):
        for future in third:
            assert isinstance((await future)[0], Message)
    await assert_exact(place, store, store.now().date())


@pytest.mark.parametrize(
    "statement",
    ["LOCK TABLE messages", "SELECT 1 FROM daily_totals FOR UPDATE", "LOCK TABLE user_days"],
)
async def test_all_who_waited_for_a_lock_that_cannot_be_asked_for_are_answered_soon_after_its_release(
    place: Postgresql, store: Store, statement: str
) -> None:
    names = [f"c{number}" for number in range(8)]
    for name in names:
        await store.create_conversation(name, f"u-{name}", [])
        await send(store, name, f"u-{name}", "first")
    async with holding(place, statement):
        # Nobody of them wrote today, as far as the database knows: so the day's users are asked for, too.
        waiting = [begin(store, name, f"new-{name}", "m") for name in names]
        await asyncio.sleep(1.5)
        assert not any(future.done() for future in waiting)
    async with asyncio.timeout(SOON):
        for future in waiting:
            assert isinstance((await future)[0], Message)
    await assert_exact(place, store, store.now().date())
