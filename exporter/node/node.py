"""Hub, store, broker and metrics together: the only road from a command to its consequences.

Orchestration only. It knows no HTTP and no sockets, and it decides nothing about state: what may happen is the
hub's and the store's business, what it looks like on the wire is the protocol's. After every await it asks the
hub again, because the connection may have gone meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence, Set
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from exporter.broker import Broker, Envelope, LocalBroker
from exporter.core import protocol
from exporter.core.errors import Forbidden, NotFound, Refusal, Unavailable
from exporter.core.events import (
    ClosedReason,
    Command,
    ConversationId,
    HubEvent,
    Join,
    Leave,
    ParticipantJoined,
    ParticipantLeft,
    Ping,
    Read,
    Send,
    Typing,
    TypingStarted,
    TypingStopped,
    TypingStoppedReason,
    UserId,
)
from exporter.core.hub import Hub
from exporter.core.records import ClusterStats, Conversation, Draft, Membership, Message, ReadMark
from exporter.core.websocket_frames import text_frame
from exporter.metrics.instruments import Cell
from exporter.metrics.names import Metrics
from exporter.node.fanout import NOBODY, Outbox, Turn
from exporter.node.join_consistency import Joining
from exporter.store import Store

log = structlog.get_logger(__name__)

# Refused sends whose connection is remembered, in case they turn out to be durable: one second's at full speed.
REMEMBERED: Final = 10_000


# What the others in a conversation are told of an event; a table, because ``match`` costs 1 µs here.
_TOLD: Final[dict[type[HubEvent], Callable[[Any], msgspec.Struct]]] = {
    TypingStarted: lambda event: protocol.SomebodyTyping(event.conversation, event.user, True),
    TypingStopped: lambda event: protocol.SomebodyTyping(event.conversation, event.user, False),
    ParticipantJoined: lambda event: protocol.SomebodyJoined(event.conversation, event.user),
    ParticipantLeft: lambda event: protocol.SomebodyLeft(event.conversation, event.user),
}


class Peer(Outbox):
    """A connection as the node sees it: somewhere to put frames, with the sends that it still waits for."""

    __slots__ = ("sends_in_flight",)

    sends_in_flight: int

    def settled(self) -> None:
        """The last send in flight was answered."""


class Node:
    """One process of the product: everything but HTTP.

    ``now`` is monotonic seconds, ``wall`` Unix seconds; ``store`` must call ``recovered`` for late messages.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        turn: Turn,
        *,
        typing_timeout: float = 6.0,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.hub: Hub[Peer] = Hub(typing_timeout=typing_timeout)
        self.store = store
        self.metrics = metrics
        self.turn = turn
        self.broker: Broker[Peer] = LocalBroker(self.deliver)
        self._now = now
        self._wall = wall
        self._typed = Cell()  # typing commands carried out and not observed yet
        self._observe_typing = metrics.command_duration["typing"].observe_alike
        self._under_way: set[asyncio.Future[None]] = set()
        self._typing_timer: asyncio.TimerHandle | None = None
        self._refused_sends: dict[tuple[ConversationId, UserId, str], Peer] = {}
        self._joining = Joining(store)
        self._verbs: dict[type[Command], Callable[[Peer, Any, float], asyncio.Future[None] | None]] = {
            Join: self._join,
            Leave: self._leave,
            Typing: self._typing,
            Send: self._send,
            Read: self._read,
            Ping: self._ping,
        }

    # --- connections --------------------------------------------------------------------------------------

    def open(self, peer: Peer) -> None:
        """A connection was authenticated and accepted."""
        self._emit(self.hub.open(peer, peer.user))

    def close(self, peer: Peer, reason: ClosedReason) -> None:
        """A connection ended; ending twice is ending once."""
        for conversation in self.hub.joined(peer):
            self.turn.settle(conversation)
        self._emit(self.hub.close(peer, reason))

    def handle(self, peer: Peer, command: Command, received: float) -> asyncio.Future[None] | None:
        """Carry out one command. A future: the connection's next command has to wait for it.

        Never raises: a refusal is answered and counted, and a defect costs this command only.
        """
        try:
            return self._verbs[type(command)](peer, command, received)
        except Refusal as refusal:
            self._refuse_command(peer, command, refusal, received)
        except Exception:  # a defect here must not end the connection, let alone the process
            self._failed(peer, command, received)
        return None

    def handled(self, received: float) -> None:
        """All commands that were received together have been carried out: to be told by whoever calls ``handle``.

        Typing comes in bursts and is the cheapest command, so a clock reading and an observation for each would be a
        tenth of it: those of one read are observed together, when the last of them is done.
        """
        if self._typed.value:
            self._observe_typing(self._now() - received, self._typed.value)
            self._typed.value = 0

    def refuse(self, peer: Peer, command: str, refusal: Refusal, id: str | None) -> None:
        """Answer a refusal and count it."""
        self.metrics.commands_rejected[command, refusal.code].value += 1
        peer.put(text_frame(protocol.error(refusal, id)))

    def _failed(self, peer: Peer, command: Command, received: float) -> None:
        log.exception("command failed", command=protocol.COMMANDS[type(command)])
        self._refuse_command(peer, command, Refusal("something went wrong here"), received)

    def _refuse_command(self, peer: Peer, command: Command, refusal: Refusal, received: float) -> None:
        name = protocol.COMMANDS[type(command)]
        self.refuse(peer, name, refusal, getattr(command, "id", None))
        self.metrics.command_duration[name].observe(self._now() - received)

    # --- commands -----------------------------------------------------------------------------------------

    def _typing(self, peer: Peer, command: Typing, received: float) -> None:
        # Now, not when it was received: it may have waited behind a join, and the deadlines must come in order.
        events = self.hub.set_typing(peer, command.conversation, command.active, self._now())
        if events:
            self._emit(events)
        if command.active and self._typing_timer is None:
            self._arm_typing_timer()
        self._typed.value += 1

    def _ping(self, peer: Peer, command: Ping, received: float) -> None:
        peer.put(text_frame(protocol.encode(protocol.Pong(command.id))))
        self.metrics.command_duration["ping"].observe(self._now() - received)

    def _leave(self, peer: Peer, command: Leave, received: float) -> None:
        self.turn.settle(command.conversation)
        events = self.hub.leave(peer, command.conversation)
        peer.put(text_frame(protocol.encode(protocol.Left(command.conversation, command.id))))
        self._emit(events)
        self.metrics.command_duration["leave"].observe(self._now() - received)

    def _join(self, peer: Peer, command: Join, received: float) -> asyncio.Future[None]:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        known = partial(self._membership_known, peer, command, received, answered)
        self._joining.ask(command.conversation, peer.user, known)
        self._under_way.add(answered)
        return answered

    def _membership_known(
        self,
        peer: Peer,
        command: Join,
        received: float,
        answered: asyncio.Future[None],
        question: asyncio.Future[Membership],
    ) -> None:
        try:
            membership = question.result()
            if not membership.member:
                raise Forbidden("only members may join")
            if self.hub.is_open(peer):
                self._let_in(peer, command, received, membership.last_seq)
        except Refusal as refusal:
            self._refuse_command(peer, command, refusal, received)
        except Exception:  # as in handle: a defect costs this command only
            self._failed(peer, command, received)
        self._under_way.discard(answered)
        answered.set_result(None)

    def _let_in(self, peer: Peer, command: Join, received: float, last_seq: int) -> None:
        conversation = command.conversation
        self.turn.settle(conversation)
        events = self.hub.join(peer, conversation)
        joined = protocol.Joined(conversation, self.hub.participants_of(conversation), last_seq, command.id)
        peer.put(text_frame(protocol.encode(joined)))
        self._emit(events)
        self.metrics.command_duration["join"].observe(self._now() - received)

    def _send(self, peer: Peer, command: Send, received: float) -> None:
        self.hub.require_joined(peer, command.conversation)
        draft = Draft(command.conversation, peer.user, command.id, command.body)
        self.store.send(draft, partial(self._sent, peer, command, received))
        peer.sends_in_flight += 1

    def _sent(self, peer: Peer, command: Send, received: float, outcome: Message | Refusal, duplicate: bool) -> None:
        """The store's answer, in the order of the commits."""
        peer.sends_in_flight -= 1
        if isinstance(outcome, Refusal):
            if isinstance(outcome, Unavailable):  # the only refusal whose message may be durable all the same
                self._remember_refused(peer, command)
            self._refuse_command(peer, command, outcome, received)
        else:
            peer.put(text_frame(protocol.ack(outcome)))
            elapsed = self._now() - received
            self.metrics.command_duration["send"].observe(elapsed)
            if not duplicate:
                self.metrics.message_persist_duration.observe(elapsed)
                self._accepted(outcome, peer, received)
        if not peer.sends_in_flight:
            peer.settled()

    def _remember_refused(self, peer: Peer, command: Send) -> None:
        self._refused_sends[command.conversation, peer.user, command.id] = peer
        if len(self._refused_sends) > REMEMBERED:
            del self._refused_sends[next(iter(self._refused_sends))]

    def recovered(self, message: Message) -> None:
        """A send whose outcome had not been known turned out to be durable: everybody else may know now."""
        peer = self._refused_sends.pop((message.conversation, message.sender, message.id), None)
        self._accepted(message, peer, None)

    def _accepted(self, message: Message, peer: Peer | None, received: float | None) -> None:
        self.metrics.messages_accepted.value += 1
        self._joining.accepted(message.conversation, message.seq)
        self._emit(self.hub.stop_typing(message.conversation, message.sender, TypingStoppedReason.MESSAGE))
        frame = protocol.Delivery(text_frame(protocol.new_message(message)))
        self.broker.publish(Envelope(message.conversation, frame, not_to=peer, received=received))

    def _read(self, peer: Peer, command: Read, received: float) -> None:
        self.hub.require_joined(peer, command.conversation)
        done = partial(self._marked_read, peer, command, received)
        self.store.mark_read(peer.user, command.conversation, command.seq, done)

    def _marked_read(self, peer: Peer, command: Read, received: float, outcome: ReadMark | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self._refuse_command(peer, command, outcome, received)
            return
        self.metrics.command_duration["read"].observe(self._now() - received)
        if not outcome.moved:
            return
        self.metrics.read_receipts.value += 1
        if outcome.sent_at is not None:
            self.metrics.read_lag.observe(max(0.0, self._wall() - outcome.sent_at.timestamp()))
        payload = protocol.encode(protocol.SomebodyRead(command.conversation, peer.user, command.seq))
        self.broker.publish(Envelope(command.conversation, text_frame(payload), not_to=peer))

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
            self._put_out(conversation, user)
            raise
        self._put_out(conversation, user)

    def _put_out(self, conversation: ConversationId, user: UserId) -> None:
        self._joining.removed(conversation)
        self.turn.settle(conversation)
        events, removed = self.hub.remove(conversation, user)
        left = text_frame(protocol.encode(protocol.Left(conversation, reason="removed")))
        for peer in removed:
            peer.put(left)
        self._emit(events)

    async def delete_message(self, conversation: ConversationId, seq: int, by: UserId, *, admin: bool) -> None:
        """Raises NotFound, Forbidden, Unavailable; the joined are told."""
        await asyncio.shield(self._spawn(self._delete(conversation, seq, by, admin)))

    async def _delete(self, conversation: ConversationId, seq: int, by: UserId, admin: bool) -> None:
        await self.store.delete_message(conversation, seq, by, admin)
        payload = protocol.encode(protocol.Deleted(conversation, seq))
        self.broker.publish(Envelope(conversation, text_frame(payload)))

    # --- consequences -------------------------------------------------------------------------------------

    def _emit(self, events: Iterable[HubEvent]) -> None:
        """Count what happened and tell those who should know."""
        for event in events:
            self.metrics.count(event)
            told = _TOLD.get(type(event))
            if told is not None:  # connections come and go without anybody being told
                self._tell(event.conversation, event.user, told, event)  # type: ignore[union-attr]  # the others have one

    def _tell(
        self, conversation: ConversationId, user: UserId, told: Callable[[Any], msgspec.Struct], event: HubEvent
    ) -> None:
        hub = self.hub
        if self.broker.alone and len(hub.audience(conversation)) == len(hub.tabs(conversation, user)):
            return  # nobody else is there: no frame is made, which is half of such an event's cost
        frame = text_frame(protocol.encode(told(event)))
        self.broker.publish(Envelope(conversation, frame, not_to_user=user))

    def deliver(self, envelope: Envelope[Peer]) -> None:
        """Hand a frame to everybody here whom it is for; the audience is asked now, after all awaits."""
        conversation, peer = envelope.conversation, envelope.not_to
        audience = self.hub.audience(conversation)
        but: Set[Outbox] = NOBODY
        if envelope.not_to_user is not None:
            but = self.hub.tabs(conversation, envelope.not_to_user)
        elif peer is not None and peer in audience:
            but = {peer}
        sent = len(audience) - len(but)
        if sent:
            self.turn.fan_out(conversation, audience, envelope.frame, but)
        if isinstance(envelope.frame, protocol.Delivery):
            self.metrics.deliveries.value += sent
            self.metrics.fanout_recipients.observe(sent)
            if envelope.received is not None and sent:
                self.turn.time(self.metrics.message_delivery_duration["local"], envelope.received)

    def cluster(self) -> ClusterStats | None:
        """The cluster's figures; when alone they are this node's."""
        stats = self.hub.stats()
        return ClusterStats(
            nodes=1,
            connections=stats.active_connections,
            users=stats.connected_users,
            conversations=stats.active_conversations,
            participants=stats.participants,
            typing_users=stats.typing_users,
            as_of=self._wall(),
        )

    # --- time ---------------------------------------------------------------------------------------------

    def _arm_typing_timer(self) -> None:
        deadline = self.hub.next_deadline()
        if deadline is None:
            self._typing_timer = None
            return
        # 1 ms: a loop whose clock is coarser than ours may come early, and must not spin
        delay = max(0.001, deadline - self._now())
        self._typing_timer = asyncio.get_running_loop().call_later(delay, self._typing_due)

    def _typing_due(self) -> None:
        try:
            self._emit(self.hub.expire_typing(self._now()))
        finally:
            self._arm_typing_timer()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def close_all(self) -> None:
        """Wait for the work that is under way, stop the timers."""
        if self._typing_timer is not None:
            self._typing_timer.cancel()
        if self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)
