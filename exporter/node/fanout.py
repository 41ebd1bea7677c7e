"""What leaves: frames gathered during one turn of the loop, one write per connection. Knows no protocol and no state.

Measured (docs/benchmarks.md): one ``transport.write`` per frame and receiver costs 5–9 µs, nearly all of it the
system call. So a frame is built once for everybody, and what has been gathered at the end of a turn (``Turn``)
leaves in one write per connection. While frames come alone, each is written at once.

A frame for a conversation is not noted by each of its connections (0.1 µs per receiver and frame) but once, in the
conversation's *batch*: at the end of the turn the batch is joined once, and the same bytes are written to everybody.
Only who may not have some frame of it (whoever caused it), who has frames of their own in this turn (an
acknowledgement), or who is a slow consumer gets a piece of their own, put together frame by frame in the order in
which everything happened. When an audience changes, the hub says so before (``audience_changes``): whoever leaves gets
what was gathered so far, and whoever joins what is gathered from then on. Neither costs anything for the others,
because in a reconnect storm a thousand may join a room of ten thousand in one turn.

Writing to thousands takes long: what is for more than ``LARGE`` is queued for each, and written in slices of ``SLICE``,
between which everybody else has their turn.

A peer that does not read fills its send buffer. Above half the limit it is a slow consumer; above the limit it is
cut off, and what was waiting for it is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from operator import itemgetter
from typing import Final, Protocol

from exporter.metrics.instruments import Buckets, Cell
from exporter.node import batch
from exporter.node.turn import LEFT, Turn

NOBODY: Set[SendQueue] = frozenset()

_position = itemgetter(0)


class Writer(Protocol):
    """The part of asyncio's transport that is used here."""

    def write(self, data: bytes) -> None: ...  # noqa: D102  # asyncio documents it
    def get_write_buffer_size(self) -> int: ...  # noqa: D102  # as above


LARGE: Final = 1_000
"""Connections that are written to in one turn of the loop at most: some milliseconds of system calls."""
SLICE: Final = 500

Entry = batch.Entry["SendQueue"]
# Who is there, what was gathered for them, and of those who came later: how much had been gathered by then.
Batch = tuple["Set[SendQueue]", list[Entry], "dict[SendQueue, int]"]


class FanOut:
    """What is to be written at the end of this turn of the loop; one per process."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], sent_bytes: Cell, now: Callable[[], float]):
        self._call_soon = call_soon
        self._sent_bytes = sent_bytes
        self._now = now
        self.turn = Turn(call_soon, now, lambda: self.position // 2, self.flush)
        self._batches: dict[str, Batch] = {}
        self._waiting: list[SendQueue] = []  # who has something of their own
        self._timed: list[tuple[Buckets, float]] = []
        self._last: list[Callable[[], object]] = []
        self._failure: Exception | None = None
        self.position = 0  # of the latest frame of a batch: even numbers, a connection's own frames have odd ones
        self.slow: set[SendQueue] = set()

    def later(self, work: Callable[[], None]) -> None:
        """Do this in the next turn of the loop."""
        self._call_soon(work)

    def at_end_of_turn(self, work: Callable[[], object]) -> None:
        """Do this when what has been gathered in this turn is written."""
        if not self.turn.begun:
            self.turn.begin()
        self._last.append(work)

    def add(self, queue: SendQueue) -> None:
        """This connection has its first frame of its own."""
        if not self.turn.begun:
            self.turn.begin()
        self._waiting.append(queue)

    def send(self, conversation: str, audience: Set[SendQueue], frame: bytes, exclude: Set[SendQueue] = NOBODY) -> bool:
        """One frame to everybody but these few; the hub tells ``audience_changes`` before ``audience`` does.

        True: it has left, and nothing waits to be written.
        """
        self.position += 2
        turn = self.turn
        if turn.reading > 0 and not turn.begun and not self.slow and len(audience) <= LARGE:
            turn.reading = LEFT
            writes = 0
            for queue in audience - exclude if exclude else audience:
                try:
                    queue.transport.write(frame)
                    writes += 1
                except Exception as error:  # a defect of one connection must not silence those behind it for ever
                    self._failure = error
            self._sent_bytes.value += writes * len(frame)
            if self.slow or self._failure is not None:
                turn.begin()  # its end sees to that
            return not turn.begun
        entry = (self.position, frame, exclude)
        gathered = self._batches.get(conversation)
        if gathered is not None and (gathered[0] or gathered[0] is audience):  # else all had gone
            gathered[1].append(entry)
            return False
        self._batches[conversation] = (audience, [entry], {})
        if not turn.begun:
            turn.begin()
        return False

    def audience_changes(self, conversation: str, queue: SendQueue, joins: bool) -> None:
        """A connection is about to join or to leave: it gets what is gathered while it is there, and nothing else."""
        gathered = self._batches.get(conversation)
        if gathered is None:
            return
        _, entries, since = gathered
        if joins:
            since[queue] = len(entries)
        else:
            queue.put_batch(entries[since.pop(queue, 0) :])

    def time(self, buckets: Buckets, received: float) -> None:
        """When everything of this turn is written, observe the time since ``received``."""
        if self.turn.begun:
            self._timed.append((buckets, received))
        else:
            buckets.observe(self._now() - received)

    def flush(self) -> None:
        """Write for everybody who has something to be written."""
        self.turn.ended(self.position // 2)
        if self._batches:
            batches, self._batches = self._batches, {}
            # Several batches: a connection may be in more than one, and then their frames meet in its queue.
            whole: dict[SendQueue, list[Entry]] | None = None if len(batches) == 1 else {}
            for gathered in batches.values():
                self._write(gathered, whole)
        if self._waiting:
            self._write_own()
        if self.slow:
            for queue in tuple(self.slow):  # what one turn gathers may be more than the limit by itself
                self._attempt(queue.stay_within_limit)
        if self._timed and not self._waiting:
            timed, self._timed = self._timed, []
            now = self._now()
            for buckets, received in timed:
                buckets.observe(now - received)
        if self._last:
            last, self._last = self._last, []
            for work in last:
                self._attempt(work)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure  # the loop's handler logs it

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # a defect must not cost what is behind it
            self._failure = error

    def _write_own(self) -> None:
        """For everybody who has something of their own."""
        waiting, self._waiting = self._waiting, []
        if len(waiting) > LARGE:
            self._waiting = waiting[SLICE:]
            del waiting[SLICE:]
            self.turn.go_on()
        for queue in waiting:
            try:
                queue.flush()
            except Exception as error:  # as above
                self._failure = error

    def flush_all(self) -> None:
        """Everything at once, however long it takes: at the end of a process."""
        self.flush()
        while self._waiting:
            self.flush()

    def _write(self, gathered: Batch, whole: dict[SendQueue, list[Entry]] | None) -> None:
        """One batch: the hottest loop of the product, hence written out.

        ``whole``: who has a joined batch in their queue, to be taken apart when another one mixes with it, because a
        sender's messages keep their order also across conversations. None: there is no other batch in this turn.
        """
        audience, entries, since = gathered
        alone = whole is None
        direct = alone and len(audience) <= LARGE
        position, data, exclude = entries[-1]
        slow, waiting = self.slow, self._waiting
        if len(entries) == 1:
            if since:
                exclude = exclude | since.keys()
            pieces = dict.fromkeys(exclude, b"")
        else:
            frames = [frame for _, frame, _ in entries]
            data = b"".join(frames)
            pieces = batch.pieces(frames, data, entries, since)
        written = writes = 0
        for queue in audience:
            try:
                if queue.pending or queue in slow or (queue in pieces and not alone):
                    if whole and queue in whole:
                        queue.pending = [(place, frame) for place, frame, _ in whole.pop(queue)]
                    queue.put_batch(entries[since[queue] :] if queue in since else entries)
                elif queue in pieces:
                    piece = pieces[queue]
                    if piece:
                        queue.transport.write(piece)
                        written += len(piece)
                elif direct:
                    queue.transport.write(data)
                    writes += 1
                else:
                    queue.pending = [(position, data)]
                    waiting.append(queue)
                    if whole is not None and len(entries) > 1:
                        whole[queue] = entries
            except Exception as error:  # as above
                self._failure = error
        self._sent_bytes.value += written + writes * len(data)


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

    def flush(self) -> None:
        """Write what waits, in one piece."""
        pending = self.pending
        if not pending:
            return
        data = pending[0][1] if len(pending) == 1 else self._joined(pending)
        if self._paused and self.transport.get_write_buffer_size() + len(data) > self._limit:
            self.on_overflow()
            return
        self.pending = ()
        self.transport.write(data)
        self.fan_out._sent_bytes.value += len(data)  # the two classes of this module are one thing

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
        self.fan_out._sent_bytes.value += len(data)  # as above

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
