"""Files that change: none of the ways to replace one goes unnoticed, and one that stays is not read again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.settings.file_watch import FileWatch

FAR = 60.0  # seconds, beyond any tick


class Clock:
    """The machine's, put forward by ``ahead`` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = time.time

    def __call__(self) -> float:
        return self._real() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    return path


def settled(clock: Clock, *paths: Path) -> FileWatch:
    """Looked at long after they have changed."""
    clock.ahead = FAR
    watch = FileWatch()
    watch.look(paths)
    assert not watch.must_read(paths, broken=False)
    return watch


def test_what_has_just_changed_is_read_until_a_further_change_would_show(clock: Clock, file: Path) -> None:
    watch = FileWatch()
    watch.look((file,))
    assert watch.must_read((file,), broken=False)
    clock.ahead = FAR
    assert watch.must_read((file,), broken=False)  # it may have changed behind the look before
    assert not watch.must_read((file,), broken=False)


def test_a_copy_that_keeps_the_time_of_its_original_has_changed_when_it_was_made(clock: Clock, file: Path) -> None:
    os.utime(file, (0, 0))
    watch = FileWatch()
    watch.look((file,))
    assert watch.must_read((file,), broken=False)


def test_a_change_that_keeps_size_and_time_is_noticed(clock: Clock, file: Path) -> None:
    watch, before = settled(clock, file), file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watch.must_read((file,), broken=False)


def test_a_link_that_leads_to_another_file_of_the_same_time_and_size_is_noticed(clock: Clock, tmp_path: Path) -> None:
    def coarse(path: Path, stat: Callable[[Path], os.stat_result] = os.stat) -> SimpleNamespace:
        """As of a file system whose clock ticks seldom: both were made within one tick."""
        found = stat(path)
        return SimpleNamespace(
            st_dev=found.st_dev, st_ino=found.st_ino, st_size=found.st_size, st_mtime_ns=0, st_ctime_ns=0
        )

    for name in ("one", "two"):
        (tmp_path / name).write_text("text")
    link = tmp_path / "link"
    link.symlink_to("one")
    (tmp_path / "new").symlink_to("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", coarse)
        watch = settled(clock, link)
        (tmp_path / "new").rename(link)
        noticed = watch.must_read((link,), broken=False)
    assert noticed


def test_a_file_that_comes_or_goes_has_changed(clock: Clock, tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other"
    watch = settled(clock, file, other)
    other.touch()
    assert watch.must_read((file, other), broken=False)
    watch = settled(clock, file, other)
    other.unlink()
    assert watch.must_read((file, other), broken=False)


@pytest.mark.parametrize("later", [FAR, -FAR / 2], ids=["later", "after the clock was put back"])
def test_what_is_broken_is_read_again_and_not_all_the_time(clock: Clock, file: Path, later: float) -> None:
    watch = settled(clock, file)
    assert not watch.must_read((file,), broken=True)
    clock.ahead += later
    assert watch.must_read((file,), broken=True)
    assert not watch.must_read((file,), broken=True)
