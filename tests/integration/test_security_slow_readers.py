"""Who does not read costs only themselves. The 60 s experiment with 1,000 receivers is tests/bench/slow_readers.py."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from urllib.parse import urlsplit

from exporter.web.routes.conversations import MAX_LISTS
from tests.bench.slow_readers import experiment
from tests.servers.exporter import CONVERSATIONS, Exporter, running

HEALTHY, SLOW, LIMIT = 80, 20, 1_048_576


async def test_slow_readers_are_cut_off_and_the_others_get_everything(tmp_path: Path) -> None:
    flags = ("--limits.connections", "1000", "--limits.send-buffer-bytes", str(LIMIT))
    async with running(tmp_path, *flags) as exporter:
        outcome = await experiment(
            exporter, healthy=HEALTHY, slow=SLOW, rate=40, size=60_000, seconds=60, until_cut=True
        )
        assert outcome.complete
        assert outcome.cut == SLOW
        assert outcome.slow_seen > 0
        assert outcome.growth < SLOW * LIMIT + 16 * 2**20, "more than their send buffers and what one message takes"
        # They read on at the end: most see why they were cut off, some have been given up by then.
        assert set(outcome.codes) <= {4008, 0}
        assert 4008 in outcome.codes
        figures = await exporter.deserted()
        assert figures['messaging_connections_closed_total{reason="slow_consumer"}'] == SLOW
        assert figures["messaging_slow_consumers"] == 0
        for name, value in figures.items():
            assert not name.startswith("messaging_live_drift") or value == 0


async def unread(exporter: Exporter, path: str, user: str) -> socket.socket:
    """A request whose answer has begun to come and is not read any further."""
    loop = asyncio.get_running_loop()
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    asking.setblocking(False)
    url = urlsplit(exporter.url)
    await loop.sock_connect(asking, (url.hostname, url.port))
    lines = (f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {exporter.token(user)}", "", "")
    await loop.sock_sendall(asking, "\r\n".join(lines).encode())
    assert (await loop.sock_recv(asking, 12)) == b"HTTP/1.1 200"
    return asking


async def test_who_does_not_read_lists_gets_no_more_of_them_and_others_do(tmp_path: Path) -> None:
    async with running(tmp_path, "--database.timeout", "2s", "--limits.frames-per-second", "1000") as exporter:
        await exporter.conversation("large", "ann", "bob")
        ann = await exporter.connect("ann")
        await ann.join("large")
        for number in range(60):
            await ann.say("large", "x" * 60_000, str(number))
        path = f"{CONVERSATIONS}/large/messages?limit=1000"
        asking = [await unread(exporter, path, "ann") for _ in range(MAX_LISTS)]
        status, problem, headers = await exporter.get(path, user="ann")
        assert (status, problem["code"], headers["Retry-After"]) == (503, "unavailable", "5")
        assert (await exporter.get(path, user="bob"))[0] == 200
        await ann.say("large", "goes on", "last")
        asking.pop().close()
        assert (await exporter.get(path, user="ann"))[0] == 200
        assert (await exporter.get(CONVERSATIONS, user="ann"))[0] == 200
        for one in asking:
            one.close()
        assert (await exporter.scrape())["messaging_database_up"] == 1
