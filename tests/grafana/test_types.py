"""Grafana's own TypeScript types accept the dashboards, where node is there to ask them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.boards import BOARDS, GRAFANA, panels

# A JSON file has strings where Grafana's types have enumerations of these strings.
LOOSE = """\
import type * as schema from "@grafana/schema";
type Loose<T> = T extends string ? `${T}` : T extends (infer U)[] ? Loose<U>[]
  : T extends object ? { [K in keyof T]: Loose<T[K]> } : T;
type Typed<O, F> = Omit<schema.Panel, "options" | "fieldConfig">
  & { options: Partial<O>; fieldConfig: Omit<schema.FieldConfigSource, "defaults">
  & { defaults: Omit<schema.FieldConfig, "custom"> & { custom?: Partial<F> } } };
"""
V2 = """\
import type { Spec } from "@grafana/schema/apis/dashboard.grafana.app/v2beta1";
type Loose<T> = T extends string ? `${T}` : T extends (infer U)[] ? Loose<U>[]
  : T extends object ? { [K in keyof T]: Loose<T[K]> } : T;
"""
MODULE = "@grafana/schema/dist/esm/raw/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen"
KINDS = {
    "bargauge": ("bargauge", "BarGauge", "Record<string, never>"),
    "heatmap": ("heatmap", "Heatmap", "heatmap.FieldConfig"),
    "stat": ("stat", "Stat", "Record<string, never>"),
    "state-timeline": ("statetimeline", "StateTimeline", "statetimeline.FieldConfig"),
    "table": ("table", "Table", "table.FieldConfig"),
    "timeseries": ("timeseries", "TimeSeries", "timeseries.FieldConfig"),
}


def typescript(board: dict[str, Any]) -> str:
    """The dashboard as TypeScript: each part is declared to be of Grafana's type for it."""
    lines = [LOOSE]
    for kind, name, _ in KINDS.values():
        lines.append(f'import type * as {kind} from "{MODULE.format(kind=kind, name=name)}";')
    number = 0

    def declare(type: str, value: object) -> None:
        nonlocal number
        number += 1
        lines.append(f"export const part{number}: Loose<{type}> = {json.dumps(value)};")

    head = {key: value for key, value in board.items() if key not in ("panels", "templating", "annotations")}
    declare('Partial<Omit<schema.Dashboard, "panels" | "templating" | "annotations">>', head)
    for variable in board["templating"]["list"]:
        declare("schema.VariableModel", variable)
    for mark in board["annotations"]["list"]:
        # expr and its companions are the Prometheus data source's own.
        own = ("expr", "step", "textFormat", "titleFormat", "useValueForTime")
        declare("schema.AnnotationQuery", {key: value for key, value in mark.items() if key not in own})
    for panel in board["panels"]:
        if panel["type"] == "row":
            declare("schema.RowPanel", panel)
        else:
            kind, _, field = KINDS[panel["type"]]
            declare(f"Typed<{kind}.Options, {field}>", panel)
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def grafana_types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Grafana's types and the TypeScript compiler."""
    folder = tmp_path_factory.mktemp("grafana-types")
    packages = ("@grafana/schema@13.2.3", "typescript@5")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *packages]
    subprocess.run(command, check=True, capture_output=True, timeout=400, cwd=folder)
    return folder


def compiled(folder: Path, sources: dict[str, str]) -> str:
    """The compiler's complaints."""
    for name, text in sources.items():
        (folder / f"{name}.ts").write_text(text)
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"]
    command = [str(folder / "node_modules" / ".bin" / "tsc"), *options, *(f"{name}.ts" for name in sources)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=400, cwd=folder)
    return done.stdout


@pytest.mark.needs("node")
def test_grafana_s_own_types_accept_the_dashboards(grafana_types: Path) -> None:
    assert compiled(grafana_types, {name: typescript(board) for name, board in BOARDS.items()}) == ""


@pytest.mark.needs("node")
def test_grafana_s_own_types_refuse_a_dashboard_with_a_mistake(grafana_types: Path) -> None:
    board = json.loads(json.dumps(BOARDS["messaging-overview"]))
    first = next(panel for panel in board["panels"] if panel["type"] == "stat")
    first["options"]["graphMode"] = "aera"
    board["templating"]["list"][1]["auto_min"] = "10s"
    complaints = compiled(grafana_types, {"wrong": typescript(board)})
    assert "'\"aera\"' is not assignable" in complaints
    assert "'\"auto_min\"' does not exist" in complaints


def test_the_second_schema_shows_the_same_panels_and_its_cluster_row_only_where_there_is_one() -> None:
    for name, board in BOARDS.items():
        second = json.loads((GRAFANA / "dashboards-v2" / f"{name}.json").read_text())
        assert (second["apiVersion"], second["kind"]) == ("dashboard.grafana.app/v2beta1", "Dashboard")
        assert second["metadata"]["name"] == board["uid"]
        elements = second["spec"]["elements"]
        rows = second["spec"]["layout"]["spec"]["rows"]
        placed = [item["spec"]["element"]["name"] for row in rows for item in row["spec"]["layout"]["spec"]["items"]]
        assert sorted(placed) == sorted(elements)
        for panel in panels(name):
            spec = elements[f"panel-{panel['id']}"]["spec"]
            queries = spec["data"]["spec"]["queries"]
            assert spec["title"] == panel["title"]
            assert spec["vizConfig"]["group"] == panel["type"]
            exprs = [query["spec"]["query"]["spec"]["expr"] for query in queries]
            assert exprs == [target["expr"] for target in panel["targets"]]
            visualisation = spec["vizConfig"]["spec"]
            fields = panel["fieldConfig"]
            same = {**fields, "defaults": {"custom": {}, **fields["defaults"]}}
            assert visualisation == {"options": panel.get("options", {}), "fieldConfig": same}
            told = [transformation["spec"] for transformation in spec["data"]["spec"]["transformations"]]
            assert told == panel.get("transformations", [])
        conditions = [row["spec"]["conditionalRendering"] for row in rows if "conditionalRendering" in row["spec"]]
        assert len(conditions) == (1 if name == "messaging-health" else 0)
        for condition in conditions:
            (there,) = condition["spec"]["items"]
            hidden = {v["spec"]["name"] for v in second["spec"]["variables"] if v["spec"]["hide"] == "hideVariable"}
            assert {there["spec"]["variable"]} == hidden


@pytest.mark.needs("node")
def test_grafana_s_own_types_accept_the_dashboards_of_the_second_schema(grafana_types: Path) -> None:
    sources = {}
    for path in sorted((GRAFANA / "dashboards-v2").glob("*.json")):
        spec = json.loads(path.read_text())["spec"]
        sources[f"{path.stem}-v2"] = V2 + f"export const spec: Loose<Spec> = {json.dumps(spec)};\n"
    assert compiled(grafana_types, sources) == ""
    wrong = next(iter(sources.values())).replace('"hideHeader"', '"hideHead"')
    assert "'\"hideHead\"' does not exist" in compiled(grafana_types, {"wrong-v2": wrong})
