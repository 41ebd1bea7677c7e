"""``LockedLive``: the same for servers with threads (Flask-SocketIO, Django without asyncio).

Tested in ``tests/embed/test_live.py``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from exporter.core.events import HubEvent
from exporter.embed.live import Live

# Everything that reads or changes state. ``command`` is around the host's own work: it counts by two of these.
_GUARDED: Final = (
    "open",
    "open_anonymous",
    "identify",
    "_close",
    "reject",
    "find",
    "is_open",
    "_join",
    "_leave",
    "remove",
    "_typing",
    "_message",
    "audience",
    "expire",
    "_arm",
    "persisted",
    "delivered",
    "dropped",
    "read",
    "_command_rejected",
    "commanded",
    "transferred",
    "stats",
    "get_stats",
)


class LockedLive(Live):
    """``Live`` whose every call holds one lock, for microseconds. ``lock`` is re-entrant.

    ``on_events`` is called without it: a host's function may wait for a lock of the host, whose holder may be about to
    call here. Where typing is timed by an event loop, it is called in that loop's thread.
    """

    lock: threading.RLock

    def _make_lock(self) -> None:
        self.lock = threading.RLock()
        self._untold: deque[list[HubEvent]] = deque()
        _lives.add(self)

    def _tell(self, events: list[HubEvent]) -> None:
        self._untold.append(events)
        self._tell_unlocked()

    def _tell_unlocked(self) -> None:
        """Tell what could not be told while this thread held the lock."""
        while self._untold and not self.lock._is_owned():  # type: ignore[attr-defined]  # as threading.Condition does
            try:
                events = self._untold.popleft()
            except IndexError:  # another thread told it
                return
            loop = self._loop if self._timer is not None else None
            if loop is None or not loop.is_running() or loop is asyncio._get_running_loop():
                super()._tell(events)
                continue
            try:
                loop.call_soon_threadsafe(super()._tell, events)
            except RuntimeError:  # it has ended meanwhile
                super()._tell(events)


_lives: WeakSet[LockedLive] = WeakSet()


def _forked() -> None:
    for live in list(_lives):
        live._make_lock()  # whoever held the other one is not in the child; what is untold the parent tells


os.register_at_fork(after_in_child=_forked)


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: LockedLive, *args: Any, **options: Any) -> Any:
        with self.lock:
            result = method(self, *args, **options)
        if self._untold:
            self._tell_unlocked()
        return result

    return call


for _name in _GUARDED:
    setattr(LockedLive, _name, _guarded(getattr(Live, _name)))
