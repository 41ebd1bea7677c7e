"""When batches leave: at once after a pause, together in a storm, and full ones as quickly as they are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from exporter.broker import presence as module
from exporter.broker.connection import Connection, Reply
from exporter.broker.functions import SLICE, Functions
from exporter.broker.presence import PAUSE, WINDOW, Presence

FIGURES = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


class Line(Connection):
    """A connection whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Reply]] = []

    def queue(self, data: bytes, replies: int, told: Reply) -> None:
        self.asked.append((data, told))

    def flush(self) -> None:
        pass

    def answer(self, reply: object) -> None:
        """To everything that has been asked."""
        asked, self.asked = self.asked, []
        for _, told in asked:
            told(reply)


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def registered(
    held: int = 0, made: Callable[[int], None] = lambda number: None
) -> tuple[Presence, Line, Clock, list[None]]:
    """A node that the server knows, with all that it holds but what waits for answers; ``made`` is told of each."""

    def entries() -> Iterator[str]:
        for number in range(held):
            made(number)
            yield f"cc{number}"

    clock, line, wished = Clock(), Line(), list[None]()
    presence = Presence(
        Functions("test"),
        15.0,
        lambda: (held, entries()),
        lambda: 1,
        lambda figures, asked: None,
        lambda: wished.append(None),
        clock,
    )
    presence.connected(line)
    (_, is_registered), *batches = line.asked
    line.asked = batches
    is_registered(FIGURES)
    return presence, line, clock, wished


async def test_the_first_change_after_a_pause_leaves_at_once() -> None:
    presence, line, clock, _ = registered()
    line.answer(b"ok")
    clock.time += PAUSE
    presence.add("uann")
    assert presence.waiting
    assert presence.pause <= 0


async def test_what_follows_within_the_pause_is_one_batch() -> None:
    presence, line, clock, wished = registered()
    line.answer(b"ok")
    clock.time += PAUSE
    presence.add("uann")
    presence.flush(line)
    for user in ("bob", "cleo"):
        clock.time += PAUSE / 4
        presence.add(f"u{user}")
    line.answer(b"ok")
    assert wished, "what has waited for the answer is to be sent"
    assert 0 < presence.pause <= PAUSE / 2 + 1e-9
    clock.time += PAUSE
    assert presence.pause <= 0
    presence.flush(line)
    ((batch, _),) = line.asked
    assert b"+ubob" in batch
    assert b"+ucleo" in batch


async def test_what_goes_ahead_of_something_waits_for_no_answer_unless_it_is_a_storm() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    for number, user in enumerate(("ann", "bob", "cleo"), 1):
        presence.add(f"u{user}")
        presence.flush(line)
        assert len(line.asked) == max(1, number - 1), "one waits for its answer"
        presence.flush(line, ahead=True)
        assert len(line.asked) == number
    assert not presence.waiting
    for number in range(10 * SLICE):
        presence.add(f"cc{number}")
    presence.flush(line, ahead=True)
    assert len(line.asked) == 3 + WINDOW, "what is small counts as little"
    presence.flush(line, ahead=True)
    assert len(line.asked) == 3 + WINDOW, "and what is too much waits"
    assert presence.waiting
    line.answer(b"ok")
    presence.flush(line, ahead=True)
    assert len(line.asked) == WINDOW


async def test_whoever_types_is_told_behind_their_join_though_that_is_in_the_next_batch() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    presence.add("uzoe")
    presence.toggle("troom\nzoe", True)
    presence.toggles_are_due()
    presence.flush(line)
    line.answer(b"ok")
    for number in range(SLICE):
        presence.add(f"u{number}")
    presence.add("proom\ncat")
    presence.toggle("troom\ncat", True)
    presence.toggle("troom\nzoe", False)
    presence.flush(line, ahead=True)
    first, last = (data for data, _ in line.asked)
    assert b"-troom\nzoe" in first
    assert last.index(b"+proom\ncat") < last.index(b"+troom\ncat")


async def test_whoever_stops_typing_does_so_behind_a_start_that_waits_for_the_next_batch() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    for number in range(SLICE):
        presence.add(f"u{number}")
    presence.add("troom\nann")
    presence.flush(line)
    presence.toggle("troom\nann", False)
    presence.toggles_are_due()
    line.answer(b"ok")
    presence.flush(line)
    batch, _ = line.asked[-1]
    assert 0 < batch.index(b"+troom\nann") < batch.index(b"-troom\nann")


async def test_a_coming_and_a_going_that_both_wait_are_nothing() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    for first in (True, False):
        presence.toggle("troom\nann", first)
        presence.toggle("troom\nann", not first)
        presence.toggles_are_due()
        assert not presence.waiting


async def test_that_the_server_has_all_that_is_held_is_said_once() -> None:
    presence, line, _, _ = registered(3)
    said: list[bool] = []
    presence._completed = lambda: said.append(presence.complete)
    line.answer(b"ok")
    presence.add("uann")
    presence.flush(line)
    line.answer(b"ok")
    assert said == [True]


async def test_who_stops_typing_and_leaves_does_so_in_that_order_whatever_follows() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    presence.toggle("troom\nann", False)
    presence.remove("proom\nann")
    presence.add("ubob")
    presence.flush(line)
    ((batch, _),) = line.asked
    assert 0 < batch.index(b"-troom\nann") < batch.index(b"-proom\nann")


async def test_a_new_connection_tells_what_came_and_went_before_the_server_is_asked_anything() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    presence.add("uann")
    presence.flush(line)
    presence.toggle("troom\nann", True)
    line.asked.clear()  # the connection is lost
    presence.connected(line)
    first, second, beat = (data for data, _ in line.asked)
    assert b"+uann" in first
    assert b"+troom\nann" in second
    assert b"beat" in beat


async def test_a_start_that_waits_is_told_before_the_end_that_is_said_in_another_way() -> None:
    """Else the server knows of neither, and whoever has heard of the start in another way hears of no end."""
    presence, line, _, _ = registered()
    line.answer(b"ok")
    presence.toggle("troom\nann", True)
    presence.remove("troom\nann")
    presence.flush(line)
    ((batch, _),) = line.asked
    assert 0 < batch.index(b"+troom\nann") < batch.index(b"-troom\nann")


async def test_more_that_comes_and_goes_than_a_batch_takes_leaves_in_several() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    for number in range(SLICE + 1):
        presence.toggle(f"troom\nu{number}", True)
    presence.toggles_are_due()
    presence.flush(line, ahead=True)
    assert [data.count(b"+troom") for data, _ in line.asked] == [SLICE, 1]


async def test_a_node_in_which_too_much_has_changed_tells_all_it_holds_at_its_next_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_CHANGES", 10)
    presence, line, _, _ = registered(3)
    line.answer(b"ok")
    before = presence.incarnation or ""
    for number in range(11):
        presence.add(f"u{number}")
    assert presence.incarnation is None
    presence.beat(line)
    assert presence.incarnation is not None
    (register, is_registered), (batch, is_applied) = line.asked
    assert b"register" in register
    assert before.encode() in register, "whose place it takes, or it would count twice"
    assert b"+cc0" in batch
    is_registered(FIGURES)
    is_applied(b"ok")
    assert presence.complete
    presence.retire()
    presence.begin_anew()
    presence.beat(line)
    assert presence.incarnation is None, "who has left does not come back"


async def test_all_that_is_held_is_told_without_pauses() -> None:
    presence, line, _, _ = registered(10 * SLICE)
    batches = 0
    while line.asked:
        batches += len(line.asked)
        line.answer(b"ok")
        if presence.waiting:
            assert presence.pause <= 0
            presence.flush(line)
    assert batches == 10
    assert presence.complete


async def test_telling_all_that_is_held_is_the_work_of_many_turns_and_changes_wait_behind_it() -> None:
    held, made, told = 100_000, list[int](), list[str]()
    presence, line, _, _ = registered(held, made.append)
    presence.add("cnew")
    presence.toggle("troom\nann", True)
    turns = 0
    while line.asked:
        sent = [data for data, _ in line.asked]
        assert len(sent) <= WINDOW, "a turn makes a window's entries, and no more"
        for data in sent:
            told += [word[2:] for word in data.decode().split("\r\n") if word[:2] in ("+c", "+t")]
        assert len(made) <= len(told), "an entry is made when it is sent"
        line.answer(b"ok")
        presence.flush(line)
        turns += 1
    assert told == [*(f"c{number}" for number in range(held)), "new", "room\nann"]
    assert turns >= held / (WINDOW * SLICE)
    assert presence.complete


async def test_who_toggles_is_told_whether_something_waits_to_be_sent() -> None:
    for waits in ("_telling", "_toggles_due", None):
        presence, line, _, _ = registered()
        line.answer(b"ok")
        assert (presence.toggle("troom\nann", True), presence.waiting) == (False, False)
        if waits is not None:
            setattr(presence, waits, True)
        else:
            presence.add("ubob")
        assert (presence.toggle("troom\nbob", True), presence.waiting) == (True, True)


def words(data: bytes) -> list[str]:
    """Of a command, the function's name behind its library's."""
    return [word.rpartition("_")[2] if word.startswith("messaging_") else word for word in data.decode().split("\r\n")]


def named(line: Line, function: str) -> list[list[str]]:
    """The calls of a function that have no answer yet."""
    return [said for said in (words(data) for data, _ in line.asked) if function in said]


async def test_what_is_answered_to_a_name_that_was_given_up_says_nothing_of_the_next() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    for user in ("ann", "bob"):
        presence.add(f"u{user}")
        presence.flush(line, ahead=True)
    presence.beat(line)
    (_, lost), (_, late), (_, beaten) = line.asked
    line.asked = []
    lost(b"gone")
    presence.connected(line)  # before the server has answered: another name once more
    first, second = (told for data, told in line.asked if "register" in words(data))
    asked = len(line.asked)
    late(b"ok")
    beaten(b"gone")
    first(FIGURES)
    assert len(line.asked) == asked, "nothing is begun anew for it"
    assert not presence.registered
    assert not presence.complete, "the batch of that number was another one's"
    second(FIGURES)
    assert presence.registered


async def test_what_waited_when_all_is_told_anew_is_not_told_behind_it() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    for number in range(WINDOW):
        presence.add(f"u{number}")
        presence.flush(line)
    presence.remove("pold\nann")
    presence.toggle("told\nann", True)
    presence.begin_anew()
    line.asked = []
    presence.connected(line)
    sent: list[bytes] = []
    while line.asked:
        sent += [data for data, _ in line.asked]
        (_, told), *line.asked = line.asked
        told(FIGURES if presence.registered is False else b"ok")
        presence.toggles_are_due()
        presence.flush(line)
    assert presence.complete
    assert b"ann" not in b"".join(sent), "neither is so any more: what is held has been told"


async def test_whoever_begins_anew_with_much_on_its_way_may_send_again() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    for number in range(WINDOW * SLICE):
        presence.add(f"u{number}")
    presence.flush(line, ahead=True)
    (_, told), *_ = line.asked
    line.asked = []
    told(b"lost")
    presence.add("uann")
    presence.flush(line, ahead=True)
    assert b"+uann" in line.asked[-1][0]


async def test_who_stops_while_it_is_still_to_be_told_that_they_type_does_so_behind_that() -> None:
    presence, line, _, _ = registered(10 * SLICE)
    last = f"cc{10 * SLICE - 1}"
    presence.toggle(last, False)
    told: list[str] = []
    while line.asked:
        told += [word for data, _ in line.asked for word in words(data) if word[1:] == last]
        line.answer(b"ok")
        presence.flush(line)
    assert told == [f"+{last}", f"-{last}"]


async def test_what_was_told_in_order_may_come_and_go_quickly_again() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    presence.add("troom\nann")
    presence.flush(line)
    line.answer(b"ok")
    assert not presence.toggle("troom\nann", False)
    assert not presence.waiting


async def test_a_full_batch_does_not_wait_for_the_pause() -> None:
    presence, line, clock, _ = registered()
    line.answer(b"ok")
    clock.time += PAUSE
    presence.add("uann")
    presence.flush(line)
    for number in range(SLICE - 1):
        presence.add(f"u{number}")
    assert presence.pause > 0
    presence.add("ubob")
    assert presence.pause == 0


async def test_who_has_left_does_not_come_back_whatever_the_server_still_answers() -> None:
    presence, line, _, _ = registered()
    line.answer(b"ok")
    presence.beat(line)
    presence.retire()
    line.answer(b"gone")
    assert not line.asked


async def test_a_new_name_takes_over_all_that_the_server_may_still_know_of_this_node() -> None:
    presence, line, _, _ = registered()
    names = [presence.incarnation]
    for _ in range(40):
        presence.begin_anew()
        line.asked = []
        presence.connected(line)
        names.append(presence.incarnation)
    (register,) = named(line, "register")
    assert [word for word in register if word in names] == [names[-1], *names[-33:-1]], "32 are enough"
