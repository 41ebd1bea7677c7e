"""A node of several: what differs from one that is alone. Knows the broker's interface, not its wire.

Messages are handed out in the order of their numbers, also those of other nodes; what the broker has lost is read from
the database (``healing``). Who joined, left or types is announced as the cluster's truth, not this node's.

Tested in ``tests/node/test_cluster.py`` and ``tests/broker/test_disasters.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

import msgspec

from exporter.broker import Envelope
from exporter.broker.held_conversations import Numbers
from exporter.broker.location import Location, locate
from exporter.broker.redis import RedisBroker
from exporter.core import protocol
from exporter.core.errors import NotFound, Refusal
from exporter.core.events import ConversationId, Join, Send, TypingStoppedReason, UserId
from exporter.core.records import ClusterStats, Membership, Message
from exporter.core.websocket_frames import text_frame
from exporter.metrics.counters import Metrics
from exporter.node.fanout import FanOut
from exporter.node.healing import Healing
from exporter.node.join_consistency import Known
from exporter.node.node import Node
from exporter.node.publisher import NodeConnection
from exporter.node.same_database import SameDatabase
from exporter.store import Store

__all__ = ["ClusterNode", "locate"]

_ANNOUNCED: Final[dict[str, Callable[[ConversationId, UserId], msgspec.Struct]]] = {
    "J": protocol.SomebodyJoined,
    "L": protocol.SomebodyLeft,
}


@lru_cache(maxsize=1_000)  # who types says so again and again: 2 % of what a frame that comes alone costs two nodes
def _typing(conversation: ConversationId, user: UserId, active: bool) -> bytes:
    return text_frame(protocol.encode(protocol.SomebodyTyping(conversation, user, active)))


class ClusterNode(Node):
    """One node of a cluster, which operators know by ``name``. ``lease`` in seconds."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        fan_out: FanOut,
        *,
        location: Location,
        cluster: str,
        lease: float,
        name: str,
        **options: Any,
    ) -> None:
        super().__init__(store, metrics, fan_out, **options)
        self._sending: dict[tuple[ConversationId, UserId, str], NodeConnection] = {}
        self.redis: RedisBroker[NodeConnection] = RedisBroker(
            location,
            cluster,
            lease,
            hub=self.hub,
            local=self,
            meters=metrics,
            at_end_of_turn=fan_out.at_end_of_turn,
            turn=fan_out.turn,
            now=self._now,
            name=name,
        )
        self.user_connections.name = name
        self.user_connections.ask_other_nodes = self.redis.inquiries.ask
        missed = partial(self.examine, None)
        self._same_database = SameDatabase(self.redis.nodes_channel, store.identity, name, missed)
        self._healing = Healing(store, self.hub, self.redis, self.removed, self._sender)
        self.broker = self._publisher.broker = self.redis
        self._publisher.on_event = self.redis.events.on_event
        self.tell = self._publisher.tell  # to everybody here but the user

    async def start(self) -> None:
        """Join the cluster; an absent broker is waited for in the background. Raises Misconfigured."""
        await self.redis.start()

    async def close_all(self) -> None:
        """As alone; then leave the cluster: this node's part of the figures is gone at once."""
        await super().close_all()
        await self.redis.close()
        self._same_database.close()  # no connection is opened any more
        await self._healing.close()

    def cluster(self) -> ClusterStats | None:
        """The cluster's figures, as of the last beat; None while they are not known."""
        return self.redis.cluster()

    # --- what differs ---------------------------------------------------------------------------------------

    def _ask_membership(self, conversation: ConversationId, user: UserId, known: Known) -> None:
        # First the subscription, then the question: what is durable before the answer is in it, the rest comes live.
        self.redis.conversations.hold(conversation, partial(self._held, conversation, user, known))

    def _held(self, conversation: ConversationId, user: UserId, known: Known) -> None:
        answered = partial(self._answered, conversation, self.redis.conversations.known(conversation), known)
        try:
            super()._ask_membership(conversation, user, answered)
        except Refusal as refusal:
            refused: asyncio.Future[Membership] = asyncio.get_running_loop().create_future()
            refused.set_exception(refusal)
            known(refused)

    def _answered(
        self,
        conversation: ConversationId,
        before: Numbers | None,
        known: Known,
        question: asyncio.Future[Membership],
    ) -> None:
        if question.exception() is None and question.result().member:
            self.redis.conversations.found(conversation, question.result(), before)
        known(question)

    def _membership_known(
        self,
        connection: NodeConnection,
        command: Join,
        received: float,
        answered: asyncio.Future[None],
        question: asyncio.Future[Membership],
    ) -> None:
        conversation, held = command.conversation, self.redis.conversations
        last_seq = question.result().last_seq if question.exception() is None else 0
        if not held.lacks(conversation, last_seq):
            self._settle_join(connection, command, received, answered, question)
            return

        def go_on(changed: bool) -> None:
            if changed:
                known = partial(self._membership_known, connection, command, received, answered)
                self._held(conversation, connection.user, known)
            else:
                self._settle_join(connection, command, received, answered, question)

        # A message that the database has and that is not here yet belongs to those who joined before.
        held.catch_up(conversation, last_seq, go_on)

    def _settle_join(self, connection: NodeConnection, command: Join, *rest: Any) -> None:
        try:
            super()._membership_known(connection, command, *rest)
        finally:
            self._publisher.catch_up(command.conversation)  # before it may be let go of
            self.redis.conversations.settle(command.conversation)

    def _let_in(self, connection: NodeConnection, command: Join, received: float, last_seq: int) -> None:
        conversation = command.conversation
        upto = self.redis.conversations.begin(conversation, last_seq)
        events = self.hub.join(connection, conversation)
        user = connection.user
        participants, total = self.redis.conversations.participants(conversation, user, protocol.MAX_LISTED)
        connection.put(text_frame(protocol.joined(conversation, participants, total, user, upto, command.id)))
        self._publisher.emit(events)
        self.metrics.command_duration["join"].observe(self._now() - received)

    def _send(self, connection: NodeConnection, command: Send, received: float) -> None:
        super()._send(connection, command, received)
        self._sending[command.conversation, connection.user, command.id] = connection

    def _sent(self, connection: NodeConnection, command: Send, *rest: Any) -> None:
        self._sending.pop((command.conversation, connection.user, command.id), None)
        super()._sent(connection, command, *rest)

    def _sender(self, message: Message) -> NodeConnection | None:
        """The connection that waits for this message's acknowledgement, and must not get the message."""
        key = (message.conversation, message.sender, message.id)
        return self._sending.get(key) or self._refused_sends.get(key)

    async def _remove(self, conversation: ConversationId, by: UserId, user: UserId) -> None:
        try:
            await super()._remove(conversation, by, user)
        except NotFound:
            self.redis.publish_removal(conversation, user)
            raise
        self.redis.publish_removal(conversation, user)

    # --- what the broker asks -----------------------------------------------------------------------------------

    def deliver(self, envelope: Envelope[NodeConnection]) -> None:
        """Hand a frame to everybody here whom it is for."""
        self._publisher.deliver(envelope)

    def announce(self, word: str, conversation: str, user: str) -> None:
        """Tell everybody here but the user: joined, left, types, no longer types."""
        audience = self.hub.audience(conversation)
        if len(audience) == len(self.hub.connections_in(conversation, user)):
            return  # nobody else is here
        self._publisher.tell(conversation, user, self.announcement(word, conversation, user))

    def announcement(self, word: str, conversation: str, user: str) -> bytes:
        """What people are sent."""
        if word == "T" or word == "U":
            return _typing(conversation, user, word == "T")
        return text_frame(protocol.encode(_ANNOUNCED[word](conversation, user)))

    def said(self, conversation: str, user: str) -> None:
        """A message ends its sender's typing, also with a connection on another node."""
        if (conversation, user) in self.hub.typing:
            self._publisher.emit(self.hub.stop_typing(conversation, user, TypingStoppedReason.MESSAGE))

    def removed(self, conversation: str, user: str) -> None:
        """The user is no longer a member: their connections here leave."""
        self._remove_from_hub(conversation, user)

    def _remove_from_hub(self, conversation: ConversationId, user: UserId) -> None:
        self.redis.conversations.removed(conversation)
        super()._remove_from_hub(conversation, user)

    def connections_of(self, user: str, disconnect: bool) -> list[float]:
        """When the user's connections here were opened; ``disconnect``: they are ended."""
        return self.user_connections.on_this_node(user, disconnect)

    def heal(self, conversation: str, after: int, through: int) -> None:
        """Read the messages that are missing."""
        self._healing.heal(conversation, after, through)

    def examine(self, pairs: list[tuple[str, str]] | None) -> None:
        """Ask the database about participants."""
        self._healing.examine(pairs)
