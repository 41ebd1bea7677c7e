"""The engine's promises one by one: what is sealed, what a restart keeps, what a restored database gives away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from exporter.core.errors import Misconfigured
from exporter.observe import counting, direct_figures, sealing, statements
from exporter.observe.base import Base
from exporter.observe.connections import Horizon, Snapshot
from exporter.observe.counting import DirectFigures
from exporter.observe.engine import Engine
from exporter.observe.identity import ENOUGH, SAMPLES
from exporter.observe.mapping import Cut, Mapping
from exporter.observe.published import Published, figures
from exporter.observe.records import SourceError, SourceTotals
from exporter.observe.sources import Source
from exporter.observe.state import State
from exporter.observe.tally import Facts, Tally
from tests.observe import schemas
from tests.observe.databases import PostgresqlServer, Server, SqliteServer
from tests.servers.postgres import Postgres

NOON = 1_773_144_000.0  # 2026-03-10T12:00:00Z
MS = int(NOON * 1000)


@pytest.fixture
def server(server: Server) -> Server:
    server.script(schemas.mattermost(server.engine) + "INSERT INTO users (id) VALUES ('u1'), ('u2');")
    return server


def post(server: Server, first: int, last: int, *, user: str = "u1", prefix: str = "p") -> None:
    """Posts ``first`` to ``last``, one per second up to noon and later."""
    rows = ", ".join(
        f"('{prefix}{i}', {MS + (i - 100) * 1000}, {MS + (i - 100) * 1000}, '{user}')" for i in range(first, last + 1)
    )
    server.script(f"INSERT INTO posts (id, createat, updateat, userid) VALUES {rows}")


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def engine_of(server: Server, path: Path | None, clock: Clock, tail: int = 10) -> Engine:
    return Engine(Source(server.url, "mattermost"), State(path), load=1.0, clock=clock, tail=tail)


def begin_to_post(server: Server, name: str = "late", at: int = MS - 99_000, writer: int = 1) -> None:
    """In a transaction that stays open."""
    for sql in ("BEGIN", f"INSERT INTO posts (id, createat, updateat, userid) VALUES ('{name}', {at}, 1, 'u1')"):
        server.execute(sql, writer)


async def sealed(engine: Engine, clock: Clock) -> SourceTotals:
    """Count, and let time pass until the line has moved."""
    await engine.count()
    clock.now += 70
    await engine.look()
    clock.now += sealing.MAX_TRANSACTION_AGE  # on SQLite, times wait for a writer that may be there
    return await engine.look()


async def test_old_rows_are_sealed_and_not_read_again(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    assert (await sealed(engine, clock)).stored_messages == 100
    before = engine.rows_read
    post(server, 101, 101)
    assert (await engine.look()).stored_messages == 101
    assert engine.rows_read - before < 40
    await engine.close()


async def test_a_deletion_among_sealed_rows_is_seen_by_the_next_pass(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    stamp = int(clock.now * 1000)
    server.script(f"UPDATE posts SET deleteat = {stamp}, updateat = {stamp} WHERE id IN ('p3', 'p99')")
    totals = await engine.look()
    assert totals.stored_messages == 98
    assert totals.active_users[1] == 1
    clock.now += 200
    assert (await engine.look()).stored_messages == 98
    assert (await engine.look()).stored_messages == 98
    await engine.close()


async def test_what_vanishes_among_the_newest_is_seen_by_the_next_pass_without_a_trace(server: Server) -> None:
    clock = Clock()
    clock.now += 1_000
    post(server, 1, 1_000)
    engine = Engine(Source(server.url, "mattermost"), State(None), load=1.0, clock=clock)
    assert (await sealed(engine, clock)).stored_messages == 1_000
    server.script("DELETE FROM posts WHERE id IN ('p760', 'p990')")
    assert (await engine.look()).stored_messages == 998
    await engine.close()


async def test_what_vanished_without_a_trace_is_mended_by_a_recount_that_says_by_how_much(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    server.script("DELETE FROM posts WHERE id IN ('p1', 'p2', 'p3')")
    assert (await engine.look()).stored_messages == 100
    assert (await engine.count()).stored_messages == 97
    assert engine.differences["stored_messages"] == -3
    assert engine.differences["registered_users"] == 0
    await engine.close()


async def test_a_recount_differs_in_nothing_also_where_somebody_has_only_just_begun_to_write(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    post(server, 101, 101, user="u2")
    assert (await engine.look()).active_users[1] == 2
    assert (await engine.count()).active_users[1] == 2
    assert set(engine.differences.values()) == {0}
    await engine.close()


@pytest.mark.parametrize(
    ("days", "ages"), [(0, [1, 2, 3, 4]), (1, [3, 3, 4, 0]), (2, [6, 4, 0, 0]), (9, [10, 0, 0, 0])]
)
def test_as_many_midnights_as_have_passed_make_what_was_to_come_the_past(days: int, ages: list[int]) -> None:
    tally = Tally([1, 2, 3, 4], {"here": [1, 2, 3, 4]})
    tally.turn(days)
    assert tally.sure == tally.doubtful["here"] == ages


async def test_a_number_below_zero_is_no_figure(server: Server) -> None:
    """Whatever was taken off twice: not even by one."""
    engine = engine_of(server, None, Clock())
    mapping = await engine.look_at_schema()
    day = int(NOON // 86_400)
    base = Base(1, Cut({}, 0), Tally(sure=[0, -mapping.units, 0, 0]), day)
    totals = figures(mapping, base, Published(engine.state, 1), DirectFigures(users=0), NOON)
    assert (totals.stored_messages, totals.messages_today, totals.registered_users) == (None, None, 0)
    assert set(totals.unknown) == {"stored_messages", "messages_today"}
    await engine.close()


async def test_several_midnights_pass_between_two_scrapes(server: Server, tmp_path: Path) -> None:
    """What is dated ahead, by a fast clock, is sealed where the key is a number; nobody looks for two days."""
    source = by_number(server, tmp_path)
    rows = [*((i, int(NOON) + i * 86_400) for i in (1, 2)), *((i, int(NOON)) for i in range(3, 60))]
    values = [f"({i}, {at}, 'u{i}')" for i, at in rows]
    server.script(f"INSERT INTO numbered VALUES {', '.join(values)}")
    clock = Clock()
    engine = Engine(source, State(None), load=1.0, clock=clock, tail=10)
    assert (await engine.count()).messages_today == 59
    clock.now += 2 * 86_400
    totals = await engine.look()
    assert (totals.messages_today, totals.active_users[1], totals.stored_messages) == (1, 1, 59)
    clock.now += 86_400
    totals = await engine.look()
    assert (totals.messages_today, totals.active_users[1], totals.stored_messages) == (0, 0, 59)
    await engine.close()


async def test_midnight_passes(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    assert (await sealed(engine, clock)).messages_today == 100
    clock.now = NOON + 12 * 3600 + 1
    totals = await engine.look()
    assert (totals.messages_today, totals.stored_messages) == (0, 100)
    assert totals.active_users == {1: 0, 7: 1, 30: 1}
    clock.now += 30 * 86_400
    assert (await engine.look()).active_users == {1: 0, 7: 0, 30: 0}
    await engine.close()


async def test_a_page_that_is_kept_after_midnight_is_of_the_day_before(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.now += 43_200 - 600
    post(server, 1, 5_000)
    engine = engine_of(server, None, clock)
    await engine.open()
    await engine.begin()
    assert engine.counting is not None
    for scan in engine.counting.all():
        scan.span = 500_000_000  # µs: 500 rows
    go_on, digest = threading.Event(), counting.Page.digest

    def late(page: counting.Page, mapping: Mapping) -> Facts:
        go_on.wait()
        return digest(page, mapping)

    monkeypatch.setattr(counting.Page, "digest", late)
    await engine.advance()
    clock.now += 1_200
    next_page = asyncio.create_task(engine.advance())
    await asyncio.sleep(0)  # it begins
    go_on.set()
    await next_page
    while engine.counting:
        await engine.advance()
    totals = await engine.look()
    assert (totals.stored_messages, totals.messages_today) == (5_000, 0)
    await engine.close()


async def test_a_count_that_is_completed_after_midnight_is_of_that_day(server: Server) -> None:
    """All of its pages were read before."""
    clock = Clock()
    clock.now += 43_200 - 600
    post(server, 1, 100)
    engine = engine_of(server, None, clock)
    await engine.open()
    await engine.begin()
    while engine.counting and not engine.counting.read:
        await engine.advance()
    clock.now += 1_200
    await engine.advance()
    assert engine.counting is None
    assert engine.differences == {}
    assert engine.base is not None
    assert engine.state.get("published")["messages_today"] == 0
    assert (await engine.look()).active_users == {1: 0, 7: 1, 30: 1}
    await engine.close()


async def test_a_count_that_takes_days_reckons_each_page_from_its_own(server: Server, tmp_path: Path) -> None:
    """What a fast clock had dated ahead is of that day by then."""
    source = by_number(server, tmp_path)
    rows = [f"(1, {int(NOON) + 3 * 86_400}, 'u1')", *(f"({i}, {int(NOON)}, 'u2')" for i in range(2, 61))]
    server.script(f"INSERT INTO numbered VALUES {', '.join(rows)}")
    clock = Clock()
    engine = Engine(source, State(None), load=1.0, clock=clock, tail=10)
    await engine.open()
    await engine.begin()
    clock.now += 3 * 86_400
    while engine.counting:
        await engine.advance()
    totals = await engine.look()
    assert (totals.stored_messages, totals.messages_today, totals.active_users[1]) == (60, 1, 1)
    await engine.close()


async def test_who_wrote_tomorrow_by_a_clock_that_is_fast_has_written_today_after_midnight(server: Server) -> None:
    """Its number grows with the others', so it is sealed before midnight, and not read again after it."""
    clock = Clock()
    clock.now += 43_200 - 600
    midnight = MS + 43_200_000
    others = ", ".join(f"({i}, '$e{i}', 'm.room.message', '!r', '@a:x', {midnight - 600_000})" for i in range(2, 41))
    server.script(
        "DROP TABLE users;" + schemas.synapse(server.engine) + "INSERT INTO users (name) VALUES ('@a:x'), ('@b:x');"
        "INSERT INTO events (stream_ordering, event_id, type, room_id, sender, origin_server_ts) "
        f"VALUES (1, '$e1', 'm.room.message', '!r', '@b:x', {midnight + 60_000}), {others};"
        "INSERT INTO stream_positions VALUES ('events', 'master', 40);"
    )
    engine = Engine(Source(server.url, "synapse"), State(None), load=1.0, clock=clock, tail=10)
    assert (await engine.count()).active_users == {1: 2, 7: 2, 30: 2}
    clock.now += 720
    assert (await engine.look()).active_users == {1: 1, 7: 2, 30: 2}
    assert engine.base is not None
    assert engine.base.cut.lows["stream_ordering"] >= 1
    await engine.close()


@pytest.mark.parametrize("tail", [10, 100])
async def test_who_wrote_today_has_done_so_also_where_what_comes_behind_it_is_older(
    server: Server, tmp_path: Path, tail: int
) -> None:
    """An import of old messages: its numbers are the newest."""
    path = tmp_path / "mapping.yml"
    time = "time: {column: at, unit: s}"
    path.write_text(f"messages: {{table: numbered, key: id, {time}, sender: who, conversation: place}}")
    server.script("CREATE TABLE numbered (id bigint PRIMARY KEY, at bigint, who text, place text)")
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=Clock(), tail=tail)

    def store(first: int, last: int, days: int, place: str) -> None:
        rows = ", ".join(f"({i}, {int(NOON) - days * 86_400}, 'u1', '{place}')" for i in range(first, last + 1))
        server.script(f"INSERT INTO numbered VALUES {rows}")

    store(1, 20, 0, "b")
    store(21, 40, 5, "a")
    store(41, 60, 5, "c")
    assert (await engine.count()).active_users == {1: 1, 7: 1, 30: 1}
    store(61, 80, 20, "d")
    assert (await engine.look()).active_users == {1: 1, 7: 1, 30: 1}
    totals = await engine.count()
    assert (totals.active_users, totals.stored_conversations) == ({1: 1, 7: 1, 30: 1}, 4)
    await engine.close()


async def test_who_writes_again_on_another_day_counts_once(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    clock.now += 86_400
    post(server, 86_540, 86_541)
    assert (await engine.look()).active_users == {1: 1, 7: 1, 30: 1}
    await engine.close()


async def test_a_recount_is_due_after_its_time_sooner_where_rows_vanished_and_where_a_clock_was_put_back(
    server: Server,
) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()

    def due_after(seconds: float) -> bool:
        clock.now = NOON + seconds
        return engine.due

    assert [due_after(seconds) for seconds in (-1, 0, 300, 3_599, 3_600)] == [True, False, False, False, True]
    clock.now = NOON + 1
    server.script("DELETE FROM posts WHERE id = 'p95'")
    assert (await engine.look()).stored_messages == 99
    assert [due_after(seconds) for seconds in (1, 299, 300)] == [False, False, True]
    await engine.close()


@pytest.mark.parametrize(
    "vanishes",
    [
        "DELETE FROM users WHERE id = 'u2'",
        "DELETE FROM channels WHERE id = 'c2'",
        "DELETE FROM posts WHERE id = 'p95'",
        f"DELETE FROM posts WHERE id = 'p100'; INSERT INTO posts (id, createat, userid) VALUES ('x', {MS - 1}, 'u1')",
    ],
    ids=["an account", "a conversation", "a row", "the newest row, while an older one comes"],
)
async def test_a_recount_is_due_sooner_whatever_has_become_less(server: Server, vanishes: str) -> None:
    """And not after a recount that finds everything as it was."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    server.script("INSERT INTO channels (id, type) VALUES ('c1', 'O'), ('c2', 'O')")
    post(server, 1, 40)
    clock.now = NOON - 1_000
    await engine.count()
    post(server, 41, 100)
    clock.now = NOON
    await engine.look()
    await engine.count()
    for seconds in (300, 600):
        clock.now = NOON + seconds
        await engine.look()
        assert not engine.due
    server.script(vanishes)
    await engine.look()
    assert engine.due
    await engine.look()  # and stays so
    assert engine.due
    await engine.count()
    clock.now += 300
    await engine.look()
    assert not engine.due
    await engine.close()


async def test_a_recount_is_due_sooner_where_a_room_is_gone(server: Server) -> None:
    """Its messages, if it had any, are gone with it."""
    server.script(schemas.prosody(server.engine))
    server.script("INSERT INTO prosody VALUES ('rooms.x', 'r', 'config', 'ann@x', 'string', 'owner')")
    clock = Clock()
    engine = Engine(Source(server.url, "prosody"), State(None), load=1.0, clock=clock)
    assert (await engine.count()).stored_conversations == 1
    clock.now += 300
    assert not engine.due
    server.script("DELETE FROM prosody WHERE 1 = 1")
    assert (await engine.look()).stored_conversations == 0
    assert engine.due
    await engine.close()


async def test_the_line_follows_a_minute_behind_however_often_somebody_looks(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()
    for number in range(101, 300):
        post(server, number, number)
        clock.now = NOON + number - 100
        assert (await engine.look()).stored_messages == number
    assert engine.base is not None
    assert engine.base.cut.lows["createat"] > int((clock.now - 70) * 1_000_000)
    await engine.close()


async def test_a_clock_that_is_put_back_over_midnight_makes_nothing_of_yesterday_today_s(server: Server) -> None:
    """What was sealed is of the past by then, and cannot be told from what is older."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    midnight = NOON + 43_200
    clock.now = midnight - 200
    post(server, 1, 100)
    assert (await engine.count()).messages_today == 100
    post(server, 43_100, 43_139)
    for at, today in ((-100, 140), (-1, 140), (1, 0)):
        clock.now = midnight + at
        assert (await engine.look()).messages_today == today
    clock.now = midnight - 1
    totals = await engine.look()
    assert (totals.stored_messages, totals.messages_today) == (140, None)
    assert totals.active_users == {1: None, 7: None, 30: None}
    assert "put back" in totals.unknown["messages_today"]
    assert engine.due
    post(server, 43_290, 43_299)
    clock.now = midnight + 1
    totals = await engine.look()
    assert (totals.stored_messages, totals.messages_today, totals.active_users[1]) == (150, 0, 0)
    clock.now = midnight - 1
    assert (await engine.count()).messages_today == 150
    assert not engine.due
    await engine.close()


def by_number(server: Server, tmp_path: Path) -> Source:
    """A table of one's own: numbered, with an index on the time, which says who wrote lately."""
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: numbered, key: id, time: {column: at, unit: s}, sender: who}")
    server.script("CREATE TABLE numbered (id bigint PRIMARY KEY, at bigint, who text); CREATE INDEX i ON numbered (at)")
    return Source(server.url, "custom", config_file=path)


async def test_a_deletion_after_clocks_were_put_back_is_seen(server: Server, tmp_path: Path) -> None:
    """In the hour that is written twice, when everything was first counted in the first of the two."""
    path = tmp_path / "mapping.yml"
    path.write_text(
        "messages: {table: told, key: id, time: {column: at, unit: s}, "
        "deleted: {column: gone, unit: text, zone: Europe/Berlin}}"
    )
    clock = Clock()
    clock.now = 1_792_889_400.0  # 2026-10-25T00:50:00Z, 02:50 in Berlin; ten minutes later it is 02:00 again
    rows = ", ".join(f"({i}, {int(clock.now)}, NULL)" for i in range(1, 101))
    server.script(f"CREATE TABLE told (id bigint PRIMARY KEY, at bigint, gone text); INSERT INTO told VALUES {rows}")
    server.script("CREATE INDEX g ON told (gone)")
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=clock, tail=10)
    assert (await engine.count()).stored_messages == 100
    clock.now += 1_200
    server.script("UPDATE told SET gone = '2026-10-25 02:10:00' WHERE id = 3")
    assert (await engine.look()).stored_messages == 99
    await engine.close()


@pytest.mark.parametrize("indexed", [True, False])
async def test_a_window_begins_at_its_midnight(server: Server, tmp_path: Path, indexed: bool) -> None:
    source = by_number(server, tmp_path)
    midnight = int(NOON) - 43_200
    days = [(f"u{day}", midnight - day * 86_400) for day in (0, 6, 29)]
    rows = [*days, *((f"before {who}", at - 1) for who, at in days), *[("now", int(NOON))] * 20]
    values = ", ".join(f"({i}, {at}, '{who}')" for i, (who, at) in enumerate(rows))
    server.script(f"INSERT INTO numbered VALUES {values};{'' if indexed else 'DROP INDEX i'}")
    engine = Engine(source, State(None), load=1.0, clock=Clock(), tail=10)
    assert (await engine.count()).active_users == {1: 2, 7: 4, 30: 6}
    await engine.close()


async def test_who_wrote_by_a_clock_that_is_fast_has_written_also_after_quiet_weeks(
    server: Server, tmp_path: Path
) -> None:
    """Nobody else wrote since: a full count passes over them."""
    source = by_number(server, tmp_path)
    rows = ", ".join(f"({i}, {int(NOON) - 29 * 86_400}, 'u')" for i in range(2, 41))
    server.script(f"INSERT INTO numbered VALUES (1, {int(NOON) + 60}, 'fast'), {rows}")
    engine = Engine(source, State(None), load=1.0, clock=Clock(), tail=10)
    assert (await engine.count()).active_users == {1: 1, 7: 1, 30: 2}
    await engine.close()


async def test_a_count_whose_index_is_gone_is_begun_again(server: Server, tmp_path: Path) -> None:
    source = by_number(server, tmp_path)
    rows = ", ".join(f"({i}, {int(NOON)}, 'u{i % 3}')" for i in range(100))
    server.script(f"INSERT INTO numbered VALUES {rows}")
    engine = Engine(source, State(tmp_path / "state.db"), load=1.0, clock=Clock(), tail=10)
    await engine.open()
    await engine.begin()
    await engine.advance()
    await engine.close()
    server.script("DROP INDEX i")
    again = Engine(source, State(tmp_path / "state.db"), load=1.0, clock=Clock(), tail=10)
    await again.open()
    assert again.counting is None
    totals = await again.count()
    assert (totals.stored_messages, totals.active_users[1]) == (100, 3)
    await again.close()


async def test_a_restart_goes_on_where_the_last_step_ended(server: Server, tmp_path: Path) -> None:
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    await engine.close()
    post(server, 101, 103, user="u2")
    again = engine_of(server, tmp_path / "state.db", clock)
    await again.open()
    totals = await again.look()
    assert (totals.stored_messages, totals.active_users[1]) == (103, 2)
    assert again.rows_read < 60
    await again.close()


async def test_a_restart_knows_when_and_by_what_the_last_recount_corrected(server: Server, tmp_path: Path) -> None:
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    server.script("DELETE FROM posts WHERE id = 'p1'")
    await engine.count()
    await engine.close()
    recounted = clock.now
    clock.now += 600
    again = engine_of(server, tmp_path / "state.db", clock)
    await again.open()
    assert again.recounted_at == recounted
    assert again.differences == engine.differences
    assert again.differences["stored_messages"] == -1
    await again.close()


@pytest.mark.parametrize("pages", [1, 40], ids=["one page", "many pages"])
async def test_what_is_deleted_before_while_and_after_a_recount_reads_it_is_taken_off_once(
    server: Server, pages: int
) -> None:
    """Each page adds the deletions among its own rows, and no others; the tail takes all of them off."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 400)
    clock.now += 300
    await engine.count()
    left = 400

    def delete(*numbers: int) -> None:
        stamp = int(clock.now * 1_000)
        ids = ", ".join(f"'p{i}'" for i in numbers)
        server.script(f"UPDATE posts SET deleteat = {stamp}, updateat = {stamp} WHERE id IN ({ids})")

    for numbers in ((3, 200), (399, 340)):  # of the first, the middle and the last page, and of the tail
        clock.now += 1
        delete(*numbers)
        left -= 2
        assert (await engine.look()).stored_messages == left
    await engine.begin()
    first = True
    while engine.counting:
        for scan in engine.counting.all():
            scan.span = (scan.top - scan.bottom) // pages + 1
        await engine.advance()
        if first:
            delete(1, 2, 390)
            left, first = left - 3, False
        if engine.counting and engine.counting.read:  # what comes between two passes is no difference
            delete(7)
            left -= 1
        else:
            assert (await engine.look()).stored_messages == left
    assert engine.differences["stored_messages"] == 0
    assert (await engine.look()).stored_messages == left
    delete(5)
    assert (await engine.look()).stored_messages == left - 1
    await engine.close()


async def test_a_count_that_was_cut_off_goes_on(server: Server, tmp_path: Path) -> None:
    clock = Clock()
    clock.now += 5_000
    post(server, 1, 5_000)
    engine = engine_of(server, tmp_path / "state.db", clock)
    await engine.open()
    await engine.begin()
    assert engine.counting is not None
    for walk in engine.counting.all():
        walk.span = 500_000_000  # µs: 500 rows
    await engine.advance()
    await engine.close()
    done = engine.counting.share
    assert 0 < done < 1
    again = engine_of(server, tmp_path / "state.db", clock)
    await again.open()
    assert again.counting is not None
    assert again.counting.share == done
    while again.counting is not None:
        await again.advance()
    assert (await again.look()).stored_messages == 5_000
    await again.close()


async def test_a_page_that_cannot_be_made_smaller_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    post(server, 1, 100)
    engine = engine_of(server, None, Clock())
    await engine.open()
    await engine.begin()
    assert engine.counting is not None
    for scan in engine.counting.all():
        scan.span = 3

    async def slow(*_: object) -> None:
        raise SourceError("slow", slow=True)

    with monkeypatch.context() as faults:
        faults.setattr(engine.reader, "read", slow)
        await engine.advance()
        with pytest.raises(SourceError, match="slow"):
            await engine.advance()
    assert (await engine.count()).stored_messages == 100
    await engine.close()


async def test_a_recount_that_is_begun_again_has_nothing_of_the_one_that_was_left(
    server: Server, tmp_path: Path
) -> None:
    """Conversations and people whose rows have vanished since."""
    path = tmp_path / "mapping.yml"
    time = "time: {column: createat, unit: ms}"
    path.write_text(f"messages: {{table: posts, key: createat, {time}, sender: userid, conversation: userid}}")
    clock = Clock()
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=clock, tail=10)
    post(server, 1, 50, user="u1")
    post(server, 51, 100, user="u2")
    await sealed(engine, clock)
    await engine.begin()
    while engine.counting and not engine.counting.done:
        await engine.advance()
        await engine._pages.kept()
    server.script("DELETE FROM posts WHERE userid = 'u1'")
    totals = await engine.count()
    assert (totals.stored_messages, totals.stored_conversations, totals.active_users[1]) == (50, 1, 1)
    await engine.close()


async def test_while_it_is_counted_for_the_first_time_nothing_is_known(server: Server) -> None:
    post(server, 1, 100)
    engine = engine_of(server, None, Clock())
    await engine.open()
    totals = await engine.look()
    assert totals.stored_messages is None
    assert totals.active_users == {1: None, 7: None, 30: None}
    assert totals.unknown["stored_messages"].startswith("counting for the first time")
    await engine.close()


async def test_rows_that_are_others_now_are_another_database(server: Server, tmp_path: Path) -> None:
    """A backup was put back and life went on: the same keys, other posts."""
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    await engine.close()
    server.script("DELETE FROM posts WHERE createat > 0")
    post(server, 1, 120, prefix="q", user="u2")
    again = engine_of(server, tmp_path / "state.db", clock)
    await again.open()
    assert again.base is None
    totals = await again.count()
    assert (totals.stored_messages, totals.active_users[1]) == (120, 1)
    await again.close()


async def test_a_row_that_was_remembered_and_is_gone_is_no_other_database(server: Server, tmp_path: Path) -> None:
    """A purge of old rows, while the newest are themselves: the next recount tells."""
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await engine.count()
    (sample,) = engine.state.get("samples")
    await engine.close()
    server.script(f"DELETE FROM posts WHERE id = '{sample[2]}'")
    again = engine_of(server, tmp_path / "state.db", clock)
    await again.open()
    assert (await again.look()).stored_messages == 100
    assert (await again.count()).stored_messages == 99
    moment = sample[1] // 1_000  # another one of that moment, which the count has not seen either
    server.script(f"INSERT INTO posts (id, createat, updateat, userid) VALUES ('x', {moment}, {moment}, 'u1')")
    assert (await again.look()).stored_messages == 99
    assert (await again.count()).stored_messages == 100
    await again.close()


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_backup_that_is_put_back_is_another_database_where_keys_are_times(
    server: Server, tmp_path: Path, restarted: bool
) -> None:
    """No row takes another's place, and the newest is newer than what was sealed."""
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await engine.count()
    for _ in range(ENOUGH):
        clock.now += 1_000
        post(server, int(clock.now - NOON), int(clock.now - NOON) + 20)
        await engine.look()
    clock.now += 1_000
    assert (await engine.look()).stored_messages == 100 + ENOUGH * 21
    assert len(engine.state.get("samples")) > ENOUGH
    if restarted:
        await engine.close()
    server.script(f"DELETE FROM posts WHERE createat > {MS + 500_000}")  # as it was, and then new ones came
    post(server, int(clock.now - NOON), int(clock.now - NOON) + 50)
    if restarted:
        engine = engine_of(server, tmp_path / "state.db", clock)
        await engine.open()
    assert (await engine.look()).stored_messages is None
    assert (await engine.count()).stored_messages == 151
    await engine.close()


async def test_where_a_row_that_was_remembered_is_gone_a_recount_is_due_sooner(server: Server) -> None:
    """Once: it is not asked for again."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()
    (sample,) = engine.state.get("samples")
    server.script(f"DELETE FROM posts WHERE id = '{sample[2]}'")
    assert (await engine.look()).stored_messages == 100
    clock.now += engine.recount_interval / 12 - 1
    await engine.look()
    assert not engine.due
    clock.now += 2
    assert engine.due
    assert (await engine.count()).stored_messages == 99
    clock.now += engine.recount_interval - 1
    await engine.look()
    assert not engine.due
    await engine.close()


@pytest.mark.parametrize("restarted", [False, True])
async def test_of_the_rows_that_are_remembered_an_older_one_tells_it_too(
    server: Server, tmp_path: Path, restarted: bool
) -> None:
    """The latest has no row of its key in what was put back."""
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await engine.count()
    post(server, 101, 130)
    for _ in range(3):
        clock.now += 1_000
        post(server, int(clock.now - NOON), int(clock.now - NOON) + 20)
        await engine.look()
    samples = engine.state.get("samples")
    assert len(samples) > 1
    if restarted:
        await engine.close()
    latest = max(samples, key=lambda sample: sample[1])
    server.script("UPDATE posts SET id = 'other' || id")
    server.script(f"DELETE FROM posts WHERE createat = {latest[1] // 1_000}")
    if restarted:
        engine = engine_of(server, tmp_path / "state.db", clock)
        await engine.open()
    assert (await engine.look()).stored_messages is None
    await engine.close()


async def test_slow_figures_that_are_kept_between_scrapes_are_not_those_of_another_database(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_figures, "QUICK", -1.0)
    source = Source(server.url, "mattermost")
    engine = Engine(source, State(None), load=1.0, clock=Clock(), tail=10, background_refresh=True)
    post(server, 1, 100)
    assert (await engine.count()).registered_users == 2
    server.script("DELETE FROM users WHERE id = 'u2'")
    assert (await engine.look()).registered_users == 2  # as of then
    server.script("DELETE FROM posts WHERE createat > 0")
    assert (await engine.look()).stored_messages is None
    assert (await engine.count()).registered_users == 1
    await engine.close()


async def test_slow_figures_are_of_the_moment_at_which_they_were_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the scrapes where somebody does so; else by a pass, after minutes, or when the clock was put back."""
    monkeypatch.setattr(direct_figures, "QUICK", -1.0)
    clock = Clock()
    source = Source(server.url, "mattermost")
    engine = Engine(source, State(None), load=1.0, clock=clock, tail=10, background_refresh=True)
    post(server, 1, 100)
    assert (await engine.count()).registered_users == 2

    async def told(after: float) -> tuple[int | None, float]:
        clock.now += after
        totals = await engine.look()
        return totals.registered_users, totals.as_of - NOON

    server.script("DELETE FROM users WHERE id = 'u2'")
    assert await told(direct_figures.OLDEST - 1) == (2, 0)
    assert await told(1) == (1, direct_figures.OLDEST)
    server.script("INSERT INTO users (id) VALUES ('u2')")
    assert await told(-1) == (2, direct_figures.OLDEST - 1)
    server.script("DELETE FROM users WHERE id = 'u2'")
    assert await told(200) == (2, direct_figures.OLDEST - 1)
    await engine.refresh()
    server.script("INSERT INTO users (id) VALUES ('u2')")
    clock.now += 200
    await engine.refresh()  # nobody has asked since
    assert await told(0) == (1, direct_figures.OLDEST + 199)
    await engine.close()


def test_slow_figures_are_read_for_a_hundredth_of_the_time() -> None:
    cache = direct_figures.DirectFiguresCache(background_refresh=True)
    cache.keep((DirectFigures(users=1), NOON, 3.0))
    assert not cache.due(NOON + 300)  # nobody asked
    assert cache.cached(NOON + 1) == (DirectFigures(users=1), NOON, 3.0)
    assert [cache.due(NOON + age) for age in (299, 300, -1)] == [False, True, True]
    cache.keep((DirectFigures(users=1), NOON, direct_figures.QUICK))
    assert cache.cached(NOON + 1) is None
    assert not cache.due(NOON + 300)  # a pass reads them


@pytest.mark.parametrize("moved", [False, True], ids=["counted", "sealed"])
async def test_rows_that_become_others_while_it_runs_are_another_database(server: Server, moved: bool) -> None:
    """A backup was put back between two scrapes, on the same connection, and is longer than what was sealed."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await (sealed(engine, clock) if moved else engine.count())
    server.script("DELETE FROM posts WHERE createat > 0")
    post(server, 30, 200, prefix="q", user="u2")
    assert (await engine.look()).stored_messages is None
    totals = await engine.count()
    assert (totals.stored_messages, totals.active_users[1]) == (171, 1)
    await engine.close()


async def test_rows_that_were_sealed_since_the_count_and_are_others_now_are_another_database(server: Server) -> None:
    """The backup that was put back is younger than the count: the rows up to there are themselves."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()
    post(server, 101, 200)
    for _ in range(4):
        clock.now += 300
        assert (await engine.look()).stored_messages == 200
    assert engine.base is not None
    assert engine.base.cut.lows["createat"] > (MS + 50_000) * 1_000
    server.script(f"DELETE FROM posts WHERE createat > {MS + 50_000}")
    post(server, 151, 260, prefix="q", user="u2")
    assert (await engine.look()).stored_messages is None
    totals = await engine.count()
    assert (totals.stored_messages, totals.active_users[1]) == (260, 2)
    await engine.close()


async def test_what_was_seen_of_another_database_seals_nothing_of_this_one(server: Server, tmp_path: Path) -> None:
    """Its numbers are lower, and one that was taken first is used last."""
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: numbered, key: id, time: {column: at, unit: s}}")
    server.script("CREATE TABLE numbered (id bigint PRIMARY KEY, at bigint)")

    def store(first: int, last: int) -> None:
        server.script(
            f"INSERT INTO numbered VALUES {', '.join(f'({i}, {int(NOON) + i})' for i in range(first, last + 1))}"
        )

    store(1_001, 1_100)
    clock = Clock()
    engine = Engine(Source(server.url, "custom", config_file=path), State(None), load=1.0, clock=clock, tail=10)
    assert (await sealed(engine, clock)).stored_messages == 100
    server.script("DELETE FROM numbered WHERE id > 0")
    store(1, 100)
    assert (await engine.look()).stored_messages is None
    assert (await engine.count()).stored_messages == 100
    store(101, 104)
    store(106, 130)
    assert (await engine.look()).stored_messages == 129
    store(105, 105)
    assert (await engine.look()).stored_messages == 130
    await engine.close()


async def test_a_row_that_nothing_identifies_is_no_other_one(server: Server, tmp_path: Path) -> None:
    """Of a mapping of one's own: without a time, or a sender where the key is the time."""
    path = tmp_path / "mapping.yml"
    path.write_text("messages: {table: posts, key: createat, time: {column: createat, unit: ms}, sender: rootid}")
    server.script("ALTER TABLE posts DROP COLUMN rootid; ALTER TABLE posts ADD COLUMN rootid text")
    post(server, 1, 100)
    clock = Clock()
    source = Source(server.url, "custom", config_file=path)
    engine = Engine(source, State(None), load=1.0, clock=clock, tail=10)
    assert (await sealed(engine, clock)).stored_messages == 100
    await engine.close()


async def test_a_table_that_was_emptied_is_not_told_as_it_was(server: Server) -> None:
    """Also where the key is a time."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    server.script("DELETE FROM posts WHERE createat > 0")
    assert (await engine.look()).stored_messages is None
    assert (await engine.count()).stored_messages == 0
    assert engine.differences["stored_messages"] == -100
    await engine.close()


async def test_where_the_newest_rows_are_gone_nothing_is_known_until_the_recount_tells_what_vanished(
    server: Server, tmp_path: Path
) -> None:
    """A purge, or a backup that was put back: the rows that were counted can no longer be told from others."""
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    server.script("DELETE FROM posts WHERE id = 'p3'")
    await engine.count()
    assert engine.differences["stored_messages"] == -1
    assert engine.base is not None
    assert engine.state.days(engine.base.generation)
    assert engine.state.days(engine.base.generation - 1) == {}
    server.script("DELETE FROM posts WHERE id NOT IN ('p1', 'p2')")
    assert (await engine.look()).stored_messages is None
    assert engine.differences == {}
    await engine.close()
    again = engine_of(server, tmp_path / "state.db", clock)
    await again.open()
    assert (await again.look()).stored_messages is None
    assert (await again.count()).stored_messages == 2
    assert again.differences["stored_messages"] == -97
    assert again.differences["registered_users"] == 0
    await again.close()


async def test_a_first_count_of_rows_whose_newest_are_gone_when_it_ends_is_no_figure(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.open()
    await engine.begin()
    assert engine.counting is not None
    while not engine.counting.read:
        await engine.advance()
    server.script("DELETE FROM posts WHERE id NOT IN ('p1', 'p2')")
    assert (await engine.look()).stored_messages is None
    assert (await engine.count()).stored_messages == 2
    await engine.close()


async def test_archives_that_expired_on_a_quiet_server_are_told_as_what_vanished(tmp_path: Path) -> None:
    """Prosody's after a week, all of them; its numbers go on where they were."""
    server = SqliteServer(tmp_path / "prosody.db")
    server.script(schemas.prosody("sqlite"))
    columns = 'prosodyarchive (sort_id, host, "user", store, key, "when", "with", value)'
    stanza = "<message to=''bob@x'' from=''ann@x/1'' id=''m''><body>hello</body></message>"

    def say(first: int, last: int) -> None:
        rows = ", ".join(
            f"({i}, 'x', 'ann', 'archive', 'k{i}', {int(NOON)}, 'bob@x', '{stanza}')" for i in range(first, last + 1)
        )
        server.script(f"INSERT INTO {columns} VALUES {rows}")

    say(1, 60)
    clock = Clock()
    engine = Engine(Source(server.url, "prosody"), State(None), load=1.0, clock=clock, tail=5)
    assert (await engine.count()).stored_messages == 60
    server.script("DELETE FROM prosodyarchive")
    assert (await engine.look()).stored_messages is None
    totals = await engine.count()
    assert (totals.stored_messages, totals.stored_conversations) == (0, 0)
    assert (engine.differences["stored_messages"], engine.differences["stored_conversations"]) == (-60, -1)
    say(61, 63)
    assert (await engine.look()).stored_messages == 3
    await engine.close()
    server.close()


async def test_a_file_whose_contents_are_those_of_before_is_another_database(tmp_path: Path) -> None:
    """A backup that is written over it, when the rows that are remembered are in both."""
    path = tmp_path / "mattermost.db"
    server = SqliteServer(path, "delete")
    server.script(schemas.mattermost("sqlite"))
    post(server, 1, 100)
    shutil.copyfile(path, tmp_path / "backup.db")
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    assert (await engine.count()).stored_messages == 100
    await engine.close()
    server.script("DELETE FROM posts WHERE id = 'p3'")
    engine = engine_of(server, tmp_path / "state.db", clock)
    await engine.open()
    assert (await engine.look()).stored_messages == 100  # the same one, after a restart and a write
    assert (await engine.count()).stored_messages == 99
    await engine.close()
    server.close()
    shutil.copyfile(tmp_path / "backup.db", path)
    engine = engine_of(server, tmp_path / "state.db", clock)
    await engine.open()
    assert (await engine.look()).stored_messages is None
    assert (await engine.count()).stored_messages == 100
    await engine.close()


async def test_of_many_rows_that_were_sealed_the_latest_are_remembered(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()
    sealed_up_to = []
    for first in range(1_000, 31_000, 1_000):
        clock.now = NOON + first
        post(server, first, first + 20)
        await engine.look()
        assert engine.base is not None
        sealed_up_to.append(engine.base.cut.lows["createat"] // 1_000)
    assert len({*sealed_up_to}) > 2 * SAMPLES - 5
    server.script(f"UPDATE posts SET id = 'other' || id WHERE createat > {sealed_up_to[-4]}")
    assert (await engine.look()).stored_messages is None
    await engine.close()


async def test_where_only_unsealed_rows_are_gone_the_figures_stay(server: Server) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()
    assert engine.base is not None
    low = engine.base.cut.lows["createat"] // 1_000
    server.script(f"DELETE FROM posts WHERE createat > {low}")
    assert (await engine.look()).stored_messages == server.fetch("SELECT COUNT(*) FROM posts")[0][0] > 0
    server.script(f"DELETE FROM posts WHERE createat < {low}")
    assert (await engine.look()).stored_messages == 40  # until the recount: the newest of the sealed ones is there
    assert (await engine.count()).stored_messages == 1
    await engine.close()


async def test_a_copy_in_the_place_of_a_file_is_another_database(tmp_path: Path) -> None:
    server = SqliteServer(tmp_path / "mattermost.db", "delete")
    server.script(schemas.mattermost("sqlite"))
    post(server, 1, 10)
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    await engine.count()
    await engine.close()
    server.close()
    shutil.copy(tmp_path / "mattermost.db", tmp_path / "copy.db")
    (tmp_path / "copy.db").rename(tmp_path / "mattermost.db")
    again = engine_of(server, tmp_path / "state.db", clock)
    await again.open()
    assert again.base is None
    await again.close()


@pytest.mark.parametrize("number", [1, 30])
async def test_rows_dated_in_the_future_hide_nothing_that_comes_after_them(server: Server, number: int) -> None:
    """Also more of them than stay unsealed."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    post(server, 9_999_999, 9_999_998 + number)
    assert (await engine.count()).stored_messages == 100 + number
    post(server, 101, 120)
    assert (await sealed(engine, clock)).stored_messages == 120 + number
    post(server, 211, 240)
    assert (await engine.look()).stored_messages == 150 + number
    await engine.close()


async def test_what_appears_late_below_the_newest_is_counted_also_after_the_first_count(server: Server) -> None:
    """A message and a deletion, whose times were taken before others' that had been committed when it began."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    assert (await engine.count()).stored_messages == 100
    late = MS - 45_500
    server.script(f"INSERT INTO posts (id, createat, updateat, userid) VALUES ('late', {late}, {late}, 'u2')")
    totals = await engine.look()
    assert (totals.stored_messages, totals.active_users[1]) == (101, 2)
    server.script(f"UPDATE posts SET deleteat = {late}, updateat = {late} WHERE id = 'p3'")
    assert (await engine.look()).stored_messages == 100
    await engine.close()


@pytest.mark.parametrize("before", [0, 20_000])
@pytest.mark.parametrize("beside", [0, 30_000], ids=["of the same moment", "dated ahead"])
async def test_rows_of_a_transaction_that_took_minutes_are_seen_when_it_ends(
    server: Server, beside: int, before: int
) -> None:
    """They are dated a little before it began, where the key is the time, and the newest row is no older."""
    clock = Clock()
    engine = Engine(Source(server.url, "mattermost"), State(None), load=1.0, clock=clock, tail=1)
    post(server, 1, 100)
    clock.now += 300
    assert (await engine.count()).stored_messages == 100
    clock.now += 10
    began = int(clock.now * 1_000)
    insert = "INSERT INTO posts (id, createat, updateat, userid) VALUES"
    server.execute(f"{insert} ('x', {began + beside}, {began}, 'u1'), ('y', {began + beside}, {began}, 'u1')")
    for sql in ("BEGIN", f"{insert} ('late', {began - before}, {began}, 'u2')"):
        server.execute(sql)
    for _ in range(30):
        clock.now += 10
        assert (await engine.look()).stored_messages == 102
    if before:  # a recount ends where the line is
        assert (await engine.count()).stored_messages == 102
    server.execute("COMMIT")
    totals = await engine.look()
    assert (totals.stored_messages, totals.active_users[1]) == (103, 2)
    for number in range(1_000, 1_005):  # and the line goes on
        post(server, number, number)
        clock.now += 100
        await engine.look()
    assert engine.base is not None
    assert engine.base.cut.lows["createat"] > (began + beside) * 1_000
    await engine.close()


async def test_deletions_of_a_transaction_that_took_minutes_are_seen_when_it_ends(server: Server) -> None:
    """They are dated with its beginning, and the line has moved since: of SQLite's writer nobody tells."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()
    for first in (101, 141):
        post(server, first, first + 39)
        clock.now += 100
        await engine.look()
    stamp = int(clock.now * 1_000)
    for sql in ("BEGIN", f"UPDATE posts SET deleteat = {stamp}, updateat = {stamp} WHERE id <= 'p2'"):
        server.execute(sql)
    for _ in range(12):
        clock.now += 10
        assert (await engine.look()).stored_messages == 180
    server.execute("COMMIT")
    true = server.fetch("SELECT COUNT(*) FROM posts WHERE deleteat = 0")[0][0]
    assert (await engine.look()).stored_messages == true < 180
    for first in (301, 341, 381):  # and the line goes on, past them
        post(server, first, first + 39)
        clock.now += 100
        true += 40
        assert (await engine.look()).stored_messages == true
    assert engine.base is not None
    assert engine.base.cut.moment > stamp * 1_000
    await engine.close()


@pytest.mark.needs("postgres")
async def test_rows_of_a_transaction_that_stays_open_are_counted_when_it_ends(postgres: Postgres) -> None:
    """They come minutes later, below everything that was seen meanwhile."""
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1');")
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()
    for sql in ("BEGIN", f"INSERT INTO posts (id, createat, updateat, userid) VALUES ('late', {MS}, {MS}, 'u1')"):
        server.execute(sql, 1)
    for i in range(101, 160):
        post(server, i, i)
        clock.now += 5
        assert (await engine.look()).stored_messages == i
    server.execute("COMMIT", 1)
    assert (await engine.look()).stored_messages == 160
    await engine.close()
    server.close()


@pytest.mark.needs("postgres")
async def test_a_standby_that_is_far_behind_seals_nothing_sooner(postgres: Postgres) -> None:
    """Neither at the first count nor later: what it shows is of half an hour ago."""
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1');")
    clock = Clock()
    clock.now += 2_000
    engine = engine_of(server, None, clock)
    horizon = engine.reader.horizon

    async def of_then(snapshot: Snapshot) -> Horizon | None:
        found = await horizon(snapshot)
        return found and found._replace(behind=2_000)

    engine.reader.horizon = of_then  # type: ignore[method-assign]
    post(server, 1, 100)
    await engine.count()
    insert = "INSERT INTO posts (id, createat, updateat, userid) VALUES"
    server.script(f"{insert} ('late', {MS - 45_500}, {MS}, 'u1')")
    assert (await engine.look()).stored_messages == 101
    for sql in ("BEGIN", f"{insert} ('later', {MS}, {MS}, 'u1')"):
        server.execute(sql, 1)
    for i in range(101, 160):
        post(server, i, i)
        clock.now += 5
        assert (await engine.look()).stored_messages == i + 1
    server.execute("COMMIT", 1)
    assert (await engine.look()).stored_messages == 161
    await engine.close()
    server.close()


@pytest.mark.needs("postgres")
async def test_a_transaction_that_is_open_for_longer_than_it_is_waited_for_is_counted_when_it_ends(
    postgres: Postgres,
) -> None:
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1');")
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await engine.count()
    for sql in ("BEGIN", f"INSERT INTO posts (id, createat, updateat, userid) VALUES ('late', {MS}, {MS}, 'u1')"):
        server.execute(sql, 1)
    for i in range(101, 130):
        post(server, i, i)
        clock.now += 60
        await engine.look()
    assert not engine.due
    server.execute("COMMIT", 1)
    await engine.look()
    engine.require_recheck()
    await engine.open()
    assert engine.due
    assert (await engine.count()).stored_messages == 130
    assert not engine.due
    await engine.close()
    server.close()


@pytest.mark.needs("postgres")
async def test_a_transaction_that_is_open_when_the_first_count_begins_is_counted_when_it_ends(
    postgres: Postgres,
) -> None:
    """It took its keys before those of the newest rows, and commits when they have been counted."""
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1');")
    begin_to_post(server)
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    assert (await engine.count()).stored_messages == 100
    assert not engine.due
    server.execute("COMMIT", 1)
    await engine.look()
    assert engine.due
    assert (await engine.count()).stored_messages == 101
    assert not engine.due
    await engine.close()
    server.close()


@pytest.mark.needs("postgres")
async def test_the_first_count_waits_for_what_is_open_before_it_tells_anything(postgres: Postgres) -> None:
    """What they write below the line is in the very first figures; who came later is not waited for."""
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1');")
    post(server, 1, 100)
    begin_to_post(server)
    clock = Clock()
    engine = engine_of(server, None, clock)
    await engine.open()
    assert not await engine.begin(60.0)
    assert (await engine.look()).stored_messages is None
    begin_to_post(server, "new", MS + 60_000, writer=2)
    clock.now += 59
    assert not await engine.begin(60.0)
    server.execute("COMMIT", 1)
    assert await engine.begin(60.0)
    while engine.counting:
        await engine.advance()
    assert (await engine.look()).stored_messages == 101
    server.execute("COMMIT", 2)
    assert (await engine.look()).stored_messages == 102
    assert not engine.due
    await engine.close()
    server.close()


@pytest.mark.needs("postgres")
async def test_the_first_count_waits_for_a_minute_and_no_longer(postgres: Postgres) -> None:
    """For whoever has forgotten a transaction; what it wrote is counted when it has ended."""
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1');")
    post(server, 1, 100)
    begin_to_post(server)
    clock = Clock()
    engine = engine_of(server, None, clock)
    await engine.open()
    assert not await engine.begin(60.0)
    clock.now += 60
    assert await engine.begin(60.0)
    while engine.counting:
        await engine.advance()
    assert (await engine.look()).stored_messages == 100
    assert not engine.due
    server.execute("COMMIT", 1)
    await engine.look()
    assert engine.due
    await engine.close()
    server.close()


@pytest.mark.needs("postgres")
async def test_a_transaction_that_outlives_the_process_which_waited_for_it_is_counted_when_it_ends(
    postgres: Postgres, tmp_path: Path
) -> None:
    """Whether the process ends while it is open, or when it has ended and nothing has been counted yet."""
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1');")
    begin_to_post(server)
    clock, path = Clock(), tmp_path / "state.db"
    engine = engine_of(server, path, clock)
    post(server, 1, 100)
    assert (await engine.count()).stored_messages == 100
    for committed in (False, True):
        await engine.close()
        engine = engine_of(server, path, clock)
        await engine.open()
        assert (await engine.look()).stored_messages == 100
        assert engine.due is committed
        if not committed:
            server.execute("COMMIT", 1)
            await engine.look()
        assert engine.due
    assert (await engine.count()).stored_messages == 101
    await engine.close()
    engine = engine_of(server, path, clock)
    await engine.open()
    await engine.look()
    assert not engine.due
    await engine.close()
    server.close()


@pytest.mark.needs("postgres")
async def test_a_transaction_of_a_server_before_its_restore_is_not_awaited_for_ever(
    postgres: Postgres, tmp_path: Path
) -> None:
    """Transactions are numbered anew there, from far below."""
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql"))
    post(server, 1, 100)
    state = State(tmp_path / "state.db")
    engine = Engine(Source(server.url, "mattermost"), state, load=1.0, clock=Clock(), tail=10)
    await engine.count()
    with state.step():
        state.put("awaited", 2**50)
    engine.require_recheck()
    await engine.open()
    assert not engine.due
    await engine.look()
    assert engine.due
    await engine.count()
    assert not engine.due
    await engine.close()
    server.close()


async def test_what_a_server_says_to_be_under_way_is_not_sealed(server: Server) -> None:
    """Synapse: an event that has its number, while those behind it are there already. The newest are not, either."""
    event = "INSERT INTO events (stream_ordering, event_id, type, room_id, sender, origin_server_ts) VALUES "

    def rows(*numbers: int) -> str:
        return event + ", ".join(f"({i}, '${i}', 'm.room.message', '!r', '@a:x', {MS})" for i in numbers) + ";"

    server.script(
        "DROP TABLE users;" + schemas.synapse(server.engine) + rows(*range(1, 50), *range(51, 101))
        + "INSERT INTO stream_positions VALUES ('events', 'master', 49);"
    )  # fmt: skip
    for under_way in (True, False):
        engine = Engine(Source(server.url, "synapse"), State(None), load=1.0, clock=Clock(), tail=10)
        assert (await engine.count()).stored_messages == 100 - under_way
        if under_way:
            server.script(rows(50) + "UPDATE stream_positions SET stream_id = 100")
            assert (await engine.look()).stored_messages == 100
        else:
            server.script("DELETE FROM events WHERE stream_ordering IN (92, 99)")
            assert (await engine.look()).stored_messages == 98
        await engine.close()


async def test_a_message_that_is_redacted_again_is_taken_off_once(server: Server) -> None:
    """Whether the first time was before the count or after it, and is sealed by now or not."""
    clock = Clock()

    def rows(first: int, last: int) -> str:
        values = ", ".join(f"({i}, '${i}', 'm.room.message', '!r', '@a:x', {MS})" for i in range(first, last + 1))
        return (
            f"INSERT INTO events (stream_ordering, event_id, type, room_id, sender, origin_server_ts) VALUES {values};"
        )

    def redact(number: int, *redacted: int) -> str:
        values = ", ".join(f"('${number + i}', '${message}')" for i, message in enumerate(redacted))
        return (
            rows(number, number + len(redacted) - 1)
            + f"UPDATE events SET type = 'm.room.redaction' WHERE stream_ordering >= {number};"
            f"INSERT INTO redactions (event_id, redacts) VALUES {values};"
        )

    server.script("DROP TABLE users;" + schemas.synapse(server.engine) + rows(1, 50) + redact(51, 5) + rows(52, 100))
    engine = Engine(Source(server.url, "synapse"), State(None), load=1.0, clock=clock, tail=10)
    kept = 98
    assert (await engine.count()).stored_messages == kept
    for number, fewer in ((101, 1), (131, 0)):
        server.script(redact(number, 5, 6, 6))
        kept -= fewer
        assert (await engine.look()).stored_messages == kept
        assert (await engine.count()).stored_messages == kept
        for step in range(1, 3):
            clock.now += 100
            server.script(rows(number + 10 * step, number + 10 * step + 9))
            kept += 10
            assert (await engine.look()).stored_messages == kept
    await engine.close()


async def test_what_a_server_says_to_be_under_way_for_too_long_holds_nothing_back(server: Server) -> None:
    """Synapse died, and its database has gone on with another one that does not tell."""
    clock = Clock()

    def rows(first: int, last: int) -> str:
        values = ", ".join(f"({i}, '${i}', 'm.room.message', '!r', '@a:x', {MS})" for i in range(first, last + 1))
        return (
            f"INSERT INTO events (stream_ordering, event_id, type, room_id, sender, origin_server_ts) VALUES {values};"
        )

    server.script(
        "DROP TABLE users;" + schemas.synapse(server.engine) + rows(1, 100)
        + "INSERT INTO stream_positions VALUES ('events', 'master', 49);"
    )  # fmt: skip
    engine = Engine(Source(server.url, "synapse"), State(None), load=1.0, clock=clock, tail=10)
    assert (await engine.count()).stored_messages == 100
    assert engine.base is not None
    for step, passes in ((100, False), (100, False), (1_200, True)):
        clock.now += step
        server.script(rows(101 + int(clock.now - NOON), 130 + int(clock.now - NOON)))
        await engine.look()
        assert (engine.base.cut.lows["stream_ordering"] > 49) is passes
    await engine.close()


@pytest.mark.needs("postgres")
async def test_an_event_persister_that_has_nothing_to_do_holds_nothing_back(postgres: Postgres) -> None:
    """Synapse with workers: its row in stream_positions stays as it was."""
    server = PostgresqlServer(postgres)
    server.script(
        schemas.synapse("postgresql")
        + "INSERT INTO users (name) VALUES ('@a:x');"
        + "INSERT INTO events (stream_ordering, event_id, type, room_id, sender, origin_server_ts) "
        + f"SELECT i, '$' || i, 'm.room.message', '!r', '@a:x', {MS} FROM generate_series(1, 20000) i;"
        + "INSERT INTO stream_positions VALUES ('events', 'persister1', 20000), ('events', 'persister2', 7);"
    )
    clock = Clock()
    engine = Engine(Source(server.url, "synapse"), State(None), load=1.0, clock=clock, tail=10)
    assert (await sealed(engine, clock)).stored_messages == 20_000
    assert engine.base is not None
    assert engine.base.cut.lows["stream_ordering"] >= 19_980
    await engine.close()
    server.close()


async def test_a_state_that_cannot_be_written_is_told_and_counting_goes_on_from_what_was_kept(
    server: Server, tmp_path: Path
) -> None:
    clock = Clock()
    post(server, 1, 100)
    state = State(tmp_path / "state.db")
    engine = Engine(Source(server.url, "mattermost"), state, load=1.0, clock=clock, tail=10)
    await engine.open()
    state._connection.execute("PRAGMA query_only = ON")  # as on a full disk: nothing can be written
    with pytest.raises(SourceError, match="cannot write the state file"):
        await engine.count()
    state._connection.execute("PRAGMA query_only = OFF")
    engine.require_recheck()
    assert (await engine.count()).stored_messages == 100
    await engine.close()


async def test_what_is_begun_anew_still_knows_its_database(server: Server, tmp_path: Path) -> None:
    """Else the next start would go on with the counts of one database in another one."""
    post(server, 1, 100)
    state = State(tmp_path / "state.db")
    engine = Engine(Source(server.url, "mattermost"), state, load=1.0, clock=Clock(), tail=10)
    await engine.count()
    identity = state.get("identity")
    with state.step():
        state.put("samples", [("createat", (MS - 50_000) * 1_000, "another row")])
    engine.require_recheck()
    await engine.open()
    assert engine.base is None
    assert state.get("identity") == identity is not None
    await engine.close()


async def test_a_state_of_another_form_is_counted_anew(server: Server, tmp_path: Path) -> None:
    post(server, 1, 100)
    state = State(tmp_path / "state.db")
    engine = Engine(Source(server.url, "mattermost"), state, load=1.0, clock=Clock(), tail=10)
    await engine.count()
    with state.step():
        state.put("base", {"generation": "first"})
    engine.require_recheck()
    assert (await engine.count()).stored_messages == 100
    await engine.close()


async def test_a_state_of_another_version_is_counted_anew(server: Server, tmp_path: Path) -> None:
    """What it holds may have meant something else, also where it can be read."""
    post(server, 1, 100)
    path = tmp_path / "state.db"
    engine = engine_of(server, path, Clock())
    await engine.count()
    await engine.close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        (version,) = file.execute("PRAGMA user_version").fetchone()
        file.execute(f"PRAGMA user_version = {version - 1}")
        file.execute("ALTER TABLE writers RENAME COLUMN day TO hour")
    again = engine_of(server, path, Clock())
    await again.open()
    assert (await again.look()).stored_messages is None
    totals = await again.count()
    assert (totals.stored_messages, totals.active_users[1]) == (100, 1)
    await again.close()


def test_two_processes_do_not_share_a_state(tmp_path: Path) -> None:
    first = State(tmp_path / "state.db")
    with pytest.raises(Misconfigured, match="another process observes"):
        State(tmp_path / "state.db")
    first.close()


def test_a_state_file_that_is_none_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database at all" * 100)
    state = State(tmp_path / "state.db")
    assert state.get("base") is None
    state.close()


async def test_a_state_file_that_is_damaged_inside_is_begun_anew(tmp_path: Path) -> None:
    """Its first page is sound, so it opens."""
    with contextlib.closing(SqliteServer(tmp_path / "mattermost.db")) as server:
        server.script(schemas.mattermost("sqlite") + "INSERT INTO users (id) VALUES ('u1');")
        post(server, 1, 100)
        path = tmp_path / "state.db"
        engine = engine_of(server, path, Clock())
        await engine.count()
        await engine.close()
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        again = engine_of(server, path, Clock())
        with pytest.raises(SourceError, match=r"state\.db was damaged: everything is counted anew"):
            await again.count()
        again.require_recheck()
        assert (await again.count()).stored_messages == 100
        await again.close()


def test_killed_at_any_moment_nothing_is_doubled(tmp_path: Path) -> None:
    """A real process, SIGKILLed again and again while it counts and passes; then every figure is exact."""
    server = SqliteServer(tmp_path / "mattermost.db")
    server.script(schemas.mattermost("sqlite") + "INSERT INTO users (id) VALUES ('u1'), ('u2');")
    post(server, 1, 20_000)
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from exporter.observe.engine import Engine\n"
        "from exporter.observe.sources import Source\n"
        "from exporter.observe.state import State\n"
        "async def main():\n"
        f"    engine = Engine(Source({server.url!r}, 'mattermost'), State(Path({str(tmp_path / 'state.db')!r})),\n"
        f"        load=1.0, clock=lambda: {NOON + 20_000!r}, tail=10)\n"
        "    await engine.open()\n"
        "    print('open', flush=True)\n"
        "    while True:\n"
        "        if engine.counting is None: await engine.begin()\n"
        "        for walk in engine.counting.all(): walk.span = 100_000_000\n"
        "        await engine.advance()\n"
        "        await engine.look()\n"
        "asyncio.run(main())\n"
    )
    for number in range(8):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        time.sleep(0.015 * number)  # another moment each time
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    async def figures() -> SourceTotals:
        clock = Clock()
        clock.now += 20_000
        engine = engine_of(server, tmp_path / "state.db", clock)
        await engine.open()
        while engine.counting is not None:
            await engine.advance()
        with contextlib.suppress(SourceError):
            return await engine.look()
        raise AssertionError

    totals = asyncio.run(figures())
    server.close()
    assert (totals.stored_messages, totals.active_users[30]) == (20_000, 1)


def slow_above(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot read so many new rows within the time of a pass."""
    tail = counting.tail

    async def slow_tail(snapshot: Snapshot, mapping: Mapping, cut: Cut, midnight: int) -> Facts:
        found = await tail(snapshot, mapping, cut, midnight)
        if found.tally.rows > rows:
            raise SourceError("the database did not answer in time", slow=True)
        return found

    monkeypatch.setattr(counting, "tail", slow_tail)
    monkeypatch.setattr(statements, "MANY", rows)


async def fails(engine: Engine, times: int) -> None:
    for _ in range(times):
        with pytest.raises(SourceError, match="in time"):
            await engine.look()
        engine.require_recheck()
        await engine.open()


@pytest.mark.parametrize("changed", [True, False])
async def test_what_came_during_a_long_absence_is_counted_anew_where_one_reading_cannot_take_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """Also where an import says that all of it was changed long ago."""
    clock = Clock()
    slow_above(200, monkeypatch)
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    await engine.close()
    post(server, 101, 900)
    if not changed:
        server.script("UPDATE posts SET updateat = 1")
    clock.now += 1_000
    engine = engine_of(server, tmp_path / "state.db", clock)
    await engine.open()
    await fails(engine, 2)
    assert engine.base is not None, "a server may be slow for a moment"
    await fails(engine, 1)
    assert engine.base is None
    assert (await engine.count()).stored_messages == 900
    assert engine.differences == {}, "nothing had vanished"
    await engine.close()


async def test_a_slow_server_without_much_that_is_new_keeps_its_counts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    with monkeypatch.context() as slow:
        slow_above(1, slow)
        slow.setattr(statements, "MANY", 100)
        await fails(engine, 5)
    assert (await engine.look()).stored_messages == 100
    await engine.close()


async def test_slow_passes_with_others_between_them_leave_the_counts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answered, and one that failed for another reason."""
    clock = Clock()
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    post(server, 101, 900)

    async def locked(*_: object) -> Facts:
        raise SourceError("somebody holds a lock")

    with monkeypatch.context() as slow:
        slow_above(200, slow)
        await fails(engine, 2)
    assert (await engine.look()).stored_messages == 900
    with monkeypatch.context() as slow:
        slow_above(200, slow)
        await fails(engine, 2)
        slow.setattr(counting, "tail", locked)
        with pytest.raises(SourceError, match="lock"):
            await engine.look()
    assert (await engine.look()).stored_messages == 900
    await engine.close()


async def test_a_recount_that_was_overtaken_by_too_much_is_left_and_the_figures_stay(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    slow_above(200, monkeypatch)
    engine = engine_of(server, None, clock)
    post(server, 1, 100)
    await sealed(engine, clock)
    await engine.begin()
    for i in range(1, 8):
        post(server, i * 100 + 1, i * 100 + 100)
        for _ in range(3):
            clock.now += 70
            assert (await engine.look()).stored_messages == i * 100 + 100
    while not (engine.counting and engine.counting.done):
        await engine.advance()
        await engine._pages.kept()
    await fails(engine, 3)
    assert engine.counting is None
    assert (await engine.look()).stored_messages == 800
    assert (await engine.count()).stored_messages == 800
    await engine.close()
