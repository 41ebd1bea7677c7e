"""What was acknowledged is kept: the server is killed while many send, and started again on the same data."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.servers.exporter import CONVERSATIONS, Client, Exporter, running, until
from tests.servers.postgres import Postgres

SENDERS = 50
ROOMS = 10
IN_FLIGHT = 4
ENOUGH = 1_000
"""Acknowledged messages before the first kill; then half as many before the second."""


def room_of(sender: int) -> str:
    return f"room-{sender % ROOMS}"


class Sender:
    """Sends as fast as answers come, a few at a time, and remembers what was acknowledged."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.user = f"sender-{number}"
        self.room = room_of(number)
        self.sent: list[str] = []
        self.acknowledged: dict[str, tuple[int, str]] = {}

    async def run(self, client: Client) -> None:
        """Until the server has gone."""
        try:
            await client.join(self.room)
            for _ in range(IN_FLIGHT):
                await self.send(client)
            while True:
                ack = await client.frame("ack")
                self.acknowledged[ack["id"]] = (ack["seq"], ack["sent_at"])
                client.passed_over.clear()
                await self.send(client)
        except ConnectionClosed:
            return

    async def send(self, client: Client) -> None:
        id = f"{self.number}-{len(self.sent)}"
        self.sent.append(id)
        await client.send("send", conversation=self.room, body=f"body of {id}", id=id)

    async def send_again(self, client: Client) -> int:
        """Everything that was never answered, each twice; how many of them there were."""
        await client.join(self.room)
        missing = [id for id in self.sent if id not in self.acknowledged]
        for id in missing * 2:
            await client.send("send", conversation=self.room, body=f"body of {id}", id=id)
        for id in missing:
            first, second = [await client.frame("ack", id=id) for _ in range(2)]
            assert first == second
            self.acknowledged[id] = (first["seq"], first["sent_at"])
        return len(missing)


async def kill_while_all_send(exporter: Exporter, senders: list[Sender], enough: int) -> None:
    clients = [await exporter.connect(sender.user) for sender in senders]
    tasks = [asyncio.create_task(sender.run(client)) for sender, client in zip(senders, clients, strict=True)]

    async def enough_acknowledged() -> bool:
        return sum(len(sender.acknowledged) for sender in senders) >= enough

    try:
        await until(enough_acknowledged, f"{enough} messages acknowledged", within=60)
        await exporter.kill()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def history(exporter: Exporter, user: str, room: str) -> list[dict[str, Any]]:
    """All messages, page by page, as a client catches up."""
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["seq"] if found else 0
        path = f"{CONVERSATIONS}/{room}/messages?after={after}&limit=1000"
        status, page, _ = await exporter.get(path, user=user)
        assert status == 200, page
        if not page["messages"]:
            assert page["last_seq"] == len(found)
            return found
        found += page["messages"]


async def check(exporter: Exporter, senders: list[Sender]) -> int:
    """Each acknowledged message is there once under its number, numbers have no holes; how many messages there are."""
    total = 0
    by_room: dict[str, list[Sender]] = defaultdict(list)
    for sender in senders:
        by_room[sender.room].append(sender)
    for room, inhabitants in by_room.items():
        messages = await history(exporter, inhabitants[0].user, room)
        total += len(messages)
        assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
        stored = {(message["sender"], message["id"]): message for message in messages}
        assert len(stored) == len(messages), "a message is there twice"
        for sender in inhabitants:
            for id, (seq, sent_at) in sender.acknowledged.items():
                message = stored[sender.user, id]
                assert (message["seq"], message["sent_at"], message["body"]) == (seq, sent_at, f"body of {id}")
            # In the order in which they were sent: so what was lost is a tail, and none is made up.
            mine = [message["id"] for message in messages if message["sender"] == sender.user]
            assert mine == sender.sent[: len(mine)]
    return total


async def kill_twice(folder: Path, *flags: str) -> Exporter:
    """Twice: all send, it is killed and started again, all that was acknowledged is looked for, the rest sent again."""
    senders = [Sender(number) for number in range(SENDERS)]
    async with running(folder, "--limits.frames-per-second=10000", "--verify.interval=0", *flags) as exporter:
        for room in range(ROOMS):
            members = [sender.user for sender in senders if sender.room == f"room-{room}"]
            await exporter.conversation(f"room-{room}", *members)
        resent = 0
        for enough in (ENOUGH, ENOUGH + ENOUGH // 2):
            await kill_while_all_send(exporter, senders, enough)
            await exporter.start()
            stored = await check(exporter, senders)
            figures = await exporter.scrape()
            # Never acknowledged, and yet perhaps durable: at most what was on its way.
            acknowledged = sum(len(sender.acknowledged) for sender in senders)
            assert acknowledged <= stored <= sum(len(sender.sent) for sender in senders)
            assert figures["messaging_stored_messages"] == figures["messaging_messages_today"] == stored
            assert figures["messaging_active_connections"] == 0

            for sender in senders:
                client = await exporter.connect(sender.user)
                resent += await sender.send_again(client)
                await client.close()
            sent = sum(len(sender.sent) for sender in senders)
            assert await check(exporter, senders) == sent
            figures = await exporter.scrape()
            assert figures["messaging_stored_messages"] == sent
            assert figures["messaging_messages_accepted_total"] == sent - stored
        assert resent > 0, "nothing was on its way whenever the server was killed"
        assert await exporter.stop() == 0
        assert await exporter.command("verify", *flags) == 0
    return exporter


async def test_what_was_acknowledged_is_there_once_and_what_was_not_is_stored_once_when_sent_again(
    tmp_path: Path,
) -> None:
    exporter = await kill_twice(tmp_path)
    with closing(sqlite3.connect(exporter.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.needs("postgres")
async def test_the_same_holds_on_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    await kill_twice(tmp_path, "--database.url", postgres.url(postgres.create_database()))
