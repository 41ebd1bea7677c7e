"""Futures that give up by themselves, and when work is worth waiting for company."""

from __future__ import annotations

import asyncio

import pytest

from exporter.store.coalescing import FEW, PAUSE, Patience, pause_after


def _false(future: asyncio.Future[bool]) -> None:
    future.set_result(False)


async def test_who_is_answered_in_time_has_the_answer() -> None:
    patience = Patience(60.0, _false)
    first, second = patience.future(), patience.future()
    second.set_result(True)
    first.set_result(True)
    assert await first
    assert await second
    patience.close()


async def test_each_gives_up_in_the_order_of_coming() -> None:
    order: list[int] = []
    patience = Patience(0.02, _false)
    futures = [patience.future() for _ in range(3)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
    assert await asyncio.gather(*futures) == [False] * 3
    assert order == [0, 1, 2]


async def test_who_comes_later_gives_up_later_although_one_timer_serves_all() -> None:
    patience = Patience(0.05, _false)
    loop = asyncio.get_running_loop()
    first = patience.future()
    came = loop.create_future()
    loop.call_later(0.03, came.set_result, None)
    await came
    began, second = loop.time(), patience.future()
    assert not await first
    assert not await second
    assert loop.time() - began >= 0.05 - 0.002  # the clock's grain


async def test_a_cancelled_waiter_is_left_alone() -> None:
    patience = Patience(0.01, _false)
    gone, other = patience.future(), patience.future()
    gone.cancel()
    assert not await other
    assert gone.cancelled()


async def test_the_answered_do_not_pile_up() -> None:
    patience = Patience(60.0, _false)
    for _ in range(1_000):
        patience.future().set_result(True)
    assert len(patience._waiting) == 1
    patience.close()


async def test_closing_gives_up_on_all_at_once_and_leaves_no_timer() -> None:
    patience = Patience(60.0, _false)
    answered, waiting = patience.future(), patience.future()
    answered.set_result(True)
    patience.close()
    assert waiting.result() is False
    assert answered.result() is True
    assert patience._timer is None
    patience.close()


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(0, 0.0), (1, 0.0), (FEW - 1, 0.0), (FEW, PAUSE), (31, PAUSE), (32, 0.0), (10_000, 0.0)],
)
def test_only_a_storm_that_comes_in_small_pieces_is_made_to_wait(count: int, seconds: float) -> None:
    assert pause_after(count, 32) == seconds
