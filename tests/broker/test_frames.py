"""What nodes send each other, packed and read again; what a newer release sends is passed over."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from exporter.broker import frames
from exporter.broker.frames import IncomingFrame, Kind

NODE = b"12345678"

INCOMING_FRAMES = st.tuples(
    st.sampled_from(list(map(int, Kind))),
    st.binary(max_size=300),
    st.integers(0, 2**63),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.integers(0, 2**32 - 1),
)


def packed(frame: IncomingFrame) -> bytes:
    return frames.pack(*frame)


@given(st.lists(INCOMING_FRAMES, max_size=5), st.integers(0, 2**63))
def test_what_is_packed_is_read_again(given_frames: list[IncomingFrame], now: int) -> None:
    payload = frames.head(NODE, now) + b"".join(map(packed, given_frames))
    assert payload.startswith(b"F" + NODE)
    assert frames.published_at(payload) == now
    assert list(frames.unpack(payload)) == given_frames


@given(st.lists(st.tuples(INCOMING_FRAMES, st.none() | st.floats(0, 1e6)), max_size=5), st.booleans())
def test_frames_of_one_turn_are_packed_as_each_by_itself(
    given_frames: list[tuple[IncomingFrame, float | None]], one_user: bool
) -> None:
    turn = [
        (Kind(kind), data, seq, given_frames[0][0][3] if one_user else user, received)
        for (kind, data, seq, user, _), received in given_frames
    ]
    parts: list[bytes] = []
    frames.pack_all(turn, 1e6, parts)
    assert b"".join(parts) == b"".join(
        frames.pack(kind, data, seq, user, 0 if received is None else int((1e6 - received) * 1e6))
        for kind, data, seq, user, received in turn
    )


def test_an_unknown_kind_is_passed_over_and_what_follows_is_read() -> None:
    known = (int(Kind.MESSAGE), b"hello", 7, "", 12)
    unknown = struct.pack(">IBQIH", 15 + 3 + 5, 200, 1, 0, 3) + b"bobmore!"
    payload = frames.head(NODE, 0) + unknown + packed(known)
    assert list(frames.unpack(payload)) == [None, known]


def test_a_name_that_is_longer_than_its_frame_is_not_read_out_of_the_next() -> None:
    known = (int(Kind.MESSAGE), b"hello", 7, "bob", 12)
    wrong = struct.pack(">IBQIH", 15, int(Kind.MESSAGE), 1, 0, 3)
    assert list(frames.unpack(frames.head(NODE, 0) + wrong + packed(known))) == [None, known]


@given(INCOMING_FRAMES, st.integers(1, 60))
def test_a_frame_that_is_not_whole_is_no_frame(frame: IncomingFrame, cut: int) -> None:
    payload = frames.head(NODE, 0) + packed(frame)
    shortened = payload[: max(len(frames.head(NODE, 0)) + 1, len(payload) - cut)]
    assert list(frames.unpack(shortened)) == [None]


@given(st.binary(max_size=80))
def test_whatever_comes_is_read_without_an_error(rest: bytes) -> None:
    assert all(found is None or found[0] in set(Kind) for found in frames.unpack(frames.head(NODE, 0) + rest))


@given(INCOMING_FRAMES, st.none() | st.floats(0, 1e6))
def test_a_payload_of_one_frame_is_made_in_one_go(frame: IncomingFrame, received: float | None) -> None:
    kind, data, seq, user, _ = frame
    alone = frames.alone(b"channel", NODE, 9, (Kind(kind), data, seq, user, received), 1e6)
    packed = frames.pack(kind, data, seq, user, 0 if received is None else int((1e6 - received) * 1e6))
    assert alone == frames.addressed(b"channel", frames.head(NODE, 9) + packed)


@given(st.lists(INCOMING_FRAMES, max_size=2), st.integers(0, 40), st.binary(max_size=3))
def test_typing_that_comes_alone_is_read_in_one_go(given: list[IncomingFrame], cut: int, more: bytes) -> None:
    """Only where the usual way finds the same."""
    given = [(int(Kind.TYPING), *frame[1:]) for frame in given] if cut % 2 else given
    payload = frames.head(NODE, 0) + b"".join(map(packed, given))
    payload = payload[: max(frames.HEAD_SIZE, len(payload) - cut // 4)] + more
    found = frames.unpack(payload)
    kind, data, seq, user, _ = found[0] if len(found) == 1 and found[0] is not None else (0, b"", 0, "", 0)
    assert frames.lone_typing(payload) == ((user, seq > 0, data) if kind == Kind.TYPING else None)


def test_typing_whose_name_is_longer_than_its_frame_is_not_read() -> None:
    frame = struct.pack(">IBQIH", 15 + 3, Kind.TYPING, 1, 0, 4) + b"ann"
    assert frames.lone_typing(frames.head(NODE, 0) + frame) is None


def test_an_age_that_does_not_fit_is_the_longest_that_does() -> None:
    payload = frames.head(NODE, 0) + frames.pack(Kind.MESSAGE, b"", 1, age=2**40)
    [found] = frames.unpack(payload)
    assert found == (Kind.MESSAGE, b"", 1, "", 2**32 - 1)


def test_announcements_are_lines() -> None:
    assert frames.announcements("A\nJann\nLzoë".encode()) == ["Jann", "Lzoë"]


TOLD = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "zoë"]), st.booleans(), st.binary(max_size=9)), min_size=1, max_size=20
)


@given(TOLD)
def test_typing_of_many_is_in_one_piece_as_long_as_each_takes_turns(told: list[tuple[str, bool, bytes]]) -> None:
    packed = list(frames.typing_runs([(Kind.TYPING, frame, active, user, None) for user, active, frame in told]))
    runs, sizes = [], []
    for found in frames.unpack(frames.head(NODE, 0) + b"".join(packed)):
        assert found is not None
        run = frames.typing_run(found[1])
        assert run is not None
        runs.append(run)
        sizes.append(found[2])
        words = list(run.each())
        assert len(words) == found[2]
        for user, begins, ends in zip(run.users, run.begins, run.ends, strict=True):
            turns = [active for name, active in words if name == user]
            assert (turns[0], turns[-1]) == (begins, ends)
    assert [word for run in runs for word in run.each()] == [(user, active) for user, active, _ in told]
    assert b"".join(run.frames for run in runs) == b"".join(frame for _, _, frame in told)
    last: dict[str, bool] = {}
    expected = 1
    for user, active, _ in told:
        if last.get(user) is active:
            expected += 1
            last = {}
        last[user] = active
    assert len(sizes) == expected


@given(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 20))
def test_a_run_that_is_not_whole_is_none(rest: bytes, count: int, size: int) -> None:
    run = frames.typing_run(struct.pack(">II", count, size) + rest)
    assert run is None or all(user in run.users for user, _ in run.each())
    assert frames.typing_run(rest[:7]) is None


def test_a_run_in_which_nobody_has_a_frames_place_is_none() -> None:
    assert frames.typing_run(struct.pack(">II", 1, 4) + b"3ann" + struct.pack(">I", 0)) is not None
    assert frames.typing_run(struct.pack(">II", 1, 4) + b"3ann" + struct.pack(">I", 1)) is None
