"""What leaves: frames gathered during one turn of the loop, one write per connection. Knows no protocol and no state.

Measured (docs/benchmarks.md): one ``transport.write`` per frame and receiver costs 5–9 µs, nearly all of it the
system call. So a frame is built once for everybody, and what has been gathered when the loop has run its other
callbacks leaves in one write per connection. With a single frame that is as quick as writing at once, because the
loop would have written then, too.

A frame for a conversation is not noted by each of its connections (0.1 µs per receiver and frame) but once, in the
conversation's *batch*: at the end of the turn the batch is joined once, and the same bytes are written to everybody.
Only who may not have some frame of it (whoever caused it), who has frames of their own in this turn (an
acknowledgement), or who is a slow consumer gets a piece of their own, put together frame by frame in the order in
which everything happened. Before an audience changes, the hub calls ``flush_conversation``: what was gathered goes to
those who were there.

A peer that does not read fills its send buffer. Above half the limit it is a slow consumer; above the limit it is
cut off, and what was waiting for it is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from operator import itemgetter
from typing import Protocol

from exporter.metrics.instruments import Buckets, Cell

NOBODY: Set[SendQueue] = frozenset()

_position = itemgetter(0)


class Writer(Protocol):
    """The part of asyncio's transport that is used here."""

    def write(self, data: bytes) -> None: ...  # noqa: D102  # asyncio documents it
    def get_write_buffer_size(self) -> int: ...  # noqa: D102


# A frame with its place among all that happened in this process, and who may not have it.
Entry = tuple[int, bytes, "Set[SendQueue]"]


class FanOut:
    """What is to be written at the end of this turn of the loop; one per process."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], sent_bytes: Cell, now: Callable[[], float]):
        self._call_soon = call_soon
        self._sent_bytes = sent_bytes
        self._now = now
        self._scheduled = False
        self._batches: dict[str, tuple[Set[SendQueue], list[Entry]]] = {}
        self._waiting: list[SendQueue] = []  # who has something of their own
        self._timed: list[tuple[Buckets, float]] = []
        self._failure: Exception | None = None
        self.position = 0  # of the latest frame of a batch: even numbers, a connection's own frames have odd ones
        self.slow: set[SendQueue] = set()

    def add(self, queue: SendQueue) -> None:
        """This connection has its first frame of its own."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.flush)
        self._waiting.append(queue)

    def send(self, conversation: str, audience: Set[SendQueue], frame: bytes, exclude: Set[SendQueue] = NOBODY) -> None:
        """One frame to everybody but these few; the hub flushes before ``audience`` changes."""
        self.position += 2
        entry = (self.position, frame, exclude)
        batch = self._batches.get(conversation)
        if batch is not None:
            batch[1].append(entry)
            return
        self._batches[conversation] = (audience, [entry])
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.flush)

    def flush_conversation(self, conversation: str) -> None:
        """The audience is about to change: what was gathered goes to those who are there now, and to nobody else."""
        if conversation in self._batches:
            audience, entries = self._batches.pop(conversation)
            for queue in audience:
                queue.put_batch(entries)

    def time(self, buckets: Buckets, received: float) -> None:
        """When everything of this turn is written, observe the time since ``received``."""
        self._timed.append((buckets, received))

    def flush(self) -> None:
        """Write for everybody who has something to be written."""
        self._scheduled = False
        batches, self._batches = self._batches, {}
        written = 0
        # Several batches: a connection may be in more than one, and then their frames meet in its queue.
        whole: dict[SendQueue, list[Entry]] | None = None if len(batches) == 1 else {}
        for audience, entries in batches.values():
            written += self._write(audience, entries, whole)
        waiting, self._waiting = self._waiting, []
        for queue in waiting:
            try:
                written += queue.flush()
            except Exception as error:  # a defect of one connection must not silence those behind it for ever
                self._failure = error
        for queue in tuple(self.slow):  # what one turn gathers may be more than the limit by itself
            queue.stay_within_limit()
        self._sent_bytes.value += written
        if self._timed:
            timed, self._timed = self._timed, []
            now = self._now()
            for buckets, received in timed:
                buckets.observe(now - received)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure  # the loop's handler logs it

    def _write(self, audience: Set[SendQueue], entries: list[Entry], whole: dict[SendQueue, list[Entry]] | None) -> int:
        """One batch: the hottest loop of the product, hence written out. How many bytes were written.

        ``whole``: who has a joined batch in their queue, to be taken apart when another one mixes with it, because a
        sender's messages keep their order also across conversations. None: there is no other batch in this turn.
        """
        alone = whole is None
        position, data, exclude = entries[-1]
        slow, waiting = self.slow, self._waiting
        if len(entries) == 1:
            if alone and not slow and not waiting:  # the usual turn of a quiet server: nothing to be looked up
                return self._write_one(audience - exclude if exclude else audience, data)
            pieces = dict.fromkeys(exclude, b"")
        else:
            frames = [frame for _, frame, _ in entries]
            data = b"".join(frames)
            pieces = _pieces(frames, entries)
        written = writes = 0
        for queue in audience:
            try:
                if queue.pending or queue in slow or (queue in pieces and not alone):
                    if whole and queue in whole:
                        queue.pending = [(place, frame) for place, frame, _ in whole.pop(queue)]
                    queue.put_batch(entries)
                elif queue in pieces:
                    piece = pieces[queue]
                    if piece:
                        queue.transport.write(piece)
                        written += len(piece)
                elif alone:
                    queue.transport.write(data)
                    writes += 1
                else:
                    queue.pending = [(position, data)]
                    waiting.append(queue)
                    if whole is not None and len(entries) > 1:
                        whole[queue] = entries
            except Exception as error:  # as above
                self._failure = error
        return written + writes * len(data)

    def _write_one(self, queues: Set[SendQueue], data: bytes) -> int:
        """The same to everybody, who have nothing else: how many bytes were written."""
        writes = 0
        for queue in queues:
            try:
                queue.transport.write(data)
                writes += 1
            except Exception as error:  # as above
                self._failure = error
        return writes * len(data)


def _pieces(frames: list[bytes], entries: list[Entry]) -> dict[SendQueue, bytes]:
    """For those who may not have all of a batch: what is left for them."""
    without: dict[SendQueue, list[int]] = {}
    for index, (_, _, exclude) in enumerate(entries):
        for queue in exclude:
            without.setdefault(queue, []).append(index)
    pieces = {}
    for queue, indexes in without.items():
        left = frames.copy()
        for index in reversed(indexes):
            del left[index]
        pieces[queue] = b"".join(left)
    return pieces


class SendQueue:
    """The outgoing side of one connection.

    ``pending`` is None as soon as nothing may follow: a close frame was the last.
    """

    __slots__ = ("_limit", "_paused", "fan_out", "pending", "transport", "user")

    def __init__(self, user: str, transport: Writer, fan_out: FanOut, limit: int) -> None:
        self.user = user
        self.transport = transport
        self.fan_out = fan_out
        # A shared tuple when empty: no list per idle connection, and none to look into for every delivery.
        self.pending: list[tuple[int, bytes]] | tuple[()] | None = ()
        self._limit = limit
        self._paused = False

    def put(self, frame: bytes) -> bool:
        """Queue a frame for the end of this turn; False when the connection takes no more."""
        pending = self.pending
        if pending is None:
            return False
        entry = (self.fan_out.position + 1, frame)
        if pending:
            pending.append(entry)
        else:
            self.pending = [entry]
            self.fan_out.add(self)
        return True

    def put_batch(self, entries: list[Entry]) -> None:
        """Queue those of a batch that are for this connection."""
        pending = self.pending
        if pending is None:
            return
        mine = [(position, frame) for position, frame, exclude in entries if self not in exclude]
        if pending:
            pending += mine
        elif mine:
            self.pending = mine
            self.fan_out._waiting.append(self)  # where a batch is, the end of the turn is scheduled or under way

    def flush(self) -> int:
        """Write what waits, in one piece; how many bytes that were."""
        pending = self.pending
        if not pending:
            return 0
        data = pending[0][1] if len(pending) == 1 else self._joined(pending)
        if self._paused and self.transport.get_write_buffer_size() + len(data) > self._limit:
            self.on_overflow()
            return 0
        self.pending = ()
        self.transport.write(data)
        return len(data)

    @staticmethod
    def _joined(pending: Iterable[tuple[int, bytes]]) -> bytes:
        # Own frames and a conversation's were queued apart.
        return b"".join([frame for _, frame in sorted(pending, key=_position)])

    def stay_within_limit(self) -> None:
        """Cut the connection off when its send buffer holds more than it may."""
        if self.transport.get_write_buffer_size() > self._limit:
            self.on_overflow()

    def write_last(self, last: bytes) -> None:
        """Write what waits and a last frame; nothing follows."""
        if self.pending is None:
            return
        data = self._joined(self.pending) + last
        self.pending = None
        self.fan_out.slow.discard(self)
        self.transport.write(data)
        self.fan_out._sent_bytes.value += len(data)  # the two classes of this module are one thing

    @property
    def buffered(self) -> int:
        """Bytes in the send buffer."""
        return self.transport.get_write_buffer_size()

    def discard_pending(self) -> list[bytes]:
        """Take no more; what had been waiting."""
        dropped, self.pending = self.pending or [], None
        self.fan_out.slow.discard(self)
        return [frame for _, frame in dropped]

    def on_overflow(self) -> None:
        """The peer reads too slowly: cut it off. Given by the connection."""
        raise NotImplementedError

    # asyncio calls these two when the send buffer rises above half the limit and when it is below again

    def pause_writing(self) -> None:
        """The peer has become a slow consumer, unless it has ended and only its socket remains."""
        self._paused = True
        if self.pending is not None:
            self.fan_out.slow.add(self)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._paused = False
        self.fan_out.slow.discard(self)
