"""One window of one person: connects, joins, reads, writes, loses its network, comes back, sends again.

Knows the protocol and what a person does; which messages are due when is the crowd's affair.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from exporter.core.errors import ErrorCode
from exporter.core.events import Join, Leave, Ping, Read, Send, Typing
from exporter.core.protocol import CloseCode
from exporter.simulate.client.connection import Link
from exporter.simulate.client.frames import Ack, Deleted, Error, Frame, Joined, Left, NewMessage, Welcome, decode

if TYPE_CHECKING:
    from exporter.simulate.people.crowd import Crowd

_encode = msgspec.json.Encoder().encode

FIRST_TAB_OPENS, OTHER_TABS_OPEN = 12, 3  # conversations
ANSWER_TIMEOUT = 10.0  # seconds; a real client then sends again, too
# The client's own restraint, as a share of what the server allows: reads, joins and pings need room beside it.
SHARE_OF_FRAMES = 0.5
_RETRY = frozenset((ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL, ErrorCode.RATE_LIMITED, ErrorCode.NOT_JOINED))


@dataclass(slots=True)
class Draft:
    """A message that this tab has to get acknowledged; ``sent_at`` is of the latest attempt, 0 before the first."""

    n: int
    conversation: int
    body: str
    sent_at: float = 0.0
    retry_at: float = 0.0
    link: int = 0  # the connection it was sent on


@dataclass(slots=True, eq=False)
class Tab:
    """A window of person ``person``. ``live`` is its life; the crowd says when it is wanted and what it writes."""

    crowd: Crowd
    person: int
    opens: list[int]
    random: Random
    starts_at: float
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    link: Link | None = None
    joined: set[int] = field(default_factory=set)
    latest: dict[int, int] = field(default_factory=dict)  # by conversation: the highest seq known
    drafts: dict[str, Draft] = field(default_factory=dict)
    allowance: float = 10.0
    _allowed_at: float = 0.0
    _frames_per_second: float = 20.0
    _pause: float = 0.0
    _looking: bool = True
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
        meter = self.crowd.meter
        try:
            async with self.crowd.gate:
                link = await self.crowd.open(self.person)
        except aiohttp.WSServerHandshakeError as error:
            meter.rejected[str(error.status)] += not self.crowd.closing
            retry_after = error.headers.get("Retry-After", "") if error.headers else ""
            return min(float(retry_after), 10.0) if retry_after.isdigit() else 0.0
        except (aiohttp.ClientError, OSError, TimeoutError):
            meter.rejected["unreachable"] += not self.crowd.closing
            return 0.0
        self.link, self._leaving, self._ending, self._looking = link, False, False, True
        meter.connected(self.person)
        try:
            await self._read(link)
        finally:
            self._disconnected(link)
            await link.drop()
        return None

    async def _read(self, link: Link) -> None:
        self._misfortunes(link)
        async for frame in link.frames():
            try:
                self._handle(link, decode(frame))
            except msgspec.DecodeError:
                self.crowd.meter.errors["unreadable"] += 1
            if self._pause:
                await self._look_away(link)

    def _disconnected(self, link: Link) -> None:
        crowd, now = self.crowd, self.crowd.clock()
        self.link = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        code = link.close_code
        crowd.ledger.closed(link.number, now, too_slow=code == CloseCode.SLOW_CONSUMER)
        for conversation in self.joined:
            crowd.quit(self, conversation)
        self.joined.clear()
        crowd.meter.disconnected(self.person)
        if not self._ending and code not in (None, CloseCode.NORMAL):
            crowd.meter.closed[str(int(code))] += 1

    def log_off(self) -> None:
        """Going home: half of the people close their conversations first, the others just the window."""
        self.wanted.clear()
        if self.link is None or self._leaving:
            return
        self._leaving = True
        now = self.crowd.clock()
        if self.joined and self.random.random() < 0.5:
            for conversation in list(self.joined):
                self._leave(self.link, conversation)
            self._later(2.0, self._close)
        else:
            self.crowd.ledger.closed(self.link.number, now)
            self._close()

    def _close(self) -> None:
        if self.link is not None:
            self._leaving = self._ending = True
            self.crowd.spawn(self.link.close())

    # --- misfortunes ----------------------------------------------------------------------------------------

    def _misfortunes(self, link: Link) -> None:
        person = self.crowd.organisation.people[self.person]
        if person.abort_every:
            self._later(self.random.expovariate(1 / person.abort_every), self._lose_network)
        if person.pause_every:
            self._later(self.random.expovariate(1 / person.pause_every), self._get_distracted)
        self._later(self.random.uniform(10, 50), self._look_elsewhere)
        self._later(self.random.uniform(5, 60), partial(self._put, Ping("are-you-there")))

    def _lose_network(self) -> None:
        if self.link is not None and not self.crowd.calm:
            self._ending = True
            self.crowd.meter.resets += 1
            self.link.reset()

    def _get_distracted(self) -> None:
        if not self.crowd.calm and self._looking:
            self._pause = self.random.uniform(1.0, 5.0)
        self._later(self.random.expovariate(1 / max(1.0, self._pause_every)), self._get_distracted)

    @property
    def _pause_every(self) -> float:
        return self.crowd.organisation.people[self.person].pause_every

    async def _look_away(self, link: Link) -> None:
        """A slow reader: the socket fills up meanwhile."""
        seconds, self._pause, self._looking = self._pause, 0.0, False
        self.crowd.ledger.paused(link.number, self.crowd.clock())
        with suppress(TimeoutError):
            await asyncio.wait_for(self.crowd.calmed.wait(), seconds)
        self._looking, self._looked_again = True, self.crowd.clock()
        self.crowd.ledger.resumed(link.number, self._looked_again)

    def _look_elsewhere(self) -> None:
        """Close one conversation and open it again a little later."""
        if self.link is not None and len(self.joined) > 1 and not self.crowd.calm and not self._leaving:
            conversation = self.random.choice(sorted(self.joined))
            self._leave(self.link, conversation)
            self._later(self.random.uniform(2, 8), partial(self._join, conversation))
        self._later(self.random.uniform(10, 50), self._look_elsewhere)

    # --- commands -------------------------------------------------------------------------------------------

    def _put(self, command: object) -> None:
        if self.link is not None:
            self.link.put(_encode(command))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do this unless the connection is over by then."""

        def run() -> None:
            self._timers.discard(timer)
            act()

        timer = self.crowd.later(seconds, run)
        self._timers.add(timer)

    def _join(self, conversation: int) -> None:
        if not self._leaving:
            self._put(Join(self.crowd.organisation.conversations[conversation], f"join:{conversation}"))

    def _leave(self, link: Link, conversation: int) -> None:
        self.joined.discard(conversation)
        self.crowd.quit(self, conversation)
        self.crowd.ledger.left(link.number, conversation, self.crowd.clock())
        link.put(_encode(Leave(self.crowd.organisation.conversations[conversation])))

    def types(self, conversation: int, active: bool) -> None:
        """Start (or refresh) or stop typing."""
        if conversation in self.joined and self.can_afford():
            self.crowd.meter.typing += active
            self._put(Typing(self.crowd.organisation.conversations[conversation], active))

    def can_write(self, conversation: int) -> bool:
        """Is it connected, has it joined, and may it send another frame without being rate limited?"""
        there = self.link is not None and self._looking and not self._leaving
        return there and conversation in self.joined and self.can_afford(False)

    def _attentive(self, now: float) -> bool:
        """What somebody finds who looked away says nothing about the server's latency."""
        return now - self._looked_again > 1.0

    def can_afford(self, spend: bool = True) -> bool:
        """Keeps below the server's limit of frames per second, as a well-behaved client does."""
        now = self.crowd.clock()
        self.allowance += (now - self._allowed_at) * self._frames_per_second
        self.allowance = min(self.allowance, self._frames_per_second)
        self._allowed_at = now
        if self.allowance < 1:
            return False
        self.allowance -= spend
        return True

    def write(self, n: int, conversation: int, body: str) -> None:
        """Send the n-th message, again and again until it is acknowledged."""
        self.can_afford()
        draft = Draft(n, conversation, body)
        self.drafts[self.crowd.ledger.id_of(n)] = draft
        self._send(draft)

    def _send(self, draft: Draft) -> None:
        if self.link is None or draft.conversation not in self.joined:
            return  # once it has joined again
        if draft.sent_at:
            self.crowd.meter.resent += 1
        else:
            self.crowd.meter.sent += 1
        draft.sent_at, draft.retry_at, draft.link = self.crowd.clock(), 0.0, self.link.number
        self.crowd.ledger.sent(draft.n, draft.body, self.link.number, draft.sent_at)
        id = self.crowd.ledger.id_of(draft.n)
        self._put(Send(self.crowd.organisation.conversations[draft.conversation], draft.body, id))

    def look_after_drafts(self, now: float) -> None:
        """Send again what was refused for now, or was not answered for long."""
        for draft in list(self.drafts.values()):
            due = draft.retry_at or draft.sent_at + ANSWER_TIMEOUT
            if draft.sent_at and due <= now and self.can_afford():
                self._send(draft)

    # --- frames ---------------------------------------------------------------------------------------------

    def _handle(self, link: Link, frame: Frame) -> None:
        match frame:
            case NewMessage():
                self._on_message(link, frame)
            case Ack():
                self._on_ack(link, frame)
            case Joined():
                self._on_joined(link, frame)
            case Error():
                self._on_error(frame)
            case Welcome():
                self._on_welcome(frame)
            case Left():
                self._on_left(link, frame)
            case Deleted():
                if (conversation := self.crowd.number_of(frame.conversation)) is not None:
                    self.crowd.ledger.deleted(conversation, frame.seq)
            case _:
                pass

    def _on_welcome(self, frame: Welcome) -> None:
        self._frames_per_second = max(1.0, frame.limits.get("frames_per_second", 50) * SHARE_OF_FRAMES)
        for position, conversation in enumerate(self.opens):
            self._later(position / self._frames_per_second, partial(self._join, conversation))

    def _on_joined(self, link: Link, frame: Joined) -> None:
        conversation, crowd = self.crowd.number_of(frame.conversation), self.crowd
        if conversation is None or self._leaving or conversation in self.joined:
            return
        crowd.ledger.joined(link.number, conversation, frame.last_seq, crowd.clock())
        self.joined.add(conversation)
        crowd.enter(self, conversation)
        known = self.latest.get(conversation)
        if known is not None and known < frame.last_seq:
            crowd.spawn(crowd.catch_up(self.person, conversation, known))
        self.latest[conversation] = max(frame.last_seq, known or 0)
        for draft in list(self.drafts.values()):
            if draft.conversation == conversation and (draft.link != link.number or draft.retry_at):
                self._send(draft)

    def _on_left(self, link: Link, frame: Left) -> None:
        conversation = self.crowd.number_of(frame.conversation)
        if frame.reason is not None and conversation in self.joined:  # removed by somebody
            self.joined.discard(conversation)
            self.crowd.quit(self, conversation)
            self.crowd.ledger.left(link.number, conversation, self.crowd.clock())
        if self._leaving and not self.joined:
            self._close()

    def _on_ack(self, link: Link, frame: Ack) -> None:
        crowd = self.crowd
        now = crowd.clock()
        seconds = crowd.ledger.answered(link.number, frame.id, frame.seq, now)
        if seconds is not None and self._attentive(now):
            crowd.meter.acknowledged(seconds)
        draft = self.drafts.pop(frame.id, None)
        if draft is None:
            return
        self.latest[draft.conversation] = max(self.latest.get(draft.conversation, 0), frame.seq)
        if self.crowd.organisation.people[self.person].abort_every and self.random.random() < 0.03:
            self._send(draft)  # a phone that forgot that it was answered; must be acknowledged again, with the same seq

    def _on_message(self, link: Link, frame: NewMessage) -> None:
        crowd = self.crowd
        conversation = crowd.number_of(frame.conversation)
        if conversation is None:
            return
        now = crowd.clock()
        seconds = crowd.ledger.delivered(link.number, conversation, frame.seq, frame.id, frame.body, now)
        if seconds is not None and self._attentive(now):
            crowd.meter.delivered(seconds)
        self.latest[conversation] = max(self.latest.get(conversation, 0), frame.seq)
        # About two people look at a message at once: everybody would cost the square of the audience in frames.
        if self.random.random() * crowd.audience_size(conversation) < 2:
            self._later(self.random.uniform(0.2, 3.0), partial(self._look_at, conversation))

    def _look_at(self, conversation: int) -> None:
        if conversation in self.joined and self.can_afford():
            self.crowd.meter.reads += 1
            self._put(Read(self.crowd.organisation.conversations[conversation], self.latest[conversation]))

    def _on_error(self, frame: Error) -> None:
        crowd = self.crowd
        crowd.meter.errors[frame.code] += 1
        draft = self.drafts.get(frame.id or "")
        if draft is not None:
            crowd.ledger.refused(draft.n)
            if frame.code in _RETRY:
                draft.retry_at = crowd.clock() + self.random.uniform(0.3, 1.5)
            else:
                crowd.meter.given_up += 1
                del self.drafts[frame.id or ""]
        elif frame.id is not None and frame.id.startswith("join:") and frame.code in _RETRY:
            conversation = int(frame.id.removeprefix("join:"))
            self._later(self.random.uniform(0.3, 1.5), partial(self._join, conversation))
