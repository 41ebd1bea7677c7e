"""What the tests start ends with them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.servers.exporter import until
from tests.servers.workers import alive

ROOT = Path(__file__).parents[2]
STARTS = """
import subprocess, sys
from tests.servers.children import ends_with_the_tests
print(subprocess.Popen(["sleep", "600"], preexec_fn=ends_with_the_tests()).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell a child")
async def test_a_server_ends_with_tests_that_are_killed() -> None:
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    tests = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTS, cwd=ROOT, **pipes)
    assert tests.stdout is not None
    server = int(await tests.stdout.readline())
    assert alive(server)
    tests.kill()
    await tests.wait()

    async def gone() -> bool:
        return not alive(server)

    await until(gone, "it ends")
