"""Ten minutes of much traffic, and nobody is woken. Run by ``make soak``; deselected otherwise."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from tests.servers.exporter import WS, running
from tests.servers.prometheus import GRAFANA, Prometheus, until

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
USERS, CONVERSATIONS, RATE = 120, 60, 40


@pytest.mark.soak
@pytest.mark.needs("prometheus")
@pytest.mark.timeout(MINUTES * 60 + 300)
async def test_a_healthy_server_under_much_traffic_raises_no_alert_for_ten_minutes(tmp_path: Path) -> None:
    rules = [GRAFANA / "rules" / name for name in ("recording.yml", "alerts.yml")]
    async with running(tmp_path / "server") as server:
        prometheus = Prometheus(
            tmp_path / "prometheus", {"messaging": [server.url.removeprefix("http://")]}, rules=rules
        )
        await prometheus.start()
        people = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "exporter", "simulate", "--url", server.url.replace("http", "ws", 1) + WS,
            "--data.dir", str(server.data), "--users", str(USERS), "--conversations", str(CONVERSATIONS),
            "--rate", str(RATE), "--duration", f"{MINUTES * 60:.0f}s",
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(GRAFANA.parent)},
        )  # fmt: skip
        try:

            async def scraped() -> bool:
                return bool(await prometheus.query("messaging_deliveries_total > 0"))

            await until(scraped, "people talk")
            began = time.monotonic()
            while people.returncode is None and time.monotonic() - began < MINUTES * 60 + 120:
                assert await prometheus.firing() == set()
                await asyncio.sleep(5)
            assert await asyncio.wait_for(people.wait(), 60) == 0, "something that was acknowledged was lost"
            seconds = int(time.monotonic() - began) + 30
            ever = await prometheus.query(f"count by (alertname, alertstate) (max_over_time(ALERTS[{seconds}s]))")
            states = {(labels["alertname"], labels["alertstate"]) for labels, _ in ever}
            assert "firing" not in {state for _, state in states}, states
            sent = await prometheus.query("sum(messaging_messages_accepted_total)")
            delivered = await prometheus.query("sum(messaging_deliveries_total)")
            print(f"\n{sent[0][1][0]:.0f} messages, {delivered[0][1][0]:.0f} deliveries; pending: {sorted(states)}")
        finally:
            if people.returncode is None:
                people.kill()
                await people.wait()
            await prometheus.stop()
