"""The next transaction takes of each user a share, in the order of coming."""

from __future__ import annotations

import pytest

from exporter.core.records import Draft
from exporter.store import queue
from exporter.store.queue import MOST_ROWS, Queue
from exporter.store.transaction import Item, OperationItem, SendItem


def _ignore(*told: object) -> None:
    """Nobody waits."""


def message(sender: str, size: int = 1) -> SendItem:
    return SendItem(_ignore, Draft("c", sender, "m", "x" * size))


def change(user: str, rows: int) -> OperationItem:
    async def nothing(*given: object) -> None:
        """Not called here."""

    return OperationItem(_ignore, "add", user, nothing, rows=rows)


def filled(*items: Item) -> Queue:
    made = Queue()
    for item in items:
        made.put(item)
    return made


def test_what_fits_is_taken_in_the_order_of_coming() -> None:
    items = [message("ann"), change("bob", 3), message("ann"), message("bob")]
    waiting = filled(*items)
    assert waiting.take() == items
    assert not waiting


def test_of_one_user_a_share_is_taken_and_the_rest_keeps_its_order_behind_nobody_elses() -> None:
    anns = [message("ann") for _ in range(MOST_ROWS + 5)]
    bobs = message("bob")
    waiting = filled(*anns, bobs)
    assert waiting.take() == [*anns[:MOST_ROWS], bobs]
    assert waiting.take() == anns[MOST_ROWS:]


def test_what_comes_after_what_was_left_does_not_overtake_it() -> None:
    first, large, small = change("ann", MOST_ROWS - 1), change("ann", 2), message("ann")
    waiting = filled(first, large, small)
    assert waiting.take() == [first]
    assert waiting.take() == [large, small]


def test_characters_have_a_share_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BATCH_CHARACTERS", 80)
    anns = [message("ann", 6) for _ in range(3)]
    bobs = message("bob", 6)
    waiting = filled(*anns, bobs)
    assert waiting.take() == [anns[0], bobs]
    assert waiting.take() == [anns[1]]


def test_one_change_that_is_larger_than_a_share_is_taken_with_everybodys_small_ones() -> None:
    larges = [change(user, 1_000) for user in ("ann", "bob", "ann")]
    small = message("cid")
    waiting = filled(*larges, small)
    assert waiting.take() == [larges[0], small]
    assert waiting.take() == [larges[1]]
    assert waiting.take() == [larges[2]]


def test_what_is_answered_already_is_dropped_and_counts_for_nothing() -> None:
    items = [message("ann") for _ in range(MOST_ROWS + 1)]
    items[0].answered = items[3].answered = True
    waiting = filled(*items)
    waiting.forget_answered()
    assert len(waiting) == MOST_ROWS
    assert waiting.take() == [items[1], items[2], *items[4:]]


def test_what_is_put_back_comes_first_in_its_order() -> None:
    items = [message("ann") for _ in range(3)]
    waiting = filled(items[2])
    waiting.put_back(items[:2])
    assert waiting.take() == items
