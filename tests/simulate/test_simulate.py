"""People on real WebSockets against a double of the server, honest and with planted faults."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import json
import os
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console

from exporter import simulate as package
from exporter.core.errors import Misconfigured
from exporter.simulate import SimulateOptions, Summary, simulate
from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.client.api import Api
from exporter.simulate.client.connection import ClientConnection
from exporter.simulate.console import Moment, PlainView, View, view_for
from exporter.simulate.live_view import LiveView
from exporter.simulate.meter import Meter
from exporter.simulate.options import http_base, socket_url
from exporter.simulate.run import TOKEN_KEPT, Simulation
from exporter.web.routes.conversations import MAX_PARTICIPANTS
from tests.servers.double import Double


def options(double: Double, **changes: object) -> SimulateOptions:
    chosen: dict[str, object] = {
        "urls": (double.url,),
        "users": 16,
        "conversations": 5,
        "rate": 100.0,
        "duration": 1.6,
        "settle": 2.5,
        "seed": 3,
        "steady": True,
        "token_for": lambda user: user,
    }
    return SimulateOptions(**{**chosen, **changes})


@pytest.fixture(autouse=True)
def _shorter_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The double answers at once; and a process that lags is given three times its lag all the same."""
    monkeypatch.setattr("exporter.simulate.run.GRACE", 1.0)


class Recorder(View):
    """Acts at a certain number of acknowledged messages."""

    every = 0.05

    def __init__(self, at: int) -> None:
        self.reached = asyncio.Event()
        self.at = at

    def show(self, moment: object) -> None:
        if moment.ledger.acknowledged >= self.at:
            self.reached.set()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the other side is a process, or the double's own loop
        await asyncio.sleep(0.01)


async def run(double: Double, view: View | None = None, **changes: object) -> tuple[Simulation, Summary]:
    """Like ``simulate``, but the books can be looked at."""
    run = Simulation(options(double, **changes).checked(), asyncio.Event(), view or View())
    async with run.http():
        return run, await run.whole()


def found(run: Simulation) -> dict[str, set[str]]:
    return {kind.value: messages for kind, messages in run._ledger.findings.messages.items()}


def planted(run: Simulation, double: Double) -> dict[str, set[str]]:
    """As ``found``: a hole is named by the number of the conversation."""
    number = {id: str(n) for n, id in enumerate(run._organisation.conversations)}
    holes = {
        f"{number[place.rpartition('#')[0]]}#{place.rpartition('#')[2]}" for place in double.planted.pop("hole", ())
    }
    return {**double.planted, **({"hole": holes} if holes else {})}


async def test_an_honest_server_is_not_accused_and_the_rate_is_kept_exactly() -> None:
    async with Double() as double:
        books, summary = await run(double)
    assert summary.wrong == {}
    assert summary.status == 0
    assert summary.sent + summary.missed == 160
    assert summary.missed <= 2
    assert summary.acknowledged == summary.verified == summary.sent == double.accepted
    assert summary.delivered > summary.sent
    assert summary.connections == sum(person.tabs for person in books._organisation.people)
    assert summary.typing > 80
    typing = [frame for frame in double.frames if frame["type"] == "typing"]
    assert sum(not frame["active"] for frame in typing) >= 3
    assert summary.reads > 10
    assert summary.ack_seconds["p50"] is not None


@pytest.mark.parametrize(
    "faults",
    [
        ("lost", "hole", "redelivered", "altered"),
        ("unheard", "undelivered", "echoed"),
        ("doubled", "renumbered", "strayed"),
        ("misordered",),
    ],
    ids="-".join,
)
async def test_each_planted_fault_is_found_and_nothing_else(faults: tuple[str, ...]) -> None:
    async with Double(faults) as double:
        books, summary = await run(double)
    expected = planted(books, double)
    assert set(expected) == set(faults)
    assert all(len(messages) >= 3 for messages in expected.values())
    assert found(books) == expected
    assert summary.status == 1
    assert summary.wrong == {kind: len(messages) for kind, messages in expected.items()}


async def test_a_message_that_is_delivered_as_somebody_elses_is_found() -> None:
    async with Double(("forged",)) as double:
        books, summary = await run(double)
    assert found(books) == planted(books, double)
    assert summary.wrong["altered"] >= 3


async def test_a_message_stored_under_another_seq_than_acknowledged_is_found() -> None:
    async with Double(("moved",)) as double:
        books, summary = await run(double, duration=2.0)
    assert found(books)["moved"] == double.planted["moved"]
    assert summary.status == 1


async def test_a_send_that_was_refused_though_stored_is_tried_again_and_nobody_is_accused() -> None:
    async with Double(("unsure",)) as double:
        _, summary = await run(double)
    assert summary.wrong == {}
    assert summary.errors["unavailable"] >= 10
    assert summary.resent == summary.errors["unavailable"]
    assert summary.acknowledged == summary.sent


async def test_phones_that_lose_their_network_slow_readers_and_people_who_come_and_go_accuse_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import exporter.simulate.people.organisation as people

    person = people._person

    def unlucky(random: object, index: int, tag: str, names: tuple[str, ...]) -> people.Person:
        made = person(random, index, tag, names)
        changes = {"abort_every": 0.7 if index % 3 == 0 else 0.0, "pause_every": 1.0 if index % 4 == 1 else 0.0}
        return people.Person(**{**{name: getattr(made, name) for name in made.__slots__}, **changes})

    monkeypatch.setattr(people, "_person", unlucky)
    async with Double() as double:
        _, summary = await run(double, steady=False, day=20.0, duration=5.0)
    assert summary.wrong == {}
    assert summary.resets > 10
    assert summary.connections > summary.resets
    assert summary.caught_up > 0
    assert summary.acknowledged == summary.sent == double.accepted
    commands = Counter(frame["type"] for frame in double.frames)
    assert set(commands) == {"join", "leave", "typing", "send", "read"} or commands["ping"]
    assert any(frame["type"] == "typing" and not frame["active"] for frame in double.frames)


async def test_a_server_that_crashes_and_keeps_what_it_acknowledged_is_not_accused() -> None:
    async with Double() as double:
        recorder = Recorder(at=60)

        async def crash() -> None:
            await recorder.reached.wait()
            await double.crash()

        crashing = asyncio.ensure_future(crash())
        _, summary = await run(double, recorder, duration=3.0)
        await crashing
    assert summary.wrong == {}
    assert summary.acknowledged == summary.sent == double.accepted > 100


async def test_a_server_that_crashes_and_forgets_what_it_acknowledged_is_found_out() -> None:
    async with Double() as double:
        recorder = Recorder(at=60)

        async def crash() -> None:
            await recorder.reached.wait()
            await double.crash(forget=2)

        crashing = asyncio.ensure_future(crash())
        books, summary = await run(double, recorder, duration=2.5)
        await crashing
    attempts = Counter(frame["id"] for frame in double.frames if frame["type"] == "send")
    # Whose acknowledgement was under way when it crashed was sent again, and is stored now.
    forgotten = {id for id in double.planted["lost"] if attempts[id] == 1}
    assert forgotten
    assert found(books)["lost"] == forgotten
    assert summary.status == 1


async def test_a_server_that_is_gone_at_the_end_cannot_be_verified() -> None:
    double = Double()
    await double.start()
    recorder = Recorder(at=20)

    async def die() -> None:
        await recorder.reached.wait()
        await double.stop()

    dying = asyncio.ensure_future(die())
    _, summary = await run(double, recorder, duration=2.0, settle=0.5)
    await dying
    assert summary.status == 2
    assert summary.verified is None
    assert "cannot reach" in str(summary.unverified_because)
    assert any("NOT VERIFIED" in line for line in summary.lines())


async def test_heartbeats_are_answered_by_people_who_have_nothing_to_say() -> None:
    async with Double() as double:
        stop = asyncio.Event()
        running = asyncio.ensure_future(simulate(options(double, rate=0.0, duration=None), stop=stop))
        async with asyncio.timeout(30):
            await until(lambda: running.done() or len(double.peers) >= 16)
            for payload in (b"first", b"second"):
                asked = await double.ping(payload)
                await until(lambda: running.done() or all(payload in double.pongs[peer] for peer in asked))  # noqa: B023 - awaited at once
            assert not running.done()
            stop.set()
            summary = await running
    assert len(asked) >= 16
    assert {tuple(pongs) for peer, pongs in double.pongs.items() if peer in asked} <= {
        (b"first", b"second"),
        (b"second",),  # a second tab, opened between the two
    }
    assert summary.sent == 0
    assert summary.closed == {}


async def test_a_second_run_on_the_same_server_goes_on_where_the_first_ended() -> None:
    async with Double() as double:
        _, first = await run(double, duration=1.0)
        _, second = await run(double, duration=1.0)
    assert first.wrong == second.wrong == {}
    assert first.sent + second.sent == double.accepted
    assert second.verified == second.sent > 0


async def test_two_at_once_on_the_same_server_do_not_disturb_each_other() -> None:
    async with Double() as double:
        (_, one), (_, other) = await asyncio.gather(run(double, duration=2.0), run(double, duration=2.0))
    assert one.wrong == other.wrong == {}
    assert one.foreign > 0
    assert one.verified == one.sent


async def test_the_same_seed_sends_the_same_messages() -> None:
    said = []
    for _ in range(2):
        async with Double() as double:
            await run(double, duration=1.0, rate=30.0)
            said.append(sorted(frame["body"] for frame in double.frames if frame["type"] == "send"))
    assert said[0] == said[1]


async def test_refusals_are_obeyed_or_tried_again_as_their_codes_say() -> None:
    async with Double() as double:
        double.refusals = {"join": ["unavailable", "forbidden"], "send": ["rate_limited", "unavailable", "too_large"]}
        _, summary = await run(double, rate=30.0)
    assert summary.errors == {"unavailable": 2, "forbidden": 1, "rate_limited": 1, "too_large": 1}
    assert summary.given_up == 1
    assert summary.resent == 2
    assert summary.wrong == {}
    assert summary.acknowledged == summary.sent - 1
    assert len([frame for frame in double.frames if frame["type"] == "join" and frame["id"]]) > 5


async def test_deleted_messages_removed_members_and_frames_that_cannot_be_read_accuse_nobody() -> None:
    async with Double() as double:
        recorder = Recorder(at=40)

        async def meddle() -> None:
            await recorder.reached.wait()
            room = max(double.rooms.values(), key=lambda room: room.seq)
            for seq in (1, 5, room.seq):
                double.delete(room, seq)
            double.remove(room, min(room.peers, key=id))
            double.tell(room, next(iter(room.peers)), type="news", text="from a newer server")

        meddling = asyncio.ensure_future(meddle())
        _, summary = await run(double, recorder)
        await meddling
    assert summary.wrong == {}
    assert summary.errors["unreadable"] == 1
    assert summary.sent > 100


async def test_several_nodes_take_turns_and_one_that_does_not_answer_is_passed_over(unused_tcp_port: int) -> None:
    async with Double() as double:
        urls = (f"ws://127.0.0.1:{unused_tcp_port}", double.url)
        _, summary = await run(double, urls=urls, duration=1.0, rate=20.0, users=4)
    assert summary.wrong == {}
    assert summary.verified == summary.sent == 20
    assert summary.rejected["unreachable"] > 0


@pytest.mark.parametrize("processes", [1, 2])
async def test_several_processes_behind_one_url_are_asked_for_what_several_promise(processes: int) -> None:
    async with Double() as double:
        double.processes = processes
        simulation, summary = await run(double, duration=1.0, rate=20.0, users=4)
    assert summary.wrong == {}
    assert simulation._ledger.several_nodes is (processes > 1)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_node_that_stands_still_is_late_and_a_connection_that_is_silent_beside_others_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr("exporter.simulate.run.DELIVERY_TIMEOUT", 1.5)
    monkeypatch.setattr("exporter.simulate.people.standstill.ASK_AFTER", 0.25)
    monkeypatch.setattr("exporter.simulate.people.standstill.STILL_AFTER", 1.0)
    view = Recorder(40)
    async with Double() as double:
        double.processes = 2
        running = asyncio.create_task(run(double, view, rate=30.0, duration=6.0, settle=5.0))
        await view.reached.wait()
        victim = next(peer for peer in double.peers if peer.process == 1 and peer.joined)
        double.still = lambda peer: peer.process == 1 if whole else peer is victim
        await asyncio.sleep(3.0)  # the fault: it stands still for twice as long as a delivery may take
        double.thaw()
        _, summary = await running
    assert ("undelivered" in summary.wrong, summary.wrong != {}) == (not whole, not whole)
    assert summary.verified == summary.acknowledged > 100
    assert [*summary.stood_still] == ["1"] * whole
    assert any("stood still" in line for line in summary.lines()) is whole


async def test_a_node_that_stands_still_to_the_end_is_not_accused_and_nobody_is_told_that_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exporter.simulate.people.standstill.ASK_AFTER", 0.25)
    monkeypatch.setattr("exporter.simulate.people.standstill.STILL_AFTER", 1.0)
    view = Recorder(20)
    async with Double() as double:
        double.processes = 2
        running = asyncio.create_task(run(double, view, rate=30.0, duration=3.0, settle=4.0))
        await view.reached.wait()
        double.still = lambda peer: peer.process == 1
        _, summary = await running
        double.thaw()
    assert (summary.wrong, summary.status) == ({}, 2)
    assert summary.verified == summary.acknowledged
    assert "a process stands still" in str(summary.unverified_because)
    assert summary.lines()[-1].startswith("NOT VERIFIED: ")


async def test_a_conversation_of_thousands_is_made_in_the_parts_that_the_server_takes() -> None:
    members = [f"user-{number}" for number in range(2 * MAX_PARTICIPANTS + 500)]
    async with Double() as double, aiohttp.ClientSession() as http:
        api = Api(http, [http_base(double.url)], lambda user: user)
        assert await api.make("room", members) == 0
        assert double.rooms["room"].members == set(members)
        double.rooms["room"].members.intersection_update(members[:10])  # whoever made it was cut off
        assert await api.make("room", members) == 0
        assert double.rooms["room"].members == set(members)


async def test_whoever_gives_up_before_their_turn_has_made_no_request() -> None:
    async with Double() as double, aiohttp.ClientSession() as http:
        api = Api(http, [http_base(double.url)], lambda user: user)
        asking = [asyncio.create_task(api.messages("room", "ada", 0)) for _ in range(20)]
        await asyncio.sleep(0)  # some of them have their turn
        with warnings.catch_warnings(action="always", record=True) as warned:
            for one in asking:
                one.cancel()
            await asyncio.wait(asking)
            del asking, one
            gc.collect()
    assert [str(warning.message) for warning in warned] == []


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_is_of_no_use_is_one_clear_line(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    said = "no such file or directory" if content is None else "no certificate or crl found"
    chosen = SimulateOptions(urls=("wss://127.0.0.1:1",), ca_file=file, token_for=str)
    with pytest.raises(Misconfigured, match=re.escape(f"cannot read {file}: {said}") + "$"):
        await simulate(chosen)


async def test_being_stopped_early_ends_with_a_verified_summary() -> None:
    async with Double() as double:
        stop = asyncio.Event()
        recorder = Recorder(at=20)
        running = asyncio.ensure_future(simulate(options(double, duration=None), stop=stop, view=recorder))
        await asyncio.wait_for(recorder.reached.wait(), 20)
        stop.set()
        summary = await asyncio.wait_for(running, 20)
    assert summary.stopped
    assert summary.status == 0
    assert summary.verified == summary.acknowledged >= 20


@pytest.mark.parametrize("verify", [True, False])
async def test_when_nothing_was_acknowledged_nothing_is_said_to_be_well(verify: bool) -> None:
    async with Double() as double:
        double.refusals["send"] = ["unavailable"] * 100_000
        _, summary = await run(double, verify=verify, duration=0.5, settle=0.5)
    assert (summary.acknowledged, summary.verified, summary.status) == (0, None, 2)
    assert summary.lines()[-1] == "NOT VERIFIED: no message was acknowledged, so no promise was put to the test"


async def test_whoever_asks_for_no_messages_has_no_need_of_an_acknowledgement() -> None:
    async with Double() as double:
        _, summary = await run(double, rate=0.0, duration=0.2)
    assert (summary.sent, summary.verified, summary.status) == (0, 0, 0)


async def test_a_mistake_inside_ends_the_simulation_instead_of_vanishing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.simulate.checker.ledger.Ledger.delivered", lambda *_: 1 / 0)
    async with Double() as double:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(run(double, duration=None), 20)


# --- what cannot begin ------------------------------------------------------------------------------------------


async def test_no_server_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    monkeypatch.setattr("exporter.simulate.run.REACH_TIMEOUT", 0.2)
    nowhere = SimulateOptions(urls=(f"ws://127.0.0.1:{unused_tcp_port}",), token_for=str)
    with pytest.raises(Misconfigured, match=r"cannot reach the server at http://127.0.0.1:\d+/: connection refused"):
        await simulate(nowhere)


async def test_tokens_that_are_refused_are_one_clear_line() -> None:
    async with Double() as double:
        double.refuse_tokens = True
        with pytest.raises(Misconfigured, match="refuses the tokens"):
            await simulate(options(double))


async def test_a_server_without_tls_and_a_name_that_is_unknown_are_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exporter.simulate.run.REACH_TIMEOUT", 0.2)
    async with Double() as double:
        with pytest.raises(Misconfigured, match=r"at https://\S+ does not speak TLS"):
            await simulate(options(double, urls=(double.url.replace("ws", "wss", 1),)))
        with pytest.raises(Misconfigured, match=r"cannot reach the server at http://x\.invalid/: this name is unknown"):
            await simulate(options(double, urls=("ws://x.invalid",)))


async def test_of_several_servers_the_one_that_refuses_is_named(unused_tcp_port: int) -> None:
    async with Double() as double:
        double.refuse_tokens = True
        with pytest.raises(Misconfigured, match=f"the server at {http_base(double.url)} refuses the tokens"):
            await simulate(options(double, urls=(f"ws://127.0.0.1:{unused_tcp_port}", double.url)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"urls": ()}, "no URL"),
        ({"urls": ("ftp://host/",)}, "ws://"),
        ({"urls": ("ws://",)}, "ws://"),
        ({"users": 1}, "--users"),
        ({"users": 1_000_000}, "--users must be at most 100000: for more, start several with a --seed each"),
        ({"conversations": 0}, "--conversations"),
        ({"conversations": 1_000_000}, "--conversations must be from 1 to 100000"),
        ({"rate": -1.0}, "--rate"),
        ({"rate": float("nan")}, "--rate"),
        ({"duration": 0.0}, "--duration"),
        ({"token_for": None}, "sign tokens"),
        ({"tokens": {"ann": "t"}}, "at least 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, object], words: str) -> None:
    chosen = {"token_for": str, **changes}
    with pytest.raises(Misconfigured, match=words):
        SimulateOptions(**chosen).checked()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8765", "http://127.0.0.1:8765", "http://127.0.0.1:8765/", "ws://127.0.0.1:8765/v1/messaging/ws"]
)
def test_a_url_may_be_given_as_people_give_urls(url: str) -> None:
    assert str(socket_url(url)) == "ws://127.0.0.1:8765/v1/messaging/ws"
    assert str(http_base(url)) == "http://127.0.0.1:8765/"


@pytest.mark.parametrize("url", ["host/chat", "https://host/chat/", "wss://host/chat/v1/messaging/ws"])
def test_a_url_may_have_the_prefix_of_the_routes(url: str) -> None:
    assert socket_url(url).path == "/chat/v1/messaging/ws"
    assert http_base(url).path == "/chat"


def test_tokens_never_show_in_the_options() -> None:
    assert "s3cret" not in repr(SimulateOptions(tokens={"ann": "s3cret", "bob": "s3cret"}))


async def test_ready_tokens_make_the_users_those_of_the_tokens() -> None:
    async with Double() as double:
        tokens = {name: name for name in ("ann", "bob", "cat")}
        _, summary = await run(double, tokens=tokens, token_for=None, duration=1.0, rate=20.0)
        assert {member for room in double.rooms.values() for member in room.members} == set(tokens)
    assert summary.people == 3
    assert summary.wrong == {}


# --- what people see --------------------------------------------------------------------------------------------


async def test_without_a_terminal_there_are_plain_lines() -> None:
    out = io.StringIO()
    async with Double() as double:
        await run(double, PlainView(out, every=0.3), duration=1.0)
    lines = out.getvalue().splitlines()
    assert any("running" in line and "sent=" in line and "wrong=0" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


async def test_on_a_terminal_there_is_a_live_table_and_the_screen_is_left_in_order() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=True, width=100, height=30))
    async with Double(("lost", "echoed")) as double:
        await run(double, view, duration=2.0, settle=3.0)
        view.note("a note that stays")
    view.close()
    for words in ("acknowledged", "delivered", "p99", "in fast motion", "WRONG", "a note that stays"):
        assert words in out.getvalue()
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back


def test_no_line_of_the_live_table_is_broken_on_a_terminal_of_80_columns() -> None:
    out, meter = io.StringIO(), Meter(resets=999, resent=99, joined=1_000)
    meter.errors["unavailable"] = meter.rejected["503"] = 99
    ledger = Ledger("run", grace=1.0)
    view = LiveView(Console(file=out, force_terminal=True, width=80, height=30))
    view.show(Moment(meter, ledger, "waiting for answers", 600.0, 1.0, 9.5))
    view.close()
    for line in ("messaging-exporter simulate .* in fast motion", "999 lost networks, .* connections refused"):
        assert re.search(f"{line}$", re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", out.getvalue()), re.MULTILINE)


def test_the_view_follows_what_it_writes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(view_for(io.StringIO()), PlainView)


async def _process(*arguments: str) -> asyncio.subprocess.Process:
    script = (
        "import sys\n"
        "from exporter.simulate import SimulateOptions, main\n"
        "people = dict(token_for=str, steady=True, users=6, conversations=2, rate=20.0)\n"
        f"sys.exit(main(SimulateOptions(**people, {', '.join(arguments)})))"
    )
    root = str(Path(package.__file__).parent.parent.parent)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=-1, stderr=-1, env={**os.environ, "PYTHONPATH": root}
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_json_on_stdout_and_nothing_else(number: signal.Signals) -> None:
    async with Double() as double:
        process = await _process(f"urls=({double.url!r},)", "duration=None", "json=True")
        try:
            async with asyncio.timeout(30):
                await until(lambda: double.accepted >= 5)
                process.send_signal(number)
                out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    summary = json.loads(out)
    assert process.returncode == 0
    assert summary["ok"] is True
    assert summary["stopped"] is True
    assert summary["verified"] == summary["acknowledged"] >= 5
    assert b"Traceback" not in errors


async def test_the_exit_status_says_that_something_was_lost() -> None:
    async with Double(("lost",), every=3) as double:
        process = await _process(f"urls=({double.url!r},)", "duration=2.5")
        async with asyncio.timeout(30):
            out, errors = await process.communicate()
    assert process.returncode == 1, errors
    assert b"WRONG: " in out
    assert b"and not stored" in out


async def test_a_peer_of_a_lost_network_sees_a_reset_and_no_close_frame() -> None:

    tasks: set[asyncio.Task[None]] = set()
    async with Double() as double, aiohttp.ClientSession() as http:
        link = await ClientConnection.open(
            http, socket_url(double.url), "ann", 1, lambda work: tasks.add(asyncio.create_task(work))
        )
        frames = link.frames()
        assert b"welcome" in await anext(frames)
        (peer,) = double.peers
        link.reset()
        assert [frame async for frame in frames] == []
        async with asyncio.timeout(10):
            await until(lambda: not double.peers)
        assert peer.ws.close_code == 1006
        link.reset()  # once more does nothing


@pytest.mark.parametrize("leap", [TOKEN_KEPT + 1, 7 * 3_600, -3_600])
def test_a_token_is_signed_anew_when_the_clock_that_it_expires_by_has_moved_on(
    leap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demo on a laptop that was closed for hours: the monotonic clock has stood still, the tokens have expired."""
    numbers = itertools.count(1)
    run = Simulation(SimulateOptions(token_for=lambda user: f"{user}-{next(numbers)}"), asyncio.Event(), View())
    started = time.time()
    monkeypatch.setattr(time, "time", lambda: started)
    assert [run._token_for("ann"), run._token_for("ann")] == ["ann-1", "ann-1"]
    monkeypatch.setattr(time, "time", lambda: started + leap)
    assert [run._token_for("ann"), run._token_for("ann")] == ["ann-2", "ann-2"]
