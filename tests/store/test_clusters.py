"""Servers on one database that do not hear each other: seen where sessions are their own, never where they are not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest
import structlog

from exporter.core.errors import Unavailable
from exporter.core.records import Message
from exporter.doctor import Outcome, database
from exporter.settings.model import Settings
from exporter.store import Store, clusters
from exporter.store.clusters import BY_A_BROKER, cluster_of, warn_of_others
from exporter.store.dialects import postgresql
from exporter.store.dialects.base import LIVELY
from exporter.store.verify import verify
from tests.databases import Postgresql, Sqlite, eventually, opened, send
from tests.servers.exporter import in_process, running
from tests.servers.pgbouncer import Pgbouncer
from tests.servers.postgres import Postgres
from tests.servers.workers import running as workers

AT_ONCE = -LIVELY
EVENT = "another server uses the same data"
MARKS = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture
def direct(postgres: Postgres) -> Postgresql:
    """A database of its own, without a pooler."""
    return Postgresql(postgres.url(postgres.create_database()))


async def warned(store: Store, cluster: int) -> list[list[str]]:
    """Where the others are, a list for each warning."""
    with structlog.testing.capture_logs() as logs:
        await warn_of_others(store, cluster, AT_ONCE)
    return [entry["others"] for entry in logs if EVENT in entry["event"]]


async def test_whoever_starts_hears_of_a_server_that_it_does_not_hear(direct: Postgresql) -> None:
    async with opened(direct, cluster=1) as first:
        assert await warned(first, 1) == []
        async with opened(direct, cluster=2) as second:
            assert await warned(second, 2) == [["127.0.0.1"]]
        await eventually(lambda: alone(first, 1))


async def alone(store: Store, cluster: int) -> bool:
    """Is nobody seen but this one?"""
    return (await store.clusters()).keys() == {cluster}


async def test_nodes_hear_each_other_and_whoever_has_no_broker_does_not(direct: Postgresql) -> None:
    with_broker, without = cluster_of("redis://one"), cluster_of(None)
    assert cluster_of("rediss://another.name") == with_broker == BY_A_BROKER
    assert len({without, cluster_of(None), BY_A_BROKER}) == 3
    async with opened(direct, cluster=with_broker) as first, opened(direct, cluster=with_broker) as second:
        assert await warned(first, with_broker) == await warned(second, with_broker) == []
        async with opened(direct, cluster=without) as third:
            assert await warned(third, without) == await warned(first, with_broker) == [["127.0.0.1"]]


async def test_commands_beside_a_server_are_none(direct: Postgresql) -> None:
    async with opened(direct, cluster=1) as server, opened(direct) as command:
        await asyncio.gather(command.totals(5), command.days(1), command.migrate(), verify(Store(direct.url)))
        assert await alone(server, 1)
        assert await warned(server, 1) == []


async def test_another_schema_is_another_installation(direct: Postgresql) -> None:
    async with opened(direct, cluster=1, schema="one") as one, opened(direct, cluster=2, schema="other") as other:
        assert await warned(one, 1) == await warned(other, 2) == []


async def test_what_is_left_of_a_machine_that_is_gone_is_no_server(
    direct: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    lately = f"{LIVELY} * interval"
    assert lately in postgresql._CLUSTERS
    monkeypatch.setattr(postgresql, "_CLUSTERS", postgresql._CLUSTERS.replace(lately, "0.25 * interval"))
    left = await asyncpg.connect(direct.url)
    try:
        async with opened(direct, cluster=1) as store:
            await left.execute(f"SELECT pg_advisory_lock_shared({postgresql._CLUSTER}, 7)")
            await eventually(lambda: alone(store, 1))
            await left.execute("SELECT 1")
            assert (await store.clusters()).keys() == {1, 7}, "it lives after all"
    finally:
        await left.close()


async def test_a_server_with_one_connection_is_seen_and_sees(postgres: Postgres) -> None:
    name = postgres.create_database()
    place = Postgresql(postgres.url(name, name), postgres.url(name))
    await place.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1; ALTER DATABASE {name} OWNER TO {name}")
    other = Postgresql(place.direct)
    async with opened(place, cluster=1) as store:
        async with opened(other, cluster=2) as second:
            assert await warned(second, 2) == [["127.0.0.1"]]
            assert await warned(store, 1) == [], "what a user who is more does is not shown"
        assert await warned(store, 1) == []
        await store.create_conversation("c", "ann", [])
        *_, stored = await asyncio.gather(store.totals(5), store.days(1), send(store, "c", "ann", "m1"))
        assert isinstance(stored, Message)


async def test_after_a_restart_of_the_database_it_is_seen_again() -> None:
    with contextlib.closing(Postgres(fsync="off").start()) as server:
        place = Postgresql(server.url(server.create_database()))
        async with opened(place, cluster=1) as store:
            await store.totals(5)
            await asyncio.to_thread(server.restart)
            assert await alone(store, 1)


async def test_who_may_take_no_lock_serves_and_is_not_seen(postgres: Postgres) -> None:
    name = postgres.create_database()
    place = Postgresql(postgres.url(name, name), postgres.url(name))
    await place.execute(
        f"CREATE ROLE {name} LOGIN; ALTER DATABASE {name} OWNER TO {name};"
        "REVOKE EXECUTE ON FUNCTION pg_try_advisory_lock_shared(integer, integer) FROM public"
    )
    async with opened(place, cluster=1) as store:
        assert await store.clusters() == {}
        await store.create_conversation("c", "ann", [])
        assert isinstance(await send(store, "c", "ann", "m1"), Message)


@pytest.mark.needs("pgbouncer")
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_nothing_is_left_in_a_poolers_session_and_nothing_wrong_is_said(
    postgres: Postgres, direct: Postgresql, mode: str
) -> None:
    with contextlib.closing(Pgbouncer(postgres, mode, size=20)) as pooler:
        place = Postgresql(pooler.url(direct.url), direct.url)
        async with opened(place, cluster=1) as store, opened(place, cluster=2) as second:
            await asyncio.gather(store.totals(5), store.days(1), second.totals(5), second.days(1))
            assert await warned(store, 1) == await warned(second, 2) == []
            assert await direct.fetch(MARKS) == [(0,)]
            async with opened(direct, cluster=3) as third:
                assert await warned(second, 2) == [["127.0.0.1"]], "what has its own sessions is seen"
                assert await warned(third, 3) == []


async def test_of_a_file_nobody_says_anything(tmp_path: Path) -> None:
    async with opened(Sqlite(tmp_path / "messaging.db"), cluster=1) as store:
        assert await warned(store, 1) == []


async def test_it_is_looked_again_where_the_database_did_not_answer(
    direct: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "AGAIN", 0.0)
    async with opened(direct, cluster=1) as store, opened(direct, cluster=2):
        look, failures = store.clusters, [Unavailable("the database did not answer in time")]

        async def looked() -> object:
            if failures:
                raise failures.pop()
            return await look()

        monkeypatch.setattr(store, "clusters", looked)
        assert await warned(store, 1) == [["127.0.0.1"]]
        assert not failures


# --- whole servers --------------------------------------------------------------------------------------------------


async def test_a_second_server_without_a_broker_warns_and_doctor_does(
    direct: Postgresql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "LIVELY", 0)
    told = partial(deaf_servers, direct.url)
    with structlog.testing.capture_logs() as logs:
        async with running(tmp_path / "first", "--database.url", direct.url) as first:
            assert await told() is None
            assert await told("redis://127.0.0.1:1") is Outcome.WARNING, "a start like this would not hear it"
            async with in_process(tmp_path, database_url=direct.url, drain_timeout=0.0):
                await eventually(lambda: [entry for entry in logs if EVENT in entry["event"]])
                assert await told() is Outcome.WARNING
                await first.kill()
                await eventually(lambda: nobody_is_told(told))
    (warning,) = [entry for entry in logs if EVENT in entry["event"]]
    assert (warning["log_level"], warning["others"]) == ("warning", ["127.0.0.1"])


async def test_it_is_looked_when_a_predecessor_has_said_goodbye_and_is_no_longer_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async with opened(Sqlite(tmp_path / "messaging.db")) as store:
        monkeypatch.setattr(clusters, "asyncio", SimpleNamespace(sleep=sleep))
        await warn_of_others(store, 1, 10.0)
    assert waited == [10.0 + LIVELY]


async def deaf_servers(url: str, broker: str | None = None) -> Outcome | None:
    """What doctor says of them."""
    found = await database.examine(Settings(database_url=url, redis_url=broker))
    return next((finding.outcome for finding in found if finding.subject == "servers"), None)


async def nobody_is_told(told: Callable[[], Awaitable[Outcome | None]]) -> bool:
    return await told() is None


@pytest.mark.needs("valkey")
async def test_workers_with_a_broker_of_their_own_hear_nobody_else(direct: Postgresql, tmp_path: Path) -> None:
    async with workers(tmp_path, direct.url), opened(direct, cluster=BY_A_BROKER) as other:
        found = await other.clusters()
        (own,) = found.keys() - {BY_A_BROKER}
        assert await warned(other, BY_A_BROKER) == [["127.0.0.1"]]
        assert await warned(other, own) == [["127.0.0.1"]]
        assert await deaf_servers(direct.url) is Outcome.WARNING
    assert own > 0


async def test_nodes_are_nothing_to_doctor(direct: Postgresql) -> None:
    broker = "redis://127.0.0.1:1"
    async with opened(direct, cluster=cluster_of(broker)) as one, opened(direct, cluster=cluster_of(broker)):
        assert await alone(one, BY_A_BROKER)
        assert await deaf_servers(direct.url, broker) is None
        assert await deaf_servers(direct.url) is Outcome.WARNING, "a start without one would not hear them"
