"""Several workers on one port: they share it, and what dies, freezes, drains or is replaced costs nobody a message."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.servers.exporter import PATIENCE, Client, until
from tests.servers.postgres import Postgres
from tests.servers.workers import LEASE, Worker, Workers, alive, running

pytestmark = [pytest.mark.needs("postgres", "valkey")]

PROMPT = 2.0
"""Seconds that anybody who connects may have to wait, whatever a worker does."""
FIGURES = ("connections", "users", "conversations", "participants")


@pytest.fixture
async def server(postgres: Postgres, tmp_path: Path) -> AsyncIterator[Workers]:
    flags = ("--drain.timeout", "3s", "--limits.frames-per-second", "10000")  # the senders do not pause
    async with running(tmp_path, postgres.url(postgres.create_database()), *flags) as started:
        yield started


async def worker_of(server: Workers, before: list[float]) -> int:
    """The worker that has one more connection than before."""
    now = await connections(server)
    return next(number for number, (was, then) in enumerate(zip(before, now, strict=True)) if then > was)


async def connections(server: Workers) -> list[float]:
    return [(await worker.scrape())["messaging_active_connections"] for worker in server.workers]


async def on_each(server: Workers) -> list[tuple[Client, str]]:
    """A connection on each worker and its user, by the worker's number. Who gets whom is the workers' affair."""
    found: dict[int, tuple[Client, str]] = {}
    users = 0
    while len(found) < len(server.workers):
        before = await connections(server)
        user = f"u-{users}"
        users += 1
        client = await server.connect(user)
        number = await worker_of(server, before)
        if number in found:
            await client.close()
            await until(lambda n=before: _equal(server, n), "closed")
        else:
            found[number] = client, user
    return [found[number] for number in sorted(found)]


async def _equal(server: Workers, before: list[float]) -> bool:
    return await connections(server) == before


class Sender:
    """Sends one message after the other, and again on another connection what was never acknowledged."""

    def __init__(self, server: Workers, user: str, room: str) -> None:
        self.server, self.user, self.room = server, user, room
        self.acknowledged: dict[str, int] = {}
        self.sent = self.reconnects = 0
        self.stop = False

    async def run(self) -> None:
        client: Client | None = None
        while not self.stop or f"{self.user}-{self.sent}" not in self.acknowledged:
            try:
                if client is None:
                    client = await self.server.connect(self.user)
                    await client.join(self.room)
                if f"{self.user}-{self.sent}" in self.acknowledged:
                    self.sent += 1
                ack = await client.say(self.room, "x", f"{self.user}-{self.sent}")
                self.acknowledged[ack["id"]] = ack["seq"]
                client.passed_over.clear()
            except (ConnectionClosed, InvalidStatus, OSError):
                client = None
                self.reconnects += 1
        if client is not None:
            with suppress(ConnectionClosed):
                await client.close()


async def stored(server: Workers, room: str, user: str) -> dict[str, int]:
    """Every message of a room, id to seq; doubled ones are an error."""
    found: dict[str, int] = {}
    after = 0
    while True:
        path = f"/v1/messaging/conversations/{room}/messages?limit=1000&after={after}"
        status, body, _ = await server.get(path, user=user)
        assert status == 200, body
        for message in body["messages"]:
            assert message["id"] not in found
            found[message["id"]] = message["seq"]
        if not body["messages"]:
            return found
        after = body["messages"][-1]["seq"]


async def sending(server: Workers, count: int = 6) -> tuple[list[Sender], list[asyncio.Task[None]]]:
    """Senders at work, each of whom has had an acknowledgement."""
    room = await server.conversation("room", *(f"s{number}" for number in range(count)))
    senders = [Sender(server, f"s{number}", room) for number in range(count)]
    tasks = [asyncio.create_task(sender.run()) for sender in senders]
    await until(lambda: _true(all(sender.acknowledged for sender in senders)), "everybody was acknowledged")
    return senders, tasks


async def nothing_was_lost(server: Workers, senders: list[Sender], tasks: list[asyncio.Task[None]]) -> None:
    for sender in senders:
        sender.stop = True
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*tasks)
    found = await stored(server, "room", "s0")
    for sender in senders:
        assert sender.acknowledged.items() <= found.items()


async def _true(value: Any) -> Any:
    return value


async def test_they_share_a_port_and_each_has_its_own_metrics(server: Workers) -> None:
    port = int(server.url.rpartition(":")[2])
    assert [worker.url for worker in server.workers] == [f"http://127.0.0.1:{port + 1 + n}" for n in range(2)]
    assert await server.ready()
    assert all([await worker.ready() for worker in server.workers])
    (ann, a), (bob, b) = await on_each(server)
    await server.conversation("room", a, b)
    assert (await ann.join("room"))["participants"] == [a]
    await bob.join("room")
    await ann.frame("participant_joined", user=b)
    await ann.say("room", "hello", "1")
    assert (await bob.frame("message"))["body"] == "hello"
    await server.settled()
    for worker in server.workers:
        figures = await worker.scraped(lambda f: f["messaging_cluster_participants"] == 2, "both are known")
        assert figures["messaging_active_connections"] == 1
        assert {name: figures[f"messaging_cluster_{name}"] for name in ("nodes", *FIGURES)} == {
            "nodes": 2,
            "connections": 2,
            "users": 2,
            "conversations": 1,
            "participants": 2,
        }
        assert figures["messaging_worker_restarts_total"] == 0
    stats = await server.stats()
    assert (stats["scope"], stats["nodes"], stats["connected_users"]) == ("cluster", 2, 2)
    status, problem, _ = await server.get("/metrics")
    assert (status, problem["status"]) == (404, 404)
    assert "a port of its own" in problem["detail"]
    assert b"Admin page" in (await server.get("/"))[1]
    assert b"Metrics" not in (await server.get("/"))[1]
    assert len({line["pid"] for line in server.said("worker listening")}) == 2


async def test_a_killed_worker_is_started_again_and_counted_and_the_figures_are_exact(server: Workers) -> None:
    (ann, a), (bob, b) = await on_each(server)
    await server.conversation("room", a, b)
    await ann.join("room")
    await bob.join("room")
    first, second = server.workers
    await first.scraped(lambda f: f["messaging_cluster_participants"] == 2, "both are known")
    for times in (1, 2):
        pid = second.pid
        second.signal(signal.SIGKILL)
        killed = time.monotonic()
        if times == 1:
            assert (await bob.closed())[0] == 1006
            await ann.frame("participant_left", user=b)
        await second.another_than(pid)
        figures = await second.scrape()
        assert figures["messaging_worker_restarts_total"] == times
        for worker in server.workers:
            await worker.scraped(
                lambda f: f["messaging_cluster_participants"] == 1 and f["messaging_cluster_nodes"] == 2,
                "exact within a lease and a beat",
                within=max(1.0, killed + LEASE + 1.0 - time.monotonic()),
            )
    assert (await first.scrape())["messaging_worker_restarts_total"] == 0
    died = server.said("a worker died; starting it again")
    assert [(line["worker"], line["signal"], line["restarts"]) for line in died] == [
        (1, "SIGKILL", 1),
        (1, "SIGKILL", 2),
    ]
    assert died[0]["pause"] < died[1]["pause"]  # it had died at once
    await ann.barrier()


async def test_a_worker_whose_database_is_not_open_yet_leaves_connections_to_the_others(
    postgres: Postgres, tmp_path: Path
) -> None:
    database = postgres.url(postgres.create_database())
    async with running(tmp_path, database) as server:
        _, second = server.workers
        await server.settled()  # both have theirs
        other = await asyncpg.connect(database)
        try:
            async with other.transaction():
                await other.execute("LOCK TABLE messaging_schema_version")
                pid = second.pid
                second.signal(signal.SIGKILL)
                await until(lambda: _true(second.pid != pid), "another listens", server.patience)
                for number in range(40):
                    await server.conversation(f"room-{number}", "ann")
                assert (await second.get("/-/ready"))[0] == 503
        finally:
            await other.close()
        await until(second.ready, "it has its database")


async def test_a_worker_that_is_told_to_end_leaves_new_connections_to_the_others(server: Workers) -> None:
    clients = [client for client, _ in await on_each(server)]
    second = server.workers[1]
    pid = second.pid
    second.signal(signal.SIGTERM)
    assert (await clients[1].closed())[0] == 1001
    for number in range(10):
        await (await server.connect(f"new-{number}")).close()
    await second.another_than(pid)
    assert (await server.hears("a worker died; starting it again"))["exit_code"] == 0
    await clients[0].barrier()


async def test_nobody_who_connects_meets_a_stopped_worker(server: Workers) -> None:
    clients = [client for client, _ in await on_each(server)]
    stopped = server.workers[1]
    stopped.signal(signal.SIGSTOP)
    for number in range(40):
        begun = time.monotonic()
        client = await server.connect(f"new-{number}")
        await client.barrier()
        await client.close()
        assert time.monotonic() - begun < PROMPT
    assert (await server.hears("a worker does not answer; the others serve"))["worker"] == 1
    async with asyncio.timeout(PROMPT):
        assert await server.ready()
    stopped.signal(signal.SIGCONT)
    await server.hears("the worker answers again")
    await clients[1].barrier()
    await server.settled()
    await stopped.scraped(lambda f: f["messaging_cluster_connections"] == 2, "its part is there again")


async def test_a_drain_loses_nothing_that_was_acknowledged(server: Workers, tmp_path: Path) -> None:
    senders, tasks = await sending(server)
    assert await server.stop() == 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not server.said("a worker did not end in time, and is killed")
    await server.start()
    found = await stored(server, "room", "s0")
    for sender in senders:
        assert sender.acknowledged.items() <= found.items()


async def test_workers_are_replaced_one_by_one_under_senders(server: Workers) -> None:
    senders, tasks = await sending(server)
    before = [worker.pid for worker in server.workers]
    server.signal(signal.SIGUSR2)
    await server.hears("replaced the workers")
    assert not set(before) & {worker.pid for worker in server.workers}
    await nothing_was_lost(server, senders, tasks)
    assert sum(sender.reconnects for sender in senders) >= len(senders)
    for worker in server.workers:
        assert (await worker.scrape())["messaging_worker_restarts_total"] == 0
    assert not server.said("a worker died; starting it again")
    await server.settled()
    await server.workers[0].scraped(lambda f: f["messaging_cluster_nodes"] == 2, "two nodes")


async def test_a_replacement_that_cannot_start_replaces_nobody(postgres: Postgres, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yml"
    settings.write_text("typing: {timeout: 3s}\n")
    async with running(tmp_path, postgres.url(postgres.create_database()), "--config.file", str(settings)) as server:
        before = [worker.pid for worker in server.workers]
        settings.write_text("typing: {timeout: never}\n")
        server.signal(signal.SIGUSR2)
        wrong = await server.hears("the settings are wrong now; the new workers get the old ones")
        assert "typing.timeout" in wrong["reason"]
        await server.hears("replaced the workers")
        after = [worker.pid for worker in server.workers]
        assert not set(before) & set(after)
        settings.write_text("auth: {public-key-file: /nowhere}\n")
        server.signal(signal.SIGUSR2)
        await server.hears("the replacement did not get ready; the workers that serve go on")
        assert [worker.pid for worker in server.workers] == after
        client = await server.connect("ann")
        await client.barrier()
        pid = server.workers[0].pid
        server.workers[0].signal(signal.SIGKILL)  # whoever dies now starts with what was good
        await server.workers[0].another_than(pid)


async def test_sighup_reaches_each_worker(server: Workers) -> None:
    async def reloaded() -> bool:
        return {line["worker"] for line in server.said("reloaded")} == {0, 1}

    server.signal(signal.SIGHUP)
    await until(reloaded, "both have read again")


async def test_a_second_signal_ends_everything_at_once(server: Workers) -> None:
    os.kill(server.workers[0].pid, signal.SIGSTOP)
    children = server.children()
    server.signal(signal.SIGTERM)
    await server.hears("draining")
    server.signal(signal.SIGTERM)
    assert await server.ended() == 0

    async def nobody_is_left() -> bool:  # a killed process is gone when it would run next, not when it is killed
        return not any(map(alive, children))

    await until(nobody_is_left, "the children have ended")


async def test_a_worker_without_room_leaves_connections_to_the_others(postgres: Postgres, tmp_path: Path) -> None:
    database = postgres.url(postgres.create_database())
    async with running(tmp_path, database, "--limits.connections", "3", "--drain.timeout", "0s") as server:
        clients = []

        async def full(worker: Worker) -> bool:
            return (await worker.scrape())["messaging_active_connections"] == 3

        async def one_more() -> bool:
            """Refused, for a moment, by one that is full and has not said so yet."""
            with suppress(InvalidStatus):
                clients.append(await server.connect(f"u-{len(clients)}"))
            return len(clients) == 6

        await until(one_more, "all six places are taken")
        assert all([await full(worker) for worker in server.workers])

        async def refused() -> bool:
            refusal = await server.refused(server.token("one-too-many"))
            return refusal.response.status_code == 503 and "Retry-After" in refusal.response.headers

        assert await refused()  # when nobody has room they say so
        await clients.pop().close()
        await until(one_more, "the place is taken again")
