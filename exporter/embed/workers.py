"""Is this process one of several workers behind one port? Then its figures alone would be a lie. Knows files only.

gunicorn's and uvicorn's workers are children of one process with one command line. Each ``Live`` keeps a locked file in
a folder of that group, and whoever is asked for the figures of *the* server looks how many there are.

Tested in ``tests/embed/test_frameworks.py``.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import IO

EXPLANATION = (
    "this process is one of several workers behind one port, and its figures are not those of the server. Make each "
    "worker a target of its own (docs/embed.md, 'Several workers'), or say Live(workers=1) if this is wrong"
)


class WorkerGroup:
    """The processes that run the same command for the same parent."""

    def __init__(self, folder: Path | None = None) -> None:
        self._base = folder or Path(tempfile.gettempdir())
        self._folder = self._base
        self._pid = 0
        self._file: IO[str] | None = None
        atexit.register(self.leave)

    def enter(self) -> None:
        """Be counted; again after a fork. Without a folder that can be written nothing is known."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        # The environment too: two servers of one supervisor differ in their port there, workers do not.
        environment = [f"{name}={value}" for name, value in sorted(os.environ.items())]
        command = "\0".join((str(os.getppid()), os.getcwd(), *sys.argv, *environment))
        name = f"messaging-exporter-{os.getuid()}-{hashlib.sha256(command.encode()).hexdigest()[:16]}"
        self._folder = self._base / name
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._file = (self._folder / str(self._pid)).open("w")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def count(self) -> int:
        """How many processes there are, this one included; files of dead ones are removed."""
        alive = 1
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.name not in (str(self._pid), str(os.getppid())):  # a parent that mounted before it forked
                    alive += _is_held(path)
        return alive

    def leave(self) -> None:
        """No longer be counted."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                (self._folder / str(self._pid)).unlink()
                self._folder.rmdir()
        self._pid = 0


def _is_held(path: Path) -> bool:
    """Is there a process behind this file?"""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
