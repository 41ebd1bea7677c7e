"""Everything of aiohttp that is not its documented API, in one place. Knows no route and no state.

aiohttp lets go of a socket nowhere in its documentation, and gives a connection another class nowhere either. What is
used here was tried with the versions that ``setup.cfg`` names; ``self_check`` ends the start with one line when another
version does not fit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from exporter.web.problems import Problem, of_http

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


# --- a connection that answers what is no HTTP ------------------------------------------------------------


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


class ProblemRunner(web.AppRunner):
    """A runner whose connections answer with problem documents what they cannot read as HTTP."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            _in_our_words(made.request_handler),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )


# --- letting go of a socket -------------------------------------------------------------------------------


def hand_over(request: web.Request, transport: asyncio.Transport, protocol: asyncio.Protocol) -> bytes:
    """Give the request's socket to ``protocol``; returns what the client had sent behind its request.

    aiohttp is told that its connection has ended, so it drops everything that it kept for it. The caller has written
    the answer already and returns ``Upgraded()`` from the handler.
    """
    early = _EarlyBytes()
    request.protocol.set_parser(early)  # type: ignore[arg-type]  # it asks for these two methods only
    transport.set_protocol(protocol)
    request.protocol.transport = None  # or aiohttp would close it in the next line
    request.protocol.connection_lost(None)
    return bytes(early.data)


class _EarlyBytes:
    """What the client sent behind its request, before it could see the answer: aiohttp gives it to its new parser."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """aiohttp's side has ended; the connection's goes on."""


class Upgraded(web.StreamResponse):
    """The answer has left and the socket is somebody else's: nothing to prepare, nothing to end."""

    def __init__(self) -> None:
        super().__init__(status=101)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: D102  # aiohttp's
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: D102  # aiohttp's
        return None
