"""What is believed of a proxy's headers: nothing from strangers, and of a chain what the outermost trusted one saw."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from exporter.settings.parsers import network
from exporter.web.proxies import MAX_HOPS, believing, is_trusted

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


async def seen(headers: Mapping[str, str], peer: str = "10.0.0.1") -> Seen:
    """Scheme, host and address of the browser as a handler sees them."""
    found: list[Seen] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        found.append((request.scheme, request.host, request.remote))
        return web.Response()

    request = make_mocked_request("GET", "/", headers={"Host": "upstream:8765", **headers})
    request = request.clone(remote=peer)
    await believing(TRUSTED)(request, handler)
    return found[0]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ("http", "upstream:8765", "10.0.0.1")),
        ({"X-Forwarded-Host": "chat.example.com"}, ("http", "chat.example.com", "10.0.0.1")),
        (
            {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Host": "chat.example.com:8443", "X-Forwarded-Proto": "HTTPS"},
            ("https", "chat.example.com:8443", "192.0.2.7"),
        ),
        (
            {"Forwarded": 'for="[2001:db8::7]:4711";host="chat.example.com";proto=https'},
            ("https", "chat.example.com", "2001:db8::7"),
        ),
        ({"Forwarded": "for=192.0.2.7:80;Proto=https"}, ("https", "upstream:8765", "192.0.2.7")),
        # What cannot be a name or a scheme is not taken for one.
        ({"X-Forwarded-Host": "chat example", "X-Forwarded-Proto": "gopher"}, ("http", "upstream:8765", "10.0.0.1")),
        ({"X-Forwarded-Host": "a@evil.example"}, ("http", "upstream:8765", "10.0.0.1")),
        ({"Forwarded": "nonsense"}, ("http", "upstream:8765", "10.0.0.1")),
        # The X- headers count where both are there: they are those that a proxy of today has set.
        ({"X-Forwarded-Host": "ours", "Forwarded": "host=theirs"}, ("http", "ours", "10.0.0.1")),
    ],
)
async def test_a_trusted_proxy_is_believed(headers: dict[str, str], expected: Seen) -> None:
    assert await seen(headers) == expected


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


async def test_a_header_of_endless_hops_is_read_from_its_end() -> None:
    chain = ", ".join(["10.0.0.9"] * 10_000)
    assert await seen({"X-Forwarded-For": f"evil, {chain}"}) == ("http", "upstream:8765", "10.0.0.9")
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
