"""What a node sends again to those who have been away, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.broker import frames
from exporter.broker.envelope import Envelope
from exporter.broker.frames import Kind
from tests.broker.nodes import Node, nodes
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
