"""``Live``: what a host tells is what is shown, and what it does not tell is absent."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from litestar.exceptions import WebSocketDisconnect as LitestarDisconnect
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.exceptions import WebSocketException
from starlette.websockets import WebSocketDisconnect

import exporter
from exporter import ClosedReason, Connection, Live, LockedLive, ParticipantJoined, ParticipantLeft, TypingStopped
from exporter.core.errors import ErrorCode
from exporter.core.events import RejectedReason
from exporter.core.records import HubStats
from exporter.embed.figures import Drift

LIVE = (
    "messaging_active_connections",
    "messaging_connected_users",
    "messaging_active_conversations",
    "messaging_participants",
    "messaging_typing_users",
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def shown(live: Live) -> dict[str, float]:
    """Every series of the collector, by name and labels, as Prometheus would read it."""
    registry = CollectorRegistry()
    registry.register(live.collector())
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def figures(live: Live) -> list[float | None]:
    series = shown(live)
    return [series.get(name) for name in LIVE]


def test_a_context_cannot_be_left_open_whatever_happens_inside() -> None:
    live = Live()
    with live.open("ann") as connection:
        assert connection.join("room")
        assert figures(live) == [1, 1, 1, 1, 0]
    assert figures(live) == [0] * 5
    with pytest.raises(ZeroDivisionError), live.open("ann"):
        _ = 1 / 0
    with pytest.raises(ConnectionResetError), live.open("ann"):
        raise ConnectionResetError
    with pytest.raises(asyncio.CancelledError), live.open("ann"):
        raise asyncio.CancelledError
    with live.open("ann") as connection:
        connection.reason = ClosedReason.SLOW_CONSUMER
    closed = {
        name: value for name, value in shown(live).items() if name.startswith("messaging_connections_closed_total")
    }
    assert {name for name, value in closed.items() if value} == {
        f"messaging_connections_closed_total{{{reason}}}"
        for reason in ("client", "internal_error", "shutdown", "slow_consumer")
    }
    assert closed["messaging_connections_closed_total{client}"] == 2
    assert shown(live)["messaging_connections_opened_total"] == 5
    assert shown(live)["messaging_connection_duration_seconds_count"] == 5


@pytest.mark.parametrize(
    "name",
    [
        "ClientDisconnected",
        "ConnectionClosed",
        "ConnectionClosedError",
        "ConnectionClosedOK",
        "Disconnected",
        "WebSocketClosedError",
        "WebSocketDisconnect",
        "WebSocketDisconnectError",
        "WebSocketDisconnected",
        "WebsocketClosed",
    ],
)
def test_what_frameworks_raise_when_the_peer_has_gone_is_no_internal_error(name: str) -> None:
    live, gone = Live(), type(name, (Exception,), {})
    with pytest.raises(gone), live.open("ann"):
        raise gone
    assert shown(live)["messaging_connections_closed_total{client}"] == 1


@pytest.mark.parametrize(("cancels", "reason"), [(True, "client"), (False, "shutdown")])
def test_trio_cancels_as_asyncio_does(cancels: bool, reason: str) -> None:
    live, cancelled = Live(cancels_on_disconnect=cancels), type("Cancelled", (BaseException,), {})
    with pytest.raises(BaseExceptionGroup), live.open("ann"):
        raise BaseExceptionGroup("of a nursery", [cancelled()])
    with pytest.raises(cancelled), live.open("ann"):
        raise cancelled
    assert shown(live)[f"messaging_connections_closed_total{{{reason}}}"] == 2


def test_events_are_returned_so_that_a_caller_can_broadcast_from_them() -> None:
    live = Live()
    first, second = live.open("ann"), live.open("ann")
    assert first.join("room") == [ParticipantJoined("room", "ann")]
    assert second.join("room") == []
    assert [type(event) for event in first.typing("room")] == [exporter.TypingStarted]
    assert first.message("room") == [TypingStopped("room", "ann", exporter.TypingStoppedReason.MESSAGE)]
    assert first.close() == [exporter.ConnectionClosed("ann", ClosedReason.CLIENT)]
    assert second.leave("room") == [ParticipantLeft("room", "ann", exporter.LeftReason.LEAVE)]


def test_what_cannot_be_changes_nothing_and_does_not_break_the_host() -> None:
    live = Live()
    connection = live.open("ann")
    assert connection.leave("room") == connection.typing("room") == []
    connection.close()
    assert connection.join("room") == connection.close() == connection.typing("room") == []
    assert figures(live) == [0] * 5
    assert shown(live)["messaging_connections_closed_total{client}"] == 1
    with pytest.raises(ValueError, match="reports"):
        Live(reports=["mesages"])


@pytest.mark.parametrize("nobody", [None, True, b"ann", object(), ["ann"]])
def test_what_identifies_nobody_is_one_clear_error_and_changes_nothing(nobody: Any) -> None:
    live = Live()
    anonymous = live.open_anonymous()
    for call in (live.open, anonymous.identify, lambda user: live.remove("room", user)):
        with pytest.raises(TypeError, match=r"a user is an identifier .*not \w+; .*live\.open_anonymous\(\)"):
            call(nobody)
    assert live.stats() == HubStats(1, 0, 0, 0, 0)


def test_numbers_and_uuids_are_kept_as_their_text() -> None:
    live = Live()
    account = UUID(int=7)
    for connection in (live.open(7), live.open("7"), live.open(account)):
        connection.join("room")
    assert live.stats() == HubStats(3, 2, 1, 2, 0)
    assert live.remove("room", 7) == [ParticipantLeft("room", "7", exporter.LeftReason.REMOVED)]
    assert live.remove("room", account) == [ParticipantLeft("room", str(account), exporter.LeftReason.REMOVED)]


@pytest.mark.parametrize("made", [Live, LockedLive])
@pytest.mark.parametrize("odd", [[], {"id": 1}, ([],)], ids=["list", "object", "tuple"])
def test_a_room_that_a_client_made_up_changes_nothing_and_does_not_break_the_host(made: type[Live], odd: Any) -> None:
    """A handler passes on what stands in a frame: ``connection.join(frame["room"])``."""
    live = made(workers=1, commands=["send"])
    for connection in (live.open("ann"), live.open_anonymous()):
        connection.join("room")
        connection.typing("room")
        for call in (connection.join, connection.typing, connection.message, connection.leave):
            assert call(odd) == []
    assert live.audience(odd) == live.remove(odd, "ann") == []
    with live.command(odd):
        pass
    live.command_rejected(odd, "bad_frame")
    assert live.hub.stats() == HubStats(1, 1, 1, 1, 1)
    assert live.metrics.messages_accepted.value == 2  # they are durable, wherever that was
    assert live.metrics.commands_rejected["unknown", ErrorCode.BAD_FRAME].value == 1


def test_a_difference_below_nothing_lowers_no_counter_and_a_code_of_the_host_s_own_breaks_no_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = Live(workers=1)
    live.delivered(2, 0.5)
    live.persisted(0.5)
    live.commanded("send", 0.5)
    live.dropped(2)
    live.transferred(received=2, sent=2)
    for refused in ("forbidden", "banned", ["banned"]):
        live.command_rejected("send", refused)  # type: ignore[arg-type]
    before = shown(live)
    live.delivered(len(live.audience("room")) - 1, -1.0)  # everybody but the sender, who has left
    live.delivered(1, -1.0)
    live.persisted(-1.0)
    live.commanded("send", -1.0)
    live.dropped(-1)
    live.transferred(received=-1, sent=-1)
    fallen = {name for name, value in shown(live).items() if value < before[name]}
    assert not fallen
    assert shown(live)["messaging_deliveries_total"] == 3
    counted = {
        name: value for name, value in before.items() if name.startswith("messaging_commands_rejected") and value
    }
    assert counted == {"messaging_commands_rejected_total{forbidden}{send}": 1}
    assert caplog.text.count("expected one of bad_frame, ") == 2


def test_a_handle_that_cannot_be_one_is_named() -> None:
    live = Live()
    with pytest.raises(TypeError, match="handle has to be hashable, and dict is not"):
        live.open("ann", handle={})
    assert live.stats() == HubStats(0, 0, 0, 0, 0)


def test_events_that_no_call_returns_go_to_on_events() -> None:
    told: list[exporter.HubEvent] = []
    live = Live(on_events=told.extend)
    left = ParticipantLeft("room", "ann", exporter.LeftReason.DISCONNECT)
    closed = exporter.ConnectionClosed("ann", ClosedReason.CLIENT)
    with live.open("ann") as connection:
        assert connection.join("room") == [ParticipantJoined("room", "ann")]
        assert not told  # what a call returns is not told again
    assert told == [left, closed]
    told.clear()
    live.open("ann", handle="tab").join("room")
    live.open("ann", handle="tab")  # the first is replaced
    assert told == [left, closed]
    told.clear()
    assert live.close("tab") == [closed]
    assert not told
    anonymous = live.open_anonymous()
    anonymous.join("room")
    assert anonymous.identify("ann") == [ParticipantJoined("room", "ann")]
    assert anonymous.identify("bob") == []


def test_an_error_in_on_events_is_logged_and_nothing_else_comes_of_it(caplog: pytest.LogCaptureFixture) -> None:
    def fails(events: list[exporter.HubEvent]) -> None:
        raise ZeroDivisionError

    clock = Clock()
    live = Live(now=clock, on_events=fails)
    with live.open("ann") as connection:
        connection.join("room")
        connection.typing("room")
        clock.now += 7
        assert figures(live)[4] == 0
    assert figures(live)[0] == 0
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2


def test_typing_times_out_by_itself_and_is_in_the_next_look() -> None:
    clock = Clock()
    live = Live(now=clock)
    connection = live.open("ann")
    connection.join("room")
    connection.typing("room")
    clock.now += 5.9
    assert figures(live)[4] == 1
    clock.now += 0.2
    assert figures(live)[4] == 0
    assert shown(live)["messaging_typing_stopped_total{timeout}"] == 1
    assert shown(live)["messaging_typing_started_total"] == 1


def test_how_long_a_connection_lasted_is_told_once() -> None:
    clock = Clock()
    live = Live(now=clock)
    for opened in (lambda: live.open("ann"), live.open_anonymous):
        connection = opened()
        assert connection.is_open
        clock.now += 15
        connection.close()
        assert not connection.is_open
        clock.now += 100
        connection.close()
    series = shown(live)
    assert series["messaging_connection_duration_seconds_count"] == 2
    assert series["messaging_connection_duration_seconds_sum"] == 15 + 15
    assert series["messaging_connections_closed_total{client}"] == 2


def test_a_block_whose_connection_was_closed_inside_tells_nothing_more() -> None:
    told: list[list[exporter.HubEvent]] = []
    live = Live(on_events=told.append)
    with live.open("ann") as connection:
        connection.close()
    with live.open_anonymous():
        pass
    assert not told


def test_an_audience_may_change_while_somebody_goes_through_it() -> None:
    live = Live()
    for user in ("ann", "bob"):
        live.open(user).join("room")
    audience = live.audience("room")
    for connection in audience:
        connection.close()
    assert {connection.user for connection in audience} == {"ann", "bob"}


def test_who_has_joined_and_is_not_known_hides_what_they_are_part_of() -> None:
    live = Live()
    live.open("ann").join("room")
    connection = live.open_anonymous()
    assert figures(live) == [2, None, 1, 1, 0]
    connection.join("room")
    assert figures(live) == [2, None, None, None, None]


def test_a_reason_may_be_a_word_and_what_is_none_does_not_break_the_end() -> None:
    live = Live()
    for word in ("admin", "no such reason"):
        with live.open("ann") as connection:
            connection.reason = word
    for error in (ConnectionRefusedError(), FileNotFoundError(), TimeoutError()):  # faults of the host, not of the peer
        with contextlib.suppress(OSError), live.open("ann"):
            raise error
    with contextlib.suppress(ExceptionGroup), live.open("ann"):
        raise ExceptionGroup("a task group", [BrokenPipeError()])
    for errors in ([BrokenPipeError(), ZeroDivisionError()], [ZeroDivisionError(), BrokenPipeError()]):
        with contextlib.suppress(ExceptionGroup), live.open("ann"):
            raise ExceptionGroup("a task group", errors)
    closed = shown(live)
    assert closed["messaging_connections_closed_total{admin}"] == 1
    for close in (lambda: live.open("ann").close("slow_consumer"), lambda: live.close(live.open("ann"), "heartbeat")):
        close()
    assert shown(live)["messaging_connections_closed_total{slow_consumer}"] == 1
    assert shown(live)["messaging_connections_closed_total{heartbeat}"] == 1
    assert closed["messaging_connections_closed_total{client}"] == 2
    assert closed["messaging_connections_closed_total{internal_error}"] == 5


def test_typing_that_a_look_at_the_figures_ended_is_told_all_the_same() -> None:
    clock, told = Clock(), []
    live = Live(now=clock, on_events=told.extend)
    connection = live.open("ann")
    connection.join("room")
    connection.typing("room")
    clock.now += 7
    assert live.get_stats()["typing_users"] == 0
    assert told == [TypingStopped("room", "ann", exporter.TypingStoppedReason.TIMEOUT)]


def test_a_source_that_nobody_has_looked_at_is_not_said_to_be_down() -> None:
    live = Live(totals=exporter.Source("sqlite:////nowhere.db", "mapping.yml"))
    assert not any(name.startswith("messaging_source") for name in shown(live))


async def test_whoever_asked_is_told_of_typing_that_ended_by_itself_each_time() -> None:
    told: asyncio.Queue[list[exporter.HubEvent]] = asyncio.Queue()
    live = Live(typing_timeout=0.02, on_events=told.put_nowait)
    with live.open("ann") as connection:
        connection.join("room")
        for _ in range(2):
            connection.typing("room")
            (event,) = await asyncio.wait_for(told.get(), 60)
            assert event == TypingStopped("room", "ann", exporter.TypingStoppedReason.TIMEOUT)


def test_what_the_host_does_not_report_is_absent_and_what_it_announces_stands_at_0() -> None:
    optional = {
        "messaging_messages_accepted_total": "messages",
        "messaging_deliveries_total": "deliveries",
        "messaging_read_receipts_total": "reads",
        "messaging_sent_bytes_total": "bytes",
        "messaging_command_duration_seconds_count{send}": "commands",
        "messaging_connections_rejected_total{capacity}": "rejections",
    }
    silent = shown(Live())
    assert not set(optional) & set(silent)
    announced = shown(Live(reports=optional.values()))
    assert {announced[name] for name in optional} == {0}
    live = Live()
    live.open("ann").message("room")
    live.delivered(3, 0.01)
    live.persisted(0.002)
    live.read(4.0)
    live.transferred(received=10, sent=20)
    live.reject("capacity")
    with live.command("send"):
        pass
    with pytest.raises(KeyError), live.command("join"):
        raise KeyError
    with live.command("a name that a client chose"):
        pass
    live.command_rejected("another", "forbidden")
    series = shown(live)
    assert series["messaging_commands_rejected_total{forbidden}{unknown}"] == 1
    assert not any("{cluster}" in name for name in series)  # a host has no other broker than its own
    assert set(optional) <= set(series)
    assert series["messaging_deliveries_total"] == 3
    assert series["messaging_message_delivery_duration_seconds_count{local}"] == 1
    assert series["messaging_commands_rejected_total{internal}{join}"] == 1
    assert series["messaging_command_duration_seconds_count{send}"] == 1


REPORTED: list[tuple[Callable[[Live], object], dict[str, float]]] = [
    (
        lambda live: live.persisted(0.5),
        {"message_persist_duration_seconds_count": 1, "message_persist_duration_seconds_sum": 0.5},
    ),
    (lambda live: live.delivered(3), {"deliveries_total": 3, "fanout_recipients_count": 1, "fanout_recipients_sum": 3}),
    (
        lambda live: live.delivered(3, 0.5),
        {
            "deliveries_total": 3,
            "fanout_recipients_count": 1,
            "fanout_recipients_sum": 3,
            "message_delivery_duration_seconds_count{local}": 1,
            "message_delivery_duration_seconds_sum{local}": 0.5,
        },
    ),
    (lambda live: live.delivered(0, 0.5), {"fanout_recipients_count": 1}),  # nobody received it, in whatever time
    (lambda live: live.dropped(2), {"deliveries_dropped_total": 2}),
    (lambda live: live.read(), {"read_receipts_total": 1}),
    (lambda live: live.read(4.0), {"read_receipts_total": 1, "read_lag_seconds_count": 1, "read_lag_seconds_sum": 4}),
    (lambda live: live.read(-4.0), {"read_receipts_total": 1, "read_lag_seconds_count": 1}),
    (
        lambda live: live.commanded("send", 0.5),
        {"command_duration_seconds_count{send}": 1, "command_duration_seconds_sum{send}": 0.5},
    ),
    (lambda live: live.command_rejected("send", "forbidden"), {"commands_rejected_total{forbidden}{send}": 1}),
    (lambda live: live.transferred(received=2), {"received_bytes_total": 2}),
    (lambda live: live.transferred(received=2, sent=1), {"received_bytes_total": 2, "sent_bytes_total": 1}),
    (lambda live: live.transferred(sent=3), {"sent_bytes_total": 3}),
    (lambda live: live.reject(), {"connections_rejected_total{handshake}": 1}),
]


@pytest.mark.parametrize(("report", "expected"), REPORTED)
def test_each_report_is_shown_and_nothing_else(report: Callable[[Live], object], expected: dict[str, float]) -> None:
    live = Live(workers=1)
    before = shown(live)
    report(live)
    after = {name: value for name, value in shown(live).items() if value and "_bucket" not in name}
    new = {name.removeprefix("messaging_"): value for name, value in after.items() if before.get(name) != value}
    assert new == expected


def test_a_command_takes_as_long_as_its_block() -> None:
    clock = Clock()
    live = Live(now=clock)
    with live.command("send"):
        clock.now += 3
    assert shown(live)["messaging_command_duration_seconds_sum{send}"] == 3


def test_a_command_in_which_the_client_goes_is_timed_and_no_defect_of_the_server() -> None:
    live = Live(workers=1, reports=["commands"])
    gone = WebSocketDisconnect(1006)
    for error in (gone, ConnectionResetError(), ExceptionGroup("a task group", [gone]), WebSocketException(1008)):
        with pytest.raises(type(error)), live.command("send"):
            raise error
    series = shown(live)
    assert series["messaging_command_duration_seconds_count{send}"] == 4
    assert series["messaging_commands_rejected_total{internal}{send}"] == live.get_stats()["sends_failed"] == 0
    with pytest.raises(ExceptionGroup), live.command("send"):
        raise ExceptionGroup("a task group", [gone, ZeroDivisionError()])
    assert live.get_stats()["sends_failed"] == 1


def test_the_hosts_own_commands_are_labels_from_the_start() -> None:
    live = Live(commands=("post", "react"), reports=("commands",))
    assert shown(live)["messaging_command_duration_seconds_count{react}"] == 0
    assert "messaging_command_duration_seconds_count{join}" not in shown(live)


def test_connections_of_unknown_users_are_connections_and_the_rest_is_not_guessed() -> None:
    live = Live()
    live.by_middleware = True
    assert figures(live) == [0] * 5  # nobody is there: everything is known
    connection = live.open_anonymous()
    assert figures(live) == [1, None, None, None, None]
    assert not {"messaging_joins_total", "messaging_typing_started_total"} & set(shown(live))
    connection.join("early")  # somebody takes part, and nobody knows who
    assert figures(live) == [1, None, None, None, None]
    connection.identify("ann")
    assert figures(live) == [1, 1, 1, 1, None]
    connection.leave("early")
    connection.join("room")
    assert figures(live) == [1, 1, 1, 1, None]
    connection.typing("room")
    assert figures(live) == [1, 1, 1, 1, 1]
    connection.close()
    assert figures(live) == [0] * 5
    assert shown(live)["messaging_connections_opened_total"] == 1


def test_a_handle_that_is_opened_again_replaces_the_first() -> None:
    """The origin's dictionary: a second tab of a user took the first one's place, and the figure stayed right."""
    live = Live()
    first = live.open("ann", handle="ann")
    second = live.open("ann", handle="ann")
    assert live.find("ann") is second
    assert not first.is_open
    assert figures(live)[0] == 1
    first.close()
    assert live.find("ann") is second


def test_drift_is_absent_without_the_hosts_sockets_and_sees_ghosts_with_them() -> None:
    sockets: set[object] = set()
    live = Live(open_sockets=lambda: sockets)
    ann, bob = live.open("ann", handle="a"), live.open("bob", handle="b")
    ann.join("room")
    sockets |= {"a", bob}
    assert {value for name, value in shown(live).items() if name.startswith("messaging_live_drift")} == {0}
    sockets.discard("a")  # its socket is gone, and nobody told
    drift = {name: value for name, value in shown(live).items() if name.startswith("messaging_live_drift")}
    assert drift["messaging_live_drift{active_connections}"] == 1
    assert drift["messaging_live_drift{participants}"] == 1
    ann.close()
    sockets.add("c")  # a socket that nobody told of
    assert shown(live)["messaging_live_drift{active_connections}"] == -1
    assert not any(name.startswith("messaging_live_drift") for name in shown(Live()))


def test_what_was_left_before_anybody_said_whose_it_is_is_not_joined() -> None:
    live = Live()
    connection = live.open_anonymous()
    for room in ("kept", "left", "kept, too"):
        connection.join(room)
    connection.leave("left")
    assert connection.identify("ann") == [ParticipantJoined(room, "ann") for room in ("kept", "kept, too")]


def test_there_is_no_drift_of_a_figure_that_is_not_known() -> None:
    live = Live(open_sockets=lambda: ["a"])
    live.open_anonymous(handle="a")
    figures = shown(live)
    assert figures["messaging_live_drift{active_connections}"] == 0
    assert "messaging_live_drift{connected_users}" not in figures


def test_a_recount_by_handles_gives_way_as_often_as_one_by_connections() -> None:
    """Else a host whose connections have joined hundreds of rooms stands still for a scrape."""
    live = Live(workers=1)
    for number in range(20):
        connection = live.open(number, handle=number)
        for room in range(200):
            connection.join(f"room{room}")
    turns: list[int] = []
    for sockets in (live.hub.connections, live.by_handle):
        live.open_sockets = lambda sockets=sockets: sockets  # type: ignore[misc]
        drift = Drift(live)
        turns.append(len(list(drift.count())))
        assert set((drift.found or {}).values()) == {0}
    assert turns == [4, 4]


def test_a_recount_by_handles_is_of_the_moment_in_which_it_began() -> None:
    handles = range(5_000)
    live = Live(open_sockets=lambda: handles)
    for handle in handles:
        live.open(handle, handle=handle).join("room")
    drift = Drift(live)
    counting = drift.count()
    next(counting)
    for handle in handles:
        live.close(handle)
    for _ in counting:
        pass
    assert drift.found is not None
    assert set(drift.found.values()) == {0}


def test_rooms_that_look_alike_are_no_drift() -> None:
    """A number of the host's database beside the text of a path; and what a client calls a room or itself."""
    live = Live(workers=1, open_sockets=lambda: live.hub.connections)
    for user, rooms in {"ann": (1, "1", 1.5, "1.5", ("1",), "('1',)"), "b\0ann": ("a",), "c": ("a\0b",)}.items():
        connection = live.open(user)
        for room in rooms:
            connection.join(room)  # type: ignore[arg-type]
            connection.typing(room)  # type: ignore[arg-type]
    live.open("ann").join("a\0b")
    assert {value for name, value in shown(live).items() if name.startswith("messaging_live_drift")} == {0}
    live.hub.typing["1", "c"] = live.hub.typing["nowhere", "0\0ann"] = 1e12  # ghosts
    assert shown(live)["messaging_live_drift{typing_users}"] == 2


def test_get_stats_has_the_four_names_of_the_origin_and_says_what_is_not_known() -> None:
    before = datetime.now(UTC)
    live = Live()
    live.open("ann").join("room")
    stats = live.get_stats()
    assert before - timedelta(seconds=1) <= datetime.fromisoformat(stats["started_at"]) <= datetime.now(UTC)
    assert {
        name: stats[name]
        for name in ("active_connections", "active_conversations", "total_participants", "typing_users")
    } == {
        "active_connections": 1,
        "active_conversations": 1,
        "total_participants": 1,
        "typing_users": 0,
    }
    assert stats["total_messages"] is None
    assert "totals=Source" in stats["database"]["error"]


def test_threads_may_use_the_locked_form() -> None:
    live = LockedLive()
    begin = threading.Barrier(8)

    def work(number: int) -> None:
        begin.wait()
        for step in range(400):
            with live.open(f"user{number}") as connection:
                connection.join(f"room{step % 7}")
                connection.typing(f"room{step % 7}")
                live.delivered(1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    series = shown(live)
    assert figures(live) == [0] * 5
    assert series["messaging_connections_opened_total"] == series["messaging_joins_total"] == 3_200
    assert series["messaging_deliveries_total"] == series["messaging_typing_started_total"] == 3_200


class LiveMachine(RuleBasedStateMachine):
    """Any order of calls, right or wrong, against a naive model."""

    users = st.sampled_from(["ann", "bob", "cat"])
    rooms = st.sampled_from(["one", "two"])
    draws = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.live = Live(now=self.clock, open_sockets=lambda: [c for c in self.made if c in self.open])
        self.made: list[Connection] = []
        self.open: dict[Connection, str | None] = {}
        self.joined: set[tuple[Connection, str]] = set()
        self.early: set[tuple[Connection, str]] = set()  # before anybody said whose they are
        self.typing: dict[tuple[str, str], float] = {}

    def some(self, draw: int) -> Connection | None:
        return self.made[draw % len(self.made)] if self.made else None

    @rule(user=users)
    def opens(self, user: str) -> None:
        connection = self.live.open(user)
        self.made.append(connection)
        self.open[connection] = user

    @rule()
    def opens_unknown(self) -> None:
        connection = self.live.open_anonymous()
        self.made.append(connection)
        self.open[connection] = None

    @rule(draw=draws, user=users)
    def identifies(self, draw: int, user: str) -> None:
        if (connection := self.some(draw)) is not None:
            connection.identify(user)
            if connection in self.open and self.open[connection] is None:
                self.open[connection] = user
                self.joined |= {(connection, room) for other, room in self.early if other is connection}

    @rule(draw=draws, room=rooms)
    def joins(self, draw: int, room: str) -> None:
        if (connection := self.some(draw)) is not None:
            self._join(connection, room)

    @rule(room=rooms)
    def everybody_joins(self, room: str) -> None:
        """Or few would meet: most steps are of other kinds."""
        for connection in self.made:
            self._join(connection, room)

    def _join(self, connection: Connection, room: str) -> None:
        connection.join(room)
        if self.open.get(connection) is not None:
            self.joined.add((connection, room))
        elif connection in self.open:
            self.early.add((connection, room))

    @rule(draw=draws, room=rooms)
    def leaves(self, draw: int, room: str) -> None:
        if (connection := self.some(draw)) is not None:
            connection.leave(room)
            self.early.discard((connection, room))
            self._left(connection, room)

    def _left(self, connection: Connection, room: str) -> None:
        self.joined.discard((connection, room))
        user = self.open.get(connection)
        if user is not None and not any(self.open[c] == user for c, r in self.joined if r == room):
            self.typing.pop((room, user), None)

    @rule(draw=draws, room=rooms, active=st.booleans())
    def types(self, draw: int, room: str, active: bool) -> None:
        connection = self.some(draw)
        if connection is None:
            return
        connection.typing(room, active)
        user = self.open.get(connection)
        if user is not None and (connection, room) in self.joined:
            self.typing.pop((room, user), None)
            if active:
                self.typing[room, user] = self.clock.now + 6.0

    @rule(draw=draws, reason=st.sampled_from(list(ClosedReason)))
    def closes(self, draw: int, reason: ClosedReason) -> None:
        if (connection := self.some(draw)) is not None:
            connection.close(reason)
            for other, room in list(self.joined):
                if other is connection:
                    self._left(connection, room)
            self.open.pop(connection, None)

    @rule(seconds=st.floats(0.1, 7.0))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def the_figures_are_the_models(self) -> None:
        typing = [pair for pair, until in self.typing.items() if until > self.clock.now]
        assert self.live.stats() == HubStats(
            len(self.open),
            len({user for user in self.open.values() if user is not None}),
            len({room for _, room in self.joined}),
            len({(room, self.open[connection]) for connection, room in self.joined}),
            len(typing),
        )
        series = shown(self.live)
        assert series["messaging_connections_opened_total"] - sum(
            value for name, value in series.items() if name.startswith("messaging_connections_closed_total")
        ) == len(self.open)
        assert {value for name, value in series.items() if name.startswith("messaging_live_drift")} <= {0}


TestLiveMachine = LiveMachine.TestCase


# A finder that refuses what a bare installation does not have.
BARE = """
import sys
ABSENT = set("aiohttp sqlalchemy uvloop structlog click jwt yaml rich aiosqlite asyncpg bcrypt yarl redis".split())
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
"""


def test_it_works_where_prometheus_client_and_msgspec_are_all_there_is() -> None:
    script = BARE + (
        "import exporter\n"
        "assert not {'msgspec', 'prometheus_client'} & set(sys.modules)\n"
        "from exporter import Live, LiveMiddleware, Source\n"
        "live = Live(totals=None)\n"
        "with live.open('ann') as c:\n"
        "    c.join('room')\n"
        "    assert live.get_stats()['active_connections'] == 1\n"
        "app = live.asgi()\n"
        "from prometheus_client import CollectorRegistry, generate_latest\n"
        "registry = CollectorRegistry(); registry.register(live.collector())\n"
        "assert b'messaging_active_connections 0.0' in generate_latest(registry)\n"
        "print('fine')\n"
    )
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert outcome.stdout == "fine\n", outcome.stderr


def test_where_everything_is_known_no_error_is_told() -> None:
    assert Live(workers=1).get_stats()["error"] is None


def test_the_json_says_of_this_process_what_the_host_reports() -> None:
    live = Live(workers=1)
    assert live.get_stats()["refused"] == {}
    assert not {"sends_failed", "delivered_in_time"} & set(live.get_stats())
    live.reject("capacity")
    for command, code in (("send", "unavailable"), ("send", "forbidden"), ("join", "internal")):
        live.command_rejected(command, code)
    for seconds in (0.25, 0.2, 0.1, 0.3):
        live.delivered(1, seconds)
    with contextlib.suppress(ZeroDivisionError), live.open("ann"):
        _ = 1 / 0
    stats = live.get_stats()
    assert {name: {reason: n for reason, n in of.items() if n} for name, of in stats["refused"].items()} == {
        "connections": {"capacity": 1},
        "commands": {"unavailable": 1, "forbidden": 1, "internal": 1},
    }
    assert (stats["sends_failed"], stats["delivered_in_time"]) == (1, 0.75)
    assert stats["since"]["internal_errors"] is not None


def test_the_json_says_since_when_something_is_wrong_as_far_as_the_host_tells() -> None:
    live = Live(reports=["rejections"])
    assert live.get_stats()["since"] == {"internal_errors": None, "at_capacity": None}
    live.reject("capacity")
    assert live.get_stats()["since"].keys() == {"internal_errors", "at_capacity"}
    live.command_rejected("send", "unavailable")
    since = live.get_stats()["since"]
    assert since["internal_errors"] is None
    assert since["at_capacity"] is not None
    assert since["sends_failing"] is not None


def test_a_word_that_is_no_reason_keeps_nothing_open() -> None:
    live = Live(workers=1)
    live.open("ann").close("kicked")
    live.close(live.open("bob"), "kicked")
    live.reject("not in the mood")
    assert live.stats().active_connections == 0
    assert live.metrics.connections_closed[ClosedReason.CLIENT].value == 2
    assert live.metrics.connections_rejected[RejectedReason.HANDSHAKE].value == 1


@pytest.mark.parametrize(
    ("reason", "codes"),
    [
        ("client", (1000, 1008, 4001)),
        ("shutdown", (1001, 1012)),
        ("protocol_error", (1002, 1003, 1007, 1009)),
        ("internal_error", (1011, 4500)),
    ],
)
def test_a_framework_s_exception_that_closes_on_purpose_says_why_by_its_code(
    reason: str, codes: tuple[int, ...]
) -> None:
    live = Live(workers=1)
    for code in codes:
        with contextlib.suppress(WebSocketException), live.open("ann"):
            raise WebSocketException(code)
    assert shown(live)[f"messaging_connections_closed_total{{{reason}}}"] == len(codes)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_process_that_ends_cuts_its_connections_off(error: type[BaseException]) -> None:
    live = Live(workers=1, cancels_on_disconnect=True)
    with pytest.raises(error), live.open("ann"):
        raise error
    assert shown(live)["messaging_connections_closed_total{shutdown}"] == 1


def test_what_a_host_made_of_a_framework_s_exception_is_still_one() -> None:
    live = Live(workers=1)

    class Restarting(WebSocketException):
        """The host's."""

    class Gone(WebSocketDisconnect):
        """The host's."""

    browser = LitestarDisconnect(detail="the tab was closed", code=1001)  # a WebSocketException, too
    for error in (Gone(1006), browser, Restarting(1012)):
        with contextlib.suppress(type(error)), live.open("ann"):
            raise error
    counted = live.metrics.connections_closed
    assert [counted[reason].value for reason in (ClosedReason.CLIENT, ClosedReason.SHUTDOWN)] == [2, 1]


def test_a_broker_that_closes_is_a_fault_of_the_host() -> None:
    live = Live(workers=1)
    closed = type("ConnectionClosed", (Exception,), {})  # as pika has it
    for error in (closed, type("ConnectionClosedByBroker", (closed,), {})):
        with contextlib.suppress(error), live.open("ann"):
            raise error
    counted = live.metrics.connections_closed
    assert [counted[reason].value for reason in (ClosedReason.CLIENT, ClosedReason.INTERNAL_ERROR)] == [1, 1]


def test_a_function_that_would_never_be_awaited_is_refused() -> None:
    async def tell(events: object) -> None:
        """Nobody awaits it."""

    with pytest.raises(TypeError, match="called and not awaited"):
        Live(on_events=tell)


def test_typing_that_ends_by_itself_is_told_in_a_second_event_loop() -> None:
    told: list[exporter.HubEvent] = []
    live = Live(workers=1, typing_timeout=0.02, on_events=told.extend)
    connection = live.open("ann")
    connection.join("room")

    async def types(*, until_told: bool) -> None:
        connection.typing("room")
        async with asyncio.timeout(60):
            while until_told and not told:  # noqa: ASYNC110  # a timer tells it
                await asyncio.sleep(0.001)

    asyncio.run(types(until_told=False))
    connection.typing("room", False)
    asyncio.run(types(until_told=True))
    assert told == [TypingStopped("room", "ann", exporter.TypingStoppedReason.TIMEOUT)]


@pytest.mark.parametrize("sockets", [lambda: [[]], lambda: 1 // 0, lambda: None], ids=["lists", "a defect", "None"])
def test_a_host_that_cannot_tell_its_sockets_loses_the_drift_only(
    sockets: Any, caplog: pytest.LogCaptureFixture
) -> None:
    live = Live(workers=1, open_sockets=sockets)
    live.open("ann")
    names = shown(live)
    assert "messaging_active_connections" in names
    assert "messaging_live_drift" not in names
    assert "open_sockets failed" in caplog.text


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1009, 1011, 4500, 4999])
def test_a_task_group_that_ends_on_purpose_ends_the_connection_whatever_its_code(code: int) -> None:
    live = Live(workers=1)
    counted = live.metrics.connections_closed
    for error in (WebSocketException(code), ExceptionGroup("a task group", [WebSocketException(code)])):
        with pytest.raises(type(error)), live.open("ann"):
            raise error
    assert live.stats().active_connections == 0
    assert [cell.value for cell in counted.cells.values() if cell.value] == [2]
