"""Pauses grow when something dies at once; an ending is told in words."""

from __future__ import annotations

import signal

from exporter.workers.process import FIRST_PAUSE, LIVED, LONGEST_PAUSE, Pauses, ending


def test_a_pause_doubles_while_it_dies_at_once_up_to_a_bound() -> None:
    now = 0.0
    pauses = Pauses(lambda: now)
    found = []
    for _ in range(12):
        pauses.begun()
        now += 0.5
        found.append(pauses.next())
    assert found[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert found[-1] == LONGEST_PAUSE


def test_whoever_lived_is_started_again_soon() -> None:
    now = 0.0
    pauses = Pauses(lambda: now)
    for _ in range(5):
        pauses.begun()
        pauses.next()
    pauses.begun()
    now += LIVED
    assert pauses.next() == FIRST_PAUSE


def test_an_ending_names_its_signal_or_its_exit_code() -> None:
    assert ending(-signal.SIGKILL) == {"signal": "SIGKILL"}
    assert ending(3) == {"exit_code": 3}
    assert ending(-63) == {"signal": 63}  # a real-time signal has no name
