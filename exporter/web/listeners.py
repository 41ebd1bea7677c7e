"""Sockets and aiohttp's runners. Knows addresses and TLS; knows no route."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from aiohttp import web

from exporter.config import Address
from exporter.errors import Misconfigured
from exporter.web.web_config import WebConfig

BACKLOG = 4_096  # a reconnect storm: everybody comes within a second; the kernel cuts it to somaxconn


# Seconds that a connection may take from its start, or from its last answer, to the end of a request's headers: long
# enough for a scrape every 15 s to keep its connection, short enough that half requests pile up nowhere.
IDLE = 30.0


class Listeners:
    """Opens applications on addresses and closes them again."""

    def __init__(self, web_config: WebConfig) -> None:
        self._web_config = web_config
        self._runners: list[web.AppRunner] = []
        self._bound: dict[Address, list[Address]] = {}
        self._scheme = "http"

    async def open(self, app: web.Application, addresses: Sequence[Address]) -> None:
        """Serve ``app`` on every address; raises Misconfigured when one is taken or does not exist."""
        context = self._web_config.ssl_context()
        self._scheme = "https" if context is not None else "http"
        runner = web.AppRunner(
            app,
            access_log=None,  # it would write addresses and paths, and costs more than a small request
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=IDLE,
            auto_decompress=False,  # no body of ours is worth a decompression bomb; see problems.py
        )
        self._runners.append(runner)
        await runner.setup()
        for address in addresses:
            for listening in _sockets(address):
                await web.SockSite(runner, listening, ssl_context=context, backlog=BACKLOG).start()
                host, port = listening.getsockname()[:2]
                self._bound.setdefault(address, []).append(Address(host, port))

    def urls(self, addresses: Sequence[Address]) -> list[str]:
        """What was bound for these addresses, as URLs."""
        return [self._url(bound) for address in addresses for bound in self._bound.get(address, [])[:1]]

    def _url(self, address: Address) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address.host, address.host)  # noqa: S104  # shown, not bound
        return f"{self._scheme}://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{address.port}"

    async def close(self) -> None:
        """Stop listening; requests under way get a second."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()


def _sockets(address: Address) -> list[socket.socket]:
    """Listening sockets; all interfaces means IPv4 and, where the machine has it, IPv6 on the same port."""
    try:
        if not address.host:
            if socket.has_dualstack_ipv6():
                return [socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)]
            return [socket.create_server(("", address.port))]
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return [socket.create_server((address.host, address.port), family=family)]
    except (OSError, OverflowError) as error:
        # strerror of the bare number: create_server adds the address to the words, which stands there already
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number is not None and number in errno.errorcode else str(error)
        raise Misconfigured(f"cannot listen on {address.host}:{address.port}: {reason.lower()}") from None
