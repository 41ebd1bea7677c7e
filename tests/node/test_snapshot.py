"""What is looked at in slices is looked at whole."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from exporter.core.recount import SLICE
from exporter.node.snapshot import SnapshotBuilder


async def test_the_fullest_send_buffer_is_that_of_all_slices() -> None:
    connections: Any = [Mock(buffered=number % 7) for number in range(3 * SLICE)]
    builder = SnapshotBuilder(Mock(), Mock(), connections, 10)
    for fullest in (0, SLICE, 3 * SLICE - 1):
        connections[fullest].buffered = 100
        assert await builder._send_buffer_max() == 100
        connections[fullest].buffered = 0
    connections.clear()
    assert await builder._send_buffer_max() == 0
