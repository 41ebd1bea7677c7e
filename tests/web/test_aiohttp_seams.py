"""What is used of aiohttp beyond its documented API: this version fits, and one that does not ends the start.


The hand-over itself is proved by every test with a WebSocket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from exporter.core.errors import Misconfigured
from exporter.web import aiohttp_seams
from tests.servers.exporter import InProcess, in_process


async def test_this_version_fits() -> None:
    await aiohttp_seams.self_check()


def no_such_name(*_: Any, **__: Any) -> None:
    raise AttributeError("'RequestHandler' object has no attribute 'set_parser'")


@pytest.mark.parametrize(
    ("target", "name", "fault", "words"),
    [
        (web.RequestHandler, "set_parser", no_such_name, "no attribute 'set_parser'"),
        (web.RequestHandler, "set_parser", lambda *_: None, "socket"),
        (aiohttp_seams.ProblemRunner, "_make_server", no_such_name, "no attribute"),
        (aiohttp_seams._Protocol, "handle_error", web.RequestHandler.handle_error, "is no HTTP"),
    ],
)
async def test_a_version_that_does_not_fit_ends_the_start_with_one_line_that_names_it(
    target: type, name: str, fault: Callable[..., Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiohttp_seams, "CHECK_TIME", 0.5)
    monkeypatch.setattr(target, name, fault)
    with pytest.raises(Misconfigured, match=f"aiohttp {aiohttp.__version__} does not fit") as caught:
        async with in_process(tmp_path):
            pytest.fail("it started")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


async def refused(here: InProcess, request: bytes) -> tuple[bytes, bytes]:
    """The status line and the body of the answer to this head."""
    host, port = here.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.split(b"\r\n")[0], body


@pytest.mark.parametrize(
    ("request_head", "status", "words"),
    [
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer " + b"x" * 12_000, b"431", b"longer than 8190 bytes"),
        (b"GET /" + b"x" * 12_000 + b" HTTP/1.1\r\nHost: x", b"431", b"longer than 8190 bytes"),
        (b"GET / HTTP/1.1\r\n" + b"\r\n".join(b"X-%d: y" % n for n in range(200)), b"431", b"more than 128 headers"),
        (b"\x16\x03\x01 is no HTTP", b"400", b"cannot be read as HTTP"),
    ],
)
async def test_what_is_refused_before_it_is_a_request_is_refused_for_what_is_wrong_with_it(
    request_head: bytes, status: bytes, words: bytes, tmp_path: Path
) -> None:
    async with in_process(tmp_path) as here:
        line, body = await refused(here, request_head + b"\r\n\r\n")
    assert line.split()[1] == status
    assert words in body
    assert b"xxx" not in body
