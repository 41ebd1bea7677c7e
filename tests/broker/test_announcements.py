"""What people are told of others comes right again, whatever was lost or came late."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from exporter.broker import announcements, frames
from exporter.broker.connection import Connection
from exporter.broker.envelope import Envelope
from exporter.broker.frames import Kind
from exporter.broker.functions import SLICE
from exporter.broker.held_conversation import HeldConversation
from exporter.broker.outgoing import LOOKED_AT
from exporter.core.events import ClosedReason, HubEvent
from tests.broker.nodes import Node, counts, nodes
from tests.servers.cut import CutProxy
from tests.servers.exporter import until
from tests.servers.valkey import Server


def types(node: Node, connection: str, active: bool) -> None:
    for event in node.hub.set_typing(connection, "room", active, 0.0):
        node.broker.events.on_event[type(event)](event)


async def both_there(first: Node, last: Node) -> None:
    """ann takes part on the first node, bob on the last, where both are known."""
    last.join("b", "bob", "room")
    await last.hears(b"J bob")
    first.join("a", "ann", "room")
    await last.hears(b"J ann")


def typing(node: Node) -> list[bytes]:
    """What people there have been told of ann's."""
    return [word for word in node.ear.heard if word in (b"T ann", b"U ann")]


def late(server: Server, node: Node, *told: tuple[str, bool], kind: Kind = Kind.TYPING) -> None:
    """What a connection that has broken had sent, and a proxy delivers now: these type, or no longer."""
    channel = node.broker._functions.channel("room").encode()
    typing = [(kind, f"{'T' if active else 'U'} {user}\n".encode(), active, user, None) for user, active in told]
    if kind is Kind.TYPING_RUN:
        packed = list(frames.typing_runs(typing))
    else:
        packed = [frames.pack(kind, data, active, user) for kind, data, active, user, _ in typing]
    payload = frames.head(b"another1", 0) + b"".join(packed)
    with server.client() as client:
        client.execute_command("SPUBLISH", channel, payload)


async def test_what_is_let_go_of_while_a_new_connection_subscribes_leaves_nothing_behind_it_unheard(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "CHUNK", 2)
    monkeypatch.setattr(announcements, "LANES", 1)
    async with nodes(server.url) as (first, last):
        for number in range(6):
            first.join(f"a{number}", f"user{number}", f"room{number}")
        last.join("b", "bob", "room5")
        await first.hears(b"J bob")
        subscribe = first.broker._announcements.subscribe

        def leaving(connection: Connection, done: Callable[[], None]) -> None:
            subscribe(connection, done)  # the first two rooms; in the next two nobody is any more
            for event in (*first.hub.leave("a2", "room2"), *first.hub.leave("a3", "room3")):
                first.broker.events.on_event[type(event)](event)

        monkeypatch.setattr(first.broker._announcements, "subscribe", leaving)
        connection = first.broker._reconnecting.connection
        assert connection is not None
        connection.abort("for this test")
        await first.up()
        await counts(last, conversations=4, participants=5)
        last.broker.publish(Envelope("room5", b"hello", seq=1, sender="bob"))
        await first.hears(b"hello")


async def test_conversations_are_gone_through_in_lanes_and_the_end_is_told_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "CHUNK", 1)
    async with nodes(server.url, 1) as (node,):
        for number in range(2 * announcements.LANES + 3):
            node.join(f"a{number}", "ann", f"room{number}")
        line, done = Mock(open=True), Mock()
        node.broker._announcements.subscribe(line, done)
        lanes, asked = [], line.queue.call_args_list
        while asked:
            assert not done.called
            line.queue.call_args_list = []
            lanes.append(sum(b"SSUBSCRIBE" in call.args[0] for call in asked))
            for call in asked:
                if b"PING" in call.args[0]:
                    call.args[2](b"PONG")
            asked = line.queue.call_args_list
        assert (lanes, done.call_count) == ([announcements.LANES, announcements.LANES, 3], 1)


@pytest.mark.parametrize(
    ("known", "found", "expected"),
    [
        (1, 1, [8, 16, 8]),
        (25, 25, [8] * 4),
        (1, 50, [8] + [4] * 6),
        (1, 1000, [8] + [2] * 12),
        (1000, 1000, [2] * 16),
    ],
)
async def test_as_many_conversations_are_asked_for_at_once_as_their_people_allow(
    known: int, found: int, expected: list[int], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server cuts off whoever has it keep too many answers, each time anew."""
    for name, value in (("CHUNK", 8), ("LANES", 2), ("NAMES", 100)):
        monkeypatch.setattr(announcements, name, value)
    users = [f"user{number}" for number in range(max(known, found))]
    async with nodes(server.url, 1) as (node,):
        for number in range(32):
            node.join(f"a{number}", users[0], f"room{number}")
            for user in users[1:known]:
                node.broker._held[f"room{number}"].tell(user)
        line, sizes = Mock(open=True), []
        node.broker._announcements.subscribe(line, lambda: None)
        while asked := line.queue.call_args_list:
            line.queue.call_args_list = []
            sizes.append(sum(b"SMEMBERS" in call.args[0] and b":m:" in call.args[0] for call in asked))
            for call in asked:
                data, _, told = call.args
                if b"PING" in data:
                    told(b"PONG")
                elif b":m:" in data:
                    told([user.encode() for user in users[:found]])
        assert sizes == expected


async def test_a_start_that_came_and_an_end_that_was_lost_are_set_right(server: Server) -> None:
    async with CutProxy(server.port) as proxy, nodes(server.url, 1, lease=1.0) as (last,):
        cluster = last.broker._functions.root[11:-1]
        first = Node(f"redis://127.0.0.1:{proxy.port}", cluster, lease=1.0)
        await first.broker.start(5.0)
        await first.up()
        await counts(last, nodes=2, settling=0)  # else all is compared by itself soon
        try:
            first.join("a", "ann", "room")
            await first.hears(b"J ann")
            last.join("b", "bob", "room")
            await first.hears(b"J bob")
            late(server, last, ("ann", True))
            await last.hears(b"T ann")
            proxy.cut()
            types(first, "a", True)
            types(first, "a", False)

            async def sent() -> bool:
                return bool(first.broker._outbox._unanswered)

            await until(sent, "sent into the void")
            proxy.drop()
            proxy.mend()
            await last.hears(b"U ann")
            assert last.ear.heard.count(b"T ann") == 1
        finally:
            await first.broker.close()


async def test_nobody_elsewhere_denies_what_is_so_here(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        types(node, "a", True)
        await node.hears(b"T ann")
        for word in ("U", "L"):
            assert node.broker._announcements.heard(node.broker._held["room"], word, "ann")
        assert node.ear.heard == [b"J ann", b"T ann"]


async def test_whoever_has_left_and_comes_back_may_type_again(server: Server) -> None:
    async with nodes(server.url, lease=1.0) as (first, last):
        await both_there(first, last)
        late(server, last, ("ann", True))  # the node that sent it died before it could tell the server
        await last.hears(b"T ann")
        for event in first.hub.leave("a", "room"):
            first.broker.events.on_event[type(event)](event)
        await last.hears(b"L ann")
        last.ear.heard.clear()
        first.join("a2", "ann", "room")
        await last.hears(b"J ann")
        types(first, "a2", True)
        await last.hears(b"T ann")


async def test_what_changes_while_the_server_does_not_know_a_node_is_told(server: Server) -> None:
    async with nodes(server.url, lease=1.0) as (first, last):
        await counts(last, nodes=2, settling=0)  # else all is compared by itself soon
        last.join("b", "bob", "room")
        await last.hears(b"J bob")
        first.join("a", "ann", "room")
        first.join("c", "cat", "room")
        await last.hears(b"J cat")
        await counts(last, participants=3)
        name = first.broker._functions._names["retire"]
        with server.client() as client:  # as when its lease was over: buried, and nothing of it is left
            client.execute_command(
                "FCALL", name, 1, first.broker._functions.root, first.broker._presence.incarnation, 300
            )
        connection = first.broker._reconnecting.connection
        assert connection is not None
        await connection.call("PING")  # what the server said of it has come: of whom is here, nobody else knows better
        for event in first.hub.leave("a", "room"):  # before a beat tells the node
            first.broker.events.on_event[type(event)](event)
        await first.hears(b"L ann")
        await counts(last, participants=2, nodes=2)
        assert first.ear.heard.count(b"L ann") == 1


async def test_an_empty_server_makes_nobody_leave_who_is_still_here(server: Server) -> None:
    async with nodes(server.url, lease=1.0) as (first, last):
        await both_there(first, last)
        for node in (first, last):
            await counts(node, participants=2, settling=0)
        with server.client() as client:
            client.flushall()
        for node in (first, last):  # what a node asks first, an empty server answers: nobody takes part
            connection = node.broker._reconnecting.connection
            assert connection is not None
            connection.abort("as when the server was started again")
        for node in (first, last):
            await counts(node, nodes=2, participants=2, settling=0)
        for node in (first, last):
            assert sorted(node.ear.heard) in ([b"J ann"], [b"J ann", b"J bob"])


@pytest.mark.parametrize("news", [Kind.TYPING, Kind.TYPING_RUN, Kind.TYPISTS])
async def test_what_comes_of_the_typing_of_a_user_who_is_here_only_is_settled_by_this_node(
    server: Server, news: Kind
) -> None:
    async with nodes(server.url, lease=1.0) as (first, last):
        await counts(last, nodes=2, settling=0)  # else all is compared by itself soon
        last.join("b", "bob", "room")
        await last.hears(b"J bob")
        late(server, last, ("ann", True))
        await last.hears(b"T ann")
        last.join("a2", "ann", "room")  # her other tab has gone meanwhile, and the end of her typing comes after that
        await last.hears(b"J ann")
        late(server, last, ("ann", False), kind=news)
        await last.hears(b"U ann")
        late(server, last, ("ann", True))  # she takes part here only, and does not type
        late(server, last, ("bob", True))
        types(last, "a2", True)
        late(server, last, ("ann", False))
        await counts(first, typing_users=1)
        types(last, "a2", False)
        await counts(first, typing_users=0)
        assert [word for word in last.ear.heard if word[:1] in b"TU"] == [b"T ann", b"U ann"] * 2


async def test_a_stop_waits_behind_a_start_that_waits(server: Server) -> None:
    async with nodes(server.url, lease=1.0) as (first, last):
        first.join("a", "ann", "room")
        await first.hears(b"J ann")
        last.join("b", "bob", "room")
        await first.hears(b"J bob")
        presence, entry = first.broker._presence, "troom\nann"
        connection = first.broker._reconnecting.connection
        assert connection is not None
        presence.add(entry)  # as long as another node has a tab of theirs
        presence.toggle(entry, False)  # and then no longer
        presence.flush(connection)
        connection.flush()
        await last.hears(b"U ann")
        await counts(last, typing_users=0, participants=2)
        presence.remove(entry)
        presence.toggle(entry, True)
        presence.toggle(entry, False)
        presence.toggle(entry, True)
        presence.flush(connection)
        connection.flush()
        await counts(last, typing_users=1)


async def test_a_start_that_waits_leaves_before_the_server_says_the_end(server: Server) -> None:
    async with nodes(server.url, lease=1.0) as (first, last):
        await counts(last, nodes=2, settling=0)
        await both_there(first, last)
        held = first.broker._held["room"]
        types(first, "a", True)  # a frame waits for the end of the turn
        first.broker._announcements.heard_from_afar(
            held, "S", "ann"
        )  # in this turn a second tab on another node is heard of
        types(first, "a", False)
        await last.hears(b"U ann")
        await counts(last, typing_users=0)
        assert [word for word in last.ear.heard if word[:1] in b"TU"] == [b"T ann", b"U ann"]


async def test_who_joins_is_announced_before_what_they_do_while_other_changes_have_no_answer(server: Server) -> None:
    async with nodes(server.url) as (first, last):
        await both_there(first, last)
        await counts(first, participants=2)
        users = ("cat", "dan", "eve")
        for user in users:  # in one turn of the loop, so no answer is read meanwhile
            for event in (*first.hub.open(user, user), *first.hub.join(user, "room")):
                first.broker.events.on_event[type(event)](event)
            types(first, user, True)
            first.broker._flush()
        assert len(first.broker._presence._unanswered) == len(users)
        await last.hears(b"T eve")
        assert last.ear.heard[-6:] == [word for user in users for word in (f"J {user}".encode(), f"T {user}".encode())]


@pytest.mark.parametrize("small", [0, 4])
async def test_who_joins_behind_many_is_announced_before_what_they_do(server: Server, small: int) -> None:
    """Behind a full batch, and behind some that are small and have no answer yet."""
    async with nodes(server.url) as (first, last):
        await both_there(first, last)
        await counts(first, participants=2)
        broker = first.broker
        for number in range(small):
            for event in first.hub.open(f"s{number}", f"s{number}"):
                broker.events.on_event[type(event)](event)
            broker.publish(Envelope("room", b"M ann"))
            broker._flush()
        for number in range(SLICE):
            for event in first.hub.open(f"c{number}", f"v{number}"):
                broker.events.on_event[type(event)](event)
        for event in (*first.hub.open("c", "cat"), *first.hub.join("c", "room")):
            broker.events.on_event[type(event)](event)
        types(first, "c", True)
        broker.publish(Envelope("room", b"M cat"))
        await last.hears(b"M cat")
        assert [word for word in last.ear.heard if b"cat" in word] == [b"J cat", b"T cat", b"M cat"]


async def test_nothing_is_published_before_people_here_are_written_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(server.url) as (first, last):
        await both_there(first, last)
        broker, connection = first.broker, first.broker._reconnecting.connection
        assert connection is not None
        assert connection._transport is not None
        written, at_end = list[bytes](), list[Callable[[], object]]()
        transport = connection._transport
        write = Mock(wraps=transport, write=lambda data: (written.append(data), transport.write(data)))
        monkeypatch.setattr(connection, "_transport", write)
        monkeypatch.setattr(broker, "_at_end_of_turn", at_end.append)  # behind what people here are written
        held = broker._held["room"]
        for event in (*first.hub.open("c", "cat"), *first.hub.join("c", "room")):
            broker.events.on_event[type(event)](event)
        broker.publish(Envelope("room", b"M cat", seq=1, sender="cat"))
        for event in first.hub.close("c", ClosedReason.CLIENT):
            broker.events.on_event[type(event)](event)
        types(first, "a", True)
        broker._announcements.heard_from_afar(held, "S", "ann")  # of a second tab on another node, in the same turn
        broker._announcements.ask_typists(held)
        assert written == []
        assert len(at_end) == 1
        at_end.pop()()
        assert written
        await last.hears(b"T ann")
        assert [word for word in last.ear.heard if b"cat" in word] == [b"J cat", b"M cat", b"L cat"]


@pytest.mark.parametrize("seed", range(10))
async def test_what_somebody_does_is_heard_between_their_join_and_their_leaving(server: Server, seed: int) -> None:
    """Whatever comes in one turn of the loop, and whatever has no answer yet."""
    chance = random.Random(seed)
    async with nodes(server.url) as (first, last):
        await both_there(first, last)
        users, seq = ["cat", "dan", "eve"], 0

        def happens(events: Sequence[HubEvent]) -> None:
            for event in events:
                first.broker.events.on_event[type(event)](event)

        for _ in range(150):
            user = chance.choice(users)
            match chance.choice(("join", "leave", "type", "type", "say", "turn", "turn", "answers")):
                case "join" if ("room", user) not in first.hub.participants:
                    happens([*first.hub.open(user, user), *first.hub.join(user, "room")])
                case "turn":
                    first.broker._flush()
                case "answers":
                    await asyncio.sleep(0)
                case _ if ("room", user) not in first.hub.participants:
                    pass
                case "leave":
                    happens(first.hub.close(user, ClosedReason.CLIENT))
                case "type":
                    types(first, user, ("room", user) not in first.hub.typing)
                case "say":
                    seq += 1
                    first.broker.publish(Envelope("room", f"M {user}".encode(), seq=seq, sender=user))
        for user in users:
            happens(first.hub.close(user, ClosedReason.CLIENT))
        first.broker._schedule()
        first.broker.publish(Envelope("room", b"end"))
        await last.hears(b"end")
        await counts(last, participants=2)
        for user in users:
            heard = "".join(word.decode()[0] for word in last.ear.heard if word.decode()[2:] == user)
            assert re.fullmatch("(J(M|T|U)*L)*", heard), heard
            assert re.fullmatch("(TU)*", re.sub("[^TU]", "", heard)), heard


async def test_many_who_leave_while_they_type_are_told_together(server: Server) -> None:
    async with nodes(server.url) as (first, last):
        await both_there(first, last)
        broker, users = first.broker, [f"user{number}" for number in range(3 * LOOKED_AT)]

        def in_one_turn(change: Callable[[str], None]) -> int:
            """How many batches that makes."""
            before = broker._presence._seq
            for user in users:
                change(user)
            broker._flush()
            return broker._presence._seq - before

        def come(user: str) -> None:
            for event in (*first.hub.open(user, user), *first.hub.join(user, "room")):
                broker.events.on_event[type(event)](event)

        def go(user: str) -> None:
            for event in first.hub.close(user, ClosedReason.CLIENT):
                broker.events.on_event[type(event)](event)

        in_one_turn(come)
        in_one_turn(lambda user: types(first, user, True))
        assert in_one_turn(go) <= len(users) / LOOKED_AT + 1, "not one for each"
        broker.publish(Envelope("room", b"end"))
        await last.hears(b"end")
        for user in users:
            assert [word[:1] for word in last.ear.heard if word[2:].decode() == user] == [b"J", b"T", b"U", b"L"]


async def test_what_frames_have_said_of_typing_is_not_denied_before_the_server_knows_it(server: Server) -> None:
    async with nodes(server.url, lease=1.0) as (first, last):
        await counts(last, nodes=2, settling=0)  # else all is compared by itself soon
        await both_there(first, last)
        held = last.broker._held["room"]
        for active, word in ((True, b"T ann"), (False, b"U ann")):
            types(first, "a", active)
            await last.hears(word)
            last.broker._announcements.ask_typists(held)
            assert last.broker._reconnecting.connection is not None
            await last.broker._reconnecting.connection.call("PING")
            await counts(last, typing_users=int(active))

            async def asked_again(known: HeldConversation[str] = held) -> bool:
                return not known.asking

            await until(asked_again, "asked again")
        assert typing(last) == [b"T ann", b"U ann"]


async def test_typing_that_comes_and_goes_quickly_costs_no_call_of_a_function(server: Server) -> None:
    async with nodes(server.url) as (first, last):
        await both_there(first, last)
        await counts(last, participants=2)
        before = first.broker._presence._seq
        for _ in range(3):
            types(first, "a", True)
            types(first, "a", False)
        types(first, "a", True)
        await last.hears(b"T ann")
        await counts(last, typing_users=1)
        assert first.broker._presence._seq == before + 1
        assert typing(last) == [b"T ann", b"U ann"] * 3 + [b"T ann"]


async def test_typing_that_has_left_here_is_published_at_once_but_behind_what_the_server_is_to_know(
    server: Server,
) -> None:
    async with nodes(server.url) as (first, last):
        await both_there(first, last)
        await counts(first, participants=2)
        broker, sent, received = first.broker, first.metrics.broker_frames_sent, last.metrics.broker_frames_received
        before = sent.value  # that it is there
        types(first, "a", True)
        assert (sent.value - before, broker._scheduled, broker._outbox.waiting) == (0, True, True)
        await last.hears(b"T ann")
        heard = received.value
        await counts(last, typing_users=1)
        broker._outbox._measured_at = float("-inf")
        observed = sum(first.metrics.broker_lag.counts)
        first.ear.leaves_at_once = True
        types(first, "a", False)
        assert (sent.value - before, broker._scheduled, broker._outbox.waiting) == (2, False, False)
        assert broker._reconnecting.connection is not None
        assert broker._reconnecting.connection._echo, "what comes back will be known"
        assert broker._outbox._unanswered, "what is lost will be known"
        assert broker.events._toggles is not None, "the server will know"
        await last.hears(b"U ann")
        await counts(last, typing_users=0)

        async def is_over() -> bool:
            return not broker._outbox._unanswered and sum(first.metrics.broker_lag.counts) == observed + 1

        await until(is_over, "answered and measured")
        assert received.value == heard + 1
        for event in first.hub.open("c", "cat"):
            broker.events.on_event[type(event)](event)
        types(first, "a", True)
        assert (sent.value - before, broker._scheduled) == (2, True)

        async def is_sent() -> bool:
            return sent.value - before == 3

        await until(is_sent, "sent")
        broker._presence.toggle("troom\nzoe", True)
        broker._presence.toggles_are_due()
        types(first, "a", False)
        assert (sent.value - before, broker._scheduled) == (3, True)
        await counts(last, users=3)


async def test_of_each_who_types_at_the_same_time_it_is_known_that_frames_said_it_lately(server: Server) -> None:
    async with nodes(server.url) as (first, last):
        last.join("b", "bob", "room")
        await last.hears(b"J bob")
        for user in ("ann", "cat"):
            first.join(user, user, "room")
            await last.hears(b"J " + user.encode())
        for user in ("ann", "cat"):
            types(first, user, True)
            await last.hears(b"T " + user.encode())
        assert {"ann", "cat"} <= last.broker._held["room"].heard_lately(last.broker._loop.time())


async def test_typing_of_many_in_one_turn_is_told_in_one_piece_and_one_by_one_where_some_is_known(
    server: Server,
) -> None:
    async with nodes(server.url, lease=1.0) as (_, last):
        await counts(last, nodes=2, settling=0)  # else all is compared by itself soon
        last.join("b", "bob", "room")
        await last.hears(b"J bob")
        pieces: list[bytes] = []
        tell, received = last.ear.tell, last.metrics.broker_frames_received
        last.ear.tell = lambda room, user, frame: (pieces.append(frame), tell(room, user, frame))[1]
        before = received.value  # that the other node is there
        late(server, last, ("ann", True), ("cat", True), ("ann", False), ("ann", True), kind=Kind.TYPING_RUN)
        await last.hears(b"T cat")
        assert pieces == [b"T ann\nT cat\nU ann\nT ann\n"]
        late(server, last, ("cat", True), ("ann", False), ("dan", True), kind=Kind.TYPING_RUN)  # of cat it is known
        await last.hears(b"T dan")
        assert pieces[1:] == [b"U ann\n", b"T dan\n"]
        late(server, last, ("dan", False), ("bob", True), kind=Kind.TYPING_RUN)  # bob is here, and does not type
        await last.hears(b"U dan")
        assert pieces[3:] == [b"U dan\n"]
        assert received.value - before == 4 + 3 + 2


async def test_an_answer_for_what_was_let_go_of_is_not_held_against_what_is_held_now(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        before: HeldConversation[str] = HeldConversation("room", b"channel")
        node.broker._announcements._compared(before, "JL", before.told, [b"bob"])
        assert b"J bob" not in node.ear.heard
        held = node.broker._held["room"]
        node.broker._announcements._compared(held, "JL", held.told, [b"ann", b"bob"])
        assert b"J bob" in node.ear.heard


@pytest.mark.parametrize("missing", ["unsettled", "syncing", None])
async def test_nobody_is_said_to_have_left_while_some_have_not_told_what_they_hold(
    missing: str | None, server: Server
) -> None:
    async with nodes(server.url, 1, lease=1.0) as (node,):
        node.join("a", "ann", "room")
        await counts(node, participants=1, settling=0)
        held = node.broker._held["room"]
        held.tell("bob")
        figures = node.broker._figures
        assert figures is not None
        node.broker._figures = figures if missing is None else replace(figures, **{missing: 1})
        node.broker._announcements._compared(held, "JL", held.told, [b"ann"])
        assert (b"L bob" in node.ear.heard) is (missing is None)
        node.broker._figures = figures


async def test_typing_that_waits_for_nothing_else_is_told_the_server_before_its_next_beat(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await counts(node, participants=1, settling=0)
        node.broker._flush()
        types(node, "a", True)
        node.broker._scheduled = False  # the frame has left
        node.broker.events._toggles_are_due()
        assert node.broker._scheduled


async def test_who_is_here_only_again_types_as_this_node_knows(server: Server) -> None:
    """What another node said of it last may still be on its way, and is passed over then."""
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        held = node.broker._held["room"]
        for word in ("S", "T", "O"):
            node.broker._announcements.heard_from_afar(held, word, "ann")
        assert node.ear.heard == [b"J ann", b"T ann", b"U ann"]


async def test_who_types_on_another_node_is_said_to_when_it_is_known_that_they_are_there(server: Server) -> None:
    """What came of it before that has been passed over."""
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await counts(node, participants=1, settling=0)

        async def compared() -> bool:
            return node.broker._announcements._timer is None

        await until(compared, "no comparison makes it good")
        with server.client() as client:
            client.sadd(f"{node.broker._functions.root}:y:room", "ann")
        node.broker._announcements.heard_from_afar(node.broker._held["room"], "S", "ann")
        await node.hears(b"T ann")
