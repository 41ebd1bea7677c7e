"""CONTRIBUTING's worked example is a patch: it applies, and the metric that it adds counts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.exporter import ROOT, running

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
METRIC = "messaging_messages_repeated_total"


def example() -> str:
    """The one patch of the document."""
    [patch] = re.findall(r"^```diff\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return patch


def run(*words: str, cwd: Path, given: str | None = None) -> None:
    environment = {**os.environ, "PYTHONPATH": str(cwd), "GIT_CEILING_DIRECTORIES": str(cwd.parent)}
    done = subprocess.run(
        words, cwd=cwd, env=environment, input=given, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """A copy of the sources with the patch."""
    copy = tmp_path / "copy"
    for name in ("exporter", "grafana", "docs", "deploy", "tests"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    run("git", "apply", "-C1", "--recount", "-", cwd=copy, given=example())
    return copy


def test_the_example_touches_four_places_or_fewer() -> None:
    assert len(re.findall(r"^diff --git", example(), re.MULTILINE)) <= 4


async def test_the_example_adds_a_metric_that_counts_is_shown_and_is_documented(patched: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "grafana.source", cwd=patched)
    run(sys.executable, "-m", "docs.source", cwd=patched)
    assert f"### `{METRIC}`" in (patched / "docs" / "metrics.md").read_text()
    shown = (patched / "grafana" / "dashboards" / "messaging-delivery.json").read_text()
    assert METRIC in shown
    async with running(tmp_path / "server", environment={"PYTHONPATH": str(patched)}) as exporter:
        assert (await exporter.scrape())[METRIC] == 0
        await exporter.conversation("room", "ann")
        ann = await exporter.connect("ann")
        await ann.join("room")
        for _ in range(3):
            assert (await ann.say("room", "hello", "1"))["seq"] == 1
        assert (await exporter.scrape())[METRIC] == 2
        await ann.close()
