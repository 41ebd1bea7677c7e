"""What people do on an XMPP server: each case once on the right day, and the ledger is told what it amounts to.

The history lies around the windows of 1, 7 and 30 UTC days that end on the day of ``NOW``; the server is started anew
on each day, with its clock set.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

import pytest

from tests.observe.make_data.ledger import Ledger
from tests.servers.xmpp import Device, Refused
from tests.servers.xmpp_servers import Ejabberd, Prosody

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
ORG, NET = "example.org", "example.net"
MUC_ORG, MUC_NET = f"conference.{ORG}", f"conference.{NET}"

HINT = "<store xmlns='urn:xmpp:hints'/>"
OMEMO = (
    "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'><key rid='2'>AAAA</key><iv>BBBB</iv></header>"
    "<payload>CCCC</payload></encrypted>"
)
KEY_TRANSPORT = (
    "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'><key rid='2'>AAAA</key><iv>BBBB</iv></header>"
    "</encrypted>"
)
OMEMO_TEXT = "I sent you an OMEMO encrypted message but your client doesn't seem to support that."
FORM = "http://jabber.org/protocol/muc#roomconfig"

_numbers = itertools.count(1)


class Drive:
    """People on one server. ``several`` says whether one name may exist on two virtual hosts."""

    def __init__(self, server: Ejabberd | Prosody, ledger: Ledger) -> None:
        self.server = server
        self.ledger = ledger
        self.ejabberd = isinstance(server, Ejabberd)
        self.same_name_twice = not isinstance(server, Ejabberd) or server.new_schema
        self.stack = AsyncExitStack()

    # -- people ------------------------------------------------------------------------------------------------------

    async def register(self, *names: str, host: str = ORG) -> None:
        """Accounts."""
        for name in names:
            await Device(self.server.port, name, host).register()
            self.ledger.people.add(f"{name}@{host}")

    async def online(self, name: str, host: str = ORG, resource: str = "device", **options: Any) -> Device:
        """Somebody signs in; until the end of the day."""
        device = Device(self.server.port, name, host)
        await device.connect(resource, **options)
        self.stack.push_async_callback(device.close)
        return device

    async def unregister(self, device: Device) -> None:
        """An account is deleted by its owner."""
        await device.unregister()
        self.ledger.unregister(f"{device.user}@{device.host}")

    # -- chats -------------------------------------------------------------------------------------------------------

    async def put(
        self, sender: Device, to: str, inner: str, *, kind: str = "chat", seen_by: tuple[Device, ...] = ()
    ) -> None:
        """A stanza, until the server and those who get it have it."""
        name = f"m{next(_numbers)}"
        attribute = f" type='{kind}'" if kind else ""
        sender.say(f"<message to={quoteattr(to)} id='{name}'{attribute}>{inner}</message>")
        for device in seen_by:
            await device.receive(lambda element: element.get("id") == name, name)
        await sender.settled()

    async def chat(
        self, sender: Device, to: Device | str, body: str = "hello", *, inner: str | None = None, kind: str = "chat",
        address: str | None = None, count: bool = True, offline: bool = False,
    ) -> None:  # fmt: skip
        """One message (unless ``count`` is false: a stanza that is none) from one person to another."""
        me = f"{sender.user}@{sender.host}"
        if isinstance(to, Device):
            other, seen_by = f"{to.user}@{to.host}", () if offline else (to,)
        else:
            other, seen_by = to, ()
        inner = f"<body>{escape(body)}</body>" if inner is None else inner
        await self.put(sender, address or other, inner, kind=kind, seen_by=seen_by)
        if count:
            pair = None if me == other else "|".join(sorted((me, other)))
            self.ledger.say(pair, me, {me, other} & self.ledger.people or {me})

    # -- rooms -------------------------------------------------------------------------------------------------------

    async def enter(self, device: Device, room: str, nick: str) -> None:
        """Join a room, without its history."""
        device.say(
            f"<presence to={quoteattr(f'{room}/{nick}')}><x xmlns='http://jabber.org/protocol/muc'>"
            "<history maxstanzas='0'/></x></presence>"
        )
        await device.receive(_self_presence(room), f"having entered {room}")
        await device.receive(lambda e: e.tag.endswith("}message") and e.find("{jabber:client}subject") is not None)

    async def leave(self, device: Device, room: str, nick: str) -> None:
        """Leave it."""
        device.say(f"<presence type='unavailable' to={quoteattr(f'{room}/{nick}')}/>")
        await device.receive(_self_presence(room), f"having left {room}")

    async def open_room(self, room: str, *people: tuple[Device, str], persistent: bool) -> None:
        """The first makes the room, the others enter."""
        owner = people[0][0]
        for device, nick in people:
            await self.enter(device, room, nick)
            if device is owner:
                fields = f"<field var='FORM_TYPE'><value>{FORM}</value></field>" + "".join(
                    f"<field var='{name}'><value>{int(value)}</value></field>"
                    for name, value in (
                        ("muc#roomconfig_persistentroom", persistent),
                        *([("mam", True), ("allow_subscription", True)] if self.ejabberd else []),
                    )
                )
                await owner.iq(
                    "set",
                    "<query xmlns='http://jabber.org/protocol/muc#owner'>"
                    f"<x xmlns='jabber:x:data' type='submit'>{fields}</x></query>",
                    room,
                )
        if persistent:
            self.ledger.rooms.add(room)

    async def speak(
        self, device: Device, room: str, body: str = "hello", *, inner: str | None = None, count: bool = True
    ) -> None:
        """A message in a room, until the room has sent it back."""
        inner = f"<body>{escape(body)}</body>" if inner is None else inner
        await self.put(device, room, inner, kind="groupchat", seen_by=(device,))
        if count:
            self.ledger.say(room, f"{device.user}@{device.host}", {room}, in_room=True)

    # -- days --------------------------------------------------------------------------------------------------------

    async def on(self, when: datetime, what: Callable[[], Any], *, stop: bool = True) -> None:
        """Start the server at this time, let people do something, and stop it."""
        self.server.start(when)
        self.ledger.day = when.date()
        try:
            async with AsyncExitStack() as self.stack:
                await what()
                await self.rest()
        finally:
            if stop:
                self.server.stop()

    async def rest(self) -> None:
        """Let the server write what it has taken: copies for those who are offline are nobody's to wait for."""
        await asyncio.sleep(1)

    async def run(self) -> None:
        """The whole history."""
        first = datetime(2026, 2, 8, 9, 0, tzinfo=UTC)
        await self.on(first, self.thirty_days_ago)
        await self.on(datetime(2026, 2, 9, 0, 0, 20, tzinfo=UTC), lambda: self.one("hal", 2))
        await self.on(datetime(2026, 3, 3, 23, 58, 0, tzinfo=UTC), self.seven_days_ago)
        await self.on(datetime(2026, 3, 4, 0, 0, 20, tzinfo=UTC), lambda: self.one("joe", 1))
        await self.on(datetime(2026, 3, 9, 23, 58, 0, tzinfo=UTC), lambda: self.one("kim", 3))
        await self.on(datetime(2026, 3, 10, 0, 0, 20, tzinfo=UTC), lambda: self.one("lea", 1))

    async def one(self, name: str, times: int) -> None:
        """A person who writes on this day only."""
        await self.register(name)
        someone, ann = await self.online(name), await self.online("ann")
        for _ in range(times):
            await self.chat(someone, ann)

    async def thirty_days_ago(self) -> None:
        """Outside every window."""
        await self.register("ann", "bob", "eve", "nina", "gus", "gone", "gone.too", "silent")
        await self.register("dan", host=NET)
        ann, bob, gus = await self.online("ann"), await self.online("bob"), await self.online("gus")
        for _ in range(3):
            await self.chat(ann, bob)
            await self.chat(bob, ann)
        await self.chat(gus, ann)
        await self.open_room(f"old@{MUC_ORG}", (gus, "gus"), persistent=True)
        await self.speak(gus, f"old@{MUC_ORG}")

    async def seven_days_ago(self) -> None:
        """Outside the last seven days, and rooms that do not last."""
        await self.one("ivy", 2)
        ann, bob = await self.online("ann", resource="x"), await self.online("bob", resource="x")
        room = f"passing@{MUC_ORG}"
        await self.open_room(room, (ann, "a"), (bob, "b"), persistent=False)
        await self.speak(ann, room)
        await self.speak(bob, room)
        await self.leave(ann, room, "a")
        await self.leave(bob, room, "b")
        self.ledger.close_room(room)
        self.ledger.note("a temporary room that everybody left: 0 messages, no conversation")

    # -- today -------------------------------------------------------------------------------------------------------

    async def today(self) -> None:
        """All special cases."""
        for case in (
            self.chats, self.not_messages, self.encrypted, self.changed, self.absent_people, self.names,
            self.oneself, self.hosts, self.rooms, self.room_extras, self.gone_accounts,
        ):  # fmt: skip
            async with AsyncExitStack() as self.stack:
                await case()

    async def chats(self) -> None:
        ann = await self.online("ann", carbons=True)
        await self.online("ann", resource="phone", carbons=True)
        bob = await self.online("bob")
        await self.chat(ann, bob)
        await self.chat(bob, ann)
        self.ledger.note("a chat with carbons to a second device: 1 each")
        await self.chat(ann, bob, kind="normal")
        await self.chat(ann, bob, kind="")
        self.ledger.note("type normal, and no type: 1 each")
        await self.chat(ann, bob, inner="<body>hello</body><body xml:lang='de'>hallo</body>")
        await self.chat(ann, bob, inner="<body xml:lang='de'>hallo</body>")
        await self.chat(ann, bob, inner="<subject>about</subject><body>hello</body>")
        await self.chat(
            ann, bob,
            inner="<body>https://example.org/a.png</body><x xmlns='jabber:x:oob'><url>https://example.org/a.png</url></x>",
        )  # fmt: skip
        self.ledger.note("bodies in several languages, with a subject, a shared file: 1 each")
        await self.chat(
            ann, bob,
            "<replace id='1' xmlns='urn:xmpp:message-correct:0'/> xmlns='urn:xmpp:message-retract:1' "
            "it's \"quoted\" & <b>",
        )  # fmt: skip
        self.ledger.note("a body that quotes the XML of a correction: 1")
        await self.chat(ann, bob, "日本語 🙂 " + "long " * 800)
        await self.chat(
            bob, ann,
            inner="<body>see this</body><forwarded xmlns='urn:xmpp:forward:0'>"
            "<message xmlns='jabber:client' from='ann@example.org/device' to='bob@example.org' type='chat'>"
            "<body>hello</body></message></forwarded>",
        )  # fmt: skip
        self.ledger.note("a forwarded message of the other's within a message: 1")

    async def not_messages(self) -> None:
        ann, bob = await self.online("ann"), await self.online("bob")
        none = [
            "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
            "<received xmlns='urn:xmpp:receipts' id='m1'/>",
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>",
            f"<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>{HINT}",
            f"<reactions xmlns='urn:xmpp:reactions:0' id='m1'><reaction>👍</reaction></reactions>{HINT}",
            f"<x xmlns='jabber:x:conference' jid='team@{MUC_ORG}'/>",
            HINT,
        ]
        for inner in none:
            await self.chat(ann, bob, inner=inner, count=False)
        await self.chat(ann, bob, kind="headline", count=False)
        await self.chat(ann, bob, inner="<body>x</body><no-store xmlns='urn:xmpp:hints'/>", count=False)
        self.ledger.note("typing, receipts, markers, reactions, hints, invitations, headlines, no-store: 0")

    async def encrypted(self) -> None:
        ann, bob = await self.online("ann"), await self.online("bob")
        await self.chat(ann, bob, inner=f"{OMEMO}<body>{OMEMO_TEXT}</body>")
        await self.chat(ann, bob, inner=f"{OMEMO}{HINT}")
        self.ledger.note("OMEMO with a fallback body, and without one but with a store hint: 1 each")
        await self.chat(ann, bob, inner=f"{KEY_TRANSPORT}{HINT}", count=False)
        self.ledger.note("OMEMO key transport: 0")
        await self.chat(
            ann, bob,
            inner=f"{OMEMO}<body>{OMEMO_TEXT}</body><replace id='m1' xmlns='urn:xmpp:message-correct:0'/>", count=False,
        )  # fmt: skip
        self.ledger.note("an encrypted correction: 0")

    async def changed(self) -> None:
        ann, bob = await self.online("ann"), await self.online("bob")
        await self.chat(ann, bob, "helo")
        for replace in (
            "<replace id='m1' xmlns='urn:xmpp:message-correct:0'/>",
            "<replace xmlns='urn:xmpp:message-correct:0' id='m1'/>",
            '<replace xmlns="urn:xmpp:message-correct:0" id="m1"/>',
        ):
            await self.chat(ann, bob, inner=f"<body>hello</body>{replace}", count=False)
            await self.chat(ann, bob, inner=f"{replace}<body>hello</body>", count=False)
        self.ledger.note("corrections, attributes in any order: 0")
        await self.chat(ann, bob, "to be retracted")
        await self.chat(
            ann, bob,
            inner="<apply-to id='m1' xmlns='urn:xmpp:fasten:0'><retract xmlns='urn:xmpp:message-retract:0'/></apply-to>"
            f"<body>This person attempted to retract a previous message</body>{HINT}", count=False,
        )  # fmt: skip
        await self.chat(
            ann, bob,
            inner=f"<retract id='m1' xmlns='urn:xmpp:message-retract:1'/><body>retracted</body>{HINT}", count=False,
        )  # fmt: skip
        self.ledger.note("a retraction: 0; what it retracts stays in the archive: 1")

    async def absent_people(self) -> None:
        ann, bob = await self.online("ann"), await self.online("bob")
        await self.chat(ann, f"nina@{ORG}")
        await self.chat(bob, f"nina@{ORG}")
        nina = await self.online("nina")
        await nina.receive(lambda element: element.find("{jabber:client}body") is not None, "offline message")
        self.ledger.note("to somebody who is offline: 1; its delivery at login adds nothing")
        await self.chat(ann, f"nobody@{ORG}")
        self.ledger.note("to somebody who does not exist: 1, and a conversation")
        await self.chat(ann, "friend@remote.example")
        self.ledger.note("to somebody of another server: 1, and a conversation")

    async def names(self) -> None:
        """Addresses as they may be: escaped, of other scripts, with wildcards, in capitals, with odd resources."""
        odd = ["o\\27hara", "rock\\26roll", "émile", "用户", "x_y", "xay", "100%", "a" * 120, "dot.ted-name", "123"]
        await self.register(*odd)
        ann = await self.online("ann", resource='it\'s & <her> "phone"/2@home')
        bob = await self.online("bob", resource="bob's <desk>")
        for name in odd:
            device = await self.online(name, resource=f"{name} 'q' > &")
            await self.chat(device, ann, address=f"ann@{ORG}")
            await self.chat(ann, device, address=device.jid)
        self.ledger.note("names with escapes, wildcards and other scripts; resources with quotes and brackets: 1 each")
        await self.chat(ann, bob, address="BOB@Example.ORG")
        await self.chat(bob, ann, address=ann.jid)
        await self.chat(ann, bob, address=bob.jid)
        self.ledger.note("an address in capitals, and full addresses: 1 each, no further conversation")

    async def oneself(self) -> None:
        eve = await self.online("eve")
        second = await self.online("eve", resource="phone")
        await self.chat(eve, eve)
        await self.chat(eve, eve)
        await self.chat(eve, second, address=second.jid)
        self.ledger.note("notes to oneself, also to one's other device: 1 each, no conversation")

    async def hosts(self) -> None:
        ann, bob = await self.online("ann"), await self.online("bob")
        dan = await self.online("dan", NET)
        await self.chat(dan, ann)
        await self.chat(ann, dan)
        await self.chat(dan, bob)
        self.ledger.note("two virtual hosts, people of one write to people of the other: 1 each")
        if self.same_name_twice:
            await self.register("ann", "eve", host=NET)
            other = await self.online("ann", NET)
            await self.chat(other, ann)
            await self.chat(ann, other)
            await self.chat(other, bob)
            await self.chat(other, other)
            self.ledger.note("the same name on two hosts: two people, a conversation between them")

    async def rooms(self) -> None:
        ann, bob, eve = await self.online("ann"), await self.online("bob"), await self.online("eve")
        dan = await self.online("dan", NET)
        team = f"team@{MUC_ORG}"
        await self.open_room(team, (ann, "ann"), (bob, "O'Brien & <Co>"), (eve, "a/b@c"), persistent=True)
        for device in (ann, bob, eve, ann):
            await self.speak(device, team)
        await self.speak(bob, team, inner="<subject>It's a subject</subject>", count=False)
        self.ledger.note("a room of three: 1 for each message, 0 for a subject")
        await self.speak(ann, team, inner=f"{OMEMO}<body>{OMEMO_TEXT}</body>")
        await self.speak(
            ann, team, inner="<body>hello</body><replace id='m1' xmlns='urn:xmpp:message-correct:0'/>", count=False
        )
        await self.speak(
            ann, team,
            inner=f"<reactions xmlns='urn:xmpp:reactions:0' id='m1'><reaction>👍</reaction></reactions>{HINT}",
            count=False,
        )  # fmt: skip
        await self.put(
            ann, f"{team}/a/b@c", "<body>psst</body><x xmlns='http://jabber.org/protocol/muc#user'/>", seen_by=(eve,)
        )
        self.ledger.say(None, f"ann@{ORG}", {f"ann@{ORG}", f"eve@{ORG}"})
        await self.put(eve, f"{team}/ann", "<body>yes?</body>", seen_by=(ann,))
        self.ledger.say(None, f"eve@{ORG}", {f"ann@{ORG}", f"eve@{ORG}"})
        self.ledger.note("private messages within a room: 1 each, no conversation")
        await self.put(
            ann, team,
            f"<x xmlns='http://jabber.org/protocol/muc#user'><invite to='nina@{ORG}'><reason>now</reason></invite></x>",
            kind="",
        )  # fmt: skip
        self.ledger.note("a mediated invitation: 0")
        other = f"team@{MUC_NET}"
        await self.open_room(other, (dan, "dan"), (ann, "ann"), persistent=True)
        await self.speak(dan, other)
        await self.speak(ann, other)
        self.ledger.note("a room of the same name on another host: a conversation of its own")
        await self.open_room(f"empty@{MUC_ORG}", (ann, "ann"), persistent=True)
        self.ledger.note("a persistent room without messages: a conversation")
        for name in ("it\\27s\\20a\\26b", "50%_off", "комната", "team2"):
            await self.open_room(f"{name}@{MUC_ORG}", (eve, "eve"), persistent=True)
            await self.speak(eve, f"{name}@{MUC_ORG}")
        doomed = f"doomed@{MUC_ORG}"
        await self.open_room(doomed, (eve, "eve"), persistent=True)
        await self.speak(eve, doomed)
        await eve.iq("set", "<query xmlns='http://jabber.org/protocol/muc#owner'><destroy/></query>", doomed)
        self.ledger.close_room(doomed)
        self.ledger.note("a room that was destroyed: 0 messages, no conversation")

    async def room_extras(self) -> None:
        """MucSub (ejabberd): a subscriber who is not in the room gets copies, which are no further messages."""
        if not self.ejabberd:
            return
        ann, nina, bob = await self.online("ann"), await self.online("nina"), await self.online("bob")
        room = f"subscribed@{MUC_ORG}"
        await self.open_room(room, (ann, "ann"), persistent=True)
        for device in (nina, bob):
            await device.iq(
                "set",
                f"<subscribe xmlns='urn:xmpp:mucsub:0' nick='{device.user}'>"
                "<event node='urn:xmpp:mucsub:nodes:messages'/><event node='urn:xmpp:mucsub:nodes:participants'/>"
                "</subscribe>",
                room,
            )
        await self.speak(ann, room)
        await self.speak(ann, room, inner=f"{OMEMO}<body>{OMEMO_TEXT}</body>")
        for _ in range(2):
            await nina.receive(lambda e: e.find("{http://jabber.org/protocol/pubsub#event}event") is not None, "event")
        self.ledger.note("a room with MucSub subscribers: 1 for each message, their copies 0")

    async def gone_accounts(self) -> None:
        ann, gone, too = await self.online("ann"), await self.online("gone"), await self.online("gone.too")
        await self.chat(gone, ann)
        await self.chat(ann, gone)
        await self.chat(gone, gone)
        await self.chat(gone, too)
        await self.chat(too, gone)
        await self.chat(gone, f"nobody@{ORG}")
        await self.unregister(gone)
        await self.unregister(too)
        self.ledger.note("deleted accounts: what others keep of them stays, the rest is gone; they are nobody")
        with pytest.raises(Refused):
            await self.online("gone")

    async def living_room(self, stack: AsyncExitStack) -> None:
        """A temporary room that has people in it when the database is copied."""
        self.stack = stack
        ann, bob = await self.online("ann", resource="y"), await self.online("bob", resource="y")
        room = f"living@{MUC_ORG}"
        await self.open_room(room, (ann, "a"), (bob, "b"), persistent=False)
        await self.speak(ann, room)
        await self.speak(bob, room)
        self.ledger.note("a temporary room with people in it: its messages count, and it is a conversation")
        await self.rest()


def _self_presence(room: str) -> Callable[[Element], bool]:
    def wanted(element: Element) -> bool:
        return (
            element.tag.endswith("}presence")
            and (element.get("from") or "").partition("/")[0] == room
            and (
                element.get("type") == "error"
                or any(
                    status.get("code") == "110"
                    for status in element.iter("{http://jabber.org/protocol/muc#user}status")
                )
            )
        )

    return wanted
