"""What joins nodes over Valkey or Redis: frames to those who hold a conversation, presence, announcements.

Local delivery never waits for it: what happens here is handed out here first, and leaves behind that: at the end of the
turn, in one write, or at once where it came alone. The order of messages is that of their numbers, on every node; what
is missing is read from the database by the node (``LocalNode.heal``). The parts: ``reconnecting`` (the connection),
``presence`` (what the server knows of this node), ``announcements`` (what people here know of the others),
``incoming``, ``ordering`` and ``outgoing`` (frames), ``nodes_channel`` (what all nodes hear: ``inquiries`` about a
user, ``redelivery`` to who has been away).

Tested in ``tests/broker/test_redis.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

from exporter.broker import frames
from exporter.broker.announcements import Announcements
from exporter.broker.clock import ServerClock
from exporter.broker.connection import Connection
from exporter.broker.context import Context
from exporter.broker.envelope import Envelope
from exporter.broker.event_publisher import EventPublisher
from exporter.broker.frames import Kind, Outgoing
from exporter.broker.functions import Figures, Functions, entries
from exporter.broker.held_conversations import HeldConversations
from exporter.broker.incoming import Incoming
from exporter.broker.inquiries import Inquiries
from exporter.broker.location import Location
from exporter.broker.nodes_channel import NodesChannel
from exporter.broker.ordering import Ordering
from exporter.broker.outgoing import Outbox, outgoing
from exporter.broker.ports import LocalNode, Meters, Turn
from exporter.broker.presence import Presence
from exporter.broker.reconnecting import ReconnectingConnection
from exporter.broker.redelivery import Redelivery
from exporter.core.hub import Hub
from exporter.core.records import BrokerView, ClusterStats

P = TypeVar("P")

_MESSAGE: Final = Kind.MESSAGE  # looked up in the enumeration it would cost as much as its frame

EARLY: Final = 0.002
"""Seconds that a timer may come early, as uvloop counts in whole milliseconds; nothing waits for the rest."""

FAREWELL: Final = 2.0
"""Seconds that leaving the cluster may take; then the lease ends it."""


class RedisBroker(Generic[P]):
    """One node of a cluster, which operators know by ``name``. ``lease`` in seconds; ``now`` monotonic seconds.

    Never raises for a reason of the broker's.
    """

    alone = False

    def __init__(
        self,
        location: Location,
        cluster: str,
        lease: float,
        *,
        hub: Hub[P],
        local: LocalNode[P],
        meters: Meters,
        at_end_of_turn: Callable[[Callable[[], object]], object] | None = None,
        turn: Turn | None = None,
        now: Callable[[], float] = time.monotonic,
        name: str = "a node",
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        # Without anybody who writes to people here, after two steps: all of this turn has happened then.
        self._at_end_of_turn = at_end_of_turn or (lambda work: loop.call_soon(loop.call_soon, work))
        self._local, self._now, self._lease = local, now, lease
        self._functions = functions = Functions(cluster)
        node = frames.new_node()
        self._clock = ServerClock(now)
        self._presence = Presence(
            functions,
            lease,
            partial(entries, hub),
            lambda: len(hub.connections),
            self._answered,
            self._schedule,
            now,
            f"{node.hex()} {name}",
            self._beat,
        )
        self._reconnecting = ReconnectingConnection(
            location,
            functions,
            lease,
            on_open=self._opened,
            on_closed=self._closed,
            on_push=lambda push: None,  # as soon as there is somebody for it, below
            beat=self._presence.beat,
            now=now,
            name=f"messaging-exporter-{node.hex()}",
            turn=turn,
        )
        context = Context(
            functions,
            node,
            hub,
            local,
            meters,
            self._clock,
            now,
            self._reconnecting,
            error=lambda: self.error,
            figures=lambda: self._figures if self._presence.complete else None,
            schedule=self._schedule,
            changed=self._changed,
            put_first=self._put_first,
        )
        self._held = context.held
        self.ordering = Ordering(self._held, local, lease, lambda: self.up, now)
        self._announcements = Announcements(context)
        self.nodes_channel = NodesChannel(context)
        self.inquiries = Inquiries(context, self.nodes_channel)
        self._outbox = Outbox(context)
        self._redelivery = Redelivery(context, self.nodes_channel, self._outbox.put)
        self.conversations = HeldConversations(context, self.ordering, self._announcements, self._redelivery.was_late)
        self._incoming = Incoming(
            context,
            self.ordering,
            self._announcements,
            self.nodes_channel,
            self._outbox.returned,
            self._redelivery.is_news,
        )
        self._reconnecting.on_push = self._incoming.pushed
        self.events = EventPublisher(context, self._presence, self._announcements, self.conversations, self._outbox)
        self._scheduled = False
        self._pause: asyncio.TimerHandle | None = None
        self._figures: Figures | None = None
        self._began, self._alive_until, self._whole = now(), 0.0, False

    # --- life ---------------------------------------------------------------------------------------------

    async def start(self, timeout: float = 1.0) -> None:
        """Begin; an absent server is waited for in the background. Raises Misconfigured for what a setting causes."""
        await self._reconnecting.start(timeout)

    @property
    def incarnation(self) -> str | None:
        """This node's name at the server; another one after each time that it had to tell everything anew."""
        return self._presence.incarnation

    def take_the_place_of(self, incarnation: str) -> None:
        """Before the start: a node that is known to be dead, whose part of the figures need not wait for its lease."""
        self._presence.take_the_place_of(incarnation)

    async def close(self) -> None:
        """Leave the cluster at once instead of when the lease is over, and close."""
        self._flush()
        connection = self._reconnecting.connection
        if connection is not None:
            try:
                async with asyncio.timeout(FAREWELL):
                    await self._retire(connection)
            except (TimeoutError, ConnectionError):
                pass  # then the lease ends it
        self._announcements.close()
        self.events.close()
        if self._pause is not None:
            self._pause.cancel()
        for held in self._held.values():
            self.ordering.forget(held)
        await self._reconnecting.close()

    async def _retire(self, connection: Connection) -> None:
        """Until nothing is left of this node, and of others that died meanwhile: perhaps nobody else is there."""
        left: list[Any] = [1]
        while left[-1] and (farewell := self._presence.retire()):
            connection.queue(farewell, 1, left.append)
            await connection.call("PING")

    @property
    def up(self) -> bool:
        """Connected, complete at the server and in its figures, and the last answered beat not older than the lease."""
        whole = self._presence.complete and self._whole
        return whole and self._reconnecting.connection is not None and self._now() < self._alive_until

    @property
    def error(self) -> str | None:
        """Why it is not up: one sentence, nothing secret."""
        return None if self.up else self._reconnecting.error or "the broker does not know yet all that this node holds"

    @property
    def view(self) -> BrokerView:
        """How this node sees the broker now; the reason names it, for it is shown beside the database's."""
        why = self.error
        why = why if "broker" in (why or "broker") else f"the broker cannot be reached: {why}"
        return BrokerView(why, None if self._figures is None else self._figures.time / 1e6)

    def cluster(self) -> ClusterStats | None:
        """The figures of all nodes, as of the last beat; None when they are not known now."""
        figures = self._figures
        if figures is None or not self.up:
            return None
        return ClusterStats(
            nodes=figures.nodes,
            connections=figures.connections,
            users=figures.users,
            conversations=figures.conversations,
            participants=figures.participants,
            typing_users=figures.typing,
            as_of=figures.time / 1e6,
            settling=figures.settling,
        )

    # --- frames out ---------------------------------------------------------------------------------------

    def publish(self, envelope: Envelope[P]) -> None:
        """To everybody here, in the order of the numbers; then, at the end of the turn, to the other nodes."""
        conversation, seq = envelope.conversation, envelope.seq
        held = self._held.get(conversation)
        if held is None:
            self._local.deliver(envelope)
        elif envelope.lasting:
            self.ordering.deletion(held, envelope)
        elif seq:
            self.ordering.message(held, envelope)
        else:
            self.ordering.other(held, envelope)
        if envelope.lasting:
            frame = self._redelivery.remember(conversation, envelope.frame, seq)
        elif seq:
            frame = (_MESSAGE, envelope.frame, seq, envelope.sender or "", envelope.received)
        else:
            frame = (Kind.OTHER, envelope.frame, 0, envelope.exclude_user or "", None)
        if self._scheduled and self._reconnecting.connection is not None:  # most often, hence not asked in ``_send``
            self._outbox.put(conversation, frame)
        else:
            self._send(conversation, frame)

    def publish_removal(self, conversation: str, user: str) -> None:
        """The user is no longer a member; the other nodes are to let their connections leave."""
        self._send(conversation, outgoing(Kind.REMOVED, user=user))

    def _send(self, conversation: str, frame: Outgoing) -> None:
        if self._reconnecting.connection is None:
            self._outbox.drop(conversation, frame)
        else:
            self._outbox.put(conversation, frame)
            if not self._scheduled:
                self._schedule()

    def _schedule(self) -> None:
        """The writes to people here are at the end of this turn, too, and go first."""
        if not self._scheduled:
            self._scheduled = True
            self._at_end_of_turn(self._flush)

    def _changed(self) -> None:
        """Presence; while its next batch is timed already, a turn has nothing to do for it at its end."""
        if self._pause is None and self._presence.waiting:
            self._schedule()

    def _put_first(self) -> None:
        connection = self._reconnecting.connection
        if connection is not None:
            self._presence.toggles_are_due()
            self._presence.flush(connection, ahead=True)
            self._outbox.flush(connection)
            self._schedule()

    def _flush(self) -> None:
        self._scheduled = False
        connection = self._reconnecting.connection
        if connection is not None:
            if self._presence.waiting:
                self._tell_what_changed(connection)
            if self.conversations.new:
                self.conversations.subscribe(connection)
            self._outbox.flush(connection)
            connection.flush()

    def _tell_what_changed(self, connection: Connection) -> None:
        pause = self._presence.pause
        if self._outbox.waiting:  # who joins is announced before what they say
            self._presence.flush(connection, ahead=True)
        elif pause <= EARLY:
            self._presence.flush(connection)
        elif self._pause is None:
            self._pause = self._loop.call_later(pause, self._paused)

    def _paused(self) -> None:
        self._pause = None
        self._schedule()

    # --- the connection comes and goes --------------------------------------------------------------------------

    def _opened(self, connection: Connection) -> None:
        self._clock.forget()
        self.nodes_channel.opened(connection)
        self._presence.connected(connection)
        stamp = None if self._figures is None else self._figures.time
        self._redelivery.opened(max(self._alive_until - self._lease, self._began), stamp)
        self._announcements.subscribe(connection, partial(self._subscribed, connection))

    def _subscribed(self, connection: Connection) -> None:
        """Nothing is missed from here on; what was missed is looked for."""
        self._redelivery.is_back(connection)
        self._local.examine(None)
        self.conversations.subscribed()
        self._outbox.opened()
        self._schedule()

    def _closed(self) -> None:
        self._outbox.closed()
        self.inquiries.closed()
        self.conversations.closed()
        self._announcements.connection_lost(list(self._presence.ends_without_answer()))

    def _beat(self) -> None:
        if (connection := self._reconnecting.connection) is not None:
            self._presence.beat(connection)
            connection.flush()

    def _answered(self, figures: Figures, asked: float) -> None:
        self._reconnecting.answered()
        before = self._figures
        if before is not None and (figures.nodes < before.nodes or figures.came != before.came):
            # One that has died, perhaps cut off or replaced, may have stored messages and not published them.
            self._local.examine(None)
        self._figures, self._whole = figures, self._presence.complete
        self._alive_until = max(self._alive_until, asked + self._lease)
        self._clock.measured(asked, figures.time)
        if figures.purged:
            self._beat()
        if figures.unsettled or not self._presence.complete:
            # While the server did not know this node, it said nothing of what changed here.
            self._announcements.compare_in(figures.unsettled / 1000 + 0.01)
