"""One scrape's figures: shared, in time, with their age, and absent when they are not known."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from exporter.core.errors import Internal, Refusal, Unavailable
from exporter.core.records import DatabaseView, PoolStats, Totals
from exporter.node.totals_collector import Collector


def totals(as_of: float = 1.0) -> Totals:
    return Totals(1, 2, 3, 4, {1: 1, 7: 2, 30: 3}, as_of)


class Double:
    """A store whose answers a test decides."""

    def __init__(self) -> None:
        self.queries = 0
        self.cancelled = 0
        self.timeouts: list[float] = []
        self.gate = asyncio.Event()
        self.error: str | None = None
        self.kind: type[Refusal] = Unavailable
        self.write_error: str | None = None

    def pool(self) -> PoolStats:
        return PoolStats(1, 2)

    async def totals(self, timeout: float) -> Totals:
        self.queries += 1
        self.timeouts.append(timeout)
        try:
            async with asyncio.timeout(timeout):
                await self.gate.wait()
        except TimeoutError:
            raise Unavailable("the database did not answer in time") from None
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.kind(self.error)
        return totals(float(self.queries))


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def collector(double: Double) -> Collector:
    store: Any = double
    return Collector(store, clock=lambda: 1000.0)


async def test_a_scrape_gets_the_figures_as_they_are_now(collector: Collector, double: Double) -> None:
    double.gate.set()
    assert (await collector.collect(1.0)).totals == totals(1.0)
    found = await collector.collect(1.0)
    shown = DatabaseView(True, totals(2.0), None, 1000.0, found.duration, PoolStats(1, 2), True)
    assert found == shown, "nothing is cached"
    assert found.duration >= 0


async def test_scrapes_at_once_share_one_query(collector: Collector, double: Double) -> None:
    tasks = [asyncio.create_task(collector.collect(5.0)) for _ in range(50)]
    await asyncio.sleep(0.01)
    double.gate.set()
    assert [found.totals for found in await asyncio.gather(*tasks)] == [totals(1.0)] * 50
    assert double.queries == 1


async def test_a_failure_is_shared_too_and_not_tried_again_by_everybody(collector: Collector, double: Double) -> None:
    double.error = "the database cannot be reached"
    tasks = [asyncio.create_task(collector.collect(5.0)) for _ in range(50)]
    await asyncio.sleep(0.01)
    double.gate.set()
    found = await asyncio.gather(*tasks)
    assert {(one.totals, one.error, one.last_success) for one in found} == {
        (None, "the database cannot be reached", None)
    }
    assert double.queries == 1


async def test_each_scrape_has_its_own_deadline(collector: Collector, double: Double) -> None:
    began = time.monotonic()
    short = asyncio.create_task(collector.collect(0.1))
    await asyncio.sleep(0)
    long = asyncio.create_task(collector.collect(30.0))
    refused = await short
    assert time.monotonic() - began < 5
    assert (refused.totals, refused.error) == (None, "the database did not answer in time")
    double.gate.set()
    found = await long
    assert (found.totals, found.error) == (totals(2.0), None), "a scrape with more time asks again"
    assert (refused.totals, refused.error) == (None, "the database did not answer in time"), "each has its own record"
    assert double.queries == 2


async def test_a_shorter_deadline_does_not_end_the_query_of_a_longer_one(collector: Collector, double: Double) -> None:
    long = asyncio.create_task(collector.collect(30.0))
    await asyncio.sleep(0)
    assert (await collector.collect(0.05)).totals is None
    double.gate.set()
    assert (await long).totals == totals(1.0)
    assert (double.queries, double.cancelled) == (1, 0)


async def test_the_query_ends_when_nobody_waits_for_it(collector: Collector, double: Double) -> None:
    tasks = [asyncio.create_task(collector.collect(30.0)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.sleep(0)
    assert double.cancelled == 1
    double.gate.set()
    assert (await collector.collect(1.0)).totals == totals(2.0)


async def test_a_scrape_that_is_cancelled_leaves_the_others_theirs(collector: Collector, double: Double) -> None:
    tasks = [asyncio.create_task(collector.collect(30.0)) for _ in range(3)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    await asyncio.sleep(0)
    double.gate.set()
    assert [found.totals for found in await asyncio.gather(*tasks[1:])] == [totals(1.0)] * 2


async def test_the_time_of_the_last_figures_stays_while_the_database_is_away(
    collector: Collector, double: Double
) -> None:
    double.gate.set()
    await collector.collect(1.0)
    double.error = "gone"
    found = await collector.collect(1.0)
    assert (found.totals, found.error, found.last_success) == (None, "gone", 1000.0)
    double.error = None
    found = await collector.collect(1.0)
    assert (found.totals, found.error) == (totals(3.0), None)


@pytest.mark.parametrize("deadline", [0.0, -1.0])
async def test_without_any_time_nothing_is_asked(collector: Collector, double: Double, deadline: float) -> None:
    assert (await collector.collect(deadline)).totals is None
    assert double.queries == 0


async def test_a_defect_of_ours_is_not_the_databases(collector: Collector, double: Double) -> None:
    double.gate.set()
    double.error, double.kind = "an error of the server's", Internal
    found = await collector.collect(1.0)
    assert (found.totals, found.up, found.error) == (None, True, "an error of the server's")
    double.kind = Unavailable
    assert not (await collector.collect(1.0)).up


async def test_a_database_that_takes_nothing_is_up_and_says_why(collector: Collector, double: Double) -> None:
    double.gate.set()
    double.write_error = "its disk is full"
    found = await collector.collect(1.0)
    assert (found.up, found.writable, found.error) == (True, False, "its disk is full")
    double.error = "gone"
    assert (await collector.collect(1.0)).error == "gone"
    double.error = double.write_error = None
    found = await collector.collect(1.0)
    assert (found.writable, found.error) == (True, None)


async def test_what_is_wrong_with_the_figures_is_logged_once_until_it_is_another(
    collector: Collector, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = iter(["a", "a", "b", None, "b"])
    monkeypatch.setattr(double, "totals", lambda timeout: _of(replace(totals(1.0), error=next(wrong))))
    with capture_logs() as said:
        for _ in range(5):
            await collector.collect(1.0)
    assert [line["reason"] for line in said] == ["a", "b", "b"]


async def _of(found: Totals) -> Totals:
    return found
