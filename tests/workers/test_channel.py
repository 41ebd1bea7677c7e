"""The line between supervisor and worker: whole objects, whatever comes in which pieces; the end is told once."""

from __future__ import annotations

import asyncio
import socket

from exporter.workers.channel import LIMIT, Channel, ChannelMessage


async def test_objects_arrive_whole_and_in_order_and_the_end_once() -> None:
    said: list[ChannelMessage] = []
    ended = asyncio.Event()
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours, said.append, ended.set)
    for piece in (b'{"a": 1}\n{"b"', b": [2]", b'}\n{"c": 3}\n'):
        theirs.send(piece)
        await asyncio.sleep(0)
    theirs.close()
    await ended.wait()
    assert said == [{"a": 1}, {"b": [2]}, {"c": 3}]
    channel.send(to="nobody")  # no error


async def test_a_side_that_does_not_read_costs_no_memory_without_bound() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours, lambda said: None, lambda: None)
    for _ in range(3_000):
        channel.send(word="x" * 1_000)
    transport = channel._transport
    assert transport is not None
    assert LIMIT <= transport.get_write_buffer_size() < LIMIT + 10_000
    channel.close()
    theirs.close()
