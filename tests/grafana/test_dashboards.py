"""The dashboards as files: in step with their source, by the rules of Grafana's dashboard-linter, readable."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from exporter.assets import write
from exporter.core.errors import ErrorCode
from exporter.core.events import ClosedReason, RejectedReason, TypingStoppedReason
from exporter.metrics.counters import COMMAND_NAMES
from grafana.source import colors
from grafana.source.__main__ import GRAFANA, generated
from grafana.source.oncall import RUNBOOKS
from grafana.source.panels import AT_LEAST, NEUTRAL
from grafana.source.proofs import alerts
from tests.grafana.boards import BOARDS, laid_out, panels, targets
from tests.queries import parsed

# Units of Grafana's list (@grafana/data, valueFormats) that fit what is shown here.
UNITS = set(AT_LEAST)
each_board = pytest.mark.parametrize("board", BOARDS)
ALL = list(targets())


# --- in step ------------------------------------------------------------------------------------------------


def test_the_committed_files_are_what_their_source_makes() -> None:
    made = dict(generated())
    stale = [str(path.relative_to(GRAFANA)) for path, text in made.items() if path.read_text() != text]
    assert not stale, f"run python -m grafana.source: {stale}"
    folders = ("dashboards", "dashboards-v2", "rules/tests")
    found = {path for folder in folders for path in (GRAFANA / folder).iterdir()}
    assert found == set(made)


def test_there_are_the_dashboards_that_were_asked_for() -> None:
    assert {board["title"] for board in BOARDS.values()} == {
        "Messaging overview",
        "Messaging connections & delivery",
        "Messaging database & activity",
        "Messaging cluster & exporter health",
        "Messaging database (observed)",
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
def test_its_variables_are_data_source_job_instance_and_filters(board: str) -> None:
    source, job, instance, filters = BOARDS[board]["templating"]["list"]
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
    assert (filters["type"], filters["datasource"]["uid"]) == ("adhoc", "${datasource}"), "cluster, namespace, whatever"


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
        for link in panel.get("links", []) + panel["fieldConfig"]["defaults"].get("links", []):
            to = re.fullmatch(r"/d/([a-z-]+)\?\$\{__url_time_range\}&\$\{__all_variables\}", link["url"])
            assert to is not None, link
            assert to[1] in BOARDS
            assert to[1] != board, "a link to itself"


@each_board
def test_panels_fill_the_grid_without_overlap(board: str) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in BOARDS[board]["panels"]]
    for row in BOARDS[board]["panels"]:
        for nested in row.get("panels", []):
            assert row["collapsed"] is True
            assert nested["gridPos"]["y"] > row["gridPos"]["y"]
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
    ids = [panel["id"] for panel in laid_out(board)]
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


def test_panels_that_show_rates_say_per_second_or_per_minute_by_their_unit() -> None:
    per_second, per_minute = ("mps", "ops", "cps", "Bps"), ("opm", "cpm")
    for target in ALL:
        unit = target.panel["fieldConfig"]["defaults"]["unit"]
        outer = re.match(r"(60 \* )?(?:sum (?:without|by) \([\w, ]+\) \()?rate\(", target.expr)
        if outer and " / " not in target.expr and target.panel["type"] != "heatmap":
            wanted = per_minute if outer[1] else per_second
            assert unit in wanted or target.expr.startswith("rate(process_cpu"), (
                f"{target} is a speed, but its unit is {unit}"
            )
        if not outer and unit in per_second + per_minute and "gc_" not in target.expr:
            raise AssertionError(f"{target} is shown as {unit}, but it is no rate")


# --- numbers are of now, and colours mean something ------------------------------------------------------------


def numbers(board: str) -> list[dict[str, Any]]:
    return [panel for panel in panels(board) if panel["type"] in ("stat", "bargauge")]


@each_board
def test_a_number_is_asked_for_as_it_is_now(board: str) -> None:
    for panel in numbers(board):
        for target in panel["targets"]:
            assert (target.get("instant"), target.get("range", False)) == (True, False), panel["title"]
        assert panel["options"].get("graphMode", "none") == "none", "a course would need the range"


@each_board
def test_a_course_is_asked_for_over_its_range(board: str) -> None:
    for panel in panels(board):
        if panel["type"] in ("timeseries", "heatmap", "state-timeline"):
            assert all(target.get("range") and not target.get("instant") for target in panel["targets"])


@each_board
def test_what_is_not_known_is_told_in_a_word_and_never_in_green(board: str) -> None:
    # Grafana gives a tile without data the colour of its base step.
    for panel in numbers(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["noValue"], panel["title"]
        base = defaults["thresholds"]["steps"][0]["color"]
        wanted = {"no nodes": "red", "no rules": "orange"}.get(defaults["noValue"], NEUTRAL)
        assert base == wanted, panel["title"]


def test_failures_have_a_colour_by_what_they_are() -> None:
    fixed: dict[str, str] = {}
    for board in BOARDS:
        for panel in panels(board):
            for override in panel["fieldConfig"]["overrides"]:
                for change in override["properties"]:
                    if change["id"] == "color":
                        fixed[override["matcher"]["options"]] = change["value"]["fixedColor"]
    for failure in ("commands failed", "internal", "internal_error", "unavailable", "dropped"):
        assert "red" in fixed[f"/: {failure}$/"], failure
    for refused in ("commands refused", "connections refused", "connections cut off", "capacity", "slow_consumer"):
        assert "green" not in fixed[f"/: {refused}$/"], refused


def test_every_reason_code_and_command_has_a_colour_of_its_own() -> None:
    for legends, shown in (
        (colors.CLOSES, ClosedReason),
        (colors.REFUSALS, RejectedReason),
        (colors.CODES, ErrorCode),
        (colors.COMMANDS, (*COMMAND_NAMES, "unknown")),
        (colors.TYPING, ("started", *(f"stopped: {reason}" for reason in TypingStoppedReason))),
    ):
        assert set(legends) == {f"/: {value}$/" for value in shown}
        assert len(set(legends.values())) == len(legends)


@each_board
def test_where_one_of_many_may_be_the_culprit_the_legend_is_a_table_with_the_highest_first(board: str) -> None:
    for panel in panels(board):
        if panel["type"] != "timeseries":
            continue
        legend = panel["options"]["legend"]
        if any(re.search(r"\{\{(reason|code|command)\}\}$", t["legendFormat"]) for t in panel["targets"]):
            wide = len(panel["targets"]) == 1
            assert not wide or legend["displayMode"] == "table", panel["title"]
        if legend["displayMode"] == "table":
            assert (legend["sortBy"], legend["sortDesc"]) == ("Last", True)
            assert legend["calcs"][0] == "last", "of a course that has ended, the last figure is none, not an old one"


@each_board
def test_names_beside_numbers_are_large_enough_to_read(board: str) -> None:
    """Grafana gives a name that is longer than its number a few pixels, unless it is told how many."""
    for panel in numbers(board):
        if panel["options"].get("orientation") == "horizontal":
            assert panel["options"]["text"]["titleSize"] >= 12, panel["title"]


def test_a_legend_that_does_not_fit_is_a_table_with_the_highest_first() -> None:
    """So that the node or task that fails is not below the fold."""
    health = {panel["title"]: panel for panel in panels("messaging-health")}
    for title in ("Event loop lag", "Figures that contradict each other", "Failures"):
        assert health[title]["options"]["legend"]["displayMode"] == "table", title


@each_board
def test_an_axis_begins_at_zero_and_has_room_above_it(board: str) -> None:
    for panel in panels(board):
        if panel["type"] != "timeseries":
            continue
        defaults = panel["fieldConfig"]["defaults"]
        if panel["title"].startswith("Stored"):
            continue  # a growth that would be a flat line on top of millions
        assert defaults["min"] == 0, panel["title"]
        assert "max" in defaults or defaults["custom"]["axisSoftMax"] > 0, "all zero would draw 0 to 100"
        assert panel["gridPos"]["h"] >= 6, f"{panel['title']} has no room for ticks"


def test_nobody_s_limit_flattens_a_curve() -> None:
    for target in ALL:
        if target.panel["type"] == "timeseries":
            assert not re.match(r"\w+ without \([^)]*\) \(messaging_connection_limit", target.expr)
            assert not target.expr.startswith("process_max_fds")


def test_exact_totals_are_shown_exactly() -> None:
    exact = ("messaging_stored_", "messaging_registered", "messaging_messages_today", "messaging_active_users")
    for target in ALL:
        if target.panel["type"] == "stat" and any(name in target.expr for name in exact):
            assert target.panel["fieldConfig"]["defaults"]["unit"] == "locale", target


# --- on call ----------------------------------------------------------------------------------------------------


def overview(title: str, kind: str) -> dict[str, Any]:
    return next(p for p in panels("messaging-overview") if p["title"] == title and p["type"] == kind)


def link_of(panel: dict[str, Any], column: str) -> dict[str, Any]:
    override = next(o for o in panel["fieldConfig"]["overrides"] if o["matcher"]["options"] == column)
    (link,) = next(change["value"] for change in override["properties"] if change["id"] == "links")
    found: dict[str, Any] = link
    return found


def test_an_alert_in_the_table_leads_to_its_runbook_whose_place_the_assets_rewrite() -> None:
    link = link_of(overview("What fires", "table"), "Alert")
    assert link["url"] == RUNBOOKS + "/${__value.raw}.md"
    assert {rule["annotations"]["runbook_url"] for rule in alerts().values()} == {
        f"{RUNBOOKS}/{name}.md" for name in alerts()
    }


def test_a_click_on_a_node_chooses_it() -> None:
    link = link_of(overview("Nodes", "table"), "Instance")
    assert link["url"].startswith("/d/messaging-overview?")
    assert "var-instance=${__value.raw}" in link["url"]
    assert "var-job=${__data.fields.Job}" in link["url"]


def test_the_cluster_s_row_is_closed_until_somebody_has_a_cluster() -> None:
    (row,) = [p for p in BOARDS["messaging-health"]["panels"] if p["type"] == "row" and p["collapsed"]]
    assert row["title"].startswith("Cluster")
    assert len(row["panels"]) >= 6


def test_each_panel_kind_is_one_that_grafana_has_built_in() -> None:
    kinds = Counter(panel["type"] for board in BOARDS for panel in panels(board))
    assert set(kinds) <= {"stat", "timeseries", "heatmap", "state-timeline", "bargauge", "table"}


def test_the_user_s_own_runbooks_are_linked_from_the_dashboards_too(tmp_path: Path) -> None:
    write(tmp_path, "https://wiki.example/runbooks")
    for folder in ("dashboards", "dashboards-v2"):
        text = (tmp_path / folder / "messaging-overview.json").read_text()
        assert "https://wiki.example/runbooks/${__value.raw}.md" in text
        assert RUNBOOKS not in text


def test_that_nothing_is_delivered_is_not_called_idle() -> None:
    """Nobody may be sending, or every send may fail: the overview's share of failing sends tells which."""
    words = {
        panel["title"]: panel["fieldConfig"]["defaults"]["mappings"][0]["options"]["-1"]["text"]
        for board in BOARDS
        for panel in panels(board)
        if panel["title"] in ("Sends fail", "Within 250 ms")
    }
    assert words == {"Sends fail": "idle", "Within 250 ms": "nothing"}
