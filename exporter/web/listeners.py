"""Sockets and aiohttp's runners. Knows addresses and TLS; knows no route."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterable, Sequence

import structlog
from aiohttp import web

from exporter.core.errors import Misconfigured
from exporter.settings.model import Address
from exporter.web.aiohttp_seams import ProblemRunner
from exporter.web.toolkit.reload import WebConfig

log = structlog.get_logger(__name__)

BACKLOG = 4_096  # a reconnect storm: everybody comes within a second; the kernel cuts it to somaxconn


# Seconds that a connection may take from its start, or from its last answer, to the end of a request's headers: long
# enough for a scrape every 15 s to keep its connection, short enough that half requests pile up nowhere.
IDLE = 30.0

SPARE_FILES = 200  # besides the connections: database, listeners, scrapes, logs
MACOS_OPEN_MAX = 10_240  # what setrlimit(2) of macOS takes in any case

# Bytes that the kernel takes for one connection without being able to send them. By itself it takes up to 4 MB
# (net.ipv4.tcp_wmem; measured for a peer that does not read: 3.0 MB, with this 0.13 MB), several times the limit of
# the send buffer, and in memory that no limit of ours counts. What is on its way to the peer does not count.
UNSENT = 131_072


class Listeners:
    """Opens applications on addresses and closes them again."""

    def __init__(self, web_config: WebConfig) -> None:
        self._web_config = web_config
        self._runners: list[web.AppRunner] = []

    async def open(self, app: web.Application, addresses: Sequence[Address]) -> list[str]:
        """Serve ``app`` on every address: the URLs. Raises Misconfigured when one is taken or does not exist."""
        return await self.serve(app, map(bind, addresses))

    async def serve(self, app: web.Application, sockets: Iterable[socket.socket]) -> list[str]:
        """Serve ``app`` on sockets that are bound; the URLs, ``unix:PATH`` for a Unix socket."""
        context = self._web_config.ssl_context()
        runner = ProblemRunner(
            app,
            access_log=None,  # it would write addresses and paths, and costs more than a small request
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=IDLE,
            auto_decompress=False,  # no body of ours is worth a decompression bomb; see problems.py
        )
        self._runners.append(runner)
        await runner.setup()
        urls = []
        for listening in sockets:
            if listening.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)  # connections inherit it
            await web.SockSite(runner, listening, ssl_context=context, backlog=BACKLOG).start()
            urls.append(_url(listening, "http" if context is None else "https"))
        return urls

    async def close(self) -> None:
        """Stop listening; requests under way get a second."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()


def _url(listening: socket.socket, scheme: str) -> str:
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # shown, not bound
    return f"{scheme}://{Address(shown, port)}"


def bind(address: Address) -> socket.socket:
    """A listening socket; all interfaces means IPv4 and, where the machine has it, IPv6 on the same port."""
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
        raise Misconfigured(f"cannot listen on {address}: {reason.lower()}") from None


def allow_open_files(connections: int) -> None:
    """Raise the soft limit of open files to the hard one: each connection is one; say so when it is not enough.

    It never ends a start. macOS has "unlimited" for a hard limit and refuses it as a soft one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    for wanted in (hard, connections + SPARE_FILES, MACOS_OPEN_MAX):
        if soft == unlimited or (wanted != unlimited and wanted <= soft):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        soft = wanted
        break
    if soft != unlimited and soft < connections + SPARE_FILES:
        log.warning("fewer files may be opened than connections are allowed", files=soft, connections=connections)
