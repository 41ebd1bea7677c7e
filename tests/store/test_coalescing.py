"""Futures that give up by themselves, and when work is worth waiting for company."""

from __future__ import annotations

import asyncio

import pytest

from exporter.store.coalescing import FEW, PAUSE, SharedTimeout, batching_window


def _false(future: asyncio.Future[bool]) -> None:
    future.set_result(False)


async def test_who_is_answered_in_time_has_the_answer() -> None:
    shared_timeout = SharedTimeout(60.0, _false)
    first, second = shared_timeout.future(), shared_timeout.future()
    second.set_result(True)
    first.set_result(True)
    assert await first
    assert await second
    shared_timeout.close()


async def test_each_gives_up_in_the_order_of_coming() -> None:
    order: list[int] = []
    shared_timeout = SharedTimeout(0.02, _false)
    futures = [shared_timeout.future() for _ in range(3)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: order.append(number))
    assert await asyncio.gather(*futures) == [False] * 3
    assert order == [0, 1, 2]


async def test_who_comes_later_gives_up_later_although_one_timer_serves_all() -> None:
    shared_timeout = SharedTimeout(0.05, _false)
    loop = asyncio.get_running_loop()
    first = shared_timeout.future()
    came = loop.create_future()
    loop.call_later(0.03, came.set_result, None)
    await came
    began, second = loop.time(), shared_timeout.future()
    assert not await first
    assert not await second
    assert loop.time() - began >= 0.05 - 0.002  # the clock's grain


async def test_a_cancelled_waiter_is_left_alone() -> None:
    shared_timeout = SharedTimeout(0.01, _false)
    gone, other = shared_timeout.future(), shared_timeout.future()
    gone.cancel()
    assert not await other
    assert gone.cancelled()


async def test_the_answered_do_not_pile_up() -> None:
    shared_timeout = SharedTimeout(60.0, _false)
    for _ in range(1_000):
        shared_timeout.future().set_result(True)
    assert len(shared_timeout._waiting) == 1
    shared_timeout.close()


async def test_closing_gives_up_on_all_at_once_and_leaves_no_timer() -> None:
    shared_timeout = SharedTimeout(60.0, _false)
    answered, waiting = shared_timeout.future(), shared_timeout.future()
    answered.set_result(True)
    shared_timeout.close()
    assert waiting.result() is False
    assert answered.result() is True
    assert shared_timeout._timer is None
    shared_timeout.close()


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(0, 0.0), (1, 0.0), (FEW - 1, 0.0), (FEW, PAUSE), (31, PAUSE), (32, 0.0), (10_000, 0.0)],
)
def test_only_a_storm_that_comes_in_small_pieces_is_made_to_wait(count: int, seconds: float) -> None:
    assert batching_window(count, 32) == seconds
