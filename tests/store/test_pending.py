"""What waits is counted, of everybody and of each user, and each is answered once."""

from __future__ import annotations

import random
from typing import Any

import pytest

from exporter.core.errors import Refusal, Unavailable
from exporter.core.records import Draft
from exporter.store.pending import Pending
from exporter.store.transaction import SendItem
from tests.databases import eventually


class Waiting:
    """Items that wait, and what they were told."""

    def __init__(self, timeout: float = 5.0) -> None:
        self.expired: list[SendItem] = []
        self.told: list[tuple[SendItem, Any]] = []
        self.pending = Pending(timeout, self.expired.append)  # type: ignore[arg-type]  # they are such

    def admit(self, user: str, size: int = 1) -> SendItem:
        item = SendItem(lambda result, _: self.told.append((item, result)), Draft("c", user, "m", "x" * size))
        self.pending.admit(item)
        return item

    def is_empty(self) -> bool:
        return (len(self.pending._items), self.pending.characters, self.pending._of) == (0, 0, {})


async def test_what_is_answered_makes_room_whatever_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may hold what the oldest needs, for as long as it may wait."""
    monkeypatch.setattr("exporter.store.pending.QUEUE_ITEMS", 8)
    waiting = Waiting()
    oldest = waiting.admit("ann")
    for _ in range(20):
        waiting.pending.answer(waiting.admit("bob"), ("message", False))
    assert not oldest.answered
    waiting.pending.close()
    assert waiting.is_empty()


async def test_one_user_has_a_quarter_in_number_and_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, size in (("QUEUE_ITEMS", 0), ("QUEUE_CHARACTERS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(f"exporter.store.pending.{limit}", 8)
            waiting = Waiting()
            first = waiting.admit("ann", size)
            waiting.admit("ann", size)
            with pytest.raises(Unavailable, match="of this user"):
                waiting.admit("ann")
            waiting.admit("bob", size)
            waiting.pending.answer(first, ("message", False))
            waiting.admit("ann", size)
            waiting.pending.close()
            assert waiting.is_empty()


async def test_what_is_not_answered_in_time_is_told_so_the_oldest_first_and_leaves_nothing() -> None:
    waiting = Waiting(timeout=0.0)
    items = [waiting.admit(user) for user in ("ann", "bob", "ann")]
    waiting.pending.answer(items[1], ("message", False))
    await eventually(lambda: len(waiting.told) == 3)
    assert [item for item, _ in waiting.told] == [items[1], items[0], items[2]]
    assert waiting.expired == [items[0], items[2]]
    assert waiting.is_empty()
    assert waiting.pending._sweeper is None
    waiting.admit("ann")  # and the next is waited for again
    await eventually(lambda: len(waiting.told) == 4)


async def test_whatever_happens_in_whatever_order_each_is_told_once_and_nothing_is_left() -> None:
    chance = random.Random(5)
    waiting = Waiting()
    items = []
    for _ in range(2_000):
        items.append(waiting.admit(chance.choice("abc"), chance.randrange(5)))
        if chance.random() < 0.8:
            waiting.pending.answer(chance.choice(items), ("message", False))
        left = [item for item in items if not item.answered]
        of = {user: [item.size for item in left if item.whose == user] for user in "abc"}
        assert waiting.pending._of == {user: (len(sizes), sum(sizes)) for user, sizes in of.items() if sizes}
    waiting.pending.close()
    assert waiting.is_empty()
    assert len(waiting.told) == len({id(item) for item, _ in waiting.told}) == len(items)
    assert any(isinstance(result, Refusal) for _, result in waiting.told)
