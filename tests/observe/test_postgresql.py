"""What PostgreSQL alone can do to a figure: show a table as empty, follow another server late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from exporter.observe.connections import postgresql, reader_of
from exporter.observe.engine import Engine
from exporter.observe.records import SourceError
from exporter.observe.sources import Source
from exporter.observe.state import State
from tests.observe import schemas
from tests.observe.databases import PostgresqlServer
from tests.observe.test_engine import MS, Clock, engine_of, post
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture
def server(postgres: Postgres) -> Iterator[PostgresqlServer]:
    server = PostgresqlServer(postgres)
    server.script(schemas.mattermost("postgresql") + "INSERT INTO users (id) VALUES ('u1'), ('u2');")
    with contextlib.closing(server):
        yield server


@pytest.fixture
async def engine(server: PostgresqlServer, tmp_path: Path) -> AsyncIterator[Engine]:
    """One that has counted 400 posts."""
    post(server, 1, 400)
    engine = engine_of(server, tmp_path / "state.db", Clock())
    await engine.count()
    yield engine
    await engine.close()


def begin_rewriting(server: PostgresqlServer, table: str, column: str) -> asyncio.Task[None]:
    """A migration has made a table anew; it commits as soon as a reading waits for it, with a snapshot of before."""
    for sql in ("BEGIN", f"ALTER TABLE {table} ALTER {column} TYPE text USING {column}"):
        server.execute(sql, 1)
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() "
        "AND application_name LIKE 'messaging-exporter%'"
    )

    def commit() -> None:
        while not server.fetch(waiting):
            pass
        server.execute("COMMIT", 1)

    return asyncio.create_task(asyncio.to_thread(commit))


@pytest.mark.parametrize(("table", "column"), [("users", "id"), ("posts", "id")])
async def test_a_table_that_is_made_anew_is_never_taken_for_an_empty_one(
    server: PostgresqlServer, engine: Engine, table: str, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier snapshot sees none of its rows."""
    monkeypatch.setattr(postgresql, "LOCK_WAIT", "4s")
    committing = begin_rewriting(server, table, column)
    with pytest.raises(SourceError, match="rewritten"):
        await engine.look()
    await committing
    totals = await engine.look()
    assert (totals.stored_messages, totals.registered_users) == (400, 2)


async def test_a_count_does_not_end_where_a_table_is_made_anew(
    server: PostgresqlServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LOCK_WAIT", "4s")
    await engine.begin()
    committing = begin_rewriting(server, "posts", "id")
    with pytest.raises(SourceError, match="rewritten"):
        await engine.advance()
    await committing
    while engine.counting:
        await engine.advance()
    assert (await engine.look()).stored_messages == 400
    assert engine.differences["stored_messages"] == 0


async def caught_up(engine: Engine, messages: int) -> None:
    """Until a standby has so many, and says that it has all. How old it is, it knows with the first commit."""
    while True:
        with contextlib.suppress(SourceError):
            totals = await engine.look()
            if (totals.stored_messages, totals.as_of) == (messages, engine.clock()):
                return
        await asyncio.sleep(0)


async def test_a_standby_s_figures_are_of_the_moment_that_it_shows(
    server: PostgresqlServer, postgres: Postgres, tmp_path: Path
) -> None:
    """While it lags, or follows nobody, its clock goes on and its rows do not."""
    post(server, 1, 100)
    standby = Postgres(standby_of=postgres).start()
    try:
        clock = Clock()
        engine = Engine(Source(standby.url(server.name), "mattermost"), State(None), load=1.0, clock=clock, tail=10)
        await engine.count()
        post(server, 101, 101)
        await caught_up(engine, 101)
        standby.psql("SELECT pg_wal_replay_pause()")
        post(server, 102, 130)
        standby_has = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
        while standby.psql(standby_has).strip() != "t":
            pass
        totals = await engine.look()
        assert totals.stored_messages == 101
        assert totals.as_of < clock.now
        earlier = clock.now - totals.as_of
        assert clock.now - (await engine.look()).as_of > earlier  # it grows older
        standby.psql("SELECT pg_wal_replay_resume()")
        await caught_up(engine, 130)
        await engine.close()
    finally:
        standby.close()


async def test_a_deletion_that_reaches_a_standby_late_is_seen(
    server: PostgresqlServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dated by the server where it was made, before what was read meanwhile."""
    age = 0.0
    horizon = engine.reader.horizon

    async def of_a_standby(snapshot: postgresql.Snapshot) -> postgresql.Horizon | None:
        found = await horizon(snapshot)
        assert found is not None
        return found._replace(behind=age)

    monkeypatch.setattr(engine.reader, "horizon", of_a_standby)
    clock = engine.clock
    assert isinstance(clock, Clock)
    clock.now += 3_600
    age = 3_600.0
    for i in range(1, 8):  # the line moves, by an hour's delay
        post(server, 400 + 20 * i, 419 + 20 * i)
        clock.now += 40
        await engine.look()
    assert engine.base is not None
    assert engine.base.cut.lows["createat"] > MS * 1_000
    posts = server.fetch("SELECT COUNT(*) FROM posts")[0][0]
    deleted = int((clock.now - age) * 1_000)
    server.script(f"UPDATE posts SET deleteat = {deleted}, updateat = {deleted} WHERE id = 'p1'")
    assert (await engine.look()).stored_messages == posts - 1


@pytest.mark.parametrize("deletes", [False, True], ids=["rows", "deletions"])
async def test_a_transaction_that_nobody_else_ends_behind_is_waited_for(
    server: PostgresqlServer, tmp_path: Path, deletes: bool
) -> None:
    """On a quiet server it is the newest, and stays open: a snapshot's bounds are those of what has ended."""
    clock = Clock()
    engine = engine_of(server, tmp_path / "state.db", clock)
    post(server, 1, 100)
    await engine.count()
    post(server, 101, 199)
    clock.now += 100
    await engine.look()
    post(server, 200, 240)
    stamp = int(clock.now * 1_000)
    change = (
        f"UPDATE posts SET deleteat = {stamp}, updateat = {stamp} WHERE id <= 'p2'"
        if deletes
        else f"INSERT INTO posts (id, createat, updateat, userid) VALUES ('late', {stamp}, {stamp}, 'u2')"
    )
    for sql in ("BEGIN", change):
        server.execute(sql, 1)
    for _ in range(12):
        clock.now += 10
        assert (await engine.look()).stored_messages == 240
    server.execute("COMMIT", 1)
    assert (await engine.look()).stored_messages == server.fetch("SELECT COUNT(*) FROM posts WHERE deleteat = 0")[0][0]
    await engine.close()


async def test_a_host_that_says_nothing_leaves_time_for_those_behind_it(postgres: Postgres) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as silent:
        hosts = f"127.0.0.1:{silent.sockets[0].getsockname()[1]},127.0.0.1:{postgres.port}"
        reader = postgresql.PostgresReader(f"postgresql://postgres@{hosts}/postgres")
        assert "database" in await reader.identity()
        await reader.close()


async def test_a_database_is_told_by_the_server_s_number_where_that_may_be_asked_for(postgres: Postgres) -> None:
    name = postgres.create_database()
    role = f"reader_{name}"
    postgres.psql(f"CREATE ROLE {role} LOGIN; REVOKE EXECUTE ON FUNCTION pg_control_checkpoint() FROM PUBLIC", name)
    reader = reader_of(postgres.url(name, role))
    number = postgres.psql("SELECT system_identifier FROM pg_control_system()", name).split()
    oid = postgres.psql(f"SELECT oid FROM pg_database WHERE datname = '{name}'", name).split()
    assert {key: [str(value)] for key, value in (await reader.identity()).items()} == {
        "database": oid,
        "system": number,
    }
    postgres.psql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", name)
    assert [str(value) for value in (await reader.identity()).values()] == oid
    await reader.close()


async def test_a_column_s_type_is_the_one_below_its_domain(postgres: Postgres) -> None:
    name = postgres.create_database()
    postgres.psql("CREATE DOMAIN name_of_post AS uuid; CREATE TABLE posts (id name_of_post, at timestamptz(3))", name)
    reader = reader_of(postgres.url(name))
    assert (await reader.columns())["posts"] == {"id": "uuid", "at": "timestamp with time zone"}
    await reader.close()
