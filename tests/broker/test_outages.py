"""What people are told when one node, or each at another time, is without the broker: nothing is missing in the end.

Two nodes in this loop, each with a way of its own to the server; ``ann`` is on the first, ``bob`` on the last.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exporter.broker import frames, incoming, redelivery
from exporter.broker.connection import Connection
from exporter.broker.frames import Kind
from exporter.core.records import Membership, Message
from exporter.node import healing
from exporter.node.cluster import ClusterNode
from tests.broker.test_contract import Place, quiet
from tests.servers.cut import CutProxy
from tests.servers.exporter import CONVERSATIONS, Client, in_process, until
from tests.servers.postgres import Postgres
from tests.servers.valkey import Server


async def no_examination_is_timed(node: ClusterNode) -> None:
    """The one of the beginning is over, and none follows without a reason."""

    async def is_timed() -> bool:
        return node._healing._timer is not None

    await until(is_timed, "the examination of the beginning is over")
    assert node._healing._timer is not None
    node._healing._timer.cancel()


@dataclass
class Apart(Place):
    """``ways`` lead from the nodes to the server."""

    ways: list[CutProxy]

    async def lose(self, *numbers: int) -> None:
        """These nodes have no broker."""
        for number in numbers:
            self.ways[number].refusing = True
            self.ways[number].drop()
        for number in numbers:
            await self.nodes[number].scraped(lambda found: found["messaging_broker_up"] == 0, "no broker")

    async def remove_message(self, room: str, seq: int, user: str) -> None:
        """By a user of the first node."""
        path = f"{CONVERSATIONS}/{room}/messages/{seq}"
        assert (await self.first.request("DELETE", path, user=user))[0] == 204

    async def find(self, number: int) -> None:
        """This node has it again."""
        self.ways[number].refusing = False
        await self.nodes[number].scraped(lambda found: found["messaging_broker_up"] == 1, "a broker")


@pytest.fixture
async def apart(server: Server, tmp_path: Path) -> AsyncIterator[Apart]:
    """They share a database and a broker, and all is settled."""
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(CutProxy(server.port)) for _ in range(2)]
        more: dict[str, Any] = {
            "database_url": f"sqlite:///{tmp_path}/shared.db",
            "cluster_name": uuid.uuid4().hex[:8],
            "cluster_lease": 3.0,
        }
        nodes = [
            await stack.enter_async_context(in_process(tmp_path, redis_url=f"redis://127.0.0.1:{way.port}", **more))
            for way in ways
        ]
        place = Apart(nodes, ways)
        await place.figures(nodes=2, settling=0)
        yield place


async def test_whoever_joins_while_the_broker_is_slow_gets_what_was_said_before_it_knew(apart: Apart) -> None:
    room = await apart.room("ann", "bob")
    ann, bob = await apart.first.connect("ann"), await apart.last.connect("bob")
    await ann.join(room)
    apart.ways[1].cut()  # for longer than a join waits, and not for so long that the connection is given up
    await bob.join(room)
    await ann.say(room, "hello", "1")
    apart.ways[1].mend()
    await bob.frame("message", id="1", seq=1)


async def test_whoever_joins_while_the_broker_is_slow_hears_what_was_deleted_before_it_knew(apart: Apart) -> None:
    room = await apart.room("ann", "bob")
    ann, bob = await apart.first.connect("ann"), await apart.last.connect("bob")
    await ann.join(room)
    await ann.say(room, "hello", "1")
    apart.ways[1].cut()
    await bob.join(room)
    await apart.remove_message(room, 1, "ann")
    apart.ways[1].mend()
    await bob.frame("deleted", seq=1)


async def test_conversations_that_are_joined_while_the_broker_is_slow_share_questions_to_the_database(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = {user: await apart.room(user) for user in "abcdefgh"}
    people = {user: await apart.last.connect(user) for user in rooms}
    store, questions = apart.last.server.node.store, []
    ask = store.memberships

    async def asked(pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        questions.append(len(pairs))
        return await ask(pairs)

    monkeypatch.setattr(store, "memberships", asked)
    apart.ways[1].cut()  # for longer than a join waits, and not for so long that the connection is given up
    for user, room in rooms.items():
        await people[user].send("join", conversation=room)
    for user, room in rooms.items():
        await people[user].frame("joined", conversation=room)
    apart.ways[1].mend()

    async def all_asked() -> bool:
        return sum(questions) >= len(rooms)

    await until(all_asked, "asked")
    assert len(questions) < len(rooms) / 2


async def test_what_is_examined_again_and_again_is_examined_to_its_end(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, node = await apart.last.connect("bob"), apart.last.server.node
    rooms = [await apart.room("bob") for _ in range(2)]
    for room in rooms:
        await bob.join(room)
    ask, asked, gate = node.store.memberships, [], asyncio.Event()

    async def slowly(pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        asked.append(pairs[0][0])
        await gate.wait()
        return await ask(pairs)

    monkeypatch.setattr(healing, "PAGE", 1)
    monkeypatch.setattr(node.store, "memberships", slowly)

    def questions(count: int) -> Callable[[], Awaitable[bool]]:
        async def are_asked() -> bool:
            return len(asked) == count

        return are_asked

    assert isinstance(node, ClusterNode)
    node.examine(None)
    await until(questions(1), "the first")
    node.examine(None)  # as for each node that comes
    gate.set()
    await until(questions(4), "the others")
    assert asked == 2 * asked[:2]


async def test_a_join_whose_question_is_older_than_the_connection_misses_nothing(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, other = await apart.room("ann", "bob"), await apart.room("ann", "cat")
    ann, bob, cat = await apart.first.connect("ann"), await apart.last.connect("bob"), await apart.last.connect("cat")
    await ann.join(room)
    await ann.join(other)
    await cat.join(other)
    await apart.lose(1)
    store, loop = apart.last.server.node.store, asyncio.get_running_loop()
    ask, asked = store.membership, []

    def slowly(conversation: str, user: str) -> asyncio.Future[Membership]:
        answer: asyncio.Future[Membership] = loop.create_future()
        asked.append((ask(conversation, user), answer))
        return answer

    monkeypatch.setattr(store, "membership", slowly)
    await bob.send("join", conversation=room)

    async def has_asked() -> bool:
        return bool(asked)

    await until(has_asked, "asked")
    question, answer = asked[0]
    membership = await question
    await ann.say(room, "hello", "1")
    await apart.find(1)
    await ann.say(other, "hello", "2")
    await cat.frame("message", id="2")  # everything is subscribed to, and what was missed has been looked for
    answer.set_result(membership)
    await bob.frame("joined", conversation=room)
    await bob.frame("message", id="1", seq=1)


async def test_who_leaves_or_stops_typing_while_the_broker_is_silent_has_done_so_when_it_is_given_up(
    apart: Apart,
) -> None:
    room = await apart.room("ann", "bob", "cat")
    ann, bob, cat = [await apart.first.connect(name) for name in ("ann", "bob", "cat")]
    tab = await apart.last.connect("cat")
    for person in (ann, bob, cat, tab):
        await person.join(room)
    await ann.frame("participant_joined", user="cat")
    await apart.figures(participants=3, connections=4)
    await cat.send("typing", conversation=room, active=True)
    await ann.frame("typing", user="cat", active=True)
    await apart.figures(typing_users=1)
    apart.ways[0].cut()
    await bob.leave(room)  # this, and that a user of several nodes stops, the server is to say
    await cat.send("typing", conversation=room, active=False)
    await cat.barrier()
    await apart.lose(0)
    await ann.frame("participant_left", user="bob")
    await ann.frame("typing", user="cat", active=False)
    apart.ways[0].mend()
    await apart.find(0)
    await apart.figures(participants=2, typing_users=0)
    await quiet(ann)
    assert [frame["type"] for frame in ann.passed_over] == ["participant_joined"], "of bob; nothing is said twice"


async def test_what_ends_without_a_broker_does_not_begin_again_with_one(apart: Apart) -> None:
    room = await apart.room("ann", "bob", "cat", "dan")
    ann, bob, cat, dan = [await apart.first.connect(name) for name in ("ann", "bob", "cat", "dan")]
    for person in (ann, bob, cat, dan):
        await person.join(room)
    await cat.send("typing", conversation=room, active=True)
    await apart.figures(participants=4, typing_users=1)
    apart.ways[0].cut()
    await bob.leave(room)  # is told to the server, without an answer: what follows waits for that
    await apart.lose(0)
    await dan.leave(room)
    await cat.send("typing", conversation=room, active=False)
    await ann.frame("typing", user="cat", active=False)
    await ann.frame("participant_left", user="dan")
    ann.passed_over.clear()
    apart.ways[0].mend()
    await apart.find(0)
    await apart.figures(participants=2, typing_users=0)
    await quiet(ann)
    assert ann.passed_over == []


async def test_what_a_cut_off_node_acknowledged_before_its_end_is_heard_when_another_takes_its_place(
    apart: Apart, server: Server, tmp_path: Path
) -> None:
    room = await apart.room("ann", "bob")
    ann, bob = await apart.first.connect("ann"), await apart.last.connect("bob")
    await ann.join(room)
    await bob.join(room)
    await apart.lose(0)
    await apart.last.scraped(
        lambda found: found["messaging_cluster_nodes"] == 1 and found["messaging_cluster_settling"] == 0, "alone"
    )  # what there was to be looked for has been
    await ann.say(room, "hello", "1")
    settings = apart.first.server.settings
    await apart.first.server.close()
    more: dict[str, Any] = {name: getattr(settings, name) for name in ("database_url", "cluster_name", "cluster_lease")}
    async with in_process(tmp_path, redis_url=server.url, **more):
        await bob.frame("message", id="1", seq=1)


async def test_what_a_cut_off_node_acknowledged_before_its_end_is_heard_although_nobody_comes_or_goes(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healing, "AGAIN", 0.1)
    room, ann, bob = await apart.ann_and_bob()
    await apart.lose(0)
    await apart.last.scraped(
        lambda found: found["messaging_cluster_nodes"] == 1 and found["messaging_cluster_settling"] == 0, "alone"
    )
    await ann.say(room, "hello", "1")
    await apart.first.server.close()
    await bob.frame("message", id="1", seq=1)


async def test_without_a_reason_it_is_examined_less_and_less_often(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = apart.last.server.node
    assert isinstance(node, ClusterNode)
    await no_examination_is_timed(node)
    monkeypatch.setattr(healing, "AGAIN", 0.01)
    node.examine(None)

    async def seldom() -> bool:
        return node._healing._again_in > 0.05

    await until(seldom, "it is asked less often")
    monkeypatch.setattr(healing, "AGAIN", 10.0)
    node.examine(None)
    assert node._healing._again_in == 10.0


async def test_a_defect_costs_one_examination(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "AGAIN", 0.1)
    room, _, _ = await apart.ann_and_bob()
    node, examined = apart.last.server.node, asyncio.Event()
    assert isinstance(node, ClusterNode)
    ask = node.store.memberships

    async def breaks(pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        monkeypatch.setattr(node.store, "memberships", asks)
        raise RuntimeError("a defect")

    async def asks(pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        if (room, "bob") in pairs:
            examined.set()
        return await ask(pairs)

    await no_examination_is_timed(node)
    monkeypatch.setattr(node.store, "memberships", breaks)
    node.examine(None)
    await asyncio.wait_for(examined.wait(), 20.0)


async def test_a_node_that_has_closed_reads_nothing_any_more(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    node = apart.last.server.node
    assert isinstance(node, ClusterNode)
    reads = asyncio.Event()

    async def read(*words: object) -> list[Message]:
        reads.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(node.store, "messages_between", read)
    node.heal("a room", 0, 1)
    await reads.wait()
    await apart.last.server.close()
    node.heal("a room", 0, 1)
    node.examine(None)
    node.examine([("a room", "bob")])
    assert not node._healing._tasks


@pytest.mark.parametrize("away", [(0, 1), (1,)])
async def test_a_deletion_is_heard_by_whoever_was_away_and_once_by_the_others(
    apart: Apart, away: tuple[int, ...], server: Server, tmp_path: Path
) -> None:
    settings = apart.first.server.settings
    more: dict[str, Any] = {name: getattr(settings, name) for name in ("database_url", "cluster_name", "cluster_lease")}
    async with in_process(tmp_path, redis_url=server.url, **more) as third:
        room = await apart.room("ann", "bob", "cat")
        ann, bob, cat = await apart.first.connect("ann"), await apart.last.connect("bob"), await third.connect("cat")
        for person in (ann, bob, cat):
            await person.join(room)
        for id in ("1", "2", "3"):
            await ann.say(room, "hello", id)
            await bob.frame("message", id=id)
            await cat.frame("message", id=id)
        await apart.remove_message(room, 1, "ann")
        for person in (ann, bob, cat):
            await person.frame("deleted", seq=1)
        await apart.lose(*away)
        await apart.remove_message(room, 2, "ann")
        for number in away:  # the node of whoever deleted it is back first
            await apart.find(number)
        for person in (ann, bob, cat):
            await person.frame("deleted", seq=2)
        await apart.remove_message(room, 3, "ann")
        for person in (ann, bob, cat):
            await person.frame("deleted", seq=3)
            assert not [frame for frame in person.passed_over if frame["type"] == "deleted"]


async def test_a_deletion_is_sent_again_by_a_node_that_was_asleep_when_another_came_back(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, ann, bob = await apart.ann_and_bob()
    await ann.say(room, "hello", "1")
    node = apart.first.server.node
    assert isinstance(node, ClusterNode)
    back_at = node.redis._clock.stamp(node.redis._now()) - 1_000_000
    await apart.remove_message(room, 1, "ann")
    await bob.frame("deleted", seq=1)
    again = asyncio.Event()
    monkeypatch.setattr(node.redis._redelivery, "_put", lambda *words: again.set())
    node.redis.nodes_channel.heard(frames.head(b"another1", back_at) + frames.pack(Kind.BACK, b""))
    await again.wait()


async def test_a_message_that_comes_behind_its_deletion_is_not_handed_out(apart: Apart) -> None:
    room, ann, bob = await apart.ann_and_bob()
    apart.ways[0].cut()
    await ann.say(room, "hello", "1")
    path = f"{CONVERSATIONS}/{room}/messages/1"
    assert (await apart.last.request("DELETE", path, user="ann"))[0] == 204
    await bob.frame("deleted", seq=1)
    apart.ways[0].mend()
    await ann.frame("deleted", seq=1)
    await ann.say(room, "hello", "2")
    await bob.frame("message", id="2", seq=2)
    assert not [frame for frame in bob.passed_over if frame["type"] == "message"]


async def test_who_is_a_member_again_is_not_removed_by_what_comes_late(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "LATE", 0.0)
    room, ann, bob = await apart.ann_and_bob()
    path = f"{CONVERSATIONS}/{room}/participants"
    apart.ways[0].cut()
    assert (await apart.first.request("DELETE", f"{path}/bob", user="ann"))[0] == 204
    assert (await apart.last.request("POST", path, user="ann", json={"participants": ["bob"]}))[0] == 201
    await bob.leave(room)
    await bob.join(room)
    apart.ways[0].mend()
    await ann.say(room, "hello", "1")
    await bob.frame("message", id="1")
    assert not [frame for frame in bob.passed_over if frame["type"] == "left"]
    assert (await apart.first.request("DELETE", f"{path}/bob", user="ann"))[0] == 204
    await bob.frame("left", reason="removed")


def _change(apart: Apart, *statements: str, room: str) -> None:
    """By another program."""
    path = apart.first.server.settings.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        for statement in statements:
            database.execute(statement, (room,))


async def test_numbers_that_a_database_has_lost_are_heard_when_they_are_given_again(apart: Apart) -> None:
    room, ann, bob = await apart.ann_and_bob()
    for id in ("1", "2", "3", "4"):
        await ann.say(room, "hello", id)
        await bob.frame("message", id=id)
    lost = "DELETE FROM messages WHERE conversation_id = ? AND seq > 2"
    _change(apart, lost, "UPDATE conversations SET last_seq = 2 WHERE id = ?", room=room)
    for seq in (3, 4, 5):
        assert (await ann.say(room, "again", f"again {seq}"))["seq"] == seq
        await bob.frame("message", id=f"again {seq}", seq=seq)
    await ann.barrier()
    for person in (ann, bob):
        assert not [frame for frame in person.passed_over if frame["type"] == "message"]


@pytest.mark.parametrize("joins", [False, True])
async def test_a_conversation_that_another_program_makes_again_begins_anew_for_who_had_joined(
    apart: Apart, joins: bool
) -> None:
    room, ann, bob = await apart.ann_and_bob()
    for id in ("1", "2", "3"):
        await ann.say(room, "hello", id)
        await bob.frame("message", id=id)
    _change(apart, "DELETE FROM conversations WHERE id = ?", room=room)
    await apart.first.conversation(room, "ann", "bob")
    if joins:
        other = await apart.last.connect("bob")
        assert (await other.join(room))["last_seq"] == 0
    for seq in (1, 2, 3, 4):
        assert (await ann.say(room, "again", f"again {seq}"))["seq"] == seq
        await bob.frame("message", id=f"again {seq}", seq=seq)
        if joins:
            await other.frame("message", id=f"again {seq}", seq=seq)
    await ann.barrier()
    for person in (ann, bob):
        assert not [frame for frame in person.passed_over if frame["type"] == "message"]


async def _made_again(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Client, Client, asyncio.Event]:
    """Three messages, then a conversation of the same name; what the last node examines waits for the event."""
    room, ann, bob = await apart.ann_and_bob()
    for id in ("1", "2", "3"):
        await ann.say(room, "hello", id)
        await bob.frame("message", id=id)
    node, gate = apart.last.server.node, asyncio.Event()
    assert isinstance(node, ClusterNode)
    ask = node.store.memberships

    async def waits(pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        await gate.wait()
        return await ask(pairs)

    await no_examination_is_timed(node)
    monkeypatch.setattr(node.store, "memberships", waits)
    _change(apart, "DELETE FROM conversations WHERE id = ?", room=room)
    await apart.first.conversation(room, "ann", "bob", "cat")
    return room, ann, bob, gate


async def test_a_number_that_is_given_again_is_heard_also_of_whoever_is_no_longer_a_member(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _, bob, gate = await _made_again(apart, monkeypatch)
    cat = await apart.first.connect("cat")
    await cat.join(room)
    await cat.say(room, "again", "again 1")
    path = f"{CONVERSATIONS}/{room}/participants/cat"
    assert (await apart.first.request("DELETE", path, user="ann"))[0] == 204
    gate.set()
    await bob.frame("message", id="again 1", seq=1)


async def test_what_is_deleted_while_its_number_is_in_doubt_is_not_handed_out(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, ann, bob, gate = await _made_again(apart, monkeypatch)
    await ann.say(room, "again", "again 1")
    await apart.remove_message(room, 1, "ann")
    await bob.frame("deleted", seq=1)
    gate.set()
    await ann.say(room, "again", "again 2")
    await bob.frame("message", id="again 2", seq=2)
    assert not [frame for frame in bob.passed_over if frame["type"] == "message"]


@dataclass
class Lagging(Apart):
    """While primary and standby change places, the address of the last node may still lead to the other one."""

    primary: Postgres
    standby: Postgres
    address: CutProxy

    async def is_followed(self) -> None:
        replayed = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"

        async def has_all() -> bool:
            return self.primary.psql(replayed).strip() == "1"

        await until(has_all, "the standby has all")

    async def pause(self) -> None:
        """The standby gets nothing new."""
        await self.is_followed()
        self.standby.psql("SELECT pg_wal_replay_pause()")

    async def lag(self) -> None:
        """From now on the last node reads from the standby, which gets nothing new."""
        await self.pause()
        self.change_places()

    def change_places(self) -> None:
        """The last node's address leads to the standby."""
        self.address.target = self.standby.port
        self.address.drop()

    async def catch_up(self) -> None:
        """The standby has what the primary has."""
        self.standby.psql("SELECT pg_wal_replay_resume()")
        await self.is_followed()


@pytest.fixture
async def lagging(server: Server, tmp_path: Path) -> AsyncIterator[Lagging]:
    """Two nodes on PostgreSQL, each with a way of its own to the broker."""
    async with AsyncExitStack() as stack:
        primary = stack.enter_context(closing(Postgres(fsync="off"))).start()
        standby = stack.enter_context(closing(Postgres(standby_of=primary, fsync="off"))).start()
        address = await stack.enter_async_context(CutProxy(primary.port))
        ways = [await stack.enter_async_context(CutProxy(server.port)) for _ in range(2)]
        url = f"postgresql://postgres@127.0.0.1:%d/{primary.create_database()}"
        more: dict[str, Any] = {"cluster_name": uuid.uuid4().hex[:8], "cluster_lease": 30.0}
        nodes = [
            await stack.enter_async_context(
                in_process(tmp_path, database_url=url % port, redis_url=f"redis://127.0.0.1:{way.port}", **more)
            )
            for port, way in zip((primary.port, address.port), ways, strict=True)
        ]
        yield Lagging(nodes, ways, primary, standby, address)


@pytest.mark.needs("postgres")
async def test_a_standby_that_lags_makes_no_number_new(lagging: Lagging) -> None:
    room, ann, bob = await lagging.ann_and_bob()
    await lagging.lag()
    await ann.say(room, "hello", "1")
    await bob.frame("message", id="1")
    tab = await lagging.last.connect("bob")
    await tab.join(room)
    await tab.leave(room)
    await lagging.catch_up()
    await tab.join(room)
    await ann.say(room, "hello", "2")
    await bob.frame("message", id="2")
    assert not [frame for frame in bob.passed_over if frame["type"] == "message"]


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("lacks", ["the message", "the conversation"])
async def test_what_a_standby_that_lags_does_not_have_is_not_passed_over(
    lagging: Lagging, lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks == "the conversation":
        await lagging.pause()
    room, ann, bob = await lagging.ann_and_bob()
    if lacks == "the message":
        await lagging.pause()
    lagging.change_places()
    await lagging.lose(1)
    await ann.say(room, "hello", "1")
    await lagging.find(1)
    node, read = lagging.last.server.node, asyncio.Event()
    assert isinstance(node, ClusterNode)
    ordering = node.redis.ordering
    healed, not_healed = ordering.healed, ordering.not_healed
    monkeypatch.setattr(ordering, "healed", lambda *words: (healed(*words), read.set()))
    monkeypatch.setattr(ordering, "not_healed", lambda *words: (not_healed(*words), read.set()))
    await ann.say(room, "hello", "2")
    await read.wait()
    await lagging.catch_up()
    await bob.frame("message", id="1", seq=1)
    await bob.frame("message", id="2", seq=2)
    assert not [frame for frame in bob.passed_over if frame["type"] == "message"]


def _questions(node: ClusterNode, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Awaitable[None]]:
    """Waits until so many more have been answered by the database, and another one has been asked."""
    ask, asked = node.store.memberships, 0

    async def memberships(pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        nonlocal asked
        asked += 1
        return await ask(pairs)

    async def more(count: int) -> None:
        before = asked

        async def are_answered() -> bool:
            return asked > before + count

        await until(are_answered, f"{count} answers")

    monkeypatch.setattr(node.store, "memberships", memberships)
    monkeypatch.setattr(healing, "RETRY", 0.05)
    return more


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("lacks", ["the member", "the conversation"])
async def test_a_standby_that_lags_removes_nobody(
    lagging: Lagging, lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks == "the conversation":
        await lagging.pause()
    room = await lagging.room("ann")
    if lacks == "the member":
        await lagging.pause()
    path = f"{CONVERSATIONS}/{room}/participants"
    assert (await lagging.first.request("POST", path, user="ann", json={"participants": ["bob", "cat"]}))[0] == 201
    ann = await lagging.first.connect("ann")
    bob, cat = [await lagging.last.connect(name) for name in ("bob", "cat")]
    await ann.join(room)
    await bob.join(room)
    lagging.change_places()
    node = lagging.last.server.node
    assert isinstance(node, ClusterNode)
    node.examine(None)
    assert node._healing._examination is not None
    await node._healing._examination
    answers = _questions(node, monkeypatch)
    node.examine([(room, "bob")])
    await answers(2)
    await cat.send("join", conversation=room)
    await cat.frame("error", code="unavailable")
    await lagging.catch_up()
    await ann.say(room, "hello", "1")
    await bob.frame("message", id="1")
    assert not [frame for frame in bob.passed_over if frame["type"] == "left"]


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("all", [True, False])
async def test_a_standby_that_lags_is_asked_again_until_it_knows(
    lagging: Lagging, all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _, bob = await lagging.ann_and_bob()
    await lagging.lag()
    await lagging.lose(1)
    path = f"{CONVERSATIONS}/{room}/participants/bob"
    assert (await lagging.first.request("DELETE", path, user="ann"))[0] == 204
    await lagging.find(1)
    node = lagging.last.server.node
    assert isinstance(node, ClusterNode)
    assert node._healing._examination is not None
    await node._healing._examination
    await no_examination_is_timed(node)
    answers = _questions(node, monkeypatch)
    if all:
        monkeypatch.setattr(healing, "AGAIN", 0.05)
        node.examine(None)
        await answers(4)
        assert node._healing._again_in <= 2 * healing.AGAIN, "it is not asked less and less often"
    else:
        node.examine([(room, "bob")])
        await answers(1)
    await lagging.catch_up()
    lagging.address.target = lagging.primary.port
    lagging.address.drop()
    await bob.frame("left", reason="removed")


@pytest.mark.parametrize("times", [1, 2])
async def test_a_deletion_is_heard_by_who_came_back_while_the_node_that_knows_it_was_away(
    apart: Apart, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "SILENCE", 0.0)  # the second absence is not to reach back to the first
    monkeypatch.setattr(redelivery, "TAKES", 0.0)
    room, ann, bob = await apart.ann_and_bob()
    await ann.say(room, "hello", "1")
    await bob.frame("message", id="1")
    await apart.lose(1)
    await apart.remove_message(room, 1, "ann")
    await ann.frame("deleted", seq=1)
    await apart.first.scraped(lambda found: found["messaging_broker_frames_sent_total"] > 0, "sent")
    await apart.lose(0)
    await apart.find(1)
    for _ in range(times - 1):
        await apart.lose(1)
        await apart.find(1)
    await apart.find(0)
    await bob.frame("deleted", seq=1)


async def test_a_deletion_is_heard_although_the_first_connection_after_it_ends_at_once(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "SILENCE", 0.0)
    room, ann, bob = await apart.ann_and_bob()
    await ann.say(room, "hello", "1")
    await bob.frame("message", id="1")
    await apart.lose(1)
    await apart.remove_message(room, 1, "ann")
    await ann.frame("deleted", seq=1)
    node = apart.last.server.node
    assert isinstance(node, ClusterNode)
    asker = node.redis._redelivery
    is_back = asker.is_back

    def ends(connection: Connection, *words: object) -> None:
        monkeypatch.setattr(asker, "is_back", is_back)
        connection.abort("cut off again")

    monkeypatch.setattr(asker, "is_back", ends)
    await apart.find(1)
    await bob.frame("deleted", seq=1)


async def test_nobody_is_dead_because_the_server_was_out_of_reach_for_longer_than_the_lease(
    apart: Apart, server: Server
) -> None:
    room, ann, bob = await apart.ann_and_bob()
    await apart.figures(participants=2, nodes=2, settling=0)
    ann.passed_over.clear()
    await apart.lose(0, 1)
    nodes = f"messaging:{{{apart.first.server.settings.cluster_name}}}:nodes"
    with server.client() as client:

        async def over() -> bool:
            seconds, _ = client.time()
            return not client.zcount(nodes, seconds * 1000, "+inf")

        await until(over, "all leases are over")
    await apart.find(0)
    first = await apart.first.scrape()
    as_of = first["messaging_cluster_snapshot_timestamp_seconds"]
    later = await apart.first.scraped(
        lambda found: found["messaging_cluster_snapshot_timestamp_seconds"] > as_of, "another beat"
    )
    for found in (first, later):
        assert found["messaging_cluster_nodes"] == found["messaging_cluster_participants"] == 2
    await apart.find(1)
    await bob.leave(room)
    await ann.frame("participant_left", user="bob")
    assert not ann.passed_over, "nobody was said to have left"
