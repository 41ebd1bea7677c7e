"""Nobody outlives the supervisor, whatever state they are in."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.child_process import between_fork_and_exec
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


def test_who_cannot_see_its_parent_is_no_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As below ``unshare --pid``, where the children are in another PID namespace."""
    monkeypatch.setattr(os, "getppid", lambda: 0)
    prepare = between_fork_and_exec(signal.SIGKILL)
    assert subprocess.run([sys.executable, "-c", ""], preexec_fn=prepare, check=False).returncode == 0


async def test_workers_and_valkey_end_with_a_killed_supervisor(postgres: Postgres, tmp_path: Path) -> None:
    database = postgres.url(postgres.create_database())
    async with running(tmp_path, database, count=3) as server:
        client = await server.connect("ann")
        children = server.children()
        assert len(children) == 4
        server.workers[1].signal(signal.SIGSTOP)
        other = await server.connect("bob")  # not on that one
        await server.kill()
        assert (await client.closed())[0] in (1001, 1006)  # the second: she was on the one that was stopped
        assert (await other.closed())[0] == 1001
        await gone(children)
        again = Workers(tmp_path / "again", database, "--web.listen-address", server.url.removeprefix("http://"))
        try:
            await again.start()  # the port is free
        finally:
            await again.kill()
            await gone([worker.pid for worker in again.workers])


async def test_a_worker_that_is_still_being_started_ends_with_a_killed_supervisor(
    postgres: Postgres, tmp_path: Path
) -> None:
    """On a busy machine that takes long, and it has the port."""
    (tmp_path / "sitecustomize.py").write_text("import sys, time\nif 'worker' in sys.orig_argv:\n    time.sleep(600)\n")
    path = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    server = Workers(tmp_path / "server", postgres.url(postgres.create_database()), environment=path)
    starting = asyncio.create_task(server.start())

    async def begun() -> bool:
        return server.process is not None and len(server.children()) == 2

    try:
        await until(begun, "its Valkey and a worker")
        children = server.children()
        await server.kill()
        await gone(children)
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
