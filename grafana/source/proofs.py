"""The alerts' proofs: promtool's test files, made from the cases.

From each case a test file claims, to the minute: nothing before; pending; still pending one minute before ``for`` has
passed; firing when it has; exact labels and texts; gone afterwards. And once more with a second installation in the
same Prometheus, which has the same job and instances and another ``cluster``, and is well: it neither hides the fault
nor is told of it. One more file claims of each threshold that a little below it nothing is pending, and that a little
above it fires.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from grafana.source import cases_service, cases_source, cases_truth
from grafana.source.cases import Case
from grafana.source.cases_thresholds import THRESHOLDS, Threshold
from grafana.source.series import Series, evening, few, healthy, idle, observing, of_cluster, over

RULES = Path(__file__).parent.parent / "rules"
# Minutes at which nothing may fire on a healthy or an idle server: once the windows are full, and every so often.
SILENT = (5, 30, 60, 61, 63, 65, 70, 90, 119, 150, 180)
HEADER = (
    "# Made by python -m grafana.source from grafana/source/cases_*.py; promtool test rules grafana/rules/tests/*.yml\n"
)
CASES = (*cases_service.CASES, *cases_truth.CASES, *cases_source.CASES)
# Two installations with equal job and instances, told apart by a label that Prometheus adds to its targets.
FAULTY, WELL = {"cluster": "eu"}, {"cluster": "us"}


@cache
def load(path: Path) -> list[dict[str, Any]]:
    """The groups of one rule file."""
    groups: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return groups


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert by name, as it is in the file."""
    return {rule["alert"]: rule for group in load(RULES / "alerts.yml") for rule in group["rules"]}


def needed(alert: str) -> set[str]:
    """The metrics that an alert reads, through recording rules too: the others would only make its test file long."""
    recorded: dict[str, str] = {}
    for group in load(RULES / "recording.yml"):
        for rule in group["rules"]:
            recorded[rule["record"]] = recorded.get(rule["record"], "") + rule["expr"]
    found: set[str] = set()
    todo = [alerts()[alert]["expr"]]
    while todo:
        for word in set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", todo.pop())) - found:
            found.add(word)
            if word in recorded:
                todo.append(recorded[word])
    return found


def minutes(duration: str) -> int:
    """``for`` in minutes: the tests evaluate once a minute."""
    return int(duration[:-1]) * {"m": 1, "h": 60}[duration[-1]]


def _at(minute: int) -> str:
    return f"{minute}m"


def _file(tests: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rule_files": ["../recording.yml", "../alerts.yml"],
        "evaluation_interval": "1m",
        # Without it groups come in any order, and alerts see recorded values of this minute or of the last.
        "group_eval_order": [
            group["name"] for file in ("recording", "alerts") for group in load(RULES / f"{file}.yml")
        ],
        "tests": tests,
    }


def _series(series: Series) -> list[dict[str, str]]:
    return [{"series": key, "values": values} for key, values in series.items()]


def silence(what: str, series: Series) -> dict[str, Any]:
    """A file that shows that no alert at all fires on these series."""
    checks = [
        {"eval_time": _at(minute), "alertname": alert, "exp_alerts": []} for alert in alerts() for minute in SILENT
    ]
    # Not even pending: ALERTS has a series for either state.
    pending = [{"expr": "ALERTS", "eval_time": _at(minute), "exp_samples": []} for minute in SILENT]
    test = {
        "name": f"{what}: nothing fires, nothing is pending",
        "interval": "1m",
        "input_series": _series(series),
        "alert_rule_test": checks,
        "promql_expr_test": pending,
    }
    return _file([test])


def proof(case: Case, rule: dict[str, Any], *, beside_another: bool = False) -> dict[str, Any]:
    """One test: not before its time, at its time, with these texts, and gone afterwards."""
    metrics = needed(case.alert).union(*map(needed, case.silent))
    fires = case.pending + minutes(rule["for"])
    labels = {"severity": case.severity, **case.labels}
    beside = observing(minutes=case.length) if case.observing else {}
    series = over(healthy(case.length) | beside, case.fault)
    title = f"{case.alert}: {case.what}" if case.what else case.alert
    if beside_another:
        labels.update(FAULTY)
        series = {**of_cluster(series, **FAULTY), **of_cluster(healthy(case.length), **WELL)}
        title += ", beside an installation that is well"
    expected = {
        "exp_labels": labels,
        "exp_annotations": {
            "summary": rule["annotations"]["summary"],
            "description": case.description,
            "runbook_url": rule["annotations"]["runbook_url"],
        },
    }

    def state(minute: int, state: str | None) -> dict[str, Any]:
        pairs = {"alertname": case.alert, "alertstate": state or "", **labels}
        text = ", ".join(f'{key}="{value}"' for key, value in pairs.items())
        return {
            "expr": f'ALERTS{{alertname="{case.alert}"}}',
            "eval_time": _at(minute),
            "exp_samples": [{"labels": f"ALERTS{{{text}}}", "value": 1}] if state else [],
        }

    def alert(minute: int, *alerts: dict[str, Any], of: str = case.alert) -> dict[str, Any]:
        return {"eval_time": _at(minute), "alertname": of, "exp_alerts": list(alerts)}

    return {
        "name": title,
        "interval": "1m",
        "input_series": _series({key: values for key, values in series.items() if key.partition("{")[0] in metrics}),
        "alert_rule_test": [
            alert(fires - 1),
            alert(read := case.read or fires + 10, expected),
            alert(case.gone),
            *(alert(read, of=other) for other in case.silent),
        ],
        "promql_expr_test": [
            state(case.pending - 1, None),
            state(case.pending, "pending"),
            state(fires - 1, "pending"),
            state(fires, "firing"),
            state(case.gone, None),
        ],
    }


def sides(threshold: Threshold) -> Iterator[dict[str, Any]]:
    """Two tests: with a value just below a threshold, and with one just above it."""
    metrics = needed(threshold.alert)
    base = idle() if threshold.idle else healthy()
    for side, value, states in (("below", threshold.below, []), ("above", threshold.above, ["firing"])):
        series = over(base, threshold.fault(value))
        yield {
            "name": f"{threshold.alert}: {threshold.what}, just {side}",
            "interval": "1m",
            "input_series": _series({k: values for k, values in series.items() if k.partition("{")[0] in metrics}),
            "promql_expr_test": [
                {
                    "expr": f'group by (alertstate) (ALERTS{{alertname="{threshold.alert}"}})',
                    "eval_time": _at(threshold.at),
                    "exp_samples": [{"labels": f'{{alertstate="{state}"}}', "value": 1} for state in states],
                }
            ],
        }


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # ten times faster, when there
    """Without anchors, so that the files can be read and copied piece by piece."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> Iterator[tuple[str, str]]:
    """Name and text of every test file."""
    rules = alerts()
    tests: dict[str, dict[str, Any]] = {
        "evening": silence("people go home", evening()),
        "few": silence("a cluster of a few people whom everything fails", few()),
        "healthy": silence("a healthy cluster, and who observes under its job", healthy() | observing()),
        "idle": silence("an idle cluster", idle()),
    }
    for alert in rules:
        cases = [case for case in CASES if case.alert == alert]
        proofs = [proof(case, rules[alert]) for case in cases]
        proofs += [proof(case, rules[alert], beside_another=True) for case in cases if not case.alone]
        if proofs:
            tests[alert] = _file(proofs)
        if thresholds := [test for threshold in THRESHOLDS if threshold.alert == alert for test in sides(threshold)]:
            tests[f"{alert}-thresholds"] = _file(thresholds)
    for stem, content in tests.items():
        yield f"{stem}.yml", HEADER + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
