"""Messages are handed out in the order of their numbers, each once; a hole that stays is read from the database.

Numbers are given in the order of the commits, so whoever has seen a number knows that all below it are durable, and a
read of the database settles what a hole was: messages that the broker has lost, or messages that were deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from exporter.broker.envelope import Envelope
from exporter.broker.held_conversation import HeldConversation
from exporter.broker.ports import LocalNode

P = TypeVar("P")

LATE: Final = 0.25
"""Seconds that a message may be late before it is read: a thousand times what the way takes."""
RETRY: Final = 0.5
"""Seconds until a hole is read again that could not be."""
MOST_EARLY: Final = 10_000
"""Messages of a conversation that may wait for one that is missing."""


class Ordering(Generic[P]):
    """``lease`` in seconds is how long a hole may keep others waiting while the database cannot be asked."""

    def __init__(
        self,
        held: dict[str, HeldConversation[P]],
        local: LocalNode[P],
        lease: float,
        is_up: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._conversations, self._local, self._lease, self._is_up, self._now = held, local, lease, is_up, now

    def message(self, held: HeldConversation[P], envelope: Envelope[P]) -> None:
        """A message, from here or from elsewhere."""
        seq = envelope.seq
        if seq - 1 == held.upto:  # its turn: the usual case, hence not asked of ``held``
            held.upto = seq
            self._local.deliver(envelope)
            if held.early:
                self._hand_out(held, held.due())
            if held.catching_up:
                held.caught_up()
        elif held.keep(envelope):
            if len(held.early) > MOST_EARLY:
                self._overflow(held)
            self.watch(held)
        elif envelope.sender:  # it has been read meanwhile, or numbers have begun anew
            held.doubt(envelope)
            self._local.examine([(held.conversation, envelope.sender)])

    def other(self, held: HeldConversation[P], envelope: Envelope[P]) -> None:
        """A frame that is no message; it keeps its place behind those that wait."""
        if not held.behind(envelope):
            self._local.deliver(envelope)

    def deletion(self, held: HeldConversation[P], envelope: Envelope[P]) -> None:
        """A message is no more. It takes the place of a message that has not been handed out, which never is then."""
        seq = envelope.seq
        if seq <= (held.upto or 0):
            held.doubted.pop(seq, None)
            self.other(held, envelope)
        elif seq in held.early:
            held.early[seq][0] = envelope
        else:
            self.message(held, envelope)

    def look(self, held: HeldConversation[P], through: int) -> None:
        """Messages up to this number exist."""
        if through > held.through:
            held.through = through
            self.watch(held)

    def watch(self, held: HeldConversation[P]) -> None:
        """If there is a hole, it is read when it stays."""
        if held.hole is None and not held.healing and held.has_hole:
            held.hole_since = self._now()
            # Without a connection nothing comes late: it does not come.
            held.hole = self._loop.call_later(LATE if self._is_up() else 0.0, self._missing, held)

    def begin_anew(self, held: HeldConversation[P], last_seq: int) -> None:
        """Another program has deleted the conversation and made it again, or the database has lost its last writes."""
        self.forget(held)
        self._hand_out(held, held.begin_anew(last_seq))

    @staticmethod
    def forget(held: HeldConversation[P]) -> None:
        """No hole is waited for any more."""
        if held.hole is not None:
            held.hole.cancel()
            held.hole = None

    def _hand_out(self, held: HeldConversation[P], envelopes: Iterable[Envelope[P]]) -> None:
        for envelope in envelopes:
            self._local.deliver(envelope)
        if not held.has_hole:
            self.forget(held)

    def _overflow(self, held: HeldConversation[P]) -> None:
        """Too many wait: before the first join is answered they are read again; else the gap is the clients' to see."""
        if held.upto is None:
            held.through = held.target
            held.early.clear()
        else:
            self._hand_out(held, held.skip_to(min(held.early) - 1))

    def _missing(self, held: HeldConversation[P]) -> None:
        held.hole = None
        if self._conversations.get(held.conversation) is held and held.upto is not None and held.has_hole:
            held.healing = held.epoch
            self._local.heal(held.conversation, held.upto, held.target)

    # --- the node has read ----------------------------------------------------------------------------------

    def fill(self, envelope: Envelope[P]) -> None:
        """A message that was read; whatever is here already stays as it is."""
        held = self._conversations.get(envelope.conversation)
        if held is not None:
            self.message(held, envelope)

    def healed(self, conversation: str, through: int) -> None:
        """All messages up to this number that exist have been filled in."""
        held = self._conversations.get(conversation)
        if held is not None and held.healing:
            # Where its numbers have begun anew meanwhile, they do not go so far.
            is_so, held.healing = held.healing is held.epoch, None
            if is_so and held.upto is not None and held.upto < through:
                self._hand_out(held, held.skip_to(through))
                held.caught_up()
            self.watch(held)

    def not_healed(self, conversation: str) -> None:
        """The database could not be asked. After one lease those that wait are handed out, and clients see the gap."""
        held = self._conversations.get(conversation)
        if held is None or not held.healing:
            return
        held.healing = None
        if held.early and self._now() - held.hole_since > self._lease:
            self._hand_out(held, held.skip_to(min(held.early) - 1))
        if held.has_hole:
            held.hole = self._loop.call_later(RETRY, self._missing, held)
