"""``python -m tests.bench [experiment…]``: measure this machine, print tables.

Each experiment is one command, bounded in time. Server and load run on different cores (``cluster``: all on one), peers
and limits in the same run, their windows in turn; a cost is the CPU time of the server process divided by what it did,
so that it does not depend on who else was busy. The load client is C where the machine has a compiler, and says how
busy it was.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from tests.bench.machine import describe, raise_files, unpinned
from tests.bench.options import Options

EXPERIMENTS = {
    "startup": "cold starts: --help, the import, and serve, beside query-exporter and uvicorn",
    "fanout": "fan-out of typing events and durable sends, with peers and limits",
    "inbound": "typing and join/leave events per second, instruments on and off",
    "connections": "memory per connection, connect + join rate, reconnect storm",
    "stalls": "the longest piece of work that one peer causes, while which nobody else has a turn",
    "scrape": "/metrics under load, and the stall that it causes",
    "page": "the admin page's addresses with 10,000 connections, and what the last hour takes",
    "totals": "a scrape at ten million messages, what triggers cost, durable sends against the usual way",
    "embed": "what Live costs a host, beside stepped gauges; the stall of a scrape with 10,000 connections",
    "cluster": "two servers that share a room over a broker, with peers; the broker by itself",
    "workers": "two workers on one port against one process: CPU per delivery, per connect + join",
    "observe": "observing another server's database of ten million messages, beside exporters of queries",
    "durable": "durable sends per second on SQLite and PostgreSQL",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    listed = "; ".join(f"{name}: {text}" for name, text in EXPERIMENTS.items())
    parser.add_argument("experiment", nargs="*", help=f"{listed} (default: all)")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default 9)")
    parser.add_argument("--window", type=float, default=0.4, help="seconds of one measurement (default 0.4)")
    parser.add_argument("--quick", action="store_true", help="2 short rounds, smaller sizes: does it work at all")
    parser.add_argument("--sizes", help="receivers, with commas (default 10,100,1000)")
    parser.add_argument("--connections", help="steps of open connections, with commas")
    parser.add_argument("--only", default="", help="subjects whose names contain one of these, with commas")
    parser.add_argument("--no-durable", action="store_true", help="leave durable sends out of the fan-out")
    parser.add_argument(
        "--unpinned", action="store_true", help="let the kernel put processes on cores, as it does for users"
    )
    parser.add_argument("--output", type=Path, help="also write the tables there")
    given = parser.parse_args()
    unknown = set(given.experiment) - set(EXPERIMENTS)
    if unknown:
        parser.error(f"unknown experiment {', '.join(sorted(unknown))}; there are {', '.join(EXPERIMENTS)}")
    plain = Options()
    options = Options(
        rounds=2 if given.quick else given.rounds,
        window=0.3 if given.quick else given.window,
        sizes=_numbers(given.sizes) or ((10, 100) if given.quick else plain.sizes),
        connections=_numbers(given.connections) or ((200, 1_000) if given.quick else plain.connections),
        durable=not given.no_durable,
        only=tuple(word for word in given.only.split(",") if word),
    )
    files = raise_files()
    head = [datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), *describe(), f"open files: {files}"]
    parts = ["\n".join(f"- {line}" for line in head) + "\n"]
    print(parts[0], flush=True)
    errors: list[str] = []
    structlog.configure(processors=[lambda _, method, line: _noted(errors, method, line)])
    failed = 0
    for name in given.experiment or EXPERIMENTS:
        started, allowed = time.monotonic(), os.sched_getaffinity(0)
        print(f"{name}: {EXPERIMENTS[name]}", flush=True)
        try:
            with unpinned() if given.unpinned else nullcontext():
                text = importlib.import_module(f"tests.bench.{name}").run(options)
        except Exception as error:  # the other experiments go on
            failed = 1
            text = f"### {name}\n\nfailed: {error}\n"
        if errors:  # what part of the work was not done costs nothing
            failed = 1
            text += "\nfailed: " + "; ".join(errors) + "\n"
            errors.clear()
        os.sched_setaffinity(0, allowed)  # where an experiment has kept itself to one core
        parts.append(text)
        print(f"\n{text}\n({name}: {time.monotonic() - started:.0f} s)\n", flush=True)
    if given.output:
        given.output.write_text("\n".join(parts))
    return failed


def _noted(errors: list[str], method: str, line: dict[str, Any]) -> str:
    """Keep what is an error; of the rest the tables say enough."""
    if method in ("error", "exception", "critical"):
        errors.append(line["event"])
    raise structlog.DropEvent


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",")) if text else ()


sys.exit(main())
