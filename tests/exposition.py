"""What a real server exposes: families with their kind, help and labels, read from a scrape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from exporter.core.source_records import SourceTotals, SourceView
from exporter.metrics.source_families import source_families
from exporter.store.verify import verify
from tests.servers.exporter import in_process


@dataclass(frozen=True)
class Family:
    """A metric: its name as Prometheus stores it (a counter's with ``_total``), kind, help, label names."""

    name: str
    kind: str
    help: str
    labels: frozenset[str]

    @property
    def aggregation(self) -> str | None:
        """What its HELP says: "aggregate with sum"."""
        for word in ("sum of rates", "sum", "max", "min"):
            if f"aggregate with {word}" in self.help:
                return word.split()[0]
        return None


class _Sources:
    """A registry of what ``observe`` exposes of two sources, with everything that can be there."""

    def collect(self) -> list[Metric]:
        totals = SourceTotals(1, 1, 1, 1, {1: 1, 7: 1, 30: 1}, 1.0, inaccurate_conversations=1)
        views = [
            SourceView(
                name, "custom", "custom", True, totals, None, 1.0, 1.0, {"stored_messages": 0}, 1, 1.0, 0.1, 3600.0
            )
            for name in ("a", "b")
        ]
        return list(source_families(views, labelled=True))


async def families(folder: Path) -> dict[str, Family]:
    """Of a server that has verified its totals once, so that nothing is absent."""
    async with in_process(folder) as here:
        await verify(here.server.store)
        text = await here.exposition()
    text += generate_latest(_Sources()).decode()
    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name in found:  # also of the sources, which have the product's names for the totals
            continue
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        found[name] = Family(name, family.type, family.documentation, labels)
    return found
