"""Sockets that systemd has opened, as sd_listen_fds(3) hands them over. Knows no address and no application."""

from __future__ import annotations

import os
import socket
from typing import Final

from exporter.core.errors import Misconfigured

FIRST: Final = 3  # SD_LISTEN_FDS_START: the descriptor after stdin, stdout and stderr


def sockets() -> list[socket.socket]:
    """The listening sockets for this process, at least one; its children are not told of them. Raises Misconfigured."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal() or not int(count):
        raise Misconfigured(
            "--web.systemd-socket: systemd has handed over no socket; start the service together with its socket unit"
        )
    return [_listening(descriptor) for descriptor in range(FIRST, FIRST + int(count))]


def _listening(descriptor: int) -> socket.socket:
    problem = f"--web.systemd-socket: descriptor {descriptor} is no listening stream socket: use ListenStream="
    try:
        found = socket.socket(fileno=descriptor)
        if found.type != socket.SOCK_STREAM or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise Misconfigured(f"{problem} and Accept=no")
    except OSError as error:
        raise Misconfigured(problem) from error
    found.set_inheritable(False)
    found.setblocking(False)
    return found
