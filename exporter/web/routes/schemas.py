"""The shapes of the JSON that the routes take and give. The OpenAPI description is made from them.

Tested in ``tests/web/test_openapi.py``.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from exporter.core.errors import ErrorCode
from exporter.core.events import ClosedReason, RejectedReason
from exporter.core.protocol import MAX_CLIENT_ID, MAX_IDENTIFIER, MAX_SEQ
from exporter.node import history
from exporter.node.conditions import Conditions

_WORDS = "1 to 128 characters without control characters and lone surrogates."
Identifier = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_IDENTIFIER, pattern="^[^\\u0000-\\u001f\\u007f-\\u009f]+$", description=_WORDS),
]
Seq = Annotated[int, Meta(ge=1, le=MAX_SEQ, description="Counts 1, 2, 3… per conversation.")]
Count = Annotated[int, Meta(ge=0)]
Rate = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
# Bodies are checked field by field in the handlers, whose errors say more than the decoder's.
Users = Annotated[list[str], Meta(extra_json_schema={"maxItems": 1_000})]
NewId = Annotated[str | None, Meta(extra_json_schema={"maxLength": MAX_IDENTIFIER})]


class Problem(Struct):
    """An error, as RFC 9457 shapes it. ``code`` is the word of the ``error`` frame, where there is one."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    code: str


class ArrivedRequest(Struct):
    """A request as the server sees it. ``headers`` are those that proxies add or change, each with all its values."""

    scheme: Literal["http", "https"]
    host: str
    remote: str
    http_version: str
    origin_allowed: bool
    headers: dict[str, list[str]]


class NewConversation(Struct):
    """The members of a new conversation, and its id if the client gives one."""

    participants: Users
    id: NewId = None


class NewParticipants(Struct):
    """Users who become members."""

    participants: Users


class Conversation(Struct, omit_defaults=True):
    """A conversation; ``participants`` are its members, sorted.

    In a list they are 100 at most; then ``truncated`` says so, and ``participants_total`` how many there are. ``error``
    is there where ``total_messages`` is null: the kept number cannot be.
    """

    id: Identifier
    total_messages: Count | None
    last_seq: Count
    participants: tuple[Identifier, ...]
    truncated: bool = False
    participants_total: Count | None = None
    error: str | None = None


class Participants(Struct):
    """Members of a conversation, by name, and how many there are in all."""

    participants: list[Identifier]
    participants_total: Count


class Conversations(Struct):
    """A list of conversations, by id."""

    conversations: list[Conversation]


class Message(Struct):
    """A stored message; ``id`` is the sender's own."""

    seq: Seq
    id: Annotated[str, Meta(max_length=MAX_CLIENT_ID)]
    sender: Identifier
    body: str
    sent_at: datetime


class Messages(Struct):
    """Messages, the oldest first, and the conversation's last seq."""

    messages: list[Message]
    last_seq: Count


class ActiveUsers(Struct, rename={"day": "1d", "week": "7d", "month": "30d"}):
    """Users whose latest message is of the last 1, 7 or 30 UTC days."""

    day: Count | None
    week: Count | None
    month: Count | None


class Database(Struct):
    """This node's view of the database; ``error`` is the reason why figures are null or writing fails."""

    up: bool
    as_of: datetime | None
    error: str | None
    writable: bool


class Inaccurate(Struct):
    """What the last verification, or the comparison at a start, found wrong; null before the first."""

    conversations: Count | None
    days: Count | None
    triggers: Count | None


RefusedConnections = msgspec.defstruct("RefusedConnections", [(reason.value, Count) for reason in RejectedReason])
RefusedCommands = msgspec.defstruct("RefusedCommands", [(code.value, Count) for code in ErrorCode])


class Refused(Struct):
    """What this node refused since its start, by reason."""

    connections: RefusedConnections  # type: ignore[valid-type]  # made above
    commands: RefusedCommands  # type: ignore[valid-type]  # made above


class Cluster(Struct):
    """This node's view of the other nodes; ``settling`` above 0: the figures are not final yet.

    ``error`` is the reason why the live figures are null.
    """

    up: bool
    as_of: datetime | None
    settling: Count | None
    error: str | None


class Live(Struct):
    """The live figures of the node that was asked."""

    active_connections: Count
    connected_users: Count
    active_conversations: Count
    total_participants: Count
    typing_users: Count


Since = msgspec.defstruct("Since", [(name, datetime | None) for name in Conditions().since])
Since.__doc__ = "Since when this node has seen that something is wrong; null while it is not."


class Stats(Struct):
    """The figures at one moment. What is not known is null, with the reason in an ``error``.

    ``scope`` is ``cluster`` where there are several nodes: the live figures are then those of all nodes together, and
    ``cluster`` and ``node`` are there, too.
    """

    active_connections: Count | None
    connected_users: Count | None
    active_conversations: Count | None
    total_participants: Count | None
    typing_users: Count | None
    total_messages: Count | None
    total_conversations: Count | None
    messages_today: Count | None
    registered_users: Count | None
    active_users: ActiveUsers
    scope: Literal["node", "cluster"]
    nodes: Annotated[int, Meta(ge=1)] | None
    as_of: datetime
    database: Database
    inaccurate: Inaccurate
    version: str
    started_at: datetime
    refused: Refused
    sends_failed: Count
    delivered_in_time: Share | None
    since: Since  # type: ignore[valid-type]  # made above
    cluster: Cluster | msgspec.UnsetType = msgspec.UNSET
    node: Live | msgspec.UnsetType = msgspec.UNSET


class Recent(Struct):
    """How often something happened on this node."""

    last_minute: Count | None
    last_hour: Count | None


Figures = msgspec.defstruct("Figures", [(name, list[Count | None]) for name in history.FIGURES])
Rates = msgspec.defstruct("Rates", [(name, list[Rate | None]) for name in history.RATES])
ClosedByReason = msgspec.defstruct("ClosedByReason", [(reason.value, Recent) for reason in ClosedReason])
RefusedConnectionsByReason = msgspec.defstruct(
    "RefusedConnectionsByReason", [(reason.value, Recent) for reason in RejectedReason]
)
RefusedCommandsByReason = msgspec.defstruct("RefusedCommandsByReason", [(code.value, Recent) for code in ErrorCode])


class RefusedByReason(Struct):
    """What this node refused, by reason."""

    connections: RefusedConnectionsByReason  # type: ignore[valid-type]  # made above
    commands: RefusedCommandsByReason  # type: ignore[valid-type]  # made above


class Peak(Struct):
    """The highest sample, and when it was taken."""

    value: Count
    at: datetime


PeaksByFigure = msgspec.defstruct("PeaksByFigure", [(name, Peak | None) for name in history.PEAKS])


class Peaks(Struct):
    """The highest samples since midnight (UTC), or since the first sample."""

    since: datetime | None
    figures: PeaksByFigure  # type: ignore[valid-type]  # made above


class History(Struct):
    """The last hour: arrays of ``length`` entries, ``step`` seconds apart; null is not known."""

    step: float
    length: Count
    start: float | None
    since: datetime | None
    as_of: datetime | None
    figures: Figures  # type: ignore[valid-type]  # made above
    rates: Rates  # type: ignore[valid-type]  # made above
    delivered_in_time: list[Share | None]
    closed: ClosedByReason  # type: ignore[valid-type]  # made above
    refused: RefusedByReason
    peaks: Peaks


class Day(Struct):
    """One UTC day: its messages that exist, and users who sent one, erased since or not. What is not known is null."""

    day: date
    messages: Count | None
    active_users: Count | None


class Days(Struct):
    """Days, the oldest first, the last is today. ``error``: why some of them are not known."""

    days: list[Day]
    error: str | None


class NodeOfUser(Struct):
    """A user's open connections on one node; null where it is not known, with the reason in ``error``."""

    name: str
    connections: Count | None
    opened_at: list[datetime] | None
    error: str | None


class UserConnections(Struct):
    """A user's open connections; ``since`` is when the oldest of them was opened.

    In a cluster they are those of all nodes. If a node has not answered, ``error`` says so, ``opened_at`` is of those
    that have, ``connections`` and ``since`` are null, and ``connected`` is null unless a connection is known.
    """

    user: Identifier
    connected: bool | None
    since: datetime | None
    connections: Count | None
    opened_at: list[datetime]
    scope: Literal["node", "cluster"]
    error: str | None
    nodes: list[NodeOfUser] | msgspec.UnsetType = msgspec.UNSET


class LargeConversation(Struct):
    """A conversation with its messages that exist (null: the kept number cannot be) and its members."""

    id: Identifier
    total_messages: Count | None
    members: Count


class BusyConversation(Struct):
    """A conversation with the messages that this node accepted for it in the last hour."""

    id: Identifier
    messages: Count


class TopConversations(Struct):
    """The largest (null when they are not known, with the reason in ``error``) and the busiest.

    Each count of ``busiest`` may be too low by ``undercounted_by``, which is 0 unless very many were busy.
    """

    largest: list[LargeConversation] | None
    busiest: list[BusyConversation]
    undercounted_by: Count
    scope: Literal["node"]
    error: str | None


class SignInForm(Struct):
    """The form of the sign-in."""

    token: str


class SignedIn(Struct):
    """Who signed in, and until when."""

    user: Identifier
    expires_at: str
