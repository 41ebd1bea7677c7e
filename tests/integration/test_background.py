"""What goes on beside the requests in the real server: a defect there ends nothing, and SIGHUP reads files again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
import structlog

from exporter.node.history import History
from exporter.store import supervision
from exporter.store.supervision import keep_running
from tests.servers.exporter import Exporter, in_process, running, until


async def test_a_defect_in_the_sampling_of_the_charts_costs_the_charts_a_pause_and_nobody_else_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise TypeError("a defect")

    whole = History.record
    monkeypatch.setattr(History, "record", broken)
    async with in_process(tmp_path) as here:
        await here.scraped(
            lambda figures: figures['messaging_background_failures_total{task="history"}'] >= 1,
            "it is counted",
        )
        failed = asyncio.create_task(here.server.failed())
        client = await here.connect("ann")
        await client.barrier()
        assert not failed.done()
        monkeypatch.setattr(History, "record", whole)

        async def charted() -> bool:
            return bool(here.server.history.answer()["length"])

        await until(charted, "a point of the charts")
        failed.cancel()
        await client.close()


async def test_what_fails_in_a_row_is_started_again_ever_later_and_ends_when_it_has_done_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def pauses(pause: float, longest: float) -> list[float]:
        left = 4

        async def work() -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                raise TypeError("a defect")

        with structlog.testing.capture_logs() as logs:
            await keep_running("work", work, failed.append, pause=pause, longest=longest)
        assert left == -1
        return [log["after"] for log in logs]

    failed: list[str] = []
    assert await pauses(0.001, 0.003) == [0.001, 0.002, 0.003, 0.003]
    assert failed == ["work"] * 4
    monkeypatch.setattr(supervision, "LONGEST_PAUSE", -1.0)  # each had gone well for longer than that before it failed
    assert await pauses(0.001, 0.003) == [0.001] * 4


async def test_sighup_reads_the_web_configuration_again_says_so_and_ends_nothing(tmp_path: Path) -> None:
    config = tmp_path / "web.yml"
    config.write_text("http_server_config: {headers: {X-Frame-Options: deny}}\n")
    async with running(tmp_path, "--web.config.file", str(config)) as exporter:
        client = await exporter.connect("ann")
        config.write_text("http_server_config: [\n")
        exporter.signal(signal.SIGHUP)
        await _logged(exporter, "web configuration is broken, answering 500")
        config.write_text("http_server_config: {headers: {X-Frame-Options: sameorigin}}\n")
        exporter.signal(signal.SIGHUP)
        await _logged(exporter, "reloaded")
        async with exporter.http.get(exporter.url + "/-/ready") as response:
            assert (response.status, response.headers["X-Frame-Options"]) == (200, "sameorigin")
        await client.barrier()
        assert await exporter.stop() == 0
        assert (await client.closed())[0] == 1001


async def test_a_server_without_workers_is_not_ended_by_the_signal_that_replaces_them(tmp_path: Path) -> None:
    async with running(tmp_path) as exporter:
        client = await exporter.connect("ann")
        exporter.signal(signal.SIGUSR2)
        await _logged(exporter, "SIGUSR2 replaces the workers of serve --workers; this server has none, and goes on")
        await client.barrier()


async def _logged(exporter: Exporter, event: str) -> dict[str, Any]:
    async def found() -> dict[str, Any] | None:
        return next((line for line in exporter.lines() if line.get("event") == event), None)

    line = await until(found, f"the log says: {event}")
    assert line is not None
    return line
