"""``simulate`` with the URLs of several nodes: people are on all of them, move, and a hole between them is found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter.core.errors import Misconfigured
from exporter.core.events import ClosedReason
from exporter.simulate import SimulateOptions, simulate
from exporter.simulate.console import Moment, View
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


async def people(nodes: list[InProcess], view: View | None = None) -> Summary:
    urls = tuple(node.url for node in nodes)
    options = SimulateOptions(
        urls=urls, users=12, conversations=4, rate=60, duration=6.0, settle=10.0, token_for=nodes[0].token
    )
    return await simulate(options) if view is None else await simulate(options, view=view)


class Cutter(View):
    """Cuts all connections of one node, and of the next one a second later, as a network does; then there is peace.

    Of a connection that ends nobody can say what it should have got: what people get is checked after they have moved.
    """

    every = 1.0

    def __init__(self, nodes: list[InProcess]) -> None:
        self.turns = iter(nodes)
        self.cut = 0

    def show(self, moment: Moment) -> None:
        node = next(self.turns, None) if moment.phase == "running" else None
        for connection in node.server.connections if node is not None else ():
            connection.abort(ClosedReason.CLIENT)
            self.cut += 1


async def test_nothing_is_missed_and_nobody_is_accused_between_nodes(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as nodes:
        summary = await people(nodes)
        assert summary.wrong == {}
        assert summary.status == 0
        assert summary.verified == summary.acknowledged > 200
        for node in nodes:
            assert (await node.scrape())["messaging_broker_frames_received_total"] > 10


async def test_two_servers_that_are_no_cluster_are_told_before_anybody_talks(tmp_path: Path) -> None:
    databases = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two")]
    async with (
        in_process(tmp_path, database_url=databases[0]) as one,
        in_process(tmp_path, database_url=databases[1]) as two,
    ):
        with pytest.raises(Misconfigured, match=f"the server at {two.url}/ does not know what the others were told"):
            await people([one, two])


async def test_whoever_loses_a_connection_moves_to_the_other_node_and_misses_nothing(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as nodes:
        cutter = Cutter(nodes)
        summary = await people(nodes, cutter)
        assert cutter.cut > 6
        assert summary.moved >= cutter.cut / 2, "with two nodes each way back is a move, but for those who went home"
        assert summary.wrong == {}
        assert summary.verified == summary.acknowledged > 200
        figures = [await node.scrape() for node in nodes]
        assert all(figure["messaging_connections_opened_total"] > 6 for figure in figures)
        assert all(figure["messaging_deliveries_total"] > 50 for figure in figures)


async def test_a_hole_of_the_node_that_people_move_to_is_found(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as nodes:
        _make_lossy(nodes[-1])
        summary = await people(nodes, Cutter(nodes))
        assert summary.moved > 5
        assert summary.wrong["undelivered"] > 5
        assert summary.status == 1


def _make_lossy(node: InProcess) -> None:
    """Every fifth message of another node is kept from the people of this one."""
    here: Any = node.server.node
    deliver = here.deliver

    def lossy(envelope: Any) -> None:
        if not (envelope.remote and envelope.seq and envelope.seq % 5 == 0):
            deliver(envelope)

    here.deliver = lossy


async def test_a_hole_that_is_made_between_the_nodes_is_found(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as nodes:
        _make_lossy(nodes[-1])
        summary = await people(nodes)
        assert summary.wrong["undelivered"] > 5
        assert summary.status == 1
        for node in nodes:
            figures = await node.scrape()
            assert figures["messaging_connections_opened_total"] > 1, "people are on both"
            assert figures["messaging_broker_frames_received_total"] > 10
