"""Is what was found under a name this user's? Where everybody may make names, as in /tmp, it may be anybody's.

Asked of what was opened, never of the name: that may be another's a moment later.

Tested in ``tests/workers/test_another_user.py``.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from exporter.core.errors import os_reason

_CREDENTIALS: Final = struct.Struct("iII")  # of unix(7), ucred: process, user, group
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class NotOurs(OSError):
    """What is there is another user's, or may be."""


def open_folder(path: Path) -> int:
    """A descriptor of the folder itself, not of one that a link leads to. Raises NotOurs, OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):  # the first two are a link, too
            raise NotOurs(os_reason(error)) from None
        raise
    about = os.fstat(descriptor)
    if about.st_uid != os.geteuid() or about.st_mode & _OTHERS_WRITE:
        os.close(descriptor)
        raise NotOurs("its owner or its mode is not ours")
    return descriptor


def taken_by_another(path: Path) -> Path | None:
    """The name on the way to ``path`` that another user has made in a folder where everybody may make one."""
    whole = path.absolute()
    for name in (*list(reversed(whole.parents))[1:], whole):
        try:
            folder, found = name.parent.stat(), name.lstat()
        except OSError:  # it is not there, or not for this user to see
            return None
        everybodys = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
        # What is mounted there is nothing that somebody made there: a container's, of a user of the host's.
        if everybodys and found.st_uid not in (0, os.geteuid()) and not os.path.ismount(name):
            return name
    return None


def nobody_else_moves(folder: str) -> bool:
    """Does what this user puts into this folder stay under its name, whatever others but root do?"""
    try:
        about = os.stat(folder)  # the empty name is none
    except OSError:
        return False
    kept = bool(about.st_mode & stat.S_ISVTX) or not about.st_mode & _OTHERS_WRITE
    return stat.S_ISDIR(about.st_mode) and about.st_uid in (0, os.geteuid()) and kept


def require_own_peer(sock: socket.socket) -> None:
    """Who listens on the other side of this Unix socket? Raises NotOurs where it is another user. Only Linux tells."""
    if hasattr(socket, "SO_PEERCRED"):
        _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user != os.geteuid():
            raise NotOurs("another user listens on the socket")
