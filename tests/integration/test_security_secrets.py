"""Passwords and tokens are nowhere but where they were put: not in logs, pages, metrics, errors or the process list."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from exporter import cli
from tests.servers.certificates import CertificateAuthority
from tests.servers.exporter import CONVERSATIONS, STATS, Client, Exporter, running
from tests.servers.postgres import Postgres
from tests.servers.wire import Wire, handshake

PARTS = ("hunter2", "s3cr3t")
FORMS = [
    "postgresql://ann:{secret}@{place}/app",
    "postgres://ann:{secret}@{place}/app?sslmode=disable",
    "postgresql+asyncpg://ann:{secret}@{place}/app",
    "postgresql://{place}/app?user=ann&password={secret}",
    "postgresql://ann@{place}/app?password={secret}",
]
SECRETS = ["hunter2-s3cr3t", "hunter2%40s3cr3t", "hunter2%2Fs3cr3t%3A%3F%23", "hunter2:s3cr3t"]
PAGES = ("/", "/metrics", "/admin", "/-/ready", "/openapi.json", STATS, STATS + "/history", "/absent", CONVERSATIONS)


def is_silent(text: str, where: str) -> None:
    for part in PARTS:
        assert part not in text, f"{where}: {text}"


async def nothing_is_told(exporter: Exporter) -> None:
    """Look everywhere that somebody may look."""
    headers = {"Authorization": f"Bearer {exporter.token('root', role='admin')}"}
    answers = await asyncio.gather(
        *(exporter.get(path, headers=headers) for path in PAGES),
        exporter.request("POST", CONVERSATIONS, user="ann", json={"participants": []}),
    )
    for path, (_, body, answered) in zip((*PAGES, "creating"), answers, strict=True):
        is_silent(body.decode() if isinstance(body, bytes) else json.dumps(body), path)
        is_silent(str(dict(answered)), path)
    client = await exporter.connect("ann")
    await client.send("join", conversation="room")
    is_silent(json.dumps(await client.frame("error")), "joining")
    await client.close()
    for text in shown_by_ps(exporter.pid):
        is_silent(text, "process list")


def shown_by_ps(pid: int) -> list[str]:
    """What every user of the machine sees of a process."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [Path(f"/proc/{pid}/cmdline").read_text(), *((thread / "comm").read_text() for thread in threads)]


@pytest.mark.parametrize("form", FORMS)
async def test_a_password_in_a_url_is_shown_nowhere_while_the_database_is_down(form: str, tmp_path: Path) -> None:
    secret = SECRETS[FORMS.index(form) % len(SECRETS)]
    flags = ["--log.level", "debug", "--database.timeout", "500ms"]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = form.format(secret=secret, place=f"127.0.0.1:{nobody.getsockname()[1]}")
        environment = {"MESSAGING_DATABASE_URL": url}
        if form == FORMS[1]:
            (tmp_path / "settings.yml").write_text(json.dumps({"database": {"url": url}}))
            environment, flags = {}, [*flags, "--config.file", str(tmp_path / "settings.yml")]
        async with running(tmp_path, *flags, environment=environment, ready=False) as exporter:
            await nothing_is_told(exporter)
            assert await exporter.stop() == 0
        is_silent(exporter.log.read_text(), "log")


@pytest.mark.needs("postgres")
async def test_a_password_in_a_url_is_shown_nowhere_through_an_outage(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: Postgres = request.getfixturevalue("postgres")
    name = server.create_database()
    url = f"postgresql://postgres:hunter2s3cr3t@127.0.0.1:{server.port}/{name}"
    async with running(tmp_path, "--log.level", "debug", environment={"MESSAGING_DATABASE_URL": url}) as exporter:
        await nothing_is_told(exporter)
        server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        await exporter.scraped(lambda figures: figures["messaging_database_up"] == 0, "down")
        await nothing_is_told(exporter)
        server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert await exporter.stop() == 0
    is_silent(exporter.log.read_text(), "log")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2s3cr3t@127.0.0.1:99999/app",
        "postgresql://ann:hunter2s3cr3t@[::1/app",
        "postgresql+nonsense://ann:hunter2s3cr3t@127.0.0.1/app",
        "postgresql://ann:hunter2s3cr3t@127.0.0.1:port/app",
        "sqlite://ann:hunter2s3cr3t@host/x.db",
        "mysql://ann:hunter2s3cr3t@127.0.0.1/app",
        "ann:hunter2s3cr3t@127.0.0.1",
    ],
)
@pytest.mark.usefixtures("logging_restored")
def test_a_bad_url_is_one_clear_line_without_its_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESSAGING_DATABASE_URL", url)
    monkeypatch.setenv("MESSAGING_DATA_DIR", str(tmp_path))
    for command, status in (("serve", 1), ("migrate", 1), ("verify", 2)):
        with pytest.raises(SystemExit) as caught:
            cli.main([command])
        out, err = capsys.readouterr()
        assert (command, caught.value.code) == (command, status)
        is_silent(out + err, command)
        assert "Traceback" not in err
        assert len([line for line in err.splitlines() if not line.startswith("ts=")]) == 1


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


async def test_tokens_keys_and_hashes_are_not_logged(tmp_path: Path) -> None:
    CertificateAuthority().write(tmp_path)
    web = tmp_path / "web.yml"
    hashed = "$2b$04$abcdefghijklmnopqrstuuGZ1m0bB5Yq4oJ0f0y1h5u0mFzq1b7mK"
    web.write_text(f"basic_auth_users:\n  ann: {hashed}\n")
    async with running(tmp_path, "--log.level", "debug", "--web.config.file", str(web)) as exporter:
        good, expired = exporter.token("ann"), exporter.token("ann", ttl=-3600)
        client = await Client.connect(exporter.url, good)
        await exporter.refused(expired)
        await exporter.refused("garbage-hunter2.x.y")
        for head in (
            handshake(good),
            handshake(good, "\x00broken"),
            f"GET /?token={good} HTTP/1.1\r\nX\r\n\r\n".encode(),
        ):
            wire = await Wire.open(exporter.url)
            wire.writer.write(head)
            await asyncio.wait_for(wire.reader.read(100), 10)
            wire.close()
        await exporter.get("/", headers={"Authorization": "Basic YW5uOmh1bnRlcjItczNjcjN0"})
        await exporter.get(f"/admin?token={good}")
        web.write_text(f"basic_auth_users:\n  ann: hunter2-{hashed}\n")
        assert (await exporter.get("/"))[0] == 500
        await client.close()
        assert await exporter.stop() == 0
        said = exporter.log.read_text()
        secret = (exporter.data / "auth.secret").read_text().strip()
        for text in (
            good,
            expired,
            good.rpartition(".")[2],
            secret,
            hashed,
            "YW5uOmh1bnRlcjItczNjcjN0",
            "BEGIN",
            *PARTS,
        ):
            assert text not in said
