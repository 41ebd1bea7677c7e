"""docs/proxies.md: each snippet in the real proxy with TLS, before a real server with the flags that stand there."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.deploy.proxies import NGINX, program, running_proxy
from tests.servers.certificates import CertificateAuthority
from tests.servers.exporter import ROOT, WS, Exporter, running, until
from tests.servers.ports import free_port

NAME = "chat.example.com"
SNIPPET = re.compile(
    r"^## (?P<title>[^\n]+)\n\n(?P<flags>`--[^\n]+`)\n.*?```(?P<proxy>\w+)\n(?P<text>.*?)```", re.MULTILINE | re.DOTALL
)
EVIL = "https://evil.example"


@dataclass(frozen=True)
class Snippet:
    """A section of the document."""

    title: str
    flags: tuple[str, ...]
    proxy: str
    text: str

    @property
    def path(self) -> str:
        """Where the browser has the server."""
        return "/messaging/" if "/messaging" in self.text else "/"


SNIPPETS = [
    Snippet(match["title"], tuple(re.findall(r"--[^`\s]+", match["flags"])), match["proxy"], match["text"])
    for match in SNIPPET.finditer((ROOT / "docs" / "proxies.md").read_text())
]


def test_every_snippet_of_the_document_is_run() -> None:
    text = (ROOT / "docs" / "proxies.md").read_text()
    assert len(SNIPPETS) == text.count("```") // 2 == text.count("\n## ") == 5


def command(snippet: Snippet, folder: Path, upstream: str, port: int) -> list[str]:
    """How the proxy is started with this snippet on this port; its files are in the folder."""
    folder.mkdir()
    authority = CertificateAuthority()
    certificate, key = authority.issue(NAME, (NAME,))
    (folder / "ca.pem").write_bytes(authority.cert)
    (folder / "chat.pem").write_bytes(certificate + key)
    (folder / "chat.key").write_bytes(key)
    text = snippet.text
    for written, here in (
        ("127.0.0.1:8765", upstream),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("bind :443", f"bind 127.0.0.1:{port}"),
        (f"https://{NAME} {{", f"{{\n\tadmin off\n\tauto_https off\n}}\nhttps://{NAME}:{port} {{"),
        ("/etc/ssl/", f"{folder}/"),
        ("/etc/haproxy/", f"{folder}/"),
    ):
        text = text.replace(written, here)
    file = folder / "configuration"
    if snippet.proxy == "haproxy":
        text = f"global\n    fd-hard-limit 10000\n    stats socket {folder}/stats level admin\n\n{text}"
    file.write_text(text)
    if snippet.proxy == "nginx":
        main = folder / "nginx.conf"
        main.write_text(NGINX.format(folder=folder, snippet=file))
        return [program("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(main)]
    if snippet.proxy == "haproxy":
        return [program("haproxy"), "-db", "-f", str(file)]
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(file)]


@asynccontextmanager
async def started(snippet: Snippet, folder: Path, upstream: str, port: int) -> AsyncIterator[Path]:
    """The proxy with this snippet, on this port; HAProxy's socket for questions."""
    async with running_proxy(command(snippet, folder, upstream, port), folder, port, snippet.proxy):
        yield folder / "stats"


class Resolver(aiohttp.abc.AbstractResolver):
    """The name is here."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        """There is nothing."""


@dataclass
class Browser:
    """Somebody who has this URL and trusts the certificate."""

    exporter: Exporter
    http: aiohttp.ClientSession
    base: str
    tls: ssl.SSLContext

    @property
    def origin(self) -> str:
        return "https://" + urlsplit(self.base).netloc

    async def sign_in(self, origin: str) -> aiohttp.ClientResponse:
        form = {"token": self.exporter.token("root", role="admin")}
        headers = {"Origin": origin, "Accept": "application/json"}
        return await self.http.post(urljoin(self.base, "admin/sign-in"), data=form, headers=headers)

    async def connect(self, origin: str) -> str:
        """The first frame of a page's WebSocket."""
        address = urlsplit(self.base)
        async with connect(
            "wss" + urljoin(self.base, WS[1:])[5:],
            host="127.0.0.1",
            port=address.port,
            ssl=self.tls,
            origin=origin,
            subprotocols=[Subprotocol("messaging.v1"), Subprotocol("bearer." + self.exporter.token("ann"))],
            compression=None,
            proxy=None,
        ) as connection:
            return str(await connection.recv())


@pytest.mark.parametrize(
    "snippet", [pytest.param(s, marks=pytest.mark.needs(s.proxy), id=s.title.replace(" ", "-")) for s in SNIPPETS]
)
async def test_pages_connect_and_sign_in_links_stay_within_and_strangers_are_named_in_the_log(
    snippet: Snippet, tmp_path: Path
) -> None:
    port = free_port()
    flags = [flag.replace(f"https://{NAME}", f"https://{NAME}:{port}") for flag in snippet.flags]
    async with running(tmp_path / "server", *flags) as exporter:
        upstream = urlsplit(exporter.url).netloc
        async with started(snippet, tmp_path / "proxy", upstream, port) as stats:
            tls = ssl.create_default_context(cafile=str(tmp_path / "proxy" / "ca.pem"))
            connector = aiohttp.TCPConnector(ssl=tls, resolver=Resolver())
            async with aiohttp.ClientSession(connector=connector) as http:
                browser = Browser(exporter, http, f"https://{NAME}:{port}{snippet.path}", tls)
                if snippet.proxy == "haproxy":
                    await until(lambda: _checked(stats), "HAProxy's own check is answered")
                await _links_stay_within(browser)
                await _only_our_own_pages_get_in(browser)
    refused = [line for line in exporter.lines() if line.get("event") == "a page of another origin was refused"]
    assert [line["origin"] for line in refused] == [EVIL]
    assert f"--auth.allowed-origins {EVIL}" in refused[0]["hint"]


async def _checked(stats: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(stats)
    except FileNotFoundError:  # HAProxy makes it a moment after its port
        return False
    writer.write(b"show stat\n")
    lines = (await reader.read()).decode().splitlines()
    writer.close()
    names = lines[0].lstrip("# ").split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:]]
    (server,) = [row for row in rows if row.get("svname") == "one"]
    assert "DOWN" not in server["status"], server
    return (server["check_status"], server["check_code"]) == ("L7OK", "200")


async def _links_stay_within(browser: Browser) -> None:
    async with browser.http.get(browser.base) as response:
        assert response.status == 200
        links = re.findall(r'href="([^"]+)"', await response.text())
    assert {"metrics", "admin", "openapi.json", WS[1:]} <= set(links)
    async with browser.http.get(browser.base.removesuffix("/")) as response:  # as the address is typed
        assert (response.status, response.url.path) == (200, urlsplit(browser.base).path)
    for link in links:
        url = urljoin(browser.base, link)
        assert url.startswith(browser.base)
        async with browser.http.get(url) as response:
            assert response.status in (200, 426), url
    async with browser.http.get(browser.base + "admin/") as response:
        assert (response.status, str(response.url)) == (200, browser.base + "admin")
    if browser.base.endswith("/messaging/"):
        return
    async with browser.http.get(browser.base + "-/ready") as response:
        assert response.status == 200


async def _only_our_own_pages_get_in(browser: Browser) -> None:
    response = await browser.sign_in(browser.origin)
    assert response.status == 200, await response.text()
    cookie = SimpleCookie(response.headers["Set-Cookie"])
    (morsel,) = cookie.values()
    assert morsel["secure"]
    assert morsel["path"] in ("/", urlsplit(browser.base).path.rstrip("/"))
    assert (await browser.sign_in(EVIL)).status == 403
    assert '"welcome"' in await browser.connect(browser.origin)
    with pytest.raises(InvalidStatus) as refused:
        await browser.connect(EVIL)
    assert refused.value.response.status_code == 403
