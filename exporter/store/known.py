"""Which users have a row, remembered for a while. Knows no database."""

from __future__ import annotations

from collections.abc import Iterable


class KnownUsers:
    """A bounded memory of users that were registered a short time ago.

    Two generations instead of an order of use: a lookup is two set look-ups, and forgetting is dropping a set. What is
    in here is believed for ``seconds`` to twice that, so a user whose row another program deleted is registered again
    by a connection or a message after that time.
    """

    def __init__(self, capacity: int = 100_000, seconds: float = 60.0) -> None:
        self._half = max(1, capacity // 2)
        self._seconds = seconds
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._turn_at = float("-inf")

    def turn(self, now: float) -> None:
        """Let time pass; ``now`` in seconds of any clock that does not go back."""
        if now >= self._turn_at:
            if now >= self._turn_at + self._seconds:
                self._young = set()
            self._old, self._young = self._young, set()
            self._turn_at = now + self._seconds

    def add(self, users: Iterable[str]) -> None:
        """These have a row."""
        for user in users:
            if len(self._young) >= self._half:
                self._old, self._young = self._young, set()
            self._young.add(user)

    def __contains__(self, user: str) -> bool:
        return user in self._young or user in self._old

    def __len__(self) -> int:
        return len(self._young | self._old)
