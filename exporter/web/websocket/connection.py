"""One WebSocket connection after its upgrade: bytes in, commands to the node, frames out. Knows no HTTP.

It is the transport's protocol itself: aiohttp answers the upgrade and lets go of the socket (``handshake``). No task
and no queue per connection: a frame is handled in the callback that read it, so an idle connection is one small object,
and a busy one never waits for a wake-up.

Ending: whoever ends it first gives the reason, the hub is told at once, and the figures with it. What is left is
courtesy: the close frame is written, and what still comes in is read and thrown away for a bounded time, because
closing a socket with unread data would reset it and the peer would never see the code. Who broke the protocol may be
waiting for the FIN, so it follows that close frame at once. Behind the beginning of a message that is too large it
waits for the rest, or for silence: a proxy that sees the FIN throws away what the peer has not sent yet, and the close
code with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import msgspec
import structlog

from exporter.core import websocket_frames
from exporter.core.errors import BadFrame, RateLimited
from exporter.core.events import ClosedReason, Command
from exporter.core.protocol import MESSAGE_BEGINS, CloseCode, Malformed, parse, read_name
from exporter.metrics.counters import Metrics
from exporter.node.node import Node
from exporter.node.publisher import NodeConnection
from exporter.settings.model import Limits
from exporter.web.websocket.closing import CLOSE_FRAMES, State

__all__ = ["MAX_WAITING", "ConnectionContext", "State", "WebSocketConnection"]

log = structlog.get_logger(__name__)

# Courtesy after the close frame: seconds without a byte from the peer, and in all.
LINGER: Final = 5.0
LINGER_MAX: Final = 30.0
# Seconds of silence after which the rest of a message that failed is not waited for.
SILENCE: Final = 0.25
# Commands that may wait behind a join before reading is paused; a pipelining client has a handful.
MAX_WAITING: Final = 16

_OPEN: Final = State.OPEN  # looked up in its class it costs as much as a comparison of strings
_TEXT, _CLOSE = websocket_frames.TEXT, websocket_frames.CLOSE
_MESSAGES: Final = (_TEXT, websocket_frames.BINARY)
_NOT_UTF8: Final = (CloseCode.INVALID_DATA, websocket_frames.NOT_UTF8)
_SAYS_1002: Final = CloseCode.PROTOCOL_ERROR.to_bytes(2, "big")
_RATE_LIMITED: Final = RateLimited("too many frames; slow down")


class ConnectionContext(msgspec.Struct, frozen=True):
    """What all connections of a process share; ``now`` is monotonic seconds."""

    node: Node
    metrics: Metrics
    limits: Limits
    now: Callable[[], float]
    ended: Callable[[WebSocketConnection], None]
    lost: Callable[[WebSocketConnection], None]


class WebSocketConnection(NodeConnection, asyncio.Protocol):
    """A connection of one user. ``expires_at`` is Unix seconds, ``last_seen`` and ``opened_at`` are monotonic."""

    __slots__ = (
        "_context",
        "_fin_sent",
        "_join",
        "_linger",
        "_linger_until",
        "_reader",
        "_refilled_at",
        "_strikes",
        "_tokens",
        "_waiting",
        "expires_at",
        "id",
        "last_seen",
        "opened_at",
        "pinged",
        "state",
    )

    def __init__(
        self, id: str, user: str, expires_at: float, transport: asyncio.Transport, context: ConnectionContext
    ) -> None:
        limits = context.limits
        super().__init__(user, transport, context.node.fan_out, limits.send_buffer_bytes)
        # Half the limit is where asyncio calls pause_writing: a slow consumer begins and ends there.
        transport.set_write_buffer_limits(high=limits.send_buffer_bytes // 2, low=limits.send_buffer_bytes // 2)
        self.sends_in_flight = 0
        self.id = id
        self.expires_at = expires_at
        self.opened_at = self.last_seen = self._refilled_at = context.now()
        self.pinged = False
        self.state = State.OPEN
        self._context = context
        self._reader = websocket_frames.FrameReader(limits.frame_bytes)
        self._tokens = float(limits.frames_per_second)
        self._strikes = 0
        self._join: asyncio.Future[None] | None = None  # what the next command waits for
        self._waiting: deque[tuple[Command, float]] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._linger_until = 0.0
        self._fin_sent = False

    @property
    def _socket(self) -> asyncio.Transport:
        return cast(asyncio.Transport, self.transport)

    @property
    def is_live(self) -> bool:
        """Is the socket open, and does it speak to this connection? Asked of the transport, not of what was told."""
        return not self._socket.is_closing() and self._socket.get_protocol() is self

    # --- in -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        context, turn = self._context, self.fan_out.turn
        turn.reading = turn.alone
        context.metrics.received_bytes.value += len(data)
        clock, node, limit = context.now, context.node, context.limits.frames_per_second
        self.last_seen = now = clock()
        self.pinged = False
        try:
            for opcode, payload in self._reader.feed(data):
                if opcode == _CLOSE:
                    self._closed_by_peer(payload)
                    continue
                if self.state is not _OPEN:
                    continue
                # A bucket of one second's frames, refilled by time.
                tokens = self._tokens + (now - self._refilled_at) * limit
                if tokens > limit:
                    tokens = limit
                self._refilled_at = now
                if tokens < 1.0:
                    self._tokens = tokens
                    self._strike(opcode, payload)
                    continue
                self._tokens = tokens - 1.0
                self._strikes = 0
                if opcode != _TEXT:
                    self._other(opcode, payload)
                    continue
                if not payload.isascii() and not websocket_frames.is_utf8(payload):  # RFC 6455 section 8.1
                    self.close(ClosedReason.PROTOCOL_ERROR, *_NOT_UTF8)
                    continue
                try:
                    command = parse(payload)
                except Malformed as malformed:
                    node.refuse(self, malformed.command, malformed.refusal, malformed.id)
                    continue
                if self._join is not None:
                    self._wait(command, now)
                    continue
                self._join = node.handle(self, command, now)
                if self._join is not None:
                    self._join.add_done_callback(self._carry_on)
            node.handled(now)
            if self._reader.error is not None:
                self.close(ClosedReason.PROTOCOL_ERROR, *self._reader.error)
                self._send_fin_in_time()
        except Exception:  # a defect here costs this connection, not the process
            log.exception("connection failed")
            self.close(ClosedReason.INTERNAL_ERROR)
        finally:  # whatever happens: what others are to be written must not wait for the next read
            turn.has_read()

    def _strike(self, opcode: int, payload: bytes) -> None:
        """A frame too many: answered (RFC 6455 section 5.5.2 wants a pong), and as many again in a row close."""
        self._strikes += 1
        if opcode in _MESSAGES:
            command, id = read_name(payload)
            self._context.node.refuse(self, command, _RATE_LIMITED, id)
        else:
            self._other(opcode, payload)
        if self._strikes >= self._context.limits.frames_per_second:
            self.close(ClosedReason.RATE_LIMITED)

    def _wait(self, command: Command, now: float) -> None:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append((command, now))
        if len(self._waiting) == MAX_WAITING:
            self._socket.pause_reading()

    def _carry_on(self, _: asyncio.Future[None]) -> None:
        """The join is answered: what was waiting behind it goes on, until the next join."""
        self._join = None
        while self._waiting and self._join is None and self.state is State.OPEN:
            command, received = self._waiting.popleft()
            self._join = self._context.node.handle(self, command, received)
            self._context.node.handled(received)
            if self._join is not None:
                self._join.add_done_callback(self._carry_on)
        if not self._waiting and self._waiting is not None:
            self._waiting = None
            if self.state is not State.LOST and not self._socket.is_reading():
                self._socket.resume_reading()
        if self._join is None and self.state is State.DRAINING:
            self.on_sends_answered()

    def _other(self, opcode: int, payload: bytes) -> None:
        """Control frames (RFC 6455 section 5.5) and binary messages, which this protocol does not have."""
        if opcode == websocket_frames.BINARY:
            self._context.node.refuse(self, "unknown", BadFrame("frames are text, not binary"), None)
        elif opcode == websocket_frames.PING:
            self.put(websocket_frames.frame(websocket_frames.PONG, payload))

    def _closed_by_peer(self, payload: bytes) -> None:
        if self.state.value < State.CLOSING.value:
            code = websocket_frames.close_code(payload)
            # Invalid is what we make 1002 of; a client that says 1002 has only closed: the server decides the reason.
            invalid = code == CloseCode.PROTOCOL_ERROR and payload[:2] != _SAYS_1002
            reason = ClosedReason.PROTOCOL_ERROR if invalid else ClosedReason.CLIENT
            self.close(reason, code if code is not None else CloseCode.NORMAL)
        if self.state is State.CLOSING:
            self._socket.close()  # both close frames have been seen: the server closes first (section 7.1.1)

    @property
    def is_held_up(self) -> bool:
        """Reading is paused because a join takes long: the peer's silence is then ours."""
        return self._waiting is not None

    # --- ending -------------------------------------------------------------------------------------------

    def close(self, reason: ClosedReason, code: int | None = None, words: str | None = None) -> None:
        """End it, with a close frame; the first reason counts."""
        if not self._leave_hub(reason):
            return
        usual = CLOSE_FRAMES.get(reason, (CloseCode.NORMAL, ""))
        code, words = usual[0] if code is None else code, usual[1] if words is None else words
        self.write_last(websocket_frames.close_frame(code, words))
        if reason is ClosedReason.PROTOCOL_ERROR:
            self._send_fin_in_time()
        self._start_lingering()

    def _send_fin_in_time(self) -> None:
        """Nothing follows the close frame; who broke the protocol learns from the FIN that this is the end.

        Over TLS, which has no half-closed state, closing does the same: what comes is read until the peer agrees.
        """
        silent = self._context.now() - self.last_seen >= SILENCE
        if self._fin_sent or self._socket.is_closing() or (self._reader.is_skipping and not silent):
            return
        self._fin_sent = True
        if self._socket.can_write_eof():
            self._socket.write_eof()
        else:
            self._socket.close()

    def abort(self, reason: ClosedReason) -> None:
        """End it without a word: nobody is listening."""
        if self._leave_hub(reason):
            self._discard_pending()
        if self.state is not State.LOST:
            self._socket.abort()

    def drain(self) -> None:
        """Take no more commands; end with ``shutdown`` as soon as nothing is under way."""
        if self.state is State.OPEN:
            self.state = State.DRAINING
            self.on_sends_answered()

    def on_sends_answered(self) -> None:
        """The last send or join under way was answered."""
        if self.state is State.DRAINING and not self.sends_in_flight and self._join is None:
            self.close(ClosedReason.SHUTDOWN)

    def on_overflow(self) -> None:
        """The send buffer is full: the peer gets what is in it and the reason, if it reads on in time."""
        if self._leave_hub(ClosedReason.SLOW_CONSUMER):
            self._discard_pending()
            last = websocket_frames.close_frame(*CLOSE_FRAMES[ClosedReason.SLOW_CONSUMER])
            self._context.metrics.sent_bytes.value += len(last)
            self._socket.write(last)
            self._start_lingering()

    def _leave_hub(self, reason: ClosedReason) -> bool:
        """Tell the hub, once: True the first time."""
        if self.state.value >= State.CLOSING.value:
            return False
        self.state = State.CLOSING
        self._waiting = None  # nobody carries it out, and the join that it waits for may take long
        self._context.ended(self)
        self._context.metrics.connection_duration.observe(self._context.now() - self.opened_at)
        self._context.node.close(self, reason)
        return True

    def _discard_pending(self) -> None:
        dropped = sum(websocket_frames.count_beginning(frames, MESSAGE_BEGINS) for frames in self.discard_pending())
        self._context.metrics.deliveries_dropped.value += dropped

    def _start_lingering(self) -> None:
        if self._socket.is_closing():
            return
        if not self._socket.is_reading():
            self._socket.resume_reading()
        self._linger_until = self._context.now() + LINGER_MAX
        self._linger_on()

    def _linger_on(self) -> None:
        now = self._context.now()
        until = min(self.last_seen + LINGER, self._linger_until)
        if self._linger is not None and now >= until:
            self._socket.abort()
            return
        delay = LINGER if self._linger is None else until - now
        if self._reader.is_skipping and not self._fin_sent:
            self._send_fin_in_time()
            delay = min(delay, SILENCE)
        self._linger = asyncio.get_running_loop().call_later(delay, self._linger_on)

    def eof_received(self) -> None:
        """asyncio: the peer will send no more, hence it has gone; returning nothing closes the transport.

        Not left to ``connection_lost``: that comes when what is in the send buffer has left. Who does not read it is
        waited for as after a close frame, because the limits count only connections that have not ended.
        """
        if self._leave_hub(ClosedReason.CLIENT):
            self._discard_pending()
            if self.buffered:
                self._start_lingering()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone."""
        if self._leave_hub(ClosedReason.CLIENT):
            self._discard_pending()
        self.state = State.LOST
        if self._linger is not None:
            self._linger.cancel()
        self._context.lost(self)
