"""``docs/metrics.md``: every family that a server exposes, read from a scrape of one, and what uses it."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from docs.source.text import wrapped
from exporter.core.source_records import SourceTotals, SourceView
from exporter.metrics.source_families import source_families
from exporter.settings.model import Address, Settings

GRAFANA = Path(__file__).parents[2] / "grafana"
HEAD = """\
# Metrics

This page is made from a scrape of a running server, by `make docs`. Every name, label and text is as `/metrics` has it.

* **Scopes are never mixed.** A figure belongs to this node, to the cluster or to the database, and its text says which.
  Add up what belongs to nodes; take the `max` of what belongs to the cluster or to the database.
* **What is not known is absent.** With the database down its figures are missing, and everything else is there.
* **Every label value that is known beforehand is there from the start**, at 0. No label names a user, a conversation,
  a connection or an address.
* **A gauge may fall, a counter never does.** Stored rows can be deleted, so `messaging_stored_messages` is a gauge.

`process_*` and `python_*` are the usual ones of every client library, and not listed.
"""
GROUPS = (
    ("Live", "who is here now", r"active_(connections|conversations)|connected_users|participants|typing_users"),
    ("Events", "what happened since the process started", r".*_total"),
    ("Durations and sizes", "histograms",
     r"(command|message|connection)_.*seconds|fanout.*|read_lag.*|event_loop_lag.*"),
    ("Pressure and proof", "how much room is left, and whether the gauges are true",
     r"send_buffer.*|slow_consumers|connection_limit|typing_oldest.*|live_drift"),
    ("Cluster", "distinct over all nodes, and the broker between them", r"cluster_.*|broker_.*"),
    ("Totals", "exact after every commit", r"stored_.*|registered_users|messages_today|active_users"),
    ("Database", "this node's view of it, and what the last verification found",
     r"database_.*|inaccurate_.*|missing_triggers|verified_.*"),
    ("The scrape", "how it was come by", r"scrape_.*|build.*"),
)  # fmt: skip


OBSERVED = """\
## Observe: another server's database

`messaging-exporter observe` has the totals above under the same names, with the scope *source*, and these. With several
sources each has the label `source`.

"""


def text() -> str:
    """The whole document."""
    families = sorted(asyncio.run(_scraped()), key=lambda family: _name(family))
    parts = [HEAD]
    left = list(families)
    for title, words, pattern in GROUPS:
        chosen = [family for family in left if re.fullmatch(f"messaging_({pattern})", _name(family))]
        left = [family for family in left if family not in chosen]
        parts.append(f"## {title}: {words}\n\n" + "\n".join(_entries(chosen)))
    names = {_name(family) for family in families}
    observed = [family for family in _observed() if _name(family) not in names]
    parts.append(OBSERVED + "\n".join(_entries(observed)))
    if left:
        raise ValueError(f"no group for {[_name(family) for family in left]}")
    return "\n".join(parts)


async def _scraped() -> list[Metric]:
    """Our families, of a server that has verified its totals once, so that nothing is absent."""
    from exporter import logs
    from exporter.store.verify import verify
    from exporter.web.server import Server

    logs.configure("error", "logfmt")
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(Settings(), listen=(Address("127.0.0.1", 0),), data_dir=Path(folder))
        server = Server(settings)
        await server.start()
        try:
            await verify(server.store)
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.urls[0].rpartition(":")[2]))
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            exposition = (await reader.read()).decode().partition("\r\n\r\n")[2]
            writer.close()
        finally:
            await server.close()
    return [family for family in text_string_to_metric_families(exposition) if family.name.startswith("messaging_")]


def _observed() -> list[Metric]:
    """The families of ``observe``, of a source of which everything is known."""
    windows: dict[int, int | None] = {1: 0, 7: 0, 30: 0}
    totals = SourceTotals(0, 0, 0, 0, windows, as_of=0.0, inaccurate_conversations=0)
    figures = ("stored_messages", "stored_conversations", "registered_users", "messages_today")
    view = SourceView(
        "main", "synapse", "94", True, totals, None, 0.0, 0.0, dict.fromkeys(figures, 0), 0, 1.0, 0.0, 3600.0
    )
    return sorted(source_families([view], labelled=False), key=_name)


def _name(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def _entries(families: Iterable[Metric]) -> Iterator[str]:
    alerts, panels = _alerts(), _panels()
    for family in families:
        name = _name(family)
        yield f"### `{name}`\n\n{family.type.capitalize()}. {_wrap(family)}\n"
        for label, values in _labels(family).items():
            shown = ", ".join(f"`{value}`" for value in values)
            yield wrapped(f"* `{label}` is {'one of ' if len(values) > 1 else ''}{shown}", "")
        used = sorted(alert for alert, expression in alerts.items() if _uses(expression, name))
        if used:
            yield wrapped("* Alerts: " + ", ".join(f"[{alert}](../grafana/runbooks/{alert}.md)" for alert in used))
        shown_in = sorted(title for title, expressions in panels.items() if _uses(expressions, name))
        if shown_in:
            yield wrapped("* Dashboards: " + ", ".join(shown_in))
        yield ""


def _wrap(family: Metric) -> str:
    return wrapped(f"{family.type.capitalize()}. {family.documentation}").partition(". ")[2]


def _labels(family: Metric) -> dict[str, list[str]]:
    """Label to its values in the order of the exposition; not the bounds of buckets, and no version that changes."""
    found: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label not in ("le", "version", "kind", "schema") and value not in found.setdefault(label, []):
                found[label].append(value)
    return found


def _uses(expression: str, name: str) -> bool:
    return re.search(rf"\b{name}(_bucket|_sum|_count)?\b", expression) is not None


def _alerts() -> dict[str, str]:
    """Alert to its expression, with the recording rules that it uses written out."""
    rules = [
        rule
        for file in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((GRAFANA / "rules" / file).read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]
    recorded = {rule["record"]: rule["expr"] for rule in rules if "record" in rule}

    def whole(expression: str, depth: int = 0) -> str:
        names = [name for name in recorded if name in expression] if depth < 5 else []
        return " ".join([expression, *(whole(recorded[name], depth + 1) for name in names)])

    return {rule["alert"]: whole(rule["expr"]) for rule in rules if "alert" in rule}


def _panels() -> dict[str, str]:
    """Dashboard to all its expressions."""
    found = {}
    for path in (GRAFANA / "dashboards").glob("*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        found[document["title"]] = path.read_text(encoding="utf-8")
    return found
