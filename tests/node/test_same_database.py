"""Two clusters of one name by mistake: their nodes use two databases over one broker, and the logs of both say so."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest
from structlog.testing import capture_logs

from exporter.core.errors import Unavailable
from exporter.node import same_database
from tests.servers.cut import CutProxy
from tests.servers.exporter import CONVERSATIONS, in_process, until
from tests.servers.postgres import Postgres
from tests.servers.valkey import Server, running

SAID = "another node of this cluster uses another database"


@pytest.fixture(scope="module")
def broker() -> Iterator[Server]:
    with running("valkey") as started:
        yield started


@asynccontextmanager
async def nodes(folder: Path, ways: list[int], databases: list[str]) -> AsyncIterator[list[Any]]:
    """One for each of the databases, in one cluster."""
    name = uuid.uuid4().hex[:8]
    async with AsyncExitStack() as stack:
        made = []
        for number, (port, database) in enumerate(zip(ways, databases, strict=True)):
            own = folder / str(number)
            own.mkdir()
            more: dict[str, Any] = {"database_url": database, "cluster_name": name, "cluster_lease": 3.0}
            made.append(await stack.enter_async_context(in_process(own, redis_url=f"redis://127.0.0.1:{port}", **more)))
        for node in made:
            await node.scraped(lambda found: found.get("messaging_cluster_nodes") == len(databases), "all are there")
        yield made


def said(logs: Any) -> int:
    return sum(entry["event"].startswith(SAID) for entry in logs)


@pytest.mark.needs("valkey")
async def test_each_is_warned_once_that_the_other_has_another_database(broker: Server, tmp_path: Path) -> None:
    async with CutProxy(broker.port) as way:
        databases = [f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/other.db"]
        with capture_logs() as logs:
            async with nodes(tmp_path, [way.port, way.port], databases) as both:

                async def warned() -> bool:
                    return said(logs) == 2

                await until(warned, "both are warned")
                way.drop()  # they tell each other again
                received = [(await node.scrape())["messaging_broker_frames_received_total"] for node in both]
                for node, before in zip(both, received, strict=True):
                    await node.scraped(lambda f, b=before: f["messaging_broker_frames_received_total"] > b, "again")
        assert said(logs) == 2


def foreign_nodes(node: Any) -> int:
    return len(node.server.node.redis.nodes_channel.foreign_nodes)


@pytest.mark.needs("valkey")
async def test_what_is_said_in_another_database_is_not_heard_here(broker: Server, tmp_path: Path) -> None:
    """It would take the place of what has the same number here, whose sender has its acknowledgement."""
    databases = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "other", "other")]
    async with nodes(tmp_path, [broker.port] * 3, databases) as (here, there, later):

        async def known() -> bool:
            return [foreign_nodes(node) for node in (here, there, later)] == [2, 1, 1]

        await until(known, "each knows who is foreign")
        for node in (here, there):
            await node.conversation("lobby", "ann", "bob")
        ann, bob, eve = [await node.connect(user) for node, user in ((here, "ann"), (here, "bob"), (there, "ann"))]
        for person in (ann, bob, eve):
            await person.join("lobby")
        await eve.say("lobby", "not for bob", "e1")
        assert (await there.request("DELETE", f"{CONVERSATIONS}/lobby/participants/bob", user="ann"))[0] == 204
        await here.scraped(lambda found: found["messaging_broker_frames_dropped_total"] == 2, "both have come")
        await ann.say("lobby", "hello", "a1")
        assert (await bob.frame("message"))["id"] == "a1"
        assert not [frame for frame in bob.passed_over if frame["type"] == "left"]


class Alone:
    """What a node does that hears others say which database they use; ``said`` is what it says itself."""

    def __init__(self, identity: Callable[[], Coroutine[Any, Any, str]]) -> None:
        self.said: list[str] = []
        self.asked, self._identity = 0, identity
        self.channel, self.missed = Mock(handlers={}, foreign_nodes=frozenset(), publish=self.published), Mock()
        self.same = same_database.SameDatabase(self.channel, self.identity, "here", self.missed)
        self.same._mine = self.same._said = "mine"
        self.same._connection = Mock(open=True)

    def published(self, *_: Any, data: bytes) -> None:
        self.said.append(msgspec.json.decode(data)[0])

    async def identity(self) -> str:
        self.asked += 1
        return await self._identity()

    def hears(self, theirs: str, node: bytes = b"another1") -> None:
        frame: Any = (0, msgspec.json.encode((theirs, "there")), 0, "", 0)
        self.same._heard(node, frame, 0.0)

    async def compared(self) -> None:
        await asyncio.gather(*self.same._tasks - {self.same._asking})


@pytest.mark.parametrize("says_so", ["they", "this node's own database"])
async def test_who_is_no_stranger_any_more_is_heard_and_what_was_missed_is_looked_for(
    says_so: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_database, "AGAIN", 0.01)
    one = Alone(_answers("mine"))

    async def none() -> bool:
        return not one.channel.foreign_nodes

    one.hears("theirs")
    await one.compared()
    assert one.channel.foreign_nodes == {b"another1"}
    one.missed.assert_not_called()
    if says_so == "they":
        one.hears("mine")
    else:
        one.same._identity = _answers("theirs")
    await until(none, "nobody is foreign")
    one.missed.assert_called_once_with()
    one.same.close()


@pytest.mark.parametrize("says_so_again", [True, False])
async def test_a_stranger_that_says_nothing_any_more_is_forgotten_and_nobody_asks_for_its_sake(
    says_so_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_database, "AGAIN", 0.01)
    one = Alone(_answers("mine"))
    one.hears("theirs")
    await one.compared()
    assert one.channel.foreign_nodes == {b"another1"}
    one.same._others[b"another1"] = "theirs", float("-inf")
    if says_so_again:
        one.hears("theirs")
    before = one.asked

    async def asked_or_done() -> bool:
        return one.asked > before + 1 or not one.same._tasks

    await until(asked_or_done, "asked again")
    assert one.channel.foreign_nodes == ({b"another1"} if says_so_again else set())
    assert bool(one.same._tasks) == says_so_again
    assert one.missed.called != says_so_again, "it may have moved here, and its word was lost"
    one.same.close()


async def test_whose_database_has_become_that_of_the_others_says_so_once() -> None:
    """They took it for a foreign one by what it had said before, and would do so for ever."""
    one = Alone(_answers("theirs"))
    for node in (b"another1", b"another2"):
        one.hears("theirs", node)
    await one.compared()
    one.hears("theirs", b"another3")
    assert (one.said, one.channel.foreign_nodes) == (["theirs"], set())


async def test_a_stranger_that_repeats_itself_while_the_database_is_down_is_compared_once() -> None:
    one = Alone(AsyncMock(side_effect=Unavailable("down")))
    for _ in range(10):
        one.hears("theirs")
    assert len(one.same._tasks) == 1
    one.same.close()


@pytest.mark.needs("valkey")
async def test_whoever_shares_a_database_is_warned_of_nothing(broker: Server, tmp_path: Path) -> None:
    with capture_logs() as logs:
        (tmp_path / "link.db").symlink_to(tmp_path / "one.db")
        databases = [f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/link.db"]
        async with nodes(tmp_path, [broker.port] * 2, databases) as both:
            await both[0].scraped(lambda found: found["messaging_broker_frames_received_total"] > 0, "the other's word")
            assert not [task for node in both for task in node.server.node._same_database._tasks]
    assert not said(logs)


@pytest.mark.needs("valkey")
async def test_a_database_that_cannot_be_asked_just_then_is_compared_later(
    broker: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_database, "AGAIN", 0.01)
    refused: list[str] = []

    async def down() -> str:
        refused.append("")
        raise Unavailable("down")

    async with CutProxy(broker.port) as way:
        databases = [f"sqlite:///{tmp_path}/one.db"] * 2
        with capture_logs() as logs:
            async with nodes(tmp_path, [broker.port, way.port], databases) as (asked, other):
                mine, others = (node.server.node._same_database for node in (asked, other))

                async def settled() -> bool:
                    return bool(mine._mine and others._mine and not mine._tasks and not others._tasks)

                await until(settled, "both have told")
                is_up, mine._identity = mine._identity, down
                others._identity = _answers("another")
                way.drop()  # it tells the first one again, once

                async def tried() -> bool:
                    return len(refused) > 1

                await until(tried, "the first one's database is asked again")
                assert not said(logs)
                mine._identity = is_up

                async def warned() -> bool:
                    return said(logs) == 2

                await until(warned, "both are warned")


@pytest.mark.needs("valkey")
async def test_who_has_moved_to_another_database_with_the_others_is_nobody_to_be_warned_of(
    broker: Server, tmp_path: Path
) -> None:
    async with CutProxy(broker.port) as way:
        databases = [f"sqlite:///{tmp_path}/one.db"] * 2
        with capture_logs() as logs:
            async with nodes(tmp_path, [broker.port, way.port], databases) as (moved, other):
                both = [node.server.node._same_database for node in (moved, other)]

                async def settled() -> bool:
                    return all(one._mine and not one._tasks for one in both)

                await until(settled, "both have told")
                for one in both:
                    one._identity = _answers("another")
                both[0]._mine = "another"  # it was started again
                received = (await moved.scrape())["messaging_broker_frames_received_total"]
                way.drop()  # the other one says which it uses
                await moved.scraped(lambda f: f["messaging_broker_frames_received_total"] > received, "its word")
                await until(settled, "they have compared")
        assert not said(logs)


@pytest.mark.needs("valkey")
async def test_a_connection_that_is_opened_while_the_node_ends_leaves_nobody_asking(
    broker: Server, tmp_path: Path
) -> None:
    async with nodes(tmp_path, [broker.port], [f"sqlite:///{tmp_path}/one.db"]) as (one,):
        node = one.server.node
        same, close = node._same_database, node.redis.close
        same._identity = asyncio.Event().wait

        async def closes() -> None:
            node.redis.nodes_channel.on_open(node.redis._reconnecting.connection)
            await close()

        node.redis.close = closes
    await asyncio.sleep(0)
    assert not same._tasks


def _answers(word: str) -> Callable[[], Coroutine[Any, Any, str]]:
    async def identity() -> str:
        return word

    return identity


@pytest.mark.needs("postgres")
async def test_a_database_is_the_same_by_any_user_and_is_not_its_copy() -> None:
    from exporter.store import Store

    server = Postgres().start()
    try:
        name = server.create_database()
        server.psql("CREATE ROLE guest LOGIN")
        copy = server.create_database()
        urls = [server.url(name), server.url(name, user="guest"), server.url(copy)]
        words = []
        for url in urls:
            store = Store(url)
            words.append(await store.identity())
            await store.close()
        assert words[0] == words[1] != words[2]
        server.psql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", name)
        store = Store(urls[1])
        assert (await store.identity(), store.up) == ("", True), "whoever may not ask does not know, and goes on"
        await store.close()
    finally:
        await asyncio.to_thread(server.close)


async def test_who_shares_a_database_again_is_warned_of_again_when_they_no_longer_do() -> None:
    one = Alone(AsyncMock(side_effect=("theirs", "mine", "mine")))
    with capture_logs() as logs:
        for node, warned in ((b"another1", 0), (b"another1", 1), (b"another2", 1)):
            one.hears("theirs", node)
            await one.compared()
            assert said(logs) == warned
            one.same._mine = "mine"
    one.same.close()
