"""deploy/nginx, deploy/haproxy, deploy/caddy: each real proxy, with its file, in front of two real nodes."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from exporter.core.websocket_frames import TEXT
from tests.conftest import SERVICES
from tests.deploy.proxies import CONFIGURATIONS, command, configured, environment, proxy
from tests.doubles import client_frame
from tests.embed.hosts import on_aiohttp
from tests.servers.exporter import Client, Exporter
from tests.servers.postgres import Postgres

in_one_loop = pytest.mark.asyncio(loop_scope="module")
through_each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs(name, "postgres")) for name in CONFIGURATIONS]
)
ACTIVE = "messaging_active_connections"


@dataclass
class Installation:
    """Two nodes on one database with one secret, and the URL of each proxy in front of them."""

    nodes: list[Exporter]
    urls: dict[str, str]

    async def connect(self, name: str, user: str, **options: dict[str, str]) -> Client:
        """A person connects through a proxy."""
        return await Client.connect(self.urls[name], self.nodes[0].token(user), **options)

    async def active(self) -> list[float]:
        """Connections of each node, as it says itself."""
        return [(await node.scrape())[ACTIVE] for node in self.nodes]

    async def deserted(self) -> None:
        """Wait until nobody is connected."""
        for node in self.nodes:
            await node.deserted()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installation(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> AsyncIterator[Installation]:
    folder = tmp_path_factory.mktemp("proxies")
    database = {"MESSAGING_DATABASE_URL": postgres.url(postgres.create_database())}
    secret = str(folder / "one" / "data" / "auth.secret")
    async with AsyncExitStack() as stack:
        nodes = []
        for name in ("one", "two"):
            flags = ("--auth.secret-file", secret, "--drain.timeout", "3s", "--web.trusted-proxies", "127.0.0.1")
            node = Exporter(folder / name, *flags, environment=database)
            node.data.mkdir(exist_ok=True)
            stack.push_async_callback(node.kill)
            nodes.append(await node.start())
        addresses = [node.url.removeprefix("http://") for node in nodes]
        urls = {
            name: await stack.enter_async_context(proxy(name, folder / name, addresses))
            for name in CONFIGURATIONS
            if SERVICES[name]()
        }
        yield Installation(nodes, urls)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.needs(name)) for name in CONFIGURATIONS])
def test_the_proxy_itself_finds_nothing_wrong_with_the_file(name: str, tmp_path: Path) -> None:
    path = configured(name, tmp_path / "proxy", 1, ["127.0.0.1:1", "127.0.0.1:2"])
    done = subprocess.run(
        command(name, path, tmp_path / "proxy", check=True),
        env=environment(tmp_path / "proxy"),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warn" not in (done.stdout + done.stderr).lower()


@through_each
@in_one_loop
async def test_people_are_spread_over_the_nodes_talk_and_are_closed_with_the_servers_own_codes(
    installation: Installation, name: str
) -> None:
    await installation.nodes[0].conversation(f"room of {name}", "ann", "bob")
    people = [await installation.connect(name, user) for user in ("ann", "bob", "cid", "dot")]
    assert await installation.active() == [2, 2]
    ann, bob = people[:2]
    await ann.join(f"room of {name}")
    await ann.say(f"room of {name}", "hello", "1")
    await bob.raw('{"type":"ping","id":"' + "x" * 70_000 + '"}')
    assert (await bob.closed())[0] == 1009  # and not the 1006 of a connection that a proxy tore
    await people[2].raw('{"type":"ping","id":"' + "x" * 20_000_000 + '"}')
    assert (await people[2].closed())[0] == 1009
    people[3].connection.transport.write(client_frame(TEXT, b'{"type": "ping", "id": "\xff"}'))
    assert (await people[3].closed())[0] == 1007
    await ann.close()
    await installation.deserted()


@through_each
@in_one_loop
async def test_the_longest_token_that_is_read_arrives(installation: Installation, name: str) -> None:
    signed = installation.nodes[0].token("ann")
    headers = {"Authorization": "Bearer " + signed + "x" * (7_999 - len(signed))}
    url = f"{installation.urls[name]}/v1/messaging/conversations"
    async with installation.nodes[0].http.get(url, headers=headers) as response:
        # Read, and found to be wrong: a proxy's own refusal would be another.
        assert (response.status, response.headers["Content-Type"]) == (401, "application/problem+json")


@through_each
@in_one_loop
async def test_metrics_and_health_are_not_for_the_world_and_the_page_is(installation: Installation, name: str) -> None:
    http, url = installation.nodes[0].http, installation.urls[name]
    for path in ("/metrics", "/-/healthy", "/-/ready", "/%6Detrics", "/%2D/ready"):  # also as the nodes decode them
        async with http.get(URL(url + path, encoded=True)) as response:
            assert response.status == 404, path
    async with http.get(f"{url}/admin") as response:
        assert response.status == 200
    form = {"token": installation.nodes[0].token("root", role="admin")}
    for origin, status in ((url, 200), ("http://evil.example", 403)):
        headers = {"Origin": origin, "Accept": "application/json"}
        async with http.post(f"{url}/admin/sign-in", data=form, headers=headers) as response:
            assert response.status == status, await response.text()
    page = await installation.connect(name, "ann", headers={"Origin": url})
    await page.close()
    await installation.deserted()


@pytest.mark.parametrize("fault", ["refuses", "breaks off"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.needs(name)) for name in CONFIGURATIONS])
async def test_what_a_node_may_have_done_of_a_post_is_not_asked_of_the_other(
    name: str, fault: str, tmp_path: Path
) -> None:
    posts = []

    async def node(request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response()
        posts.append(await request.text())
        if fault == "breaks off":
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"detail": "no"}, status=503, headers={"Retry-After": "7"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", node)
    async with on_aiohttp(app) as one, on_aiohttp(app) as two, aiohttp.ClientSession() as http:
        nodes = [one.removeprefix("http://"), two.removeprefix("http://")]
        async with (
            proxy(name, tmp_path / "proxy", nodes) as url,
            http.post(f"{url}/v1/messaging/conversations", data="a room") as response,
        ):
            assert posts == ["a room"]
            if fault == "breaks off":
                assert response.status == 502
            else:
                assert (response.status, response.headers["Retry-After"]) == (503, "7")
                assert await response.json() == {"detail": "no"}


@pytest.mark.needs("postgres")
@in_one_loop
async def test_while_a_node_drains_and_when_it_is_gone_whoever_comes_is_served_by_the_other(
    installation: Installation,
) -> None:
    one, two = installation.nodes
    seats = [(name, f"{name} {number}") for name in installation.urls for number in range(4)]
    people = {seat: await installation.connect(*seat) for seat in seats}
    before = await installation.active()
    assert min(before) > 0
    closing = {seat: asyncio.create_task(client.closed(60)) for seat, client in people.items()}

    async def comes_back(seat: tuple[str, str]) -> None:
        """Whoever is told that the server goes away connects again at once."""
        assert (await closing[seat])[0] == 1001
        people[seat] = await installation.connect(*seat)

    coming = [asyncio.create_task(comes_back(seat)) for seat in seats]
    assert await one.stop() == 0
    gone = [seat for seat in seats if closing[seat].done()]
    assert len(gone) == before[0]
    await asyncio.gather(*(task for seat, task in zip(seats, coming, strict=True) if seat in gone))
    late = [await installation.connect(name, f"{name} late") for name in installation.urls]
    assert (await two.scrape())[ACTIVE] == len(seats) + len(late)
    for task in (*coming, *closing.values()):
        task.cancel()
    for client in (*people.values(), *late):
        await client.close()
