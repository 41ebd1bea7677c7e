"""``demo`` as a newcomer has it: a command, three URLs, gauges that move, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest

from exporter.demo.server_process import ServerProcess
from exporter.settings.model import Address, Settings
from tests.servers.children import ends_with_the_tests
from tests.servers.exporter import PATIENCE, ROOT, Exporter, Figures, figures_of, until
from tests.servers.postgres import Postgres

LIVE = (
    "messaging_active_connections",
    "messaging_connected_users",
    "messaging_active_conversations",
    "messaging_participants",
    "messaging_typing_users",
)


class Demo:
    """The command in a process group of its own, as a shell starts it."""

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        self.folder = folder
        self.database = folder / "data" / "demo" / "messaging.db"
        self._environment = environment
        self._flags = flags or ("--web.listen-address", "127.0.0.1:0")
        self.output = folder / "output"
        self.errors = folder / "errors"

    async def start(self, terminal: int | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MESSAGING_")}
        self._begins_at = self.output.stat().st_size if self.output.exists() else 0
        with self.output.open("ab") as out, self.errors.open("ab") as errors:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "exporter",
                "demo",
                *self._flags,
                cwd=self.folder,
                env={
                    **environment,
                    "PYTHONPATH": str(ROOT),
                    "TERM": "xterm",
                    "COLUMNS": "100",
                    "LINES": "30",
                    **self._environment,
                },
                stdin=asyncio.subprocess.DEVNULL if terminal is None else terminal,
                stdout=out if terminal is None else terminal,
                stderr=errors if terminal is None else terminal,
                start_new_session=True,
                preexec_fn=ends_with_the_tests(),
            )

    def said(self) -> str:
        return self.output.read_bytes()[self._begins_at :].decode()

    async def urls(self) -> tuple[str, str, str]:
        """Metrics, admin page with its link, WebSocket."""

        async def printed() -> tuple[str, str, str] | None:
            assert self.process.returncode is None, self.said() + self.errors.read_text()
            found = [re.search(rf"{name} +(\S+)", self.said()) for name in ("Metrics", "Admin page", "WebSocket")]
            return tuple(match[1] for match in found if match) if all(found) else None

        found = await until(printed, "the three URLs", Exporter.patience)
        assert found is not None
        return found

    def others(self) -> list[int]:
        """Processes of the session, but the first."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z" and int(stat.parent.name) != self.process.pid:
                found.append(int(stat.parent.name))
        return found

    def command_lines(self) -> list[str]:
        """What everybody may read in the process list."""
        return [Path(f"/proc/{pid}/cmdline").read_text() for pid in (self.process.pid, *self.others())]

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def nobody_left(self) -> None:
        async def gone() -> bool:
            return not self.others()

        await until(gone, "every process of the group has ended")

    async def kill(self) -> None:
        for pid in [*self.others(), *([self.process.pid] if self.process.returncode is None else [])]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        await self.ended()


@asynccontextmanager
async def demo(folder: Path, *flags: str, **environment: str) -> AsyncIterator[Demo]:
    running = Demo(folder, *flags, **environment)
    await running.start()
    try:
        yield running
    finally:
        await running.kill()


async def scrape(url: str) -> Figures:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert response.status == 200
        return figures_of(await response.text())


async def scraped(url: str, condition: Callable[[Figures], bool], what: str) -> Figures:
    async def attempt() -> Figures | None:
        figures = await scrape(url)
        return figures if condition(figures) else None

    found = await until(attempt, what)
    assert found is not None
    return found


def stored(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM messages").fetchone()[0])


async def test_every_gauge_moves_the_link_signs_in_and_ctrl_c_ends_it_cleanly_twice(tmp_path: Path) -> None:
    async with demo(tmp_path) as running:
        metrics, admin, ws = await running.urls()
        seen: set[str] = set()

        async def moving() -> bool:
            figures = await scrape(metrics)
            seen.update(name for name in LIVE if figures[name] > 0)
            return seen == set(LIVE) and figures["messaging_messages_accepted_total"] > 5

        await until(moving, "all live gauges above 0")
        figures = await scrape(metrics)
        assert figures["messaging_stored_messages"] > 10_000
        assert figures["messaging_registered_users"] == 240
        assert figures['messaging_active_users{window="30d"}'] > figures['messaging_active_users{window="1d"}'] > 0
        assert figures["messaging_database_up"] == 1
        assert ws == metrics.replace("http", "ws").replace("/metrics", "/v1/messaging/ws")
        base, _, token = admin.partition("/admin#token=")
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
            http.get(f"{base}/v1/messaging/stats") as response,
        ):
            assert response.status == 200
            assert (await response.json())["total_messages"] > 10_000
        os.killpg(running.process.pid, signal.SIGINT)
        assert await running.ended() == 0
        await running.nobody_left()
        assert "Traceback" not in running.said() + running.errors.read_text()
        assert "acknowledged" in running.said()

        before = stored(running.database)
        await running.start()
        metrics, _, _ = await running.urls()
        figures = await scraped(metrics, lambda f: f["messaging_messages_accepted_total"] > 0, "messages again")
        assert figures["messaging_stored_messages"] <= before + figures["messaging_messages_accepted_total"]
        assert "three months" not in running.said()
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        await running.nobody_left()
        assert stored(running.database) > before


async def test_on_a_terminal_it_draws_and_ctrl_c_is_enough(tmp_path: Path) -> None:
    here, there = pty.openpty()
    running = Demo(tmp_path)
    shown = bytearray()
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            shown.extend(os.read(here, 65536))
        except OSError:
            loop.remove_reader(here)

    loop.add_reader(here, read)
    await running.start(terminal=there)
    try:

        async def drawn() -> bool:
            return b"in fast motion" in shown

        await until(drawn, "the live table", Exporter.patience)
        os.killpg(running.process.pid, signal.SIGINT)
        assert await running.ended() == 0
        await running.nobody_left()
    finally:
        await running.kill()
        loop.remove_reader(here)
        os.close(there)
        os.close(here)
    assert b"\x1b]8;;http://127.0.0.1:" in shown  # the link can be clicked
    assert b"Traceback" not in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") > 0  # the cursor is back


async def test_a_port_that_is_taken_is_one_clear_line_and_nothing_is_written(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo(tmp_path, "--web.listen-address", f"127.0.0.1:{port}", MAKELEVEL="1") as running:
            assert await running.ended() == 1
            await running.nobody_left()
            errors = running.errors.read_text()
    line, *others = errors.splitlines()
    assert others == []
    assert line.startswith(f"messaging-exporter: cannot listen on 127.0.0.1:{port}: address already in use; ")
    assert line.endswith('(make run ARGS="--web.listen-address HOST:PORT")')  # which is how most have begun
    assert "three months" not in running.said()


async def test_a_server_that_is_killed_ends_the_demo_with_one_clear_line(tmp_path: Path) -> None:
    async with demo(tmp_path) as running:
        metrics, _, _ = await running.urls()
        await scraped(metrics, lambda f: f["messaging_active_connections"] > 0, "people")
        (server,) = running.others()
        os.kill(server, signal.SIGKILL)
        assert await running.ended() == 1
        errors = running.errors.read_text()
    assert errors.splitlines()[-1:] == ["messaging-exporter: the server has ended by itself"]
    assert "Traceback" not in errors


async def test_a_demo_that_is_killed_takes_its_server_with_it(tmp_path: Path) -> None:
    async with demo(tmp_path) as running:
        await running.urls()
        lines = running.command_lines()
        assert len(lines) == 2
        assert "data" not in lines[1]  # settings may hold secrets, and everybody may read a process list
        running.process.kill()
        await running.ended()
        await running.nobody_left()


@pytest.mark.needs("postgres")
async def test_on_postgresql_it_has_a_past_too_and_the_url_shows_nowhere(
    tmp_path: Path,
    postgres: Postgres,
) -> None:
    url = postgres.url(postgres.create_database())
    async with demo(tmp_path, MESSAGING_DATABASE_URL=url) as running:
        metrics, _, _ = await running.urls()
        figures = await scraped(metrics, lambda f: f["messaging_messages_accepted_total"] > 0, "messages")
        assert figures["messaging_stored_messages"] > 10_000
        assert not any("postgresql" in line for line in running.command_lines())
        running.process.send_signal(signal.SIGINT)
        assert await running.ended() == 0
        assert url not in running.said() + running.errors.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_both_processes_is_not_the_servers_second_one(tmp_path: Path, number: signal.Signals) -> None:
    """A supervisor signals both processes, and the demo then stops its server: one signal, not two."""
    server = await ServerProcess.start(Settings(listen=(Address("127.0.0.1", 0),), data_dir=tmp_path))
    lines: list[str] = []
    server.note = lines.append
    (url,) = (await server.urls()).urls
    server._process.send_signal(number)
    await until(lambda: _true(server._stopping), "it says that it drains")
    await server.stop(30.0)
    assert url.startswith("http://127.0.0.1:")
    assert server.exited.result() == 0
    assert [line for line in lines if "draining" in line]
    assert not [line for line in lines if "second signal" in line]


async def test_ctrl_c_reaches_the_demo_alone_and_the_server_drains_after_its_people(tmp_path: Path) -> None:
    async with demo(tmp_path, "--web.listen-address", "127.0.0.1:0", "--log.level", "debug") as running:
        await running.urls()
        os.killpg(running.process.pid, signal.SIGINT)
        assert await running.ended() == 0
        await running.nobody_left()
        said = running.said() + running.errors.read_text()
    assert "second signal" not in said
    assert "draining" in said


async def test_sighup_ends_neither_the_demo_nor_its_server(tmp_path: Path) -> None:
    async with demo(tmp_path) as running:
        metrics, _, _ = await running.urls()
        for pid in (running.process.pid, *running.others()):
            os.kill(pid, signal.SIGHUP)
        await scrape(metrics)
        assert running.process.returncode is None
        running.process.send_signal(signal.SIGINT)
        assert await running.ended() == 0


async def _true(value: bool) -> bool:
    return value


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_can_be_stopped_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    async with demo(tmp_path) as running:

        async def begun() -> bool:
            return bool(running.others())

        await until(begun, "the server's process")
        os.killpg(running.process.pid, number)
        await running.ended()
        await running.nobody_left()
        assert "Traceback" not in running.errors.read_text()


def test_the_defaults_are_a_moderate_load() -> None:
    from exporter.demo import defaults

    chosen = defaults()
    assert (chosen.users, chosen.conversations, chosen.rate, chosen.duration) == (60, 20, 5.0, None)
