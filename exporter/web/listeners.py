"""Sockets and aiohttp's runners. Knows addresses and TLS; knows no route."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from exporter.core.errors import Misconfigured
from exporter.settings.model import Address
from exporter.web.problems import Problem, of_http
from exporter.web.toolkit.reload import WebConfig

BACKLOG = 4_096  # a reconnect storm: everybody comes within a second; the kernel cuts it to somaxconn


# Seconds that a connection may take from its start, or from its last answer, to the end of a request's headers: long
# enough for a scrape every 15 s to keep its connection, short enough that half requests pile up nowhere.
IDLE = 30.0

# Bytes that the kernel takes for one connection without being able to send them. By itself it takes up to 4 MB
# (net.ipv4.tcp_wmem; measured for a peer that does not read: 3.0 MB, with this 0.13 MB), several times the limit of
# the send buffer, and in memory that no limit of ours counts. What is on its way to the peer does not count.
UNSENT = 131_072

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listeners:
    """Opens applications on addresses and closes them again."""

    def __init__(self, web_config: WebConfig) -> None:
        self._web_config = web_config
        self._runners: list[web.AppRunner] = []

    async def open(self, app: web.Application, addresses: Sequence[Address]) -> list[str]:
        """Serve ``app`` on every address: the URLs. Raises Misconfigured when one is taken or does not exist."""
        context = self._web_config.ssl_context()
        runner = _Runner(
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
        for address in addresses:
            listening = _socket(address)
            await web.SockSite(runner, listening, ssl_context=context, backlog=BACKLOG).start()
            host, port = listening.getsockname()[:2]
            shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # shown, not bound
            urls.append(f"{'http' if context is None else 'https'}://{Address(shown, port)}")
        return urls

    async def close(self) -> None:
        """Stop listening; requests under way get a second."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()


class _Protocol(web.RequestHandler):
    """aiohttp's connection, whose answer to what is no HTTP repeats nothing of it and writes no trace."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The problem document for what could not be parsed; everything else is aiohttp's."""
        if status != 400 or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        response = Problem(400, "this cannot be read as HTTP").response()
        response.force_close()
        return response


def _in_our_words(handler: _Handler) -> _Handler:
    """What aiohttp refuses before the middlewares begin (an ``Expect`` that it does not know) as a problem document."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return of_http(error).response()

    return handle


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Underscored, but the one place where aiohttp lets a connection be of another class."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            _in_our_words(made.request_handler),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )


def _socket(address: Address) -> socket.socket:
    """A listening socket whose connections, which inherit this, let the kernel keep little that it could not send."""
    listening = _bound(address)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    return listening


def _bound(address: Address) -> socket.socket:
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
