"""``LockedLive``: the same for servers with threads (Flask-SocketIO, Django without asyncio).

Tested in ``tests/embed/test_live.py``.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

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
    "persisted",
    "delivered",
    "dropped",
    "read",
    "command_rejected",
    "commanded",
    "transferred",
    "stats",
    "get_stats",
)


class LockedLive(Live):
    """``Live`` whose every call holds one lock, for microseconds. ``lock`` is re-entrant."""

    def __init__(self, **options: Any) -> None:
        self.lock = threading.RLock()
        _lives.add(self)
        super().__init__(**options)


_lives: WeakSet[LockedLive] = WeakSet()


def _forked() -> None:
    for live in _lives:
        live.lock = threading.RLock()  # whoever held the other one is not in the child


os.register_at_fork(after_in_child=_forked)


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: LockedLive, *args: Any, **options: Any) -> Any:
        with self.lock:
            return method(self, *args, **options)

    return call


for _name in _GUARDED:
    setattr(LockedLive, _name, _guarded(getattr(Live, _name)))
