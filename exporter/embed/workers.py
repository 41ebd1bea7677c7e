"""Is this process one of several workers behind one port? Then its figures alone would be a lie. Knows files only.

gunicorn's and uvicorn's workers are children of one process with one command line. Each ``Live`` keeps a locked file in
a folder of that group, and whoever is asked for the figures of *the* server looks how many there are.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, Final
from weakref import WeakSet, finalize

from exporter.ownership import NotOurs, open_folder

_PREFIX: Final = "messaging-exporter-"
_NAMES: Final = (b"SUPERVISOR_PROCESS_NAME", b"SANIC_WORKER_NAME", b"SANIC_WORKER_IDENTIFIER")
"""Of workers behind one port, by those who start them."""
EXPLANATION = (
    "this process is one of several workers behind one port, and its figures are not those of the server. Make each "
    "worker a target of its own (docs/embed.md, 'Several workers'), or say Live(workers=1) if this is wrong"
)
_TAKEN: Final = (
    "whether this process is the whole server is not known: {}, by which the workers of one server know of each other, "
    "is another user's. Remove it, or say Live(workers=1) if there are no others"
)


class WorkerGroup:
    """The processes that run the same command for the same parent."""

    def __init__(self, folder: Path | None = None) -> None:
        self._base = folder
        self._folder: Path | None = None  # none until it is entered, and where there is no temporary folder
        self._pid = 0
        self._taken = False
        self._mark: IO[bytes] | None = None
        self._unmark: finalize[Any, WorkerGroup] | None = None  # with the process, or with a host that is made anew
        _groups.add(self)

    def enter(self) -> None:
        """Be counted; again after a fork or a leave. Without a folder that can be written nothing is known."""
        if self._pid == os.getpid():
            return
        self.leave()
        self._pid = os.getpid()
        try:
            base = self._base or Path(tempfile.gettempdir())
            self._folder = base / _name()
            self._mark, path = _marked(self._folder, self._pid)
            self._unmark = finalize(self, _unmarked, self._mark, path, self._pid)
            _tidy(base)
        except NotOurs:
            self._taken = True
        except OSError:
            pass

    def count(self) -> int:
        """How many processes there are, this one included, or 0: nobody knows; files of dead ones are removed.

        A file that somebody has is touched: whoever cleans temporary folders takes what nobody has touched for days.
        What was taken all the same is made again.
        """
        if self._mark is not None and not self._mark.closed:  # as it is when the process ends
            if os.fstat(self._mark.fileno()).st_nlink:
                os.utime(self._mark.fileno())
            else:
                self._pid = 0
                self.enter()
        if self._taken:
            self._pid = 0
            self.enter()
        if self._taken:
            return 0
        if self._folder is None:
            return 1
        alive = {str(self._pid)}
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                pid, _, _ = path.name.partition(".")
                if pid.isdigit() and pid not in alive and _is_held(path):
                    alive.add(pid)
        return len(alive)

    def explanation(self) -> str:
        """Why the figures of this process, of which ``count`` is not 1, are not shown as the server's."""
        return _TAKEN.format(self._folder) if self._taken else EXPLANATION

    def leave(self) -> None:
        """No longer be counted, until it is entered again. A child lets go of its parent's mark, which stays."""
        unmark, self._mark, self._unmark, self._folder, self._pid = self._unmark, None, None, None, 0
        self._taken = False
        if unmark is not None:
            unmark()


def _unmarked(mark: IO[bytes], path: Path, pid: int) -> None:
    """Remove a mark, in the process whose it is."""
    if os.getpid() == pid:
        with contextlib.suppress(OSError):
            path.unlink()
            path.parent.rmdir()
    mark.close()


_groups: WeakSet[WorkerGroup] = WeakSet()


def _forked() -> None:
    """In a child: its parent's mark ends with the parent, however long this child lives."""
    for group in _groups:
        group.leave()


os.register_at_fork(after_in_child=_forked)


def _name() -> str:
    """The same for all workers, another one for another server of the same parent. Bytes: none of it need be text."""
    try:
        here = os.getcwdb()
    except OSError:  # a deployment has removed it
        here = b""
    # The environment too: two servers of one supervisor differ in their port there, workers do not.
    command = b"\0".join((str(os.getppid()).encode(), here, *map(os.fsencode, sys.argv), *_environment()))
    return f"{_PREFIX}{os.getuid()}-{hashlib.sha256(command).hexdigest()[:16]}"


def _environment() -> list[bytes]:
    """What this process was started with, and still has. What it has set for itself, each worker may have otherwise: a
    temporary folder of its own, a key made at random. Where a title lies over it (setproctitle), it is nothing.
    Only what pytest-xdist's processes set makes a difference: each of them runs servers of its own."""
    has = {b"=".join(one) for one in os.environb.items() if one[0] not in _NAMES}
    with contextlib.suppress(OSError):
        has &= set(Path("/proc/self/environ").read_bytes().split(b"\0"))
    return [*sorted(has), os.environb.get(b"PYTEST_XDIST_WORKER", b"")]


def _tidy(base: Path) -> None:
    """Remove what is left of groups that ended without a word: killed, or as uvicorn does it, by SIGTERM once more.

    Only what is surely theirs: a folder of this user, not a link that anybody may lay there, and in it marks.
    """
    for folder in base.glob(f"{_PREFIX}{os.getuid()}-{'[0-9a-f]' * 16}"):
        with contextlib.suppress(OSError):
            os.close(open_folder(folder))
            for path in folder.iterdir():
                if path.name.partition(".")[0].isdigit():
                    _is_held(path)
            folder.rmdir()


def _marked(folder: Path, pid: int) -> tuple[IO[bytes], Path]:
    """A file of this process, locked before a count can see it: one without a lock is taken for a dead process's.

    Its name is never another's, so that who removes a dead one's cannot meet a living one of the same number. Raises
    NotOurs, OSError.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # the last of the others left, and took the folder with it
            os.close(open_folder(folder))
            descriptor, name = tempfile.mkstemp(prefix=".", dir=folder)
            file, hidden = os.fdopen(descriptor, "wb"), Path(name)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file, hidden.rename(folder / f"{pid}{hidden.name}")
            except OSError:  # a file system without locks
                file.close()
                hidden.unlink(missing_ok=True)
                raise


def _is_held(path: Path) -> bool:
    """Is there a process behind this file?"""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        with contextlib.suppress(OSError):
            os.utime(path)
        return True
    except OSError:
        return False
    return False
