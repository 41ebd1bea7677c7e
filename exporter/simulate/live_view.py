"""The live table of a simulation, on a terminal. Needs rich, and changes nothing.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from exporter.simulate.console import Moment, Rates, View, milliseconds
from exporter.simulate.meter import Meter

LIVE_EVERY = 0.25
_BARS = "▁▂▃▄▅▆▇█"


class LiveView(View):
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
            self._problems(moment),
        ]
        if moment.progress is not None:
            parts.append(ProgressBar(total=1.0, completed=moment.progress, width=60))
        self._live.update(Group(*parts), refresh=True)

    def _header(self, moment: Moment) -> Text:
        meter, hour = moment.meter, moment.hour
        clock = "" if hour is None else f"{int(hour):02}:{int(hour % 1 * 60):02} in fast motion"
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

    def _problems(self, moment: Moment) -> Text:
        meter, ledger = moment.meter, moment.ledger
        text = Text.assemble(
            (
                f"{meter.resets} lost networks, {meter.resent} resent, {ledger.unanswered} unanswered, "
                f"{meter.errors.total()} errors, {meter.rejected.total()} connections refused\n",
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


def _curve(values: Sequence[float]) -> str:
    top = max(values, default=0.0)
    return "".join(_BARS[round(value / top * 7)] if top else _BARS[0] for value in values)
