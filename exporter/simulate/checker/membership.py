"""One connection in one conversation: what it has seen, and until when it is owed anything. Knows no clock.

Tested in ``tests/simulate/test_ledger.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Kept above the floor of one membership, and of senders whose order it knows: a gap costs no memory for ever.
MOST_SEEN = 4096
CATCHING_UP = 1.0  # seconds of reading after a pause until all that had piled up is taken as read


@dataclass(slots=True, eq=False)
class Membership:
    """One connection in one conversation, from ``joined`` to leaving. ``until`` None: still there."""

    conversation: int
    last_seq: int
    joined: float
    until: float | None = None
    reading: bool = True
    paused: float = 0.0  # when it last stopped reading, having read all there was
    resumed: float = 0.0
    floor: int = 0  # everything above last_seq up to here was seen
    seen: set[int] = field(default_factory=set)
    highest: int = 0
    latest_of: dict[int, int] = field(default_factory=dict)

    def has(self, seq: int) -> bool:
        """Was this seq seen?"""
        return self.last_seq < seq <= self.floor or seq in self.seen

    def mark(self, seq: int) -> None:
        """It was seen now, or is no longer expected."""
        self.seen.add(seq)
        while self.floor + 1 in self.seen:
            self.floor += 1
            self.seen.discard(self.floor)
        if len(self.seen) > MOST_SEEN:
            self.floor = min(seq for seq in self.seen if seq > self.last_seq)
            self.seen = {seq for seq in self.seen if seq > self.floor}

    def pause(self, now: float) -> None:
        """It stops reading. One pause close upon another is one: nothing shows that it had caught up in between."""
        if self._caught_up(now):
            self.paused = now
        self.reading = False

    def resume(self, now: float) -> None:
        """It reads again."""
        self.reading, self.resumed = True, now

    def _caught_up(self, now: float) -> bool:
        return self.reading and (not self.resumed or self.resumed + CATCHING_UP < now)

    def end(self, now: float) -> None:
        """It is over. Who does not read, or has hardly begun to again, was last known to read before the pause."""
        self.until = now if self._caught_up(now) else self.paused
        self.latest_of.clear()
