"""One user's connections here: since when, and that all of them end."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import Mock

from exporter.core.hub import Hub
from exporter.node.user_connections import UserConnections


def test_since_when_they_are_open_is_unix_time_and_each_of_them_ends() -> None:
    hub: Hub[Any] = Hub()
    for opened_at in (3.0, 1.0, 2.0):
        connection = Mock(opened_at=opened_at)
        connection.close = partial(hub.close, connection)  # at once, as where the socket has gone
        hub.open(connection, "ann")
    here = UserConnections(hub, lambda: 10.0, lambda: 1010.0)
    assert here.on_this_node("ann", False) == [1001.0, 1002.0, 1003.0]
    assert here.on_this_node("ann", True) == [1001.0, 1002.0, 1003.0]
    assert here.on_this_node("ann", True) == []
