"""One user on all nodes of a cluster: looked up, disconnected, and what is said when a node does not answer."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.cluster import Cluster
from tests.servers.cut import CutProxy
from tests.servers.exporter import Exporter, until
from tests.servers.postgres import Postgres
from tests.servers.valkey import Server
from tests.servers.valkey import running as broker

pytestmark = [pytest.mark.needs("postgres"), pytest.mark.needs("valkey")]

PATH = "/v1/messaging/users/zo%C3%A9%2F1/connections"
USER = "zoé/1"
ADMIN_CLOSES = 'messaging_connections_closed_total{reason="admin"}'


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres().start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with broker("valkey") as server:
        yield server


@pytest.fixture
async def cluster(postgres: Postgres, valkey: Server, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two nodes, settled. The lease is longer than anybody is frozen here, and the broker is new for the first only."""
    database = postgres.url(postgres.create_database())
    made = Cluster(tmp_path, database, "", lease=10.0)
    try:
        for _ in range(2):
            await made.add("--redis.url", valkey.url)
        await made.settled()
        yield made
        for node in made.nodes:
            await node.stop()
    finally:
        await made.kill()


def admin(node: Exporter) -> dict[str, str]:
    return {"Authorization": f"Bearer {node.token('root', role='admin')}"}


async def look(node: Exporter) -> dict[str, Any]:
    status, body, _ = await node.get(PATH, headers=admin(node))
    assert status == 200
    return body


async def disconnect(node: Exporter) -> tuple[int, Any]:
    status, body, _ = await node.request("DELETE", PATH, headers=admin(node))
    return status, body


def name_of(node: Exporter) -> str:
    return f"(process {node.pid})"


async def test_a_user_is_found_and_disconnected_on_every_node_whichever_is_asked(cluster: Cluster) -> None:
    first, last = cluster.nodes
    nobody = await look(first)
    assert (nobody["connected"], nobody["connections"], nobody["since"], nobody["error"]) == (False, 0, None, None)
    tabs = [await first.connect(USER), await last.connect(USER), await last.connect(USER)]
    bystander = await last.connect("ann")
    for asked, mine, theirs in ((first, 1, 2), (last, 2, 1)):
        said = await look(asked)
        assert (said["user"], said["scope"], said["error"]) == (USER, "cluster", None)
        assert (said["connected"], said["connections"], len(said["opened_at"])) == (True, 3, 3)
        assert said["since"] == min(said["opened_at"])
        assert [node["connections"] for node in said["nodes"]] == [mine, theirs], "the node that was asked comes first"
        assert name_of(asked) in said["nodes"][0]["name"]
        assert {node["name"].split("(")[1] for node in said["nodes"]} == {name_of(n)[1:] for n in cluster.nodes}

    before = [(await node.scrape())[ADMIN_CLOSES] for node in cluster.nodes]
    assert await disconnect(first) == (204, b"")
    for tab in tabs:
        assert await tab.closed() == (4003, "disconnected by an admin")
    after = [(await node.scrape())[ADMIN_CLOSES] for node in cluster.nodes]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 2]
    said = await look(last)
    assert (said["connected"], said["connections"], said["opened_at"]) == (False, 0, [])
    await bystander.barrier()
    again = await last.connect(USER)  # with a valid token they may come back
    await again.close()
    await bystander.close()


async def test_a_node_that_does_not_answer_is_named_and_its_part_is_not_known(cluster: Cluster) -> None:
    first, last = cluster.nodes
    here, there = await first.connect(USER), await last.connect(USER)
    last.signal(signal.SIGSTOP)
    try:
        said = await look(first)
        assert (said["connected"], said["connections"], said["since"]) == (True, None, None)
        assert name_of(last) in said["error"]
        assert len(said["opened_at"]) == 1
        [mine, theirs] = said["nodes"]
        assert (mine["connections"], mine["error"]) == (1, None)
        assert (theirs["connections"], theirs["opened_at"]) == (None, None)
        assert theirs["error"] == "it did not answer within 1 s"

        status, problem = await disconnect(first)
        assert (status, problem["code"]) == (503, "unavailable")
        assert "1 connection was closed, perhaps not all" in problem["detail"]
        assert name_of(last) in problem["detail"]
        assert await here.closed() == (4003, "disconnected by an admin")
        said = await look(first)
        assert (said["connected"], said["connections"]) == (None, None), "nobody says that there is none"
    finally:
        last.signal(signal.SIGCONT)
    # What it was asked while it slept it does when it wakes up; if its lease had been over it would not have heard.
    assert await there.closed() == (4003, "disconnected by an admin")

    async def known() -> bool:
        said = await look(first)
        return (said["connected"], said["connections"], said["error"]) == (False, 0, None)

    await until(known, "all nodes answer again")


async def test_without_the_broker_only_this_node_is_known_and_the_reason_is_said(
    cluster: Cluster, valkey: Server
) -> None:
    async with CutProxy(valkey.port) as proxy:
        third = await cluster.add("--redis.url", f"redis://127.0.0.1:{proxy.port}")
        await third.scraped(lambda f: f.get("messaging_cluster_nodes") == 3, "three nodes")
        tab = await third.connect(USER)
        proxy.refusing = True
        proxy.drop()
        await third.scraped(lambda f: f["messaging_broker_up"] == 0, "the broker is away")
        said = await look(third)
        assert (said["connected"], said["connections"], said["since"], said["scope"]) == (True, None, None, "cluster")
        assert "the other nodes are not known" in said["error"]
        assert [node["connections"] for node in said["nodes"]] == [1]
        status, problem = await disconnect(third)
        assert status == 503
        assert "the other nodes are not known" in problem["detail"]
        assert await tab.closed() == (4003, "disconnected by an admin")
