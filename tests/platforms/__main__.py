"""In fresh roots of Debian 12 and 13, as a new user: README's two commands, a wheel, the documents' three ways.

``python -m tests.platforms [bookworm] [trixie] [--suite]``: with ``--suite`` the whole of ``make test`` runs in each
root (half an hour), otherwise what needs no service. Transcripts are in ``build/platforms/*.log``, and what is printed
is kept as a table in ``build/platforms/table.md``. With ``dockerd`` (apt-get install docker.io), the image and the
composition are built and run by their own engines.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.platforms import compose, image, unit
from tests.platforms.roots import LOGS, ROOTS, Failed, Root, fresh

REPOSITORY = Path(__file__).parents[2]
RELEASES = ("bookworm", "trixie")
FAST = "tests/core tests/metrics tests/settings tests/auth tests/node"
APPLICATION = """\
CREATE TABLE user (id INTEGER PRIMARY KEY, role TEXT);
CREATE TABLE conversation (id INTEGER PRIMARY KEY, total_messages INTEGER);
CREATE TABLE message (id INTEGER PRIMARY KEY, sender_id INTEGER, conversation_id INTEGER, content TEXT,
    created_at TEXT, deleted_at TEXT);
CREATE INDEX message_conversation ON message (conversation_id);
INSERT INTO user VALUES (1, 'person'), (2, 'person'), (3, 'bot');
INSERT INTO conversation VALUES (1, 7);
INSERT INTO message VALUES (1, 1, 1, 'a', '2026-01-01 10:00:00', NULL), (2, 2, 1, 'b', '2026-01-01 10:00:01', NULL),
    (3, 2, 1, NULL, '2026-01-01 10:00:02', NULL);
"""
"""A back end of somebody's own, as the custom mapping of docs/observe.md describes it: two messages, a counter of 7."""
WAIT = 900
A_WAY = 900
"""Seconds in which somebody new has seen figures, or has followed a document to its end, on a busy machine."""
TABLE = LOGS / "table.md"
PORT = 8897
"""In the place of 8765: the roots share this machine's network, where that may be taken."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.platforms", description=__doc__.split("\n")[0])
    parser.add_argument("release", nargs="*", help=f"default: {', '.join(RELEASES)}")
    parser.add_argument("--suite", action="store_true", help="all tests in each root, with their services")
    given = parser.parse_args()
    if os.geteuid() or not shutil.which("debootstrap"):
        print("needs root and debootstrap (apt-get install debootstrap bubblewrap systemd-container)", file=sys.stderr)
        return 2
    ROOTS.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    bundle = ROOTS / "repository.bundle"
    subprocess.run(["git", "bundle", "create", "--quiet", str(bundle), "HEAD"], cwd=REPOSITORY, check=True)
    TABLE.write_text(f"{_revision()}\n\n| | root | what | seconds | seen |\n| --- | --- | --- | --- | --- |\n")
    failed = False
    for release in given.release or RELEASES:
        with fresh(release, release) as root:
            root.copy_in(bundle, "/srv/repository.bundle")
            for name, step in _steps(given.suite):
                failed |= not _step(release, name, lambda step=step: step(root))
    failed |= not _step("image", "deploy/Dockerfile", lambda: image.check(LOGS / "image.log"))
    if shutil.which("kubectl"):
        failed |= not _step("kubectl", "deploy/kubernetes", _kustomize)
    if shutil.which("dockerd"):
        failed |= not _step("docker", "deploy/compose", lambda: compose.check(LOGS / "compose.log"))
    return int(failed)


def _kustomize() -> str:
    """What ``kubectl apply -k`` would send, against the schemas of Kubernetes."""
    words = ["kubectl", "kustomize", str(REPOSITORY / "deploy" / "kubernetes")]
    built = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
    manifests = [part for part in built.split("\n---\n") if "monitoring.coreos.com" not in part]
    file = LOGS / "kubernetes.yaml"
    file.write_text("\n---\n".join(manifests))
    subprocess.run(
        [Path(sys.executable).parent / "kubernetes-validate", "--strict", str(file)], check=True, timeout=120
    )
    return f"built; {len(manifests)} manifests of Kubernetes' own kinds are valid"


def _revision() -> str:
    words = ["git", "log", "-1", "--format=Revision %h of %cd.", "--date=format:%Y-%m-%d %H:%M"]
    return subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def _step(release: str, name: str, step: Callable[[], str]) -> bool:
    begun = time.monotonic()
    try:
        said, outcome = step(), "ok"
    except (Failed, subprocess.SubprocessError) as error:
        said, outcome = str(error), "FAILED"
    seconds = time.monotonic() - begun
    print(f"{outcome:6} {release:9} {name:16} {seconds:4.0f} s  {said}", flush=True)
    with TABLE.open("a") as table:
        table.write(f"| {outcome} | {release} | {name} | {seconds:.0f} | {' '.join(said.split())[:200]} |\n")
    return outcome == "ok"


def _steps(suite: bool) -> Iterator[tuple[str, Callable[[Root], str]]]:
    yield "packages", _packages
    yield "make run", _make_run
    yield "make test", _make_all if suite else _make_fast
    yield "wheel", _wheel
    yield "docs/embed.md", _embed
    yield "docs/run.md", _run
    yield "docs/observe.md", _observe
    if shutil.which("systemd-nspawn"):
        yield "systemd unit", unit.check


def _packages(root: Root) -> str:
    """What somebody has who clones and looks: git, make, Python, curl."""
    root.run(
        "apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends curl git make python3-venv"
    )
    root.run("useradd --create-home --shell /bin/bash ann")
    root.run("git clone --quiet /srv/repository.bundle messaging-exporter", user="ann", folder="/home/ann")
    return root.run("python3 --version").strip()


def _make_run(root: Root) -> str:
    """``make run``, a look at the first figures, Ctrl-C."""
    script = (
        f': > run.log; make run ARGS="--web.listen-address 127.0.0.1:{PORT}" > run.log 2>&1 & run=$!; n=0; '
        "until grep -q 'Metrics  ' run.log; do n=$((n+1)); [ $n -lt 9000 ] && kill -0 $run || { cat run.log; exit 1; };"
        " sleep 0.1; done; url=$(sed -n 's/ *Metrics *//p' run.log); n=0; "
        "until python3 -c \"import urllib.request as u; print(u.urlopen('$url').read().decode())\" "
        "| grep '^messaging_active_connections [1-9]'; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.2; done; "
        "kill -INT -$run; wait $run; echo status $?; tail -n 3 run.log"
    )
    said = root.run(f"set -m; {script}", user="ann", folder="/home/ann/messaging-exporter", timeout=WAIT)
    if not re.search(r"status (0|130)\b", said) or "connections, " not in said:  # 130 is make's
        raise Failed(f"Ctrl-C did not end it well: {said}")
    return said.splitlines()[0]


def _make_fast(root: Root) -> str:
    said = root.run(f'make test ARGS="{FAST}"', user="ann", folder="/home/ann/messaging-exporter", timeout=900)
    return _summary(said) + "; " + next((line for line in said.splitlines() if "not on this machine" in line), "")


def _make_all(root: Root) -> str:
    root.run("git clone --quiet /srv/repository.bundle /srv/messaging-exporter")
    return _summary(root.run("make test", folder="/srv/messaging-exporter", timeout=5_400))


def _summary(said: str) -> str:
    found = re.findall(r"^=*\s*(\d+ passed.*?)\s*=*$", said, re.MULTILINE)
    if not found:
        raise Failed(said[-2000:])
    return str(found[-1])


def _wheel(root: Root) -> str:
    """Into an empty environment, by somebody without a clone; then it serves."""
    home = "/home/ann/messaging-exporter"
    root.run("make dist", user="ann", folder=home)
    root.run(
        f"python3 -m venv /opt/messaging-exporter && /opt/messaging-exporter/bin/pip install --quiet {home}/dist/*.whl"
    )
    program = "/opt/messaging-exporter/bin/messaging-exporter"
    said = root.run(
        f"mkdir new && cd new && {program} --version && {program} doctor | tail -n 1; "
        f"{program} serve --web.listen-address 127.0.0.1:8899 2> log & server=$!; n=0; "
        'ask() { python3 -c "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())" '
        '"http://127.0.0.1:8899$1"; }; '
        "until ask /-/ready 2>/dev/null; do n=$((n+1)); [ $n -lt 200 ] || { cat new/log; exit 1; }; sleep 0.1; done; "
        "ask /metrics | grep '^messaging_build_info'; kill $server; wait $server",
        user="ann",
        folder="/home/ann",
    )
    return said.splitlines()[0]


def _embed(root: Root) -> str:
    """The first program of docs/embed.md, saved and run as it says there."""
    text, _, _ = _document("embed").partition("\n## ")
    [program] = _blocks("python", text)
    lines = [f"cat > chat.py <<'END_OF_FILE'\n{program}END_OF_FILE"]
    lines += [_typed(command) for block in _blocks("sh", text) for command in block.splitlines()]
    return _follow(root, "embed", lines, "messaging_active_connections 0")


def _follow(root: Root, way: str, lines: list[str], wanted: str) -> str:
    """What somebody types in a new folder of theirs until they see what they want; raises Failed."""
    begun = time.monotonic()
    lines = [f"rm -rf {way} && mkdir {way} && cd {way} && set -e", *lines, "kill $(jobs -p) 2>/dev/null || true"]
    said = root.run("\n".join(lines), user="ann", folder="/home/ann", timeout=A_WAY)
    if wanted not in said:
        raise Failed(said)
    return f"followed in {time.monotonic() - begun:.0f} s"


def _blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _document(way: str) -> str:
    return (REPOSITORY / "docs" / f"{way}.md").read_text()


def _observe(root: Root) -> str:
    """The custom mapping of docs/observe.md, on a database of that form: checked, served, looked at."""
    text, _, custom = _document("observe").partition("\n## A back end of your own")
    install = _blocks("sh", text)[0].partition("export ")[0]  # what follows names a server of somebody's
    mapping, commands = _blocks("yaml", custom)[0], _blocks("sh", custom)[0]
    check, serve, look = map(_typed, commands.splitlines())
    make = 'python3 -c \'import sqlite3; sqlite3.connect("app.db").executescript(open("app.sql").read())\''
    lines = [
        *map(_typed, install.splitlines()),
        f"cat > app.sql <<'END_OF_FILE'\n{APPLICATION}END_OF_FILE\n{make}",
        f"cat > mapping.yml <<'END_OF_FILE'\n{mapping}END_OF_FILE",
        f"{check} && exit 1 || [ $? = 1 ]",  # the counter is wrong
        f"{serve}\nuntil {look}; do sleep 0.1; done",  # the first count takes a moment
    ]
    return _follow(root, "observe", lines, "messaging_stored_messages 2")


def _run(root: Root) -> str:
    """The console blocks of docs/run.md, typed one after the other; what does not end by itself goes on meanwhile."""
    commands = [
        re.findall(r"^\$ (.*(?:\\\n.*)*)", block, re.MULTILINE) for block in _blocks("console", _document("run"))
    ]
    return _follow(root, "run", [_typed(command) for block in commands for command in block], "messaging_active_conn")


def _typed(command: str) -> str:
    clone = r"pip install (['\"]?)\.(/messaging-exporter)?(?=[\s'\"\[]|$)"
    command = re.sub(clone, r"pip install --quiet \1/home/ann/messaging-exporter", command)
    command = re.sub("127.0.0.1:8765|127.0.0.1:8000", f"127.0.0.1:{PORT}", command).replace("8000", str(PORT))
    command = command.replace("--duration 10m", "--duration 5s")
    if re.match(r"messaging-exporter (serve|doctor|observe(?!.*--check))", command):
        command += f" --web.listen-address 127.0.0.1:{PORT}"
    elif command.startswith("messaging-exporter simulate"):
        command += f" --url http://127.0.0.1:{PORT}"
    if re.match(r"messaging-exporter (serve|observe(?!.*--check))|uvicorn ", command):
        wait = f"n=0; until (exec 3<>/dev/tcp/127.0.0.1/{PORT}) 2>/dev/null"
        return f"echo '$ {command}'; {command} & {wait}; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done"
    return f"cat <<'END_OF_COMMAND'\n$ {command}\nEND_OF_COMMAND\n{command}"


sys.exit(main())
