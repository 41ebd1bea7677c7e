"""What people see while a simulation runs: a live table on a terminal, plain lines elsewhere. Changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.meter import Meter

PLAIN_EVERY = 5.0
LIVE_EVERY = 0.25
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Moment:
    """All a view may show. ``progress`` in 0…1, None where there is no end in sight; ``hour`` of the simulated day."""

    meter: Meter
    ledger: Ledger
    phase: str
    seconds: float
    progress: float | None
    hour: float | None


class View(Protocol):
    """Shows a moment now and then, and notes above it. ``every`` is how often it wants to, in seconds."""

    every: float

    def show(self, moment: Moment) -> None:
        """The present state."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def close(self) -> None:
        """No more: the screen is left in order."""


class Silence:
    """No view at all."""

    every = 1.0

    def show(self, moment: Moment) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


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


class PlainView:
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

    def close(self) -> None:
        """Nothing to put in order."""


class LiveView:
    """A table that stays in its place."""

    every = LIVE_EVERY

    def __init__(self, console: Console, title: str = "messaging-exporter simulate") -> None:
        self._title = title
        self._console = console
        self._rates = Rates()
        self._rated_at = -1.0
        self._shown: dict[str, float] = {}
        # Redirecting would send what others print through rich, which would wrap and colour it.
        self._live = Live(console=console, auto_refresh=False, transient=False, redirect_stdout=False)
        self._live.start()

    def show(self, moment: Moment) -> None:
        """Draws it anew."""
        meter, ledger = moment.meter, moment.ledger
        if moment.seconds - self._rated_at >= 1.0:
            self._rated_at = moment.seconds
            counts = {"sent": meter.sent, "acknowledged": ledger.acknowledged, "delivered": ledger.deliveries}
            self._shown = {name: self._rates.of(name, moment.seconds, count) for name, count in counts.items()}
        parts: list[RenderableType] = [
            self._header(moment),
            self._counters(moment),
            self._latencies(meter),
            self._troubles(moment),
        ]
        if moment.progress is not None:
            parts.append(ProgressBar(total=1.0, completed=moment.progress, width=60))
        self._live.update(Group(*parts), refresh=True)

    def _header(self, moment: Moment) -> Text:
        meter, hour = moment.meter, moment.hour
        clock = "" if hour is None else f"{int(hour):02}:{int(hour % 1 * 60):02} on a day in fast motion"
        return Text.assemble(
            (self._title, "bold"),
            f"  {moment.phase}, {moment.seconds:.0f} s  ",
            (clock, "dim"),
            f"\n{len(meter.people)} people on {meter.online} connections, {meter.joined} times joined",
        )

    def _counters(self, moment: Moment) -> Table:
        table = Table("messages", "per second", "in all", "", box=None, header_style="dim", padding=(0, 2, 0, 0))
        totals = {
            "sent": moment.meter.sent,
            "acknowledged": moment.ledger.acknowledged,
            "delivered": moment.ledger.deliveries,
        }
        for name, total in totals.items():
            curve = _curve(self._rates.curves.get(name, []))
            table.add_row(name, f"{self._shown.get(name, 0.0):.1f}", f"{total:,}", Text(curve, "cyan"))
        table.columns[1].justify = table.columns[2].justify = "right"
        return table

    def _latencies(self, meter: Meter) -> Table:
        table = Table("latency", "p50", "p90", "p99", "max", box=None, header_style="dim", padding=(0, 2, 0, 0))
        for name, lately, all_time in (
            ("acknowledged", meter.recent_ack, meter.ack),
            ("delivered", meter.recent_delivery, meter.delivery),
        ):
            shown = lately if lately.count else all_time
            table.add_row(name, *(milliseconds(shown.at(share)) for share in (0.5, 0.9, 0.99, 1.0)))
        for column in table.columns[1:]:
            column.justify = "right"
        return table

    def _troubles(self, moment: Moment) -> Text:
        meter, ledger = moment.meter, moment.ledger
        text = Text.assemble(
            (
                f"{meter.resets} lost networks, {meter.resent} sent again, {ledger.unanswered} waiting for an answer, "
                f"{meter.errors.total()} errors, {meter.rejected.total()} refused connections\n",
                "dim",
            )
        )
        if ledger.findings.total:
            kinds = ", ".join(f"{count} {kind.value}" for kind, count in ledger.findings.counts.items())
            return text.append(f"WRONG: {kinds}", "bold red")
        return text.append("nothing lost or doubled so far", "green")

    def note(self, text: str) -> None:
        """Above the table, where it scrolls away."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """The last state stays on the screen."""
        self._live.stop()


def milliseconds(seconds: float | None) -> str:
    """A latency for people."""
    return "-" if seconds is None else f"{1000 * seconds:.1f}ms"


def _curve(values: Sequence[float]) -> str:
    top = max(values, default=0.0)
    return "".join(_BARS[round(value / top * 7)] if top else _BARS[0] for value in values)


def view_for(out: TextIO | None = None, title: str = "messaging-exporter simulate") -> View:
    """The live one where ``out`` is a terminal that can do it, else plain lines."""
    stream = sys.stdout if out is None else out
    console = Console(file=stream)
    return LiveView(console, title) if console.is_terminal and not console.is_dumb_terminal else PlainView(stream)
