"""This machine: its clock and its limits.

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

from exporter.auth.tokens import LEEWAY
from exporter.doctor.findings import Finding, Outcome
from exporter.settings.model import Settings
from exporter.web.listeners import SPARE_FILES
from exporter.web.sockets import BACKLOG

RELEASED = 1_764_000_000.0
"""Unix seconds of about the release: a clock before this is wrong."""
APART = 1.0
"""Seconds that two clocks may differ without anybody noticing: figures of "today" turn at another moment."""


async def examine(settings: Settings) -> list[Finding]:
    """Clock, open files, the queue of connections that wait to be accepted."""
    return [_clock(), _files(settings), *_backlog()]


def clock(where: str, ahead: float) -> Finding:
    """What it means that the clock of ``where`` is ``ahead`` seconds of ours (negative: behind)."""
    text = f"{where}'s is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) > LEEWAY:
        return Finding("clock", Outcome.FAILED, text, "tokens and days will be wrong: have both machines run NTP")
    if abs(ahead) > APART:
        return Finding("clock", Outcome.WARNING, text, "have both machines run NTP")
    return Finding("clock", Outcome.OK, text)


def _clock() -> Finding:
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < RELEASED:
        return Finding("clock", Outcome.FAILED, f"{shown} is in the past", "set the clock; have it kept by NTP")
    return Finding("clock", Outcome.OK, shown)


def _files(settings: Settings) -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = settings.limits.connections + SPARE_FILES
    if hard == resource.RLIM_INFINITY or hard >= needed:
        allowed = "any number" if hard == resource.RLIM_INFINITY else f"{hard:,}"
        return Finding("open files", Outcome.OK, f"{allowed} allowed, {needed:,} needed")
    advice = f"LimitNOFILE={needed} in the unit, or --limits.connections {max(1, hard - SPARE_FILES)}"
    return Finding("open files", Outcome.WARNING, f"{hard:,} allowed, {needed:,} needed", advice)


def _backlog(path: Path = Path("/proc/sys/net/core/somaxconn")) -> list[Finding]:
    try:
        most = int(path.read_text())
    except (OSError, ValueError):
        return []
    text = f"{most:,} connections may wait to be accepted"
    if most < BACKLOG:
        advice = f"for a reconnect storm: sysctl net.core.somaxconn={BACKLOG}"
        return [Finding("backlog", Outcome.WARNING, text, advice)]
    return [Finding("backlog", Outcome.OK, text)]
