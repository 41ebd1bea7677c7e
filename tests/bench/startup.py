"""Cold starts: --help, the import, and serve on an empty folder until it answers, beside others in the same run.

Ours is a plain install: a wheel in an environment of its own, with no extra. The peers are query-exporter, an exporter
for databases on much the same libraries, and uvicorn with an empty application, the least that a server here costs.
Each round starts each of them once; CPU time is user and system of the whole process, memory what is resident.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.bench.machine import CACHE
from tests.bench.options import Options
from tests.bench.report import Sample, ratio, table

ROOT = Path(__file__).parents[2]
PEERS = ("query-exporter==5.0.2", "uvicorn==0.54.0")
WAIT = 60.0
QUERY = """\
databases: {{db: {{dsn: "sqlite:///{folder}/x.db"}}}}
metrics: {{m: {{type: gauge, description: x}}}}
queries: {{q: {{interval: 30, databases: [db], metrics: [m], sql: select 1 as m}}}}
"""
EMPTY = """\
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""
Cost = tuple[float, float, float]
"""Seconds until it was done or answered, seconds of CPU, MiB resident."""


def run(options: Options) -> str:
    """The tables."""
    ours, theirs = _environments()
    subjects: dict[str, dict[str, Callable[[Path], Cost]]] = {
        "--help": {
            "messaging-exporter": lambda folder: _once([ours / "messaging-exporter", "--help"], folder),
            "query-exporter": lambda folder: _once([theirs / "query-exporter", "--help"], folder),
        },
        "import": {
            "import exporter": lambda folder: _once([ours / "python", "-c", "import exporter"], folder),
            "import query_exporter.main": lambda folder: _once(
                [theirs / "python", "-c", "import query_exporter.main"], folder
            ),
            "import uvicorn": lambda folder: _once([theirs / "python", "-c", "import uvicorn"], folder),
        },
        "serve": {
            "messaging-exporter serve": lambda folder: _serve(
                [ours / "messaging-exporter", "serve", "--web.listen-address"], "127.0.0.1:{port}", "/-/ready", folder
            ),
            "query-exporter": lambda folder: _serve(
                [theirs / "query-exporter", "--config", "query.yml", "--host", "127.0.0.1", "--port"],
                "{port}",
                "/metrics",
                folder,
            ),
            "uvicorn, an empty app": lambda folder: _serve(
                [theirs / "uvicorn", "app:app", "--log-level", "error", "--port"], "{port}", "/", folder
            ),
        },
    }
    return "\n".join(_table(title, named, options.rounds) for title, named in subjects.items())


def _table(title: str, subjects: dict[str, Callable[[Path], Cost]], rounds: int) -> str:
    costs: dict[str, list[Cost]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, start in subjects.items():
            with tempfile.TemporaryDirectory() as folder:
                costs[name].append(start(Path(folder)))
    first = next(iter(costs.values()))
    rows = []
    for name, seen in costs.items():
        cells = [name]
        for index, scale, digits in ((0, 1000, 0), (1, 1000, 0), (2, 1, 1)):
            values = [cost[index] * scale for cost in seen]
            cells.append(Sample(values).show(digits))
            cells.append(ratio([cost[index] for cost in first], [cost[index] for cost in seen]).show())
        rows.append(cells)
    head = [title, "ms", "ours / its", "ms of CPU", "ours / its", "MiB", "ours / its"]
    return f"### {title}\n\n{table(head, rows)}\n"


def _environments() -> tuple[Path, Path]:
    """(ours, the peers'): the ``bin`` of environments that are made when they are not there."""
    folder = CACHE / "startup"
    peers = folder / "peers"
    if not (peers / "bin" / "query-exporter").exists():
        _venv(peers, *PEERS)
    wheels = folder / "wheels"
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(wheels), str(ROOT)],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=300,
    )
    [wheel] = sorted(wheels.glob("*.whl"))[-1:]
    _venv(folder / "ours", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    return folder / "ours" / "bin", peers / "bin"


def _venv(folder: Path, *packages: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True, timeout=120)
    # Isolated: it would find this tree installed already where PYTHONPATH names it.
    pip = [sys.executable, "-I", "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, *packages], check=True, timeout=600)


def _once(words: list[str | Path], folder: Path) -> Cost:
    begun = time.perf_counter()
    process = subprocess.Popen([str(word) for word in words], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _serve(words: list[str | Path], address: str, path: str, folder: Path) -> Cost:
    (folder / "query.yml").write_text(QUERY.format(folder=folder))
    (folder / "app.py").write_text(EMPTY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*map(str, words), address.format(port=port)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _answers(port, path):
            if process.poll() is not None or time.perf_counter() - begun > WAIT:
                raise RuntimeError(f"{command} does not answer")
            time.sleep(0.002)
        seconds = time.perf_counter() - begun
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        return seconds, (int(fields[11]) + int(fields[12])) / ticks, pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _answers(port: int, path: str) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return b" 200 " in connection.recv(64)
    return False
