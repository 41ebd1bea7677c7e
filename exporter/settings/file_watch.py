"""Noticing that files have changed, as often as somebody asks. Knows nothing of what is in them.

A file that is replaced (renamed over, a swapped link of a mounted volume) or written in place has another device,
inode, size or time. Looking takes a microsecond a file, so it can be done for every request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from exporter.core.errors import Misconfigured

# A change within the clock tick of the last look may leave no trace in the times (git calls it "racily clean"),
# and a broken file may be repaired by a file that is not looked at yet: seconds after which it is read all the same.
_TICK: Final = 1.0

_Signature = tuple[tuple[int, ...] | None, ...]


class FileWatch:
    """What some files looked like when they were read last."""

    def __init__(self) -> None:
        self._seen: _Signature | None = None
        self._looked_at = 0.0  # Unix seconds

    def look(self, paths: Sequence[Path]) -> None:
        """They are read now; to be called before reading, so that a change while reading is noticed."""
        self._seen, self._looked_at = _signature(paths), time.time()

    def must_read(self, paths: Sequence[Path], *, broken: bool) -> bool:
        """Should they be read again? ``broken``: what was read last could not be used. Calls ``look`` if so."""
        now = time.time()
        signature = _signature(paths)
        again = broken and abs(now - self._looked_at) > _TICK
        if signature == self._seen and not again and not self._is_racy():
            return False
        self._seen, self._looked_at = signature, now
        return True

    def _is_racy(self) -> bool:
        """Was a file changed so shortly before it was looked at that a further change would look the same?"""
        assert self._seen is not None  # noqa: S101 - the caller has compared it
        return any(entry is not None and abs(self._looked_at - entry[4] / 1e9) < _TICK for entry in self._seen)


def refuse_pipe(path: Path) -> None:
    """A pipe, such as ``<(…)`` of a shell, is empty when it is read again, or holds up whoever does.

    Raises Misconfigured.
    """
    if path.is_fifo():
        raise Misconfigured(f"{path} is a pipe, and is read more than once: give a file")


def _signature(paths: Sequence[Path]) -> _Signature:
    return tuple(_stat(path) for path in paths)


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
