"""Prometheus, the rules and the alerts work unchanged with a host's own server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import Live
from tests.embed.hosts import fastapi_app, on_uvicorn
from tests.servers.prometheus import Prometheus, hurried, until

pytestmark = pytest.mark.needs("prometheus")


async def test_the_rules_evaluate_nothing_fires_on_a_healthy_host_and_a_ghost_does(tmp_path: Path) -> None:
    sockets: set[Any] = set()
    live = Live(open_sockets=lambda: sockets, workers=1)
    async with on_uvicorn(fastapi_app(live, set())) as url:
        target = url.removeprefix("http://")
        prometheus = Prometheus(tmp_path / "prometheus", {"messaging": [target]}, rules=hurried(tmp_path / "rules"))
        config = yaml.safe_load(prometheus.config.read_text())
        config["scrape_configs"][0]["metrics_path"] = "/messaging/metrics"
        prometheus.config.write_text(yaml.safe_dump(config))
        await prometheus.start()
        try:
            connection = live.open("ann", handle="ann")
            sockets.add("ann")
            connection.join("room")

            async def seen() -> bool:
                found = await prometheus.query("sum(messaging_participants)")
                return [values for _, values in found] == [[1.0]]

            await until(seen, "the host is scraped")

            async def evaluated() -> bool:
                _, answer = await prometheus.get("/api/v1/rules")
                rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
                assert not [rule["lastError"] for rule in rules if rule.get("lastError")]
                return bool(rules) and all(rule["health"] == "ok" for rule in rules)

            await until(evaluated, "every rule has been evaluated")

            async def quiet() -> bool:
                return not await prometheus.firing()

            await until(quiet, "what fired before the first scrape is over, and nothing else fires")
            sockets.clear()  # the socket has gone, and the host forgot to say so

            async def fires() -> bool:
                return "MessagingGaugeDrift" in await prometheus.firing()

            await until(fires, "the alert about a ghost")
        finally:
            await prometheus.stop()
