"""The routes behind the admin page, on a real server: days, conversations, a user's connections, CORS, cookies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from multidict import CIMultiDict

from exporter import __version__
from tests.servers.exporter import Exporter, InProcess, in_process, locked, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAYS, TOP = "/v1/messaging/stats/days", "/v1/messaging/conversations/top"
PAGE = "https://intranet.example"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def exporter(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exporter]:
    folder = tmp_path_factory.mktemp("admin")
    async with running(folder, "--verify.interval=0", "--web.cors-origins", PAGE) as exporter:
        yield exporter


def bearer(exporter: Exporter | InProcess, role: str = "admin") -> dict[str, str]:
    return {"Authorization": f"Bearer {exporter.token('root', role=role)}"}


def connections(user: str) -> str:
    return f"/v1/messaging/users/{user}/connections"


async def test_only_admins_may_ask_or_change_anything(exporter: Exporter) -> None:
    for method, path in (("GET", DAYS), ("GET", TOP), ("GET", connections("ann")), ("DELETE", connections("ann"))):
        assert (await exporter.request(method, path))[0] == 401
        assert (await exporter.request(method, path, headers=bearer(exporter, "user")))[0] == 403


async def test_the_stats_tell_version_start_refusals_failures_and_the_share_in_time(exporter: Exporter) -> None:
    await exporter.conversation("quality", "ann", "bob")
    ann, bob = await exporter.connect("ann"), await exporter.connect("bob")
    before = await exporter.stats()
    await exporter.refused("nonsense")
    await ann.send("send", conversation="elsewhere", body="x", id="1")
    await ann.frame("error")
    for tab in (ann, bob):
        await tab.join("quality")
    await ann.say("quality", "hello", "2")
    await bob.frame("message")
    after = await exporter.stats()
    assert after["version"] == __version__
    assert datetime.fromisoformat(after["started_at"]) <= datetime.now(UTC)
    assert after["started_at"] == before["started_at"]
    grown = [
        {reason: count - before["refused"][kind][reason] for reason, count in after["refused"][kind].items()}
        for kind in ("connections", "commands")
    ]
    assert [{reason: n for reason, n in counts.items() if n} for counts in grown] == [
        {"unauthenticated": 1},
        {"not_joined": 1},
    ]
    assert (after["sends_failed"], after["delivered_in_time"]) == (0, 1.0)
    assert set(after["since"].values()) == {None}
    for tab in (ann, bob):
        await tab.close()


async def test_a_send_that_the_database_refused_is_a_failed_send(tmp_path: Path) -> None:
    async with running(tmp_path, "--database.timeout", "0.3s") as exporter:
        await exporter.conversation("c", "ann")
        ann = await exporter.connect("ann")
        await ann.join("c")
        assert (await exporter.stats())["delivered_in_time"] is None
        with locked(exporter.database):
            await ann.send("send", conversation="c", body="x", id="1")
            assert (await ann.frame("error"))["code"] == "unavailable"
            stats = await exporter.stats()
        assert (stats["sends_failed"], stats["refused"]["commands"]["unavailable"]) == (1, 1)
        assert stats["since"]["sends_failing"] is not None
        await ann.close()


async def test_the_days_are_json_or_csv_and_as_many_as_are_asked_for(exporter: Exporter) -> None:
    await exporter.conversation("days", "ann", "bob")
    for user in ("ann", "bob"):
        tab = await exporter.connect(user)
        await tab.join("days")
        await tab.say("days", "hello", f"day {user}")
        await tab.close()
    today = datetime.now(UTC).date()
    status, body, headers = await exporter.get(DAYS, headers=bearer(exporter))
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
    assert [day["day"] for day in body["days"]] == [str(today - timedelta(days=ago)) for ago in range(29, -1, -1)]
    messages_today = (await exporter.stats())["messages_today"]
    assert body["days"][-1] == {"day": str(today), "messages": messages_today, "active_users": 2}

    status, text, headers = await exporter.get(f"{DAYS}?days=2", headers=bearer(exporter) | {"Accept": "text/csv"})
    assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8; header=present")
    assert text.decode().split("\r\n") == [
        "day,messages,active_users",
        f"{today - timedelta(days=1)},0,0",
        f"{today},{messages_today},2",
        "",
    ]
    accept = {"Accept": "text/csv;q=0.5, application/json"}
    _, _, headers = await exporter.get(DAYS, headers=bearer(exporter) | accept)
    assert headers["Content-Type"] == "application/json"
    lines = CIMultiDict([*bearer(exporter).items(), ("Accept", "application/json;q=0.5"), ("Accept", "text/csv")])
    async with exporter.http.get(exporter.url + DAYS, headers=lines) as answer:
        assert answer.content_type == "text/csv", "lines of a header are one list"
    assert len((await exporter.get(f"{DAYS}?days=400", headers=bearer(exporter)))[1]["days"]) == 400


@pytest.mark.parametrize("days", ["0", "401", "-1", "x", "", "1e2", "٣"])
async def test_days_that_are_none_are_refused(exporter: Exporter, days: str) -> None:
    status, body, _ = await exporter.get(f"{DAYS}?days={days}", headers=bearer(exporter))
    assert (status, body["detail"]) == (400, "days is a number from 1 to 400")


async def test_the_largest_and_the_busiest_conversations(exporter: Exporter) -> None:
    for name, count in (("big", 9), ("small", 2)):
        await exporter.conversation(name, "ann", "bob", "eve")
        tab = await exporter.connect("ann")
        await tab.join(name)
        for number in range(count):
            await tab.say(name, "hello", f"{name} {number}")
        await tab.close()
    status, body, _ = await exporter.get(f"{TOP}?limit=1", headers=bearer(exporter))
    assert status == 200
    assert body == {
        "largest": [{"id": "big", "total_messages": 9, "members": 3}],
        "busiest": [{"id": "big", "messages": 9}],
        "undercounted_by": 0,
        "scope": "node",
        "error": None,
    }
    assert (await exporter.get(f"{TOP}?limit=0", headers=bearer(exporter)))[0] == 400


async def test_the_largest_are_looked_for_once_a_minute_however_many_ask(tmp_path: Path) -> None:
    async with in_process(tmp_path) as exporter:
        await exporter.conversation("big", "ann", "bob")
        largest = (await exporter.get(TOP, headers=bearer(exporter)))[1]["largest"]
        assert largest == [{"id": "big", "total_messages": 0, "members": 2}]
        await exporter.server.store.close()
        for _ in range(2):
            _, body, _ = await exporter.get(TOP, headers=bearer(exporter))
            assert (body["largest"], body["error"]) == (largest, None)


async def test_with_the_database_down_the_busiest_are_known_and_the_largest_are_null_with_the_reason(
    tmp_path: Path,
) -> None:
    async with in_process(tmp_path) as exporter:
        exporter.server.node.busiest.count("c", exporter.server.node._now())
        await exporter.server.store.close()
        _, body, _ = await exporter.get(TOP, headers=bearer(exporter))
        assert (body["largest"], body["busiest"]) == (None, [{"id": "c", "messages": 1}])
        assert body["error"]


async def test_a_user_is_looked_up_and_disconnected_everywhere_with_4003(exporter: Exporter) -> None:
    path = connections("zo%C3%A9%2F1")
    tabs = [await exporter.connect("zoé/1") for _ in range(2)]
    bystander = await exporter.connect("ann")
    status, body, headers = await exporter.get(path, headers=bearer(exporter))
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert (body["user"], body["connected"], body["connections"], body["scope"]) == ("zoé/1", True, 2, "node")
    assert body["since"] == min(body["opened_at"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(body["since"])) < timedelta(seconds=60)

    before = await exporter.scrape()
    assert (await exporter.request("DELETE", path, headers=bearer(exporter)))[0] == 204
    for tab in tabs:
        assert await tab.closed() == (4003, "disconnected by an admin")
    name = 'messaging_connections_closed_total{reason="admin"}'
    assert (await exporter.scrape())[name] - before[name] == 2
    _, body, _ = await exporter.get(path, headers=bearer(exporter))
    assert (body["connected"], body["since"], body["connections"], body["opened_at"]) == (False, None, 0, [])
    await bystander.barrier()
    again = await exporter.connect("zoé/1")  # with a valid token they may come back
    await again.close()
    await bystander.close()


async def test_a_page_of_a_named_origin_may_read_the_stats_with_a_token_and_no_other_may(exporter: Exporter) -> None:
    for path in ("/v1/messaging/stats", "/v1/messaging/stats/history", DAYS):
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        status, _, headers = await exporter.request("OPTIONS", path, headers=asked)
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, PAGE)
        assert "Authorization" in headers["Access-Control-Allow-Headers"]
        status, _, headers = await exporter.get(path, headers=bearer(exporter) | {"Origin": PAGE})
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, PAGE)
        assert "Access-Control-Allow-Credentials" not in headers
        assert {"Origin", *(("Accept", "Cookie") if path == DAYS else ())} <= set(headers["Vary"].split(", "))
        assert headers["Access-Control-Expose-Headers"] == "Date", "the page tells times by it"
        status, _, headers = await exporter.get(path, headers={"Origin": PAGE})
        assert (status, headers["Access-Control-Allow-Origin"]) == (401, PAGE), "a page can read why it was refused"
        for origin in ("https://evil.example", "null", "http://intranet.example"):
            status, _, headers = await exporter.get(path, headers=bearer(exporter) | {"Origin": origin})
            assert "Access-Control-Allow-Origin" not in headers
            status, _, headers = await exporter.request("OPTIONS", path, headers=asked | {"Origin": origin})
            assert (status, "Access-Control-Allow-Origin" in headers) == (405, False)
    for path in (TOP, connections("ann"), "/metrics", "/v1/messaging/conversations"):
        _, _, headers = await exporter.get(path, headers=bearer(exporter) | {"Origin": PAGE})
        assert "Access-Control-Allow-Origin" not in headers


async def test_without_the_flag_there_is_no_cors(tmp_path: Path) -> None:
    async with in_process(tmp_path) as exporter:
        _, _, headers = await exporter.get("/v1/messaging/stats", headers=bearer(exporter) | {"Origin": PAGE})
        assert not [name for name in headers if name.startswith("Access-Control")]


async def test_for_every_page_is_for_pages_alone(tmp_path: Path) -> None:
    async with in_process(tmp_path, cors_origins=("*",)) as exporter:
        for origin, told in (({"Origin": PAGE}, PAGE), ({}, None)):
            _, _, headers = await exporter.get("/v1/messaging/stats", headers=bearer(exporter) | origin)
            assert headers.get("Access-Control-Allow-Origin") == told


async def test_the_page_may_disconnect_with_its_cookie_and_another_sites_page_may_not(exporter: Exporter) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        form = {"token": f"Bearer {exporter.token('root', role='admin')}"}
        json = {"Accept": "application/json", "Origin": exporter.url}
        async with browser.post(f"{exporter.url}/admin/sign-in", data=form, headers=json) as answer:
            assert answer.status == 200
        url = f"{exporter.url}{connections('nobody')}"
        async with browser.delete(url, headers={"Origin": exporter.url}) as answer:
            assert answer.status == 204
        for headers in ({"Origin": "https://evil.example"}, {"Origin": exporter.url, "Sec-Fetch-Site": "same-site"}):
            async with browser.delete(url, headers=headers) as answer:
                assert answer.status == 401


async def test_signing_in_to_a_second_installation_on_the_host_leaves_the_first_sign_in(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running(tmp_path / name)) for name in ("one", "two")]
        jar = aiohttp.CookieJar(unsafe=True)  # as a browser's: by host, whatever the port
        browser = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
        for server in servers:
            form = {"token": server.token("root", role="admin")}
            async with browser.post(f"{server.url}/admin/sign-in", data=form) as answer:
                assert answer.status == 200
        for server in servers:
            async with browser.get(f"{server.url}/v1/messaging/stats") as answer:
                assert answer.status == 200
