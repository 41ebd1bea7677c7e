"""What is used of aiohttp beyond its documented API: this version fits, and one that does not ends the start.


The hand-over itself is proved by every test with a WebSocket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from exporter.core.errors import Misconfigured
from exporter.web import aiohttp_seams, unreadable
from tests.deploy.proxies import program
from tests.logged import logged
from tests.servers.certificates import CertificateAuthority
from tests.servers.exporter import Exporter, InProcess, in_process, running, until
from tests.servers.ports import free_port


async def test_this_version_fits_and_says_nothing() -> None:
    with logged(unreadable) as lines:
        await aiohttp_seams.self_check()
    assert lines == []


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
        (b"\xff is no HTTP", b"400", b"cannot be read as HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(90), b"400", b"this is TLS"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: x", b"400", b"a PROXY protocol header"),
        (b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: x", b"400", b"a PROXY protocol header"),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12), b"400", b"a PROXY protocol header"),
        (b"PRI * HTTP/2.0\r\n\r\nSM", b"400", b"this is HTTP/2"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y", b"400", b"two Host headers"),
        (b"GET / HTTP/1.1\r\nX: y", b"400", b"no Host header"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: xxx", b"400", b"Content-Length is not a number"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3",
            b"400",
            b"two Content-Length headers",
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xxx", b"400", b"only chunked is known"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, xxx", b"400", b"only chunked is known"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxxx",
            b"400",
            b"does not come in the chunks",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxxx",
            b"400",
            b"not come in the chunks",
        ),
        (b"GET /xxx\xc3\xab HTTP/1.1\r\nHost: x", b"400", b"has to be percent-encoded"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: xxx\x00", b"400", b"a control character"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: xxx", b"417", b"expectation failed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: xxx\xff", b"417", b"expectation failed"),
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


@contextlib.asynccontextmanager
async def asked_for_scripts(
    folder: Path, tls: bool, times: int
) -> AsyncIterator[tuple[web.Server, asyncio.StreamReader]]:
    """A server, and a client that has asked for so many files in one piece and has read nothing yet."""
    CertificateAuthority().write(folder)
    (folder / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    context = ssl.create_default_context(cafile=str(folder / "ca.crt")) if tls else None
    async with in_process(folder, web_config_file=folder / "web.yml" if tls else None) as here:
        server = here.server.listeners._runners[0].server
        assert server is not None
        raw = socket.create_connection((urlsplit(here.url).hostname, urlsplit(here.url).port))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        name = "127.0.0.1" if tls else None
        reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname=name)
        writer.write(b"GET /admin/static/messaging-stats.js HTTP/1.1\r\nHost: x\r\n\r\n" * times)
        yield server, reader
        writer.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_who_reads_nothing_of_an_answer_does_not_keep_it_for_ever(
    tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiohttp_seams, "READ_TIME", 0.05)
    async with asked_for_scripts(tmp_path, tls, 20) as (server, _):

        async def gone() -> bool:
            return server.requests_count > 0 and not server.connections

        await until(gone, "the connection is gone")


@pytest.mark.parametrize("tls", [False, True])
async def test_who_has_read_everything_may_be_silent_and_ask_again(tls: bool, tmp_path: Path) -> None:
    async with asked_for_scripts(tmp_path, tls, 3) as (server, reader):
        for _ in range(3):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length: ")[2].split()[0])
            await reader.readexactly(size)

        async def waits_for_nobody() -> bool:
            [connection] = server.connections
            return connection._timer is None  # type: ignore[attr-defined]  # it is one of ours

        await until(waits_for_nobody, "nothing is looked at")


class SlowlyRead(asyncio.Transport):
    """A socket whose client reads a little between two looks, until it reads no more."""

    def __init__(self, *left: int) -> None:
        super().__init__()
        self.left = list(left)
        self.aborted = asyncio.Event()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def close(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return self.left.pop(0)

    def abort(self) -> None:
        self.aborted.set()


async def test_who_reads_an_answer_slowly_is_waited_for_as_long_as_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_seams, "READ_TIME", 0.0)
    transport = SlowlyRead(300, 200, 200, 100, 100, 100, 100)
    protocol = aiohttp_seams._Server(aiohttp_seams._unreached)()
    protocol.connection_made(transport)
    protocol.pause_writing()
    async with asyncio.timeout(20):
        await transport.aborted.wait()
    assert transport.left == [100]
    protocol.connection_lost(None)


async def test_of_who_goes_without_reading_nothing_is_kept_until_they_would_have_been_cut_off() -> None:
    protocol = aiohttp_seams._Server(aiohttp_seams._unreached)()
    protocol.connection_made(SlowlyRead(300))
    protocol.pause_writing()
    looking = protocol._timer  # type: ignore[attr-defined]  # it is one of ours
    assert not looking.cancelled()
    protocol.connection_lost(None)
    assert looking.cancelled()


@pytest.mark.needs("haproxy")
async def test_a_proxy_with_the_proxy_protocol_and_one_without_tls_are_told_once_by_the_log(tmp_path: Path) -> None:
    """Real HAProxy, set up for something else than what this server speaks."""
    certificate, key = CertificateAuthority().issue("server")
    (tmp_path / "server.pem").write_bytes(certificate + key)
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.pem, key_file: server.pem}")
    flags = ("--web.config.file", str(tmp_path / "web.yml"))
    async with (
        running(tmp_path / "plain", ready=False) as plain,
        running(tmp_path / "tls", *flags, ready=False) as tls,
    ):
        told = (
            await _through_haproxy(tmp_path, plain, "send-proxy"),
            await _through_haproxy(tmp_path, tls, "send-proxy"),
        )
        told += (await _through_haproxy(tmp_path, tls, ""),)
    assert "a PROXY protocol header, which is not understood" in told[0]
    assert "a PROXY protocol header, which is not understood" in told[1]
    assert "plain HTTP arrives where TLS is spoken" in told[2]


async def _through_haproxy(folder: Path, server: Exporter, option: str) -> str:
    """Two requests through HAProxy in TCP mode: what the log has to say of them, once."""
    port, before = free_port(), len(server.lines())
    upstream = server.url.partition("://")[2]
    timeouts = "timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
    (folder / "haproxy.cfg").write_text(
        f"global\n fd-hard-limit 1000\ndefaults\n mode tcp\n {timeouts}"
        f"listen l\n bind 127.0.0.1:{port}\n server s {upstream} {option}\n"
    )
    process = await asyncio.create_subprocess_exec(program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg"))
    try:
        for _ in range(2):

            async def asked() -> bool:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    return False
                writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
                return True

            await until(asked, "HAProxy answers")

        async def lines() -> list[str]:
            return [
                line["reason"] for line in server.lines()[before:] if line["level"] == "warning" and "reason" in line
            ]

        (said,) = await until(lines, "the log says so")
        return said
    finally:
        process.terminate()
        await process.wait()
