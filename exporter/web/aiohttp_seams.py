"""Everything of aiohttp that is not its documented API, in one place. Knows no route and no state.

aiohttp lets go of a socket nowhere in its documentation, and gives a connection another class nowhere either. What is
used here was tried with the versions that ``setup.cfg`` names; ``self_check`` ends the start with one line when another
version does not fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, cast

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.typedefs import Handler

from exporter.core.errors import Misconfigured
from exporter.web.problems import of_http
from exporter.web.unreadable import problem_of

CHECK_TIME: Final = 5.0  # seconds for the self-check, which takes a few milliseconds
# Seconds in which a client that is being answered reads something. Who reads nothing would keep the connection, and up
# to 4 MiB of an answer, for ever: aiohttp waits, and closing waits for what is left to be sent.
READ_TIME = 30.0
# Seconds for a TLS handshake, which comes before the time for the headers; asyncio and uvloop would wait for 60.
HANDSHAKE_TIME = 30.0

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


# --- a connection that answers what is no HTTP ------------------------------------------------------------


class _Protocol(web.RequestHandler):
    """aiohttp's connection, whose answer to what is no HTTP repeats nothing of it and writes no trace.

    It is cut off when nothing of an answer is read.
    """

    __slots__ = ("_timer",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: told from now on as soon as something cannot be sent."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        # Not 0, which over TLS an empty buffer reaches. uvloop's transport is a class of its own.
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        """asyncio: who waits for a body whose chunks are none is told so at once; aiohttp lets them wait for more."""
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):  # this cannot be parsed
            bodies = [body for _, body in self._messages]
            if self._current_request is not None:
                bodies.append(self._current_request.content)
            for body in bodies:
                if not body.is_eof():
                    body.set_exception(web.RequestPayloadError())
                    body.feed_eof()

    def pause_writing(self) -> None:
        """asyncio: something waits to be read."""
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        """asyncio: everything has left."""
        self._stop_looking()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """asyncio: the socket is gone, or somebody else's: a timer would keep what was asked until its time."""
        self._stop_looking()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        left = self.transport.get_write_buffer_size() if self.transport is not None else 0
        self._timer = self._loop.call_later(READ_TIME, self._look, left)

    def _look(self, before: int) -> None:
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() < before:
            self._look_again()
        else:
            self.transport.abort()

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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
        return problem_of(exc, request.remote).response()


def _in_our_words(handler: _Handler) -> _Handler:
    """What aiohttp refuses before the middlewares begin (an ``Expect`` that it does not know) as a problem document."""

    unexpected = of_http(web.HTTPExpectationFailed())

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return of_http(error).response()
        except UnicodeEncodeError:  # its words repeat the ``Expect``, and these bytes of it are no text
            return unexpected.response()

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


class Site(web.SockSite):
    """A listening socket of a runner. Whoever begins a TLS handshake has to end it."""

    async def start(self) -> None:
        """Accept from now on."""
        await web.BaseSite.start(self)
        server, limit = self._runner.server, None if self._ssl_context is None else HANDSHAKE_TIME
        if server is None:
            raise RuntimeError("a runner has no server")
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._sock,
            ssl=self._ssl_context,
            ssl_handshake_timeout=limit,
            # Where no more files can be opened, asyncio's loop tries as often as this says before anybody else has a
            # turn, and logs each: 4,096 times a second nobody would be served, and the disk would fill.
            backlog=1,
        )
        self._sock.listen(self._backlog)


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


# --- does this version fit? -------------------------------------------------------------------------------

_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: self\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
_ANSWER: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def self_check() -> None:
    """An upgrade against oneself, over a pair of sockets. Raises Misconfigured when this aiohttp does not fit."""
    try:
        async with asyncio.timeout(CHECK_TIME):
            await _upgrade_oneself()
            await _send_oneself_garbage()
    except Exception as error:  # whatever a change of private API brings about
        reason = "a WebSocket cannot take over its socket" if isinstance(error, TimeoutError) else str(error)
        raise Misconfigured(
            f"aiohttp {aiohttp.__version__} does not fit this program ({reason or type(error).__name__}): "
            "install a version that the package's requirements name"
        ) from error


class _Receiver(asyncio.Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.whole = asyncio.Event()
        self.failure: Exception | None = None

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) >= len(b"earlylate"):
            self.whole.set()


async def _upgrade_oneself() -> None:
    receiver = _Receiver()

    async def upgrade(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise RuntimeError("a request has no transport")
        transport.write(_ANSWER)
        try:
            receiver.data_received(hand_over(request, transport, receiver))
        except Exception as error:  # aiohttp would log it; it is what is wanted to be known
            receiver.failure = error
            receiver.whole.set()
            return web.Response()
        return Upgraded()

    async with _conversation(upgrade) as (reader, writer):
        writer.write(_REQUEST + b"early")
        if await reader.readexactly(len(_ANSWER)) != _ANSWER:
            raise RuntimeError("an upgrade is answered otherwise")
        writer.write(b"late")
        await receiver.whole.wait()
        if receiver.failure is not None:
            raise receiver.failure
        if receiver.data != b"earlylate":
            raise RuntimeError("what follows an upgrade is lost")


async def _send_oneself_garbage() -> None:
    async with _conversation(_unreached) as (reader, writer):
        writer.write(b"\xff is no HTTP\r\n\r\n")
        if b"application/problem+json" not in await reader.read():
            raise RuntimeError("what is no HTTP is answered otherwise")


async def _unreached(request: web.Request) -> web.StreamResponse:
    return web.Response()


@contextlib.asynccontextmanager
async def _conversation(handler: Handler) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of an application with this one handler, without a listener."""
    app = web.Application()
    app.router.add_get("/", handler)
    runner = ProblemRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    server = runner.server
    if server is None:
        raise RuntimeError("a runner has no server")
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(server, theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        yield reader, writer
    finally:
        writer.close()
        transport.abort()
        await runner.cleanup()
