"""``GET /v1/messaging/conversations/top``: the largest conversations, and the busiest of the last hour on this node.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from aiohttp import web

from exporter.auth.tokens import Authenticator
from exporter.core.errors import Unavailable
from exporter.node.node import Node
from exporter.web.access import require_admin
from exporter.web.routes import schemas
from exporter.web.routes.answers import IMPOSSIBLE_TOTAL, answer, number

DEFAULT: Final = 10
MAX: Final = 100
# The largest are found by reading all conversations, 0.2 s for a million: once a minute, however many ask.
KEPT: Final = 60.0  # seconds


class Top:
    """The handler."""

    def __init__(self, node: Node, authenticator: Authenticator) -> None:
        self._node = node
        self._authenticator = authenticator
        self._lock = asyncio.Lock()
        self._largest: list[schemas.LargeConversation] = []
        self._as_of = float("-inf")  # monotonic seconds

    async def handle(self, request: web.Request) -> web.Response:
        """200 with ``limit`` of each (10; at most 100); what is not known of ``largest`` is null, with the reason."""
        require_admin(request, self._authenticator)
        limit = number(request, "limit", DEFAULT, MAX)
        error, largest = None, None
        try:
            largest = (await self._find_largest())[:limit]
        except Unavailable as unavailable:
            error = unavailable.message
        if any(conversation.total_messages is None for conversation in largest or ()):
            error = IMPOSSIBLE_TOTAL
        busiest, missed = self._node.busiest.top(limit, time.monotonic())
        shape = schemas.TopConversations(
            largest=largest,
            busiest=[schemas.BusyConversation(name, messages) for name, messages in busiest],
            undercounted_by=missed,
            scope="node",
            error=error,
        )
        return answer(shape)

    async def _find_largest(self) -> list[schemas.LargeConversation]:
        async with self._lock:  # whoever comes meanwhile gets what the first one finds
            if time.monotonic() - self._as_of > KEPT:
                rows = await self._node.store.largest_conversations(MAX)
                self._largest = [schemas.LargeConversation(*row) for row in rows]
                self._as_of = time.monotonic()
            return self._largest
