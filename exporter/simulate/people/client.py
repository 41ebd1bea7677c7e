"""One client (a tab, a phone) of one person: it connects, joins, reads, writes, loses its network, comes back.

Knows the protocol and what a person does; which messages are due when is the crowd's affair.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random

import aiohttp
import msgspec
from yarl import URL

from exporter.core.errors import ErrorCode
from exporter.core.events import Join, Leave, Ping, Read, Send, Typing
from exporter.core.protocol import CloseCode
from exporter.simulate.client.connection import ClientConnection
from exporter.simulate.client.frames import Ack, Deleted, Error, Frame, Joined, Left, NewMessage, Welcome, decode
from exporter.simulate.people.context import SimulationContext
from exporter.simulate.people.drafts import Allowance, Draft

_encode = msgspec.json.Encoder().encode

FIRST_CLIENT_OPENS, OTHER_CLIENTS_OPEN = 12, 3  # conversations
ANSWER_TIMEOUT = 10.0  # seconds; a real client then sends again, too
_RETRY = frozenset((ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL, ErrorCode.RATE_LIMITED, ErrorCode.NOT_JOINED))


@dataclass(slots=True, eq=False)
class Client:
    """One client of person ``person``. ``live`` is its life; the crowd says when it is wanted and what it writes."""

    context: SimulationContext[Client]
    person: int
    opens: list[int]
    random: Random
    starts_at: float
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    connection: ClientConnection | None = None
    joined: set[int] = field(default_factory=set)
    latest: dict[int, int] = field(default_factory=dict)  # by conversation: the highest seq known
    drafts: dict[str, Draft] = field(default_factory=dict)
    allowance: Allowance = field(default_factory=Allowance)
    _left: URL | None = None  # the node where it was connected before
    _pause: float = 0.0
    looking: bool = True
    _looked_again: float = -math.inf
    _leaving: bool = False
    _ending: bool = False  # this end of the connection brings the end about
    _timers: set[asyncio.TimerHandle] = field(default_factory=set)

    # --- connections ----------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Forever: while it is wanted it is connected, or trying to be."""
        failures = 0
        while True:
            await self.wanted.wait()
            wait = await self._connect()
            failures = 0 if wait is None else failures + 1
            # Full jitter: after a restart of the server not everybody comes back at once.
            limit = min(3.0, 0.25 * 2 ** min(failures, 5))
            await asyncio.sleep(max(wait or 0.0, self.random.uniform(0.02, limit)))

    async def _connect(self) -> float | None:
        """One connection from beginning to end. None: there was one; else how long the server says to wait."""
        meter = self.context.meter
        left, self._left = self._left, None  # when another does not answer, that one will do, too
        try:
            async with self.context.gate:
                connection = await self.context.open(self.person, left)
        except aiohttp.WSServerHandshakeError as error:
            meter.rejected[str(error.status)] += not self.context.closing
            retry_after = error.headers.get("Retry-After", "") if error.headers else ""
            return min(float(retry_after), 10.0) if retry_after.isdecimal() else 0.0
        except (aiohttp.ClientError, OSError, TimeoutError):
            meter.rejected["unreachable"] += not self.context.closing
            return 0.0
        self.connection, self._leaving, self._ending, self.looking = connection, False, False, True
        meter.connected(self.person, moved=left not in (None, connection.url))
        self._left = connection.url
        try:
            await self._read(connection)
        finally:
            self._disconnected(connection)
            await connection.drop()
        return None

    async def _read(self, connection: ClientConnection) -> None:
        self._misfortunes()
        async for frame in connection.frames():
            try:
                self._handle(connection, decode(frame))
            except msgspec.DecodeError:
                self.context.meter.errors["unreadable"] += 1
            if self._pause:
                await self._look_away(connection)

    def _disconnected(self, connection: ClientConnection) -> None:
        context, now = self.context, self.context.clock()
        self.connection = None
        while self._timers:
            self._timers.pop().cancel()
        code = connection.close_code
        context.ledger.closed(connection.number, now, too_slow=code == CloseCode.SLOW_CONSUMER)
        while self.joined:
            context.quit(self, self.joined.pop())
        context.disconnected(self, self.person)
        if not self._ending and code not in (None, CloseCode.NORMAL):
            context.meter.closed[str(int(code))] += 1

    def log_off(self) -> None:
        """Going home: half of the people close their conversations first, the others just the window."""
        self.wanted.clear()
        if self.connection is None or self._leaving:
            return
        self._leaving = True
        if self.joined and self.random.random() < 0.5:
            for conversation in list(self.joined):
                self._leave(self.connection, conversation)
            self._later(2.0, self._close)
        else:
            self.context.ledger.closed(self.connection.number, self.context.clock())
            self._close()

    def _close(self) -> None:
        if self.connection is not None:
            self._leaving = self._ending = True
            self.context.spawn(self.connection.close())

    # --- misfortunes ----------------------------------------------------------------------------------------

    def _misfortunes(self) -> None:
        person = self.context.organisation.people[self.person]
        if person.abort_every:
            self._later(self.random.expovariate(1 / person.abort_every), self._lose_network)
        if person.pause_every:
            self._later(self.random.expovariate(1 / person.pause_every), self._get_distracted)
        self._later(self.random.uniform(10, 50), self._look_elsewhere)
        self._later(self.random.uniform(5, 60), partial(self._put, Ping("are-you-there")))

    def _lose_network(self) -> None:
        if self.connection is not None and not self.context.calm:
            self._ending = True
            self.context.meter.resets += 1
            self.connection.reset()

    def _get_distracted(self) -> None:
        if not self.context.calm and self.looking:
            self._pause = self.random.uniform(1.0, 5.0)
        pause_every = self.context.organisation.people[self.person].pause_every
        self._later(self.random.expovariate(1 / max(1.0, pause_every)), self._get_distracted)

    async def _look_away(self, connection: ClientConnection) -> None:
        """A slow reader: the socket fills up meanwhile."""
        seconds, self._pause, self.looking = self._pause, 0.0, False
        self.context.ledger.paused(connection.number, self.context.clock())
        with suppress(TimeoutError):
            await asyncio.wait_for(self.context.calmed.wait(), seconds)
        self.looking, self._looked_again = True, self.context.clock()
        self.context.ledger.resumed(connection.number, self._looked_again)

    def _look_elsewhere(self) -> None:
        """Close one conversation and open it again a little later."""
        if self.connection is not None and len(self.joined) > 1 and not self.context.calm and not self._leaving:
            conversation = self.random.choice(sorted(self.joined))
            self._leave(self.connection, conversation)
            self._later(self.random.uniform(2, 8), partial(self._join, conversation))
        self._later(self.random.uniform(10, 50), self._look_elsewhere)

    # --- commands -------------------------------------------------------------------------------------------

    def _put(self, command: object) -> None:
        if self.connection is not None:
            self.connection.put(_encode(command))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do this unless the connection is over by then."""

        def run() -> None:
            self._timers.discard(timer)
            act()

        timer = self.context.later(seconds, run)
        self._timers.add(timer)

    def _join(self, conversation: int) -> None:
        if not self._leaving and self.connection is not None:
            self.context.ledger.asked(self.connection.number, conversation)
            self._put(Join(self.context.organisation.conversations[conversation], f"join:{conversation}"))

    def _leave(self, connection: ClientConnection, conversation: int) -> None:
        self.joined.discard(conversation)
        self.context.quit(self, conversation)
        self.context.ledger.left(connection.number, conversation, self.context.clock())
        connection.put(_encode(Leave(self.context.organisation.conversations[conversation])))

    def types(self, conversation: int, active: bool) -> None:
        """Start (or refresh) or stop typing."""
        if conversation in self.joined and self.can_afford():
            self.context.meter.typing += active
            self._put(Typing(self.context.organisation.conversations[conversation], active))

    def can_write(self, conversation: int) -> bool:
        """Is it connected, has it joined, and may it send another frame without being rate limited?"""
        there = self.connection is not None and self.looking and not self._leaving
        return there and conversation in self.joined and self.can_afford(False)

    def _attentive(self, now: float) -> bool:
        """What somebody finds who looked away says nothing about the server's latency."""
        return now - self._looked_again > 1.0

    def can_afford(self, spend: bool = True) -> bool:
        """Does it keep below the server's limit of frames per second, as a well-behaved client does?"""
        return self.allowance.take(self.context.clock(), spend)

    def write(self, n: int, conversation: int, body: str) -> None:
        """Send the n-th message, again and again until it is acknowledged."""
        self.can_afford()
        draft = Draft(n, conversation, body)
        self.drafts[self.context.ledger.id_of(n)] = draft
        self._send(draft)

    def _send(self, draft: Draft) -> None:
        if self.connection is None or draft.conversation not in self.joined:
            return  # once it has joined again
        if draft.sent_at:
            self.context.meter.resent += 1
        else:
            self.context.meter.sent += 1
        draft.sent_at, draft.retry_at, draft.connection = self.context.clock(), 0.0, self.connection.number
        content = self.context.organisation.people[self.person].name, draft.body
        self.context.ledger.sent(draft.n, content, self.connection.number, draft.sent_at)
        id = self.context.ledger.id_of(draft.n)
        self._put(Send(self.context.organisation.conversations[draft.conversation], draft.body, id))

    def look_after_drafts(self, now: float) -> None:
        """Send again what was refused for now, or was not answered for long."""
        for draft in list(self.drafts.values()):
            due = draft.retry_at or draft.sent_at + ANSWER_TIMEOUT
            if draft.sent_at and due <= now and self.can_afford():
                self._send(draft)

    # --- frames ---------------------------------------------------------------------------------------------

    def _handle(self, connection: ClientConnection, frame: Frame) -> None:
        match frame:
            case NewMessage():
                self._on_message(connection, frame)
            case Ack():
                self._on_ack(connection, frame)
            case Joined():
                self._on_joined(connection, frame)
            case Error():
                self._on_error(frame)
            case Welcome():
                self._on_welcome(frame)
            case Left():
                self._on_left(connection, frame)
            case Deleted():
                if (conversation := self.context.number_of(frame.conversation)) is not None:
                    self.context.ledger.deleted(conversation, frame.seq)

    def _on_welcome(self, frame: Welcome) -> None:
        self.context.welcomed(self, frame.connection)
        self.allowance.limit(frame.limits.get("frames_per_second", 50))
        for position, conversation in enumerate(self.opens):
            self._later(position / self.allowance.per_second, partial(self._join, conversation))

    def _on_joined(self, connection: ClientConnection, frame: Joined) -> None:
        conversation, context = self.context.number_of(frame.conversation), self.context
        if conversation is None or self._leaving or conversation in self.joined:
            return
        context.ledger.joined(connection.number, conversation, frame.last_seq, context.clock())
        self.joined.add(conversation)
        context.enter(self, conversation)
        known = self.latest.get(conversation)
        if known is not None and known < frame.last_seq:
            context.spawn(context.catch_up(self.person, conversation, known))
        self.latest[conversation] = max(frame.last_seq, known or 0)
        for draft in list(self.drafts.values()):
            if draft.conversation == conversation and (draft.connection != connection.number or draft.retry_at):
                self._send(draft)

    def _on_left(self, connection: ClientConnection, frame: Left) -> None:
        conversation = self.context.number_of(frame.conversation)
        if conversation is not None:
            self.context.ledger.has_left(connection.number, conversation)
        if frame.reason is not None and conversation in self.joined:  # removed by somebody
            self.joined.discard(conversation)
            self.context.quit(self, conversation)
            self.context.ledger.left(connection.number, conversation, self.context.clock())
        if self._leaving and not self.joined:
            self._close()

    def _on_ack(self, connection: ClientConnection, frame: Ack) -> None:
        context = self.context
        now = context.clock()
        seconds = context.ledger.answered(connection.number, frame.id, frame.seq, now)
        if seconds is not None and self._attentive(now):
            context.meter.acknowledged(seconds)
        draft = self.drafts.pop(frame.id, None)
        if draft is None:
            return
        self.latest[draft.conversation] = max(self.latest.get(draft.conversation, 0), frame.seq)
        if self.context.organisation.people[self.person].abort_every and self.random.random() < 0.03:
            self._send(draft)  # a phone that forgot that it was answered; must be acknowledged again, with the same seq

    def _on_message(self, connection: ClientConnection, frame: NewMessage) -> None:
        context = self.context
        conversation = context.number_of(frame.conversation)
        if conversation is None:
            return
        now = context.clock()
        seconds = context.ledger.delivered(connection.number, conversation, frame.seq, frame.id, frame.content, now)
        if seconds is not None and self._attentive(now):
            context.meter.delivered(seconds)
        self.latest[conversation] = max(self.latest.get(conversation, 0), frame.seq)
        # About two people look at a message at once: everybody would cost the square of the audience in frames.
        if self.random.random() * context.audience_size(conversation) < 2:
            self._later(self.random.uniform(0.2, 3.0), partial(self._look_at, conversation))

    def _look_at(self, conversation: int) -> None:
        if conversation in self.joined and self.can_afford():
            self.context.meter.reads += 1
            self._put(Read(self.context.organisation.conversations[conversation], self.latest[conversation]))

    def _on_error(self, frame: Error) -> None:
        context = self.context
        context.meter.errors[frame.code] += 1
        draft = self.drafts.get(frame.id or "")
        if draft is not None:
            context.ledger.refused(draft.n)
            if frame.code in _RETRY:
                draft.retry_at = context.clock() + self.random.uniform(0.3, 1.5)
            else:
                context.meter.given_up += 1
                del self.drafts[frame.id or ""]
        elif frame.id is not None and frame.id.startswith("join:") and frame.code in _RETRY:
            conversation = int(frame.id.removeprefix("join:"))
            self._later(self.random.uniform(0.3, 1.5), partial(self._join, conversation))
