"""Panels, as the SDK builds them, in the few forms that the dashboards have. Knows no metrics.

A number is an instant query: a range query reduced to its last value reaches back over the whole range, and shows what
was known an hour ago as if it were now. What is not known is told in a word and in no colour that means anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import prometheus as p
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

SOURCE: Final = c.DataSourceRef(type_val="prometheus", uid="${datasource}")
Steps: TypeAlias = Sequence[tuple[float | None, str]]
Words: TypeAlias = Mapping[str, tuple[str, str]]
AnyPanel: TypeAlias = Any  # the SDK's panel builders share no base class with their common methods

# What tells installations apart, in front of a legend. Labels that are not there leave nothing behind.
INSTALLATION: Final = "{{cluster}} {{namespace}} {{job}}"
NODE: Final = f"{INSTALLATION} {{{{instance}}}}"
NEUTRAL: Final = "#8e8e8e"
"""The colour of what is not known: grey, neither good nor bad. Grafana gives a tile without data its base step's."""
GOOD: Final[Steps] = ((None, "green"),)
PLAIN: Final[Steps] = ((None, NEUTRAL), (0, "blue"))
# How far an axis goes at least, by unit: all zero is a flat line at the bottom of a small scale, not of 0 to 100.
AT_LEAST: Final = {
    "short": 5, "locale": 5, "none": 5, "s": 0.01, "dthms": 60, "mps": 1, "ops": 1, "cps": 1, "opm": 1, "cpm": 1,
    "Bps": 1000, "bytes": 1048576, "percentunit": 0.1,
}  # fmt: skip


@dataclass(frozen=True)
class Query:
    """One query and how its series are called."""

    expr: str
    legend: str = INSTALLATION
    prefix: str = ""
    """In a tile: what stands before the number, in its size; a name is small, and not there for one series."""


@dataclass(frozen=True)
class Link:
    """To the dashboard that says more."""

    title: str
    uid: str

    @property
    def url(self) -> str:
        """With the time and the choices kept."""
        return f"/d/{self.uid}?${{__url_time_range}}&${{__all_variables}}"


DATABASE: Final = Link("Database & activity", "messaging-database")
DELIVERY: Final = Link("Connections & delivery", "messaging-delivery")
HEALTH: Final = Link("Cluster & exporter health", "messaging-health")

IDLE: Final[Words] = {"-1": ("idle", NEUTRAL)}
NOTHING: Final[Words] = {"-1": ("nothing", NEUTRAL)}
"""Words for a share of nothing, as ``promql.or_idle`` gives it: nobody asks for anything; nothing came of it."""


def named(text: str) -> str:
    """A legend: which installation, and what."""
    return f"{INSTALLATION}: {text}"


def above(*steps: tuple[float, str], base: str = "green") -> Steps:
    """Colours from a value upwards, of a line or a bar: there the base is the colour of good."""
    return ((None, base), *steps)


def judged(*steps: tuple[float, str], unknown: str = NEUTRAL) -> Steps:
    """Colours from a value upwards, of a tile: below the first is what is not known."""
    return ((None, unknown), *steps)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(d.ThresholdsMode.ABSOLUTE)
        .steps([d.Threshold(value=value, color=color) for value, color in steps])
    )


def link_to(link: Link) -> dashboard.DashboardLink:
    """As a panel's link, beside its title."""
    return dashboard.DashboardLink(link.title).type(d.DashboardLinkType.LINK).url(link.url)


def begun(
    panel: AnyPanel, title: str, unit: str, queries: Sequence[Query], description: str, steps: Steps, *, instant: bool
) -> AnyPanel:
    """What all panels have: title, description, source, unit, thresholds and queries."""
    panel.title(title).description(description).datasource(SOURCE).unit(unit).thresholds(_thresholds(steps))
    for query in queries:
        target = prometheus.Dataquery().datasource(SOURCE).expr(query.expr).legend_format(query.legend)
        panel.with_target(target.instant() if instant else target.range())
    return panel


def painted(panel: AnyPanel, name: str, color: str) -> None:
    """Series whose name matches get a colour by what they mean; otherwise the first series is green, whatever it is."""
    panel.override_by_regexp(name, [d.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})])


def _words(words: Words) -> d.ValueMap:
    return d.ValueMap(
        options={
            value: d.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(words.items())
        }
    )


def figure(
    title: str,
    unit: str,
    queries: Sequence[Query] | Query,
    description: str,
    *,
    steps: Steps = PLAIN,
    words: Words | None = None,
    none: str = "not known",
    link: Link | None = None,
    decimals: int | None = None,
    text: c.BigValueTextMode = c.BigValueTextMode.AUTO,
    stacked: bool = False,
) -> AnyPanel:
    """One big number, as it is now; ``words`` replaces values by (word, colour).

    The number itself is the link: an icon for it would take a quarter of a narrow tile's title. Several series are
    told with their names; ``stacked`` one below the other in a size that can be read, where the names are long.
    """
    queries = [queries] if isinstance(queries, Query) else queries
    panel = begun(stat.Panel(), title, unit, queries, description, steps, instant=True)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).no_value(none)
    panel.graph_mode(c.BigValueGraphMode.NONE)
    loud = words is not None and words not in (IDLE, NOTHING)
    panel.color_mode(c.BigValueColorMode.BACKGROUND if loud else c.BigValueColorMode.VALUE)
    panel.text_mode(text)
    for query in queries:
        if query.prefix:
            letter = chr(ord("A") + list(queries).index(query))
            panel.override_by_query(letter, [d.DynamicConfigValue(id_val="unit", value=f"prefix:{query.prefix} ")])
    if stacked:
        panel.orientation(c.VizOrientation.HORIZONTAL)
        # What Grafana chooses by itself leaves a name that is longer than its number some seven pixels.
        name, number = (16, 16) if text == c.BigValueTextMode.NAME else (14, 18)
        panel.text(common.VizTextDisplayOptions().title_size(name).value_size(number))
    if link is not None:
        panel.data_links([dashboard.DashboardLink(link.title).url(link.url)])
    if decimals is not None:
        panel.decimals(decimals)
    if words:
        panel.mappings([_words(words)])
    return panel


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
    colors: Mapping[str, str] | None = None,
    dashed: Sequence[str] = (),
    ranked: bool = False,
) -> AnyPanel:
    """A course over time. Thresholds are drawn when there are any.

    ``colors`` are patterns of series and what they mean; ``dashed`` patterns of series to compare with, drawn as such.
    ``ranked``: the legend is a table beside the course, the highest latest value first, for panels in which one of
    many series may be the culprit.
    """
    queries = [queries] if isinstance(queries, Query) else queries
    panel = begun(timeseries.Panel(), title, unit, queries, description, steps, instant=False)
    if link is not None:
        panel.links([link_to(link)])
    panel.line_width(1).fill_opacity(60 if stacked else 10).show_points(c.VisibilityMode.NEVER)
    panel.legend(_legend(ranked))
    panel.tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    if stacked:
        panel.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A"))
    if minimum is not None:
        panel.min(minimum)
        if maximum is None:
            panel.axis_soft_max(AT_LEAST[unit])
    if maximum is not None:
        panel.max(maximum)
    if len(steps) > 1:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED))
    for name, color in (colors or {}).items():
        painted(panel, name, color)
    for name in dashed:
        panel.override_by_regexp(
            name,
            [
                d.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]}),
                d.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
                d.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": NEUTRAL}),
            ],
        )
    return panel


def _legend(ranked: bool) -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True)
    if not ranked:
        return legend.placement(c.LegendPlacement.BOTTOM).display_mode(c.LegendDisplayMode.LIST)
    # Below a course there is room for two rows of many. "last" is empty where a course has ended; "lastNotNull" would
    # say an old figure as if it were now.
    legend.placement(c.LegendPlacement.RIGHT).display_mode(c.LegendDisplayMode.TABLE)
    return legend.calcs(["last"]).sort_by("Last").sort_desc(True)


def warmth(title: str, unit: str, query: Query, description: str) -> AnyPanel:
    """A heat map of a histogram's buckets."""
    panel = begun(heatmap.Panel(), title, unit, [], description, GOOD, instant=False)
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
    words: Words,
) -> AnyPanel:
    """Good and bad times, a band per series."""
    queries = [queries] if isinstance(queries, Query) else queries
    steps = above((1, "green"), base="red")
    panel = begun(statetimeline.Panel(), title, "short", queries, description, steps, instant=False)
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
    """How full something is, now."""
    panel = begun(bargauge.Panel(), title, unit, queries, description, steps, instant=True)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).min(0).max(maximum).no_value("not known")
    panel.decimals(1)
    if link is not None:
        panel.data_links([dashboard.DashboardLink(link.title).url(link.url)])
    panel.orientation(c.VizOrientation.HORIZONTAL).display_mode(c.BarGaugeDisplayMode.BASIC)
    # Above its bar a name has the whole width; left of it, some letters.
    panel.name_placement(c.BarGaugeNamePlacement.TOP)
    return panel.text(common.VizTextDisplayOptions().title_size(12).value_size(14))
