"""A place has one worker, whoever fills it; a defect in what keeps the workers is not silent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporter.settings.model import Settings
from exporter.workers import own_broker, supervisor
from exporter.workers import pool as pool_module
from exporter.workers.plan import Sockets
from exporter.workers.pool import Pool
from exporter.workers.process import FIRST_PAUSE, STABLE_AFTER, Backoff, WorkerProcess
from tests.doubles import turns
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


def of_no_process(settings: Settings) -> supervisor._Supervisor:
    return supervisor._Supervisor(settings, broken_settings, Sockets([], [[], []]), asyncio.Queue())


def broken_settings() -> Settings:
    raise RuntimeError("a defect")


async def test_so_does_one_in_replacing_the_workers() -> None:
    """Else nobody would hear why SIGUSR2 has changed nothing."""
    first = of_no_process(Settings(workers=2, redis_url="redis://127.0.0.1:1"))
    with logged(pool_module) as logged_lines:
        first._pass_on(signal.SIGUSR2, starting=False)
        assert await asyncio.wait_for(first._ended, 30) == 1
    assert [line["task"] for line in logged_lines] == ["replace"]


async def test_and_one_in_what_keeps_their_own_valkey_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the next time that it died nobody would start it again."""
    first = of_no_process(Settings(workers=2))

    async def nothing() -> None:
        pass

    async def broken() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(own_broker, "_make_folder", lambda: (tmp_path, -1))
    for name, stub in (("_launch", lambda: None), ("_answers", nothing), ("_keep", broken)):
        monkeypatch.setattr(first._broker, name, stub)
    monkeypatch.setattr(first._pool, "start", asyncio.Event().wait)
    with logged(pool_module) as logged_lines:
        starting = asyncio.create_task(first._start())
        assert await asyncio.wait_for(first._ended, 30) == 1
    starting.cancel()
    assert [line["task"] for line in logged_lines] == ["own-broker"]


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

    def reap(self) -> None:
        """Whoever ends it says so."""

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
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(hangs, "kill", lambda: loop.call_soon(hangs.end, -9))  # it holds the port until then
    with logged(pool_module) as lines:
        await pool.ended([ends, hangs])
    assert (ends.exited.result(), hangs.exited.result()) == (0, -9)
    assert [line["worker"] for line in lines] == [hangs.number]


async def test_who_is_replaced_has_the_time_to_drain_that_it_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that replaces it may have another: people of the old one are still told that it goes."""
    kept = Kept(monkeypatch, 1)
    monkeypatch.setattr(pool_module, "GRACE", 0.0)

    class Slowly(Started):
        def __init__(self, number: int) -> None:
            super().__init__(number)
            self.drain_timeout = kept.pool.settings.drain_timeout

        def tell(self, word: str) -> None:
            if word == "retire":
                told.set()

    kept.made = Slowly  # type: ignore[method-assign]
    told = asyncio.Event()
    await kept.pool.start()
    kept.pool.settings = Settings(drain_timeout=0.0)
    replacing = asyncio.create_task(kept.pool.replace())
    await told.wait()
    await turns()
    old, new = kept.started
    assert not old.exited.done()
    assert not replacing.done(), "one after the other"
    old.end(0)
    assert await replacing
    new.end(0)
    await kept.pool.drain()


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


async def test_a_name_that_a_worker_had_no_time_to_say_is_still_that_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[int, str]] = []
    third = asyncio.Event()

    async def start(number: int, *_: Any, restarts: int, predecessor: str, **__: Any) -> Started:
        told.append((restarts, predecessor))
        worker = Started(number)
        if len(told) == 1:
            worker.incarnation = "the first"
        elif len(told) == 2:
            worker.end(-9)
        else:
            third.set()
        return worker

    monkeypatch.setattr(WorkerProcess, "start", start)
    pool = Pool(Settings(), 1, Sockets([], [[]]), lambda status: None)
    await pool.start()
    (dead,) = pool.workers
    assert isinstance(dead, Started)
    dead.end(-9)
    async with asyncio.timeout(60):
        await third.wait()
    await pool.drain()
    assert told == [(0, ""), (1, "the first"), (2, "the first")]


def test_who_has_no_broker_yet_has_said_no_name() -> None:
    async def test() -> str:
        worker = WorkerProcess(0, lambda: None)
        worker._on_message({"full": False, "incarnation": None})
        return worker.incarnation

    assert asyncio.run(test()) == ""


class Kept:
    """A pool whose workers are counted; ``ended`` is what it was told to end with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.started: list[Started] = []
        self.ended: list[int] = []
        self._changed = asyncio.Event()
        monkeypatch.setattr(WorkerProcess, "start", self._start)
        self.pool = Pool(Settings(), count, Sockets([], [[] for _ in range(count)]), self._end)

    async def _start(self, number: int, *_: Any, **__: Any) -> Started:
        worker = self.made(number)
        self.started.append(worker)
        self._changed.set()
        return worker

    def made(self, number: int) -> Started:
        return Started(number)

    def _end(self, status: int) -> None:
        self.ended.append(status)
        self._changed.set()

    async def until_started(self, count: int) -> None:
        """So many in all, or the end."""
        async with asyncio.timeout(60):
            while len(self.started) < count and not self.ended:
                self._changed.clear()
                await self._changed.wait()
        assert self.ended == []


async def test_when_all_are_killed_at_once_all_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without memory kills whom it likes: that is no worker that ended by itself."""
    kept = Kept(monkeypatch, 2)
    await kept.pool.start()
    for worker in kept.started[:2]:
        worker.end(-9)
    await kept.until_started(4)
    await kept.pool.drain()


async def test_who_has_replaced_another_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(monkeypatch, 1)
    await kept.pool.start()
    assert await kept.pool.replace()
    old, new = kept.started
    assert (old.exited.result(), new.exited.done()) == (0, False)
    await turns()
    assert new in kept.pool.workers, "nobody died"
    new.end(-9)
    await kept.until_started(3)
    await kept.pool.drain()


async def test_a_successor_takes_the_place_of_one_that_dies_and_is_not_told_to_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Kept(monkeypatch, 1)
    await kept.pool.start()
    told, listens = list[str](), asyncio.Event()

    class Slowly(Started):
        def __init__(self, number: int) -> None:
            super().__init__(number)
            self.prepared = asyncio.get_running_loop().create_future()

        def tell(self, word: str) -> None:
            told.append(word)
            listens.set()
            super().tell(word)

    kept.made = Slowly  # type: ignore[method-assign]
    replacing = asyncio.create_task(kept.pool.replace())
    await kept.until_started(2)
    await turns()
    old, new = kept.started
    old.end(-9)
    async with asyncio.timeout(60):
        await listens.wait()
    new.prepared.set_result(None)
    assert await replacing
    assert told == ["listen"]
    assert (kept.pool.workers, kept.ended) == ([new], [])
    await kept.pool.drain()


async def test_a_replacement_that_does_not_get_ready_is_ended_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PREPARING", 0.0)
    kept = Kept(monkeypatch, 1)
    await kept.pool.start()

    class Never(Started):
        def __init__(self, number: int) -> None:
            super().__init__(number)
            self.prepared = asyncio.get_running_loop().create_future()

    kept.made = Never  # type: ignore[method-assign]
    assert not await kept.pool.replace()
    old, new = kept.started
    assert new.exited.result() == -9
    assert kept.pool.workers == [old, new], "a child that nobody waits for stays in the table of processes"
    kept.pool.reap()
    assert kept.pool.workers == [old]
    await kept.pool.drain()


async def test_a_replacement_that_has_ended_as_soon_as_it_was_ready_replaces_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Kept(monkeypatch, 1)
    await kept.pool.start()

    class Ended(Started):
        def __init__(self, number: int) -> None:
            super().__init__(number)
            self.end(1)

    kept.made = Ended  # type: ignore[method-assign]
    assert not await kept.pool.replace()
    old, _ = kept.started
    assert not old.exited.done()
    kept.pool.reap()
    assert kept.pool.workers == [old]
    await kept.pool.drain()


async def test_nobody_is_started_again_after_all_were_told_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(monkeypatch, 1)
    await kept.pool.start()
    pauses, go_on = asyncio.Event(), asyncio.Event()

    async def pause(_: float) -> None:
        pauses.set()
        await go_on.wait()

    complaints = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "sleep", pause)
        kept.started[0].end(-9)
        await pauses.wait()
    await kept.pool.drain()
    go_on.set()
    await turns()
    assert len(kept.started) == 1
    assert not complaints, "what is given up at the end is no defect"


async def test_whoever_is_started_again_has_lived_since_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that dies at once would be started again ten times a second, as soon as the server has run a while."""
    kept = Kept(monkeypatch, 1)
    now = 0.0
    (slot,) = kept.pool._slots
    slot.backoff = Backoff(lambda: now)
    slot.backoff.next()
    now = STABLE_AFTER
    await kept.pool._fill(slot)
    assert slot.backoff.next() == 2 * FIRST_PAUSE


async def test_who_was_being_started_when_all_were_told_to_go_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(monkeypatch, 1)
    kept.pool.stopping = True
    await kept.pool._fill(kept.pool._slots[0])
    assert kept.started[0].exited.result() == 0


async def test_one_that_ends_before_its_place_knows_of_it_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine runs the child first; by the time that this process goes on, nobody is told of its end again."""
    popen = subprocess.Popen

    def launch(_: list[str], **options: Any) -> subprocess.Popen[bytes]:
        child = popen([sys.executable, "-c", ""], **options)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return child

    monkeypatch.setattr(subprocess, "Popen", launch)
    pool = Pool(Settings(), 1, Sockets([], [[]]), lambda status: None)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, pool.reap)
    try:
        worker = await pool._fill(pool._slots[0])
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)
    assert worker.exited.done()
    assert worker.drain_timeout == pool.settings.drain_timeout


async def test_one_place_is_started_before_the_others_and_its_end_by_a_signal_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is wrong with the settings is said once; a first one that is killed is no end in order."""
    kept = Kept(monkeypatch, 2)

    class Starts(Started):
        def __init__(self, number: int) -> None:
            super().__init__(number)
            self.listening = asyncio.get_running_loop().create_future()

    kept.made = Starts  # type: ignore[method-assign]
    starting = asyncio.create_task(kept.pool.start())
    await kept.until_started(1)
    await turns()
    assert len(kept.started) == 1
    kept.started[0].end(-9)
    await turns()
    assert kept.ended == [1]
    assert (len(kept.started), starting.done()) == (1, False)
    starting.cancel()


@pytest.mark.parametrize(("status", "others"), [(0, 1), (3, 2)])
async def test_who_ends_without_an_error_or_beside_one_that_serves_does_not_end_the_server(
    status: int, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(monkeypatch, others)
    await kept.pool.start()
    kept.started[0].end(status)
    await kept.until_started(others + 1)
    await kept.pool.drain()


async def test_a_drain_waits_for_who_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(monkeypatch, 1)

    class Slowly(Started):
        def tell(self, word: str) -> None:
            assert word == "drain"

    kept.made = Slowly  # type: ignore[method-assign]
    await kept.pool.start()
    draining = asyncio.create_task(kept.pool.drain())
    await turns()
    assert not draining.done()
    kept.started[0].end(0)
    await draining
    assert kept.started[0].exited.result() == 0


@pytest.mark.parametrize("why", ["leaves", "has ended", "does not listen yet"])
async def test_room_of_one_that_takes_nobody_is_no_room(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the others, which have none, refuse in words; and it is told nothing."""
    pool = Pool(Settings(), 2, Sockets([], []), lambda status: None)
    full, other = workers = [Started(0), Started(1)]
    told = list[tuple[int, str]]()
    for slot, worker in zip(pool._slots, workers, strict=True):
        slot.worker = worker
        monkeypatch.setattr(worker, "tell", lambda word, number=worker.number: told.append((number, word)))
    other.full = False
    if why == "leaves":
        other.leaving = True
    elif why == "has ended":
        other.end(-9)
    else:
        other.listening = asyncio.get_running_loop().create_future()
    pool._balance()
    assert told == [(full.number, "accept")]
