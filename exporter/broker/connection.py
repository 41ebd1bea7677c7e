"""One RESP3 connection: commands out, replies and pushes in, in the order of the server. Knows no command by name.

redis-py's ways cost 15 to 20 times as much per frame, repeat commands on their own, and hide the gaps of a
subscription (docs/cluster.md). Here nothing is repeated and nothing is hidden: a connection that is lost says so, once,
and whatever had no answer then is the caller's to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

from exporter.broker import tls_errors
from exporter.broker.addresses import Addresses
from exporter.broker.location import Location
from exporter.broker.ports import Turn
from exporter.ownership import require_own_peer

Reply = Callable[[Any], None]
Push = Callable[[list[Any]], None]

_MORE: Final = object()
_LINGER_0: Final = struct.pack("ii", 1, 0)
_Push: Final = hiredis.PushNotification

ECHO: Final = object()
"""The reply to a publish, and what was published."""
_number: Final = re.compile(rb":[0-9]+\r\n").fullmatch  # an integer in RESP

AT_ONCE: Final = 100
"""Replies and pushes that are handed out in one turn of the loop, some 10 µs each."""

LIMIT: Final = 8 * 1024 * 1024
"""Bytes that may wait in the socket, and that may be without an answer: a server that is so far behind is not there.

Memory must not grow with its silence, and the server's own cut of a slow reader (32 MB) comes too late to be a guard.
"""


def command(*words: str | bytes | int) -> bytes:
    """A command, packed."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows one word only
    return packed


class Refused(Exception):
    """The server answered a command with an error; ``word`` is its first word, such as NOPERM."""

    def __init__(self, text: str) -> None:
        super().__init__(text.partition(", with args")[0])  # of a command that it does not know: one may be a secret
        self.word = text.partition(" ")[0]


class Connection(asyncio.Protocol):
    """An open connection.

    ``on_push`` is called for each push, ``on_lost`` once with the reason. After ``stale_after``, by ``now``, what had
    been waiting is thrown away instead of handed out: whoever uses the connection puts it off as long as it is awake.
    ``turn`` is told of what is read and handed out at once. Where ``faultless``, a command that the server refuses, as
    when a right was taken away, ends the connection, and nobody is told: it may be one that has no reply else, and all
    that follow would be taken for those of other commands.
    """

    def __init__(
        self,
        on_push: Push,
        on_lost: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
        stale_after: float = float("inf"),
    ) -> None:
        self._on_push = on_push
        self._on_lost: Callable[[str], None] | None = on_lost
        self._now = now
        self.stale_after = stale_after
        self.turn: Turn | None = None
        self.faultless = False
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=Refused, notEnoughData=_MORE)
        self._expected: deque[list[Any]] = deque()  # how many replies, who is told, bytes
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._echo = b""
        self._before = b":1\r\n"  # what came before it last; of Valkey it is so again, nearly always
        self._whole = True  # nothing of the next reply or push has come; False also where that is not known
        self._reading_on = False  # more has been read than one turn hands out: nothing is read from the socket
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self.unanswered = 0  # bytes
        self.reason = "the connection was lost"

    # --- out ----------------------------------------------------------------------------------------------

    def queue(self, data: bytes, replies: int, told: Reply, echo: bytes = b"") -> None:
        """Commands to leave with the next ``flush``; ``told`` is called with each of their replies.

        Of a single command that publishes, ``echo`` is the push that subscribers get, of which this connection may be
        one. When it comes with the reply and nothing else, while nothing else was asked for, the two are not taken
        apart, and ``told`` is called with ``ECHO``.
        """
        self._out.append(data)
        self._echo = b"" if self._expected else echo
        if replies:
            self._expected.append([replies, told, len(data)])
            self.unanswered += len(data)

    def send(self, data: bytes, told: Reply, echo: bytes) -> None:
        """One command with one reply leaves at once, behind what is queued. ``told`` and ``echo`` as of ``queue``."""
        if self._out or self._transport is None:
            self.queue(data, 1, told, echo)
            self.flush()
            return
        size = len(data)
        self._echo = b"" if self._expected else echo
        self._expected.append([1, told, size])
        self.unanswered += size
        self._transport.write(data)
        if self.unanswered > LIMIT:  # the socket is not asked: nearly all that waits in it is without an answer
            self.abort("the server is too far behind")

    def flush(self) -> None:
        """Write what is queued, in one piece."""
        transport = self._transport
        if transport is None or not self._out:
            self._out.clear()
            return
        data = b"".join(self._out)
        self._out.clear()
        transport.write(data)
        if self.unanswered > LIMIT or transport.get_write_buffer_size() > LIMIT:
            self.abort("the server is too far behind")

    async def call(self, *words: str | bytes | int) -> Any:
        """One command and its reply. Raises Refused, ConnectionError."""
        answer: asyncio.Future[Any] = self._loop.create_future()

        def told(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.queue(command(*words), 1, told)
        self.flush()
        await asyncio.wait((answer, self._lost), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ConnectionError(self.reason)
        if isinstance(answer.result(), Refused):
            raise answer.result()
        return answer.result()

    # --- in -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        if self._transport is None:
            return
        echo, now = self._echo, self._now
        awaited = echo and self._whole and self._expected
        if awaited and (data == self._before + echo or self._is_echo(data, echo)) and now() <= self.stale_after:
            _, told, size = self._expected.popleft()
            self.unanswered -= size
            told(ECHO)
            return
        self._whole = False
        self._reader.feed(data)
        if self._reading_on:  # what came before is first
            return
        turn = self.turn
        if turn is None:
            self._hand_out()
            return
        turn.reading = turn.alone
        try:
            self._hand_out()
        finally:
            turn.has_read()

    def _is_echo(self, data: bytes, echo: bytes) -> bool:
        """Is it this and an integer, the number of subscribers? Redis sends that behind it, Valkey before it."""
        if data.endswith(echo):
            number = data[: -len(echo)]
        elif data.startswith(echo):
            number = data[len(echo) :]
        else:
            return False
        if _number(number) is None:
            return False
        self._before = number
        return True

    def _hand_out(self) -> None:
        transport, reader = self._transport, self._reader
        if transport is None:
            return
        now, on_push = self._now, self._on_push
        if now() > self.stale_after:
            self.abort("this process had been asleep")
            return
        try:
            for _ in range(AT_ONCE):
                reply = reader.gets()
                if reply is not _MORE:
                    if type(reply) is _Push:
                        on_push(reply)
                    else:
                        self._answered(reply)
                    if self._transport is None:
                        return
                    if reader.has_data():
                        continue
                    self._whole = True  # only here: of a reply that has begun, it may have used up all bytes
                if self._reading_on:
                    self._reading_on = False
                    transport.resume_reading()
                return
        except ConnectionError as error:
            self.abort(str(error))
            return
        if not self._reading_on:
            self._reading_on = True
            transport.pause_reading()
        self._loop.call_soon(self._hand_out)

    def _answered(self, reply: Any) -> None:
        if type(reply) is Refused and (self.faultless or not self._expected):
            self.abort(str(reply))
            return
        if not self._expected:
            self.abort("an answer that nobody asked for")
            return
        entry = self._expected[0]
        entry[0] -= 1
        if not entry[0]:
            self._expected.popleft()
            self.unanswered -= entry[2]
        entry[1](reply)

    # --- the end ------------------------------------------------------------------------------------------

    def abort(self, reason: str) -> None:
        """Close it now, without a word, and nothing of what was sent arrives later.

        The kernel would go on sending what the network has held up, and the server would do and tell it behind what the
        next connection says.
        """
        self.reason = reason
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0 and sock.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):  # macOS refuses it where the peer has ended the connection
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
            self._transport.abort()
            self._gone()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is gone."""
        if self._transport is not None and exc is None:
            self.reason = "the server has ended the connection"
        elif self._transport is not None:
            said = (getattr(exc, "strerror", None) or "").lower() or type(exc).__name__
            self.reason = tls_errors.words(exc, "the broker") or said
        self._gone()

    def _gone(self) -> None:
        self._transport = None
        self._out.clear()
        self._expected.clear()
        if not self._lost.done():
            self._lost.set_result(None)
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(self.reason)

    @property
    def open(self) -> bool:
        """Is it?"""
        return self._transport is not None


async def connect(
    location: Location,
    addresses: Addresses,
    host: tuple[str, int],
    on_push: Push,
    on_lost: Callable[[str], None],
    now: Callable[[], float],
    stale_after: float,
    name: str,
) -> Connection:
    """Open a connection and say who we are. Raises OSError, ConnectionError, Refused; ``on_lost`` only later."""
    loop = asyncio.get_running_loop()
    connection = Connection(on_push, on_lost, now, stale_after)
    try:
        if location.path is not None:
            transport, _ = await loop.create_unix_connection(lambda: connection, location.path)
            if location.own:
                require_own_peer(transport.get_extra_info("socket"))
        else:
            context = location.tls_context()
            server = host[0] if context is not None else None
            sock = await addresses.connected(*host)
            try:
                await loop.create_connection(lambda: connection, sock=sock, ssl=context, server_hostname=server)
            except BaseException:
                sock.close()  # a handshake that is given up may leave it
                raise
        hello: list[str] = ["HELLO", "3"]
        password = location.secret()
        if password is not None:
            hello += ["AUTH", location.username or "default", password]
        await connection.call(*hello, "SETNAME", name)
        if location.database:
            await connection.call("SELECT", location.database)
    except BaseException:  # a start that is cancelled leaves no connection behind either
        connection._on_lost = None
        connection.abort("refused")
        raise
    return connection
