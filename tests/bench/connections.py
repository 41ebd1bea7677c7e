"""Connections: memory per connection, how fast they come, and what happens when all come again at once.

Each connection is authenticated (its own user and token, for our server) and has joined one conversation of ten.
Memory is the growth of the resident set; connect + join is counted until ``joined`` has come. In the storm all
connections are reset at once and open again at once, while a probe on a connection of its own asks for a pong every
2 ms: its longest wait is the longest stall.
"""

from __future__ import annotations

import time

from tests.bench.load import Load
from tests.bench.machine import memory, raise_files
from tests.bench.options import Options
from tests.bench.report import Sample, busy, table
from tests.bench.subjects import PING, Ours, PythonSocketIo, SocketIo, Subject, Websockets

ROOM = 10
STORM = 10_000
SPARE = 200  # files that a server needs beside its connections


def run(options: Options) -> str:
    """Memory and rates for all, the storm for ours."""
    most = raise_files() - SPARE
    steps = [min(step, most) for step in options.connections]
    rows: list[list[str]] = []
    storms: list[list[str]] = []
    for subject in (Ours(), Websockets(), PythonSocketIo(), SocketIo()):
        if not options.wants(subject.name):
            continue
        why = subject.available()
        if why:
            print(f"  {subject.name}: not measured, {why}", flush=True)
            continue
        _grow(subject, steps, rows, storms, options)
        print(f"  {subject.name}: done", flush=True)
    head = ["server", "connections", "KiB each", "KiB each since the step before", "connect + join /s", "/s of CPU",
            "p99, ms", "busy: server / load"]  # fmt: skip
    text = f"### Connections that joined one conversation of {ROOM}\n\n{table(head, rows)}\n"
    if storms:
        head = [
            "connections",
            "all joined again, s",
            "connect + join p99, ms",
            "longest stall, ms",
            "refused once",
            "missing",
        ]
        text += f"\n### Reconnect storm: all reset, all again at once\n\n{table(head, storms)}\n"
    return text


def _grow(subject: Subject, steps: list[int], rows: list[list[str]], storms: list[list[str]], options: Options) -> None:
    with subject:
        plan = subject.rooms([ROOM] * (steps[-1] // ROOM))
        ours = isinstance(subject, Ours)
        if ours:
            plan[0].templates = [PING]  # the probe
        with Load(plan, subject.port, subject.pid) as load:
            time.sleep(0.5)  # what start-up left to be collected
            nothing = before = memory(subject.pid)
            opened = 0
            for step in steps:
                answer = load.run("connect", count=step - opened, window=256, limit=120)
                if answer["joined"] < step - step % ROOM:
                    raise RuntimeError(
                        f"{subject.name}: {answer['joined']} of {step} joined, {answer['failed']} failed"
                    )
                time.sleep(1.0)  # let it settle
                now, new = memory(subject.pid), answer["joined"] - opened
                rows.append(
                    [
                        subject.name,
                        f"{answer['joined']:,}",
                        f"{(now - nothing) / answer['joined'] / 1024:.1f}",
                        f"{(now - before) / new / 1024:.1f}",
                        f"{new / answer['seconds']:,.0f}",
                        f"{new / answer['server_cpu']:,.0f}",
                        f"{answer.get('latency_p99', 0) * 1e3:.0f}",
                        busy(answer),
                    ]
                )
                opened, before = answer["joined"], now
                if ours and step == max(s for s in steps if s <= STORM):
                    _storm(subject, load, opened, storms, options)
                    before = memory(subject.pid)


def _storm(subject: Subject, load: Load, opened: int, storms: list[list[str]], options: Options) -> None:
    took, stall, late, refused, missing = Sample(), Sample(), Sample(), 0, 0
    for _ in range(options.rounds):
        answer = load.run(
            "connect", again=1, window=opened, limit=60, probe=0.002, probe_conn=0, pong=Ours.pong, count=opened
        )
        took.values.append(answer["seconds"])
        stall.values.append(answer.get("probe_max", float("nan")) * 1e3)
        late.values.append(answer.get("latency_p99", float("nan")) * 1e3)
        refused += answer["failed"]
        missing += opened - answer["joined"]
    storms.append([f"{opened:,}", took.show(2), late.show(0), stall.show(1), str(refused), str(missing)])
