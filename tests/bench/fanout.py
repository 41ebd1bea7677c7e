"""Fan-out: what one delivery costs the server, and when the last receiver has it.

One room of N + 1 connections; each message goes to the N others. A message is over when every one of them has it;
``in flight`` is how many are not over. Typing events need no database, so that servers can be compared;
durable sends are ours alone (durable.py counts them per second).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.bench.load import Load
from tests.bench.options import Options
from tests.bench.report import Sample, ratio, table
from tests.bench.subjects import (
    PEERS,
    AiohttpSend,
    BareUvloop,
    Epoll,
    NodeWs,
    Ours,
    PythonSocketIo,
    SocketIo,
    Subject,
    UWebSockets,
)

MODES: dict[str, tuple[int, int]] = {  # in flight, senders
    "1 in flight": (1, 1),
    "32 senders in flight": (32, 32),
    "one sender pipelines 32": (32, 1),
}
ALL, LARGE = (10, 100, 1_000), (100, 1_000)
# mode, the other, at these N, its cost in ours at least
GOALS: list[tuple[str, str, tuple[int, ...], tuple[float, ...]]] = [
    ("32 senders in flight", NodeWs.name, LARGE, (8, 8)),
    ("32 senders in flight", AiohttpSend.name, LARGE, (8, 8)),
    ("32 senders in flight", SocketIo.name, LARGE, (12, 12)),
    ("32 senders in flight", PythonSocketIo.name, LARGE, (40, 40)),
    ("32 senders in flight", UWebSockets.name, LARGE, (0.5, 0.5)),
    ("one sender pipelines 32", Epoll.name, LARGE, (0.45, 0.65)),
    ("1 in flight", BareUvloop.name, ALL, (0.80, 0.88, 0.95)),
]
SLOW = 3.0  # a subject whose window took longer is measured in at most SLOW_ROUNDS
SLOW_ROUNDS = 2


@dataclass
class Cells:
    """What one subject did in one mode, a value a round."""

    cost: Sample = field(default_factory=Sample)  # µs of the server's CPU per delivery
    last: Sample = field(default_factory=Sample)  # µs until the last receiver has it, p50
    rate: Sample = field(default_factory=Sample)  # deliveries per second
    server: Sample = field(default_factory=Sample)  # busy share of its core
    client: Sample = field(default_factory=Sample)
    lost: int = 0
    slow: bool = False


def subjects(options: Options) -> Iterator[Subject]:
    yield Ours()
    if options.durable:
        yield Ours(kind="send", label="messaging-exporter, durable sends")
    for peer in PEERS:
        yield peer()


def measure(size: int, options: Options) -> dict[tuple[str, str], Cells]:
    """All subjects side by side, their windows in turn, so that what disturbs the machine disturbs all."""
    with ExitStack() as stack:
        running: list[tuple[Subject, Load]] = []
        for subject in subjects(options):
            if not options.wants(subject.name):
                continue
            why = subject.available()
            if why:
                print(f"  {subject.name}: not measured, {why}", flush=True)
                continue
            stack.enter_context(subject)
            load = stack.enter_context(Load(subject.room(size + 1), subject.port, subject.pid))
            answer = load.run("connect", count=size + 1, window=128, limit=30)
            if answer["joined"] != size + 1:
                raise RuntimeError(f"{subject.name}: {answer['joined']} of {size + 1} joined")
            running.append((subject, load))
            subject.pause()
        cells = {(subject.name, mode): Cells() for subject, _ in running for mode in MODES}
        for number in range(-1, options.rounds):  # the first warms up, and is not counted
            turn = number % len(running)
            for subject, load in running[turn:] + running[:turn]:
                subject.resume()
                for mode, (inflight, senders) in MODES.items():
                    cell = cells[subject.name, mode]
                    if number >= SLOW_ROUNDS and cell.slow:
                        continue
                    seconds = options.window if number >= 0 else 0.1
                    answer = load.run(
                        "fanout",
                        seconds=seconds,
                        inflight=inflight,
                        senders=min(senders, size + 1),
                        members=size + 1,
                        deliver=subject.deliver,
                        echo=int(subject.echoes),
                    )
                    cell.slow = cell.slow or answer["seconds"] > SLOW
                    if number >= 0:
                        _record(cell, answer)
                subject.pause()
    return cells


def goals(size: int, cells: dict[tuple[str, str], Cells]) -> list[list[str]]:
    """What is promised, and what it is in this run: how many times dearer the other is, round by round."""
    rows = []
    for mode, other, sizes, least in GOALS:
        ours, theirs = cells.get((Ours.name, mode)), cells.get((other, mode))
        if size in sizes and ours and theirs and ours.cost.values and theirs.cost.values:
            reached = ratio(theirs.cost.values, ours.cost.values)
            floor = least[sizes.index(size)]
            rows.append(
                [f"{size:,}", mode, other, f"{floor:.2f}", reached.show(2), "yes" if reached.median >= floor else "NO"]
            )
    ours, bare = cells.get((Ours.name, "1 in flight")), cells.get((BareUvloop.name, "1 in flight"))
    if ours and bare and ours.last.values:
        waits = ratio(ours.last.values, bare.last.values)
        rows.append(
            [
                f"{size:,}",
                "last receiver's p50",
                BareUvloop.name,
                "≤ 1.20",
                waits.show(2),
                "yes" if waits.median <= 1.2 else "NO",
            ]
        )
    return rows


def _record(cell: Cells, answer: dict[str, Any]) -> None:
    cell.lost += answer["failed"]
    if answer["deliveries"] and answer["latency_n"]:
        cell.cost.values.append(answer["server_cpu"] / answer["deliveries"] * 1e6)
        cell.last.values.append(answer["latency_p50"] * 1e6)
        cell.rate.values.append(answer["deliveries"] / answer["seconds"])
        cell.server.values.append(answer["server_cpu"] / answer["seconds"])
        cell.client.values.append(answer["client_cpu"] / answer["seconds"])


def run(options: Options) -> str:
    """The tables for every N."""
    parts = []
    reached: list[list[str]] = []
    for size in options.sizes:
        started = time.monotonic()
        cells = measure(size, options)
        for mode in MODES:
            ours = cells.get((Ours.name, mode))
            rows = []
            for (name, of_mode), cell in cells.items():
                if of_mode != mode:
                    continue
                times = ratio(cell.cost.values, ours.cost.values).show(2) if ours and cell is not ours else ""
                waits = ratio(cell.last.values, ours.last.values).show(2) if ours and cell is not ours else ""
                lost = f"{cell.lost} LOST" if cell.lost else ""
                rows.append(
                    [
                        name,
                        cell.cost.show(3),
                        times,
                        f"{cell.last.median:.0f}",
                        waits if mode == "1 in flight" else "",
                        f"{cell.rate.median:,.0f}",
                        f"{cell.server.median:.0%} / {cell.client.median:.0%}",
                        f"{len(cell.cost.values)} {lost}".strip(),
                    ]
                )
            head = ["server", "µs CPU per delivery", "times ours", "last receiver p50, µs", "times ours",
                    "deliveries/s", "busy: server / load", "rounds"]  # fmt: skip
            parts.append(f"### Fan-out to N = {size:,}, {mode}\n\n{table(head, rows)}\n")
        reached += goals(size, cells)
        print(f"  N = {size}: {time.monotonic() - started:.0f} s", flush=True)
    if reached:
        head = ["N", "mode", "the other", "its cost is at least … × ours", "in this run", "reached"]
        parts.append(f"### Fan-out against its goals\n\n{table(head, reached)}\n")
    return "\n".join(parts)
