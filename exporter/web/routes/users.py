"""One user's connections, for admins: are they connected, since when, on how many devices; disconnect them.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from aiohttp import web

from exporter.auth.tokens import Authenticator
from exporter.core.events import ClosedReason, UserId
from exporter.core.protocol import check_identifier
from exporter.node.node import Node
from exporter.web.access import require_admin
from exporter.web.origins import Origins
from exporter.web.routes import schemas
from exporter.web.routes.answers import NO_STORE, answer
from exporter.web.websocket.connection import WebSocketConnection


class Users:
    """The handlers; ``routes()`` is what an application adds. They know the connections of this node."""

    def __init__(self, node: Node, authenticator: Authenticator, origins: Origins) -> None:
        self._node = node
        self._origins = origins
        self._authenticator = authenticator

    def routes(self) -> list[web.RouteDef]:
        """Both methods of one path."""
        path = "/v1/messaging/users/{id:[^/]+}/connections"
        return [web.get(path, self.look), web.delete(path, self.disconnect)]

    async def look(self, request: web.Request) -> web.Response:
        """200, also for a user who is not connected or whom nobody knows: then there are no connections."""
        require_admin(request, self._authenticator)
        user = _user(request)
        found = self._connections(user)
        opened = [time.time() - (time.monotonic() - connection.opened_at) for connection in found]
        moments = sorted(datetime.fromtimestamp(at, UTC).replace(microsecond=0) for at in opened)
        shape = schemas.UserConnections(
            user=user,
            connected=bool(found),
            since=moments[0] if moments else None,
            connections=len(found),
            opened_at=moments,
            scope="node",
        )
        return answer(shape)

    async def disconnect(self, request: web.Request) -> web.Response:
        """204: every connection of the user is closed with 4003; with a valid token they may connect again."""
        require_admin(request, self._authenticator, change=self._origins.may_sign_in(request))
        for connection in self._connections(_user(request)):
            connection.close(ClosedReason.ADMIN)
        return web.Response(status=204, headers=NO_STORE)

    def _connections(self, user: UserId) -> list[WebSocketConnection]:
        """A copy: whoever walks may close some."""
        found = self._node.hub.users.get(user, ())
        return [connection for connection in found if isinstance(connection, WebSocketConnection)]


def _user(request: web.Request) -> UserId:
    user = request.match_info["id"]
    check_identifier(user, "id")
    return user
