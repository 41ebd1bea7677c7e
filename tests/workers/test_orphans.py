"""Nobody outlives the supervisor, whatever state they are in."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.exporter import ROOT, until
from tests.servers.postgres import Postgres
from tests.servers.workers import Workers, alive, running

pytestmark = [pytest.mark.needs("postgres", "valkey")]

SOON = 8.0
"""Seconds: a worker that hangs has five, the others one."""


async def gone(pids: list[int]) -> None:
    async def ended() -> bool:
        return not any(map(alive, pids))

    await until(ended, "nobody is left", within=SOON)


def test_who_is_started_by_one_that_is_killed_meanwhile_does_not_stay() -> None:
    """Between the fork and the word to Linux that the parent's end is to be told."""
    script = (
        "import os, signal\n"
        "from exporter.child_process import between_fork_and_exec\n"
        "prepare, parent = between_fork_and_exec(signal.SIGKILL), os.getpid()\n"
        "if os.fork() == 0:\n"
        "    while os.getppid() == parent:\n"
        "        os.sched_yield()\n"
        "    prepare()\n"
        "    print('stays', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "", done.stderr  # its end is the child's


async def test_workers_and_valkey_end_with_a_killed_supervisor(postgres: Postgres, tmp_path: Path) -> None:
    database = postgres.url(postgres.create_database())
    async with running(tmp_path, database, count=3) as server:
        client = await server.connect("ann")
        children = server.children()
        assert len(children) == 4
        server.workers[1].signal(signal.SIGSTOP)
        await server.kill()
        assert (await client.closed())[0] in (1001, 1006)  # the second: she was on the one that was stopped
        await gone(children)
        again = Workers(tmp_path / "again", database, "--web.listen-address", server.url.removeprefix("http://"))
        try:
            await again.start()  # the port is free
        finally:
            await again.kill()
            await gone([worker.pid for worker in again.workers])
