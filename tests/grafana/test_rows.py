"""The row that the second schema shows only where it means something, asked of a real Prometheus."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.grafana.boards import GRAFANA
from tests.grafana.test_tiles import plain
from tests.servers.exporter import Exporter
from tests.servers.prometheus import Prometheus, until
from tests.servers.valkey import Server


@pytest.mark.needs("prometheus")
async def test_the_cluster_s_row_stays_while_the_broker_is_away(tmp_path: Path) -> None:
    spec = json.loads((GRAFANA / "dashboards-v2" / "messaging-health.json").read_text())["spec"]
    (hidden,) = (variable["spec"] for variable in spec["variables"] if variable["spec"]["hide"] == "hideVariable")
    asked = re.fullmatch(r"query_result\((.*)\)", hidden["query"]["spec"]["__legacyStringValue"])
    assert asked is not None
    condition = plain(asked[1])
    broker = Server("valkey").start()
    async with AsyncExitStack() as stack:
        stack.callback(broker.remove)
        nodes = [Exporter(tmp_path / "nodes", "--redis.url", broker.url) for _ in range(2)]
        for node in nodes:
            await node.start()
            stack.push_async_callback(node.kill)
        lone = Exporter(tmp_path / "lone")
        await lone.start()
        stack.push_async_callback(lone.kill)
        jobs = {"messaging": [node.url.removeprefix("http://") for node in nodes]}
        prometheus = Prometheus(tmp_path / "prometheus", {**jobs, "lone": [lone.url.removeprefix("http://")]})
        await prometheus.start()
        stack.push_async_callback(prometheus.stop)

        async def together() -> bool:
            return len(await prometheus.query("messaging_cluster_nodes == 2")) == 2

        await until(together, "both nodes see each other")
        assert await prometheus.query(condition)
        alone = condition.replace('job=~".+"', 'job="lone"')

        async def known_to_be_alone() -> bool:
            return bool(await prometheus.query('messaging_cluster_nodes{job="lone"} == 1'))

        await until(known_to_be_alone, "the lone node is scraped")
        assert await prometheus.query(alone) == []
        broker.stop()

        async def unknown() -> bool:
            return await prometheus.query('messaging_cluster_nodes{job="messaging"}') == []

        await until(unknown, "no node knows how many there are")
        assert await prometheus.query(condition)
