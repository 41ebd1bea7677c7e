"""``--web.config.file``: read as the exporter toolkit reads it, re-read when it changes, never open when broken."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import bcrypt
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from exporter.core.errors import Misconfigured
from exporter.web.problems import problems
from exporter.web.toolkit import reload
from exporter.web.toolkit.basic_auth import MAX_WAITING, BasicAuth, Busy, credentials
from exporter.web.toolkit.reload import WebConfig
from exporter.web.toolkit.settings import WebSettings, read
from tests.servers.certificates import CertificateAuthority

SAMPLE = Path(__file__).parents[2] / "docs" / "web-config.yml"
SALT = b"$2b$04$" + b"." * 22  # of the lowest cost, and always the same: it is in the names of tests
HASH = bcrypt.hashpw(b"right", SALT).decode()
OTHER_HASH = bcrypt.hashpw(b"other", SALT).decode()
USERS = f"basic_auth_users:\n  ann: {HASH}\n"
TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"


class Running:
    """A real listener in front of a small application with this web configuration."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.config = WebConfig(file)
        self.url = ""

    async def start(self) -> None:
        app = web.Application(
            middlewares=[self.config.middleware(lambda request: request.path in ("/", "/metrics")), problems()]
        )
        app.on_response_prepare.append(self.config.on_response_prepare)

        async def answer(request: web.Request) -> web.Response:
            return web.Response(text="here")

        for path in ("/", "/metrics", "/-/healthy", "/-/ready", "/v1/messaging/stats"):
            app.router.add_get(path, answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=self.config.ssl_context())
        await site.start()
        port = self.runner.addresses[0][1]
        self.url = f"{'https' if self.config.secure else 'http'}://127.0.0.1:{port}"

    async def stop(self) -> None:
        await self.runner.cleanup()
        self.config.close()

    async def get(self, path: str = "/", **kwargs: object) -> aiohttp.ClientResponse:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, **kwargs) as response:
            await response.read()
            return response


Start = Callable[[str], "asyncio.Future[Running]"]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[Running] = []

    async def begin(text: str) -> Running:
        file = tmp_path / "web.yml"
        file.write_text(text)
        one = Running(file)
        running.append(one)
        await one.start()
        return one

    yield begin
    for one in running:
        await one.stop()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def trusting(folder: Path, client: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    if client:
        context.load_cert_chain(folder / f"{client}.crt", folder / f"{client}.key")
    return context


async def eventually(condition: Callable[[], asyncio.Future[bool]], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


# --- the file -----------------------------------------------------------------------------------------------


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_sample_and_so_do_we(tmp_path: Path) -> None:
    CertificateAuthority().write(tmp_path)
    file = tmp_path / "web-config.yml"
    file.write_text(SAMPLE.read_text())
    said = subprocess.run(["promtool", "check", "web-config", str(file)], capture_output=True, text=True, timeout=400)
    assert said.returncode == 0, said.stdout + said.stderr
    settings = read(file)
    assert settings.context is not None
    assert bcrypt.checkpw(b"change me", settings.users[b"prometheus"])
    assert settings.headers["X-Frame-Options"] == "deny"


AGREED_BAD = [
    "nonsense: 1",
    "tls_server_config: {cert_fil: x}",
    "http_server_config: {headers: {Server: x}}",
    "http_server_config: {headers: {X-Frame-Options: allow}}",
    "http_server_config: {headers: {X-Content-Type-Options: sniff}}",
    "http_server_config: {http2: maybe}",
    "basic_auth_users: {ann: plain}",
    "tls_server_config: {cert_file: server.crt}",
    "tls_server_config: {key_file: server.key}",
    "tls_server_config: {cert_file: absent.crt, key_file: server.key}",
    "tls_server_config: {cert_file: server.key, key_file: server.crt}",
    "tls_server_config: {cert_file: server.crt, key_file: other.key}",
    TLS.replace("}", ", client_ca_file: ca.crt}"),
    TLS.replace("}", ", client_auth_type: Whatever}"),
    TLS.replace("}", ", min_version: TLS99}"),
    TLS.replace("}", ", min_version: SSL30}"),
    TLS.replace("}", ", cipher_suites: [TLS_NULL]}"),
    TLS.replace("}", ", curve_preferences: [Round]}"),
    TLS.replace("}", ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: absent.crt}"),
    "tls_server_config: {client_auth_type: RequireAndVerifyClientCert}",
    "a: [",
    "- a",
]
AGREED_GOOD = [
    "",
    "{}",
    USERS,
    TLS,
    "tls_server_config: {}",
    "tls_server_config: {min_version: TLS13}",
    "http_server_config: {http2: false}",
    "http_server_config: {headers: {X-XSS-Protection: 1; mode=block, X-Frame-Options: sameorigin}}",
    TLS.replace("}", ", min_version: TLS12, max_version: TLS12, prefer_server_cipher_suites: false}"),
    TLS.replace("}", ", cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]}"),
    TLS.replace("}", ", curve_preferences: [X25519, CurveP256]}"),
    TLS.replace("}", ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt}"),
    TLS.replace("}", ", client_auth_type: VerifyClientCertIfGiven, client_ca_file: ca.crt}"),
    TLS.replace("}", ", client_auth_type: RequestClientCert}"),
]
# What the toolkit takes and this server does not, or what Debian's promtool (0.42 of the toolkit's age) does not know.
OURS_BAD = [
    TLS.replace("}", ", client_auth_type: RequireAnyClientCert}"),
    TLS.replace("}", ", min_version: TLS13, max_version: TLS12}"),
    TLS.replace("}", ", client_allowed_sans: [x]}"),
    TLS.replace("}", ", cert: x}"),
    "tls_server_config: {cert: x, key: y}",
    "rate_limit: {interval: 1s, burst: 0}",
    "rate_limit: {interval: 1}",
    "rate_limit: {burst: -1}",
    "rate_limit: {burst: true}",
    f"basic_auth_users: {{'a:b': {HASH}}}",
    "basic_auth_users: [ann]",
    USERS + USERS,
    "http_server_config: {headers: {Content-Security-Policy: 'a\\r\\nSet-Cookie: b'}}".replace("'", '"'),
]
OURS_GOOD = ["rate_limit: {interval: 1s, burst: 20}", "http_server_config: {headers: {X-XSS-Protection: 0}}"]


def laid_out(folder: Path, text: str) -> Path:
    CertificateAuthority().write(folder)
    (folder / "other.key").write_bytes(CertificateAuthority().issue("other")[1])
    file = folder / "web.yml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("text", AGREED_GOOD + OURS_GOOD)
def test_a_good_file_is_read(text: str, tmp_path: Path) -> None:
    assert (read(laid_out(tmp_path, text)).context is not None) == ("cert_file" in text)


@pytest.mark.parametrize(("known", "chosen"), [(("X25519", "prime256v1"), "X25519"), (("prime256v1",), "prime256v1")])
def test_the_first_curve_that_this_openssl_takes_is_chosen(
    known: tuple[str, ...], chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def set_ecdh_curve(context: ssl.SSLContext, name: str) -> None:
        if name not in known:  # as Python 3.11.2 says of X25519
            raise ssl.SSLError("[EC: UNKNOWN_GROUP] unknown group")
        tried.append(name)

    monkeypatch.setattr(ssl.SSLContext, "set_ecdh_curve", set_ecdh_curve)
    read(laid_out(tmp_path, TLS.replace("}", ", curve_preferences: [X25519, CurveP256]}")))
    assert tried == [chosen]
    monkeypatch.setattr(ssl.SSLContext, "set_ecdh_curve", _no_curve)
    with pytest.raises(Misconfigured, match="takes none of these"):
        read(laid_out(tmp_path, TLS.replace("}", ", curve_preferences: [CurveP256]}")))


def _no_curve(context: ssl.SSLContext, name: str) -> None:
    raise ssl.SSLError("[EC: UNKNOWN_GROUP] unknown group")


@pytest.mark.parametrize("text", AGREED_BAD + OURS_BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_it(text: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"web\.yml") as caught:
        WebConfig(laid_out(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http_server_config:\n  http2: true\n  http3: true\n", r"http_server_config: unknown key \(line 3\)"),
        ("http_server_config:\n  headers: {9: deny}\n", r'http_server_config.headers: unknown key "9" \(line 2\)'),
        ("\non: {}\n", r'the file: unknown key "on" \(line 2\)'),
        ("\nhttp2: true\n", r'the file: unknown key "http2" \(line 2\)'),
        ("tls_server_config:\n  certs: x\n", r'tls_server_config: unknown key "certs" \(line 2\)'),
        ("\n\nx1: y\n", r"the file: unknown key \(line 3\)"),
    ],
)
def test_a_stray_key_is_named_by_its_line_and_shown_only_when_it_is_a_plain_word(
    text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "web.yml").write_text(text)
    with pytest.raises(Misconfigured, match=words):
        WebConfig(tmp_path / "web.yml")


TLS_LINES = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  "
WRONG = {
    "http_server_config:\n  headers:\n    X-Frame-Options: no": "http_server_config.headers.X-Frame-Options (line 3)",
    "http_server_config:\n  headers:\n    X-Frame-Options: true": "http_server_config.headers.X-Frame-Options (line 3)",
    'http_server_config:\n  headers: {X-XSS-Protection: "\\n"}': "http_server_config.headers.X-XSS-Protection (line 2)",
    "http_server_config:\n  http2: x": "http_server_config.http2 (line 2)",
    "http_server_config:\n  headers: [1]": "http_server_config.headers (line 2)",
    "\nhttp_server_config: [1]": "http_server_config (line 2)",
    "\ntls_server_config: text": "tls_server_config (line 2)",
    "tls_server_config:\n  cert_file: 9": "tls_server_config.cert_file (line 2)",
    "tls_server_config:\n  cert_file: a\n  key_file: server.key": "tls_server_config.cert_file (line 2)",
    "tls_server_config:\n  cert_file: server.crt\n  key_file: a": "tls_server_config.key_file (line 3)",
    "tls_server_config:\n  cert_file: server.crt": "missing one of key or key_file",
    TLS_LINES + "cert: x": "tls_server_config.cert (line 4)",
    TLS_LINES + "min_version: TLS99": "tls_server_config.min_version (line 4)",
    TLS_LINES + "max_version: 1.2": "tls_server_config.max_version (line 4)",
    TLS_LINES + "min_version: TLS13\n  max_version: TLS12": "tls_server_config.min_version (line 4)",
    TLS_LINES + "cipher_suites: [foo]": "tls_server_config.cipher_suites (line 4)",
    TLS_LINES + "cipher_suites: foo": "tls_server_config.cipher_suites (line 4)",
    TLS_LINES + "curve_preferences: [foo]": "tls_server_config.curve_preferences (line 4)",
    TLS_LINES + "prefer_server_cipher_suites: 3": "tls_server_config.prefer_server_cipher_suites (line 4)",
    TLS_LINES + "client_auth_type: foo": "tls_server_config.client_auth_type (line 4)",
    TLS_LINES + "client_auth_type: RequireAnyClientCert": "tls_server_config.client_auth_type (line 4)",
    TLS_LINES + "client_ca_file: server.crt": "tls_server_config.client_ca_file (line 4)",
    TLS_LINES + "client_ca: x\n  client_auth_type: RequireAndVerifyClientCert": "tls_server_config.client_ca (line 4)",
    TLS_LINES + "client_allowed_sans: [a]": "tls_server_config.client_allowed_sans (line 4)",
    "basic_auth_users:\n  ann: hunter2": "basic_auth_users (line 2)",
    "basic_auth_users:\n  ann:": "basic_auth_users (line 2)",
    f"basic_auth_users:\n  'a:b': {HASH}": "basic_auth_users (line 2)",
    "\nbasic_auth_users: [ann]": "basic_auth_users (line 2)",
    "rate_limit:\n  interval: soon": "rate_limit.interval (line 2)",
    "rate_limit:\n  interval: 2020-13-45": "rate_limit.interval (line 2)",
    "rate_limit:\n  interval: 1s\n  burst: many": "rate_limit.burst (line 3)",
    "rate_limit:\n  interval: 1s\n  burst: 010": "rate_limit.burst (line 3)",
    "rate_limit:\n  interval: 1s": "rate_limit.interval (line 2)",
    "rate_limit: {}\nrate_limit: {}": 'line 2: the key "rate_limit" stands twice',
    "http_server_config: &a\n  http2: true\nrate_limit: *a": 'rate_limit: unknown key "http2" (line 2)',
    "http_server_config: &a\n  http2: true\nrate_limit:\n  <<: *a": 'rate_limit: unknown key "http2" (line 2)',
}


@pytest.mark.parametrize(("text", "place"), WRONG.items())
def test_whatever_is_wrong_is_named_with_its_key_and_line(text: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        read(laid_out(tmp_path, text))
    assert place in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.needs("promtool")
def test_promtool_and_this_server_agree_on_what_is_good(tmp_path: Path) -> None:
    said = []
    for number, (text, good) in enumerate([(t, True) for t in AGREED_GOOD] + [(t, False) for t in AGREED_BAD]):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = ["promtool", "check", "web-config", str(laid_out(folder, text))]
        if (subprocess.run(command, capture_output=True, timeout=400).returncode == 0) is not good:
            said.append(text)
    assert not said, "promtool is of another opinion"


def test_a_secret_that_stands_where_a_key_belongs_is_not_shown(tmp_path: Path) -> None:
    for text in (f"basic_auth_users: {{ann: 'hunter2 {HASH}'}}", "{'hunter2 secret!': 1}", "a: 'hunter2"):
        with pytest.raises(Misconfigured) as caught:
            read(laid_out(tmp_path, text))
        assert "hunter2" not in str(caught.value)


def test_certificate_and_key_may_stand_in_the_file_itself(tmp_path: Path) -> None:
    def block(name: str, pem: bytes) -> str:
        return f"  {name}: |\n" + "".join(f"    {line}\n" for line in pem.decode().splitlines())

    cert, key = CertificateAuthority().issue("server")
    before = set(Path(tmp_path).parent.iterdir())
    settings = read(laid_out(tmp_path, "tls_server_config:\n" + block("cert", cert) + block("key", key)))
    assert settings.context is not None
    assert "PRIVATE" not in repr(settings)
    assert set(tmp_path.parent.iterdir()) == before


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path: Path) -> None:
    file = laid_out(tmp_path, TLS)
    cert, key = CertificateAuthority().issue("server", password=b"open sesame")
    (tmp_path / "server.crt").write_bytes(cert)
    (tmp_path / "server.key").write_bytes(key)
    with pytest.raises(Misconfigured, match="encrypted"):
        read(file)


async def test_without_a_file_nothing_is_asked_and_nothing_is_added() -> None:
    config = WebConfig(None)
    assert not config.secure
    assert config.ssl_context() is None
    config.close()


# --- basic auth ---------------------------------------------------------------------------------------------


async def test_basic_auth_guards_the_guarded_and_nothing_else(start) -> None:
    server = await start(USERS)
    for path in ("/", "/metrics"):
        refused = await server.get(path)
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert refused.content_type == "application/problem+json"
        assert (await server.get(path, headers=basic("ann", "right"))).status == 200
    for path in ("/-/healthy", "/-/ready", "/v1/messaging/stats"):
        assert (await server.get(path)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        basic("ann", "wrong"),
        basic("ann", ""),
        basic("Ann", "right"),
        basic("bob", "right"),
        basic("", ""),
        basic("ann", "right" + "x" * 100),
        basic("ann", "right\x00"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xfe").decode()},
        {"Authorization": "Bearer abc"},
        {"Authorization": basic("ann", "right")["Authorization"].replace("Basic", "Digest")},
    ],
)
async def test_a_wrong_password_is_refused_and_again(start, headers: dict[str, str]) -> None:
    server = await start(USERS)
    for _ in range(2):
        assert (await server.get("/metrics", headers=headers)).status == 401
    assert (await server.get("/metrics", headers=basic("ann", "right"))).status == 200


def test_a_password_longer_than_bcrypt_reads_is_refused_though_its_beginning_is_right() -> None:
    async def check() -> None:
        auth = BasicAuth()
        users = {b"ann": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4))}
        assert await auth.allows(users, b"ann", b"x" * 72)
        assert not await auth.allows(users, b"ann", b"x" * 73)
        auth.close()

    asyncio.run(check())


class Checks:
    """Stands in for bcrypt: counts, and waits until it is let go."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes]] = []
        self.at_once = self.most_at_once = 0
        self.go = threading.Event()

    def __call__(self, password: bytes, hash: bytes) -> bool:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.seen.append((password, hash))
        assert self.go.wait(10)
        self.at_once -= 1
        return password == b"right"


async def test_passwords_are_checked_off_the_loop_one_at_a_time_and_once_each() -> None:
    checks = Checks()
    auth = BasicAuth(checks)
    users = {b"ann": HASH.encode()}
    asked = [asyncio.ensure_future(auth.allows(users, b"ann", word)) for word in (b"right", b"wrong", b"right") * 5]
    await asyncio.sleep(0)  # the loop turns while bcrypt holds its thread
    checks.go.set()
    assert await asyncio.gather(*asked) == [True, False, True] * 5
    assert [await auth.allows(users, b"ann", word) for word in (b"right", b"wrong")] == [True, False]
    assert sorted(password for password, _ in checks.seen) == [b"right", b"wrong"]
    assert checks.most_at_once == 1
    auth.close()


async def test_the_passwords_of_all_who_may_are_remembered_side_by_side() -> None:
    checks = Checks()
    checks.go.set()
    auth = BasicAuth(checks)
    users = {name: HASH.encode() for name in (b"ann", b"bob", b"cat")}
    for _ in range(3):
        assert [await auth.allows(users, name, b"right") for name in users] == [True] * 3
    assert len(checks.seen) == 3
    auth.close()


async def test_a_password_that_bcrypt_refuses_to_look_at_is_wrong() -> None:
    def refuse(password: bytes, hash: bytes) -> bool:
        raise ValueError("not with this bcrypt")

    auth = BasicAuth(refuse)
    assert not await auth.allows({b"ann": HASH.encode()}, b"ann", b"right")
    auth.close()


async def test_two_authorizations_are_none(start) -> None:
    """A proxy may have looked at the other one."""
    server = await start(USERS)
    both = CIMultiDict([*basic("ann", "right").items(), *basic("ann", "wrong").items()])
    assert (await server.get("/metrics", headers=both)).status == 401


async def test_a_user_who_does_not_exist_costs_a_check_of_the_same_cost() -> None:
    checks = Checks()
    checks.go.set()
    auth = BasicAuth(checks)
    users = {b"ann": bcrypt.hashpw(b"right", bcrypt.gensalt(5))}
    assert not await auth.allows(users, b"nobody", b"right")
    assert not await auth.allows(users, b"nobody", b"right")
    ((_, stand_in),) = checks.seen
    assert stand_in[:7] == users[b"ann"][:7]
    assert bcrypt.checkpw(b"right", stand_in) is False
    auth.close()


async def test_who_guesses_can_neither_queue_without_end_nor_push_out_who_knows() -> None:
    checks = Checks()
    checks.go.set()
    auth = BasicAuth(checks)
    users = {b"ann": HASH.encode()}
    assert await auth.allows(users, b"ann", b"right")
    checks.go.clear()
    guesses = [asyncio.ensure_future(auth.allows(users, b"ann", b"guess %d" % n)) for n in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await auth.allows(users, b"ann", b"one more")
    assert await auth.allows(users, b"ann", b"right")
    checks.go.set()
    assert not any(await asyncio.gather(*guesses))
    auth.close()


async def test_a_client_that_goes_away_does_not_take_the_check_of_another_along() -> None:
    checks = Checks()
    auth = BasicAuth(checks)
    users = {b"ann": HASH.encode()}
    first, second = (asyncio.ensure_future(auth.allows(users, b"ann", b"right")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    checks.go.set()
    assert await second
    auth.close()


async def test_a_password_that_was_changed_in_the_file_is_not_remembered(start) -> None:
    server = await start(USERS)
    assert (await server.get("/metrics", headers=basic("ann", "right"))).status == 200
    server.file.write_text(USERS.replace(HASH, OTHER_HASH))
    assert (await server.get("/metrics", headers=basic("ann", "right"))).status == 401
    assert (await server.get("/metrics", headers=basic("ann", "other"))).status == 200


@pytest.mark.parametrize("header", ["", "Basic", "Basic ", "basic eA==", "Basic eA", "Basic e\u00e9==", "Bearer eDp5"])
def test_a_header_that_is_no_basic_auth_holds_no_credentials(header: str) -> None:
    assert credentials(header) is None


def test_a_password_may_hold_colons() -> None:
    assert credentials(basic("ann", "a:b:c")["Authorization"]) == (b"ann", b"a:b:c")


# --- re-reading ---------------------------------------------------------------------------------------------


async def test_a_file_that_breaks_means_500_but_for_healthy_until_it_is_mended(start) -> None:
    server = await start(USERS)
    for broken in (b"nonsense: 1", b"\xff\xfe\x00", b"", b"# nothing\n", b"basic_auth_users:\n", None):
        if broken is None:
            server.file.unlink()
        else:
            server.file.write_bytes(broken)
        for path in ("/", "/metrics", "/-/ready", "/v1/messaging/stats", "/absent"):
            answer = await server.get(path, headers=basic("ann", "right"))
            assert (answer.status, answer.content_type) == (500, "application/problem+json")
        assert (await server.get("/-/healthy")).status == 200
        server.file.write_text(USERS)
        assert (await server.get("/metrics")).status == 401
        assert (await server.get("/metrics", headers=basic("ann", "right"))).status == 200


def test_a_pipe_is_refused_at_once_and_never_read_as_nothing(tmp_path: Path) -> None:
    """Of a shell's ``<(…)`` the users were gone with the first reload; one with a name held up the whole server."""
    os.mkfifo(tmp_path / "web.yml")
    reading, writing = os.pipe()
    try:
        for path in (tmp_path / "web.yml", Path(f"/dev/fd/{reading}")):
            with pytest.raises(Misconfigured, match="is a pipe, and is read more than once: give a file"):
                WebConfig(path)
    finally:
        os.close(reading)
        os.close(writing)


async def test_the_log_says_once_that_the_file_is_broken_and_once_that_it_is_good(start, capsys) -> None:
    from exporter import logs

    logs.configure()
    server = await start(USERS)
    server.file.write_text("nonsense: 1")
    for _ in range(5):
        await server.get("/metrics")
    server.file.write_text(USERS)
    for _ in range(5):
        await server.get("/metrics")
    lines = [line for line in capsys.readouterr().err.splitlines() if "web configuration" in line]
    assert ["broken" in line for line in lines] == [True, False]


async def test_headers_follow_the_file_and_are_on_every_answer(start) -> None:
    text = "http_server_config: {headers: {X-Frame-Options: deny, Strict-Transport-Security: max-age=1}}\n"
    server = await start(text + USERS)
    for path in ("/", "/-/healthy", "/absent"):
        answer = await server.get(path)
        assert (answer.headers["X-Frame-Options"], answer.headers["Strict-Transport-Security"]) == ("deny", "max-age=1")
    server.file.write_text(text.replace("deny", "sameorigin"))
    answer = await server.get("/")
    assert (answer.status, answer.headers["X-Frame-Options"]) == (200, "sameorigin")


@pytest.mark.parametrize("at_the_start", [True, False])
async def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_the_start: bool
) -> None:
    """A mounted volume swaps a link, and what it then leads to may have been there for long."""

    async def policy(config: WebConfig) -> str:
        async def handler(request: web.Request) -> web.Response:
            return web.Response()

        answer = await config.middleware(lambda request: False)(make_mocked_request("GET", "/"), handler)
        return answer.headers["Content-Security-Policy"]

    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(f"http_server_config:\n  headers:\n    Content-Security-Policy: {name}\n")
    link = tmp_path / "web.yml"
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)

    def lead(to: str) -> None:
        (tmp_path / "link").symlink_to(to)
        (tmp_path / "link").rename(link)

    def read_and_lead(path: Path) -> WebSettings:
        found = read(path)
        lead("three")
        return found

    lead("one")
    if at_the_start:
        monkeypatch.setattr(reload, "read", read_and_lead)
    config = WebConfig(link)
    if not at_the_start:
        lead("two")
        monkeypatch.setattr(reload, "read", read_and_lead)
        await policy(config)
    monkeypatch.setattr(reload, "read", read)
    assert await policy(config) == "three"


async def test_the_rate_limit_holds_for_the_guarded(start) -> None:
    server = await start("rate_limit: {interval: 1h, burst: 2}")
    answers = [await server.get("/metrics") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert answers[-1].headers["Retry-After"]
    assert (await server.get("/-/healthy")).status == 200


def test_the_bucket_fills_with_time_up_to_its_burst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, file = 1_000.0, tmp_path / "web.yml"
    monkeypatch.setattr(time, "monotonic", lambda: now)
    file.write_text("rate_limit: {interval: 2s, burst: 2}")
    config = WebConfig(file)
    taken = []
    for seconds, requests in ((0, 3), (3, 2), (1, 2), (100, 3)):
        now += seconds
        taken.append([config._take_token(config._current.rate) for _ in range(requests)])
    assert taken == [[True, True, False], [True, False], [True, False], [True, True, False]]
    config.close()


async def test_a_limit_that_is_new_in_the_file_begins_with_its_burst(start) -> None:
    server = await start("")
    assert (await server.get("/metrics")).status == 200
    server.file.write_text("rate_limit: {interval: 1h, burst: 2}")
    assert [(await server.get("/metrics")).status for _ in range(3)] == [200, 200, 429]


# --- TLS ----------------------------------------------------------------------------------------------------


def serial(server: Running, folder: Path) -> int:
    """The serial number of the certificate that a new connection is shown."""
    import socket

    from cryptography import x509

    host, _, port = server.url.partition("://")[2].partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        trusting(folder).wrap_socket(plain, server_hostname=host) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


async def test_a_new_certificate_is_used_without_a_restart(start, tmp_path: Path) -> None:
    authority = CertificateAuthority()
    authority.write(tmp_path)
    server = await start(TLS)
    assert (await server.get("/", ssl=trusting(tmp_path))).status == 200
    first = await asyncio.to_thread(serial, server, tmp_path)
    authority.write(tmp_path)
    assert await asyncio.to_thread(serial, server, tmp_path) != first
    assert (await server.get("/", ssl=trusting(tmp_path))).status == 200


async def test_a_certificate_that_breaks_means_500_and_mending_it_helps(start, tmp_path: Path) -> None:
    authority = CertificateAuthority()
    authority.write(tmp_path)
    server = await start(TLS)
    good = (tmp_path / "server.key").read_bytes()
    for broken in (b"", b"garbage", CertificateAuthority().issue("other")[1]):
        (tmp_path / "server.key").write_bytes(broken)
        assert (await server.get("/", ssl=trusting(tmp_path))).status == 500
        assert (await server.get("/-/healthy", ssl=trusting(tmp_path))).status == 200
        (tmp_path / "server.key").write_bytes(good)
        assert (await server.get("/", ssl=trusting(tmp_path))).status == 200


async def test_a_file_that_names_an_absent_certificate_is_good_once_that_is_there(start, tmp_path: Path) -> None:
    authority = CertificateAuthority()
    authority.write(tmp_path)
    server = await start(TLS)
    server.file.write_text(TLS.replace("server.", "next."))
    assert (await server.get("/", ssl=trusting(tmp_path))).status == 500
    authority.write(tmp_path, "next")

    async def mended() -> bool:
        return (await server.get("/", ssl=trusting(tmp_path))).status == 200

    await eventually(mended)


async def test_tls_cannot_be_switched_while_the_server_runs(start, tmp_path: Path) -> None:
    CertificateAuthority().write(tmp_path)
    server = await start("")
    server.file.write_text(TLS)
    assert (await server.get("/")).status == 500
    server.file.write_text("")
    assert (await server.get("/")).status == 200


async def test_a_plain_request_to_a_tls_listener_gets_nowhere(start, tmp_path: Path) -> None:
    CertificateAuthority().write(tmp_path)
    server = await start(TLS)
    with pytest.raises(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session:
            await session.get(server.url.replace("https", "http"))
    assert (await server.get("/", ssl=trusting(tmp_path))).status == 200


@pytest.mark.parametrize("version", ["TLS12", "TLS13"])
async def test_only_the_versions_between_min_and_max_are_spoken(start, tmp_path: Path, version: str) -> None:
    CertificateAuthority().write(tmp_path)
    server = await start(TLS.replace("}", f", min_version: {version}, max_version: {version}}}"))
    for name, number in (("TLS12", ssl.TLSVersion.TLSv1_2), ("TLS13", ssl.TLSVersion.TLSv1_3)):
        context = trusting(tmp_path)
        context.minimum_version = context.maximum_version = number
        if name == version:
            assert (await server.get("/", ssl=context)).status == 200
        else:
            with pytest.raises(aiohttp.ClientError):
                await server.get("/", ssl=context)


CLIENTS = TLS.replace("}", ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt}")


async def test_only_clients_with_a_certificate_of_the_ca_get_in(start, tmp_path: Path) -> None:
    authority = CertificateAuthority()
    authority.write(tmp_path)
    authority.write(tmp_path, "prometheus", client=True, sans=("prometheus.example.com",))
    server = await start(CLIENTS)
    assert (await server.get("/", ssl=trusting(tmp_path, "prometheus"))).status == 200
    with pytest.raises(aiohttp.ClientError):
        await server.get("/", ssl=trusting(tmp_path))
    for name, (cert, key) in {
        "stranger": CertificateAuthority().issue("prometheus", client=True),
        "misused": authority.issue("server", client=False),
    }.items():
        (tmp_path / f"{name}.crt").write_bytes(cert)
        (tmp_path / f"{name}.key").write_bytes(key)
        with pytest.raises(aiohttp.ClientError):
            await server.get("/", ssl=trusting(tmp_path, name))


@pytest.mark.parametrize(
    "name", ["prometheus.example.com", "::1", "10.0.0.1", "spiffe://x/prometheus", "a@example.com"]
)
async def test_only_clients_with_an_allowed_name_get_in(start, tmp_path: Path, name: str) -> None:
    authority = CertificateAuthority()
    authority.write(tmp_path)
    authority.write(tmp_path, "good", client=True, sans=("first.example.com", name))
    authority.write(tmp_path, "bad", client=True, sans=("sub.prometheus.example.com", "::2"))
    server = await start(CLIENTS.replace("}", f", client_allowed_sans: ['{name}']}}"))
    assert (await server.get("/", ssl=trusting(tmp_path, "good"))).status == 200
    with pytest.raises(aiohttp.ClientError):
        await server.get("/", ssl=trusting(tmp_path, "bad"))


async def test_a_new_client_ca_counts_for_the_next_connection(start, tmp_path: Path) -> None:
    first, second = CertificateAuthority("first"), CertificateAuthority("second")
    first.write(tmp_path)
    for name, authority in (("one", first), ("two", second)):
        cert, key = authority.issue(name, client=True)
        (tmp_path / f"{name}.crt").write_bytes(cert)
        (tmp_path / f"{name}.key").write_bytes(key)
    (tmp_path / "clients.crt").write_bytes(first.cert)
    server = await start(CLIENTS.replace("client_ca_file: ca.crt", "client_ca_file: clients.crt"))
    assert (await server.get("/", ssl=trusting(tmp_path, "one"))).status == 200
    (tmp_path / "clients.crt").write_bytes(second.cert)
    assert (await server.get("/", ssl=trusting(tmp_path, "two"))).status == 200
    with pytest.raises(aiohttp.ClientError):
        await server.get("/", ssl=trusting(tmp_path, "one"))
