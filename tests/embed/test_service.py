"""What a defect costs a host: the figures that it concerns, and no answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from exporter.embed import Live, figures
from exporter.embed.service import Service


async def test_a_kernel_that_tells_nothing_costs_the_process_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Live(workers=1), None)

    def unreadable() -> Any:
        raise OSError("the kernel does not answer")

    monkeypatch.setattr(service._process, "collect", unreadable)
    try:
        answer = await service.answer("GET", "/metrics", {}, {}, None)
        assert answer.status == 200
        assert b"messaging_active_connections 0.0" in answer.body
        assert b"process_" not in answer.body
    finally:
        await service.close()


async def test_the_last_hour_is_recorded_again_after_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Live(workers=1), lambda _: True)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # a host's log would have the defect

    def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    async def samples() -> int:
        answer = await service.answer("GET", "/v1/messaging/stats/history", {}, {}, None)
        return int(json.loads(answer.body)["length"])

    try:
        with monkeypatch.context() as defect:
            defect.setattr(figures, "document", broken)
            await samples()
            assert service._sampling is not None
            await asyncio.wait({service._sampling}, timeout=10)
        async with asyncio.timeout(10):
            while True:
                if await samples():
                    break
                await asyncio.sleep(0.01)  # the task that records
    finally:
        await service.close()
