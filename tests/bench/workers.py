"""``--workers 2`` against one process, on the same PostgreSQL: what sharing a port costs.

A cost is the CPU time of the server's processes, the supervisor among them, divided by what they did: user and system
time, as the kernel counts it to the nanosecond. Valkey is no part of it and stands beside it; neither are PostgreSQL
and the load. Both servers have the same flags but ``--workers``, a database each on the same PostgreSQL, and the same
load; they are warmed up with a whole round and take turns, the order reversed from round to round.

Each is measured twice. **Where the kernel puts them**, two workers, Valkey, PostgreSQL and the load share two cores,
as a user starts them: wall time says little. **On one core** the server's processes and the workers' Valkey share it,
and the load has the other. Both servers are busy without a pause then, and gather as much before they write; but each
pushes the other's data out of the core's caches, some hundred times a second, which two *independent* processes do as
well.

The people of a room are on either worker, as it comes: half of what is delivered crosses. Before each round it is
waited until nobody is left of the one before, so that no disconnect is counted as a connect; what they cost has a row
of its own, without a goal. Users are the same in each round, as in a storm of people who come back: either worker may
have had them before.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.fanout import MODES
from tests.bench.load import Load
from tests.bench.machine import cpu_seconds, memory, pinned, unpinned
from tests.bench.options import Options
from tests.bench.report import Sample, ratio, table
from tests.bench.subjects import Ours
from tests.servers.postgres import Postgres

ONE, TWO = "one process", "two workers"
ROOM = 100
CONNECTING, LEAVING, CONNECTS = "connect + join", "disconnect", 1_000
QUIET, LOOK = 0.002, 0.1
"""Seconds of CPU in so many seconds: a server that spends less has nothing left to do."""
GOALS = {"delivery": 1.25, CONNECTING: 1.2}


class OnPostgres(Ours):
    """One process, or several."""

    def __init__(self, label: str, database_url: str, *flags: str) -> None:
        super().__init__(database_url=database_url, label=label)
        self.extra = flags

    def pids(self) -> tuple[list[int], list[int]]:
        """The server's processes, and the broker's."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        children = [int(pid) for pid in found]
        brokers = [pid for pid in children if "valkey" in Path(f"/proc/{pid}/cmdline").read_text()]
        return [self.pid, *(pid for pid in children if pid not in brokers)], brokers

    def spent(self) -> tuple[float, float]:
        """Seconds of CPU: the server's, the broker's."""
        server, broker = self.pids()
        return sum(map(cpu_seconds, server)), sum(map(cpu_seconds, broker))


def run(options: Options) -> str:
    """The tables: costs, their ratios round by round, and the goals."""
    with unpinned():
        tables = [_table("where the kernel puts them", options)]
    if pinned():
        tables.append(_table("on one core", options))
    return "\n".join(tables)


def _table(where: str, options: Options) -> str:
    server: dict[tuple[str, str], Sample] = defaultdict(Sample)
    broker: dict[str, Sample] = defaultdict(Sample)
    with ExitStack() as stack:
        postgres = stack.enter_context(_postgres())
        kept = [
            stack.enter_context(OnPostgres(ONE, postgres.url(postgres.create_database()))),
            stack.enter_context(
                OnPostgres(
                    TWO,
                    postgres.url(postgres.create_database()),
                    "--workers=2",
                    "--web.metrics-listen-address=127.0.0.1:0",
                )
            ),
        ]
        for turn in range(-1, options.rounds):  # the first warms up, and is not counted
            for subject in kept if turn % 2 else reversed(kept):
                found = _come_and_go(subject, CONNECTS if options.rounds > 1 else CONNECTS // 4)
                for work, (ours, valkey) in zip((CONNECTING, LEAVING), found, strict=True):
                    if turn >= 0:
                        server[subject.name, work].values.append(ours)
                        if subject.name == TWO:
                            broker[work].values.append(valkey)
        print("  connecting: done", flush=True)
        rooms = []
        for subject in kept:
            load = stack.enter_context(Load(subject.room(ROOM + 1), subject.port, subject.pid))
            answer = load.run("connect", count=ROOM + 1, window=64, limit=30)
            if answer["joined"] != ROOM + 1:
                raise RuntimeError(f"{subject.name}: {answer['joined']} of {ROOM + 1} joined")
            rooms.append((subject, load))
        for turn in range(-1, options.rounds):  # the first warms up, and is not counted
            for mode, (inflight, senders) in MODES.items():
                for subject, load in rooms if turn % 2 else reversed(rooms):
                    ours, valkey = _deliver(subject, load, inflight, senders, options.window)
                    if turn >= 0:
                        server[subject.name, mode].values.append(ours)
                        if subject.name == TWO:
                            broker[mode].values.append(valkey)
        memories = [f"{subject.name} {sum(map(memory, subject.pids()[0])) / 2**20:.0f} MiB" for subject, _ in rooms]
    rows = []
    for work in (CONNECTING, LEAVING, *MODES):
        times = ratio(server[TWO, work].values, server[ONE, work].values)
        most = None if work == LEAVING else GOALS.get(work, GOALS["delivery"])
        rows.append(
            [
                f"delivery, {work}" if work in MODES else work,
                server[ONE, work].show(),
                server[TWO, work].show(),
                broker[work].show(),
                times.show(),
                "" if most is None else f"≤ {most}",
                "" if most is None else "yes" if times.median <= most else "NO",
            ]
        )
    head = ["", f"{ONE}, µs", f"{TWO}, µs", "their Valkey, µs", "ratio", "goal", "met"]
    return (
        f"### Two workers against one process, N = {ROOM}, {where}\n\n{table(head, rows)}\n\n"
        f"Resident memory of all processes but Valkey: {', '.join(memories)}.\n"
    )


@contextmanager
def _postgres() -> Iterator[Postgres]:
    """A server for the length of a block."""
    server = Postgres(fsync="off")
    try:
        yield server.start()
    finally:
        server.close()


def _come_and_go(subject: OnPostgres, count: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """µs of CPU per connection that came and joined, and that left: the server's, the broker's."""
    subject.__dict__.pop("_http", None)  # kept for requests; the server has closed it meanwhile
    with Load(subject.rooms([10] * (count // 10)), subject.port, subject.pid) as load:
        _settle(subject)
        before = subject.spent()
        answer = load.run("connect", count=count, window=64, limit=60)
        after = subject.spent()
    if answer["joined"] != count:
        raise RuntimeError(f"{subject.name}: {answer['joined']} of {count} joined")
    _settle(subject)
    return _per(before, after, count), _per(after, subject.spent(), count)


def _settle(subject: OnPostgres) -> None:
    """Wait until the server has nothing left to do."""
    before, now = 0.0, sum(subject.spent())
    while now - before > QUIET:
        time.sleep(LOOK)
        before, now = now, sum(subject.spent())


def _deliver(subject: OnPostgres, load: Load, inflight: int, senders: int, seconds: float) -> tuple[float, float]:
    """µs of CPU per delivery: the server's, the broker's."""
    before = subject.spent()
    answer = load.run(
        "fanout",
        seconds=seconds,
        inflight=inflight,
        senders=senders,
        members=ROOM + 1,
        deliver=subject.deliver,
        echo=0,
    )
    return _per(before, subject.spent(), answer["deliveries"])


def _per(before: tuple[float, float], after: tuple[float, float], count: int) -> tuple[float, float]:
    server, broker = ((late - early) / count * 1e6 for early, late in zip(before, after, strict=True))
    return server, broker
