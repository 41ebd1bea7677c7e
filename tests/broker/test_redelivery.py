"""What a node sends again to those who have been away, and what it asks for when it has been."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from exporter.broker import frames, redelivery
from exporter.broker.connection import Reply
from exporter.broker.envelope import Envelope
from exporter.broker.frames import Kind
from exporter.broker.reconnecting import SILENCE
from exporter.broker.redelivery import TAKES, Redelivery
from tests.broker.nodes import Node, counts, nodes
from tests.servers.exporter import until
from tests.servers.valkey import Server

ME, OTHER = b"this one", b"another1"


class NodesChannel:
    """Notes what is said, in milliseconds and to whom; the test says what came of it."""

    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {}
        self.said: list[tuple[int, bytes]] = []
        self.told: Reply = lambda reply: None

    def publish(self, connection: object, kind: Kind, seq: int, *, data: bytes, told: Reply) -> None:
        assert kind is Kind.BACK
        self.said.append((seq, data))
        self.told = told


class Line:
    """A connection to a server whose clock the test sets."""

    def __init__(self, *time: int) -> None:
        self.reply: object = [b"%d" % number for number in time]

    def queue(self, data: bytes, replies: int, told: Reply) -> None:
        told(self.reply)


class Alone:
    """A node's part, at a time that the test sets: first 100."""

    def __init__(self) -> None:
        self.time = 100.0
        self.channel = NodesChannel()
        self.sent: list[bytes] = []
        self.part = Redelivery(
            MagicMock(node=ME, now=lambda: self.time),
            self.channel,  # type: ignore[arg-type]
            lambda conversation, frame: self.sent.append(frame[1]),
        )

    def is_back(self, line: Line) -> int:
        """How many milliseconds this node says it has been away."""
        self.part.is_back(line)  # type: ignore[arg-type]
        return self.channel.said[-1][0]

    def another_is_back(self, milliseconds: int, *, to: bytes = b"", late: float = 0.0) -> None:
        self.channel.handlers[Kind.BACK](OTHER, (int(Kind.BACK), to, milliseconds, "", 0), late)

    def repeat(self) -> list[bytes]:
        """What is sent again."""
        self.part._repeat()
        sent, self.sent = self.sent, []
        return sent


def deletion(seq: int) -> Envelope[str]:
    return Envelope("room", b"deleted %d" % seq, seq=seq, lasting=True)


def is_back(node: Node, milliseconds: int) -> None:
    """Another one, which says so to this one."""
    node.broker.nodes_channel.heard(frames.head(OTHER, 0) + frames.pack(Kind.BACK, b"", milliseconds))


async def test_what_was_missed_and_nothing_older_is_sent_again() -> None:
    node = Alone()
    for seq in (1, 2, 3):
        node.part.remember("room", b"deleted %d" % seq, seq)
        node.time += 10.0
    node.another_is_back(20_000)
    assert node.repeat() == [b"deleted 2", b"deleted 3"]
    node.another_is_back(5_000, late=6.0)  # this node was asleep
    assert node.repeat() == [b"deleted 3"]
    node.another_is_back(30_000, to=b"somebody")
    assert node.repeat() == []
    node.another_is_back(30_000, to=ME)
    assert node.repeat() == [b"deleted 1", b"deleted 2", b"deleted 3"]
    for milliseconds in (5_000, 20_000, 10_000):
        node.another_is_back(milliseconds)
    assert node.repeat() == [b"deleted 2", b"deleted 3"]


async def test_what_was_heard_is_no_news_and_is_forgotten_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redelivery, "MOST_HEARD", 2)
    is_news = Alone().part.is_news
    assert [is_news("room", number, b"deleted 1") for number in "abbcca"] == [True, True, False, True, False, True]
    assert is_news("another room", "a", b"deleted 1")


@pytest.mark.parametrize(
    ("stamp", "line", "seconds"),
    [
        (None, Line(25, 0), 10.0),
        (5_000_000, Line(25, 500_000), 20.5),  # this machine stood still
        (5_000_000, Line(6, 0), 10.0),  # another server, whose clock is behind
    ],
)
async def test_an_absence_begins_with_the_last_answer_by_whichever_clock_is_earlier(
    stamp: int | None, line: Line, seconds: float
) -> None:
    node = Alone()
    node.part.opened(90.0, stamp)
    assert node.is_back(line) == (seconds + SILENCE) * 1000


@pytest.mark.parametrize(("lasted", "is_told"), [(TAKES - 0.5, False), (TAKES + 0.5, True)])
async def test_an_absence_is_told_again_unless_the_connection_after_it_lasted_until_all_had_answered(
    lasted: float, is_told: bool
) -> None:
    node = Alone()
    node.part.opened(90.0, None)
    node.is_back(Line())
    node.channel.told(1)
    node.time = 200.0
    node.part.opened(100.0 + lasted, None)
    node.part.opened(190.0, None)  # a connection that ends at once is none
    since = 100.0 + lasted if is_told else 90.0
    assert node.is_back(Line()) == (200.0 - since + SILENCE) * 1000
    node.time = 300.0  # and nobody was told this time
    node.part.opened(299.0, None)
    assert node.is_back(Line()) == (300.0 - since + SILENCE) * 1000


async def test_an_absence_that_is_told_again_is_as_long_as_the_server_s_clock_says_of_either() -> None:
    node = Alone()
    node.part.opened(99.0, None)
    node.is_back(Line())
    node.channel.told(1)
    node.time = 101.0
    node.part.opened(100.5, 5_000_000)
    assert node.is_back(Line(35, 0)) == (30.0 + SILENCE) * 1000
    node.part.opened(100.8, 30_000_000)
    assert node.is_back(Line(35, 0)) == (30.0 + SILENCE) * 1000


async def test_what_came_before_a_subscription_that_was_late_is_asked_for_again_by_a_connection_that_follows_soon() -> (
    None
):
    node = Alone()
    node.part.opened(50.0, None)
    node.is_back(Line())
    node.channel.told(1)
    node.time = 200.0
    node.part.was_late(Line())  # type: ignore[arg-type]
    node.channel.told(1)
    node.time = 201.0
    node.part.was_late(Line())  # type: ignore[arg-type]
    node.channel.told(1)
    assert node.channel.said[1:] == 2 * [(round(2 * SILENCE * 1000), b"")], "a storm of them asks for no more and more"
    node.time = 203.0
    node.part.opened(202.0, None)
    assert node.is_back(Line()) == (3.0 + 2 * SILENCE) * 1000


async def test_whoever_was_away_meanwhile_is_told_of_this_node_s_absences_that_ended_then() -> None:
    node = Alone()
    for began, ended in ((70.0, 75.0), (80.0, 95.0), (85.0, 96.0)):
        node.time = ended
        node.part.opened(began + SILENCE, None)
        node.is_back(Line())
        node.channel.told(1)
        node.part._said_at = float("-inf")  # so long ago that all have answered
    node.time = 100.0
    node.channel.said.clear()
    node.another_is_back(10_000)
    assert node.channel.said == [(20_000, OTHER)]
    node.another_is_back(10_000, to=ME)
    node.another_is_back(3_000)
    assert len(node.channel.said) == 1
    node.part.was_late(Line())  # type: ignore[arg-type]
    node.another_is_back(3_000)
    assert node.channel.said[1:] == [(round(2 * SILENCE * 1000), b""), (round(2 * SILENCE * 1000), OTHER)]


async def test_those_who_are_back_in_one_moment_are_sent_once_what_the_first_of_them_has_missed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(server.url, 1) as (node,):
        sent: list[Any] = []
        for seq in (1, 2):
            node.broker.publish(deletion(seq))
        monkeypatch.setattr(node.broker._redelivery, "_put", lambda conversation, frame: sent.append(frame[1]))
        for milliseconds in (0, 60_000, 0):
            is_back(node, milliseconds)

        async def again() -> bool:
            return bool(sent)

        await until(again, "sent again")
        assert sent == [b"deleted 1", b"deleted 2"]
        sent.clear()
        is_back(node, 60_000)
        await until(again, "sent again to who is back later")


async def test_what_is_sent_again_is_heard_once_and_a_number_that_is_given_again_is_deleted_again(
    server: Server,
) -> None:
    async with nodes(server.url, 2) as (first, last):
        last.join("b", "bob", "room")
        await counts(first, participants=1)
        for _ in range(2):
            first.broker.publish(deletion(1))
        asker = first.broker._redelivery
        is_back(first, 60_000)

        async def again() -> bool:
            return asker._repeats_since == float("inf")

        await until(again, "sent again")
        first.broker.publish(deletion(2))
        await last.hears(b"deleted 2")
        assert last.ear.heard.count(b"deleted 1") == 2


async def test_a_connection_that_ends_before_the_others_have_sent_it_again_brings_it_with_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "SILENCE", 0.0)  # the second absence is not to reach back to the first
    async with nodes(server.url, 2, lease=5.0) as (first, last):
        last.join("b", "bob", "room")
        await counts(first, participants=1)
        lost = last.broker._reconnecting
        assert lost.connection is not None
        lost.connection.abort("cut off")
        first.broker.publish(deletion(1))
        asker = last.broker._redelivery
        is_said = asker._is_said

        def ends(reply: object) -> None:
            monkeypatch.setattr(asker, "_is_said", is_said)
            is_said(reply)
            assert lost.connection is not None
            lost.connection.abort("cut off again")

        monkeypatch.setattr(asker, "_is_said", ends)
        await last.hears(b"deleted 1")
