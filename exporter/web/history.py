"""The last hour at ten seconds, for the page's charts. Knows no clock, no hub, no store and no HTTP.

Somebody samples the records every ten seconds and calls ``History.record``; what is kept is one array of doubles per
figure, made once, so memory is the same after a minute and after a year (about 80 KiB), whatever the number of
connections. Rates are worked out when they are read, from the cumulative counters that the samples hold.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from exporter.events import ClosedReason

MAXLEN = 360  # an hour
STEP = 10.0  # seconds
LONGEST_GAP = 3  # steps; an average over more would be drawn as the rate of one moment
MINUTE = 60.0

FIGURES = (
    "active_connections",
    "connected_users",
    "active_conversations",
    "total_participants",
    "typing_users",
    "total_messages",
    "total_conversations",
    "messages_today",
    "registered_users",
)
RATES = {  # name in the answer -> counter in the sample
    "messages": "messages_accepted",
    "deliveries": "deliveries",
    "joins": "joins",
    "connects": "connections_opened",
}
UNKNOWN = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was true at one moment; None is "not known then" and never 0.

    The first nine are figures as ``/v1/messaging/stats`` shows them, of the same scope (cluster or node). The others
    are this node's counters since its start, hence they only grow; ``connections_closed`` is keyed by reason.
    """

    active_connections: int | None = None
    connected_users: int | None = None
    active_conversations: int | None = None
    total_participants: int | None = None
    typing_users: int | None = None
    total_messages: int | None = None
    total_conversations: int | None = None
    messages_today: int | None = None
    registered_users: int | None = None
    messages_accepted: int | None = None
    deliveries: int | None = None
    joins: int | None = None
    connections_opened: int | None = None
    connections_closed: Mapping[str, int] = field(default_factory=dict)


class History:
    """The latest ``maxlen`` samples on a grid of ``step`` seconds, in memory that never grows.

    A slot in which nobody sampled (the process was stopped, the machine slept) holds nulls; of two samples in one slot
    the later one stays. When the clock was set back, what lies in its future is forgotten.
    """

    def __init__(self, maxlen: int = MAXLEN, step: float = STEP) -> None:
        self._maxlen = maxlen
        self._step = step
        self._columns = {
            name: array("d", [UNKNOWN]) * maxlen
            for name in ("at", *FIGURES, *RATES.values(), *(_closed(reason) for reason in ClosedReason))
        }
        self._first: int | None = None  # slot numbers: seconds since 1970 divided by the step
        self._last: int | None = None
        self._began: float | None = None
        self._body: bytes | None = None

    def record(self, at: float, sample: Sample) -> None:
        """Keep ``sample``, taken at ``at`` (Unix seconds). O(1), but for the slots skipped since the latest one."""
        slot = int(at // self._step)
        if self._last is None or self._first is None or not -self._maxlen < slot - self._last < self._maxlen:
            self._forget_all()
            self._first, self._began = slot, at
        elif slot < self._last:
            self._blank(slot + 1, self._last)
            self._first, self._began = min(self._first, slot), min(self._began or at, at)
        else:
            self._blank(self._last + 1, slot - 1)
        self._first = max(self._first, slot - self._maxlen + 1)
        self._last = slot
        self._put(slot % self._maxlen, at, sample)
        self._body = None

    def until_next(self, now: float) -> float:
        """Seconds from ``now`` (Unix seconds) to the middle of the next slot, the time to sample next.

        Sleeping for ``step`` instead would drift over a slot's edge one day and leave a slot empty.
        """
        return (now // self._step + 1.5) * self._step - now

    def answer(self) -> dict[str, Any]:
        """What ``GET /v1/messaging/stats/history`` says; every array has ``length`` entries, the oldest first.

        ==================  ==========================================================================================
        ``step``            seconds between two entries (10)
        ``length``          number of entries, at most 360; 0 before the first sample, then the times are null
        ``start``           Unix seconds at which the first entry's slot begins; entry *i* lies in the ``step`` seconds
                            that follow ``start + i * step``
        ``since``           when the recording began (RFC 3339, UTC): an hour ago at most is held
        ``as_of``           when the latest sample was taken (RFC 3339, UTC)
        ``figures``         ``{name: [int | null]}``: the nine counts of ``/v1/messaging/stats`` at that moment, in its
                            scope; null is unknown (the database was down, or nobody sampled)
        ``rates``           ``{"messages" | "deliveries" | "joins" | "connects": [float | null]}``: per second, this
                            node only, averaged since the entry before; null for the first, after a counter fell back,
                            and after a gap of more than three steps
        ``closed``          ``{reason: {"last_minute": int | null, "last_hour": int | null}}``: connections that this
                            node closed, in the latest minute and in all that is held; null when no two samples know it
        ==================  ==========================================================================================
        """
        slots = list(self._slots())
        return {
            "step": self._step,
            "length": len(slots),
            "start": None if self._first is None else self._first * self._step,
            "since": _moment(self._began),
            "as_of": _moment(None if self._last is None else self._columns["at"][self._last % self._maxlen]),
            "figures": {name: [_count(self._columns[name][i]) for i in slots] for name in FIGURES},
            "rates": {name: self._rates(counter, slots) for name, counter in RATES.items()},
            "closed": {
                reason.value: {
                    "last_minute": self._increase(_closed(reason), slots, MINUTE),
                    "last_hour": self._increase(_closed(reason), slots, math.inf),
                }
                for reason in ClosedReason
            },
        }

    def body(self) -> bytes:
        """``answer()`` as JSON; built once per sample, however many watch."""
        if self._body is None:
            self._body = msgspec.json.encode(self.answer())
        return self._body

    def _slots(self) -> Iterator[int]:
        """Indices into the columns, the oldest first."""
        if self._first is None or self._last is None:
            return
        for slot in range(self._first, self._last + 1):
            yield slot % self._maxlen

    def _blank(self, first: int, last: int) -> None:
        for slot in range(first, last + 1):
            for column in self._columns.values():
                column[slot % self._maxlen] = UNKNOWN

    def _forget_all(self) -> None:
        self._blank(0, self._maxlen - 1)

    def _put(self, index: int, at: float, sample: Sample) -> None:
        columns = self._columns
        columns["at"][index] = at
        for name in (*FIGURES, *RATES.values()):
            columns[name][index] = _double(getattr(sample, name))
        for reason in ClosedReason:
            columns[_closed(reason)][index] = _double(sample.connections_closed.get(reason))

    def _steps(self, counter: str, slots: list[int]) -> Iterator[tuple[int, float, float]]:
        """(position, growth, seconds since the sample before) wherever two samples near each other know the counter.

        A counter that fell back belongs to another life of the process: what it grew by in between is not known.
        """
        values, times = self._columns[counter], self._columns["at"]
        before: int | None = None
        for position, index in enumerate(slots):
            if math.isnan(values[index]):
                continue
            if before is not None:
                growth, seconds = values[index] - values[before], times[index] - times[before]
                if growth >= 0 and seconds > 0:
                    yield position, growth, seconds
            before = index

    def _rates(self, counter: str, slots: list[int]) -> list[float | None]:
        rates: list[float | None] = [None] * len(slots)
        for position, growth, seconds in self._steps(counter, slots):
            if seconds <= LONGEST_GAP * self._step:
                rates[position] = round(growth / seconds, 3)
        return rates

    def _increase(self, counter: str, slots: list[int], seconds: float) -> int | None:
        """How much the counter grew in the latest ``seconds`` of what is held; None when that is not known."""
        oldest = len(slots) - seconds / self._step
        grown = [growth for position, growth, _ in self._steps(counter, slots) if position >= oldest]
        return int(sum(grown)) if grown else None


def _closed(reason: ClosedReason) -> str:
    return f"closed_{reason.value}"


def _double(value: int | None) -> float:
    return UNKNOWN if value is None else float(value)


def _count(value: float) -> int | None:
    return None if math.isnan(value) else int(value)


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
