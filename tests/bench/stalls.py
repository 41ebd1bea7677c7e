"""The longest piece of work that one peer causes: nobody else has a turn while it is done.

The node and its fan-out, alone and over a broker, with transports that take everything, so the system calls of people's
sockets are not in it: each write adds 1 to 5 µs. A piece is timed in the CPU time of its thread, because it does not
matter here who else was busy.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable
from statistics import median

import msgspec

from exporter.core import protocol
from exporter.core.events import ClosedReason
from exporter.core.recount import Recount
from exporter.core.websocket_frames import text_frame
from exporter.metrics.counters import Metrics
from exporter.node.fanout import FanOut
from exporter.node.node import Node
from exporter.node.publisher import NodeConnection
from exporter.web.server import GC_THRESHOLDS
from tests.bench.options import Options
from tests.bench.report import table
from tests.doubles import FakeStore

JOINED = 1_000
TABS = 20
ROOM = 10_000
AT_ONCE = 100
PROMISE = 3.0  # milliseconds


class Sink:
    """A peer who takes everything."""

    def write(self, data: bytes) -> None:
        """Nothing is kept."""

    def get_write_buffer_size(self) -> int:
        return 0


class World:
    """A node whose turns are run, and timed, one call at a time."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], None]] = []
        metrics = Metrics()
        self.fan_out = FanOut(self._soon.append, metrics.sent_bytes, time.monotonic)
        self.node = Node(FakeStore(), metrics, self.fan_out)

    def connection(self, user: str) -> NodeConnection:
        made = NodeConnection(user, Sink(), self.fan_out, 1 << 20)
        made.sends_in_flight = 0
        self.node.open(made)
        return made

    def join(self, connection: NodeConnection, room: str) -> None:
        """As the node does when the membership is known."""
        events = self.node.hub.join(connection, room)
        there = self.node.hub.participants_of(room)
        connection.put(text_frame(protocol.joined(room, there, len(there), connection.user, 0)))
        self.node._publisher.emit(events)

    def longest(self, *pieces: Callable[[], object]) -> float:
        """Milliseconds of the longest of these and of what they leave to be done in later turns."""
        worst = 0.0
        todo = [*self._soon, *pieces]
        self._soon.clear()
        while todo:
            for piece in todo:
                began = time.thread_time()
                piece()
                worst = max(worst, time.thread_time() - began)
            todo, self._soon[:] = self._soon[:], []
        return worst * 1_000


def ends() -> Iterable[tuple[str, float]]:
    """Connections that have joined much."""
    world = World()
    tabs = [world.connection("ann") for _ in range(TABS)]
    for number in range(JOINED):
        other = world.connection(f"user {number}")
        world.join(other, f"room {number}")
        for tab in tabs:
            world.join(tab, f"room {number}")
    world.longest()
    settle()
    yield f"{TABS} tabs of {JOINED:,} conversations are recounted", _recounted(world)
    for number, tab in enumerate(tabs, 1):
        spent = world.longest(lambda tab=tab: world.node.close(tab, ClosedReason.CLIENT))
        if number in (1, TABS):
            which = "last" if number == TABS else "first"
            yield f"the {which} of {TABS} tabs ends, {JOINED:,} conversations joined", spent


def _recounted(world: World) -> float:
    steps = Recount(world.node.hub, list(world.node.hub.connections)).count()
    worst = 0.0
    while True:
        began = time.thread_time()
        if next(steps, False) is False:
            return worst * 1_000
        worst = max(worst, time.thread_time() - began)


def rooms() -> Iterable[tuple[str, float]]:
    """A room of ten thousand."""
    world = World()
    there = [world.connection(f"user {number:05}") for number in range(ROOM)]
    for connection in there[:-AT_ONCE]:
        world.node.hub.join(connection, "large")
    late = there[-AT_ONCE:]
    world.longest()
    settle()
    yield f"one joins a room of {ROOM:,}", world.longest(lambda: world.join(late[0], "large"))
    joins = [lambda one=one: world.join(one, "large") for one in late[1:]]
    yield f"{AT_ONCE - 1} join it in one turn", world.longest(*joins)
    frame = text_frame(b'{"type":"message","body":"' + b"x" * 100 + b'"}')
    audience = world.node.hub.audience("large")
    yield "a message to everybody there", world.longest(lambda: world.fan_out.send("large", audience, frame))
    yield "one leaves it", world.longest(lambda: world.node.close(late[0], ClosedReason.CLIENT))


def lists() -> Iterable[tuple[str, float]]:
    """Answers of the routes."""
    from exporter.web.routes.conversations import _json_list

    names = tuple(f"user {number:05}" for number in range(100))
    sized = [({"id": str(number), "participants": names}, 1_000) for number in range(1_000)]

    async def answered() -> float:
        worst = 0.0
        steps = _json_list('{"conversations":', sized, "}").__await__()
        while True:
            began = time.thread_time()
            try:
                next(steps)
            except StopIteration:
                return max(worst, time.thread_time() - began) * 1_000
            worst = max(worst, time.thread_time() - began)

    settle()
    yield "1,000 conversations with 100 names each are listed", asyncio.run(answered())
    whole = [item for item, _ in sized]
    began = time.thread_time()
    msgspec.json.encode(whole)
    yield "the same in one piece, for comparison", (time.thread_time() - began) * 1_000


def settle() -> None:
    """As the server does when it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def run(options: Options) -> str:
    """Every case in turn, some rounds."""
    from tests.bench import broker_stalls

    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for cases in (ends, rooms, lists, broker_stalls.ends):
            for name, spent in cases():
                found.setdefault(name, []).append(spent)
    gc.unfreeze()
    rows = [[name, f"{median(spent):.2f}", f"{max(spent):.2f}"] for name, spent in found.items()]
    return f"Promised: {PROMISE:g} ms\n\n" + table(["one peer's doing", "longest piece, ms", "worst round"], rows)
