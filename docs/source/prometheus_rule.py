"""``deploy/kubernetes/prometheusrule.yaml``: the alerts and recording rules as the Prometheus operator takes them."""

from __future__ import annotations

import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "grafana" / "rules" / "recording.yml", ROOT / "grafana" / "rules" / "alerts.yml")
HEADER = """\
# Made by "make docs" out of grafana/rules/. For the Prometheus operator.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: messaging-exporter
  labels:
    app.kubernetes.io/name: messaging-exporter
spec:
  groups:
"""


def text() -> str:
    """The manifest. The rules stand in it as they are written, so that the reasons beside them come along."""
    groups = [path.read_text(encoding="utf-8").partition("\ngroups:\n")[2] for path in RULES]
    return HEADER + "\n".join(textwrap.indent(group, "  ") for group in groups)
