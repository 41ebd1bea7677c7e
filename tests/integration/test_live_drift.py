"""``messaging_live_drift`` sees the ghost that it exists for: a connection whose socket went without its being told.

The hand-over of the socket is broken on purpose: its transport's protocol is swapped, so that nothing that happens to
the socket reaches the connection any more. The heartbeat is an hour.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.servers.exporter import Client, Figures, InProcess, in_process

FIGURES = ("active_connections", "connected_users", "active_conversations", "participants", "typing_users")


def drift(figures: Figures) -> list[float]:
    return [figures[f'messaging_live_drift{{figure="{name}"}}'] for name in FIGURES]


async def typing_in_a_room(here: InProcess) -> Client:
    await here.conversation("room", "ann")
    client = await here.connect("ann")
    await client.join("room")
    await client.send("typing", conversation="room", active=True)
    await client.barrier()
    return client


async def test_a_connection_that_is_deaf_and_one_whose_socket_has_gone_unnoticed_are_both_found(
    tmp_path: Path,
) -> None:
    async with in_process(tmp_path, heartbeat_interval=3600.0, typing_timeout=3600.0) as here:
        client = await typing_in_a_room(here)
        other = await here.connect("bob")
        assert drift(await here.scrape()) == [0, 0, 0, 0, 0]
        (ghost,) = (c for c in here.server.connections if c.user == "ann")
        ghost.transport.set_protocol(asyncio.Protocol())
        assert drift(await here.scrape()) == [1, 1, 1, 1, 1]
        ghost.transport.set_protocol(ghost)
        assert drift(await here.scrape()) == [0, 0, 0, 0, 0]
        ghost.transport.set_protocol(asyncio.Protocol())
        await client.reset()
        figures = await here.scraped(lambda _: ghost.transport.is_closing(), "the socket is gone")
        figures = await here.scrape()
        assert figures["messaging_active_connections"] == 2  # the hub was not told
        assert drift(figures) == [1, 1, 1, 1, 1]
        await other.close()


async def test_connections_that_end_by_themselves_while_it_counts_are_no_drift(tmp_path: Path) -> None:
    async with in_process(tmp_path, heartbeat_interval=3600.0) as here:
        await here.conversation("room", *(f"user {number}" for number in range(40)))
        for round in range(3):
            people = [await here.connect(f"user {number}") for number in range(40)]
            for person in people:
                await person.join("room")
            endings = [person.reset() if number % 2 else person.close() for number, person in enumerate(people)]
            ended = asyncio.gather(*endings)
            while not ended.done():
                assert drift(await here.scrape()) == [0, 0, 0, 0, 0], round
            await ended
            await here.deserted()
