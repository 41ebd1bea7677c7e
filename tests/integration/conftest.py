"""What the tests of pages share: a browser for each module, made-up figures for each test, packages from npm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.servers.chromium import chromium
from tests.servers.npm import node_modules
from tests.servers.stats_double import StatsDouble


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def double() -> AsyncIterator[StatsDouble]:
    double = StatsDouble()
    await double.start()
    try:
        yield double
    finally:
        await double.stop()


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node_modules(tmp_path_factory.getbasetemp().parent / "npm")
