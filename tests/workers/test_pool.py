"""A place has one worker, whoever fills it; a defect in what keeps the workers is not silent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exporter.settings.model import Settings
from exporter.workers import pool as pool_module
from exporter.workers.plan import Sockets
from exporter.workers.pool import Pool
from exporter.workers.process import WorkerProcess
from tests.logged import logged


async def test_a_defect_in_the_watching_ends_the_server_with_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    pool = Pool(Settings(), 0, Sockets([], []), ended.set_result)

    def broken() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(pool, "_balance", broken)
    with logged(pool_module) as logged_lines:
        watching = pool.watch()
        assert await asyncio.wait_for(ended, 30) == 1
    assert watching.done()
    assert [line["event"] for line in logged_lines] == ["a defect in the supervisor: the server ends"]


class Started(WorkerProcess):
    """A worker without a process, that is ready at once and ends when it is told to."""

    def __init__(self, number: int) -> None:
        super().__init__(number, lambda: None)
        self.prepared.set_result(None)
        self.listening.set_result({})

    pid = 0

    def tell(self, word: str) -> None:
        if word in ("retire", "drain"):
            self.end(0)

    def kill(self) -> None:
        self.end(-9)

    def end(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)


@pytest.mark.parametrize("when", ["during the pause", "during the start"])
async def test_a_place_that_waits_to_be_filled_again_while_workers_are_replaced_is_filled_once(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Started] = []
    waits, go_on = asyncio.Event(), asyncio.Event()

    async def wait(*_: float) -> None:
        waits.set()
        await go_on.wait()

    async def start(number: int, *_: Any, standby: bool, **__: Any) -> Started:
        worker = Started(number)
        started.append(worker)
        if when == "during the start" and not standby:
            await wait()
        return worker

    monkeypatch.setattr(WorkerProcess, "start", start)
    pool = Pool(Settings(), 1, Sockets([], [[]]), lambda status: None)
    slot = pool._slots[0]
    with monkeypatch.context() as patch:
        if when == "during the pause":
            patch.setattr(asyncio, "sleep", wait)
        filling = asyncio.create_task(pool._fill_again(slot, 0.0))
        await waits.wait()
        assert await pool.replace()
        go_on.set()
        await filling
    assert [worker for worker in started if not worker.exited.done()] == [slot.worker]


async def test_who_ends_is_not_said_to_have_stopped_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes its database, which may not answer; and where all end, no others serve."""
    pool = Pool(Settings(), 3, Sockets([], []), lambda status: None)
    leaving, stopped, frozen = workers = [Started(0), Started(1), Started(2)]
    looked = asyncio.Event()
    for slot, worker in zip(pool._slots, workers, strict=True):
        slot.worker = worker
        worker.last_beat -= 100.0
    leaving.leaving = stopped.leaving = stopped.silent = True
    monkeypatch.setattr(pool, "_balance", looked.set)
    with logged(pool_module) as lines:
        watching = pool.watch()
        await looked.wait()
        watching.cancel()
    assert [(line["event"], line["worker"]) for line in lines] == [
        ("a worker does not answer; the others serve", frozen.number)
    ]
