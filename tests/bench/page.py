"""The admin page's two addresses with 10,000 connections, and the memory that the last hour takes.

The asking is done by this process on the other core, one connection, one request at a time, as a page does it. With
traffic, the events wait in the same loop as the requests, so those figures say what a page sees on a busy server.
"""

from __future__ import annotations

import http.client
import random
import time
import tracemalloc

from exporter.auth.tokens import Authenticator
from exporter.node.history import FIGURES, REASONS, STEP, History
from exporter.node.history import Sample as Point
from exporter.settings.model import Settings
from tests.bench.load import Load
from tests.bench.machine import raise_files
from tests.bench.options import Options
from tests.bench.report import table
from tests.bench.subjects import Ours

ROOM = 10
RATE = 1_000  # events a second: 9,000 deliveries
REQUESTS = 200
STATS, HISTORY = "/v1/messaging/stats", "/v1/messaging/stats/history"
HOUR, DAY = 360, 8_640  # samples
COUNTERS = (
    "messages_accepted",
    "deliveries",
    "joins",
    "connections_opened",
    "sends_failed",
    "delivered",
    "delivered_in_time",
)


def run(options: Options) -> str:
    """Both parts."""
    return f"{_answers(options)}\n{_memory()}"


def _answers(options: Options) -> str:
    count = min(max(step for step in options.connections if step <= 10_000), raise_files() - 200)
    rows = []
    with Ours() as subject:
        token = Authenticator.from_settings(Settings(data_dir=subject.folder)).sign("bench", role="admin")
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "gzip"}
        plan = subject.rooms([ROOM] * (count // ROOM))
        with Load(plan, subject.port, subject.pid) as load:
            load.run("connect", count=count, window=256, limit=120)
            rows += [[path, "no traffic", *_ask(subject.port, path, headers)] for path in (STATS, HISTORY)]
            busy = _Asking(subject.port, headers)
            busy.start()
            load.run("paced", seconds=8.0, rate=RATE, senders=len(plan), deliver=subject.deliver)
            busy.join()
            rows += [[path, f"{RATE:,} events/s", *cells] for path, cells in busy.cells.items()]
    head = ["address", "load", "median, ms", "95 of 100, ms", "longest, ms", "bytes sent"]
    return f"### The page's addresses with {count:,} connections\n\n{table(head, rows)}\n"


class _Asking:
    """Asks both addresses in a thread while this one drives the load."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        import threading

        self.cells: dict[str, list[str]] = {}
        self._thread = threading.Thread(target=self._run, args=(port, headers), daemon=True)
        self.start, self.join = self._thread.start, self._thread.join

    def _run(self, port: int, headers: dict[str, str]) -> None:
        for path in (STATS, HISTORY):
            self.cells[path] = _ask(port, path, headers)


def _ask(port: int, path: str, headers: dict[str, str]) -> list[str]:
    """Cells of the table: how long ``REQUESTS`` answers took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    took = []
    size = 0
    for _ in range(REQUESTS):
        started = time.perf_counter()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        size = len(answer.read())
        took.append((time.perf_counter() - started) * 1e3)
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
    connection.close()
    took.sort()
    return [f"{took[int(len(took) * share)]:.2f}" for share in (0.5, 0.95)] + [f"{took[-1]:.2f}", f"{size:,}"]


def _memory() -> str:
    """What is held after a minute, an hour and a day of a server with 10,000 connections, and what it costs to keep."""
    rows = []
    for label, samples in (("a minute", 6), ("an hour", HOUR), ("a day", DAY)):
        points = [_point(number) for number in range(samples)]
        tracemalloc.start()
        history = History()
        for number, point in enumerate(points):
            history.record(1.8e9 + number * STEP, point)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        history = History()
        started = time.perf_counter()
        for number, point in enumerate(points):
            history.record(1.8e9 + number * STEP, point)
        recorded = (time.perf_counter() - started) / samples
        started = time.perf_counter()
        size = len(history.body())
        made = time.perf_counter() - started
        row = [label, f"{held / 1024:.0f}", f"{recorded * 1e6:.0f}", f"{size / 1024:.0f}", f"{made * 1e3:.2f}"]
        rows.append(row)
    head = ["after", "held, KiB", "recorded in, µs", "answer, KiB of JSON", "made in, ms (once per sample)"]
    return f"### The last hour in memory\n\n{table(head, rows)}\n"


def _point(number: int) -> Point:
    random.seed(number)
    return Point(
        **{name: random.randrange(10_000) for name in FIGURES},
        **{name: number * 1_000 + random.randrange(1_000) for name in COUNTERS},
        **{group: {r: number * 50 + random.randrange(50) for r in reasons} for group, reasons in REASONS.items()},
    )
