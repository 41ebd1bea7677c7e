"""Tokens over real sockets: every forged one is 401 and counted, and a good one ends when it says so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exporter.auth.tokens import LEEWAY
from tests.servers.certificates import CertificateAuthority
from tests.servers.exporter import CONVERSATIONS, STATS, Exporter, in_process, running

KEY = rsa.generate_private_key(65_537, 2_048)
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
REJECTED = 'messaging_connections_rejected_total{reason="unauthenticated"}'


def forged(header: dict[str, Any], payload: dict[str, Any], key: bytes) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(key, b".".join(parts), hashlib.sha256).digest() if key else b""
    return b".".join((*parts, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def attacks(secret: bytes) -> dict[str, str]:
    """Tokens that must open nothing; ``secret`` is the installation's, for those that are nearly right."""
    now = time.time()
    good = {"sub": "ann", "exp": now + 600, "role": "admin"}
    signed = jwt.encode(good, secret, "HS256")
    header, payload, signature = signed.split(".")
    other = base64.urlsafe_b64encode(json.dumps(good | {"sub": "root"}).encode()).rstrip(b"=").decode()
    return {
        "none": forged({"alg": "none"}, good, b"") + "",
        "none with a signature": forged({"alg": "none"}, good, b"x"),
        "another algorithm": jwt.encode(good, secret, "HS512"),
        "another key": jwt.encode(good, b"o" * 48, "HS256"),
        "the public key as a secret": forged({"alg": "HS256"}, good, PEM),
        "the algorithm of a key pair": jwt.encode(good, KEY, "RS256"),
        "another payload": f"{header}.{other}.{signature}",
        "no signature": f"{header}.{payload}.",
        "half a signature": f"{header}.{payload}.{signature[:20]}",
        "expired": jwt.encode(good | {"exp": now - LEEWAY - 1}, secret, "HS256"),
        "not yet": jwt.encode(good | {"nbf": now + LEEWAY + 60}, secret, "HS256"),
        "from the future": jwt.encode(good | {"iat": now + LEEWAY + 60}, secret, "HS256"),
        "without an end": jwt.encode({"sub": "ann", "role": "admin"}, secret, "HS256"),
        "with an endless end": forged({"alg": "HS256"}, good | {"exp": float("inf")}, secret),
        "without a name": jwt.encode({"exp": now + 600}, secret, "HS256"),
        "with an empty name": jwt.encode(good | {"sub": ""}, secret, "HS256"),
        "with a long name": jwt.encode(good | {"sub": "x" * 129}, secret, "HS256"),
        "with a control character": jwt.encode(good | {"sub": "a\nb"}, secret, "HS256"),
        "with a role that is no text": jwt.encode(good | {"role": ["admin"]}, secret, "HS256"),
        "oversized": jwt.encode(good | {"x": "y" * 5_900}, secret, "HS256"),
        "no token": "x.y.z",
        "nothing": "",
    }


@pytest.fixture
async def exporter(tmp_path: Path) -> AsyncIterator[Exporter]:
    async with running(tmp_path, "--limits.connections", "1000") as exporter:
        yield exporter


async def test_no_forged_token_opens_anything(exporter: Exporter) -> None:
    secret = (exporter.data / "auth.secret").read_bytes().strip()
    tokens = attacks(secret)
    tokens["oversized"] = jwt.encode({"sub": "ann", "exp": time.time() + 600, "x": "y" * 5_950}, secret, "HS256")
    assert len(tokens["oversized"]) > 8_000
    before = await exporter.scrape()
    for name, token in tokens.items():
        refusal = await exporter.refused(token)
        assert (name, refusal.response.status_code) == (name, 401)
        assert refusal.response.headers["WWW-Authenticate"].startswith("Bearer")
        for path in (STATS, CONVERSATIONS):
            status, body, _ = await exporter.get(path, headers={"Authorization": f"Bearer {token}"})
            assert (name, status, body["code"]) == (name, 401, "unauthenticated")
        status, _, _ = await exporter.get(STATS, headers={"Cookie": f"messaging_token={token}"})
        assert (name, status) == (name, 401)
        if token:
            protocols = ("messaging.v1", f"bearer.{token}")
            assert (await exporter.refused(None, subprotocols=protocols)).response.status_code == 401
    after = await exporter.scrape()
    assert after[REJECTED] - before[REJECTED] == 2 * len(tokens) - 1
    for figure in (
        "active_connections",
        "connected_users",
        "participants",
        "registered_users",
        "connections_opened_total",
    ):
        assert after[f"messaging_{figure}"] == before[f"messaging_{figure}"]
    assert not [line for line in exporter.lines() if line.get("level") == "error"]


async def test_the_role_decides_and_nothing_else(exporter: Exporter) -> None:
    for role, expected in (("user", 403), ("Admin", 403), ("admin ", 403), ("", 401), ("admin", 200)):
        token = jwt.encode(
            {"sub": "ann", "exp": time.time() + 60, "role": role},
            (exporter.data / "auth.secret").read_text().strip(),
            "HS256",
        )
        status, _, headers = await exporter.get(STATS, headers={"Authorization": f"Bearer {token}"})
        assert (role, status) in ((role, expected), ("", 403))
        assert "no-store" in headers["Cache-Control"]


async def test_with_a_public_key_only_its_owner_signs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # what the command does
    (tmp_path / "key.pem").write_bytes(PEM)
    async with in_process(tmp_path, auth_public_key_file=tmp_path / "key.pem") as here:
        claims = {"sub": "ann", "exp": time.time() + 600, "role": "admin"}
        good = {"Authorization": f"Bearer {jwt.encode(claims, KEY, 'RS256')}"}
        assert (await here.get(STATS, headers=good))[0] == 200
        for secret in (PEM, PEM.strip(), b"o" * 48):
            for algorithm in ("HS256", "none", "RS256"):
                bad = forged({"alg": algorithm, "typ": "JWT"}, claims, secret)
                assert (await here.get(STATS, headers={"Authorization": f"Bearer {bad}"}))[0] == 401
        stranger = jwt.encode(claims, rsa.generate_private_key(65_537, 2_048), "RS256")
        assert (await here.get(STATS, headers={"Authorization": f"Bearer {stranger}"}))[0] == 401
        assert not (tmp_path / "data" / "auth.secret").exists()


async def test_a_connection_ends_with_its_token_and_the_token_opens_no_other(tmp_path: Path) -> None:
    async with in_process(tmp_path, heartbeat_interval=2.0) as here:
        token = here.token("ann", ttl=-LEEWAY + 5)  # five seconds are left of the leeway
        from tests.servers.exporter import Client

        client = await Client.connect(here.url, token)
        again = await Client.connect(here.url, token)  # re-used while it holds: fine
        code, _ = await client.closed()
        assert code == 4001
        assert (await again.closed())[0] == 4001
        assert time.time() >= jwt.decode(token, options={"verify_signature": False})["exp"] + LEEWAY
        assert (await here.refused(token)).response.status_code == 401
        assert (await here.get(CONVERSATIONS, headers={"Authorization": f"Bearer {token}"}))[0] == 401
        figures = await here.deserted()
        assert figures['messaging_connections_closed_total{reason="token_expired"}'] == 2


async def test_a_page_of_another_site_can_neither_connect_nor_sign_anybody_in(tmp_path: Path) -> None:
    async with in_process(tmp_path, allowed_origins=("https://chat.example.com",)) as here:
        admin = here.token("root", role="admin")
        refusal = await here.refused(here.token("ann"), headers={"Origin": "https://evil.example.com"})
        assert refusal.response.status_code == 403
        client = await here.connect("ann", headers={"Origin": "https://chat.example.com"})
        await client.close()
        for headers in (
            {"Origin": "https://evil.example.com"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": "null"},
        ):
            status, _, answered = await here.request(
                "POST", "/admin/sign-in", data={"token": admin}, headers=headers | {"Accept": "application/json"}
            )
            assert (status, "Set-Cookie" in answered) == (403, False)
        status, _, answered = await here.request(
            "POST", "/admin/sign-in", data={"token": admin}, headers={"Accept": "application/json"}
        )
        assert status == 200
        cookie = answered["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        holds = {"Cookie": cookie.partition(";")[0]}
        assert (await here.get(STATS, headers=holds))[0] == 200
        # The cookie reads, and neither writes nor opens a WebSocket: another site's page would send it along.
        status, _, _ = await here.request("POST", CONVERSATIONS, json={"participants": []}, headers=holds)
        assert status == 401
        assert (await here.refused(None, headers=holds)).response.status_code == 401


async def test_over_tls_the_cookie_is_secure_and_websockets_are_wss(tmp_path: Path) -> None:
    import ssl

    CertificateAuthority().write(tmp_path)
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    async with in_process(tmp_path, web_config_file=tmp_path / "web.yml") as here:
        assert here.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        token = here.token("root", role="admin")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            form = {"token": token}
            async with http.post(
                here.url + "/admin/sign-in", data=form, headers={"Accept": "application/json"}
            ) as answer:
                assert answer.status == 200
                assert "Secure" in answer.headers["Set-Cookie"]
            headers = {"Authorization": f"Bearer {token}"}
            url = here.url + "/v1/messaging/ws"
            async with http.ws_connect(url, headers=headers, protocols=["messaging.v1"]) as socket:
                assert (await socket.receive_json())["type"] == "welcome"
                await socket.send_json({"type": "ping", "id": "1"})
                assert await socket.receive_json() == {"type": "pong", "id": "1"}
                await socket.close()
