"""One connection in one conversation: what it has seen, and until when it is owed anything. Knows no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

# Kept above the floor of one membership, and of senders whose order it knows: a gap costs no memory for ever.
MOST_SEEN = 4096


@dataclass(slots=True, eq=False)
class Membership:
    """One connection in one conversation, from ``joined`` to leaving. ``until`` None: still there."""

    conversation: int
    last_seq: int
    joined: float
    until: float | None = None
    reading: bool = True
    paused: float = 0.0  # when it last stopped reading
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

    def end(self, now: float) -> None:
        """It is over. Who does not read, or has hardly begun to again, was last known to read before the pause."""
        caught_up = self.reading and self.resumed + 1.0 < now
        self.until = now if caught_up or not self.paused else self.paused
        self.latest_of.clear()
