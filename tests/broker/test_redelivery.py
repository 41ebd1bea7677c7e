"""What a node sends again to those who have been away, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.broker import frames, redelivery
from exporter.broker.envelope import Envelope
from exporter.broker.frames import Kind
from tests.broker.nodes import Node, counts, nodes
from tests.servers.exporter import until
from tests.servers.valkey import Server


def deletion(seq: int) -> Envelope[str]:
    return Envelope("room", b"deleted %d" % seq, seq=seq, lasting=True)


def is_back(node: Node, milliseconds: int) -> None:
    """Another one, which says so to this one."""
    node.broker._nodes_channel.heard(frames.head(b"another1", 0) + frames.pack(Kind.BACK, b"", milliseconds))


async def test_those_who_are_back_in_one_moment_are_sent_once_what_the_first_of_them_has_missed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(server.url, 1) as (node,):
        sent: list[Any] = []
        for seq in (1, 2):
            node.broker.publish(deletion(seq))
        monkeypatch.setattr(node.broker._redelivery, "_put", lambda conversation, frame: sent.append(frame[1]))
        for milliseconds in (0, 60_000, 0, 60_000):
            is_back(node, milliseconds)

        async def again() -> bool:
            return bool(sent)

        await until(again, "sent again")
        assert sent == [b"deleted 1", b"deleted 2"]
        sent.clear()
        is_back(node, 60_000)
        await until(again, "sent again to who is back later")


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
