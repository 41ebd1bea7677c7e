"""Who answers for a user, and what is said of those who do not: older releases, a broker that vanishes or is new."""

from __future__ import annotations

import asyncio
from unittest.mock import MagicMock

from exporter.broker import frames
from exporter.broker.frames import Kind
from exporter.broker.inquiries import ABSENT, LATE, OLDER, UNSETTLED
from exporter.core.records import NodeConnections
from tests.broker.nodes import Node, counts, nodes
from tests.servers.cut import CutProxy
from tests.servers.exporter import until
from tests.servers.valkey import Server


async def test_every_node_answers_and_ends_what_it_is_told_to(server: Server) -> None:
    async with nodes(server.url, 3, lease=1.0) as (first, second, third):
        await counts(first, nodes=3, settling=0)
        second.ear.opened = {"ann": [1.5, 2.5]}
        third.ear.opened = {"ann": [3.5], "bob": [4.5]}
        found, error = await first.broker.inquiries.ask("ann", False)
        assert (sorted(one.opened_at or () for one in found), error) == ([(1.5, 2.5), (3.5,)], None)
        assert [one.name for one in found] == ["a node", "a node"]
        found, error = await first.broker.inquiries.ask("nobody", False)
        assert ([one.opened_at for one in found], error) == ([(), ()], None)
        found, error = await first.broker.inquiries.ask("ann", True)
        assert (sorted(one.opened_at or () for one in found), error) == ([(1.5, 2.5), (3.5,)], None)
        assert (second.ear.opened, third.ear.opened) == ({}, {"bob": [4.5]})


async def test_what_all_nodes_are_told_leaves_at_once(server: Server) -> None:
    async with nodes(server.url, 1, lease=1.0) as (node,):
        connection = MagicMock()
        node.broker.nodes_channel.publish(connection, Kind.BACK, 0)
        assert [name for name, *_ in connection.mock_calls] == ["queue", "flush"]


async def test_many_questions_at_once_get_each_their_own_answer(server: Server) -> None:
    async with nodes(server.url, 3, lease=1.0) as (first, second, third):
        await counts(first, nodes=3, settling=0)
        second.ear.opened = {f"user{n}": [float(n)] for n in range(100)}
        asked = [one for n in range(100) for one in ((first, n), (third, 99 - n))]  # under the same numbers
        answers = await asyncio.gather(*(node.broker.inquiries.ask(f"user{n}", False) for node, n in asked))
        for (_, n), (found, error) in zip(asked, answers, strict=True):
            assert (sorted(one.opened_at or () for one in found), error) == ([(), (float(n),)], None)


async def test_a_node_that_does_not_answer_is_named_and_nothing_of_the_question_is_kept(server: Server) -> None:
    async with nodes(server.url, 2, lease=5.0) as (first, second):
        await counts(first, nodes=2, settling=0)
        del second.broker.nodes_channel.handlers[Kind.WHERE]
        found, error = await first.broker.inquiries.ask("ann", False)
        assert (found, error) == ([NodeConnections("a node", None, LATE)], "not known of a node")
        assert not first.broker.inquiries._questions


async def test_an_older_node_is_named_as_not_known(server: Server) -> None:
    async with nodes(server.url, 1, lease=2.0) as (node,):
        await counts(node, nodes=1, settling=0)
        root = node.broker._functions.root
        with server.client() as client:
            # As the release before this registers: without a label, and it does not listen on the nodes' channel.
            client.zadd(f"{root}:nodes", {"00112233": 2**42})
            client.hset(f"{root}:n:00112233", mapping={"seq": 0, "taken": ""})
        found, error = await node.broker.inquiries.ask("ann", False)
        assert found == [NodeConnections("node 00112233", None, OLDER)]
        assert error == "not known of node 00112233"


async def test_a_broker_that_is_new_may_not_know_all_nodes_yet(server: Server) -> None:
    async with nodes(server.url, 1, lease=5.0) as (node,):
        assert await node.broker.inquiries.ask("ann", False) == ([], UNSETTLED)


async def test_a_broker_that_vanishes_while_it_is_asked(server: Server) -> None:
    async with CutProxy(server.port) as proxy, nodes(server.url, 1, lease=1.0) as (last,):
        first = Node(f"redis://127.0.0.1:{proxy.port}", last.broker._functions.root[11:-1], lease=1.0)
        await first.broker.start(5.0)
        await counts(first, nodes=2, settling=0)
        try:
            proxy.cut()
            asked = asyncio.ensure_future(first.broker.inquiries.ask("ann", False))
            await asyncio.sleep(0)
            proxy.drop()
            assert await asked == ([], ABSENT)
            found, error = await first.broker.inquiries.ask("ann", False)
            assert found == []
            assert error is not None
            assert error.startswith("the other nodes are not known: ")
        finally:
            await first.broker.close()


async def test_what_a_later_release_sends_to_all_nodes_is_counted_and_passed_over(server: Server) -> None:
    async with nodes(server.url, 1, lease=1.0) as (node,):
        await counts(node, nodes=1, settling=0)
        dropped = node.metrics.broker_frames_dropped.value
        channel = node.broker.nodes_channel.name
        head = frames.head(b"another1", 0)
        with server.client() as client:
            client.execute_command("SPUBLISH", channel, head + bytes([0, 0, 0, 15, 99]) + bytes(14))
            client.execute_command("SPUBLISH", channel, head + frames.pack(Kind.MESSAGE, b"{}", 1, "ann"))
            client.execute_command("SPUBLISH", channel, b"Z of a later release")
            client.execute_command("SPUBLISH", channel, b"Z" + head[1:] + frames.pack(Kind.BACK, b"", 1))

        async def counted() -> bool:
            return node.metrics.broker_frames_dropped.value == dropped + 4

        await until(counted, "counted")
