"""What people see while a simulation runs: a live table on a terminal, plain lines elsewhere. Changes nothing.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.meter import Meter

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Moment:
    """All a view may show. ``progress`` in 0…1, None where there is no end in sight; ``hour`` of the simulated day."""

    meter: Meter
    ledger: Ledger
    phase: str
    seconds: float
    progress: float | None
    hour: float | None


class View:
    """Shows a moment every ``every`` seconds, and notes above it. This one shows nothing."""

    every = 1.0

    def show(self, moment: Moment) -> None:
        """The present state."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def close(self) -> None:
        """No more: the screen is left in order."""


class Rates:
    """Differences per second between moments; at most the latest 40 of each for the little curves."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[float, int]] = {}
        self.curves: dict[str, list[float]] = {}

    def of(self, name: str, seconds: float, value: int) -> float:
        """How fast this counter has risen since it was last asked about."""
        before, latest = self._latest.get(name, (0.0, 0))
        self._latest[name] = (seconds, value)
        rate = (value - latest) / (seconds - before) if seconds > before else 0.0
        curve = self.curves.setdefault(name, [])
        curve.append(rate)
        del curve[:-40]
        return rate


class PlainView(View):
    """A line every few seconds, for logs and pipes."""

    def __init__(self, out: TextIO, every: float = PLAIN_EVERY) -> None:
        self.every = every
        self._out = out
        self._rates = Rates()

    def show(self, moment: Moment) -> None:
        """``key=value`` pairs."""
        meter, ledger, rate = moment.meter, moment.ledger, self._rates.of
        sent, delivered = (rate(name, moment.seconds, n) for name, n in (("s", meter.sent), ("d", ledger.deliveries)))
        progress = f" ({moment.progress:.0%})" if moment.progress is not None and moment.phase == "verifying" else ""
        self.note(
            f"{moment.seconds:.0f}s {moment.phase}{progress} people={len(meter.people)} connections={meter.online} "
            f"joined={meter.joined} sent={meter.sent} ({sent:.1f}/s) acknowledged={ledger.acknowledged} "
            f"delivered={ledger.deliveries} ({delivered:.1f}/s) ack_p99={milliseconds(meter.ack.at(0.99))} "
            f"delivery_p99={milliseconds(meter.delivery.at(0.99))} resets={meter.resets} "
            f"errors={meter.errors.total() + meter.rejected.total()} wrong={ledger.findings.total}"
        )

    def note(self, text: str) -> None:
        """The line itself, at once."""
        with suppress(OSError):  # nobody reads it any more: that is no reason to stop
            print(text, file=self._out, flush=True)


def milliseconds(seconds: float | None) -> str:
    """A latency for people."""
    return "-" if seconds is None else f"{1000 * seconds:.1f}ms"


def live_console(stream: TextIO) -> Console | None:
    """Where something may move: ``stream`` is a terminal that can do it, and rich is installed (the extra ``demo``)."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(file=stream)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def view_for(out: TextIO | None = None, title: str = "messaging-exporter simulate") -> View:
    """The live one on a terminal, else plain lines."""
    stream = sys.stdout if out is None else out
    console = live_console(stream)
    if console is None:
        return PlainView(stream)
    from exporter.simulate.live_view import LiveView

    return LiveView(console, title)
