"""A node of several whose broker is not there: what it remembers of sends, and what it would tell the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from exporter.broker import Envelope
from exporter.broker.location import locate
from exporter.core.errors import NotFound, Unavailable
from exporter.core.events import Join, Leave, Send, Typing
from exporter.core.records import Draft, Membership
from exporter.node.cluster import ClusterNode
from tests.doubles import FakeStore, turns
from tests.node.test_node import World


class Store(FakeStore):
    async def identity(self) -> str:
        return ""


class Here(World):
    """Without a connection to the others."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        store: Any = self.store
        self.node: ClusterNode = ClusterNode(
            store,
            self.metrics,
            self.fan_out,
            now=self.clock,
            wall=self.wall,
            location=locate("redis://localhost:1"),
            cluster="test",
            lease=15.0,
            name="here",
        )


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    made = Here()
    yield made
    await made.node.close_all()


async def test_who_waits_for_an_acknowledgement_is_known_until_it_has_come(here: Here) -> None:
    (ann,) = await here.joined("ann")
    for id in ("1", "2", "3"):
        here.do(ann, Send("c", "hello", id))
    message = here.store.message(Draft("c", "ann", "1", "hello"), 4)
    assert here.node._sender(message) is ann, "read from the database before it is acknowledged"
    here.store.commit(seq=4)
    assert here.node._sender(message) is None
    draft = here.store.refuse(Unavailable("unknown"))
    assert here.node._sender(here.store.message(draft, 5)) is ann, "it may be durable all the same"
    here.store.refuse(NotFound("gone"))
    assert not here.node._sending


async def test_that_somebody_is_no_member_is_told_the_others_also_when_it_was_so_before(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(here.node.redis, "publish_removal", lambda *removal: told.append(removal))
    for answer in (None, NotFound("no such member"), Unavailable("down")):
        removal = asyncio.create_task(here.node.remove_participant("c", "bob", "ann"))
        await turns()
        here.store.answer(answer)
        await asyncio.gather(removal, return_exceptions=True)
    assert told == [("c", "ann"), ("c", "ann")], "the answer to the first removal may have been lost"


async def test_people_here_are_told_of_each_other_as_if_the_node_were_alone(here: Here) -> None:
    ann, bob, _eve = await here.joined("ann", "bob", "eve")
    cat = here.tab("cat")
    await here.join(cat)
    here.do(cat, Typing("c", True))
    here.do(cat, Leave("c"))
    expected = [
        {"type": "participant_joined", "conversation": "c", "user": "cat"},
        {"type": "typing", "conversation": "c", "user": "cat", "active": True},
        {"type": "typing", "conversation": "c", "user": "cat", "active": False},
        {"type": "participant_left", "conversation": "c", "user": "cat"},
    ]
    assert ann.got() == bob.got() == expected


@pytest.mark.parametrize("removed", [False, True])
async def test_who_joins_behind_a_message_on_its_way_is_asked_about_again_after_a_removal(
    removed: bool, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here.node, "heal", lambda *asked: None)  # the message comes by itself
    await here.joined("ann")
    bob = here.tab("bob")
    here.do(bob, Join("c"))
    await turns()
    here.store.answer(Membership(member=True, last_seq=4))
    await turns()
    assert bob.got() == [], "the message belongs to those who joined before"
    if removed:
        here.node.removed("c", "bob")
    here.node.redis.ordering.fill(Envelope("c", b"fourth", seq=4))
    if removed:
        await turns()
        here.store.answer(Membership(member=False, last_seq=4))
    await turns()
    assert [frame["type"] for frame in bob.got()] == ["error" if removed else "joined"]
