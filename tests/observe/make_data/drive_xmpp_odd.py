"""Rarer things that people do on an XMPP server, without a room that stays: archives that are off, names used again."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime

from tests.observe.make_data.drive_xmpp import MUC_ORG, NET, ORG, Drive
from tests.servers.xmpp import Device

ANONYMOUS = "anonymous.example.org"


class OddDrive(Drive):
    """The same people, other habits."""

    async def run(self) -> None:
        await self.on(datetime(2026, 2, 28, 9, 0, tzinfo=UTC), self.ten_days_ago)

    async def ten_days_ago(self) -> None:
        """Before some chose not to keep what they write."""
        await self.register("ann", "bob", "eve", "leo", "max", "again", "team")
        await self.register("dan", host=NET)
        ann, bob, leo = await self.online("ann"), await self.online("bob"), await self.online("leo")
        for _ in range(2):
            await self.chat(ann, bob)
            await self.chat(leo, ann)
            await self.chat(ann, leo)

    async def today(self) -> None:
        for case in (self.archives_off, self.archive_late, self.same_name_again, self.room_passes, self.stanzas):
            async with AsyncExitStack() as self.stack:
                await case()

    async def archive(self, device: Device, keep: str) -> None:
        """What this person's archive takes from now on: ``always`` or ``never``."""
        await device.iq(
            "set", f"<prefs xmlns='urn:xmpp:mam:2' default='{keep}'><always/><never/></prefs>", device.jid.split("/")[0]
        )

    async def unkept(self, sender: Device, to: Device, *keepers: Device) -> None:
        """A message of which only these have a copy."""
        await self.chat(sender, to, count=False)
        me, other = f"{sender.user}@{sender.host}", f"{to.user}@{to.host}"
        said = self.ledger.say(
            None if me == other else "|".join(sorted((me, other))), me, {f"{d.user}@{d.host}" for d in keepers}
        )
        said.gone = not said.keepers

    async def archives_off(self) -> None:
        ann, leo, max_ = await self.online("ann"), await self.online("leo"), await self.online("max")
        dan = await self.online("dan", NET)
        await self.archive(leo, "never")
        await self.archive(max_, "never")
        for _ in range(3):
            await self.unkept(leo, ann, ann)
        await self.unkept(ann, leo, ann)
        await self.unkept(leo, dan, dan)
        await self.unkept(leo, max_)
        await self.unkept(leo, leo)
        self.ledger.note("people who let the server keep nothing: what others keep of their messages counts, once")

    async def archive_late(self) -> None:
        ann, max_, eve = await self.online("ann"), await self.online("max"), await self.online("eve")
        await self.unkept(max_, ann, ann)
        await self.archive(max_, "always")
        await self.chat(max_, ann)
        await self.chat(ann, max_)
        await self.chat(max_, eve)
        await self.archive(max_, "never")
        await self.unkept(max_, ann, ann)
        self.ledger.note("an archive that was switched on and off again: each message once")

    async def same_name_again(self) -> None:
        ann, bob, again = await self.online("ann"), await self.online("bob"), await self.online("again")
        await self.chat(again, ann)
        await self.chat(again, ann)
        await self.chat(ann, again)
        await self.chat(again, bob)
        await self.chat(again, again)
        await self.unregister(again)
        await self.register("again")
        anew = await self.online("again", resource="new")
        await self.chat(anew, ann)
        await self.chat(ann, anew)
        self.ledger.note("an account that was deleted and made again: what others kept of the first counts")

    async def room_passes(self) -> None:
        ann, eve, team = await self.online("ann"), await self.online("eve"), await self.online("team")
        room = f"team@{MUC_ORG}"
        await self.open_room(room, (ann, "ann"), (eve, "eve"), (team, "team"), persistent=False)
        await self.speak(ann, room)
        await self.put(ann, f"{room}/eve", "<body>psst</body>", seen_by=(eve,))
        self.ledger.say(None, f"ann@{ORG}", {f"ann@{ORG}", f"eve@{ORG}"})
        await self.put(eve, f"{room}/ann", "<body>yes?</body>", seen_by=(ann,))
        self.ledger.say(None, f"eve@{ORG}", {f"ann@{ORG}", f"eve@{ORG}"})
        for device, nick in ((ann, "ann"), (eve, "eve"), (team, "team")):
            await self.leave(device, room, nick)
        self.ledger.close_room(room)
        await self.chat(team, ann)
        self.ledger.note("private messages in a room that is gone, and no room is left: 1 each, no conversation")

    async def stanzas(self) -> None:
        ann, bob = await self.online("ann"), await self.online("bob", resource="ann@example.org/x' from='ann")
        for attributes in (
            f"to='bob@{ORG}' type='chat' id=\"it's > &lt;id&gt; from='eve@example.org/x' \"",
            f"id='s2' type='chat' from='{ann.jid}' to='bob@{ORG}'",
            f"xml:lang='de' to='bob@{ORG}' type='chat' id='s3'",
        ):
            ann.say(f"<message {attributes}><body>line\n'two'> from='eve@{ORG}/x' &amp; so on\t</body></message>")
            await bob.receive(lambda element: element.find("{jabber:client}body") is not None)
            await ann.settled()
            self.ledger.say(f"ann@{ORG}|bob@{ORG}", f"ann@{ORG}", {f"ann@{ORG}", f"bob@{ORG}"})
        await self.chat(bob, ann)
        await self.chat(ann, bob, address=bob.jid)
        self.ledger.note("attributes in any order and with any text, a resource that looks like an address: 1 each")

    async def visitor(self, stack: AsyncExitStack) -> None:
        """Somebody without an account, who is there when the database is copied."""
        self.stack = stack
        ann = await self.online("ann", resource="z")
        visitor = await self.online("", ANONYMOUS, anonymous=True)
        await self.chat(visitor, ann)
        await self.chat(ann, visitor, address=visitor.jid)
        self.ledger.note("a visitor of an anonymous host: the messages count, the visitor is nobody")
        await self.rest()
