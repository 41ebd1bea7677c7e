"""The command line as people meet it: what it prints, where, and with which exit status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import structlog

from exporter import __version__, cli, event_loop
from exporter.auth.tokens import Authenticator
from exporter.settings.model import Settings
from exporter.settings.options import OPTIONS
from tests.servers.certificates import CertificateAuthority
from tests.servers.exporter import Exporter, running
from tests.servers.ports import free_port
from tests.settings.test_options import URLS_WITH_PASSWORD

ROOT = Path(__file__).parent.parent
COMMANDS = ["serve", "demo", "simulate", "token", "migrate", "assets", "verify", "doctor"]


def run(*arguments: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, as a shell would start it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MESSAGING_")}
    return subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=cwd,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environ,
    )


def main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The same within this process: status, stdout, stderr."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    said = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, said.out, said.err


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    assert text.startswith("messaging-exporter: ")
    return text.strip()


def test_the_version_is_the_packages_with_the_revision_of_the_clone(capsys) -> None:
    status, out, errors = main(capsys, "--version")
    assert (status, errors) == (0, "")
    assert re.fullmatch(rf"messaging-exporter {re.escape(__version__)}( \(revision [0-9a-f]{{12}}\))?\n", out)
    assert ("revision" in out) == (ROOT / ".git").exists()


@pytest.mark.parametrize(
    ("module", "extra", "arguments", "status"),
    [
        ("asyncpg", "postgres", ["migrate", "--database.url", "postgresql://nobody@127.0.0.1:1/nowhere"], 1),
        ("asyncpg", "postgres", ["verify", "--database.url", "postgresql://nobody@127.0.0.1:1/nowhere"], 2),
        ("cryptography", "keys", ["token", "ann", "--auth.public-key-file", "key.pem"], 1),
        ("cryptography", "keys", ["simulate", "--auth.public-key-file", "key.pem"], 2),
    ],
)
def test_what_is_not_installed_is_one_line_with_the_extra_that_brings_it(
    module: str, extra: str, arguments: list[str], status: int, tmp_path: Path
) -> None:
    """Status 1 of ``verify`` and ``simulate`` is for what they find."""
    (tmp_path / "key.pem").write_text("-----BEGIN PUBLIC KEY-----\n")
    absent = f"import sys; sys.modules[{module!r}] = None; from exporter.cli import main; main({arguments!r})"
    done = subprocess.run(
        [sys.executable, "-c", absent],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == status
    said = one_line(done.stderr)
    assert f"needs {module}" in said
    assert f"'messaging-exporter[{extra}]'" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys) -> None:
    status, out, _ = main(capsys, command, "--help")
    assert status == 0
    assert out.startswith("Usage:")


def test_help_names_every_command(capsys) -> None:
    status, out, _ = main(capsys, "--help")
    assert status == 0
    assert set(COMMANDS) <= set(out.split())


def test_what_a_command_does_is_read_whole_in_the_list_of_commands(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = main(capsys, "--help")
    assert "..." not in out.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("command", "own"), [("token", "--ttl"), ("simulate", "--url"), ("observe", "--check"), ("verify", "--repair")]
)
def test_what_is_a_commands_own_stands_before_the_settings(command: str, own: str, capsys) -> None:
    _, out, _ = main(capsys, command, "--help")
    first, _, settings = out.partition("\nSettings:\n")
    assert own in first
    assert "--help" in first
    assert "--config.file" in settings
    assert "--data.dir" not in first


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_help_of_the_server_names_every_setting_its_variable_and_its_default(command: str, capsys) -> None:
    _, out, _ = main(capsys, command, "--help")
    words = " ".join(out.split())
    for option in OPTIONS:
        if option.name.startswith("source."):
            assert f"--{option.name} " not in words
            continue
        assert f"--{option.name} " in words
        assert f"[{option.variable}]" in words
        assert not option.default or f"(default: {option.default})" in words


@pytest.mark.parametrize("command", ["token", "migrate", "verify", "simulate"])
def test_the_other_commands_take_the_data_database_and_auth_flags(command: str, capsys) -> None:
    _, out, _ = main(capsys, command, "--help")
    for option in OPTIONS:
        shared = option.name.startswith(("data.", "database.", "auth."))
        assert (f"--{option.name} " in out) is (shared or option.name.startswith("log."))


def test_help_loads_nothing_that_is_slow() -> None:
    code = (
        "import sys; from exporter import cli\n"
        "try: cli.main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'aiohttp', 'sqlalchemy', 'jwt', 'cryptography', 'prometheus_client', 'rich', 'structlog', 'yaml'}\n"
        "print(sorted((slow | {'asyncio', 'uvloop'}) & set(sys.modules)), file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=400)
    assert said.stderr.strip() == "[]"


def test_a_command_s_loop_is_uvloop_s_and_python_s_own_where_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def loop() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    assert event_loop.run(loop()) == "uvloop"
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert event_loop.run(loop()) == "asyncio"


def test_a_server_starts_without_the_certificates_that_only_a_client_needs(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(CertificateAuthority().cert)
    code = (
        "import ssl; from exporter.cli.process import no_client_certificates\n"
        "with no_client_certificates():\n    from aiohttp import connector\n"
        "contexts = connector._SSL_CONTEXT_VERIFIED, ssl.create_default_context()\n"
        "print([len(context.get_ca_certs()) for context in contexts], contexts[0].verify_mode.name)"
    )
    environ = os.environ | {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "SSL_CERT_DIR": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=400
    )
    assert said.stdout.strip() == "[0, 1] CERT_REQUIRED", said.stderr


def test_a_server_that_has_started_collects_garbage_again(tmp_path: Path) -> None:
    code = (
        "import asyncio, gc; from pathlib import Path\n"
        "from exporter.settings.model import Address, Settings; from exporter.web.server import Server\n"
        "async def main():\n"
        "    gc.disable(); server = Server(Settings(data_dir=Path(), listen=(Address('127.0.0.1', 0),)))\n"
        "    await server.start(); print(gc.isenabled(), gc.get_freeze_count() > 10_000); await server.stop()\n"
        "asyncio.run(main())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=400,
    )
    assert "True True" in said.stdout.splitlines(), said.stderr


def test_without_a_command_the_help_is_shown_and_the_status_is_2(capsys) -> None:
    status, out, err = main(capsys)
    assert (status, out) == (2, "")
    assert "Commands:" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--nonsense"),
        ("serve", "extra"),
        ("nonsense",),
        ("token",),
        ("token", "ann", "--ttl", "soon"),
        ("token", "ann", "--ttl", "0"),
        ("simulate", "--users", "many"),
        ("assets",),
    ],
)
def test_words_that_the_command_line_does_not_know_exit_with_2_and_one_line(arguments: tuple[str, ...], capsys) -> None:
    status, out, err = main(capsys, *arguments)
    assert (status, out) == (2, "")
    one_line(err)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("migrate", "--redis.url", "redis://h"), "--redis.url is a setting of serve, not of migrate"),
        (("token", "ann", "--redis.url=redis://h"), "--redis.url is a setting of serve, not of token"),
        (("verify", "--web.config.file", "x.yml"), "--web.config.file is a setting of serve, not of verify"),
        (("migrate", "--no-web.systemd-socket"), "--web.systemd-socket is a setting of serve, not of migrate"),
        (("serve", "--source.kind", "synapse"), "--source.kind is a setting of observe, not of serve"),
        (
            ("observe", "--web.external-url=https://a.example"),
            "--web.external-url is a setting of serve, not of observe",
        ),
        (("observe", "--web.trusted-proxies", "::1"), "--web.trusted-proxies is a setting of serve, not of observe"),
    ],
)
def test_a_setting_of_another_command_is_said_to_be_that_and_no_other_is_proposed(arguments, answer, capsys) -> None:
    status, out, err = main(capsys, *arguments)
    assert (status, out, one_line(err)) == (2, "", f"messaging-exporter: {answer}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "--limits.connections", "none"), "--limits.connections"),
        (("serve", "--config.file", "/nonexistent.yml"), "nonexistent.yml"),
        (("serve", "--web.config.file", "/nonexistent.yml"), "nonexistent.yml"),
        (("serve", "--database.url", "postgresql://u:hunter2@h/d"), "MESSAGING_DATABASE_URL"),
        (("serve", "--database.url", "mysql://h/d"), "expected sqlite"),
        (("serve", "--data.dir", "/proc/nowhere"), "/proc/nowhere"),
        (("serve", "--auth.public-key-file", "/dev/null"), "/dev/null"),
        (("token", "a\nb"), "control character"),
        (("migrate", "--data.dir", "/proc/nowhere"), "/proc/nowhere"),
        (("assets", "--output", "/proc/nowhere"), "/proc/nowhere"),
    ],
)
def test_what_cannot_work_exits_with_1_and_one_clear_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    said = run(*arguments, cwd=tmp_path)
    assert said.returncode == 1, said.stderr
    assert words in one_line(said.stderr)
    assert "hunter2" not in said.stderr + said.stdout


def test_what_keeps_simulate_from_looking_is_not_the_status_of_a_loss(tmp_path: Path) -> None:
    said = run("simulate", cwd=tmp_path)
    assert said.returncode == 2
    assert "no secret" in one_line(said.stderr)


@pytest.mark.parametrize(
    "arguments", [("doctor", "--url"), ("simulate", "--url"), ("assets", "--output", "out", "--runbooks")]
)
def test_an_address_with_a_password_is_refused_also_where_it_is_no_setting(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = main(capsys, *arguments, "https://ann:hunter2@chat.example.com/x")
    assert code == 2
    assert f"{arguments[-1]}': it holds a password" in one_line(said)
    assert "hunter2" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["https://ann@chat.example.com", "ftp://chat.example.com", "chat.example.com"])
def test_doctor_says_what_address_it_takes(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, page, _ = main(capsys, "doctor", "--data.dir", str(tmp_path), "--url", url)
    assert code == 2
    assert re.search(r"unknown +proxy +--url: expected an address such as https://chat.example.com\n", page)


@pytest.mark.parametrize("url", URLS_WITH_PASSWORD)
def test_no_error_of_the_command_line_repeats_a_password(url: str, capsys) -> None:
    for arguments in (
        ("serve", "--database.url", url),
        ("serve", f"--database.url={url}"),
        ("serve", url),
        (url,),
        ("serve", f"--database.ulr={url}"),
        ("token", "ann", "--ttl", url),
    ):
        _, out, err = main(capsys, *arguments)
        one_line(err)
        assert "hunter2" not in out + err
        assert "s3cr3t" not in out + err


def test_a_token_is_signed_with_the_installations_secret(tmp_path: Path, capsys) -> None:
    folder = str(tmp_path / "data")
    assert main(capsys, "token", "ann", "--data.dir", folder)[0] == 0
    status, out, err = main(capsys, "token", "ann", "--data.dir", folder, "--role", "admin", "--ttl", "2h")
    assert (status, err) == (0, "")
    claims = Authenticator.from_settings(Settings(data_dir=Path(folder))).verify(out.strip())
    assert (claims.user, claims.role) == ("ann", "admin")
    assert 7_190 < claims.expires_at - time.time() < 7_210
    secret = (tmp_path / "data" / "auth.secret").read_text().strip()
    assert jwt.decode(out.strip(), secret, ["HS256"])["sub"] == "ann"


def test_a_secret_that_the_command_makes_is_said_and_the_token_stands_alone(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most often the folder is not the server's, which has another secret and takes no such token."""
    monkeypatch.chdir(tmp_path)
    assert main(capsys, "token", "a\nb")[0] == 1
    assert not list(tmp_path.iterdir())
    status, out, err = main(capsys, "token", "ann", "--role", "admin")
    assert (status, len(out.split())) == (0, 1)
    secret = tmp_path / "data" / "auth.secret"
    said = f"made a new secret in {secret}: only a server started with it accepts this token"
    assert one_line(err) == f"messaging-exporter: {said}"
    assert main(capsys, "token", "ann", "--role", "admin")[2] == ""
    (tmp_path / "theirs").write_text("x" * 64)
    (tmp_path / "theirs").chmod(0o600)
    assert main(capsys, "token", "ann", "--auth.secret-file", "theirs")[2] == ""


@pytest.mark.parametrize("role", ["amdin", "Admin", "superadmin"])
def test_a_role_that_the_server_does_not_ask_for_is_signed_and_said(role: str, tmp_path: Path, capsys) -> None:
    here = ("--data.dir", str(tmp_path))
    assert [main(capsys, "token", "ann", *here, "--role", known)[0] for known in ("user", "admin")] == [0, 0]
    status, out, err = main(capsys, "token", "ann", *here, "--role", role)
    assert (status, jwt.decode(out.strip(), options={"verify_signature": False})["role"]) == (0, role)
    assert f'no route asks for the role "{role}", only for "admin"' in one_line(err)
    assert main(capsys, "token", "ann", *here, "--role", "user")[2] == ""


def test_a_token_for_a_user_whose_name_begins_with_dashes_can_be_had(tmp_path: Path, capsys) -> None:
    status, out, _ = main(capsys, "token", "--data.dir", str(tmp_path), "--", "--ann")
    assert (status, jwt.decode(out.strip(), options={"verify_signature": False})["sub"]) == (0, "--ann")


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logging_restored")
def test_migrate_makes_the_folder_and_the_database_and_may_be_repeated(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "new" / "data"
    for _ in range(2):
        assert main(capsys, "migrate", "--data.dir", str(folder))[0] == 0
    assert (folder / "messaging.db").stat().st_size > 0
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("_logging_restored")
def test_verify_says_whether_all_agrees_finds_what_does_not_and_repairs_it(tmp_path: Path, capsys) -> None:
    here = ("--data.dir", str(tmp_path))
    status, out, err = main(capsys, "verify", *here)
    assert (status, out) == (2, "")
    assert "could not verify" in one_line(err)
    main(capsys, "migrate", *here)
    status, out, _ = main(capsys, "verify", *here)
    assert (status, "all figures agree" in out) == (0, True)
    database = sqlite3.connect(tmp_path / "messaging.db")
    with database:
        database.execute("INSERT INTO conversations (id) VALUES ('c')")
        database.execute("UPDATE conversations SET total_messages = 7")
    database.close()
    status, out, _ = main(capsys, "verify", *here)
    assert status == 1
    assert out.splitlines()[-1] == (
        "1 conversation, 0 days and 0 triggers or other parts of the schema were wrong; repair them with --repair: "
        "1 conversation, about 0 messages"
    )
    assert main(capsys, "verify", "--repair", *here)[0] == 0
    assert main(capsys, "verify", *here)[0] == 0


def test_assets_are_written(tmp_path: Path, capsys) -> None:
    assert main(capsys, "assets", "--output", str(tmp_path / "out"))[0] == 0
    assert (tmp_path / "out" / "dashboards").is_dir()


def test_the_environment_is_read_and_an_error_names_the_variable(tmp_path: Path) -> None:
    said = run("serve", cwd=tmp_path, MESSAGING_LIMITS_CONNECTIONS="some")
    assert said.returncode == 1
    assert "MESSAGING_LIMITS_CONNECTIONS" in one_line(said.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("serve", "--workers", "2"),
        ("demo",),
        ("observe", "--web.listen-address", "192.0.2.1:1"),
        ("token", "ann"),
        ("migrate",),
        ("verify",),
        ("simulate",),
    ],
)
def test_a_variable_that_nothing_reads_is_said_once_by_name_and_never_by_value(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    listen = () if arguments[0] not in ("serve", "demo") else ("--web.listen-address", "192.0.2.1:1")  # soon at an end
    said = run(*arguments, *listen, cwd=tmp_path, MESAGING_WEB_LISTEN_ADDRES="hunter2", MESSAGING_DATABASE_URL="")
    (line,) = [line for line in said.stderr.splitlines() if "MESAGING_WEB_LISTEN_ADDRES" in line]
    assert "MESSAGING_WEB_LISTEN_ADDRESS" in line
    assert "hunter2" not in said.stderr + said.stdout
    (line,) = [line for line in said.stderr.splitlines() if "MESSAGING_DATABASE_URL" in line]
    assert re.search("empty.* as not set", line)


@pytest.mark.parametrize(
    ("arguments", "text", "unread"),
    [
        (
            ("serve",),
            "sources: [{name: a, url: 'sqlite:///hunter2', kind: custom}]\nsource: {load: 1%}",
            "source.load,sources",
        ),
        (
            ("observe", "--source.kind=custom", "--source.url=sqlite:///x"),
            "redis: {url: 'redis://:hunter2@h'}",
            "redis.url",
        ),
    ],
)
def test_what_changes_nothing_for_a_server_is_said_by_name(
    arguments: tuple[str, ...], text: str, unread: str, tmp_path: Path
) -> None:
    (tmp_path / "settings.yml").write_text(text)
    listen = ("--web.listen-address", "192.0.2.1:1")  # soon at an end
    said = run(*arguments, *listen, "--config.file", "settings.yml", cwd=tmp_path)
    (line,) = [line for line in said.stderr.splitlines() if "change nothing here" in line]
    assert f"settings={unread}" in line
    assert "hunter2" not in said.stderr


def test_one_source_and_a_list_of_sources_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "sources.yml").write_text("sources: [{name: a, url: 'sqlite:///a.db', kind: ejabberd}]")
    said = run("observe", "--config.file", "sources.yml", "--source.host", "example.org", "--check", cwd=tmp_path)
    assert "either --source.url and what belongs to it, or sources" in one_line(said.stderr)


@pytest.mark.parametrize("flag", ["--web.listen-address", "--web.metrics-listen-address"])
def test_a_server_that_cannot_listen_says_so_in_one_line_with_the_flag_that_chooses(flag: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = {"MESSAGING_WEB_LISTEN_ADDRESS": "127.0.0.1:0"}
        said = run("serve", flag, f"127.0.0.1:{port}", cwd=tmp_path, **free)
    assert said.returncode == 1
    (line,) = [line for line in said.stderr.splitlines() if not line.startswith("ts=")]
    assert re.fullmatch(
        rf"messaging-exporter: cannot listen on .*{port}.*in use; .*another port with (\S+) HOST:PORT", line
    )
    assert f" {flag} HOST:PORT" in line


@pytest.mark.parametrize("name", ["nowhere.invalid", "a..b", "a" * 70])
def test_a_name_that_cannot_be_resolved_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    said = run("serve", "--web.listen-address", f"{name}:0", cwd=tmp_path)
    assert said.returncode == 1
    (line,) = [line for line in said.stderr.splitlines() if not line.startswith("ts=")]
    assert line.startswith(f"messaging-exporter: cannot listen on {name}:0: this name is unknown")


def test_a_reader_that_goes_away_is_no_reason_for_a_trace(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", "token", "ann", "--data.dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert "Traceback" not in said


def test_a_server_without_standard_streams_serves(tmp_path: Path) -> None:
    """A supervisor may have closed them; a socket in their place would be written to, or abort the event loop."""
    port = free_port()
    command = [sys.executable, "-m", "exporter", "serve", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *command, f"--data.dir={tmp_path / 'data'}"], cwd=ROOT
    )
    try:
        status = None
        while status is None and process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/-/healthy") as answer:
                status = answer.status
        assert status == 200
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_what_the_parent_had_blocked_is_heard(tmp_path: Path) -> None:
    """A mask of signals is inherited; with SIGTERM in it nobody could end the server."""
    file = tmp_path / "settings.yml"
    os.mkfifo(file)
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", "serve", "--config.file", str(file)],
        cwd=ROOT,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
    )
    try:
        with file.open("w"):  # it reads its settings
            process.terminate()
            assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_the_first_process_of_a_container_ends_when_it_is_told_however_early(tmp_path: Path) -> None:
    alone = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False, timeout=30).returncode:
        pytest.skip("this user may not make a namespace")
    file = tmp_path / "settings.yml"
    os.mkfifo(file)  # a start that takes its time
    words = [*alone, sys.executable, "-m", "exporter", "serve", "--config.file", str(file)]
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        descriptor = None
        while descriptor is None and process.poll() is None:
            with contextlib.suppress(OSError):  # until somebody reads
                descriptor = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
        [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()


async def test_a_second_server_on_the_same_data_without_a_broker_is_warned_of(tmp_path: Path) -> None:
    def warned(server: Exporter) -> int:
        return sum("another server uses the same data" in line.get("event", "") for line in server.lines())

    absent = "--redis.url=redis://127.0.0.1:1"  # nodes are the same whether their broker can be reached
    async with running(tmp_path) as first:
        assert warned(first) == 0
        for flags, warnings in (((), 1), ((absent,), 2)):
            async with running(tmp_path, *flags) as second:  # they have one log
                assert warned(second) == warnings
    async with running(tmp_path, absent) as first:
        assert warned(first) == 2, "a server that was killed is not there any more"
        async with running(tmp_path, absent) as second:
            assert warned(second) == 2, "of each other they hear by the broker"
        async with running(tmp_path) as second:
            assert warned(second) == 3


async def test_it_is_the_file_that_two_servers_have_in_common_whatever_they_call_it(tmp_path: Path) -> None:
    def warned(server: Exporter) -> int:
        return sum("another server uses the same data" in line.get("event", "") for line in server.lines())

    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    async with running(tmp_path / "first") as first:
        link.symlink_to(first.database)
        for url, warnings in (
            (f"sqlite:///{first.database}", 1),
            (f"sqlite:///{link}", 1),
            (f"sqlite:///{first.database.with_name('another.db')}", 0),
        ):
            async with running(tmp_path / f"second {url[-8:]}", "--database.url", url) as second:
                assert warned(second) == warnings
                assert run("verify", "--database.url", url).returncode == 0
        async with running(tmp_path / "first") as second:
            assert warned(second) == 1, "of the data folder's own, too"


def test_a_database_that_is_a_link_to_itself_is_told_in_one_line(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(link)
    flags = ("--data.dir", str(tmp_path), "--web.listen-address", "127.0.0.1:0")
    said = run("serve", *flags, "--database.url", f"sqlite:///{link}")
    assert (said.returncode, said.stderr.splitlines()[-1]) == (
        1,
        f"messaging-exporter: the database's file cannot be opened ({link})",
    )


@pytest.mark.parametrize(("arguments", "status"), [(("token", "ann"), 1), (("verify",), 2)])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_stdout_is_said_in_one_line(arguments: tuple[str, ...], status: int, tmp_path: Path) -> None:
    """Of ``verify`` it is no finding."""
    here = ("--data.dir", str(tmp_path))
    run("token", "ann", *here)  # makes the secret, which it says, too
    run("migrate", *here)
    with open("/dev/full", "w") as full:
        said = subprocess.run(
            [sys.executable, "-m", "exporter", *arguments, *here],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            timeout=400,
        )
    assert said.returncode == status
    assert "space" in one_line(said.stderr)


def test_a_name_that_stdout_cannot_show_is_escaped(tmp_path: Path) -> None:
    """The name of a folder is bytes, and an old one may be Latin-1."""
    folder = os.fsdecode(b"d\xfcrer")
    said = run("doctor", "--data.dir", folder, cwd=tmp_path, PYTHONIOENCODING="utf-8:strict")
    assert "Traceback" not in said.stderr
    assert "d\\udcfcrer" in said.stdout


def test_the_documentation_names_every_setting_its_variable_and_its_default() -> None:
    entries = (ROOT / "docs" / "flags.md").read_text().split("\n* ")
    for option in OPTIONS:
        (entry,) = [entry for entry in entries if entry.startswith(f"`--{option.name}`")]
        assert f"`{option.variable}`" in entry
        assert option.default in entry
        assert option.help.split()[-1] in entry


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [((), Path("data/demo")), (("--data.dir", "data"), Path("data")), (("--data.dir", "elsewhere"), Path("elsewhere"))],
)
def test_the_demo_keeps_its_data_apart_from_a_real_servers_unless_told_otherwise(
    arguments: tuple[str, ...], folder: Path, capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first figures of a server in the same folder would be three months of invented people."""
    shown: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exporter.demo.main", lambda settings: shown.append(settings.data_dir) or 0)
    assert main(capsys, "demo", *arguments)[0] == 0
    assert shown == [folder]
    assert (tmp_path / folder).is_dir()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
@pytest.mark.parametrize("command", ["serve", "demo", "observe"])
def test_a_signal_to_read_again_or_to_replace_ends_no_server_however_early_it_comes(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    """The configuration file is a pipe: whoever reads it has begun and has no event loop yet."""
    pipe = tmp_path / "config.yml"
    os.mkfifo(pipe)
    server = subprocess.Popen(
        [sys.executable, "-m", "exporter", command, "--config.file", str(pipe)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        with pipe.open("w") as config:  # waits for the reader
            server.send_signal(number)
            config.write("nonsense: 1\n")
        _, said = server.communicate(timeout=400)
    finally:
        server.kill()
    assert server.returncode == 1
    assert "nonsense" in one_line(said)
