"""The recount: it finds nothing in a true hub, and a ghost in each of the five dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from exporter.core.events import ClosedReason
from exporter.core.hub import Connection, Hub
from exporter.core.records import HubStats
from exporter.core.recount import SLICE, TURNS, Drift, Recount, difference

SOCKETS = ("a1", "a2", "b1")


def hub_of_two() -> Hub[str]:
    """Ann with two tabs and bob, both in x, ann in y, both typing in x."""
    hub: Hub[str] = Hub()
    for socket, user in zip(SOCKETS, ("ann", "ann", "bob"), strict=True):
        hub.open(socket, user)
        hub.join(socket, "x")
    hub.join("a2", "y")
    hub.set_typing("a1", "x", True, 0.0)
    hub.set_typing("b1", "x", True, 0.0)
    return hub


def drift(hub: Hub[str], sockets: Iterable[str] = SOCKETS) -> Drift:
    recount = Recount(hub, sockets)
    for _ in recount.count():
        pass
    assert recount.drift is not None
    return recount.drift


def test_a_true_hub_has_no_drift() -> None:
    assert drift(hub_of_two()) == Drift()
    assert drift(Hub(), ()) == Drift()


def test_a_number_in_a_name_is_not_taken_for_one_of_a_conversation() -> None:
    hub: Hub[int] = Hub()
    for socket in range(30):
        hub.open(socket, f"{socket % 10}x" if socket < 10 else "x")
        hub.join(socket, f"room {socket}")
    assert not any(asdict(drift(hub, range(30))).values())  # type: ignore[arg-type]


def test_the_drift_has_exactly_the_live_figures_of_the_hub() -> None:
    assert list(asdict(Drift())) == list(asdict(HubStats()))


def test_a_connection_whose_socket_is_gone_is_found_with_all_that_it_holds() -> None:
    assert drift(hub_of_two(), ("a1", "a2")) == Drift(1, 1, 0, 1, 1)


def test_one_of_two_tabs_whose_socket_is_gone_is_found() -> None:
    assert drift(hub_of_two(), ("a1", "b1")) == Drift(active_connections=1, active_conversations=1, participants=1)


def test_a_socket_that_the_hub_does_not_know_is_found_as_one_too_few() -> None:
    assert drift(hub_of_two(), (*SOCKETS, "c1")) == Drift(active_connections=-1)


GHOSTS: dict[str, tuple[Callable[[Hub[str]], object], Drift]] = {
    "connections": (lambda hub: hub.connections.update(ghost=Connection("ann")), Drift(active_connections=1)),
    "users": (lambda hub: hub.users.update(ghost={"a1"}), Drift(connected_users=1)),
    "conversations": (lambda hub: hub.conversations.update(ghost={"a1"}), Drift(active_conversations=1)),
    "an empty conversation": (lambda hub: hub.conversations.update(ghost=set()), Drift(active_conversations=1)),
    "participants": (lambda hub: hub.participants.update({("x", "ghost"): {"a1"}}), Drift(participants=1)),
    "typing of nobody": (lambda hub: hub.typing.update({("x", "ghost"): 1.0}), Drift(typing_users=1)),
    "typing where one is not": (lambda hub: hub.typing.update({("y", "bob"): 1.0}), Drift(typing_users=1)),
}
LOSSES: dict[str, tuple[Callable[[Hub[str]], object], Drift]] = {
    "users": (lambda hub: hub.users.pop("bob"), Drift(connected_users=-1)),
    "conversations": (lambda hub: hub.conversations.pop("y"), Drift(active_conversations=-1)),
    "participants": (lambda hub: hub.participants.pop(("x", "bob")), Drift(participants=-1)),
}


@pytest.mark.parametrize(("plant", "found"), GHOSTS.values(), ids=GHOSTS.keys())
def test_a_ghost_in_each_dictionary_is_found(plant: Callable[[Hub[str]], object], found: Drift) -> None:
    hub = hub_of_two()
    plant(hub)
    assert drift(hub) == found


@pytest.mark.parametrize(("lose", "found"), LOSSES.values(), ids=LOSSES.keys())
def test_what_is_missing_from_a_dictionary_is_found(lose: Callable[[Hub[str]], object], found: Drift) -> None:
    hub = hub_of_two()
    lose(hub)
    assert drift(hub) == found


def test_a_ghost_and_a_loss_in_different_figures_do_not_cancel_out() -> None:
    hub = hub_of_two()
    hub.users["ghost"] = {"a1"}
    hub.participants.pop(("x", "bob"))
    found = drift(hub)
    assert (found.connected_users, found.participants) == (1, -1)


def test_a_leave_that_forgot_the_connections_own_list_is_found() -> None:
    hub = hub_of_two()
    hub.leave("a2", "y")
    known = hub.connections["a2"]
    hub.connections["a2"] = Connection(known.user, (*known.joined, "y"))
    assert drift(hub) == Drift(active_conversations=-1, participants=-1)


def test_what_happens_while_it_counts_is_no_drift() -> None:
    """The material is copied in one turn; the counting may take many."""
    hub: Hub[int] = Hub()
    for number in range(3 * SLICE):
        hub.open(number, f"user {number}")
        hub.join(number, f"room {number % 7}")
    recount = Recount(hub, range(3 * SLICE))
    slices = 0
    for _ in recount.count():
        assert recount.drift is None  # not known before the end
        slices += 1
        for number in range(2 * SLICE):
            hub.close(number, ClosedReason.CLIENT)
        hub.open(-slices, "late")
        hub.join(3 * SLICE - 1, f"late {slices}")
    assert slices == 3
    assert recount.drift == Drift()


def test_no_step_counts_more_than_a_slice() -> None:
    hub: Hub[int] = Hub()
    for number in range(2 * SLICE + 1):
        hub.open(number, str(number))
    assert sum(1 for _ in Recount(hub, range(2 * SLICE + 1)).count()) == 3


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(("open", "join", "leave", "type", "close")), st.integers(0, 3))
    )
)
def test_no_sequence_of_operations_makes_drift(operations: list[tuple[int, str, int]]) -> None:
    hub: Hub[str] = Hub()
    sockets: dict[str, None] = {}
    for number, operation, room in operations:
        socket, name = f"s{number}", f"r{room}"
        joined = name in hub.connections[socket].joined if socket in sockets else False
        if operation == "open" and socket not in sockets:
            sockets[socket] = None
            hub.open(socket, f"u{number % 3}")
        elif operation == "join" and socket in sockets:
            hub.join(socket, name)
        elif operation == "leave" and joined:
            hub.leave(socket, name)
        elif operation == "type" and joined:
            hub.set_typing(socket, name, True, 0.0)
        elif operation == "close":
            sockets.pop(socket, None)
            hub.close(socket, ClosedReason.CLIENT)
        assert drift(hub, sockets) == Drift()


def test_the_difference_is_positive_where_the_hub_has_more() -> None:
    assert difference(HubStats(5, 4, 3, 2, 1), HubStats(1, 1, 1, 1, 3)) == Drift(4, 3, 2, 1, -2)


# --- sockets that are asked themselves ----------------------------------------------------------------------


def asked(hub: Hub[str], live: Callable[[str], bool], between: Callable[[int], None] = lambda step: None) -> Drift:
    recount = Recount(hub, SOCKETS, live)
    for step, _ in enumerate(recount.count()):
        between(step)
    assert recount.drift is not None
    return recount.drift


def test_a_connection_that_was_not_told_that_its_socket_is_gone_is_a_ghost_with_all_that_it_holds() -> None:
    assert asked(hub_of_two(), lambda socket: socket != "b1") == Drift(1, 1, 0, 1, 1)


@pytest.mark.parametrize("turn", range(TURNS + 1))
def test_a_connection_that_is_told_of_its_end_some_turns_later_is_no_ghost(turn: int) -> None:
    hub = hub_of_two()

    def ends(step: int) -> None:
        if step == turn:
            hub.close("b1", ClosedReason.CLIENT)

    assert asked(hub, lambda socket: socket != "b1", ends) == Drift()


def test_a_socket_that_was_only_slow_to_say_that_it_is_open_is_no_ghost() -> None:
    answers = iter([False])
    assert asked(hub_of_two(), lambda socket: next(answers, True) if socket == "a1" else True) == Drift()


def test_connections_that_joined_hundreds_of_conversations_make_a_slice_short() -> None:
    hub: Hub[int] = Hub()
    for number in range(20):
        hub.open(number, "ann")
        for room in range(1_000):
            hub.join(number, f"room {room}")
    recount = Recount(hub, range(20))
    assert sum(1 for _ in recount.count()) == 20
    assert recount.drift == Drift()
