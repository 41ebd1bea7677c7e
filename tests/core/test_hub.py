"""The hub: each rule of the contract as a sentence, and a machine that holds it against a recount from a log."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from exporter.core.errors import ErrorCode, Forbidden, NotJoined, Refusal
from exporter.core.events import (
    ClosedReason,
    ConnectionClosed,
    ConnectionOpened,
    HubEvent,
    LeftReason,
    ParticipantJoined,
    ParticipantLeft,
    TypingStarted,
    TypingStopped,
    TypingStoppedReason,
)
from exporter.core.hub import MAX_JOINED, Hub
from exporter.core.records import HubStats
from exporter.core.recount import Recount

CLIENT = ClosedReason.CLIENT
EMPTY = HubStats()


def state(hub: Hub[str]) -> dict[str, Any]:
    """Everything that the hub holds, as plain values; the order of ``typing`` is part of it."""
    return {
        "connections": {name: (known.user, known.joined) for name, known in hub.connections.items()},
        "users": {user: set(names) for user, names in hub.users.items()},
        "conversations": {name: set(names) for name, names in hub.conversations.items()},
        "participants": {pair: set(names) for pair, names in hub.participants.items()},
        "typing": list(hub.typing.items()),
        "users in": {name: list(users) for name, users in hub._users_in.items()},
    }


def hub_with(*opened: tuple[str, str], joined: tuple[tuple[str, str], ...] = ()) -> Hub[str]:
    hub: Hub[str] = Hub(typing_timeout=6.0)
    for connection, user in opened:
        hub.open(connection, user)
    for connection, conversation in joined:
        hub.join(connection, conversation)
    return hub


ANN, TAB, BOB = ("a1", "ann"), ("a2", "ann"), ("b1", "bob")


# --- connections ------------------------------------------------------------------------------------------


def test_a_new_hub_has_nothing_and_every_figure_is_0() -> None:
    assert Hub[str]().stats() == EMPTY


def test_a_connection_counts_as_one_connection_and_one_user() -> None:
    hub: Hub[str] = Hub()
    assert hub.open("a1", "ann") == [ConnectionOpened("ann")]
    assert hub.stats() == HubStats(active_connections=1, connected_users=1)
    assert hub.is_open("a1")


def test_a_second_tab_is_a_connection_more_but_no_user_more() -> None:
    hub = hub_with(ANN, TAB)
    assert hub.stats() == HubStats(active_connections=2, connected_users=1)
    assert hub.connections_of("ann") == 2


def test_a_user_who_is_not_there_has_no_connections() -> None:
    assert hub_with(ANN).connections_of("bob") == 0


def test_opening_an_open_connection_is_the_callers_mistake_and_changes_nothing() -> None:
    hub = hub_with(ANN)
    before = state(hub)
    with pytest.raises(ValueError, match="open already"):
        hub.open("a1", "bob")
    assert state(hub) == before


def test_closing_the_first_of_two_tabs_keeps_the_user() -> None:
    hub = hub_with(ANN, TAB)
    assert hub.close("a1", CLIENT) == [ConnectionClosed("ann", CLIENT)]
    assert hub.stats() == HubStats(active_connections=1, connected_users=1)


def test_closing_twice_is_closing_once() -> None:
    hub = hub_with(ANN, BOB)
    hub.close("a1", CLIENT)
    before = state(hub)
    assert hub.close("a1", ClosedReason.HEARTBEAT) == []
    assert state(hub) == before


def test_closing_what_was_never_open_is_nothing() -> None:
    hub = hub_with(ANN)
    before = state(hub)
    assert hub.close("nobody", CLIENT) == []
    assert state(hub) == before


@pytest.mark.parametrize("reason", list(ClosedReason))
def test_the_reason_of_a_close_is_the_one_that_was_given(reason: ClosedReason) -> None:
    assert hub_with(ANN).close("a1", reason) == [ConnectionClosed("ann", reason)]


def test_a_close_first_stops_typing_then_leaves_then_closes() -> None:
    hub = hub_with(ANN, joined=(("a1", "x"), ("a1", "y")))
    hub.set_typing("a1", "y", True, 0.0)
    assert hub.close("a1", CLIENT) == [
        ParticipantLeft("x", "ann", LeftReason.DISCONNECT),
        TypingStopped("y", "ann", TypingStoppedReason.DISCONNECT),
        ParticipantLeft("y", "ann", LeftReason.DISCONNECT),
        ConnectionClosed("ann", CLIENT),
    ]
    assert state(hub) == state(Hub())


def test_a_closed_connection_may_be_opened_again_and_remembers_nothing() -> None:
    hub = hub_with(ANN, joined=(("a1", "x"),))
    hub.close("a1", CLIENT)
    hub.open("a1", "bob")
    assert hub.stats() == HubStats(active_connections=1, connected_users=1)
    assert hub.connections["a1"].joined == ()


# --- conversations ----------------------------------------------------------------------------------------


def test_a_join_makes_a_conversation_active_and_the_user_a_participant() -> None:
    hub = hub_with(ANN)
    assert hub.join("a1", "x") == [ParticipantJoined("x", "ann")]
    assert hub.stats() == HubStats(1, 1, 1, 1, 0)
    assert hub.participants_of("x") == ["ann"]
    assert set(hub.audience("x")) == {"a1"}


def test_the_users_second_tab_joins_without_an_event_but_gets_the_messages() -> None:
    hub = hub_with(ANN, TAB, joined=(("a1", "x"),))
    assert hub.join("a2", "x") == []
    assert hub.stats() == HubStats(2, 1, 1, 1, 0)
    assert set(hub.audience("x")) == {"a1", "a2"}


def test_joining_twice_is_joining_once() -> None:
    hub = hub_with(ANN, joined=(("a1", "x"),))
    before = state(hub)
    assert hub.join("a1", "x") == []
    assert state(hub) == before


def test_after_joining_twice_one_leave_is_enough() -> None:
    hub = hub_with(ANN, joined=(("a1", "x"), ("a1", "x")))
    assert hub.leave("a1", "x") == [ParticipantLeft("x", "ann", LeftReason.LEAVE)]
    assert hub.stats() == HubStats(1, 1, 0, 0, 0)


def test_two_users_in_a_conversation_are_two_participants_named_in_order() -> None:
    hub = hub_with(BOB, ANN, joined=(("b1", "x"), ("a1", "x")))
    assert hub.stats() == HubStats(2, 2, 1, 2, 0)
    assert hub.participants_of("x") == ["ann", "bob"]


def test_one_user_in_two_conversations_is_two_participants() -> None:
    assert hub_with(ANN, joined=(("a1", "x"), ("a1", "y"))).stats() == HubStats(1, 1, 2, 2, 0)


def test_only_the_last_tab_that_leaves_is_an_event() -> None:
    hub = hub_with(ANN, TAB, joined=(("a1", "x"), ("a2", "x")))
    assert hub.leave("a1", "x") == []
    assert hub.stats().participants == 1
    assert hub.leave("a2", "x") == [ParticipantLeft("x", "ann", LeftReason.LEAVE)]
    assert hub.stats() == HubStats(2, 1, 0, 0, 0)


def test_nobody_is_in_a_conversation_that_nobody_joined() -> None:
    hub = hub_with(ANN)
    assert hub.participants_of("x") == []
    assert not hub.audience("x")


def test_participants_stay_in_order_while_people_with_one_tab_and_with_several_come_and_go() -> None:
    hub = hub_with(BOB, ANN, TAB, ("c1", "cid"), joined=(("b1", "x"), ("c1", "x"), ("a1", "x"), ("a2", "x")))
    hub.leave("a1", "x")
    assert hub.participants_of("x") == ["ann", "bob", "cid"]
    hub.leave("b1", "x")
    assert hub.participants_of("x") == ["ann", "cid"]
    hub.close("c1", CLIENT)
    assert hub.participants_of("x") == ["ann"]
    hub.close("a2", CLIENT)
    assert hub.participants_of("x") == []
    assert state(hub)["users in"] == {}


def test_asking_for_an_audience_makes_no_conversation_active() -> None:
    hub = hub_with(ANN)
    hub.audience("x")
    hub.participants_of("x")
    assert hub.stats().active_conversations == 0


@pytest.mark.parametrize(
    "command",
    [
        lambda hub: hub.leave("a1", "x"),
        lambda hub: hub.require_joined("a1", "x"),
        lambda hub: hub.set_typing("a1", "x", True, 0.0),
        lambda hub: hub.set_typing("a1", "x", False, 0.0),
    ],
    ids=["leave", "send and read", "typing", "stop typing"],
)
@pytest.mark.parametrize("others", [(), (("b1", "x"),), (("a2", "x"),)], ids=["nobody", "another", "own other tab"])
def test_who_has_not_joined_is_refused_and_nothing_changes(
    command: Callable[[Hub[str]], object], others: tuple[tuple[str, str], ...]
) -> None:
    hub = hub_with(ANN, TAB, BOB, joined=others)
    before = state(hub)
    with pytest.raises(NotJoined) as refusal:
        command(hub)
    assert refusal.value.code is ErrorCode.NOT_JOINED
    assert state(hub) == before


def test_a_join_of_a_connection_that_has_ended_meanwhile_is_refused_and_leaves_no_ghost() -> None:
    hub = hub_with(ANN)
    hub.close("a1", CLIENT)
    with pytest.raises(NotJoined):
        hub.join("a1", "x")
    assert state(hub) == state(Hub())


def test_a_connection_may_join_up_to_the_limit_and_not_one_more() -> None:
    hub = hub_with(ANN)
    for number in range(MAX_JOINED):
        assert len(hub.join("a1", f"c{number}")) == 1
    before = state(hub)
    with pytest.raises(Forbidden, match=str(MAX_JOINED)):
        hub.join("a1", "one too many")
    assert state(hub) == before
    assert hub.join("a1", "c0") == []  # what is joined already may be joined again at the limit
    hub.leave("a1", "c0")
    assert hub.join("a1", "one too many") == [ParticipantJoined("one too many", "ann")]


def test_a_removed_user_leaves_with_all_tabs_and_nobody_else_does() -> None:
    hub = hub_with(ANN, TAB, BOB, joined=(("a1", "x"), ("a2", "x"), ("b1", "x"), ("a1", "y")))
    events, removed = hub.remove("x", "ann")
    assert events == [ParticipantLeft("x", "ann", LeftReason.REMOVED)]
    assert sorted(removed) == ["a1", "a2"]
    assert set(hub.audience("x")) == {"b1"}
    assert hub.stats() == HubStats(3, 2, 2, 2, 0)


def test_a_removal_of_somebody_who_types_stops_the_typing_as_a_leave_does() -> None:
    hub = hub_with(ANN, joined=(("a1", "x"),))
    hub.set_typing("a1", "x", True, 0.0)
    events, _ = hub.remove("x", "ann")
    assert events == [
        TypingStopped("x", "ann", TypingStoppedReason.LEAVE),
        ParticipantLeft("x", "ann", LeftReason.REMOVED),
    ]
    assert hub.stats() == HubStats(1, 1, 0, 0, 0)


def test_removing_who_does_not_take_part_is_nothing() -> None:
    hub = hub_with(ANN, BOB, joined=(("b1", "x"),))
    before = state(hub)
    assert hub.remove("x", "ann") == ([], [])
    assert state(hub) == before


# --- typing -----------------------------------------------------------------------------------------------


def typing_hub() -> Hub[str]:
    return hub_with(ANN, TAB, BOB, joined=(("a1", "x"), ("a2", "x"), ("b1", "x"), ("a1", "y")))


def test_typing_starts_once_and_a_refresh_is_no_event() -> None:
    hub = typing_hub()
    assert hub.set_typing("a1", "x", True, 10.0) == [TypingStarted("x", "ann")]
    assert hub.set_typing("a1", "x", True, 12.0) == []
    assert hub.stats().typing_users == 1


def test_two_tabs_of_a_user_that_type_are_one_who_types() -> None:
    hub = typing_hub()
    hub.set_typing("a1", "x", True, 0.0)
    assert hub.set_typing("a2", "x", True, 0.0) == []
    assert hub.stats().typing_users == 1


def test_a_user_who_types_in_two_conversations_counts_twice() -> None:
    hub = typing_hub()
    hub.set_typing("a1", "x", True, 0.0)
    hub.set_typing("a1", "y", True, 0.0)
    assert hub.stats().typing_users == 2


def test_a_stop_ends_it_once() -> None:
    hub = typing_hub()
    hub.set_typing("a1", "x", True, 0.0)
    assert hub.set_typing("a1", "x", False, 1.0) == [TypingStopped("x", "ann", TypingStoppedReason.STOP)]
    assert hub.set_typing("a1", "x", False, 1.0) == []
    assert hub.stats().typing_users == 0


def test_the_other_tab_may_stop_it() -> None:
    hub = typing_hub()
    hub.set_typing("a1", "x", True, 0.0)
    assert hub.set_typing("a2", "x", False, 1.0) == [TypingStopped("x", "ann", TypingStoppedReason.STOP)]


def test_a_leave_of_one_tab_does_not_stop_the_typing_of_the_user() -> None:
    hub = typing_hub()
    hub.set_typing("a1", "x", True, 0.0)
    assert hub.leave("a1", "x") == []
    assert hub.stats().typing_users == 1
    assert hub.leave("a2", "x") == [
        TypingStopped("x", "ann", TypingStoppedReason.LEAVE),
        ParticipantLeft("x", "ann", LeftReason.LEAVE),
    ]


def test_a_message_stops_the_typing_of_its_sender_in_that_conversation_only() -> None:
    hub = typing_hub()
    hub.set_typing("a1", "x", True, 0.0)
    hub.set_typing("a1", "y", True, 0.0)
    hub.set_typing("b1", "x", True, 0.0)
    reason = TypingStoppedReason.MESSAGE
    assert hub.stop_typing("x", "ann", reason) == [TypingStopped("x", "ann", reason)]
    assert set(hub.typing) == {("y", "ann"), ("x", "bob")}
    assert hub.stop_typing("x", "ann", reason) == []


def test_typing_ends_at_its_deadline_and_not_before() -> None:
    hub = typing_hub()
    hub.set_typing("a1", "x", True, 10.0)
    assert hub.next_deadline() == 16.0
    assert hub.expire_typing(15.999) == []
    assert hub.expire_typing(16.0) == [TypingStopped("x", "ann", TypingStoppedReason.TIMEOUT)]
    assert hub.next_deadline() is None
    assert hub.expire_typing(1e9) == []


def test_a_refresh_moves_the_deadline_behind_the_others() -> None:
    hub = typing_hub()
    hub.set_typing("a1", "x", True, 0.0)
    hub.set_typing("b1", "x", True, 1.0)
    hub.set_typing("a1", "x", True, 2.0)
    assert hub.next_deadline() == 7.0
    assert hub.expire_typing(7.5) == [TypingStopped("x", "bob", TypingStoppedReason.TIMEOUT)]
    assert hub.expire_typing(8.0) == [TypingStopped("x", "ann", TypingStoppedReason.TIMEOUT)]


def test_those_who_expire_together_do_so_in_the_order_in_which_they_typed() -> None:
    hub = typing_hub()
    hub.set_typing("b1", "x", True, 0.0)
    hub.set_typing("a1", "y", True, 0.0)
    hub.set_typing("a1", "x", True, 1.0)
    expired = [(event.conversation, event.user) for event in hub.expire_typing(100.0)]
    assert expired == [("x", "bob"), ("y", "ann"), ("x", "ann")]


def test_an_expiry_looks_only_at_what_expires() -> None:
    hub: Hub[int] = Hub(max_joined=2_000)

    class Watched(dict[Any, float]):
        looked = 0

        def items(self) -> Any:
            for item in super().items():
                self.looked += 1
                yield item

    watched = Watched()
    hub.typing = watched
    hub.open(1, "ann")
    for number in range(2_000):
        hub.join(1, str(number))
        hub.set_typing(1, str(number), True, float(number))
    assert len(hub.expire_typing(6.0 + 2)) == 3
    assert watched.looked == 4


def test_the_oldest_typing_age_is_since_its_last_refresh_and_0_when_nobody_types() -> None:
    hub = typing_hub()
    assert hub.oldest_typing_age(50.0) == 0.0
    hub.set_typing("a1", "x", True, 10.0)
    hub.set_typing("b1", "x", True, 11.0)
    assert hub.oldest_typing_age(12.0) == pytest.approx(2.0)
    hub.set_typing("a1", "x", True, 12.0)
    assert hub.oldest_typing_age(12.5) == pytest.approx(1.5)
    assert hub.oldest_typing_age(9.0) == 0.0  # a clock that is read a moment too early gives no negative age


# --- against a naive model --------------------------------------------------------------------------------

USERS = ("ann", "bob", "cyd")
ROOMS = ("x", "y", "z")
TIMEOUT = 4.0
FEW = 2  # conversations per connection, so that the limit is met often


@dataclass
class Log:
    """The naive model: what each connection was told, in order; every figure is counted out of it anew."""

    opened: dict[int, str] = field(default_factory=dict)
    joined: list[tuple[int, str]] = field(default_factory=list)
    refreshed: dict[tuple[str, str], float] = field(default_factory=dict)

    def takes_part(self, room: str, user: str) -> bool:
        return any(at == room and self.opened[who] == user for who, at in self.joined)

    def stats(self) -> HubStats:
        return HubStats(
            active_connections=len(self.opened),
            connected_users=len(set(self.opened.values())),
            active_conversations=len({room for _, room in self.joined}),
            participants=len({(room, self.opened[who]) for who, room in self.joined}),
            typing_users=len(self.refreshed),
        )


class HubMachine(RuleBasedStateMachine):
    """Any operation in any order, ended connections and wrong ones included."""

    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.hub: Hub[int] = Hub(typing_timeout=TIMEOUT, max_joined=FEW)
        self.log = Log()
        self.now = 0.0
        self.number = 0
        # counters made of the events alone: they must agree with the state at any moment
        self.came_and_went: dict[str, int] = {"connections": 0, "participants": 0, "typing": 0}

    def refused(self, command: Callable[[], object], refusal: type[Exception]) -> None:
        before = state(self.hub)
        with pytest.raises(refusal):
            command()
        assert state(self.hub) == before

    def note(self, events: list[HubEvent], expected: list[HubEvent]) -> None:
        key = repr
        assert sorted(events, key=key) == sorted(expected, key=key)
        for event in events:
            match event:
                case ConnectionOpened():
                    self.came_and_went["connections"] += 1
                case ConnectionClosed():
                    assert event is events[-1]
                    self.came_and_went["connections"] -= 1
                case ParticipantJoined():
                    self.came_and_went["participants"] += 1
                case ParticipantLeft():
                    self.came_and_went["participants"] -= 1
                case TypingStarted():
                    self.came_and_went["typing"] += 1
                case TypingStopped():
                    self.came_and_went["typing"] -= 1

    def _leave(self, who: int, room: str, reason: LeftReason) -> list[HubEvent]:
        user = self.log.opened[who]
        self.log.joined.remove((who, room))
        if self.log.takes_part(room, user):
            return []
        events: list[HubEvent] = [ParticipantLeft(room, user, reason)]
        if self.log.refreshed.pop((room, user), None) is not None:
            disconnected = reason is LeftReason.DISCONNECT
            why = TypingStoppedReason.DISCONNECT if disconnected else TypingStoppedReason.LEAVE
            events.append(TypingStopped(room, user, why))
        return events

    @rule(target=connections, user=st.sampled_from(USERS), tabs=st.integers(1, 2))
    def open(self, user: str, tabs: int) -> Any:
        made = []
        for _ in range(tabs):
            self.number += 1
            self.note(self.hub.open(self.number, user), [ConnectionOpened(user)])
            self.log.opened[self.number] = user
            made.append(self.number)
        return multiple(*made)

    @rule(who=connections)
    def open_again(self, who: int) -> None:
        if who in self.log.opened:
            self.refused(lambda: self.hub.open(who, "dan"), ValueError)

    @rule(who=consumes(connections), reason=st.sampled_from(list(ClosedReason)), twice=st.booleans())
    def close(self, who: int, reason: ClosedReason, twice: bool) -> None:
        user = self.log.opened[who]
        expected: list[HubEvent] = []
        for room in [room for at, room in self.log.joined if at == who]:
            expected += self._leave(who, room, LeftReason.DISCONNECT)
        del self.log.opened[who]
        self.note(self.hub.close(who, reason), [*expected, ConnectionClosed(user, reason)])
        if twice:
            assert self.hub.close(who, reason) == []

    @rule(who=st.integers(-3, -1), room=st.sampled_from(ROOMS))
    def a_connection_that_is_not_open(self, who: int, room: str) -> None:
        self.refused(lambda: self.hub.join(who, room), NotJoined)
        self.refused(lambda: self.hub.leave(who, room), NotJoined)
        self.refused(lambda: self.hub.set_typing(who, room, True, self.now), NotJoined)
        assert self.hub.close(who, CLIENT) == []

    @rule(who=connections, room=st.sampled_from(ROOMS))
    def join(self, who: int, room: str) -> None:
        self._join(who, room)

    @rule(room=st.sampled_from(ROOMS))
    def everybody_joins(self, room: str) -> None:
        """Or few would meet: most steps are of other kinds."""
        for who in self.log.opened:
            self._join(who, room)

    def _join(self, who: int, room: str) -> None:
        user = self.log.opened[who]
        if (who, room) in self.log.joined:
            self.note(self.hub.join(who, room), [])
        elif sum(at == who for at, _ in self.log.joined) >= FEW:
            self.refused(lambda: self.hub.join(who, room), Forbidden)
        else:
            first = not self.log.takes_part(room, user)
            self.log.joined.append((who, room))
            self.note(self.hub.join(who, room), [ParticipantJoined(room, user)] if first else [])

    @rule(who=connections, room=st.sampled_from(ROOMS))
    def leave(self, who: int, room: str) -> None:
        if (who, room) not in self.log.joined:
            self.refused(lambda: self.hub.leave(who, room), NotJoined)
        else:
            self.note(self.hub.leave(who, room), self._leave(who, room, LeftReason.LEAVE))

    @rule(user=st.sampled_from(USERS), room=st.sampled_from(ROOMS))
    def remove(self, user: str, room: str) -> None:
        gone = [who for who, at in self.log.joined if at == room and self.log.opened[who] == user]
        expected: list[HubEvent] = []
        for who in gone:
            expected += self._leave(who, room, LeftReason.REMOVED)
        events, removed = self.hub.remove(room, user)
        assert sorted(removed) == sorted(gone)
        self.note(events, expected)

    @rule(who=connections, room=st.sampled_from(ROOMS), active=st.booleans())
    def typing(self, who: int, room: str, active: bool) -> None:
        user = self.log.opened[who]
        if (who, room) not in self.log.joined:
            self.refused(lambda: self.hub.set_typing(who, room, active, self.now), NotJoined)
            return
        typed = self.log.refreshed.pop((room, user), None) is not None
        expected: list[HubEvent] = []
        if active:
            self.log.refreshed[room, user] = self.now
            expected = [] if typed else [TypingStarted(room, user)]
        elif typed:
            expected = [TypingStopped(room, user, TypingStoppedReason.STOP)]
        self.note(self.hub.set_typing(who, room, active, self.now), expected)

    @rule(user=st.sampled_from(USERS), room=st.sampled_from(ROOMS))
    def message(self, user: str, room: str) -> None:
        typed = self.log.refreshed.pop((room, user), None) is not None
        reason = TypingStoppedReason.MESSAGE
        self.note(self.hub.stop_typing(room, user, reason), [TypingStopped(room, user, reason)] if typed else [])

    @rule(seconds=st.sampled_from((0.0, 0.5, 1.0, TIMEOUT / 2, TIMEOUT, 3 * TIMEOUT)))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        due = [pair for pair, at in self.log.refreshed.items() if at + TIMEOUT <= self.now]
        for pair in due:
            del self.log.refreshed[pair]
        expected: list[HubEvent] = [TypingStopped(*pair, TypingStoppedReason.TIMEOUT) for pair in due]
        self.note(self.hub.expire_typing(self.now), expected)

    @precondition(lambda self: len(self.log.joined) > 5)  # what nobody has joined is soon seen to be empty
    @rule()
    def everybody_goes(self) -> None:
        for who in list(self.hub.connections):
            self.note_all(self.hub.close(who, ClosedReason.SHUTDOWN))
        assert state(self.hub) == state(Hub())
        # those who are gone stay in the bundle: opened again, so that the rules may go on
        for who, user in self.log.opened.items():
            self.note_all(self.hub.open(who, user))
        self.log.joined.clear()
        self.log.refreshed.clear()

    def note_all(self, events: list[HubEvent]) -> None:
        self.note(events, events)

    @invariant()
    def every_figure_is_what_a_recount_finds(self) -> None:
        stats = self.log.stats()
        assert self.hub.stats() == stats
        assert self.came_and_went == {
            "connections": stats.active_connections,
            "participants": stats.participants,
            "typing": stats.typing_users,
        }

    @invariant()
    def audiences_and_participants_are_those_who_joined(self) -> None:
        for room in ROOMS:
            there = {who for who, at in self.log.joined if at == room}
            assert set(self.hub.audience(room)) == there
            assert self.hub.participants_of(room) == sorted({self.log.opened[who] for who in there})
        for user in USERS:
            assert self.hub.connections_of(user) == sum(other == user for other in self.log.opened.values())

    @invariant()
    def no_set_is_empty_and_no_index_has_a_ghost(self) -> None:
        for index in (self.hub.users, self.hub.conversations, self.hub.participants):
            for members in index.values():
                assert members
                assert members <= set(self.hub.connections)

    @invariant()
    def the_first_deadline_is_the_earliest(self) -> None:
        deadlines = list(self.hub.typing.values())
        assert deadlines == sorted(deadlines)
        oldest = min(self.log.refreshed.values(), default=self.now)
        assert self.hub.oldest_typing_age(self.now) == pytest.approx(self.now - oldest)

    @invariant()
    def the_recount_agrees(self) -> None:
        recount = Recount(self.hub, list(self.log.opened))
        for _ in recount.count():
            pass
        assert recount.drift is not None
        assert not any(getattr(recount.drift, name) for name in HubStats.__struct_fields__)


TestHubAgainstARecount = HubMachine.TestCase
TestHubAgainstARecount.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_after_ten_thousand_random_operations_everybody_goes_and_every_figure_is_0() -> None:
    """Longer and wider than the machine above: many connections per user, many conversations per connection."""
    dice = random.Random(20_261_122)
    hub: Hub[int] = Hub(max_joined=20)
    log = Log()
    for number in range(10_000):
        now = number / 10
        who = dice.choice(list(log.opened)) if log.opened and dice.random() < 0.95 else -1
        room = f"room {dice.randrange(30)}"
        try:
            match dice.randrange(7):
                case 0:
                    log.opened[number] = f"user {dice.randrange(40)}"
                    hub.open(number, log.opened[number])
                case 1:
                    hub.close(who, CLIENT)
                    log.opened.pop(who, None)
                    log.joined = [entry for entry in log.joined if entry[0] != who]
                case 2 | 3:
                    hub.join(who, room)
                    if (who, room) not in log.joined:
                        log.joined.append((who, room))
                case 4:
                    hub.leave(who, room)
                    log.joined.remove((who, room))
                case 5:
                    hub.set_typing(who, room, dice.random() < 0.8, now)
                case 6:
                    hub.expire_typing(now)
        except Refusal:
            pass
        if number % 100 == 0:
            typing = sum(log.takes_part(*pair) for pair in hub.typing)
            log.refreshed = {("", str(n)): 0.0 for n in range(typing)}
            assert hub.stats() == log.stats()
    for who in list(log.opened):
        hub.close(who, ClosedReason.SHUTDOWN)
    assert state(hub) == state(Hub())
    assert hub.stats() == EMPTY
