"""The alerts of a live cluster: what is done to nodes and broker reaches the person who is woken, and ends."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from exporter.broker import frames
from tests.servers.exporter import in_process
from tests.servers.exporter import until as soon
from tests.servers.prometheus import until, watched
from tests.servers.valkey import running as broker

pytestmark = [pytest.mark.needs("prometheus"), pytest.mark.needs("alertmanager"), pytest.mark.needs("valkey")]


async def test_what_happens_to_nodes_and_broker_is_noticed_and_taken_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(broker("valkey"))
        options = {
            "database_url": f"sqlite:///{tmp_path}/shared.db",
            "redis_url": server.url,
            "cluster_lease": 2.0,
        }
        one = await stack.enter_async_context(in_process(tmp_path, **options))
        targets = [one.url.removeprefix("http://")]
        two = await stack.enter_async_context(in_process(tmp_path, **options))
        await one.scraped(lambda f: f.get("messaging_cluster_nodes") == 2, "two nodes")
        prometheus, receiver = await stack.enter_async_context(watched(tmp_path, *targets))  # nobody scrapes the other

        told = await receiver.alert("MessagingClusterNodesMismatch", "firing")
        assert told["annotations"]["description"].startswith("A node of messaging sees 2 nodes in the cluster")

        with server.client() as client:
            client.sadd("messaging:{messaging}:syncing", "never complete")
            await receiver.alert("MessagingClusterUnsettled", "firing")
            client.srem("messaging:{messaging}:syncing", "never complete")
            await receiver.alert("MessagingClusterUnsettled", "resolved")

            async def dropping() -> bool:
                payload = frames.head(b"another1", 0) + bytes([0, 0, 0, 15, 99]) + bytes(14)
                client.execute_command("SPUBLISH", "messaging:{messaging}:a", payload)
                return "MessagingBrokerFramesDropped" in await prometheus.firing()

            await until(dropping, "frames of a later release are noticed")

        server.stop()
        told = await receiver.alert("MessagingBrokerDown", "firing")
        assert told["labels"]["instance"] == targets[0]
        assert await prometheus.query("messaging_cluster_nodes") == [], "a figure that is not known is absent"
        assert await prometheus.query("messaging_active_connections") != [], "the node's own are there"
        server.start()
        await receiver.alert("MessagingBrokerDown", "resolved")

        async def back() -> bool:
            return (await two.scrape()).get("messaging_cluster_nodes") == 2

        await soon(back, "two nodes again")
