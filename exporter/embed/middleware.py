"""An ASGI middleware that knows connections, their ends and durations by itself, from the events that pass.

Who they are and what they join comes by the API: ``live_connection.get()`` is the connection of the handler that runs.

Tested in ``tests/embed/test_frameworks.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final

from exporter.core.events import ClosedReason, RejectedReason
from exporter.embed.connection import Connection, explicit_reason, reason_of, reason_of_code
from exporter.embed.live import Live

if TYPE_CHECKING:
    from exporter.embed.asgi import Application, Receive, Scope, Send
    from exporter.embed.identifiers import User

REASONS: Final = {
    401: RejectedReason.UNAUTHENTICATED,
    429: RejectedReason.USER_LIMIT,
    503: RejectedReason.CAPACITY,
}
"""By the status of a refused handshake."""
SILENCE: Final = 5.0
"""Seconds for which a handler only writes, before the middleware itself asks the server whether the client is there."""
_TELLS_WRITERS: Final = "2.4"
"""The version of the specification from which on a server raises where a handler writes to a client that has gone."""
_WATCHING: Final = "messaging_exporter.watching"
"""Who counts it already: a mounted application may have a middleware of its own."""
live_connection: ContextVar[Connection | None] = ContextVar("live_connection", default=None)
"""The connection of the WebSocket handler that runs; None before it was accepted and elsewhere."""


class LiveMiddleware:
    """``app.add_middleware(LiveMiddleware, live=live, user=lambda scope: scope["state"]["user"])``.

    ``user(scope)`` says whose connection it is when it is accepted, or None; then ``Connection.identify`` may. When it
    fails, the error is logged and the user is unknown. A
    handshake that is refused is counted as rejected; one that is cancelled, or whose client goes, leaves no trace.
    """

    def __init__(self, app: Application, live: Live, user: Callable[[Scope], User | None] | None = None) -> None:
        self._app = app
        self._live = live
        self._user = user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of the host."""
        watching = scope.setdefault(_WATCHING, []) if scope["type"] == "websocket" else None
        if watching is None or self._live in watching:
            await self._app(scope, receive, send)
            return
        watching.append(self._live)
        watched = _Watched(self._live, self._user, scope, receive, send)
        token = live_connection.set(None)
        try:
            await self._app(scope, watched.receive, watched.send)
        except BaseException as error:  # cancelled, too: however the host ends, the connection has ended
            watched.end(reason_of(error, self._live.cancelled))
            raise
        else:
            watched.end(ClosedReason.CLIENT)
        finally:
            watched.leave()
            live_connection.reset(token)


class _Watched:
    """One WebSocket between the server and the application.

    A handler that only writes learns of no end with most servers (findings/asgi-send-to-nobody.sh), so for such a one
    the next event is asked for in the background, and kept until the handler asks. It is one event at most, and the
    server is never asked twice at a time.
    """

    def __init__(
        self, live: Live, user: Callable[[Scope], User | None] | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._live = live
        self._user = user
        self._scope = scope
        self._receive = receive
        self._send = send
        self._connection: Connection | None = None
        self._refused = False
        # Not where a writer is told: uvicorn tells it otherwise, as a defect, when the end was received before.
        self._looks = str(scope.get("asgi", {}).get("spec_version") or "") < _TELLS_WRITERS
        self._reading = 0  # the handler awaits an event, as nearly all do whenever somebody writes
        self._silent_since: float | None = None  # the first of its messages since it last did
        self._ahead: asyncio.Task[MutableMapping[str, Any]] | None = None
        self._context: Context  # the handler's when it was accepted, for middlewares between the server and this one

    async def receive(self) -> MutableMapping[str, Any]:
        while (ahead := self._ahead) is not None:
            if ahead.done():
                self._ahead = self._silent_since = None
                return ahead.result()
            await asyncio.wait((ahead,))  # a handler that gives up waiting does not take it along
        self._reading += 1
        try:
            message = await self._receive()
        finally:
            self._reading -= 1
            self._silent_since = None
        if message["type"] == "websocket.disconnect":
            self.end(ClosedReason.CLIENT)
        return message

    async def _read_ahead(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.end(ClosedReason.CLIENT)
        return message

    def _look(self) -> None:
        """The handler writes: where it has only done so for long, ask for the next event."""
        now = self._live._now()
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since >= SILENCE:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # Trio's
                self._looks = False
                return
            self._ahead = self._context.run(loop.create_task, self._read_ahead(), name="messaging-look")

    def leave(self) -> None:
        """The handler has ended, and nobody asks any more."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()  # if it has failed, nobody is told that nobody asked

    async def send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            await self._send(message)  # first: a handshake that fails here was never a connection
            self._open()
            return
        if kind == "websocket.close" and self._connection is not None:
            self.end(reason_of_code(message.get("code", 1000)))
        elif kind in ("websocket.close", "websocket.http.response.start") and self._connection is None:
            self._refuse(message.get("status", 403))
        elif self._looks and not self._reading and self._ahead is None and self._connection is not None:
            self._look()
        try:
            await self._send(message)
        except Exception as error:  # the handler may pass over it
            # An OSError is an ASGI server's way to say that the client has gone. Daphne's is autobahn's.
            if isinstance(error, OSError) or reason_of(error, self._live.cancelled) is ClosedReason.CLIENT:
                self.end(ClosedReason.CLIENT)
            raise

    def _open(self) -> None:
        self._connection = accepted(self._live, self._user, self._scope)
        live_connection.set(self._connection)
        self._context = copy_context()

    def _refuse(self, status: int) -> None:
        if not self._refused:
            self._refused = True
            self._live.reject(REASONS.get(status, RejectedReason.HANDSHAKE))

    def end(self, reason: ClosedReason) -> None:
        self._looks = False
        if self._connection is not None:
            self._live.close_without_caller(self._connection, explicit_reason(self._connection.reason) or reason)


def accepted(live: Live, user: Callable[[Any], Any] | None, subject: Any) -> Connection:
    """A connection that a middleware saw; nobody's where ``user`` answers None, fails or names no identifier."""
    live.by_middleware = True
    try:
        whose = None if user is None else user(subject)
        return live.open_anonymous() if whose is None else live.open(whose)
    except Exception:  # the host's; the handshake is over, and its handler must not fail because of the figures
        logging.getLogger("exporter.embed").exception("whose connection it is: user(…) failed")
        return live.open_anonymous()
