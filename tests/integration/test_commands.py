"""What the documents tell people to type works and gives what they show; an example that nothing runs is an error."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
import yaml
from playwright.async_api import ConsoleMessage

from exporter.settings.options import BY_NAME, CONFIG_FILE
from exporter.settings.options import variable as variable_of
from tests.servers.chromium import chromium, visit
from tests.servers.exporter import ROOT, Exporter, running

in_one_loop = pytest.mark.asyncio(loop_scope="module")

README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "grafana" / "README.md",
    *sorted((ROOT / "grafana" / "runbooks").glob("*.md")),
]
ADDRESS = "127.0.0.1:8765"
EXPOSED = set(re.findall(r"^### `(messaging_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
"""Every family, by the page that is made from a scrape."""


@dataclass(frozen=True)
class Example:
    """A command of a console block and the output that is shown below it."""

    command: str
    shown: str


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def examples() -> list[Example]:
    found = []
    for block in [block for document in DOCUMENTS for block in blocks("console", document.read_text())]:
        assert block.startswith("$ "), block
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            found.append(Example(command, shown))
    return found


def without_numbers(text: str) -> str:
    """The series alone: figures differ from one run to the next."""
    return re.sub(r" [\d.]+$", "", text, flags=re.MULTILINE)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def exporter(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exporter]:
    async with running(tmp_path_factory.mktemp("commands")) as exporter:
        yield exporter


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of somebody who has installed this: ``messaging-exporter`` is on the path."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "messaging-exporter"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m exporter "$@"\n')
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESSAGING_")}
    return kept | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


async def typed(command: str, shell: dict[str, str], folder: Path) -> tuple[int, str, str]:
    """Type it into a shell: status, what it printed, what it complained about."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-o", "pipefail", "-c", command),
        cwd=folder,
        env=shell,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 400)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


# --- the examples of the documents, by their first words -----------------------------------------------------


async def make(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    """What ``make`` would do is known; that it does it is shown by whoever clones."""
    status, out, errors = await typed(example.command.replace("make ", "make -n "), shell, ROOT)
    assert (status, errors) == (0, "")
    assert "-m exporter demo" in out


async def pip(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    """tests/integration/test_packaging.py installs it; here: from the root, as written."""
    assert example.command == "pip install ."
    assert (ROOT / "pyproject.toml").exists()


async def environment(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    """The usual two lines; make platforms types them in fresh roots."""
    assert example.command in ("python3 -m venv .venv", ". .venv/bin/activate")


async def exported(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    """A token in a variable: what the command in the brackets prints is one."""
    command = re.fullmatch(r"export TOKEN=\$\((.*)\)", example.command)
    assert command is not None
    await token(Example(command[1], ""), exporter, shell)


async def serve(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    """With a port of its own instead of the one that is everybody's."""
    program, *arguments = example.command.split()
    folder = Path(tempfile.mkdtemp(dir=exporter.folder))
    path = shutil.which(program, path=shell["PATH"])
    assert path is not None
    process = await asyncio.create_subprocess_exec(
        *(path, *arguments, "--web.listen-address", "127.0.0.1:0"),
        cwd=folder,
        env=shell,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(400):
            async for line in process.stderr:
                if b"event=listening" in line:
                    break
        assert (folder / "data" / "messaging.db").exists()
        assert (folder / "data" / "auth.secret").stat().st_mode & 0o777 == 0o600
        process.terminate()
        await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def token(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    status, out, errors = await typed(example.command.replace("./data", str(exporter.data)), shell, exporter.folder)
    assert (status, errors) == (0, "")
    claims = exporter.authenticator.verify(out.strip())
    assert (claims.user, claims.role) == ("ann", "user")


async def curl(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    command = example.command.replace(ADDRESS, exporter.url.removeprefix("http://"))
    assert command != example.command, f"this does not go to {ADDRESS}: {example.command}"
    people = [await exporter.connect(user) for user in ("ann", "bob")]  # so that there is something to see
    status, out, errors = await typed(command, shell | {"TOKEN": exporter.token("ann")}, exporter.folder)
    for tab in people:
        await tab.close()
    assert (status, errors) == (0, "")
    assert without_numbers(out).splitlines() == without_numbers(example.shown).splitlines()


async def simulate(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    """For two seconds instead of minutes."""
    command = example.command.replace(ADDRESS, exporter.url.removeprefix("http://"))
    command = command.replace("--data.dir data", f"--data.dir {exporter.data}").replace("10m", "2s")
    if "--url" not in command:
        command += f" --url {exporter.url}"
    assert "10m" in example.command
    status, out, errors = await typed(command, shell, exporter.folder)
    assert status == 0, out + errors
    assert "200 people, 30 conversations" in out
    assert "nothing acknowledged was lost or doubled" in out


async def plain(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    """As written, in a folder of its own; it ends by itself and prints what is shown, numbers aside."""
    folder = exporter.folder / "plain"
    folder.mkdir(exist_ok=True)
    status, out, errors = await typed(example.command, shell, folder)
    assert status == 0, out + errors
    assert without_numbers(out).splitlines() == without_numbers(example.shown).splitlines()


async def doctor(example: Example, exporter: Exporter, shell: dict[str, str]) -> None:
    """Beside the running server."""
    command = example.command.replace("./data", str(exporter.data))
    status, out, errors = await typed(command, shell, exporter.folder)
    assert (status, errors) == (0, ""), out
    assert "schema, rights" in out


BY_FIRST_WORDS = {
    "python3 -m": environment,
    ". .venv/bin/activate": environment,
    "export TOKEN=$(messaging-exporter": exported,
    "messaging-exporter doctor": doctor,
    "messaging-exporter assets": plain,
    "_MESSAGING_EXPORTER_COMPLETE=bash_source messaging-exporter": plain,
    "_MESSAGING_EXPORTER_COMPLETE=zsh_source messaging-exporter": plain,
    "_MESSAGING_EXPORTER_COMPLETE=fish_source messaging-exporter": plain,
    "make run": make,
    "make test": make,
    "pip install": pip,
    "messaging-exporter serve": serve,
    "messaging-exporter token": token,
    "messaging-exporter simulate": simulate,
    "curl -sS": curl,
}


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(
            example,
            id=example.command[:40],
            marks=[pytest.mark.needs("curl")] if example.command.startswith("curl ") else [],
        )
        for example in examples()
    ],
)
@in_one_loop
async def test_an_example_of_a_document_does_what_is_shown(
    example: Example, exporter: Exporter, shell: dict[str, str]
) -> None:
    play = BY_FIRST_WORDS.get(" ".join(example.command.split()[:2]))
    assert play is not None, f"nothing here runs: {example.command}"
    await play(example, exporter, shell)


@pytest.mark.needs("chromium")
@in_one_loop
async def test_the_javascript_of_the_readme_connects_joins_and_talks(exporter: Exporter) -> None:
    """In a page of the server, for other origins are refused."""
    [code] = blocks("js")
    code = code.replace(ADDRESS, exporter.url.removeprefix("http://")).replace('"room"', '"hall"')
    await exporter.conversation("hall", "ann")
    async with chromium() as browser, visit(browser) as seen:
        frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def logged(message: ConsoleMessage) -> None:
            frames.put_nowait(await message.args[0].json_value())

        seen.page.on("console", logged)
        await seen.page.goto(f"{exporter.url}/admin")
        await seen.page.evaluate(f"(token) => {{ {code} window.kept = ws; }}", exporter.token("ann"))
        async with asyncio.timeout(30):
            assert (await frames.get())["type"] == "welcome"
            joined, ack = await frames.get(), await frames.get()
        assert (joined["type"], joined["conversation"], joined["participants"]) == ("joined", "hall", ["ann"])
        assert (ack["type"], ack["conversation"], ack["seq"]) == ("ack", "hall", 1)


@pytest.mark.needs("promtool")
@in_one_loop
async def test_the_scrape_configuration_of_the_readme_is_one(tmp_path: Path) -> None:
    [block] = [block for block in blocks("yaml") if "scrape_configs" in block]
    (tmp_path / "prometheus.yml").write_text(block)
    done = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load(block)["scrape_configs"][0]["static_configs"] == [{"targets": [ADDRESS]}]


# --- what the documents name exists -----------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=[document.name for document in DOCUMENTS])
def test_every_flag_variable_metric_and_link_of_a_document_exists(document: Path) -> None:
    text = document.read_text()
    flags = {*BY_NAME, CONFIG_FILE}
    for flag in re.findall(r"--([a-z]+\.[a-z.-]+[a-z])", text):
        assert flag in flags or flag.removeprefix("no-") in flags, f"--{flag}"
    variables = {option.variable for option in BY_NAME.values()} | {variable_of(CONFIG_FILE)}
    for variable in re.findall(r"\bMESSAGING_[A-Z_]+[A-Z]\b", text):
        assert variable in variables, variable
    known = {*EXPOSED, "messaging_schema_version"}  # the latter is a table
    known |= {re.sub("_total$", "", name) for name in known}
    for metric in re.findall(r"`(messaging_[a-z_]+[a-z])[`{]", text):
        assert metric in known, metric
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text):
        assert (document.parent / link).exists(), link


def test_the_flags_of_the_readme_have_the_defaults_that_it_says() -> None:
    rows = re.findall(r"^\| `--([a-z.-]+)` \| `([^`|]+)` \|", README, re.MULTILINE)
    assert rows
    for name, default in rows:
        assert BY_NAME[name].default == default, name


# --- commands beside a server -----------------------------------------------------------------------------


SERVE = "messaging-exporter serve --no-database.migrate --web.listen-address 127.0.0.1:0"


@in_one_loop
async def test_migrate_makes_what_serve_without_migrating_then_uses(shell: dict[str, str], tmp_path: Path) -> None:
    status, _, errors = await typed(SERVE, shell, tmp_path)
    assert status == 1
    assert "migrate" in errors.splitlines()[-1]
    assert (await typed("messaging-exporter migrate --log.level error", shell, tmp_path))[:2] == (0, "")
    with closing(sqlite3.connect(tmp_path / "data" / "messaging.db")) as database:
        before = database.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    assert (await typed("messaging-exporter migrate --log.level error", shell, tmp_path))[:2] == (0, "")
    with closing(sqlite3.connect(tmp_path / "data" / "messaging.db")) as database:
        assert database.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before
    async with running(tmp_path, "--no-database.migrate") as exporter:
        assert (await exporter.scrape())["messaging_stored_messages"] == 0


@in_one_loop
async def test_a_token_of_the_command_opens_a_running_server_for_as_long_as_was_said(
    exporter: Exporter, shell: dict[str, str]
) -> None:
    command = f"messaging-exporter token root --role admin --ttl 90m --data.dir {exporter.data}"
    status, out, _ = await typed(command, shell, exporter.folder)
    assert status == 0
    claims = jwt.decode(out.strip(), options={"verify_signature": False})
    assert (claims["sub"], claims["role"], claims["exp"] - claims["iat"] - 5_400 in (0, 1)) == ("root", "admin", True)
    headers = {"Authorization": f"Bearer {out.strip()}"}
    status, body, _ = await exporter.get("/v1/messaging/stats", headers=headers)
    assert (status, body["scope"]) == (200, "node")


@in_one_loop
async def test_another_program_may_sign_tokens_with_the_text_of_the_secret(exporter: Exporter) -> None:
    secret = (exporter.data / "auth.secret").read_text().strip()
    made = jwt.encode({"sub": "eve", "exp": 4_000_000_000}, secret, "HS256")
    status, body, _ = await exporter.get("/v1/messaging/conversations", headers={"Authorization": f"Bearer {made}"})
    assert (status, body) == (200, {"conversations": []})


@in_one_loop
async def test_simulate_puts_people_on_a_running_server_and_finds_nothing_lost(
    exporter: Exporter, shell: dict[str, str]
) -> None:
    command = (
        f"messaging-exporter simulate --url {exporter.url} --users 10 --conversations 3 --rate 20 --duration 2s "
        f"--data.dir {exporter.data}"
    )
    before = await exporter.scrape()
    status, out, errors = await typed(command, shell, exporter.folder)
    assert status == 0, out + errors
    after = await exporter.scrape()
    sent = re.search(r"sent (\d+)", out + errors)
    assert sent is not None, out + errors
    assert int(sent[1]) > 0
    accepted = "messaging_messages_accepted_total"
    assert after[accepted] - before[accepted] == int(sent[1])
