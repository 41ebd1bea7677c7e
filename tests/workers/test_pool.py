"""A defect in what keeps the workers is not silent: the server ends in order, to be started again."""

from __future__ import annotations

import asyncio

import pytest

from exporter.settings.model import Settings
from exporter.workers import pool as pool_module
from exporter.workers.plan import Sockets
from exporter.workers.pool import Pool
from tests.logged import logged


async def test_a_defect_in_the_watching_ends_the_server_with_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    pool = Pool(Settings(), 0, Sockets([], []), ended.set_result)

    def broken() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(pool, "_balance", broken)
    with logged(pool_module) as logged_lines:
        watching = pool.watch()
        assert await asyncio.wait_for(ended, 30) == 1
    assert watching.done()
    assert [line["event"] for line in logged_lines] == ["a defect in the supervisor: the server ends"]
