"""Errors over HTTP: always a problem document, never HTML, never what the client sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.http_exceptions import ContentLengthError, TransferEncodingError
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler

from exporter import logs
from exporter.core import errors
from exporter.core.errors import ErrorCode
from exporter.web import problems as problems_module
from exporter.web.problems import CONTENT_TYPE, Problem, codes, problems

EVIL = "<script>alert(1)</script>"


async def refuse(request: web.Request) -> web.Response:
    raise getattr(errors, request.match_info["name"])("exact words")


async def crash(request: web.Request) -> web.Response:
    raise ZeroDivisionError(EVIL + " password=hunter2")


async def lose_another(request: web.Request) -> web.Response:
    """Not the client's connection, nor its time: a server behind this one."""
    await request.read()
    raise {"refused": ConnectionRefusedError, "reset": ConnectionResetError, "late": TimeoutError}[
        request.match_info["how"]
    ]


async def crash_late(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun")
    raise ZeroDivisionError


async def echo(request: web.Request) -> web.Response:
    raise web.HTTPBadRequest(text=EVIL, reason="Evil reason")


async def found(request: web.Request) -> web.Response:
    raise web.HTTPSeeOther("/elsewhere")


async def body(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def broken(request: web.Request) -> web.Response:
    raise {"length": ContentLengthError, "chunks": TransferEncodingError, "body": web.RequestPayloadError}[
        request.match_info["what"]
    ](EVIL)


async def slow(request: web.Request) -> web.Response:
    for _ in range(3):
        await asyncio.sleep(0)
    return web.Response(text="slow")


@pytest.fixture
async def client() -> AsyncIterator[TestClient]:
    app = web.Application(middlewares=[problems()], client_max_size=100)
    app.router.add_get("/refuse/{name}", refuse)
    app.router.add_get("/crash/{name:[^/]+}", crash)
    for path, handler in (("/crash", crash), ("/late", crash_late), ("/echo", echo), ("/found", found)):
        app.router.add_get(path, handler)
    app.router.add_post("/body", body)
    app.router.add_post("/broken/{what}", broken)
    app.router.add_route("*", "/slow", slow)
    app.router.add_route("*", "/another/{how}", lose_another)
    server = TestServer(app)
    await server.start_server(auto_decompress=False)  # as the product's listeners do
    async with TestClient(server) as client:
        yield client


async def problem(response: aiohttp.ClientResponse, status: int, code: str) -> dict[str, object]:
    text = await response.text()
    document = json.loads(text)
    assert (response.status, response.content_type, document["status"]) == (status, CONTENT_TYPE, status)
    assert set(document) == {"type", "title", "status", "detail", "code"}
    assert document["code"] == code
    assert code in (*codes()[status], "unknown_type", "not_joined"), "docs/http.md does not have it"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "<" not in text
    return document


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("BadFrame", 400, "bad_frame"),
        ("UnknownType", 400, "unknown_type"),
        ("TooLarge", 413, "too_large"),
        ("NotFound", 404, "not_found"),
        ("Forbidden", 403, "forbidden"),
        ("NotJoined", 403, "not_joined"),
        ("Conflict", 409, "conflict"),
        ("RateLimited", 429, "rate_limited"),
        ("Unavailable", 503, "unavailable"),
        ("Refusal", 500, "internal"),
    ],
)
async def test_a_refusal_has_one_status_and_the_code_of_the_wire(client, name: str, status: int, code: str) -> None:
    document = await problem(await client.get(f"/refuse/{name}"), status, code)
    assert document["detail"] == "exact words"


def test_every_code_of_the_wire_has_a_status() -> None:
    for code in ErrorCode:
        refusal = errors.Refusal("x")
        refusal.code = code
        assert Problem.of(refusal).status >= 400


async def test_unavailable_says_when_to_try_again(client) -> None:
    assert int((await client.get("/refuse/Unavailable")).headers["Retry-After"]) > 0


def test_who_knows_better_when_to_try_again_says_so() -> None:
    assert Problem(503, "x", headers={"Retry-After": "1"}).response().headers["Retry-After"] == "1"


async def test_the_time_of_a_body_is_for_requests_that_have_one(client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems_module, "BODY_TIME", 0.0)
    await problem(await client.post("/slow", data=b"x"), 408, "timeout")
    assert await (await client.get("/slow")).text() == "slow"


async def test_what_aiohttp_refuses_by_itself_is_a_problem_too(client) -> None:
    await problem(await client.get(f"/absent/{EVIL}"), 404, "not_found")
    wrong = await client.post("/crash")
    await problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["Allow"] == "GET,HEAD"
    await problem(await client.post("/body", data=b"x" * 101), 413, "too_large")


async def test_nothing_of_what_a_handler_repeats_comes_back(client) -> None:
    response = await client.get("/echo")
    await problem(response, 400, "bad_request")
    assert response.reason == "Bad Request"


async def test_a_redirect_is_no_problem(client) -> None:
    response = await client.get("/found", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (303, "/elsewhere")


async def test_a_crash_is_internal_for_the_client_and_a_trace_in_the_log_without_secrets(client, capsys) -> None:
    logs.configure()
    document = await problem(await client.get("/crash"), 500, "internal")
    assert "ZeroDivision" not in json.dumps(document)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "ZeroDivisionError" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("body", [None, b"x"])
@pytest.mark.parametrize("how", ["refused", "reset", "late"])
async def test_what_a_handler_meets_elsewhere_is_not_taken_for_the_clients_doing(
    client, capsys, how: str, body: bytes | None
) -> None:
    logs.configure()
    await problem(await client.post(f"/another/{how}", data=body), 500, "internal")
    assert "path=/another/{how}" in capsys.readouterr().err


async def test_the_line_of_a_crash_names_the_route_and_nobody_in_it(client, capsys) -> None:
    logs.configure()
    await problem(await client.get("/crash/ann-and-bob?name=cat"), 500, "internal")
    line = capsys.readouterr().err
    assert "path=/crash/{name}" in line
    assert "ann-and-bob" not in line
    assert "cat" not in line


async def test_a_crash_in_the_middle_of_an_answer_ends_it_without_a_second_answer_inside(client, capsys) -> None:
    logs.configure()
    with pytest.raises(aiohttp.ClientPayloadError):
        await (await client.get("/late")).read()
    assert "ZeroDivisionError" in capsys.readouterr().err
    await problem(await client.get("/absent"), 404, "not_found")


@pytest.mark.parametrize("what", ["length", "chunks", "body"])
async def test_a_body_that_cannot_be_read_is_refused_and_ends_the_connection(
    client: TestClient, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """The first two are of aiohttp's parser in Python, where its extensions are not installed."""
    logs.configure()
    response = await client.post(f"/broken/{what}", data=b"x")
    assert (response.status, (await response.json())["detail"]) == (400, "the request body is malformed")
    assert response.headers["Connection"] == "close"
    assert capsys.readouterr().err == ""


async def test_who_goes_in_the_middle_of_a_body_is_no_defect(capsys) -> None:
    logs.configure()
    ended = asyncio.Event()

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            ended.set()

    app = web.Application(middlewares=[watch, problems()])
    app.router.add_post("/body", body)
    runner = web.AppRunner(app)  # not the tests' server, which cancels handlers
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nx")
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    await ended.wait()
    await runner.cleanup()
    assert "request failed" not in capsys.readouterr().err


async def test_a_compressed_body_is_refused_before_it_is_unpacked(client) -> None:
    for encoding in ("gzip", "deflate", "br", "zstd"):
        answer = await client.post("/body", data=b"not even that", headers={"Content-Encoding": encoding})
        await problem(answer, 415, "unsupported_media_type")
