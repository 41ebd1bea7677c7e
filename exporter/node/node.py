"""Hub, store, broker and metrics together: the only way from a command to its consequences.

Orchestration only. It knows no HTTP and no sockets, and it decides nothing about state: what may happen is the
hub's and the store's business, what it looks like on the wire is the protocol's. After every await it asks the
hub again, because the connection may have gone meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import structlog
from msgspec.structs import astuple

from exporter.broker import Envelope
from exporter.core import protocol
from exporter.core.errors import Forbidden, NotFound, Refusal, Unavailable
from exporter.core.events import (
    COMMANDS,
    ClosedReason,
    Command,
    ConversationId,
    Join,
    Leave,
    Ping,
    Read,
    Send,
    Typing,
    TypingStoppedReason,
    UserId,
)
from exporter.core.heavy_hitters import HeavyHitters
from exporter.core.hub import Hub
from exporter.core.records import ClusterStats, Conversation, Draft, Membership, Message, ReadMark
from exporter.core.websocket_frames import text_frame
from exporter.metrics.counters import Metrics
from exporter.metrics.instruments import Cell
from exporter.node.fanout import FanOut
from exporter.node.join_consistency import JoinConsistency, Known
from exporter.node.publisher import NodeConnection, Publisher
from exporter.node.user_connections import UserConnections
from exporter.store import Store

log = structlog.get_logger(__name__)

# Refused sends whose connection is remembered, in case they turn out to be durable: one second's at full speed.
REMEMBERED: Final = 10_000


class Node:
    """One process of the product: everything but HTTP.

    ``now`` is monotonic seconds, ``wall`` Unix seconds; ``store`` must call ``resolved`` for late messages.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        fan_out: FanOut,
        *,
        typing_timeout: float = 6.0,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.hub: Hub[NodeConnection] = Hub(typing_timeout=typing_timeout)
        self.store = store
        self.metrics = metrics
        self.fan_out = fan_out
        self._publisher = Publisher(self.hub, metrics, fan_out)
        self.broker = self._publisher.broker
        self._now = now
        self._wall = wall
        self.user_connections = UserConnections(self.hub, now, wall)
        self._typed = Cell()  # typing commands carried out and not observed yet
        self._observe_typing = metrics.command_duration["typing"].observe_many
        self._under_way: set[asyncio.Future[None]] = set()
        self._typing_timer: asyncio.TimerHandle | None = None
        self._refused_sends: dict[tuple[ConversationId, UserId, str], NodeConnection] = {}
        self._join_consistency = JoinConsistency(store)
        self.busiest: HeavyHitters[ConversationId] = HeavyHitters()  # conversations of the last hour, by messages
        self._handlers: dict[type[Command], Callable[[NodeConnection, Any, float], asyncio.Future[None] | None]] = {
            Join: self._join,
            Leave: self._leave,
            Typing: self._typing,
            Send: self._send,
            Read: self._read,
            Ping: self._ping,
        }

    # --- connections --------------------------------------------------------------------------------------

    def open(self, connection: NodeConnection) -> None:
        """A connection was authenticated and accepted."""
        self._publisher.emit(self.hub.open(connection, connection.user))

    def close(self, connection: NodeConnection, reason: ClosedReason) -> None:
        """A connection ended; ending twice is ending once."""
        self._publisher.emit(self.hub.close(connection, reason))

    def handle(self, connection: NodeConnection, command: Command, received: float) -> asyncio.Future[None] | None:
        """Carry out one command. A future: the connection's next command has to wait for it.

        Never raises: a refusal is answered and counted, and a defect costs this command only.
        """
        try:
            return self._handlers[type(command)](connection, command, received)
        except Refusal as refusal:
            self._refuse_command(connection, command, refusal, received)
        except Exception:  # a defect here must not end the connection, let alone the process
            self._failed(connection, command, received)
        return None

    def handled(self, received: float) -> None:
        """All commands that were received together have been carried out: to be told by whoever calls ``handle``.

        Typing comes in bursts and is the cheapest command, so a clock reading and an observation for each would be a
        tenth of it: those of one read are observed together, when the last of them is done.
        """
        typed = self._typed
        if typed.value:
            now, observe = self._now, self._observe_typing  # local names: docs/benchmarks.md
            observe(now() - received, typed.value)
            typed.value = 0

    def refuse(self, connection: NodeConnection, command: str, refusal: Refusal, id: str | None) -> None:
        """Answer a refusal and count it."""
        self.metrics.commands_rejected[command, refusal.code].value += 1
        connection.put(text_frame(protocol.error(refusal, id)))

    def _failed(self, connection: NodeConnection, command: Command, received: float) -> None:
        log.exception("command failed", command=COMMANDS[type(command)])
        self._refuse_command(connection, command, Refusal("something went wrong here"), received)

    def _refuse_command(self, connection: NodeConnection, command: Command, refusal: Refusal, received: float) -> None:
        name = COMMANDS[type(command)]
        self.refuse(connection, name, refusal, getattr(command, "id", None))
        self.metrics.command_duration[name].observe(self._now() - received)

    # --- commands -----------------------------------------------------------------------------------------

    def _typing(self, connection: NodeConnection, command: Typing, received: float) -> None:
        # Now, not when it was received: it may have waited behind a join, and the deadlines must come in order.
        now = self._now  # as above
        events = self.hub.set_typing(connection, command.conversation, command.active, now())
        if events:
            self._publisher.emit(events)
        if command.active and self._typing_timer is None:
            self._arm_typing_timer()
        self._typed.value += 1

    def _ping(self, connection: NodeConnection, command: Ping, received: float) -> None:
        connection.put(text_frame(protocol.encode(protocol.Pong(command.id))))
        self.metrics.command_duration["ping"].observe(self._now() - received)

    def _leave(self, connection: NodeConnection, command: Leave, received: float) -> None:
        events = self.hub.leave(connection, command.conversation)
        connection.put(text_frame(protocol.encode(protocol.Left(command.conversation, command.id))))
        self._publisher.emit(events)
        self.metrics.command_duration["leave"].observe(self._now() - received)

    def _join(self, connection: NodeConnection, command: Join, received: float) -> asyncio.Future[None]:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        known = partial(self._membership_known, connection, command, received, answered)
        self._under_way.add(answered)
        self._ask_membership(command.conversation, connection.user, known)
        return answered

    def _ask_membership(self, conversation: ConversationId, user: UserId, known: Known) -> None:
        self._join_consistency.ask(conversation, user, known)

    def _membership_known(
        self,
        connection: NodeConnection,
        command: Join,
        received: float,
        answered: asyncio.Future[None],
        question: asyncio.Future[Membership],
    ) -> None:
        try:
            membership = question.result()
            if not membership.member:
                raise Forbidden("only members may join")
            if self.hub.is_open(connection):
                self._let_in(connection, command, received, membership.last_seq)
        except Refusal as refusal:
            self._refuse_command(connection, command, refusal, received)
        except Exception:  # as in handle: a defect costs this command only
            self._failed(connection, command, received)
        self._under_way.discard(answered)
        answered.set_result(None)

    def _let_in(self, connection: NodeConnection, command: Join, received: float, last_seq: int) -> None:
        conversation = command.conversation
        events = self.hub.join(connection, conversation)
        participants = self.hub.participants_of(conversation)
        joined = protocol.joined(conversation, participants, len(participants), connection.user, last_seq, command.id)
        connection.put(text_frame(joined))
        self._publisher.emit(events)
        self.metrics.command_duration["join"].observe(self._now() - received)

    def _send(self, connection: NodeConnection, command: Send, received: float) -> None:
        self.hub.require_joined(connection, command.conversation)
        draft = Draft(command.conversation, connection.user, command.id, command.body)
        self.store.send(draft, partial(self._sent, connection, command, received))
        connection.sends_in_flight += 1

    def _sent(
        self, connection: NodeConnection, command: Send, received: float, outcome: Message | Refusal, duplicate: bool
    ) -> None:
        """The store's answer, in the order of the commits."""
        connection.sends_in_flight -= 1
        if isinstance(outcome, Refusal):
            if isinstance(outcome, Unavailable):  # the only refusal whose message may be durable all the same
                self._remember_refused(connection, command)
            self._refuse_command(connection, command, outcome, received)
        else:
            connection.put(text_frame(protocol.ack(outcome)))
            elapsed = self._now() - received
            self.metrics.command_duration["send"].observe(elapsed)
            if not duplicate:
                self.metrics.message_persist_duration.observe(elapsed)
                self._accepted(outcome, connection, received)
        if not connection.sends_in_flight:
            connection.on_sends_answered()

    def _remember_refused(self, connection: NodeConnection, command: Send) -> None:
        self._refused_sends[command.conversation, connection.user, command.id] = connection
        if len(self._refused_sends) > REMEMBERED:
            del self._refused_sends[next(iter(self._refused_sends))]

    def resolved(self, message: Message) -> None:
        """A send whose outcome had not been known turned out to be durable: everybody else may know now."""
        connection = self._refused_sends.pop((message.conversation, message.sender, message.id), None)
        self._accepted(message, connection, None)

    def _accepted(self, message: Message, connection: NodeConnection | None, received: float | None) -> None:
        self.metrics.messages_accepted.value += 1
        self.busiest.count(message.conversation, self._now())
        self._join_consistency.accepted(message.conversation, message.seq)
        self._publisher.emit(self.hub.stop_typing(message.conversation, message.sender, TypingStoppedReason.MESSAGE))
        frame = text_frame(protocol.new_message(message))
        conversation, seq, sender = message.conversation, message.seq, message.sender
        self.broker.publish(Envelope(conversation, frame, connection, None, received, seq, False, False, sender))

    def _read(self, connection: NodeConnection, command: Read, received: float) -> None:
        self.hub.require_joined(connection, command.conversation)
        done = partial(self._marked_read, connection, command, received)
        self.store.mark_read(connection.user, command.conversation, command.seq, done)

    def _marked_read(
        self, connection: NodeConnection, command: Read, received: float, outcome: ReadMark | Refusal
    ) -> None:
        if isinstance(outcome, Refusal):
            self._refuse_command(connection, command, outcome, received)
            return
        self.metrics.command_duration["read"].observe(self._now() - received)
        if not outcome.moved:
            return
        self.metrics.read_receipts.value += 1
        if outcome.sent_at is not None:
            self.metrics.read_lag.observe(max(0.0, self._wall() - outcome.sent_at.timestamp()))
        payload = protocol.encode(protocol.SomebodyRead(command.conversation, connection.user, command.seq))
        self.broker.publish(Envelope(command.conversation, text_frame(payload), exclude=connection))

    # --- what HTTP asks -----------------------------------------------------------------------------------

    async def create_conversation(
        self, id: ConversationId | None, creator: UserId, participants: Sequence[UserId]
    ) -> Conversation:
        """The creator is a member. Raises Conflict, Unavailable."""
        return await self.store.create_conversation(id, creator, participants)

    async def add_participants(self, conversation: ConversationId, by: UserId, users: Sequence[UserId]) -> Conversation:
        """Raises NotFound, Forbidden, Unavailable."""
        return await self.store.add_participants(conversation, by, users)

    async def remove_participant(self, conversation: ConversationId, by: UserId, user: UserId) -> None:
        """No longer a member; the user's connections leave at once. Raises NotFound, Forbidden, Unavailable."""
        await asyncio.shield(self._spawn(self._remove(conversation, by, user)))

    async def _remove(self, conversation: ConversationId, by: UserId, user: UserId) -> None:
        try:
            await self.store.remove_participant(conversation, by, user)
        except NotFound:
            # Who is no member must not take part: so also after a removal whose answer was lost.
            self._remove_from_hub(conversation, user)
            raise
        self._remove_from_hub(conversation, user)

    def _remove_from_hub(self, conversation: ConversationId, user: UserId) -> None:
        self._join_consistency.removed(conversation)
        events, removed = self.hub.remove(conversation, user)
        left = text_frame(protocol.encode(protocol.Left(conversation, reason="removed")))
        for connection in removed:
            connection.put(left)
        self._publisher.emit(events)

    async def delete_message(self, conversation: ConversationId, seq: int, by: UserId, *, admin: bool) -> None:
        """Raises NotFound, Forbidden, Unavailable; the joined are told."""
        await asyncio.shield(self._spawn(self._delete(conversation, seq, by, admin)))

    async def _delete(self, conversation: ConversationId, seq: int, by: UserId, admin: bool) -> None:
        await self.store.delete_message(conversation, seq, by, admin)
        payload = protocol.encode(protocol.Deleted(conversation, seq))
        self.broker.publish(Envelope(conversation, text_frame(payload), seq=seq, lasting=True))

    # --- figures ------------------------------------------------------------------------------------------

    def cluster(self) -> ClusterStats | None:
        """The cluster's figures; when alone they are this node's."""
        connections, users, conversations, participants, typing_users = astuple(self.hub.stats())
        return ClusterStats(1, connections, users, conversations, participants, typing_users, self._wall())

    # --- time ---------------------------------------------------------------------------------------------

    def _arm_typing_timer(self) -> None:
        self._typing_timer = None
        if (deadline := self.hub.next_deadline()) is None:
            return
        # 1 ms: a loop whose clock is coarser than ours may come early, and must not spin
        self._typing_timer = asyncio.get_running_loop().call_later(max(0.001, deadline - self._now()), self._typing_due)

    def _typing_due(self) -> None:
        try:
            self._publisher.emit(self.hub.expire_typing(self._now()))
        finally:
            self._arm_typing_timer()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def start(self) -> None:
        """Begin. Raises Misconfigured."""

    async def close_all(self) -> None:
        """Wait for the work that is under way, stop the timers."""
        if self._typing_timer:
            self._typing_timer.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
