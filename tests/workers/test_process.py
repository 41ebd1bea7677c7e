"""Pauses grow when something dies at once; how a process ended is told in words; a start leaves nobody behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import Any
from unittest.mock import Mock

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


async def test_what_a_worker_says_of_itself_is_kept_and_passed_on_and_shows_that_it_answers() -> None:
    told = list[tuple[bool, bool]]()
    worker = WorkerProcess(0, lambda: told.append((worker.full, worker.leaving)))
    worker.last_beat = 0.0
    worker._on_message({"full": False})
    assert worker.last_beat > 0.0
    worker._on_message({"full": True})
    worker._on_message({"leaving": True, "unknown": "a word of another release"})
    assert told == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize("word", ["drain", "retire"])
async def test_who_was_told_to_go_leaves_before_it_says_so(word: str) -> None:
    worker = WorkerProcess(0, lambda: None)
    worker._channel = Mock()
    worker.tell(word)
    assert worker.leaving
    worker._channel.send.assert_called_once_with(do=word)


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
