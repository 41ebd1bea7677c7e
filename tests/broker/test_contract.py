"""One contract for every broker: what two people see of each other, on one node, or on two over Valkey or Redis.

The same tests run for a node that is alone and for two nodes; ``ann`` is on the first, ``bob`` on the last.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.broker.conftest import BOTH
from tests.servers import valkey
from tests.servers.exporter import CONVERSATIONS, Client, InProcess, in_process, until


@dataclass
class Place:
    """Where people meet: the nodes, the same one twice when it is alone."""

    nodes: list[InProcess]

    @property
    def first(self) -> InProcess:
        return self.nodes[0]

    @property
    def last(self) -> InProcess:
        return self.nodes[-1]

    async def room(self, *members: str) -> str:
        return await self.first.conversation(uuid.uuid4().hex[:8], *members)

    async def ann_and_bob(self) -> tuple[str, Client, Client]:
        """Both have joined, and ann has been told of bob."""
        room = await self.room("ann", "bob", "cat")
        ann, bob = await self.first.connect("ann"), await self.last.connect("bob")
        await ann.join(room)
        await bob.join(room)
        await ann.frame("participant_joined", conversation=room, user="bob")
        return room, ann, bob

    async def figures(self, **expected: float) -> None:
        """All nodes' cluster figures come to be these."""
        wanted = {f"messaging_cluster_{name}": value for name, value in expected.items()}
        for node in self.nodes:
            await node.scraped(lambda found: wanted.items() <= found.items(), str(wanted))


@contextmanager
def _no_broker(kind: str) -> Any:
    yield None


@pytest.fixture(scope="module", params=["alone", *BOTH])
def broker(request: pytest.FixtureRequest) -> Any:
    """None, or a server."""
    start = _no_broker if request.param == "alone" else valkey.running
    with start(request.param) as server:
        yield server


@pytest.fixture
async def place(broker: valkey.Server | None, tmp_path: Path) -> AsyncIterator[Place]:
    """One node, or two that share a database and a broker."""
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path}/shared.db"
        more: dict[str, Any] = {"database_url": url, "typing_timeout": 1.0}
        if broker is not None:
            more |= {"redis_url": broker.url, "cluster_name": uuid.uuid4().hex[:8], "cluster_lease": 2.0}
        count = 1 if broker is None else 2
        yield Place([await stack.enter_async_context(in_process(tmp_path, **more)) for _ in range(count)])


async def quiet(*clients: Client) -> None:
    """Nothing more comes: each one's ping is answered, after whatever was on its way to them."""
    await asyncio.sleep(0.05)  # what may still be on its way; a frame too many is then seen by the barrier
    for client in clients:
        await client.barrier()


def seen(client: Client, type: str) -> list[dict[str, Any]]:
    return [frame for frame in client.passed_over if frame["type"] == type]


async def test_a_message_goes_to_everybody_else_once_and_in_order(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    for n in range(20):
        await (ann if n % 2 else bob).send("send", conversation=room, body=str(n), id=str(n))
    for n in range(1, 20, 2):
        await ann.frame("ack", id=str(n))
        await bob.frame("message", id=str(n))
    for n in range(0, 20, 2):
        await bob.frame("ack", id=str(n))
        await ann.frame("message", id=str(n))
    await quiet(ann, bob)
    assert not seen(ann, "message")
    assert not seen(bob, "message")


async def test_the_numbers_come_in_order_without_holes_at_everybody(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    cat = await place.last.connect("cat")
    await cat.join(room)
    for n in range(40):
        await (ann if n % 2 else bob).send("send", conversation=room, body=str(n), id=str(n))
    for n in range(1, 41):
        assert (await cat.frame("message"))["seq"] == n


async def test_the_same_id_twice_is_delivered_once(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    assert (await ann.say(room, "hi", "x"))["seq"] == (await ann.say(room, "hi", "x"))["seq"] == 1
    await bob.frame("message", seq=1)
    await quiet(bob)
    assert not seen(bob, "message")


async def test_joined_lists_the_users_of_all_nodes_and_a_last_seq_that_leaves_no_gap(place: Place) -> None:
    room, ann, _ = await place.ann_and_bob()
    await ann.say(room, "hi", "1")
    cat = await place.last.connect("cat")
    joined = await cat.join(room)
    assert joined["participants"] == ["ann", "bob", "cat"]
    assert joined["last_seq"] == 1
    await ann.say(room, "again", "2")
    assert (await cat.frame("message"))["seq"] == 2


async def test_the_first_connection_of_a_user_is_announced_and_the_last_one_gone(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    second = await place.first.connect("bob")  # a second tab, on another node where there is one
    await second.join(room)
    await bob.leave(room)
    await quiet(ann)
    assert not seen(ann, "participant_joined")
    assert not seen(ann, "participant_left")
    await second.leave(room)
    await ann.frame("participant_left", conversation=room, user="bob")
    await quiet(ann)
    assert not seen(ann, "participant_left")


async def test_a_connection_that_dies_is_announced_when_it_was_the_last(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    await bob.reset()
    await ann.frame("participant_left", conversation=room, user="bob")


async def test_typing_is_said_once_and_ends_by_stop_message_time_out_and_leave(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    for end in ("stop", "message", "time-out", "leave"):
        await ann.send("typing", conversation=room, active=True)
        await ann.send("typing", conversation=room, active=True)
        await bob.frame("typing", conversation=room, user="ann", active=True)
        if end == "stop":
            await ann.send("typing", conversation=room, active=False)
        elif end == "message":
            await ann.say(room, "hi", end)
        elif end == "leave":
            await ann.leave(room)
        await bob.frame("typing", conversation=room, user="ann", active=False)
    await quiet(ann, bob)
    assert not seen(bob, "typing")
    assert not seen(ann, "typing")


async def test_typing_on_two_connections_ends_with_the_last(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    if place.first is place.last:
        return  # one node knows one typing state of a user, whichever of the connections types
    second = await place.last.connect("ann")
    await second.join(room)
    await ann.send("typing", conversation=room, active=True)
    await second.send("typing", conversation=room, active=True)
    await bob.frame("typing", active=True)
    await ann.send("typing", conversation=room, active=False)
    await quiet(ann, bob)
    assert not seen(bob, "typing")
    await second.send("typing", conversation=room, active=False)
    await bob.frame("typing", active=False)


async def test_a_message_ends_its_senders_typing_on_all_connections(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    second = await place.last.connect("ann")
    await second.join(room)
    await ann.send("typing", conversation=room, active=True)
    await bob.frame("typing", active=True)
    await second.say(room, "hi", "1")
    await bob.frame("typing", active=False)
    ended = 'messaging_typing_stopped_total{reason="message"}'
    await place.first.scraped(lambda found: found.get(ended) == 1, "ended by the message, not by its time")


async def test_a_read_mark_is_told_to_the_others(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    await ann.say(room, "hi", "1")
    await bob.frame("message")
    await bob.send("read", conversation=room, seq=1)
    assert await ann.frame("read") == {"type": "read", "conversation": room, "user": "bob", "seq": 1}
    await quiet(bob)
    assert not seen(bob, "read")


async def test_a_deleted_message_is_told_to_the_joined(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    await ann.say(room, "hi", "1")
    status, _, _ = await place.first.request("DELETE", f"{CONVERSATIONS}/{room}/messages/1", user="ann")
    assert status == 204
    for client in (ann, bob):
        assert (await client.frame("deleted"))["seq"] == 1


async def test_a_removed_member_leaves_on_all_nodes(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    second = await place.first.connect("bob")
    await second.join(room)
    status, _, _ = await place.first.request("DELETE", f"{CONVERSATIONS}/{room}/participants/bob", user="ann")
    assert status == 204
    for client in (bob, second):
        assert (await client.frame("left"))["reason"] == "removed"
    await ann.frame("participant_left", user="bob")
    await ann.say(room, "without bob", "1")
    await quiet(ann, bob, second)
    assert not seen(bob, "message")
    assert not seen(second, "message")


async def test_nobody_hears_of_what_they_have_not_joined(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    cat = await place.last.connect("cat")
    await ann.say(room, "hi", "1")
    await ann.send("typing", conversation=room, active=True)
    await bob.frame("message")
    await quiet(cat)
    assert cat.passed_over == []


async def test_somebody_who_is_no_member_is_refused_and_nobody_is_told(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    dan = await place.last.connect("dan")
    await dan.send("join", conversation=room, id="j")
    assert (await dan.frame("error", id="j"))["code"] == "forbidden"
    await quiet(ann, bob)
    assert not seen(ann, "participant_joined")


async def test_the_cluster_counts_everybody_once(place: Place) -> None:
    room, ann, bob = await place.ann_and_bob()
    other = await place.room("ann", "bob")
    tab = await place.last.connect("ann")
    await tab.join(room)
    await tab.join(other)
    await ann.send("typing", conversation=room, active=True)
    await bob.frame("typing", active=True)
    await place.figures(connections=3, users=2, conversations=2, participants=3, typing_users=1, nodes=len(place.nodes))
    stats = await place.last.stats()
    assert (stats["connected_users"], stats["total_participants"], stats["nodes"]) == (2, 3, len(place.nodes))
    assert stats["scope"] == ("node" if len(place.nodes) == 1 else "cluster")
    await ann.close()
    await bob.close()
    await place.figures(connections=1, users=1, conversations=2, participants=2, typing_users=0)
    await tab.close()
    await place.figures(connections=0, users=0, conversations=0, participants=0, typing_users=0)


async def test_a_hundred_people_who_come_and_go_leave_nothing_behind(place: Place) -> None:
    room = await place.room("ann", *(f"user{n}" for n in range(50)))

    async def visit(n: int) -> None:
        node = place.nodes[n % len(place.nodes)]
        client = await node.connect(f"user{n // 2}")
        await client.join(room)
        await client.send("typing", conversation=room, active=True)
        await client.say(room, "hi", "x")
        await (client.close() if n % 3 else client.reset())

    await asyncio.gather(*(visit(n) for n in range(100)))
    await place.figures(connections=0, users=0, conversations=0, participants=0, typing_users=0)

    async def nothing_held() -> bool:
        return all(not getattr(node.server.node.broker, "_held", None) for node in place.nodes)

    await until(nothing_held, "no conversation is held")


async def test_a_large_close_is_told_in_slices_and_whatever_happens_in_between_comes_in_order(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.node.publisher.SLICE", 4)
    rooms = [await place.room("ann", "bob") for _ in range(10)]
    ann, bob = await place.first.connect("ann"), await place.last.connect("bob")
    for client in (ann, bob):
        for room in rooms:
            await client.join(room)
    for room in rooms:
        await ann.frame("participant_joined", conversation=room, user="bob")
    await place.figures(participants=20)
    node = place.first.server.node
    later: list[Any] = []
    monkeypatch.setattr(node.fan_out, "later", later.append)
    await ann.reset()

    async def ended() -> bool:
        return not node.hub.connections_of("ann")

    await until(ended, "ended")
    assert later, "told in slices"
    eve, again = await place.first.connect("eve"), await place.first.connect("ann")
    await eve.send("join", conversation=rooms[0], id="x")  # refused: nobody of this node holds it then
    assert (await eve.frame("error", id="x"))["code"] == "forbidden"
    assert "ann" in (await again.join(rooms[1]))["participants"]
    await bob.frame("participant_joined", conversation=rooms[1], user="ann")
    monkeypatch.undo()
    while later:
        later.pop()()
    for room in (*rooms[:1], *rooms[2:]):
        await bob.frame("participant_left", conversation=room, user="ann")
    await quiet(bob, again)
    assert [frame["conversation"] for frame in seen(bob, "participant_left")] == [rooms[1]], "before she came back"
    assert not seen(again, "participant_left")
    await place.figures(participants=11, conversations=10, connections=3)
