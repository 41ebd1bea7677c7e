"""``docs/alerts.md``: every alert, out of ``grafana/rules/alerts.yml``."""

from __future__ import annotations

import re

import yaml

from docs.source.prometheus_rule import ROOT
from docs.source.text import wrapped

HEAD = """\
# Alerts

This page is made from [grafana/rules/alerts.yml](../grafana/rules/alerts.yml), by `make docs`. The reason for each
threshold stands beside it there. Each alert has a runbook, and a proof that it fires, not too early, and resolves
(`promtool test rules grafana/rules/tests/*.yml`).

`critical` wakes somebody, `warning` waits for working hours, `info` is context for the other two.
"""


def text() -> str:
    """The whole document."""
    parts = [HEAD]
    document = yaml.safe_load((ROOT / "grafana" / "rules" / "alerts.yml").read_text(encoding="utf-8"))
    for group in document["groups"]:
        parts.append(f"## {group['name'].removeprefix('messaging-').replace('-', ' ').capitalize()}\n")
        for rule in group["rules"]:
            if "alert" not in rule:
                continue
            name = rule["alert"]
            lasts = f", after {rule['for']}" if "for" in rule else ""
            summary = re.sub(r"\s+", " ", rule["annotations"]["summary"]).strip()
            line = f"* [{name}](../grafana/runbooks/{name}.md), {rule['labels']['severity']}{lasts}: {summary}"
            parts.append(wrapped(line))
        parts.append("")
    return "\n".join(parts)
