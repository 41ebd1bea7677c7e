"""The same dashboards in Grafana's second schema: rows that are there only where they mean something.

Made from the first schema's panels, so both show the same, and passed through the SDK's models of v2beta1, which
Grafana serves from 12.2 on. What differs is the layout: rows with a grid each, and a condition on a variable where the
first schema has a row that is closed until somebody opens it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboardv2beta1 import Dashboard

from grafana.source.boards import Board, assembled

Json = dict[str, Any]
SOURCE: Final = {"name": "${datasource}"}
# The Prometheus data source's own part of an annotation.
OF_ANNOTATIONS: Final = ("expr", "step", "titleFormat", "textFormat", "useValueForTime")
REFRESHES: Final = ("5s", "10s", "30s", "1m", "5m", "15m", "30m", "1h", "2h", "1d")


class _Encoder(JSONEncoder):
    """As the SDK's, which reads the group and version of a visualisation into sets of one."""

    def default(self, obj: Any) -> Any:
        if isinstance(obj, set):
            (only,) = obj
            return only
        return super().default(obj)


def _query(spec: Json) -> Json:
    return {"kind": "DataQuery", "group": "prometheus", "version": "v0", "datasource": SOURCE, "spec": spec}


def _panel(panel: Json) -> Json:
    def asked(target: Json) -> Json:
        spec = {key: value for key, value in target.items() if key not in ("datasource", "refId")}
        return {"kind": "PanelQuery", "spec": {"refId": target["refId"], "hidden": False, "query": _query(spec)}}

    transformations = [{"kind": t["id"], "spec": t} for t in panel.get("transformations", [])]
    return {
        "kind": "Panel",
        "spec": {
            "id": panel["id"],
            "title": panel["title"],
            "description": panel["description"],
            "links": [{"title": link["title"], "url": link["url"]} for link in panel.get("links", [])],
            "data": {
                "kind": "QueryGroup",
                "spec": {
                    "queries": [asked(target) for target in panel["targets"]],
                    "transformations": transformations,
                    "queryOptions": {},
                },
            },
            "vizConfig": {
                "kind": "VizConfig",
                "group": panel["type"],
                "version": "",
                "spec": {"options": panel.get("options", {}), "fieldConfig": panel["fieldConfig"]},
            },
        },
    }


def _rows(board: Board, panels: list[Json]) -> Iterator[Json]:
    """The board's rows, each with its panels' places from its own top."""
    rest = iter(panels)
    for number, row in enumerate(board.rows):
        found = [next(rest) for _ in row.panels]
        top = min(panel["gridPos"]["y"] for panel in found)
        spec: Json = {
            "title": row.title,
            "collapse": row.collapsed and not row.only_if,
            "hideHeader": not row.title,
            "layout": {
                "kind": "GridLayout",
                "spec": {"items": [_item(panel, top) for panel in found]},
            },
        }
        if row.only_if:
            there = {"variable": _condition(number), "operator": "notEquals", "value": ""}
            spec["conditionalRendering"] = {
                "kind": "ConditionalRenderingGroup",
                "spec": {
                    "visibility": "show",
                    "condition": "and",
                    "items": [{"kind": "ConditionalRenderingVariable", "spec": there}],
                },
            }
        yield {"kind": "RowsLayoutRow", "spec": spec}


def _item(panel: Json, top: int) -> Json:
    place = panel["gridPos"]
    return {
        "kind": "GridLayoutItem",
        "spec": {
            "x": place["x"],
            "y": place["y"] - top,
            "width": place["w"],
            "height": place["h"],
            "element": {"kind": "ElementReference", "name": f"panel-{panel['id']}"},
        },
    }


def _condition(row: int) -> str:
    return f"row{row}"


def _variable(variable: Json) -> Json:
    common = {"name": variable["name"], "label": variable["label"], "hide": "dontHide", "skipUrlSync": False}
    if variable["type"] == "datasource":
        current = {"text": "", "value": ""}
        spec = {**common, "pluginId": "prometheus", "refresh": "onDashboardLoad", "regex": "", "current": current}
        return {"kind": "DatasourceVariable", "spec": {**spec, "options": [], "multi": False, "includeAll": False}}
    if variable["type"] == "adhoc":
        lists: Json = {"baseFilters": [], "filters": [], "defaultKeys": []}
        return {"kind": "AdhocVariable", "group": "prometheus", "datasource": SOURCE, "spec": {**common, **lists}}
    current = {"text": variable["current"]["text"], "value": variable["current"]["value"]}
    more = {"multi": True, "includeAll": True, "allValue": variable["allValue"], "sort": "alphabeticalAsc"}
    return _asked({**common, **more, "current": current}, variable["query"]["query"])


def _asked(spec: Json, query: str) -> Json:
    """A variable that is asked for; ``__legacyStringValue`` is where Grafana keeps a query that is a text."""
    more = {"refresh": "onTimeRangeChanged", "regex": "", "options": []}
    return {"kind": "QueryVariable", "spec": {**more, **spec, "query": _query({"__legacyStringValue": query})}}


def _conditions(board: Board) -> Iterator[Json]:
    """A variable that nobody sees for each row that depends on an answer: empty without one."""
    for number, row in enumerate(board.rows):
        if row.only_if:
            name = _condition(number)
            spec = {"name": name, "label": name, "hide": "hideVariable", "skipUrlSync": True, "sort": "disabled"}
            spec |= {"multi": False, "includeAll": False, "current": {"text": "", "value": ""}}
            yield _asked(spec, f"query_result({row.only_if})")


def _annotation(mark: Json) -> Json:
    shown = {key: mark[key] for key in ("name", "enable", "iconColor")}
    own: Json = {key: mark[key] for key in OF_ANNOTATIONS if key in mark}
    return {"kind": "AnnotationQuery", "spec": {**shown, "hide": False, "query": _query(own)}}


def assembled_v2(board: Board) -> Json:
    """The dashboard as a resource of ``dashboard.grafana.app/v2beta1``."""
    first = assembled(board)
    panels = [
        found for panel in first["panels"] for found in (panel, *panel.get("panels", [])) if found["type"] != "row"
    ]
    spec = {
        **{key: first[key] for key in ("title", "description", "tags", "editable", "links")},
        "cursorSync": "Crosshair",
        "preload": False,
        "annotations": [_annotation(mark) for mark in first["annotations"]["list"]],
        "elements": {f"panel-{panel['id']}": _panel(panel) for panel in panels},
        "layout": {"kind": "RowsLayout", "spec": {"rows": list(_rows(board, panels))}},
        "timeSettings": {
            "timezone": "browser",
            "from": board.since,
            "to": "now",
            "autoRefresh": first["refresh"],
            "autoRefreshIntervals": list(REFRESHES),
            "hideTimepicker": False,
            "fiscalYearStartMonth": 0,
        },
        "variables": [
            *(_variable(variable) for variable in first["templating"]["list"]),
            *_conditions(board),
        ],
    }
    modelled = json.loads(json.dumps(Dashboard.from_json(spec), cls=_Encoder))
    return {
        "apiVersion": "dashboard.grafana.app/v2beta1",
        "kind": "Dashboard",
        "metadata": {"name": board.uid},
        "spec": modelled,
    }
