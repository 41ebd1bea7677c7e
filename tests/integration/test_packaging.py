"""The wheel in an empty environment: everything it needs comes with it or is named by it, and it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from exporter import __version__
from tests.servers.exporter import ROOT, running

REVISION = "0123456789abcdef0123456789abcdef01234567"
# As a user has it: nothing of this repository on the path, no variable that changes the program.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("MESSAGING_", "PYTHON", "COV_", "COVERAGE")) and name != "VIRTUAL_ENV"
}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run it; what it says is the failure."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=CLEAN | environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, and the wheel made from that; from a copy, because building leaves folders behind."""
    folder = tmp_path_factory.mktemp("built")
    for name in tracked():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path, follow_symlinks=False)
    environment = {"SOURCE_REVISION": REVISION}
    run(sys.executable, "-m", "build", "--outdir", folder, folder / "source", cwd=folder, **environment)
    return folder


def tracked() -> list[str]:
    """The files of the repository; without git, as in an unpacked source distribution, all that are here."""
    if not (ROOT / ".git").exists():
        return [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [name for name in names if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """Of the package."""
    [wheel] = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the wheel and what it asks for; its ``bin``."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel, cwd=folder)
    return python.parent


def test_the_source_distribution_is_the_whole_repository(built: Path) -> None:
    [packed] = built.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in tracked() if not name.startswith((".git", "data/", "exporter/grafana"))}
    assert wanted - names == set()
    assert "exporter/revision.txt" in names


def test_the_wheel_has_all_that_is_read_at_run_time_and_nothing_of_the_tests(wheel: Path) -> None:
    assert wheel.name == f"messaging_exporter-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [path.relative_to(ROOT) for path in (ROOT / "exporter").rglob("*.py")]
    assert {str(path) for path in sources if path.parts[1] != "grafana"} <= names
    static = [path.relative_to(ROOT) for path in (ROOT / "exporter" / "web" / "static").iterdir()]
    assert {str(path) for path in static} <= names
    assert "exporter/py.typed" in names
    for kind in ("dashboards/*.json", "rules/*.yml", "runbooks/*.md", "provisioning/*/*.yml"):
        files = [path.relative_to(ROOT) for path in (ROOT / "grafana").glob(kind)]
        assert files
        assert {f"exporter/{path}" for path in files} <= names
    assert not [name for name in names if name.startswith(("tests", "grafana", "build"))]
    metadata = zipfile.ZipFile(wheel).read(f"messaging_exporter-{__version__}.dist-info/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata or "License: Apache-2.0" in metadata


async def test_it_runs_in_an_empty_environment(environment: Path, tmp_path: Path) -> None:
    program = environment / "messaging-exporter"
    version = f"messaging-exporter {__version__} (revision {REVISION[:12]})\n"
    assert run(program, "--version", cwd=tmp_path) == version
    assert run(environment / "python", "-m", "exporter", "--version", cwd=tmp_path) == version
    assert (environment.parent / "share" / "man" / "man1" / "messaging-exporter.1").is_file()
    assert run(program, "token", "ann", "--ttl", "1h", cwd=tmp_path).count(".") == 2
    run(program, "assets", "--output", "assets", cwd=tmp_path)
    assert list((tmp_path / "assets").rglob("*.json"))
    installed = {path.name for path in (environment.parent / "lib").glob("python*/site-packages/*")}
    assert not {"pytest", "tests", "websockets", "pip", "docs", "deploy"} & installed
    assert not {"asyncpg", "cryptography", "redis", "rich"} & installed  # extras; a plain install serves on SQLite

    options = {"program": (str(program),), "environment": {"PYTHONPATH": ""}}
    async with running(tmp_path / "server", **options) as exporter:
        await exporter.conversation("room", "ann", "bob")
        ann, bob = await exporter.connect("ann"), await exporter.connect("bob")
        for tab in (ann, bob):
            await tab.join("room")
        await ann.say("room", "hello", "1")
        assert (await bob.frame("message"))["body"] == "hello"
        figures = await exporter.scrape()
        assert (figures["messaging_active_connections"], figures["messaging_stored_messages"]) == (2, 1)
        status, page, _ = await exporter.get("/admin")
        assert (status, b"<html" in page) == (200, True)
        for tab in (ann, bob):
            await tab.close()
        assert await exporter.stop() == 0


def test_embedding_works_where_the_wheel_came_without_its_dependencies(wheel: Path, tmp_path: Path) -> None:
    """``pip install --no-deps`` and what docs/embed.md names beside it: figures, page and JSON over ASGI."""
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", wheel, cwd=tmp_path)
    run(*pip, "prometheus-client", "msgspec", cwd=tmp_path)
    (tmp_path / "host.py").write_text(EMBEDDED)
    assert run(python, "host.py", cwd=tmp_path) == "fine\n"


EMBEDDED = """
import asyncio, importlib.util, json, sys
import exporter
assert not {"msgspec", "prometheus_client"} & set(sys.modules), "import exporter loads nothing"
from exporter import Live, LiveMiddleware, LockedLive, Source
from exporter.core.errors import Misconfigured
for name in ("aiohttp", "sqlalchemy", "uvloop", "structlog", "yaml", "click"):
    assert importlib.util.find_spec(name) is None

live = Live(workers=1)
app = live.asgi(admin=lambda scope: True)

async def get(path):
    sent = []
    async def send(message):
        sent.append(message)
    async def receive():
        return {"type": "http.request"}
    await app({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    assert sent[0]["status"] == 200, sent
    return sent[1]["body"]

async def main():
    with live.open("ann") as connection:
        connection.join("room")
        assert b"messaging_participants 1.0" in await get("/metrics")
        assert json.loads(await get("/v1/messaging/stats"))["total_participants"] == 1
        assert b"<messaging-stats" in await get("/admin")
        for name in ("/", "/admin/static/messaging-stats.js", "/v1/messaging/stats/history"):
            assert await get(name)
    assert live.get_stats()["active_connections"] == 0
    await app.aclose()

asyncio.run(main())
try:
    Live(totals=Source("sqlite:///there.db", "mapping.yml"))
    asyncio.run(Source("sqlite:///there.db", "mapping.yml").start())
except Misconfigured as error:
    assert "sqlalchemy is missing: pip install messaging-exporter" in str(error), repr(error)
else:
    raise AssertionError("nothing reads a database here")
print("fine")
"""
