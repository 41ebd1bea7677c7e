"""Two processes that share a room over a broker, beside their peers; and what the broker costs by itself.

Typing events need no database, so servers can be compared: one at a time, or 32 of one sender who does not wait. A
delivery's cost is the CPU time of both servers and of the broker, whoever else is busy. The people are light
connections in this process; they answer no heartbeats, so nobody sends any.

Everything shares one core: what is measured then is what each does, and not what it costs to wake up another core,
which in a virtual machine is some 9 µs of CPU and 25 µs of waiting. With ``--unpinned`` the kernel puts each where it
likes.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import uvloop

from exporter.broker.envelope import Envelope
from exporter.broker.functions import Functions
from tests.bench.load import NUMBER, Connection, frame, upgrade
from tests.bench.machine import cores, cpu_seconds, keep
from tests.bench.options import Options
from tests.bench.report import Sample, ratio, table
from tests.bench.subjects import BareUvloop, Epoll, Ours, Peer, PythonSocketIo, SocketIo, Subject, commands, event
from tests.broker.nodes import Ear, Node
from tests.servers.valkey import Server

SIZES = (10, 100)
ONE, MANY, STORED = "1 in flight", "32 in flight", "32 stored messages"
GOALS = {  # what a peer costs, in ours, at N = 10 and 100
    ("socket.io, redis adapter", MANY): (9, 20),
    ("python-socketio, redis manager", MANY): (40, 70),
    ("channels_redis, pubsub", MANY): (100, 250),
    ("socket.io, redis adapter", ONE): (2, 1.4),
    ("python-socketio, redis manager", ONE): (3, 3),
    ("channels_redis, pubsub", ONE): (8, 8),
}
WARM_UP = 5
"""Windows that nobody counts: V8 compiles what is run often, and costs less afterwards."""
ALONE = (1.8, 1.25)  # two nodes and the broker against one node with both halves, at most
LOCAL = 1.15  # a local delivery with the broker against one without it, at most


class OursClustered(Ours):
    """A node; the second one uses the first one's folder and rooms."""

    name = "messaging-exporter, two nodes"

    def __init__(self, broker: str, first: OursClustered | None = None) -> None:
        super().__init__()
        if first is not None:
            os.rmdir(self.folder)
            self.folder = first.folder
        self.extra = ("--heartbeat.interval=3600s", *([f"--redis.url={broker}"] if broker else []))


class OverBroker(Peer):
    """A peer whose processes share a room over the broker that it is given."""

    def __init__(self, broker: str, first: Subject | None = None) -> None:
        super().__init__()
        self.broker = broker

    def command(self) -> list[str]:
        return [*super().command(), self.broker]


class SocketIoRedis(OverBroker, SocketIo):
    name = "socket.io, redis adapter"


class PythonSocketIoRedis(OverBroker, PythonSocketIo):
    name = "python-socketio, redis manager"


class Layer(OverBroker):
    """The bare layer: what Channels could cost at best."""

    name, script, needs = "channels_redis, layer only", "channels_layer.py", "channels_redis"


class BareUvloopRelay(OverBroker, BareUvloop):
    """What two servers in Python that write once per receiver could cost at best."""


class EpollRelay(OverBroker, Epoll):
    """What two servers could cost at best, in whatever language: two system calls a turn and a write per receiver."""

    name = "limit: C epoll"

    def __init__(self, broker: str, first: Subject | None = None) -> None:
        super().__init__(str(urlsplit(broker).port))


class Channels(Layer):
    name, script = "channels_redis, pubsub", "channels_pubsub.py"

    def rooms(self, sizes: list[int]) -> list[Connection]:
        return [
            Connection([upgrade(f"/ws/r{number}"), (b"", b"joined")], [event()])
            for number, size in enumerate(sizes)
            for _ in range(size)
        ]


class Person(asyncio.Protocol):
    """Counts delivered frames by how they begin."""

    def __init__(self, plan: Connection, marker: bytes, counter: list[int]) -> None:
        self.plan, self.marker, self.counter = plan, marker, counter
        self.transport: asyncio.Transport | None = None
        self.seen = b""
        self.waits: tuple[bytes, asyncio.Future[None]] | None = None
        self.turn = self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.waits is None:
            self.counter[0] += data.count(self.marker) + data.count(b'{"type":"message"')
            return
        self.seen += data
        if self.waits[0] in self.seen and not self.waits[1].done():
            self.waits[1].set_result(None)

    async def enter(self, port: int) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        assert self.transport is not None
        for send, wait in self.plan.steps:
            self.waits = (wait or b"\r\n\r\n", asyncio.get_running_loop().create_future())
            self.seen = self.seen if not send else b""
            self.transport.write(send)
            if self.waits[0] not in self.seen:
                await asyncio.wait_for(self.waits[1], 20)
        self.waits = None

    def act(self, count: int, stored: bool) -> None:
        """One event, or many without waiting; ours can store messages instead."""
        assert self.transport is not None
        templates = self.plan.templates
        if stored:
            (send,) = commands(json.loads(templates[0])["conversation"], "send")
            texts = [send.replace(NUMBER, f"{number:012}") for number in range(self.number, self.number + count)]
            self.number += count
        else:  # ours: typing and no longer typing, in turn
            texts = [templates[turn % len(templates)] for turn in range(self.turn, self.turn + count)]
            self.turn += count
        self.transport.write(b"".join(frame(text.encode()) for text in texts))

    @property
    def types(self) -> bool:
        """A message would now end that, which is one more delivery."""
        return bool(self.turn % len(self.plan.templates))


class Room:
    """Two servers, or one, with N people on each half."""

    def __init__(self, name: str, servers: Sequence[Subject], broker_pid: int | None) -> None:
        self.name, self.servers, self.broker_pid = name, servers, broker_pid
        self.counter = [0]
        self.people: list[Person] = []

    async def fill(self, size: int, halves: int = 2) -> None:
        first, last = self.servers[0], self.servers[-1]
        plans = first.room(halves * size)
        marker = first.deliver.encode()
        self.people = [Person(plan, marker, self.counter) for plan in plans]
        for number, person in enumerate(self.people):
            await person.enter((first if number < size else last).port)
        await asyncio.sleep(0.3)

    async def window(self, seconds: float, inflight: int, stored: bool) -> float | None:
        """µs of CPU per delivery; None when deliveries are missing."""
        pids = [server.pid for server in self.servers] + ([self.broker_pid] if self.broker_pid else [])
        before = sum(map(cpu_seconds, pids))
        loop = asyncio.get_running_loop()
        end, deliveries = loop.time() + seconds, 0
        while loop.time() < end or self.people[0].types:
            self.counter[0] = 0
            expected = inflight * (len(self.people) - 1)
            self.people[0].act(inflight, stored)
            late = loop.time() + 20
            while self.counter[0] < expected:
                if loop.time() > late:
                    return None
                await asyncio.sleep(0)
            deliveries += expected
        return (sum(map(cpu_seconds, pids)) - before) / deliveries * 1e6

    def close(self) -> None:
        for person in self.people:
            if person.transport is not None:
                person.transport.abort()


def run(options: Options) -> str:
    """The tables."""
    keep(0, cores()[1])  # and so all that is started from here
    parts = [*(uvloop.run(_peers(size, options)) for size in SIZES), uvloop.run(_local(options))]
    return "\n\n".join([*parts, uvloop.run(_broker_alone(options))])


async def _peers(size: int, options: Options) -> str:
    cells: dict[tuple[str, str], Sample] = {}
    async with AsyncExitStack() as stack:
        broker = Server("valkey").start()
        stack.callback(broker.remove)
        rooms: list[Room] = []
        makers: list[tuple[str, Callable[..., Any]]] = [
            (made.name, made)
            for made in (
                OursClustered,
                EpollRelay,
                BareUvloopRelay,
                SocketIoRedis,
                PythonSocketIoRedis,
                Channels,
                Layer,
            )
        ]
        alone = OursClustered("")
        stack.enter_context(alone)
        rooms.append(Room("messaging-exporter, one node", [alone], None))
        for name, make in makers:
            if not options.wants(name):
                continue
            first = make(broker.url)
            why = first.available()
            if why:
                print(f"  {name}: not measured, {why}", flush=True)
                continue
            stack.enter_context(first)
            rooms.append(Room(name, [first, stack.enter_context(make(broker.url, first))], broker.pid))
        for room in rooms:
            stack.callback(room.close)
            for server in room.servers:  # its connection for requests may have been closed while others started
                server.__dict__.pop("_http", None)
            await room.fill(size)
        for number in range(-1, options.rounds):
            turn = number % len(rooms)
            for room in rooms[turn:] + rooms[:turn]:
                for mode, inflight in ((ONE, 1), (MANY, 32), (STORED, 32)):
                    if mode == STORED and not room.name.startswith(Ours.name):
                        continue
                    seconds = options.window if number >= 0 else WARM_UP * options.window
                    cost = await room.window(seconds, inflight, mode == STORED)
                    if number >= 0 and cost is not None:
                        cells.setdefault((room.name, mode), Sample()).values.append(cost)
    ours = "messaging-exporter, two nodes"
    rows = []
    for room in rooms:
        row = [room.name]
        for mode in (ONE, MANY, STORED):
            cell = cells.get((room.name, mode), Sample())
            row += [
                cell.show(2),
                ratio(cell.values, cells[ours, mode].values).show(2) if (ours, mode) in cells else "–",
            ]
        rows.append(row)
    text = table(["server", ONE, "in ours", MANY, "in ours", STORED, "in ours"], rows)
    goals = []
    for (name, mode), least in GOALS.items():
        if (name, mode) in cells:
            found = ratio(cells[name, mode].values, cells[ours, mode].values)
            floor = least[SIZES.index(size)]
            goals.append([name, mode, f"≥ {floor}", found.show(1), "yes" if found.median >= floor else "NO"])
    most = ALONE[SIZES.index(size)]
    for mode in (MANY, STORED):
        found = ratio(cells[ours, mode].values, cells["messaging-exporter, one node", mode].values)
        goals.append(
            ["two nodes against one", mode, f"≤ {most}", found.show(2), "yes" if found.median <= most else "NO"]
        )
    head = f"### Two servers over Valkey, {size} people on each: µs of CPU per delivery"
    return f"{head}\n\n{text}\n\n{table(['', '', 'goal', 'in this run', 'reached'], goals)}"


# --- local delivery, by the server's own histogram --------------------------------------------------------------


async def _local(options: Options) -> str:
    """From a message's receipt to its write to N people on the same node: alone, and with a second node of N people."""
    rows = []
    for size in SIZES:
        with ExitStack() as stack:
            broker = Server("valkey").start()
            stack.callback(broker.remove)
            first = stack.enter_context(OursClustered(broker.url))
            last = stack.enter_context(OursClustered(broker.url, first))
            alone = stack.enter_context(OursClustered(""))
            rooms = Room("with", [first, last], broker.pid), Room("without", [alone], None)
            for room in rooms:
                stack.callback(room.close)
                room.servers[0].__dict__.pop("_http", None)
                await room.fill(size, len(room.servers))
            for inflight in (1, 32):
                samples = {room.name: Sample() for room in rooms}
                for number in range(-1, options.rounds):
                    for room in rooms[:: -1 if number % 2 else 1]:
                        before = _delivered(room.servers[0])
                        await room.window(options.window if number >= 0 else 0.2, inflight, stored=True)
                        after = _delivered(room.servers[0])
                        if number >= 0:
                            samples[room.name].values.append((after[0] - before[0]) / (after[1] - before[1]) * 1e6)
                found = ratio(samples["with"].values, samples["without"].values)
                reached = "yes" if found.median <= LOCAL else "NO"
                shown = [samples[name].show(0) for name in ("without", "with")]
                rows.append([f"N = {size}, {inflight} in flight", *shown, found.show(2), reached])
    head = "### Stored messages to people on the same node: mean µs, by the server's histogram"
    return f"{head}\n\n{table(['', 'alone', 'with broker', f'≤ {LOCAL}', 'reached'], rows)}"


def _delivered(server: Subject) -> tuple[float, float]:
    """Seconds and number of the local deliveries so far."""
    assert isinstance(server, Ours)
    name = "messaging_message_delivery_duration_seconds"
    lines = server.request("GET", "/metrics")[1].decode().splitlines()
    found = {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith(name)}
    return found[f'{name}_sum{{path="local"}}'], found[f'{name}_count{{path="local"}}']


# --- the broker by itself -----------------------------------------------------------------------------------------


class Goal:
    """Set when so many have come; nobody looks again and again, which would be a cost of its own."""

    def __init__(self) -> None:
        self._left = 0
        self._reached: asyncio.Future[None] | None = None

    def expect(self, count: int) -> asyncio.Future[None]:
        """Done when so many have come from now on."""
        self._left = count
        self._reached = asyncio.get_running_loop().create_future()
        return self._reached

    def came(self) -> None:
        self._left -= 1
        if not self._left and self._reached is not None:
            self._reached.set_result(None)


class Listener(Ear):
    """The side of the node that receives: what comes is counted, as it is for redis-py."""

    def __init__(self) -> None:
        super().__init__()
        self.goal = Goal()

    def deliver(self, envelope: Envelope[str]) -> None:
        self.goal.came()


class Sender(Ear):
    """The side of the node that publishes: handing out to its own people is not the broker's."""

    def deliver(self, envelope: Envelope[str]) -> None:
        """Not counted."""


async def _broker_alone(options: Options) -> str:
    broker = Server("valkey").start()
    rows = []
    try:
        # The end of a turn as a node's fan-out has it.
        soon = asyncio.get_running_loop().call_soon
        nodes = [Node(broker.url, "bench", 60.0, ear=ear, at_end_of_turn=soon) for ear in (Sender(), Listener())]
        for node in nodes:
            await node.broker.start(5.0)
            await node.up()
        for number, node in enumerate(nodes):
            node.join(f"c{number}", f"user{number}", "room")
        await asyncio.sleep(0.2)
        ours, theirs = Sample(), Sample()
        quick, slow = Sample(), Sample()
        async with _redis_py(broker) as publish:
            for _ in range(options.rounds):
                for publisher, cost, wait in ((_Ours(nodes), ours, quick), (publish, theirs, slow)):
                    cost.values.append(await _frames(publisher, broker.pid, options.window))
                    wait.values.append(await _latency(publisher))
        costs, waits = ratio(theirs.values, ours.values), ratio(quick.values, slow.values)
        rows.append(["µs of CPU a frame, 32 a turn", ours.show(1), theirs.show(1), f"redis-py ≥ 6 ×: {costs.show(1)}"])
        rows.append(["p50 node to node, µs", quick.show(0), slow.show(0), f"≤ 0.5 ×: {waits.show(2)}"])
        rows.append(["read of all figures, µs", *await _figures(broker, options.rounds)])
        rows.append(["broker's CPU a join in a storm, µs", f"{await _storm(broker):.1f}", "–", "≤ 15"])
        for node in nodes:
            await node.broker.close()
    finally:
        broker.remove()
    return "### The broker by itself\n\n" + table(["", "ours", "redis-py", "goal"], rows)


Publish = Callable[[int], Awaitable[None]]
"""So many frames are published in one turn, and have come to the subscriber."""


class _Ours:
    """From one node to the other: a message for both."""

    seq = 0

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.sender, self.receiver = nodes

    async def __call__(self, count: int) -> None:
        reached = self.receiver.ear.goal.expect(count)
        for _ in range(count):
            _Ours.seq += 1
            self.sender.broker.publish(Envelope("room", b"x" * 256, seq=_Ours.seq, sender="user0"))
        await reached


@asynccontextmanager
async def _redis_py(broker: Server) -> AsyncIterator[Publish]:
    import redis.asyncio

    client = redis.asyncio.Redis(port=broker.port)
    pubsub = client.pubsub()
    await pubsub.subscribe("bench")
    goal = Goal()

    async def listen() -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                goal.came()

    async def publish(count: int) -> None:
        reached = goal.expect(count)
        if count == 1:
            await client.publish("bench", b"x" * 256)
        else:
            pipeline = client.pipeline(transaction=False)
            for _ in range(count):
                pipeline.publish("bench", b"x" * 256)
            await pipeline.execute()
        await reached

    task = asyncio.create_task(listen())
    await asyncio.sleep(0.05)
    try:
        yield publish
    finally:
        task.cancel()
        await pubsub.aclose()
        await client.aclose()


async def _frames(publish: Publish, pid: int, seconds: float) -> float:
    before = time.process_time() + cpu_seconds(pid)
    end, count = time.monotonic() + seconds, 0
    async with asyncio.timeout(seconds + 5):  # what is lost would hold up everybody who waits for the machine
        while time.monotonic() < end:
            await publish(32)
            count += 32
    return (time.process_time() + cpu_seconds(pid) - before) / count * 1e6


async def _latency(publish: Publish, count: int = 300) -> float:
    waits = []
    async with asyncio.timeout(10):
        for _ in range(count):
            began = time.perf_counter()
            await publish(1)
            waits.append(time.perf_counter() - began)
    return statistics.median(waits) * 1e6


async def _figures(broker: Server, rounds: int) -> list[str]:
    """Reads of a cluster with 100 conversations and of one with 100,000, in turn, by the server's CPU."""
    few, many = Functions("few"), Functions("many")
    with broker.client() as client:

        def read(functions: Functions, count: int = 2_000) -> float:
            pipeline = client.pipeline(transaction=False)
            for _ in range(count):
                pipeline.execute_command("FCALL_RO", functions._names["figures"], 1, functions.root)
            before = cpu_seconds(broker.pid)
            pipeline.execute()
            return (cpu_seconds(broker.pid) - before) / count * 1e6

        for functions, size in ((few, 100), (many, 100_000)):
            for start in range(0, size, 5_000):
                rooms = {f"room{n}": 1 for n in range(start, min(size, start + 5_000))}
                client.hset(f"{functions.root}:c", mapping=rooms)
        costs: dict[str, Sample] = {few.root: Sample(), many.root: Sample()}
        for number in range(-1, 2 * rounds):
            for functions in (few, many)[:: -1 if number % 2 else 1]:
                cost = read(functions)
                if number >= 0:
                    costs[functions.root].values.append(cost)
    grown = ratio(costs[many.root].values, costs[few.root].values)
    return [f"{costs[few.root].show(1)} / {costs[many.root].show(1)}", "–", f"100,000 / 100 ≤ 1.1: {grown.show(2)}"]


async def _storm(broker: Server, count: int = 10_000) -> float:
    """10,000 people join 10,000 conversations at once on a new node."""
    node = Node(broker.url, "storm", 60.0)
    await node.broker.start(5.0)
    await node.up()
    before = cpu_seconds(broker.pid)
    for number in range(count):
        node.join(f"c{number}", f"user{number}", f"room{number}")
    while (cluster := node.broker.cluster()) is None or cluster.participants < count:  # noqa: ASYNC110  # a beat tells
        await asyncio.sleep(0.01)
    cost = (cpu_seconds(broker.pid) - before) / count * 1e6
    await node.broker.close()
    return cost
