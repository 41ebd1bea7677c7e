"""What this node holds, told to the server batch by batch, with a number on each. Knows no socket.

An incarnation is the node's name at the server: it has a lease there, and a set of what it holds. Each batch of changes
has a number. When the connection breaks, what had no answer is sent again under its number, and the server passes over
what it has; when the server does not know the incarnation any more, or a batch is missing there (it came back empty, or
a replica without the last writes was promoted), the node begins a new incarnation with all that it holds. What it held
under the old one stays until the new one is complete, so no figure dips.

Tested in ``tests/broker/test_presence.py`` and ``tests/broker/test_disasters.py``.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, Final

import structlog

from exporter.broker.connection import Connection
from exporter.broker.functions import SLICE, Figures, Functions, figures

log = structlog.get_logger(__name__)

WINDOW: Final = 4
"""Full batches without an answer. Of others only one: what happens meanwhile is gathered, and leaves in the next.

A batch alone costs the server 20 µs and more before its first change is looked at; a round trip is 0.1 ms. So many
are made in one turn at most, each in some 0.4 ms.
"""
MOST_CHANGES: Final = 100_000
"""Changes that wait for a connection: beyond it, all that is held is told anew instead."""
PAUSE: Final = 0.02
"""Seconds between two batches that are not full: others hear of a join that much later, in a storm.

Each batch is a write, and its answer a turn of the loop and a read: without a pause they are as frequent as the server
is quick, and a node that is busy with a storm has many small turns, with writes to people that say little.
"""
_MOST_OLD: Final = 32
_GONE: Final = "it was emptied, or had not heard of this node for a lease"
TOGGLED: Final = "t"
"""The kind of what comes and goes."""


class Presence:
    """One node's entries. ``held`` answers how many they are, and makes each, as kind and name, when it is asked for.

    ``connections`` counts; ``lease`` in seconds.

    ``answered`` is called with the figures that ``register`` and ``beat`` answer, and with when they were asked for, by
    ``now``.
    ``completed`` is called when the server has all that is held; no figures from before have it.
    ``schedule`` is called when an answer lets go what has waited for it: it has that sent before long. ``label`` is
    what the server knows this node by.
    """

    def __init__(
        self,
        functions: Functions,
        lease: float,
        held: Callable[[], tuple[int, Iterator[str]]],
        connections: Callable[[], int],
        answered: Callable[[Figures, float], None],
        schedule: Callable[[], None],
        now: Callable[[], float],
        label: str = "",
        completed: Callable[[], None] = lambda: None,
    ) -> None:
        self._functions = functions
        self._label = label
        self._lease = lease
        self._held = held
        self._connections = connections
        self._answered = answered
        self._schedule = schedule
        self._now = now
        self._completed = completed
        self._sent_at = float("-inf")
        self.incarnation: str | None = None
        self.registered = False  # the server has said so
        self.complete = False  # and it has all that is held
        self._old: list[str] = []  # all of them: a server that goes back to an earlier state knows one of those again
        self._seq = 0
        self._changes: deque[str] = deque()
        self._toggles: dict[str, bool] = {}  # what comes and goes quickly: only what is left of it is told
        self._in_order: set[str] = set()  # entries of such a kind among the changes: what follows waits behind
        self._toggles_due = False  # now, not only together with other changes
        self._retired = False
        self._untold: Iterator[str] = iter(())  # what was held when this incarnation began; goes before the changes
        self._to_tell = 0  # how many of it
        self._telling = False  # the batch that completes has not been sent
        self._unanswered: deque[tuple[int, list[str], bool]] = deque()
        self._in_flight = 0  # changes in those

    def take_the_place_of(self, incarnation: str) -> None:
        """What it held leaves when this one has told all that it holds."""
        self._old.append(incarnation)

    # --- what happens here --------------------------------------------------------------------------------

    def add(self, kind_and_entry: str) -> None:
        """This node holds an entry from now on."""
        self._change(f"+{kind_and_entry}")

    def remove(self, kind_and_entry: str) -> None:
        """This node holds an entry no longer."""
        self._change(f"-{kind_and_entry}")

    def toggle(self, kind_and_entry: str, held: bool) -> bool:
        """As ``add`` and ``remove``, for what comes and goes: a coming and a going that both wait are nothing.

        The server then says nothing of it either: only for what the others hear of in another way. It waits for other
        changes, for the next beat, or for ``toggles_are_due``. The answer is ``waiting``.
        """
        if self.incarnation is None:
            return False
        if self._to_tell or kind_and_entry in self._in_order:  # behind what is told of it
            self._change(f"{'+' if held else '-'}{kind_and_entry}")
        elif self._toggles.get(kind_and_entry, held) is not held:
            del self._toggles[kind_and_entry]
        else:
            self._toggles[kind_and_entry] = held
        return self._telling or bool(self._changes) or self._toggles_due

    def toggles_are_due(self) -> None:
        """They have waited long enough."""
        self._toggles_due = bool(self._toggles)

    def _change(self, change: str) -> None:
        if self.incarnation is None:
            return  # it will be told with all the rest
        before = self._toggles.pop(change[1:], None) if self._toggles else None
        if before is not None:
            self._changes.append(f"{'+' if before else '-'}{change[1:]}")
        self._changes.append(change)
        if change[1] == TOGGLED:
            self._in_order.add(change[1:])
        if len(self._changes) > MOST_CHANGES:
            self.begin_anew()

    @property
    def waiting(self) -> bool:
        """Is there something to be sent?"""
        return self._telling or bool(self._changes) or self._toggles_due

    def ends_without_answer(self) -> Iterator[tuple[str, str, str]]:
        """Who has left or no longer types, without the server's word: kind, conversation and user."""
        for change in chain(*(changes for _, changes, _ in self._unanswered), self._changes):
            if change[:2] in ("-p", "-t"):
                conversation, _, user = change[2:].partition("\n")
                yield change[1], conversation, user

    @property
    def pause(self) -> float:
        """Seconds until what waits should be sent; it may be at any time."""
        if self._telling or len(self._changes) >= SLICE:
            return 0.0
        return self._sent_at + PAUSE - self._now()

    # --- the connection -----------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """There is a connection (again)."""
        if self.incarnation is None or not self.registered:
            self._register(connection)
            return
        for seq, changes, complete in self._unanswered:
            self._apply(connection, seq, changes, complete)
        self.toggles_are_due()
        self.flush(connection, ahead=True)  # what people were told meanwhile is compared with the server's word next
        self.beat(connection)

    def beat(self, connection: Connection) -> None:
        """Extend the lease; dead nodes' entries leave."""
        inc = self.incarnation
        if self._retired:
            return
        if inc is None:  # more had changed than is kept as changes
            self._register(connection)
            return
        self.toggles_are_due()
        self.flush(connection)
        command = self._functions.beat(inc, self._lease, self._seq, self._connections())
        connection.queue(command, 1, partial(self._has_beaten, connection, inc, self._now()))

    def flush(self, connection: Connection, ahead: bool = False) -> None:
        """Send what has changed, in batches. ``ahead``: of what follows on this connection, so it waits for no answer.

        It does where a window of full batches has none, however small each of them is.
        """
        inc = self.incarnation
        if inc is None:
            return
        while self.waiting:
            full = self._to_tell + len(self._changes) >= SLICE
            if self._in_flight >= WINDOW * SLICE if ahead else len(self._unanswered) >= (WINDOW if full else 1):
                break
            changes = [f"+{entry}" for entry in islice(self._untold, min(self._to_tell, SLICE))]
            self._to_tell -= len(changes)
            changes += [self._changes.popleft() for _ in range(min(len(self._changes), SLICE - len(changes)))]
            if not self._changes:
                self._in_order.clear()
            if not self._to_tell:
                changes = self._with_toggles(changes)
            complete = self._telling and not self._to_tell
            if complete:
                self._telling = False
            self._seq += 1
            self._unanswered.append((self._seq, changes, complete))
            self._in_flight += len(changes)
            self._apply(connection, self._seq, changes, complete)

    def _with_toggles(self, changes: list[str]) -> list[str]:
        """Who stops does it before they leave, who starts has joined."""
        toggles = list(islice(self._toggles.items(), SLICE))
        if self._changes:  # they may have joined with one of those, which are for the next batch
            toggles = [(entry, held) for entry, held in toggles if not held]
        for entry, _ in toggles:
            del self._toggles[entry]
        self._toggles_due = self._toggles_due and bool(self._toggles)
        stops = [f"-{entry}" for entry, held in toggles if not held]
        return [*stops, *changes, *(f"+{entry}" for entry, held in toggles if held)]

    def retire(self) -> bytes | None:
        """The command that ends this incarnation, for ever; None when it never began."""
        self._retired = True
        return None if self.incarnation is None else self._functions.retire(self.incarnation)

    def begin_anew(self) -> None:
        """Forget the incarnation: the next one tells all that is held."""
        if self.incarnation is not None:
            self._old = [*self._old, self.incarnation][-_MOST_OLD:]
        self.incarnation = None
        self.registered = self.complete = self._telling = False
        self._changes.clear()
        self._toggles.clear()
        self._in_order.clear()
        self._toggles_due = False
        self._unanswered.clear()
        self._in_flight = 0
        self._untold = iter(())
        self._to_tell = self._seq = 0

    def _register(self, connection: Connection) -> None:
        self.begin_anew()
        inc = self.incarnation = secrets.token_hex(8)
        command = self._functions.register(inc, self._lease, self._connections(), self._label, self._old)
        connection.queue(command, 1, partial(self._is_registered, inc, self._now()))
        self._to_tell, self._untold = self._held()
        self._telling = True
        self.flush(connection)

    def _apply(self, connection: Connection, seq: int, changes: list[str], complete: bool) -> None:
        inc = self.incarnation or ""
        self._sent_at = self._now()
        command = self._functions.apply(inc, self._lease, seq, self._connections(), complete, changes)
        connection.queue(command, 1, partial(self._is_applied, connection, inc, seq))

    # --- answers ------------------------------------------------------------------------------------------

    def _is_registered(self, inc: str, asked: float, reply: Any) -> None:
        if inc == self.incarnation:
            self.registered = True
            self._answered(figures(reply), asked)

    def _is_applied(self, connection: Connection, inc: str, seq: int, reply: Any) -> None:
        if inc != self.incarnation:
            return
        if reply == b"ok":
            while self._unanswered and self._unanswered[0][0] <= seq:
                _, changes, completes = self._unanswered.popleft()
                self._in_flight -= len(changes)
                if completes:
                    self.complete = True
                    self._completed()
            if self.waiting:
                self._schedule()
        else:
            self._unknown(connection, reply)

    def _has_beaten(self, connection: Connection, inc: str, asked: float, reply: Any) -> None:
        if isinstance(reply, list):
            self._answered(figures(reply), asked)
        elif inc == self.incarnation:
            self._unknown(connection, reply)

    def _unknown(self, connection: Connection, reply: Any) -> None:
        """The server has buried this incarnation, or has lost a batch of it."""
        if not self._retired:
            lost = "it has gone back to an earlier state" if reply == b"lost" else _GONE
            log.warning("the broker no longer has all that this node holds; it is told anew", reason=lost)
            self._register(connection)
            connection.flush()
