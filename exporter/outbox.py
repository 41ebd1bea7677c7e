"""What leaves: a queue of frames per connection, written once per turn of the loop. Knows no protocol and no state.

Measured (docs/benchmarks.md): one ``transport.write`` per frame and receiver costs 6–9 µs, nearly all of it the
system call. So a frame is built once for everybody, each connection only notes it, and what a connection has
gathered when the loop has run its other callbacks leaves in one write. With a single frame that is as quick as
writing at once, because the loop would have written then, too.

A peer that does not read fills its send buffer. Above half the limit it is a slow consumer; above the limit it is
cut off, and what was waiting for it is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from exporter.instruments import Buckets, Cell


class Writer(Protocol):
    """The part of asyncio's transport that is used here."""

    def write(self, data: bytes) -> None: ...  # noqa: D102  # asyncio documents it
    def get_write_buffer_size(self) -> int: ...  # noqa: D102


class Turn:
    """The connections that have something to write at the end of this turn of the loop; one per process."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], sent_bytes: Cell, now: Callable[[], float]):
        self._call_soon = call_soon
        self._sent_bytes = sent_bytes
        self._now = now
        self._waiting: list[Outbox] = []
        self._timed: list[tuple[Buckets, float]] = []
        self.slow: set[Outbox] = set()

    def add(self, outbox: Outbox) -> None:
        """This connection has its first frame of the turn."""
        if not self._waiting:
            self._call_soon(self.flush)
        self._waiting.append(outbox)

    def time(self, buckets: Buckets, received: float) -> None:
        """When everything of this turn is written, observe the time since ``received``."""
        self._timed.append((buckets, received))

    def flush(self) -> None:
        """Write for everybody who has something to be written."""
        waiting, self._waiting = self._waiting, []
        written = 0
        failure: Exception | None = None
        for outbox in waiting:
            try:
                written += outbox.flush()
            except Exception as error:  # a defect of one connection must not silence those behind it for ever
                failure = error
        self._sent_bytes.value += written
        if self._timed:
            timed, self._timed = self._timed, []
            now = self._now()
            for buckets, received in timed:
                buckets.observe(now - received)
        if failure is not None:
            raise failure  # the loop's handler logs it

    def fan_out(
        self, audience: Iterable[Outbox], frame: bytes, not_to: Outbox | None = None, not_to_user: str | None = None
    ) -> tuple[int, int]:
        """One frame to everybody but one connection or one user: how many took it, and how many could not.

        The hottest loop of the product, hence written out: 0.1 µs per receiver.
        """
        sent = dropped = 0
        for outbox in audience:
            if outbox is not_to or outbox.user == not_to_user:
                continue
            pending = outbox.pending
            if pending is None:
                dropped += 1
                continue
            if not pending:
                self.add(outbox)
            pending.append(frame)
            sent += 1
        return sent, dropped


class Outbox:
    """The outgoing side of one connection.

    ``pending`` is None as soon as nothing may follow: a close frame was the last.
    """

    __slots__ = ("_limit", "_paused", "pending", "transport", "turn", "user")

    def __init__(self, user: str, transport: Writer, turn: Turn, limit: int) -> None:
        self.user = user
        self.transport = transport
        self.turn = turn
        self.pending: list[bytes] | None = []
        self._limit = limit
        self._paused = False

    def put(self, frame: bytes) -> bool:
        """Queue a frame for the end of this turn; False when the connection takes no more."""
        pending = self.pending
        if pending is None:
            return False
        if not pending:
            self.turn.add(self)
        pending.append(frame)
        return True

    def flush(self) -> int:
        """Write what waits, in one piece; how many bytes that were."""
        pending = self.pending
        if not pending:
            return 0
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        if self._paused and self.transport.get_write_buffer_size() + len(data) > self._limit:
            self.overflow()
            return 0
        pending.clear()
        self.transport.write(data)
        # What one turn gathers may be more than the limit by itself; asyncio has said so within the write.
        if self._paused and self.transport.get_write_buffer_size() > self._limit:
            self.overflow()
        return len(data)

    def finish(self, last: bytes) -> None:
        """Write what waits and a last frame; nothing follows."""
        if self.pending is None:
            return
        self.pending.append(last)
        data = b"".join(self.pending)
        self.pending = None
        self.turn.slow.discard(self)
        self.transport.write(data)
        self.turn._sent_bytes.value += len(data)  # the two classes of this module are one thing

    @property
    def buffered(self) -> int:
        """Bytes in the send buffer."""
        return self.transport.get_write_buffer_size()

    def drop(self) -> list[bytes]:
        """Take no more; what had been waiting."""
        dropped, self.pending = self.pending or [], None
        self.turn.slow.discard(self)
        return dropped

    def overflow(self) -> None:
        """The peer reads too slowly: cut it off. Given by the connection."""
        raise NotImplementedError

    # asyncio calls these two when the send buffer rises above half the limit and when it is below again

    def pause_writing(self) -> None:
        """The peer has become a slow consumer, unless it has ended and only its socket remains."""
        self._paused = True
        if self.pending is not None:
            self.turn.slow.add(self)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._paused = False
        self.turn.slow.discard(self)
