"""One user's connections, looked at or ended for an admin: those here, and those of the other nodes if there are any.

Tested in ``tests/integration/test_user_connections.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from exporter.core.events import ClosedReason, UserId
from exporter.core.hub import Hub
from exporter.core.records import NodeConnections, UserPresence
from exporter.node.publisher import NodeConnection


class RemoteLookup(Protocol):
    """Asks the other nodes: what each answers, and why that may not be all."""

    def __call__(self, user: UserId, disconnect: bool) -> Awaitable[tuple[list[NodeConnections], str | None]]:
        """``disconnect``: they end the user's connections, and answer which."""


class UserConnections:
    """``now`` is monotonic, ``wall`` Unix seconds. In a cluster a node has a ``name``, and ``ask_other_nodes``."""

    def __init__(self, hub: Hub[NodeConnection], now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._hub, self._now, self._wall = hub, now, wall
        self.name = ""
        self.ask_other_nodes: RemoteLookup | None = None

    def on_this_node(self, user: UserId, disconnect: bool) -> list[float]:
        """When the user's connections to this node were opened, Unix seconds; ``disconnect``: they end with 4003."""
        found = list(self._hub.users.get(user, ()))  # a copy: whoever ends one changes the set
        age = self._wall() - self._now()
        opened_at = sorted(connection.opened_at + age for connection in found)
        if disconnect:
            for connection in found:
                connection.close(ClosedReason.ADMIN)
        return opened_at

    async def on_all_nodes(self, user: UserId, *, disconnect: bool = False) -> UserPresence:
        """The user's connections on all nodes, as far as these answer; they have a second for it."""
        mine = NodeConnections(self.name, tuple(self.on_this_node(user, disconnect)))
        if self.ask_other_nodes is None:
            return UserPresence((mine,))
        others, error = await self.ask_other_nodes(user, disconnect)
        return UserPresence((mine, *sorted(others, key=lambda node: node.name)), error)
