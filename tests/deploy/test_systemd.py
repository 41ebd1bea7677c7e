"""deploy/systemd: systemd's own checks. ``make platforms`` boots a Debian with the unit and talks to it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.proxies import DEPLOY

UNITS = (DEPLOY / "systemd" / "messaging-exporter.service", DEPLOY / "systemd" / "messaging-exporter.socket")
here = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", *map(str, words)], capture_output=True, text=True, timeout=400, check=False
    )
    return done.returncode, done.stdout + done.stderr


@here
def test_the_unit_is_less_exposed_than_was_promised() -> None:
    status, said = analyze("security", "--offline=true", "--no-pager", "--threshold=20", UNITS[0])
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= 2.0
    assert status == 0, said


@here
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With a program in the place of the one that is not installed here, and without the manual page."""
    for unit in UNITS:
        text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(re.sub(r"Documentation=.*\n", "", text))
    status, said = analyze("verify", *(tmp_path / unit.name for unit in UNITS))
    assert (status, said) == (0, "")
