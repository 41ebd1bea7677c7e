"""What one node closed, refused, failed and delivered in time since its start, off its counters. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from exporter.core.errors import ErrorCode
from exporter.metrics.counters import Metrics

IN_TIME: Final = 0.25  # seconds; a bound of the histogram, and the delivery objective of the alerts
# A sender is to blame for all other refusals of a send.
FAILURES: Final = (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL)


class Quality(msgspec.Struct, frozen=True):
    """Counts since the start of this node. Connections and commands are keyed by reason, all reasons from 0."""

    closed_connections: Mapping[str, int]
    refused_connections: Mapping[str, int]
    refused_commands: Mapping[str, int]
    sends_failed: int
    delivered: int
    """Messages handed to their recipients on this node."""
    delivered_in_time: int
    """Those of them that took at most IN_TIME seconds."""

    @property
    def share_in_time(self) -> float | None:
        """0 to 1; None as long as nothing was delivered."""
        return self.delivered_in_time / self.delivered if self.delivered else None


def quality(metrics: Metrics) -> Quality:
    """The counts now."""
    commands, sends_failed = dict.fromkeys((code.value for code in ErrorCode), 0), 0
    for (command, code), cell in metrics.commands_rejected.items():
        commands[code.value] += cell.value
        if command == "send" and code in FAILURES:
            sends_failed += cell.value
    delivered = in_time = 0
    for buckets in metrics.message_delivery_duration.children.values():
        delivered += sum(buckets.counts)
        in_time += sum(buckets.counts[: buckets.bounds.index(IN_TIME) + 1])
    return Quality(
        closed_connections={reason.value: cell.value for reason, cell in metrics.connections_closed.cells.items()},
        refused_connections={reason.value: cell.value for reason, cell in metrics.connections_rejected.cells.items()},
        refused_commands=commands,
        sends_failed=sends_failed,
        delivered=delivered,
        delivered_in_time=in_time,
    )
