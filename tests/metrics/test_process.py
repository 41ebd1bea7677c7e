"""The process figures are what prometheus_client's own collector says, and what the kernel shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from exporter.metrics.process import ProcessCollector as Collector
from exporter.metrics.process import process_families


def own() -> dict[str, float]:
    return {sample.name: sample.value for family in process_families() for sample in family.samples}


def test_names_types_and_texts_are_those_of_the_client_library() -> None:
    theirs = ProcessCollector(registry=CollectorRegistry()).collect()
    assert {(f.name, f.type, f.documentation) for f in process_families()} == {
        (f.name, f.type, f.documentation) for f in theirs
    }


def test_values_agree_with_the_client_library() -> None:
    mine = own()
    theirs = {s.name: s.value for f in ProcessCollector(registry=CollectorRegistry()).collect() for s in f.samples}
    assert mine["process_start_time_seconds"] == theirs["process_start_time_seconds"]
    assert mine["process_max_fds"] == theirs["process_max_fds"]
    assert mine["process_cpu_seconds_total"] == pytest.approx(theirs["process_cpu_seconds_total"], abs=1)
    assert mine["process_resident_memory_bytes"] == pytest.approx(theirs["process_resident_memory_bytes"], rel=0.2)
    assert mine["process_virtual_memory_bytes"] == pytest.approx(theirs["process_virtual_memory_bytes"], rel=0.2)


def test_a_name_in_the_kernel_s_record_moves_no_field(tmp_path: Path) -> None:
    """The record is one line of words, the second of which is the name, brackets and blanks as it likes."""
    (tmp_path / "self" / "fd").mkdir(parents=True)
    fields = {14: 300, 15: 50, 16: 7_000, 22: 200, 23: 4_096, 24: 3}  # counted from 1, as proc(5) does
    words = (str(fields.get(number, 0)) for number in range(3, 53))
    (tmp_path / "self" / "stat").write_text(f"42 (a) b (c) S) {' '.join(words)}\n")
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1000\n")
    seen = {sample.name: sample.value for family in process_families(tmp_path) for sample in family.samples}
    ticks = os.sysconf("SC_CLK_TCK")
    assert seen["process_cpu_seconds_total"] == (300 + 50) / ticks
    assert seen["process_start_time_seconds"] == 1000 + 200 / ticks
    assert seen["process_virtual_memory_bytes"] == 4_096
    assert seen["process_resident_memory_bytes"] == 3 * os.sysconf("SC_PAGE_SIZE")


def test_open_files_are_counted_one_by_one() -> None:
    before = own()["process_open_fds"]
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
    try:
        assert own()["process_open_fds"] == before + 50
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert own()["process_open_fds"] == before


def test_an_older_kernel_has_them_listed(tmp_path: Path) -> None:
    """Before Linux 6.2 the folder's size was 0; one entry is the listing's own descriptor."""

    class OldFolder(type(tmp_path)):
        def stat(self, **_: object) -> os.stat_result:
            return os.stat_result((0,) * 10)

    from exporter.metrics.process import _open_files

    for name in ("0", "1", "2", "3"):
        (tmp_path / name).touch()
    assert _open_files(OldFolder(tmp_path)) == 3


def test_no_proc_is_no_figures(tmp_path: Path) -> None:
    assert list(process_families(tmp_path)) == []


def test_the_start_does_not_move_when_the_clock_is_set(tmp_path: Path) -> None:
    (tmp_path / "self" / "fd").mkdir(parents=True)
    (tmp_path / "self" / "stat").write_bytes(b"7 (a) b) " + b" ".join(b"100" for _ in range(50)))
    (tmp_path / "stat").write_text("cpu 1\nbtime 1700000000\n")
    collector = Collector(tmp_path)

    def started() -> float:
        samples = [sample for family in collector.collect() for sample in family.samples]
        return next(sample.value for sample in samples if sample.name == "process_start_time_seconds")

    before = started()
    (tmp_path / "stat").write_text("cpu 1\nbtime 1700086400\n")  # the clock was a day slow, and is set
    assert started() == before == 1_700_000_000 + 100 / os.sysconf("SC_CLK_TCK")
