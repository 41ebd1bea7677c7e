"""What a child process has between fork and exec, so that none outlives the one who started it.

Linux tells a child of its parent's end, however that ends; elsewhere this does nothing.

Tested in ``tests/workers/test_orphans.py``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import exporter
from exporter.settings.ineffective_variables import misspelt
from exporter.settings.options import PREFIX

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_OF_THIS_PROCESS: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS")


def between_fork_and_exec(number: signal.Signals) -> Callable[[], None]:
    """A ``preexec_fn``: a process group of its own, ``number`` when the parent has ended, SIGHUP ignored at first."""
    libc = _libc()  # loaded here: a fork is no place for it
    parent = os.getpid()

    def prepare() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, number)
            # It had ended before, and Linux tells nobody of that any more; 0 is one outside this PID namespace.
            if os.getppid() not in (parent, 0):
                os._exit(1)

    return prepare


def told_of_the_parents_end_by(number: signal.Signals) -> None:
    """From now on this process gets ``number`` instead."""
    libc = _libc()
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, number)


def _libc() -> Any:
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        return ctypes.CDLL(None)
    except (ImportError, MemoryError, OSError):  # a sandbox without executable memory, and an old libffi
        return None


def own_environment() -> dict[str, str]:
    """The environment for another process of this program: without settings and without the supervisor's words.

    What was meant for a setting goes, too: this process has said so, once.
    """
    others = {*_OF_THIS_PROCESS, *misspelt(os.environ)}
    ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX) and name not in others}
    package = str(Path(exporter.__file__).parent.parent)
    return {**ours, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
