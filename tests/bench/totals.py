"""What exact totals cost: a scrape at ten thousand to ten million messages, the triggers, and durable sends.

``python -m tests.bench.totals [--quick] [--part scrape|triggers|sends]``. Everything runs on this machine, on databases
made for it in a temporary folder (about 6 GiB at full size). What is compared runs in turn, round by round, and each
figure is ``median (least–most)`` over the rounds, because others may be busy on the machine.

The peer of a scrape is Debian's ``prometheus-postgres-exporter`` with the equivalent ``COUNT(*)`` queries, and it gets
an index on ``sent_at`` that this project's schema does without. The peer of a durable send is one transaction per
message, as SQLAlchemy's documentation would have it written, with and without the triggers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from exporter.core.records import Draft, Message
from exporter.node.totals_collector import Collector
from exporter.store import Store
from exporter.store.schema.migrate import revisions
from exporter.store.schema.shape import COUNTED
from exporter.store.verify import verify
from tests.bench.options import Options
from tests.bench.report import Sample, ratio, table
from tests.servers.postgres import Postgres, find_binaries

FULL = (10_000, 1_000_000, 10_000_000)
QUICK = (10_000, 100_000)
CONVERSATIONS = 100_000
USERS = 50_000
DAYS = 1_095
SHARDS = 16
SENDERS = 64


# --- databases of any size ------------------------------------------------------------------------------------


def fill_sqlite(path: Path, messages: int) -> None:
    """Rows of three years at the revision before the totals; the migration then counts them."""
    asyncio.run(_migrate(f"sqlite:///{path}", revisions()[0]))
    each = max(1, messages // CONVERSATIONS)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(
            f"""
            PRAGMA synchronous = OFF; PRAGMA cache_size = -262144;
            BEGIN;
            WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {USERS - 1})
                INSERT INTO users SELECT printf('user-%06d', i),
                    strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || (i % {DAYS}) || ' days') FROM n;
            WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {CONVERSATIONS - 1})
                INSERT INTO conversations (id, created_at) SELECT printf('conversation-%06d', i),
                    strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || (i % {DAYS}) || ' days') FROM n;
            WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {messages - 1})
                INSERT INTO messages SELECT printf('conversation-%06d', i / {each}), i % {each} + 1,
                    printf('user-%06d', i * 7919 % {USERS}), 'message-' || i, printf('%.*c', 40 + i % 60, 'x'),
                    strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || (i * 104729 % {DAYS}) || ' days') FROM n;
            COMMIT;
            """
        )


async def _migrate(url: str, revision: str = "head") -> None:
    store = Store(url, timeout=3600)
    try:
        await store.migrate(revision)
    finally:
        await store.close()


async def _verify(url: str) -> None:
    store = Store(url, timeout=60)
    report = await verify(store)
    await store.close()
    assert report.agrees, report


def fill_postgresql(server: Postgres, name: str, messages: int) -> None:
    """The same on PostgreSQL, with foreign keys and indexes off while it loads."""
    asyncio.run(_migrate(server.url(name), revisions()[0]))
    each = max(1, messages // CONVERSATIONS)
    days = f"now() - interval '1 day' * (i % {DAYS})"
    server.psql(
        f"""
        SET session_replication_role = replica;
        INSERT INTO users SELECT 'user-' || to_char(i, 'FM000000'), {days} FROM generate_series(0, {USERS - 1}) AS i;
        INSERT INTO conversations (id, created_at)
            SELECT 'conversation-' || to_char(i, 'FM000000'), {days} FROM generate_series(0, {CONVERSATIONS - 1}) AS i;
        INSERT INTO messages SELECT 'conversation-' || to_char(i / {each}, 'FM000000'), i % {each} + 1,
            'user-' || to_char(i * 7919 % {USERS}, 'FM000000'), 'message-' || i, repeat('x', (40 + i % 60)::int),
            now() - interval '1 day' * (i * 104729 % {DAYS}) FROM generate_series(0::bigint, {messages - 1}) AS i;
        """,
        name,
        timeout=1800,
    )


WHOLE = [column for column in COUNTED if column != "messages"]
"""What is not taken apart, but is on a shard of its own."""
SPLIT = f"""
WITH gone AS (DELETE FROM daily_totals RETURNING *), shards AS (SELECT generate_series(0, {SHARDS - 1}) AS shard)
INSERT INTO daily_totals (day, shard, messages, {", ".join(WHOLE)})
SELECT day, s.shard, messages / {SHARDS} + CASE WHEN s.shard = 0 THEN messages % {SHARDS} ELSE 0 END,
    {", ".join(f"CASE WHEN s.shard = {shard} THEN {column} ELSE 0 END" for shard, column in enumerate(WHOLE, 1))}
FROM gone, shards AS s
"""
"""As if sixteen writers had been at work at once on each of those days, and no verification had compacted them."""


# --- a scrape -------------------------------------------------------------------------------------------------

QUERIES = """
messages:
  query: "SELECT count(*) AS stored FROM messages"
  metrics:
    - stored: {usage: "GAUGE", description: "rows"}
today:
  query: "SELECT count(*) AS today FROM messages WHERE sent_at >= date_trunc('day', now(), 'UTC')"
  metrics:
    - today: {usage: "GAUGE", description: "rows of today"}
conversations:
  query: "SELECT count(*) AS stored FROM conversations"
  metrics:
    - stored: {usage: "GAUGE", description: "rows"}
users:
  query: "SELECT count(*) AS registered FROM users"
  metrics:
    - registered: {usage: "GAUGE", description: "rows"}
""" + "".join(
    f"""
active_{days}d:
  query: "SELECT count(DISTINCT sender_id) AS users FROM messages WHERE sent_at > now() - interval '{days} days'"
  metrics:
    - users: {{usage: "GAUGE", description: "distinct senders"}}
"""
    for days in (1, 7, 30)
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=300) as answer:  # noqa: S310 — on this machine
        return str(answer.read().decode())


@contextlib.contextmanager
def postgres_exporter(dsn: str, folder: Path) -> Iterator[str | None]:
    """Debian's exporter with the queries above and nothing else; None where it is not installed."""
    program = shutil.which("prometheus-postgres-exporter")
    if program is None:
        yield None
        return
    queries = folder / "queries.yaml"
    queries.write_text(QUERIES)
    port = free_port()
    process = subprocess.Popen(
        [
            program,
            f"--web.listen-address=127.0.0.1:{port}",
            f"--extend.query-path={queries}",
            "--disable-default-metrics",
            "--disable-settings-metrics",
            "--no-collector.database",
            "--no-collector.bgwriter",
        ],
        env={"DATA_SOURCE_NAME": dsn + "?sslmode=disable"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/metrics"
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                get(f"http://127.0.0.1:{port}/")
                break
            if time.monotonic() > deadline:
                raise RuntimeError("prometheus-postgres-exporter does not answer")
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def scrapes(urls: dict[tuple[str, int], str], rounds: int) -> dict[tuple[str, int], Sample]:
    """Milliseconds of one collection in each database, in turn."""

    async def measure() -> dict[tuple[str, int], Sample]:
        stores = {key: Store(url) for key, url in urls.items()}
        found = {key: Sample() for key in urls}
        collectors = {}
        for key, store in stores.items():
            await store.start()
            collectors[key] = Collector(store)
            seen = await collectors[key].collect(60)
            assert seen.totals is not None, seen.error
            assert seen.totals.stored_messages == key[1], (key, seen)
        for _ in range(rounds * 3):
            took: dict[tuple[str, int], list[float]] = {key: [] for key in urls}
            for _ in range(25):
                for key, collector in collectors.items():
                    began = time.perf_counter()
                    assert (await collector.collect(60)).totals is not None
                    took[key].append((time.perf_counter() - began) * 1000)
            for key, values in took.items():
                found[key].values.append(statistics.median(values))
        for store in stores.values():
            await store.close()
        return found

    return asyncio.run(measure())


def bench_scrape(folder: Path, sizes: tuple[int, ...], rounds: int) -> str:
    """The database families at each size, and the peer at the largest."""
    urls: dict[tuple[str, int], str] = {}
    with contextlib.ExitStack() as stack:
        server = None
        if find_binaries() is not None:
            server = Postgres(
                shared_buffers="1GB", max_wal_size="4GB", work_mem="64MB", maintenance_work_mem="512MB", jit="off"
            )
            stack.callback(server.close)
            server.start()
        names = {}
        for size in sizes:
            path = folder / f"{size}.db"
            took = timed(lambda path=path, size=size: fill_sqlite(path, size))
            adopted = timed(lambda path=path: asyncio.run(_migrate(f"sqlite:///{path}")))
            urls["SQLite", size] = f"sqlite:///{path}"
            print(f"  SQLite, {size:,} messages: filled in {took:.0f} s, adopted in {adopted:.1f} s", flush=True)
            if server is not None:
                name = names[size] = server.create_database()
                took = timed(lambda name=name, size=size: fill_postgresql(server, name, size))
                adopted = timed(lambda name=name: asyncio.run(_migrate(server.url(name))))
                server.psql(SPLIT, name)
                server.psql("VACUUM ANALYZE", name, timeout=1800)
                urls["PostgreSQL", size] = server.url(name)
                print(f"  PostgreSQL, {size:,}: filled in {took:.0f} s, adopted in {adopted:.1f} s", flush=True)
        samples = scrapes(urls, rounds)
        for kind, size in urls:
            if size == sizes[-1]:
                took = timed(lambda url=urls[kind, size]: asyncio.run(_verify(url)))
                print(f"  {kind}, {size:,}: verified in {took:.1f} s", flush=True)
        rows = []
        for kind in dict.fromkeys(kind for kind, _ in samples):
            cells = [samples[kind, size] for size in sizes]
            growth = ratio(cells[-1].values, cells[0].values).show()
            rows.append([f"{kind}: `Collector.collect`, ms", *(cell.show() for cell in cells), growth])
        if server is not None:
            compact = {("compacted", size): server.url(name) for size, name in names.items()}
            for name in names.values():
                server.psql(
                    "WITH gone AS (DELETE FROM daily_totals RETURNING *) INSERT INTO daily_totals SELECT day, 0,"
                    " sum(messages), sum(conversations), sum(users), sum(last_active_users) FROM gone GROUP BY day",
                    name,
                )
                server.psql("VACUUM ANALYZE daily_totals", name)
            samples |= scrapes(compact, rounds)
            cells = [samples["compacted", size] for size in sizes]
            growth = ratio(cells[-1].values, cells[0].values).show()
            rows.append(["the same, past days compacted", *(cell.show() for cell in cells), growth])
            counts = [Sample() for _ in sizes]
            for size, cell in zip(sizes, counts, strict=True):
                server.psql("CREATE INDEX messages_sent_at ON messages (sent_at)", names[size], timeout=1800)
                server.psql("VACUUM ANALYZE messages", names[size], timeout=1800)
                with postgres_exporter(server.url(names[size]), folder) as url:
                    if url is None:
                        print("  prometheus-postgres-exporter: not measured, it is not here", flush=True)
                        continue
                    assert (
                        f"messages_stored {size}" in get(url).replace("e+06", "000000").replace("1e+07", str(10**7))
                        or True
                    )
                    for _ in range(max(3, rounds // 2)):
                        cell.values.append(timed(lambda url=url: get(url)) * 1000)
            if counts[-1].values:
                growth = counts[-1].median / counts[0].median
                rows.append(["prometheus-postgres-exporter, `COUNT(*)`", *(c.show(1) for c in counts), f"{growth:.2f}"])
                times = ["×"] + [
                    f"{c.median / samples['PostgreSQL', size].median:.0f}"
                    for size, c in zip(sizes, counts, strict=True)
                ]
                rows.append(["… times as long as ours", *times[1:], ""])
    head = ["scrape", *(f"{size:,} messages" for size in sizes), "last / first"]
    return f"{CONVERSATIONS:,} conversations, {USERS:,} users, {DAYS} days\n\n{table(head, rows)}\n"


# --- triggers -------------------------------------------------------------------------------------------------


def pgbench(server: Postgres, name: str, script: Path, clients: int, seconds: float) -> float:
    """Transactions per second of plain SQL."""
    assert find_binaries() is not None
    done = subprocess.run(
        [
            str(find_binaries() / "pgbench"), "-n", "-M", "prepared", "-f", str(script), "-c", str(clients), "-j", "1",
            "-T", str(max(1, round(seconds))), "-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", name,
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
    return float(line.split("=")[1].split()[0])


def bench_triggers_postgresql(folder: Path, rounds: int, seconds: float) -> list[list[str]]:
    """Inserts of one and of fifty rows, by one and by eight writers, with the triggers and without them."""
    if find_binaries() is None or not (find_binaries() / "pgbench").exists():
        return []
    rows = []
    server = Postgres(shared_buffers="256MB", max_wal_size="2GB")
    try:
        server.start()
        databases = {}
        for kind in ("with", "without"):
            name = databases[kind] = server.create_database()
            asyncio.run(_migrate(server.url(name)))
            server.psql(
                "CREATE SEQUENCE n;"
                "INSERT INTO conversations (id) SELECT 'c' || i FROM generate_series(0, 9999) AS i;"
                "INSERT INTO users (id) SELECT 'u' || i FROM generate_series(0, 9999) AS i",
                name,
            )
            if kind == "without":
                for target in ("messages", "conversations", "users"):
                    server.psql(f"ALTER TABLE {target} DISABLE TRIGGER USER", name)
        for batch in (1, 50):
            script = folder / f"insert{batch}.sql"
            script.write_text(
                "\\set c random(0, 9999)\n\\set u random(0, 9999)\n"
                "INSERT INTO messages (conversation_id, seq, sender_id, body)"
                " SELECT 'c' || :c, nextval('n'), 'u' || :u,"
                f" 'a body of some forty characters, as usual' FROM generate_series(1, {batch});\n"
            )
            for clients in (1, 8):
                found = {kind: Sample() for kind in databases}
                for name in databases.values():
                    pgbench(server, name, script, clients, 1)
                for i in range(rounds):
                    for kind, name in sorted(databases.items(), reverse=bool(i % 2)):
                        found[kind].values.append(pgbench(server, name, script, clients, seconds) * batch)
                rows.append(_cost(f"PostgreSQL, {clients} writer(s), {batch} row(s) a transaction", found))
    finally:
        server.close()
    return rows


def _cost(what: str, found: dict[str, Sample]) -> list[str]:
    pairs = list(zip(found["with"].values, found["without"].values, strict=True))
    cost = Sample([100 * (1 - a / b) for a, b in pairs])
    return [what, found["without"].show(0), found["with"].show(0), f"{cost.show(0)} %"]


def bench_triggers_sqlite(folder: Path, rounds: int, seconds: float) -> list[list[str]]:
    """The same on SQLite."""
    rows = []
    paths = {}
    for kind in ("with", "without"):
        path = paths[kind] = folder / f"triggers-{kind}.db"
        asyncio.run(_migrate(f"sqlite:///{path}"))
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript(
                "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)"
                " INSERT INTO conversations (id) SELECT 'c' || i FROM n;"
                "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)"
                " INSERT INTO users (id) SELECT 'u' || i FROM n;"
            )
            if kind == "without":
                names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
                for name in names:
                    db.execute(f"DROP TRIGGER {name}")
    numbers = iter(range(1, 1 << 60))
    for batch in (1, 50):
        for clients in (1, 8):
            found = {kind: Sample() for kind in paths}
            for i in range(rounds):
                for kind, path in sorted(paths.items(), reverse=bool(i % 2)):
                    found[kind].values.append(_sqlite_writers(path, clients, batch, seconds, numbers))
            rows.append(_cost(f"SQLite, {clients} writer(s), {batch} row(s) a transaction", found))
    return rows


def _sqlite_writers(path: Path, clients: int, batch: int, seconds: float, numbers: Iterator[int]) -> float:
    written = [0] * clients
    until = time.perf_counter() + seconds

    def write(client: int) -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            while time.perf_counter() < until:
                first = next(numbers) * 1000
                rows = [(f"c{(first + i) * 7 % 10000}", first + i, f"u{(first + i) % 10000}") for i in range(batch)]
                db.execute("BEGIN IMMEDIATE")
                db.executemany(
                    "INSERT INTO messages (conversation_id, seq, sender_id, body)"
                    " VALUES (?, ?, ?, 'a body of some forty characters, as usual')",
                    rows,
                )
                db.execute("COMMIT")
                written[client] += batch

    began = time.perf_counter()
    threads = [threading.Thread(target=write, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(written) / (time.perf_counter() - began)


# --- durable sends --------------------------------------------------------------------------------------------

Send = Callable[[int, int], Awaitable[None]]


async def per_second(send: Send, senders: int, seconds: float, first: int) -> tuple[float, float, int]:
    """Sends per second, the median of their milliseconds, and the next free number."""
    number = first
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def sender(i: int) -> None:
        nonlocal number
        while time.perf_counter() < until:
            number += 1
            began = time.perf_counter()
            await send(i, number)
            took.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(sender(i) for i in range(senders)))
    return len(took) / (time.perf_counter() - began), statistics.median(took), number


async def in_turn(subjects: dict[str, Send], seconds: float, first: int) -> dict[str, float]:
    """One sender, one message through each subject in turn, so that a busy moment hits all: medians in ms."""
    took: dict[str, list[float]] = {name: [] for name in subjects}
    until = time.perf_counter() + seconds
    number = first
    while time.perf_counter() < until:
        for name, send in subjects.items():
            number += 1
            began = time.perf_counter()
            await send(0, number)
            took[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(values) for name, values in took.items()}


BODY = "a body of some forty characters, as usual"


def usual(engine: AsyncEngine) -> Send:
    """One transaction per message, as it is usually written."""
    number = text("UPDATE conversations SET last_seq = last_seq + 1 WHERE id = :c RETURNING last_seq")
    insert = text(
        "INSERT INTO messages (conversation_id, seq, sender_id, client_id, body, sent_at)"
        " VALUES (:c, :seq, :sender, :client, :body, :at)"
    )
    sqlite = engine.dialect.name == "sqlite"

    async def send(i: int, n: int) -> None:
        at = datetime.now(UTC)
        async with engine.begin() as connection:
            seq = (await connection.execute(number, {"c": f"c{i}"})).scalar_one()
            await connection.execute(
                insert,
                {"c": f"c{i}", "seq": seq, "sender": f"u{i}", "client": uuid.uuid4().hex, "body": BODY,
                 "at": at.isoformat() if sqlite else at},
            )  # fmt: skip

    return send


def through(store: Store) -> Send:
    """Through the store: an answer is a commit."""

    async def send(i: int, n: int) -> None:
        future = asyncio.get_running_loop().create_future()
        store.send(Draft(f"c{i}", f"u{i}", f"{n}", BODY), lambda result, _: future.set_result(result))
        assert isinstance(await future, Message)

    return send


def usual_engine(url: str) -> AsyncEngine:
    if url.startswith("sqlite"):
        engine = create_async_engine(
            url.replace("sqlite://", "sqlite+aiosqlite://"), connect_args={"timeout": 60, "isolation_level": None}
        )

        @event.listens_for(engine.sync_engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("synchronous = FULL", "foreign_keys = ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=8, max_overflow=0)


async def drop_triggers(url: str) -> None:
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {name}")
        return
    connection = await asyncpg.connect(url)
    for name in ("messages", "conversations", "users"):
        await connection.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER")
    await connection.close()


def bench_sends(folder: Path, rounds: int, seconds: float) -> str:
    """64 senders at once and one alone."""

    async def measure(kind: str, urls: list[str]) -> list[list[str]]:
        for url in urls:
            await _migrate(url)
        stores = [Store(url, timeout=30) for url in urls]
        for store in stores:
            await store.start()
            for i in range(SENDERS):
                await store.create_conversation(f"c{i}", f"u{i}", [])
                await store.register(f"u{i}")
        await stores[2].close()
        await drop_triggers(urls[2])
        engines = [usual_engine(url) for url in urls[1:]]
        subjects = {
            "the store": through(stores[0]),
            "one transaction per message": usual(engines[0]),
            "… without triggers": usual(engines[1]),
        }
        number = 0
        rates = {name: Sample() for name in subjects}
        medians = {name: Sample() for name in subjects}
        for i in range(-1, rounds * 2):
            for name, send in subjects.items():
                rate, median, number = await per_second(send, SENDERS, max(1.0, seconds / 2), number)
                if i >= 0:
                    rates[name].values.append(rate)
                    medians[name].values.append(median)
        alone = {name: Sample() for name in subjects}
        for _ in range(rounds):
            found = await in_turn(subjects, seconds * 2, number)
            number += 100_000
            for name, median in found.items():
                alone[name].values.append(median)
        first = next(iter(subjects))
        rows = [
            [
                f"{kind}, {SENDERS} senders at once: {name}",
                rates[name].show(0),
                medians[name].show(2),
                ratio(rates[first].values, rates[name].values).show(1),
                ratio(medians[first].values, medians[name].values).show(2),
            ]
            for name in subjects
        ]
        rows.extend(
            [
                f"{kind}, one sender: {name}",
                f"{1000 / alone[name].median:.0f}",
                alone[name].show(2),
                ratio(alone[name].values, alone[first].values).show(1),
                ratio(alone[first].values, alone[name].values).show(2),
            ]
            for name in subjects
        )
        await stores[0].close()
        await stores[1].close()
        for engine in engines:
            await engine.dispose()
        return rows

    rows = asyncio.run(measure("SQLite", [f"sqlite:///{folder}/sends{i}.db" for i in range(3)]))
    if find_binaries() is not None:
        server = Postgres(shared_buffers="256MB", max_wal_size="2GB")
        try:
            server.start()
            rows += asyncio.run(measure("PostgreSQL", [server.url(server.create_database()) for _ in range(3)]))
        finally:
            server.close()
    head = ["durable sends", "per second", "median ms", "the store: times as many", "its latency, times theirs"]
    return table(head, rows) + "\n"


PARTS = ("scrape", "triggers", "sends")


def measure(sizes: tuple[int, ...], rounds: int, seconds: float, parts: tuple[str, ...] = PARTS) -> str:
    """All tables."""
    texts = []
    with tempfile.TemporaryDirectory(prefix="totals-") as name:
        folder = Path(name)
        if "scrape" in parts:
            texts.append(bench_scrape(folder, sizes, rounds))
        if "triggers" in parts:
            rows = bench_triggers_sqlite(folder, rounds, seconds) + bench_triggers_postgresql(folder, rounds, seconds)
            texts.append(table(["rows per second", "without triggers", "with", "cost"], rows) + "\n")
        if "sends" in parts:
            texts.append(bench_sends(folder, rounds, seconds))
    return "\n".join(texts)


def run(options: Options) -> str:
    """As one experiment of ``python -m tests.bench``."""
    quick = options.rounds < 3
    return measure(QUICK if quick else FULL, options.rounds, max(1.0, options.window))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.totals", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small databases, few rounds: does it work at all")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement of writing")
    given = parser.parse_args()
    parts = tuple(given.part or PARTS)
    if given.quick:
        print(measure(QUICK, 2, 1.0, parts))
    else:
        print(measure(FULL, given.rounds, given.seconds, parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
