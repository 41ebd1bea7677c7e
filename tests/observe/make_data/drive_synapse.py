"""What people do on Synapse: each case on the right day, and the ledger is told what it amounts to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from tests.observe.make_data.ledger import Ledger, Said
from tests.observe.make_data.synapse import Answer, Api, Person, Synapse

ENCRYPTED = {
    "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgAEnACgA", "sender_key": "k", "device_id": "D",
    "session_id": "s",
}  # fmt: skip
POLL = {"question": {"body": "Lunch?"}, "answers": [{"id": "y", "m.text": "yes"}]}


def text(body: str = "hello", **more: Any) -> dict[str, Any]:
    """The content of a message."""
    return {"msgtype": "m.text", "body": body, **more}


def edit(event: str, body: str = "hello!") -> dict[str, Any]:
    """The content of an edit."""
    return text(f"* {body}", **{"m.new_content": text(body)}, **relates("m.replace", event))


def relates(kind: str, event: str, **more: Any) -> dict[str, Any]:
    """A relation."""
    return {"m.relates_to": {"rel_type": kind, "event_id": event, **more}}


class MatrixLedger(Ledger):
    """Here a room is a conversation while somebody of this server is in it, and a redacted message has been written."""

    def __init__(self) -> None:
        super().__init__()
        self.purged: set[Said] = set()

    def writings(self) -> list[Said]:
        return [said for said in self.said if said not in self.purged]

    def purge_room(self, room: str, kept: int = 0) -> None:
        """All but the last ``kept`` messages of a room were purged."""
        there = [said for said in self.said if said.sender_room == room]
        for said in there[: len(there) - kept]:
            said.gone = True
            self.purged.add(said)


class SynapseDrive:
    """People on one homeserver."""

    def __init__(self, server: Synapse) -> None:
        self.server = server
        self.ledger = MatrixLedger()
        self.people: dict[str, Person] = {}
        self.events: dict[str, Said] = {}
        self.api: Api
        self.team = ""

    async def register(self, *names: str) -> None:
        """Accounts of people."""
        for name in names:
            self.people[name] = await self.api.register(name)
            self.ledger.people.add(self.people[name].id)

    def __getitem__(self, name: str) -> Person:
        return self.people[name]

    async def room(self, owner: Person, *members: Person, conversation: bool = True, **options: Any) -> str:
        """A room, with its members in it."""
        room = await owner.create(**{"preset": "private_chat", "invite": [member.id for member in members], **options})
        for member in members:
            await member.join(room)
        if conversation:
            self.ledger.rooms.add(room)
        return room

    async def say(self, who: Person, room: str, content: Any = None, type: str = "m.room.message", **query: Any) -> str:
        """A message; its id."""
        event = await who.send(room, text() if content is None else content, type, **query)
        said = self.ledger.say(None, who.id)
        said.sender_room = room
        if "ts" in query:
            said.day = datetime.fromtimestamp(int(query["ts"]) / 1000, UTC).date()
        self.events[event] = said
        return event

    async def redact(self, who: Person, room: str, event: str) -> str:
        """What was said is gone; the redaction's id."""
        redaction = await who.redact(room, event)
        if event in self.events:
            self.events[event].gone = True
        return redaction

    async def on(self, when: datetime, what: Callable[[], Awaitable[None]]) -> None:
        """Start the server at this time, let people do something, and stop it."""
        self.server.start(when)
        self.ledger.day = when.date()
        try:
            async with self.server.api() as self.api:
                for name in self.people:
                    if name in ("ann", "bob", "edith"):
                        self.people[name] = await self.api.sign_in(name)
                await what()
                if self.server.statistics:
                    await self["ann"].settle()
        finally:
            self.server.stop()

    async def run(self, before_today: Callable[[], None] = lambda: None) -> None:
        """The whole history."""
        for when, what in (
            (datetime(2026, 2, 8, 9, 0, tzinfo=UTC), self.thirty_days_ago),
            (datetime(2026, 2, 9, 0, 0, 20, tzinfo=UTC), lambda: self.one("hal", 2)),
            (datetime(2026, 3, 3, 23, 55, 0, tzinfo=UTC), lambda: self.one("ivy", 2)),
            (datetime(2026, 3, 4, 0, 0, 20, tzinfo=UTC), lambda: self.one("joe", 1)),
            (datetime(2026, 3, 9, 23, 55, 0, tzinfo=UTC), lambda: self.one("kim", 3)),
            (datetime(2026, 3, 10, 0, 0, 20, tzinfo=UTC), lambda: self.one("lea", 1)),
        ):
            await self.on(when, what)
        before_today()
        await self.on(datetime(2026, 3, 10, 9, 0, tzinfo=UTC), self.today)

    async def one(self, name: str, times: int) -> None:
        """A person who writes on this day only."""
        await self.register(name)
        await self["ann"].call("POST", f"/rooms/{quote(self.team)}/invite", {"user_id": self[name].id})
        await self[name].join(self.team)
        for _ in range(times):
            await self.say(self[name], self.team)

    async def thirty_days_ago(self) -> None:
        """Outside every window."""
        await self.register("ann", "bob", "gus", "edith", "silent")
        await self.make_admin("ann")
        others = (self["bob"], self["gus"], self["edith"])
        self.team = await self.room(self["ann"], *others, name='It\'s "Team" & <Co> 🙂')
        for name in ("ann", "bob", "gus", "edith"):
            self.first = await self.say(self[name], self.team)

    async def make_admin(self, name: str) -> None:
        """By the shared secret there is no way for an account that exists, so the database is told."""
        self.server.promote(self[name].id)

    async def today(self) -> None:
        """All special cases."""
        await self.register("eve", "nina", "rita", "o=27hara", "a.b-c_d/e+f", "x" * 100)
        for name in ("eve", "nina", "rita", "o=27hara", "a.b-c_d/e+f", "x" * 100):
            await self["ann"].call("POST", f"/rooms/{quote(self.team)}/invite", {"user_id": self[name].id})
            await self[name].join(self.team)
        for name in ("o=27hara", "a.b-c_d/e+f", "x" * 100):
            await self.say(self[name], self.team, text(f"I'm {name} & \"<b>\" 'q' % _ \\ 🙂"))
        for case in (
            self.kinds, self.edits, self.redactions, self.not_messages, self.bridges, self.other_accounts,
            self.rooms, self.purges,
        ):  # fmt: skip
            await case()

    async def kinds(self) -> None:
        ann, bob, room = self["ann"], self["bob"], self.team
        first = await self.say(ann, room)
        for content in (
            text("* looks like an edit"),
            text(msgtype="m.emote"), text(msgtype="m.notice"), text(msgtype="m.image", url="mxc://example.org/a"),
            text(msgtype="m.audio", url="mxc://example.org/a"), text(msgtype="m.location", geo_uri="geo:1,2"),
            text(**{"m.relates_to": {"m.in_reply_to": {"event_id": first}}}),
            text(**relates("m.thread", first, is_falling_back=True)),
            text("日本語 " + "long " * 500), text("it's \\' % _ \" ; --"), text(""),
        ):  # fmt: skip
            await self.say(bob, room, content)
        self.ledger.note("text, emote, notice, file, location, reply, thread, empty text: 1 each")
        await self.say(ann, room, ENCRYPTED, "m.room.encrypted")
        await self.say(ann, room, {**ENCRYPTED, **relates("m.thread", first)}, "m.room.encrypted")
        self.ledger.note("encrypted messages, in a thread too: 1 each")
        await self.say(ann, room, {"body": "cat", "url": "mxc://example.org/a", "info": {}}, "m.sticker")
        poll = await self.say(ann, room, {"m.poll": POLL, "m.text": "Lunch?"}, "m.poll.start")
        await self.say(ann, room, {"org.matrix.msc3381.poll.start": POLL}, "org.matrix.msc3381.poll.start")
        self.ledger.note("stickers and polls: 1 each")
        answer = relates("m.reference", poll)
        await bob.send(room, {**answer, "m.selections": ["y"]}, "m.poll.response")
        await bob.send(room, {**answer}, "org.matrix.msc3381.poll.response")
        await bob.send(room, {**ENCRYPTED, **answer}, "m.room.encrypted")
        await ann.send(room, {**answer, "m.text": "over"}, "m.poll.end")
        self.ledger.note("answers to a poll, encrypted too, and its end: 0")

    async def edits(self) -> None:
        ann, bob, edith, room = self["ann"], self["bob"], self["edith"], self.team
        one = await self.say(ann, room)
        await ann.send(room, edit(one))
        await ann.send(room, edit(one, "again"))
        two = await self.say(ann, room, ENCRYPTED, "m.room.encrypted")
        await ann.send(room, {**ENCRYPTED, **relates("m.replace", two)}, "m.room.encrypted")
        self.ledger.note("edits, encrypted too: 0")
        await edith.send(room, edit(self.first))
        self.ledger.note("somebody who only edited an old message today: not among today's writers")
        three = await self.say(bob, room)
        await bob.send(room, edit(three))
        await self.redact(bob, room, three)
        self.ledger.note("edited, then redacted: 0")
        four = await self.say(bob, room)
        change = await bob.send(room, edit(four))
        await self.redact(bob, room, change)
        self.ledger.note("the edit redacted: its message stays, 1")

    async def redactions(self) -> None:
        ann, bob, rita, room = self["ann"], self["bob"], self["rita"], self.team
        mine = await self.say(rita, room)
        await self.redact(rita, room, mine)
        self.ledger.note("somebody whose only message was redacted: 0 messages, among the writers")
        await self.redact(ann, room, mine)
        self.ledger.note("redacted twice: 0")
        other = await self.say(bob, room)
        redaction = await self.redact(ann, room, other)
        await self.redact(ann, room, redaction)
        self.ledger.note("of another's message, and of a redaction: the message stays gone")
        secret = await self.say(bob, room, ENCRYPTED, "m.room.encrypted")
        await self.redact(bob, room, secret)
        safe = await self.say(ann, room)
        with pytest.raises(Answer, match="403"):
            await bob.redact(room, safe)
        self.ledger.note("a redaction without the power to: refused, 1")
        await self.redact(ann, room, "$unknown-event-id-it-is-none")
        reaction = await bob.send(room, relates("m.annotation", safe, key="👍"), "m.reaction")
        await bob.redact(room, reaction)
        topic = await ann.state(room, "m.room.topic", {"topic": "it's"})
        await ann.redact(room, topic)
        self.ledger.note("of an unknown event, a reaction, a topic: nothing changes")

    async def not_messages(self) -> None:
        ann, bob, room = self["ann"], self["bob"], self.team
        event = await self.say(ann, room)
        await bob.send(room, relates("m.annotation", event, key="it's"), "m.reaction")
        await bob.call("POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(event)}", {})
        await bob.call("POST", f"/rooms/{quote(room)}/read_markers", {"m.fully_read": event, "m.read": event})
        await bob.call("PUT", f"/rooms/{quote(room)}/typing/{quote(bob.id)}", {"typing": True, "timeout": 1000})
        await bob.send(room, {"call_id": "c", "version": "1", "lifetime": 1000}, "m.call.invite")
        await bob.send(room, {"body": "mine"}, "org.example.custom")
        await ann.state(room, "m.room.message", text(), "")
        self.ledger.note("reactions, receipts, markers, typing, calls, own types, a state event of type message: 0")
        await bob.call("PUT", f"/profile/{quote(bob.id)}/displayname", {"displayname": 'Bob "O\'Brien" & <Co>'})
        self.ledger.note("a new display name: 0, though a row in each room")

    async def bridges(self) -> None:
        ann, room = self["ann"], self.team
        for name in ("_bridge_one", "_bridge_two"):
            ghost = await self.api.ghost(name)
            await ann.call("POST", f"/rooms/{quote(room)}/invite", {"user_id": ghost.id})
            await ghost.join(room)
            await self.say(ghost, room)
        old = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp() * 1000)
        await self.say(ghost, room, ts=old)
        self.ledger.note("application service users: their messages count, on the day that they state; they are nobody")
        await self.say(ann, room, ts=old)
        self.events[[*self.events][-1]].day = self.ledger.day
        self.ledger.note("a day stated by an ordinary user is ignored")
        only = await self.room(ghost, preset="public_chat")
        await self.say(ghost, only)
        self.ledger.note("a room with bridge users only: a conversation")

    async def other_accounts(self) -> None:
        ann = self["ann"]
        public = await self.room(ann, preset="public_chat", room_alias_name="it's=odd%20", topic="it's", name="'")
        await ann.state(public, "m.room.guest_access", {"guest_access": "can_join"})
        guest = await self.api.guest()
        await guest.join(public)
        await self.say(guest, public)
        self.ledger.note("a guest: the message counts, the guest is nobody")
        for kind in ("bot", "support"):
            helper = await self.api.register(f"{kind}-account")
            await ann.admin("PUT", f"/v2/users/{quote(helper.id)}", {"user_type": kind})
            await helper.join(public)
            await self.say(helper, public)
        self.ledger.note("bots and support accounts: their messages count, they are nobody")
        for name, erase in (("zoe", False), ("zack", True)):
            former = await self.api.register(name)
            await former.join(public)
            await self.say(former, public)
            await ann.admin("POST", f"/v1/deactivate/{quote(former.id)}", {"erase": erase})
        self.ledger.note("deactivated accounts, erased too: their messages stay, they are nobody")
        await self.register("locked", "suspended", "banned")
        for name in ("locked", "suspended", "banned"):
            await self[name].join(public)
            await self.say(self[name], public)
        await ann.admin("PUT", f"/v2/users/{quote(self['locked'].id)}", {"locked": True})
        await ann.admin("PUT", f"/v1/suspend/{quote(self['suspended'].id)}", {"suspend": True})
        await ann.admin("POST", f"/v1/users/{quote(self['banned'].id)}/shadow_ban", {})
        await self["banned"].send(public, text())
        self.ledger.note("locked, suspended, shadow-banned accounts: people; what the last say is not stored")

    async def rooms(self) -> None:
        ann, bob, eve, nina = self["ann"], self["bob"], self["eve"], self["nina"]
        encrypted = [{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
        direct = await self.room(ann, bob, is_direct=True, preset="trusted_private_chat", initial_state=encrypted)
        await self.say(ann, direct, ENCRYPTED, "m.room.encrypted")
        await self.say(bob, direct, ENCRYPTED, "m.room.encrypted")
        self.ledger.note("a direct, encrypted room: a conversation")
        alone = await self.room(eve)
        await self.say(eve, alone)
        self.ledger.note("a room of one, to oneself: a conversation")
        waiting = await eve.create(preset="private_chat", invite=[nina.id])
        self.ledger.rooms.add(waiting)
        self.ledger.note("a room whose only guest was invited and has not come: a conversation")
        empty = await self.room(eve, nina)
        await nina.leave(empty)
        self.ledger.note("a room without messages that one of two left: a conversation")
        space = await self.room(ann, bob, conversation=False, creation_content={"type": "m.space"})
        await ann.state(space, "m.space.child", {"via": ["example.org"]}, direct)
        await self.say(ann, space)
        self.ledger.note("a space: no conversation; what is said in it counts")
        left = await self.room(eve, nina)
        await self.say(eve, left)
        await self.say(nina, left)
        await nina.leave(left)
        await eve.leave(left)
        self.ledger.rooms.discard(left)
        self.ledger.note("a room that everybody left: no conversation, its messages stay")
        old = await self.room(ann, bob, room_version="10")
        await self.say(ann, old)
        new = str((await ann.call("POST", f"/rooms/{quote(old)}/upgrade", {"new_version": "12"}))["replacement_room"])
        self.ledger.rooms.discard(old)
        self.ledger.rooms.add(new)
        await self.say(ann, new)
        self.ledger.note("an upgraded room: one conversation, the messages of both count")
        for version in ("1", "6", "9", "11"):
            of_version = await self.room(ann, bob, room_version=version)
            event = await self.say(bob, of_version)
            await self.say(ann, of_version)
            await self.redact(bob, of_version, event)
        self.ledger.note("rooms of older versions")

    async def purges(self) -> None:
        ann, eve = self["ann"], self["eve"]
        room = await self.room(eve, ann)
        for _ in range(3):
            await self.say(eve, room)
        gone = await self.say(eve, room)
        await self.redact(eve, room, gone)
        last = await self.say(ann, room)
        body = {"purge_up_to_event_id": last, "delete_local_events": True}
        purge = (await ann.admin("POST", f"/v1/purge_history/{quote(room)}", body))["purge_id"]
        await self._until(lambda: ann.admin("GET", f"/v1/purge_history_status/{purge}"))
        self.ledger.purge_room(room, kept=1)
        self.ledger.note("a purged history, redacted messages in it: what is left counts")
        doomed = await self.room(eve, ann)
        await self.say(eve, doomed)
        await self.say(ann, doomed)
        done = (await ann.admin("DELETE", f"/v2/rooms/{quote(doomed)}", {"purge": True}))["delete_id"]
        await self._until(lambda: ann.admin("GET", f"/v2/rooms/delete_status/{done}"))
        self.ledger.purge_room(doomed)
        self.ledger.rooms.discard(doomed)
        self.ledger.note("a deleted room: 0 messages, no conversation")

    async def _until(self, ask: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        async with asyncio.timeout(60):
            while (status := (await ask())["status"]) != "complete":
                assert status != "failed", status
                await asyncio.sleep(0.1)


class FederatedDrive(SynapseDrive):
    """Two homeservers: what a person of the first fetches of the other's rooms is stored with negative numbers."""

    def __init__(self, server: Synapse, other: Synapse) -> None:
        super().__init__(server)
        self.other = other

    async def run(self, before_today: Callable[[], None] = lambda: None) -> None:
        yesterday, today = datetime(2026, 3, 9, 22, 0, tzinfo=UTC), datetime(2026, 3, 10, 9, 0, tzinfo=UTC)
        self.other.start(yesterday)
        self.ledger.day = yesterday.date()
        async with self.other.api() as there:
            rem = await there.register("rem")
            room = await rem.create(preset="public_chat", name="far away")
            for number in range(45):
                event = await self.say(rem, room)
                if number % 9 == 0:
                    await rem.send(room, edit(event))
                if number % 10 == 0:
                    await self.redact(rem, room, event)
            await self.say(rem, room, ENCRYPTED, "m.room.encrypted")
            await rem.send(room, relates("m.annotation", event, key="👍"), "m.reaction")
        self.other.stop()
        self.other.start(today)
        try:
            await self.on(today, lambda: self.meet(room))
        finally:
            self.other.stop()

    async def meet(self, room: str) -> None:
        """Somebody here joins the room there, reads all of it, and both write."""
        await self.register("ann", "lou")
        await self.make_admin("ann")
        ann, lou = self["ann"], self["lou"]
        await lou.join(room, server_name=self.other.server_name, via=self.other.server_name)
        self.ledger.rooms.add(room)
        where = {}
        while True:
            page = await lou.call("GET", f"/rooms/{quote(room)}/messages", dir="b", limit=20, **where)
            if "end" not in page:
                break
            where = {"from": page["end"]}
        self.ledger.note("the history of a joined room of another server, read to its start: its messages count")
        async with self.other.api() as there:
            rem = await there.sign_in("rem")
            for who in (rem, lou, rem, lou):
                event = await self.say(who, room)
                await self.seen(lou if who is rem else rem, room, event)
            event = await self.say(rem, room)
            await self.seen(lou, room, event)
            await self.seen(lou, room, await self.redact(rem, room, event))
            self.ledger.note("messages of people of the other server count; these people are nobody here")
            unseen = await rem.create(preset="private_chat", invite=[lou.id])
            await rem.send(unseen, text())
            async with asyncio.timeout(30):
                while unseen not in str(await lou.call("GET", "/sync", timeout=0)):  # noqa: ASYNC110  # its server
                    await asyncio.sleep(0.1)  # the server is asked, nothing tells
            self.ledger.note("an invitation from another server that nobody accepted: no conversation, 0 messages")
            private = await self.room(ann, lou)
            await self.say(ann, private)

    async def seen(self, who: Person, room: str, event: str) -> None:
        """Wait until the other server has it."""
        async with asyncio.timeout(30):
            while True:
                try:
                    await who.call("GET", f"/rooms/{quote(room)}/event/{quote(event)}")
                    return
                except Answer as answer:
                    if answer.status not in (403, 404):
                        raise
                await asyncio.sleep(0.1)
