"""The last hour at ten seconds, for the page's charts. Knows no clock, no hub, no store and no HTTP.

Somebody samples the records every ten seconds and calls ``History.record``; what is kept is one array of doubles per
figure, made once, so memory is the same after a minute and after a year (about 220 KiB), whatever the number of
connections. What the cumulative counters grew by is worked out when a sample is recorded, in a few microseconds, so
that an answer is columns as they stand: the loop that makes it has people's messages to deliver.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from exporter.core.errors import ErrorCode
from exporter.core.events import ClosedReason, RejectedReason

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
    "sends_failed": "sends_failed",
    "connections_refused": "refused_connections",
    "commands_refused": "refused_commands",
}
REASONS = {  # counters by reason in the sample -> their reasons
    "connections_closed": [reason.value for reason in ClosedReason],
    "connections_refused": [reason.value for reason in RejectedReason],
    "commands_refused": [code.value for code in ErrorCode],
}
DELIVERED = ("delivered", "delivered_in_time")
COUNTERS = (
    *RATES.values(),
    *(f"{group}_{reason}" for group, reasons in REASONS.items() for reason in reasons),
    *DELIVERED,
)
PEAKS = FIGURES[:5]  # the live ones; the others hardly ever fall
DAY = 86_400.0
UNKNOWN = math.nan
_RATED = frozenset(RATES.values())
_SUMS = {"connections_refused": "refused_connections", "commands_refused": "refused_commands"}
_PLAIN = [name for name in RATES.values() if name not in _SUMS.values()]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What was true at one moment; None is "not known then" and never 0.

    The first nine are figures as ``/v1/messaging/stats`` shows them, of the same scope (cluster or node). The others
    are this node's counters since its start, hence they only grow; the mappings are keyed by reason.
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
    sends_failed: int | None = None
    delivered: int | None = None
    delivered_in_time: int | None = None
    connections_closed: Mapping[str, int] = msgspec.field(default_factory=dict)
    connections_refused: Mapping[str, int] = msgspec.field(default_factory=dict)
    commands_refused: Mapping[str, int] = msgspec.field(default_factory=dict)


class History:
    """The latest ``MAXLEN`` samples on a grid of ``STEP`` seconds, in memory that never grows.

    A slot in which nobody sampled (the process was stopped, the machine slept) holds nulls; of two samples in one slot
    the later one stays. When the clock was set back, what lies in its future is forgotten.
    """

    def __init__(self) -> None:
        self._columns = {
            name: array("d", [UNKNOWN]) * MAXLEN
            for name in ("at", *FIGURES, *COUNTERS, *(_growth(name) for name in COUNTERS))
        }
        self._first: int | None = None  # slot numbers: seconds since 1970 divided by the step
        self._last: int | None = None
        self._began: float | None = None
        self._body: bytes | None = None
        self._day = UNKNOWN  # UTC days since 1970
        self._peaks: dict[str, tuple[int, float]] = {}  # the highest sample of that day, and when

    def record(self, at: float, sample: Sample) -> None:
        """Keep ``sample``, taken at ``at`` (Unix seconds). O(1), but for the slots skipped since the latest one."""
        slot = int(at // STEP)
        if self._last is None or self._first is None or not -MAXLEN < slot - self._last < MAXLEN:
            self._forget_all()
            self._first, self._began = slot, at
        elif slot < self._last:
            self._first, self._began = min(self._first, slot), min(self._began or at, at)
        else:
            self._blank(self._last + 1, slot - 1)
        self._first = max(self._first, slot - MAXLEN + 1)
        self._last = slot
        self._put(slot, at, sample)
        self._mind_peaks(at, sample)
        self._body = None

    def until_next(self, now: float) -> float:
        """Seconds from ``now`` (Unix seconds) to the middle of the next slot, the time to sample next.

        Sleeping for ``STEP`` instead would drift over a slot's edge one day and leave a slot empty.
        """
        return (now // STEP + 1.5) * STEP - now

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
        ``rates``           ``{"messages" | "deliveries" | "joins" | "connects" | "sends_failed" | "connections_refused"
                            | "commands_refused": [float | null]}``: per second, this node only, averaged since the
                            sample before; null for the very first, after a counter fell back, and after a gap of more
                            than three steps
        ``delivered_in_time``  ``[float | null]``: of the messages that this node delivered since the sample before, the
                            share that took at most 0.25 s; null when there were none
        ``closed``          ``{reason: {"last_minute": int | null, "last_hour": int | null}}``: connections that this
                            node closed, in the latest minute and in all that is held; null when no two samples know it
        ``refused``         ``{"connections" | "commands": {reason: the same}}``: refused by this node
        ``peaks``           ``{"since", "figures": {name: {"value", "at"} | null}}``: the highest sample of this UTC day
                            of the five live figures, and when it was taken; ``since``: midnight, or the first sample
        ==================  ==========================================================================================
        """
        return {
            "step": STEP,
            "length": 0 if self._first is None or self._last is None else self._last - self._first + 1,
            "start": None if self._first is None else self._first * STEP,
            "since": _moment(self._began),
            "as_of": _moment(None if self._last is None else self._columns["at"][self._last % MAXLEN]),
            "figures": {name: [None if n != n else int(n) for n in self._held(name)] for name in FIGURES},
            "rates": {name: [None if n != n else n for n in self._held(_growth(c))] for name, c in RATES.items()},
            "delivered_in_time": [
                round(good / all, 5) if all > 0 else None  # not a number is not above nought
                for all, good in zip(*(self._held(_growth(name)) for name in DELIVERED), strict=True)
            ],
            "closed": self._by_reason("connections_closed"),
            "refused": {
                "connections": self._by_reason("connections_refused"),
                "commands": self._by_reason("commands_refused"),
            },
            "peaks": {
                "since": None if self._began is None else _moment(max(self._began, self._day * DAY)),
                "figures": {name: self._peak(name) for name in PEAKS},
            },
        }

    def body(self) -> bytes:
        """``answer()`` as JSON; built once per sample, however many watch."""
        if self._body is None:
            self._body = msgspec.json.encode(self.answer())
        return self._body

    def _by_reason(self, group: str) -> dict[str, dict[str, int | None]]:
        spans = {"last_minute": int(MINUTE / STEP), "last_hour": MAXLEN}
        return {
            reason: {span: self._sum(_growth(f"{group}_{reason}"), entries) for span, entries in spans.items()}
            for reason in REASONS[group]
        }

    def _peak(self, name: str) -> dict[str, Any] | None:
        found = self._peaks.get(name)
        return None if found is None else {"value": found[0], "at": _moment(found[1])}

    def _mind_peaks(self, at: float, sample: Sample) -> None:
        if at // DAY != self._day:
            self._day = at // DAY
            self._peaks.clear()
        for name in PEAKS:
            value = getattr(sample, name)
            if value is not None and (name not in self._peaks or value > self._peaks[name][0]):
                self._peaks[name] = (value, at)

    def _held(self, column: str) -> array[float]:
        """A column from the oldest entry to the latest; not a number where it is unknown."""
        values = self._columns[column]
        if self._first is None or self._last is None:
            return values[:0]
        first, last = self._first % MAXLEN, self._last % MAXLEN
        return values[first : last + 1] if first <= last else values[first:] + values[: last + 1]

    def _sum(self, column: str, entries: int) -> int | None:
        """The sum of what is known of the latest entries, None when nothing is."""
        known = [n for n in self._held(column)[-entries:] if n == n]
        return int(sum(known)) if known else None

    def _blank(self, first: int, last: int) -> None:
        for slot in range(first, last + 1):
            for column in self._columns.values():
                column[slot % MAXLEN] = UNKNOWN

    def _forget_all(self) -> None:
        self._blank(0, MAXLEN - 1)

    def _put(self, slot: int, at: float, sample: Sample) -> None:
        index = slot % MAXLEN
        columns = self._columns
        columns["at"][index] = at
        for name in (*FIGURES, *DELIVERED, *_PLAIN):
            columns[name][index] = _double(getattr(sample, name))
        for group, reasons in REASONS.items():
            counts: Mapping[str, int] = getattr(sample, group)
            for reason in reasons:
                columns[f"{group}_{reason}"][index] = _double(counts.get(reason))
            if group in _SUMS:
                columns[_SUMS[group]][index] = _double(sum(counts.values()) if counts else None)
        for name in COUNTERS:
            rate = name in _RATED
            growth, seconds = self._growth_since(name, slot, LONGEST_GAP if rate else MAXLEN)
            value = round(growth / seconds, 3) if rate and seconds > 0 else UNKNOWN if rate else growth
            columns[_growth(name)][index] = value

    def _growth_since(self, counter: str, slot: int, farthest: int) -> tuple[float, float]:
        """What the counter grew by since the sample before that knows it, and in how many seconds.

        Unknown when no sample of the ``farthest`` slots before does, and when the counter fell back: then it belongs
        to another life of the process, and what happened in between nobody has counted.
        """
        values, times = self._columns[counter], self._columns["at"]
        assert self._first is not None  # noqa: S101 - a sample is being put
        if values[slot % MAXLEN] != values[slot % MAXLEN]:
            return UNKNOWN, UNKNOWN  # nobody knows it now: looking for an earlier one is work for nothing
        for before in range(slot - 1, max(self._first, slot - farthest) - 1, -1):
            then = values[before % MAXLEN]
            if then == then:
                growth = values[slot % MAXLEN] - then
                seconds = times[slot % MAXLEN] - times[before % MAXLEN]
                return (growth if growth >= 0 and seconds > 0 else UNKNOWN), seconds
        return UNKNOWN, UNKNOWN


def _growth(counter: str) -> str:
    """The column of what a counter grew by: per second for rates, in all for the others."""
    return f"{counter}_growth"


def _double(value: int | None) -> float:
    return UNKNOWN if value is None else float(value)


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
