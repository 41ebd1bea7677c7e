"""Whose page is it: one answer for WebSockets and for signing in, and a line in the log for each origin refused."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from exporter.web import origins as origins_module
from exporter.web.origins import TOLD, TOLD_IN, Origins
from tests.doubles import Clock
from tests.logged import logged

CHAT = "https://chat.example.com"


def request(origin: str | None, host: str = "upstream:8765", **headers: str) -> web.Request:
    given = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return make_mocked_request("POST", "/", headers=given if origin is None else {**given, "Origin": origin})


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [
        (Origins(), False),
        (Origins((CHAT,)), True),
        (Origins(("*",)), True),
        (Origins(("https://other.example.com",)), False),
        (Origins((), CHAT), True),
        (Origins((), "https://other.example.com"), False),
    ],
)
def test_behind_a_proxy_that_hides_the_name_both_doors_have_one_answer(origins: Origins, allowed: bool) -> None:
    """nginx with ``proxy_pass`` alone: the Host is the upstream's, and a browser says "same-origin"."""
    for more in ({}, {"Sec_Fetch_Site": "same-origin"}):
        assert origins.may_connect(request(CHAT, **more)) is allowed
        assert origins.may_sign_in(request(CHAT, **more)) is allowed


def test_the_servers_own_page_may_sign_in_also_where_others_are_listed() -> None:
    assert Origins((CHAT,)).may_sign_in(request("http://upstream:8765"))


def test_no_listed_page_opens_the_door_for_others() -> None:
    assert not Origins((CHAT,)).may_sign_in(request("https://evil.example", Sec_Fetch_Site="cross-site"))
    assert not Origins((CHAT,)).may_sign_in(request(None, Sec_Fetch_Site="cross-site"))


@pytest.mark.parametrize(
    ("origins", "origin", "secure"),
    [
        (Origins(), CHAT, True),
        (Origins(), "http://chat.example.com", False),
        (Origins(), None, False),
        (Origins((), CHAT), None, True),
        (Origins((), "http://chat.example.com"), None, False),
    ],
)
def test_a_browser_that_speaks_tls_to_somebody_before_us_gets_a_secure_cookie(
    origins: Origins, origin: str | None, secure: bool
) -> None:
    assert origins.is_secure(request(origin)) is secure


def test_the_first_refusal_of_an_origin_is_logged_with_what_to_set() -> None:
    origins = Origins()
    with logged(origins_module) as logged_lines:
        for _ in range(3):
            assert not origins.may_connect(request(CHAT))
            assert not origins.may_sign_in(request(CHAT))
    (line,) = logged_lines
    assert (line["log_level"], line["origin"], line["host"]) == ("warning", CHAT, "upstream:8765")
    assert f"--auth.allowed-origins {CHAT}" in line["hint"]
    assert "--web.trusted-proxies" in line["hint"]


def test_strangers_cannot_fill_the_log() -> None:
    clock = Clock()
    origins = Origins(now=clock)
    with logged(origins_module) as logged_lines:
        for number in range(5 * TOLD):
            origins.may_connect(request(f"https://{number}.example"))
    assert len(logged_lines) == TOLD
    clock.now += TOLD_IN + 1
    with logged(origins_module) as logged_lines:
        for number in range(5 * TOLD):
            origins.may_connect(request(f"https://{number}.example"))
    assert len(logged_lines) == TOLD


@pytest.mark.parametrize("origin", ["null", "file://", "https://a b", "https://[", "x" * 5_000])
def test_what_is_no_origin_is_not_proposed_as_a_setting(origin: str) -> None:
    with logged(origins_module) as logged_lines:
        assert not Origins().may_connect(request(origin))
    assert "--auth.allowed-origins" not in logged_lines[0]["hint"]
