"""Panels and dashboards, as the SDK builds them, with what it leaves out: ids, refIds, the grid. Knows no metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import prometheus as p
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

WIDTH = 24
SOURCE = c.DataSourceRef(type_val="prometheus", uid="${datasource}")
Steps: TypeAlias = Sequence[tuple[float | None, str]]
AnyPanel: TypeAlias = Any  # the SDK's panel builders share no base class with their common methods

# The SDK gives query variables the keys of interval variables and tables a footer, which Grafana's own types refuse;
# and it hides links and annotations in a menu by default.
REFUSED = frozenset({"auto", "auto_min", "auto_count", "footer", "placement"})

GOOD: Steps = ((None, "green"),)
PLAIN: Steps = ((None, "blue"),)


@dataclass(frozen=True)
class Query:
    """One query and how its series are called."""

    expr: str
    legend: str = "{{job}}"


@dataclass(frozen=True)
class Link:
    """From a panel to the dashboard that says more."""

    title: str
    uid: str


def above(*steps: tuple[float, str], base: str = "green") -> Steps:
    """Colours from a value upwards."""
    return ((None, base), *steps)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(d.ThresholdsMode.ABSOLUTE)
        .steps([d.Threshold(value=value, color=color) for value, color in steps])
    )


def _common(
    panel: AnyPanel, title: str, unit: str, queries: Sequence[Query], description: str, steps: Steps, link: Link | None
) -> AnyPanel:
    panel.title(title).description(description).datasource(SOURCE).unit(unit).thresholds(_thresholds(steps))
    if link is not None:
        panel.links(
            [
                dashboard.DashboardLink(link.title)
                .type(d.DashboardLinkType.LINK)
                .url(f"/d/{link.uid}?${{__url_time_range}}&${{__all_variables}}")
            ]
        )
    for query in queries:
        panel.with_target(
            prometheus.Dataquery().datasource(SOURCE).expr(query.expr).legend_format(query.legend).range()
        )
    return panel


def figure(
    title: str,
    unit: str,
    queries: Sequence[Query] | Query,
    description: str,
    *,
    steps: Steps = PLAIN,
    words: dict[str, tuple[str, str]] | None = None,
    none: str = "not known",
    link: Link | None = None,
    decimals: int | None = None,
) -> AnyPanel:
    """One big number, its course behind it; ``words`` replaces values by (word, colour)."""
    queries = [queries] if isinstance(queries, Query) else queries
    panel = _common(stat.Panel(), title, unit, queries, description, steps, link)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).no_value(none)
    panel.graph_mode(c.BigValueGraphMode.NONE if words else c.BigValueGraphMode.AREA)
    panel.color_mode(c.BigValueColorMode.BACKGROUND if words else c.BigValueColorMode.VALUE)
    panel.text_mode(c.BigValueTextMode.VALUE_AND_NAME if len(queries) > 1 else c.BigValueTextMode.AUTO)
    if decimals is not None:
        panel.decimals(decimals)
    if words:
        panel.mappings([_words(words)])
    return panel


def _words(words: dict[str, tuple[str, str]]) -> d.ValueMap:
    return d.ValueMap(
        options={
            value: d.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(words.items())
        }
    )


def lines(
    title: str,
    unit: str,
    queries: Sequence[Query] | Query,
    description: str,
    *,
    steps: Steps = GOOD,
    stacked: bool = False,
    minimum: float | None = 0,
    maximum: float | None = None,
    link: Link | None = None,
    dashed: Sequence[str] = (),
) -> AnyPanel:
    """A course over time. Thresholds are drawn when there are any; ``dashed`` are patterns of limits, drawn as such."""
    queries = [queries] if isinstance(queries, Query) else queries
    panel = _common(timeseries.Panel(), title, unit, queries, description, steps, link)
    panel.line_width(1).fill_opacity(60 if stacked else 10).show_points(c.VisibilityMode.NEVER)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(c.LegendDisplayMode.LIST)
        .placement(c.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel.tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    if stacked:
        panel.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A"))
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if len(steps) > 1:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED))
    for name in dashed:
        panel.override_by_regexp(
            name,
            [
                d.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]}),
                d.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
                d.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": "red"}),
            ],
        )
    return panel


def warmth(title: str, unit: str, query: Query, description: str, link: Link | None = None) -> AnyPanel:
    """A heat map of a histogram's buckets."""
    panel = _common(heatmap.Panel(), title, unit, [], description, GOOD, link)
    panel.with_target(
        prometheus.Dataquery()
        .datasource(SOURCE)
        .expr(query.expr)
        .legend_format("{{le}}")
        .format(p.PromQueryFormat.HEATMAP)
        .range()
    )
    axis = heatmap.YAxisConfig().unit(unit)
    return (
        panel.calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .y_axis(axis)
    )


def states(
    title: str,
    queries: Sequence[Query] | Query,
    description: str,
    words: dict[str, tuple[str, str]],
    link: Link | None = None,
) -> AnyPanel:
    """Good and bad times, a band per series."""
    queries = [queries] if isinstance(queries, Query) else queries
    panel = _common(statetimeline.Panel(), title, "short", queries, description, above((1, "green"), base="red"), link)
    return panel.mappings([_words(words)]).merge_values(True).show_value(c.VisibilityMode.NEVER).row_height(0.8)


def bars(
    title: str,
    unit: str,
    queries: Sequence[Query],
    description: str,
    steps: Steps,
    maximum: float,
    link: Link | None = None,
) -> AnyPanel:
    """How full something is."""
    panel = _common(bargauge.Panel(), title, unit, queries, description, steps, link)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).min(0).max(maximum)
    return panel.orientation(c.VizOrientation.HORIZONTAL).display_mode(c.BarGaugeDisplayMode.BASIC)


def rows_of(title: str, unit: str, query: Query, description: str, hide: Sequence[str]) -> AnyPanel:
    """A table: one row per series, its labels as columns."""
    panel = _common(table.Panel(), title, unit, [], description, GOOD, None)
    panel.with_target(
        prometheus.Dataquery().datasource(SOURCE).expr(query.expr).format(p.PromQueryFormat.TABLE).instant()
    )
    return panel.with_transformation(
        d.DataTransformerConfig(id_val="organize", options={"excludeByName": dict.fromkeys(hide, True)})
    )


# --- dashboards --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Lines of panels: (panel, width); the widths of a line make up 24. Without a title there is no heading."""

    title: str
    height: int
    panels: Sequence[tuple[AnyPanel, int]]


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
        query("job", "Job", "label_values(messaging_build_info, job)"),
        query("instance", "Instance", 'label_values(messaging_build_info{job=~"$job"}, instance)'),
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
            .text_format("{{instance}}")
            .use_value_for_time(at_value)
            .step("60s")
        )

    chosen = 'job=~"$job", instance=~"$instance"'
    return [
        marks(
            "Restarts",
            "red",
            f"1000 * process_start_time_seconds{{{chosen}}} and on (job, instance) messaging_build_info{{{chosen}}}",
            "Started",
            True,
        ),
        marks(
            "Versions",
            "blue",
            f"count by (job, version) (messaging_build_info{{{chosen}}})"
            f" unless count by (job, version) (messaging_build_info{{{chosen}}} offset 5m)",
            "Version {{version}}",
            False,
        ),
    ]


def _links() -> list[Any]:
    return [
        dashboard.DashboardLink("Messaging dashboards")
        .type(d.DashboardLinkType.DASHBOARDS)
        .tags(["messaging-exporter"])
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


def _letters(index: int) -> str:
    return chr(ord("A") + index)


def assemble(board: Board) -> str:
    """The dashboard as JSON text: panels get ids in reading order and places in the grid, queries get refIds."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["messaging-exporter"])
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
        if row.title:
            identity += 1
            builder.with_row(dashboard.Row(row.title).id(identity).grid_pos(d.GridPos(h=1, w=WIDTH, x=0, y=y)))
            y += 1
        x = 0
        for panel, width in row.panels:
            if x + width > WIDTH:
                x = 0
                y += row.height
            identity += 1
            builder.with_panel(panel.id(identity).grid_pos(d.GridPos(h=row.height, w=width, x=x, y=y)))
            x += width
        y += row.height
    data = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    for panel in data["panels"]:
        for index, target in enumerate(panel.get("targets", [])):
            target["refId"] = _letters(index)
    return json.dumps(_strip(data), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
