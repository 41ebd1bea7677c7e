"""What a simulation found, as a record, as JSON and as words. Knows no network.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.meter import Meter

OK, WRONG, UNVERIFIED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome. Latencies are seconds since a message's first attempt; ``wrong`` counts broken promises by kind.

    ``verified`` is how many acknowledged messages were compared with what the server has stored; None: it was not
    asked for, or there was nothing to compare or nobody to answer, which ``unverified_because`` tells; it also tells
    that a process stands still.
    """

    seconds: float
    seed: int
    people: int
    conversations: int
    rate: float
    sent: int
    resent: int
    missed: int
    given_up: int
    acknowledged: int
    unanswered: int
    delivered: int
    foreign: int
    reordered: int
    typing: int
    reads: int
    caught_up: int
    connections: int
    resets: int
    moved: int
    closed: dict[str, int]
    rejected: dict[str, int]
    errors: dict[str, int]
    stood_still: dict[str, float]
    ack_seconds: dict[str, float | None]
    delivery_seconds: dict[str, float | None]
    own_lag_seconds: float
    verified: int | None
    unverified_because: str | None
    wrong: dict[str, int]
    examples: dict[str, list[str]] = field(default_factory=dict)
    stopped: bool = False

    @property
    def status(self) -> int:
        """Exit status: 0 all promises kept, 1 something was lost, doubled or otherwise wrong, 2 could not check."""
        if self.wrong:
            return WRONG
        return UNVERIFIED if self.unverified_because else OK

    def as_json(self) -> dict[str, Any]:
        """All of it, and ``ok``: every promise was kept and that was checked."""
        return {"ok": self.status == OK, **asdict(self)}

    def lines(self) -> list[str]:
        """For people: a few lines."""
        pace = f"{self.sent / self.seconds:.1f}/s" if self.seconds else "-"
        lines = [
            f"{self.seconds:.0f} s, {self.people} people, {self.conversations} conversations, seed {self.seed}",
            f"sent {self.sent} ({pace}), resent {self.resent}, acknowledged {self.acknowledged}, "
            f"unanswered {self.unanswered}, delivered {self.delivered}",
            f"acknowledged in {spread(self.ack_seconds)}",
            f"delivered in {spread(self.delivery_seconds)}",
            f"{self.connections} connections, {self.resets} of them reset by a lost network"
            f"{f', {self.moved} moved to another node' if self.moved else ''}; "
            f"{self.caught_up} messages caught up, {self.reads} read receipts, {self.typing} times typing",
        ]
        if self.own_lag_seconds > 0.1:
            lines.append(
                f"this program itself was up to {1000 * self.own_lag_seconds:.0f} ms late, for want of a processor, "
                "and the latencies above include that"
            )
        if self.missed:
            lines.append(
                f"{self.missed} messages were due while nobody could write them, or faster than clients may send"
            )
        for words, counts in (
            ("closed by the server", self.closed),
            ("refused connections", self.rejected),
            ("errors answered", self.errors),
            ("processes that stood still, with the seconds", {name: round(s) for name, s in self.stood_still.items()}),
        ):
            if counts:
                lines.append(f"{words}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        return lines + self._verdict()

    def _verdict(self) -> list[str]:
        lines = []
        if self.verified is not None:
            lines.append(f"{self.verified} acknowledged messages compared with what is stored")
        if self.unverified_because:
            lines.append(f"NOT VERIFIED: {self.unverified_because}")
        for kind, count in self.wrong.items():
            lines.append(f"WRONG: {count} {kind}")
            lines.extend(f"  {example}" for example in self.examples[kind][:5])
        if not self.wrong and self.verified is not None and not self.unverified_because:
            lines.append("nothing acknowledged was lost or doubled")
        return lines


def spread(seconds: dict[str, float | None]) -> str:
    """Percentiles in milliseconds, for people."""
    if seconds["p50"] is None:
        return "-"
    return ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items() if value is not None)


def summarise(ledger: Ledger, meter: Meter, **known: Any) -> Summary:
    """The summary of what ledger and meter hold, and of what else is ``known``: the other fields."""
    return Summary(
        sent=meter.sent,
        resent=meter.resent,
        missed=meter.missed,
        given_up=meter.given_up,
        acknowledged=ledger.acknowledged,
        unanswered=ledger.unanswered,
        delivered=ledger.deliveries,
        foreign=ledger.foreign,
        reordered=ledger.reordered,
        typing=meter.typing,
        reads=meter.reads,
        caught_up=meter.caught_up,
        connections=meter.opened,
        resets=meter.resets,
        moved=meter.moved,
        closed=dict(meter.closed),
        rejected={reason: count for reason, count in meter.rejected.items() if count},
        errors=dict(meter.errors),
        stood_still={process: round(seconds, 3) for process, seconds in meter.stood_still.items()},
        ack_seconds=meter.ack.summary(),
        delivery_seconds=meter.delivery.summary(),
        own_lag_seconds=round(meter.lag, 6),
        wrong={kind.value: count for kind, count in ledger.findings.counts.items()},
        examples={kind.value: examples for kind, examples in ledger.findings.examples.items()},
        **known,
    )
