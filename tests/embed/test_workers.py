"""Workers are counted, whatever the others do while one enters, counts or leaves."""

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from exporter.embed import Live, figures, workers
from exporter.embed.workers import WorkerGroup

ROOT = Path(__file__).parents[2]
PROCESS = """
import os, sys
from pathlib import Path
from exporter.embed.workers import WorkerGroup
group = WorkerGroup(Path(sys.argv[1]))
group.enter()
for line in sys.stdin:
    if line == "fork\\n" and (child := os.fork()) == 0:
        sys.exit()  # with all that a process does at its exit
    elif line == "fork\\n":
        os.waitpid(child, 0)
        print(flush=True)
    else:
        print(group.count(), flush=True)
"""


class Worker:
    """A group as a process of this number has it."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._group = WorkerGroup(folder)
        self._pid = (1 << 22) + pid  # no process of this machine has it

    def does(self, *what: str) -> Any:
        """Enter, count, leave, one after another; what the last of them returns."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: self._pid)
            return [getattr(self._group, one)() for one in what][-1]


def interrupted(call: Callable[[], object], at: int, meanwhile: Callable[[], object]) -> bool:
    """Call, and do something before that line of ``exporter.embed.workers``. False: it does not have so many."""
    left = at

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != workers.__file__:
            return None
        if event == "line":
            if left == 0:
                meanwhile()
            left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return left < 0


def test_who_is_entered_already_keeps_the_mark(tmp_path: Path) -> None:
    """It is asked for with each connection."""
    group = WorkerGroup(tmp_path)
    marks: list[set[str]] = []
    for _ in range(2):
        group.enter()
        marks.append({str(path) for path in tmp_path.rglob("*")})
    assert marks[0] == marks[1]
    assert len(marks[0]) == 2  # the folder and the mark
    group.leave()


@pytest.mark.parametrize("theirs", [["count"], ["leave"], ["leave", "enter"], ["leave", "enter", "count"]])
@pytest.mark.parametrize("ours", ["enter", "count", "leave"])
def test_two_are_two_whatever_one_does_between_two_lines_of_the_other(
    ours: str, theirs: list[str], tmp_path: Path
) -> None:
    for line in itertools.count():
        folder = tmp_path / str(line)
        folder.mkdir()
        one, other = Worker(folder, 1), Worker(folder, 2)
        other.does("enter")
        if ours != "enter":
            one.does("enter")
        more = interrupted(lambda: one.does(ours), line, lambda: other.does(*theirs))  # noqa: B023  # called at once
        for what, result in (("enter", None), ("count", 2), ("leave", None)):
            assert [one.does(what), other.does(what)] == [result, result], f"line {line} of {ours}"
        assert list(folder.iterdir()) == [], "nothing is left behind"
        if not more:
            break
    assert line > 5


def test_a_process_that_is_killed_is_no_longer_counted_and_a_child_that_ends_takes_nothing_with_it(
    tmp_path: Path,
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        for _ in range(3)
    ]
    first, second, third = processes

    def asked(process: subprocess.Popen[bytes], question: bytes = b"\n") -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(question)
        process.stdin.flush()
        return int(process.stdout.readline())

    try:
        assert [asked(process) for process in processes][-1] == 3
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write(b"fork\n")
        first.stdin.flush()
        first.stdout.readline()  # it does not count: it would make its mark again
        assert asked(second) == 3, "the first one's child has ended, not the first one"
        third.kill()
        third.wait()
        assert asked(first) == asked(second) == 2
        [folder] = tmp_path.iterdir()
        assert len(list(folder.iterdir())) == 2, "a dead one's file is removed"
        second.communicate()
        assert asked(first) == 1
        first.communicate()
        assert list(tmp_path.iterdir()) == [], "the last takes the folder with it"
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_groups_of_one_process_are_one_worker(tmp_path: Path) -> None:
    one, again, other = Worker(tmp_path, 1), Worker(tmp_path, 1), Worker(tmp_path, 2)
    for worker in (one, again, other):
        worker.does("enter")
    assert [worker.does("count") for worker in (one, again, other)] == [2, 2, 2]
    one.does("leave")
    assert [worker.does("count") for worker in (again, other)] == [2, 2]


def test_a_group_that_nobody_has_any_more_leaves_and_keeps_no_file_open(tmp_path: Path) -> None:
    """A test suite makes its application anew for each test."""
    kept = WorkerGroup(tmp_path)
    kept.enter()
    for _ in range(3):
        WorkerGroup(tmp_path).enter()
    gc.collect()
    open_files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    [folder] = tmp_path.iterdir()
    [mark] = folder.iterdir()
    assert [file for file in open_files if file.startswith(str(tmp_path))] == [str(mark)]
    assert kept.count() == 1
    kept.leave()
    assert list(tmp_path.iterdir()) == []


def test_marks_that_were_cleaned_away_are_made_again_and_stay_young(tmp_path: Path) -> None:
    one, other = Worker(tmp_path, 1), Worker(tmp_path, 2)
    for worker in (one, other):
        worker.does("enter")
    [folder] = tmp_path.iterdir()
    for mark in folder.iterdir():
        os.utime(mark, (0, 0))
    one.does("count")
    assert all(mark.stat().st_mtime > 0 for mark in folder.iterdir()), "also that of who is never asked"
    shutil.rmtree(folder)
    assert [worker.does("count") for worker in (one, other, one)][1:] == [2, 2]
    open_files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert len([file for file in open_files if file.startswith(str(tmp_path))]) == 2, "those of old are closed"


def test_without_locks_a_process_is_alone_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert Worker(tmp_path, 1).does("enter", "count") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_where_nothing_can_be_written_a_process_is_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "absent", tmp_path / "file"):
        assert Worker(folder, 1).does("enter", "count") == 1


@pytest.mark.parametrize("what", ["a link", "another user's"])
def test_where_another_user_has_taken_the_name_nobody_knows_and_nothing_of_his_is_touched(
    what: str, tmp_path: Path
) -> None:
    """In /tmp, after a cleaner: what he puts there would be opened, locked, counted and removed."""
    if what == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can be somebody else, too")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "4194304.mark").touch()
    name = tmp_path / workers._name()
    name.symlink_to(theirs)
    if what == "another user's":
        name.unlink()
        theirs.rename(name)
        os.chown(name, 65_534, 65_534)
    live = Live()
    live.worker_group = WorkerGroup(tmp_path)
    assert not live.is_alone()
    stats = figures.document(live)
    assert stats["active_connections"] is None
    assert str(name) in stats["error"]
    assert "is another user's" in stats["error"]
    assert [path.name for path in name.iterdir()] == ["4194304.mark"]
    shutil.rmtree(name) if what == "another user's" else name.unlink()
    assert live.is_alone(), "it is noticed when it has gone"
    assert figures.document(live)["active_connections"] == 0
    live.worker_group.leave()
