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


async def test_a_supervisor_that_was_asleep_itself_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Settings(), 1, Sockets([], []), lambda status: None)
    worker = pool._slots[0].worker = Started(0)
    worker.last_beat -= 100.0
    pool._ticked -= 100.0
    looked = asyncio.Event()
    monkeypatch.setattr(pool, "_balance", looked.set)
    watching = pool.watch()
    await looked.wait()
    watching.cancel()
    assert not worker.silent


async def test_who_was_told_to_go_and_does_not_end_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "GRACE", 0.0)
    pool = Pool(Settings(drain_timeout=0.0), 2, Sockets([], []), lambda status: None)
    ends, hangs = Started(0), Started(1)
    ends.end(0)
    with logged(pool_module) as lines:
        await pool.ended([ends, hangs])
    assert (ends.exited.result(), hangs.exited.result()) == (0, -9)
    assert [line["worker"] for line in lines] == [hangs.number]


async def test_a_worker_that_does_not_answer_is_no_room_for_others_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Settings(), 2, Sockets([], []), lambda status: None)
    full, silent = Started(0), Started(1)
    for slot, worker in zip(pool._slots, (full, silent), strict=True):
        slot.worker = worker
    told = list[str]()
    monkeypatch.setattr(full, "tell", told.append)
    full.full = full.accepting = True
    silent.full = False
    pool._balance()
    assert told == ["pause"], "the other has room"
    full.accepting, silent.silent = False, True
    pool._balance()
    assert told == ["pause", "accept"], "nobody has: then all refuse"


async def test_who_has_not_said_yet_that_it_has_its_database_leaves_connections_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(Settings(), 2, Sockets([], []), lambda status: None)
    other, new = Started(0), Started(1)
    for slot, worker in zip(pool._slots, (other, new), strict=True):
        slot.worker = worker
    told = list[str]()
    monkeypatch.setattr(new, "tell", told.append)
    other.full, other.accepting = False, True
    pool._balance()
    assert not told, "it listens, and that is all that is known of it"
    other.full = True
    pool._balance()
    assert told == ["accept"], "nobody has room: then all refuse"
    replacement = WorkerProcess(1, lambda: None)
    replacement._on_message({"prepared": True})
    assert not replacement.full, "who waits with its database for the place of another has room at once"


async def test_the_old_one_is_told_to_go_when_the_new_one_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Settings(), 1, Sockets([], [[]]), lambda status: None)
    old, new = Started(0), Started(0)
    pool._slots[0].worker = old
    told = asyncio.Event()

    def tell(word: str) -> None:
        assert word == "listen"
        new.listening = asyncio.get_running_loop().create_future()
        told.set()

    async def start(*_: Any, **__: Any) -> Started:
        return new

    monkeypatch.setattr(new, "tell", tell)
    monkeypatch.setattr(WorkerProcess, "start", start)
    replacing = asyncio.create_task(pool.replace())
    await told.wait()
    for _ in range(10):  # steps of the loop: more than it would take to tell the old one
        await asyncio.sleep(0)
    assert not old.exited.done()
    assert old in pool.workers
    new.listening.set_result({})
    assert await replacing
    assert old.exited.done()


async def test_whoever_takes_a_dead_worker_s_place_is_told_its_name_and_how_often_that_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its name the dead one's entries leave the cluster's figures at once, not after a lease."""
    told: list[tuple[int, str]] = []
    again = asyncio.Event()

    async def start(number: int, *_: Any, restarts: int, predecessor: str, **__: Any) -> Started:
        told.append((restarts, predecessor))
        worker = Started(number)
        worker.incarnation = f"name {len(told)}"
        if len(told) == 3:
            again.set()
        return worker

    monkeypatch.setattr(WorkerProcess, "start", start)
    pool = Pool(Settings(), 2, Sockets([], [[], []]), lambda status: None)
    await pool.start()
    (dead, _) = pool.workers
    assert isinstance(dead, Started)
    dead.end(-9)
    await again.wait()
    await pool.drain()
    assert told == [(0, ""), (0, ""), (1, "name 1")]
