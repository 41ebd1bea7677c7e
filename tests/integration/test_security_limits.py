"""Floods and oversizes on a real socket: each has its close code and its counter, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.servers.exporter import Exporter, Figures, running
from tests.servers.wire import Wire, handshake, masked, resident

LIMIT = 65_536


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def exporter(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exporter]:
    async with running(tmp_path_factory.mktemp("limits"), "--limits.connections", "1000") as exporter:
        yield exporter


def closed(figures: Figures, reason: str) -> float:
    return figures[f'messaging_connections_closed_total{{reason="{reason}"}}']


async def flood(exporter: Exporter, data: bytes, reason: str) -> int:
    """Upgrade, write all of it, read to the close frame: its code. It is counted once, and a bystander stays well."""
    before = closed(await exporter.scrape(), reason)
    bystander = await exporter.connect("bystander")
    wire = await Wire.upgraded(exporter.url, exporter.token("flooder"))
    closing = asyncio.ensure_future(wire.close_code())
    for start in range(0, len(data), 65_536):
        wire.writer.write(data[start : start + 65_536])
        try:
            await wire.writer.drain()
        except ConnectionError:
            break
    code = await asyncio.wait_for(closing, 30)
    wire.close()
    await bystander.barrier()
    await bystander.close()
    figures = await exporter.deserted()
    assert all(value == 0 for name, value in figures.items() if name.startswith("messaging_live_drift"))
    assert closed(figures, reason) == before + 1
    return code


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("pings", masked(b"x" * 125, 9)),
        ("pongs", masked(b"", 10)),
        ("binary", masked(b"\x00" * 10, 2)),
        ("garbage", masked(b"[[[[")),
        ("commands", masked(b'{"type":"ping"}')),
        ("unknown", masked(b'{"type":"nonsense"}')),
    ],
)
async def test_a_flood_is_answered_and_then_closed_with_4029(exporter: Exporter, name: str, frame: bytes) -> None:
    before = resident(exporter.pid)
    assert await flood(exporter, frame * 20_000, "rate_limited") == 4029
    assert resident(exporter.pid) - before < 16 * 2**20


async def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_1009(exporter: Exporter) -> None:
    await exporter.conversation("room", "ann")
    head = json.dumps({"type": "send", "conversation": "room", "id": "1", "body": ""}).encode()
    fits = head.replace(b'"body": ""', b'"body": "' + b"x" * (LIMIT - len(head)) + b'"')
    assert len(fits) == LIMIT
    client = await exporter.connect("ann")
    await client.join("room")
    await client.raw(fits.decode())
    assert (await client.frame("ack", id="1"))["seq"] == 1
    await client.raw(fits.decode() + " ")
    assert (await client.closed())[0] == 1009


@pytest.mark.parametrize("size", [LIMIT + 1, 5_000_000, 60_000_000])
async def test_1009_is_seen_however_large_the_frame_was(exporter: Exporter, size: int) -> None:
    before = resident(exporter.pid)
    assert await flood(exporter, masked(b"x" * size), "protocol_error") == 1009
    assert resident(exporter.pid) - before < 16 * 2**20


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a long message in pieces", masked(b"x" * 60_000, 1, fin=False) + masked(b"x" * 60_000, 0, fin=False), 1009),
        ("pieces without end", masked(b"x", 1, fin=False) + masked(b"", 0, fin=False) * 50_000, 1009),
        ("no mask", b"\x81\x05hello", 1002),
        ("a reserved bit", masked(b"x", rsv=4), 1002),
        ("a long ping", masked(b"x" * 126, 9), 1002),
        ("not UTF-8", masked(b"\xff\xfe\xfd"), 1007),
    ],
)
async def test_a_breach_of_the_websocket_rules_is_closed_with_its_code(
    exporter: Exporter, name: str, data: bytes, code: int
) -> None:
    assert await flood(exporter, data, "protocol_error") == code


async def test_pieces_that_are_never_finished_are_kept_within_the_limit(exporter: Exporter) -> None:
    before, received = resident(exporter.pid), (await exporter.scrape())["messaging_received_bytes_total"]
    wires = [await Wire.upgraded(exporter.url, exporter.token(f"user-{number}")) for number in range(50)]
    for wire in wires:
        wire.writer.write(masked(b"x" * 60_000, 1, fin=False))
        wire.writer.write(bytes((0x80, 0xFE)) + (5_000).to_bytes(2, "big") + b"mask" + b"x" * 4_000)
    await exporter.scraped(lambda figures: figures["messaging_received_bytes_total"] > received + 50 * 64_000, "read")
    assert resident(exporter.pid) - before < 50 * 3 * LIMIT + 8 * 2**20
    for wire in wires:
        wire.close()


@pytest.mark.parametrize(
    "lines",
    [
        [f"X-{number}: y" for number in range(500)],
        ["X: " + "y" * 20_000],
        ["Cookie: " + "a=b; " * 5_000],
    ],
    ids=["many headers", "a long header", "many cookies"],
)
async def test_headers_beyond_measure_are_refused(exporter: Exporter, lines: list[str]) -> None:
    wire = await Wire.open(exporter.url)
    wire.writer.write(handshake(exporter.token("ann"), *lines))
    assert (await asyncio.wait_for(wire.reader.read(12), 30)).startswith(b"HTTP/1.0 431")
    wire.close()
    await exporter.deserted()


@pytest.mark.parametrize(
    "garbage", [b"<b>hello</b>\r\n\r\n", b"GET / HTTP/1.1\r\n<b>: hello\r\n\r\n", b"GET /\xff<b> X\r\n\r\n"]
)
async def test_what_is_no_http_is_a_problem_that_repeats_nothing(exporter: Exporter, garbage: bytes) -> None:
    wire = await Wire.open(exporter.url)
    wire.writer.write(garbage)
    head, _, body = (await asyncio.wait_for(wire.rest(), 30)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400")
    assert b"application/problem+json" in head
    assert json.loads(body)["code"] == "bad_request"
    assert b"<b>" not in head + body
    wire.close()
    assert not [line for line in exporter.lines() if "exception" in line]


async def test_frames_behind_the_handshake_in_one_write_are_handled(exporter: Exporter) -> None:
    wire = await Wire.open(exporter.url)
    wire.writer.write(handshake(exporter.token("ann")) + masked(b'{"type":"ping","id":"early"}'))
    await wire.reader.readuntil(b"\r\n\r\n")
    while b'"early"' not in (await asyncio.wait_for(wire.frame(), 30))[1]:
        pass
    wire.close()


async def test_a_handshake_names_its_version_and_gets_no_subprotocol_that_it_did_not_offer(exporter: Exporter) -> None:
    request = handshake(exporter.token("ann"))
    assert b"Sec-WebSocket-Protocol" not in request
    for asked, answer in ((request, b"101"), (request.replace(b"Sec-WebSocket-Version: 13\r\n", b""), b"426")):
        wire = await Wire.open(exporter.url)
        wire.writer.write(asked)
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == answer
        assert b"sec-websocket-protocol" not in head.lower()
        wire.close()
    await exporter.deserted()


@pytest.mark.parametrize("length", ["Content-Length: 24", "Transfer-Encoding: chunked"])
async def test_a_handshake_with_a_body_is_refused_before_any_of_it_is_taken_for_a_frame(
    exporter: Exporter, length: str
) -> None:
    wire = await Wire.open(exporter.url)
    wire.writer.write(handshake(exporter.token("ann"), length))
    head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 30)
    assert head.startswith(b"HTTP/1.1 400")
    assert b"the handshake has no body" in await wire.reader.read(1_000)
    wire.close()
    wire = await Wire.open(exporter.url)
    wire.writer.write(handshake(exporter.token("ann"), "Content-Length: 0"))
    assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    wire.close()
    await exporter.deserted()


async def test_a_proxy_may_spread_the_connection_header_over_several_lines(exporter: Exporter) -> None:
    wire = await Wire.open(exporter.url)
    request = handshake(exporter.token("ann"))
    wire.writer.write(request.replace(b"Connection: Upgrade", b"Connection: keep-alive\r\nConnection: Upgrade"))
    assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    wire.close()
    await exporter.deserted()
