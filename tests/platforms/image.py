"""The steps of ``deploy/Dockerfile`` without a container engine: in Debian roots, one for each stage.

It carries out what that file uses (FROM of a Debian, RUN, COPY, ENV, ARG, WORKDIR, USER, HEALTHCHECK, ENTRYPOINT, CMD),
and refuses what it does not know. The result runs as the image would: its user, no capability, a read-only root.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.platforms.roots import Failed, Root, fresh

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"
REVISION = "0123456789abcdef0123456789abcdef01234567"
ARGUMENTS = {"SOURCE_REVISION": REVISION}
"""What ``docker build`` is given with ``--build-arg``."""
RELEASES = {"debian:13-slim": "trixie", "debian:12-slim": "bookworm"}


class Stage:
    """A root with the settings that later steps and the running container inherit."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        self.folder = "/"
        self.user = "0:0"
        self.healthcheck: list[str] = []
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.arguments: dict[str, str] = {}

    def carry_out(self, word: str, rest: str, stages: dict[str, Stage]) -> None:
        """One instruction."""
        match word:
            case "RUN":
                self.root.run(rest, folder=self.folder, **self.environment, **self.arguments)
            case "COPY":
                self._copy(shlex.split(rest), stages)
            case "ENV":
                self.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
            case "ARG":
                name, _, default = rest.partition("=")
                self.arguments[name] = ARGUMENTS.get(name, default)
            case "WORKDIR":
                self.folder = rest
                (self.root.path / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user = rest
            case "ENTRYPOINT":
                self.entrypoint = json.loads(rest)
            case "CMD":
                self.command = json.loads(rest)
            case "HEALTHCHECK":
                self.healthcheck = json.loads(rest.partition("CMD ")[2])
            case "VOLUME" | "EXPOSE" | "STOPSIGNAL":
                pass
            case _:
                raise Failed(f"{DOCKERFILE} has an instruction that is not known here: {word}")

    def _copy(self, words: list[str], stages: dict[str, Stage]) -> None:
        source = REPOSITORY
        if words[0].startswith("--from="):
            source = stages[words.pop(0).removeprefix("--from=")].root.path
        *names, target = words
        place = self.root.path / (
            target.lstrip("/") if target.startswith("/") else f"{self.folder}/{target}".lstrip("/")
        )
        for name in names:
            path = source / name.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)


def instructions() -> Iterator[tuple[str, str]]:
    """The file's instructions: the word, and all that follows on its lines."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def check(log: Path) -> str:
    """Build it, run it, ask it, stop it; a sentence about what was seen. Raises Failed."""
    with ExitStack() as stack:
        stages: dict[str, Stage] = {}
        stage: Stage | None = None
        for word, rest in instructions():
            if word == "FROM":
                image, _, name = rest.partition(" AS ")
                name = name or "final"
                stage = stages[name] = Stage(stack.enter_context(fresh(RELEASES[image], f"image-{name}")))
            else:
                assert stage is not None
                stage.carry_out(word, rest, stages)
        final = stages["final"]
        size = subprocess.run(["du", "-sm", str(final.root.path)], capture_output=True, text=True, check=True).stdout
        said = _run(final)
        shutil.copy(final.root.log, log)
        return f"{said}; {size.split()[0]} MiB, of which pristine Debian is " + _pristine_size()


def _pristine_size() -> str:
    from tests.platforms.roots import pristine

    size = subprocess.run(["du", "-sm", str(pristine("trixie"))], capture_output=True, text=True, check=True).stdout
    return f"{size.split()[0]} (a slim image has no documentation and no apt lists)"


def _run(stage: Stage) -> str:
    """As ``docker run --read-only --cap-drop ALL`` would: bubblewrap makes the sandbox.

    It is made by root, who may enter the folder of the roots, and the user is taken on inside.
    """
    user, group = stage.user.split(":")
    data = stage.root.path.parent / "image-data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    shutil.chown(data, int(user), int(group))
    sandbox = [
        *("bwrap", "--ro-bind", str(stage.root.path), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
        *("--bind", str(data), "/data", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent"),
        *("--clearenv", "--chdir", stage.folder, "--cap-drop", "ALL"),
        *(word for needed in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{needed}")),
        *(word for name, value in stage.environment.items() for word in ("--setenv", name, value)),
    ]
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--bounding-set=-all"]
    # Serve and be asked in one sandbox, because its network is its own: the health check, then an order to stop.
    health = " ".join(map(shlex.quote, stage.healthcheck))
    program = " ".join(map(shlex.quote, [*stage.entrypoint, *stage.command]))
    script = (
        f"{program} & server=$!; n=0; until {health} 2>/dev/null; "
        "do n=$((n+1)); [ $n -lt 100 ] || exit 9; sleep 0.1; done; "
        "id -u; messaging-exporter --version; touch /var/tmp/forbidden 2>/dev/null && exit 8; "
        "grep ^Cap /proc/self/status | grep -v '\\b0*$' && exit 7; "
        "kill -TERM $server; wait $server"
    )
    begun = time.monotonic()
    words = [*sandbox, *become, "--no-new-privs", "bash", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    shutil.rmtree(data)
    if done.returncode or done.stdout.split()[0] != user or f"(revision {REVISION[:12]})" not in done.stdout:
        raise Failed(f"the image does not run: status {done.returncode}\n{done.stdout}{done.stderr}")
    return f"as user {user}, read-only, without capabilities: healthy and stopped in {time.monotonic() - begun:.1f} s"
