"""The frame reader, held against the ``websockets`` library's own reader: what it accepts, what it refuses, and when.

That library is the oracle because it is strict, has no I/O of its own, and shares no line with ours.
"""

from __future__ import annotations

import codecs
import logging
import os
import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close, Opcode
from websockets.frames import Frame as Theirs
from websockets.protocol import Protocol, Side

from exporter.core import websocket_frames
from exporter.core.websocket_frames import BINARY, CLOSE, MAX_FRAGMENTS, PING, PONG, TEXT, FrameReader, Violation
from tests.doubles import client_frame as client

LIMIT = 200  # beyond 125, so that both short and extended lengths are met on both sides of it
MASK = b"\xa1\xb2\xc3\xd4"
CONTINUATION = 0


def read(data: bytes, limit: int = LIMIT, cuts: Iterator[bytes] | None = None) -> tuple[FrameReader, list[object]]:
    reader = FrameReader(limit)
    messages: list[object] = []
    for part in cuts if cuts is not None else iter([data]):
        messages += reader.feed(part)
    return reader, messages


def held(reader: FrameReader) -> int:
    """How many bytes the reader keeps."""
    return len(reader._buffer or b"") + len(reader._fragments or b"")


# --- the oracle -------------------------------------------------------------------------------------------


class Oracle:
    """What the websockets library makes of the same bytes: whole messages and control frames, and the close code.

    It leaves UTF-8 to its callers: text in fragments is looked at here, by the standard library's decoder.
    """

    def __init__(self, limit: int) -> None:
        quiet = logging.getLogger("oracle")
        quiet.setLevel(logging.CRITICAL)
        self._protocol = Protocol(Side.SERVER, max_size=limit, logger=quiet)
        self._started: tuple[int, bytes] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_utf8 = True
        self.messages: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            assert isinstance(event, Theirs)
            if self._is_utf8:
                self._message(event)
        self._protocol.data_to_send()

    def _message(self, event: Theirs) -> None:
        if event.opcode in (Opcode.TEXT, Opcode.BINARY) and not event.fin:
            self._started = (int(event.opcode), bytes(event.data))
            self._decoder.reset()
            self._decode(event)
        elif event.opcode is Opcode.CONT:
            assert self._started is not None
            opcode, data = self._started
            self._started = (opcode, data + bytes(event.data))
            self._decode(event)
            if event.fin and self._is_utf8:
                self.messages.append(self._started)
        else:
            self.messages.append((int(event.opcode), bytes(event.data)))

    def _decode(self, event: Theirs) -> None:
        assert self._started is not None
        try:
            if self._started[0] == TEXT:
                self._decoder.decode(bytes(event.data), final=event.fin)
        except UnicodeDecodeError:
            self._is_utf8 = False

    @property
    def closed_within_a_message(self) -> bool:
        return "incomplete fragmented message" in str(self._protocol.parser_exc)

    @property
    def is_unfair(self) -> bool:
        """Their limit of a message under way holds for a control frame within it, too; what is small may be one."""
        match self._protocol.parser_exc:
            case PayloadTooBig(size=int() as size, current_size=int()):
                return size <= 125
        return False

    @property
    def refusal(self) -> int | None:
        if not self._is_utf8:
            return Violation.INVALID_DATA
        match self._protocol.parser_exc:
            case None:
                return None
            case PayloadTooBig():
                return Violation.TOO_LARGE
            case _ if self.closed_within_a_message:
                return None  # section 5.4 allows control frames there, and an end is an end
            case ProtocolError() | UnicodeDecodeError():
                return Violation.PROTOCOL
            case other:
                raise AssertionError(f"the oracle is at a loss: {other!r}")


PADDING = LIMIT + 14  # completes any frame that is not refused for its size
GOOD_CLOSE = struct.pack("!H", 1000) + b"bye"
sizes = st.one_of(
    st.integers(0, 8),
    st.sampled_from([124, 125, 126, 127, LIMIT - 1, LIMIT, LIMIT + 1, 65_535, 65_536]),
    st.integers(0, LIMIT + 2),
)
payloads = st.builds(lambda size, first: (bytes([first]) + b"message " * 8_200)[:size], sizes, st.integers(0, 255))
data_frames = st.builds(
    client,
    st.sampled_from([TEXT, TEXT, BINARY, CONTINUATION, CONTINUATION]),
    payloads,
    fin=st.booleans(),
    mask=st.binary(min_size=4, max_size=4),
)
pieces = st.binary(max_size=LIMIT // 2)
messages_in_pieces = st.builds(
    lambda parts, opcode, between: b"".join(
        client(opcode if number == 0 else CONTINUATION, part, fin=number == len(parts) - 1)
        + (client(PING, b"between") if between else b"")
        for number, part in enumerate(parts)
    ),
    st.lists(pieces, min_size=1, max_size=5),
    st.sampled_from([TEXT, BINARY]),
    st.booleans(),
)
control_frames = st.builds(
    client, st.sampled_from([PING, PONG]), st.binary(max_size=125), mask=st.binary(min_size=4, max_size=4)
)
broken_frames = st.one_of(
    st.builds(client, st.sampled_from([TEXT, PING]), st.binary(max_size=130), masked=st.just(False)),
    st.builds(client, st.sampled_from([TEXT, CLOSE]), st.binary(max_size=3), reserved=st.integers(1, 7)),
    st.builds(client, st.sampled_from([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), st.binary(max_size=9), fin=st.booleans()),
    st.builds(client, st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=5), fin=st.just(False)),
    st.builds(client, st.sampled_from([PING, PONG, CLOSE]), st.binary(min_size=126, max_size=130)),
    st.builds(client, st.just(CONTINUATION), st.binary(max_size=9), fin=st.booleans()),
)
# Longer forms of a length than needed are against section 5.2, and accepted by both.
wide_frames = st.builds(client, st.just(TEXT), st.binary(max_size=9), length_bytes=st.sampled_from([2, 8]))
streams = st.lists(
    st.one_of(data_frames, messages_in_pieces, messages_in_pieces, control_frames, wide_frames, broken_frames),
    max_size=8,
)


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    points = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in pairwise([0, *points, len(stream)])]


@given(st.data(), streams, st.booleans(), st.integers(0, 3))
@settings(max_examples=600, deadline=None)
def test_any_frames_cut_anywhere_are_read_as_the_websockets_library_reads_them(
    data: st.DataObject, stream: list[bytes], closed: bool, missing: int
) -> None:
    whole = b"".join(stream) + (client(CLOSE, GOOD_CLOSE) if closed else b"")
    if missing:
        whole = whole[:-missing]
    oracle, ours = Oracle(LIMIT), FrameReader(LIMIT)
    messages: list[tuple[int, bytes]] = []
    for part in data.draw(cut(whole)):
        oracle.feed(part)
        messages += ours.feed(part)
        assert held(ours) <= 2 * LIMIT + 14
        if oracle.is_unfair:
            return
        if oracle.refusal is not None:  # we refuse some frames at their first bytes, they at the last: never later
            assert ours.error is not None
    if ours.error is not None:
        oracle.feed(bytes(PADDING))
        # A control frame that is too long by itself is too large to them, when the message under way leaves less room.
        too_long_a_control = ours.error[1].startswith("control frame") and oracle.refusal == Violation.TOO_LARGE
        assert ours.error[0] == oracle.refusal or too_long_a_control
        # What control frames we still read behind an oversized frame, they do not.
        assert messages[: len(oracle.messages)] == oracle.messages
        assert all(opcode >= CLOSE for opcode, _ in messages[len(oracle.messages) :])
    else:
        within = [(CLOSE, GOOD_CLOSE)] if oracle.closed_within_a_message else []
        assert messages == oracle.messages + within


@given(st.binary(max_size=600), st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_cut_anywhere_are_refused_when_the_websockets_library_refuses_them(
    noise: bytes, data: st.DataObject
) -> None:
    oracle, ours = Oracle(LIMIT), FrameReader(LIMIT)
    for part in data.draw(cut(noise)):
        oracle.feed(part)
        ours.feed(part)
        if oracle.closed_within_a_message or CLOSE in [opcode for opcode, _ in oracle.messages]:
            return  # behind a close frame they read nothing; what we read is the session's to ignore
        if oracle.is_unfair:
            return
        if oracle.refusal is not None:
            assert ours.error is not None
    if ours.error is not None:
        oracle.feed(bytes(PADDING))
        assert oracle.refusal is not None


@given(st.lists(st.one_of(data_frames, control_frames, broken_frames), max_size=6), st.data())
def test_where_a_stream_is_cut_makes_no_difference(stream: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(stream)
    at_once, messages = read(whole)
    in_parts, others = read(whole, cuts=iter(data.draw(cut(whole))))
    byte_by_byte, singles = read(whole, cuts=iter([whole[i : i + 1] for i in range(len(whole))]))
    assert messages == others == singles
    assert at_once.error == in_parts.error == byte_by_byte.error


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 100_000])
def test_exactly_the_limit_is_accepted_and_one_byte_more_is_1009(limit: int) -> None:
    reader, messages = read(client(TEXT, b"x" * limit), limit)
    assert (messages, reader.error) == ([(TEXT, b"x" * limit)], None)
    reader, messages = read(client(TEXT, b"x" * (limit + 1)), limit)
    assert messages == []
    assert reader.error == (1009, f"frame is larger than {limit} bytes")


@pytest.mark.parametrize("parts", [1, 2, 3, 7, LIMIT])
def test_the_fragments_of_a_message_are_limited_together(parts: int) -> None:
    def message(size: int) -> bytes:
        ends = [size * number // parts for number in range(parts + 1)]
        return b"".join(
            client(TEXT if number == 0 else CONTINUATION, b"x" * (b - a), fin=number == parts - 1)
            for number, (a, b) in enumerate(pairwise(ends))
        )

    reader, messages = read(message(LIMIT) + message(LIMIT))
    assert (messages, reader.error) == ([(TEXT, b"x" * LIMIT)] * 2, None)
    reader, messages = read(message(LIMIT) + message(LIMIT + 1))
    assert messages == [(TEXT, b"x" * LIMIT)]
    assert reader.error is not None
    assert reader.error[0] == 1009


def test_a_message_may_come_in_many_fragments_but_not_in_endlessly_many() -> None:
    first, empty = client(TEXT, b"", fin=False), client(CONTINUATION, b"", fin=False)
    last = client(CONTINUATION, b"end")
    reader, messages = read(first + empty * (MAX_FRAGMENTS - 2) + last)
    assert (messages, reader.error) == ([(TEXT, b"end")], None)
    reader, messages = read(first + empty * (MAX_FRAGMENTS - 1) + last + client(CLOSE, GOOD_CLOSE))
    assert messages == [(CLOSE, GOOD_CLOSE)]
    assert reader.error == (1009, f"message has more than {MAX_FRAGMENTS} fragments")


def test_a_message_of_the_default_limit_may_come_in_pieces_of_64_bytes() -> None:
    body = os.urandom(65_536)
    parts = [body[i : i + 64] for i in range(0, len(body), 64)]
    stream = b"".join(client(BINARY if i == 0 else 0, p, fin=i == len(parts) - 1) for i, p in enumerate(parts))
    assert read(stream, 65_536)[1] == [(BINARY, body)]


@pytest.mark.parametrize("size", [2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_size_beyond_all_memory_is_1009_at_the_announcement(size: int) -> None:
    reader, messages = read(bytes((0x81, 0xFF)) + size.to_bytes(8, "big"))
    assert messages == []
    assert reader.error is not None
    assert reader.error[0] == 1009
    assert reader.feed(b"x" * 1_000) == []
    assert held(reader) == 0


@pytest.mark.parametrize("excess", [1, 1_000, 10_000_000])
@pytest.mark.parametrize("chunk", [7, 4_096, 262_144])
def test_the_rest_of_an_oversized_frame_is_passed_over_and_a_close_frame_behind_it_is_seen(
    excess: int, chunk: int
) -> None:
    size = LIMIT + excess
    if size // chunk > 10_000:
        size = 10_000 * chunk
    head = client(TEXT, b"before") + bytes((0x81, 0xFF)) + size.to_bytes(8, "big") + MASK
    reader = FrameReader(LIMIT)
    messages = list(reader.feed(head))
    assert reader.error is not None
    body = b"x" * chunk
    for _ in range(size // chunk):
        assert reader.feed(body) == []
        assert held(reader) == 0
    tail = b"x" * (size % chunk) + client(TEXT, b"not any more") + client(PING, b"p") + client(CLOSE, GOOD_CLOSE)
    messages += reader.feed(tail)
    assert messages == [(TEXT, b"before"), (PING, b"p"), (CLOSE, GOOD_CLOSE)]
    assert reader.error == (1009, f"frame is larger than {LIMIT} bytes")


def test_an_oversized_fragment_takes_its_whole_message_with_it() -> None:
    stream = (
        client(TEXT, b"a" * LIMIT, fin=False)
        + client(CONTINUATION, b"b", fin=False)
        + client(CONTINUATION, b"c")
        + client(CLOSE, GOOD_CLOSE)
    )
    for size in (1, 3, len(stream)):
        reader, messages = read(stream, cuts=iter([stream[i : i + size] for i in range(0, len(stream), size)]))
        assert messages == [(CLOSE, GOOD_CLOSE)]
        assert reader.error is not None
        assert reader.error[0] == 1009


def test_the_first_violation_is_the_one_that_counts() -> None:
    reader, _ = read(client(TEXT, b"x" * (LIMIT + 1)) + client(TEXT, b"", masked=False))
    assert reader.error is not None
    assert reader.error[0] == 1009


# --- what may not be sent ---------------------------------------------------------------------------------

VIOLATIONS = {
    "unmasked": client(TEXT, b"hello", masked=False),
    "unmasked and empty": client(TEXT, b"", masked=False),
    "unmasked ping": client(PING, b"", masked=False),
    "first reserved bit": client(TEXT, b"hello", reserved=4),
    "second reserved bit": client(TEXT, b"hello", reserved=2),
    "third reserved bit": client(TEXT, b"hello", reserved=1),
    "reserved bit of a control frame": client(PING, b"", reserved=4),
    **{f"opcode {opcode}": client(opcode, b"") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"fragmented control frame {opcode}": client(opcode, b"", fin=False) for opcode in (CLOSE, PING, PONG)},
    **{f"long control frame {opcode}": client(opcode, b"x" * 126) for opcode in (CLOSE, PING, PONG)},
    "control frame with a long form of length": client(PING, b"", length_bytes=2).replace(b"\x00\x00", b"\x00\x7e", 1),
    "continuation of nothing": client(CONTINUATION, b"hello"),
    "unfinished continuation of nothing": client(CONTINUATION, b"hello", fin=False),
    "text within a message": client(TEXT, b"a", fin=False) + client(TEXT, b"b"),
    "binary within a message": client(TEXT, b"a", fin=False) + client(BINARY, b"b"),
    "a second start within a message": client(BINARY, b"a", fin=False) + client(BINARY, b"b", fin=False),
    "continuation after the last one": client(TEXT, b"a", fin=False) + client(0, b"b") + client(0, b"c"),
}


@pytest.mark.parametrize("stream", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_what_may_not_be_sent_is_1002_and_nothing_behind_it_is_read(stream: bytes) -> None:
    expected = [(TEXT, b"ab")] if stream == VIOLATIONS["continuation after the last one"] else []
    reader, messages = read(client(TEXT, b"good") + stream + client(TEXT, b"behind") + client(CLOSE, GOOD_CLOSE))
    assert messages == [(TEXT, b"good"), *expected]
    assert reader.error is not None
    assert reader.error[0] == 1002
    assert reader.feed(client(TEXT, b"later") * 100) == []
    assert held(reader) <= 14


def test_control_frames_are_returned_between_the_fragments_that_they_came_between() -> None:
    stream = (
        client(TEXT, b"a", fin=False)
        + client(PING, b"1")
        + client(CONTINUATION, b"b", fin=False)
        + client(PONG, b"")
        + client(CONTINUATION, b"c")
    )
    assert read(stream)[1] == [(PING, b"1"), (PONG, b""), (TEXT, b"abc")]


def test_a_control_frame_has_room_within_a_message_that_fills_the_limit() -> None:
    stream = client(TEXT, b"x" * LIMIT, fin=False) + client(PING, b"p" * 125) + client(CONTINUATION, b"")
    assert read(stream)[1] == [(PING, b"p" * 125), (TEXT, b"x" * LIMIT)]
    reader, _ = read(client(TEXT, b"x" * LIMIT, fin=False) + client(CONTINUATION, b"y"))
    assert reader.error is not None
    assert reader.error[0] == 1009


def test_an_empty_message_and_an_empty_fragmented_message_are_messages() -> None:
    assert read(client(TEXT) + client(BINARY, fin=False) + client(CONTINUATION))[1] == [(TEXT, b""), (BINARY, b"")]


def test_nothing_is_held_when_nothing_is_unfinished() -> None:
    reader, _ = read(client(TEXT, b"x" * LIMIT) * 50 + client(PING, b"x" * 125) * 50)
    assert held(reader) == 0


def test_a_stream_of_whole_frames_is_held_at_no_moment() -> None:
    reader = FrameReader(LIMIT)
    for _ in range(1_000):
        assert len(reader.feed(client(TEXT, b"x" * 60))) == 1
        assert reader._buffer is None


@given(st.binary(max_size=70_000), st.binary(min_size=4, max_size=4))
@example(b"\x00" * 8, b"\x00" * 4)
@example(b"\xff" * 7, b"\x00\x00\x00\xff")
@settings(max_examples=60, deadline=None)
def test_a_mask_is_taken_off_whatever_it_is(payload: bytes, mask: bytes) -> None:
    assert read(client(BINARY, payload, mask=mask), 70_000)[1] == [(BINARY, payload)]


# --- what the server writes -------------------------------------------------------------------------------


def read_by_a_client(data: bytes) -> list[Theirs]:
    protocol = Protocol(Side.CLIENT, max_size=None)
    protocol.receive_data(data)
    assert protocol.parser_exc is None
    return [event for event in protocol.events_received() if isinstance(event, Theirs)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_frame_of_any_size_is_read_by_a_client_as_it_was_written(size: int) -> None:
    payload = os.urandom(size)
    for opcode in (TEXT, BINARY):
        (theirs,) = read_by_a_client(websocket_frames.frame(opcode, payload))
        assert (theirs.opcode, theirs.fin, bytes(theirs.data)) == (opcode, True, payload)
    (theirs,) = read_by_a_client(websocket_frames.text_frame(payload))
    assert (theirs.opcode, bytes(theirs.data)) == (Opcode.TEXT, payload)


def test_a_frame_is_as_short_as_it_can_be() -> None:
    assert [len(websocket_frames.frame(TEXT, b"x" * n)) - n for n in (0, 125, 126, 65_535, 65_536)] == [2, 2, 4, 4, 10]


@pytest.mark.parametrize("reason", ["", "server going away", "x" * 200, "é" * 200, "a" + "é" * 200, "😀" * 40])
def test_a_close_frame_holds_its_code_and_as_much_of_the_reason_as_fits(reason: str) -> None:
    (theirs,) = read_by_a_client(websocket_frames.close_frame(4008, reason))
    close = Close.parse(bytes(theirs.data))
    assert close.code == 4008
    assert reason.startswith(close.reason)
    assert len(close.reason.encode()) >= min(len(reason.encode()), 120)


@given(st.binary(max_size=125))
@example(b"\x03")
@example(struct.pack("!H", 1000) + b"\xff")
def test_a_close_frame_is_valid_exactly_when_the_websockets_library_says_so(payload: bytes) -> None:
    assert websocket_frames.close_code(payload) == expected_code(payload)


@pytest.mark.parametrize("first", range(0, 65_536, 4_096))
def test_every_close_code_that_there_can_be_is_valid_exactly_when_the_websockets_library_says_so(first: int) -> None:
    for code in range(first, first + 4_096):
        payload = struct.pack("!H", code)
        assert websocket_frames.close_code(payload) == expected_code(payload), code


def expected_code(payload: bytes) -> int | None:
    try:
        close = Close.parse(payload)
    except (ProtocolError, UnicodeDecodeError):
        return 1002
    return close.code if payload else None


@pytest.mark.parametrize("cut", range(1, 9))
def test_text_in_fragments_fails_with_the_first_that_cannot_be_utf8(cut: int) -> None:
    text = "aäb€".encode() + b"\xff" + b"more"
    reader = FrameReader(1_000)
    pieces = [text[at : at + cut] for at in range(0, len(text), cut)]
    for number, piece in enumerate(pieces):
        assert reader.feed(client(TEXT if not number else 0, piece, fin=number == len(pieces) - 1)) == []
        reached = (number + 1) * cut > 7
        assert (reader.error is not None) == reached
        if reached:
            assert reader.error == (1007, "text is not UTF-8")
            assert reader.is_skipping == (number < len(pieces) - 1)
    assert reader.feed(client(CLOSE, b"\x03\xef")) == [(CLOSE, b"\x03\xef")]


def test_each_message_in_fragments_begins_anew() -> None:
    reader, text = FrameReader(1_000), "aä".encode()
    for _ in range(3):
        assert reader.feed(client(TEXT, b"abc", fin=False) + client(0, b"d")) == [(TEXT, b"abcd")]
        assert reader.feed(client(TEXT, text, fin=False) + client(0, text)) == [(TEXT, 2 * text)]
        assert reader.feed(client(TEXT, text[:2], fin=False) + client(0, text[2:])) == [(TEXT, text)]
    reader = FrameReader(1_000)
    assert reader.feed(client(TEXT, b"a", fin=False) + client(0, b"b")) == [(TEXT, b"ab")]
    assert reader.feed(client(TEXT, text[:2], fin=False) + client(0, text[2:])) == [(TEXT, text)]
    half = client(TEXT, b"", fin=False) + client(0, b"", fin=False) * (MAX_FRAGMENTS // 2) + client(0, b"")
    assert reader.feed(half * 4) == [(TEXT, b"")] * 4
    assert reader.error is None


def test_behind_what_is_no_frame_nothing_is_read_however_much_comes() -> None:
    reader = FrameReader(1_000)
    assert reader.feed(b"\x81\x01a") == []  # not masked
    for _ in range(3):
        assert reader.feed(client(TEXT, b"more") + client(CLOSE, b"")) == []
        assert reader.error == (1002, "frame is not masked")
        assert (reader.is_failed, reader.is_skipping) == (True, False)


def test_binary_in_fragments_may_be_anything() -> None:
    reader = FrameReader(1_000)
    assert reader.feed(client(2, b"\xff", fin=False) + client(0, b"\xfe")) == [(2, b"\xff\xfe")]
    assert reader.error is None
