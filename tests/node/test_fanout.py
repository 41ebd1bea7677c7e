"""What leaves, and in which order: against a model that notes every frame for every connection at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from exporter.metrics.instruments import Buckets, Cell
from exporter.node.fanout import LARGE, SLICE, FanOut, SendQueue
from exporter.node.turn import GATHERING, SEVERAL


class Wire:
    """A transport that remembers its writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.buffered = 0

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered


class Box(SendQueue):
    """A connection that says when it overflowed."""

    def __init__(self, user: str, fan_out: FanOut, limit: int = 1_000) -> None:
        self.wire = Wire()
        self.overflowed = False
        super().__init__(user, self.wire, fan_out, limit)

    def on_overflow(self) -> None:
        self.overflowed = True
        self.dropped = self.discard_pending()


class Loop:
    """Runs what was asked for at the end of the turn."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.sent = Cell()
        self.now = 0.0
        self.fan_out = FanOut(self.soon.append, self.sent, lambda: self.now)
        self.buckets = Buckets((1.0,))

    def end_turn(self) -> None:
        soon, self.soon[:] = self.soon[:], []
        for call in soon:
            call()


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_a_turn_is_one_call_and_one_write_per_connection(loop: Loop) -> None:
    ann, bob = Box("ann", loop.fan_out), Box("bob", loop.fan_out)
    ann.put(b"1")
    loop.fan_out.send("room", {ann, bob}, b"2")
    loop.fan_out.send("room", {ann, bob}, b"3")
    assert len(loop.soon) == 1
    assert not ann.wire.writes
    loop.end_turn()
    assert ann.wire.writes == [b"123"]
    assert bob.wire.writes == [b"23"]
    assert loop.sent.value == 5
    assert not loop.soon


def come(loop: Loop, box: Box, *in_a_turn: int) -> None:
    """So many frames in each turn, beside one of their own; all of them are written."""
    for count in in_a_turn:
        box.put(b"o")
        for _ in range(count):
            loop.fan_out.send("room", {box}, b"x")
        while loop.soon:
            loop.end_turn()
    box.wire.writes.clear()


@contextmanager
def reading(loop: Loop) -> Iterator[None]:
    """What is handled in here came with one read of a socket."""
    loop.fan_out.turn.reading = loop.fan_out.turn.alone
    yield
    loop.fan_out.turn.has_read()


@pytest.mark.parametrize(
    "in_a_turn", [(2,) * SEVERAL, (2 * SEVERAL,), (SEVERAL + 1,) + (1,) * (SEVERAL - 1), (0, 0, SEVERAL, SEVERAL)]
)
def test_while_frames_come_together_they_are_gathered_until_nothing_comes(
    loop: Loop, in_a_turn: tuple[int, ...]
) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *in_a_turn)
    ended: list[int] = []
    loop.fan_out.send("room", {ann}, b"4;")
    loop.fan_out.at_end_of_turn(lambda: ended.append(len(ann.wire.writes)))
    loop.end_turn()
    loop.fan_out.send("room", {ann}, b"5;")
    loop.end_turn()
    assert (ann.wire.writes, ended) == ([], [])
    loop.end_turn()
    assert (ann.wire.writes, ended) == ([b"4;5;"], [1])
    come(loop, ann, *[1] * (SEVERAL + 1))
    loop.fan_out.send("room", {ann}, b"6;")
    loop.end_turn()
    assert ann.wire.writes == [b"6;"]
    assert not loop.soon


@pytest.mark.parametrize("in_a_turn", [(1,) * SEVERAL, (2,) * (SEVERAL - 1) + (1,), (0,) + (2,) * (SEVERAL - 1)])
def test_where_they_do_not_nothing_more_is_looked_for_however_quickly_they_come(
    loop: Loop, in_a_turn: tuple[int, ...]
) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *in_a_turn)
    for turn in range(3 * SEVERAL):
        loop.fan_out.send("room", {ann}, b"x")
        loop.end_turn()
        assert len(ann.wire.writes) == turn + 1
    assert not loop.soon


def rounds(loop: Loop, count: int) -> list[bool]:
    """Of the reads of some rounds, each with one frame: which are samples."""
    assert loop.fan_out.turn.alone == SEVERAL
    longer, shorter = [*[False] * SEVERAL, True], [*[False] * (SEVERAL - 1), True]
    return [sample for number in range(count) for sample in (shorter if number % 2 else longer)]


def test_while_each_frame_comes_alone_it_leaves_at_once_but_for_a_sample(loop: Loop) -> None:
    """And what else its read has brought leaves when that is handled."""
    ann, bob = Box("ann", loop.fan_out), Box("bob", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    loop.sent.value = 0
    samples = rounds(loop, 5)
    for turn, sample in enumerate(samples):
        with reading(loop):
            assert loop.fan_out.send("room", {ann, bob}, b"xy", {bob}) is not sample
            assert len(ann.wire.writes) == turn + (not sample)
            bob.put(b"o")
            loop.fan_out.time(loop.buckets, 0.0)
            assert len(bob.wire.writes) == turn
        assert [len(box.wire.writes) for box in (ann, bob)] == [turn + (not sample)] * 2
        assert len(loop.soon) == sample
        loop.end_turn()
    count = len(samples)
    assert (ann.wire.writes, bob.wire.writes) == ([b"xy"] * count, [b"o"] * count)
    assert (sum(loop.buckets.counts), loop.sent.value) == (count, 3 * count)


def test_reads_that_bring_one_frame_each_are_turns_and_reads_that_bring_none_are_not(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    samples = rounds(loop, 5)
    for sample in samples:
        with reading(loop):
            pass
        with reading(loop):
            assert loop.fan_out.send("room", {ann}, b"x") is not sample
        assert len(loop.soon) == sample
        loop.end_turn()
    assert ann.wire.writes == [b"x"] * len(samples)


@pytest.mark.parametrize("together", range(2, 4 * SEVERAL))
def test_however_many_reads_come_together_it_is_noticed_and_they_are_gathered(loop: Loop, together: int) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    for _ in range(4 * SEVERAL):
        for _ in range(together):
            with reading(loop):
                loop.fan_out.send("room", {ann}, b"x")
        while loop.soon:
            loop.end_turn()
    assert ann.wire.writes[-SEVERAL:] == [b"x" * together] * SEVERAL


def test_other_turns_between_them_do_not_keep_it_from_being_judged(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * (2 * SEVERAL - 3))
    for _ in range(2):
        assert loop.fan_out.turn.alone
        for _ in range(loop.fan_out.turn.alone):
            with reading(loop):
                assert loop.fan_out.send("room", {ann}, b"x")
        with reading(loop):
            assert not loop.fan_out.send("room", {ann}, b"x")
        loop.end_turn()


def test_where_other_turns_have_several_frames_none_leaves_at_once(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    come(loop, ann, 2 * SEVERAL)
    with reading(loop):
        assert not loop.fan_out.send("room", {ann}, b"x")
    assert not ann.wire.writes


def test_a_frame_that_leaves_at_once_is_observed_at_once(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    with reading(loop):
        loop.fan_out.send("room", {ann}, b"x")
        loop.now = 0.5
        loop.fan_out.time(loop.buckets, 0.25)
        assert (loop.buckets.counts, loop.buckets.sum) == ([1, 0], 0.25)
    assert not loop.soon


def test_a_second_frame_of_a_read_leaves_when_that_is_handled_and_several_such_reads_end_it(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    for turn in range(SEVERAL):
        with reading(loop):
            assert loop.fan_out.send("room", {ann}, b"1")
            assert not loop.fan_out.send("room", {ann}, b"2")
            assert ann.wire.writes == [b"1", b"2"] * turn + [b"1"]
        assert not loop.soon
    ann.wire.writes.clear()
    with reading(loop):
        for number in b"1", b"2":
            assert not loop.fan_out.send("room", {ann}, number)
    assert not ann.wire.writes
    while loop.soon:
        loop.end_turn()
    assert ann.wire.writes == [b"12"]


def test_what_leaves_at_once_is_for_a_thousand_at_most_and_for_nobody_slow(loop: Loop) -> None:
    crowd = {Box(f"{number}", loop.fan_out) for number in range(LARGE)}
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    with reading(loop):
        assert loop.fan_out.send("crowd", crowd, b"x")
    with reading(loop):
        assert not loop.fan_out.send("crowd", crowd | {ann}, b"x")
        assert not ann.wire.writes
    while loop.soon:
        loop.end_turn()
    ann.wire.writes.clear()
    with reading(loop):
        ann.pause_writing()
        assert not loop.fan_out.send("room", {ann}, b"x")
        assert not ann.wire.writes


def test_whom_a_frame_that_left_at_once_has_filled_is_looked_at_when_its_read_is_handled(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)

    def write(data: bytes) -> None:
        ann.wire.buffered += 2_000
        ann.pause_writing()

    ann.wire.write = write  # type: ignore[method-assign]  # a transport whose buffer is full now
    with reading(loop):
        assert not loop.fan_out.send("room", {ann}, b"x")
        assert not ann.overflowed
    assert ann.overflowed


def test_a_defect_of_one_connection_does_not_keep_a_frame_that_leaves_at_once_from_others(loop: Loop) -> None:
    ann, bob, cat = (Box(name, loop.fan_out) for name in ("ann", "bob", "cat"))
    come(loop, ann, *[1] * SEVERAL)

    def fail(data: bytes) -> None:
        raise RuntimeError("a defect")

    bob.wire.write = fail  # type: ignore[method-assign]  # a defect
    with reading(loop):
        assert not loop.fan_out.send("room", {ann, bob, cat}, b"x")
    assert (ann.wire.writes, cat.wire.writes, loop.sent.value) == ([b"x"], [b"x"], 2 * SEVERAL + 2)
    with pytest.raises(RuntimeError, match="a defect"):
        loop.end_turn()


def test_where_a_sample_has_more_than_one_frame_reads_no_longer_end_turns(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    for _ in range(loop.fan_out.turn.alone):
        with reading(loop):
            loop.fan_out.send("room", {ann}, b"x")
    for _ in range(2):
        ann.wire.writes.clear()
        for _ in range(2):
            with reading(loop):
                loop.fan_out.send("room", {ann}, b"y")
            assert not ann.wire.writes
        loop.end_turn()
        assert ann.wire.writes == [b"yy"]


def test_a_turn_that_was_begun_before_a_read_does_not_end_with_it(loop: Loop) -> None:
    """What the end of a turn puts leaves with the next one."""
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)
    loop.fan_out.send("room", {ann}, b"1")
    with reading(loop):
        loop.fan_out.send("room", {ann}, b"2")
    assert (ann.wire.writes, len(loop.soon)) == ([], 1)
    loop.end_turn()
    with reading(loop):
        loop.fan_out.at_end_of_turn(lambda: ann.put(b"4"))
        ann.put(b"3")
    assert (ann.wire.writes, len(loop.soon)) == ([b"12", b"3"], 1)
    loop.end_turn()
    assert ann.wire.writes == [b"12", b"3", b"4"]


def test_a_defect_of_what_leaves_is_the_loops_to_tell_and_not_the_readers(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, *[1] * SEVERAL)

    def fail() -> None:
        raise RuntimeError("a defect")

    with reading(loop):
        loop.fan_out.at_end_of_turn(fail)
    with pytest.raises(RuntimeError, match="a defect"):
        loop.end_turn()
    with reading(loop):
        ann.put(b"1")
    assert ann.wire.writes == [b"1"]


@pytest.mark.parametrize("where", ["ending", "first work"])
def test_a_defect_at_the_end_of_a_turn_does_not_cost_what_is_behind_it(loop: Loop, where: str) -> None:
    ann = Box("ann", loop.fan_out, limit=1)
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("a defect")

    if where == "ending":
        ann.on_overflow = fail  # type: ignore[method-assign]  # a defect in cutting off a slow consumer
        ann.wire.buffered = 2
        ann.pause_writing()
    else:
        loop.fan_out.at_end_of_turn(fail)
    loop.fan_out.at_end_of_turn(lambda: done.append("done"))
    loop.fan_out.send("room", {Box("bob", loop.fan_out)}, b"x")
    loop.fan_out.time(loop.buckets, 0.0)
    with pytest.raises(RuntimeError, match="a defect"):
        loop.end_turn()
    assert (done, sum(loop.buckets.counts)) == (["done"], 1)


def test_what_is_gathered_is_written_in_time_whatever_comes(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    come(loop, ann, 2 * SEVERAL)
    step = GATHERING / 4
    for turn in range(7):
        loop.now = turn * step
        loop.fan_out.send("room", {ann}, b"%d" % turn)
        assert not ann.wire.writes, f"written {turn} steps after the first came"
        loop.end_turn()
        if ann.wire.writes:
            break
    assert ann.wire.writes == [b"012345"]


def test_the_end_of_a_turn_is_after_its_writes(loop: Loop) -> None:
    ann, written = Box("ann", loop.fan_out), list[list[bytes]]()

    def look() -> None:
        written.append(list(ann.wire.writes))

    loop.fan_out.at_end_of_turn(look)
    loop.fan_out.send("room", {ann}, b"1")
    assert len(loop.soon) == 1
    loop.end_turn()
    assert written == [[b"1"]]
    loop.fan_out.send("room", {ann}, b"2")
    loop.end_turn()
    assert len(written) == 1
    loop.fan_out.at_end_of_turn(look)  # also when there is nothing to be written
    loop.end_turn()
    assert written[1] == [b"1", b"2"]


def test_own_frames_stand_where_they_happened_among_those_of_the_conversation(loop: Loop) -> None:
    ann, bob = Box("ann", loop.fan_out), Box("bob", loop.fan_out)
    audience = {ann, bob}
    loop.fan_out.send("room", audience, b"1")
    ann.put(b"2")
    loop.fan_out.send("room", audience, b"3", {bob})
    ann.put(b"4")
    loop.end_turn()
    assert ann.wire.writes == [b"1234"]
    assert bob.wire.writes == [b"1"]


def test_whoever_caused_a_frame_does_not_get_it(loop: Loop) -> None:
    ann, bob, cat = (Box(name, loop.fan_out) for name in ("ann", "bob", "cat"))
    audience = {ann, bob, cat}
    loop.fan_out.send("room", audience, b"a", {ann})
    loop.fan_out.send("room", audience, b"b", {bob})
    loop.fan_out.send("room", audience, b"a", {ann})
    loop.end_turn()
    assert [box.wire.writes for box in (ann, bob, cat)] == [[b"b"], [b"aa"], [b"aba"]]


def test_a_turn_in_which_nobody_may_have_the_frame_writes_nothing(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    loop.fan_out.send("room", {ann}, b"a", {ann})
    loop.end_turn()
    assert ann.wire.writes == []
    assert loop.sent.value == 0


def test_what_is_gathered_is_for_those_who_were_there(loop: Loop) -> None:
    ann, bob, cat = (Box(name, loop.fan_out) for name in ("ann", "bob", "cat"))
    audience = {ann, bob}
    loop.fan_out.send("room", audience, b"1")
    loop.fan_out.audience_changes("room", cat, True)
    audience.add(cat)
    cat.put(b"joined")
    loop.fan_out.send("room", audience, b"2")
    loop.fan_out.audience_changes("room", bob, False)
    audience.discard(bob)
    bob.put(b"left")
    loop.fan_out.send("room", audience, b"3")
    loop.end_turn()
    assert [box.wire.writes for box in (ann, bob, cat)] == [[b"123"], [b"12left"], [b"joined23"]]


def test_what_is_gathered_for_those_who_have_all_gone_is_not_for_who_comes_then(loop: Loop) -> None:
    ann, bob = Box("ann", loop.fan_out), Box("bob", loop.fan_out)
    audience = {ann}
    loop.fan_out.send("room", audience, b"1")
    loop.fan_out.audience_changes("room", ann, False)
    audience.clear()
    loop.fan_out.audience_changes("room", bob, True)
    audience = {bob}  # another set, as the hub has it
    loop.fan_out.send("room", audience, b"2")
    loop.fan_out.send("room", audience, b"3")
    loop.end_turn()
    assert [box.wire.writes for box in (ann, bob)] == [[b"1"], [b"23"]]


def test_a_connection_in_two_busy_conversations_is_written_once(loop: Loop) -> None:
    ann, bob, cat = (Box(name, loop.fan_out) for name in ("ann", "bob", "cat"))
    loop.fan_out.send("one", {ann, bob}, b"1")
    loop.fan_out.send("two", {ann, cat}, b"2", {cat})
    loop.end_turn()
    assert [len(box.wire.writes) for box in (ann, bob, cat)] == [1, 1, 0]
    assert ann.wire.writes == [b"12"]


def test_a_frame_handed_out_while_writing_leaves_in_the_next_turn(loop: Loop) -> None:
    ann, bob = Box("ann", loop.fan_out), Box("bob", loop.fan_out)

    class Reacting(Wire):
        def write(self, data: bytes) -> None:
            super().write(data)
            if len(self.writes) == 1:
                loop.fan_out.send("other", {bob}, b"late")

    ann.wire = ann.transport = Reacting()
    ann.put(b"1")
    loop.end_turn()
    assert bob.wire.writes == []
    loop.end_turn()
    assert bob.wire.writes == [b"late"]


def test_nothing_follows_the_last_frame(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    room = {ann}
    loop.fan_out.send("room", room, b"1")
    loop.fan_out.audience_changes("room", ann, False)
    room.discard(ann)
    ann.write_last(b"close")
    assert ann.wire.writes == [b"1close"]
    assert ann.put(b"2") is False
    ann.put_batch([(2, b"3", ())])
    loop.end_turn()
    assert ann.wire.writes == [b"1close"]


def test_a_slow_consumer_gets_its_frames_until_its_buffer_is_full_and_then_none(loop: Loop) -> None:
    ann, slow = Box("ann", loop.fan_out), Box("slow", loop.fan_out, limit=10)
    slow.pause_writing()
    slow.wire.buffered = 8
    audience = {ann, slow}
    loop.fan_out.send("room", audience, b"12")
    loop.end_turn()
    assert slow.wire.writes == [b"12"]
    loop.fan_out.send("room", audience, b"123")
    loop.end_turn()
    assert slow.overflowed
    assert slow.dropped == [b"123"]
    assert slow.wire.writes == [b"12"]
    assert ann.wire.writes == [b"12", b"123"]
    assert not loop.fan_out.slow


def test_what_one_turn_gathers_is_within_the_limit_too(loop: Loop) -> None:
    ann, big = Box("ann", loop.fan_out), Box("big", loop.fan_out, limit=10)

    class Full(Wire):
        def write(self, data: bytes) -> None:
            super().write(data)
            self.buffered += len(data)
            big.pause_writing()  # as asyncio does within the write

    big.wire = big.transport = Full()
    loop.fan_out.send("room", {ann, big}, b"12345678901")
    loop.end_turn()
    assert big.overflowed
    assert not loop.fan_out.slow
    assert ann.wire.writes == [b"12345678901"]


@pytest.mark.parametrize("own", [False, True])
def test_a_connection_whose_write_fails_does_not_silence_the_others(loop: Loop, own: bool) -> None:
    class Broken(Wire):
        def write(self, data: bytes) -> None:
            raise RuntimeError("the handler is closed")

    boxes = [Box(str(number), loop.fan_out) for number in range(5)]
    boxes[2].transport = Broken()
    if own:
        for box in boxes:
            box.put(b"1")
    else:
        loop.fan_out.send("room", dict.fromkeys(boxes).keys(), b"1")
    with pytest.raises(RuntimeError):
        loop.end_turn()
    assert [box.wire.writes for box in boxes] == [[b"1"], [b"1"], [], [b"1"], [b"1"]]
    loop.fan_out.send("room", {boxes[0]}, b"2")
    loop.end_turn()
    assert boxes[0].wire.writes == [b"1", b"2"]


@pytest.mark.parametrize("seed", range(600))
def test_everybody_gets_exactly_what_is_theirs_in_order_whatever_happens_in_a_turn(seed: int) -> None:
    """Joins, leaves, own frames and fan-outs in any order, read from sockets or not.

    The model notes each frame for each connection at once.
    """
    chance = random.Random(seed)
    loop = Loop()
    boxes = [Box(str(number), loop.fan_out) for number in range(5)]
    rooms: dict[str, set[Box]] = {"one": set(boxes[:3]), "two": {boxes[2]} if chance.random() < 0.5 else set()}
    expected: dict[Box, list[str]] = {box: [] for box in boxes}
    slow = chance.choice(boxes) if chance.random() < 0.3 else None
    if slow is not None:
        slow.pause_writing()
    frames, alone = 0, seed % 3 == 0
    if alone:
        come(loop, Box("alone", loop.fan_out), *[1] * SEVERAL)
        loop.sent.value = 0
    for _ in range(chance.randint(1, 4)):
        writes = {box: len(box.wire.writes) for box in boxes}
        for _ in range(chance.randint(1, 12)):
            reads = chance.random() < 0.5
            loop.fan_out.turn.reading = loop.fan_out.turn.alone if reads else 0
            room, box = chance.choice(["one", "one", "one", "two"]), chance.choice(boxes)
            frames += 1
            match chance.choice(["fan_out"] * 5 + ["put", "join", "leave"]):
                case "fan_out":
                    but = set(chance.sample(boxes, chance.choice([0, 1, 1, 2]))) & rooms[room]
                    loop.fan_out.send(room, rooms[room], f"{room[0]}{frames};".encode(), frozenset(but))
                    for member in rooms[room] - but:
                        expected[member].append(f"{room[0]}{frames};")
                case "put":
                    box.put(f"p{frames};".encode())
                    expected[box].append(f"p{frames};")
                case "join" if box not in rooms[room]:
                    loop.fan_out.audience_changes(room, box, True)
                    rooms[room].add(box)
                case "leave" if box in rooms[room]:
                    loop.fan_out.audience_changes(room, box, False)
                    rooms[room].discard(box)
                    if not rooms[room]:  # as the hub does: who comes next is another audience
                        rooms[room] = set()
            if reads:
                loop.fan_out.turn.has_read()
        loop.end_turn()
        once = alone or all(len(box.wire.writes) <= writes[box] + 1 for box in boxes)
        assert once, "more than one write in a turn"
    while loop.soon:
        loop.end_turn()
    for box in boxes:
        got = b"".join(box.wire.writes).decode().split(";")[:-1]
        wanted = [frame[:-1] for frame in expected[box]]
        assert got == wanted  # also between conversations: messages of one sender keep their order
    assert loop.sent.value == sum(len(data) for box in boxes for data in box.wire.writes)


def test_many_join_one_room_in_one_turn_without_a_cost_for_those_who_are_there(loop: Loop) -> None:
    """Each hears of those who come later, and nobody is visited before the end of the turn."""
    there = {Box(f"there {number}", loop.fan_out) for number in range(50)}
    comers = [Box(f"comer {number}", loop.fan_out) for number in range(20)]
    room = set(there)
    for number, comer in enumerate(comers):
        loop.fan_out.audience_changes("room", comer, True)
        room.add(comer)
        loop.fan_out.send("room", room, b"%02d;" % number, {comer})
        assert not any(box.pending for box in there)
    loop.end_turn()
    news = [b"%02d;" % number for number in range(20)]
    assert {b"".join(box.wire.writes) for box in there} == {b"".join(news)}
    for number, comer in enumerate(comers):
        assert b"".join(comer.wire.writes) == b"".join(news[number + 1 :])


def test_an_audience_of_thousands_is_written_to_in_slices_in_order_and_whoever_goes_in_between_has_theirs(
    loop: Loop,
) -> None:
    boxes = [Box(str(number), loop.fan_out) for number in range(LARGE + SLICE + 1)]
    room = set(boxes)
    loop.fan_out.send("room", room, b"1")
    loop.fan_out.time(loop.buckets, 0.0)
    loop.end_turn()
    served = [box for box in boxes if box.wire.writes]
    assert len(served) == SLICE
    assert not sum(loop.buckets.counts)
    waiting = [box for box in boxes if not box.wire.writes]
    waiting[0].put(b"own")
    loop.fan_out.audience_changes("room", waiting[1], False)
    room.discard(waiting[1])
    waiting[1].write_last(b"close")
    loop.fan_out.send("room", room, b"2")
    while loop.soon:
        loop.end_turn()
    assert waiting[0].wire.writes == [b"1own2"]
    assert waiting[1].wire.writes == [b"1close"]
    assert {b"".join(box.wire.writes) for box in boxes} == {b"12", b"1own2", b"1close"}
    assert sum(loop.buckets.counts) == 1
    loop.fan_out.send("room", room, b"3")
    loop.fan_out.flush_all()
    assert all(box.wire.writes[-1].endswith(b"3") for box in room)


def test_a_single_frame_is_written_as_it_is_to_everybody_and_never_copied(loop: Loop) -> None:
    frame = b"a frame for everybody"
    boxes = {Box(str(number), loop.fan_out) for number in range(3)}
    loop.fan_out.send("room", boxes, frame)
    own = Box("own", loop.fan_out)
    own.put(frame)
    loop.end_turn()
    assert all(box.wire.writes[0] is frame for box in (*boxes, own))


def test_what_is_dropped_is_returned_once_and_nothing_follows(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    ann.put(b"1")
    room = {ann}
    loop.fan_out.send("room", room, b"2")
    loop.fan_out.audience_changes("room", ann, False)
    room.discard(ann)
    assert ann.discard_pending() == [b"1", b"2"]
    assert ann.discard_pending() == []
    assert not ann.put(b"3")
    ann.write_last(b"close")
    loop.end_turn()
    assert ann.wire.writes == []


def test_a_connection_is_slow_from_the_pause_to_the_resumption(loop: Loop) -> None:
    ann = Box("ann", loop.fan_out)
    ann.pause_writing()
    assert loop.fan_out.slow == {ann}
    ann.resume_writing()
    assert loop.fan_out.slow == set()


@pytest.mark.parametrize(
    "end", [lambda box: box.write_last(b"close"), lambda box: box.discard_pending()], ids=["finish", "drop"]
)
def test_an_ended_connection_is_no_slow_consumer_whatever_its_socket_says(
    loop: Loop, end: Callable[[Box], object]
) -> None:
    ann = Box("ann", loop.fan_out)
    ann.pause_writing()
    end(ann)
    assert loop.fan_out.slow == set()
    ann.pause_writing()
    assert loop.fan_out.slow == set()


def test_exactly_the_limit_is_within_it(loop: Loop) -> None:
    slow = Box("slow", loop.fan_out, limit=10)
    slow.pause_writing()
    slow.wire.buffered = 8
    slow.put(b"12")
    loop.end_turn()
    assert not slow.overflowed
    slow.wire.buffered = 10
    loop.fan_out.send("room", {Box("ann", loop.fan_out)}, b"x")
    loop.end_turn()
    assert not slow.overflowed
    slow.put(b"1")
    loop.end_turn()
    assert slow.overflowed


def test_the_time_of_a_delivery_ends_when_the_turn_is_written(loop: Loop) -> None:
    now = [10.0]
    fan_out = FanOut(loop.soon.append, loop.sent, lambda: now[0])
    buckets = Buckets((1.0,))
    ann = Box("ann", fan_out)

    class Slow(Wire):
        def write(self, data: bytes) -> None:
            now[0] += 2.0

    ann.transport = Slow()
    fan_out.send("room", {ann}, b"1")
    fan_out.time(buckets, 9.5)
    assert buckets.counts == [0, 0]
    loop.end_turn()
    assert (buckets.counts, buckets.sum) == ([0, 1], pytest.approx(2.5))
    ann.put(b"2")
    loop.end_turn()
    assert sum(buckets.counts) == 1


def test_what_the_end_of_one_has_the_others_told_leaves_too(loop: Loop) -> None:
    """Cutting one off makes frames for the others, in the middle of the writing."""
    early, late = Box("early", loop.fan_out), Box("late", loop.fan_out)

    class Telling(Box):
        def on_overflow(self) -> None:
            super().on_overflow()
            loop.fan_out.send("room", {early, late}, b"left")

    slow = Telling("slow", loop.fan_out, limit=10)
    slow.pause_writing()
    loop.fan_out.send("room", {early, slow, late}, b"x" * 20)
    loop.end_turn()
    loop.end_turn()
    assert [box.wire.writes for box in (early, late)] == [[b"x" * 20, b"left"]] * 2
    assert not loop.soon


async def test_what_is_put_in_the_same_turn_of_a_real_loop_leaves_together() -> None:
    turns = asyncio.get_running_loop()
    fan_out = FanOut(turns.call_soon, Cell(), lambda: 0.0)
    ann = Box("ann", fan_out)
    ann.put(b"1")
    ann.put(b"2")
    turns.call_soon(ann.put, b"3")  # behind the end of the turn
    await asyncio.sleep(0)
    assert ann.wire.writes == [b"12"]
    await asyncio.sleep(0)
    assert ann.wire.writes == [b"12", b"3"]
