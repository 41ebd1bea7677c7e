"""``make observe``: the demo with Prometheus and Alertmanager, and Grafana where it is installed, on free ports.

Everything is started from this folder's own rules, dashboards and examples; alerts are told in this terminal as they
come and go, with a link to their runbook. Flags are those of ``messaging-exporter demo``. Ctrl-C stops all of it, and
nothing is left behind but the demo's data. Not part of the installed package: it is for looking, not for production.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import web

GRAFANA: Final = Path(__file__).resolve().parents[1]
# Faster than in production, so that something is to be seen within seconds.
INTERVAL: Final = "5s"
HOME: Final = Path("/usr/share/grafana")  # where its packages put it
READY: Final = 60.0  # seconds
STOPPING: Final = 15.0  # seconds; the demo drains for up to 10


class Trouble(Exception):
    """Something that has to be told in one line."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find(*names: str) -> str | None:
    """The first of these programs that is installed."""
    return next((found for name in names if (found := shutil.which(name))), None)


# --- the processes ------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(
    name: str,
    command: Sequence[str],
    ended: Callable[[str], None],
    *,
    log: Path | None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[None]:
    """A process for the length of a block. ``ended`` is called when it ends by itself; without a log it may speak."""
    output = log.open("ab") if log is not None else None
    try:
        # A session of its own: Ctrl-C is for this program, which stops the others in their order.
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=dict(env) if env else None, start_new_session=True
        )
    finally:
        if output is not None:
            output.close()

    async def watch() -> None:
        status = await process.wait()
        ended(f"{name} ended with status {status}" + (f":\n{tail(log)}" if log is not None else ""))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOPPING)
            except TimeoutError:
                process.kill()
                await process.wait()


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


async def ready(name: str, url: str) -> None:
    """Wait until something answers. Raises Trouble."""
    async with aiohttp.ClientSession() as http:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY):
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with http.get(url) as response:
                            if response.status == 200:
                                return
                    await asyncio.sleep(0.1)
    raise Trouble(f"{name} is not ready after {READY:.0f} s")


# --- who is told --------------------------------------------------------------------------------------------


class Bell:
    """Alertmanager's webhook: says in the terminal what fires and what is over; serves the runbooks."""

    def __init__(self) -> None:
        self.app = web.Application()
        self.app.router.add_post("/alerts", self._alerts)
        self.app.router.add_get("/runbooks/{name}", self._runbook)

    async def _alerts(self, request: web.Request) -> web.Response:
        for alert in (await request.json())["alerts"]:
            labels, texts = alert["labels"], alert["annotations"]
            mark = "ALERT" if alert["status"] == "firing" else "over "
            link = f"  {texts['runbook_url']}" if alert["status"] == "firing" else ""
            say(f"{mark} {labels['severity']:<8} {labels['alertname']}: {texts['description']}{link}")
        return web.Response()

    async def _runbook(self, request: web.Request) -> web.Response:
        path = GRAFANA / "runbooks" / request.match_info["name"]
        if path.parent != GRAFANA / "runbooks" or not path.is_file():
            raise web.HTTPNotFound
        return web.Response(text=path.read_text(encoding="utf-8"))


def say(line: str) -> None:
    """One line in the terminal, at once."""
    print(line, flush=True)


# --- the files ----------------------------------------------------------------------------------------------


def rules(folder: Path, runbooks: str) -> str:
    """The rules with their runbooks' links pointing here; the pattern that finds them."""
    folder.mkdir()
    for path in (GRAFANA / "rules").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        linked = re.sub(r"(runbook_url: )\S+/(\w+\.md)", rf"\1{runbooks}/\2", text)
        (folder / path.name).write_text(linked, encoding="utf-8")
    return str(folder / "*.yml")


def example(name: str) -> dict[str, Any]:
    """One of this folder's example configurations."""
    data: dict[str, Any] = yaml.safe_load((GRAFANA / name).read_text(encoding="utf-8"))
    return data


def write(path: Path, data: dict[str, Any]) -> Path:
    """As YAML."""
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def grafana_environment(folder: Path, port: int, prometheus: str) -> dict[str, str]:
    """Grafana without a sign-in, with this folder's data source and dashboards."""
    provisioning = folder / "provisioning"
    shutil.copytree(GRAFANA / "provisioning", provisioning)
    provider = provisioning / "dashboards" / "messaging.yml"
    data = yaml.safe_load(provider.read_text(encoding="utf-8"))
    data["providers"][0]["options"]["path"] = str(GRAFANA / "dashboards").replace("$", "$$")
    write(provider, data)
    settings = {
        "PATHS_DATA": folder / "data",
        "PATHS_LOGS": folder / "logs",
        "PATHS_PLUGINS": folder / "plugins",
        "PATHS_PROVISIONING": provisioning,
        "SERVER_HTTP_ADDR": "127.0.0.1",
        "SERVER_HTTP_PORT": port,
        "AUTH_ANONYMOUS_ENABLED": "true",
        "AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": GRAFANA / "dashboards" / "messaging-overview.json",
        "ANALYTICS_REPORTING_ENABLED": "false",
        "ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    return {**os.environ, "PROMETHEUS_URL": prometheus, **{f"GF_{key}": str(value) for key, value in settings.items()}}


# --- all of it ----------------------------------------------------------------------------------------------


class Observatory:
    """What runs, and where. ``start`` one after the other; leaving ``stack`` stops everything in the other order."""

    def __init__(self, stop: asyncio.Event, stack: AsyncExitStack, folder: Path) -> None:
        self.stop = stop
        self.stack = stack
        self.folder = folder
        self.failure: str | None = None
        self.ports = {name: free_port() for name in ("demo", "prometheus", "alertmanager", "bell", "grafana")}

    def address(self, name: str) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.ports[name]}"

    def url(self, name: str, path: str = "") -> str:
        """Where something answers."""
        return f"http://{self.address(name)}{path}"

    def _ended(self, why: str) -> None:
        self.failure = self.failure or why
        self.stop.set()

    async def _run(
        self,
        name: str,
        command: Sequence[str],
        health: str,
        *,
        speaks: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it and wait until it is ready, unless told to stop meanwhile."""
        log = None if speaks else self.folder / f"{name}.log"
        await self.stack.enter_async_context(running(name, command, self._ended, log=log, env=env))
        await _unless(self.stop, ready(name, health))

    async def bell(self) -> None:
        """Who is told."""
        runner = web.AppRunner(Bell().app, access_log=None)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", self.ports["bell"]).start()

    async def demo(self, flags: Sequence[str]) -> None:
        """The server with simulated people; it speaks for itself."""
        command = [sys.executable, "-m", "exporter", "demo", "--web.listen-address", self.address("demo"), *flags]
        await self._run("the demo", command, self.url("demo", "/-/healthy"), speaks=True)

    async def alertmanager(self, program: str) -> None:
        """The example's routes, quicker, to the bell."""
        config = example("alertmanager.yml")
        config["route"].update(group_wait="1s", group_interval="5s")
        config["receivers"][0]["webhook_configs"] = [{"url": self.url("bell", "/alerts"), "send_resolved": True}]
        command = [
            program,
            f"--config.file={write(self.folder / 'alertmanager.yml', config)}",
            f"--storage.path={self.folder / 'alertmanager'}",
            f"--web.listen-address={self.address('alertmanager')}",
            "--cluster.listen-address=",
        ]
        await self._run("Alertmanager", command, self.url("alertmanager", "/-/ready"))

    async def prometheus(self, program: str, *, alerts: bool) -> None:
        """The example's scrape and this folder's rules, more often."""
        config = example("prometheus.yml")
        config["global"].update(scrape_interval=INTERVAL, scrape_timeout=INTERVAL, evaluation_interval=INTERVAL)
        config["rule_files"] = [rules(self.folder / "rules", self.url("bell", "/runbooks"))]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [self.address("demo")]
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [self.address("alertmanager")]
        if not alerts:
            del config["alerting"]
        command = [
            program,
            f"--config.file={write(self.folder / 'prometheus.yml', config)}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address={self.address('prometheus')}",
        ]
        await self._run("Prometheus", command, self.url("prometheus", "/-/ready"))

    async def grafana(self, program: str) -> None:
        """This folder's data source and dashboards; the overview is the first thing to be seen."""
        command = [program] if Path(program).name == "grafana-server" else [program, "server"]
        if HOME.is_dir():
            command.append(f"--homepath={HOME}")
        environment = grafana_environment(self.folder / "grafana", self.ports["grafana"], self.url("prometheus"))
        await self._run("Grafana", command, self.url("grafana", "/api/health"), env=environment)


async def observe(flags: Sequence[str], stop: asyncio.Event) -> None:
    """Run until ``stop`` is set. Raises Trouble when something cannot be started or ends by itself."""
    prometheus = find("prometheus")
    alertmanager = find("prometheus-alertmanager", "alertmanager")
    grafana = find("grafana-server", "grafana")
    if prometheus is None:
        raise Trouble("prometheus is not installed; on Debian: apt-get install prometheus prometheus-alertmanager")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="messaging-observe-")))
        here = Observatory(stop, stack, folder)
        await here.bell()
        await here.demo(flags)
        if alertmanager is not None:
            await here.alertmanager(alertmanager)
        await here.prometheus(prometheus, alerts=alertmanager is not None)
        if grafana is not None:
            await here.grafana(grafana)
        if not stop.is_set():
            absent = "is not installed"
            say("")
            say(f"  Prometheus    {here.url('prometheus', '/targets')}")
            say(f"  Alerts        {here.url('prometheus', '/alerts')}")
            say(f"  Alertmanager  {here.url('alertmanager') if alertmanager else absent}")
            say(f"  Grafana       {here.url('grafana') if grafana else absent}")
            say("")
            say("Alerts are told here as they come and go. Ctrl-C stops everything.")
            await stop.wait()
    if here.failure is not None:
        raise Trouble(here.failure)


async def _unless(stop: asyncio.Event, work: Any) -> None:
    """Do some work, unless told to stop meanwhile."""
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    done, pending = await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for other in pending:
        other.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    if task in done:
        task.result()


async def main() -> int:
    """Run; the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await observe(sys.argv[1:], stop)
    except Trouble as trouble:
        print(f"observe: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
