"""Everybody is told exactly what is theirs, in order: random commands over real sockets, held against a model.

The model is the protocol as docs/protocol.md has it. One command is carried out at a time, and after each of them every
tab must have been told what the model says and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

from exporter.settings.model import Limits
from tests.integration.figures import LIVE, is_consistent
from tests.servers.exporter import CONVERSATIONS, PATIENCE, Client, InProcess, in_process

USERS = ("anna", "bert", "carl")
ROOMS = ("one", "two")
NOWHERE = "nowhere"
OPERATIONS = 600
MOST_TABS = 6

Frame = dict[str, Any]
ANY = object()
"""What the model does not know: the text of an error, the time of a message."""


class Tab:
    """One connection, what it has joined, and what it has to be told."""

    def __init__(self, client: Client, user: str) -> None:
        self.client = client
        self.user = user
        self.joined: list[str] = []
        self.expected: list[Frame] = []

    async def told(self) -> None:
        """Everything that was expected has been heard, and nothing else."""
        async with asyncio.timeout(PATIENCE):
            heard = [await self.hears() for _ in self.expected]
            await self.client.send("ping")
            while (frame := await self.hears()) != {"type": "pong"}:
                heard.append(frame)
        known = [
            {name: frame.get(name) if value is ANY else value for name, value in expected.items()}
            for expected, frame in zip(self.expected, heard, strict=False)
        ]
        assert heard == known, self.user
        self.expected.clear()

    async def hears(self) -> Frame:
        return json.loads(await self.client.connection.recv())  # type: ignore[no-any-return]


class World:
    """The model and the dice."""

    def __init__(self, here: InProcess, dice: random.Random) -> None:
        self.here = here
        self.dice = dice
        self.tabs: list[Tab] = []
        self.members: dict[str, set[str]] = {room: set(USERS[:2]) for room in ROOMS}
        self.messages: dict[str, dict[int, Frame]] = {room: {} for room in ROOMS}
        self.last_seq = dict.fromkeys(ROOMS, 0)
        self.read: dict[tuple[str, str], int] = {}
        self.typing: set[tuple[str, str]] = set()
        self.done: Counter[str] = Counter()

    def tabs_of(self, user: str) -> list[Tab]:
        return [tab for tab in self.tabs if tab.user == user]

    def joined(self, room: str, user: str | None = None) -> list[Tab]:
        return [tab for tab in self.tabs if room in tab.joined and user in (None, tab.user)]

    def tell(self, room: str, frame: Frame, *, but: Tab | None = None, but_user: str | None = None) -> None:
        for tab in self.joined(room):
            if tab is not but and tab.user != but_user:
                tab.expected.append(frame)

    def stops(self, room: str, user: str) -> None:
        if (room, user) in self.typing:
            self.typing.remove((room, user))
            said = {"type": "typing", "conversation": room, "user": user, "active": False}
            self.tell(room, said, but_user=user)

    def goes(self, tab: Tab, room: str) -> None:
        tab.joined.remove(room)
        if not self.joined(room, tab.user):
            self.stops(room, tab.user)
            self.tell(room, {"type": "participant_left", "conversation": room, "user": tab.user})

    def gauges(self) -> dict[str, int]:
        pairs = {(room, tab.user) for tab in self.tabs for room in tab.joined}
        return {
            "active_connections": len(self.tabs),
            "connected_users": len({tab.user for tab in self.tabs}),
            "active_conversations": len({room for room, _ in pairs}),
            "participants": len(pairs),
            "typing_users": len(self.typing),
        }

    @staticmethod
    def refused(tab: Tab, code: str, id: str | None = None) -> None:
        tab.expected.append({"type": "error", "code": code, "message": ANY} | ({"id": id} if id else {}))

    # --- what people do -----------------------------------------------------------------------------------

    async def connects(self) -> None:
        if len(self.tabs) < MOST_TABS:
            user = self.dice.choice(USERS)
            self.tabs.append(Tab(await self.here.connect(user), user))

    async def closes(self) -> None:
        tab = self.dice.choice(self.tabs)
        self.tabs.remove(tab)
        for room in list(tab.joined):
            self.goes(tab, room)
        await tab.client.close()

    async def joins(self) -> None:
        tab, room, id = self.dice.choice(self.tabs), self.dice.choice((*ROOMS, *ROOMS, NOWHERE)), self.id()
        await tab.client.send("join", conversation=room, **({"id": id} if id else {}))
        if room == NOWHERE or tab.user not in self.members[room]:
            self.refused(tab, "not_found" if room == NOWHERE else "forbidden", id)
            return
        first = not self.joined(room, tab.user)
        if room not in tab.joined:
            tab.joined.append(room)
        people = sorted({tab.user for tab in self.joined(room)})
        answer = {"type": "joined", "conversation": room, "participants": people, "last_seq": self.last_seq[room]}
        tab.expected.append(answer | ({"id": id} if id else {}))
        if first:
            said = {"type": "participant_joined", "conversation": room, "user": tab.user}
            self.tell(room, said, but_user=tab.user)

    async def leaves(self) -> None:
        tab, room, id = self.dice.choice(self.tabs), self.dice.choice((*ROOMS, NOWHERE)), self.id()
        await tab.client.send("leave", conversation=room, **({"id": id} if id else {}))
        if room not in tab.joined:
            self.refused(tab, "not_joined", id)
            return
        tab.expected.append({"type": "left", "conversation": room} | ({"id": id} if id else {}))
        self.goes(tab, room)

    async def types(self) -> None:
        tab, room, active = self.dice.choice(self.tabs), self.dice.choice(ROOMS), self.dice.random() < 0.7
        await tab.client.send("typing", conversation=room, active=active)
        if room not in tab.joined:
            self.refused(tab, "not_joined")
        elif not active:
            self.stops(room, tab.user)
        elif (room, tab.user) not in self.typing:
            self.typing.add((room, tab.user))
            said = {"type": "typing", "conversation": room, "user": tab.user, "active": True}
            self.tell(room, said, but_user=tab.user)

    async def sends(self) -> None:
        tab, room = self.dice.choice(self.tabs), self.dice.choice(ROOMS)
        id, body = f"id-{self.dice.randrange(20)}", self.dice.choice(("", "hello", "\u2603" * 300, "\U0001f600"))
        await tab.client.send("send", conversation=room, body=body, id=id)
        if room not in tab.joined:
            self.refused(tab, "not_joined", id)
            return
        stored = [m for m in self.messages[room].values() if (m["sender"], m["id"]) == (tab.user, id)]
        seq = stored[0]["seq"] if stored else self.last_seq[room] + 1
        tab.expected.append({"type": "ack", "id": id, "conversation": room, "seq": seq, "sent_at": ANY})
        if not stored:
            self.last_seq[room] = seq
            said = {"type": "message", "conversation": room, "seq": seq, "id": id, "sender": tab.user, "body": body}
            self.messages[room][seq] = said
            self.stops(room, tab.user)
            self.tell(room, said | {"sent_at": ANY}, but=tab)

    async def reads(self) -> None:
        tab, room = self.dice.choice(self.tabs), self.dice.choice(ROOMS)
        seq = self.dice.randint(0, self.last_seq[room] + 1)
        await tab.client.send("read", conversation=room, seq=seq)
        if room not in tab.joined:
            self.refused(tab, "not_joined")
        elif seq > self.last_seq[room]:
            self.refused(tab, "not_found")
        elif seq > self.read.get((room, tab.user), 0):
            self.read[room, tab.user] = seq
            self.tell(room, {"type": "read", "conversation": room, "user": tab.user, "seq": seq}, but=tab)
        if room in tab.joined:  # one that is answered follows what is not
            await tab.client.send("read", conversation=room, seq=self.last_seq[room] + 1)
            self.refused(tab, "not_found")

    async def deletes(self) -> None:
        room, user, admin = self.dice.choice(ROOMS), self.dice.choice(USERS), self.dice.random() < 0.3
        seq = self.dice.randint(1, self.last_seq[room] + 1)
        there = self.messages[room].get(seq)
        may = admin or (there is not None and there["sender"] == user)
        path = f"{CONVERSATIONS}/{room}/messages/{seq}"
        status, _, _ = await self.here.request("DELETE", path, user=user, role="admin" if admin else "user")
        if there is not None and may:
            assert status == 204
            del self.messages[room][seq]
            self.tell(room, {"type": "deleted", "conversation": room, "seq": seq})
        else:
            assert status in (403, 404)

    async def is_removed(self) -> None:
        room, by, user = self.dice.choice(ROOMS), self.dice.choice(USERS), self.dice.choice(USERS)
        path = f"{CONVERSATIONS}/{room}/participants/{user}"
        status, _, _ = await self.here.request("DELETE", path, user=by)
        if by not in self.members[room]:
            assert status == 403, status
        elif user not in self.members[room]:
            assert status == 404, status
        else:
            assert status == 204, status
            self.members[room].remove(user)
            self.read.pop((room, user), None)
            for tab in self.joined(room, user):
                tab.expected.append({"type": "left", "conversation": room, "reason": "removed"})
                self.goes(tab, room)

    async def is_added(self) -> None:
        room, by, user = self.dice.choice(ROOMS), self.dice.choice(USERS), self.dice.choice(USERS)
        path = f"{CONVERSATIONS}/{room}/participants"
        status, _, _ = await self.here.request("POST", path, user=by, json={"participants": [user]})
        assert status == (201 if by in self.members[room] else 403)
        if status == 201:
            self.members[room].add(user)

    async def is_disconnected(self) -> None:
        # Which of several tabs is closed first is nobody's business.
        user = self.dice.choice([user for user in (*USERS, "nobody") if len(self.tabs_of(user)) < 2])
        path = f"/v1/messaging/users/{user}/connections"
        assert (await self.here.request("DELETE", path, user="admin", role="admin"))[0] == 204
        for tab in self.tabs_of(user):
            self.tabs.remove(tab)
            for room in list(tab.joined):
                self.goes(tab, room)
            assert await tab.client.closed() == (4003, "disconnected by an admin")
            assert tab.client.passed_over == []

    def id(self) -> str | None:
        return self.dice.choice((None, f"c-{self.dice.randrange(9)}"))


MOVES = {
    World.connects: 10,
    World.closes: 4,
    World.joins: 25,
    World.leaves: 6,
    World.types: 20,
    World.sends: 20,
    World.reads: 10,
    World.deletes: 6,
    World.is_removed: 3,
    World.is_added: 5,
    World.is_disconnected: 3,
}


async def test_everybody_is_told_what_is_theirs_and_nothing_else(tmp_path: Path) -> None:
    seed = int(os.environ.get("FRAMES_SEED", random.randrange(2**32)))
    print(f"the same dice again: FRAMES_SEED={seed}")
    async with in_process(tmp_path, typing_timeout=3600.0, limits=Limits(frames_per_second=10_000)) as here:
        world = World(here, random.Random(seed))
        for room in ROOMS:
            await here.conversation(room, *sorted(world.members[room]))
        for _ in range(OPERATIONS):
            moves = MOVES if world.tabs else {World.connects: 1}
            [move] = world.dice.choices(list(moves), list(moves.values()))
            world.done[move.__name__] += 1
            print(move.__name__)
            await move(world)
            await asyncio.gather(*(tab.told() for tab in world.tabs))
        figures = await here.scrape()
        assert {name: figures[f"messaging_{name}"] for name in LIVE} == world.gauges()
        assert figures["messaging_stored_messages"] == sum(map(len, world.messages.values()))
        is_consistent(figures)
        assert all(world.done[move.__name__] for move in MOVES)
        for tab in world.tabs:
            await tab.client.close()
        await here.deserted()
