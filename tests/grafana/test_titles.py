"""No title is clipped, in windows of 1280, 1440 and 1920 pixels, and of 1280 with Grafana's menu docked, and no column
of a table is out of sight.

``make pictures`` measures it with Grafana's own components in a browser; this reckons with what was measured there:
the widths of the letters of Inter, in which Grafana writes titles, and what icons and paddings take of a panel.
"""

from __future__ import annotations

from typing import Any

import pytest

from grafana.source.tables import LEAST
from tests.grafana.boards import BOARDS, panels

# Pixels of Inter's letters, medium, at the titles' 14 pixels; measured by Chromium. Others count as the widest.
LETTERS = {
    3.53: "ijl", 3.73: " ", 3.81: "I", 4.25: ".,:", 4.38: "'", 4.76: "t", 5.16: "()", 5.17: "/", 5.31: "f", 5.41: "r",
    5.81: "1", 6.47: "-", 7.38: "?", 7.54: "s", 7.8: "xzk", 7.92: "L", 7.95: "a", 8.0: "7", 8.05: "Jvy", 8.08: "c",
    8.22: "e", 8.25: "F", 8.42: "hnuE", 8.46: "o5", 8.67: "bdgpq2", 8.82: "368", 8.98: "PZ", 9.04: "0S", 9.07: "R",
    9.14: "T", 9.19: "B4", 9.63: "K", 9.75: "Y", 9.93: "AVX", 10.1: "D", 10.27: "C", 10.36: "U", 10.47: "GH",
    10.59: "N", 10.76: "OQ", 11.61: "w", 12.43: "m", 12.78: "M", 13.9: "%@", 14.04: "W",
}  # fmt: skip
WIDTH = {letter: width for width, letters in LETTERS.items() for letter in letters}
SPACING = 0.15
DOCKED = 1050  # what a docked menu leaves of 1280
MARGIN, GAP = 32, 8  # beside the grid together, and between its columns
CELL, FRAME = 13.0, 18.0  # paddings and border of a table's cell; what a panel takes of its table's width
CHROME, LINK = 90.5, 34.0  # paddings, the icon of the description and the menu's place; the icon of a link


def width_of(title: str) -> float:
    return sum(WIDTH.get(letter, 14.04) + SPACING for letter in title)


def room(window: int, columns: int, linked: bool) -> float:
    column = (window - MARGIN - 23 * GAP) / 24
    return columns * column + (columns - 1) * GAP - CHROME - (LINK if linked else 0)


def test_the_reckoning_is_that_of_the_browser() -> None:
    measured = {
        "Registered people": 124,
        "Database connections": 152,
        "Garbage collections per second": 218,
        "What the last verification found wrong": 261,
        "Why connections are refused, per minute": 282,
    }
    for title, width in measured.items():
        assert abs(width_of(title) - width) < 2.5, title
    assert abs(room(1280, 4, False) - 111) < 1
    assert abs(room(1280, 6, False) - 216) < 1


@pytest.mark.parametrize("window", [DOCKED, 1280, 1440, 1920])
@pytest.mark.parametrize("board", BOARDS)
def test_every_title_fits_its_panel(board: str, window: int) -> None:
    clipped = {
        panel["title"]: (round(width_of(panel["title"])), round(room(window, panel["gridPos"]["w"], "links" in panel)))
        for panel in panels(board)
        if width_of(panel["title"]) > room(window, panel["gridPos"]["w"], "links" in panel)
    }
    assert not clipped, "title: its width and its room in pixels"


def columns(panel: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """By their titles, the columns that have a width, and the least width of those that share what is left."""
    organised = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    shown = [name for name in organised["indexByName"] if not organised["excludeByName"].get(name)]
    said = {
        override["matcher"]["options"]: {change["id"]: change["value"] for change in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["id"] == "byName"
    }
    titles = [organised["renameByName"][name] for name in shown]
    fixed = {title: said[title]["custom.width"] for title in titles if "custom.width" in said.get(title, {})}
    return fixed, {title: said.get(title, {}).get("custom.minWidth", LEAST) for title in titles if title not in fixed}


TABLES = [(board, panel) for board in BOARDS for panel in panels(board) if panel["type"] == "table"]


@pytest.mark.parametrize("window", [DOCKED, 1280, 1440, 1920])
@pytest.mark.parametrize(("board", "panel"), TABLES, ids=[panel["title"] for _, panel in TABLES])
def test_every_column_of_a_table_is_in_sight(board: str, panel: dict[str, Any], window: int) -> None:
    assert panel["fieldConfig"]["defaults"]["custom"]["minWidth"] == LEAST, "Grafana's own is wider"
    fixed, sharing = columns(panel)
    assert len(fixed | sharing) >= 4
    for title, width in (fixed | sharing).items():
        assert width_of(title) + CELL <= width, f"the head {title} is clipped"
    grid = (window - MARGIN - 23 * GAP) / 24
    across = panel["gridPos"]["w"]
    left = across * grid + (across - 1) * GAP - FRAME - sum(fixed.values())
    # Grafana gives them alike: one that needs more gets it, and the others' part is not made smaller.
    assert left / len(sharing) >= max(sharing.values())
