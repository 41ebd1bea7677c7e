"""The bench measures what it says: its load clients agree, every delivery is counted, instruments are really cut."""

from __future__ import annotations

import ast
import asyncio
import shutil
from pathlib import Path

import pytest

from tests.bench import totals
from tests.bench.load import MASK, NUMBER, Connection, Load, frame
from tests.bench.options import Options
from tests.bench.report import Sample, ratio, table
from tests.bench.subjects import AiohttpSend, BareUvloop, commands, event, join
from tests.bench.without_instruments import CALLS, Cut
from tests.servers.postgres import Postgres

EXPORTER = Path(__file__).parent.parent / "exporter"


@pytest.fixture(params=["C", "Python"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Which load client runs."""
    if request.param == "C" and not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if request.param == "Python":
        monkeypatch.setenv("BENCH_NO_COMPILER", "1")
    return str(request.param)


@pytest.mark.parametrize("subject_type", [BareUvloop, AiohttpSend])
def test_every_message_is_seen_by_every_receiver(client: str, subject_type: type[BareUvloop | AiohttpSend]) -> None:
    with subject_type() as subject, Load(subject.room(8), subject.port, subject.pid) as load:
        assert load.kind == client
        assert load.run("connect", count=8, window=4)["joined"] == 8
        for inflight, senders in ((1, 1), (16, 8), (16, 1)):
            answer = load.run(
                "fanout", seconds=0.1, inflight=inflight, senders=senders, members=8, deliver=subject.deliver
            )
            assert answer["failed"] == 0
            assert answer["sent"] > 0
            assert answer["deliveries"] == 7 * answer["sent"]
            assert answer["latency_n"] == answer["sent"]
            assert answer["server_cpu"] > 0
            assert answer["client_cpu"] > 0


def test_a_message_that_somebody_does_not_get_is_counted_as_lost(client: str) -> None:
    """The room has one member more than the load is told to be connected with, so the last receipt never comes."""
    with BareUvloop() as subject, Load(subject.room(4), subject.port, subject.pid) as load:
        load.run("connect", count=4)
        answer = load.run("fanout", seconds=0.05, inflight=2, senders=1, members=5, deliver=subject.deliver)
        assert answer["failed"] == answer["sent"] == 2


def test_all_can_be_reset_and_come_again(client: str) -> None:
    with AiohttpSend() as subject, Load(subject.room(20), subject.port, subject.pid) as load:
        load.run("connect", count=20)
        answer = load.run("connect", count=20, again=1, window=20)
        assert (answer["joined"], answer["failed"], answer["latency_n"]) == (20, 0, 20)


def test_a_frame_of_the_load_is_masked_as_a_client_must() -> None:
    raw = frame(b"x" * 200)
    assert raw[:2] == bytes([0x81, 0x80 | 126])
    assert raw[4:8] == MASK
    assert bytes(byte ^ MASK[i & 3] for i, byte in enumerate(raw[8:])) == b"x" * 200


def test_the_running_number_of_a_template_is_found() -> None:
    packed = Connection([], commands("room", "send")).packed()
    offset = int.from_bytes(packed[-4:], "little")
    assert commands("room", "send")[0][offset:].startswith(NUMBER)


def test_all_peers_are_sent_frames_of_the_same_length() -> None:
    assert len(event()) == 120
    assert join("room") == '{"type":"join","conversation":"room"}'


def test_instruments_are_really_cut() -> None:
    """No statement is left that only counts, and there were some to cut in each of these modules."""
    for name in ("node/node.py", "node/fanout.py", "web/websocket/connection.py", "web/websocket/handshake.py"):
        tree = ast.parse((EXPORTER / name).read_text())

        def counting(tree: ast.AST) -> list[ast.AST]:
            calls = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Call)
                and isinstance(node.value.func, ast.Attribute)
                and node.value.func.attr in CALLS
            ]
            steps = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.AugAssign)
                and isinstance(node.target, ast.Attribute)
                and node.target.attr == "value"
            ]
            return [*calls, *steps]

        assert counting(tree), name
        assert not counting(Cut().visit(tree)), name


def test_medians_and_ratios_go_round_by_round() -> None:
    assert Sample([3.0, 1.0, 2.0]).show(1) == "2.0 (1.0–3.0)"
    assert ratio([2.0, 9.0], [1.0, 3.0]).values == [2.0, 3.0]
    assert Sample().show() == "–"
    assert table(["a"], [["bb"]]).splitlines() == ["| a  |", "| -- |", "| bb |"]


def test_subjects_are_chosen_by_a_part_of_their_name() -> None:
    assert Options(only=("uweb",)).wants("uWebSockets (C++)")
    assert not Options(only=("node",)).wants("uWebSockets (C++)")


@pytest.mark.needs("postgres")
def test_databases_of_any_size_are_as_a_server_would_have_made_them(postgres: Postgres, tmp_path: Path) -> None:
    """Also where each day is on sixteen shards; what is measured on a wrong database says nothing."""
    name = postgres.create_database()
    totals.fill_postgresql(postgres, name, 10_000)
    totals.fill_sqlite(tmp_path / "m.db", 10_000)
    for url in (postgres.url(name), f"sqlite:///{tmp_path}/m.db"):
        asyncio.run(totals._migrate(url))
        if "postgresql" in url:
            postgres.psql(totals.SPLIT, name)
            assert int(postgres.psql("SELECT count(*) / count(DISTINCT day) FROM daily_totals", name)) == totals.SHARDS
        asyncio.run(totals._verify(url))
