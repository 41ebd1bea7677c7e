"""The conversations that a node holds: that somebody here has joined, or is about to. Knows no frame.

A conversation is held from before the first join's question to the database, so that nothing falls between its answer
and what comes of it from other nodes, until the last one has left.

Tested in ``tests/broker/test_redis.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from exporter.broker.announcements import Announcements, ignore
from exporter.broker.connection import Connection, command
from exporter.broker.context import Context
from exporter.broker.held_conversation import HeldConversation
from exporter.broker.ordering import Ordering
from exporter.core.records import Membership

P = TypeVar("P")

STORM: Final = 8
"""So many joins under way here at once: then subscriptions wait for each other, too."""
PAUSE: Final = 0.005
"""Seconds between two subscriptions in a storm: each is a write that wakes the server, and an answer that wakes us."""
SUBSCRIBE_TIMEOUT: Final = 0.25
"""Seconds that a join waits for the subscription; then it goes on as without a broker."""


class Numbers(NamedTuple):
    """Of a conversation, before the database is asked: what has come since is newer than the answer may be."""

    epoch: object
    upto: int
    doubts: int


class HeldConversations(Generic[P]):
    """Holding a conversation on one node, and letting go of it.

    ``on_late`` is called when what lasts may have been missed.
    """

    def __init__(
        self,
        context: Context[P],
        ordering: Ordering[P],
        announcements: Announcements[P],
        on_late: Callable[[Connection], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._held, self._by_channel, self._hub = context.held, context.by_channel, context.hub
        self._local = context.local
        self._functions, self._ordering, self._announcements = context.functions, ordering, announcements
        self._reconnecting, self._schedule = context.reconnecting, context.schedule
        self.new: list[HeldConversation[P]] = []  # to be subscribed to
        self._subscribe_at = 0.0  # not before, in a storm
        self._joins = 0  # under way
        self._on_late = on_late
        self._late: asyncio.TimerHandle | None = None
        self._awaited: set[HeldConversation[P]] = set()  # whose subscription is waited for

    def hold(self, conversation: str, ready: Callable[[], object]) -> None:
        """Somebody is about to join: ``ready`` is called when nothing of the conversation can be missed any more."""
        held = self._held.get(conversation)
        if held is None:
            channel = self._functions.channel(conversation).encode()
            connection = self._reconnecting.connection
            held = HeldConversation(conversation, channel, connection)
            self._held[conversation] = self._by_channel[channel] = held
            if connection is None:
                held.waiting = None
            else:
                self._awaited.add(held)
                self.new.append(held)
                if len(self.new) == 1:
                    self._subscribe_in(self._subscribe_at - self._loop.time() if self._joins >= STORM else 0.0)
        held.joins += 1
        self._joins += 1
        if held.waiting is None:
            ready()
        else:
            held.waiting.append(ready)

    def _subscribe_in(self, seconds: float) -> None:
        if seconds > 0:
            self._loop.call_later(seconds, self._schedule)
        else:
            self._schedule()

    def subscribe(self, connection: Connection) -> None:
        """To what is ``new``: in one command, and who takes part there is asked behind it."""
        new, self.new = self.new, []
        asked = [self._functions.participants(held.conversation) for held in new]
        connection.queue(command("SSUBSCRIBE", *(held.channel for held in new)), 0, ignore)
        connection.queue(b"".join(asked), len(new), partial(self._seeded, iter(new)))
        self._subscribe_at = self._loop.time() + PAUSE
        self._loop.call_later(SUBSCRIBE_TIMEOUT, self._are_ready, new)

    def _seeded(self, asked: Iterator[HeldConversation[P]], reply: Any) -> None:
        held = next(asked)
        if self._held.get(held.conversation) is held:  # else let go of meanwhile, and perhaps held anew
            self._announcements.seeded(held, reply)
            if held.waiting is None:  # it took longer than a join waits
                self._look_back(held)
        self._is_ready(held)

    def _look_back(self, held: HeldConversation[P]) -> None:
        """What was published before the subscription, after somebody here had joined, is asked of the database."""
        held.late = held.joins > 0  # what these have asked it may be older, too
        users = self._hub.participants_of(held.conversation)
        if users:
            self._local.examine([(held.conversation, user) for user in users])
            if self._late is None:
                self._late = self._loop.call_later(SUBSCRIBE_TIMEOUT, self._was_late)

    def _was_late(self) -> None:
        self._late = None
        connection = self._reconnecting.connection
        if connection is not None:
            self._on_late(connection)

    def subscribed(self) -> None:
        """To everything, by a new connection; who has joined is being examined."""
        for held in self._held.values():
            held.late = held.joins > 0

    def _is_ready(self, held: HeldConversation[P]) -> None:
        self._awaited.discard(held)
        held.is_ready()

    def _are_ready(self, those: Iterable[HeldConversation[P]]) -> None:
        for held in those:
            self._is_ready(held)

    def closed(self) -> None:
        """There is no connection: whoever waits for it goes on without."""
        self.new.clear()
        self._are_ready(list(self._awaited))

    def lacks(self, conversation: str, seq: int) -> bool:
        """Is a message up to this number still on its way?"""
        upto = self._held[conversation].upto
        return upto is not None and seq > upto

    def catch_up(self, conversation: str, seq: int, go_on: Callable[[bool], object]) -> None:
        """Such a message is waited for: ``go_on`` is called when it is here, or late.

        It is told whether somebody was removed meanwhile: what was known of members is then to be asked again.
        """
        held = self._held[conversation]
        self._ordering.look(held, seq)
        removals = held.removals
        called: list[bool] = []

        def once() -> None:
            if not called:
                called.append(True)
                go_on(held.removals != removals)

        held.catching_up.append((seq, once))
        self._loop.call_later(2 * SUBSCRIBE_TIMEOUT, once)

    def removed(self, conversation: str) -> None:
        """A member was removed."""
        held = self._held.get(conversation)
        if held is not None:
            held.removals += 1

    def begin(self, conversation: str, last_seq: int) -> int:
        """A join knows what the database says: from which number on its messages come by themselves."""
        held = self._held[conversation]
        upto = held.begin(last_seq)
        if held.has_hole:
            self._ordering.watch(held)
        return upto

    def settle(self, conversation: str) -> None:
        """A join is over, whatever came of it."""
        held = self._held[conversation]
        held.joins -= 1
        self._joins -= 1
        if not held.joins:
            if held.late:
                self._look_back(held)
            self.let_go(held)

    def participants(self, conversation: str, user: str, most: int) -> tuple[list[str], int]:
        """The users who have joined, on all nodes, as far as people here have been told, and this one.

        The first ``most`` and one of them, sorted, and how many there are.
        """
        return self._held[conversation].participants(user, most)

    def known(self, conversation: str) -> Numbers | None:
        """What is known of its numbers before the database is asked: ``before`` of ``found``."""
        held = self._held.get(conversation)
        return None if held is None or held.upto is None else Numbers(held.epoch, held.upto, held.doubts)

    def found(self, conversation: str, membership: Membership, before: Numbers | None) -> None:
        """The database says so: what is missing is read. Numbers never go back: then it is another conversation."""
        held, seq = self._held.get(conversation), membership.last_seq
        if held is None or held.upto is None:
            return
        # A standby may lag: that it lacks a number says nothing.
        if before is not None and before.epoch is held.epoch and not membership.behind:
            if seq < before.upto:
                self._ordering.begin_anew(held, seq)
                self._local.examine([(conversation, user) for user in self._hub.participants_of(conversation)])
            else:
                held.believe(before.doubts)
        if seq > held.upto:
            self._ordering.look(held, seq)

    def let_go(self, held: HeldConversation[P]) -> None:
        """If nobody here has joined it, or is about to."""
        if held.joins or held.conversation in self._hub.conversations:
            return
        del self._held[held.conversation], self._by_channel[held.channel]
        self._ordering.forget(held)
        connection = self._reconnecting.connection
        if connection is not None:
            connection.queue(command("SUNSUBSCRIBE", held.channel), 0, ignore)
            self._schedule()
