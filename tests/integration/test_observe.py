"""``make observe``: everything is up and joined, alerts are told in the terminal, Ctrl-C leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.servers.children import ends_with_the_tests
from tests.servers.prometheus import GRAFANA, PATIENCE, until

pytestmark = [pytest.mark.needs("prometheus"), pytest.mark.needs("alertmanager")]

# What Grafana is asked for, from a program that only writes it down and answers that it is well.
FAKE_GRAFANA = """#!{python}
import http.server, json, os, pathlib, shutil
there = pathlib.Path({told!r})
there.write_text(json.dumps({{k: v for k, v in os.environ.items() if k.startswith("GF_") or k == "PROMETHEUS_URL"}}))
shutil.copytree(os.environ["GF_PATHS_PROVISIONING"], there.with_name("provisioning"))
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["GF_SERVER_HTTP_PORT"])), Well).serve_forever()
"""


class Terminal:
    """The program in a folder of its own, and what it has said."""

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.said = folder / "said"
        path = os.environ["PATH"] if programs is None else f"{programs}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PYTHONPATH": str(GRAFANA.parent), "PATH": path, "TMPDIR": str(folder)}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.said.open("wb") as said:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, str(GRAFANA / "source" / "observe.py"), "--data.dir", str(self.data),
                cwd=self.folder, env=self._environment, stdout=said, stderr=said,
                preexec_fn=ends_with_the_tests(signal.SIGTERM),
            )  # fmt: skip

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has said this."""

        async def found() -> re.Match[str] | None:
            assert self.process is not None
            match = re.search(pattern, self.said.read_text())
            assert match or self.process.returncode is None, self.said.read_text()
            return match

        return await said(found)

    async def interrupted(self) -> int:
        """Ctrl-C; the exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


async def said(found: Callable[[], Awaitable[re.Match[str] | None]]) -> re.Match[str]:
    match = await until(found, "it is said", within=400)
    assert match is not None
    return match


@asynccontextmanager
async def observing(folder: Path, programs: Path | None = None) -> AsyncIterator[Terminal]:
    terminal = Terminal(folder, programs)
    await terminal.start()
    try:
        yield terminal
    finally:
        await terminal.interrupted()


async def fetched(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert response.status == 200
        return await response.text()


def children_in(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command:
                found.append(command)
    return found


async def test_an_outage_is_seen_alerts_are_told_with_runbooks_that_open_and_ctrl_c_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with observing(tmp_path) as terminal:
        prometheus = (await terminal.says(r"Prometheus +(http://\S+)/targets"))[1]
        alertmanager = (await terminal.says(r"Alertmanager +(http://\S+)"))[1]
        await terminal.says("running people=")
        elsewhere = terminal.data.with_name("elsewhere.db")
        database = terminal.data / "messaging.db"
        database.rename(elsewhere)
        # Its `for` of a minute is too long for a test: it is enough that it is pending.
        pending = re.compile(r'"alertname":"MessagingDatabaseDown".*?"state":"(pending|firing)"')

        async def seen() -> re.Match[str] | None:
            return pending.search(await fetched(f"{prometheus}/api/v1/alerts"))

        await said(seen)
        elsewhere.rename(database)
        rules = await fetched(f"{prometheus}/api/v1/rules")
        runbook = re.search(r'"runbook_url":"(http://127[^"]+MessagingDatabaseDown\.md)"', rules)
        assert runbook is not None
        assert (await fetched(runbook[1])).startswith("# MessagingDatabaseDown\n")

        alert = {
            "labels": {"alertname": "MessagingTotalsStale", "severity": "warning", "job": "messaging"},
            "annotations": {"description": "They are old.", "runbook_url": "http://here/runbook.md"},
        }
        await tell(alertmanager, alert)
        await terminal.says("ALERT warning +MessagingTotalsStale: They are old.  http://here/runbook.md")
        await tell(alertmanager, {**alert, "endsAt": "2020-01-01T00:00:00Z"})
        await terminal.says("over +warning +MessagingTotalsStale: They are old.")

        assert children_in(tmp_path)
        assert await terminal.interrupted() == 0
    assert children_in(tmp_path) == []
    assert names_in(tmp_path) == {"data", "said"}, "temporary files are still there"


async def tell(alertmanager: str, alert: dict[str, Any]) -> None:
    """As Prometheus does."""
    async with aiohttp.ClientSession() as http, http.post(f"{alertmanager}/api/v2/alerts", json=[alert]) as response:
        assert response.status == 200


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_grafana_is_joined_when_it_is_installed(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    told = tmp_path / "told.json"
    program = programs / "grafana-server"
    program.write_text(FAKE_GRAFANA.format(python=sys.executable, told=str(told)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    async with observing(tmp_path, programs) as terminal:
        prometheus = (await terminal.says(r"Prometheus +(http://\S+)/targets"))[1]
        await terminal.says(r"Grafana +http://\S+")
        environment = yaml.safe_load(told.read_text())
        assert environment["PROMETHEUS_URL"] == prometheus
        assert environment["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
        home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        assert home == str(GRAFANA / "dashboards" / "messaging-overview.json")
        provider = yaml.safe_load((tmp_path / "provisioning" / "dashboards" / "messaging.yml").read_text())
        assert provider["providers"][0]["options"]["path"] == str(GRAFANA / "dashboards")
        source = yaml.safe_load((tmp_path / "provisioning" / "datasources" / "messaging.yml").read_text())
        assert source["datasources"][0]["url"] == "$PROMETHEUS_URL"


async def test_a_part_that_ends_by_itself_ends_the_whole_with_its_last_words(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "prometheus"
    program.write_text("#!/bin/sh\necho no room on the disk\nexit 7\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    async with observing(tmp_path, programs) as terminal:
        assert terminal.process is not None
        assert await asyncio.wait_for(terminal.process.wait(), 400) == 1
        await terminal.says("observe: Prometheus ended with status 7:\nno room on the disk")
    assert children_in(tmp_path) == []


@pytest.mark.parametrize("flag", ["--no.such-flag"])
async def test_a_flag_that_the_demo_does_not_know_ends_it(flag: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(GRAFANA / "source" / "observe.py"), flag,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(GRAFANA.parent)}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, told = await asyncio.wait_for(process.communicate(), 400)
    assert process.returncode == 1
    assert b"No such option" in told
    assert b"observe: the demo ended with status 2" in told
