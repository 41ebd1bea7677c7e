"""A real Prometheus scrapes a running demo: what it makes of the exposition, asked through its own API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.exporter import running
from tests.servers.prometheus import Prometheus, until

pytestmark = pytest.mark.needs("prometheus")


async def test_prometheus_scrapes_a_running_demo_and_sees_people_on_it(tmp_path: Path) -> None:
    async with running(tmp_path / "demo", command="demo") as demo:
        address = demo.url.removeprefix("http://")
        prometheus = await Prometheus(tmp_path / "prometheus", {"messaging": [address]}).start()
        try:

            async def people() -> bool:
                found = await prometheus.query("messaging_active_connections > 0")
                return [labels["instance"] for labels, _ in found] == [address]

            await until(people, "Prometheus answers messaging_active_connections > 0")

            async def traffic() -> bool:
                moving = (
                    "rate(messaging_messages_accepted_total[20s]) > 0 and rate(messaging_deliveries_total[20s]) > 0"
                )
                return len(await prometheus.query(moving)) == 1

            await until(traffic, "Prometheus sees messages")
            for name in ("connected_users", "active_conversations", "participants", "stored_messages"):
                [(_, [value])] = await prometheus.query(f"messaging_{name}")
                assert value > 0, name
            assert await prometheus.query("up == 1 and on (instance) messaging_database_up == 1")
            assert await prometheus.query('{__name__=~"messaging_live_drift", figure=~".+"} != 0') == []

            status, targets = await prometheus.get("/api/v1/targets")
            [target] = targets["data"]["activeTargets"]
            assert (status, target["health"], target["lastError"]) == (200, "up", "")
            # Everything that was exposed was taken: no sample out of order, none twice, none dropped.
            [(_, [scraped])] = await prometheus.query("scrape_samples_scraped")
            [(_, [kept])] = await prometheus.query("scrape_samples_post_metric_relabeling")
            assert scraped == kept > 300
            for complaint in ("Error on ingesting", "duplicate", "out of order", "out-of-order"):
                assert complaint not in prometheus.log.read_text()

            _, metadata = await prometheus.get("/api/v1/metadata")
            [connections] = metadata["data"]["messaging_active_connections"]
            assert (connections["type"], connections["help"][:4]) == ("gauge", "Open")
            kinds = {name: entries[0]["type"] for name, entries in metadata["data"].items()}
            assert kinds["messaging_message_delivery_duration_seconds"] == "histogram"
            assert "counter" in {kinds.get("messaging_joins"), kinds.get("messaging_joins_total")}
        finally:
            await prometheus.stop()
        assert await demo.stop() in (0, 130)
