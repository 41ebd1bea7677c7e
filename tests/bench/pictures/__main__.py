"""``python -m tests.bench.pictures OUTPUT``: dashboards and admin page as people see them, in good and bad times.

Two nodes of a cluster are started, idle, then with people; their database is moved away and put back; one node is
killed, then the other. An ``observe`` beside them goes through the same. At each of these moments a real Prometheus
with the project's rules is asked what Grafana would ask it, and each dashboard is drawn with its rows open, in windows
of 1280, 1440 and 1920 pixels, and of 1280 with Grafana's menu docked. The admin page is drawn from made-up figures, in
windows of 360 to 3840 pixels, light and dark. Needs npm, Chromium, Prometheus and Valkey; takes some minutes. What is
cut off is told, and makes the exit status 1. The alerts' patience is three seconds here, so the recording of a healthy
system (``--record``) wants a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exporter.simulate import SimulateOptions, simulate
from tests.bench.pictures.drawing import studio
from tests.bench.pictures.page import page_of, page_pictures
from tests.bench.pictures.recording import Prometheus as Recording
from tests.bench.pictures.recording import picture
from tests.servers.exporter import WS, Exporter
from tests.servers.observer import Observer
from tests.servers.prometheus import GRAFANA, Prometheus, hurried, until
from tests.servers.valkey import Server as Valkey

WIDTHS = (1050, 1280, 1440, 1920)  # the first is what a docked menu leaves of 1280
NODES = 2
OBSERVE = "observe"  # the job that has a dashboard of its own, chosen there as the others are elsewhere


def boards(folders: Mapping[str, Path], only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every dashboard of every folder, by the folder's name and its own."""
    return {
        f"{name}-{path.stem.removeprefix('messaging-')}": opened(json.loads(path.read_text(encoding="utf-8")))
        for name, folder in folders.items()
        for path in sorted(folder.glob("*.json"))
        if not only or path.stem in only
    }


def opened(dashboard: dict[str, Any]) -> dict[str, Any]:
    """The dashboard as it is after a click on each closed row."""
    panels: list[dict[str, Any]] = []
    down = 0
    for panel in dashboard["panels"]:
        nested = panel.get("panels", [])
        panels += [
            {**each, "gridPos": {**each["gridPos"], "y": each["gridPos"]["y"] + down}}
            for each in ({**panel, "panels": [], "collapsed": False} if nested else panel, *nested)
        ]
        if nested:
            down += max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in nested) - panel["gridPos"]["y"] - 1
    return {**dashboard, "panels": panels}


class Play:
    """The acts, and what was recorded in each: by dashboard and act."""

    def __init__(self, folder: Path, dashboards: dict[str, dict[str, Any]], broker: str | None) -> None:
        self.folder = folder
        self.dashboards = dashboards
        self.recorded: dict[tuple[str, str], dict[str, Any]] = {}
        flags = ("--redis.url", broker) if broker else ()
        # One folder, one database, one secret.
        self.nodes = [Exporter(folder / "nodes", *flags) for _ in range(NODES)]
        self.database = self.nodes[0].database
        self.observer = Observer(folder / "observer", {"chat": 1_234, "forum": 567})
        self.prometheus: Prometheus | None = None
        self.began = time.time()

    async def act(self, name: str, seconds: float) -> None:
        """Let it go on for some time, and record what every dashboard would show at its end."""
        print(f"{name}: {seconds:.0f} s", flush=True)
        await asyncio.sleep(seconds)
        assert self.prometheus is not None
        asked = Recording(self.prometheus.url, self.began, time.time())
        for board, dashboard in self.dashboards.items():
            asked.job = OBSERVE if board.endswith("-source") else "messaging"
            found = await asyncio.to_thread(picture, dashboard, asked, f"Grafana's components: {name}")
            self.recorded[board, name.replace(" ", "-")] = found

    async def run(self, seconds: float) -> None:
        """All acts; everything is stopped at the end."""
        try:
            for process in (*self.nodes, self.observer):
                await process.start()
            targets = [node.url.removeprefix("http://") for node in self.nodes]
            rules = hurried(self.folder / "rules")
            jobs = {"messaging": targets, OBSERVE: [self.observer.address]}
            self.prometheus = Prometheus(self.folder / "prometheus", jobs, rules=rules)
            await self.prometheus.start()
            prometheus = self.prometheus

            async def scraped() -> bool:
                return len(await prometheus.query("messaging_build_info")) == NODES

            await until(scraped, "both nodes are scraped")
            self.began = time.time()
            await self.act("idle", seconds / 2)
            await self._people(seconds)
        finally:
            for node in self.nodes:
                if node.process is not None:
                    await node.kill()
            await self.observer.kill()
            if self.prometheus is not None:
                await self.prometheus.stop()

    async def _people(self, seconds: float) -> None:
        options = SimulateOptions(
            urls=tuple(node.url.replace("http", "ws", 1) + WS for node in self.nodes),
            users=24, conversations=8, rate=5, duration=None, day=240, verify=False, token_for=self.nodes[0].token,
        )  # fmt: skip
        stop = asyncio.Event()
        people = asyncio.create_task(simulate(options, stop=stop))
        try:
            assert await self.nodes[0].command("verify") == 0
            await self.act("healthy", seconds)
            databases = (self.database, self.observer.database("chat"))
            for database in databases:
                database.rename(database.with_suffix(".moved"))
            await self.act("database down", seconds / 2)
            for database in databases:
                database.with_suffix(".moved").rename(database)
            await asyncio.sleep(seconds / 4)
            await self.nodes[1].kill()
            await self.act("one node dead", seconds / 2)
            await self.nodes[0].kill()
            await self.observer.kill()
            await self.act("all dead", seconds / 2)
        finally:
            stop.set()
            people.cancel()
            await asyncio.gather(people, return_exceptions=True)


async def pictures(options: argparse.Namespace) -> int:
    """All that the arguments ask for; the exit status."""
    options.output.mkdir(parents=True, exist_ok=True)
    if options.link:
        await page_of(options.link, options.output)
        return 0
    status = 0
    if options.part != "boards":
        faults = await page_pictures(options.output)
        print(*faults, sep="\n", end="\n" if faults else "", flush=True)
        status |= bool(faults)
    if options.part != "page":
        status |= await board_pictures(options)
    return status


async def board_pictures(options: argparse.Namespace) -> int:
    """Play, record, draw; the exit status."""
    folders = {"now": GRAFANA / "dashboards", **({"before": options.before} if options.before else {})}
    if not options.again:
        broker = None if options.apart else Valkey("valkey").start()
        try:
            with TemporaryDirectory() as folder:
                play = Play(Path(folder), boards(folders, options.only), broker and broker.url)
                await play.run(options.seconds)
        finally:
            if broker is not None:
                broker.remove()
        for (board, act), found in play.recorded.items():
            (options.output / f"{board}-{act}.json").write_text(json.dumps(found))
    if options.record:
        return 0
    failures = 0
    async with studio(options.npm.resolve()) as place:  # npm and esbuild run in that folder
        for path in sorted(options.output.glob("*.json")):
            recorded = json.loads(path.read_text())
            if options.only and recorded["dashboard"]["uid"] not in options.only:
                continue
            for width in options.width or WIDTHS:
                faults = await place.draw(recorded, width, path.with_name(f"{path.stem}-{width}.png"))
                if faults:
                    # Beside a docked menu a long name may end early.
                    cut = [fault for fault in faults if width > min(WIDTHS) or "cut off" not in fault]
                    failures += bool(cut) and path.stem.startswith("now")
                    print(f"{path.stem} at {width}: {'; '.join(faults)}", flush=True)
    return 1 if failures else 0


def main() -> int:
    """What the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pictures", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--part", choices=("boards", "page"), help="only the dashboards, or only the admin page")
    parser.add_argument(
        "--link",
        help="draw page.png and page-dark.png of a server, by the link of 'make run', only; for its first ten minutes "
        "the page says that it has just started",
    )
    parser.add_argument("--before", type=Path, help="a folder of other dashboards, drawn from the same answers")
    parser.add_argument("--only", action="append", default=[], help="one dashboard's name; may be repeated")
    parser.add_argument("--width", type=int, action="append", help="one width of the dashboards; may be repeated")
    parser.add_argument("--seconds", type=float, default=60.0, help="of an act")
    parser.add_argument("--npm", type=Path, default=Path("build/pictures-npm"), help="where the npm packages are kept")
    parser.add_argument("--record", action="store_true", help="draw no dashboard, only record what they ask for")
    parser.add_argument("--again", action="store_true", help="draw what OUTPUT has from an earlier run")
    parser.add_argument("--apart", action="store_true", help="nodes that do not know each other")
    return asyncio.run(pictures(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
