"""Prometheus and Alertmanager as they are installed, on free ports and in temporary folders, and who is told.

``Receiver`` is the webhook at the end of the chain: what it got is what a person would have been woken with.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml
from aiohttp import web

from tests.servers.children import ends_with_the_tests
from tests.servers.ports import free_port

T = TypeVar("T")

GRAFANA = Path(__file__).parents[2] / "grafana"
PATIENCE = 60.0
"""Seconds that anything may take on a busy machine before a test gives up; nothing waits for them to pass."""

Sample = tuple[dict[str, str], list[float]]
"""Labels and values, one for an instant query."""


async def until(condition: Callable[[], Awaitable[T]], what: str, within: float = PATIENCE) -> T:
    """Ask again until the answer is true; the answer."""
    deadline = time.monotonic() + within
    while True:
        late = time.monotonic() > deadline
        answer = await condition()
        if answer:
            return answer
        assert not late, f"not within {within} s: {what}"
        await asyncio.sleep(0.1)


class Process:
    """A server that answers ``/-/ready`` when it is ready."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: asyncio.subprocess.Process | None = None
        self._http: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    async def _start(self, *command: str) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, cwd=self.folder, stdout=log, stderr=log, preexec_fn=ends_with_the_tests()
            )
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        try:
            await until(self._ready, f"{command[0]} is ready")
        except BaseException:  # cancelled, too: no process stays
            await self.stop()
            raise

    async def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.log.read_text()
        try:
            return (await self.get("/-/ready"))[0] == 200
        except aiohttp.ClientError:
            return False

    async def get(self, path: str, **params: str) -> tuple[int, Any]:
        """Status and body (JSON read, else text)."""
        assert self._http is not None
        async with self._http.get(self.url + path, params=params) as response:
            return response.status, await (response.json() if "json" in response.content_type else response.text())

    async def stop(self) -> None:
        """End it, at once when it does not end by itself."""
        if self._http is not None:
            await self._http.close()
            self._http = None
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


class Prometheus(Process):
    """Scrapes and evaluates every second. ``jobs`` are targets by job; ``rules`` are files, or none.

    With ``itself`` it also scrapes itself, as job prometheus: a neighbour with the same process metrics.
    """

    def __init__(
        self,
        folder: Path,
        jobs: Mapping[str, Sequence[str]],
        *,
        rules: Sequence[Path] = (),
        alertmanager: str | None = None,
        itself: bool = False,
    ) -> None:
        super().__init__(folder, "prometheus")
        if itself:
            jobs = {**jobs, "prometheus": [self.address]}
        config: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()
            ],
        }
        if alertmanager is not None:
            config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
        self.config = folder / "prometheus.yml"
        self.config.write_text(yaml.safe_dump(config))

    async def start(self) -> Prometheus:
        """Start; returns when it is ready."""
        await self._start(
            "prometheus",
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address={self.address}",
            "--rules.alert.resend-delay=1s",
        )
        return self

    async def query(self, expr: str) -> list[Sample]:
        """An instant query."""
        return await self._query("/api/v1/query", "value", query=expr)

    async def query_range(self, expr: str, seconds: float, step: float) -> list[Sample]:
        """A range query over the latest seconds."""
        now = time.time()
        return await self._query(
            "/api/v1/query_range", "values", query=expr, start=str(now - seconds), end=str(now), step=str(step)
        )

    async def _query(self, path: str, key: str, **params: str) -> list[Sample]:
        status, body = await self.get(path, **params)
        if status != 200:
            raise ValueError(f"{params['query']}: {body}")
        result = body["data"]["result"]
        assert body["data"]["resultType"] in ("vector", "matrix"), f"{params['query']} is no vector"
        return [
            (row["metric"], [float(value) for _, value in ([row[key]] if key == "value" else row[key])])
            for row in result
        ]

    async def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {labels["alertname"] for labels, _ in await self.query('ALERTS{alertstate="firing"}')}


class Alertmanager(Process):
    """The project's example of a configuration, told to hurry and to tell a webhook."""

    def __init__(self, folder: Path, webhook: str) -> None:
        super().__init__(folder, "alertmanager")
        config = yaml.safe_load((GRAFANA / "alertmanager.yml").read_text())
        config["route"].update(group_wait="0s", group_interval="1s")
        for receiver in config["receivers"]:
            receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
        self.config = folder / "alertmanager.yml"
        self.config.write_text(yaml.safe_dump(config))

    async def start(self) -> Alertmanager:
        """Start; returns when it is ready."""
        await self._start(
            shutil.which("prometheus-alertmanager") or "alertmanager",
            f"--config.file={self.config}",
            f"--storage.path={self.folder / 'alertmanager'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
        )
        return self


class Receiver:
    """Keeps what Alertmanager tells, in order."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app)
        self.url = ""

    async def start(self) -> Receiver:
        """Listen on a free port."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}/"
        return self

    async def stop(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        async with self._news:
            self.told += (await request.json())["alerts"]
            self._news.notify_all()
        return web.Response()

    async def alert(self, name: str, status: str, within: float = PATIENCE, **labels: str) -> dict[str, Any]:
        """The first notice of this alert, with these labels, in this state; waits for it."""

        def found() -> dict[str, Any] | None:
            wanted = {"alertname": name, **labels}.items()
            return next((n for n in self.told if n["status"] == status and wanted <= n["labels"].items()), None)

        try:
            async with asyncio.timeout(within), self._news:
                await self._news.wait_for(found)
        except TimeoutError:
            heard = sorted({(notice["labels"]["alertname"], notice["status"]) for notice in self.told})
            raise AssertionError(f"nobody was told within {within} s that {name} is {status}; heard: {heard}") from None
        notice = found()
        assert notice is not None
        return notice


def hurried(folder: Path) -> list[Path]:
    """The project's rules with every ``for`` shortened to three seconds and evaluated every second."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in ("recording.yml", "alerts.yml"):
        text = (GRAFANA / "rules" / name).read_text()
        text = re.sub(r"^( +for:) \w+$", r"\1 3s", text, flags=re.MULTILINE)
        (folder / name).write_text(re.sub(r"^( +interval:) \w+$", r"\1 1s", text, flags=re.MULTILINE))
        files.append(folder / name)
    return files


@asynccontextmanager
async def watched(folder: Path, *targets: str, job: str = "messaging") -> AsyncIterator[tuple[Prometheus, Receiver]]:
    """Prometheus with the project's hurried rules, Alertmanager and the receiver; stopped at the end of the block."""
    async with AsyncExitStack() as stack:
        receiver = await Receiver().start()
        stack.push_async_callback(receiver.stop)
        alertmanager = await Alertmanager(folder / "alertmanager", receiver.url).start()
        stack.push_async_callback(alertmanager.stop)
        prometheus = await Prometheus(
            folder / "prometheus", {job: targets}, rules=hurried(folder / "rules"), alertmanager=alertmanager.address
        ).start()
        stack.push_async_callback(prometheus.stop)
        yield prometheus, receiver
