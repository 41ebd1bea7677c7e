"""The dashboards as files: in step with their source, by the rules of Grafana's dashboard-linter, of real metrics."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from grafana.source.__main__ import GRAFANA, generated
from grafana.source.promql import CHOSEN
from grafana.source.proofs import alerts, load
from tests.exposition import Family, families
from tests.queries import OF_PROMETHEUS, SPEEDS, family, metrics, parsed, uses

FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FILES}
# Units of Grafana's list (@grafana/data, valueFormats) that fit what is shown here.
UNITS = {"short", "none", "s", "mps", "ops", "cps", "Bps", "bytes", "percentunit"}
# A metric in neither a panel nor a rule is either dead weight in every scrape, or has a reason to be here.
UNUSED = {
    "messaging_background_failures": "0 but for a defect, whose trace is in the log",
    "process_virtual_memory_bytes": "address space that is reserved says nothing about memory that is used",
}


@dataclass(frozen=True)
class Target:
    """A query with where it stands."""

    board: str
    panel: dict[str, Any]
    expr: str
    legend: str

    def __str__(self) -> str:
        return f"{self.board} / {self.panel['title']}: {self.expr}"


def panels(board: str) -> list[dict[str, Any]]:
    """Those that show something; rows are headings."""
    return [panel for panel in BOARDS[board]["panels"] if panel["type"] != "row"]


def targets() -> Iterator[Target]:
    for board in BOARDS:
        for panel in panels(board):
            for target in panel["targets"]:
                yield Target(board, panel, target["expr"], target.get("legendFormat", ""))


ALL = list(targets())
each_board = pytest.mark.parametrize("board", BOARDS)
each_target = pytest.mark.parametrize("target", ALL, ids=[f"{t.panel['title']}-{n}" for n, t in enumerate(ALL)])


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    return asyncio.run(families(tmp_path_factory.mktemp("exposition")))


# --- in step ------------------------------------------------------------------------------------------------


def test_the_committed_files_are_what_their_source_makes() -> None:
    made = dict(generated())
    stale = [str(path.relative_to(GRAFANA)) for path, text in made.items() if path.read_text() != text]
    assert not stale, f"run python -m grafana.source: {stale}"
    folders = ("dashboards", "rules/tests")
    found = {path for folder in folders for path in (GRAFANA / folder).iterdir()}
    assert found == set(made)


def test_there_are_the_four_dashboards_that_were_asked_for() -> None:
    assert {board["title"] for board in BOARDS.values()} == {
        "Messaging overview",
        "Messaging connections & delivery",
        "Messaging database & activity",
        "Messaging cluster & exporter health",
    }


# --- the dashboard as a whole -------------------------------------------------------------------------------


@each_board
def test_a_dashboard_has_a_stable_identity_and_cannot_be_edited_in_place(board: str) -> None:
    data = BOARDS[board]
    assert data["uid"] == board
    assert data["editable"] is False
    assert data["tags"] == ["messaging-exporter"]
    assert data["description"]
    assert "id" not in data, "an id belongs to one Grafana"
    assert "__inputs" not in data
    assert "${DS_" not in json.dumps(data)


@each_board
def test_its_variables_are_data_source_job_and_instance(board: str) -> None:
    source, job, instance = BOARDS[board]["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    for variable, name in ((job, "job"), (instance, "instance")):
        assert variable["name"] == name
        assert variable["label"] == name.capitalize()
        assert variable["type"] == "query"
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["multi"] is True
        assert variable["includeAll"] is True
        assert variable["allValue"] == ".+"
        assert variable["refresh"] == 2, "on time range change"
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked is not None
        assert asked[2] == name
        parsed(asked[1])
    assert 'job=~"$job"' in instance["query"]["query"]


@each_board
def test_restarts_and_versions_are_marked(board: str) -> None:
    marks = BOARDS[board]["annotations"]["list"]
    assert [mark["name"] for mark in marks] == ["Restarts", "Versions"]
    for mark in marks:
        assert mark["enable"] is True
        assert mark["datasource"]["uid"] == "${datasource}"
        parsed(mark["expr"])


@each_board
def test_it_leads_to_the_others_with_time_and_variables_kept(board: str) -> None:
    (link,) = BOARDS[board]["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["messaging-exporter"])
    assert link["keepTime"] is True
    assert link["includeVars"] is True
    for panel in panels(board):
        for link in panel.get("links", []):
            to = re.fullmatch(r"/d/([a-z-]+)\?\$\{__url_time_range\}&\$\{__all_variables\}", link["url"])
            assert to is not None, link
            assert to[1] in BOARDS
            assert to[1] != board, "a link to itself"


@each_board
def test_panels_fill_the_grid_without_overlap(board: str) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in BOARDS[board]["panels"]]
    for (one, a), (other, b) in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one} lies on {other}"
    bottom = max(place["y"] + place["h"] for _, place in places)
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for _, place in places)
    assert sum(place["w"] * place["h"] for _, place in places) == 24 * bottom, "there are holes"


def test_the_overview_fits_on_one_screen() -> None:
    # A row of the grid is 38 pixels; 1080 pixels less the browser's and Grafana's own bars leave some 24 of them.
    assert max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in BOARDS["messaging-overview"]["panels"]) <= 24


@each_board
def test_ids_are_unique(board: str) -> None:
    ids = [panel["id"] for panel in BOARDS[board]["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    for panel in panels(board):
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)


@each_board
def test_every_panel_says_what_it_shows_and_what_to_do_when_it_looks_bad(board: str) -> None:
    known = set(alerts())
    for panel in panels(board):
        text = panel["description"]
        assert re.search(r"\b([Ii]f|[Ww]hen)\b", text), f"{panel['title']} does not say what to do: {text}"
        assert text.endswith("."), panel["title"]
        named = set(re.findall(r"\bMessaging[A-Z]\w+", text))
        assert named <= known, f"{panel['title']} names alerts that do not exist: {named - known}"


@each_board
def test_every_panel_has_a_unit_thresholds_a_source_and_queries(board: str) -> None:
    for panel in panels(board):
        title = panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, title
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None, title
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values), title
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        assert panel["targets"], title
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"]), title


def test_panels_that_show_rates_say_per_second_by_their_unit() -> None:
    for target in ALL:
        unit = target.panel["fieldConfig"]["defaults"]["unit"]
        outer = re.match(r"sum by \([\w, ]+\) \(rate\(", target.expr)
        if outer and " / " not in target.expr and target.panel["type"] != "heatmap":
            assert unit in ("mps", "ops", "cps", "Bps"), f"{target} is per second, but its unit is {unit}"
        if not outer and unit in ("mps", "ops", "cps", "Bps"):
            raise AssertionError(f"{target} is shown as {unit}, but it is no rate")


# --- the queries --------------------------------------------------------------------------------------------


@each_target
def test_a_query_is_typed_promql_on_the_chosen_job_and_instance(target: Target) -> None:
    for use in uses(target.expr):
        wanted = {'job=~".+"', 'instance=~".+"'}
        assert wanted <= use.matchers, f"{use.metric} in {target}"
    assert "$job" in target.expr


@each_target
def test_ranges_are_the_rate_interval_and_only_of_counters(target: Target, exposed: dict[str, Family]) -> None:
    assert set(re.findall(r"\[([^\]]*)\]", target.expr)) <= {"$__rate_interval"}
    for use in uses(target.expr):
        name = family(use.metric, set(exposed))
        counts = use.metric.endswith(("_total", "_bucket", "_count", "_sum")) and use.metric not in OF_PROMETHEUS
        assert use.ranged == counts, f"{use.metric} in {target}"
        if counts:
            assert use.functions[0] in SPEEDS, f"{use.metric} is aggregated before its rate: {target}"
            assert name is not None
            assert exposed[name].kind in ("counter", "histogram")


@each_target
def test_a_figure_is_aggregated_as_its_help_says(target: Target, exposed: dict[str, Family]) -> None:
    for use in uses(target.expr):
        name = family(use.metric, set(exposed))
        if name is None or not name.startswith("messaging_") or name == "messaging_build_info":
            continue
        told = exposed[name].aggregation
        assert told is not None, f"the HELP of {name} does not say how to aggregate it"
        if use.aggregation is None or (use.by >= {"instance"} and use.aggregation in ("sum", "max", "min")):
            continue  # node by node
        if use.metric.endswith("timestamp_seconds") and "time() -" in target.expr and use.aggregation == "max":
            continue  # the question whether a node is fresh
        if name == "messaging_connection_limit" and use.aggregation == "min":
            continue  # the lowest limit, drawn as a line above the nodes
        assert use.aggregation == told, f"{use.metric} in {target}"


@each_target
def test_cluster_and_database_figures_are_taken_from_fresh_nodes_only(
    target: Target, exposed: dict[str, Family]
) -> None:
    stamps = {
        "Scope: cluster": "messaging_cluster_snapshot_timestamp_seconds",
        "Scope: database": "messaging_database_last_success_timestamp_seconds",
    }
    for use in uses(target.expr):
        name = family(use.metric, set(exposed))
        for scope, stamp in stamps.items():
            if name is None or scope not in exposed[name].help or "instance" in use.by:
                continue
            matchers = re.escape("{" + CHOSEN)
            fresh = use.metric + matchers + rf"[^}}]*}} and on \(job, instance\) \(time\(\) - {stamp}"
            assert re.search(fresh, target.expr), f"{use.metric} also of nodes that have lost touch: {target}"


@each_target
def test_what_every_program_exports_is_shown_of_messaging_nodes_only(target: Target) -> None:
    names = metrics(target.expr)
    if any(name in OF_PROMETHEUS or name.startswith(("process_", "python_")) for name in names):
        assert "messaging_build_info" in names, target


@each_target
def test_a_legend_uses_labels_that_the_query_keeps(target: Target, exposed: dict[str, Family]) -> None:
    found = uses(target.expr)
    for label in re.findall(r"\{\{(\w+)\}\}", target.legend):
        keeps = any(
            label in use.by
            or (
                use.aggregation is None
                and label in (exposed[n].labels if (n := family(use.metric, set(exposed))) else ())
            )
            or (use.aggregation is None and label in ("job", "instance"))
            for use in found
        )
        assert keeps, f"{label} is not in the answer of {target}"


def test_every_metric_used_exists(exposed: dict[str, Family]) -> None:
    known = set(exposed)
    recorded = {rule["record"] for group in load(GRAFANA / "rules" / "recording.yml") for rule in group["rules"]}
    used = {metric for target in ALL for metric in metrics(target.expr)}
    for board in BOARDS.values():
        for mark in board["annotations"]["list"]:
            used |= metrics(mark["expr"])
    unknown = {m for m in used if family(m, known) is None and m not in OF_PROMETHEUS | recorded}
    assert not unknown


def test_every_metric_exposed_is_used_in_a_panel_or_has_a_reason_not_to_be(exposed: dict[str, Family]) -> None:
    used = {family(metric, set(exposed)) for target in ALL for metric in metrics(target.expr)}
    missing = set(exposed) - used - set(UNUSED)
    assert not missing, "nobody looks at these"
    needless = set(UNUSED) & used
    assert not needless, "these are used, their excuse can go"


def test_every_label_a_query_asks_for_exists(exposed: dict[str, Family]) -> None:
    for target in ALL:
        for use in uses(target.expr):
            name = family(use.metric, set(exposed))
            if name is None:
                continue
            asked = {re.split(r"[=!]", matcher)[0] for matcher in use.matchers} - {"job", "instance", "le"}
            assert asked <= exposed[name].labels, f"{use.metric} in {target}"


# --- Grafana's own types ------------------------------------------------------------------------------------

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


def test_each_panel_kind_is_one_that_grafana_has_built_in() -> None:
    kinds = Counter(panel["type"] for board in BOARDS for panel in panels(board))
    assert set(kinds) <= {"stat", "timeseries", "heatmap", "state-timeline", "bargauge", "table"}


def test_the_picture_in_the_readme_has_every_panel_of_the_overview_and_says_what_it_is() -> None:
    picture = ElementTree.parse(GRAFANA.parent / "docs" / "images" / "dashboard.svg").getroot()  # noqa: S314 - our own
    words = {"".join(node.itertext()) for node in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {panel["title"] for panel in panels("messaging-overview")} <= words
    assert any("not a screenshot of Grafana" in word for word in words)
