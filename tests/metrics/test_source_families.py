"""The families of other servers' databases: each figure under its name, of its source, and absent when not known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from exporter.core.source_records import SourceTotals, SourceView
from exporter.metrics.source_families import every_source_family, source_families

CHAT = SourceView(
    name="chat",
    kind="synapse",
    schema="92",
    up=True,
    totals=SourceTotals(11, 12, 13, 14, {1: 15, 7: 16, 30: 17}, 18.0, 19),
    last_success=21.5,
    recounted_at=22.5,
    differences={"stored_messages": -23},
    rows_read=24,
    progress=0.25,
    duration=0.26,
    recount_interval=27.0,
)
FIGURES = {
    "messaging_stored_messages": 11,
    "messaging_stored_conversations": 12,
    "messaging_registered_users": 13,
    "messaging_messages_today": 14,
    "messaging_active_users window=1d": 15,
    "messaging_active_users window=7d": 16,
    "messaging_active_users window=30d": 17,
    "messaging_inaccurate_conversations": 19,
    "messaging_source_up": 1,
    "messaging_source_as_of_timestamp_seconds": 21.5,
    "messaging_source_recount_timestamp_seconds": 22.5,
    "messaging_source_recount_interval_seconds": 27,
    "messaging_source_recount_difference figure=stored_messages": -23,
    "messaging_source_count_progress_ratio": 0.25,
    "messaging_source_collector_duration_seconds": 0.26,
    "messaging_source_rows_read_total": 24,
    "messaging_source_info kind=synapse schema=92": 1,
}


def figures(views: Sequence[SourceView], *, labelled: bool) -> dict[str, float]:
    """Each series, its labels in alphabetical order, to its value; without the version, which is the program's."""
    return {
        " ".join([sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))]): sample.value
        for family in source_families(views, labelled=labelled)
        for sample in family.samples
        if family.name != "messaging_build"
    }


def test_each_figure_stands_where_it_belongs() -> None:
    assert figures([CHAT], labelled=False) == FIGURES


def test_several_sources_are_told_apart_by_their_names() -> None:
    down = SourceView(name="forum", kind="custom", error="it is down", last_success=31.5)
    found = figures([CHAT, down], labelled=True)
    chats = {name.replace(" source=chat", ""): value for name, value in found.items() if "source=chat" in name}
    assert chats == FIGURES
    assert {name: value for name, value in found.items() if "source=forum" in name} == {
        "messaging_source_up source=forum": 0,
        "messaging_source_as_of_timestamp_seconds source=forum": 31.5,
        "messaging_source_count_progress_ratio source=forum": 0,
        "messaging_source_collector_duration_seconds source=forum": 0,
        "messaging_source_rows_read_total source=forum": 0,
        "messaging_source_info kind=custom schema= source=forum": 1,
    }


@pytest.mark.parametrize("value", [0, None])
def test_a_figure_of_0_is_shown_and_one_that_is_not_known_is_absent(value: int | None) -> None:
    totals = SourceTotals(value, value, value, value, dict.fromkeys((1, 7, 30), value), 18.0, value)
    found = figures([SourceView(name="", kind="custom", up=True, totals=totals)], labelled=False)
    shown = {name: found[name] for name in list(FIGURES)[:8] if name in found}
    assert shown == ({} if value is None else dict.fromkeys(list(FIGURES)[:8], 0))


def test_every_family_that_may_come_is_announced_and_none_without_a_sample_is_shown() -> None:
    announced = {family.name for family in every_source_family()}
    shown = {family.name for family in source_families([CHAT], labelled=False)}
    assert announced == shown - {"messaging_build"}
    assert all(family.samples for family in source_families([SourceView("", "custom")], labelled=False))
