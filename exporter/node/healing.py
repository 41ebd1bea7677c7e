"""What an outage of the broker has hidden is read from the database: messages, and who is no longer a member.

Knows no wire of the broker. While the database cannot be asked, it is asked again; nobody waits for it in the meantime.

Tested in ``tests/broker/test_disasters.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from exporter.broker import Envelope
from exporter.broker.redis import RedisBroker
from exporter.core import protocol
from exporter.core.errors import Refusal, Unavailable
from exporter.core.hub import Hub
from exporter.core.records import Message
from exporter.core.websocket_frames import text_frame
from exporter.node.publisher import NodeConnection
from exporter.store import Store

log = structlog.get_logger(__name__)

AT_ONCE: Final = 4
"""Conversations that are read at the same time: the database has other things to do."""
PAGE: Final = 500
"""Messages, or participants, in one question."""
RETRY: Final = 1.0
"""Seconds until the database is asked again."""
AGAIN: Final = 15.0
"""Seconds until all are examined once more, without a reason; then after twice as long, and so on.

A node that is cut off may go on, and die later, of which nobody is told. What it stores so many seconds after the
others have missed it is read by them within as many again, and these; for a dozen questions a day.
"""


class Healing:
    """``removed`` lets a user's connections leave; ``sender`` knows who must not get a message, being its sender."""

    def __init__(
        self,
        store: Store,
        hub: Hub[NodeConnection],
        broker: RedisBroker[NodeConnection],
        removed: Callable[[str, str], None],
        sender: Callable[[Message], NodeConnection | None],
    ) -> None:
        self._store, self._hub, self._broker, self._removed, self._sender = store, hub, broker, removed, sender
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._examination: asyncio.Task[None] | None = None
        self._examines_again = False
        self._again_in = AGAIN
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._asked: dict[tuple[str, str], None] = {}  # participants to be asked about together
        self._asking: asyncio.Task[None] | None = None

    def heal(self, conversation: str, after: int, through: int) -> None:
        """Hand the messages in between to the broker, in order."""
        if not self._closed:
            self._spawn(self._heal(conversation, after, through))

    def examine(self, pairs: list[tuple[str, str]] | None) -> None:
        """Are these participants members, and how far are their conversations? None: all who are here."""
        if self._closed:
            return
        if pairs is None:
            self._again_in = AGAIN
            self._begin_examination()
        else:  # one conversation's; in a storm there are thousands
            self._asked |= dict.fromkeys(pairs)
            if self._asking is None or self._asking.done():
                self._asking = self._spawn(self._examine_asked())

    async def close(self) -> None:
        """Nothing is read any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin_examination(self) -> None:
        self._examines_again = True
        if self._examination is None or self._examination.done():
            self._examination = self._spawn(self._examine_all())

    def _examine_once_more(self) -> None:
        self._again_in *= 2
        self._begin_examination()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _heal(self, conversation: str, after: int, through: int) -> None:
        ordering = self._broker.ordering
        try:
            async with self._slots:
                (known,) = await self._store.memberships([(conversation, "")])
                if known is not None and known.behind and known.last_seq < through:
                    raise Unavailable("a standby does not have them yet")
                while after < through:
                    messages = await self._store.messages_between(conversation, after, through, PAGE)
                    for message in messages:
                        frame = text_frame(protocol.new_message(message))
                        sender = self._sender(message)
                        ordering.fill(Envelope(conversation, frame, exclude=sender, seq=message.seq, remote=True))
                    after = messages[-1].seq if len(messages) == PAGE else through
        except Refusal:
            ordering.not_healed(conversation)
        except Exception:  # a defect: the order of what follows must not wait for these messages for ever
            log.exception("messages that the broker has lost could not be read")
            ordering.not_healed(conversation)
        else:
            ordering.healed(conversation, through)

    async def _examine_all(self) -> None:
        while self._examines_again:  # each to its end: while many nodes come and go, the last would never be reached
            self._examines_again = False
            if await self._examine(list(self._hub.participants)):
                self._again_in = AGAIN
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._again_in, self._examine_once_more)

    async def _examine_asked(self) -> None:
        while self._asked:
            pairs, self._asked = list(self._asked), {}
            if unsure := await self._examine(pairs):
                await asyncio.sleep(RETRY)
                self._asked |= dict.fromkeys(unsure)

    async def _examine(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Returns those of whom only a standby has said something, which may lag."""
        unsure: list[tuple[str, str]] = []
        for start in range(0, len(pairs), PAGE):
            part = pairs[start : start + PAGE]
            while True:
                before = [self._broker.conversations.known(conversation) for conversation, _ in part]
                try:
                    found = await self._store.memberships(part)
                except Refusal:
                    await asyncio.sleep(RETRY)
                except Exception:  # a defect costs this examination, not those to come
                    log.exception("participants could not be examined")
                    return unsure
                else:
                    break
            for (conversation, user), known, membership in zip(part, before, found, strict=True):
                if membership is not None:  # also of who has said something and is no longer a member
                    self._broker.conversations.found(conversation, membership, known)
                if membership is not None and membership.behind:
                    unsure.append((conversation, user))
                elif (membership is None or not membership.member) and (conversation, user) in self._hub.participants:
                    self._removed(conversation, user)
        return unsure
