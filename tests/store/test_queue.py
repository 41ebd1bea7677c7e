"""The next transaction takes of each user a share, in the order of coming."""

from __future__ import annotations

import random

import pytest

from exporter.core.records import Draft
from exporter.store import queue
from exporter.store.queue import BATCH_ROWS, MOST_ROWS, SHARE, Queue
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


def test_of_one_user_a_share_is_taken_before_the_others_and_more_while_there_is_room() -> None:
    anns = [message("ann") for _ in range(BATCH_ROWS + 5)]
    bobs = [message("bob") for _ in range(MOST_ROWS + 1)]
    cids = message("cid")
    waiting = filled(*anns, *bobs, cids)
    first = BATCH_ROWS - len(bobs) - 1
    assert waiting.take() == [*anns[:first], *bobs, cids]
    assert waiting.take() == anns[first:]
    assert not waiting


def test_who_alone_has_something_waiting_has_the_whole_transaction() -> None:
    anns = [message("ann") for _ in range(BATCH_ROWS + 5)]
    waiting = filled(*anns)
    assert waiting.take() == anns[:BATCH_ROWS]
    assert waiting.take() == anns[BATCH_ROWS:]


def test_whom_there_is_no_room_for_comes_first_in_the_next_transaction() -> None:
    users = [str(number) for number in range(SHARE + 2)]
    waiting = filled(*(message(user) for user in users for _ in range(2 * MOST_ROWS)))
    assert {item.whose for item in waiting.take()} == set(users[:SHARE])
    assert {item.whose for item in waiting.take()} == {*users[SHARE:], *users[: SHARE - 2]}


def test_what_comes_after_what_was_left_does_not_overtake_it() -> None:
    larges, small = [change("ann", BATCH_ROWS), change("ann", BATCH_ROWS)], message("ann")
    waiting = filled(*larges, small)
    assert waiting.take() == [larges[0]]
    assert waiting.take() == [larges[1], small]


def test_characters_have_a_share_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BATCH_CHARACTERS", 80)
    anns = [message("ann", 6) for _ in range(15)]
    bobs = message("bob", 6)
    waiting = filled(*anns, bobs)
    assert waiting.take() == [anns[0], bobs]  # no more, although there is room: bob waits for it
    assert waiting.take() == anns[1:14]  # nobody else waits
    assert waiting.take() == anns[14:]


def test_many_users_fill_a_transaction_with_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BATCH_CHARACTERS", 80)
    items = [message(str(number), 9) for number in range(10)]
    waiting = filled(*items)
    assert waiting.take() == items[:8]
    assert waiting.take() == items[8:]


def test_one_change_that_is_larger_than_a_share_is_taken_with_everybodys_small_ones() -> None:
    larges = [change(user, 1_000) for user in ("ann", "bob", "ann")]
    small = message("cid")
    waiting = filled(*larges, small)
    assert waiting.take() == [larges[0], small]
    assert waiting.take() == [larges[1]]
    assert waiting.take() == [larges[2]]


def test_a_change_of_more_than_a_transaction_has_room_for_is_taken_all_the_same() -> None:
    larges = [change(user, BATCH_ROWS + 2) for user in ("ann", "bob")]  # a thousand members, and what goes with them
    waiting = filled(*larges)
    assert waiting.take() == larges[:1]
    assert waiting.take() == larges[1:]


def test_the_large_change_of_one_who_asked_for_one_waits_for_one_of_who_asked_for_many() -> None:
    anns = [change("ann", BATCH_ROWS) for _ in range(20)]
    bobs = change("bob", BATCH_ROWS)
    waiting = filled(*anns, bobs)
    assert waiting.take() == [anns[0]]
    assert waiting.take() == [bobs]
    assert waiting.take() == [anns[1]]


def test_several_changes_that_are_not_so_large_share_a_transaction() -> None:
    changes = [change("ann", BATCH_ROWS // 4) for _ in range(5)]
    waiting = filled(*changes)
    assert waiting.take() == changes[:4]
    assert waiting.take() == changes[4:]


def test_what_is_answered_already_is_dropped_and_counts_for_nothing() -> None:
    items = [message("ann") for _ in range(MOST_ROWS + 1)]
    items[0].answered = items[3].answered = True
    waiting = filled(*items)
    waiting.forget_answered("ann")
    assert len(waiting) == MOST_ROWS
    assert waiting.take() == [items[1], items[2], *items[4:]]
    waiting.put_back(items[:1])
    waiting.forget_answered("ann")
    waiting.forget_answered("bob")
    assert not waiting
    assert not waiting._of, "nor does a name stay, however long nothing is taken"


def test_what_is_put_back_comes_first_in_its_order() -> None:
    items = [message("ann") for _ in range(3)]
    waiting = filled(*items)
    waiting.take()
    waiting.put_back(items[2:])
    waiting.put_back(items[:2])
    assert waiting.take() == items


def test_who_gets_something_back_has_the_next_turn() -> None:
    back = [message(user) for user in ("ann", "bob")]
    waiting = filled(*back)
    waiting.take()
    for user in range(SHARE):
        for _ in range(2 * MOST_ROWS):
            waiting.put(message(str(user)))
    waiting.put_back(back)
    assert waiting.take()[:2] == back


def test_whatever_comes_nothing_overtakes_and_everything_is_taken_once() -> None:
    """Users who have one or much waiting, of all sizes, while some of it comes back."""
    chance = random.Random(8)
    for _ in range(50):
        waiting, taken, coming = Queue(), list[Item](), 0
        while coming < 400 or waiting:
            for _ in range(chance.randrange(60) if coming < 400 else 0):
                coming += 1
                user = chance.choice("aaaaaaabcdefgh")
                big = chance.random() < 0.1
                waiting.put(change(user, chance.choice((130, 600, 1_000))) if big else message(user, coming * 100))
            batch = waiting.take()
            back = chance.randrange(len(batch) + 1) if chance.random() < 0.2 else len(batch)
            waiting.put_back(batch[back:])
            taken += batch[:back]
        assert sorted(item.came for item in taken) == list(range(1, coming + 1))
        for user in "abcdefgh":
            of_one = [item.came for item in taken if item.whose == user]
            assert of_one == sorted(of_one)
