"""The admin page's routes: who gets in, what the browser is told to refuse, what is never cached."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from html import unescape

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from cryptography.hazmat.primitives.asymmetric import ec
from multidict import CIMultiDict

from exporter.auth.tokens import Authenticator
from exporter.node.history import History, Sample
from exporter.web import access
from exporter.web.origins import Origins
from exporter.web.problems import problems
from exporter.web.routes.admin import AdminPage

AUTHENTICATOR = Authenticator("HS256", b"a secret of the tests that is long enough")
HISTORY = "/v1/messaging/stats/history"
JSON = {"Accept": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ADMIN = AUTHENTICATOR.sign("ada", role="admin")
USER = AUTHENTICATOR.sign("bob")
EXPIRED = AUTHENTICATOR.sign("ada", role="admin", ttl=-60)
FORGED = Authenticator("HS256", b"some other secret, also long enough for HMAC").sign("ada", role="admin")

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def history() -> History:
    history = History()
    history.record(1_795_352_400.0, Sample(active_connections=3))
    return history


@pytest.fixture
async def client(aiohttp_client: Callable[[web.Application], Awaitable[Client]], history: History) -> Client:
    app = web.Application(middlewares=[problems()])
    app.add_routes(AdminPage(AUTHENTICATOR, history).routes())
    return await aiohttp_client(app)


async def signed_in(client: Client) -> Client:
    response = await client.post("/admin/sign-in", data={"token": ADMIN}, headers=JSON)
    assert response.status == 200
    return client


def view(page: str) -> str:
    match = re.search(r'data-view="([^"]*)"', page)
    assert match is not None
    return match[1]


async def test_everybody_gets_the_page_with_the_sign_in_form(client: Client) -> None:
    response = await client.get("/admin")
    page = await response.text()
    assert (response.status, view(page)) == (200, "sign-in")
    assert 'name="token"' in page


async def test_the_form_says_how_a_token_is_made_with_the_keys_that_there_are(
    aiohttp_client: Callable[[web.Application], Awaitable[Client]], client: Client, history: History
) -> None:
    """Without the folder the command makes a secret elsewhere, and with public keys it makes no token."""
    page = await (await client.get("/admin")).text()
    assert "<code>messaging-exporter token NAME --role admin --data.dir DIR</code>" in page
    public = Authenticator("ES256", ec.generate_private_key(ec.SECP256R1()).public_key())
    app = web.Application(middlewares=[problems()])
    app.add_routes(AdminPage(public, history).routes())
    page = await (await (await aiohttp_client(app)).get("/admin")).text()
    assert "messaging-exporter token" not in page
    assert "Your identity provider makes the token" in page


async def test_the_page_runs_and_asks_nothing_that_is_not_its_own(client: Client) -> None:
    response = await client.get("/admin")
    policy = dict([*part.split(" ", 1), ""][:2] for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    page = await response.text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|https?://", page)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Referrer-Policy"] == "same-origin"


async def test_no_file_of_the_page_names_another_host(client: Client) -> None:
    page = AdminPage(AUTHENTICATOR, History())
    names = {"admin.css", "admin.js", "link.js", "icon.svg"}
    names |= {"messaging-stats.js", "messaging-stats.d.ts", "messaging-stats-react.tsx"}
    assert names == set(page._files)
    for name in names:
        text = await (await client.get(f"/admin/static/{name}")).text()
        assert set(re.findall(r"https?://[^'\" ]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in text


async def test_an_admins_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(client: Client) -> None:
    headers = CIMultiDict([("Accept", "text/plain;q=0.5"), *JSON.items()])  # lines of a header are one list
    response = await client.post("/admin/sign-in", data={"token": f"  {ADMIN}\n"}, headers=headers)
    said = await response.json()
    assert (response.status, said["user"]) == (200, "ada")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", said["expires_at"])
    (cookie,) = response.cookies.values()
    assert cookie.key.startswith(access.COOKIE)
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
    assert 0 < int(cookie["max-age"]) <= 3601
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "pasted", ["Bearer {}", "bearer  {}", "Authorization: Bearer {}", " authorization:bearer {}\n"]
)
async def test_a_pasted_header_signs_in_as_its_token_does(client: Client, pasted: str) -> None:
    response = await client.post("/admin/sign-in", data={"token": pasted.format(ADMIN)}, headers=JSON)
    assert response.status == 200
    (cookie,) = response.cookies.values()
    assert cookie.value == ADMIN


async def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure_by_the_external_url(
    aiohttp_client: Callable[[web.Application], Awaitable[Client]], history: History
) -> None:
    app = web.Application()
    app.add_routes(AdminPage(AUTHENTICATOR, history, origins=Origins((), "https://chat.example.com")).routes())
    client = await aiohttp_client(app)
    response = await client.post("/admin/sign-in", data={"token": ADMIN}, headers=JSON)
    (cookie,) = response.cookies.values()
    assert cookie["secure"]


async def test_a_script_with_an_admins_token_gets_the_page_of_whoever_signed_in(client: Client) -> None:
    for token, shown in ((ADMIN, "panel"), (USER, "sign-in"), (EXPIRED, "sign-in")):
        response = await client.get("/admin", headers={"Authorization": f"Bearer {token}"})
        assert (response.status, view(await response.text())) == (200, shown)


async def test_a_form_of_endless_fields_is_refused_and_not_a_crash(client: Client) -> None:
    response = await client.post("/admin/sign-in", data="&".join(["a=b"] * 101), headers={**JSON, **FORM})
    assert (response.status, response.content_type) == (400, "application/problem+json")


async def test_whoever_signed_in_gets_the_figures(client: Client) -> None:
    await signed_in(client)
    page = await (await client.get("/admin")).text()
    assert view(page) == "panel"
    assert 'data-user="ada"' in page


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        ("", 400, "there is no token"),
        ("nonsense", 401, "not a signed JWT"),
        (EXPIRED, 401, "expired"),
        (FORGED, 401, "signature"),
        (USER, 403, "role is not admin"),
        ("x" * 5000, 400, "too long"),
    ],
    ids=["none", "nonsense", "expired", "forged", "user", "long"],
)
@pytest.mark.parametrize("scripts", [True, False])
async def test_no_other_token_signs_in_and_the_page_says_why(
    client: Client, token: str, status: int, reason: str, scripts: bool
) -> None:
    response = await client.post("/admin/sign-in", data={"token": token}, headers=JSON if scripts else {})
    assert response.status == status
    assert not response.cookies
    if scripts:
        assert response.content_type == "application/problem+json"
        assert reason in (await response.json())["detail"]
    else:
        page = await response.text()
        assert view(page) == "sign-in"
        assert reason in unescape(page).lower().replace("jwt", "JWT")
        assert 'action="./sign-in"' in page, "the page's addresses are relative to /admin/sign-in here"
        assert token == "" or token not in page
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


async def test_without_scripts_signing_in_and_out_leads_back_to_the_page(client: Client) -> None:
    response = await client.post("/admin/sign-in", data={"token": ADMIN}, allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (303, "../admin")
    assert view(await (await client.get("/admin")).text()) == "panel"
    response = await client.post("/admin/sign-out", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (303, "../admin")
    assert view(await (await client.get("/admin")).text()) == "sign-in"


async def test_the_cookie_is_taken_back_where_it_was_given(
    aiohttp_client: Callable[[web.Application], Awaitable[Client]], history: History
) -> None:
    """A browser keeps one of another path beside it."""
    app = web.Application(middlewares=[problems()])
    app.add_routes(AdminPage(AUTHENTICATOR, history, path="/messaging").routes())
    client = await aiohttp_client(app)
    cookies = []
    for path in ("/admin/sign-in", "/admin/sign-out"):
        response = await client.post(path, data={"token": ADMIN}, headers=JSON)
        (cookie,) = response.cookies.values()
        cookies.append((cookie.key, cookie["path"], cookie["httponly"], cookie["samesite"]))
        last = cookie["max-age"]
    assert cookies[0] == cookies[1]
    assert cookies[0][1:] == ("/messaging", True, "Strict")
    assert last == "0"


@pytest.mark.parametrize("path", ["/admin/sign-in", "/admin/sign-out"])
@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_a_page_of_another_site_can_neither_sign_in_nor_out(
    client: Client, path: str, headers: dict[str, str]
) -> None:
    response = await client.post(path, data={"token": ADMIN}, headers={**JSON, **headers})
    assert response.status == 403
    assert not response.cookies


async def test_a_cookie_that_is_forged_expired_or_no_admins_shows_the_form(client: Client) -> None:
    (name,) = (await client.post("/admin/sign-in", data={"token": ADMIN}, headers=JSON)).cookies
    for token in (FORGED, EXPIRED, USER, "nonsense"):
        client.session.cookie_jar.update_cookies({name: token}, client.make_url("/"))
        response = await client.get("/admin")
        assert (response.status, view(await response.text())) == (200, "sign-in")


async def test_a_users_name_cannot_bring_html_into_the_page(client: Client) -> None:
    name = "<script>alert(1)</script>\"'&"
    token = AUTHENTICATOR.sign(name, role="admin")
    await client.post("/admin/sign-in", data={"token": token}, headers=JSON)
    page = await (await client.get("/admin")).text()
    assert "<script>alert" not in page
    match = re.search(r'data-user="([^"]*)"', page)
    assert match is not None
    assert unescape(match[1]) == name


async def test_reloading_the_answer_to_the_form_leads_to_the_page(client: Client) -> None:
    response = await client.get("/admin/sign-in", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (303, "../admin")


async def test_the_address_with_a_slash_leads_to_the_one_without(client: Client) -> None:
    response = await client.get("/admin/", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (308, "../admin")
    response = await client.get("/admin/?refresh=5", allow_redirects=False)
    assert response.headers["Location"] == "../admin?refresh=5"


async def test_files_are_revalidated_and_not_sent_twice(client: Client) -> None:
    response = await client.get("/admin/static/messaging-stats.js")
    assert response.headers["Content-Type"].startswith("text/javascript")
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Content-Encoding"] == "gzip"
    again = await client.get("/admin/static/messaging-stats.js", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip", "gzip"), ("br, *;q=0.1", "gzip"), ("gzip;q=0", None), ("identity, gzip; q=0.0", None), ("br", None)],
)
@pytest.mark.parametrize("path", ["/admin/static/messaging-stats.js", HISTORY])
async def test_who_refuses_what_is_compressed_gets_it_plain(
    client: Client, path: str, accepted: str, encoding: str | None
) -> None:
    headers = {"Accept-Encoding": accepted, "Authorization": f"Bearer {ADMIN}"}
    response = await client.get(path, headers=headers)
    assert (response.status, response.headers.get("Content-Encoding")) == (200, encoding)


async def test_a_cache_between_keeps_the_compressed_and_the_plain_file_apart_and_asks_in_every_form(
    client: Client,
) -> None:
    file = "/admin/static/messaging-stats.js"
    response = await client.get(file)
    etag = response.headers["ETag"]
    assert response.headers["Vary"] == "Accept-Encoding"
    assert etag.startswith('W/"')  # the bytes of the two are not the same
    for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = await client.get(file, headers={"If-None-Match": known})
        assert (again.status, again.headers["ETag"], again.headers["Vary"]) == (304, etag, "Accept-Encoding")
    assert (await client.get(file, headers={"If-None-Match": 'W/"other", ""'})).status == 200


@pytest.mark.parametrize("name", ["admin.html", "nothing.js", "..%2fadmin.py", "%2e%2e%2fauth.py"])
async def test_no_other_file_is_served(client: Client, name: str) -> None:
    response = await client.get(f"/admin/static/{name}")
    assert response.status == 404


async def test_the_history_is_for_admins_by_token_or_by_cookie(client: Client) -> None:
    assert (await client.get(HISTORY)).status == 401
    assert (await client.get(HISTORY, headers={"Authorization": f"Bearer {FORGED}"})).status == 401
    assert (await client.get(HISTORY, headers={"Authorization": f"Bearer {USER}"})).status == 403
    response = await client.get(HISTORY, headers={"Authorization": f"Bearer {ADMIN}"})
    assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
    assert (await response.json())["figures"]["active_connections"] == [3]
    await signed_in(client)
    assert (await client.get(HISTORY)).status == 200
