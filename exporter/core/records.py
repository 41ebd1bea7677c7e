"""Plain values that pass between the layers. Knows nobody: each field is a fact with its unit.

``/metrics``, ``/v1/messaging/stats`` and the admin page are three views of these records.

Tested in ``tests/core/test_recount.py``.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Final

import msgspec

from exporter.core.events import ConversationId, UserId


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message that somebody wants stored; ``id`` is the client's, unique per (sender, conversation)."""

    conversation: ConversationId
    sender: UserId
    id: str
    body: str


class Message(msgspec.Struct, frozen=True, gc=False):
    """A durable message. ``seq`` counts 1, 2, 3… in its conversation; ``sent_at`` is UTC."""

    conversation: ConversationId
    seq: int
    sender: UserId
    id: str
    body: str
    sent_at: datetime


class ReadMark(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a read: did the mark move, and when had the message it moved to been sent (None: deleted)."""

    moved: bool
    sent_at: datetime | None


class Membership(msgspec.Struct, frozen=True, gc=False):
    """What a join needs to know of a conversation that exists. ``behind``: a standby says so, which may lag."""

    member: bool
    last_seq: int
    behind: bool = False


class Conversation(msgspec.Struct, frozen=True):
    """A conversation as its members see it; ``participants`` are its members, sorted.

    Of many they are some only, and ``participants_total`` says how many there are. A ``total_messages`` that cannot be
    (below 0) is None.
    """

    id: ConversationId
    total_messages: int | None
    last_seq: int
    participants: tuple[UserId, ...]
    participants_total: int | None = None


WINDOWS: Final = (1, 7, 30)
"""The windows of active users, in UTC days, today included."""


class HubStats(msgspec.Struct, frozen=True):
    """Live figures of one node, each the length of one dictionary."""

    active_connections: int = 0
    connected_users: int = 0
    active_conversations: int = 0
    participants: int = 0
    typing_users: int = 0


class ClusterStats(msgspec.Struct, frozen=True):
    """Distinct live figures over all live nodes, as this node last saw them; ``as_of`` is Unix seconds.

    ``settling`` above 0: something may still be counted that has gone, or is not counted yet.
    """

    nodes: int
    connections: int
    users: int
    conversations: int
    participants: int
    typing_users: int
    as_of: float
    settling: int = 0


class NodeConnections(msgspec.Struct, frozen=True):
    """A user's connections on one node: when they were opened, Unix seconds; None when not known, and ``error`` why."""

    name: str
    opened_at: tuple[float, ...] | None
    error: str | None = None


class UserPresence(msgspec.Struct, frozen=True):
    """A user's connections, node by node, this one first. ``error``: why these may not be all."""

    nodes: tuple[NodeConnections, ...]
    error: str | None = None

    @property
    def opened_at(self) -> list[float]:
        """When those that are known were opened, the oldest first."""
        return sorted(at for node in self.nodes for at in node.opened_at or ())


class KnownTotals(msgspec.Struct, frozen=True):
    """Figures of a database, the product's own or somebody else's, of one moment; None is not known.

    ``active_users`` is keyed by window in days: 1, 7, 30; ``as_of`` is Unix seconds. ``inaccurate_conversations`` were
    last found wrong; None before they were looked for.
    """

    stored_messages: int | None
    stored_conversations: int | None
    registered_users: int | None
    messages_today: int | None
    active_users: dict[int, int | None]
    as_of: float
    inaccurate_conversations: int | None = None


class Totals(KnownTotals, frozen=True):
    """Figures read from the database in one consistent statement.

    A figure that cannot be (below 0) is None, and ``error`` says so. ``verified_at`` is None before the first
    verification.
    """

    inaccurate_days: int | None = None
    missing_triggers: int | None = None
    verified_at: float | None = None
    error: str | None = None


class DayTotals(msgspec.Struct, frozen=True):
    """One UTC day: messages that were sent on it and exist, and users who sent one.

    None is "not known", for the reason in ``error``.
    """

    day: date
    messages: int | None
    active_users: int | None
    error: str | None = None


class PoolStats(msgspec.Struct, frozen=True):
    """Database connections of this node."""

    in_use: int = 0
    idle: int = 0


class Saturation(msgspec.Struct, frozen=True):
    """How near this node is to its limits; sizes in bytes, times in seconds."""

    send_buffer_max: int = 0
    slow_consumers: int = 0
    connection_limit: int = 0
    typing_oldest_age: float = 0.0


class DatabaseView(msgspec.Struct, frozen=True):
    """What one scrape came to know of the database; ``up``: it answered, a defect of ours is not its own.

    ``totals`` is None when they are not known now; ``error`` says why, or why some of them are not, or why writing
    fails (``writable`` is False). ``last_success``: when figures were read last, by this scrape or another, in Unix
    seconds, None before the first; ``duration`` of this scrape's attempt is in seconds.
    """

    up: bool
    totals: Totals | None
    error: str | None
    last_success: float | None
    duration: float
    pool: PoolStats
    writable: bool = False


class BrokerView(msgspec.Struct, frozen=True):
    """This node's view of the broker.

    ``error`` is None while it is up; ``last_seen`` is when the figures were, Unix seconds of the broker's clock.
    """

    error: str | None
    last_seen: float | None


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that a scrape, the JSON and the page show of one moment; ``as_of`` is Unix seconds.

    ``drift`` holds hub minus recount per live figure, ``cluster`` None when this node has no view of it,
    ``broker`` None when this node is alone.
    """

    as_of: float
    live: HubStats
    cluster: ClusterStats | None
    alone: bool
    broker_up: bool
    database: DatabaseView
    saturation: Saturation
    drift: dict[str, int]
    live_duration: float = 0.0
    broker: BrokerView | None = None
