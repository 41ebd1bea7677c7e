"""Compares a conversation as it is stored with what was acknowledged. Knows no network and no clock.

Tested in ``tests/simulate/test_ledger.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from exporter.simulate.checker.findings import Kind
from exporter.simulate.checker.ledger import Content, Ledger


class Audit:
    """One conversation from ``after`` on; ``content`` gives that of the n-th message.

    Feed it the pages in order, then finish it; what is wrong is then among the ledger's findings.
    """

    def __init__(self, ledger: Ledger, conversation: int, after: int, content: Callable[[int], Content]) -> None:
        self._ledger = ledger
        self._conversation = conversation
        self._written = ledger.written_in(conversation)
        self._content = content
        self._excused = set(self._written.values()) | ledger.deleted_in(conversation)
        self._stored: dict[int, list[int]] = {}
        self._next = after + 1

    def feed(self, page: Iterable[tuple[int, str, str, str]]) -> None:
        """Messages as (seq, id, sender, body), ascending."""
        for seq, id, sender, body in page:
            self._holes(seq)
            self._next = max(self._next, seq + 1)
            n = self._ledger.number_of(id)
            if n is None:
                continue
            if n not in self._written or self._content(n) != (sender, body):
                text = f"{id}: stored as seq {seq} with other contents than were sent"
                self._ledger.findings.add(Kind.ALTERED, id, text)
            self._stored.setdefault(n, []).append(seq)

    def finish(self, last_seq: int) -> int:
        """All pages were fed. Returns how many acknowledged messages were compared."""
        self._holes(last_seq + 1)
        for n in self._written.keys() | self._stored.keys():
            self._compare(n, self._written.get(n, 0), self._stored.get(n, []))
        return sum(1 for seq in self._written.values() if seq)

    def _compare(self, n: int, acknowledged: int, stored: list[int]) -> None:
        found = self._ledger.found
        if len(stored) > 1:
            found(Kind.DOUBLED, n, f"stored {len(stored)} times, as seq {', '.join(map(str, stored))}")
        if not acknowledged or acknowledged in stored:
            return
        if stored:
            found(Kind.MOVED, n, f"acknowledged as seq {acknowledged}, stored as seq {stored[0]}")
        elif acknowledged not in self._ledger.deleted_in(self._conversation):
            found(Kind.LOST, n, f"acknowledged as seq {acknowledged}, and not stored")

    def _holes(self, before: int) -> None:
        for seq in range(self._next, before):
            if seq not in self._excused:  # where an acknowledged message is missing, that says it better
                place = f"{self._conversation}#{seq}"
                self._ledger.findings.add(Kind.HOLE, place, f"conversation {self._conversation}: nothing has seq {seq}")
