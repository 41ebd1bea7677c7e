"""Gauges cannot drift: thousands of random operations over real sockets, many ending badly, held against a model.

The model is kept on this side, from what the people here did and were answered. What one user does with all their tabs
is done one after the other, because the model must know the order; the users do it all at the same time.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Coroutine, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.integration.figures import LIVE, is_consistent
from tests.servers.exporter import CONVERSATIONS, WS, Client, Exporter, Figures, locked, running

TABS = 200
USERS = 80
OPERATIONS = 6_000
ROOMS = [f"room-{number}" for number in range(24)]
RUSH = ROOMS[:4]
"""Where nobody types: whoever dies with a message on its way does so here, since it would end the typing some day."""
KEEPER = "keeper"
DATABASE_DESCRIPTORS = 18
"""Six connections, each with the file, its log and its index."""


class Person:
    """A user: their tabs, and what the model knows of them."""

    def __init__(self, name: str, rooms: list[str]) -> None:
        self.name = name
        self.rooms = rooms
        self.turn = asyncio.Lock()
        self.tabs: list[Tab] = []
        self.typing: set[str] = set()
        self.last_seq: dict[str, int] = {}

    def joined(self) -> set[str]:
        return set().union(*(tab.joined for tab in self.tabs))

    def settle(self) -> None:
        """Who does not take part does not type."""
        self.typing &= self.joined()


class Tab:
    """One connection of a person."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.joined: set[str] = set()


class Crowd:
    """Everybody, and the dice."""

    def __init__(self, exporter: Exporter, seed: int) -> None:
        self.exporter = exporter
        self.dice = random.Random(seed)
        self.people = [Person(f"user-{number}", self.dice.sample(ROOMS, 8)) for number in range(USERS)]
        self.left = OPERATIONS
        self.done: Counter[str] = Counter()

    async def make_rooms(self) -> None:
        for room in ROOMS:
            members = [person.name for person in self.people if room in person.rooms]
            await self.exporter.conversation(room, KEEPER, *members)

    def model(self) -> dict[str, int]:
        """What the gauges must be."""
        pairs = {(room, person.name) for person in self.people for room in person.joined()}
        return {
            "active_connections": sum(len(person.tabs) for person in self.people),
            "connected_users": sum(bool(person.tabs) for person in self.people),
            "active_conversations": len({room for room, _ in pairs}),
            "participants": len(pairs),
            "typing_users": sum(len(person.typing) for person in self.people),
        }

    async def act(self, person: Person) -> None:
        """One place in the crowd: a tab that comes, does things, ends, and comes again."""
        tab: Tab | None = None
        while self.left > 0:
            self.left -= 1
            async with person.turn:
                if tab is None:
                    tab = await self.pick(_WITHOUT_A_TAB)(self, person)
                    continue
                tab.client.passed_over.clear()
                if not await self.pick(_WITH_A_TAB)(self, person, tab):
                    person.tabs.remove(tab)
                    person.settle()
                    tab = None

    def pick(self, table: dict[Any, int]) -> Any:
        [chosen] = self.dice.choices(list(table), list(table.values()))
        self.done[chosen.__name__] += 1
        return chosen

    # --- coming -------------------------------------------------------------------------------------------

    async def connects(self, person: Person) -> Tab:
        tab = Tab(await self.exporter.connect(person.name))
        person.tabs.append(tab)
        return tab

    async def is_rejected(self, person: Person) -> None:
        token, headers = self.exporter.token(person.name), {"Origin": "https://evil.example"}
        if self.dice.random() < 0.5:
            token, headers = token[:-4], {}
        await self.exporter.refused(token, headers=headers)

    async def gives_up_connecting(self, person: Person) -> None:
        """The whole handshake is sent, and nobody waits for its answer, which waits for the database."""
        host, _, port = self.exporter.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        lines = (
            f"GET {WS} HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==",
            f"Authorization: Bearer {self.exporter.token(person.name)}",
        )
        writer.write("\r\n".join((*lines, "", "")).encode())
        await asyncio.sleep(self.dice.random() * 0.02)
        writer.transport.abort()

    # --- being here: True when the tab is still open afterwards ---------------------------------------------

    async def joins(self, person: Person, tab: Tab) -> bool:
        room = self.dice.choice(person.rooms)
        person.last_seq[room] = (await tab.client.join(room))["last_seq"]
        tab.joined.add(room)
        return True

    async def joins_in_vain(self, person: Person, tab: Tab) -> bool:
        elsewhere = self.dice.choice([room for room in (*ROOMS, "nowhere") if room not in person.rooms])
        await tab.client.send("join", conversation=elsewhere)
        await tab.client.frame("error", code="not_found" if elsewhere == "nowhere" else "forbidden")
        return True

    async def leaves(self, person: Person, tab: Tab) -> bool:
        room = self.dice.choice(person.rooms)
        await tab.client.send("leave", conversation=room)
        if room in tab.joined:
            await tab.client.frame("left", conversation=room)
            tab.joined.remove(room)
            person.settle()
        else:
            await tab.client.frame("error", code="not_joined")
        return True

    async def types(self, person: Person, tab: Tab) -> bool:
        room = self.dice.choice([room for room in person.rooms if room not in RUSH])
        active = self.dice.random() < 0.8
        await tab.client.send("typing", conversation=room, active=active)
        if room not in tab.joined:
            await tab.client.frame("error", code="not_joined")
        elif active:
            person.typing.add(room)
        else:
            person.typing.discard(room)
        await tab.client.barrier()
        return True

    async def sends(self, person: Person, tab: Tab) -> bool:
        if tab.joined:
            room = self.dice.choice(sorted(tab.joined))
            await tab.client.say(room, "hello", self.id())
            person.typing.discard(room)
        return True

    async def reads(self, person: Person, tab: Tab) -> bool:
        if tab.joined:
            room = self.dice.choice(sorted(tab.joined))
            await tab.client.send("read", conversation=room, seq=person.last_seq[room])
        return True

    async def talks_nonsense(self, person: Person, tab: Tab) -> bool:
        await tab.client.raw(self.dice.choice(["{", "[]", '{"type":"shout"}', '{"type":"join","conversation":""}']))
        await tab.client.frame("error")
        return True

    async def is_removed(self, person: Person, tab: Tab) -> bool:
        room = self.dice.choice(person.rooms)
        path = f"{CONVERSATIONS}/{room}/participants"
        assert (await self.exporter.request("DELETE", f"{path}/{person.name}", user=KEEPER))[0] == 204
        for each in person.tabs:
            if room in each.joined:
                await each.client.frame("left", conversation=room, reason="removed")
                each.joined.remove(room)
        person.settle()
        assert (await self.exporter.request("POST", path, user=KEEPER, json={"participants": [person.name]}))[0] == 201
        return True

    # --- ending -------------------------------------------------------------------------------------------

    async def closes(self, person: Person, tab: Tab) -> bool:
        await tab.client.close()
        return False

    async def breaks_the_protocol(self, person: Person, tab: Tab) -> bool:
        tab.client.connection.transport.write(b"\x81\x02{}")
        assert (await tab.client.closed())[0] == 1002
        return False

    async def resets(self, person: Person, tab: Tab) -> bool:
        await tab.client.reset()
        return False

    async def resets_within_a_frame(self, person: Person, tab: Tab) -> bool:
        await tab.client.reset_within_a_frame()
        return False

    async def vanishes_within_a_frame(self, person: Person, tab: Tab) -> bool:
        await tab.client.vanish_within_a_frame()
        return False

    async def resets_while_joining(self, person: Person, tab: Tab) -> bool:
        await tab.client.send("join", conversation=self.dice.choice(person.rooms))
        await asyncio.sleep(self.dice.random() * 0.02)
        await tab.client.reset()
        return False

    async def resets_while_sending(self, person: Person, tab: Tab) -> bool:
        rush = sorted(tab.joined.intersection(RUSH))
        for _ in range(3 if rush else 0):
            await tab.client.send("send", conversation=self.dice.choice(rush), body="hello", id=self.id())
        await tab.client.reset()
        return False

    def id(self) -> str:
        return f"{self.dice.getrandbits(64):x}"


_WITHOUT_A_TAB = {Crowd.connects: 8, Crowd.is_rejected: 1, Crowd.gives_up_connecting: 1}
VIOLENT = {
    Crowd.resets: 5,
    Crowd.resets_within_a_frame: 5,
    Crowd.vanishes_within_a_frame: 5,
    Crowd.resets_while_joining: 5,
    Crowd.resets_while_sending: 5,
}
_WITH_A_TAB = {
    Crowd.joins: 60,
    Crowd.joins_in_vain: 5,
    Crowd.leaves: 20,
    Crowd.types: 50,
    Crowd.sends: 30,
    Crowd.reads: 10,
    Crowd.talks_nonsense: 5,
    Crowd.is_removed: 4,
    Crowd.closes: 10,
    Crowd.breaks_the_protocol: 2,
    **VIOLENT,
}


async def watch(exporter: Exporter, seen: list[Figures]) -> None:
    """Every scrape, while all of it happens, is right in itself."""
    while True:
        figures = await exporter.scrape()
        is_consistent(figures)
        seen.append(figures)
        await asyncio.sleep(0.01)


async def hold_up(exporter: Exporter, dice: random.Random) -> None:
    """Now and then another program writes for a while, so that messages wait."""
    while True:
        with locked(exporter.database):
            await asyncio.sleep(dice.random() * 0.1)
        await asyncio.sleep(0.3)


def gauges(figures: Figures) -> dict[str, int]:
    return {name: int(figures[f"messaging_{name}"]) for name in LIVE}


async def test_every_gauge_equals_the_model_after_thousands_of_random_operations_and_is_0_at_the_end(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("DRIFT_SEED", random.randrange(2**32)))
    print(f"the same dice again: DRIFT_SEED={seed}")
    flags = ("--typing.timeout=1h", "--verify.interval=0", "--limits.frames-per-second=10000")
    async with running(tmp_path, *flags, program=(sys.executable, "-m", "tests.servers.slow_exporter")) as exporter:
        crowd = Crowd(exporter, seed)
        await crowd.make_rooms()
        descriptors = (await exporter.scrape())["process_open_fds"]
        scrapes: list[Figures] = []
        beside = (watch(exporter, scrapes), hold_up(exporter, random.Random(seed)))
        await together([crowd.act(crowd.people[number % USERS]) for number in range(TABS)], beside)

        tabs = [tab.client for person in crowd.people for tab in person.tabs]
        for tab in tabs:
            await tab.barrier()
        model = crowd.model()
        # Only they may still be on their way who gave up before the server had seen them.
        figures = await exporter.scraped(lambda figures: gauges(figures) == model, f"the gauges are {model}")
        is_consistent(figures)
        stats = await exporter.stats()
        assert (stats["total_participants"], stats["typing_users"]) == (model["participants"], model["typing_users"])

        assert sum(crowd.done.values()) >= 5_000
        assert all(crowd.done[move.__name__] for move in (*_WITHOUT_A_TAB, *_WITH_A_TAB))
        assert sum(crowd.done[move.__name__] for move in VIOLENT) >= crowd.done["connects"] / 3
        assert min(model.values()) > 0
        assert len(scrapes) > 20
        assert max(figures["messaging_typing_users"] for figures in scrapes) > 10

        for number, tab in enumerate(tabs):
            await (tab.close() if number % 2 else tab.reset())
        figures = await exporter.deserted()
        assert gauges(figures) == dict.fromkeys(LIVE, 0)
        is_consistent(figures)
        with closing(sqlite3.connect(exporter.database)) as database:
            [(stored,)] = database.execute("SELECT count(*) FROM messages")
        assert figures["messaging_stored_messages"] == figures["messaging_messages_accepted_total"] == stored
        assert figures['messaging_connections_rejected_total{reason="origin"}'] > 0
        await exporter.hang_up()  # the requests' own connections, which are kept alive
        await exporter.scraped(
            lambda now: now["process_open_fds"] <= descriptors + DATABASE_DESCRIPTORS, "every socket is closed"
        )
        assert await exporter.stop() == 0
        assert [line for line in exporter.lines() if line.get("level") not in ("info", "warning")] == []


async def together(works: list[Coroutine[Any, Any, None]], beside: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Until all works have ended; what goes on beside them is ended then. The first error ends everything."""
    tasks = [asyncio.create_task(work) for work in works]
    others = [asyncio.create_task(work) for work in beside]
    try:
        finished = asyncio.gather(*tasks)
        await asyncio.wait({finished, *others}, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            if other.done():
                other.result()
        await finished
    finally:
        for task in (*tasks, *others):
            task.cancel()
        await asyncio.gather(*tasks, *others, return_exceptions=True)
