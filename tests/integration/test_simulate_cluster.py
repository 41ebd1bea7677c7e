"""``simulate`` with the URLs of several nodes: people are on all of them, and a hole between them is found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter.simulate import SimulateOptions, simulate
from exporter.simulate.summary import Summary
from tests.servers.exporter import InProcess, in_process
from tests.servers.valkey import running as broker

pytestmark = pytest.mark.needs("valkey")


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[list[InProcess]]:
    with broker("valkey") as server:
        options: dict[str, Any] = {"database_url": f"sqlite:///{folder}/shared.db", "redis_url": server.url}
        async with in_process(folder, **options) as one, in_process(folder, **options) as two:
            yield [one, two]


async def people(nodes: list[InProcess]) -> Summary:
    urls = tuple(node.url for node in nodes)
    return await simulate(
        SimulateOptions(
            urls=urls, users=12, conversations=4, rate=60, duration=6.0, settle=10.0, token_for=nodes[0].token
        )
    )


async def test_nothing_is_missed_and_nobody_is_accused_between_nodes(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as nodes:
        summary = await people(nodes)
        assert summary.wrong == {}
        assert summary.status == 0
        assert summary.verified == summary.acknowledged > 200
        for node in nodes:
            assert (await node.scrape())["messaging_broker_frames_received_total"] > 10


async def test_a_hole_that_is_made_between_the_nodes_is_found(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as nodes:
        last: Any = nodes[-1].server.node
        deliver = last.deliver

        def lossy(envelope: Any) -> None:
            if not (envelope.remote and envelope.seq and envelope.seq % 5 == 0):
                deliver(envelope)

        last.deliver = lossy
        summary = await people(nodes)
        assert summary.wrong["undelivered"] > 5
        assert summary.status == 1
        for node in nodes:
            figures = await node.scrape()
            assert figures["messaging_connections_opened_total"] > 1, "people are on both"
            assert figures["messaging_broker_frames_received_total"] > 10
