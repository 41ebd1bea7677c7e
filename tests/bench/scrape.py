"""Scrapes under load: how long ``/metrics`` takes, and how long everybody else waits because of it.

10,000 connections in conversations of ten, typing events at a fixed rate, each handed to nine others. A probe on a
connection of its own asks for a pong every millisecond; its longest wait with scrapes, against the windows between
without, is what a scrape costs the others. The same once more without traffic, where nothing hides it.
"""

from __future__ import annotations

import http.client
import threading
import time

from tests.bench.load import Load
from tests.bench.machine import raise_files
from tests.bench.options import Options
from tests.bench.report import Sample, table
from tests.bench.subjects import PING, Ours

ROOM = 10
RATE = 4_000  # events a second: 36,000 deliveries
EVERY = 0.25  # seconds between scrapes
WINDOW = 3.0


class Scraper(threading.Thread):
    """Scrapes on one connection until told to stop; how long each took and how large it was."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.done = threading.Event()
        self.times: list[float] = []
        self.size = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self.done.wait(EVERY):
            started = time.perf_counter()
            connection.request("GET", "/metrics")
            self.size = len(connection.getresponse().read())
            self.times.append(time.perf_counter() - started)
        connection.close()


def run(options: Options) -> str:
    """Traffic and quiet, with and without scrapes, in turn."""
    count = min(max(step for step in options.connections if step <= 10_000), raise_files() - 200)
    waits: dict[tuple[str, str], tuple[Sample, Sample, Sample, Sample]] = {}
    scrapes: dict[str, list[float]] = {"traffic": [], "quiet": []}
    size = 0
    with Ours() as subject:
        plan = subject.rooms([ROOM] * (count // ROOM))
        plan[0].templates = [PING]
        with Load(plan, subject.port, subject.pid) as load:
            answer = load.run("connect", count=count, window=256, limit=120)
            if answer["joined"] < count // ROOM * ROOM:
                raise RuntimeError(f"{answer['joined']} of {count} joined")
            for number in range(-1, options.rounds):
                for traffic in ("traffic", "quiet"):
                    for scraped in ("no scrape", "scraped"):
                        scraper = Scraper(subject.port)
                        if scraped == "scraped":
                            scraper.start()
                        answer = load.run(
                            "paced",
                            seconds=1.0 if number < 0 else max(WINDOW, options.window),
                            rate=RATE if traffic == "traffic" else 0,
                            first=1,
                            senders=len(plan) - 1,
                            deliver=subject.deliver,
                            probe=0.001,
                            probe_conn=0,
                            pong=Ours.pong,
                        )
                        scraper.done.set()
                        if scraped == "scraped":
                            scraper.join()
                        if number < 0:
                            continue
                        size = scraper.size or size
                        scrapes[traffic] += scraper.times
                        cells = waits.setdefault((traffic, scraped), (Sample(), Sample(), Sample(), Sample()))
                        values = (answer["probe_p50"], answer["probe_p99"], answer["probe_max"])
                        for cell, value in zip(cells, values, strict=False):
                            cell.values.append(value * 1e3)
                        cells[3].values.append(answer["server_cpu"] / answer["seconds"])
    rows = []
    for (traffic, scraped), (p50, p99, worst, busy) in waits.items():
        took = Sample([value * 1e3 for value in scrapes[traffic]]) if scraped == "scraped" else Sample()
        label = f"{RATE:,} events/s" if traffic == "traffic" else "no traffic"
        rows.append([label, scraped, took.show(1), p50.show(2), p99.show(2), worst.show(2), f"{busy.median:.0%}"])
    head = ["load", "", "scrape, ms", "probe p50, ms", "probe p99, ms", "probe longest, ms", "server busy"]
    more = []
    for traffic in ("traffic", "quiet"):
        pairs = zip(waits[traffic, "scraped"][2].values, waits[traffic, "no scrape"][2].values, strict=True)
        caused = Sample([with_scrape - without for with_scrape, without in pairs])
        more.append(f"{traffic}: longest wait with scrapes minus without: {caused.show(2)} ms")
    title = f"### A scrape with {count:,} connections ({size:,} bytes, every {EVERY} s)"
    return f"{title}\n\n{table(head, rows)}\n\n" + "\n".join(f"- {line}" for line in more) + "\n"
