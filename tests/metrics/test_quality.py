"""What a node refused, failed and delivered in time, read off its counters."""

from __future__ import annotations

from exporter.core.errors import ErrorCode
from exporter.core.events import RejectedReason
from exporter.metrics.counters import Metrics
from exporter.metrics.quality import IN_TIME, quality


def test_before_anything_happened_all_reasons_are_nought_and_no_share_is_known() -> None:
    seen = quality(Metrics())
    assert seen.refused_connections == dict.fromkeys(map(str, RejectedReason), 0)
    assert seen.refused_commands == dict.fromkeys(map(str, ErrorCode), 0)
    assert (seen.sends_failed, seen.delivered, seen.share_in_time) == (0, 0, None)


def test_commands_are_added_up_by_code_and_only_our_own_failures_of_sends_count_as_such() -> None:
    metrics = Metrics()
    metrics.connections_rejected[RejectedReason.CAPACITY].value += 2
    for command, code, number in (
        ("send", ErrorCode.UNAVAILABLE, 3),
        ("send", ErrorCode.INTERNAL, 1),
        ("send", ErrorCode.NOT_JOINED, 7),
        ("join", ErrorCode.UNAVAILABLE, 5),
        ("unknown", ErrorCode.BAD_FRAME, 4),
    ):
        metrics.commands_rejected[command, code].value += number
    seen = quality(metrics)
    assert seen.refused_connections["capacity"] == 2
    assert {code: n for code, n in seen.refused_commands.items() if n} == {
        "unavailable": 8,
        "internal": 1,
        "not_joined": 7,
        "bad_frame": 4,
    }
    assert seen.sends_failed == 4


def test_in_time_is_at_most_a_quarter_of_a_second_on_either_path() -> None:
    metrics = Metrics()
    for path, seconds in (("local", IN_TIME), ("local", 0.001), ("cluster", 0.2), ("cluster", 0.26), ("local", 60.0)):
        metrics.message_delivery_duration[path].observe(seconds)
    assert (quality(metrics).delivered, quality(metrics).share_in_time) == (5, 3 / 5)
