"""What a Prometheus answers to a dashboard's queries, as Grafana asks them and as its components take it."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Frame = dict[str, Any]
POINTS = 240
RATE = "20s"  # four scrapes of a second are no picture of a minute


@dataclass
class Prometheus:
    """Asks over the time from ``start`` to ``end``, in seconds."""

    url: str
    start: float
    end: float
    job: str = ".+"

    @property
    def step(self) -> float:
        """Seconds between the points of a course, as Grafana chooses them for the width."""
        return max(1.0, round((self.end - self.start) / POINTS))

    def answers(self, dashboard: Mapping[str, Any]) -> dict[int, list[Frame]]:
        """By the panels' ids. A closed row's panels are not asked for, as in Grafana."""
        return {
            panel["id"]: [frame for target in panel["targets"] for frame in self._frames(target, len(panel["targets"]))]
            for panel in dashboard["panels"]
            if panel["type"] != "row"
        }

    def _ask(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:  # noqa: S310 - our own
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def _frames(self, target: Mapping[str, Any], targets: int) -> Iterator[Frame]:
        expr = target["expr"].replace("$__rate_interval", RATE).replace("$job", self.job).replace("$instance", ".+")
        name = target["refId"]
        if target.get("instant"):
            found = self._ask("query", query=expr, time=self.end)
            courses = [(row["metric"], [row["value"]]) for row in found]
        else:
            start = self.start - self.start % self.step  # aligned, as Grafana does
            found = self._ask("query_range", query=expr, start=start, end=self.end, step=self.step)
            courses = [(row["metric"], row["values"]) for row in found]
        if target.get("format") == "table":
            yield _table(name, courses, f"Value #{name}" if targets > 1 else "Value")
            return
        for labels, values in courses:
            yield {
                "refId": name,
                "fields": [
                    {
                        "name": "Time",
                        "type": "time",
                        "values": [1000 * at for at, _ in values],
                        "config": {"interval": 1000 * self.step},
                    },
                    {
                        "name": "Value",
                        "type": "number",
                        "labels": labels,
                        "values": [float(value) for _, value in values],
                        "config": {"displayNameFromDS": _legend(target.get("legendFormat", ""), labels)},
                    },
                ],
            }


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match[1], ""), form) or str(dict(labels))


def _table(name: str, courses: list[tuple[dict[str, str], list[Any]]], value: str) -> Frame:
    keys = sorted({key for labels, _ in courses for key in labels})
    return {
        "refId": name,
        "fields": [
            {"name": "Time", "type": "time", "values": [1000 * values[-1][0] for _, values in courses], "config": {}},
            *(
                {"name": key, "type": "string", "values": [labels.get(key, "") for labels, _ in courses], "config": {}}
                for key in keys
            ),
            {
                "name": value,
                "type": "number",
                "values": [float(values[-1][1]) for _, values in courses],
                "config": {},
            },
        ],
    }


def picture(dashboard: Mapping[str, Any], prometheus: Prometheus, caption: str) -> dict[str, Any]:
    """All that the page needs to draw a dashboard as it is now."""
    return {
        "dashboard": dashboard,
        "answers": prometheus.answers(dashboard),
        "start": 1000 * prometheus.start,
        "end": 1000 * prometheus.end,
        "step": 1000 * prometheus.step,
        "caption": f"{caption}, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(prometheus.end))}",
    }
