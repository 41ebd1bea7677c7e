"""What people are told of others comes right again, whatever was lost or came late."""

from __future__ import annotations

from exporter.broker import frames
from exporter.broker.frames import Kind
from tests.broker.nodes import Node, counts, nodes
from tests.servers.cut import CutProxy
from tests.servers.exporter import until
from tests.servers.valkey import Server


def types(node: Node, connection: str, active: bool) -> None:
    for event in node.hub.set_typing(connection, "room", active, 0.0):
        node.broker.happened(event)


def late(server: Server, node: Node, user: str) -> None:
    """What a connection that has broken had sent, and a proxy delivers now: somebody types."""
    channel = node.broker._functions.channel("room").encode()
    with server.client() as client:
        client.execute_command(
            "SPUBLISH", channel, frames.head(b"another1", 0) + frames.pack(Kind.TYPING, b"", 1, user)
        )


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
            late(server, last, "ann")
            await last.hears(b"T ann")
            proxy.cut()
            types(first, "a", True)
            types(first, "a", False)

            async def sent() -> bool:
                return bool(first.broker._postbox._unanswered)

            await until(sent, "sent into the void")
            proxy.drop()
            proxy.mend()
            await last.hears(b"U ann")
            assert last.ear.heard.count(b"T ann") == 1
        finally:
            await first.broker.close()


async def test_whoever_has_left_and_comes_back_may_type_again(server: Server) -> None:
    async with nodes(server.url, lease=1.0) as (first, last):
        last.join("b", "bob", "room")
        await last.hears(b"J bob")
        first.join("a", "ann", "room")
        await last.hears(b"J ann")
        late(server, last, "ann")  # the node that sent it died before it could tell the server
        await last.hears(b"T ann")
        for event in first.hub.leave("a", "room"):
            first.broker.happened(event)
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
        connection = first.broker._road.connection
        assert connection is not None
        await connection.call("PING")  # what the server said of it has come: of whom is here, nobody else knows better
        for event in first.hub.leave("a", "room"):  # before a beat tells the node
            first.broker.happened(event)
        await first.hears(b"L ann")
        await counts(last, participants=2, nodes=2)
        assert first.ear.heard.count(b"L ann") == 1
