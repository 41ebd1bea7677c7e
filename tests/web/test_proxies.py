"""What is believed of a proxy's headers: nothing from strangers, and of a chain what the outermost trusted one saw."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Middleware
from multidict import CIMultiDict

from exporter.settings.parsers import network, proxy
from exporter.web import proxies
from exporter.web.forwarded import MAX_HOPS
from exporter.web.proxies import Proxy, is_trusted, trust_proxies
from tests.logged import logged

MAPPED = {
    "::ffff:127.0.0.1": "127.0.0.1/32",
    "[::ffff:10.0.0.1]": "10.0.0.1/32",
    "::ffff:127.0.0.0/104": "127.0.0.0/8",
    "::ffff:0:0/96": "0.0.0.0/0",
    "::1": "::1/128",
    "::/0": "::/0",
}


@pytest.mark.parametrize(("text", "expected"), MAPPED.items())
def test_an_ipv4_network_written_as_ipv6_is_the_ipv4_network(text: str, expected: str) -> None:
    assert network(text) == ip_network(expected)


def test_a_proxy_named_by_its_mapped_address_is_trusted_in_either_form() -> None:
    assert is_trusted("127.0.0.1", (network("::ffff:127.0.0.1"),))
    assert is_trusted("::ffff:127.0.0.1", (network("::ffff:127.0.0.1"),))


TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1"))
Seen = tuple[str, str, str | None]


async def seen(
    headers: Mapping[str, str] | Sequence[tuple[str, str]],
    peer: str = "10.0.0.1",
    middleware: Middleware | None = None,
) -> Seen:
    """Scheme, host and address of the browser as a handler sees them."""
    found: list[Seen] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        found.append((request.scheme, request.host, request.remote))
        return web.Response()

    given = [("Host", "upstream:8765"), *(headers.items() if isinstance(headers, Mapping) else headers)]
    request = make_mocked_request("GET", "/", headers=CIMultiDict(given))
    request = request.clone(remote=peer)
    await (middleware or trust_proxies(TRUSTED))(request, handler)
    return found[0]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ("http", "upstream:8765", "10.0.0.1")),
        ({"X-Forwarded-Host": "chat.example.com"}, ("http", "chat.example.com", "10.0.0.1")),
        (
            {
                "X-Forwarded-For": "192.0.2.7",
                "X-Forwarded-Host": "chat.example.com:65535",
                "X-Forwarded-Proto": "HTTPS",
            },
            ("https", "chat.example.com:65535", "192.0.2.7"),
        ),
        (
            {"Forwarded": 'for="[2001:db8::7]:4711";host="chat.example.com";proto=https'},
            ("https", "chat.example.com", "2001:db8::7"),
        ),
        ({"Forwarded": 'for="192.0.2.7:80" ; Proto=https;ext="a,b;c"'}, ("https", "upstream:8765", "192.0.2.7")),
        ({"Forwarded": 'for=_hidden;host="chat.example.com"'}, ("http", "chat.example.com", "10.0.0.1")),
        ({"Forwarded": 'for="_hidden:_port";host=a;by="[fd00::1]:80", '}, ("http", "a", "10.0.0.1")),
        ({"Forwarded": "for=unknown;proto=wss"}, ("https", "upstream:8765", "10.0.0.1")),
        ({"X-Forwarded-Proto": "wss", "X-Forwarded-Host": "a"}, ("https", "a", "10.0.0.1")),
        ({"X-Forwarded-For": "2001:db8::7"}, ("http", "upstream:8765", "2001:db8::7")),
        ({"X-Forwarded-For": "[2001:db8::7]:4711"}, ("http", "upstream:8765", "2001:db8::7")),
        ({"Forwarded": r'host="chat\.example.com"'}, ("http", "chat.example.com", "10.0.0.1")),
        # What cannot be a name or a scheme is not taken for one.
        ({"X-Forwarded-Host": "chat example", "X-Forwarded-Proto": "gopher"}, ("http", "upstream:8765", "10.0.0.1")),
        ({"X-Forwarded-Host": "a@evil.example"}, ("http", "upstream:8765", "10.0.0.1")),
        ({"Forwarded": "nonsense"}, ("http", "upstream:8765", "10.0.0.1")),
        # Both are there: one of them may be the client's own, so what they contradict each other in is not believed.
        ({"X-Forwarded-Host": "ours", "Forwarded": "host=theirs"}, ("http", "upstream:8765", "10.0.0.1")),
        (
            {"X-Forwarded-Host": "chat.example.com", "Forwarded": "host=Chat.Example.com;proto=https"},
            ("https", "Chat.Example.com", "10.0.0.1"),
        ),
        (
            {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "Forwarded": "for=192.0.2.8"},
            ("https", "upstream:8765", "10.0.0.1"),
        ),
    ],
)
async def test_a_trusted_proxy_is_believed(headers: dict[str, str], expected: Seen) -> None:
    assert await seen(headers) == expected


UNTOUCHED = ("http", "upstream:8765", "10.0.0.1")
MALFORMED = [
    'for="x, host=evil.com',
    'for="192.0.2.7";host="evil.com',
    "for=192.0.2.7;host=evil.com\x00",
    "for=192.0.2.7:80;host=evil.com",  # a colon needs quotes
    "for=[2001:db8::7];host=evil.com",
    'for="2001:db8::7";host=evil.com',  # IPv6 needs brackets
    'for="[192.0.2.7]";host=evil.com',
    'for="192.0.2.7:x";host=evil.com',
    "for=evil;host=evil.com",
    "host=evil.com;host=evil.com",
    "for=192.0.2.7 host=evil.com",
    "for = 192.0.2.7;host=evil.com",
    "for=;host=evil.com",
    'for="";host=evil.com',
    "host=evil.com;nonsense",
    'host="evil.com:65536"',
    'host="evil.com:"',
    'host="a@evil.com"',
    'host="evil.com/path"',
    "host=evil.com;proto=gopher",
    "host=evil.com," + "x" * 9_000,
    'host=evil.com, for="192.0.2.9',
    "host=evil.com;by=nobody",
    "host=evil.com" + "," * 8_190,
]


@pytest.mark.parametrize("header", MALFORMED)
async def test_a_malformed_forwarded_says_nothing_at_all(header: str) -> None:
    assert await seen({"Forwarded": header}) == UNTOUCHED
    assert await seen({"Forwarded": header, "X-Forwarded-Host": "ours"}) == ("http", "ours", "10.0.0.1")


@pytest.mark.parametrize("cut", range(1, 60))
async def test_a_header_is_believed_whole_or_not_at_all(cut: int) -> None:
    """However it was cut off: no part of an address or a name is ever taken for a whole one."""
    header = 'for="[2001:db8::7]:4711";host="chat.example.com";proto="https"'[:cut]
    scheme, host, remote = await seen({"Forwarded": header})
    assert scheme == "http"
    assert host in ("upstream:8765", "chat.example.com")
    assert remote in ("10.0.0.1", "2001:db8::7")


async def test_lines_of_a_repeated_header_are_one_list_in_their_order() -> None:
    chain = [("Forwarded", "for=127.0.0.1;host=evil.example"), ("Forwarded", "for=192.0.2.7;host=chat.example.com")]
    assert await seen([*chain, ("Forwarded", "for=10.0.0.2")]) == ("http", "chat.example.com", "192.0.2.7")
    assert await seen([*chain, ("Forwarded", 'for="10.0.0.2')]) == UNTOUCHED
    usual = [("X-Forwarded-For", "127.0.0.1, 192.0.2.7"), ("X-Forwarded-For", "10.0.0.2")]
    assert await seen(usual) == ("http", "upstream:8765", "192.0.2.7")


async def test_a_header_of_blanks_or_backslashes_is_read_at_once() -> None:
    """A pattern that tries again from every place would take minutes for these."""
    async with asyncio.timeout(30):
        for header in (" " * 8_000 + "x", '"' + "\\" * 7_999, 'a="' + "\\" * 7_999, "a=b " * 2_000, ";" * 8_000):
            scheme, host, _ = await seen({"Forwarded": header})
            assert (scheme, host) == UNTOUCHED[:2]


async def test_what_is_not_believed_is_said_once() -> None:
    middleware = trust_proxies(TRUSTED)
    with logged(proxies) as lines:
        for _ in range(3):
            await seen({"Forwarded": 'for="x, host=evil.com', "X-Forwarded-Proto": "gopher"}, middleware=middleware)
            await seen({"Forwarded": "host=a", "X-Forwarded-Host": "b"}, middleware=middleware)
            await seen({"Forwarded": "nonsense"}, "192.0.2.1", middleware=middleware)
    assert [(line["event"], line["value"]) for line in lines] == [
        (
            "a trusted proxy's Forwarded is not made of name=value pairs as in RFC 7239; it is not believed",
            'for="x, host=evil.com',
        ),
        (
            "a trusted proxy's X-Forwarded-Proto names a scheme that is neither http nor https; it is not believed",
            "gopher",
        ),
        ("a trusted proxy's Forwarded contradicts the same request's X-Forwarded-Host; it is not believed", "host=a"),
    ]


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "", "2001:db8::1"])
async def test_a_stranger_is_not(peer: str) -> None:
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "10.9.9.9"}
    assert await seen(headers, peer) == ("http", "upstream:8765", peer)
    assert await seen({"Forwarded": "host=evil.example;proto=https"}, peer) == ("http", "upstream:8765", peer)


async def test_of_a_chain_of_proxies_the_outermost_trusted_one_is_believed() -> None:
    """The browser wrote the first of each; a load balancer and an nginx of ours added one each."""
    headers = {
        "X-Forwarded-For": "127.0.0.1, 192.0.2.7, 10.0.0.2",
        "X-Forwarded-Host": "evil.example, chat.example.com, inner.example.com",
        "X-Forwarded-Proto": "http, https, http",
    }
    assert await seen(headers) == ("https", "chat.example.com", "192.0.2.7")
    chain = "for=127.0.0.1;host=evil.example, for=192.0.2.7;host=chat.example.com;proto=https, for=10.0.0.2"
    assert await seen({"Forwarded": chain}) == ("https", "chat.example.com", "192.0.2.7")


async def test_a_host_that_only_the_last_proxy_names_is_that_of_the_whole_chain() -> None:
    headers = {"X-Forwarded-For": "192.0.2.7, 10.0.0.2", "X-Forwarded-Host": "chat.example.com"}
    assert await seen(headers) == ("http", "chat.example.com", "192.0.2.7")
    before = {**headers, "X-Forwarded-For": "127.0.0.1, 192.0.2.7, 10.0.0.2"}  # the browser's own is the first
    assert await seen(before) == ("http", "chat.example.com", "192.0.2.7")


async def test_what_is_said_of_a_header_is_short_and_without_what_looks_like_a_secret() -> None:
    with logged(proxies) as lines:
        await seen({"Forwarded": f'for="https://ann:hunter2@host/", {"x" * 1_000}'}, middleware=trust_proxies(TRUSTED))
    (line,) = lines
    assert line["value"].startswith('for="https://ann:')
    assert "hunter2" not in line["value"]
    assert len(line["value"]) <= 100


async def test_a_header_of_endless_hops_is_read_from_its_end() -> None:
    chain = ", ".join(["10.0.0.9"] * 10_000)
    assert await seen({"X-Forwarded-For": f"evil, {chain}"}) == ("http", "upstream:8765", "10.0.0.9")
    for name, start in (("X-Forwarded-For", ""), ("Forwarded", "for=")):
        for hops, found in ((MAX_HOPS - 1, "192.0.2.7"), (MAX_HOPS, "10.0.0.9")):
            header = ", ".join([f"{start}192.0.2.7"] + [f"{start}10.0.0.9"] * hops)
            assert await seen({name: header}) == ("http", "upstream:8765", found)
    assert MAX_HOPS < 100


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1%eth0", True),
        ("127.0.0.2", False),
        ("", False),
        (None, False),
        ("unix", False),
    ],
)
def test_networks_are_compared_as_addresses(address: str | None, trusted: bool) -> None:
    assert is_trusted(address, TRUSTED) is trusted


@pytest.mark.parametrize("trusted", [("unix",), TRUSTED])
async def test_whoever_comes_by_a_unix_socket_is_trusted_when_that_is_said(
    trusted: tuple[Proxy, ...], tmp_path: Path
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"{request.scheme} {request.host}")

    app = web.Application(middlewares=[trust_proxies(trusted)])
    app.add_routes([web.get("/", handler)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    headers = {"Host": "upstream", "Forwarded": "host=chat.example.com;proto=https"}
    async with (
        ClientSession(connector=UnixConnector(str(tmp_path / "socket"))) as http,
        http.get("http://upstream/", headers=headers) as response,
    ):
        assert await response.text() == ("https chat.example.com" if "unix" in trusted else "http upstream")
    await runner.cleanup()
    assert proxy("unix:") == proxy("unix") == "unix"
