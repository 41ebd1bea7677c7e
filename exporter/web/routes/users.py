"""One user's connections, for admins: are they connected, since when, on how many devices; disconnect them.

Tested in ``tests/integration/test_http.py`` and ``tests/integration/test_user_connections.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from aiohttp import web
from msgspec import UNSET

from exporter.auth.tokens import Authenticator
from exporter.core.errors import Unavailable
from exporter.core.events import UserId
from exporter.core.records import NodeConnections, UserPresence
from exporter.node.node import Node
from exporter.web.access import require_admin
from exporter.web.origins import Origins
from exporter.web.routes import schemas
from exporter.web.routes.answers import NO_STORE, answer, by_path_and_query, identifier


class Users:
    """The handlers; ``routes()`` is what an application adds. In a cluster they speak for all nodes."""

    def __init__(self, node: Node, authenticator: Authenticator, origins: Origins) -> None:
        self._node = node
        self._origins = origins
        self._authenticator = authenticator

    def routes(self) -> list[web.RouteDef]:
        """Both methods, with the user in the path or in the query."""
        paths = by_path_and_query("/v1/messaging/users/{id:[^/]+}/connections")
        return [route for path in paths for route in (web.get(path, self.look), web.delete(path, self.disconnect))]

    async def look(self, request: web.Request) -> web.Response:
        """200, also for a user who is not connected or whom nobody knows: then there are no connections."""
        require_admin(request, self._authenticator)
        user = identifier(request, "id")
        found = await self._node.user_connections.on_all_nodes(user)
        return answer(_shape(user, found, self._node.broker.alone))

    async def disconnect(self, request: web.Request) -> web.Response:
        """204: every connection of the user is closed with 4003; with a valid token they may connect again.

        503 when a node has not said that it did so; those that answered have.
        """
        require_admin(request, self._authenticator, change=self._origins.may_sign_in(request))
        found = await self._node.user_connections.on_all_nodes(identifier(request, "id"), disconnect=True)
        if found.error is not None:
            ended = len(found.opened_at)
            raise Unavailable(
                f"{ended} {'connection was' if ended == 1 else 'connections were'} closed, perhaps not all: "
                f"{found.error}; try again"
            )
        return web.Response(status=204, headers=NO_STORE)


def _shape(user: UserId, found: UserPresence, alone: bool) -> schemas.UserConnections:
    opened_at = _moments(found.opened_at)
    complete = found.error is None
    return schemas.UserConnections(
        user=user,
        connected=True if opened_at else False if complete else None,
        since=opened_at[0] if opened_at and complete else None,
        connections=len(opened_at) if complete else None,
        opened_at=opened_at,
        scope="node" if alone else "cluster",
        error=found.error,
        nodes=UNSET if alone else [_node(node) for node in found.nodes],
    )


def _node(node: NodeConnections) -> schemas.NodeOfUser:
    opened_at = None if node.opened_at is None else _moments(node.opened_at)
    return schemas.NodeOfUser(node.name, None if opened_at is None else len(opened_at), opened_at, node.error)


def _moments(opened_at: Iterable[float]) -> list[datetime]:
    return [datetime.fromtimestamp(at, UTC).replace(microsecond=0) for at in opened_at]
