"""The HTTP side under pressure: schemathesis, slow and endless requests, bodies that lie, scrapes in numbers."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exporter.web import aiohttp_seams, listeners, problems
from tests.servers.certificates import CertificateAuthority
from tests.servers.exporter import CONVERSATIONS, Exporter, in_process, running
from tests.servers.wire import Wire, resident

LONG = 400


@pytest.fixture
async def exporter(tmp_path: Path) -> AsyncIterator[Exporter]:
    async with running(tmp_path, "--limits.connections", "2000") as exporter:
        yield exporter


@pytest.mark.parametrize("role", ["admin", None])
async def test_schemathesis_finds_no_answer_that_the_description_does_not_have(
    exporter: Exporter, role: str | None
) -> None:
    await exporter.conversation("room", "ann", "bob")
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"{exporter.url}/openapi.json",
        f"--max-examples={12 if role else 4}",
        "--seed=1",
        "--checks=not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_headers_conformance,response_schema_conformance",
        "--suppress-health-check=all",
        "--exclude-operation-id=websocket",  # 101 is no answer that an HTTP client understands
        "--no-color",
    ]
    if role:
        command.append(f"--header=Authorization: Bearer {exporter.token('ann', role=role)}")
    said = await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        timeout=LONG,
        cwd=exporter.folder,
        env=os.environ | {"NO_COLOR": "1", "SCHEMATHESIS_HOOKS": ""},
    )
    assert said.returncode == 0, said.stdout[-6_000:] + said.stderr[-2_000:]
    wrong = [line for line in exporter.lines() if line.get("level") not in ("debug", "info")]
    assert not wrong, wrong[:3]
    figures = await exporter.scrape()
    assert figures["messaging_database_up"] == 1


async def test_half_a_request_does_not_stay_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "IDLE", 0.3)
    async with in_process(tmp_path) as here:
        silent, half, drip = [await Wire.open(here.url) for _ in range(3)]
        half.writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        began = time.monotonic()

        async def drops() -> None:
            while True:
                drip.writer.write(b"X: y\r\n")
                await asyncio.sleep(0.05)

        drip.writer.write(b"GET /metrics HTTP/1.1\r\n")
        dripping = asyncio.ensure_future(drops())
        for wire in (silent, half, drip):
            assert await asyncio.wait_for(wire.rest(), 20) == b""
            wire.close()
        dripping.cancel()
        assert time.monotonic() - began < 20


async def test_half_a_tls_handshake_does_not_stay_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_seams, "HANDSHAKE_TIME", 0.3)
    CertificateAuthority().write(tmp_path)
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    async with in_process(tmp_path, web_config_file=tmp_path / "web.yml") as here:
        silent, half = [await Wire.open(here.url) for _ in range(2)]
        half.writer.write(b"\x16\x03\x01\x02\x00\x01")  # a record of 512 bytes, the first of them
        for wire in (silent, half):
            assert await asyncio.wait_for(wire.rest(), 20) == b""
            wire.close()


async def test_a_body_that_never_comes_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "BODY_TIME", 0.3)
    async with in_process(tmp_path) as here:
        for path, kind in (
            (CONVERSATIONS, "application/json"),
            ("/admin/sign-in", "application/x-www-form-urlencoded"),
        ):
            wire = await Wire.open(here.url)
            token = here.token("ann")
            wire.writer.write(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n"
                "Content-Length: 100\r\n\r\n{".encode()
            )
            head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 20)
            assert head.startswith(b"HTTP/1.1 408")
            assert b"application/problem+json" in head
            wire.close()


async def test_a_body_whose_next_chunk_is_none_is_refused_for_that_and_not_waited_for(exporter: Exporter) -> None:
    wire = await Wire.open(exporter.url)
    wire.writer.write(
        f"POST {CONVERSATIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {exporter.token('ann')}\r\n"
        'Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\nd\r\n{"id":"room",\r\n'.encode()
    )
    assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")  # it is waited for
    wire.writer.write(b"no chunk\r\n")
    answer = await asyncio.wait_for(wire.reader.read(), problems.BODY_TIME / 2)  # to the end of the connection
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"the request body is malformed" in answer
    assert answer.count(b"HTTP/1.") == 1
    wire.close()
    assert [line for line in exporter.lines() if line["level"] == "error"] == []


async def test_a_body_above_the_limit_is_refused_and_not_kept(exporter: Exporter) -> None:
    await exporter.conversation("room", "ann")
    before = resident(exporter.pid)
    for _ in range(5):
        status, body, _ = await exporter.request("POST", CONVERSATIONS, user="ann", data=b" " * (20 * 2**20))
        assert (status, body["code"]) == (413, "too_large")
    assert resident(exporter.pid) - before < 40 * 2**20


async def test_a_decompression_bomb_is_not_unpacked(exporter: Exporter) -> None:
    bomb = gzip.compress(b"[" + b" " * 200_000_000, 6)
    before = resident(exporter.pid)
    for path in (CONVERSATIONS, "/admin/sign-in"):
        status, body, _ = await exporter.request(
            "POST",
            path,
            user="ann",
            data=bomb,
            headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
        )
        assert (status, body["code"]) == (415, "unsupported_media_type")
    assert resident(exporter.pid) - before < 20 * 2**20


async def test_compression_is_not_negotiated_on_websockets(exporter: Exporter) -> None:
    wire = await Wire.open(exporter.url)
    from tests.servers.wire import handshake

    wire.writer.write(handshake(exporter.token("ann"), "Sec-WebSocket-Extensions: permessage-deflate"))
    head = await wire.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    assert b"extensions" not in head.lower()
    wire.close()


async def test_scrapes_beyond_the_limit_are_turned_away_and_the_permit_comes_back(tmp_path: Path) -> None:
    async with in_process(tmp_path, max_requests=2) as here:
        go, begun = asyncio.Event(), asyncio.Semaphore(0)
        ask = here.server.snapshots.database

        async def slowly(deadline: float):
            begun.release()
            await go.wait()
            return await ask(deadline)

        here.server.snapshots.database = slowly
        waiting = [asyncio.ensure_future(here.get("/metrics")) for _ in range(2)]
        async with asyncio.timeout(20):
            for _ in waiting:
                await begun.acquire()
        status, body, headers = await here.get("/metrics")
        assert (status, body["code"], "Retry-After" in headers) == (503, "unavailable", True)
        go.set()
        assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200, 200]
        assert (await here.get("/metrics"))[0] == 200


EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a'b\"c",
    "{{7*7}}",
    "${7*7}",
    "%s%n",
    "javascript:x",
]


async def test_no_name_comes_back_unescaped_in_html_logs_or_labels(exporter: Exporter) -> None:
    for name in EVIL:
        await exporter.conversation(name, name)
        client = await exporter.connect(name)
        await client.join(name)
        await client.say(name, name, "1")
        await client.send("typing", conversation=name, active=True)
        await client.send("join", conversation=name + "?")
        await client.frame("error")
        pages = [
            await exporter.get(path) for path in ("/", "/metrics", "/admin", f"/{name}", f"/metrics?name[]={name}")
        ]
        admin = exporter.token(name, role="admin")
        pages.append(await exporter.get("/admin", headers={"Cookie": f"messaging_token={admin}"}))
        for status, body, headers in pages:
            assert status in (200, 404)
            text = body.decode() if isinstance(body, bytes) else json.dumps(body)
            if "html" in headers["Content-Type"]:
                assert name not in text or not set(name) & set("<>\"'")
            else:
                assert name not in text
        assert name not in exporter.log.read_text()
        await client.close()


@pytest.mark.parametrize("control", ["\x00", "\n", "\x1b", "\x7f", "\x85"])
async def test_no_name_has_a_control_character(exporter: Exporter, control: str) -> None:
    name = f"a{control}b"
    status, body, _ = await exporter.request("POST", CONVERSATIONS, user="ann", json={"id": name, "participants": []})
    assert (status, body["code"]) == (400, "bad_frame")
    status, body, _ = await exporter.request("POST", CONVERSATIONS, user="ann", json={"participants": [name]})
    assert (status, body["code"]) == (400, "bad_frame")
    assert control not in json.dumps(body)


async def test_a_separate_listener_serves_the_figures_and_the_public_one_does_not(tmp_path: Path) -> None:
    from exporter.settings.model import Address

    operations = ("/metrics", "/-/healthy", "/-/ready", "/admin", "/v1/messaging/stats", "/v1/messaging/stats/history")
    async with in_process(tmp_path, metrics_listen=(Address("127.0.0.1", 0),)) as here:
        public, apart = here.server.urls[0], here.server.metrics_urls[0]
        admin = here.token("root", role="admin")
        for path in operations:
            for url, expected in ((public, 404), (apart, 200)):
                here.url = url
                status, _, _ = await here.get(path, headers={"Authorization": f"Bearer {admin}"})
                assert (path, status) == (path, expected)
        here.url = public
        assert (await here.get(CONVERSATIONS, user="ann"))[0] == 200
        client = await here.connect("ann")
        await client.close()
        here.url = apart
        for path in (CONVERSATIONS, "/v1/messaging/ws"):
            assert (await here.get(path, user="ann"))[0] == 404
