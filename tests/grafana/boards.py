"""The committed dashboards taken apart for the tests: panels, also those in collapsed rows, and their queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grafana.source.__main__ import GRAFANA

FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
OBSERVED = "messaging-source"
"""The dashboard of ``observe``, whose figures another process exposes."""
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FILES}


@dataclass(frozen=True)
class Target:
    """A query with where it stands."""

    board: str
    panel: dict[str, Any]
    expr: str
    legend: str
    instant: bool
    ranged: bool

    def __str__(self) -> str:
        return f"{self.board} / {self.panel['title']}: {self.expr}"


def laid_out(board: str) -> list[dict[str, Any]]:
    """Headings and panels in reading order, those of collapsed rows behind their heading."""
    found = []
    for panel in BOARDS[board]["panels"]:
        found.append(panel)
        found += panel.get("panels", [])
    return found


def panels(board: str) -> list[dict[str, Any]]:
    """Those that show something; rows are headings."""
    return [panel for panel in laid_out(board) if panel["type"] != "row"]


def targets() -> Iterator[Target]:
    """Every query of every panel."""
    for board in BOARDS:
        for panel in panels(board):
            for target in panel["targets"]:
                yield Target(
                    board,
                    panel,
                    target["expr"],
                    target.get("legendFormat", ""),
                    target.get("instant", False),
                    target.get("range", False),
                )
