"""The node: from a command to all its consequences, with a store that answers when the test says so.

What matters is between a question and its answer: connections that go, members who are removed, messages that become
durable meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from exporter.broker import Envelope
from exporter.core import protocol
from exporter.core.errors import (
    BadFrame,
    ErrorCode,
    Forbidden,
    NotFound,
    Refusal,
    Unavailable,
)
from exporter.core.events import (
    COMMANDS,
    ClosedReason,
    Command,
    Join,
    Leave,
    LeftReason,
    Ping,
    Read,
    Send,
    Typing,
    TypingStoppedReason,
)
from exporter.core.records import Conversation, Membership, Message, ReadMark
from exporter.core.websocket_frames import count_beginning, text_frame
from exporter.metrics.counters import Metrics
from exporter.node.fanout import FanOut
from exporter.node.node import REMEMBERED, Node
from exporter.node.publisher import SLICE, NodeConnection
from tests.doubles import SENT_AT, Clock, FakeStore, Transport, texts, turns

CLIENT = ClosedReason.CLIENT
MEMBER = Membership(member=True, last_seq=3)


class Tab(NodeConnection):
    """A connection that keeps what it gets."""

    __slots__ = ("box", "settlings")

    def __init__(self, user: str, fan_out: FanOut) -> None:
        self.box = Transport()
        super().__init__(user, self.box, fan_out, 1 << 20)
        self.sends_in_flight = 0
        self.settlings = 0

    def on_sends_answered(self) -> None:
        self.settlings += 1

    def got(self) -> list[dict[str, Any]]:
        """The frames since the last time."""
        self.fan_out.flush()
        frames = texts(b"".join(self.box.writes))
        self.box.writes.clear()
        return frames


class World:
    """A node, its store, its clock and its people."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.metrics = Metrics()
        self.clock = Clock()
        self.wall = Clock(SENT_AT.timestamp() + 5.0)
        self.fan_out = FanOut(lambda flush: None, self.metrics.sent_bytes, self.clock)
        self.node = Node(self.store, self.metrics, self.fan_out, now=self.clock, wall=self.wall)

    def tab(self, user: str) -> Tab:
        tab = Tab(user, self.fan_out)
        self.node.open(tab)
        return tab

    def do(self, tab: Tab, command: Command) -> asyncio.Future[None] | None:
        try:
            return self.node.handle(tab, command, self.clock.now)
        finally:
            self.node.handled(self.clock.now)

    async def join(self, tab: Tab, conversation: str = "c", membership: Membership = MEMBER) -> None:
        task = self.do(tab, Join(conversation))
        await turns()
        self.store.answer(membership)
        assert task is not None
        await task

    async def joined(self, *users: str) -> list[Tab]:
        """Tabs that have joined ``c``, with nothing left to read."""
        tabs = [self.tab(user) for user in users]
        for tab in tabs:
            await self.join(tab)
        for tab in tabs:
            tab.got()
        return tabs

    def rejected(self, command: str, code: ErrorCode) -> int:
        return self.metrics.commands_rejected[command, code].value

    def all_rejected(self) -> int:
        return sum(cell.value for cell in self.metrics.commands_rejected.values())

    def durations(self, command: str) -> int:
        return sum(self.metrics.command_duration[command].counts)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.node.close_all()


def test_every_command_is_carried_out(world: World) -> None:
    assert set(world.node._handlers) == set(COMMANDS)


# --- join and leave ---------------------------------------------------------------------------------------


async def test_a_join_is_answered_with_who_is_there_and_announced_to_the_others(world: World) -> None:
    (ann,) = await world.joined("ann")
    bob = world.tab("bob")
    task = world.do(bob, Join("c", "1"))
    assert task is not None
    await turns()
    assert not bob.got()
    assert world.store.asked[0][0] == ("membership", "c", "bob")
    world.store.answer(MEMBER)
    await task
    assert bob.got() == [
        {"type": "joined", "conversation": "c", "participants": ["ann", "bob"], "last_seq": 3, "id": "1"}
    ]
    assert ann.got() == [{"type": "participant_joined", "conversation": "c", "user": "bob"}]
    assert world.metrics.joins.value == 2
    assert world.durations("join") == 2
    assert not world.node._under_way, "nothing of it is kept"


async def test_a_second_tab_is_answered_but_neither_counted_nor_announced(world: World) -> None:
    ann, _bob = await world.joined("ann", "bob")
    second = world.tab("ann")
    await world.join(second)
    assert second.got()[0]["participants"] == ["ann", "bob"]
    assert ann.got() == _bob.got() == []
    assert world.metrics.joins.value == 2


async def test_a_second_join_of_a_connection_is_answered_again_and_changes_nothing(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    before = world.node.hub.stats()
    await world.join(ann)
    assert [frame["type"] for frame in ann.got()] == ["joined"]
    assert bob.got() == []
    assert world.node.hub.stats() == before
    assert world.metrics.joins.value == 2


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Membership(member=False, last_seq=9), "forbidden"),
        (NotFound("no such conversation"), "not_found"),
        (Unavailable("the database is down"), "unavailable"),
        (ZeroDivisionError("a defect"), "internal"),
    ],
)
async def test_a_join_that_is_refused_says_why_with_its_id_and_leaves_no_trace(
    world: World, outcome: object, code: str
) -> None:
    (bob,) = await world.joined("bob")
    ann = world.tab("ann")
    before = world.node.hub.stats()
    task = world.do(ann, Join("c", "1"))
    await turns()
    world.store.answer(outcome)
    assert task is not None
    await task  # never raises, or the connection would not hear of it
    (error,) = ann.got()
    assert (error["type"], error["code"], error["id"]) == ("error", code, "1")
    assert "defect" not in error["message"]
    assert world.rejected("join", ErrorCode(code)) == world.all_rejected() == 1
    assert world.node.hub.stats() == before
    assert not world.node._join_consistency
    assert bob.got() == []


async def test_a_connection_that_goes_during_its_join_leaves_no_ghost(world: World) -> None:
    (bob,) = await world.joined("bob")
    ann = world.tab("ann")
    task = world.do(ann, Join("c"))
    await turns()
    world.node.close(ann, CLIENT)
    world.store.answer(MEMBER)
    assert task is not None
    await task
    assert world.node.hub.stats().active_connections == 1
    assert world.node.hub.participants_of("c") == ["bob"]
    assert bob.got() == []
    assert world.metrics.joins.value == 1
    assert world.all_rejected() == 0


async def test_who_is_removed_during_their_join_does_not_get_in(world: World) -> None:
    """The answer to the join was on its way when the removal was committed."""
    ann = world.tab("ann")
    task = world.do(ann, Join("c", "1"))
    await turns()
    removal = asyncio.create_task(world.node.remove_participant("c", "bob", "ann"))
    await turns()
    world.store.answer(None, 1)
    await removal
    world.store.answer(MEMBER)  # what was true before the removal
    await turns()
    assert world.store.asked[0][0] == ("membership", "c", "ann")  # asked again
    world.store.answer(Membership(member=False, last_seq=3))
    assert task is not None
    await task
    assert [frame.get("code") for frame in ann.got()] == ["forbidden"]
    assert world.node.hub.stats().participants == 0


async def test_who_was_removed_and_added_again_during_their_join_gets_in(world: World) -> None:
    ann = world.tab("ann")
    task = world.do(ann, Join("c"))
    await turns()
    removal = asyncio.create_task(world.node.remove_participant("c", "bob", "ann"))
    await turns()
    world.store.answer(None, 1)
    await removal
    world.store.answer(MEMBER)
    await turns()
    world.store.answer(MEMBER)
    assert task is not None
    await task
    assert [frame["type"] for frame in ann.got()] == ["joined"]


async def test_removals_elsewhere_do_not_hold_up_a_join(world: World) -> None:
    """Somebody who removes people all the time would otherwise keep everybody from joining anything."""
    ann = world.tab("ann")
    task = world.do(ann, Join("c"))
    await turns()
    for number in range(3):
        removal = asyncio.create_task(world.node.remove_participant(f"other {number}", "bob", "eve"))
        await turns()
        world.store.answer(None, 1)
        await removal
    world.store.answer(MEMBER)
    assert task is not None
    await task
    assert [frame["type"] for frame in ann.got()] == ["joined"]


async def test_a_message_that_is_accepted_during_a_join_is_within_its_last_seq_or_delivered(world: World) -> None:
    """Else the joiner would neither get it nor know that there is something to catch up with."""
    (bob,) = await world.joined("bob")
    ann = world.tab("ann")
    world.do(bob, Send("c", "hello", "1"))
    task = world.do(ann, Join("c"))
    await turns()
    world.store.commit(seq=4)  # durable after the question, before the answer: last_seq was read as 3
    world.store.answer(Membership(member=True, last_seq=3))
    assert task is not None
    await task
    (joined,) = ann.got()
    assert joined["last_seq"] == 4
    world.do(bob, Send("c", "again", "2"))
    world.store.commit(seq=5)
    assert [frame["seq"] for frame in ann.got()] == [5]
    assert not world.node._join_consistency


async def test_a_message_of_another_conversation_does_not_raise_the_last_seq_of_a_join(world: World) -> None:
    (bob,) = await world.joined("bob")
    await world.join(bob, "d")
    ann = world.tab("ann")
    world.do(bob, Send("d", "hello", "1"))
    task = world.do(ann, Join("c"))
    await turns()
    world.store.commit(seq=99)
    world.store.answer(MEMBER)
    assert task is not None
    await task
    assert ann.got()[0]["last_seq"] == 3


async def test_a_recovered_message_during_a_join_is_within_its_last_seq_too(world: World) -> None:
    ann = world.tab("ann")
    task = world.do(ann, Join("c"))
    await turns()
    world.node.resolved(Message("c", 8, "bob", "1", "late", SENT_AT))
    world.store.answer(MEMBER)
    assert task is not None
    await task
    assert ann.got()[0]["last_seq"] == 8


async def test_two_joins_at_once_each_know_what_came_meanwhile(world: World) -> None:
    (bob,) = await world.joined("bob")
    ann, cyd = world.tab("ann"), world.tab("cyd")
    world.do(bob, Send("c", "hello", "1"))
    first, second = world.do(ann, Join("c")), world.do(cyd, Join("c"))
    await turns()
    world.store.answer(MEMBER)
    assert first is not None
    await first
    world.store.commit(seq=4)
    world.store.answer(MEMBER)
    assert second is not None
    await second
    assert [frame["type"] for frame in ann.got()] == ["joined", "message", "participant_joined"]
    assert cyd.got()[0]["last_seq"] == 4
    assert not world.node._join_consistency


async def test_a_leave_is_answered_and_announced_for_the_last_tab_only(world: World) -> None:
    ann, tab, bob = await world.joined("ann", "ann", "bob")
    world.do(ann, Leave("c", "1"))
    assert ann.got() == [{"type": "left", "conversation": "c", "id": "1"}]
    assert bob.got() == []
    world.do(tab, Leave("c"))
    assert tab.got() == [{"type": "left", "conversation": "c"}]
    assert bob.got() == [{"type": "participant_left", "conversation": "c", "user": "ann"}]
    assert world.metrics.leaves[LeftReason.LEAVE].value == 1


NOT_JOINED: list[Command] = [Leave("c", "1"), Typing("c", True), Typing("c", False), Send("c", "b", "1"), Read("c", 1)]


@pytest.mark.parametrize("command", NOT_JOINED, ids=repr)
async def test_who_has_not_joined_is_refused_before_the_store_is_asked(world: World, command: Command) -> None:
    await world.joined("bob")
    ann = world.tab("ann")
    before = world.node.hub.stats()
    world.do(ann, command)
    (error,) = ann.got()
    assert (error["type"], error["code"]) == ("error", "not_joined")
    assert error.get("id") == getattr(command, "id", None)
    assert (world.store.sends, world.store.reads, world.store.asked) == ([], [], [])
    assert world.node.hub.stats() == before
    name = type(command).__name__.lower()
    assert world.rejected(name, ErrorCode.NOT_JOINED) == world.all_rejected() == 1
    assert world.durations(name) == 1


async def test_a_close_tells_the_others_and_counts_each_thing_once(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Typing("c", True))
    bob.got()
    world.node.close(ann, ClosedReason.HEARTBEAT)
    world.node.close(ann, CLIENT)
    assert [frame["type"] for frame in bob.got()] == ["typing", "participant_left"]
    assert world.metrics.connections_closed[ClosedReason.HEARTBEAT].value == 1
    assert world.metrics.connections_closed[CLIENT].value == 0
    assert world.metrics.leaves[LeftReason.DISCONNECT].value == 1
    assert world.metrics.typing_stopped[TypingStoppedReason.DISCONNECT].value == 1


# --- messages ---------------------------------------------------------------------------------------------


async def test_a_message_is_acknowledged_and_delivered_only_when_it_is_durable(world: World) -> None:
    ann, tab, bob = await world.joined("ann", "ann", "bob")
    world.do(ann, Send("c", "hello", "1"))
    assert (ann.got(), tab.got(), bob.got()) == ([], [], [])
    assert world.metrics.messages_accepted.value == 0
    world.clock.now += 0.25
    world.store.commit(seq=4)
    said = {"conversation": "c", "seq": 4, "id": "1", "sent_at": "2026-11-22T13:00:00Z"}
    assert ann.got() == [{"type": "ack", **said}]  # not delivered to the connection that sent it
    message = {"type": "message", **said, "sender": "ann", "body": "hello"}
    assert tab.got() == bob.got() == [message]
    assert world.metrics.messages_accepted.value == 1
    assert world.metrics.deliveries.value == 2
    assert world.metrics.fanout_recipients.sum == 2
    assert world.metrics.message_persist_duration.sum == pytest.approx(0.25)
    assert world.metrics.message_delivery_duration["local"].sum == pytest.approx(0.25)
    assert sum(world.metrics.message_delivery_duration["cluster"].counts) == 0


async def test_a_message_to_nobody_else_is_accepted_and_counts_no_delivery(world: World) -> None:
    (ann,) = await world.joined("ann")
    world.do(ann, Send("c", "hello", "1"))
    world.store.commit()
    assert [frame["type"] for frame in ann.got()] == ["ack"]
    assert (world.metrics.messages_accepted.value, world.metrics.deliveries.value) == (1, 0)
    assert sum(world.metrics.fanout_recipients.counts) == 1
    assert sum(world.metrics.message_delivery_duration["local"].counts) == 0


async def test_a_message_of_another_node_is_timed_as_one_that_came_over_the_cluster(world: World) -> None:
    await world.joined("bob")
    frame, sent = text_frame(b"{}"), world.clock.now - 0.2
    world.node._publisher.deliver(Envelope("c", frame, received=sent, seq=4, remote=True))
    world.fan_out.flush()
    durations = world.metrics.message_delivery_duration
    assert (sum(durations["cluster"].counts), sum(durations["local"].counts)) == (1, 0)
    assert durations["cluster"].sum == pytest.approx(0.2)


async def test_a_repetition_is_acknowledged_again_and_neither_counted_nor_delivered(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Typing("c", True))
    bob.got()
    world.do(ann, Send("c", "hello", "1"))
    world.store.commit(seq=4, duplicate=True)
    assert [(frame["type"], frame["seq"]) for frame in ann.got()] == [("ack", 4)]
    assert bob.got() == []
    assert (world.metrics.messages_accepted.value, world.metrics.deliveries.value) == (0, 0)
    assert sum(world.metrics.message_persist_duration.counts) == 0
    assert world.durations("send") == 1


@pytest.mark.parametrize("refusal", [Unavailable("down"), NotFound("gone"), BadFrame("no"), Refusal("defect")])
async def test_a_message_that_was_not_stored_is_refused_and_reaches_nobody(world: World, refusal: Refusal) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Typing("c", True))
    bob.got()
    world.do(ann, Send("c", "hello", "1"))
    world.store.refuse(refusal)
    (error,) = ann.got()
    assert (error["type"], error["code"], error["id"]) == ("error", refusal.code, "1")
    assert bob.got() == []
    assert world.metrics.messages_accepted.value == 0
    assert world.node.hub.stats().typing_users == 1  # still typing: nothing was sent
    assert (ann.sends_in_flight, ann.settlings) == (0, 1)


async def test_a_store_that_takes_no_more_refuses_at_once(world: World) -> None:
    (ann,) = await world.joined("ann")
    world.store.refusal = Unavailable("too much is queued")
    world.do(ann, Send("c", "hello", "1"))
    world.do(ann, Read("c", 1))
    assert [frame["code"] for frame in ann.got()] == ["unavailable", "unavailable"]
    assert ann.sends_in_flight == 0


async def test_a_defect_in_the_store_costs_the_command_and_tells_no_secret(world: World) -> None:
    (ann,) = await world.joined("ann")
    world.store.refusal = RuntimeError("password=hunter2")
    world.do(ann, Send("c", "hello", "1"))
    world.do(ann, Ping("2"))
    error, pong = ann.got()
    assert (error["code"], error["id"]) == ("internal", "1")
    assert "hunter2" not in str(error)
    assert pong == {"type": "pong", "id": "2"}
    assert world.rejected("send", ErrorCode.INTERNAL) == 1


async def test_a_message_of_a_sender_who_has_gone_meanwhile_is_delivered_all_the_same(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Send("c", "hello", "1"))
    world.node.close(ann, CLIENT)
    bob.got()
    world.store.commit()
    assert [frame["type"] for frame in bob.got()] == ["message"]
    assert world.metrics.messages_accepted.value == 1


async def test_who_joins_before_a_message_is_durable_gets_it_and_who_leaves_does_not(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Send("c", "hello", "1"))
    world.do(bob, Leave("c"))
    cyd = world.tab("cyd")
    await world.join(cyd)
    world.store.commit()
    assert "message" not in [frame["type"] for frame in bob.got()]
    assert [frame["type"] for frame in cyd.got()] == ["joined", "message"]


async def test_messages_arrive_in_the_order_in_which_they_were_acknowledged(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    for number in range(5):
        world.do(ann, Send("c", "b", str(number)))
    for number in (2, 0, 2, 0, 0):  # the store's order counts, not the order of sending
        world.store.commit(number)
    acknowledged = [frame["id"] for frame in ann.got()]
    assert acknowledged == ["2", "0", "4", "1", "3"]
    assert [frame["id"] for frame in bob.got()] == acknowledged


async def test_the_order_of_a_sender_holds_across_conversations_in_one_turn_too(world: World) -> None:
    ann, bob, cyd = await world.joined("ann", "bob", "cyd")
    for tab in (ann, bob):
        await world.join(tab, "d")
    await world.join(cyd, "e")
    for tab in (ann, bob, cyd):
        tab.got()
    for number, conversation in enumerate(["c", "d", "c", "c", "d", "d", "c"]):
        world.do(ann, Send(conversation, "b", str(number)))
        world.store.commit()
    acknowledged = [frame["id"] for frame in ann.got()]
    assert acknowledged == list("0123456")
    assert [frame["id"] for frame in bob.got()] == acknowledged
    assert [frame["id"] for frame in cyd.got()] == list("0236")


async def test_sends_in_flight_are_counted_and_the_last_answer_settles(world: World) -> None:
    (ann,) = await world.joined("ann")
    world.do(ann, Send("c", "b", "1"))
    world.do(ann, Send("c", "b", "2"))
    assert ann.sends_in_flight == 2
    world.store.commit()
    assert (ann.sends_in_flight, ann.settlings) == (1, 0)
    world.store.refuse(Unavailable("down"))
    assert (ann.sends_in_flight, ann.settlings) == (0, 1)


async def test_who_leaves_in_the_turn_of_a_message_gets_it_first_and_who_comes_does_not(world: World) -> None:
    """Frames are gathered for the end of the turn; they are for those who were there when they were made."""
    ann, bob, cyd = await world.joined("ann", "bob", "cyd")
    dan = world.tab("dan")
    task = world.do(dan, Join("c"))
    removal = asyncio.create_task(world.node.remove_participant("c", "ann", "cyd"))
    await turns()
    for number in range(2):
        world.do(ann, Send("c", "b", str(number)))
    world.store.commit()
    world.do(bob, Leave("c"))
    world.store.answer(MEMBER)
    assert task is not None
    await task
    world.store.answer(None)
    await removal
    world.store.commit()
    assert [frame["type"] for frame in bob.got()] == ["message", "left"]
    assert [frame["type"] for frame in cyd.got()] == ["message", "participant_left", "participant_joined", "left"]
    assert [frame["type"] for frame in dan.got()] == ["joined", "participant_left", "message"]


async def test_a_connection_that_ends_in_the_turn_of_a_message_has_it_in_its_queue(world: World) -> None:
    """So that it is written before the close frame, or counted as dropped."""
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Send("c", "b", "1"))
    world.store.commit()
    world.node.close(bob, CLIENT)
    (delivery,) = bob.discard_pending()
    assert count_beginning(delivery, protocol.MESSAGE_BEGINS) == 1
    assert bob.got() == []


# --- late recovery ----------------------------------------------------------------------------------------


async def test_a_send_whose_outcome_was_unknown_is_broadcast_and_counted_once_when_it_turns_out_durable(
    world: World,
) -> None:
    ann, tab, bob = await world.joined("ann", "ann", "bob")
    world.do(ann, Typing("c", True))
    bob.got()
    world.do(ann, Send("c", "hello", "1"))
    draft = world.store.refuse(Unavailable("unknown"))
    assert [frame["code"] for frame in ann.got()] == ["unavailable"]
    world.node.resolved(world.store.message(draft, 4))
    assert [frame["type"] for frame in tab.got()] == ["message"]
    assert [frame["type"] for frame in bob.got()] == ["typing", "message"]
    assert ann.got() == []  # the sending connection gets no message of its own
    world.do(ann, Send("c", "hello", "1"))  # the retry
    world.store.commit(seq=4, duplicate=True)
    assert [frame["type"] for frame in ann.got()] == ["ack"]
    assert (tab.got(), bob.got()) == ([], [])
    assert world.metrics.messages_accepted.value == 1
    assert world.metrics.deliveries.value == 2
    assert world.metrics.typing_stopped[TypingStoppedReason.MESSAGE].value == 1
    assert not world.node._refused_sends


async def test_a_recovered_message_has_no_delivery_time_because_nobody_waited_that_long(world: World) -> None:
    await world.joined("bob")
    world.node.resolved(Message("c", 4, "ann", "1", "late", SENT_AT))
    world.fan_out.flush()
    assert sum(world.metrics.message_delivery_duration["local"].counts) == 0
    assert sum(world.metrics.message_persist_duration.counts) == 0
    assert world.metrics.messages_accepted.value == 1


async def test_what_is_remembered_of_sends_in_doubt_has_an_end(world: World) -> None:
    (ann,) = await world.joined("ann")
    for number in range(REMEMBERED + 10):
        world.do(ann, Send("c", "b", str(number)))
        world.store.refuse(Unavailable("unknown"))
    assert len(world.node._refused_sends) == REMEMBERED
    assert next(iter(world.node._refused_sends)) == ("c", "ann", "10"), "the oldest are forgotten"


async def test_only_sends_in_doubt_are_remembered(world: World) -> None:
    (ann,) = await world.joined("ann")
    for refusal in (NotFound("gone"), Forbidden("no"), BadFrame("no")):
        world.do(ann, Send("c", "b", "1"))
        world.store.refuse(refusal)
    assert not world.node._refused_sends


# --- typing -----------------------------------------------------------------------------------------------


async def test_typing_is_told_to_other_users_only_and_only_when_it_changes(world: World) -> None:
    ann, tab, bob = await world.joined("ann", "ann", "bob")
    world.do(ann, Typing("c", True))
    world.do(ann, Typing("c", True))
    world.do(tab, Typing("c", True))
    assert bob.got() == [{"type": "typing", "conversation": "c", "user": "ann", "active": True}]
    world.do(tab, Typing("c", False))
    world.do(tab, Typing("c", False))
    assert bob.got() == [{"type": "typing", "conversation": "c", "user": "ann", "active": False}]
    assert (ann.got(), tab.got()) == ([], [])
    assert world.metrics.typing_started.value == 1
    assert world.metrics.typing_stopped[TypingStoppedReason.STOP].value == 1
    assert world.durations("typing") == 5


async def test_a_message_ends_the_typing_before_it_is_delivered(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Typing("c", True))
    world.do(ann, Send("c", "b", "1"))
    world.store.commit()
    assert [(frame["type"], frame.get("active")) for frame in bob.got()] == [
        ("typing", True),
        ("typing", False),
        ("message", None),
    ]


async def test_typing_times_out_by_itself_and_the_timer_goes_with_the_last(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.node.hub.typing_timeout = 0.0
    world.do(ann, Typing("c", True))
    assert world.node._typing_timer is not None
    async with asyncio.timeout(60):
        while world.node.hub.stats().typing_users:  # noqa: ASYNC110  # a real timer of the loop: polled
            await asyncio.sleep(0.001)
    assert [frame["active"] for frame in bob.got()] == [True, False]
    assert world.metrics.typing_stopped[TypingStoppedReason.TIMEOUT].value == 1
    assert world.node._typing_timer is None


async def test_the_timer_starts_again_after_it_has_run_out(world: World) -> None:
    (ann,) = await world.joined("ann")
    world.node.hub.typing_timeout = 0.0
    for count in (1, 2):
        world.do(ann, Typing("c", True))
        async with asyncio.timeout(60):
            while world.metrics.typing_stopped[TypingStoppedReason.TIMEOUT].value < count:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.001)


async def test_a_defect_in_what_follows_a_time_out_does_not_let_others_type_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(events: object) -> None:
        raise ZeroDivisionError

    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Typing("c", True))
    world.clock.now += 3.0
    world.do(bob, Typing("c", True))
    world.clock.now += 3.0
    before = world.node._typing_timer
    monkeypatch.setattr(world.node._publisher, "emit", defect)
    with pytest.raises(ZeroDivisionError):
        world.node._typing_due()
    assert list(world.node.hub.typing) == [("c", "bob")]
    assert world.node._typing_timer not in (None, before)


async def test_deadlines_come_in_order_also_for_a_command_that_waited_behind_a_join(world: World) -> None:
    """The hub's queue of timers is the order of insertion; a time of receipt from before would break it."""
    ann, bob = await world.joined("ann", "bob")
    received_early = world.clock.now
    world.clock.now += 4.0
    world.do(bob, Typing("c", True))
    world.node.handle(ann, Typing("c", True), received_early)
    deadlines = list(world.node.hub.typing.values())
    assert deadlines == sorted(deadlines) == [world.clock.now + 6.0] * 2


async def test_typing_that_was_read_together_is_observed_together_when_the_last_is_done(world: World) -> None:
    (ann,) = await world.joined("ann")
    received = world.clock.now
    for active in (True, False, True):
        world.node.handle(ann, Typing("c", active), received)
    assert world.durations("typing") == 0
    world.clock.now += 0.002
    world.node.handled(received)
    world.node.handled(received)
    assert world.durations("typing") == 3
    assert world.metrics.command_duration["typing"].sum == pytest.approx(0.006)


# --- read -------------------------------------------------------------------------------------------------


async def test_a_read_mark_that_moves_is_told_to_everybody_but_the_connection_that_read(world: World) -> None:
    ann, tab, bob = await world.joined("ann", "ann", "bob")
    world.do(ann, Read("c", 3))
    ((question, done),) = world.store.reads
    assert question == ("ann", "c", 3)
    assert bob.got() == []
    done(ReadMark(moved=True, sent_at=SENT_AT))
    assert tab.got() == bob.got() == [{"type": "read", "conversation": "c", "user": "ann", "seq": 3}]
    assert ann.got() == []
    assert world.metrics.read_receipts.value == 1
    assert world.metrics.read_lag.sum == pytest.approx(5.0)
    assert world.metrics.deliveries.value == 0


async def test_a_read_mark_that_does_not_move_is_neither_told_nor_counted(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Read("c", 1))
    world.store.reads[0][1](ReadMark(moved=False, sent_at=None))
    assert (ann.got(), bob.got()) == ([], [])
    assert world.metrics.read_receipts.value == 0
    assert world.durations("read") == 1


async def test_a_read_of_a_message_that_was_deleted_has_no_lag_and_one_of_the_future_has_none_below_0(
    world: World,
) -> None:
    (ann,) = await world.joined("ann")
    world.do(ann, Read("c", 1))
    world.store.reads.pop()[1](ReadMark(moved=True, sent_at=None))
    assert sum(world.metrics.read_lag.counts) == 0
    world.wall.now = SENT_AT.timestamp() - 100
    world.do(ann, Read("c", 2))
    world.store.reads.pop()[1](ReadMark(moved=True, sent_at=SENT_AT))
    assert (sum(world.metrics.read_lag.counts), world.metrics.read_lag.sum) == (1, 0.0)
    assert world.metrics.read_receipts.value == 2


@pytest.mark.parametrize("refusal", [NotFound("no such message"), Unavailable("down")])
async def test_a_read_that_is_refused_says_so_and_is_told_to_nobody(world: World, refusal: Refusal) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Read("c", 1))
    world.store.reads[0][1](refusal)
    assert [frame["code"] for frame in ann.got()] == [refusal.code]
    assert bob.got() == []


async def test_an_answer_that_comes_when_everybody_has_gone_goes_nowhere_and_breaks_nothing(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    world.do(ann, Send("c", "b", "1"))
    world.do(ann, Read("c", 1))
    for tab in (ann, bob):
        tab.discard_pending()
        world.node.close(tab, CLIENT)
    world.store.commit()
    world.store.reads[0][1](ReadMark(moved=True, sent_at=SENT_AT))
    assert world.metrics.messages_accepted.value == 1
    assert world.metrics.deliveries.value == 0
    assert world.node.hub.stats() == World().node.hub.stats()


# --- what HTTP asks ---------------------------------------------------------------------------------------


async def test_a_removed_users_connections_leave_at_once_and_are_told_why(world: World) -> None:
    ann, tab, bob = await world.joined("ann", "ann", "bob")
    removal = asyncio.create_task(world.node.remove_participant("c", "bob", "ann"))
    await turns()
    assert world.node.hub.stats().participants == 2  # not before it is durable
    world.store.answer(None)
    await removal
    assert ann.got() == tab.got() == [{"type": "left", "conversation": "c", "reason": "removed"}]
    assert bob.got() == [{"type": "participant_left", "conversation": "c", "user": "ann"}]
    assert world.metrics.leaves[LeftReason.REMOVED].value == 1
    world.do(ann, Send("c", "b", "1"))
    assert [frame["code"] for frame in ann.got()] == ["not_joined"]


@pytest.mark.parametrize("refusal", [Forbidden("not a member"), Unavailable("down")])
async def test_a_removal_that_is_refused_puts_nobody_out(world: World, refusal: Refusal) -> None:
    (ann,) = await world.joined("ann")
    removal = asyncio.create_task(world.node.remove_participant("c", "eve", "ann"))
    await turns()
    world.store.answer(refusal)
    with pytest.raises(type(refusal)):
        await removal
    assert ann.got() == []
    assert world.node.hub.stats().participants == 1


async def test_who_is_no_member_any_more_is_put_out_also_when_the_first_answer_was_lost(world: World) -> None:
    (ann,) = await world.joined("ann")
    removal = asyncio.create_task(world.node.remove_participant("c", "bob", "ann"))
    await turns()
    world.store.answer(NotFound("no such member"))
    with pytest.raises(NotFound):
        await removal
    assert [frame["type"] for frame in ann.got()] == ["left"]


async def test_a_client_that_hangs_up_during_a_removal_does_not_stop_its_consequences(world: World) -> None:
    (ann,) = await world.joined("ann")
    removal = asyncio.create_task(world.node.remove_participant("c", "bob", "ann"))
    await turns()
    removal.cancel()
    await asyncio.gather(removal, return_exceptions=True)
    world.store.answer(None)
    await turns()
    assert [frame["type"] for frame in ann.got()] == ["left"]
    assert world.node.hub.stats().participants == 0


async def test_a_deleted_message_is_told_to_all_who_joined_once_it_is_gone(world: World) -> None:
    ann, bob = await world.joined("ann", "bob")
    deletion = asyncio.create_task(world.node.delete_message("c", 3, "ann", admin=False))
    await turns()
    assert bob.got() == []
    deletion.cancel()  # the client hangs up; the message goes all the same, and everybody hears of it
    await asyncio.gather(deletion, return_exceptions=True)
    world.store.answer(None)
    await turns()
    assert ann.got() == bob.got() == [{"type": "deleted", "conversation": "c", "seq": 3}]


async def test_a_deletion_that_is_refused_is_told_to_nobody(world: World) -> None:
    (ann,) = await world.joined("ann")
    deletion = asyncio.create_task(world.node.delete_message("c", 3, "eve", admin=False))
    await turns()
    world.store.answer(Forbidden("only the sender"))
    with pytest.raises(Forbidden):
        await deletion
    assert ann.got() == []


async def test_making_and_filling_a_conversation_is_the_stores_business(world: World) -> None:
    made = Conversation("c", 0, 0, ("ann",))
    for work in (world.node.create_conversation("c", "ann", []), world.node.add_participants("c", "ann", ["bob"])):
        task = asyncio.create_task(work)
        await turns()
        world.store.answer(made)
        assert await task == made


# --- the rest ---------------------------------------------------------------------------------------------


async def test_a_ping_is_answered_with_its_id_if_it_has_one(world: World) -> None:
    ann = world.tab("ann")
    world.do(ann, Ping())
    world.do(ann, Ping("1"))
    assert ann.got() == [{"type": "pong"}, {"type": "pong", "id": "1"}]
    assert world.durations("ping") == 2


async def test_alone_the_clusters_figures_are_the_nodes_own(world: World) -> None:
    await world.joined("ann", "ann", "bob")
    cluster, live = world.node.cluster(), world.node.hub.stats()
    assert cluster is not None
    assert (cluster.nodes, cluster.as_of) == (1, world.wall.now)
    assert (cluster.connections, cluster.users) == (live.active_connections, live.connected_users) == (3, 2)
    assert (cluster.conversations, cluster.participants, cluster.typing_users) == (1, 2, 0)
    assert world.node.broker.alone
    assert world.node.broker.up


async def test_closing_waits_for_the_joins_under_way(world: World) -> None:
    ann = world.tab("ann")
    world.do(ann, Join("c"))
    await turns()
    closing = asyncio.create_task(world.node.close_all())
    await turns()
    assert not closing.done()
    world.store.answer(MEMBER)
    await closing
    assert [frame["type"] for frame in ann.got()] == ["joined"]


async def test_closing_waits_for_a_removal_whose_client_has_hung_up(world: World) -> None:
    (ann,) = await world.joined("ann")
    removal = asyncio.create_task(world.node.remove_participant("c", "bob", "ann"))
    await turns()
    removal.cancel()
    closing = asyncio.create_task(world.node.close_all())
    await turns()
    assert not closing.done()
    world.store.answer(None)
    await closing
    assert [frame["type"] for frame in ann.got()] == ["left"]


async def test_a_connection_at_its_most_conversations_is_refused_another(world: World) -> None:
    (ann,) = await world.joined("ann")
    world.node.hub.max_joined = 1
    await world.join(ann, "d")
    (error,) = ann.got()
    assert error["code"] == "forbidden"
    assert re.search(r"\b1\b", error["message"])
    assert not world.node._join_consistency


async def test_a_connection_that_leaves_hundreds_of_conversations_is_counted_at_once_and_told_of_in_slices() -> None:
    world = World()
    soon: list[Callable[[], None]] = []
    world.fan_out._call_soon = soon.append
    ann, bob, cid = world.tab("ann"), world.tab("bob"), world.tab("cid")
    rooms = [f"room {number}" for number in range(3 * SLICE)]
    for room in rooms:
        for tab in (ann, bob):
            world.node._publisher.emit(world.node.hub.join(tab, room))
    world.node._publisher.emit(world.node.hub.join(cid, rooms[0]))
    bob.got()
    soon.clear()
    world.node.close(ann, CLIENT)
    assert world.node.hub.stats().participants == len(rooms) + 1
    assert sum(cell.value for cell in world.metrics.leaves.cells.values()) == len(rooms)
    assert bob.got() == []
    # What happens in a conversation meanwhile is told after it, also to those who come.
    world.do(cid, Send(rooms[0], "b", "1"))
    world.store.commit()
    assert [frame["type"] for frame in bob.got()] == ["participant_left", "message"]
    world.node._publisher.tell(rooms[1], "eve", text_frame(b'{"type":"told"}'))
    assert [frame["type"] for frame in bob.got()] == ["participant_left", "told"]
    cid.got()
    world.node._publisher.emit(world.node.hub.join(cid, rooms[-1]))
    assert [(frame["type"], frame["user"]) for frame in bob.got()] == [
        ("participant_left", "ann"),
        ("participant_joined", "cid"),
    ]
    assert cid.got() == []
    turns = 0
    told: list[str] = []
    while soon:
        call = soon.pop(0)
        call()
        got = bob.got()
        turns += bool(got)
        assert len(got) <= SLICE
        told += [frame["conversation"] for frame in got if frame["type"] == "participant_left"]
    assert told == rooms[2:-1]
    assert turns >= 3


async def test_whoever_comes_to_an_emptied_conversation_is_not_told_of_who_had_left_before() -> None:
    world = World()
    world.fan_out._call_soon = lambda call: None  # the turns in which the slices are told do not come
    ann, bob, cid = world.tab("ann"), world.tab("bob"), world.tab("cid")
    rooms = [f"room {number}" for number in range(2 * SLICE)]
    for tab in (ann, bob):
        for room in rooms:
            world.node._publisher.emit(world.node.hub.join(tab, room))
    for tab in (ann, bob):
        world.node.close(tab, CLIENT)
    world.node._publisher.emit(world.node.hub.join(cid, rooms[-1]))
    world.node._publisher._tell_some()
    while world.node._publisher._untold:
        world.node._publisher._tell_some()
    assert cid.got() == []


async def test_all_that_ends_with_a_connection_is_told_in_its_order_however_much_it_is() -> None:
    world = World()
    soon: list[Callable[[], None]] = []
    world.fan_out._call_soon = soon.append
    ann, bob = world.tab("ann"), world.tab("bob")
    rooms = [f"room {number}" for number in range(2 * SLICE)]
    for room in rooms:
        for tab in (ann, bob):
            world.node._publisher.emit(world.node.hub.join(tab, room))
        world.do(ann, Typing(room, True))
    bob.got()
    soon.clear()
    world.node.close(ann, CLIENT)
    told: dict[str, list[str]] = {}
    while soon:
        soon.pop(0)()
        for frame in bob.got():
            told.setdefault(frame["conversation"], []).append(frame["type"])
    assert told == {room: ["typing", "participant_left"] for room in rooms}
