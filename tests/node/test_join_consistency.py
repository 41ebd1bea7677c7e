"""Memberships that are true when they are used: what becomes durable and who is removed while the store is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exporter.core.errors import NotFound
from exporter.core.records import Membership
from exporter.node.join_consistency import JoinConsistency
from tests.doubles import FakeStore, turns


class World:
    """A store that answers when told to, and the answers that came."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.joining = JoinConsistency(self.store)
        self.known: list[Any] = []

    def ask(self, conversation: str = "c", user: str = "ann") -> None:
        self.joining.ask(conversation, user, self._known)

    def _known(self, question: asyncio.Future[Membership]) -> None:
        error = question.exception()
        self.known.append(error if error is not None else question.result())

    async def answer(self, outcome: object) -> None:
        self.store.answer(outcome)
        await turns()


@pytest.fixture
async def world() -> World:
    return World()


async def test_an_answer_is_passed_on_and_nothing_is_kept(world: World) -> None:
    world.ask()
    assert len(world.joining) == 1
    await world.answer(Membership(True, 3))
    assert world.known == [Membership(True, 3)]
    assert len(world.joining) == 0


async def test_a_message_that_is_accepted_meanwhile_raises_the_last_seq_and_never_lowers_it(world: World) -> None:
    world.ask()
    world.joining.accepted("c", 2)
    world.joining.accepted("other", 9)
    await world.answer(Membership(True, 3))
    world.ask()
    world.joining.accepted("c", 5)
    world.joining.accepted("c", 4)
    await world.answer(Membership(True, 3))
    assert world.known == [Membership(True, 3), Membership(True, 5)]


async def test_after_a_removal_there_it_is_asked_again_and_the_later_answer_counts(world: World) -> None:
    world.ask()
    world.joining.removed("other")
    world.joining.removed("c")
    await world.answer(Membership(True, 3))
    assert world.known == []
    await world.answer(Membership(False, 3))
    assert world.known == [Membership(False, 3)]
    assert len(world.joining) == 0


async def test_a_refusal_is_passed_on_also_after_a_removal(world: World) -> None:
    world.ask()
    world.joining.removed("c")
    await world.answer(NotFound("no such conversation"))
    ((refusal),) = world.known
    assert isinstance(refusal, NotFound)
    assert len(world.joining) == 0


async def test_two_who_wait_for_one_conversation_both_know_what_came_since(world: World) -> None:
    world.ask(user="ann")
    world.joining.accepted("c", 4)
    world.ask(user="bob")
    world.joining.accepted("c", 5)
    await world.answer(Membership(True, 3))
    assert len(world.joining) == 1
    await world.answer(Membership(True, 5))
    assert world.known == [Membership(True, 5)] * 2


async def test_a_question_that_cannot_be_asked_leaves_no_trace(world: World) -> None:
    def refuse(conversation: str, user: str) -> asyncio.Future[Membership]:
        raise NotFound("not to be asked")

    world.store.membership = refuse
    with pytest.raises(NotFound):
        world.ask()
    assert len(world.joining) == 0
    world.joining.removed("c")
    world.joining.accepted("c", 1)
