"""What a node knows of one conversation that somebody here has joined, or is about to. Knows no socket and no clock.

Messages are handed out in the order of their numbers, each once: ``upto`` is the last. One that comes early, because
those before it are still on their way, waits; a number that is not above ``upto`` has been here before.

``told`` and ``typing`` are the users whom the people here have been told of. Only changes of them are announced, so
nothing is said twice, whatever is repeated.

Tested in ``tests/broker/test_ordering.py``.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Set
from typing import Any, Final, Generic, TypeVar

from exporter.broker.envelope import Envelope

P = TypeVar("P")

FRESH: Final = 0.25
"""Seconds after which the server knows what frames have said of typing: five times what a node may keep it back."""


class HeldConversation(Generic[P]):
    """One conversation. ``upto`` is None until the first join here has asked the database."""

    __slots__ = (
        "asking",
        "believed",
        "catching_up",
        "channel",
        "connection",
        "conversation",
        "counted",
        "doubted",
        "doubts",
        "early",
        "epoch",
        "fading",
        "fresh",
        "fresh_until",
        "healing",
        "hole",
        "hole_since",
        "joins",
        "late",
        "listed",
        "removals",
        "shared",
        "through",
        "told",
        "type_prefix",
        "typing",
        "upto",
        "waiting",
    )

    def __init__(self, conversation: str, channel: bytes, connection: object = None) -> None:
        self.conversation = conversation
        self.channel = channel
        self.connection = connection  # the connection by which it was subscribed to
        self.type_prefix = f"t{conversation}\n"  # of entries: who types there
        self.upto: int | None = None
        self.early: dict[int, list[Envelope[P]]] = {}  # each message with what came after it and is no message
        # Under numbers that others had before them; each with how many there were before it.
        self.doubted: dict[int, tuple[int, Envelope[P]]] = {}
        self.doubts = self.believed = 0
        self.epoch = object()  # another one when its numbers have begun anew
        self.through = 0  # messages up to this number exist
        self.told: set[str] = set()
        self.listed: list[str] | None = None  # the same, sorted, from when somebody has asked for it
        self.typing: set[str] = set()
        # Of whom frames said lately that they type, or no longer: the server knows later.
        self.fresh: set[str] = set()
        self.fading: set[str] = set()
        self.fresh_until = 0.0
        self.asking = False  # it will be asked who types, when it knows that
        self.shared: set[str] = set()  # users who take part on several nodes: not known by any other way
        self.joins = 0  # under way here
        self.late = False  # the subscription came after some of them had asked the database
        self.removals = 0  # members who were removed meanwhile
        self.catching_up: list[tuple[int, Callable[[], object]]] = []  # joins that wait for messages on their way
        self.counted = False  # the server knows that this node holds it
        self.waiting: (
            list[Callable[[], Any]] | None
        ) = []  # who wants to know that the subscription stands; None: it does
        self.healing: object = None  # the epoch whose messages are being read
        self.hole: asyncio.TimerHandle | None = None
        self.hole_since = 0.0

    def only_here(self, user: str, connection: object) -> bool:
        """Is it known, by this connection, that a user who takes part on this node does so on no other?"""
        # What is said of it between two connections is missed.
        return connection is not None and self.connection is connection and user not in self.shared

    def is_ready(self) -> None:
        """Whoever waits to join goes on."""
        waiting, self.waiting = self.waiting, None
        for ready in waiting or ():
            ready()

    def tell(self, user: str) -> None:
        """People here know that this user takes part."""
        self.told.add(user)
        if self.listed is not None:
            insort(self.listed, user)

    def untell(self, user: str) -> None:
        """People here know that this user has left."""
        self.told.discard(user)
        if self.listed is not None:
            del self.listed[bisect_left(self.listed, user)]

    def hears_typing(self, user: str, now: float) -> None:
        """A frame said of this user that they type, or that they no longer do."""
        if now > self.fresh_until:
            self.fading, self.fresh = self.fresh if now < self.fresh_until + FRESH else set(), set()
            self.fresh_until = now + FRESH
        self.fresh.add(user)

    def heard_lately(self, now: float) -> Set[str]:
        """Of whom frames said something in the last moment, ``FRESH`` seconds or a little longer."""
        return self.fresh | self.fading if now < self.fresh_until + FRESH else frozenset()

    def participants(self, user: str, most: int) -> tuple[list[str], int]:
        """The first users who take part, sorted, ``most`` and one at most, and how many there are; with this one."""
        if self.listed is None:
            self.listed = sorted(self.told)
        shown = self.listed[: most + 1]
        if user in self.told:
            return shown, len(self.told)
        insort(shown, user)
        return shown, len(self.told) + 1

    def keep(self, envelope: Envelope[P]) -> bool:
        """An early message waits; one that has been here before is passed over: False then."""
        if self.upto is not None and envelope.seq <= self.upto:
            return False
        self.early.setdefault(envelope.seq, [envelope])
        return True

    def behind(self, envelope: Envelope[P]) -> bool:
        """What is no message keeps its place behind those that wait: True when it waits, too."""
        if not self.early or self.upto is None:
            return False
        self.early[max(self.early)].append(envelope)
        return True

    def due(self) -> list[Envelope[P]]:
        """What had waited and may be handed out now; it counts as handed out."""
        found: list[Envelope[P]] = []
        while self.upto is not None and self.upto + 1 in self.early:
            self.upto += 1
            found += self.early.pop(self.upto)
        return found

    def skip_to(self, seq: int) -> list[Envelope[P]]:
        """What is missing up to this number does not exist any more: all that waited, up to there and beyond."""
        found: list[Envelope[P]] = []
        for early in sorted(self.early):
            if early <= seq:
                found += self.early.pop(early)
        self.upto = max(self.upto or 0, seq)
        return found + self.due()

    def begin(self, last_seq: int) -> int:
        """A join has asked the database: from which number on its messages come live."""
        if self.upto is None:
            self.upto = last_seq
            if not self.early:
                return last_seq
            for seq in [seq for seq in self.early if seq <= last_seq]:
                del self.early[seq]
            self.due()  # they came before anybody had joined: in the last_seq of the answer
        elif last_seq > self.through:
            self.through = last_seq
        return self.upto

    def begin_anew(self, last_seq: int) -> list[Envelope[P]]:
        """Its numbers begin anew behind this one, or where messages have come already: what may be handed out now."""
        self.upto, self.through = min([last_seq, *(seq - 1 for seq in self.doubted)]), 0
        self.early = {seq: [envelope] for seq, (_, envelope) in self.doubted.items()}
        self.doubted = {}
        self.epoch = object()
        return self.due()

    def doubt(self, envelope: Envelope[P]) -> None:
        """Was it here before, or was its number?"""
        self.doubted[envelope.seq] = self.doubts, envelope
        self.doubts += 1

    def believe(self, doubts: int) -> None:
        """The first so many were here before: the database gives no number again."""
        if doubts > self.believed:
            self.believed = doubts
            self.doubted = {seq: doubt for seq, doubt in self.doubted.items() if doubt[0] >= doubts}

    def caught_up(self) -> None:
        """Joins that waited for what has been handed out now go on."""
        waiting, self.catching_up = self.catching_up, []
        for seq, go_on in waiting:
            if seq <= (self.upto or 0):
                go_on()
            else:
                self.catching_up.append((seq, go_on))

    @property
    def has_hole(self) -> bool:
        """Are messages missing that exist?"""
        return self.upto is not None and (bool(self.early) or self.through > self.upto)

    @property
    def target(self) -> int:
        """The highest number that is known to exist."""
        return max(self.through, max(self.early, default=0))
