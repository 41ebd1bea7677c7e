"""What the figures were measured on, and who runs on which core."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "messaging-exporter-bench"


_pinned = True


def cores() -> tuple[int, int]:
    """(the server's core, the load's core): the last two that this process may use; the same one if there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[-1], allowed[-2]) if len(allowed) > 1 else (allowed[0], allowed[0])


def keep(pid: int, core: int) -> None:
    """A process, 0 is this one, and what it starts from now on, run on this core only, unless all are ``unpinned``."""
    if _pinned:
        os.sched_setaffinity(pid, {core})


def pinned() -> bool:
    """Is each process kept on a core?"""
    return _pinned


@contextmanager
def unpinned() -> Iterator[None]:
    """What is started meanwhile runs where the kernel puts it, as it does for users."""
    global _pinned
    before, _pinned = _pinned, False
    try:
        yield
    finally:
        _pinned = before


def raise_files() -> int:
    """Allow as many open files as the machine lets us; answers how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 1_000_000 if hard == resource.RLIM_INFINITY else hard
    for limit in (max(wanted, 65_536), wanted):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (ValueError, OSError):
            continue
        return limit
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def cpu_seconds(pid: int) -> float:
    """CPU time of a whole process, user and system, to the nanosecond: Linux's clock of that process."""
    import time

    return time.clock_gettime((~pid << 3) | 2)


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def _version(*command: str) -> str:
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "absent"
    return (out.stdout or out.stderr).strip().splitlines()[0] if (out.stdout or out.stderr).strip() else "?"


def describe() -> list[str]:
    """The machine in a few lines, for the head of the tables."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory_line = Path("/proc/meminfo").read_text().splitlines()[0].split()[1]
    server, load = cores()
    load1, load5, _ = os.getloadavg()
    return [
        f"{model}, {os.cpu_count()} cores, {int(memory_line) / 1048576:.0f} GiB, Linux {platform.release()}",
        f"Python {platform.python_version()}, node {_version('node', '--version')}, {_version('cc', '--version')}",
        f"server on core {server}, load on core {load}, but for tables that say otherwise; "
        f"load average before: {load1:.1f} (1 min), {load5:.1f} (5 min)",
    ]


def compiled(source: Path) -> Path | None:
    """The program made of one C file by the machine's compiler, kept in the cache; None where there is no compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.environ.get("BENCH_NO_COMPILER"):
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / source.stem
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True, timeout=60)
    return program


def node_modules() -> Path | None:
    """Where ``ws`` and ``socket.io`` are, installed by npm when they were not yet; None without node or npm."""
    if shutil.which("node") is None:
        return None
    folder = CACHE / "node"
    wanted = ("socket.io", "ws", "@socket.io/redis-adapter", "redis")
    if not all((folder / "node_modules" / name).exists() for name in wanted):
        npm = shutil.which("npm")
        if npm is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        versions = ["ws@8.23.0", "socket.io@4.8.4", "@socket.io/redis-adapter@8.3.0", "redis@6.3.1"]
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", *versions]
        if subprocess.run(command, cwd=folder, timeout=180, check=False).returncode != 0:
            return None
    return folder / "node_modules"
