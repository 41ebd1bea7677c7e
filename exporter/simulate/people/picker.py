"""A set to draw from. Knows nothing of what is in it.

Tested in ``tests/simulate/test_organisation.py``.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Picker(Generic[T]):
    """A set out of which a draw in 0…1 chooses in constant time."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._places: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        """One more; twice is once."""
        if item not in self._places:
            self._places[item] = len(self._items)
            self._items.append(item)

    def discard(self, item: T) -> None:
        """The last one takes the place of the one that goes."""
        place = self._places.pop(item, None)
        if place is None:
            return
        last = self._items.pop()
        if last is not item:
            self._items[place] = last
            self._places[last] = place

    def at(self, draw: float, steps: int = 0) -> T:
        """The one that the draw chooses, or the ``steps``-th after it."""
        return self._items[(int(draw * len(self._items)) + steps) % len(self._items)]
