"""``doctor``, as a person runs it: against real databases, brokers and proxies, well and in the ways they break."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exporter.core.errors import Misconfigured
from exporter.doctor import Finding, Outcome, page, status
from exporter.doctor import configuration as configuration_of_doctor
from exporter.doctor import database as database_of_doctor
from exporter.doctor import machine as machine_of_doctor
from exporter.doctor import proxy as proxy_of_doctor
from exporter.settings.model import Settings
from exporter.store.diagnosis import Diagnosis
from exporter.web.sockets import BACKLOG
from tests.deploy.proxies import command, environment, proxy
from tests.servers.exporter import ROOT, Exporter, running
from tests.servers.ports import free_port
from tests.servers.postgres import Postgres

Report = dict[str, tuple[str, str]]
"""Subject to outcome and text."""


def report(out: str) -> Report:
    """The lines of the page; advice stands with the text that it belongs to."""
    found: Report = {}
    subject = ""
    for line in out.splitlines()[2:]:
        if not line.strip():
            break
        outcome, rest = line[:7].strip(), line[9:]
        if outcome:
            subject, _, text = rest.partition("  ")
            found.setdefault(subject, (outcome, text.strip()))
        else:
            found[subject] = (found[subject][0], f"{found[subject][1]}; {rest.strip()}")
    return found


def doctor(
    folder: Path, *flags: str, environment: dict[str, str] | None = None, before: str = ""
) -> tuple[int, Report, str]:
    """Run it in a folder: exit status, report, and all that it said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESSAGING_")}
    words = [sys.executable, "-m", "exporter", "doctor", "--web.listen-address", "127.0.0.1:0", *flags]
    done = subprocess.run(
        ["bash", "-c", f'{before} exec "$@"', "bash", *words],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done.returncode, report(done.stdout), done.stdout + done.stderr


def test_on_a_new_machine_nothing_is_wrong_and_nothing_is_made(tmp_path: Path) -> None:
    code, found, said = doctor(tmp_path)
    assert code == 0, said
    assert found["database"] == ("ok", "SQLite in the data folder: the first start makes it")
    assert found["broker"] == ("-", "none: this node is alone")
    assert {"listen", "data folder", "keys", "clock", "open files", "backlog"} <= set(found)
    assert not list(tmp_path.iterdir())


async def test_beside_a_running_server_everything_is_well_and_the_way_to_it_too(tmp_path: Path) -> None:
    async with running(tmp_path) as exporter:
        code, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", exporter.url)
        assert code == 0, said
        assert found["database"][1].startswith("SQLite 3.")
        assert f" at {tmp_path}/" in found["database"][1]
        assert found["schema, rights"][0] == "ok"
        assert found["proxy: name"] == ("ok", f"arrives as {exporter.url}")
        assert found["proxy: origin"][0] == found["proxy: WebSocket"][0] == "ok"
        await exporter.deserted()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(0o700)
    database = tmp_path / "data" / "messaging.db"
    database.write_bytes(b"garbage" * 2000)
    code, found, _ = doctor(tmp_path)
    told = f"the file is not a database or is damaged ({database}: restore a backup of it, or name another file)"
    assert (code, found["database"]) == (1, ("failed", told))


def test_a_secret_that_others_can_read_is_found_and_so_is_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    secret = tmp_path / "data" / "auth.secret"
    secret.write_text("x" * 64)
    secret.chmod(0o644)
    code, found, _ = doctor(tmp_path)
    assert (code, found["keys"][0]) == (1, "failed")
    assert "x" * 64 not in str(found)
    (tmp_path / "file").write_text("")
    code, found, _ = doctor(tmp_path, "--data.dir", "file/data")
    assert (code, found["data folder"][0]) == (1, "failed")


@pytest.mark.parametrize(
    ("subject", "flags"),
    [
        ("database", ("--no-database.migrate",)),
        ("database", ("--database.schema", "chat")),
        ("broker", ("--redis.password-file", "secret")),
        ("broker", ("--redis.url", "redis://127.0.0.1:1/no-number")),
        ("data folder", ("--data.dir", "file")),
    ],
)
def test_what_ends_a_start_is_found(subject: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, found, said = doctor(tmp_path, *flags)
    assert (code, found[subject][0]) == (1, "failed"), said
    words = [sys.executable, "-m", "exporter", "serve", "--web.listen-address", "127.0.0.1:0", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert started.returncode == 1
    if subject == "data folder":
        assert found[subject][1] == "file is not a folder"
    elif "--no-database.migrate" not in flags:  # where doctor cannot know the folder that a start makes first
        assert found[subject][1] in started.stderr


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[None]:
    """A file system of its own for a folder, where this user may mount one."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False, timeout=30).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_on_a_full_disk_nothing_works_and_on_an_almost_full_one_it_is_a_warning(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with small_disk(data, "size=32m"):
        code, found, said = doctor(tmp_path)
        assert (code, found["data folder"]) == (0, ("warning", "data: 32.0 MiB free; a full disk stops every send"))
        (data / "filler").write_bytes(b"x" * (31 << 20))
        for flags, subject in [
            ((), "data folder"),
            (("--data.dir", "data/new"), "data folder"),
            (("--database.url", "sqlite:///data/chat.db", "--data.dir", "elsewhere"), "data folder"),
            (("--database.url", "sqlite:///chat.db"), "keys"),  # the secret is in the data folder all the same
            (("--auth.secret-file", "data/secret", "--data.dir", "elsewhere"), "keys"),
        ]:
            code, found, said = doctor(tmp_path, *flags)
            assert (code, found[subject][0]) == (1, "failed"), said
            assert "1.0 MiB free" in found[subject][1]
            assert "the disk is full" in found[subject][1]


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_disk_without_a_free_inode_takes_no_new_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "data", "size=2g,nr_inodes=1"):
        code, found, said = doctor(tmp_path)
    assert (code, found["data folder"][0], found["keys"][0]) == (1, "failed", "failed"), said
    assert "out of inodes" in found["data folder"][1]


def test_a_variable_that_nothing_reads_is_a_warning_with_the_one_that_was_meant(tmp_path: Path) -> None:
    variables = {"MESSAGING_LIMITS_CONECTIONS": "hunter2", "MESSAGING_EXPORTER_PORT": "tcp://10.0.0.1:9100"}
    code, found, said = doctor(tmp_path, environment=variables)
    outcome, text = found["environment"]
    assert (code, outcome) == (0, "warning"), said
    assert text.startswith("MESSAGING_LIMITS_CONECTIONS is not known")
    assert "did you mean MESSAGING_LIMITS_CONNECTIONS?" in text
    assert "hunter2" not in said
    assert "MESSAGING_EXPORTER_PORT" not in said


def test_a_variable_that_is_empty_is_a_warning(tmp_path: Path) -> None:
    code, found, said = doctor(tmp_path, environment={"MESSAGING_DATABASE_URL": " "})
    assert code == 0, said
    assert found["environment"][0] == "warning"
    assert found["environment"][1].startswith("MESSAGING_DATABASE_URL is empty, and counts as not set")


def test_what_changes_nothing_is_a_warning(tmp_path: Path) -> None:
    code, found, said = doctor(tmp_path, "--cluster.name", "chat")
    assert (code, found["settings"]) == (0, ("warning", "cluster.name: nothing changes by it")), said


def test_keys_of_an_identity_provider_without_an_audience_are_a_warning(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    code, found, _ = doctor(tmp_path, "--auth.public-key-file", "key.pem")
    assert (code, found["tokens"][0]) == (0, "warning")
    assert "--auth.audience" in found["tokens"][1]
    _, found, _ = doctor(tmp_path, "--auth.public-key-file", "key.pem", "--auth.audience", "chat")
    assert found["tokens"] == ("ok", "must name chat")


def test_a_port_that_is_taken_is_a_warning_with_the_flag_that_chooses_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, said = doctor(tmp_path, "--web.metrics-listen-address", f"127.0.0.1:{port}")
    assert code == 0
    assert f"127.0.0.1:{port} is in use" in said
    assert "else --web.metrics-listen-address HOST:PORT chooses another port" in said


def test_an_address_that_is_not_this_machines_is_found(tmp_path: Path) -> None:
    code, _, said = doctor(tmp_path, "--web.listen-address", "192.0.2.1:8765")
    assert code == 1
    assert "failed   listen" in said
    assert "192.0.2.1" in said


def test_too_few_open_files_are_a_warning_with_what_to_do(tmp_path: Path) -> None:
    code, found, _ = doctor(tmp_path, before="ulimit -n 1024;")
    assert code == 0
    outcome, text = found["open files"]
    assert outcome == "warning"
    assert "1,024 allowed, 20,200 needed" in text
    assert "LimitNOFILE=20200" in text


@pytest.mark.needs("postgres")
def test_postgresql_is_asked_for_its_schema_its_rights_and_its_time(tmp_path: Path, postgres: Postgres) -> None:
    name = postgres.create_database()
    url = {"MESSAGING_DATABASE_URL": postgres.url(name)}
    code, found, said = doctor(tmp_path, environment=url)
    assert code == 0, said
    assert "the next start does it" in found["schema, rights"][1]
    assert doctor(tmp_path, "--no-database.migrate", environment=url)[0] == 1
    kept = {**os.environ, "PYTHONPATH": str(ROOT), **url}
    subprocess.run([sys.executable, "-m", "exporter", "migrate"], cwd=tmp_path, env=kept, check=True, timeout=400)
    code, found, said = doctor(tmp_path, environment=url)
    assert code == 0, said
    assert found["database"][1].startswith("PostgreSQL ")
    assert f" at 127.0.0.1:{postgres.port} answers in " in found["database"][1]
    assert "may read and write" in found["schema, rights"][1]
    assert "the database's is" in said  # its clock
    postgres.psql("CREATE ROLE looker LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker", database=name)
    looker = {"MESSAGING_DATABASE_URL": postgres.url(name, user="looker")}
    code, found, said = doctor(tmp_path, environment=looker)
    assert (code, found["schema, rights"][0]) == (1, "failed"), said
    assert "INSERT on messages" in found["schema, rights"][1]
    grant = found["schema, rights"][1].partition("gives them: ")[2].replace("SCHEMA …", "SCHEMA public")
    postgres.psql(grant.replace("TO …", "TO looker"), database=name)
    assert doctor(tmp_path, environment=looker)[0] == 0
    postgres.psql("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM looker", database=name)
    code, found, said = doctor(tmp_path, environment=looker)
    assert "SELECT on messages" in found["schema, rights"][1], said
    postgres.psql("DROP OWNED BY looker; DROP ROLE looker", database=name)


@pytest.mark.needs("postgres")
@pytest.mark.parametrize(
    ("flags", "grant"),
    [
        ((), "GRANT CREATE ON SCHEMA public TO newcomer"),
        (("--database.schema", "Chat"), "GRANT CREATE ON DATABASE {name} TO newcomer"),
        (("--database.schema", "closed"), 'GRANT USAGE, CREATE ON SCHEMA "closed" TO newcomer'),
    ],
)
def test_who_may_make_no_tables_is_told_the_grant_and_with_it_a_start_makes_them(
    tmp_path: Path, postgres: Postgres, flags: tuple[str, ...], grant: str
) -> None:
    """Since PostgreSQL 15 a user who is not the database's owner may not, in an empty database of somebody else's."""
    name = postgres.create_database()
    postgres.psql("CREATE ROLE newcomer LOGIN; CREATE SCHEMA closed", database=name)
    url = {"MESSAGING_DATABASE_URL": postgres.url(name, user="newcomer")}
    migrate = [sys.executable, "-m", "exporter", "migrate", *flags]
    kept = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT), **url}, "timeout": 60}
    try:
        code, found, said = doctor(tmp_path, *flags, environment=url)
        assert (code, found["schema, rights"][0]) == (1, "failed"), said
        assert grant.format(name=name) in found["schema, rights"][1]
        refused = subprocess.run(migrate, capture_output=True, text=True, check=False, **kept)
        assert (refused.returncode, found["schema, rights"][1] in refused.stderr) == (1, True), refused.stderr
        postgres.psql(grant.format(name=name), database=name)
        code, _, said = doctor(tmp_path, *flags, environment=url)
        assert code == 0, said
        subprocess.run(migrate, check=True, **kept)
    finally:
        postgres.psql("DROP OWNED BY newcomer CASCADE; DROP ROLE newcomer", database=name)


@pytest.mark.needs("postgres")
def test_a_database_that_lets_nobody_in_is_told_by_the_reason(tmp_path: Path, postgres: Postgres) -> None:
    def told(url: str) -> str:
        code, found, said = doctor(tmp_path, environment={"MESSAGING_DATABASE_URL": url})
        assert (code, found["database"][0]) == (1, "failed"), said
        return found["database"][1]

    postgres.psql("CREATE ROLE outsider")
    try:
        assert "pg_hba.conf" in told(postgres.url(user="outsider"))
    finally:
        postgres.psql("DROP ROLE outsider")
    assert "createdb" in told(postgres.url("nowhere"))
    assert "sslmode=prefer" in told(f"{postgres.url()}?sslmode=require")
    assert "no.such.invalid:5432: the name is unknown" in told("postgresql://ann@no.such.invalid/chat")


async def test_a_database_that_can_begin_no_session_leads_to_its_log(tmp_path: Path) -> None:
    """PostgreSQL 15 on a full disk: a session begins with a file that it writes. Its words are in its log alone."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
        said = b"SFATAL\0VFATAL\0CXX000\0Mcould not write init file\0\0"
        writer.write(b"E" + (4 + len(said)).to_bytes(4) + said)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        url = {"MESSAGING_DATABASE_URL": f"postgresql://ann@{place}/chat?sslmode=disable"}
        code, found, said = await asyncio.to_thread(doctor, tmp_path, environment=url)
    assert (code, found["database"][0]) == (1, "failed"), said
    assert "its own log says why" in found["database"][1]


def test_a_database_that_is_not_there_fails_and_its_password_is_nowhere(tmp_path: Path) -> None:
    url = {"MESSAGING_DATABASE_URL": f"postgresql://ann:hunter2@127.0.0.1:{free_port()}/nowhere"}
    code, found, said = doctor(tmp_path, environment=url)
    assert (code, found["database"][0]) == (1, "failed")
    assert "nothing listens there" in found["database"][1]
    assert "hunter2" not in said


@pytest.mark.needs("redis")
async def test_a_broker_that_would_evict_is_found_and_one_that_does_not_tells_its_time(tmp_path: Path) -> None:
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)),
        stdout=subprocess.DEVNULL,
    )
    url = ("--redis.url", f"redis://127.0.0.1:{port}")
    try:
        code, found, said = await asyncio.to_thread(doctor, tmp_path, *url)
        assert code == 0, said
        assert found["broker"][0] == "ok"
        assert "the broker's is" in said
        cli = ("redis-cli", "-p", str(port), "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await asyncio.to_thread(subprocess.run, cli, check=True, capture_output=True, timeout=400)
        code, found, _ = await asyncio.to_thread(doctor, tmp_path, *url)
        assert (code, found["broker"][0]) == (1, "failed")
        assert "noeviction" in found["broker"][1]
    finally:
        server.terminate()
        await server.wait()
    code, found, _ = await asyncio.to_thread(doctor, tmp_path, *url)
    assert (code, found["broker"][0]) == (1, "failed")
    assert f"127.0.0.1:{port}: nothing listens there" in found["broker"][1]


async def test_what_is_no_broker_is_named_with_its_address(tmp_path: Path) -> None:
    async with running(tmp_path / "server") as exporter:
        address = exporter.url.removeprefix("http://")
        code, found, said = await asyncio.to_thread(doctor, tmp_path, "--redis.url", f"redis://{address}")
    assert (code, found["broker"][0]) == (1, "failed"), said
    assert found["broker"][1].startswith(f"{address}: ")
    assert "is it Redis or Valkey" in found["broker"][1]


BARE = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_bind 127.0.0.3; proxy_pass {node}; {more} }} }}\n"
"""What people write first: no Upgrade, and the node's own name as Host."""


@asynccontextmanager
async def bare(folder: Path, node: str, more: str = "", port: int | None = None) -> AsyncIterator[str]:
    """Such an nginx before a node; its address."""
    port = port or free_port()
    os.mkdir(folder)
    configuration = folder / "bare.conf"
    configuration.write_text(BARE.format(port=port, node=node, more=more))
    nginx = await asyncio.create_subprocess_exec(
        *command("nginx", configuration, folder), env=environment(folder), stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://localhost:{port}"
    finally:
        nginx.terminate()
        await nginx.wait()


@pytest.mark.needs("nginx")
@pytest.mark.parametrize(
    ("more", "trusted", "outcome", "wanted"),
    [
        ("", (), "ok", "the server sees 127.0.0.3, HTTP/1.0, and not 127.0.0.1, where this asks from"),
        ("proxy_set_header X-Forwarded-For $remote_addr;", (), "warning", "name the proxy in --web.trusted-proxies"),
        ("proxy_set_header X-Forwarded-For $remote_addr;", ("127.0.0.3",), "ok", "the server sees 127.0.0.1, "),
    ],
)
async def test_a_proxy_that_hides_who_asks_is_told(
    tmp_path: Path, more: str, trusted: tuple[str, ...], outcome: str, wanted: str
) -> None:
    flags = [word for address in trusted for word in ("--web.trusted-proxies", address)]
    async with running(tmp_path, *flags) as exporter, bare(tmp_path / "bare", exporter.url, more) as url:
        _, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", url)
    assert found["proxy: headers"][0] == outcome, said
    assert wanted in found["proxy: headers"][1]


@pytest.mark.needs("nginx")
async def test_what_a_bare_proxy_spoils_is_named_and_with_ours_it_is_well(tmp_path: Path) -> None:
    node = Exporter(tmp_path)
    try:
        await node.start()
        async with bare(tmp_path / "bare", node.url) as url:
            code, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", url)
            assert code == 1, said
            assert found["proxy: name"] == (
                "warning",
                f"{url} arrives as {node.url}; let the proxy pass the Host on, or set "
                "X-Forwarded-Host and -Proto and name it in --web.trusted-proxies",
            )
            assert found["proxy: origin"][0] == found["proxy: WebSocket"][0] == "failed"
        addresses = [node.url.removeprefix("http://"), f"127.0.0.1:{free_port()}"]
        async with proxy("nginx", tmp_path / "ours", addresses) as url:
            code, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", url)
        assert code == 0, said
        assert "X-Forwarded-Proto: http" in found["proxy: headers"][1]
    finally:
        await node.kill()


@pytest.mark.needs("nginx")
async def test_a_name_that_only_the_external_url_tells_is_well(tmp_path: Path) -> None:
    port = free_port()
    named = ("--web.external-url", f"http://localhost:{port}")
    upgrade = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
    async with running(tmp_path, *named) as exporter, bare(tmp_path / "bare", exporter.url, upgrade, port) as url:
        code, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", url, *named)
    assert code == 0, said
    told = f"arrives as {exporter.url}, and --web.external-url says what it is"
    assert found["proxy: name"] == ("ok", told)
    assert found["proxy: WebSocket"][0] == "ok"


@pytest.mark.needs("nginx")
@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("deny all;", "the answer is 403, not the server's; that is an answer of the proxy's own: a login or a rule"),
        ("return 401;", "the answer is 401, not the server's; that is an answer of the proxy's own: a login or a rule"),
        ("return 400;", "the answer is 400, not the server's; is it https://? a port for TLS answers so"),
        ('proxy_set_header Authorization "";', "the answer is 401, the server's own; the token does not arrive"),
        (
            "return 302 https://login.example/start?rd=$uri;",
            "the answer is 302, not the server's; that is an answer of the proxy's own: a login or a rule",
        ),
        (
            "return 308 https://chat.example$request_uri;",
            "the answer is 308, not the server's; give the address that it redirects to: https://chat.example",
        ),
        (
            "absolute_redirect off; return 308 /chat$request_uri;",
            "the answer is 308, not the server's; give the address that it redirects to: URL/chat",
        ),
        (
            "return 307 $request_uri;",
            "the answer is 307, not the server's; that is an answer of the proxy's own: a login or a rule",
        ),
        (
            "return 307 http://[/v1/messaging/request;",
            "the answer is 307, not the server's; that is an answer of the proxy's own: a login or a rule",
        ),
        ("rewrite ^ /elsewhere break;", "the answer is 404, the server's own; the proxy does not pass /v1/messaging/"),
        ("return 502;", "the answer is 502, not the server's; the proxy reaches no server that is ready"),
    ],
)
async def test_who_refuses_is_told_by_the_answer_and_the_upgrade_is_blamed_only_for_being_none(
    tmp_path: Path, more: str, told: str
) -> None:
    async with running(tmp_path) as exporter, bare(tmp_path / "bare", exporter.url, more) as url:
        _, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", url)
    assert found["proxy"][0] == found["proxy: WebSocket"][0] == "failed", said
    assert found["proxy"][1].startswith(told.replace("URL", url)), said
    assert not found["proxy"][1].endswith("/request")
    missing = "; the proxy must pass Upgrade, Connection and Sec-WebSocket-Protocol on (deploy/)"
    assert re.fullmatch(
        rf"the upgrade is answered with (426{re.escape(missing)}|(?!426)\d+)", found["proxy: WebSocket"][1]
    )


async def test_a_token_of_somebody_who_is_no_admin_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as exporter:
        token = tmp_path / "token"
        token.write_text(exporter.token("ann"))
        _, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", exporter.url, "--token-file", str(token))
    assert found["proxy"][0] == "failed", said
    assert found["proxy"][1] == (
        "the answer is 403, the server's own; the server wants an admin's token, and this is somebody else's"
    )


async def test_a_server_that_takes_other_tokens_and_one_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    async with running(tmp_path / "theirs") as exporter:
        (tmp_path / "data").mkdir()
        secret = tmp_path / "data" / "auth.secret"
        secret.write_text("y" * 64)
        secret.chmod(0o600)
        code, found, _ = await asyncio.to_thread(doctor, tmp_path, "--url", exporter.url)
        assert (code, found["proxy"][0]) == (1, "failed")
        assert "is --data.dir the server's?" in found["proxy"][1]
        token = tmp_path / "token"
        token.write_text("\n")
        code, _, said = await asyncio.to_thread(doctor, tmp_path, "--url", exporter.url, "--token-file", str(token))
        assert (code, said) == (1, f"messaging-exporter: the token file {token} is empty\n")
        token.write_text(exporter.token("root", role="admin"), "utf-8-sig")
        code, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", exporter.url, "--token-file", str(token))
        assert code == 0, said
        secret.unlink()
        code, found, _ = await asyncio.to_thread(doctor, tmp_path, "--url", exporter.url)
        assert (code, found["proxy"][0]) == (2, "unknown")
    code, found, _ = await asyncio.to_thread(doctor, tmp_path, "--url", exporter.url, "--token-file", str(token))
    assert (code, found["proxy"]) == (1, ("failed", f"{exporter.url} cannot be reached: connection refused"))


async def _page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server of pages that answers any path with one of them."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage")
    writer.close()


async def test_an_address_that_people_mistype_is_told_as_what_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as exporter, await asyncio.start_server(_page, "127.0.0.1", 0) as pages:
        other = f"http://127.0.0.1:{pages.sockets[0].getsockname()[1]}"
        for url, told in (
            (exporter.url.replace("http:", "https:"), "does not speak TLS as it is spoken here: is it http://?"),
            (f"{exporter.url}/admin", "or --url has a path too many (/admin)"),
            (other, "the answer is 200 (text/html), not the server's"),
        ):
            code, found, said = await asyncio.to_thread(doctor, tmp_path, "--url", url)
            assert (code, found["proxy"][0]) == (1, "failed"), said
            assert told in found["proxy"][1]


# --- what is examined, by itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "outcome"),
    [
        (0.2, Outcome.OK),
        (-0.9, Outcome.OK),
        (1.5, Outcome.WARNING),
        (-29, Outcome.WARNING),
        (31, Outcome.FAILED),
        (-31, Outcome.FAILED),
    ],
)
def test_clocks_that_differ_are_told_by_what_it_means(ahead: float, outcome: Outcome) -> None:
    found = machine_of_doctor.clock("the database", ahead)
    assert found.outcome is outcome
    assert ("behind" in found.text) == (ahead < 0)


async def test_a_server_whose_clock_differs_is_told() -> None:
    async def answer(request: web.Request) -> web.Response:
        seen = {"scheme": "http", "host": request.host, "origin_allowed": True, "remote": "127.0.0.1", "headers": {}}
        date = formatdate(time.time() - 60, usegmt=True)
        return web.json_response({**seen, "http_version": "1.1"}, headers={"Date": date})

    app = web.Application()
    app.router.add_get("/v1/messaging/request", answer)
    async with TestServer(app) as server:
        found = await proxy_of_doctor.examine(Settings(), str(server.make_url("")), "a token")
    (clock,) = [finding for finding in found if finding.subject == "clock"]
    assert clock.outcome is Outcome.FAILED
    assert "s behind this machine's" in clock.text


@pytest.mark.parametrize(
    ("remote", "headers", "outcome"),
    [
        ("192.0.2.1", {"X-Forwarded-For": ["192.0.2.1, 10.0.0.2"]}, Outcome.OK),
        ("2001:db8::1", {"Forwarded": ['for="[2001:DB8::1]:4711"']}, Outcome.OK),
        ("192.0.2.1", {"X-Forwarded-For": ["192.0.2.17"]}, Outcome.WARNING),
        ("2001:db8::1", {"Forwarded": ['for="[2001:db8::17]"']}, Outcome.WARNING),
        ("192.0.2.1", {"Forwarded": ["for=192.0.2.1;;;=", "nonsense"]}, Outcome.WARNING),
        ("", {"X-Forwarded-For": ["192.0.2.17"]}, Outcome.WARNING),
        ("", {}, Outcome.OK),
    ],
)
async def test_only_a_whole_address_of_a_header_was_believed(
    remote: str, headers: dict[str, list[str]], outcome: Outcome
) -> None:
    async def answer(request: web.Request) -> web.Response:
        seen = {"scheme": "http", "host": request.host, "origin_allowed": True, "remote": remote, "headers": headers}
        return web.json_response({**seen, "http_version": "1.1"})

    app = web.Application()
    app.router.add_get("/v1/messaging/request", answer)
    async with TestServer(app) as server:
        found = await proxy_of_doctor.examine(Settings(), str(server.make_url("")), "a token")
    (sender,) = [finding for finding in found if finding.subject == "proxy: headers"]
    assert sender.outcome is outcome
    assert f"the server sees {remote or 'a Unix socket'}, HTTP/1.1" in sender.text
    assert ("--web.trusted-proxies (unix)" in sender.advice) is (outcome is Outcome.WARNING and not remote)


@pytest.mark.parametrize("body", [b"<!doctype html>", b'{"ok": true}', b"[]", b"\xff"])
async def test_a_page_that_a_proxy_answers_every_address_with_is_not_taken_for_the_server(body: bytes) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": "text/html"})

    app = web.Application()
    app.router.add_get("/{anything:.*}", answer)
    async with TestServer(app) as server:
        found, _ = await proxy_of_doctor.examine(Settings(), str(server.make_url("")), "a token")
    assert (found.outcome, found.text) == (Outcome.FAILED, "the answer is 200 (text/html), not the server's")
    assert "does not pass /v1/messaging/ on" in found.advice


async def test_an_address_is_asked_as_a_browser_asks_it_however_it_was_typed() -> None:
    """A browser writes hosts in lower case, and leaves out what ends the address."""
    origins: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        origins.append(request.headers["Origin"])
        seen = {"scheme": "http", "host": request.host, "origin_allowed": True, "remote": "127.0.0.1", "headers": {}}
        return web.json_response({**seen, "http_version": "1.1"})

    app = web.Application()
    app.router.add_get("/v1/messaging/request", answer)
    async with TestServer(app) as server:
        port = server.make_url("").port
        name, *_ = await proxy_of_doctor.examine(Settings(), f"HTTP://LocalHost:{port}/", "a token")
    assert origins == [f"http://localhost:{port}"]
    assert (name.subject, name.outcome) == ("proxy: name", Outcome.OK)


async def test_a_date_and_a_welcome_that_are_none_hide_nothing_of_what_arrived() -> None:
    async def answer(request: web.Request) -> web.Response:
        seen = {"scheme": "http", "host": request.host, "origin_allowed": True, "remote": "127.0.0.1", "headers": {}}
        return web.json_response({**seen, "http_version": "1.1"}, headers={"Date": "now"})

    async def upgrade(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(protocols=("messaging.v1",))
        await websocket.prepare(request)
        await websocket.send_json({"type": "welcome"})
        await websocket.receive()
        return websocket

    app = web.Application()
    app.router.add_get("/v1/messaging/request", answer)
    app.router.add_get("/v1/messaging/ws", upgrade)
    async with TestServer(app) as server:
        found = await proxy_of_doctor.examine(Settings(), str(server.make_url("")), "a token")
    assert [(finding.subject, finding.outcome) for finding in found] == [
        ("proxy: name", Outcome.OK),
        ("proxy: origin", Outcome.OK),
        ("proxy: headers", Outcome.OK),
        ("proxy: WebSocket", Outcome.FAILED),
    ]


def test_a_folder_that_may_be_read_and_not_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)  # root may do everything
    for folder in (tmp_path, tmp_path / "absent"):
        assert configuration_of_doctor._folder("data folder", folder).outcome is Outcome.FAILED


@pytest.mark.parametrize(("user", "outcome"), [(0, Outcome.OK), (1000, Outcome.FAILED)], ids=["root", "others"])
def test_what_a_file_system_reserves_for_root_is_room_for_root_alone(
    user: int, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = list(os.statvfs(tmp_path))
    of[3], of[4] = 2**30, 0  # f_bfree, f_bavail
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(of))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert configuration_of_doctor._folder("data folder", tmp_path).outcome is outcome


def test_a_clock_that_was_never_set_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 86_400.0)
    found = asyncio.run(machine_of_doctor.examine(Settings()))
    assert [finding.outcome for finding in found if finding.subject == "clock"] == [Outcome.FAILED]


def test_a_round_trip_that_every_send_waits_for_and_a_short_queue_are_warnings(tmp_path: Path) -> None:
    near = Diagnosis("PostgreSQL 17", 0.09, 0.0, "0007", None, behind=False)
    assert database_of_doctor._reached(near).outcome is Outcome.OK
    assert database_of_doctor._reached(replace(near, seconds=0.11)).outcome is Outcome.WARNING
    limit = tmp_path / "somaxconn"
    for most, outcome in ((BACKLOG, Outcome.OK), (BACKLOG - 1, Outcome.WARNING)):
        limit.write_text(f"{most}\n")
        (found,) = machine_of_doctor._backlog(limit)
        assert found.outcome is outcome


def test_the_status_is_the_worst_that_keeps_a_server_from_working() -> None:
    well, warning, failed, unknown = (
        Finding("x", outcome, "") for outcome in (Outcome.OK, Outcome.WARNING, Outcome.FAILED, Outcome.UNKNOWN)
    )
    assert [status([well, warning]), status([well, unknown]), status([failed, unknown])] == [0, 2, 1]
    assert list(page([well, warning]))[-1] == "1 ok, 1 warning"


async def test_a_defect_of_one_examination_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from exporter import doctor as package

    async def breaks(settings: Settings) -> list[Finding]:
        raise RuntimeError("a defect with a secret in it")

    async def may_not(_: Settings) -> list[Finding]:
        raise PermissionError(errno.EACCES, "Permission denied", "/srv/data/messaging.db")

    examinations = (("database", breaks), ("keys", may_not), ("machine", machine_of_doctor.examine))
    monkeypatch.setattr(package, "EXAMINATIONS", examinations)
    found = await package.examine(Settings())
    assert found[:2] == [
        Finding("database", Outcome.UNKNOWN, "could not be examined: RuntimeError"),
        Finding("keys", Outcome.UNKNOWN, "could not be examined: /srv/data/messaging.db: permission denied"),
    ]
    assert len(found) > 2


def test_extras_that_are_not_installed_are_all_named_and_hide_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules.update(dict.fromkeys(['asyncpg', 'cryptography', 'hiredis', 'redis']))\n"
    )
    (tmp_path / "key.pem").write_text("-----BEGIN PUBLIC KEY-----\n")
    flags = ["--database.url", "postgresql://ann@127.0.0.1:1/chat", "--auth.public-key-file", "key.pem"]
    status, found, said = doctor(
        tmp_path,
        *flags,
        "--redis.url",
        "redis://127.0.0.1:1",
        environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert status == 1, said
    for subject, extra in (("keys", "keys"), ("database", "postgres"), ("broker", "redis")):
        assert found[subject][0] == "failed", said
        assert f"'messaging-exporter[{extra}]'" in found[subject][1]
    assert {"listen", "clock"} <= found.keys()


async def test_an_address_that_is_none_is_one_line() -> None:
    with pytest.raises(Misconfigured, match="expected an address"):
        await proxy_of_doctor.examine(Settings(), "chat.example.com", None)
