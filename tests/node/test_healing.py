"""What is asked of the database, in which pieces, how often, and what is made of its answers and of its silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from exporter.broker import Envelope
from exporter.core.errors import Unavailable
from exporter.core.hub import Hub
from exporter.core.records import Membership, Message
from exporter.node import healing
from exporter.node.healing import Healing
from tests.servers.exporter import until

Answer = Callable[[list[tuple[str, str]]], list[Membership | None]]


class Database:
    """Everybody is a member, and there are ten messages, until the test says otherwise."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []
        self.answers: list[Exception | Answer] = []  # the next ones
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = self.most = 0
        self.broken = False

    async def memberships(self, pairs: Sequence[tuple[str, str]]) -> list[Membership | None]:
        self.asked.append(list(pairs))
        await self.gate.wait()
        if not self.answers:
            return [Membership(True, 10) for _ in pairs]
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(list(pairs))

    async def messages_between(self, conversation: str, after: int, through: int, most: int) -> list[Message]:
        self.reading += 1
        self.most = max(self.most, self.reading)
        await asyncio.sleep(0)
        self.reading -= 1
        if self.broken:
            raise RuntimeError("a defect")
        numbers = range(after + 1, min(through, 10) + 1)
        now = datetime.now(UTC)
        return [Message(conversation, n, "ann", str(n), "hello", now) for n in numbers][:most]


class Numbers:
    """The broker: what it is told, and what it knows of a conversation, which is more with each question."""

    def __init__(self) -> None:
        self.ordering = self.conversations = self
        self.filled: list[Envelope[Any]] = []
        self.told: list[tuple[str, str, int]] = []
        self.knows = 0
        self.compared: list[tuple[str, int]] = []

    def fill(self, envelope: Envelope[Any]) -> None:
        self.filled.append(envelope)

    def healed(self, conversation: str, through: int) -> None:
        self.told.append(("healed", conversation, through))

    def not_healed(self, conversation: str) -> None:
        self.told.append(("not healed", conversation, 0))

    def known(self, conversation: str) -> int:
        self.knows += 1
        return self.knows

    def found(self, conversation: str, membership: Membership, before: int) -> None:
        self.compared.append((conversation, before))


class Place:
    """One node with these participants, each in a conversation of their own name."""

    def __init__(self, *users: str) -> None:
        self.database, self.broker, self.hub = Database(), Numbers(), Hub[Any]()
        self.removed: list[str] = []
        for user in users:
            list(self.hub.open(user, user))
            list(self.hub.join(user, user))
        parts: Any = (self.database, self.hub, self.broker, lambda _, user: self.removed.append(user), self._sender)
        self.healing = Healing(*parts)

    @staticmethod
    def _sender(message: Message) -> str:
        return message.id

    async def examined(self) -> None:
        """All of them, without a reason to do it again."""
        self.healing.examine(None)
        assert self.healing._examination is not None
        await self.healing._examination

    async def answered(self) -> None:
        """What was asked about some of them."""
        assert self.healing._asking is not None
        await self.healing._asking

    async def told(self, *expected: tuple[str, str, int]) -> None:
        async def is_so() -> bool:
            return sorted(self.broker.told) == sorted(expected)

        await until(is_so, f"{expected}")


async def test_all_are_examined_page_by_page_and_once_more_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "PAGE", 2)
    place = Place("a", "b", "c")
    await place.examined()
    assert place.database.asked == [[("a", "a"), ("b", "b")], [("c", "c")]]
    timer = place.healing._timer
    await place.examined()
    assert timer is not None
    assert timer.cancelled(), "one at a time"
    await place.healing.close()
    assert place.healing._timer is not None
    assert place.healing._timer.cancelled()


async def test_what_gives_a_reason_while_all_are_examined_has_them_examined_once_more() -> None:
    place = Place("a")
    place.database.gate.clear()
    place.healing.examine(None)
    examination = place.healing._examination
    await asyncio.sleep(0)
    for _ in range(2):
        place.healing.examine(None)
    place.database.gate.set()
    assert examination is not None
    await examination
    assert place.database.asked == 2 * [[("a", "a")]]
    await place.healing.close()


async def test_who_is_asked_about_meanwhile_is_examined_next_and_each_once() -> None:
    place = Place("a", "b")
    place.database.gate.clear()
    place.healing.examine([("a", "a")])
    await asyncio.sleep(0)
    for _ in range(2):
        place.healing.examine([("b", "b")])
    place.database.gate.set()
    await place.answered()
    assert place.database.asked == [[("a", "a")], [("b", "b")]]


async def test_who_is_no_member_is_removed_if_they_are_here_and_what_the_answer_says_of_numbers_is_believed() -> None:
    place = Place("a", "b", "c")
    place.database.answers.append(lambda pairs: [Membership(False, 5), None, Membership(True, 7), Membership(False, 9)])
    place.healing.examine([("a", "a"), ("b", "b"), ("c", "c"), ("c", "gone")])
    await place.answered()
    assert place.removed == ["a", "b"]
    assert [conversation for conversation, _ in place.broker.compared] == ["a", "c", "c"]


async def test_a_database_that_cannot_be_asked_is_asked_again_and_its_answer_held_against_what_is_known_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(healing, "RETRY", 0.0)
    place = Place("a")
    place.database.answers += [Unavailable("down"), Unavailable("down")]
    await place.examined()
    assert place.broker.compared == [("a", 3)]
    await place.healing.close()


async def test_what_a_standby_says_is_asked_again_and_removes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "RETRY", 0.0)
    place = Place("a")
    for member in (True, False):
        place.database.answers.append(lambda pairs, member=member: [Membership(member, 5, True)])  # type: ignore[misc]
    place.healing.examine([("a", "a")])
    await place.answered()
    assert place.database.asked == 3 * [[("a", "a")]]
    assert not place.removed


async def test_messages_are_read_page_by_page_and_whoever_waits_for_the_acknowledgement_of_one_does_not_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(healing, "PAGE", 2)
    place = Place()
    place.healing.heal("a", 3, 8)
    await place.told(("healed", "a", 8))
    assert [(envelope.seq, envelope.exclude) for envelope in place.broker.filled] == [(n, str(n)) for n in range(4, 9)]


async def test_a_few_conversations_are_read_at_a_time() -> None:
    place = Place()
    for name in "abcdefgh":
        place.healing.heal(name, 0, 10)
    await place.told(*(("healed", name, 10) for name in "abcdefgh"))
    assert place.database.most == healing.AT_ONCE


async def test_what_cannot_be_read_is_said_also_where_a_defect_is_the_reason() -> None:
    place = Place()
    place.database.answers.append(Unavailable("down"))
    place.healing.heal("a", 0, 10)
    await place.told(("not healed", "a", 0))
    place.broker.told.clear()
    place.database.broken = True
    place.healing.heal("a", 0, 10)
    await place.told(("not healed", "a", 0))
