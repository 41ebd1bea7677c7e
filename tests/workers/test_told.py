"""What a supervisor and a worker do when they are told something, one without processes, the other without a server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from exporter.core.errors import Misconfigured
from exporter.settings.model import Settings
from exporter.workers import supervisor, worker
from exporter.workers.plan import Sockets
from tests.doubles import turns
from tests.logged import logged

SETTINGS = Settings(workers=2, systemd_socket=True, database_url="postgresql://nobody@127.0.0.1:1/none")
ENDS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


class Crew:
    """In the place of a ``Pool``; what it was told, in order."""

    def __init__(
        self, settings: Settings, count: int, sockets: Sockets, on_last: Callable[[int], None], cluster: int | None
    ) -> None:
        self.settings, self.on_last, self.cluster = settings, on_last, cluster
        self.workers = [Mock(), Mock()]
        self.told: list[str] = []
        self.failure: Exception | None = None
        self.started, self.replaced, self.drained = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.drained.set()
        self.replaces = True
        self.with_settings: list[Settings] = []
        self.watching: asyncio.Task[Any]

    def __len__(self) -> int:
        return len(self.workers)

    def watch(self) -> asyncio.Task[Any]:
        self.watching = asyncio.create_task(asyncio.Event().wait())
        return self.watching

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self.supervise(asyncio.create_task(work, name=name))

    def supervise(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        return task

    async def start(self) -> list[dict[str, Any]]:
        self.told.append("start")
        self.with_settings.append(self.settings)
        await self._wait(self.started, "start is cancelled")
        if self.failure is not None:
            raise self.failure
        return [{"urls": ["u"], "metrics_urls": [f"m{number}"]} for number in range(2)]

    async def replace(self) -> bool:
        self.told.append("replace")
        self.with_settings.append(self.settings)
        await self._wait(self.replaced, "replace is cancelled")
        return self.replaces

    async def _wait(self, event: asyncio.Event, cancelled: str) -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.told.append(cancelled)
            raise

    async def drain(self) -> None:
        self.told.append("drain")
        await self.drained.wait()

    def kill(self) -> None:
        self.told.append("kill")

    def reap(self) -> None:
        self.told.append("reap")


class Broker:
    """In the place of an ``OwnBroker``."""

    cluster = 7
    url = "unix:///valkey.sock"

    def __init__(self) -> None:
        self.start, self.stop = AsyncMock(), AsyncMock()
        self.reap, self.end_at_once = Mock(), Mock()


@contextmanager
def nothing_opened(settings: Settings) -> Any:
    yield Sockets([], [[], []])


class Supervised:
    """A supervisor at work: ``crew`` and ``broker`` are its pool's and its Valkey's."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[supervisor._Supervisor] = []
        self.now = SETTINGS
        patch.setattr(supervisor, "Pool", Crew)
        patch.setattr(supervisor, "OwnBroker", Broker)
        patch.setattr(supervisor.plan, "check", lambda settings: None)
        patch.setattr(supervisor.plan, "opened", nothing_opened)
        real = supervisor._Supervisor
        patch.setattr(supervisor, "_Supervisor", lambda *given: self.made.append(real(*given)) or self.made[0])

    def begin(self, settings: Settings = SETTINGS) -> None:
        self.task = asyncio.create_task(supervisor.supervise(settings, lambda: self.now))

    async def started(self) -> None:
        self.begin()
        await turns(5)
        self.crew.started.set()
        await turns(5)

    @property
    def crew(self) -> Crew:
        return self.made[0]._pool  # type: ignore[return-value]

    @property
    def broker(self) -> Broker:
        return self.made[0]._broker  # type: ignore[return-value]

    async def hears(self, number: signal.Signals) -> None:
        os.kill(os.getpid(), number)
        await turns(20)

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            return await self.task


@pytest.fixture
async def supervised(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervised]:
    found = Supervised(monkeypatch)
    yield found
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD):
        loop.remove_signal_handler(number)


@ENDS
async def test_both_signals_drain_and_nothing_is_left(number: signal.Signals, supervised: Supervised) -> None:
    await supervised.started()
    await supervised.hears(number)
    assert await supervised.ended() == 0
    assert supervised.crew.told == ["start", "drain", "kill"]
    supervised.broker.stop.assert_awaited_once()
    assert supervised.crew.watching.cancelled() or supervised.crew.watching.cancelling()


async def test_whoever_is_told_to_end_while_it_starts_starts_nobody_more(supervised: Supervised) -> None:
    supervised.begin()
    await turns(5)
    supervised.crew.drained.clear()  # workers end, each in its time
    await supervised.hears(signal.SIGTERM)
    assert supervised.crew.told == ["start", "drain", "start is cancelled"]
    supervised.crew.drained.set()
    assert await supervised.ended() == 0


async def test_a_start_that_fails_leaves_nobody(supervised: Supervised) -> None:
    supervised.begin()
    await turns(5)
    supervised.crew.failure = Misconfigured("a reason")
    supervised.crew.started.set()
    with pytest.raises(Misconfigured, match="a reason"):
        await supervised.ended()
    assert supervised.crew.told == ["start", "kill"]
    supervised.broker.stop.assert_awaited_once()


async def test_a_status_that_the_last_worker_ends_with_is_the_servers_and_the_others_are_drained(
    supervised: Supervised,
) -> None:
    await supervised.started()
    for status in (3, 4):  # two may end at once
        supervised.crew.on_last(status)
    assert await supervised.ended() == 3
    assert supervised.crew.told == ["start", "drain", "kill"]


@ENDS
async def test_while_it_drains_either_signal_ends_it_at_once(
    number: signal.Signals, supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    await supervised.started()
    supervised.crew.drained.clear()
    await supervised.hears(signal.SIGTERM)
    await supervised.hears(number)
    assert supervised.crew.told == ["start", "drain", "kill"]
    supervised.broker.end_at_once.assert_called_once()
    assert statuses == [0]
    supervised.crew.drained.set()
    await supervised.ended()


async def test_workers_are_replaced_one_time_at_a_time_with_what_is_read_then(supervised: Supervised) -> None:
    supervised.begin()
    await turns(5)
    crew = supervised.crew
    with logged(supervisor) as lines:
        await supervised.hears(signal.SIGUSR2)
        assert crew.told == ["start"], "they are being started"
        crew.started.set()
        await turns(5)
        supervised.now = replace(SETTINGS, typing_timeout=3.0)
        await supervised.hears(signal.SIGUSR2)
        await supervised.hears(signal.SIGUSR2)
        assert crew.told == ["start", "replace"]
        crew.replaced.set()
        await turns(5)
        supervised.now = replace(SETTINGS, typing_timeout=4.0)
        crew.replaces = False
        await supervised.hears(signal.SIGUSR2)
    assert [settings.typing_timeout for settings in crew.with_settings] == [SETTINGS.typing_timeout, 3.0, 4.0]
    assert crew.settings.typing_timeout == 3.0, "that of whoever serves; the next to die is started with it"
    assert sum("changes nothing" in line["event"] for line in lines) == 2
    crew.replaced.clear()
    crew.drained.clear()
    await supervised.hears(signal.SIGUSR2)
    await supervised.hears(signal.SIGTERM)
    crew.drained.set()
    assert await supervised.ended() == 0
    assert crew.told[-4:] == ["replace", "drain", "replace is cancelled", "kill"]


async def test_all_workers_read_again(supervised: Supervised) -> None:
    await supervised.started()
    await supervised.hears(signal.SIGHUP)
    for told in supervised.crew.workers:
        told.tell.assert_called_once_with("reload")
    await supervised.hears(signal.SIGTERM)
    await supervised.ended()


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1"])
async def test_a_broker_of_its_own_is_there_where_the_user_has_none(url: str | None, supervised: Supervised) -> None:
    supervised.begin(replace(SETTINGS, redis_url=url))
    await turns(5)
    told = supervised.crew.settings
    assert (told.workers, told.systemd_socket) == (1, False), "of one process, and the sockets are handed over"
    if url is None:
        supervised.broker.start.assert_awaited_once()
    assert (told.redis_url, supervised.crew.cluster) == ((Broker.url, Broker.cluster) if url is None else (url, None))
    assert (supervised.broker is None) == (url is not None)
    await supervised.hears(signal.SIGCHLD)
    assert supervised.crew.told[-1] == "reap"
    if url is None:
        supervised.broker.reap.assert_called_once()
    await supervised.hears(signal.SIGTERM)
    await supervised.ended()


def test_what_two_starts_must_have_in_common_is_not_read_again() -> None:
    """Sockets are bound, and workers of two clusters do not hear each other."""
    fields = ("workers", "listen", "metrics_listen", "systemd_socket", "redis_url", "cluster_name")
    assert sorted(supervisor._FIXED) == sorted(fields)


# --- a worker --------------------------------------------------------------------------------------------------


class Serving:
    """In the place of a ``Server``."""

    def __init__(self, settings: Settings, cluster: int | None = None) -> None:
        self.settings, self.cluster = settings, cluster
        self.metrics = SimpleNamespace(worker_restarts=SimpleNamespace(value=0))
        self.node, self.ready, self.connections = None, True, []
        self.urls, self.metrics_urls = ["u"], ["m"]
        self.listeners = SimpleNamespace(set_accepting=AsyncMock(), stop_accepting=AsyncMock())
        self.prepare, self.opened, self.listen_with_others = AsyncMock(), AsyncMock(), AsyncMock()
        self.drain, self.close = AsyncMock(), AsyncMock()
        self.reload = Mock()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def failed(self) -> None:
        await self.failure


class Working:
    """A worker at work, told by ``does``; what it says is in ``said``."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.servers: list[Serving] = []
        patch.setattr(worker, "Server", lambda *given: self.servers.append(Serving(*given)) or self.servers[-1])
        self.worker = worker._Worker(1)
        self.worker.channel = Mock()

    @property
    def server(self) -> Serving:
        return self.servers[0]

    async def begin(self, *, standby: bool = False, **settings: Any) -> None:
        handed = {"cluster": 7, "restarts": 2, "standby": standby, "shared": [], "own": []}
        self.task = asyncio.create_task(self.worker.run(Settings(**settings), handed))
        await turns(10)

    async def does(self, word: str) -> None:
        self.worker.received({"do": word})
        await turns(10)

    async def hears(self, number: signal.Signals) -> None:
        os.kill(os.getpid(), number)
        await turns(20)

    def said(self, word: str) -> int:
        return sum(word in call.kwargs for call in self.worker.channel.send.call_args_list)  # type: ignore[attr-defined]

    async def ended(self) -> None:
        async with asyncio.timeout(30):
            await self.task


@pytest.fixture
async def working(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Working]:
    before = signal.getsignal(signal.SIGUSR2)
    yield Working(monkeypatch)
    signal.signal(signal.SIGUSR2, before)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)


async def test_a_worker_that_no_supervisor_has_started_says_whose_command_it_is(working: Working) -> None:
    with pytest.raises(Misconfigured, match=r"^this command is for serve --workers, which starts it$"):
        await worker.serve(1, 999_999, Mock())


@pytest.mark.parametrize(
    ("how", "stops", "seconds"), [("drain", 0, None), ("retire", 1, None), ("orphaned", 1, 1.0), ("at once", 1, 0.5)]
)
async def test_a_worker_ends_as_it_is_told(how: str, stops: int, seconds: float | None, working: Working) -> None:
    """With all others it refuses in words; alone it leaves who comes to them; as an orphan it makes haste."""
    await working.begin(drain_timeout=0.5 if how == "at once" else 10.0)
    assert (working.server.cluster, working.server.metrics.worker_restarts.value) == (7, 2)
    assert working.said("listening") == 1
    if how in ("drain", "retire"):
        await working.does(how)
    else:
        working.worker.orphaned()
    await working.ended()
    assert working.said("leaving") == 1
    assert working.server.listeners.stop_accepting.await_count == stops
    working.server.drain.assert_awaited_once_with(seconds)
    working.server.close.assert_awaited_once()
    working.worker.channel.close.assert_called_once()  # type: ignore[attr-defined]


@ENDS
async def test_a_worker_that_is_told_by_a_signal_leaves_alone_and_a_second_one_ends_it_at_once(
    number: signal.Signals, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, drained = Mock(), asyncio.Event()
    monkeypatch.setattr(worker, "end_at_once", at_once)
    await working.begin()
    working.server.drain.side_effect = lambda seconds: drained.wait()
    await working.hears(number)
    working.server.listeners.stop_accepting.assert_awaited_once()
    at_once.assert_not_called()
    await working.hears(number)
    at_once.assert_called_once()
    drained.set()
    await working.ended()


async def test_other_signals_and_words(working: Working) -> None:
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN, "it is the supervisor's, and comes to the whole group"
    await working.hears(signal.SIGHUP)  # before there is anything to read again
    await working.begin()
    await working.hears(signal.SIGHUP)
    assert working.server.reload.call_count == 1
    await working.does("reload")
    assert working.server.reload.call_count == 2
    for word in ("accept", "pause"):
        await working.does(word)
        working.server.listeners.set_accepting.assert_awaited_with(word == "accept")
    await working.does("a word of another release")
    await working.does("drain")
    await working.ended()


async def test_a_replacement_that_is_told_to_end_before_it_may_listen_never_does(working: Working) -> None:
    await working.begin(standby=True)
    working.server.opened.assert_awaited_once()
    assert (working.said("prepared"), working.said("listening")) == (1, 0)
    await working.does("drain")
    await working.ended()
    working.server.listen_with_others.assert_not_awaited()
    working.server.close.assert_awaited_once()


async def test_a_replacement_listens_when_it_is_told_to(working: Working) -> None:
    await working.begin(standby=True)
    await working.does("listen")
    assert working.said("listening") == 1
    await working.does("retire")
    await working.ended()


async def test_a_worker_whose_database_is_none_for_it_closes_and_says_why(working: Working) -> None:
    await working.begin()
    working.server.failure.set_exception(Misconfigured("a reason"))
    with pytest.raises(Misconfigured, match="a reason"):
        await working.ended()
    working.server.close.assert_awaited_once()
    beats = working.said("full")
    await turns(5)
    assert working.said("full") == beats


async def test_how_full_it_is_is_said_more_often_where_that_may_change_soon(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred are allowed: one that was full has room below 98 again, and looks more often from 90 on."""
    server, pauses = Serving(Settings()), []
    server.settings = SimpleNamespace(limits=SimpleNamespace(connections=100))  # type: ignore[assignment]
    course = iter([(True, 89), (True, 90), (True, 99), (True, 100), (True, 99), (True, 98), (True, 97), (False, 0)])

    async def sleep(pause: float) -> None:
        pauses.append(pause)
        change()

    def change() -> None:
        server.ready, count = next(course)
        server.connections = [None] * count

    change()
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await working.worker._beat(server, None)  # type: ignore[arg-type]
    said = [call.kwargs["full"] for call in working.worker.channel.send.call_args_list]  # type: ignore[attr-defined]
    assert said == [False, False, False, True, True, True, False, True]
    assert pauses == [worker.BEAT_INTERVAL, *[worker.BEAT_INTERVAL / 20] * 7]


def test_a_socket_that_was_handed_over_is_no_childs_and_holds_up_nobody() -> None:
    with socket.socket() as made:
        made.set_inheritable(True)
        made.setblocking(True)
        with worker._socket(os.dup(made.fileno())) as found:
            assert not found.get_inheritable()
            assert found.gettimeout() == 0.0
