"""``LockedLive``: what is read together belongs together, and nobody waits for the host while its lock is held."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from exporter import Connection, LockedLive, TypingStopped
from exporter.core.events import ConnectionClosed, HubEvent
from tests.embed.test_live import Clock, shown


def is_held(live: LockedLive) -> bool:
    """Would another thread have to wait now?"""
    free: list[bool] = []

    def attempt() -> None:
        free.append(live.lock.acquire(blocking=False))
        if free[0]:
            live.lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return not free[0]


class Spy:
    """The lock, and how often somebody took it who did not have it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._depth = self.taken = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self.taken += self._depth == 0
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())


CALLS: dict[str, Callable[[LockedLive, Connection], object]] = {
    "open": lambda live, _: live.open("bob"),
    "open with a handle that is there": lambda live, _: live.open("bob", handle="tab"),
    "open_anonymous": lambda live, _: live.open_anonymous(),
    "identify": lambda live, _: live.identify("unknown", "bob"),
    "close": lambda live, _: live.close("tab"),
    "close of the connection": lambda _, connection: connection.close(),
    "the end of a block": lambda _, connection: connection.__exit__(None, None, None),
    "reject": lambda live, _: live.reject(),
    "find": lambda live, _: live.find("tab"),
    "is_open": lambda live, connection: live.is_open(connection),
    "join": lambda live, _: live.join("tab", "other"),
    "join of the connection": lambda _, connection: connection.join("other"),
    "leave": lambda live, _: live.leave("tab", "room"),
    "leave of the connection": lambda _, connection: connection.leave("room"),
    "remove": lambda live, _: live.remove("room", "ann"),
    "typing": lambda live, _: live.typing("tab", "room"),
    "typing of the connection": lambda _, connection: connection.typing("room", False),
    "message": lambda live, _: live.message("tab", "room"),
    "message of the connection": lambda _, connection: connection.message("room"),
    "audience": lambda live, _: live.audience("room"),
    "expire": lambda live, _: live.expire(),
    "the timer": lambda live, _: live._arm(),
    "persisted": lambda live, _: live.persisted(0.1),
    "delivered": lambda live, _: live.delivered(1, 0.1),
    "dropped": lambda live, _: live.dropped(),
    "read": lambda live, _: live.read(0.1),
    "command_rejected": lambda live, _: live.command_rejected("send", "forbidden"),
    "commanded": lambda live, _: live.commanded("send", 0.1),
    "transferred": lambda live, _: live.transferred(received=1, sent=1),
    "stats": lambda live, _: live.stats(),
    "get_stats": lambda live, _: live.get_stats(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_each_call_takes_the_lock_once(call: Callable[[LockedLive, Connection], object]) -> None:
    live = LockedLive(workers=1, on_events=lambda _: None)
    connection = live.open("ann", handle="tab")
    live.open_anonymous(handle="unknown")
    connection.join("room")
    connection.typing("room")
    live.lock = spy = Spy(live.lock)  # type: ignore[assignment]
    call(live, connection)
    assert spy.taken == 1


ENDS: dict[str, Callable[[LockedLive], Any]] = {
    "a look": lambda live: live.stats(),
    "the document": lambda live: live.get_stats(),
    "a scrape": shown,
    "by hand": lambda live: live.expire(),
}


@pytest.mark.parametrize("look", ENDS.values(), ids=ENDS.keys())
def test_on_events_is_called_without_the_lock_when_typing_has_timed_out(look: Callable[[LockedLive], Any]) -> None:
    """It may wait for a lock of the host, and whoever holds that may be about to join a room."""
    told: list[tuple[type[HubEvent], bool]] = []
    clock = Clock()
    live = LockedLive(
        workers=1,
        now=clock,
        open_sockets=lambda: told.append((list, is_held(live))) or [],  # type: ignore[func-returns-value, arg-type]
        on_events=lambda events: told.extend((type(event), is_held(live)) for event in events),
    )
    connection = live.open("ann")
    connection.join("room")
    connection.typing("room")
    clock.now += 7
    look(live)
    assert (TypingStopped, False) in told
    assert {held for _, held in told} == {False}


def test_on_events_is_called_without_the_lock_when_a_handle_is_opened_again() -> None:
    told: list[tuple[type[HubEvent], bool]] = []
    live = LockedLive(workers=1, on_events=lambda events: told.extend((type(event), is_held(live)) for event in events))
    live.open("ann", handle="tab")
    live.open("ann", handle="tab")
    live.open_anonymous(handle="tab")
    with live.open("bob"):
        told.append((object, is_held(live)))
    assert told == [(ConnectionClosed, False)] * 2 + [(object, False), (ConnectionClosed, False)]


def test_a_code_of_the_host_s_own_is_logged_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler of the host's has a lock, too, and whoever holds that may be about to tell of a delivery."""
    held: list[bool] = []
    live = LockedLive(workers=1)
    logger = logging.getLogger("exporter.embed")
    monkeypatch.setattr(logger, "handle", lambda record: held.append(is_held(live)))
    live.command_rejected("send", "banned")
    assert held == [False]


async def test_typing_that_a_scrape_in_another_thread_ended_is_told_in_the_loop() -> None:
    """The host's function makes a task of it, which another thread cannot."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[bool] = loop.create_future()
    clock = Clock()
    live = LockedLive(
        workers=1, now=clock, on_events=lambda events: told.set_result(asyncio._get_running_loop() is loop)
    )
    connection = live.open("ann")
    connection.join("room")
    connection.typing("room")
    clock.now += 7
    await asyncio.to_thread(shown, live)
    async with asyncio.timeout(60):
        assert await told


class _Watched(dict[Any, Any]):
    """A dictionary that notes whether another thread could change it while it is read."""

    live: LockedLive
    held: list[bool]

    def __iter__(self) -> Any:
        self.held.append(is_held(self.live))
        return super().__iter__()

    def copy(self) -> Any:
        self.held.append(is_held(self.live))
        return super().copy()


def test_nothing_changes_while_a_scrape_reads_what_belongs_together() -> None:
    held: list[bool] = []
    live = LockedLive(workers=1, open_sockets=list)
    live.anonymous, live.hub.connections = _Watched(), _Watched()
    for dictionary in (live.anonymous, live.hub.connections):
        dictionary.live, dictionary.held = live, held
    live.open("ann")
    live.open_anonymous()
    shown(live)
    assert held
    assert all(held)


def test_no_thread_changes_who_types_while_the_timer_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at the first of a dictionary: an error there, and typing would never time out again."""
    held: list[bool] = []
    live = LockedLive(workers=1)
    monkeypatch.setattr(live.hub, "next_deadline", lambda: held.append(is_held(live)))
    live._due()
    assert held == [True]
