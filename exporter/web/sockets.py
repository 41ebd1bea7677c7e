"""Listening sockets: bound, and told as URLs. Knows no aiohttp, so that whoever only hands sockets on stays small.

Tested in ``tests/web/test_listeners.py``.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from exporter.core.errors import Misconfigured
from exporter.settings.model import Address

BACKLOG: Final = 4_096  # a reconnect storm: everybody comes within a second; the kernel cuts it to somaxconn

LISTEN: Final = "--web.listen-address"
METRICS_LISTEN: Final = "--web.metrics-listen-address"

_ADVICE: Final = {
    errno.EADDRINUSE: "; end the program that listens there, or choose another port with {flag} HOST:PORT",
    errno.EADDRNOTAVAIL: "; no interface of this machine has this address: give {flag} one that it has",
    errno.EACCES: "; ports below 1024 are root's, or want CAP_NET_BIND_SERVICE; {flag} HOST:PORT chooses another",
}


def shown_url(listening: socket.socket, scheme: str) -> str:
    """Where people connect, such as ``http://127.0.0.1:8765``; ``unix:PATH`` for a Unix socket."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    if host == "::" and not listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        host = "0.0.0.0"  # noqa: S104  # shown: that one is there where IPv6 is switched off, as in most containers
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # shown, not bound
    return f"{scheme}://{Address(shown, port)}"


def bind(address: Address, flag: str = LISTEN) -> socket.socket:
    """A listening socket; all interfaces means IPv4 and, where the machine has it, IPv6 on the same port.

    Raises Misconfigured when the address is taken, unknown or not allowed; ``flag`` is what chooses another.
    """
    try:
        if not address.host:
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
            return socket.create_server(("", address.port))
        found = {family for family, *_ in socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)}
        family = socket.AF_INET if socket.AF_INET in found else socket.AF_INET6
        return socket.create_server((address.host, address.port), family=family)
    except (socket.gaierror, UnicodeError):  # the latter: what cannot be in any name
        raise Misconfigured(f"cannot listen on {address}: this name is unknown here") from None
    except (OSError, OverflowError) as error:
        # strerror of the bare number: create_server adds the address to the words, which stands there already
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number is not None and number in errno.errorcode else str(error)
        advice = _ADVICE.get(number or 0, "").format(flag=flag)
        raise Misconfigured(f"cannot listen on {address}: {reason.lower()}{advice}") from None
