"""``GET /v1/messaging/ws``: who may connect, and the hand-over of the socket from HTTP to a connection.

aiohttp reads the request and has done its part when the upgrade is answered: then the transport gets a new protocol
(``set_protocol``, asyncio's way for an upgrade) and aiohttp's handler is told that its connection has ended. A joined
connection then takes 3.2 KiB (docs/benchmarks.md), and no task wakes up for a frame.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import secrets
import time
from typing import Final

from aiohttp import web

from exporter.auth.tokens import Authenticator, Claims
from exporter.core import protocol
from exporter.core.events import RejectedReason
from exporter.core.websocket_frames import text_frame
from exporter.metrics.counters import Metrics
from exporter.node.node import Node
from exporter.settings.model import Limits
from exporter.web.access import claims_of
from exporter.web.aiohttp_seams import Upgraded, hand_over
from exporter.web.origins import Origins
from exporter.web.problems import Problem
from exporter.web.websocket.connection import ConnectionContext, WebSocketConnection
from exporter.web.websocket.connections import Connections

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
RETRY_AFTER: Final = "5"  # seconds: a restart behind a load balancer is over by then


class Rejected(Problem):
    """A connection that was refused before the upgrade; counted by reason."""

    def __init__(self, reason: RejectedReason, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail, headers=headers)
        self.reason = reason


class UpgradeHandler:
    """Lets connections in."""

    def __init__(
        self,
        node: Node,
        connections: Connections,
        authenticator: Authenticator,
        limits: Limits,
        origins: Origins,
    ) -> None:
        self._node = node
        self._metrics: Metrics = node.metrics
        self._connections = connections
        self._authenticator = authenticator
        self._limits = limits
        self._origins = origins
        self._context = ConnectionContext(
            node, node.metrics, limits, time.monotonic, connections.ended, connections.lost
        )
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self.draining = False

    async def upgrade(self, request: web.Request) -> web.StreamResponse:
        """The WebSocket, or 400, 401, 403, 426, 429, 503 as a problem document."""
        try:
            answer = _handshake(request)
            claims = self._admit(request)
            # Registered before the welcome, so that the next scrape has the user; with the database down: later.
            await self._node.store.register(claims.user)
            self._refuse_if_full(claims)
            return self._hand_over(request, answer, claims)
        except Rejected as rejected:
            self._metrics.connections_rejected[rejected.reason].value += 1
            raise

    def _admit(self, request: web.Request) -> Claims:
        if self.draining:
            raise _draining()
        try:
            claims = claims_of(request, self._authenticator)
        except Problem as problem:
            reason = RejectedReason.UNAUTHENTICATED
            raise Rejected(reason, problem.status, problem.detail, problem.headers) from problem
        if not self._origins.may_connect(request):
            raise Rejected(RejectedReason.ORIGIN, 403, "pages of this origin may not connect")
        self._refuse_if_full(claims)
        return claims

    def _refuse_if_full(self, claims: Claims) -> None:
        """Asked again after the await: others may have come in meanwhile."""
        if self.draining:
            raise _draining()
        if len(self._connections) >= self._limits.connections:
            raise Rejected(RejectedReason.CAPACITY, 503, "all connections are taken", {"Retry-After": RETRY_AFTER})
        most = self._limits.connections_per_user
        if self._node.hub.connections_of(claims.user) >= most:
            raise Rejected(RejectedReason.USER_LIMIT, 429, f"this user has too many connections: {most} are allowed")

    def _hand_over(self, request: web.Request, answer: bytes, claims: Claims) -> web.StreamResponse:
        transport = request.transport
        if transport is None or transport.is_closing():
            return Upgraded()  # the client has gone: nobody to answer, nothing to count, and no line in the log
        id = f"{self._prefix}-{next(self._numbers)}"
        connection = WebSocketConnection(id, claims.user, claims.expires_at, transport, self._context)
        welcome = text_frame(protocol.encode(self._welcome(connection)))
        transport.write(answer + welcome)  # in one system call: 5 µs of some 250 that a connection costs
        self._metrics.sent_bytes.value += len(welcome)
        early = hand_over(request, transport, connection)
        self._connections.add(connection)
        self._node.open(connection)
        if early:  # now: uvloop reads the socket once more before it calls anything soon
            connection.data_received(early)
        return Upgraded()

    def _welcome(self, connection: WebSocketConnection) -> protocol.Welcome:
        limits = {
            "frame_bytes": self._limits.frame_bytes,
            "frames_per_second": self._limits.frames_per_second,
            "send_buffer_bytes": self._limits.send_buffer_bytes,
            "id_characters": protocol.MAX_CLIENT_ID,
        }
        return protocol.Welcome(connection.id, connection.user, self._connections.heartbeat, limits)


def _draining() -> Rejected:
    return Rejected(RejectedReason.DRAINING, 503, "the server is shutting down", {"Retry-After": RETRY_AFTER})


def _handshake(request: web.Request) -> bytes:
    """The answer to a good handshake (RFC 6455 section 4.2); raises Rejected for a bad one."""
    headers = request.headers
    if "websocket" not in _tokens(request, "Upgrade") or "upgrade" not in _tokens(request, "Connection"):
        needed = {"Upgrade": "websocket", "Connection": "Upgrade"}
        told = "this is a WebSocket, and the request lacks Upgrade or Connection: a proxy must pass them on"
        raise Rejected(RejectedReason.HANDSHAKE, 426, told, needed)
    if headers.get("Sec-WebSocket-Version", "").strip() != "13":
        raise Rejected(RejectedReason.HANDSHAKE, 426, "the WebSocket version is 13", {"Sec-WebSocket-Version": "13"})
    if (request.version.major, request.version.minor) < (1, 1) or request.method != "GET":
        raise Rejected(RejectedReason.HANDSHAKE, 400, "the handshake is a GET of HTTP/1.1")
    if request.body_exists:  # what of it comes later would be taken for frames
        raise Rejected(RejectedReason.HANDSHAKE, 400, "the handshake has no body")
    keys = list(headers.getall("Sec-WebSocket-Key", ()))
    try:
        valid = len(keys) == 1 and len(base64.b64decode(keys[0].strip(), validate=True)) == 16
    except ValueError:
        valid = False
    if not valid:
        raise Rejected(RejectedReason.HANDSHAKE, 400, "Sec-WebSocket-Key is not 16 bytes in base64")
    lists = headers.getall("Sec-WebSocket-Protocol", ())  # empty elements are none (RFC 9110 section 5.6.1.2)
    offered = [name for line in lists for name in map(str.strip, line.split(",")) if name]
    if offered and protocol.SUBPROTOCOL not in offered:
        raise Rejected(RejectedReason.HANDSHAKE, 400, f"the subprotocol is {protocol.SUBPROTOCOL}")
    digest = hashlib.sha1(keys[0].strip().encode() + _GUID, usedforsecurity=False).digest()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
    ]
    if offered:
        lines.append(f"Sec-WebSocket-Protocol: {protocol.SUBPROTOCOL}")
    return "\r\n".join((*lines, "", "")).encode()


def _tokens(request: web.Request, name: str) -> set[str]:
    """The tokens of a header, which may be spread over several lines (RFC 9110 sections 5.3, 5.6.1 and 7.6.1)."""
    return {token.strip(" \t").lower() for line in request.headers.getall(name, ()) for token in line.split(",")}
