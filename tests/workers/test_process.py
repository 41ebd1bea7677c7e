"""Pauses grow when something dies at once; how a process ended is told in words; a start leaves nobody behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import Any

import pytest

from exporter.settings.model import Settings
from exporter.workers.process import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    STABLE_AFTER,
    Backoff,
    WorkerProcess,
    exit_fields,
)


def test_a_pause_doubles_while_it_dies_at_once_up_to_a_bound() -> None:
    now = 0.0
    backoff = Backoff(lambda: now)
    found = []
    for _ in range(12):
        backoff.begun()
        now += 0.5
        found.append(backoff.next())
    assert found[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert found[-1] == LONGEST_PAUSE


def test_whoever_lived_is_started_again_soon() -> None:
    now = 0.0
    backoff = Backoff(lambda: now)
    for _ in range(5):
        backoff.begun()
        backoff.next()
    backoff.begun()
    now += STABLE_AFTER
    assert backoff.next() == FIRST_PAUSE


def test_an_ending_names_its_signal_or_its_exit_code() -> None:
    assert exit_fields(-signal.SIGKILL) == {"signal": "SIGKILL"}
    assert exit_fields(3) == {"exit_code": 3}
    assert exit_fields(-63) == {"signal": 63}  # a real-time signal has no name


async def test_a_start_that_is_cancelled_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def launch(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        launched.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        starting.cancel()
        return launched[0]

    monkeypatch.setattr(subprocess, "Popen", launch)
    more: dict[str, Any] = {"restarts": 0, "predecessor": "", "standby": False, "changed": lambda: None}
    starting = asyncio.create_task(WorkerProcess.start(0, Settings(), [], [], **more))
    with pytest.raises(asyncio.CancelledError):
        await starting
    try:
        assert launched[0].poll() == -signal.SIGKILL
    finally:
        launched[0].kill()
        launched[0].wait()
