"""The store's promises, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from exporter.core.errors import BadFrame, Conflict, Forbidden, NotFound, Unavailable
from exporter.core.records import Draft, Membership, Message, ReadMark
from exporter.store import Store, engine, queue, writer
from exporter.store.dialects.aiosqlite_seams import open_connection
from exporter.store.dialects.base import Session
from exporter.store.dialects.postgresql_connection import Connection
from exporter.store.errors import CROWDED, DatabaseError, ErrorKind
from exporter.store.lanes import Lane
from exporter.store.queries import Queries
from exporter.store.sharing import Sharing
from exporter.store.transaction import Item, SendItem, Transaction
from exporter.store.verify import verify
from tests.databases import Clock, Outcome, Place, Sqlite, eventually, opened, read, send, send_twice_told
from tests.servers.postgres import Postgres


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(place: Place, clock: Clock) -> AsyncIterator[Store]:
    async with opened(place, clock=clock) as store:
        yield store


async def test_messages_are_numbered_without_holes_in_each_conversation(store: Store, clock: Clock) -> None:
    await store.create_conversation("a", "ann", [])
    await store.create_conversation("b", "ann", [])
    stored = [await send(store, name, "ann", f"{name}{i}", f"body {i}") for i in range(3) for name in "ab"]
    assert [(m.conversation, m.seq) for m in stored if isinstance(m, Message)] == [
        ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3),
    ]  # fmt: skip
    assert stored[0] == Message("a", 1, "ann", "a0", "body 0", clock.now)


async def test_many_sends_at_once_share_transactions_and_keep_their_order(place: Place, store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    answers: list[tuple[int, int]] = []
    finished = asyncio.Event()

    def done(i: int, result: object) -> None:
        assert isinstance(result, Message), result
        answers.append((i, result.seq))
        if len(answers) == 2500:
            finished.set()

    for i in range(2500):
        store.send(Draft("c", "ann", f"m{i}", "x"), lambda result, _, i=i: done(i, result))
    assert answers == [], "an answer came before the call had returned"
    await finished.wait()
    assert answers == [(i, i + 1) for i in range(2500)]
    assert await place.fetch("SELECT count(*), max(seq) FROM messages") == [(2500, 2500)]


async def test_a_transaction_takes_so_many_characters_at_most_but_any_single_message(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []

    class Noted(Transaction):
        def __init__(self, queries: Queries, items: Sequence[Item], **more: Any) -> None:
            batches.append([item.size for item in items])
            super().__init__(queries, items, **more)

    await store.create_conversation("c", "ann", [])
    monkeypatch.setattr(queue, "BATCH_CHARACTERS", 10)
    monkeypatch.setattr(writer, "Transaction", Noted)
    outcomes = [Outcome() for _ in range(5)]
    for number, (outcome, size) in enumerate(zip(outcomes, (4, 4, 4, 12, 1), strict=True)):
        store.send(Draft("c", f"user {number}", "m", "x" * size), outcome)  # of one alone it takes less
    assert [(await outcome.future)[0].seq for outcome in outcomes] == [1, 2, 3, 4, 5]
    assert batches == [[4, 4], [4], [12], [1]]


async def test_a_message_in_doubt_is_durable_when_its_number_and_its_time_are_there_behind_the_lock(
    clock: Clock,
) -> None:
    """Of another time it is the same message that another node has stored, and told of."""
    message = Message("c", 1, "ann", "m", "x", clock.now)
    for sent_at, durable in ((clock.now, [message]), (clock.now + timedelta(milliseconds=1), [])):
        queries = AsyncMock()
        queries.look_up.return_value = [Mock(seq=1, sent_at=sent_at)]
        transaction = Transaction(queries, [], users=[], in_doubt=[message], now=clock.now)
        await transaction._resolve(Mock())
        assert (transaction.looked_up, transaction.resolved) == ([message], durable)
        assert [name for name, _, _ in queries.mock_calls] == ["lock", "look_up"]


async def test_who_was_told_unavailable_while_a_transaction_was_on_its_way_is_left_out_of_it(
    place: Place, store: Store
) -> None:
    await store.create_conversation("c", "ann", [])
    sends = [SendItem(Mock(), Draft("c", "ann", name, "x")) for name in ("waits", "was told")]
    queries = Queries(store._dialect)
    register = queries.register

    async def long_enough(session: Session, users: Sequence[str], now: datetime) -> int:
        sends[1].answered = True
        return await register(session, users, now)

    queries.register = long_enough
    transaction = Transaction(queries, sends, users=["ann"], in_doubt=[], now=store.now())
    await store._database.run(Lane.WRITE, transaction.run)
    assert await place.fetch("SELECT client_id FROM messages") == [("waits",)]
    assert [*transaction.results] == sends[:1]


async def test_a_repeated_send_is_answered_with_the_first_and_stored_once(place: Place, store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    first, again = await send_twice_told(store, "c", "ann", "m1", "one")
    assert not again
    assert await send_twice_told(store, "c", "ann", "m1", "another body") == (first, True)
    outcomes = [Outcome() for _ in range(3)]
    for outcome in outcomes:  # within one transaction
        store.send(Draft("c", "ann", "m2", "two"), outcome)
    results = [await outcome.future for outcome in outcomes]
    assert [duplicate for _, duplicate in results] == [False, True, True]
    assert len({result.seq for result, _ in results}) == 1
    assert await send_twice_told(store, "c", "bob", "m1") != (first, True), "the id is the sender's own"
    assert await place.fetch("SELECT count(*) FROM messages") == [(3,)]


async def test_a_message_that_was_deleted_may_be_sent_again(store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    await send(store, "c", "ann", "m1")
    await store.delete_message("c", 1, "ann", False)
    stored, duplicate = await send_twice_told(store, "c", "ann", "m1")
    assert (stored.seq, duplicate) == (2, False)


async def test_one_bad_message_does_not_fail_its_neighbours(store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    outcomes = [Outcome() for _ in range(5)]
    for i, (outcome, name) in enumerate(zip(outcomes, ["c", "gone", "c", "gone", "c"], strict=True)):
        store.send(Draft(name, "ann", f"m{i}", "x"), outcome)
    results = [(await outcome.future)[0] for outcome in outcomes]
    assert [result.seq for result in results[::2]] == [1, 2, 3]
    assert all(isinstance(result, NotFound) for result in results[1::2])


async def test_data_that_the_database_rejects_fails_alone(place: Place, store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    if isinstance(place, Sqlite):
        await place.execute(
            "CREATE TRIGGER picky BEFORE INSERT ON messages WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    else:
        await place.execute("ALTER TABLE messages ADD CONSTRAINT picky CHECK (body <> 'bad')")
    outcomes = [Outcome() for _ in range(20)]
    for i, outcome in enumerate(outcomes):
        store.send(Draft("c", "ann", f"m{i}", "bad" if i in (3, 11) else "good"), outcome)
    results = [(await outcome.future)[0] for outcome in outcomes]
    assert [i for i, result in enumerate(results) if not isinstance(result, Message)] == [3, 11]
    assert [result.seq for result in results if isinstance(result, Message)] == list(range(1, 19))
    assert store.up
    assert not isinstance(await send(store, "c", "ann", "alone", "bad"), Message)
    await place.execute("DELETE FROM conversations")  # the refusal leaves nothing held that others need


@pytest.mark.parametrize("text", ["nul \0", "surrogate \ud800"])
async def test_what_no_database_stores_is_refused_at_once(store: Store, text: str) -> None:
    await store.create_conversation("c", "ann", [])
    for draft in (Draft("c", "ann", "m", text), Draft("c", "ann", text, ""), Draft(text, "ann", "m", "")):
        with pytest.raises(BadFrame):
            store.send(draft, Outcome())
    assert await store.register(text) is False
    with pytest.raises(BadFrame):
        await store.membership(text, "ann")


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE messages; --", "$1 ?1 :a %s {x}", "\\u0000 \\", '"', "ключ🗝️" * 20, " ", "\n\t"]
)
async def test_any_other_text_comes_back_as_it_went(store: Store, text: str) -> None:
    name, user = text[:100], text[:100]
    made = await store.create_conversation(name, user, [user + "2"])
    assert made.participants == tuple(sorted((user, user + "2")))
    sent = await send(store, name, user, text[:60], text * 50)
    assert isinstance(sent, Message)
    assert sent.body == text * 50
    assert await store.messages_after(name, user, 0, 10) == ([sent], 1)
    assert await store.membership(name, user) == Membership(True, 1)
    assert isinstance(await read(store, user, name, 1), ReadMark)


async def test_a_sender_who_was_never_registered_is_registered_by_sending(place: Place, store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    await send(store, "c", "bob", "m")
    assert await place.fetch("SELECT id FROM users") == [("bob",)]
    assert (await store.totals(5)).active_users == {1: 1, 7: 1, 30: 1}


@pytest.mark.usefixtures("unhurried")
async def test_registering_is_done_once_and_known_users_cost_nothing(place: Place, store: Store) -> None:
    assert await asyncio.gather(*(store.register(f"u{i % 50}") for i in range(200))) == [True] * 200
    assert await place.fetch("SELECT count(*) FROM users") == [(50,)]
    assert store.pool().in_use == 0
    assert await store.register("u1") is True


@pytest.mark.usefixtures("unhurried")
async def test_users_who_come_back_to_another_process_are_looked_for_before_anything_is_written(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await asyncio.gather(*(store.register(f"u{i}") for i in range(8))) == [True] * 8
    async with opened(place) as restarted:
        assert await restarted.register("u0")  # had a row already: so most likely has the next one
        written: list[list[str]] = []
        register = restarted._queries.register

        async def noted(session: Session, users: Sequence[str], now: datetime) -> int:
            written.append(list(users))
            return await register(session, users, now)

        monkeypatch.setattr(restarted._queries, "register", noted)
        assert await asyncio.gather(*(restarted.register(f"u{i % 8}") for i in range(1, 16))) == [True] * 15
        assert written == []
        assert await asyncio.gather(restarted.register("new"), restarted.register("u2")) == [True, True]
        assert written == [["new"]]
        assert await restarted.register("newer")  # newcomers again: nobody is looked for in vain
        assert written == [["new"], ["newer"]]
    assert await place.fetch("SELECT count(*) FROM users") == [(10,)]


async def test_members_are_neither_registered_nor_counted_by_being_added(store: Store) -> None:
    await store.create_conversation("c", "ann", ["bob", "eve"])
    assert (await store.totals(5)).registered_users == 0


async def test_read_marks_move_forward_only(store: Store, clock: Clock) -> None:
    await store.create_conversation("c", "ann", ["bob"])
    for i in range(3):
        await send(store, "c", "ann", f"m{i}")
        clock.pass_(seconds=1)
    assert await read(store, "bob", "c", 2) == ReadMark(True, datetime(2026, 3, 10, 12, 0, 1, tzinfo=UTC))
    assert (await read(store, "bob", "c", 2)).moved is False
    assert (await read(store, "bob", "c", 1)).moved is False
    for seq in (4, 2**63, 10**30):
        assert isinstance(await read(store, "bob", "c", seq), NotFound)
    assert (await read(store, "bob", "c", -(10**30))).moved is False
    assert isinstance(await read(store, "bob", "gone", 1), NotFound)
    assert isinstance(await read(store, "eve", "c", 1), Forbidden)
    await store.delete_message("c", 3, "ann", False)
    assert await read(store, "bob", "c", 3) == ReadMark(True, None)


async def test_read_marks_of_one_transaction_see_each_other(place: Place, store: Store) -> None:
    await store.create_conversation("c", "ann", ["bob"])
    for i in range(5):
        await send(store, "c", "ann", f"m{i}")
    outcomes = {seq: Outcome() for seq in (2, 5, 3)}
    for seq, outcome in outcomes.items():
        store.mark_read("bob", "c", seq, outcome)
    assert {seq: (await outcome.future)[0].moved for seq, outcome in outcomes.items()} == {2: True, 5: True, 3: False}
    assert await place.fetch("SELECT last_read_seq FROM conversation_members WHERE user_id = 'bob'") == [(5,)]


async def test_a_storm_of_joins_is_a_handful_of_statements(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.create_conversation("c", "ann", ["bob"])
    await send(store, "c", "ann", "m")
    calls: list[int] = []
    original = store._queries.memberships

    async def counted(session, pairs):
        calls.append(len(pairs))
        return await original(session, pairs)

    monkeypatch.setattr(store._queries, "memberships", counted)
    users = ["ann", "bob", "eve"]
    found = await asyncio.gather(*(store.membership("c", users[i % 3]) for i in range(3000)))
    assert [f.member for f in found[:3]] == [True, True, False]
    assert {f.last_seq for f in found} == {1}
    assert sum(calls) == 3
    found = await asyncio.gather(*(store.membership("c", f"u{i}") for i in range(2500)))
    assert len(calls) <= 1 + 4
    with pytest.raises(NotFound):
        await store.membership("gone", "ann")


async def test_a_join_that_is_cancelled_leaves_the_others_theirs(store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    waiting = [store.membership("c", "ann") for _ in range(10)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert await asyncio.gather(*waiting[1:]) == [Membership(True, 0)] * 9


async def test_a_conversation_is_made_once_with_its_members(store: Store) -> None:
    made = await store.create_conversation("c", "zoe", ["bob", "ann", "bob"])
    assert (made.id, made.total_messages, made.last_seq, made.participants) == ("c", 0, 0, ("ann", "bob", "zoe"))
    with pytest.raises(Conflict):
        await store.create_conversation("c", "eve", [])
    assert await store.conversations_of("eve") == []
    named = await store.create_conversation(None, "ann", [])
    assert named.id
    assert {c.id for c in await store.conversations_of("ann")} == {"c", named.id}
    both = await asyncio.gather(
        store.create_conversation("d", "ann", []), store.create_conversation("d", "bob", []), return_exceptions=True
    )
    assert sum(isinstance(result, Conflict) for result in both) == 1


async def test_members_come_and_go(store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    with pytest.raises(Forbidden):
        await store.add_participants("c", "bob", ["bob"])
    with pytest.raises(NotFound):
        await store.add_participants("gone", "ann", ["bob"])
    assert (await store.add_participants("c", "ann", ["eve", "bob", "ann"])).participants == ("ann", "bob", "eve")
    with pytest.raises(Forbidden):
        await store.remove_participant("c", "zoe", "bob")
    await store.remove_participant("c", "bob", "eve")
    with pytest.raises(NotFound):
        await store.remove_participant("c", "bob", "eve")
    assert await store.membership("c", "eve") == Membership(False, 0)
    assert [c.participants for c in await store.conversations_of("bob")] == [("ann", "bob")]


async def test_history_is_for_members_in_order_and_in_pieces(store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    sent = [await send(store, "c", "ann", f"m{i}", f"body {i}") for i in range(7)]
    assert await store.messages_after("c", "ann", 0, 3) == (sent[:3], 7)
    assert await store.messages_after("c", "ann", 5, 100) == (sent[5:], 7)
    for after in (7, 10**30):
        assert await store.messages_after("c", "ann", after, 100) == ([], 7)
    with pytest.raises(Forbidden):
        await store.messages_after("c", "bob", 0, 3)
    with pytest.raises(NotFound):
        await store.messages_after("gone", "ann", 0, 3)


async def test_only_the_sender_and_admins_delete(store: Store) -> None:
    await store.create_conversation("c", "ann", ["bob"])
    for i in range(2):
        await send(store, "c", "ann", f"m{i}")
    with pytest.raises(Forbidden):
        await store.delete_message("c", 1, "bob", False)
    await store.delete_message("c", 1, "bob", True)
    with pytest.raises(NotFound):
        await store.delete_message("c", 1, "ann", False)
    with pytest.raises(NotFound):
        await store.delete_message("gone", 1, "ann", True)
    assert [(c.total_messages, c.last_seq) for c in await store.conversations_of("ann")] == [(1, 2)]


async def test_a_refused_change_leaves_no_trace_in_the_transaction_it_shared(place: Place, store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    results = await asyncio.gather(
        store.create_conversation("d", "ann", []),
        store.create_conversation("c", "bob", ["eve"]),
        store.add_participants("c", "zoe", ["zoe"]),
        store.create_conversation("e", "ann", []),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == ["Conversation", "Conflict", "Forbidden", "Conversation"]
    assert await place.fetch("SELECT conversation_id, user_id FROM conversation_members ORDER BY 1") == [
        ("c", "ann"), ("d", "ann"), ("e", "ann"),
    ]  # fmt: skip


async def test_a_caller_who_is_cancelled_loses_nothing_for_the_others(store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    tasks = [asyncio.create_task(store.create_conversation(f"x{i}", "ann", [])) for i in range(20)]
    outcome = Outcome()
    store.send(Draft("c", "ann", "m", "x"), outcome)
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    assert isinstance((await outcome.future)[0], Message)
    assert {c.id for c in await asyncio.gather(*tasks[1::2])} == {f"x{i}" for i in range(1, 20, 2)}


async def test_a_listener_that_fails_does_not_stop_the_writer(store: Store) -> None:
    await store.create_conversation("c", "ann", [])

    def broken(result: object, duplicate: bool) -> None:
        raise RuntimeError("a mistake of the listener")

    store.send(Draft("c", "ann", "m1", "x"), broken)
    assert isinstance(await send(store, "c", "ann", "m2"), Message)


async def test_the_queue_is_bounded_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.store.pending.QUEUE_ITEMS", 100)
    await store.create_conversation("c", "ann", [])
    outcomes = [Outcome() for _ in range(100)]
    for i, outcome in enumerate(outcomes):
        store.send(Draft("c", f"user {i % 4}", f"m{i}", "x"), outcome)
    with pytest.raises(Unavailable):
        store.send(Draft("c", "ann", "one too many", "x"), Outcome())
    for outcome in outcomes:
        assert isinstance((await outcome.future)[0], Message)
    assert isinstance(await send(store, "c", "ann", "room again"), Message)


async def test_one_user_fills_their_share_of_the_queue_and_others_find_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.store.pending.QUEUE_CHARACTERS", 400)
    await store.create_conversation("c", "ann", [])
    anns, bobs = Outcome(), Outcome()
    store.send(Draft("c", "ann", "m", "x" * 100), anns)
    with pytest.raises(Unavailable, match="of this user"):
        store.send(Draft("c", "ann", "one too many", "x"), Outcome())
    store.send(Draft("c", "bob", "m", "x" * 100), bobs)
    for outcome in (anns, bobs):
        assert isinstance((await outcome.future)[0], Message)
    assert isinstance(await send(store, "c", "ann", "room again"), Message)


async def test_another_users_change_does_not_wait_for_all_of_one_who_wants_much(store: Store) -> None:
    for user in ("ann", "bob"):
        await store.create_conversation(f"{user}'s", user, [])
    order: list[str] = []

    async def add(by: str, name: str, users: list[str]) -> None:
        await store.add_participants(f"{by}'s", by, users)
        order.append(name)

    members = [f"user {number}" for number in range(600)]
    await asyncio.gather(*(add("ann", f"ann {i}", members) for i in range(4)), add("bob", "bob", ["cid"]))
    assert order == ["ann 0", "bob", "ann 1", "ann 2", "ann 3"]


async def test_one_users_reads_hold_up_their_own_and_do_not_say_that_the_database_is_down(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(place, clock=clock, timeout=2.0) as store:
        await store.create_conversation("c", "ann", ["bob"])
        held, of = asyncio.Event(), store._conversations.of

        async def slow(session: Session, user: str, after: str, limit: int) -> Any:
            if user == "ann":
                await held.wait()
            return await of(session, user, after, limit)

        monkeypatch.setattr(store._conversations, "of", slow)
        until = asyncio.get_running_loop().time() + store.timeout / 2
        first = asyncio.create_task(store.conversations_of("ann"))
        asyncio.get_running_loop().call_at(until + store.timeout * 2, held.set)
        waiting = [asyncio.create_task(store.conversations_of("ann")) for _ in range(5)]
        assert [found.id for found in await store.conversations_of("bob")] == ["c"]
        assert [message for message, _ in [await store.messages_after("c", "bob", 0, 1)]] == [[]]
        noted: list[str] = []
        monkeypatch.setattr(store._database, "note", lambda failure, *_: noted.append(failure and failure.text))
        refused = await asyncio.gather(*waiting, return_exceptions=True)
        assert {str(error) for error in refused} == {"too much is waiting to be read"}
        with pytest.raises(Unavailable, match="did not answer in time"):
            await first
        assert noted == ["the database did not answer in time"], "the one that had a connection, and nobody else"
        held.set()


@pytest.mark.parametrize("whose", ["eve", None], ids=["a user's", "the server's own"])
async def test_a_read_whose_turn_came_late_says_nothing_of_the_database(place: Place, whose: str | None) -> None:
    async with opened(place, timeout=6.0) as store:
        others, late = asyncio.Event(), asyncio.Event()
        asyncio.get_running_loop().call_later(store.timeout * 0.6, others.set)
        run = partial(store._database.run, Lane.READ)
        earlier = [asyncio.create_task(run(lambda _: others.wait(), whose=whose)) for whose in ("ann", "bob")]

        async def slow(session: Session) -> None:  # cut off by the server, or by who waits for it
            await (late.wait() if isinstance(place, Sqlite) else session.fetch("SELECT pg_sleep(30)"))

        last = asyncio.create_task(run(slow, whose=whose))
        with pytest.raises(DatabaseError, match="too much is waiting to be read"):
            await last
        await asyncio.gather(*earlier)
        assert (store.up, store.error) == (True, None)
        late.set()


@pytest.mark.parametrize("letter", ["x", "\N{HIRAGANA LETTER A}"])
async def test_of_large_messages_no_more_are_read_than_an_answer_has_room_for(
    store: Store, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    """The one that is too many tells that there was no room, and SQLite reads to the end of a part."""
    monkeypatch.setattr(store._conversations, "_most_at_once", store._conversations._most_at_once and 2)
    await store.create_conversation("c", "ann", [])
    sent = [await send(store, "c", "ann", f"m{i}", letter * 10) for i in range(7)]
    for limit, characters, most in ((7, 25, 4), (7, 20, 4), (7, 19, 2), (7, 1_000, 7), (3, 1_000, 3), (3, 0, 2)):
        found, last_seq = await store.messages_after("c", "ann", 0, limit, characters)
        assert (found, last_seq) == (sent[: len(found)], 7)
        assert min(limit, 7, characters // 10 + 1) <= len(found) <= most
    await store.delete_message("c", 7, "ann", False)
    assert await store.messages_after("c", "ann", 3, 1_000, 1_000) == (sent[3:6], 7)


async def test_a_page_of_small_messages_is_a_single_round_trip_to_postgresql(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create_conversation("c", "ann", [])
    await asyncio.gather(*(send(store, "c", "ann", f"m{number}") for number in range(150)))
    parts: list[int] = []
    made = store._conversations._messages
    monkeypatch.setattr(
        store._conversations, "_messages", lambda name, rows: parts.append(len(rows)) or made(name, rows)
    )
    await store.messages_after("c", "ann", 0, 1_000, 1_000_000)
    assert parts == ([100, 50] if isinstance(place, Sqlite) else [150])


async def test_two_nodes_number_without_holes_and_store_a_message_that_both_got_once(
    place: Place, store: Store
) -> None:
    async with opened(place) as other:
        for name in "ab":
            await store.create_conversation(name, "ann", [])
        outcomes: dict[str, list[Outcome]] = {}
        for i in range(300):
            for node in (store, other):
                outcome = Outcome()
                node.send(Draft("ab"[i % 2], "ann", f"m{i}", "x"), outcome)
                outcomes.setdefault(f"m{i}", []).append(outcome)
            if i % 20 == 0:
                await asyncio.sleep(0.005)
        for both in outcomes.values():
            results = [await outcome.future for outcome in both]
            assert all(isinstance(result, Message) for result, _ in results), results
            assert len({result.seq for result, _ in results}) == 1
            assert sorted(duplicate for _, duplicate in results) == [False, True]
    rows = await place.fetch("SELECT conversation_id, seq FROM messages ORDER BY 1, 2")
    assert rows == [(name, seq) for name in "ab" for seq in range(1, 151)]


async def test_numbers_that_somebody_put_out_of_order_stop_only_their_conversation(place: Place, store: Store) -> None:
    for name in "ab":
        await store.create_conversation(name, "ann", [])
        await send(store, name, "ann", "m1")
    await place.execute("UPDATE conversations SET last_seq = 0 WHERE id = 'a'")
    outcomes = [Outcome() for _ in range(4)]
    for i, outcome in enumerate(outcomes):
        store.send(Draft("ab"[i % 2], "ann", f"n{i}", "x"), outcome)
    kinds = [type((await outcome.future)[0]) for outcome in outcomes]
    assert kinds == [Unavailable, Message, Unavailable, Message]
    await verify(store, repair=True)
    assert isinstance(await send(store, "a", "ann", "n0"), Message)


async def test_closing_finishes_what_is_queued_and_refuses_the_rest(place: Place, clock: Clock) -> None:
    async with opened(place, clock=clock) as store:
        await store.create_conversation("c", "ann", [])
        outcomes = [Outcome() for _ in range(300)]
        for i, outcome in enumerate(outcomes):
            store.send(Draft("c", "ann", f"m{i}", "x"), outcome)
        await store.close()
        for outcome in outcomes:
            assert isinstance((await outcome.future)[0], Message)
        with pytest.raises(Unavailable):
            store.send(Draft("c", "ann", "late", "x"), Outcome())
        assert await store.register("late") is False
        for call in (store.membership("c", "ann"), store.conversations_of("ann"), store.totals(1)):
            with pytest.raises(Unavailable):
                await call
    assert (store.pool().in_use, store.pool().idle) == (0, 0)


async def test_before_it_has_started_a_store_is_unavailable(place: Place) -> None:
    store = Store(place.url)
    assert (store.up, store.error) == (False, None)
    with pytest.raises(Unavailable):
        store.send(Draft("c", "ann", "m", "x"), Outcome())
    assert await store.register("ann") is False
    with pytest.raises(Unavailable):
        await store.create_conversation("c", "ann", [])
    with pytest.raises(Unavailable):  # a scrape that comes before the tables are made is no outage
        await store.totals(5)
    assert (store.up, store.error) == (False, None)
    await store.close()


async def test_times_are_kept_to_the_millisecond_in_utc(place: Place, clock: Clock) -> None:
    clock.now = datetime(2026, 3, 10, 23, 59, 59, 999_999, tzinfo=UTC)
    async with opened(place, clock=clock) as store:
        await store.create_conversation("c", "ann", [])
        sent, _ = await send_twice_told(store, "c", "ann", "m")
        assert sent.sent_at == datetime(2026, 3, 10, 23, 59, 59, 999_000, tzinfo=UTC)
        assert await send_twice_told(store, "c", "ann", "m") == (sent, True)
        assert (await store.messages_after("c", "ann", 0, 1))[0] == [sent]


async def test_past_days_are_put_together_by_themselves(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.store.upkeep.TIDY_INTERVAL", 0.05)
    async with opened(place, clock=clock) as store:
        await place.execute(
            *(f"INSERT INTO daily_totals (day, shard, messages) VALUES ('2026-01-01', {n}, {n})" for n in range(90, 99))
        )

        async def one_row() -> bool:
            return await place.fetch("SELECT day, shard, messages FROM daily_totals WHERE messages > 0") in (
                [("2026-01-01", 0, 846)],
                [(date(2026, 1, 1), 0, 846)],
            )

        tidying = asyncio.create_task(store.tidy_forever())
        await eventually(one_row)
        tidying.cancel()
        assert (await store.totals(5)).stored_messages == 846


async def test_conversations_and_members_come_in_pages_by_name_with_the_first_members_and_their_number(
    place: Place, clock: Clock
) -> None:
    names = ["B", "a", "a-1", "a-10", "a-2", "a1", "é", "ß", "日本"]
    crowd = [f"user {number:04}" for number in range(150)]
    async with opened(place, clock=clock) as store:
        for name in names:
            await store.create_conversation(name, "ann", crowd if name == "a-2" else ["bob"])
        in_order = sorted(names)
        assert [c.id for c in await store.conversations_of("ann")] == in_order
        for start in range(len(names)):
            page = await store.conversations_of("ann", in_order[start], 3)
            assert [c.id for c in page] == in_order[start + 1 : start + 4]
        for one in await store.conversations_of("ann"):
            if one.id == "a-2":
                assert (len(one.participants), one.participants_total) == (100, 151)
                assert list(one.participants) == sorted(one.participants)
                assert set(one.participants) <= {"ann", *crowd}
            else:
                assert (one.participants, one.participants_total) == (("ann", "bob"), None)
        members = sorted(["ann", *crowd])
        assert await store.members("a-2", "ann", "", 1_000) == (members, 151)
        assert await store.members("a-2", "ann", members[9], 5) == (members[10:15], 151)
        assert await store.members("a-2", "ann", members[-1], 5) == ([], 151)
        with pytest.raises(Forbidden):
            await store.members("a-2", "bob", "", 1)
        with pytest.raises(NotFound):
            await store.members("nowhere", "ann", "", 1)
        many = [f"more {number:04}" for number in range(1_000)]
        added = await store.add_participants("a", "ann", many)
        assert (len(added.participants), added.participants_total) == (1_000, 1_002)


async def test_a_connection_that_cannot_be_given_back_to_who_was_cancelled_says_nothing_in_the_log() -> None:
    """The reason goes to nobody: asyncio would log that, of each version in its own words."""
    begun, go, said = asyncio.Event(), asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))

    async def close() -> None:
        begun.set()
        await go.wait()
        raise OSError("the network is gone")

    waiting = asyncio.create_task(engine._to_its_end(close()))
    await begun.wait()
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done(), "it waits all the same"
    go.set()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    del waiting
    gc.collect()
    assert said == []


@pytest.mark.needs("postgres")
async def test_a_pool_is_closed_to_its_end_and_nothing_is_logged_when_who_waits_is_cancelled(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the one who asks for whom a verification waits is, when it need not wait any longer."""
    begun, go, goodbye, closed = asyncio.Event(), asyncio.Event(), Connection.close, list[bool]()

    async def close(connection: Connection, *, timeout: float | None = None) -> None:
        begun.set()
        await go.wait()
        await goodbye(connection, timeout=timeout)
        closed.append(connection.is_closed())

    monkeypatch.setattr(Connection, "close", close)
    beside = Store(postgres.url(postgres.create_database())).maintenance()
    await beside.run(Lane.VERIFY, lambda session: session.fetch("SELECT 1"))
    closing = asyncio.create_task(beside.close(1.0))
    await begun.wait()
    closing.cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait({closing})
    assert (closing.cancelled(), closed, caplog.messages) == (True, [True], [])


@contextlib.asynccontextmanager
async def pool_that_gets_one(
    more: Callable[[], Awaitable[object]], *, pool_size: int = 5
) -> AsyncIterator[engine.AsyncEngine]:
    """One connection at once; ``more`` is awaited before each other, as by a pooler that lets it wait."""
    made: list[object] = []

    async def connect(*args: Any, **options: Any) -> Any:
        if made:
            await more()
        made.append(connection := await open_connection(*args, **options))
        return connection

    pool = engine.create_async_engine(
        "sqlite+aiosqlite://", connect_args={"async_creator_fn": connect}, pool_size=pool_size, max_overflow=0
    )
    try:
        yield pool
    finally:
        await pool.dispose()


async def use(pool: engine.AsyncEngine) -> None:
    """Have a connection for a moment."""
    async with pool.connect():
        pass


async def test_a_pool_that_still_asks_for_a_connection_is_closed_to_its_end_when_who_waits_is_cancelled() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def more() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            begun.set()
            await go.wait()

    async with pool_that_gets_one(more) as pool:
        async with pool.connect():
            second = asyncio.create_task(use(pool))
            await eventually(lambda: pool._waiting)
        await second
        assert pool.idle == 1, "the other one is still asked for, and nobody wants it"
        closing = asyncio.create_task(pool.dispose())
        await begun.wait()
        closing.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait({closing})
        assert (closing.cancelled(), pool.idle) == (True, 0)


@pytest.mark.parametrize("broken", [False, True])
async def test_who_is_told_of_a_connection_and_cancelled_in_the_same_moment_tells_the_next(broken: bool) -> None:
    """Also of the place of one that broke."""
    async with pool_that_gets_one(lambda: asyncio.sleep(0), pool_size=1) as pool:
        async with pool.connect() as connection:
            first, second = (asyncio.create_task(use(pool)) for _ in range(2))
            await eventually(lambda: len(pool._waiting) == 2)
            if broken:
                await connection.invalidate()
        first.cancel()
        async with asyncio.timeout(10):
            await second
        assert first.cancelled()


async def test_who_waits_for_a_connection_has_it_before_who_comes_later() -> None:
    order: list[str] = []

    async def use_as(name: str) -> None:
        async with pool.connect():
            order.append(name)

    async with pool_that_gets_one(asyncio.Event().wait) as pool:
        async with pool.connect():
            earlier = asyncio.create_task(use_as("earlier"))
            await eventually(lambda: pool._waiting)
        await use_as("later")
        await earlier
    assert order == ["earlier", "later"]


async def test_an_open_connection_is_taken_before_the_place_of_one_that_broke() -> None:
    """As after an outage, where a pooler lets a new one wait for as long as the open one is idle."""
    more = asyncio.Event()
    more.set()
    async with pool_that_gets_one(more.wait) as pool:
        async with pool.connect(), pool.connect() as broken:
            await broken.invalidate()
        more.clear()
        for _ in range(2):
            async with asyncio.timeout(10):
                await use(pool)


async def test_who_waits_for_a_place_in_the_pool_has_that_of_a_connection_that_could_not_be_made() -> None:
    """As where a pooler lets each wait, and the server behind it ends."""
    lost, asked = asyncio.Event(), list[int]()

    async def more() -> None:
        asked.append(len(asked))
        if len(asked) == 1:
            await lost.wait()
            raise OSError("the server has gone")

    async with pool_that_gets_one(more, pool_size=2) as pool, pool.connect():
        failing = asyncio.create_task(use(pool))
        await eventually(lambda: asked)
        waiting = asyncio.create_task(use(pool))
        await eventually(lambda: len(pool._waiting) == 2)
        lost.set()
        with pytest.raises(OSError, match="the server has gone"):
            await failing
        async with asyncio.timeout(10):
            await waiting


async def test_who_is_refused_a_new_connection_as_another_is_given_back_has_that_one() -> None:
    refused = asyncio.Event()

    async def more() -> None:
        await refused.wait()
        raise OSError("there are too many")

    async with pool_that_gets_one(more) as pool:
        async with pool.connect():
            second = asyncio.create_task(use(pool))
            await eventually(lambda: pool._waiting)
        refused.set()
        await second


async def test_a_connection_that_is_on_its_way_to_somebody_is_waited_for_by_who_is_refused_another() -> None:
    async with pool_that_gets_one(asyncio.Event().wait) as pool, asyncio.TaskGroup() as group:
        sharing, refused = Sharing(pool), DatabaseError(ErrorKind.DISCONNECTED, CROWDED)
        task = group.create_task(asyncio.sleep(0))
        assert not sharing.may_wait(task, refused)
        async with pool.connect() as connection:
            assert sharing.may_wait(task, refused)
            await connection.invalidate()
            assert not sharing.may_wait(task, refused)


async def test_a_connection_that_is_idle_is_taken_without_a_turn_of_the_loop() -> None:
    """Each command and each scrape takes one."""
    async with pool_that_gets_one(asyncio.Event().wait) as pool:
        await use(pool)
        one = pool.connect()
        with pytest.raises(StopIteration):
            one.__aenter__().send(None)
        await one.__aexit__(None, None, None)


async def test_text_of_another_program_that_is_not_utf8_costs_one_message_its_letters(tmp_path: Path) -> None:
    place = Sqlite(tmp_path / "messaging.db")
    async with opened(place) as store:
        await store.create_conversation("c", "ann", [])
        first = await send(store, "c", "ann", "m1")
        await place.execute(
            "INSERT INTO messages (conversation_id, seq, sender_id, client_id, body) "
            "VALUES ('c', 2, 'ann', 'm2', CAST(x'636166e9' AS TEXT))"  # "café" in Latin-1
        )
        [one, other], last_seq = await store.messages_after("c", "ann", 0, 10)
        assert (one, other.seq, other.body, last_seq) == (first, 2, "caf\ufffd", 2)
        repeated, neighbour = Outcome(), Outcome()
        store.send(Draft("c", "ann", "m2", "café"), repeated)
        store.send(Draft("c", "ann", "m3", "hello"), neighbour)
        assert [(await outcome.future)[0].seq for outcome in (repeated, neighbour)] == [2, 3]
        assert (store.up, store.write_error) == (True, None)


async def test_the_highest_numbers_that_a_column_holds_are_numbers_like_any_other(place: Place, store: Store) -> None:
    await store.create_conversation("c", "ann", [])
    others = 2**62, 2**63 - 2
    for seq in others:
        await place.execute(f"INSERT INTO messages (conversation_id, seq, sender_id) VALUES ('c', {seq}, 'ann')")
    with pytest.raises(NotFound):
        await store.delete_message("c", 2**62 + 1, "ann", False)
    found, _ = await store.messages_after("c", "ann", 0, 10)
    assert tuple(message.seq for message in found) == others
    assert await store.messages_after("c", "ann", others[1], 10) == ([], others[1])
    assert isinstance(await read(store, "ann", "c", others[1]), ReadMark)
    assert await place.fetch("SELECT last_read_seq FROM conversation_members") == [(others[1],)]
    await store.delete_message("c", others[1], "ann", False)
    assert (await store.totals(10)).stored_messages == 1
