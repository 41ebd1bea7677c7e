"""Dashboards out of panels, with what the SDK leaves out: ids, refIds, the grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as d

from grafana.source import promql as q
from grafana.source.panels import NODE, SOURCE, AnyPanel

WIDTH: Final = 24
TAG: Final = "messaging-exporter"
NODES: Final = "messaging_build_info"  # the series that every target of every dashboard has
# The SDK gives query variables the keys of interval variables and tables a footer, which Grafana's own types refuse;
# and it hides links and annotations in a menu by default.
REFUSED: Final = frozenset({"auto", "auto_min", "auto_count", "footer", "placement"})
# A field's link has no more than these; the SDK takes a dashboard's link for it.
OF_DATA_LINKS: Final = frozenset({"title", "url", "targetBlank"})


@dataclass(frozen=True)
class Row:
    """Lines of panels: (panel, width); the widths of a line make up 24. Without a title there is no heading.

    A ``collapsed`` one is opened by a click. ``only_if`` is a query that has an answer where the row means something:
    Grafana's second schema shows the row then, and hides it otherwise.
    """

    title: str
    height: int
    panels: Sequence[tuple[AnyPanel, int]]
    collapsed: bool = False
    only_if: str = ""


@dataclass(frozen=True)
class Board:
    """A dashboard before its assembly."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    since: str = "now-1h"


# The SDK's lists are invariant in their builders' types, hence Any.
def _variables() -> list[Any]:
    def query(name: str, label: str, text: str) -> dashboard.QueryVariable:
        return (
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query({"query": text, "refId": name})
            .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(d.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".+")
            .current(d.VariableOption(selected=True, text=["All"], value=["$__all"]))
        )

    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        query("job", "Job", f"label_values({NODES}, job)"),
        query("instance", "Instance", f'label_values({NODES}{{job=~"$job"}}, instance)'),
        # Whatever else tells installations apart: cluster, namespace, environment… Grafana adds it to every query.
        dashboard.AdHocVariable("filters").label("Filters").datasource(SOURCE),
    ]


def _annotations() -> list[Any]:
    def marks(name: str, color: str, expr: str, title: str, at_value: bool) -> dashboard.AnnotationQuery:
        return (
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color(color)
            .expr(expr)
            .title_format(title)
            .text_format(NODE)
            .use_value_for_time(at_value)
            .step("60s")
        )

    nodes = q.of(NODES)
    ignoring = ", ".join(q.own(NODES))
    versions = f"count without ({q.without(NODES, 'version')})"
    return [
        marks(
            "Restarts",
            "red",
            f"1000 * process_start_time_seconds{{{q.CHOSEN}}} and ignoring ({ignoring}) {nodes}",
            "Started",
            True,
        ),
        marks(
            "Versions",
            "blue",
            f"{versions} ({nodes}) unless {versions} ({nodes} offset 5m)",
            "Version {{version}}",
            False,
        ),
    ]


def _links() -> list[Any]:
    return [
        dashboard.DashboardLink("Messaging dashboards")
        .type(d.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    ]


def _strip(node: Any) -> Any:
    """Without the keys that must not be there."""
    if isinstance(node, dict):
        return {
            key: _strip(value)
            for key, value in node.items()
            if key not in REFUSED or (key == "placement" and value != "inControlsMenu")
        }
    if isinstance(node, list):
        return [_strip(item) for item in node]
    return node


def _finished(panel: dict[str, Any]) -> None:
    """What the SDK leaves out of a panel."""
    for index, target in enumerate(panel.get("targets", [])):
        target["refId"] = chr(ord("A") + index)
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    if "links" in defaults:
        defaults["links"] = [
            {key: value for key, value in link.items() if key in OF_DATA_LINKS} for link in defaults["links"]
        ]
    for nested in panel.get("panels", []):
        _finished(nested)


def placed(row: Row, y: int) -> tuple[list[tuple[AnyPanel, d.GridPos]], int]:
    """The row's panels with their places from ``y`` on, and where it ends."""
    found = []
    x = 0
    for panel, width in row.panels:
        if x + width > WIDTH:
            x = 0
            y += row.height
        found.append((panel, d.GridPos(h=row.height, w=width, x=x, y=y)))
        x += width
    return found, y + row.height


def assembled(board: Board) -> dict[str, Any]:
    """In Grafana's first schema: panels get ids in reading order and places in the grid, queries get refIds."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .time(board.since, "now")
        .refresh("30s")
        .variables(_variables())
        .annotations(_annotations())
        .links(_links())
    )
    y = 0
    identity = 0
    for row in board.rows:
        heading = None
        if row.title:
            identity += 1
            heading = dashboard.Row(row.title).id(identity).grid_pos(d.GridPos(h=1, w=WIDTH, x=0, y=y))
            y += 1
        panels, below = placed(row, y)
        for panel, place in panels:
            identity += 1
            panel.id(identity).grid_pos(place)
            if heading is not None and row.collapsed:
                heading.with_panel(panel)
        if heading is not None:
            builder.with_row(heading.collapsed(row.collapsed))
        if not row.collapsed:
            for panel, _ in panels:
                builder.with_panel(panel)
            y = below
    data: dict[str, Any] = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    for panel in data["panels"]:
        _finished(panel)
    stripped: dict[str, Any] = _strip(data)
    return stripped


def text(data: dict[str, Any]) -> str:
    """As JSON text, the same each time."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
