"""A pass reads what is new by indexes, whatever a database thinks of how much that is: of every kind, on both engines.

Tables are filled at once and never analysed, or analysed before the keys leap, as they do after a pause or where a
sequence was set. Both lead PostgreSQL's guesses astray. What it really read is what its own EXPLAIN says; SQLite's work
is the number of its steps.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.observe import count_once
from exporter.observe.connections import postgresql, sqlite
from exporter.observe.engine import Engine
from exporter.observe.sources import Source
from exporter.observe.state import State
from tests.observe import schemas
from tests.observe.databases import Server, SqliteServer, closing

ROWS, NEW, TAIL = 30_000, 20, 40
LEAP = 1_000_000
TOUCHED = 20 * (TAIL + NEW)
"""Rows that a pass may look at in each table of messages, edits, redactions: some for each row of the tail."""
PEOPLE = {"users", "user", "prosody"}
"""Small here: to read one of these tables as a whole costs less than its index."""
STEPS = 3 * ROWS
"""Of SQLite's machine; to go through one table takes more, and a stanza's parts several hundred for each row."""
NOW = 1_773_144_000  # 2026-03-10T12:00:00Z
START = NOW - ROWS - LEAP
MAPPING = """
messages:
  table: message
  key: id
  time: {column: created_at, unit: timestamp}
  sender: sender_id
  filter: "content IS NOT NULL"
  deleted: {column: deleted_at, unit: timestamp}
users: {table: user, id: id}
conversations: {table: conversation, id: id}
"""


def insert(into: str, columns: str, low: int, high: int, where: str = "1 = 1") -> str:
    """Rows for the numbers ``i`` of a range, on both engines."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT {low} UNION ALL SELECT i + 1 FROM n WHERE i < {high})"
    return f"INSERT INTO {into} {numbers} SELECT {columns} FROM n WHERE {where};"


def at(leap: int, unit: int = 1) -> str:
    """The moment of row ``i``: one a second."""
    return f"({START + leap} + i) * CAST({unit} AS bigint)"


def synapse(engine: str, low: int, high: int, leap: int) -> str:
    events = "events (stream_ordering, event_id, type, room_id, sender, origin_server_ts)"
    message = f"i + {leap}, '$' || i, 'm.room.message', '!r', '@a' || (i % 99) || ':x', {at(leap, 1_000)}"
    return (
        insert(events, message, low, high)
        + insert("redactions", "'$' || i, '$' || (i - 100), 1", low, high, "i % 5 IN (1, 2)")
        + insert("event_relations", "'$' || i, '$' || (i - 1), 'm.replace', NULL", low, high, "i % 5 = 3")
        + f"DELETE FROM stream_positions; INSERT INTO stream_positions VALUES ('events', 'master', {high + leap});"
    )


def _sides() -> tuple[str, str, str]:
    """Of a message that is stored twice: whose row it is, the other side, the stanza."""
    one, other, first = "'u' || (i / 2 % 99)", "'v' || (i / 2 % 88)", "i % 2 = 0"
    stanza = (
        f"'<message from=''' || {one} || '@example.org/x'' to=''' || {other} || '@example.org'' id=''m' || (i / 2)"
        " || ''' type=''chat''><body>hello</body></message>'"
    )
    return f"CASE WHEN {first} THEN {one} ELSE {other} END", f"CASE WHEN {first} THEN {other} ELSE {one} END", stanza


def ejabberd(engine: str, low: int, high: int, leap: int, host: tuple[str, str] = ("", "")) -> str:
    owner, other, stanza = _sides()
    peer = f"{other} || '@example.org'"
    columns = f"{host[1]} {owner}, {at(leap, 1_000_000)}, {peer}, {peer}, {stanza}, 'hello', 'chat'"
    return insert(f"archive ({host[0]} username, timestamp, peer, bare_peer, xml, txt, kind)", columns, low, high)


def ejabberd_new(engine: str, low: int, high: int, leap: int) -> str:
    return ejabberd(engine, low, high, leap, ("server_host,", "'example.org',"))


def prosody(engine: str, low: int, high: int, leap: int) -> str:
    owner, other, stanza = _sides()
    columns = (
        f"i + {leap}, 'example.org', {owner}, 'archive', 'k' || i, {at(leap)}, {other} || '@example.org', {stanza}"
    )
    return insert('prosodyarchive (sort_id, host, "user", store, key, "when", "with", value)', columns, low, high)


def mattermost(engine: str, low: int, high: int, leap: int) -> str:
    when = at(leap, 1_000)
    columns = f"'p' || i, {when}, {when}, CASE WHEN i % 40 = 1 THEN {when} ELSE 0 END, 'u' || (i % 99)"
    return insert("posts (id, createat, updateat, deleteat, userid)", columns, low, high)


def custom(engine: str, low: int, high: int, leap: int) -> str:
    moment = (
        f"datetime({at(leap)}, 'unixepoch')"
        if engine == "sqlite"
        else f"timestamp 'epoch' + {at(leap)} * interval '1 s'"
    )
    columns = f"i + {leap}, 1, i % 99, 'hello', {moment}, CASE WHEN i % 40 = 1 THEN {moment} END"
    return insert("message (id, conversation_id, sender_id, content, created_at, deleted_at)", columns, low, high)


def origin(engine: str) -> str:
    return schemas.origin(engine) + "CREATE INDEX ix_message_deleted_at ON message (deleted_at);"


Fill = Callable[[str, int, int, int], str]
KINDS: dict[str, tuple[str, Callable[[str], str], Fill, str]] = {
    "synapse": ("synapse", schemas.synapse, synapse, insert("users (name)", "'@a' || i || ':x'", 0, 98)),
    "ejabberd": ("ejabberd", schemas.ejabberd, ejabberd, insert("users (username)", "'u' || i", 0, 98)),
    "ejabberd, new schema": (
        "ejabberd",
        lambda engine: schemas.ejabberd(engine, new=True),
        ejabberd_new,
        insert("users (username, server_host)", "'u' || i, 'example.org'", 0, 98),
    ),
    "prosody": (
        "prosody",
        schemas.prosody,
        prosody,
        insert('prosody (host, "user", store, key)', "'example.org', 'u' || i, 'accounts', 'password'", 0, 98),
    ),
    "mattermost": ("mattermost", schemas.mattermost, mattermost, insert("users (id)", "'u' || i", 0, 98)),
    "custom": ("custom", origin, custom, insert('"user" (id, role)', "i, 'user'", 0, 98)),
}


class Work:
    """What the databases did for the statements since ``reset``."""

    def __init__(self, at: pytest.MonkeyPatch) -> None:
        self.reset()
        fetch, open_ = postgresql._Snapshot.fetch, sqlite.SqliteReader._open

        async def explained(snapshot: postgresql._Snapshot, sql: str) -> Any:
            (row,) = await fetch(snapshot, f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            self._add(json.loads(row[0])[0]["Plan"])
            return await fetch(snapshot, sql)

        def stepping(reader: sqlite.SqliteReader, options: str) -> sqlite3.Connection:
            connection = open_(reader, options)
            connection.set_progress_handler(self._step, 100)
            return connection

        at.setattr(postgresql._Snapshot, "fetch", explained)
        at.setattr(sqlite.SqliteReader, "_open", stepping)

    def reset(self) -> None:
        self.touched: Counter[str] = Counter()
        self.steps = 0

    def _step(self) -> None:
        self.steps += 100

    def _add(self, plan: dict[str, Any]) -> None:
        """Rows that the scans of a plan have looked at, by table."""
        looked = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        if "Relation Name" in plan:
            self.touched[plan["Relation Name"]] += round(sum(plan.get(n, 0) for n in looked) * plan["Actual Loops"])
        for part in plan.get("Plans", ()):
            self._add(part)


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_pass_reads_some_rows_for_each_new_one(
    server: Server, kind: str, analysed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, schema, fill, people = KINDS[kind]
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(MAPPING)
    server.script(schema(server.engine))
    if server.engine == "postgresql":
        for (table,) in server.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            server.script(f'ALTER TABLE "{table}" SET (autovacuum_enabled = false)')
    server.script(people + fill(server.engine, 1, ROWS, 0))
    if analysed:
        server.script("ANALYZE")
    now = float(START + ROWS + 3_600)
    source = Source(server.url, preset, config_file=mapping)
    engine = Engine(source, State(None), load=1.0, clock=lambda: now, tail=TAIL)
    await engine.count()
    for _ in range(2):
        now += 70
        await engine.look()
    now = float(NOW + NEW)
    server.script(fill(server.engine, ROWS + 1, ROWS + NEW, LEAP))
    work = Work(monkeypatch)
    totals = await engine.look()
    assert {table: rows for table, rows in work.touched.items() if rows > TOUCHED and table not in PEOPLE} == {}
    assert work.steps < STEPS
    assert work.steps or work.touched
    monkeypatch.undo()
    await engine.close()
    again = await count_once(server.url, preset, now=now, config_file=mapping)
    assert (totals.stored_messages, totals.active_users) == (again.stored_messages, again.active_users)
    assert totals.messages_today == again.messages_today
    assert totals.stored_messages is not None
    assert totals.stored_messages > ROWS // 3


async def test_many_hosts_share_what_is_read_again(tmp_path: Path) -> None:
    with closing(SqliteServer(tmp_path / "source.db")) as server:
        server.script(schemas.ejabberd("sqlite", new=True))
        hosts = 30
        for number in range(hosts):
            server.script(ejabberd("sqlite", 1, 200, 0, ("server_host,", f"'h{number:02}.example',")))
        now = float(START + 3_600)
        engine = Engine(Source(server.url, "ejabberd"), State(None), load=1.0, clock=lambda: now)
        counted = (await engine.count()).stored_messages
        now += 70
        await engine.look()
        before = engine.rows_read
        assert (await engine.look()).stored_messages == counted
        assert engine.rows_read - before <= 13 * hosts
        await engine.close()
