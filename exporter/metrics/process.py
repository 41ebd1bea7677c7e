"""``process_*``: what the kernel says of this process, under the names that every client library uses.

prometheus_client's own collector counts the open files by listing them: 8 ms of this process on every scrape with
10,000 connections. The kernel has the number (since Linux 6.2 it is the size of ``/proc/self/fd``), and everything
together then takes 0.1 ms; on older kernels they are listed here, too. Where there is no ``/proc``: nothing.

What is constant in a process is measured once: the kernel tells the start by its boot time, and that moves whenever
the clock is set, which would look like a restart.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

TIMEOUT: Final = 0.5
"""Seconds; /proc answers in 0.2 ms, and a scrape does not wait for a sick kernel."""


class ProcessCollector:
    """``process_*`` and ``python_*`` of this process."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._started: float | None = None
        own = CollectorRegistry()  # these two insist on a registry; they are asked directly
        self._python = [PlatformCollector(registry=own), GCCollector(registry=own)]

    def collect(self) -> list[Metric]:
        """All families. May take long on old kernels: in a thread. Errors as of ``process_families``."""
        if self._started is None:
            self._started = start_time(self._proc)
        families = process_families(self._proc, self._started)
        return [*families, *(family for collector in self._python for family in collector.collect())]

    async def collect_in_time(self) -> list[Metric] | None:
        """The same in a thread: old kernels have to list 10,000 open files. None when it fails or takes too long."""
        try:
            work = asyncio.get_running_loop().run_in_executor(None, self.collect)
            return await asyncio.wait_for(work, TIMEOUT)
        except (TimeoutError, OSError, ValueError, RuntimeError):  # the last: no thread can be started
            return None


def start_time(proc: Path = Path("/proc")) -> float | None:
    """When this process began, Unix seconds by the clock as it is now; None where there is no /proc."""
    own = proc / "self"
    if not own.exists():
        return None
    return _boot_time(proc) + float(_fields(own)[19]) / os.sysconf("SC_CLK_TCK")


def process_families(proc: Path = Path("/proc"), started: float | None = None) -> Iterator[Metric]:
    """CPU, memory, start time and open files; raises OSError and ValueError when /proc is there and unreadable.

    ``started`` is what ``start_time`` said at first, or None to ask again.
    """
    own = proc / "self"
    if not own.exists():
        return
    fields = _fields(own)
    ticks = os.sysconf("SC_CLK_TCK")
    yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory size in bytes.", value=float(fields[20]))
    resident = float(fields[21]) * resource.getpagesize()
    yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory size in bytes.", value=resident)
    text = "Start time of the process since unix epoch in seconds."
    yield GaugeMetricFamily("process_start_time_seconds", text, value=started or start_time(proc))
    spent = (float(fields[11]) + float(fields[12])) / ticks
    yield CounterMetricFamily("process_cpu_seconds", "Total user and system CPU time spent in seconds.", value=spent)
    yield GaugeMetricFamily("process_open_fds", "Number of open file descriptors.", value=_open_files(own / "fd"))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = float("inf") if limit == resource.RLIM_INFINITY else float(limit)
    yield GaugeMetricFamily("process_max_fds", "Maximum number of open file descriptors.", value=most)


def _fields(own: Path) -> list[bytes]:
    """What stands behind the name, which is in brackets and may hold anything (proc(5), counted from the third)."""
    return (own / "stat").read_bytes().rpartition(b")")[2].split()


def _boot_time(proc: Path) -> float:
    for line in (proc / "stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    raise ValueError("no btime in /proc/stat")


def _open_files(folder: Path) -> int:
    return folder.stat().st_size or len(os.listdir(folder)) - 1  # one of the listed is the listing itself
