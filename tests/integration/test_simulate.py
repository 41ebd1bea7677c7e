"""``simulate`` on the real server: the command, and the server under it being killed."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from exporter.simulate import SimulateOptions, simulate
from exporter.simulate.console import View
from tests.servers.exporter import ROOT, Exporter, running


class Recorder(View):
    """Is asked to act at certain numbers of acknowledged messages."""

    every = 0.05

    def __init__(self) -> None:
        self.acknowledged = 0

    def show(self, moment: object) -> None:
        self.acknowledged = moment.ledger.acknowledged

    async def reaches(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.acknowledged < count:  # noqa: ASYNC110  # the view is told, it does not tell
                await asyncio.sleep(0.02)


async def command(server: Exporter, *flags: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "exporter", "simulate", "--url", server.url, *flags,
        cwd=server.folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, stdout=-1, stderr=-1,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


async def test_the_command_tells_what_was_sent_acknowledged_and_delivered(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        flags = ("--users", "12", "--conversations", "4", "--rate", "45", "--duration", "2s")
        status, out, errors = await command(server, "--json", *flags)
        assert status == 0, (out, errors)
        summary = json.loads(out)
        figures = await server.scrape()
        assert summary["sent"] == 90
        assert summary["acknowledged"] == summary["verified"] == figures["messaging_stored_messages"] == 90
        assert summary["wrong"] == {}
        assert summary["delivered"] == figures["messaging_deliveries_total"]
        assert summary["connections"] == figures["messaging_connections_opened_total"]
        assert "Traceback" not in errors
        status, out, errors = await command(server, *flags, "--seed", "2")
        assert status == 0, (out, errors)
        assert "nothing acknowledged was lost or doubled" in out


async def test_people_find_a_server_below_a_prefix(tmp_path: Path) -> None:
    async with running(tmp_path, "--web.route-prefix", "/chat") as server:
        assert server.url.endswith("/chat")
        flags = ("--users", "4", "--conversations", "2", "--rate", "20", "--duration", "1s", "--json")
        status, out, errors = await command(server, *flags)
        assert status == 0, (out, errors)
        assert json.loads(out)["verified"] == 20


async def test_the_command_says_in_one_line_that_nobody_is_there(tmp_path: Path, unused_tcp_port: int) -> None:
    server = Exporter(tmp_path)
    server.url = f"http://127.0.0.1:{unused_tcp_port}"
    status, _, errors = await command(server, "--duration", "1s")
    assert status == 2, "1 is for what was lost"
    assert errors.splitlines()[-1].startswith("messaging-exporter: could not verify: cannot reach the server at")
    assert "Traceback" not in errors


async def test_a_server_that_is_killed_twice_under_load_has_lost_and_doubled_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        again = Exporter(tmp_path, "--web.listen-address", f"127.0.0.1:{port}")
        recorder = Recorder()

        async def kill(current: Exporter, following: Exporter, at: int) -> None:
            await recorder.reaches(at)
            await current.kill()
            await following.start()

        async def twice() -> None:
            await kill(server, again, 100)
            await kill(again, again, 200)
            await recorder.reaches(300)
            stop.set()

        stop = asyncio.Event()
        options = SimulateOptions(
            urls=(server.url,), users=25, conversations=6, rate=80, duration=None, steady=True,
            token_for=server.authenticator.sign,
        )  # fmt: skip
        killing = asyncio.ensure_future(twice())
        try:
            summary = await simulate(options, stop=stop, view=recorder)
            await killing
        finally:
            killing.cancel()
            if again.process is not None:
                await again.kill()
    assert summary.wrong == {}
    assert summary.unanswered == 0
    assert summary.verified == summary.acknowledged == summary.sent >= 300
    assert summary.connections > 2 * 25
