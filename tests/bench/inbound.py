"""Inbound: what one command costs the server, JSON decoding, state and all instruments included.

64 connections, each alone in a conversation, so that nothing is handed on: what is measured is reading, deciding and
counting. A round is one write per connection (one frame, or a burst of 16) and a ping on a further connection whose
pong says that the round is over. Join and leave are answered, each connection waits for its answer. ``instruments
off`` is the same server with every counter, gauge and histogram taken out of the code by without_instruments.py, a
launcher of this bench.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from tests.bench.load import Load
from tests.bench.options import Options
from tests.bench.report import Sample, ratio, table
from tests.bench.subjects import PING, AiohttpLabels, Ours

SENDERS = 64
CASES: dict[str, dict[str, Any]] = {
    "typing": {"command": "rounds", "burst": 1},
    "typing, bursts of 16": {"command": "rounds", "burst": 16},
    "join and leave": {"command": "request"},
}
# One process of a server may be a fifth quicker than another of the same, by where its memory happens to lie.
GENERATIONS = 3
ON, OFF = "messaging-exporter", "the same, instruments off"


Costs = dict[tuple[str, str], Sample]
Shares = dict[tuple[str, str], tuple[Sample, Sample, Sample]]


def _measure(case: str, rounds: int, window: float, costs: Costs, shares: Shares) -> None:
    """All servers, newly started, in turn."""
    arguments = CASES[case]
    with ExitStack() as stack:
        kind = "join" if case.startswith("join") else "typing"
        subjects = [Ours(kind=kind), Ours(kind=kind, label=OFF, bare=True), AiohttpLabels(kind=kind)]
        running = []
        for subject in subjects:
            stack.enter_context(subject)
            plan = subject.rooms([1] * (SENDERS + 1))
            plan[0].templates = [PING]
            load = stack.enter_context(Load(plan, subject.port, subject.pid))
            answer = load.run("connect", count=len(plan), window=64, limit=30)
            if answer["joined"] != len(plan):
                raise RuntimeError(f"{subject.name}: {answer['joined']} of {len(plan)} joined")
            running.append((subject, load))
        for number in range(-1, rounds):
            turn = number % len(running)
            for subject, load in running[turn:] + running[:turn]:
                if arguments["command"] == "rounds":
                    answers = {"answer": subject.pong}
                    more = {"burst": arguments["burst"], "senders": SENDERS}
                else:
                    answers = {"answer": subject.joined, "answer2": subject.left}
                    more = {"first": 1, "senders": SENDERS}
                answer = load.run(arguments["command"], seconds=window, **more, **answers)
                if answer["failed"]:
                    raise RuntimeError(f"{subject.name}: {answer['failed']} not answered")
                if number < 0 or not answer["sent"]:
                    continue
                key = (case, subject.name)
                costs.setdefault(key, Sample()).values.append(answer["server_cpu"] / answer["sent"] * 1e6)
                rate, server, client = shares.setdefault(key, (Sample(), Sample(), Sample()))
                rate.values.append(answer["sent"] / answer["seconds"])
                server.values.append(answer["server_cpu"] / answer["seconds"])
                client.values.append(answer["client_cpu"] / answer["seconds"])


def run(options: Options) -> str:
    """One table per case."""
    costs: Costs = {}
    shares: Shares = {}
    for case in CASES:
        for generation in range(GENERATIONS):
            rounds = len(range(generation, options.rounds, GENERATIONS))
            if rounds:
                _measure(case, rounds, options.window, costs, shares)
    rows = []
    for (case, name), cost in costs.items():
        on = costs[case, ON]
        rate, server, client = shares[case, name]
        instruments = Sample([1 - off / full for off, full in zip(cost.values, on.values, strict=False)])
        rows.append(
            [
                case,
                name,
                cost.show(2),
                ratio(cost.values, on.values).show(2) if name != ON else "",
                f"{instruments.median:.0%} of ours" if name == OFF else "",
                f"{rate.median:,.0f}",
                f"{server.median:.0%} / {client.median:.0%}",
            ]
        )
    head = ["event", "server", "µs CPU per event", "times ours", "instruments cost", "events/s", "busy: server / load"]
    return f"### Inbound events, one process\n\n{table(head, rows)}\n"
