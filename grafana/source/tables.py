"""Tables: a row per series, its labels and the answers of several queries as columns. Knows no metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from grafana_foundation_sdk.builders import common, prometheus, table
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import prometheus as p

from grafana.source.panels import GOOD, SOURCE, AnyPanel, Steps, Words, begun
from grafana.source.promql import nameless

LEAST: Final = 80
"""Pixels of a column that says nothing else: a label that tells installations apart. Grafana's own are 150."""
# What Prometheus' discoveries add to every target, and tells nobody anything here.
NOISE: Final = ("Time", "__name__", "alertstate", "container", "endpoint", "prometheus", "service")


@dataclass(frozen=True)
class Column:
    """One column: a label, or the answer of the query ``expr``; a label of that answer, which is hidden, with both."""

    title: str
    expr: str = ""
    label: str = ""
    unit: str = ""
    steps: Steps = ()
    words: Words = field(default_factory=dict)
    url: str = ""
    """Where a click leads; ``${__value.raw}`` is the cell, ``${__data.fields.X}`` another one of the row."""
    link: str = ""
    """What that link is called."""
    width: int = 0
    """In pixels; the columns without one share what is left alike, so there must be the highest ``least`` for each."""
    least: int = 0
    prefix: str = ""
    """What every cell begins with: it is not shown, and links have it all the same."""

    def properties(self) -> list[d.DynamicConfigValue]:
        """What makes its cells differ from the others."""
        found: list[tuple[str, Any]] = []
        if self.unit:
            found.append(("unit", self.unit))
        if self.steps:
            steps = [{"value": value, "color": color} for value, color in self.steps]
            found.append(("thresholds", {"mode": "absolute", "steps": steps}))
        if self.words:
            options = {
                value: {"text": text, "color": color, "index": index}
                for index, (value, (text, color)) in enumerate(self.words.items())
            }
            found.append(("mappings", [{"type": "value", "options": options}]))
        if self.prefix:
            rest = {"pattern": f"^{self.prefix}(.+)$", "result": {"text": "$1", "index": 0}}
            found.append(("mappings", [{"type": "regex", "options": rest}]))
        if self.steps or self.words:
            found.append(("custom.cellOptions", {"type": "color-text"}))
        if self.url:
            found.append(("links", [{"title": self.link, "url": self.url, "targetBlank": self.url.startswith("http")}]))
        if self.width:
            found.append(("custom.width", self.width))
        if self.least:
            found.append(("custom.minWidth", self.least))
        return [d.DynamicConfigValue(id_val=name, value=value) for name, value in found]


def rows_of(
    title: str,
    description: str,
    columns: Sequence[Column],
    *,
    none: str,
    hidden: Sequence[str] = (),
    sort: tuple[str, bool] | None = None,
) -> AnyPanel:
    """A table as things are now: rows that have the same labels are one.

    Labels without a column of their own follow behind, so that what tells two installations apart is seen, whatever it
    is called; ``hidden`` ones do not. ``sort`` is a column's title, and whether the highest comes first.
    """
    panel = begun(table.Panel(), title, "short", [], description, GOOD, instant=True).no_value(none).min_width(LEAST)
    asked = [column for column in columns if column.expr]
    for column in asked:
        expr = nameless(column.expr)
        target = prometheus.Dataquery().datasource(SOURCE).expr(expr).format(p.PromQueryFormat.TABLE)
        panel.with_target(target.instant())
    # Grafana calls the answer of query B "Value #B", and that of an only query "Value".
    answers = [f"Value #{chr(ord('A') + number)}" for number in range(len(asked))] if len(asked) > 1 else ["Value"]
    names = dict(zip((column.title for column in asked), answers, strict=True))
    answered = [names[column.title] for column in asked if column.label]
    source = {column.title: column.label or names[column.title] for column in columns}
    if len(asked) > 1:
        panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        d.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys((*NOISE, *hidden, *answered), True),
                "indexByName": {source[column.title]: number for number, column in enumerate(columns)},
                "renameByName": {source[column.title]: column.title for column in columns},
            },
        )
    )
    # A cell that has nothing; the panel's own word is for a table that has no rows.
    for kind in ("number", "string"):
        panel.override_by_field_type(kind, [d.DynamicConfigValue(id_val="noValue", value="–")])
    for column in columns:
        properties = column.properties()
        if properties:
            panel.override_by_name(column.title, properties)
    if sort is not None:
        panel.sort_by([common.TableSortByFieldState().display_name(sort[0]).desc(sort[1])])
    return panel
