"""A source for those who show it: outages, rights, harmlessness on PostgreSQL, and what is served of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import structlog

from exporter.auth import keys
from exporter.auth.tokens import Authenticator
from exporter.core.errors import Misconfigured
from exporter.observe.check import ALL_WELL, UNCHECKED, check, check_all
from exporter.observe.collector import SourceCollector
from exporter.observe.connections import reader_of
from exporter.observe.records import SourceTotals
from exporter.observe.sources import Source
from exporter.settings.model import Address, Settings, SourceSettings
from exporter.web import source_server
from exporter.web.source_server import SourceServer
from tests.databases import eventually
from tests.logged import logged
from tests.observe import schemas
from tests.observe.databases import PostgresqlServer, SqliteServer
from tests.servers.pgbouncer import Pgbouncer
from tests.servers.ports import free_port
from tests.servers.postgres import Postgres


def mattermost(tmp_path: Path, posts: int = 3, name: str = "chat") -> SqliteServer:
    server = SqliteServer(tmp_path / f"{name}.db", "delete")
    rows = ", ".join(f"('p{i}', {i + 1}, {i + 1}, 'u1')" for i in range(posts))
    server.script(
        schemas.mattermost("sqlite")
        + f"INSERT INTO users (id) VALUES ('u1'); INSERT INTO posts (id, createat, updateat, userid) VALUES {rows};"
    )
    return server


async def known(collector: SourceCollector) -> SourceTotals:
    """The first figures: as soon as they have been counted."""
    async with asyncio.timeout(60):
        while True:
            totals = await collector.collect(5)
            if totals is not None and totals.stored_messages is not None:
                return totals
            await asyncio.sleep(0.01)  # counting goes on in another task


async def test_figures_are_read_when_somebody_asks(tmp_path: Path) -> None:
    server = mattermost(tmp_path)
    collector = SourceCollector(Source(server.url, "mattermost"), tmp_path, load=1.0)
    await collector.start()
    totals = await known(collector)
    assert (totals.stored_messages, totals.registered_users) == (3, 1)
    view = await collector.view(5)
    assert (view.up, view.error, view.kind, view.progress) == (True, None, "mattermost", 1.0)
    await collector.close()
    server.close()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_what_is_closed_while_it_looks_for_the_first_time_leaves_nobody_behind(cancelled: bool) -> None:
    connected = asyncio.Event()

    class Silent(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connected.set()

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    before = asyncio.all_tasks()
    collector = SourceCollector(Source(f"postgresql://somebody@127.0.0.1:{port}/chat", "mattermost"))
    starting = asyncio.create_task(collector.start())
    await connected.wait()
    if cancelled:  # as by a host that ends, or by Ctrl-C
        starting.cancel()
        await asyncio.wait({starting})
    await collector.close()  # else: as where another of several sources cannot be observed
    assert asyncio.all_tasks() - before - {starting} == set()
    await asyncio.wait({starting})
    assert starting.cancelled()
    assert asyncio.all_tasks() - before == set()
    server.close()


async def test_before_the_first_count_nothing_is_done_and_nothing_was_ever_known(tmp_path: Path) -> None:
    server = mattermost(tmp_path)
    collector = SourceCollector(Source(server.url, "mattermost"), tmp_path)
    view = await collector.view(5)  # nobody counts: it was not started
    assert (view.up, view.progress, view.last_success, view.recounted_at) == (True, 0.0, None, None)
    await collector.close()
    server.close()


async def test_a_look_that_took_long_is_shown_for_as_long_as_its_load_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds of the database's time at a load of 5 %: 40 s."""
    server = mattermost(tmp_path)
    collector = SourceCollector(Source(server.url, "mattermost"), load=0.05)
    await collector.engine.count()
    now, look = 0.0, collector.engine.look

    async def slow() -> SourceTotals:
        nonlocal now
        now += 2.0
        return await look()

    monkeypatch.setattr(collector.engine, "look", slow)
    monkeypatch.setattr("exporter.observe.collector.time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    stored = []
    for number, moment in ((4, 0.0), (5, 41.9), (6, 42.0)):
        now = max(now, moment)
        stored.append((await collector.collect(5)).stored_messages)  # type: ignore[union-attr]
        server.script(
            f"INSERT INTO posts (id, createat, updateat, userid) VALUES ('p{number}', {number}, {number}, 'u1')"
        )
    assert stored == [3, 3, 5]
    await collector.close()
    server.close()


async def test_the_log_names_a_single_source_by_its_kind_and_the_file_that_is_gone(tmp_path: Path) -> None:
    server = mattermost(tmp_path)
    collector = SourceCollector(Source(server.url, "mattermost"), tmp_path, load=1.0)
    with structlog.testing.capture_logs() as logs:
        await collector.start()
        await known(collector)
        server.path.rename(tmp_path / "away.db")
        collector.engine.require_recheck()  # as after any failure
        await eventually(lambda: logs[-1]["event"] == "the source cannot be read")
    assert {entry["event"]: entry["source"] for entry in logs} == {
        "counted": "mattermost",
        "the source cannot be read": "mattermost",
    }
    gone = f"there is no database file at that path ({server.path})"
    assert logs[-1]["reason"] == gone
    await collector.close()
    with pytest.raises(Misconfigured, match=f"^{re.escape(gone)}$"):
        await SourceCollector(Source(server.url, "mattermost"), tmp_path).start()
    server.close()


async def test_what_cannot_be_checked_is_told_with_its_place_and_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "garbage.db").write_bytes(b"garbage" * 2000)
    port = free_port()
    for url, told in (
        (f"sqlite:///{tmp_path}/none.db", f"there is no database file at that path ({tmp_path}/none.db)"),
        (f"sqlite:///{tmp_path}/garbage.db", f"the file is not a database or is damaged ({tmp_path}/garbage.db)"),
        (
            f"postgresql://ann:hunter2@127.0.0.1:{port}/chat",
            f"the database cannot be reached (127.0.0.1:{port}: connection refused)",
        ),
    ):
        lines: list[str] = []
        assert await check(Source(url, "mattermost"), out=lines.append) == UNCHECKED
        assert lines[-1] == f"  could not check: {told}"


async def test_one_source_that_cannot_be_read_is_the_status_of_all(tmp_path: Path) -> None:
    server, lines = mattermost(tmp_path), list[str]()
    well, gone = (Source(url, "mattermost") for url in (server.url, f"sqlite:///{tmp_path}/gone.db"))
    assert await check_all([well], out=lines.append) == ALL_WELL, lines
    assert await check_all([gone, well], out=lines.append) == UNCHECKED
    assert "  stored_messages: 3" in lines
    server.close()


async def test_a_file_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    server = mattermost(tmp_path)
    collector = SourceCollector(Source(server.url, "mattermost"), tmp_path, load=1.0)
    await collector.start()
    await known(collector)
    moved = server.path.rename(tmp_path / "away.db")
    collector._read_at = float("-inf")  # a second has passed
    assert await collector.collect(5) is None
    view = await collector.view(5)
    assert (view.up, view.totals, view.error) == (False, None, "there is no database file at that path")
    assert view.down_since == view.last_success is not None
    moved.rename(server.path)
    assert (await known(collector)).stored_messages == 3
    assert (await collector.view(5)).down_since is None
    await collector.close()
    server.close()


async def test_another_file_in_the_place_is_counted_anew_while_it_runs(tmp_path: Path) -> None:
    """It has the same keys and more of them: nothing in it gives it away."""
    server, other = mattermost(tmp_path, 300), mattermost(tmp_path, 500, "other")
    other.script("UPDATE posts SET deleteat = 1 WHERE createat < 40")
    collector = SourceCollector(Source(server.url, "mattermost"), tmp_path, load=1.0)
    await collector.start()
    assert (await known(collector)).stored_messages == 300
    other.close()
    other.path.rename(server.path)
    collector._read_at = float("-inf")  # a second has passed
    assert (await known(collector)).stored_messages == 461
    await collector.close()
    server.close()


async def test_a_defect_is_told_by_its_place_shows_no_old_figures_and_ends_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mattermost(tmp_path)
    collector = SourceCollector(Source(server.url, "mattermost"), tmp_path, load=1.0)

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("somebody's message")

    with monkeypatch.context() as defect:
        defect.setattr(collector.engine, "open", broken)
        await collector.start()  # it begins all the same
        assert await collector.collect(5) is None
    assert (await known(collector)).stored_messages == 3
    with monkeypatch.context() as defect:
        for step in ("look", "refresh"):  # of a scrape, and of the counting in the background
            defect.setattr(collector.engine, step, broken)
        collector._read_at = float("-inf")
        view = await collector.view(5)
        assert (view.up, view.totals) == (False, None)
        assert view.error is not None
        assert view.error.startswith("an error of messaging-exporter: RuntimeError in test_collector.py, line ")
        await eventually(lambda: collector._told == view.error)
        assert collector._background is not None
        assert not collector._background.done(), "it goes on in spite of it"
    assert (await known(collector)).stored_messages == 3
    await collector.close()
    server.close()


@pytest.mark.needs("postgres")
async def test_a_server_that_stops_freezes_and_comes_back(tmp_path: Path) -> None:
    postgres = Postgres(fsync="off")
    await asyncio.to_thread(postgres.start)
    try:
        server = PostgresqlServer(postgres)
        server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1');")
        server.close()
        collector = SourceCollector(Source(server.url, "mattermost"), tmp_path, load=1.0)
        await collector.start()
        assert (await known(collector)).stored_messages == 0
        with postgres.frozen():
            collector._read_at = float("-inf")
            began = asyncio.get_running_loop().time()
            assert await collector.collect(0.5) is None
            assert asyncio.get_running_loop().time() - began < 1.5
            assert collector.error == "the source did not answer in time"
        assert (await known(collector)).registered_users == 1
        await asyncio.to_thread(postgres.stop)
        collector._read_at = float("-inf")
        assert await collector.collect(5) is None
        assert collector.up is False
        await asyncio.to_thread(postgres.start)
        assert (await known(collector)).registered_users == 1
        await collector.close()
    finally:
        await asyncio.to_thread(postgres.close)


@pytest.mark.needs("postgres")
async def test_who_is_not_let_in_is_told_what_of_the_url_is_in_the_way(postgres: Postgres) -> None:
    url = postgres.url()
    more = "&" if "?" in url else "?"
    for wrong, told in (
        (f"{url}{more}sslmode=require", "the database offers no TLS, which sslmode in its URL demands"),
        (f"{url}{more}bogus=1", "the database does not know a setting, schema or type that the URL or this program"),
        (postgres.url(user="nobody_of_that_name"), "the database does not admit the user: it does not know them"),
    ):
        lines: list[str] = []
        assert await check(Source(wrong, "mattermost"), out=lines.append) == UNCHECKED
        assert lines[-1].startswith(f"  could not check: {told}")


@pytest.mark.needs("postgres", "pgbouncer")
async def test_a_pooler_that_lets_no_transaction_live_is_told_as_such(postgres: Postgres) -> None:
    with contextlib.closing(Pgbouncer(postgres, "statement")) as pooler:
        lines: list[str] = []
        assert await check(Source(pooler.url(postgres.url()), "mattermost"), out=lines.append) == UNCHECKED
        assert lines[-1].endswith("set its pool_mode to transaction or session")


@pytest.mark.needs("postgres")
async def test_column_grants_are_enough_and_are_printed_where_they_are_missing(postgres: Postgres) -> None:
    server = PostgresqlServer(postgres)
    server.script(schemas.synapse("postgresql") + "INSERT INTO stream_positions VALUES ('events', 'master', 0);")
    role = f"observer_{server.name}"
    postgres.psql(f"CREATE ROLE {role} LOGIN")
    source = Source(postgres.url(server.name, role), "synapse")
    said: list[str] = []
    assert await check(source, out=said.append) == UNCHECKED
    grants = [line.strip() for line in said if line.strip().startswith("GRANT")]
    assert grants
    assert not any("password_hash" in grant for grant in grants)
    for grant in grants:
        server.script(grant)
    said.clear()
    assert await check(source, out=said.append) == ALL_WELL, said
    assert "  stored_messages: 0" in said
    server.close()


@pytest.mark.needs("postgres")
async def test_no_transaction_is_old_and_no_lock_is_waited_for(postgres: Postgres, tmp_path: Path) -> None:
    server = PostgresqlServer(postgres)
    server.script(
        schemas.mattermost("postgresql")
        + "INSERT INTO posts (id, createat, updateat, userid) "
        + "SELECT 'p' || i, i, i, 'u1' FROM generate_series(1, 300000) i"
    )
    collector = SourceCollector(Source(server.url, "mattermost"), tmp_path, load=1.0)
    await collector.start()
    worst: list[tuple[Any, ...]] = []
    sql = (
        "SELECT count(*), coalesce(max(extract(epoch FROM now() - xact_start)), 0), "
        "count(*) FILTER (WHERE wait_event_type = 'Lock'), bool_and(coalesce(backend_xid IS NULL, true)) "
        f"FROM pg_stat_activity WHERE application_name LIKE 'messaging-exporter%' AND datname = '{server.name}'"
    )
    while collector.engine.base is None:
        worst += server.fetch(sql)
        await asyncio.sleep(0)
    server.script("BEGIN; LOCK TABLE posts IN ACCESS EXCLUSIVE MODE")
    collector._read_at = float("-inf")
    assert await collector.collect(5) is None
    assert collector.error == "the database is locked by another program"
    server.script("ROLLBACK")
    assert (await known(collector)).stored_messages == 300_000
    assert worst
    assert all(count <= 1 and age < 5 and waiting == 0 and reads for count, age, waiting, reads in worst), worst
    await collector.close()
    server.close()


@pytest.mark.parametrize("url", ["mysql://u@h/d", "mariadb+pymysql://u@h/d"])
def test_mysql_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(Misconfigured, match="MySQL or MariaDB, which is not supported"):
        reader_of(url)


async def test_several_sources_are_told_apart(tmp_path: Path) -> None:
    one, other = mattermost(tmp_path, 3, "one"), mattermost(tmp_path, 5, "other")
    settings = Settings(
        listen=(Address("127.0.0.1", 0),),
        data_dir=tmp_path,
        source_load=1.0,
        sources=(
            SourceSettings(one.url, "mattermost", "one"),
            SourceSettings(other.url, "mattermost", "other"),
            SourceSettings(f"sqlite:///{one.path}", "mattermost", "third"),
        ),
    )
    server = SourceServer(settings)
    await server.start()
    try:
        for collector in server.collectors:
            await known(collector)
        headers = {"Authorization": f"Bearer {Authenticator.from_settings(settings).sign('ann', role='admin')}"}
        async with aiohttp.ClientSession(server.urls[0]) as client:
            async with client.get("/metrics") as answer:
                text = await answer.text()
            async with client.get("/v1/messaging/stats") as refused:
                assert refused.status == 401
            async with client.get("/v1/messaging/stats", headers=headers) as answer:
                document = json.loads(await answer.text())
            async with client.get("/admin") as page:
                assert page.status == 200
            async with client.get("/-/ready") as ready:
                assert ready.status == 200
    finally:
        await server.close()
        one.close()
        other.close()
    assert 'messaging_stored_messages{source="one"} 3.0' in text
    assert 'messaging_stored_messages{source="other"} 5.0' in text
    assert 'messaging_source_info{kind="mattermost",schema="posts.originalid",source="one"} 1.0' in text
    assert document["scope"] == "source"
    assert document["total_messages"] is None
    assert [(s["name"], s["total_messages"], s["up"], s["error"]) for s in document["sources"]] == [
        ("one", 3, True, None),
        ("other", 5, True, None),
        ("third", 3, True, None),
    ]


async def test_keys_are_read_again_with_the_web_configuration(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, source_url=f"sqlite:///{tmp_path}/chat.db", source_kind="mattermost")
    server = SourceServer(settings)
    try:
        secret = settings.effective_secret_file
        good = secret.read_text()
        with logged(source_server), logged(keys) as lines:
            secret.write_text("short")
            server.reload()
            secret.write_text(good)
            server.reload()
        assert [line["event"] for line in lines] == [
            "the keys of tokens cannot be read again; the old ones go on",
            "reloaded",
        ]
    finally:
        await server.close()
