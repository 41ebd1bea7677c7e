"""Is this process one of several workers behind one port? Then its figures alone would be a lie. Knows files only.

gunicorn's and uvicorn's workers are children of one process with one command line. Each ``Live`` keeps a locked file in
a folder of that group, and whoever is asked for the figures of *the* server looks how many there are.
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
        self._mark: tuple[IO[bytes], Path] | None = None
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
        if self._mark is not None:  # the parent's, open here since the fork: it has to end with the parent
            self._mark[0].close()
            self._mark = None
        with contextlib.suppress(OSError):
            self._mark = _marked(self._folder, self._pid)

    def count(self) -> int:
        """How many processes there are, this one included; files of dead ones are removed."""
        parent = str(os.getppid())  # it may have mounted before it forked
        alive = {str(self._pid)}
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                pid, _, _ = path.name.partition(".")
                if pid not in ("", parent, *alive) and _is_held(path):
                    alive.add(pid)
        return len(alive)

    def leave(self) -> None:
        """No longer be counted. In a child that was forked and never entered: nothing, the mark is its parent's."""
        if self._pid != os.getpid():
            return
        self._pid = 0
        if self._mark is not None:
            file, path = self._mark
            self._mark = None
            with contextlib.suppress(OSError):
                path.unlink()
                self._folder.rmdir()
            file.close()


def _marked(folder: Path, pid: int) -> tuple[IO[bytes], Path]:
    """A file of this process, locked before a count can see it: one without a lock is taken for a dead process's.

    Its name is never another's, so that who removes a dead one's cannot meet a living one of the same number.
    """
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the last of the others left, and took the folder with it
            descriptor, name = tempfile.mkstemp(prefix=".", dir=folder)
            file, hidden = os.fdopen(descriptor, "wb"), Path(name)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file, hidden.rename(folder / f"{pid}{hidden.name}")


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
