"""Disasters, one after the other, upon four real nodes over a real server, with people who check every promise.

After each: the cluster's figures on every node equal the model within a lease, a beat and half a second; the nodes'
figures together do at once; everybody who has joined has every message, once and in order, and knows who takes part.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.broker.people import Person
from tests.servers.cluster import CLUSTER_FIGURES, NODE_FIGURES, Cluster
from tests.servers.cut import CutProxy
from tests.servers.exporter import PATIENCE, Exporter
from tests.servers.postgres import Postgres
from tests.servers.valkey import Server

SLACK = 0.5  # seconds of the promise, beside a lease and a beat
NODES = 4


class Disasters:
    """``people`` connections of a third as many users; ``rate`` actions a second of all together."""

    def __init__(
        self, folder: Path, postgres: Postgres, kind: str, *, seed: int, people: int, rate: float, lease: float = 2.0
    ) -> None:
        self.dice = random.Random(seed)
        self.folder, self.postgres, self.kind = folder, postgres, kind
        self.rate = rate
        self.lease = lease
        self.users = [f"user{n}" for n in range(max(12, people // 3))]
        self.rooms = {f"room{n}": sorted(self.dice.sample(self.users, 12)) for n in range(max(8, people // 12))}
        self.rooms_of: dict[str, list[str]] = {user: [] for user in self.users}
        for room, members in self.rooms.items():
            for user in members:
                self.rooms_of[user].append(room)
        self.users = [user for user in self.users if self.rooms_of[user]]
        # A user's connections are on different nodes, so it is known which of them a node's typing state is of.
        self.people: list[Person] = []
        for n in range(people):
            tab, number = divmod(n, len(self.users))
            self.people.append(Person(self.users[number], self.finding, self.acknowledged, (number + tab) % NODES))
        # The others listen: whether a message of one came before a start of another, who knows.
        self.writers = set(self.people[: len(self.users)])
        self.findings: Counter[str] = Counter()
        self.examples: list[str] = []
        self.acks: dict[tuple[str, str], int] = {}
        self.sent = 0
        self.times: list[tuple[str, float]] = []
        self.happened: Counter[str] = Counter()
        self.lost_writes = 0
        self._acting: asyncio.Task[None] | None = None
        self._connects: set[asyncio.Task[Any]] = set()
        self._tokens: dict[str, str] = {}
        self.program: tuple[str, ...] | None = None

    # --- findings -------------------------------------------------------------------------------------------

    def finding(self, text: str) -> None:
        self.findings["".join(letter for letter in text if not letter.isdigit())] += 1
        if len(self.examples) < 40:
            self.examples.append(f"{text} (disaster {sum(self.happened.values())}: {self.current})")

    current = "start"

    def acknowledged(self, room: str, id: str, seq: int) -> None:
        before = self.acks.setdefault((room, id), seq)
        if before != seq:
            self.finding(f"{room}: {id} acknowledged as {before} and as {seq}")

    # --- the stage ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Disasters:
        async with AsyncExitStack() as stack:  # what has been started ends, too, when the next does not start
            await self._start(stack)
            self._stage = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stage.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        self.server = Server(self.kind).start()
        stack.callback(lambda: self.server.remove())  # it may be another one by then
        self.replica: Server | None = None
        self.link = await stack.enter_async_context(CutProxy(self.server.port))  # between the server and its replica
        self.proxies = [await stack.enter_async_context(CutProxy(self.server.port)) for _ in range(NODES)]
        database = self.postgres.url(self.postgres.create_database())
        flags = ("--typing.timeout", "86400s", "--drain.timeout", "2s", "--limits.connections-per-user", "1000")
        self.cluster = Cluster(self.folder, database, "", *flags, lease=self.lease)
        stack.push_async_callback(self.cluster.kill)
        self.nodes: list[Exporter] = [await self.start_node(0)]  # it makes the schema
        self.nodes += await asyncio.gather(*(self.start_node(number) for number in range(1, NODES)))
        for room, members in self.rooms.items():
            await self.nodes[0].conversation(room, *members)
        stack.push_async_callback(self._leave)

    async def _leave(self) -> None:
        if self.replica is not None:
            self.replica.remove()
        for person in self.people:
            person.reset()
        await self.stop_acting()

    async def start_node(self, number: int) -> Exporter:
        more: dict[str, Any] = {} if self.program is None else {"program": self.program}
        return await self.cluster.add("--redis.url", f"redis://127.0.0.1:{self.proxies[number].port}", **more)

    def token(self, user: str) -> str:
        if user not in self._tokens:
            self._tokens[user] = self.cluster.nodes[0].token(user, ttl=36_000)
        return self._tokens[user]

    @property
    def alive(self) -> list[int]:
        return [number for number, node in enumerate(self.nodes) if number not in self.down]

    down: frozenset[int] = frozenset()  # killed, or asleep: nobody is sent there

    # --- people act -----------------------------------------------------------------------------------------

    def start_acting(self) -> None:
        self._acting = asyncio.create_task(self._act())

    async def stop_acting(self) -> None:
        if self._acting is not None:
            self._acting.cancel()
            await asyncio.wait({self._acting})
            if not self._acting.cancelled() and self._acting.exception() is not None:
                raise self._acting.exception()
            self._acting = None
        if self._connects:
            await asyncio.wait(self._connects)

    async def _act(self) -> None:
        loop = asyncio.get_running_loop()
        began, done = loop.time(), 0
        while True:
            due = int((loop.time() - began) * self.rate)
            for _ in range(min(due - done, 200)):
                self._action(self.dice.choice(self.people))
            done = due
            await asyncio.sleep(0.01)

    def _action(self, person: Person) -> None:
        dice = self.dice
        if not person.open:
            if not person.connecting and person.home not in self.down:
                self._connect(person)
            return
        choice = dice.random()
        joined = [room for room in person.joined if room not in person.pending]
        if choice < 0.01:
            person.reset()
        elif choice < 0.02:
            person.close()
        elif not joined or choice < 0.25:
            room = dice.choice(self.rooms_of[person.user])
            if room not in person.pending and len(person.joined) < 4:
                person.join(room)
        elif choice < 0.32:
            person.leave(dice.choice(joined))
        elif person in self.writers:
            room = dice.choice(joined)
            if choice > 0.55:
                self.sent += 1
                person.say(room, f"m{self.sent}")
            elif all(waiting != room for waiting, _ in person.unacknowledged):
                person.type(room, room not in person.typing)

    def _connect(self, person: Person) -> None:
        number = person.home
        task = asyncio.create_task(person.connect(self.nodes[number].url, self.token(person.user), number))
        person.connecting = True
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)

    async def gather(self) -> None:
        """Everybody connects."""
        waiting = [person for person in self.people if not person.open]
        for start in range(0, len(waiting), 100):
            for person in waiting[start : start + 100]:
                self._connect(person)
            await asyncio.wait(set(self._connects))
        assert all(person.open for person in self.people)

    # --- the model ------------------------------------------------------------------------------------------

    def model(self) -> dict[str, int]:
        connected = [person for person in self.people if person.open]
        pairs = {(room, person.user) for person in connected for room in person.joined}
        typing = {(room, person.user) for person in connected for room in person.typing}
        return {
            "connections": len(connected),
            "users": len({person.user for person in connected}),
            "conversations": len({room for room, _ in pairs}),
            "participants": len(pairs),
            "typing_users": len(typing),
        }

    async def compare(self, since: float, name: str) -> None:
        """The figures come to be the model's, in time; then what people know is looked at."""
        model = self.model()
        limit = self.lease + self.cluster.beat + SLACK
        while True:
            late = time.monotonic() > since + limit  # what is asked before that may be answered after it
            scrapes = await asyncio.gather(*(self.nodes[number].scrape() for number in self.alive))
            seen = [{key: found.get(f"messaging_cluster_{key}") for key in CLUSTER_FIGURES} for found in scrapes]
            nodes = [found.get("messaging_cluster_nodes") for found in scrapes]
            if all(one == model for one in seen) and all(count == len(self.alive) for count in nodes):
                self.times.append((name, time.monotonic() - since))
                break
            if late:
                self.finding(f"figures after {limit:.1f} s: {seen} of {nodes} nodes, not {model}")
                self.times.append((name, float("inf")))
                break
            await asyncio.sleep(0.05)
        together = {key: sum(found[f"messaging_{key}"] for found in scrapes) for key in NODE_FIGURES}
        by_node = {
            "active_connections": model["connections"],
            "connected_users": len({(p.node, p.user) for p in self.people if p.open}),
            "active_conversations": len({(p.node, room) for p in self.people for room in p.joined}),
            "participants": len({(p.node, room, p.user) for p in self.people for room in p.joined}),
            "typing_users": len({(p.node, room, p.user) for p in self.people for room in p.typing}),
        }
        if together != by_node:
            self.finding(f"the nodes together: {together}, not {by_node}")

    async def receipts(self) -> None:
        """One more message in each conversation shows what was missing; everybody must have everything."""
        rooms: dict[str, list[Person]] = {}
        for person in self.people:
            for room in person.joined:
                rooms.setdefault(room, []).append(person)
        last: dict[str, int] = {}
        for room, members in rooms.items():
            members.sort(key=lambda person: person not in self.writers)
            self.sent += 1
            members[0].say(room, f"m{self.sent}")
            last[room] = self.sent
        await self._answered()
        through = {room: self.acks[room, f"m{number}"] for room, number in last.items()}
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            missing = {
                (person, room): gaps
                for room, members in rooms.items()
                for person in members
                if room in person.joined and (gaps := person.joined[room].missing(through[room]))
            }
            if not missing:
                break
            await asyncio.sleep(0.05)
        for (person, room), gaps in missing.items():
            self.finding(f"{person.user} on node {person.node} misses {gaps[:5]} in {room}")
            person.joined[room].got.update(gaps)
        there = {room: {person.user for person in members} for room, members in rooms.items()}
        typists = {(room, person.user) for person in self.people for room in person.typing}
        deadline = time.monotonic() + self.lease + 1.0  # the comparison after a server came back takes a lease
        late = False
        while True:
            wrong = [
                (person, room)
                for room, members in rooms.items()
                for person in members
                if person.joined[room].participants != there[room]
                or {(room, user) for user in person.joined[room].typing if user != person.user} - typists
            ]
            if not wrong:
                return
            if late:
                break
            late = time.monotonic() > deadline
            await asyncio.sleep(0.05)
        for person, room in wrong:
            known = person.joined[room]
            self.finding(
                f"{person.user} on node {person.node} in {room} was told wrongly: "
                f"too many {known.participants - there[room]}, too few {there[room] - known.participants}, "
                f"typing {known.typing}, of whom do not {self._not_typing(room, known.typing)}"
            )

    def _not_typing(self, room: str, users: set[str]) -> dict[str, list[int]]:
        """Users who do not type there, and the nodes on which they have joined."""
        typists = {person.user for person in self.people if room in person.typing}
        return {
            user: [person.node for person in self.people if person.user == user and room in person.joined]
            for user in users - typists
        }

    async def _answered(self) -> None:
        await asyncio.gather(*(person.barrier() for person in self.people))
        deadline = time.monotonic() + PATIENCE
        while any(person.unacknowledged or person.pending for person in self.people):
            if time.monotonic() > deadline:
                self.finding("a command was not answered")
                return
            await asyncio.sleep(0.01)
        await asyncio.gather(*(person.barrier() for person in self.people))

    # --- disasters --------------------------------------------------------------------------------------------

    async def kill(self) -> None:
        """kill -9; another process takes its place later."""
        number = self.dice.choice(self.alive)
        self.down = frozenset({number})
        await self.nodes[number].kill()

    async def drain(self) -> None:
        """SIGTERM: it says goodbye."""
        number = self.dice.choice(self.alive)
        self.down = frozenset({number})
        await self.nodes[number].stop()

    async def freeze(self) -> None:
        """A node sleeps for longer than its lease, and wakes up."""
        number = self.dice.choice(self.alive)
        self.down = frozenset({number})
        self.nodes[number].signal(signal.SIGSTOP)
        await asyncio.sleep(self.lease * 1.5)
        self.nodes[number].signal(signal.SIGCONT)
        self.down = frozenset()

    async def empty(self) -> None:
        """The server is killed and comes back without anything."""
        self.server.stop()
        await asyncio.sleep(self.dice.uniform(0, 1.0))
        self.server.start()

    async def failover(self) -> None:
        """A replica that has been cut off is promoted: the last writes are lost."""
        replica = self.replica = Server(self.kind, f"replicaof 127.0.0.1 {self.link.port}").start()
        with replica.client() as client, self.server.client() as old:
            for _ in range(500):
                if client.info("replication")["master_link_status"] == "up":
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            self.link.cut()
            await asyncio.sleep(self.dice.uniform(0.2, 1.0))
            ahead = old.info("replication")["master_repl_offset"] - client.info("replication")["master_repl_offset"]
            self.lost_writes += ahead > 0
            client.execute_command("REPLICAOF", "NO", "ONE")
            replica.options.clear()  # started again, it is no replica
            for proxy in self.proxies:
                proxy.target = replica.port
                proxy.drop()
        self.server.remove()
        self.link.drop()
        self.link.mend()
        self.server, self.replica = replica, None
        self.link.target = self.server.port

    async def partition(self) -> None:
        """One node's packets vanish, for less or for more than a lease."""
        proxy = self.dice.choice(self.proxies)
        proxy.cut()
        await asyncio.sleep(self.dice.choice((0.3, 1.2, 2.0)) * self.lease)
        proxy.mend()
        if self.dice.random() < 0.5:
            proxy.drop()

    async def hang_up(self) -> None:
        """All connections to the server are ended."""
        with self.server.client() as client:
            for kind in ("pubsub", "normal"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def stall(self) -> None:
        """The server sleeps, and does later what had been asked."""
        self.server.freeze()
        await asyncio.sleep(self.dice.uniform(0.5, 1.5) * self.lease)
        self.server.thaw()

    @property
    def kinds(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "kill": self.kill,
            "drain": self.drain,
            "freeze": self.freeze,
            "empty": self.empty,
            "failover": self.failover,
            "partition": self.partition,
            "hang_up": self.hang_up,
            "stall": self.stall,
        }

    async def round(self, name: str) -> None:
        """People act, the disaster comes and passes, everything is looked at."""
        self.current = name
        self.start_acting()
        await asyncio.sleep(self.dice.uniform(0.3, 0.8))
        began = time.monotonic()
        await self.kinds[name]()
        over = time.monotonic()
        await asyncio.sleep(self.dice.uniform(0.0, 0.3))  # life goes on a little
        await self.stop_acting()
        await self._answered()
        quiet = time.monotonic()
        # A kill is over when it has happened; what people still did meanwhile counts from their last deed.
        await self.compare(max(over if name != "kill" else began, quiet - 0.4), name)
        await self.receipts()
        if self.down:
            number = next(iter(self.down))
            self.nodes[number] = await self.start_node(number)
            self.down = frozenset()
        self.happened[name] += 1

    async def durable(self) -> None:
        """Every acknowledged message is in the database under its number, once."""
        database = self.cluster.flags[1].rpartition("/")[2]
        query = "COPY (SELECT conversation_id, client_id, seq FROM messages) TO STDOUT WITH (DELIMITER '|')"
        rows = (await asyncio.to_thread(self.postgres.psql, query, database)).split("\n")
        stored = Counter(tuple(row.split("|")) for row in rows if row)
        for (room, id), seq in self.acks.items():
            if stored[room, id, str(seq)] != 1:
                self.finding(f"{room}: {id}, acknowledged as {seq}, is not stored once")
