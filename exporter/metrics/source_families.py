"""The families of ``observe``: the product's own names for the totals, and how they were come by. Knows records.

Tested in ``tests/metrics/test_source_families.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from exporter.core.records import WINDOWS
from exporter.core.source_records import SourceTotals, SourceView
from exporter.metrics.families import TOTALS, build_family

_SOURCE: Final = (
    "Scope: source, another server's database, as of messaging_source_as_of_timestamp_seconds; "
    "absent when not known; aggregate with max."
)
_VIEW: Final = "Scope: this process's view of the source; aggregate with min."
_WORST: Final = "Scope: this process's view of the source; aggregate with max."


def source_families(views: Sequence[SourceView], *, labelled: bool) -> Iterator[Metric]:
    """All families; ``labelled``: with the label ``source``, for several. What is not known is absent."""
    return (family for family in _families(views, labelled=labelled) if family.samples)


def every_source_family() -> Iterator[Metric]:
    """What ``source_families`` may ever have of one source; without values, and without what others have, too."""
    return (family for family in _families([], labelled=False) if family.name != "messaging_build")


def _families(views: Sequence[SourceView], *, labelled: bool) -> Iterator[Metric]:
    labels = ["source"] if labelled else []

    def own(view: SourceView) -> list[str]:
        return [view.name] if labelled else []

    def gauge(name: str, help: str, value: Callable[[SourceView], float | None]) -> Metric:
        family = GaugeMetricFamily(name, help, labels=labels)
        for view in views:
            number = value(view)
            if number is not None:
                family.add_metric(own(view), number)
        return family

    def total(name: str, help: str, value: Callable[[SourceTotals], float | None]) -> Metric:
        return gauge(name, f"{help} {_SOURCE}", lambda view: None if view.totals is None else value(view.totals))

    for figure, help in TOTALS.items():
        yield total(f"messaging_{figure}", help, attrgetter(figure))
    active = GaugeMetricFamily(
        "messaging_active_users",
        f"Registered users who wrote on one of the last 1, 7 or 30 UTC days, today included. {_SOURCE}",
        labels=[*labels, "window"],
    )
    for view in views:
        for window in WINDOWS:
            number = None if view.totals is None else view.totals.active_users.get(window)
            if number is not None:
                active.add_metric([*own(view), f"{window}d"], number)
    yield active
    yield total(
        "messaging_inaccurate_conversations",
        "Conversations whose denormalised counter the last recount found wrong; absent without one.",
        lambda t: t.inaccurate_conversations,
    )
    yield from _health(gauge)
    differences = GaugeMetricFamily(
        "messaging_source_recount_difference",
        "What the last full recount corrected: recount minus what had been published; absent before the second count. "
        + _WORST,
        labels=[*labels, "figure"],
    )
    rows = CounterMetricFamily(
        "messaging_source_rows_read",
        "Rows of the source's messages that were read. Scope: this process since it started; aggregate with sum of "
        "rates.",
        labels=labels,
    )
    info = InfoMetricFamily("messaging_source", f"What is observed, always 1. {_VIEW}", labels=labels)
    for view in views:
        for figure, number in view.differences.items():
            differences.add_metric([*own(view), figure], number)
        rows.add_metric(own(view), view.rows_read)
        info.add_metric(own(view), {"kind": view.kind, "schema": view.schema})
    yield differences
    yield rows
    yield info
    yield build_family()


def _health(gauge: Callable[[str, str, Callable[[SourceView], float | None]], Metric]) -> Iterator[Metric]:
    yield gauge(
        "messaging_source_up", f"1 when the source's database answered this scrape, else 0. {_VIEW}", lambda v: v.up
    )
    yield gauge(
        "messaging_source_as_of_timestamp_seconds",
        f"The moment of the figures, Unix time; of the last known ones while there are none. {_VIEW}",
        lambda view: view.last_success,
    )
    yield gauge(
        "messaging_source_recount_timestamp_seconds",
        f"When the last full count ended, Unix time; absent before the first. {_VIEW}",
        lambda view: view.recounted_at,
    )
    yield gauge(
        "messaging_source_recount_interval_seconds",
        f"How often everything is to be counted again. {_WORST}",
        lambda view: view.recount_interval,
    )
    yield gauge(
        "messaging_source_count_progress_ratio",
        f"How much of the full count under way is done, from 0 to 1; 1 when none is. {_VIEW}",
        lambda view: view.progress,
    )
    yield gauge(
        "messaging_source_collector_duration_seconds",
        f"How long this scrape's reading of the source took. {_WORST}",
        lambda view: view.duration,
    )
