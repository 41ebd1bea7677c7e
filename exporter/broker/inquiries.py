"""One user's connections on the other nodes: asked of all of them at once, and of each one known whether it answered.

The server says which nodes there are and passes the question on to them in the same moment; each answers for itself. A
node that does not answer in time is named, not left out: what it has is not known. All nodes listen on one channel.
On the same channel a node says that it has been away, so that the others tell it again what lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from exporter.broker import frames
from exporter.broker.connection import Connection, Refused, command
from exporter.broker.context import Context
from exporter.broker.frames import NODE_BYTES, IncomingFrame, Kind
from exporter.broker.reconnecting import SILENCE
from exporter.core.records import NodeConnections

ANSWER_TIMEOUT: Final = 1.0
"""Seconds that a node has for its answer, which takes a millisecond."""

ABSENT: Final = "the broker was lost before it answered"
LATE: Final = f"it did not answer within {ANSWER_TIMEOUT:g} s"
OLDER: Final = "it is of a release that cannot say"
UNSETTLED: Final = "the broker came back without what it knew: nodes that have not returned yet are not known"


class Question:
    """One question and what came of it. ``expected``: names by node; ``answers``: by node."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.expected: dict[bytes, str] | None = None
        self.older: list[str] = []  # nodes that cannot answer
        self.answers: dict[bytes, tuple[float, ...]] = {}
        self.error: str | None = None

    def end(self, error: str | None = None) -> None:
        """Nothing more is waited for."""
        if not self.done.done():
            self.error = error
            self.done.set_result(None)

    def look(self) -> None:
        """Has everybody answered?"""
        if self.expected is not None and self.expected.keys() <= self.answers.keys():
            self.end(self.error)


class Inquiries:
    """Of one node, which answers the others with when a user's connections here were opened, Unix seconds.

    It ends them where it is told so.
    """

    def __init__(self, context: Context[Any]) -> None:
        self._functions, self._node, self._answer = context.functions, context.node, context.local.connections_of
        self._reconnecting, self._why_not = context.reconnecting, context.error
        self._clock, self._meters, self._now = context.clock, context.meters, context.now
        self._questions: dict[int, Question] = {}
        self._number = 0
        self.channel = context.functions.nodes_channel.encode()
        self.on_back: Callable[[float], object] = lambda away: None
        self._deaf_since = self._back_at = float("-inf")

    async def ask(self, user: str, disconnect: bool) -> tuple[list[NodeConnections], str | None]:
        """What the other nodes answer, and why that may not be all. ``disconnect``: they end them and say which."""
        connection = self._reconnecting.connection
        if connection is None:
            return [], f"the other nodes are not known: {self._why_not()}"
        self._number += 1
        number, question = self._number, Question()
        self._questions[number] = question
        connection.queue(self._functions.nodes(), 1, partial(self._listed, question))
        self._publish(connection, Kind.DISCONNECT if disconnect else Kind.WHERE, number, user)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await question.done
        except TimeoutError:
            pass  # whoever has not answered is named
        finally:
            del self._questions[number]
        return self._found(question)

    @staticmethod
    def _found(question: Question) -> tuple[list[NodeConnections], str | None]:
        if question.expected is None:
            return [], question.error or f"the broker did not answer within {ANSWER_TIMEOUT:g} s"
        late = ABSENT if question.error == ABSENT else LATE
        found = [
            NodeConnections(name, question.answers.get(node), None if node in question.answers else late)
            for node, name in question.expected.items()
        ]
        found += [NodeConnections(name, None, OLDER) for name in question.older]
        unknown = [one.name for one in found if one.opened_at is None]
        if unknown:
            return found, f"not known of {', '.join(sorted(unknown))}"
        return found, question.error

    def _listed(self, question: Question, reply: Any) -> None:
        if isinstance(reply, Refused):
            question.end(f"the broker refuses to name the nodes: {reply}")
            return
        unsettled, *pairs = reply
        question.error = UNSETTLED if unsettled else None
        question.expected = {}
        for incarnation, label in zip(pairs[::2], pairs[1::2], strict=True):
            node, _, name = label.decode(errors="replace").partition(" ")
            if not name:
                question.older.append(f"node {incarnation.decode()}")
            elif node != self._node.hex():
                question.expected[bytes.fromhex(node)] = name
        question.look()

    # --- the connection -------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Listen, before the server counts this node among those who answer."""
        connection.queue(command("SSUBSCRIBE", self.channel), 0, lambda reply: None)

    def is_back(self, connection: Connection, away: float) -> None:
        """This node has heard nothing for so many seconds."""
        self._back_at = self._now()
        self._deaf_since = self._back_at - away
        self._say_it_is_back(connection)

    def was_late(self, connection: Connection) -> None:
        """A subscription came after somebody had joined; it took less time than a connection that is silent has."""
        self._publish(connection, Kind.BACK, round(2000 * SILENCE), "")

    def _say_it_is_back(self, connection: Connection, to: bytes = b"") -> None:
        self._publish(connection, Kind.BACK, round((self._now() - self._deaf_since) * 1000), "", to)

    def closed(self) -> None:
        """The connection is lost: nobody answers any more."""
        for question in self._questions.values():
            question.end(ABSENT)

    def heard(self, payload: bytes) -> None:
        """What another node asks or answers."""
        for frame in frames.unpack(payload) if payload[:1] == b"F" else (None,):
            if frame is None or frame[0] not in (Kind.WHERE, Kind.DISCONNECT, Kind.HERE, Kind.BACK):
                self._meters.broker_frames_dropped.value += 1
                continue
            self._meters.broker_frames_received.value += 1
            node = frames.publisher(payload)
            if frame[0] == Kind.BACK:
                self._is_back(node, frame)
            elif frame[0] == Kind.HERE:
                self._answered(node, frame)
            else:
                self._reply(node, frame)

    def _is_back(self, node: bytes, frame: IncomingFrame) -> None:
        _, to, milliseconds, _, _ = frame
        away, connection = milliseconds / 1000, self._reconnecting.connection
        if to and to != self._node:
            return
        self.on_back(away)
        if not to and connection is not None and self._now() - away < self._back_at:
            self._say_it_is_back(connection, node)  # it was away when this one said so

    def _reply(self, asker: bytes, frame: IncomingFrame) -> None:
        kind, _, seq, user, _ = frame
        opened_at = self._answer(user, kind == Kind.DISCONNECT)
        connection = self._reconnecting.connection
        if connection is not None:
            self._publish(connection, Kind.HERE, seq, "", asker + msgspec.json.encode(opened_at))

    def _answered(self, node: bytes, frame: IncomingFrame) -> None:
        _, data, seq, _, _ = frame
        question = self._questions.get(seq) if data[:NODE_BYTES] == self._node else None
        if question is None:
            return  # somebody else's, or too late
        try:
            question.answers[node] = msgspec.json.decode(data[NODE_BYTES:], type=tuple[float, ...])
        except msgspec.DecodeError:
            self._meters.broker_frames_dropped.value += 1
        question.look()

    def _publish(self, connection: Connection, kind: Kind, seq: int, user: str, data: bytes = b"") -> None:
        payload = frames.head(self._node, self._clock.stamp(self._now())) + frames.pack(kind, data, seq, user)
        connection.queue(frames.PUBLISH + frames.addressed(self.channel, payload), 1, lambda reply: None)
        connection.flush()
        self._meters.broker_frames_sent.value += 1
