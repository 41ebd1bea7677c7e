"""Grafana's own TypeScript types accept the dashboards, where node is there to ask them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.boards import BOARDS

# A JSON file has strings where Grafana's types have enumerations of these strings.
LOOSE = """\
import type * as schema from "@grafana/schema";
type Loose<T> = T extends string ? `${T}` : T extends (infer U)[] ? Loose<U>[]
  : T extends object ? { [K in keyof T]: Loose<T[K]> } : T;
type Typed<O, F> = Omit<schema.Panel, "options" | "fieldConfig">
  & { options: Partial<O>; fieldConfig: Omit<schema.FieldConfigSource, "defaults">
  & { defaults: Omit<schema.FieldConfig, "custom"> & { custom?: Partial<F> } } };
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
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=folder)
    return folder


def compiled(folder: Path, sources: dict[str, str]) -> str:
    """The compiler's complaints."""
    for name, text in sources.items():
        (folder / f"{name}.ts").write_text(text)
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"]
    command = [str(folder / "node_modules" / ".bin" / "tsc"), *options, *(f"{name}.ts" for name in sources)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=folder)
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
