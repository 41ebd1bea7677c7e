"""What can be wrong, and how often it was. Knows nothing else.

Tested in ``tests/simulate/test_ledger.py``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

EXAMPLES = 20  # of each kind of finding; the rest is counted


class Kind(StrEnum):
    """What can be wrong. Each is a broken promise; any of them makes a simulation fail."""

    LOST = "lost"  # acknowledged, and not stored
    DOUBLED = "doubled"  # stored twice
    MOVED = "moved"  # stored under another seq than was acknowledged
    RENUMBERED = "renumbered"  # acknowledged twice with different seq
    ALTERED = "altered"  # stored or delivered with another sender or other words, or one nobody sent
    HOLE = "hole"  # a seq that no message has
    UNDELIVERED = "undelivered"  # some who had joined did not get it
    UNHEARD = "unheard"  # nobody of those who had joined got it
    REDELIVERED = "redelivered"  # one connection got it twice
    MISORDERED = "misordered"  # overtook an earlier message of the same sender
    ECHOED = "echoed"  # came back to the connection that sent it
    STRAYED = "strayed"  # came to a connection that had not asked to join, or had left


@dataclass(slots=True)
class Findings:
    """How often each kind of fault was found, with examples for people and the messages for tests."""

    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)
    messages: dict[Kind, set[str]] = field(default_factory=dict)

    def add(self, kind: Kind, message: str, text: str) -> None:
        """One more; a message counts once per kind, however many connections saw it."""
        known = self.messages.setdefault(kind, set())
        if message in known:
            return
        known.add(message)
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(text)

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.counts.total()
