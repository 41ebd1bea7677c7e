"""Messages in the order of their numbers, each once, whatever happens to them on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from exporter.broker import ordering as ordering_module
from exporter.broker.envelope import Envelope
from exporter.broker.held_conversation import FRESH, HeldConversation
from exporter.broker.ordering import LATE, MOST_EARLY, Ordering


class Recorder:
    """The local node, and a database that has everything but what was deleted."""

    def __init__(self) -> None:
        self.handed_out: list[int | bytes] = []
        self.asked: list[tuple[int, int]] = []
        self.ordering: Ordering[str] | None = None
        self.deleted: set[int] = set()
        self.down = False

    def deliver(self, envelope: Envelope[str]) -> None:
        self.handed_out.append(envelope.seq or envelope.frame)

    def heal(self, conversation: str, after: int, through: int) -> None:
        assert self.ordering is not None
        self.asked.append((after, through))
        if self.down:
            self.ordering.not_healed(conversation)
            return
        for seq in range(after + 1, through + 1):
            if seq not in self.deleted:
                self.ordering.fill(Envelope(conversation, b"read", seq=seq))
        self.ordering.healed(conversation, through)

    def announce(self, word: str, conversation: str, user: str) -> None:
        raise NotImplementedError

    def said(self, conversation: str, user: str) -> None:
        raise NotImplementedError

    def removed(self, conversation: str, user: str) -> None:
        raise NotImplementedError

    def examine(self, pairs: list[tuple[str, str]] | None) -> None:
        raise NotImplementedError


class Fixture:
    def __init__(self, *, upto: int | None = 0, lease: float = 100.0, up: bool = True) -> None:
        self.local = Recorder()
        self.held: HeldConversation[str] = HeldConversation("c", b"channel")
        self.held.upto = upto
        self.time = 0.0
        self.ordering: Ordering[str] = Ordering({"c": self.held}, self.local, lease, lambda: up, lambda: self.time)
        self.local.ordering = self.ordering
        self.late: list[Callable[[], None]] = []

    def message(self, seq: int) -> None:
        self.ordering.message(self.held, Envelope("c", b"m", seq=seq))

    def pass_time(self) -> None:
        """The hole has stayed: what the timer does."""
        assert self.held.hole is not None
        self.held.hole.cancel()
        self.ordering._missing(self.held)

    @property
    def handed_out(self) -> list[int | bytes]:
        return self.local.handed_out


@pytest.mark.parametrize("seed", range(20))
async def test_every_message_once_and_in_order_however_they_come(seed: int) -> None:
    dice = random.Random(seed)
    fixture = Fixture()
    fixture.local.deleted = {seq for seq in range(1, 60) if dice.random() < 0.1}
    way = [seq for seq in range(1, 61) if dice.random() < 0.8 and seq not in fixture.local.deleted]
    way += [dice.choice(way) for _ in range(20)]
    way.sort(key=lambda seq: seq + dice.uniform(0, 8))
    for seq in way:
        fixture.message(seq)
        if fixture.held.hole is not None and dice.random() < 0.2:
            fixture.pass_time()
    fixture.ordering.look(fixture.held, 60)
    while fixture.held.hole is not None:
        fixture.pass_time()
    expected = [seq for seq in range(1, 61) if seq not in fixture.local.deleted]
    assert [seq for seq in fixture.handed_out if seq in expected] == expected
    assert len(fixture.handed_out) == len(set(fixture.handed_out)) == len(expected)
    assert fixture.held.upto == 60
    assert not fixture.held.early


async def test_a_message_in_its_turn_waits_for_nothing() -> None:
    fixture = Fixture(upto=6)
    fixture.message(7)
    assert fixture.handed_out == [7]
    assert fixture.held.hole is None


async def test_a_hole_that_closes_by_itself_is_not_read() -> None:
    fixture = Fixture()
    fixture.message(2)
    assert fixture.held.hole is not None
    fixture.message(1)
    assert fixture.handed_out == [1, 2]
    assert fixture.held.hole is None
    assert fixture.local.asked == []


async def test_a_hole_is_read_in_time() -> None:
    fixture = Fixture()
    fixture.message(2)
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        while not fixture.handed_out:  # noqa: ASYNC110  # the timer is what is tested
            await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() - began >= LATE * 0.9
    assert fixture.handed_out == [1, 2]


async def test_without_a_broker_a_hole_is_read_at_once_since_nothing_comes_late() -> None:
    fixture = Fixture(up=False)
    fixture.message(2)
    assert fixture.held.hole is not None
    assert fixture.held.hole.when() <= asyncio.get_running_loop().time()


async def test_what_is_no_message_keeps_its_place_behind_those_that_wait() -> None:
    fixture = Fixture()
    fixture.message(2)
    fixture.ordering.other(fixture.held, Envelope("c", b"deleted 2"))
    fixture.message(3)
    fixture.message(1)
    assert fixture.handed_out == [1, 2, b"deleted 2", 3]


async def test_a_deletion_takes_the_place_of_a_message_that_has_not_been_handed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixture, heard = Fixture(), list[bytes]()
    monkeypatch.setattr(fixture.local, "deliver", lambda envelope: heard.append(envelope.frame))
    fixture.message(3)
    fixture.ordering.other(fixture.held, Envelope("c", b"behind 3"))
    for seq in (2, 3):  # the first is on its way still
        fixture.ordering.deletion(fixture.held, Envelope("c", b"deleted %d" % seq, seq=seq, lasting=True))
    assert not heard
    fixture.message(1)
    fixture.message(2)
    fixture.ordering.deletion(fixture.held, Envelope("c", b"deleted 1", seq=1, lasting=True))
    assert heard == [b"m", b"deleted 2", b"deleted 3", b"behind 3", b"deleted 1"]


async def test_what_was_read_before_numbers_began_anew_says_nothing_of_them() -> None:
    fixture = Fixture(upto=5)
    fixture.local.heal = lambda conversation, after, through: None  # type: ignore[method-assign]
    fixture.message(9)
    fixture.pass_time()  # is being read
    fixture.ordering.begin_anew(fixture.held, 2)
    fixture.ordering.healed("c", 9)
    fixture.message(3)
    assert fixture.handed_out == [3]


def test_what_was_in_doubt_when_numbers_began_anew_is_handed_out_once() -> None:
    held: HeldConversation[str] = HeldConversation("c", b"channel")
    held.upto = 9
    held.doubt(Envelope("c", b"m", seq=1))
    assert [envelope.seq for envelope in held.begin_anew(1)] == [1]
    assert held.begin_anew(0) == []


def test_a_number_that_came_after_the_question_stays_in_doubt() -> None:
    held: HeldConversation[str] = HeldConversation("c", b"channel")
    for seq in (3, 4):
        held.doubt(Envelope("c", b"m", seq=seq))
    before = held.doubts
    for seq in (4, 2):
        held.doubt(Envelope("c", b"m", seq=seq))
    held.believe(before)
    assert sorted(held.doubted) == [2, 4]


async def test_without_a_database_those_that_wait_go_out_after_one_lease_and_the_gap_shows() -> None:
    fixture = Fixture(lease=10.0)
    fixture.local.down = True
    fixture.time = 100.0
    fixture.message(3)
    fixture.pass_time()
    assert fixture.handed_out == []
    fixture.time = 110.1
    fixture.pass_time()
    assert fixture.handed_out == [3]
    fixture.message(4)
    assert fixture.handed_out == [3, 4]
    fixture.local.down = False
    fixture.message(6)  # the next gap is read again
    fixture.pass_time()
    assert fixture.handed_out == [3, 4, 5, 6]


async def test_a_hole_that_could_not_be_read_is_read_again() -> None:
    fixture = Fixture()
    fixture.local.down = True
    fixture.message(2)
    fixture.pass_time()
    fixture.local.down = False
    fixture.pass_time()
    assert fixture.handed_out == [1, 2]
    assert fixture.local.asked == [(0, 2), (0, 2)]


async def test_a_hole_that_comes_while_another_is_read_is_read_next(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = Fixture()
    fixture.message(2)
    with monkeypatch.context() as patch:
        patch.setattr(fixture.local, "heal", lambda *asked: None)  # it takes its time
        fixture.pass_time()
    fixture.message(5)
    assert fixture.held.hole is None, "one at a time"
    fixture.message(1)
    fixture.ordering.healed("c", 2)
    fixture.pass_time()
    assert fixture.handed_out == [1, 2, 3, 4, 5]


async def test_before_the_first_join_nothing_is_handed_out_and_what_came_counts() -> None:
    fixture = Fixture(upto=None)
    fixture.message(6)
    fixture.message(7)
    assert fixture.handed_out == []
    assert fixture.held.begin(5) == 7  # 6 and 7 became durable behind the question: in the answer's last_seq
    fixture.message(8)
    assert fixture.handed_out == [8]


async def test_a_later_join_that_knows_more_than_the_broker_makes_the_node_look() -> None:
    fixture = Fixture(upto=5)
    assert fixture.held.begin(7) == 5
    fixture.ordering.watch(fixture.held)
    fixture.pass_time()
    assert fixture.handed_out == [6, 7]


async def test_what_waits_is_bounded() -> None:
    fixture = Fixture()
    for seq in range(2, MOST_EARLY + 4):
        fixture.message(seq)
    assert len(fixture.held.early) <= MOST_EARLY
    assert fixture.handed_out[0] == 2


async def test_what_was_too_much_before_the_first_join_is_read_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering_module, "MOST_EARLY", 10)
    fixture = Fixture(upto=None)
    for seq in range(2, 13):
        fixture.message(seq)
    assert not fixture.held.early
    fixture.held.begin(0)
    fixture.ordering.watch(fixture.held)
    fixture.pass_time()
    assert fixture.handed_out == list(range(1, 13))


def test_participants_are_sorted_whoever_comes_and_goes_and_at_most_so_many_are_listed() -> None:
    held: HeldConversation[str] = HeldConversation("c", b"channel")
    for user in "dbca":
        held.tell(user)
    assert held.participants("e", 10) == (["a", "b", "c", "d", "e"], 5)
    held.tell("ab")
    held.untell("c")
    assert held.participants("a", 10) == (["a", "ab", "b", "d"], 4)
    assert held.participants("x", 2) == (["a", "ab", "b", "x"], 5)
    held.told |= {"A"}
    held.listed = None
    assert held.participants("a", 10) == (["A", "a", "ab", "b", "d"], 5)


def test_what_is_no_message_waits_behind_the_last_of_those_that_wait() -> None:
    held: HeldConversation[str] = HeldConversation("c", b"channel")
    held.upto = 1
    for seq in (4, 3):
        assert held.keep(Envelope("c", b"%d" % seq, seq=seq))
    assert held.behind(Envelope("c", b"deleted"))
    assert [envelope.frame for envelope in held.skip_to(2)] == [b"3", b"4", b"deleted"]


def test_of_whom_frames_said_lately_whether_they_type_is_known_for_so_long_at_least() -> None:
    held: HeldConversation[str] = HeldConversation("c", b"channel")
    held.hears_typing("ann", 10.0)
    held.hears_typing("bob", 10.0 + FRESH * 0.9)
    held.hears_typing("cat", 10.0 + FRESH * 1.1)
    assert held.heard_lately(10.0 + FRESH * 1.8) >= {"bob", "cat"}
    assert held.heard_lately(10.0 + FRESH * 3.2) == frozenset()


def test_that_a_user_is_nowhere_else_is_known_by_the_connection_that_has_heard_it_all() -> None:
    connection = object()
    held: HeldConversation[str] = HeldConversation("c", b"channel", connection)
    assert held.only_here("ann", connection)
    held.shared.add("bob")
    assert not held.only_here("bob", connection)
    for another in (object(), None):
        assert not held.only_here("ann", another)


async def test_who_waits_for_a_message_that_was_deleted_goes_on_when_that_is_known() -> None:
    fixture, went_on = Fixture(), list[str]()
    fixture.local.deleted = {2}
    fixture.held.catching_up.append((2, lambda: went_on.append("joined")))
    fixture.ordering.look(fixture.held, 2)
    fixture.pass_time()
    assert (fixture.handed_out, went_on) == ([1], ["joined"])


async def test_who_waits_for_a_message_goes_on_when_it_is_here_and_not_before() -> None:
    fixture, gone_on = Fixture(), list[int]()
    fixture.held.catching_up = [(seq, lambda seq=seq: gone_on.append(seq)) for seq in (1, 2)]  # type: ignore[misc]
    fixture.message(1)
    assert gone_on == [1]
    fixture.message(2)
    assert gone_on == [1, 2]


async def test_a_hole_is_read_up_to_the_highest_number_that_is_known() -> None:
    fixture = Fixture()
    fixture.message(3)
    fixture.ordering.look(fixture.held, 9)
    fixture.pass_time()
    assert fixture.local.asked == [(0, 9)]


async def test_an_early_message_that_comes_twice_keeps_what_waits_behind_it() -> None:
    fixture = Fixture()
    fixture.message(2)
    fixture.ordering.other(fixture.held, Envelope("c", b"read"))
    fixture.message(2)
    fixture.message(1)
    assert fixture.handed_out == [1, 2, b"read"]
