"""The longest piece of work that one peer causes in a cluster, on its own node and on another one, over a real broker.

Both nodes run in this process, on one asyncio loop, so each callback is timed, in the CPU time of its thread; sockets
of people are not in it, the broker's are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from exporter.core import protocol
from exporter.core.events import ClosedReason
from exporter.core.records import Membership
from exporter.core.websocket_frames import text_frame
from exporter.metrics.counters import Metrics
from exporter.node.cluster import ClusterNode, locate
from exporter.node.fanout import FanOut
from exporter.node.publisher import NodeConnection
from tests.bench.stalls import JOINED, TABS, Sink, settle
from tests.doubles import FakeStore
from tests.servers.exporter import until
from tests.servers.valkey import Server, running


class Members(FakeStore):
    """Whoever is asked about is a member, and nothing has been said: a node asks when another one comes."""

    async def memberships(self, pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        return [Membership(member=True, last_seq=0) for _ in pairs]

    async def identity(self) -> str:
        return ""


class World:
    """One node of two."""

    def __init__(self, server: Server, cluster: str) -> None:
        metrics = Metrics()
        self.fan_out = FanOut(asyncio.get_running_loop().call_soon, metrics.sent_bytes, time.monotonic)
        self.node = ClusterNode(
            Members(),
            metrics,
            self.fan_out,
            location=locate(server.url),
            cluster=cluster,
            lease=15.0,
            name="bench",
        )

    def connection(self, user: str) -> NodeConnection:
        made = NodeConnection(user, Sink(), self.fan_out, 1 << 20)
        made.sends_in_flight = 0
        self.node.open(made)
        return made

    def join(self, connection: NodeConnection, room: str) -> None:
        """As the node does when the membership is known."""
        held = self.node.redis.conversations

        def known() -> None:
            upto = held.begin(room, 0)
            events = self.node.hub.join(connection, room)
            there, total = held.participants(room, connection.user, protocol.MAX_LISTED)
            connection.put(text_frame(protocol.joined(room, there, total, connection.user, upto)))
            self.node._publisher.emit(events)
            held.settle(room)

        held.hold(room, known)


@contextmanager
def callbacks_timed() -> Iterator[Callable[[], float]]:
    """Milliseconds of the longest callback since the last call of what this gives."""
    run = asyncio.events.Handle._run
    worst = 0.0

    def timed(handle: asyncio.Handle) -> None:
        nonlocal worst
        began = time.thread_time()
        run(handle)
        worst = max(worst, time.thread_time() - began)

    def longest() -> float:
        nonlocal worst
        found, worst = worst, 0.0
        return found * 1_000

    asyncio.events.Handle._run = timed
    try:
        yield longest
    finally:
        asyncio.events.Handle._run = run


async def _cases(server: Server, longest: Callable[[], float]) -> list[tuple[str, float]]:
    cluster = f"stalls{time.monotonic_ns()}"
    here, there = World(server, cluster), World(server, cluster)
    await here.node.start()
    await there.node.start()
    found: list[tuple[str, float]] = []

    async def participants(count: int) -> None:
        async def counted() -> bool:
            seen = [world.node.cluster() for world in (here, there)]
            return all(one is not None and one.participants == count for one in seen)

        await until(counted, f"{count} participants, on both")

    tabs = [here.connection("ann") for _ in range(TABS)]
    for number in range(JOINED):  # somebody on each node hears of every one
        for world in (here, there):
            name = f"user {number} {'here' if world is here else 'there'}"
            world.join(world.connection(name), f"room {number}")
        if number % 100 == 99:
            await asyncio.sleep(0)
    await participants(2 * JOINED)
    settle()
    await asyncio.sleep(0)  # what was done so far is a callback of its own
    longest()
    for number in range(JOINED):
        for tab in tabs:
            here.join(tab, f"room {number}")
        await asyncio.sleep(0)  # each has a turn of its own, as commands have
    await participants(3 * JOINED)
    found.append((f"{TABS} tabs join {JOINED:,} conversations, one after the other", longest()))
    for number, tab in enumerate(tabs, 1):
        longest()
        asyncio.get_running_loop().call_soon(here.node.close, tab, ClosedReason.CLIENT)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if number == TABS:
            await participants(2 * JOINED)
            found.append((f"the last of {TABS} tabs ends, {JOINED:,} conversations joined", longest()))
    await here.node.redis.close()
    await there.node.redis.close()
    return found


def ends() -> Iterable[tuple[str, float]]:
    """The same connections as on one node, over Valkey."""
    with (
        running("valkey") as server,
        callbacks_timed() as longest,
        asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner,
    ):
        for name, spent in runner.run(_cases(server, longest)):
            yield f"two nodes: {name}", spent
