"""200 slow readers among 1,000 receivers: what do the other 800 notice, and what does it cost the server?

Run ``python -m tests.bench.slow_readers``. The same fan-out is done twice on fresh servers, without and with the slow
ones, who join and then read nothing. One process sends and receives for everybody; latency is from a message's writing
to the last byte of its frame being read, so the client's own share is in both runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from tests.servers.exporter import Exporter, running, until
from tests.servers.wire import Wire, handshake, masked, resident

ROOM = "room"
MARK = b'"body":"'
TAIL = 2  # seconds for the slow ones to read what was left for them


class Reader(asyncio.Protocol):
    """Reads frames as they come, with the time of each."""

    def __init__(self, latencies: list[float]) -> None:
        self.latencies = latencies
        self.buffer = bytearray()
        self.upgraded = False
        self.joined = asyncio.get_running_loop().create_future()
        self.messages = 0
        self.code = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.upgraded:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            assert self.buffer.startswith(b"HTTP/1.1 101"), bytes(self.buffer[:200])
            del self.buffer[: end + 4]
            self.upgraded = True
        while len(self.buffer) >= 2:
            size, head = self.buffer[1], 2
            if size == 126:
                size, head = int.from_bytes(self.buffer[2:4], "big"), 4
            elif size == 127:
                size, head = int.from_bytes(self.buffer[2:10], "big"), 10
            if len(self.buffer) < head + size:
                return
            self._frame(self.buffer[0] & 15, bytes(self.buffer[head : head + size]))
            del self.buffer[: head + size]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == 8:
            self.code = int.from_bytes(payload[:2], "big")
        elif opcode == 9:
            assert self.transport is not None
            self.transport.write(masked(payload, 10))
        elif payload.startswith(b'{"type":"message"'):
            at = payload.index(MARK) + len(MARK)
            self.messages += 1
            self.latencies.append(time.monotonic() - float(payload[at : payload.index(b" ", at)]))
        elif payload.startswith(b'{"type":"joined"') and not self.joined.done():
            self.joined.set_result(None)


@dataclass
class Outcome:
    """Seconds and bytes; ``complete``: every healthy receiver has every message."""

    sent: int = 0
    complete: bool = False
    cut: int = 0
    codes: list[int] = field(default_factory=list)
    p50: float = 0.0
    p99: float = 0.0
    growth: int = 0
    dropped: float = 0.0
    slow_seen: float = 0.0


async def _connect(exporter: Exporter, user: str, latencies: list[float], *, receive_buffer: int | None) -> Reader:
    parts = urlsplit(exporter.url)
    held = socket.socket()
    if receive_buffer is not None:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    held.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(held, (parts.hostname, parts.port))
    transport, reader = await loop.create_connection(lambda: Reader(latencies), sock=held)
    transport.write(
        handshake(exporter.token(user)) + masked(json.dumps({"type": "join", "conversation": ROOM}).encode())
    )
    await asyncio.wait_for(reader.joined, 60)
    return reader


async def experiment(
    exporter: Exporter, *, healthy: int, slow: int, rate: float, size: int, seconds: float, until_cut: bool = False
) -> Outcome:
    """One run. ``rate`` messages of ``size`` bytes per second, for ``seconds`` or until all slow ones were cut off."""
    names = [f"user-{number}" for number in range(healthy + slow)]
    await exporter.conversation(ROOM, "sender", *names[:900])
    path = f"/v1/messaging/conversations/{ROOM}/participants"
    await exporter.request("POST", path, user="sender", json={"participants": names})
    latencies: list[float] = []
    ignored: list[float] = []
    readers = [await _connect(exporter, name, latencies, receive_buffer=None) for name in names[:healthy]]
    idlers = [await _connect(exporter, name, ignored, receive_buffer=4_096) for name in names[healthy:]]
    for idler in idlers:
        assert idler.transport is not None
        idler.transport.pause_reading()
    sender = await Wire.upgraded(exporter.url, exporter.token("sender"))
    sender.writer.write(masked(json.dumps({"type": "join", "conversation": ROOM}).encode()))
    acks = asyncio.ensure_future(sender.rest())
    await asyncio.sleep(1)  # everybody's announcements of joining
    outcome = Outcome()
    before = resident(exporter.pid)
    begun = time.monotonic()
    filler = "x" * size
    while time.monotonic() - begun < seconds:
        body = f"{time.monotonic():.6f} {filler}"
        command = {"type": "send", "conversation": ROOM, "id": str(outcome.sent), "body": body}
        sender.writer.write(masked(json.dumps(command).encode()))
        outcome.sent += 1
        if outcome.sent % 4 == 0:
            outcome.growth = max(outcome.growth, resident(exporter.pid) - before)
            figures = await exporter.scrape()
            outcome.slow_seen = max(outcome.slow_seen, figures["messaging_slow_consumers"])
            outcome.cut = int(figures['messaging_connections_closed_total{reason="slow_consumer"}'])
            if until_cut and outcome.cut == slow:
                _read_on(idlers)  # at once: who comes back within seconds is told why
                break
        await asyncio.sleep(max(0.0, begun + outcome.sent / rate - time.monotonic()))

    async def complete() -> bool:
        return all(reader.messages == outcome.sent for reader in readers)

    try:
        await until(complete, "everything received by everybody who reads", 30)
        outcome.complete = True
    except AssertionError:
        outcome.complete = False
    figures = await exporter.scrape()
    outcome.cut = int(figures['messaging_connections_closed_total{reason="slow_consumer"}'])
    outcome.dropped = figures["messaging_deliveries_dropped_total"]
    latencies.sort()
    outcome.p50, outcome.p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    _read_on(idlers)
    await asyncio.sleep(TAIL)
    outcome.codes = [idler.code for idler in idlers]
    for reader in (*readers, *idlers):
        assert reader.transport is not None
        reader.transport.abort()
    sender.close()
    acks.cancel()
    return outcome


def _read_on(idlers: list[Reader]) -> None:
    for idler in idlers:
        if idler.transport is not None and not idler.transport.is_closing() and not idler.transport.is_reading():
            idler.transport.resume_reading()


async def _main(arguments: argparse.Namespace) -> None:
    rows = []
    for slow in (0, arguments.slow, 0, arguments.slow)[: 2 * arguments.rounds]:
        with tempfile.TemporaryDirectory() as folder:
            limits = ("--limits.connections", "5000", "--limits.send-buffer-bytes", str(arguments.limit))
            async with running(Path(folder), *limits) as exporter:
                outcome = await experiment(
                    exporter,
                    healthy=arguments.healthy,
                    slow=slow,
                    rate=arguments.rate,
                    size=arguments.size,
                    seconds=arguments.seconds,
                )
        rows.append((slow, outcome))
        codes = {code: outcome.codes.count(code) for code in sorted(set(outcome.codes))}
        print(
            f"{arguments.healthy} healthy + {slow} slow: {outcome.sent} messages, complete: {outcome.complete}, "
            f"p50 {outcome.p50 * 1e3:.1f} ms, p99 {outcome.p99 * 1e3:.1f} ms"
        )
        print(
            f"  resident +{outcome.growth / 2**20:.1f} MiB (send limits {slow * arguments.limit / 2**20:.0f} MiB), "
            f"slow at once {outcome.slow_seen:.0f}, cut {outcome.cut}, dropped {outcome.dropped:.0f}, codes {codes}",
            flush=True,
        )
    without = sorted(outcome.p99 for slow, outcome in rows if not slow)[0]
    among = sorted(outcome.p99 for slow, outcome in rows if slow)[0]
    print(f"p99 with the slow ones / without: {among / without:.2f}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--healthy", type=int, default=800)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--rate", type=float, default=8, help="messages per second")
    parser.add_argument("--size", type=int, default=16_000, help="bytes of a message")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--limit", type=int, default=1_048_576, help="--limits.send-buffer-bytes")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each kind")
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
