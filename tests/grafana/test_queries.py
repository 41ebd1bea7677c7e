"""The dashboards' queries: typed, of real metrics, aggregated as their scope asks, and never over two installations."""

from __future__ import annotations

import asyncio
import re

import pytest

from grafana.source import promql
from grafana.source.promql import CHOSEN, LABELS, NODE
from grafana.source.proofs import load
from tests.exposition import Family, families
from tests.grafana.boards import BOARDS, GRAFANA, Target, targets
from tests.queries import OF_PROMETHEUS, SPEEDS, Use, family, metrics, uses

# A metric in neither a panel nor a rule is either dead weight in every scrape, or has a reason to be here.
UNUSED = {
    "messaging_source_info": "kind and schema of a source, for one's own tables; the figures are named by their source",
    "process_virtual_memory_bytes": "address space that is reserved says nothing about memory that is used",
}
ALL = list(targets())
RECORDED = {rule["record"] for group in load(GRAFANA / "rules" / "recording.yml") for rule in group["rules"]}
each_target = pytest.mark.parametrize("target", ALL, ids=[f"{t.panel['title']}-{n}" for n, t in enumerate(ALL)])


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    return asyncio.run(families(tmp_path_factory.mktemp("exposition")))


def over_nodes(use: Use) -> bool:
    """Is it aggregated over nodes, or is it still there for each?"""
    return use.aggregation is not None and set(NODE) <= use.without


@each_target
def test_a_query_is_typed_promql_on_the_chosen_job_and_instance(target: Target) -> None:
    for use in uses(target.expr):
        wanted = {'job=~".+"', 'instance=~".+"'}
        # An installation's series have no instance, and an absence has no job.
        perhaps = {'job=~".+|"', 'instance=~".+|"'}
        installations = use.metric in ("ALERTS", "ALERTS_FOR_STATE") or use.metric.startswith("job:")
        assert (perhaps if installations else wanted) <= use.matchers, f"{use.metric} in {target}"
    assert "$job" in target.expr


@each_target
def test_ranges_are_the_rate_interval_and_only_of_counters(target: Target, exposed: dict[str, Family]) -> None:
    # A node that is down is known by having been there within a day, as MessagingDown knows it.
    text = re.sub(r"last_over_time\(messaging_build_info\{[^}]*\}\[1d\]\)", "", target.expr)
    assert set(re.findall(r"\[([^\]]*)\]", text)) <= {"$__rate_interval"}
    for use in uses(target.expr):
        name = family(use.metric, set(exposed))
        if use.functions[:1] == ("last_over_time",):
            continue
        counts = use.metric.endswith(("_total", "_bucket", "_count", "_sum")) and use.metric not in OF_PROMETHEUS
        if counts and "and" in target.expr and not use.ranged:
            continue  # which nodes answered the latest scrape
        assert use.ranged == (counts and name is not None), f"{use.metric} in {target}"
        if use.ranged:
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
        if not over_nodes(use) or use.aggregation in ("count", "group"):
            continue  # node by node; how many nodes have it, or whether one has
        if use.metric.endswith("timestamp_seconds") and "time() -" in target.expr and use.aggregation == "max":
            continue  # the question whether a node is fresh
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
            if name is None or scope not in exposed[name].help or not over_nodes(use):
                continue
            if name in ("messaging_cluster_nodes", stamp):
                continue
            matchers = re.escape("{" + CHOSEN)
            fresh = use.metric + matchers + rf"[^}}]*}} and (ignoring \(\w+\) )?\(time\(\) - {stamp}"
            assert re.search(fresh, target.expr), f"{use.metric} also of nodes that have lost touch: {target}"


@each_target
def test_what_every_program_exports_is_shown_of_messaging_nodes_only(target: Target) -> None:
    names = metrics(target.expr) - {"ALERTS", "ALERTS_FOR_STATE"}
    if any(name in OF_PROMETHEUS or name.startswith(("process_", "python_")) for name in names):
        assert "messaging_build_info" in names, target


@each_target
def test_nothing_is_added_up_over_installations(target: Target) -> None:
    if target.panel["title"] in ("Alerts", "Delivery time") and target.panel["type"] in ("stat", "heatmap"):
        assert "all chosen" in target.panel["description"], "then it says so"
        return
    theirs = {label for metric in metrics(target.expr) for label in promql.own(metric)}
    for use in uses(target.expr):
        assert not use.by, f"{use.metric} loses what tells installations apart: {target}"
        assert use.without <= {*NODE, *theirs}, target
    assert not re.search(r"\bon \(", target.expr), target


@each_target
def test_a_legend_tells_installations_apart(target: Target) -> None:
    legend, panel = target.legend, target.panel
    if panel["type"] in ("heatmap", "table") or panel["title"] == "Alerts":
        return  # together, and says so; has labels as columns
    if panel["title"] in ("Nodes up", "Down"):
        assert "{{job}}" in legend or "{{instance}}" in legend
        return
    assert legend.startswith("{{cluster}} {{namespace}} {{job}}"), legend
    for use in uses(target.expr):
        if use.aggregation is not None and not over_nodes(use):
            assert "{{instance}}" in legend, target


@each_target
def test_a_legend_uses_labels_that_the_query_keeps(target: Target) -> None:
    for label in set(re.findall(r"\{\{(\w+)\}\}", target.legend)) - {"cluster", "namespace", "job", "le", "nodes"}:
        found = [use for use in uses(target.expr) if use.functions[:1] != ("last_over_time",)]
        keeps = any(
            label not in use.without and (label in promql.own(use.metric) or label == "instance") for use in found
        )
        assert keeps, f"{label} is not in the answer of {target}"


def test_the_labels_of_a_metric_are_those_that_it_is_exposed_with(exposed: dict[str, Family]) -> None:
    found = {name: tuple(sorted(family.labels)) for name, family in exposed.items() if family.labels}
    told = {name: tuple(sorted(labels)) for name, labels in LABELS.items() if name in exposed}
    assert told == {name: labels for name, labels in found.items() if name in told}
    missing = {name for name in found if name not in LABELS and any(name in metrics(t.expr) for t in ALL)}
    assert not missing, "their own labels would be taken for labels of their targets"


def test_every_metric_used_exists(exposed: dict[str, Family]) -> None:
    known = set(exposed)
    used = {metric for target in ALL for metric in metrics(target.expr)}
    for board in BOARDS.values():
        for mark in board["annotations"]["list"]:
            used |= metrics(mark["expr"])
    unknown = {m for m in used if family(m, known) is None and m not in OF_PROMETHEUS | RECORDED}
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
