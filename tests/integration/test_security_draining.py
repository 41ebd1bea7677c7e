"""Going down: SIGTERM among 1,000 busy clients loses nothing that was acknowledged, and a second one ends at once."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.servers.exporter import CONVERSATIONS, Exporter, locked, running, until
from tests.servers.wire import Wire, masked

CLIENTS = 1_000
ROOMS = 50
BUSY = 200


class Busy:
    """A client that sends as soon as it is acknowledged, and remembers what was."""

    def __init__(self, wire: Wire, number: int) -> None:
        self.wire = wire
        self.number = number
        self.room = f"room-{number % ROOMS}"
        self.acknowledged: set[tuple[str, int, str]] = set()
        self.code = 0

    async def say(self, type: str, **fields: object) -> None:
        self.wire.writer.write(masked(json.dumps({"type": type, "conversation": self.room, **fields}).encode()))

    async def run(self, talks: bool) -> None:
        """Until the server closes."""
        count = 0
        try:
            await self.say("join")
            while True:
                opcode, payload = await self.wire.frame()
                if opcode == 8:
                    self.code = int.from_bytes(payload[:2], "big")
                    self.wire.writer.write(masked(payload, 8))
                    return
                frame = json.loads(payload) if opcode == 1 else {"type": "control"}
                if frame["type"] == "ack":
                    self.acknowledged.add((frame["conversation"], frame["seq"], frame["id"]))
                if talks and frame["type"] in ("joined", "ack"):
                    count += 1
                    await self.say("send", body="x" * 50, id=f"{self.number}-{count}")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.code = self.code or 1006
        finally:
            self.wire.close()


async def connected(exporter: Exporter, count: int) -> list[Busy]:
    async def one(number: int) -> Busy:
        return Busy(await Wire.upgraded(exporter.url, exporter.token(f"user-{number}")), number)

    for room in range(ROOMS):
        await exporter.conversation(f"room-{room}", *(f"user-{n}" for n in range(room, count, ROOMS)))
    clients = []
    for start in range(0, count, 50):
        clients += await asyncio.gather(*(one(number) for number in range(start, start + 50)))
    return clients


def stored(database: Path) -> set[tuple[str, int, str]]:
    connection = sqlite3.connect(database)
    try:
        return set(connection.execute("SELECT conversation_id, seq, client_id FROM messages"))
    finally:
        connection.close()


async def test_sigterm_among_a_thousand_busy_clients_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    limits = ("--limits.connections", "2000", "--limits.frames-per-second", "1000", "--drain.timeout", "10s")
    async with running(tmp_path, *limits) as exporter:
        clients = await connected(exporter, CLIENTS)
        work = [asyncio.ensure_future(client.run(client.number < BUSY)) for client in clients]

        def acknowledged() -> int:
            return sum(len(client.acknowledged) for client in clients)

        async def enough() -> bool:
            return acknowledged() >= 5 * BUSY

        await until(enough, "everybody busy")
        exporter.signal(signal.SIGTERM)
        refused: set[int] = set()
        closed_at: list[float] = []
        for task in work:
            task.add_done_callback(lambda _: closed_at.append(time.monotonic()))
        while not all(task.done() for task in work):
            try:
                refused.add((await exporter.get("/-/ready"))[0])
            except OSError:
                break
            await asyncio.sleep(0.02)
        await asyncio.gather(*work)
        assert await exporter.ended() == 0
        promised = set().union(*(client.acknowledged for client in clients))
        assert len(promised) == acknowledged() >= 5 * BUSY
        assert promised <= stored(exporter.database)
        codes = [client.code for client in clients]
        assert codes.count(1001) == CLIENTS, {code: codes.count(code) for code in set(codes)}
        assert 503 in refused
        assert closed_at[-1] - closed_at[0] > 0.5, "everybody was closed at once, and would come back at once"
        wrong = [line for line in exporter.lines() if line.get("level") not in ("debug", "info")]
        assert not wrong, wrong[:3]


async def test_a_draining_server_takes_nobody_new_but_answers_what_it_took(tmp_path: Path) -> None:
    async with running(tmp_path, "--limits.connections", "2000", "--drain.timeout", "3s") as exporter:
        await exporter.conversation("room", "ann", "bob")
        clients = [await exporter.connect(f"user-{number}") for number in range(20)]
        exporter.signal(signal.SIGTERM)
        status, headers = 0, {}
        try:
            while status != 503:
                status, _, headers = await exporter.get("/-/ready")
            assert "Retry-After" in headers
            refusal = await exporter.refused(exporter.token("late"))
            assert refusal.response.status_code == 503
            assert "Retry-After" in refusal.response.headers
        except OSError:
            pytest.fail("it was gone before anybody could be told")
        finally:
            for client in clients:
                assert (await client.closed())[0] == 1001
        assert await exporter.ended() == 0


async def test_a_client_that_does_not_answer_the_close_holds_nothing_up(tmp_path: Path) -> None:
    async with running(tmp_path, "--limits.connections", "2000", "--drain.timeout", "1s") as exporter:
        wire = await Wire.upgraded(exporter.url, exporter.token("deaf"))
        began = time.monotonic()
        assert await exporter.stop() == 0
        assert time.monotonic() - began < 15
        wire.close()


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, "--limits.connections", "2000", "--drain.timeout", "60s") as exporter:
        wires = [await Wire.upgraded(exporter.url, exporter.token(f"deaf-{number}")) for number in range(5)]
        exporter.signal(signal.SIGTERM)
        while (await exporter.get("/-/ready"))[0] != 503:
            pass
        exporter.signal(signal.SIGTERM)
        await exporter.ended()  # far within the 60 s that the drain may take
        for wire in wires:
            wire.close()


async def test_a_second_signal_does_not_wait_for_a_database_that_hangs(tmp_path: Path) -> None:
    async with running(tmp_path, "--limits.connections", "2000", "--database.timeout", "60s") as exporter:
        await exporter.conversation("room", "ann")
        ann = await exporter.connect("ann")
        await ann.join("room")
        with locked(exporter.database):
            await ann.send("send", conversation="room", body="b", id="1")
            await ann.barrier()
            exporter.signal(signal.SIGTERM)
            while (await exporter.get("/-/ready"))[0] != 503:
                pass
            exporter.signal(signal.SIGTERM)
            await exporter.ended()  # far within the 60 s that the statement may take
        assert any("second signal" in line.get("event", "") for line in exporter.lines())


async def test_a_request_under_way_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path, "--limits.connections", "2000", "--drain.timeout", "2s") as exporter:
        await exporter.conversation("room", "ann")
        client = await exporter.connect("ann")
        asked = [asyncio.ensure_future(exporter.get(CONVERSATIONS, user="ann")) for _ in range(20)]
        await asyncio.sleep(0)
        exporter.signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, OSError) or answer[0] in (200, 503) for answer in answers)
        assert (await client.closed())[0] == 1001
        assert await exporter.ended() == 0
