"""What ``make platforms`` starts in a root ends when it has to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.platforms.roots import Root


def test_what_another_user_does_in_a_root_ends_with_the_process_that_was_returned(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--pid", "--fork", "true"]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False, timeout=400).returncode:
        pytest.skip("needs root, and namespaces")
    process = Root(Path("/"), tmp_path / "log").start("echo begun; sleep 5; echo went on", user="daemon")
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.kill()
        assert process.stdout.read() == ""
