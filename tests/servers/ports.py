"""Ports that are this process's own until it ends.

One that was only seen to be free may be another's before a server listens on it, or while a server starts again.
"""

from __future__ import annotations

import socket

_HELD: list[socket.socket] = []


def free_port(wanted: int = 0) -> int:
    """A port on the loopback that nobody listens on, and that the kernel gives to nobody else.

    Raises OSError where one that is ``wanted`` is not free.
    """
    held = socket.socket()
    # Bound and not listening: connections are refused, and whoever sets this, too, may listen. All servers do.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", wanted))
    _HELD.append(held)
    return int(held.getsockname()[1])
