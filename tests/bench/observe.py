"""What observing another server's database costs: ``python -m tests.bench observe``.

A Synapse database of ten million events, a million users and a hundred thousand rooms on PostgreSQL (about 6 GiB in a
temporary folder; ``--quick``: 200,000 events). The peers are Debian's ``prometheus-postgres-exporter`` and PyPI's
``query-exporter`` with the right statements of the same kind: those of ``docs/observe.md``, which give the same
figures. All are scraped over HTTP in turn, in the same rounds; before each scrape a writer adds the events of half a
minute, with the numbers that follow, edits and redactions among them. The plain statements, before the first count and
after each round, are at once what its cost is compared with and what the figures must equal. The database's work is the
CPU time of its processes, which depends least on who else is busy.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.bench.options import Options
from tests.bench.report import Sample, table
from tests.bench.totals import free_port, get
from tests.observe import schemas
from tests.servers.postgres import Postgres, find_binaries

FULL = (10_000_000, 1_000_000)
QUICK = (200_000, 20_000)
ROOMS = 100_000
DAYS = 365
INTERVAL = 30.0
"""Seconds between scrapes that the hour is reckoned with."""
BATCH = 20
"""Events that half a minute brings at 20 million messages a year."""
SCRAPES = 10
"""Of ours in each round, for each of a peer: they cost a thousandth."""
WINDOW = 2
"""Intervals of a window in which ours is scraped as Prometheus would: what it does in between costs, too."""
RECOUNTED = "messaging_source_recount_timestamp_seconds"
QUERY_EXPORTER = "query-exporter==5.0.2"

BASE = """FROM events e WHERE e.type IN ('m.room.message', 'm.room.encrypted', 'm.sticker', 'm.poll.start',
    'org.matrix.msc3381.poll.start') AND e.state_key IS NULL AND NOT e.outlier AND e.rejection_reason IS NULL
    AND NOT EXISTS (SELECT 1 FROM event_relations r WHERE r.event_id = e.event_id
        AND r.relation_type IN ('m.replace', 'm.reference'))"""
STANDS = "AND NOT EXISTS (SELECT 1 FROM redactions x WHERE x.redacts = e.event_id)"
PEOPLE = """is_guest = 0 AND deactivated = 0 AND appservice_id IS NULL
    AND (user_type IS NULL OR user_type NOT IN ('bot', 'support'))"""
MIDNIGHT = "(extract(epoch FROM date_trunc('day', now(), 'UTC')) * 1000)::bigint"


def statements() -> dict[str, str]:
    """The right SQL, by figure."""
    writers = f"SELECT COUNT(DISTINCT e.sender) {BASE} AND e.sender IN (SELECT name FROM users WHERE {PEOPLE})"
    return {
        "stored_messages": f"SELECT COUNT(*) {BASE} {STANDS}",
        "messages_today": f"SELECT COUNT(*) {BASE} {STANDS} AND e.origin_server_ts >= {MIDNIGHT}",
        "stored_conversations": """SELECT COUNT(*) FROM room_stats_current c
            JOIN room_stats_state s ON s.room_id = c.room_id WHERE c.local_users_in_room > 0
            AND COALESCE(s.room_type, '') <> 'm.space' AND NOT EXISTS (SELECT 1 FROM current_state_events t
                WHERE t.room_id = c.room_id AND t.type = 'm.room.tombstone')""",
        "registered_users": f"SELECT COUNT(*) FROM users WHERE {PEOPLE}",
        **{
            f"active_users_{days}d": f"{writers} AND e.origin_server_ts >= {MIDNIGHT} - {days - 1} * 86400000::bigint"
            for days in (1, 7, 30)
        },
    }


def fill(server: Postgres, name: str, events: int, users: int) -> None:
    """A year of events; one in thirty an edit, one in fifty redacted, one in ten a change of state."""
    server.psql(
        f"""
        SET synchronous_commit = off;
        INSERT INTO users (name) SELECT '@user' || i || ':example.org' FROM generate_series(1, {users}) i;
        INSERT INTO room_stats_current SELECT '!room' || i, 2, 2 FROM generate_series(1, {ROOMS}) i;
        INSERT INTO room_stats_state SELECT '!room' || i, CASE WHEN i % 50 = 0 THEN 'm.space' END
            FROM generate_series(1, {ROOMS}) i;
        INSERT INTO current_state_events SELECT '$s' || i, '!room' || i,
            CASE WHEN i % 40 = 0 THEN 'm.room.tombstone' ELSE 'm.room.create' END, ''
            FROM generate_series(1, {ROOMS}) i;
        DROP INDEX events_stream_ordering, events_event_id, events_ts;
        {_events(1, events, users, DAYS * 86_400_000 // events)}
        CREATE UNIQUE INDEX events_stream_ordering ON events (stream_ordering);
        CREATE UNIQUE INDEX events_event_id ON events (event_id);
        CREATE INDEX events_ts ON events (origin_server_ts, stream_ordering);
        CREATE INDEX current_state_room ON current_state_events (room_id, type);
        INSERT INTO stream_positions VALUES ('events', 'master', {events});
        """,
        name,
        timeout=3600,
    )
    server.psql("VACUUM ANALYZE", name, timeout=3600)


def _events(first: int, last: int, users: int, span: int) -> str:
    """Events of these numbers, ``span`` milliseconds apart up to now."""
    id_, before = (f"'$' || md5(({number})::text) || 'abcdefghijk'" for number in ("i", "i - 1"))
    at = f"(extract(epoch FROM now()) * 1000)::bigint - ({last} - i) * {span}"
    numbers = f"generate_series({first}::bigint, {last}) i"
    return f"""
        INSERT INTO events (stream_ordering, event_id, type, room_id, sender, state_key, origin_server_ts, received_ts,
            depth, instance_name) SELECT i, {id_},
            CASE WHEN i % 10 = 0 THEN 'm.room.member' WHEN i % 50 = 7 THEN 'm.room.redaction' ELSE 'm.room.message' END,
            '!room' || i % {ROOMS} + 1, '@user' || (i * 7919::bigint) % {users} + 1 || ':example.org',
            CASE WHEN i % 10 = 0 THEN '@user:example.org' END, {at}, {at}, i, 'master' FROM {numbers};
        INSERT INTO redactions SELECT {id_}, {before}, 1 FROM {numbers} WHERE i % 50 = 7;
        INSERT INTO event_relations SELECT {id_}, {before}, 'm.replace', NULL FROM {numbers} WHERE i % 30 = 2;"""


class Writer:
    """Somebody who writes on: the next numbers, and the position with them, as the server does."""

    def __init__(self, server: Postgres, name: str, events: int, users: int) -> None:
        self._server, self._name, self._users = server, name, users
        self._number = events

    def write(self) -> None:
        """What half a minute brings."""
        first, self._number = self._number + 1, self._number + BATCH
        script = _events(first, self._number, self._users, int(INTERVAL * 1_000) // BATCH)
        self._server.psql(f"{script} UPDATE stream_positions SET stream_id = {self._number}", self._name)


def cpu(server: Postgres) -> float:
    """Seconds of CPU that the server has used: its processes, those that have ended included."""
    total = 0
    for pid in [server.pid, *server.children()]:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user, system, ended_user, ended_system = map(int, fields[11:15])
            total += user + system + (ended_user + ended_system if pid == server.pid else 0)
    return total / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def process(command: list[str], ready: str, log: Path, environment: dict[str, str]) -> Iterator[int]:
    """A process that runs, once ``ready`` answers 200; its number."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
        try:
            deadline = time.monotonic() + 1_800
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=300) as answer:  # noqa: S310  # ours
                    if answer.status == 200:
                        break
                if started.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not run: {log.read_text()[-500:]}")
                time.sleep(0.05)
            yield started.pid
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def postgres_exporter(dsn: str, port: int, folder: Path) -> list[str] | None:
    """Debian's exporter with the statements and nothing else; None where it is not installed."""
    program = shutil.which("prometheus-postgres-exporter")
    if program is None:
        return None
    parts = [
        f'{name}:\n  query: "{" ".join(sql.split())}"\n  metrics:\n    - count: {{usage: "GAUGE", description: "x"}}\n'
        for name, sql in statements().items()
    ]
    (folder / "queries.yaml").write_text("".join(parts))
    return [
        program,
        f"--web.listen-address=127.0.0.1:{port}",
        f"--extend.query-path={folder / 'queries.yaml'}",
        "--disable-default-metrics",
        "--disable-settings-metrics",
        "--no-collector.database",
        "--no-collector.bgwriter",
    ]


def query_exporter(dsn: str, port: int, folder: Path) -> list[str]:
    """PyPI's exporter in an environment of its own; a query without an interval is run at each scrape."""
    environment = folder / "query-exporter"
    venv.create(environment, with_pip=True)
    subprocess.run(
        [environment / "bin" / "pip", "install", "--quiet", QUERY_EXPORTER, "psycopg2-binary"],
        check=True,
        capture_output=True,
    )
    figures = statements()
    metrics = "".join(f"  {name}:\n    type: gauge\n    description: x\n" for name in figures)
    queries = "".join(
        f"  {name}:\n    databases: [synapse]\n    metrics: [{name}]\n"
        f'    sql: "SELECT n AS {name} FROM ({" ".join(sql.split())}) x (n)"\n'
        for name, sql in figures.items()
    )
    url = dsn.replace("postgresql://", "postgresql+psycopg2://")
    config = folder / "query-exporter.yaml"
    config.write_text(f"databases:\n  synapse:\n    dsn: {url}\nmetrics:\n{metrics}queries:\n{queries}")
    return [str(environment / "bin" / "query-exporter"), "--config", str(config), "--port", str(port)]


class Subject:
    """Somebody who is scraped."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url
        self.milliseconds, self.cpu = Sample(), Sample()

    def scrape(self, server: Postgres) -> str:
        before, began = cpu(server), time.perf_counter()
        text = get(self.url)
        self.milliseconds.values.append((time.perf_counter() - began) * 1000)
        self.cpu.values.append(cpu(server) - before)
        return text


def figure(text: str, name: str) -> int | None:
    """The value of a gauge, whatever the exporter calls it exactly."""
    for line in text.splitlines():
        if not line.startswith("#") and name in line.partition(" ")[0]:
            return int(float(line.rpartition(" ")[2]))
    return None


def run(options: Options) -> str:
    """The tables."""
    if find_binaries() is None:
        return "### observe\n\nnot measured: there is no PostgreSQL here\n"
    events, users = QUICK if options.rounds <= 2 else FULL
    folder = Path(tempfile.mkdtemp(prefix="bench-observe-"))
    server = Postgres(
        shared_buffers="1GB", max_wal_size="8GB", work_mem="64MB", maintenance_work_mem="512MB", jit="off",
        checkpoint_timeout="1h", autovacuum="off",
    )  # fmt: skip
    try:
        server.start()
        name = server.create_database()
        server.psql(schemas.synapse("postgresql"), name)
        began = time.perf_counter()
        fill(server, name, events, users)
        print(f"  {events:,} events filled in {time.perf_counter() - began:.0f} s", flush=True)
        return _measure(server, name, events, users, folder, options)
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def _measure(server: Postgres, name: str, events: int, users: int, folder: Path, options: Options) -> str:
    dsn = server.url(name)
    plain = Plain()
    plain.run(server, name)
    with contextlib.ExitStack() as stack:
        port = free_port()
        ours = [
            sys.executable, "-m", "exporter", "observe", "--source.kind", "synapse", "--source.load", "100%",
            "--source.recount-interval", "1d", "--data.dir", str(folder / "data"),
            "--web.listen-address", f"127.0.0.1:{port}", "--source.url", dsn,
        ]  # fmt: skip
        before, began = cpu(server), time.perf_counter()
        pid = stack.enter_context(process(ours, f"http://127.0.0.1:{port}/-/ready", folder / "ours.log", {}))
        first_wall, first_cpu = time.perf_counter() - began, cpu(server) - before
        print(f"  first count: {first_wall:.1f} s, {first_cpu:.1f} s of the database's CPU", flush=True)
        subjects = [Subject("observe", f"http://127.0.0.1:{port}/metrics")]
        peers: list[tuple[str, list[str] | None, int, dict[str, str]]] = []
        for label, make in (("prometheus-postgres-exporter", postgres_exporter), ("query-exporter", query_exporter)):
            peer = free_port()
            peers.append((label, make(dsn, peer, folder), peer, {"DATA_SOURCE_NAME": f"{dsn}?sslmode=disable"}))
        for label, command, peer, environment in peers:
            if command is None:
                print(f"  {label}: not measured, it is not here", flush=True)
                continue
            stack.enter_context(process(command, f"http://127.0.0.1:{peer}/", folder / f"{label}.log", environment))
            subjects.append(Subject(label, f"http://127.0.0.1:{peer}/metrics"))
        writer, mine = Writer(server, name, events, users), subjects[0]
        agreed: list[str] = []
        for _ in range(max(1, options.rounds // 3)):
            for subject in subjects:
                for _ in range(SCRAPES if subject is mine else 1):
                    writer.write()
                    time.sleep(1.1)  # longer than figures are shown again without a look
                    text = subject.scrape(server)
            writer.write()
            time.sleep(1.1)
            text = mine.scrape(server)
            found = {n: figure(text, _shown(n, mine)) for n in statements()}
            truth = plain.run(server, name)
            agreed.append("yes" if found == truth else f"no: {found} is not {truth}")
        before = cpu(server)
        for _ in range(WINDOW if events == FULL[0] else 0):
            writer.write()
            time.sleep(INTERVAL)
            mine.scrape(server)
        hour = (cpu(server) - before) / WINDOW * 3600 / INTERVAL if events == FULL[0] else 0.0
        resident = most_memory(pid)
    again = [argument if argument != "1d" else "10s" for argument in ours]
    before, began = cpu(server), time.perf_counter()
    with process(again, f"http://127.0.0.1:{port}/-/ready", folder / "ours.log", {}) as pid:
        done = figure(get(subjects[0].url), RECOUNTED)
        while figure(get(f"{subjects[0].url}?name[]={RECOUNTED}"), RECOUNTED) == done:
            time.sleep(3)  # each look is a pass, which is no part of it
        recount_wall, recount_cpu = time.perf_counter() - began, cpu(server) - before
        resident = max(resident, most_memory(pid))
    print(f"  recount: {recount_wall:.1f} s, {recount_cpu:.1f} s of the database's CPU", flush=True)
    rows = []
    own = (hour or mine.cpu.median * 3600 / INTERVAL) + recount_cpu
    for subject in subjects:
        hourly = own if subject is mine else subject.cpu.median * 3600 / INTERVAL
        rows.append([
            subject.name, subject.milliseconds.show(1), f"{subject.milliseconds.median / mine.milliseconds.median:.0f}",
            f"{subject.cpu.median * 1000:.0f}", f"{hourly:.0f}", f"{hourly / own:.1f}",
        ])  # fmt: skip
    head = ["", "a scrape, ms", "times ours", "database CPU per scrape, ms", "CPU s per hour", "times ours"]
    return (
        f"### observe\n\nSynapse, {events:,} events, {users:,} users, {ROOMS:,} rooms; a scrape every {INTERVAL:g} s, "
        f"ours with a recount per hour\n\n{table(head, rows)}\n\n"
        f"first count at full load: {first_wall:.1f} s with the start of the process ({first_cpu:.1f} s of the "
        f"database's CPU); the plain statements without parallel workers: {plain.wall.show(1)} s "
        f"({plain.cpu.show(1)} s): {first_wall / plain.wall.median:.2f} times as long, "
        f"{first_cpu / plain.cpu.median:.2f} times the CPU\n"
        f"a recount, in the pages that it has at any load: {recount_cpu:.1f} s of the database's CPU\n"
        f"resident memory at most: {resident:.0f} MiB; equal to the statements after each round: {', '.join(agreed)}\n"
    )


class Plain:
    """The right statements one after the other, as somebody would run them who may not use parallel workers."""

    def __init__(self) -> None:
        self.wall, self.cpu = Sample(), Sample()

    def run(self, server: Postgres, name: str) -> dict[str, int]:
        """Their results; what they took is kept."""
        before, began, found = cpu(server), time.perf_counter(), {}
        for figure_name, sql in statements().items():
            found[figure_name] = int(server.psql(f"SET max_parallel_workers_per_gather = 0; {sql}", name, timeout=1800))
        self.wall.values.append(time.perf_counter() - began)
        self.cpu.values.append(cpu(server) - before)
        print(f"  plain statements: {self.wall.values[-1]:.1f} s, {self.cpu.values[-1]:.1f} s of CPU", flush=True)
        return found


def most_memory(pid: int) -> float:
    """MiB that a process has had resident at most."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _shown(name: str, subject: Subject) -> str:
    """What a figure is called by an exporter."""
    window = re.fullmatch(r"active_users_(\d+d)", name)
    if subject.name == "observe":
        return f'active_users{{window="{window[1]}"}}' if window else f"messaging_{name}"
    return name
