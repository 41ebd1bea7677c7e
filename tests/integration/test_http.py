"""The HTTP routes as a client meets them: what they answer, whom they refuse and with which document."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pytest
import pytest_asyncio
from yarl import URL

from exporter import __version__
from tests.servers.exporter import CONVERSATIONS, STATS, WS, Exporter, running
from tests.servers.ports import free_port
from tests.servers.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def exporter(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exporter]:
    flags = ("--verify.interval=0", "--limits.frames-per-second=10000")
    async with running(tmp_path_factory.mktemp("http"), *flags) as exporter:
        yield exporter


@pytest.fixture
def room() -> str:
    """A name that no other test has."""
    return f"room-{next(_numbers)}"


def is_problem(answer: tuple[int, Any, Mapping[str, str]], status: int, code: str) -> None:
    """A problem document (RFC 9457) of that status and code, for nobody's cache."""
    found, body, headers = answer
    assert (found, headers["Content-Type"]) == (status, "application/problem+json"), body
    assert headers["Cache-Control"] == "no-store"
    assert body.keys() == {"type", "title", "status", "detail", "code"}
    assert (body["status"], body["code"]) == (status, code)
    assert body["detail"]
    assert body["detail"][0].islower() or not body["detail"][0].isalpha() or body["detail"].startswith("Sec-")


def path(room: str, *rest: str) -> str:
    return "/".join([CONVERSATIONS, quote(room, safe=""), *(quote(part, safe="") for part in rest)])


async def said(exporter: Exporter, room: str, user: str, count: int) -> None:
    """So many messages of this user, who is a member."""
    tab = await exporter.connect(user)
    await tab.join(room)
    for number in range(count):
        await tab.send("send", conversation=room, body=f"message {number}", id=f"{user}-{number}")
    await tab.frame("ack", id=f"{user}-{count - 1}")
    await tab.close()


# --- making and listing -----------------------------------------------------------------------------------


async def test_a_new_conversation_has_its_creator_and_the_others_as_members(exporter: Exporter, room: str) -> None:
    before = (await exporter.scrape())["messaging_registered_users"]
    wanted = {"id": room, "participants": ["bob", "cat", "bob", "ann"]}
    status, body, headers = await exporter.request("POST", CONVERSATIONS, user="ann", json=wanted)
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (201, "application/json", "no-store")
    assert body == {"id": room, "total_messages": 0, "last_seq": 0, "participants": ["ann", "bob", "cat"]}
    # Somebody who never connected may be a member, and is no user for it.
    assert (await exporter.scrape())["messaging_registered_users"] == before


async def test_a_conversation_without_a_name_gets_one(exporter: Exporter) -> None:
    names = set()
    for _ in range(3):
        status, body, _ = await exporter.request("POST", CONVERSATIONS, user="ann", json={"participants": []})
        assert status == 201
        assert body["participants"] == ["ann"]
        names.add(body["id"])
    assert len(names) == 3
    assert all(1 <= len(name) <= 128 for name in names)


async def test_a_name_can_be_given_once(exporter: Exporter, room: str) -> None:
    await exporter.conversation(room, "ann")
    for user in ("ann", "bob"):
        again = await exporter.request("POST", CONVERSATIONS, user=user, json={"id": room, "participants": ["dan"]})
        is_problem(again, 409, "conflict")
    assert (await exporter.get(path(room, "messages"), user="dan"))[0] == 403


async def test_everybody_sees_their_own_conversations_with_their_totals(exporter: Exporter, room: str) -> None:
    ann, bob = f"ann-of-{room}", f"bob-of-{room}"
    await exporter.conversation(room, ann, bob)
    await exporter.conversation(f"{room}-private", ann)
    await said(exporter, room, ann, 3)
    assert (await exporter.request("DELETE", path(room, "messages", "3"), user=ann))[0] == 204
    shared = {"id": room, "total_messages": 2, "last_seq": 3, "participants": [ann, bob]}
    private = {"id": f"{room}-private", "total_messages": 0, "last_seq": 0, "participants": [ann]}
    assert (await exporter.get(CONVERSATIONS, user=ann))[:2] == (200, {"conversations": [shared, private]})
    assert (await exporter.get(CONVERSATIONS, user=bob))[:2] == (200, {"conversations": [shared]})
    assert (await exporter.get(CONVERSATIONS, user=f"nobody-{room}"))[:2] == (200, {"conversations": []})


# --- members ----------------------------------------------------------------------------------------------


async def test_a_member_adds_others_who_may_then_join(exporter: Exporter, room: str) -> None:
    await exporter.conversation(room, "ann")
    wanted = {"participants": ["bob", "ann", "cat"]}
    status, body, _ = await exporter.request("POST", path(room, "participants"), user="ann", json=wanted)
    assert (status, body["participants"]) == (201, ["ann", "bob", "cat"])
    status, body, _ = await exporter.request("POST", path(room, "participants"), user="bob", json=wanted)
    assert (status, body["participants"]) == (201, ["ann", "bob", "cat"])
    bob = await exporter.connect("bob")
    assert (await bob.join(room))["participants"] == ["bob"]
    await bob.close()


async def test_who_is_no_member_changes_no_members(exporter: Exporter, room: str) -> None:
    await exporter.conversation(room, "ann")
    wanted = {"participants": ["dan"]}
    for role in ("user", "admin"):
        options: dict[str, Any] = {"user": "dan", "role": role}
        is_problem(await exporter.request("POST", path(room, "participants"), json=wanted, **options), 403, "forbidden")
        is_problem(await exporter.request("DELETE", path(room, "participants", "ann"), **options), 403, "forbidden")
    nowhere = path("nowhere", "participants")
    is_problem(await exporter.request("POST", nowhere, user="ann", json=wanted), 404, "not_found")
    is_problem(await exporter.request("DELETE", f"{nowhere}/ann", user="ann"), 404, "not_found")


async def test_a_removed_member_is_out_on_every_way(exporter: Exporter, room: str) -> None:
    await exporter.conversation(room, "ann", "bob")
    bob = await exporter.connect("bob")
    await bob.join(room)
    status, body, _ = await exporter.request("DELETE", path(room, "participants", "bob"), user="ann")
    assert (status, body) == (204, b"")
    await bob.frame("left", conversation=room, reason="removed")
    await bob.send("join", conversation=room, id="1")
    assert (await bob.frame("error", id="1"))["code"] == "forbidden"
    await bob.send("send", conversation=room, body="x", id="2")
    assert (await bob.frame("error", id="2"))["code"] == "not_joined"
    is_problem(await exporter.get(path(room, "messages"), user="bob"), 403, "forbidden")
    is_problem(await exporter.request("DELETE", path(room, "participants", "bob"), user="ann"), 404, "not_found")
    await bob.close()


async def test_members_may_remove_themselves_even_the_last_one(exporter: Exporter, room: str) -> None:
    await exporter.conversation(room, "ann")
    assert (await exporter.request("DELETE", path(room, "participants", "ann"), user="ann"))[0] == 204
    is_problem(await exporter.get(path(room, "messages"), user="ann"), 403, "forbidden")


# --- messages ---------------------------------------------------------------------------------------------


async def test_a_client_catches_up_in_pages(exporter: Exporter, room: str) -> None:
    await exporter.conversation(room, "ann", "bob")
    await said(exporter, room, "ann", 120)
    messages = path(room, "messages")
    status, page, _ = await exporter.get(messages, user="bob")
    assert (status, page["last_seq"], len(page["messages"])) == (200, 120, 100)
    first = page["messages"][0]
    assert first.keys() == {"seq", "id", "sender", "body", "sent_at"}
    assert (first["seq"], first["id"], first["sender"], first["body"]) == (1, "ann-0", "ann", "message 0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", first["sent_at"])

    _, page, _ = await exporter.get(f"{messages}?after=100", user="bob")
    assert [message["seq"] for message in page["messages"]] == list(range(101, 121))
    _, page, _ = await exporter.get(f"{messages}?after=5&limit=2", user="bob")
    assert [message["seq"] for message in page["messages"]] == [6, 7]
    for after in (120, 121, 2**62):
        assert (await exporter.get(f"{messages}?after={after}", user="bob"))[1] == {"messages": [], "last_seq": 120}
    assert len((await exporter.get(f"{messages}?limit=1000", user="bob"))[1]["messages"]) == 120


@pytest.mark.parametrize(
    "query",
    ["after=-1", "after=x", "after=1.5", f"after={2**63}", "after=" + "9" * 5_000, "after=", "limit=0", "limit=-1"],
    ids=lambda query: query[:30],
)
async def test_a_page_that_cannot_be_is_refused(exporter: Exporter, room: str, query: str) -> None:
    await exporter.conversation(room, "ann")
    is_problem(await exporter.get(f"{path(room, 'messages')}?{query}", user="ann"), 400, "bad_frame")


async def test_more_than_a_thousand_messages_come_in_several_pages(exporter: Exporter, room: str) -> None:
    """Asking for more is answered with a thousand, not refused: the limit is a most."""
    await exporter.conversation(room, "ann")
    status, page, _ = await exporter.get(f"{path(room, 'messages')}?limit=999999", user="ann")
    assert (status, page) == (200, {"messages": [], "last_seq": 0})


async def test_a_thousand_may_be_named_in_one_request_and_are_listed_in_one_answer(
    exporter: Exporter, room: str
) -> None:
    await exporter.conversation(room, "ann", *(f"user {number}" for number in range(1_000)))
    status, page, _ = await exporter.get(f"{path(room, 'participants')}?limit=999999", user="ann")
    assert (status, len(page["participants"])) == (200, 1_000)


async def test_only_members_read(exporter: Exporter, room: str) -> None:
    await exporter.conversation(room, "ann")
    is_problem(await exporter.get(path(room, "messages"), user="dan"), 403, "forbidden")
    is_problem(await exporter.get(path("nowhere", "messages"), user="ann"), 404, "not_found")


async def test_a_message_is_deleted_by_its_sender_or_an_admin_and_its_number_stays_gone(
    exporter: Exporter, room: str
) -> None:
    await exporter.conversation(room, "ann", "bob")
    await said(exporter, room, "ann", 3)
    for user in ("bob", "dan"):
        is_problem(await exporter.request("DELETE", path(room, "messages", "1"), user=user), 403, "forbidden")
    status, body, _ = await exporter.request("DELETE", path(room, "messages", "1"), user="ann")
    assert (status, body) == (204, b"")
    assert (await exporter.request("DELETE", path(room, "messages", "3"), user="root", role="admin"))[0] == 204
    is_problem(await exporter.request("DELETE", path(room, "messages", "1"), user="ann"), 404, "not_found")
    await said(exporter, room, "bob", 1)
    _, page, _ = await exporter.get(path(room, "messages"), user="ann")
    assert ([message["seq"] for message in page["messages"]], page["last_seq"]) == ([2, 4], 4)


@pytest.mark.parametrize("seq", ["0", "-1", "x", "1.0", "99999999999999999999999", "0" + "1" * 25, "²", "%20"])
async def test_a_message_of_no_number_is_not_found(exporter: Exporter, room: str, seq: str) -> None:
    await exporter.conversation(room, "ann")
    is_problem(await exporter.request("DELETE", path(room, "messages", seq), user="ann"), 404, "not_found")


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["with space", "ünï 😀", "{id}", "a%2Fb", "a/b", "?x=1#y", "+", "a\\b", "<b>&amp;", "'\";--", "x" * 128, "é" * 128],
)
async def test_every_name_that_is_allowed_can_be_asked_for(exporter: Exporter, room: str, name: str) -> None:
    name = f"{name[: 128 - len(room)]}{room}"
    ann = f"ann {name}"[:128]
    await exporter.conversation(name, ann, "bob")
    tab = await exporter.connect(ann)
    await tab.join(name)
    assert (await tab.say(name, "hello", "1"))["conversation"] == name
    await tab.close()

    async def ask(method: str, *rest: str, **options: Any) -> tuple[int, Any]:
        url = URL(exporter.url + path(name, *rest), encoded=True)
        headers = {"Authorization": f"Bearer {exporter.token(ann)}"}
        async with exporter.http.request(method, url, headers=headers, **options) as response:
            return response.status, await response.json() if response.status == 200 else None

    status, page = await ask("GET", "messages")
    assert (status, [message["sender"] for message in page["messages"]]) == (200, [ann])
    assert (await ask("POST", "participants", json={"participants": ["cat"]}))[0] == 201
    assert (await ask("DELETE", "participants", "cat"))[0] == 204
    assert (await ask("DELETE", "messages", "1"))[0] == 204
    [mine] = (await exporter.get(CONVERSATIONS, user=ann))[1]["conversations"]
    assert mine["id"] == name


@pytest.mark.parametrize(
    "name", [".", "..", "...", "a/b", "%2F", "%2E", "?x=1&y#z", "+ ", "😀", "שלום عالم", "é" * 128]
)
async def test_every_name_can_be_asked_for_in_the_query(exporter: Exporter, name: str) -> None:
    """Browsers and URL libraries take the segments . and .. away, and some proxies decode %2F."""
    with contextlib.suppress(AssertionError):  # another run has made it
        await exporter.conversation(name, "ann", name)
    tab = await exporter.connect(name)
    await tab.join(name)
    seq = (await tab.say(name, "hello", os.urandom(8).hex()))["seq"]

    async def ask(method: str, below: str, role: str = "user", **options: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {exporter.token('ann', role=role)}"}
        url = f"{exporter.url}/v1/messaging/{below}"
        async with exporter.http.request(method, url, headers=headers, **options) as response:
            return response.status, await response.json() if response.status == 200 else None

    status, page = await ask("GET", "conversations/messages", params={"id": name, "after": seq - 1})
    assert (status, [message["sender"] for message in page["messages"]]) == (200, [name])
    added = await ask("POST", "conversations/participants", params={"id": name}, json={"participants": ["bob", ".."]})
    assert added[0] == 201
    assert (await ask("GET", "conversations/participants", params={"id": name}))[1]["participants_total"] >= 3
    for user in ("bob", ".."):
        assert (await ask("DELETE", "conversations/participants", params={"id": name, "user": user}))[0] == 204
    admin = {"role": "admin", "params": {"id": name, "seq": seq}}
    assert (await ask("DELETE", "conversations/messages", **admin))[0] == 204
    status, found = await ask("GET", "users/connections", role="admin", params={"id": name})
    assert (status, found["user"], found["connections"]) == (200, name, 1)
    assert (await ask("DELETE", "users/connections", role="admin", params={"id": name}))[0] == 204
    assert (await tab.closed())[0] == 4003


async def test_a_name_that_is_missing_or_too_long_in_the_query_is_named(exporter: Exporter) -> None:
    admin = {"Authorization": f"Bearer {exporter.token('root', role='admin')}"}
    found = await exporter.request("GET", "/v1/messaging/users/connections", headers=admin)
    is_problem(found, 400, "bad_frame")
    assert found[1]["detail"] == "id is empty"
    for query in ("users/connections?id=" + "x" * 257, "conversations/messages?id=" + "é" * 256):
        is_problem(await exporter.request("GET", f"/v1/messaging/{query}", headers=admin), 413, "too_large")


@pytest.mark.parametrize("bytes_of_none", ["%ff", "%ed%a0%80"])  # the second would be a lone surrogate
@pytest.mark.parametrize(
    "route",
    [
        "users/{}/connections",
        "users/connections?id={}",
        "conversations?after={}",
        "conversations/{}/participants",
        "conversations/participants?id=room&after={}",
        "conversations/messages?id={}",
    ],
)
async def test_what_is_no_text_in_an_address_is_refused_and_is_nobody_elses_name(
    exporter: Exporter, route: str, bytes_of_none: str
) -> None:
    headers = {"Authorization": f"Bearer {exporter.token('root', role='admin')}"}
    url = URL(f"{exporter.url}/v1/messaging/{route.format(bytes_of_none)}", encoded=True)
    async with exporter.http.get(url, headers=headers) as response:
        assert (response.status, (await response.json())["detail"]) == (
            400,
            "the address holds bytes that are not UTF-8",
        )


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("", 400, "bad_frame"),
        ("a\x00b", 400, "bad_frame"),
        ("a\nb", 400, "bad_frame"),
        ("\x7f", 400, "bad_frame"),
        ("\x85", 400, "bad_frame"),
        ("\ud800", 400, "bad_frame"),
        ("x" * 129, 413, "too_large"),
    ],
)
async def test_a_name_that_is_not_allowed_is_refused(exporter: Exporter, name: str, status: int, code: str) -> None:
    for wanted in ({"id": name, "participants": []}, {"participants": [name]}):
        is_problem(await exporter.request("POST", CONVERSATIONS, user="ann", json=wanted), status, code)


# --- bodies -----------------------------------------------------------------------------------------------

BODIES = [
    b"",
    b"{}",
    b"{",
    b"[]",
    b"null",
    b'"room"',
    b"\xff\xfe",
    b'{"participants": "bob"}',
    b'{"participants": [1]}',
    b'{"participants": [null]}',
    b'{"participants": null}',
    b'{"id": 1, "participants": []}',
    b'{"participants": [' + b",".join(b'"u%d"' % number for number in range(1_001)) + b"]}",
    b"[" * 100_000,
    b'{"participants": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_a_body_that_makes_no_sense_is_refused(exporter: Exporter, room: str, body: bytes) -> None:
    await exporter.conversation(room, "ann")
    is_problem(await exporter.request("POST", CONVERSATIONS, user="ann", data=body), 400, "bad_frame")
    if b'"id"' not in body:
        is_problem(await exporter.request("POST", path(room, "participants"), user="ann", data=body), 400, "bad_frame")
    assert (await exporter.get(path(room, "messages"), user="ann"))[0] == 200


async def test_a_body_that_is_too_large_is_refused(exporter: Exporter) -> None:
    answer = await exporter.request("POST", CONVERSATIONS, user="ann", data=b" " * (2 * 1024**2))
    is_problem(answer, 413, "too_large")


async def test_a_field_that_nobody_knows_is_passed_over(exporter: Exporter, room: str) -> None:
    wanted = {"id": room, "participants": [], "colour": "blue"}
    assert (await exporter.request("POST", CONVERSATIONS, user="ann", json=wanted))[0] == 201


# --- who may ask ------------------------------------------------------------------------------------------

FOR_USERS = [
    ("POST", CONVERSATIONS),
    ("GET", CONVERSATIONS),
    ("POST", f"{CONVERSATIONS}/room/participants"),
    ("DELETE", f"{CONVERSATIONS}/room/participants/ann"),
    ("GET", f"{CONVERSATIONS}/room/messages"),
    ("DELETE", f"{CONVERSATIONS}/room/messages/1"),
    ("GET", STATS),
    ("GET", f"{STATS}/history"),
]


@pytest.mark.parametrize(("method", "route"), FOR_USERS)
async def test_nobody_asks_without_a_token(exporter: Exporter, method: str, route: str) -> None:
    good = exporter.token("ann", role="admin")
    tries: list[dict[str, Any]] = [
        {},
        {"headers": {"Authorization": ""}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {"Authorization": f"Basic {good}"}},
        {"headers": {"Authorization": f"Bearer {good}x"}},
        {"headers": {"Authorization": f"Bearer {exporter.token('ann', ttl=-60)}"}},
        {"params": {"token": good, "access_token": good}},
    ]
    for options in tries:
        answer = await exporter.request(method, route, **options)
        is_problem(answer, 401, "unauthenticated")
        assert answer[2]["WWW-Authenticate"].startswith("Bearer")


async def test_whoever_gives_a_token_in_another_way_is_told_the_right_one(exporter: Exporter) -> None:
    good = exporter.token("ann")
    for given in (None, good, f"Token {good}", f"Basic {good}"):
        headers = {} if given is None else {"Authorization": given}
        _, body, _ = await exporter.request("GET", CONVERSATIONS, headers=headers)
        assert "Authorization: Bearer TOKEN" in body["detail"], given


async def test_figures_are_for_admins(exporter: Exporter) -> None:
    for route in (STATS, f"{STATS}/history"):
        is_problem(await exporter.get(route, user="ann"), 403, "forbidden")
        status, _, headers = await exporter.get(route, user="root", role="admin")
        assert (status, headers["Cache-Control"]) == (200, "no-store")


async def test_lists_of_conversations_and_of_members_come_in_pages(exporter: Exporter) -> None:
    crowd = [f"crowd {number:04}" for number in range(250)]
    for number in range(7):
        await exporter.conversation(f"paged {number}", "pia", *(crowd if number == 3 else ["quin"]))
    _, first, _ = await exporter.get(f"{CONVERSATIONS}?limit=5", user="pia")
    _, rest, _ = await exporter.get(f"{CONVERSATIONS}?limit=5&after={quote('paged 4')}", user="pia")
    assert [one["id"] for one in first["conversations"] + rest["conversations"]] == [f"paged {n}" for n in range(7)]
    large = first["conversations"][3]
    assert (len(large["participants"]), large["truncated"], large["participants_total"]) == (100, True, 251)
    assert not {"truncated", "participants_total"} & set(rest["conversations"][0])
    found: list[str] = []
    while True:
        query = f"?limit=100&after={quote(found[-1])}" if found else ""
        status, page, _ = await exporter.get(path("paged 3", "participants") + query, user="pia")
        assert (status, page["participants_total"]) == (200, 251)
        if not page["participants"]:
            break
        found += page["participants"]
    assert found == sorted([*crowd, "pia"])
    for query, status in (("limit=0", 400), ("limit=x", 400), ("after=%00", 400), (f"after={'x' * 129}", 413)):
        assert (await exporter.get(f"{CONVERSATIONS}?{query}", user="pia"))[0] == status, query
        assert (await exporter.get(f"{path('paged 3', 'participants')}?{query}", user="pia"))[0] == status, query
    assert (await exporter.get(path("paged 3", "participants"), user="quin"))[0] == 403
    assert (await exporter.get(path("nowhere", "participants"), user="quin"))[0] == 404
    assert (await exporter.get(path("paged 3", "participants")))[0] == 401


async def test_a_page_of_large_messages_ends_early_and_the_next_goes_on(exporter: Exporter) -> None:
    await exporter.conversation("large", "pia")
    body = "x" * 60_000
    pia = await exporter.connect("pia")
    await pia.join("large")
    for number in range(80):
        await pia.say("large", body, str(number))
    await pia.close()
    seen: list[int] = []
    while True:
        after = seen[-1] if seen else 0
        _, page, _ = await exporter.get(f"{path('large', 'messages')}?after={after}&limit=1000", user="pia")
        if not page["messages"]:
            break
        assert page["last_seq"] == 80
        assert len(page["messages"]) <= 72
        seen += [message["seq"] for message in page["messages"]]
    assert seen == list(range(1, 81))


# --- for anyone -------------------------------------------------------------------------------------------


async def test_the_landing_page_says_what_this_is_and_its_links_lead_somewhere(exporter: Exporter) -> None:
    status, body, headers = await exporter.get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = body.decode()
    assert "messaging-exporter" in page
    assert __version__ in page
    assert '<meta name="color-scheme" content="light dark">' in page
    assert 'href="/' not in page, "a proxy may serve it below a path of its own"
    links = [urljoin("/", link) for link in re.findall(r'href="([^"]+)"', page)]
    assert {"/metrics", "/admin", WS, "/openapi.json"} <= set(links)
    for link in links:
        status, answer, _ = await exporter.get(link)
        assert status == (426 if link == WS else 200), link
        assert link != WS or "a proxy must pass them on" in answer["detail"]


async def test_it_is_healthy_and_ready(exporter: Exporter) -> None:
    for route in ("/-/healthy", "/-/ready"):
        for method in ("GET", "HEAD"):
            assert (await exporter.request(method, route))[0] == 200


async def test_the_description_of_the_routes_is_there_for_anyone(exporter: Exporter) -> None:
    status, body, headers = await exporter.get("/openapi.json")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "application/json")
    assert {CONVERSATIONS, STATS, WS, "/metrics"} <= body["paths"].keys()


@pytest.mark.parametrize(
    "route", ["/nowhere", "/metrics/", "/v1", "/v1/messaging", "//metrics", "/..%2f", "/%00", "/<b>"]
)
async def test_what_is_nowhere_is_a_problem_that_repeats_nothing(exporter: Exporter, route: str) -> None:
    answer = await exporter.get(route)
    is_problem(answer, 404, "not_found")
    assert "<b>" not in str(answer[1])


@pytest.mark.parametrize("route", ["/metrics", "/nowhere", CONVERSATIONS])
async def test_an_expectation_that_nobody_knows_is_a_problem_that_repeats_nothing(
    exporter: Exporter, route: str
) -> None:
    answer = await exporter.request("GET", route, user="ann", headers={"Expect": "<b>"})
    is_problem(answer, 417, "bad_request")
    assert "<b>" not in str(answer[1])


@pytest.mark.parametrize(
    ("method", "route", "allowed"),
    [
        ("POST", "/", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", CONVERSATIONS, {"GET", "HEAD", "POST"}),
        ("PUT", f"{CONVERSATIONS}/room/messages", {"GET", "HEAD"}),
        ("GET", f"{CONVERSATIONS}/room/messages/1", {"DELETE"}),
        ("POST", WS, {"GET"}),
        ("POST", STATS, {"GET", "HEAD"}),
    ],
)
async def test_a_method_that_is_not_for_a_route_says_which_are(
    exporter: Exporter, method: str, route: str, allowed: set[str]
) -> None:
    answer = await exporter.request(method, route, user="ann")
    is_problem(answer, 405, "method_not_allowed")
    assert set(answer[2]["Allow"].split(",")) == allowed


async def test_figures_on_a_listener_of_their_own_are_served_only_there(tmp_path: Path) -> None:
    flags = (f"--web.metrics-listen-address=127.0.0.1:{free_port()}", "--web.telemetry-path=/internal/figures")
    async with running(tmp_path, *flags, ready=False) as exporter:
        [line] = [line for line in exporter.lines() if line.get("event") == "listening"]
        [public], [private] = [re.findall(r"http://[\d.:]+", str(line[key])) for key in ("urls", "metrics")]
        assert public != private
        operations = ("/internal/figures", "/-/healthy", "/-/ready", "/admin", STATS)
        for route in operations:
            exporter.url = public
            assert (await exporter.get(route, user="root", role="admin"))[0] == 404, route
            exporter.url = private
            assert (await exporter.get(route, user="root", role="admin"))[0] in (200, 503), route
        assert (await exporter.get(CONVERSATIONS, user="ann"))[0] == 404
        assert (await exporter.get(WS, user="ann"))[0] == 404
        assert (await exporter.get("/metrics"))[0] == 404
        for listener in (public, private):
            exporter.url = listener
            found = re.findall(r'href="([^"]+)"', (await exporter.get("/"))[1].decode())
            links = [urljoin("/", link) for link in found]
            assert ("/internal/figures" in links, WS in links) == (listener == private, listener == public)
            for link in links:
                assert (await exporter.get(link))[0] != 404, (listener, link)
        exporter.url = public
        assert (await exporter.get(WS, user="ann"))[0] == 426
        tab = await exporter.connect("ann")
        exporter.url = private
        status, body, _ = await exporter.get("/internal/figures")
        assert (status, b"\nmessaging_active_connections 1.0\n" in body) == (200, True)
        await tab.close()
        exporter.url = public


async def test_a_request_whose_headers_are_no_text_is_shown_all_the_same(exporter: Exporter) -> None:
    wire = await Wire.open(exporter.url)
    head = b"GET /v1/messaging/request HTTP/1.1\r\nHost: caf\xe9\r\nX-Forwarded-Host: \xff, b\r\nConnection: close\r\n"
    token = exporter.token("ada", role="admin")
    wire.writer.write(head + f"Authorization: Bearer {token}\r\n\r\n".encode())
    answer, _, body = (await wire.rest()).partition(b"\r\n\r\n")
    wire.close()
    assert answer.startswith(b"HTTP/1.1 200"), body
    shown = json.loads(body)
    assert shown["host"] == "caf\\udce9"
    assert shown["headers"] == {"Host": ["caf\\udce9"], "X-Forwarded-Host": ["\\udcff, b"]}


async def test_nothing_that_was_asked_here_was_an_error_of_the_server(exporter: Exporter) -> None:
    assert [line for line in exporter.lines() if line.get("level") not in ("info", "warning")] == []
