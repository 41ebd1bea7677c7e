"""Durable sends with acknowledgement: 64 senders in conversations with ten others, on either database.

Either each sender has a conversation of its own with ten who only read (64 × 11 connections, eleven writes a send), or
six conversations of eleven in which everybody sends (the writes of one turn of the loop are shared).

Each sender waits for its ``ack`` before it sends again (and, in the second row, keeps four under way); the ten others
get the message. Everything is on: triggers, totals, metrics. PostgreSQL is started by the bench, on the load's core.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.bench.load import Load
from tests.bench.machine import cores, keep
from tests.bench.options import Options
from tests.bench.report import Sample, table
from tests.bench.subjects import Ours

SENDERS = 64
OTHERS = 10
TOGETHER = 6  # conversations of eleven, 64 of whose 66 members send
FLIGHTS = (1, 4)


@contextmanager
def postgres() -> Iterator[str | None]:
    """The URL of an empty PostgreSQL, or None where there is none."""
    try:
        from tests.servers.postgres import Postgres, find_binaries
    except ImportError:
        yield None
        return
    if find_binaries() is None:
        yield None
        return
    server = Postgres()
    try:
        server.start()
        keep(server.pid, cores()[1])  # what it forks for the server's connections is there, too
        yield server.url(server.create_database())
    finally:
        server.close()


def run(options: Options) -> str:
    """Sends per second and what one costs."""
    rows = []
    with ExitStack() as stack:
        url = stack.enter_context(postgres())
        running = []
        for name, database in (("SQLite", ""), ("PostgreSQL", url)):
            if database is None:
                print("  PostgreSQL: not measured, its binaries are not here", flush=True)
                continue
            subject = Ours(kind="send", database_url=database, label=name)
            stack.enter_context(subject)
            apart = [subject.rooms([OTHERS + 1], first=number) for number in range(SENDERS)]
            plans = {
                f"{SENDERS}, one sends": [room[0] for room in apart] + [one for room in apart for one in room[1:]],
                f"{TOGETHER}, all send": subject.rooms([OTHERS + 1] * TOGETHER, first=SENDERS),
            }
            for rooms, plan in plans.items():
                load = stack.enter_context(Load(plan, subject.port, subject.pid))
                answer = load.run("connect", count=len(plan), window=128, limit=30)
                if answer["joined"] != len(plan):
                    raise RuntimeError(f"{name}: {answer['joined']} of {len(plan)} joined")
                running.append((subject, rooms, load))
        for flight in FLIGHTS:
            cells = {(subject.name, rooms): [Sample() for _ in range(7)] for subject, rooms, _ in running}
            for number in range(-1, options.rounds):
                for subject, rooms, load in running:
                    answer = load.run(
                        "request",
                        seconds=max(1.0, options.window),
                        senders=SENDERS,
                        inflight=flight,
                        answer=Ours.ack,
                        deliver=subject.deliver,
                        expect=OTHERS,
                    )
                    if answer["failed"] or answer["deliveries"] != OTHERS * answer["answers"]:
                        raise RuntimeError(
                            f"{subject.name}: {answer['failed']} not acknowledged, "
                            f"{answer['deliveries']} of {OTHERS * answer['answers']} delivered"
                        )
                    if number < 0:
                        continue
                    busy = answer["seconds"] - answer["quiet"]
                    values = (
                        answer["answers"] / busy,
                        answer["server_cpu"] / answer["answers"] * 1e6,
                        answer["latency_p50"] * 1e3,
                        answer["latency_p99"] * 1e3,
                        answer["deliveries"] / busy,
                        answer["server_cpu"] / busy,
                        answer["client_cpu"] / busy,
                    )
                    for cell, value in zip(cells[subject.name, rooms], values, strict=True):
                        cell.values.append(value)
            for (name, rooms), (rate, cost, p50, p99, deliveries, server, client) in cells.items():
                rows.append(
                    [
                        name,
                        rooms,
                        str(flight),
                        rate.show(0),
                        cost.show(1),
                        p50.show(1),
                        p99.show(1),
                        f"{deliveries.median:,.0f}",
                        f"{server.median:.0%} / {client.median:.0%}",
                    ]
                )
    head = [
        "database",
        "conversations",
        "in flight each",
        "acknowledged/s",
        "µs CPU each",
        "ack p50, ms",
        "ack p99, ms",
    ]
    head += ["deliveries/s", "busy: server / load"]
    return f"### Durable sends, {SENDERS} senders, {OTHERS} receivers each\n\n{table(head, rows)}\n"
