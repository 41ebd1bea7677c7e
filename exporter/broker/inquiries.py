"""One user's connections on the other nodes: asked of all of them at once, and of each one known whether it answered.

The server says which nodes there are and passes the question on to them in the same moment; each answers for itself. A
node that does not answer in time is named, not left out: what it has is not known.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

import msgspec

from exporter.broker.context import Context
from exporter.broker.frames import NODE_BYTES, IncomingFrame, Kind
from exporter.broker.nodes_channel import NodesChannel
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

    def __init__(self, context: Context[Any], nodes_channel: NodesChannel) -> None:
        self._functions, self._node, self._answer = context.functions, context.node, context.local.connections_of
        self._reconnecting, self._why_not, self._meters = context.reconnecting, context.error, context.meters
        self._questions: dict[int, Question] = {}
        self._number = 0
        self._nodes_channel = nodes_channel
        nodes_channel.handlers |= {Kind.WHERE: self._asked, Kind.DISCONNECT: self._asked, Kind.HERE: self._answered}

    async def ask(self, user: str, disconnect: bool) -> tuple[list[NodeConnections], str | None]:
        """What the other nodes answer, and why that may not be all. ``disconnect``: they end them and say which."""
        connection = self._reconnecting.connection
        if connection is None:
            return [], f"the other nodes are not known: {self._why_not()}"
        self._number += 1
        number, question = self._number, Question()
        self._questions[number] = question
        connection.queue(self._functions.nodes(), 1, partial(self._listed, question))
        self._nodes_channel.publish(connection, Kind.DISCONNECT if disconnect else Kind.WHERE, number, user)
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

    def closed(self) -> None:
        """The connection is lost: nobody answers any more."""
        for question in self._questions.values():
            question.end(ABSENT)

    # --- what comes -----------------------------------------------------------------------------------------------

    def _asked(self, asker: bytes, frame: IncomingFrame, late: float) -> None:
        kind, _, seq, user, _ = frame
        opened_at = self._answer(user, kind == Kind.DISCONNECT)
        connection = self._reconnecting.connection
        if connection is not None:
            self._nodes_channel.publish(connection, Kind.HERE, seq, data=asker + msgspec.json.encode(opened_at))

    def _answered(self, node: bytes, frame: IncomingFrame, late: float) -> None:
        _, data, seq, _, _ = frame
        question = self._questions.get(seq) if data[:NODE_BYTES] == self._node else None
        if question is None:
            return  # somebody else's, or too late
        try:
            question.answers[node] = msgspec.json.decode(data[NODE_BYTES:], type=tuple[float, ...])
        except msgspec.DecodeError:
            self._meters.broker_frames_dropped.value += 1
        question.look()
