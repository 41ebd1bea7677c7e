"""``python -m grafana.source.picture http://PROMETHEUS FILE.svg``: a dashboard drawn from its JSON and live data.

For the README, where no Grafana is at hand: a sketch, and it says so. Panels, places, queries, units and thresholds are
read from the committed dashboard; the figures from a real Prometheus. Kinds of panels that the overview does not have
are not known here.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

DASHBOARDS: Final = Path(__file__).resolve().parents[1] / "dashboards"
COLUMN, ROW, GAP = 50, 30, 6  # pixels of a column and of a row of Grafana's grid, and between panels
HEAD, FOOT = 44, 24  # pixels above and below the panels
RATE: Final = "1m"
POINTS: Final = 120
COLOURS: Final = {"green": "#56a64b", "red": "#e02f44", "orange": "#ff780a", "yellow": "#e0b400", "blue": "#3274d9"}
LINES: Final = ("#56a64b", "#e0b400", "#3274d9", "#ff780a", "#e02f44")
STYLE: Final = (
    "text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#24292e}.d{fill:#6b7280;font-size:10px}"
    ".t{font-weight:600}.p{fill:#fff;stroke:#d5d9de}.g{stroke:#e8eaed}"
)


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, and (seconds, value)."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Prometheus:
    """Asks over the last ``minutes`` until ``end``."""

    url: str
    end: float
    minutes: float

    @property
    def start(self) -> float:
        """The left end of every chart."""
        return self.end - 60 * self.minutes

    def series(self, panel: Mapping[str, Any]) -> list[Series]:
        """All series of all queries of a panel."""
        return [series for target in panel["targets"] for series in self._query(target)]

    def _query(self, target: Mapping[str, Any]) -> Iterator[Series]:
        expr = target["expr"].replace("$__rate_interval", RATE)
        expr = expr.replace("$job", ".+").replace("$instance", ".+")
        step = (self.end - self.start) / POINTS
        query = urllib.parse.urlencode({"query": expr, "start": self.start, "end": self.end, "step": step})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{query}", timeout=30) as answer:  # noqa: S310 - our own
            result = json.load(answer)["data"]["result"]
        for found in result:
            labels: dict[str, str] = found["metric"]
            name = re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), target["legendFormat"])  # noqa: B023 - used at once
            yield Series(name, [(at, float(value)) for at, value in found["values"]])


# --- figures as text ------------------------------------------------------------------------------------------


def shown(value: float, unit: str) -> str:
    """A value in one of the units that the dashboard has."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    suffix = {"mps": " msg/s", "ops": " ops/s"}.get(unit, "")
    if unit != "none" and abs(value) >= 1000:
        return f"{value / 1000:.3g} K{suffix}"
    return f"{value:.3g}{suffix}"


def threshold(value: float, defaults: Mapping[str, Any]) -> str:
    """The colour of the highest threshold that the value has reached."""
    steps = defaults["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLOURS.get(reached[-1], "#24292e")


# --- panels, each in a box of its own ------------------------------------------------------------------------


def text(x: float, y: float, words: str, kind: str = "", **more: str) -> str:
    """One line of text."""
    extra = "".join(f' {name.replace("_", "-")}="{escape(value)}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{extra}>{escape(words)}</text>'


def path(points: Sequence[tuple[float, float]], box: tuple[float, float, float, float], span: tuple[float, float],
         top: float) -> str:  # fmt: skip
    """The d of a line in ``box`` (x, y, width, height), over the time ``span``, 0 at the bottom and ``top`` above."""
    x, y, width, height = box
    start, end = span
    places = [
        f"{x + (at - start) / (end - start) * width:.1f},{y + height * (1 - value / top):.1f}"
        for at, value in points
        if math.isfinite(value)
    ]
    return "M" + "L".join(places) if places else ""


def stat(panel: Mapping[str, Any], series: Sequence[Series], width: int, height: int, span: Any) -> Iterator[str]:
    """The latest value large, with its line behind it."""
    defaults = panel["fieldConfig"]["defaults"]
    if not series:
        yield text(width / 2, height / 2 + 12, defaults.get("noValue", "no data"), "d", text_anchor="middle")
        return
    points = series[0].points
    value = points[-1][1]
    words = shown(value, defaults.get("unit", "none"))
    colour = threshold(value, defaults)
    for mapping in defaults.get("mappings", []):
        option = mapping["options"].get(f"{value:g}")
        if option:
            words, colour = option["text"], COLOURS[option["color"]]
    if panel["options"].get("graphMode") == "area":
        box = (1, height - 32, width - 2, 31)
        line = path(points, box, span, max([value for _, value in points] + [1e-9]) * 1.15)
        first, last = line[1:].split(",")[0], line.rpartition("L")[2].split(",")[0]
        yield f'<path d="{line}L{last},{height - 1}L{first.lstrip("M")},{height - 1}Z" fill="{colour}" opacity=".15"/>'
        yield f'<path d="{line}" fill="none" stroke="{colour}"/>'
    yield text(width / 2, height / 2 + 12, words, text_anchor="middle", style=f"font-size:28px;fill:{colour}")


def timeseries(panel: Mapping[str, Any], series: Sequence[Series], width: int, height: int, span: Any) -> Iterator[str]:
    """Lines over time, from 0, with a legend."""
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults.get("unit", "none")
    top = max([value for line in series for _, value in line.points if math.isfinite(value)] + [0]) or 1.0
    size = 10 ** math.floor(math.log10(top))
    top = next(size * nice for nice in (1, 1.5, 2, 3, 4, 5, 7.5, 10) if size * nice >= top * 0.999)
    box = (62, 32, width - 74, height - 82)
    for part in range(3):
        y = box[1] + box[3] * part / 2
        yield f'<path class="g" d="M{box[0]} {y:.1f}h{box[2]}"/>'
        yield text(box[0] - 5, y + 4, shown(top * (2 - part) / 2, unit), "d", text_anchor="end")
    for part, anchor in enumerate(("start", "middle", "end")):
        at = span[0] + (span[1] - span[0]) * part / 2
        clock = time.strftime("%H:%M", time.gmtime(at))
        yield text(box[0] + box[2] * part / 2, box[1] + box[3] + 14, clock, "d", text_anchor=anchor)
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and step["value"] <= top and "thresholdsStyle" in defaults.get("custom", {}):
            y = box[1] + box[3] * (1 - step["value"] / top)
            yield f'<path d="M{box[0]} {y:.1f}h{box[2]}" stroke="{COLOURS[step["color"]]}" stroke-dasharray="5 4"/>'
    x, y = 12.0, height - 24.0
    for number, line in enumerate(series):
        colour = LINES[number % len(LINES)]
        yield f'<path d="{path(line.points, box, span, top)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        length = 26 + 5.8 * len(line.name)
        if x + length > width and x > 12:
            x, y = 12.0, y + 14
        yield f'<path d="M{x} {y - 4}h12" stroke="{colour}" stroke-width="3"/>' + text(x + 16, y, line.name, "d")
        x += length


def bargauge(panel: Mapping[str, Any], series: Sequence[Series], width: int, height: int, _: Any) -> Iterator[str]:
    """A bar for each of the latest values."""
    defaults = panel["fieldConfig"]["defaults"]
    for number, line in enumerate(series):
        value, y = line.points[-1][1], 38 + 34 * number
        yield text(12, y + 8, line.name, "d")
        share = min(1.0, value / defaults.get("max", 1))
        yield f'<rect x="12" y="{y + 14}" width="{width - 90}" height="14" fill="#eceef1"/>'
        colour = threshold(value, defaults)
        yield f'<rect x="12" y="{y + 14}" width="{(width - 90) * share:.1f}" height="14" fill="{colour}"/>'
        yield text(width - 12, y + 26, shown(value, defaults["unit"]), "t", text_anchor="end")


KINDS: Final = {"stat": stat, "timeseries": timeseries, "bargauge": bargauge}


def draw(dashboard: Mapping[str, Any], prometheus: Prometheus) -> str:
    """The whole dashboard as one SVG."""
    width = 24 * COLUMN + GAP
    below = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    height = HEAD + below * ROW + FOOT
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(prometheus.end))
    what = f"Sketch drawn from the dashboard's JSON with data of a running demo ({when}), not a screenshot of Grafana"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(dashboard['title'])}: {escape(what)}</title><style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>',
        text(GAP + 4, 28, dashboard["title"], "t", style="font-size:18px"),
        text(width - GAP - 4, 28, f"last {prometheus.minutes:.0f} minutes", "d", text_anchor="end"),
    ]
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, y = GAP + place["x"] * COLUMN, HEAD + place["y"] * ROW
        w, h = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
        parts.append(f'<g transform="translate({x} {y})">')
        if panel["type"] == "row":
            parts.append(text(4, 18, f"⌄ {panel['title']}", "t"))
        else:
            span = (prometheus.start, prometheus.end)
            parts.append(f'<rect class="p" width="{w}" height="{h}" rx="2"/>' + text(12, 20, panel["title"], "t"))
            parts.extend(KINDS[panel["type"]](panel, prometheus.series(panel), w, h, span))
        parts.append("</g>")
    parts.append(text(GAP + 4, height - 8, what, "d") + "</svg>\n")
    return "\n".join(parts)


def main() -> None:
    """Draw what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m grafana.source.picture", description=__doc__)
    parser.add_argument("prometheus", help="its URL, as make observe prints it")
    parser.add_argument("output", type=Path)
    parser.add_argument("--dashboard", default="messaging-overview")
    parser.add_argument("--minutes", type=float, default=15.0)
    chosen = parser.parse_args()
    dashboard = json.loads((DASHBOARDS / f"{chosen.dashboard}.json").read_text(encoding="utf-8"))
    prometheus = Prometheus(chosen.prometheus.removesuffix("/targets"), time.time(), chosen.minutes)
    chosen.output.write_text(draw(dashboard, prometheus), encoding="utf-8")


if __name__ == "__main__":
    main()
