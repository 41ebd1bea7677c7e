"""Who joined, left, types, no longer types: said once to the people here, whatever is repeated or lost on the way.

The server's functions publish each change of the whole cluster; what is announced here is a change of what people here
have been told. After an outage, and when nobody's entries can be missing at the server any more, the two are compared.

Tested in ``tests/broker/test_announcements.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import partial
from typing import Any, Final, Generic, TypeVar

from exporter.broker.connection import Connection, command
from exporter.broker.context import Context
from exporter.broker.frames import TypingRun
from exporter.broker.held_conversation import FRESH, HeldConversation

P = TypeVar("P")

CHUNK: Final = 500
"""Conversations that are subscribed to, or compared, in one go."""

LANES: Final = 8
"""So many of those are under way together: on a long way one after the other would take half a minute for 50,000."""

NAMES: Final = 10_000
"""So many names, of people who take part in them, end one of those early: the server cuts off whoever has it keep 32 MB
of answers, and no beat is answered before what was asked ahead of it."""

AGAIN: Final = 0.1
"""Seconds until it is looked again whether all nodes have told what they hold."""


class Announcements(Generic[P]):
    """What the people of one node have been told of the others, and telling them."""

    def __init__(self, context: Context[P]) -> None:
        self._loop = asyncio.get_running_loop()
        self._conversations, self._hub, self._local = context.held, context.hub, context.local
        self._functions, self._figures = context.functions, context.figures
        self._reconnecting, self._put_first, self._schedule = context.reconnecting, context.put_first, context.schedule
        self._timer: asyncio.TimerHandle | None = None

    def heard(self, held: HeldConversation[P], word: str, user: str) -> bool:
        """Announce it if it changes what people here have been told. What is so here, nobody elsewhere can deny.

        False: a newer release's word.
        """
        key = (held.conversation, user)
        if word == "J":
            if user in held.told:
                return True
            held.tell(user)
        elif word == "L":
            if user not in held.told or key in self._hub.participants:
                return True
            held.untell(user)
            if user in held.typing:  # what says the end of that may come behind
                held.typing.discard(user)
                self._local.announce("U", held.conversation, user)
        elif word == "T":
            if user in held.typing:
                return True
            held.typing.add(user)
        elif word == "U":
            if user not in held.typing or key in self._hub.typing:
                return True
            held.typing.discard(user)
        elif word in ("S", "O"):
            self._shares(held, word == "S", user)
            return True
        else:
            return False
        self._local.announce(word, held.conversation, user)
        return True

    def heard_from_afar(self, held: HeldConversation[P], word: str, user: str) -> bool:
        """From the broker. Of a user who takes part here and nowhere else this node knows better whether they type."""
        if word in ("T", "U") and self._only_here(held, user):
            word = self._types_here(held, user)
        return self.heard(held, word, user)

    def _only_here(self, held: HeldConversation[P], user: str) -> bool:
        here = held.only_here(user, self._reconnecting.connection)
        return here and (held.conversation, user) in self._hub.participants

    def _types_here(self, held: HeldConversation[P], user: str) -> str:
        return "T" if (held.conversation, user) in self._hub.typing else "U"

    def types_afar(self, held: HeldConversation[P], user: str, active: bool, frame: bytes) -> None:
        """A user of another node types, or no longer; of one who takes part here this node may know better."""
        now, typing = self._loop.time(), held.typing
        if now > held.fresh_until:
            held.hears_typing(user, now)
        else:  # as that would, without the call
            held.fresh.add(user)
        if (held.conversation, user) in self._hub.participants:
            self.heard_from_afar(held, "T" if active else "U", user)
        elif active is not (user in typing):
            (typing.add if active else typing.discard)(user)
            tell = self._local.tell  # a local name: docs/benchmarks.md
            tell(held.conversation, user, frame)

    def many_type_afar(self, held: HeldConversation[P], run: TypingRun) -> None:
        """The same of several: told in one piece, unless some of it is known here, or better known."""
        typing, participants, conversation = held.typing, self._hub.participants, held.conversation
        now, is_news = self._loop.time(), True
        for user, begins in zip(run.users, run.begins, strict=True):
            held.hears_typing(user, now)
            if begins is (user in typing) or (conversation, user) in participants:
                is_news = False
        if is_news:
            for user, ends in zip(run.users, run.ends, strict=True):
                (typing.add if ends else typing.discard)(user)
            self._local.tell(conversation, run.users[0], run.frames)  # none of them is here
        else:
            for user, active in run.each():
                self.heard_from_afar(held, "T" if active else "U", user)

    def _ask_again(self, held: HeldConversation[P]) -> None:
        held.asking = False
        if self._conversations.get(held.conversation) is held:
            self.ask_typists(held)

    def _shares(self, held: HeldConversation[P], several: bool, user: str) -> None:
        """A user takes part on several nodes, or on one only again."""
        if held.connection is not self._reconnecting.connection:
            return
        (held.shared.add if several else held.shared.discard)(user)
        if several and (held.conversation, user) in self._hub.participants:
            self._put_first()  # what frames say of their typing goes before what the server will say of it
            # What came of their typing elsewhere before this was known has been passed over.
            self.ask_typists(held)
        elif self._only_here(held, user):
            self.heard(held, self._types_here(held, user), user)  # what is still to come of it is passed over

    def ask_typists(self, held: HeldConversation[P]) -> None:
        """What people here know of who types may be wrong: ask the server."""
        connection = self._reconnecting.connection
        if connection is not None:
            told = partial(self._compared, held, "TU", held.typing)
            connection.queue(self._functions.typists(held.conversation), 1, told)
            self._schedule()

    def seeded(self, held: HeldConversation[P], reply: Any) -> None:
        """The users who take part, read behind the subscription."""
        users = names(reply)
        if held.conversation in self._hub.conversations:  # it took longer than a join waits
            for user in users - held.told:
                self.heard(held, "J", user)
        else:
            held.told |= users
            held.listed = None

    # --- comparing ----------------------------------------------------------------------------------------

    def subscribe(self, connection: Connection, done: Callable[[], None]) -> None:
        """Subscribe to everything that is held, chunk by chunk, and compare; then ``done``."""
        self._go_through(connection, True, done)

    def compare_in(self, seconds: float) -> None:
        """Then nobody's entries can be missing any more: to be compared."""
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._compare)

    def connection_lost(self, ends: Iterable[tuple[str, str, str]]) -> None:
        """The server will not say these soon: people here are told now, as they are of what ends from now on."""
        for kind, conversation, user in ends:
            held = self._conversations.get(conversation)
            if held is not None and (conversation, user) not in self._hub.participants:
                self.heard(held, "L", user)
            elif held is not None and kind == "t":
                self.heard(held, "U", user)

    def close(self) -> None:
        """No more comparisons."""
        if self._timer is not None:
            self._timer.cancel()

    def _compare(self) -> None:
        self._timer = None
        connection = self._reconnecting.connection
        if connection is None:
            return  # the next connection begins with a comparison
        if self._some_may_be_missing():
            return
        self._go_through(connection, False, lambda: None)

    def _go_through(self, connection: Connection, subscribing: bool, done: Callable[[], None]) -> None:
        held, lanes = list(self._conversations.values()), list(range(LANES))
        rest = (one for one in held if self._conversations.get(one.conversation) is one)  # then, not now

        def ended() -> None:
            lanes.pop()
            if not lanes:
                done()

        for _ in range(LANES):
            self._go_on(connection, rest, subscribing, ended)

    def _go_on(
        self,
        connection: Connection,
        rest: Iterator[HeldConversation[P]],
        subscribing: bool,
        done: Callable[[], None],
        before: Sequence[HeldConversation[P]] = (),
        reply: Any = None,
    ) -> None:
        if not connection.open:
            return
        chunk = _chunk(rest, before)
        if not chunk:
            done()
            return
        if subscribing:
            connection.queue(command("SSUBSCRIBE", *(held.channel for held in chunk)), 0, ignore)
        for held in chunk:
            name = held.conversation
            connection.queue(self._functions.participants(name), 1, partial(self._compared, held, "JL", held.told))
            connection.queue(self._functions.typists(name), 1, partial(self._compared, held, "TU", held.typing))
        connection.queue(command("PING"), 1, partial(self._go_on, connection, rest, subscribing, done, chunk))
        connection.flush()

    def _compared(self, held: HeldConversation[P], words: str, told: set[str], reply: Any) -> None:
        if self._conversations.get(held.conversation) is not held:
            return
        there = names(reply)
        unknown: Set[str] = frozenset()
        if words == "TU" and (unknown := (there ^ told) & held.heard_lately(self._loop.time())) and not held.asking:
            held.asking = True
            self._loop.call_later(FRESH, self._ask_again, held)
        for user in there - told - unknown:
            self.heard_from_afar(held, words[0], user)
        if self._some_may_be_missing():
            return
        for user in told - there - unknown:
            self.heard_from_afar(held, words[1], user)

    def _some_may_be_missing(self) -> bool:
        """Have some nodes not come back yet, perhaps this one? Then it is compared again later."""
        figures = self._figures()
        if figures is not None and not figures.unsettled and not figures.syncing:
            return False
        self.compare_in(AGAIN if figures is None else figures.unsettled / 1000 + AGAIN)
        return True


def _chunk(rest: Iterator[HeldConversation[P]], before: Sequence[HeldConversation[P]]) -> list[HeldConversation[P]]:
    """A lane's next one: by how many are known to take part, and by how many turned out to in the one before."""
    found = sum(len(held.told) for held in before)
    most = min(CHUNK, 2 * len(before), len(before) * NAMES // max(1, found)) if before else CHUNK // LANES
    chunk, known = [], 0
    for held in rest:
        chunk.append(held)
        known += len(held.told)
        if len(chunk) >= most or known >= NAMES:
            break
    return chunk


def names(reply: Iterable[bytes]) -> set[str]:
    """A set of names, as the server answers it."""
    return {name.decode(errors="replace") for name in reply}


def ignore(reply: Any) -> None:
    """A command without an answer."""
