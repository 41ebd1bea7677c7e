"""Servers end with the tests, however those end: no Ctrl-C, cancelled job or ``kill -9`` leaves one behind."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # prctl(2)


def ends_with_the_tests(number: signal.Signals = signal.SIGKILL) -> Callable[[], object] | None:
    """A ``preexec_fn``: the child gets ``number`` when this process has ended. On Linux alone.

    From another thread it is none: the kernel means the thread, which may end long before.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)  # loaded here: a fork is no place for it
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, number)
