"""Background tasks: what one of them raises is logged_lines, counted and paused for, and is nobody else's affair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from exporter.metrics.counters import BackgroundTask, Metrics
from exporter.store import supervision as background_module
from exporter.web.background import BackgroundTasks
from tests.logged import logged


class World:
    """The tasks, their counter, and one that fails as often as it is told to."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.background = BackgroundTasks(self.metrics.background_failures, pause=0.001)
        self.runs = 0
        self.failures = 0
        self.sound = asyncio.Event()

    async def work(self) -> None:
        self.runs += 1
        if self.runs <= self.failures:
            raise TypeError("a defect")
        self.sound.set()
        await asyncio.Event().wait()

    def counted(self, task: BackgroundTask) -> int:
        return self.metrics.background_failures[task].value


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.background.close()


async def test_a_task_that_raises_is_started_again_and_each_failure_is_counted_and_logged_with_its_trace(
    world: World,
) -> None:
    world.failures = 3
    with logged(background_module) as logged_lines:
        world.background.start(BackgroundTask.HISTORY, world.work)
        await asyncio.wait_for(world.sound.wait(), 20)
    assert world.runs == 4
    assert world.counted(BackgroundTask.HISTORY) == 3
    assert [(line["log_level"], line["task"], line["after"]) for line in logged_lines] == [
        ("error", "history", 0.001),
        ("error", "history", 0.002),
        ("error", "history", 0.004),
    ]
    assert all(isinstance(line["exc_info"], TypeError) for line in logged_lines)


async def test_the_others_go_on(world: World) -> None:
    other = World()
    world.failures = 1_000_000
    world.background.start(BackgroundTask.VERIFY, world.work)
    world.background.start(BackgroundTask.HISTORY, other.work)
    await asyncio.wait_for(other.sound.wait(), 20)
    assert world.counted(BackgroundTask.HISTORY) == 0


async def test_a_task_that_is_done_is_not_started_again(world: World) -> None:
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    world.background.start(BackgroundTask.VERIFY, work)
    await asyncio.wait_for(done.wait(), 20)
    assert world.counted(BackgroundTask.VERIFY) == 0


async def test_what_a_callback_raises_is_counted_and_what_a_peers_socket_raises_is_not(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    world.background.watch_callbacks()
    for error in (KeyError("a defect"), ConnectionResetError("a peer")):

        def raising(error: Exception = error) -> None:
            raise error

        loop.call_soon(raising)
    turn = asyncio.Event()
    loop.call_soon(turn.set)
    await turn.wait()
    assert world.counted(BackgroundTask.CALLBACK) == 1
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError, ConnectionResetError]
    await world.background.close()
    assert loop.get_exception_handler() is None
