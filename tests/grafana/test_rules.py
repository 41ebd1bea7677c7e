"""The rules as files: Prometheus' own checks, the usual conventions, every alert with its proof and its runbook."""

from __future__ import annotations

import asyncio
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.source.cases_thresholds import THRESHOLDS
from grafana.source.promql import NODE, own
from grafana.source.proofs import CASES, RULES, alerts, load, minutes
from tests.exposition import Family, families
from tests.queries import OF_PROMETHEUS, family, metrics, parsed, uses

RECORDING = RULES / "recording.yml"
ALERTS = RULES / "alerts.yml"
RUNBOOKS = RULES.parent / "runbooks"
TESTS = sorted((RULES / "tests").glob("*.yml"))
RECORDED = {rule["record"] for group in load(RECORDING) for rule in group["rules"]}
TEXTS = ("Meaning", "Impact", "Diagnosis", "Mitigation")

each_alert = pytest.mark.parametrize("name", alerts())


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    return asyncio.run(families(tmp_path_factory.mktemp("exposition")))


def promtool(*arguments: str | Path) -> None:
    """Run it; what it says is the failure."""
    done = subprocess.run(["promtool", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


# --- what Prometheus says ------------------------------------------------------------------------------------


@pytest.mark.needs("promtool")
def test_prometheus_accepts_the_rules_with_every_lint_fatal() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RECORDING, ALERTS)


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("path", TESTS, ids=[path.stem for path in TESTS])
def test_prometheus_finds_every_claim_of_the_proof_true(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.needs("promtool")
def test_the_example_configuration_is_valid_where_it_lies() -> None:
    promtool("check", "config", RULES.parent / "prometheus.yml")


@pytest.mark.needs("alertmanager")
def test_alertmanager_accepts_its_example() -> None:
    done = subprocess.run(
        ["amtool", "check-config", str(RULES.parent / "alertmanager.yml")],
        check=False, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_silences_of_the_example_name_alerts_that_exist() -> None:
    text = (RULES.parent / "alertmanager.yml").read_text()
    assert set(re.findall(r"Messaging\w+", text)) <= set(alerts())


def test_an_outage_of_one_installation_silences_nothing_of_another() -> None:
    config = yaml.safe_load((RULES.parent / "alertmanager.yml").read_text())
    apart = {"job", "cluster", "namespace"}
    assert apart <= set(config["route"]["group_by"])
    for rule in config["inhibit_rules"]:
        assert set(rule["equal"]) == apart, rule


# --- conventions ----------------------------------------------------------------------------------------------


@each_alert
def test_an_alert_has_a_name_a_severity_and_a_time(name: str) -> None:
    rule = alerts()[name]
    assert re.fullmatch(r"Messaging([A-Z][a-z]+)+", name)
    assert len(name) <= 40
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r"\d+[mh]", rule["for"]), "whole minutes: the proofs evaluate once a minute"
    assert minutes(rule["for"]) >= 1


@each_alert
def test_an_alert_s_texts_are_a_fixed_summary_a_templated_description_and_a_runbook(name: str) -> None:
    texts = alerts()[name]["annotations"]
    assert set(texts) == {"summary", "description", "runbook_url"}
    assert re.fullmatch(r"[A-Z][^{}]+\.", texts["summary"])
    assert "$labels." in texts["description"] or "{{ $value" in texts["description"]
    assert texts["description"].endswith(".")
    assert "\n" not in texts["description"]


def test_names_and_summaries_are_unique() -> None:
    rules = [rule for group in load(ALERTS) for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    summaries = [rule["annotations"]["summary"] for rule in rules]
    assert len(set(summaries)) == len(summaries)


def test_every_alert_has_the_reason_of_its_threshold_above_it() -> None:
    lines = ALERTS.read_text().splitlines()
    for number, line in enumerate(lines):
        if "- alert:" in line:
            assert lines[number - 1].lstrip().startswith("#"), line


@each_alert
def test_a_ratio_divides_sums_and_stands_on_a_floor_of_traffic(name: str) -> None:
    expr = alerts()[name]["expr"]
    if " / " not in re.sub(r"\s+", " ", expr):
        return
    for use in uses(expr):
        if use.ranged:
            assert use.aggregation == "sum", f"{use.metric} is divided before it is summed"
    if any(use.ranged for use in uses(expr)):
        floor = expr.rpartition("and ")[2]
        assert re.search(r"> [0-9.]+$", floor.strip()), "no floor"


@each_alert
def test_an_alert_of_a_quantile_stands_on_a_floor_too_unless_it_measures_itself(name: str) -> None:
    expr = alerts()[name]["expr"]
    if "histogram_quantile" in expr and name != "MessagingEventLoopLag":
        assert re.search(r"and sum without \([\w, ]+\) \(rate\(messaging_\w+_count\[5m\]\)\) > [0-9.]+", expr)


def test_down_and_absent_are_told_apart() -> None:
    assert alerts()["MessagingDown"]["expr"].startswith("up == 0")
    assert "or absent(" in alerts()["MessagingAbsent"]["expr"]


def test_quantiles_are_compared_with_bounds_of_their_buckets() -> None:
    from exporter.metrics.counters import Metrics

    bounds = {}
    for metric in Metrics().families():
        if metric.type == "histogram":
            bounds[metric.name] = {sample.labels["le"] for sample in metric.samples if "le" in sample.labels}
    compared = r"histogram_quantile\([^,]+, (?:sum without \([^)]*\) \()?rate\((\w+)_bucket\[\w+\]\)\)*? > ([0-9.]+)"
    texts = [rule["expr"] for rule in alerts().values()]
    assert len(re.findall(compared, " ".join(texts))) == 3
    for histogram, threshold in re.findall(compared, " ".join(texts)):
        assert threshold in bounds[histogram], f"{histogram} > {threshold} is a guess between two bounds"
    for histogram, le in re.findall(r'(\w+)_bucket\{le="([0-9.]+)"\}', RECORDING.read_text()):
        assert le in bounds[histogram]


@pytest.mark.parametrize("path", [RECORDING, ALERTS], ids=["recording", "alerts"])
def test_every_rule_is_typed_promql(path: Path) -> None:
    for group in load(path):
        for rule in group["rules"]:
            parsed(rule["expr"])


@pytest.mark.parametrize("path", [RECORDING, ALERTS], ids=["recording", "alerts"])
def test_no_rule_loses_what_tells_installations_apart(path: Path) -> None:
    for group in load(path):
        for rule in group["rules"]:
            expr = rule["expr"]
            assert not re.search(r"\b(by|on) \(", expr), expr
            for use in uses(expr):
                if use.aggregation is not None:
                    assert use.without <= {*NODE, *own(use.metric)}, f"{use.metric} loses more than its own: {expr}"
            for labels in re.findall(r"ignoring \(([^)]*)\)", expr):
                ours = {label for metric in metrics(expr) for label in own(metric)}
                assert set(labels.split(", ")) <= {*NODE, *ours}, expr


def test_recorded_names_say_level_metric_and_operation() -> None:
    assert all(re.fullmatch(r"(job|instance):messaging_[a-z_]+:[a-z_0-9]+", name) for name in RECORDED)


def test_every_recorded_series_is_used() -> None:
    used = {metric for rule in alerts().values() for metric in metrics(rule["expr"])}
    used |= {metric for group in load(RECORDING) for rule in group["rules"] for metric in metrics(rule["expr"])}
    shown = "".join(path.read_text() for path in (RULES.parent / "dashboards").glob("*.json"))
    assert {record for record in RECORDED - used if record not in shown} == set()


def test_every_metric_used_exists(exposed: dict[str, Family]) -> None:
    exprs = [rule["expr"] for path in (RECORDING, ALERTS) for group in load(path) for rule in group["rules"]]
    used = {metric for expr in exprs for metric in metrics(expr)}
    assert {m for m in used if family(m, set(exposed)) is None} <= RECORDED | OF_PROMETHEUS


def test_every_label_a_rule_asks_for_or_tells_exists(exposed: dict[str, Family]) -> None:
    for name, rule in alerts().items():
        told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"])) - {"job", "instance"}
        kept = {"MessagingInvariantBroken": {"invariant"}, "MessagingTotalsInaccurate": {"found"}}.get(name, set())
        for use in uses(rule["expr"]):
            metric = family(use.metric, set(exposed))
            if metric is None:
                continue
            asked = {re.split(r"[=!]", matcher)[0] for matcher in use.matchers} - {"le"}
            assert asked <= exposed[metric].labels, f"{use.metric} in {name}"
            kept = kept | (exposed[metric].labels - use.without)
        assert told <= kept, f"{name} tells labels that it does not have"


def test_label_values_a_rule_asks_for_exist(tmp_path: Path) -> None:
    from exporter.core.errors import ErrorCode
    from exporter.core.events import ClosedReason, RejectedReason

    known = {str(value) for kind in (ErrorCode, ClosedReason, RejectedReason) for value in kind}
    known |= {"send", "unknown", "in_use", "idle"}
    for name, rule in alerts().items():
        for _, values in re.findall(r'\b(reason|code|command|state)[=!]~?"([^"]+)"', rule["expr"]):
            assert set(values.split("|")) <= known, name


# --- proofs ---------------------------------------------------------------------------------------------------


@cache
def proof(stem: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where it is there
    data: dict[str, Any] = yaml.load((RULES / "tests" / f"{stem}.yml").read_text(), loader)  # noqa: S506 - it is safe
    return data


@each_alert
def test_an_alert_s_proof_shows_it_silent_pending_firing_and_gone(name: str) -> None:
    rule = alerts()[name]
    for stem in ("healthy", "idle", "evening", "few"):
        (silent,) = proof(stem)["tests"]
        checks = [check for check in silent["alert_rule_test"] if check["alertname"] == name]
        assert len(checks) >= 5
        assert all(check["exp_alerts"] == [] for check in checks)
    tests = proof(name)["tests"]
    assert tests
    assert any(test["name"].endswith("beside an installation that is well") for test in tests)
    for test in tests:
        steps = {minutes(step["eval_time"]): step["exp_samples"] for step in test["promql_expr_test"]}
        fires = min(minute for minute, found in steps.items() if found and "firing" in found[0]["labels"])
        pending = min(minute for minute, found in steps.items() if found)
        assert fires - pending == minutes(rule["for"])
        assert steps[pending - 1] == []
        assert "pending" in steps[fires - 1][0]["labels"]
        assert steps[max(steps)] == []
        before, at, after = [check for check in test["alert_rule_test"] if check["alertname"] == name]
        assert not any(check["exp_alerts"] for check in test["alert_rule_test"] if check["alertname"] != name)
        assert before["exp_alerts"] == after["exp_alerts"] == []
        (told,) = at["exp_alerts"]
        assert set(told["exp_annotations"]) == {"summary", "description", "runbook_url"}
        assert "{{" not in told["exp_annotations"]["description"]


@each_alert
def test_an_alert_s_thresholds_are_proved_from_both_sides(name: str) -> None:
    """One case at least for each number that something is compared with; 0 and 1 say that something is there at all."""
    numbers = set(re.findall(r"[<>]=? ([0-9.]+)", alerts()[name]["expr"])) - {"0", "1"}
    assert len([threshold for threshold in THRESHOLDS if threshold.alert == name]) >= len(numbers)


def test_every_invariant_has_a_proof_of_its_own() -> None:
    invariants = {
        rule["labels"]["invariant"]
        for group in load(RECORDING)
        for rule in group["rules"]
        if "invariant" in rule.get("labels", {})
    }
    assert {case.what for case in CASES if case.alert == "MessagingInvariantBroken"} == invariants


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    ("old", "new"),
    [("for: 1m", "for: 2m"), ("for: 1m", "for: 0m"), ("messaging_database_up == 0", "messaging_database_up == 1")],
    ids=["later", "earlier", "the wrong way round"],
)
def test_a_proof_notices_when_its_alert_is_changed(old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    name = "MessagingDatabaseDown"
    (tmp_path / "recording.yml").write_text(RECORDING.read_text())
    before, alert, after = ALERTS.read_text().partition(f"- alert: {name}")
    assert old in after
    (tmp_path / "alerts.yml").write_text(before + alert + after.replace(old, new, 1))
    target = tmp_path / "tests" / f"{name}.yml"
    target.write_text((RULES / "tests" / f"{name}.yml").read_text())
    done = subprocess.run(["promtool", "test", "rules", str(target)], check=False, capture_output=True, timeout=400)
    assert done.returncode == 1


@pytest.mark.needs("promtool")
def test_a_host_that_embeds_beside_a_cluster_contradicts_nothing(tmp_path: Path) -> None:
    node = {"active_connections": 10, "connected_users": 10, "broker_up": 1}
    seen = {"cluster_connections": 20, "cluster_users": 20, "cluster_nodes": 2, "cluster_snapshot_timestamp_seconds": 0}
    nodes = {"a": node | seen, "b": node | seen, "host": {"active_connections": 500, "connected_users": 500}}
    gap = "job:messaging_invariant_gap:abs"
    invariants = [
        case.what for case in CASES if case.alert == "MessagingInvariantBroken" and "instance" not in case.labels
    ]
    proof = {
        "rule_files": [str(RECORDING)],
        "tests": [
            {
                "input_series": [
                    {"series": f'messaging_{name}{{instance="{instance}", job="messaging"}}', "values": f"{value}x1"}
                    for instance, figures in nodes.items()
                    for name, value in figures.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": gap,
                        "eval_time": "1m",
                        "exp_samples": [
                            {"labels": f'{gap}{{job="messaging", invariant="{invariant}"}}', "value": 0}
                            for invariant in invariants
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "proof.yml").write_text(yaml.safe_dump(proof))
    promtool("test", "rules", tmp_path / "proof.yml")


# --- runbooks -------------------------------------------------------------------------------------------------


def test_there_is_one_runbook_per_alert_and_no_other() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(alerts())


def test_the_list_of_alerts_for_people_is_complete() -> None:
    listed = (RULES.parent / "README.md").read_text()
    assert set(re.findall(r"\bMessaging[A-Z]\w+", listed)) == set(alerts())


@each_alert
def test_a_runbook_is_where_its_alert_says_and_has_its_four_parts(name: str) -> None:
    url = alerts()[name]["annotations"]["runbook_url"]
    assert url.endswith(f"/grafana/runbooks/{name}.md")
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    parts = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)
    assert tuple(parts[1::2]) == TEXTS
    assert all(part.strip() for part in parts[2::2])


@each_alert
def test_a_runbook_s_queries_can_be_pasted(name: str, exposed: dict[str, Family]) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    queries = re.findall(r"```promql\n(.*?)```", text, flags=re.DOTALL)
    assert queries, "no query to paste"
    for query in queries:
        for metric in metrics(query):
            known = family(metric, set(exposed)) is not None or metric in RECORDED | OF_PROMETHEUS
            assert known or re.fullmatch(metric, "job:messaging_delivery_slow:ratio_rate5m"), metric
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (RUNBOOKS / link).is_file(), f"a dead link: {link}"


@each_alert
def test_a_runbook_s_words_are_those_of_the_server(name: str) -> None:
    from exporter.settings.options import OPTIONS

    text = (RUNBOOKS / f"{name}.md").read_text()
    flags = set(re.findall(r"`(--[a-z]+(?:[.-][a-z]+)+)", text))
    known = {f"--{option.name}" for option in OPTIONS} | {"--web.config.file"}
    assert flags <= known | {"--redis.url"}, flags - known
