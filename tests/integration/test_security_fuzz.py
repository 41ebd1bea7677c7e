"""Garbage in quantity over real sockets: 100,000 frames, 20,000 byte sequences, and the server is none the worse.

The generators know what the other side takes apart (JSON fields, frame headers, request lines) and break it there.
What is sent follows from a seed, which a failure shows; ``FUZZ_SEED`` and ``FUZZ_SCALE`` choose another run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.exporter import Exporter, running, until
from tests.servers.wire import Wire, handshake, masked, open_files, resident

SEED = int(os.environ.get("FUZZ_SEED", "20261122"))
SCALE = float(os.environ.get("FUZZ_SCALE", "1"))
FRAMES = int(100_000 * SCALE)
SEQUENCES = int(20_000 * SCALE)
BATCH = 100
AT_ONCE = 64
PATIENCE = 0.05
"""Seconds until a peer that sent half of something gives up."""
MAX_GROWTH = 24 * 2**20
"""Bytes that the process may gain after its caches are warm: about what its allocator keeps between two bursts."""

NASTY = [
    "", " ", "room", "room-1", "nobody's", "x" * 128, "x" * 129, "x" * 5_000, "a\x00b", "a\nb", "\x1b[2J", "\x85",
    "\ud800", "\udfff\ud800", "Ä", "🙂" * 100, "<script>alert(1)</script>", "' OR 1=1 --", "{id}", "../..", "%00",
    "null", "\u202e", 'a"b', "a\\b", 0, 1, -1, 7, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**300, 0.5,
    1e308, -0.0, True, False, None, [], {}, [[]], {"a": {}}, [1, "a", None], ["room"], {"type": "join"},
]  # fmt: skip
TYPES = ["join", "leave", "typing", "send", "read", "ping"]
FIELDS = ["type", "conversation", "id", "body", "seq", "active", "reason", "", "conversation "]
LITERALS = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "-", "01", "'a'", "[", "{", '"', "\x7f", "tru"]


def a_command(rng: random.Random) -> bytes:
    """JSON that is a command, nearly one, or none."""
    document = {
        "type": rng.choice(TYPES) if rng.random() < 0.9 else rng.choice(NASTY),
        "conversation": f"room-{rng.randrange(4)}" if rng.random() < 0.6 else rng.choice(NASTY),
        "id": str(rng.randrange(1_000)) if rng.random() < 0.7 else rng.choice(NASTY),
        "body": rng.choice(["hello", "x" * rng.randrange(2_000), rng.choice(NASTY)]),
        "seq": rng.randrange(50) if rng.random() < 0.7 else rng.choice(NASTY),
        "active": rng.random() < 0.5 if rng.random() < 0.8 else rng.choice(NASTY),
    }
    if rng.random() < 0.3:
        document |= {"type": rng.choice(TYPES), "conversation": f"room-{rng.randrange(4)}", "id": str(rng.random())}
        return json.dumps(
            document | {"body": "hello", "seq": rng.randrange(1, 9), "active": rng.random() < 0.5}
        ).encode()
    for _ in range(rng.randrange(3)):
        document.pop(rng.choice(FIELDS), None)
    if rng.random() < 0.2:
        document[rng.choice(FIELDS)] = rng.choice(NASTY)
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")


def text(rng: random.Random) -> bytes:
    """The payload of a text frame in valid UTF-8: a command, sometimes broken."""
    payload = a_command(rng)
    kind = rng.random()
    if kind < 0.7:
        return payload
    if kind < 0.78:
        return payload[: rng.randrange(len(payload) + 1)].decode("utf-8", "ignore").encode()
    if kind < 0.86:
        at = rng.randrange(len(payload))
        return (payload[:at] + bytes([rng.randrange(128)]) + payload[at + 1 :]).decode("utf-8", "replace").encode()
    if kind < 0.92:
        return b'{"type":"send","conversation":' + rng.choice(LITERALS).encode() + b"}"
    if kind < 0.96:
        depth = rng.choice([10, 100, 1_000, 10_000])
        opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
        return opening * depth + b"1" + closing * (depth if rng.random() < 0.5 else 0)
    return rng.choice([b"", b"null", b"7", b'"x"', b"[]", b'{"type":"ping","type":"send"}', b" " * 500])


def harmless(rng: random.Random) -> bytes:
    """Frames that a connection must survive."""
    kind = rng.random()
    if kind < 0.86:
        return masked(text(rng), mask=rng.randbytes(4))
    if kind < 0.90:
        return masked(rng.randbytes(rng.randrange(300)), 2)
    if kind < 0.95:
        return masked(rng.randbytes(rng.randrange(126)), rng.choice([9, 10]))
    pieces = [text(rng)[:20_000].decode("utf-8", "ignore").encode()]
    while len(pieces) < 4 and rng.random() < 0.7:
        whole = pieces.pop()
        at = rng.randrange(len(whole) + 1)
        pieces += [whole[:at], whole[at:]]
    out = bytearray()
    for number, piece in enumerate(pieces):
        out += masked(piece, 0 if number else 1, fin=number == len(pieces) - 1)
        if rng.random() < 0.3:
            out += masked(b"between", 9)
    return bytes(out)


def fatal(rng: random.Random) -> bytes:
    """Frames that end a connection."""
    return rng.choice(
        [
            masked(b"x", 1, rsv=rng.randrange(1, 8)),
            masked(b"x", rng.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15])),
            masked(b"x" * 126, rng.choice([8, 9, 10])),
            masked(b"x", rng.choice([8, 9, 10]), fin=False),
            masked(b"x", 0),
            masked(b"x", 1, fin=False) + masked(b"y", 1),
            bytes((0x81, 5)) + b"hello",
            bytes((0x81, 0xFF)) + b"\xff" * 8 + b"mask" + rng.randbytes(500),
            bytes((0x81, 0xFF)) + (2**40).to_bytes(8, "big") + b"mask" + rng.randbytes(500),
            masked(b"x" * 70_000),
            masked(b"", 1, fin=False) + masked(b"", 0, fin=False) * 1_100,
            masked(b"\xff\xfe" + rng.randbytes(20)),
            masked(b'{"type":"ping","id":"\xed\xa0\x80"}'),
            masked(b"", 8),
            masked(rng.choice([b"\x03", b"\x00\x00", b"\x03\xed", b"\x03\xee", b"\xff\xff", b"\x03\xe8\xff"]), 8),
            masked(b"\x03\xe8bye", 8) + masked(b"more"),
        ]
    )


METHODS = [b"GET", b"POST", b"DELETE", b"get", b"", b"\x00", b"G" * 500, b"PRI", b"CONNECT", b"OPTIONS"]
PATHS = [
    b"/", b"/metrics", b"/v1/messaging/ws", b"/v1/messaging/conversations", b"/admin", b"/%", b"/%00", b"/%ff%fe",
    b"/../../etc/passwd", b"//", b"*", b"http://x/", b"/" + b"a" * 9_000, b"/?" + b"&" * 500, b"/\xff", b"",
    b"/metrics?name[]=%ff", b"/v1/messaging/conversations/%2e%2e/messages?after=%00", b"/admin/static/..%2f..%2fx",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.", b"", b"FTP/1.1", b"HTTP/99.1"]
HEADERS = [
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 1e9", b"Content-Length: 5, 6", b"Content-Length: ",
    b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked", b"Transfer-Encoding: x, chunked",
    b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: !!!",
    b"Authorization: Bearer \xff", b"Authorization: Basic !!!", b"Authorization:", b"Cookie: \x01=\xff;;;=",
    b"Accept: */*;q=x;;,", b"Accept: " + b"a/b;q=1," * 300, b"Accept-Encoding: gzip;q=", b"Host: y",
    b"X: " + b"y" * 9_000, b": empty", b"No colon", b" folded", b"A\x00: b", b"Expect: 100-continue",
    b"X-Prometheus-Scrape-Timeout-Seconds: nan", b"X-Prometheus-Scrape-Timeout-Seconds: 1e999",
    b"Content-Encoding: gzip", b"Content-Encoding: deflate", b"Content-Type: multipart/form-data; boundary=",
    b"Origin: \xff", b"Sec-WebSocket-Protocol: messaging.v1, bearer.", b"Sec-WebSocket-Protocol: ,,,",
]  # fmt: skip
BODIES = [b"", b"", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffff\r\n", b"-1\r\n", b"{}", b"\x00\xff" * 40]


def a_request(rng: random.Random) -> bytes:
    """An HTTP request, broken where parsers break."""
    start = b" ".join((rng.choice(METHODS), rng.choice(PATHS), rng.choice(VERSIONS)))
    headers = [b"Host: x", *(rng.choice(HEADERS) for _ in range(rng.randrange(6)))]
    line = b"\r\n" if rng.random() < 0.9 else rng.choice([b"\n", b"\r", b"\r\r\n"])
    return line.join((start, *headers, b"", rng.choice(BODIES)))


def a_sequence(rng: random.Random, token: str) -> bytes:
    """What a socket may bring: noise, another protocol, a broken request, an upgrade followed by noise."""
    kind = rng.random()
    if kind < 0.15:
        return rng.randbytes(rng.randrange(600))
    if kind < 0.2:
        return rng.choice([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200), b"\x00" * 500,
                           b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(40), b"\r\n" * 200, b"SSH-2.0-x\r\n",
                           b"*1\r\n$4\r\nPING\r\n", b"HELO x\r\n", b"\x80" * 9, b""])  # fmt: skip
    if kind < 0.7:
        request = a_request(rng)
        return request if rng.random() < 0.7 else request[: rng.randrange(len(request) + 1)]
    if kind < 0.8:
        good = bytearray(handshake(token))
        for _ in range(rng.randrange(1, 8)):
            good[rng.randrange(len(good))] = rng.randrange(256)
        return bytes(good)
    if kind < 0.85:
        return handshake(token)[: rng.randrange(200)]
    noise = rng.randbytes(rng.randrange(300)) if rng.random() < 0.5 else fatal(rng)
    return handshake(token) + harmless(rng) + noise


@pytest.fixture
async def exporter(tmp_path: Path) -> AsyncIterator[Exporter]:
    limits = ("--limits.frames-per-second", "1000000", "--limits.connections-per-user", "1000")
    limits += ("--limits.connections", "2000")  # below what any machine lets a process open
    async with running(tmp_path, *limits, "--log.level", "debug") as exporter:
        yield exporter


def slices(total: int) -> Iterator[int]:
    """Seeds of pieces of work that belong to one run."""
    return iter(range(SEED, SEED + total))


async def workers(total: int, work: Callable[[random.Random], Awaitable[None]]) -> None:
    """Do ``total`` pieces of work, a few at a time."""
    seeds = slices(total)

    async def worker() -> None:
        for seed in seeds:
            try:
                await asyncio.wait_for(work(random.Random(seed)), 60)
            except Exception as error:  # whatever it is, its seed must be told
                raise AssertionError(f"the piece of seed {seed} failed: {error!r}") from error

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


async def assert_well(exporter: Exporter, memory: int, files: int) -> None:
    """Nobody is left behind, nothing was logged that went wrong, and there is no more of anything than before."""
    figures = await exporter.deserted()
    for name, value in figures.items():
        if name.startswith("messaging_live_drift") or name in (
            "messaging_connected_users",
            "messaging_active_conversations",
            "messaging_participants",
            "messaging_typing_users",
        ):
            assert value == 0, (name, value)
    leaves = sum(value for name, value in figures.items() if name.startswith("messaging_leaves_total"))
    closed = sum(value for name, value in figures.items() if name.startswith("messaging_connections_closed_total"))
    assert figures["messaging_joins_total"] == leaves
    assert figures["messaging_connections_opened_total"] == closed
    assert figures['messaging_connections_closed_total{reason="internal_error"}'] == 0
    internal = {name: value for name, value in figures.items() if 'code="internal"' in name and value}
    assert not internal
    # What is no HTTP is named once of each kind; that is all that a stranger's bytes may write into the log.
    named = [line for line in exporter.lines() if line.get("event") == "a request cannot be read"]
    assert len({line["reason"] for line in named}) == len(named)
    wrong = [line for line in exporter.lines() if line.get("level") not in ("debug", "info") or "exception" in line]
    wrong = [line for line in wrong if line not in named]
    assert not wrong, "\n".join(map(str, wrong[:3]))

    async def files_are_closed() -> bool:
        return open_files(exporter.pid) <= files + 8

    await exporter.hang_up()
    await until(files_are_closed, "closed sockets")
    assert resident(exporter.pid) - memory < MAX_GROWTH, (resident(exporter.pid) - memory) / 2**20


async def test_a_hundred_thousand_frames_leave_no_trace(exporter: Exporter) -> None:
    members = [f"user-{number}" for number in range(16)]
    for number in range(4):
        await exporter.conversation(f"room-{number}", *members)
    sent = 0

    async def batch(rng: random.Random) -> None:
        nonlocal sent
        wire = await Wire.upgraded(exporter.url, exporter.token(rng.choice(members)))
        try:
            room = f"room-{rng.randrange(4)}"
            wire.writer.write(masked(json.dumps({"type": "join", "conversation": room}).encode()))
            while b'"joined"' not in (await wire.frame())[1]:
                pass  # what follows would wait behind the join, and be dropped with the connection
            closing = asyncio.ensure_future(wire.close_code())
            data = b"".join(harmless(rng) for _ in range(BATCH - 2))
            kind = rng.random()
            end = fatal(rng) if kind < 0.6 else rng.randbytes(300) if kind < 0.7 else masked(b"\x03\xe8", 8)
            while data:
                cut = rng.choice([1, 7, 100, 5_000, 100_000])
                wire.writer.write(data[:cut])
                await wire.writer.drain()
                data = data[cut:]
            wire.writer.write(end)
            await wire.writer.drain()
            noise = 0.6 <= kind < 0.7  # perhaps the beginning of a long frame, which the server waits for
            done, _ = await asyncio.wait({closing}, timeout=PATIENCE if noise else 30)
            assert done or noise, "the server did not close"
            closing.cancel()
        except ConnectionError:
            pass  # the server may close while we still write
        finally:
            wire.close()
        sent += BATCH

    warm = FRAMES // 10 // BATCH
    await workers(warm, batch)
    memory, files = resident(exporter.pid), open_files(exporter.pid)
    await workers(FRAMES // BATCH - warm, batch)
    assert sent == FRAMES
    await assert_well(exporter, memory, files)
    figures = await exporter.scrape()
    assert figures["messaging_messages_accepted_total"] > FRAMES / 500, "the frames were all nonsense"
    assert figures['messaging_commands_rejected_total{code="bad_frame",command="unknown"}'] > FRAMES / 100


async def test_twenty_thousand_byte_sequences_leave_no_trace(exporter: Exporter) -> None:
    token = exporter.token("somebody")
    answers = {"101": 0, "400": 0, "other": 0, "nothing": 0}

    async def sequence(rng: random.Random) -> None:
        wire = await Wire.open(exporter.url)
        try:
            wire.writer.write(a_sequence(rng, token))
            await wire.writer.drain()
            answer = await asyncio.wait_for(wire.reader.read(65_536), PATIENCE)
        except (ConnectionError, TimeoutError):
            answer = b""  # half a request has no answer
        finally:
            wire.close()
        status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.") else ""
        answers[status if status in answers else "other" if status else "nothing"] += 1
        assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
        assert b"Traceback" not in answer

    warm = SEQUENCES // 10
    await workers(warm, sequence)
    memory, files = resident(exporter.pid), open_files(exporter.pid)
    await workers(SEQUENCES - warm, sequence)
    assert sum(answers.values()) == SEQUENCES
    assert min(answers.values()) > SEQUENCES / 200, answers
    await assert_well(exporter, memory, files)
